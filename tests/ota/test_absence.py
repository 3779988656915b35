"""What is missing from a recording is said on standard error, in the answer and in a dataset's rows."""

import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest

from sdr.layout import load_layout
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording

LAYOUT = load_layout("paper")
DECODE = ("decode", "--layout", "paper", "--method", "jscc")


@pytest.fixture(scope="module")
def parts(sent):
    """Samples of two frames of four images each, and what lies around them."""
    samples = read_recording(sent).samples
    noise = np.random.default_rng(0).standard_normal((samples.size, 2)) @ (0.01, 0.01j)
    return (samples + noise).astype(np.complex64)


def cut_recordings(samples):
    """Recordings that lack something, each with what is said of it."""
    second = LAYOUT.frame_samples
    gone = samples.copy()
    gone[:second] = 0
    return {
        "end": (samples[:-200], "cut off at the end; record longer"),
        "start": (samples[200:], "the recording begins within frame 0"),
        "gap": (np.concatenate([np.zeros(2 * second, np.complex64), gone]), "frame 0 is missing"),
    }


@pytest.mark.parametrize("what", ["end", "start", "gap"])
def test_a_frame_that_is_missing_makes_the_result_partial(ota, parts, tmp_path, what):
    samples, told = cut_recordings(parts)[what]
    write_recording(Recording(samples), tmp_path / "x")
    outcome = ota(
        "decode", tmp_path / "x", "--layout", "paper", "--method", "jscc", "--out", tmp_path / "out", "--json"
    )
    assert outcome.json["partial"] is True and [told in line for line in outcome.json["absent"]] == [True]
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: partial")]
    assert len(warnings) == 1 and told in warnings[0] and len(outcome.json["frames"]) == 1
    assert json.loads((tmp_path / "out/run.json").read_text())["absent"] == outcome.json["absent"]


def test_in_a_dataset_it_is_a_row(ota, parts, tmp_path):
    cut = {what: case for what, case in cut_recordings(parts).items() if what != "gap"}
    for name, (samples, _) in cut.items():
        write_recording(Recording(samples), tmp_path / name)
    files = [tmp_path / f"{name}.sigmf-meta" for name in cut]
    assert ota("dataset", "import", *files, "--layout", "paper", "--out", tmp_path / "set").code == 0
    assert ota("decode", tmp_path / "set", "--method", "jscc", "--out", tmp_path / "out").code == 0
    rows = pyarrow.parquet.read_table(tmp_path / "out/results.parquet").to_pylist()
    failed = [row for row in rows if row["status"] == "failed"]
    for number, (_, told) in enumerate(cut.values()):
        mine = [row for row in failed if row["number"] == number]
        assert mine and all(told in row["reason"] for row in mine)
    assert len({row["image"] for row in failed if row["number"] == 0}) == 4  # its header was read


@pytest.mark.parametrize(("change", "option"), [("swapped", "--swap-iq"), ("far", "--max-cfo-hz")])
def test_the_option_that_is_named_decodes(ota, refused, sent, parts, tmp_path, change, option):
    turned = parts * np.exp(0.6j * np.arange(parts.size)) if change == "far" else 1j * parts.conj()
    write_recording(Recording(turned.astype(np.complex64)), tmp_path / "x")
    decode = (*DECODE, tmp_path / "x", "--out", tmp_path / "out")
    told = refused(*decode)
    assert option in told
    words = told[told.index(option) :].rstrip(".").split()[: 1 if change == "swapped" else 2]
    assert ota(*decode, *words).code == 0
    assert len(list((tmp_path / "out").glob("*.png"))) >= 8
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("factor", [1e-30, 1e30])
def test_samples_of_any_unit_decode(ota, parts, tmp_path, factor):
    write_recording(Recording((parts.astype(np.complex128) * factor).astype(np.complex64)), tmp_path / "x")
    outcome = ota(
        "decode", tmp_path / "x", "--layout", "paper", "--method", "jscc", "--out", tmp_path / "out", "--json"
    )
    assert len(outcome.json["images"]) == 8 and all(image["accepted"] for image in outcome.json["images"])
    assert "Warning" not in outcome.err
