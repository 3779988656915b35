"""Recordings of two antennas on the command line."""

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from sdr.air.impairments import noise_var_for_csnr
from sdr.calibration_profile import load_profile
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import EmulatedPluto
from sdr.emulated.usrp import EmulatedUsrp, joint_args
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.recordings.antennas import read_antennas
from sdr.recordings.dataset import open_capture, read_index, read_truth
from sdr.recordings.foreign import resample
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording
from tests.sdr.once import handed_out, once
from tests.sdr.uhd import needs_uhd

LAYOUT = load_layout("paper")
AIR = f"csnr_db=5,taps=8,cfo_hz=300,seed=3,block_samples={LAYOUT.frame_samples}"


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A recording of two antennas."""
    from ota.__main__ import main

    path = tmp_path_factory.mktemp("heard") / "both"
    assert main(["record", "--radio", f"sim:{AIR},rx=2", "--images", str(samples), "--out", str(path)]) == 0
    return path


def psnr_db(ota: Any, *argv: object) -> list[float]:
    outcome = ota("decode", *argv, "--layout", "paper", "--method", "jscc", "--json")
    assert outcome.code == 0, outcome.err
    return [image["psnr_db"] for image in outcome.json["images"]]


def test_one_file_of_two_channels_and_two_files_decode_alike(ota, heard, samples, tmp_path):
    both = read_antennas([heard])
    left, right = (
        write_recording(Recording(part, both.settings, layout_digest=LAYOUT.digest), tmp_path / name)
        for name, part in zip(("left", "right"), both.antennas, strict=True)
    )
    truth = ("--truth", samples)
    one = psnr_db(ota, left, *truth, "--out", tmp_path / "one")
    two = psnr_db(ota, heard, *truth, "--out", tmp_path / "two")
    joined = psnr_db(ota, left, "--antenna", right, *truth, "--out", tmp_path / "joined")
    assert joined == two and len(two) == 8
    assert sum(two) / 8 > sum(one) / 8 + 0.5
    assert (tmp_path / "two" / "report.html").is_file()


def test_one_antenna_of_a_recording_is_decoded_as_if_alone(ota, refused, heard, samples, tmp_path):
    both = read_antennas([heard])
    right = write_recording(Recording(both.others[0], both.settings, layout_digest=LAYOUT.digest), tmp_path / "right")
    truth = ("--truth", samples)
    alone = psnr_db(ota, right, *truth, "--out", tmp_path / "alone")
    chosen = psnr_db(ota, heard, "--use-antennas", 1, *truth, "--out", tmp_path / "chosen")
    assert chosen == alone and len(alone) == 8
    config = json.loads((tmp_path / "chosen" / "run.json").read_text())["config"]
    assert config["use_antennas"] == [1]
    with np.load(tmp_path / "chosen" / "diagnostics.npz") as arrays:
        assert arrays["spectrum_dbfs"].shape == (1, 512)
    decode = ("decode", heard, "--layout", "paper", "--out", tmp_path / "run")
    assert "Antenna 2 is asked for, and the recording has antennas 0..1" in refused(*decode, "--use-antennas", 2)
    for text in ("-1", "0,0", "a", "0,"):
        assert "--use-antennas takes different numbers" in refused(*decode, "--use-antennas", text)


def theirs(path: Path, antennas: list[np.ndarray], rate_sps: float) -> Path:
    """A recording of another tool, of one antenna or more."""
    np.stack(antennas, axis=1).astype("<c8").tofile(f"{path}.sigmf-data")
    info = {"core:datatype": "cf32_le", "core:sample_rate": rate_sps, "core:num_channels": len(antennas)}
    Path(f"{path}.sigmf-meta").write_text(json.dumps({"global": info, "captures": []}))
    return Path(f"{path}.sigmf-meta")


def test_recordings_of_others_are_imported_with_all_antennas(ota, heard, samples, tmp_path):
    """Of several channels, joined, and at another rate; repeated, none is taken twice."""
    both, data = read_antennas([heard]), tmp_path / "set"
    rate_sps = both.settings.rate_sps
    whole = theirs(tmp_path / "whole", list(both.antennas), rate_sps)
    left, right = (theirs(tmp_path / str(place), [own], rate_sps) for place, own in enumerate(both.antennas))
    doubled = [resample(own, 1.0, 2.0) for own in both.antennas]
    fast = theirs(tmp_path / "fast", doubled, 2 * rate_sps)
    into = ("--layout", "paper", "--out", data, "--json")
    assert ota("dataset", "import", whole, fast, *into).json["recordings"] == ["set-000000", "set-000001"]
    assert ota("dataset", "import", left, "--antenna", right, *into).json["recordings"] == ["set-000002"]
    assert ota("dataset", "import", left, "--antenna", right, *into).json["there_already"] == ["set-000002"]
    assert ota("dataset", "import", whole, *into).json["there_already"] == ["set-000000"]
    rows = read_index(data)
    assert [row.antennas for row in rows] == [2, 2, 2] and rows[0].data_sha512 == rows[2].data_sha512
    assert ota("dataset", "verify", data).code == 0
    for capture, pair in ((rows[0], both.antennas), (rows[1], [resample(own, 2.0, 1.0) for own in doubled])):
        assert all(map(np.array_equal, open_capture(data, capture).antennas, pair))
    ota("dataset", "truth", data, "--images", samples)
    score = ("decode", data, "--where", "number != 1", "--group", 1, "--method", "jscc", "--score", "--json")
    answer = ota(*score, "--out", tmp_path / "out").json
    assert answer["rows"] == 16 and answer["failed"] == 0
    alone = psnr_db(ota, heard, "--truth", samples, "--out", tmp_path / "alone")
    # To what a PNG keeps of it: eight bits.
    assert answer["summary"][0]["psnr_db"] == pytest.approx(fmean(alone), abs=0.01)


def test_what_can_not_be_imported_is_refused(refused, heard, tmp_path):
    both, rate_sps = read_antennas([heard]), LAYOUT.rate_sps
    whole = theirs(tmp_path / "whole", list(both.antennas), rate_sps)
    short = theirs(tmp_path / "short", [both.samples[:-1]], rate_sps)
    into = ("--layout", "paper", "--out", tmp_path / "set")
    assert "antennas of one receiver are recorded together" in refused(
        "dataset", "import", whole, "--antenna", short, *into
    )
    assert "--antenna goes with one FILE" in refused("dataset", "import", whole, whole, "--antenna", whole, *into)
    data = whole.with_suffix(".sigmf-data")
    data.write_bytes(data.read_bytes()[:-8])
    assert "which 2 channels can't share evenly" in refused("dataset", "import", whole, *into)
    whole.write_text(whole.read_text().replace('"core:num_channels": 2', '"core:num_channels": 9'))
    assert "at most 8 can be read here" in refused("dataset", "import", whole, *into)
    assert not (tmp_path / "set").exists()


PLAN = """
name = "camp"
radio = "sim:taps=8,decay=4,cfo_hz=300,rx=2"
csnr_db = [5]
images = "{images}"
images_per_capture = 2
repetitions = 2
antennas = 2
"""


def test_a_campaign_of_two_antennas_is_decoded_with_one_and_with_both(ota, refused, samples, tmp_path):
    plan, data = tmp_path / "plan.toml", tmp_path / "data"
    plan.write_text(PLAN.format(images=samples))
    assert ota("record", "--plan", plan, "--out", data, "--json").json["captures"] == 2
    assert ota("record", "--plan", plan, "--out", data, "--json").json["recorded"] == 0
    listed = ota("dataset", "list", data, "--where", "antennas == 2", "--json").json
    assert listed["captures"] == 2 and ota("dataset", "verify", data).code == 0
    # The channel of several antennas is not told, as in recordings.
    assert not [key for key in read_truth(data, read_index(data)[0]) if key.startswith("channel")]
    words = ("decode", data, "--method", "jscc", "--method", "hifi:steps=2", "--score", "--json", "--out")
    both = ota(*words, tmp_path / "both").json
    one = ota(*words, tmp_path / "one", "--use-antennas", 0).json
    assert both["failed"] == one["failed"] == 0 and both["rows"] == one["rows"] == 8
    assert both["summary"][0]["psnr_db"] > one["summary"][0]["psnr_db"] + 0.5
    assert "Antenna 2 is asked for" in refused(*words[:-1], "--out", tmp_path / "none", "--use-antennas", 2)
    assert "other models, antennas" in refused(*words, tmp_path / "one")
    shown = ("--capture", "camp-000001", "--out")
    report = ota("report", data, tmp_path / "both", tmp_path / "one", *shown, tmp_path / "report")
    assert report.code == 0, report.err
    html = (tmp_path / "report" / "report.html").read_text()
    assert "(quietest antenna)" in html and "first one decoded" in html
    columns = ["recording", "image", "method", "psnr_db"]
    scores = [
        {tuple(row[name] for name in columns[:3]): row["psnr_db"] for row in table.to_pylist()}
        for table in (
            pyarrow.parquet.read_table(tmp_path / name / "scores.parquet", columns=columns) for name in ("both", "one")
        )
    ]
    for method in ("jscc", "hifi:steps=2"):
        gained = np.array([scores[1][key] - value for key, value in scores[0].items() if key[2] == method])
        cells = f"<td>4</td>\n<td>{gained.mean():+.2f} ± {gained.std(ddof=1) / 2:.2f}</td>"
        assert cells in html.partition("image by image")[2]
    one_alone = ota("report", data, tmp_path / "one", *shown, tmp_path / "report-one")
    assert one_alone.code == 0 and "decoded: 0" in (tmp_path / "report-one" / "report.html").read_text()


def test_a_campaign_over_a_pluto_of_two_receivers(ota, samples, tmp_path):
    """Its transmitter repeats each capture's frames; what was heard of the ones before is not taken for them."""
    plan, data = tmp_path / "plan.toml", tmp_path / "data"
    text = PLAN.format(images=samples).replace("csnr_db = [5]", "csnr_db = [10]")
    plan.write_text(text + "rx_gain_db = [0]\ntx_gain_db = [-10]\nrequire_frames = true\n")
    air = Air(AirPath(taps=4), noise_var_for_csnr(LAYOUT, 20.0) / 100, seed=1)
    with EmulatedPluto(air, rx=2) as pluto:
        radio = f"pluto:{pluto.uri},rx=2"
        counts = ota("record", "--plan", plan, "--radio", radio, "--out", data, "--json")
    assert counts.code == 0, counts.err
    assert counts.json["captures"] == 2 and counts.json["unhealthy"] == 0, counts.err
    assert [row.antennas for row in read_index(data)] == [2, 2]
    answer = ota("decode", data, "--method", "jscc", "--score", "--out", tmp_path / "out", "--json").json
    # Frames that a capture begins or ends in are told, too.
    assert answer["summary"][0]["arrived"] == answer["summary"][0]["sent"] == 4


def test_a_plan_and_a_radio_of_different_antennas_are_refused(ota, refused, samples, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.format(images=samples))
    words = ("record", "--plan", plan, "--out", tmp_path / "data")
    told = refused(*words, "--radio", "sim:taps=8")
    assert "The plan has antennas = 2, and radio 'sim:taps=8' received with 1" in told
    # Nothing was recorded, so the right radio goes into the same folder.
    assert ota(*words).code == 0
    plan.write_text(plan.read_text().replace("antennas = 2", "antennas = 9"))
    assert "antennas = 9 must be in 0..8" in refused(*words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace('"core:num_channels": 2', '"core:num_channels": 1'), "sigmf-meta was changed"),
        (None, "sigmf-data was changed"),
    ],
)
def test_a_capture_that_was_edited_is_told_and_costs_its_own_rows(ota, samples, tmp_path, change, words):
    plan, data = tmp_path / "plan.toml", tmp_path / "data"
    plan.write_text(PLAN.format(images=samples))
    ota("record", "--plan", plan, "--out", data)
    meta, samples_file = data / "camp-000001.sigmf-meta", data / "camp-000001.sigmf-data"
    if change is None:
        samples_file.write_bytes(samples_file.read_bytes()[:-8])
    else:
        meta.write_text(change(meta.read_text()))
    verified = ota("dataset", "verify", data)
    assert verified.code == 2 and words.partition(" ")[0] in verified.out and verified.out.count("\n") == 1
    answer = ota("decode", data, "--method", "jscc", "--out", tmp_path / "out", "--json").json
    assert (answer["rows"], answer["failed"]) == (3, 1)
    (failed,) = (row for row in read_rows(tmp_path / "out") if row["status"] == "failed")
    assert failed["recording"] == "camp-000001" and words in failed["reason"]


def test_a_stream_of_two_antennas_rotates_and_is_decoded(ota, samples, tmp_path):
    """Blocks of each recording follow those of the one before; frames across two of them are lost."""
    radio, stream = f"sim:csnr_db=5,taps=8,block_samples={LAYOUT.frame_samples},rx=2", tmp_path / "stream"
    words = ("record", "--radio", radio, "--images", samples, "--seconds", 0.15, "--rotate-mb", 1)
    answer = ota(*words, "--out", stream, "--json").json
    rows = read_index(stream)
    assert answer["recorded"] == 3 and answer["samples"] == sum(row.num_samples for row in rows) == 150_000
    assert [row.antennas for row in rows] == [2] * 3 and rows[0].data_bytes == 1_000_000
    assert ota("dataset", "verify", stream).code == 0
    ota("dataset", "truth", stream, "--images", samples)
    score = ("decode", stream, "--method", "jscc", "--where", "number == 1", "--score", "--json", "--out")
    both = ota(*score, tmp_path / "both").json
    one = ota(*score, tmp_path / "one", "--use-antennas", 0).json
    assert both["summary"][0]["arrived"] == 8 and both["summary"][0]["psnr_db"] > one["summary"][0]["psnr_db"] + 0.5


def read_rows(out: Path) -> list[dict[str, Any]]:
    return pyarrow.parquet.read_table(out / "results.parquet").to_pylist()


def test_what_takes_one_antenna_says_so(refused, heard, tmp_path):
    with pytest.raises(Exception, match="at most 1 can be read"):
        read_recording(heard)
    other = write_recording(Recording(read_antennas([heard]).samples[:-1]), tmp_path / "short")
    assert "antennas of one receiver are recorded together" in refused(
        "decode", heard, "--antenna", other, "--layout", "paper", "--out", tmp_path / "run"
    )


def test_a_recording_of_one_antenna_takes_that_of_a_profile(ota, refused, tmp_path, samples):
    radio = f"sim:csnr_db=20,taps=3,decay=1,antenna_image_rejection_db=15:25,block_samples={LAYOUT.frame_samples}"
    two, one = tmp_path / "two.toml", tmp_path / "one.toml"
    assert ota("calibrate", "--radio", f"{radio},rx=2", "--frames", 32, "--out", two).code == 0
    told = ota("calibrate", "--radio", radio, "--frames", 32, "--part", "channel", "--out", one, "--json")
    assert told.json["antennas"] == [] and told.json["values"]["csnr_db"]["value"] == pytest.approx(15, abs=5)
    both = tmp_path / "both"
    assert ota("record", "--radio", f"{radio},rx=2,seed=4", "--images", samples, "--out", both).code == 0
    with open_radio(f"{radio},rx=2,seed=4", layout=LAYOUT) as device:
        device.transmit(np.zeros(100, np.complex64))
        silent = device.receive()
    alone = write_recording(replace(silent, others=()), tmp_path / "alone")

    def decode(recording: Path, *words: object) -> list[object]:
        return ["decode", recording, "--layout", "paper", "--method", "jscc", "--out", tmp_path / "run", *words]

    assert "is of 1 antenna, and the recording has 2" in refused(*decode(both, "--calibration", one))
    assert "--calibration-antenna` 0..1" in refused(*decode(alone, "--calibration", two))
    picked = ("--calibration", two, "--calibration-antenna")
    assert "has no antenna 2" in refused(*decode(alone, *picked, 2))
    assert "give its file with --calibration" in refused(*decode(alone, "--calibration-antenna", 1))
    assert "is of 1 antenna, and the recording has 2" in refused(*decode(both, *picked, 1))
    # The profile fits: what is missing are frames.
    assert "No preamble of layout paper was found" in refused(*decode(alone, *picked, 1))
    assert ota(*decode(both, "--calibration", two)).code == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["config"]["calibration"] == {"path": str(two), "digest": load_profile(two).digest}
    # Of both, the second: with the second of the profile, named or not.
    second = ("--calibration", two, "--use-antennas", 1, "--out")
    assert ota(*decode(both)[:-2], *second, tmp_path / "second").code == 0
    assert ota(*decode(both)[:-2], *second, tmp_path / "named", "--calibration-antenna", 1).code == 0
    unlike, named = (json.loads((tmp_path / f / "run.json").read_text()) for f in ("second", "named"))
    assert unlike["config"]["calibration"]["digest"] == load_profile(two, 1).digest
    assert unlike["config"]["calibration"]["digest"] == named["config"]["calibration"]["digest"]


@needs_uhd
def test_the_demo_through_two_usrps_gains_by_the_second(ota, samples, tmp_path):
    """The same recording, decoded as a whole and by one half; each has 8 taps of its own, new ones for every frame."""
    path = AirPath(taps=8, redraw_samples=LAYOUT.frame_samples)
    air = Air(path, noise_var_for_csnr(LAYOUT, 5.0), seed=1)
    with ExitStack() as stack:
        first = stack.enter_context(EmulatedUsrp(air, "127.0.45.1"))
        second = stack.enter_context(EmulatedUsrp(air, "127.0.45.2", cable=first))
        radio = f"uhd:{joint_args([first, second])},clock_source=mimo,time_source=mimo,rx=2,tx_gain_db=31.5"
        words = ("--radio", radio, "--images", samples, "--method", "jscc", "--out", tmp_path / "run", "--json")
        outcome = ota("demo", *words)
    assert outcome.code == 0, outcome.err
    both = read_antennas([tmp_path / "run" / "recording"])
    assert len(both.antennas) == 2 and not outcome.json["partial"]
    first_alone = Recording(both.samples, both.settings, layout_digest=LAYOUT.digest)
    left = psnr_db(ota, write_recording(first_alone, tmp_path / "left"), "--truth", samples, "--out", tmp_path / "one")
    assert outcome.json["summary"][0]["psnr_db"] > fmean(left)


@needs_uhd
def test_a_usrp_that_vanishes_leaves_what_both_had_heard(refused, tmp_path):
    with ExitStack() as stack:
        first = stack.enter_context(EmulatedUsrp(Air(noise_var=1e-4), "127.0.45.3"))
        second = stack.enter_context(EmulatedUsrp(first.air, "127.0.45.4", cable=first))
        radio = f"uhd:{joint_args([first, second])},clock_source=mimo,time_source=mimo,rx=2"
        with once(handed_out(first, 400_000), first.drop):
            line = refused("record", "--radio", radio, "--seconds", 20, "--out", tmp_path / "kept")
    assert "USRP 1 of 2 gave" in line and "marked partial" in line
    kept = read_antennas([tmp_path / "kept"])
    assert len(kept.antennas) == 2 and kept.num_samples > 100_000
    assert json.loads((tmp_path / "kept.sigmf-meta").read_text())["global"]["diffcom_ota:partial"]
