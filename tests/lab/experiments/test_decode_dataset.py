"""Decoding datasets: complete, resumable with the same rows, blind to the truth, failures told."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.experiments.cluster import run_on
from lab.experiments.decode_dataset import RESULTS_NAME, DecodeCounts, Task, Tasks, decode_dataset, run_here
from lab.experiments.group_decoder import SCHEMA, DatasetSettings, Decoder
from lab.experiments.scores import score_results
from lab.experiments.selection import select_captures, where_expression
from receiver.bundles.bundle import find_bundle, load_bundle, load_codec
from receiver.decode import DecodeSettings
from receiver.images.files import from_png, load_image_folder, to_png
from receiver.sync.preamble import stream_frames
from sdr.errors import ConfigError, RecordingError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.recordings.dataset import open_capture, read_index
from sdr.recordings.writer import CaptureNotes, DatasetWriter
from sdr.symbols import Symbols
from transmitter.encode import encode_images

LAYOUT = load_layout("paper")
SETTINGS = DatasetSettings(group=3, decoding=DecodeSettings(steps=2))


def record(folder: Path, count: int) -> None:
    codec = load_codec()
    _, images = load_image_folder(find_bundle() / "samples", codec.image_shape)
    pixels = (images * 255).round().byte().numpy()
    with DatasetWriter(folder, "set") as dataset:
        for number in range(count):
            picked = [2 * number, 2 * number + 1]
            csnr_db = (10.0, 20.0)[number % 2]
            with torch.no_grad():
                z = codec.encode(images[picked], csnr_db).numpy()
            ids = tuple(f"img{index}" for index in picked)
            frames = pack_frames(Symbols(z, codec.digest, ids, codec.image_shape, csnr_db), LAYOUT, first_frame=number)
            with open_radio(f"sim:csnr_db={csnr_db},taps=8,seed={number}", layout=LAYOUT) as radio:
                radio.transmit(modulate_stream(frames, LAYOUT))
                truth = {"image_ids": np.array(ids), "images": pixels[picked], "z": z}
                notes = CaptureNotes(csnr_db=csnr_db, images=2, codec_digest=codec.digest)
                dataset.add(number, radio.receive(), LAYOUT, notes, truth)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("datasets") / "set"
    record(folder, 7)
    return folder


@pytest.fixture
def dataset(recorded: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(recorded, tmp_path / "set"))


def results(out: Path) -> list[dict[str, Any]]:
    """The rows by key, without what a clock decides."""
    table = pyarrow.parquet.read_table(out / RESULTS_NAME)
    assert table.schema.equals(SCHEMA)
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["recording"], row["start_sample"], row["image"], row["method"]))


def test_every_image_by_every_method_and_a_rerun_adds_what_is_missing(recorded: Path, tmp_path: Path) -> None:
    first = decode_dataset(recorded, tmp_path / "a", ["jscc"], SETTINGS)
    assert first == DecodeCounts(captures=7, skipped=0, decoded=7, rows=14, failed=0)
    more = decode_dataset(recorded, tmp_path / "a", ["jscc", "hifi"], SETTINGS)
    assert more.skipped == 7 and more.decoded == 7 and more.rows == 28
    assert decode_dataset(recorded, tmp_path / "a", ["hifi", "jscc"], SETTINGS).decoded == 0
    decode_dataset(recorded, tmp_path / "b", ["hifi", "jscc"], SETTINGS)
    assert results(tmp_path / "a") == results(tmp_path / "b")
    summary = score_results(tmp_path / "a", recorded)
    assert [(point.csnr_db, point.method) for point in summary] == [
        (10.0, "hifi"),
        (10.0, "jscc"),
        (20.0, "hifi"),
        (20.0, "jscc"),
    ]
    assert all(point.arrived == point.sent for point in summary)
    low, high = (point.psnr_db for point in summary if point.method == "jscc")
    assert low is not None and high is not None and 15 < low < high


def test_truth_is_never_opened(dataset: Path, recorded: Path, tmp_path: Path) -> None:
    shutil.rmtree(dataset / "truth")
    decode_dataset(recorded, tmp_path / "a", ["jscc", "blind"], SETTINGS, where="number < 3")
    decode_dataset(dataset, tmp_path / "b", ["jscc", "blind"], SETTINGS, where="number < 3")
    assert results(tmp_path / "a") == results(tmp_path / "b")
    with pytest.raises(RecordingError, match="truth"):
        score_results(tmp_path / "b", dataset)


def test_a_blind_decoder_does_not_see_the_pilots(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the pilots' cells of a recording, the blind rows are the same, and the others are not."""
    captures = select_captures(recorded, "number == 1").rows()

    def pictures() -> dict[str, list[bytes]]:
        (table,) = Decoder(recorded, SETTINGS).decode(captures, ["blind", "jscc"])
        rows = table.to_pylist()
        return {method: [row["picture"] for row in rows if row["method"] == method] for method in ("blind", "jscc")}

    def spoiled(*args: Any, **options: Any) -> Iterator[Any]:
        for frame in stream_frames(*args, **options):
            frame.grid[: LAYOUT.pilot_symbols] = np.random.default_rng(0).normal(size=LAYOUT.fft_size)
            yield frame

    before = pictures()
    monkeypatch.setattr("lab.experiments.group_decoder.stream_frames", spoiled)
    after = pictures()
    assert before["blind"] == after["blind"] and before["jscc"] != after["jscc"]


@pytest.mark.parametrize("method", ["hifi", "diffcom", "blind", "blind-closed-form", "blind-algorithm3"])
def test_neighbours_change_nothing(recorded: Path, tmp_path: Path, method: str) -> None:
    """An image's row is the same up to rounding whatever is decoded beside it, two channel SNRs in one batch included.

    A pixel may be rounded the other way: at most two grey levels.
    """
    apart = DatasetSettings(group=1, decoding=DecodeSettings(steps=2, batch_size=1))
    together = DatasetSettings(group=8, decoding=DecodeSettings(steps=2))
    decode_dataset(recorded, tmp_path / "a", [method], apart, where="number < 2")
    decode_dataset(recorded, tmp_path / "b", [method], together, where="number < 2")
    for one, other in zip(results(tmp_path / "a"), results(tmp_path / "b"), strict=True):
        key = [one[name] for name in ("recording", "start_sample", "image", "method", "seed")]
        assert key == [other[name] for name in ("recording", "start_sample", "image", "method", "seed")]
        assert np.abs(from_png(one["picture"]) - from_png(other["picture"])).max() <= 2.5 / 255, key


def test_settings_of_a_method_are_rows_of_their_own(recorded: Path, tmp_path: Path) -> None:
    """Sampler's and operator's settings over the same samples and draws."""
    methods = ["hifi", "hifi:zeta=0", "hifi:mode=time", "jscc:spread=1"]
    counts = decode_dataset(recorded, tmp_path / "a", methods, SETTINGS, where="number < 2")
    assert counts.rows == 16 and counts.failed == 0
    rows = {method: [row for row in results(tmp_path / "a") if row["method"] == method] for method in methods}
    plain, unguided, in_time = ([from_png(row["picture"]) for row in rows[method]] for method in methods[:3])
    assert not np.array_equal(plain, unguided)
    # The prefix covers this channel: both operators are the same function.
    np.testing.assert_allclose(plain, in_time, atol=2.5 / 255)


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_interrupted_after_any_group_it_ends_alike(recorded: Path, tmp_path: Path, finished: int) -> None:
    def dies(folder: Path, settings: DatasetSettings, tasks: Tasks) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
        for count, result in enumerate(run_here(folder, settings, tasks)):
            if count == finished:
                raise KeyboardInterrupt
            yield result

    with pytest.raises(KeyboardInterrupt):
        decode_dataset(recorded, tmp_path / "a", ["jscc", "hifi"], SETTINGS, run=dies)
    again = decode_dataset(recorded, tmp_path / "a", ["jscc", "hifi"], SETTINGS)
    assert again.skipped == 2 * 3 * finished
    decode_dataset(recorded, tmp_path / "b", ["jscc", "hifi"], SETTINGS)
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_killed_it_ends_alike(recorded: Path, tmp_path: Path) -> None:
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from lab.experiments.decode_dataset import *\n"
        "from receiver.decode import DecodeSettings\n"
        "settings = DatasetSettings(group=1, decoding=DecodeSettings(steps=2))\n"
        "decode_dataset(Path(sys.argv[1]), Path(sys.argv[2]), ['jscc', 'hifi'], settings)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-c", program, str(recorded), str(tmp_path / "a")], env=environment)
    deadline = time.monotonic() + 60
    while process.poll() is None and not list(tmp_path.glob("a/parts/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    settings = DatasetSettings(group=1, decoding=DecodeSettings(steps=2))
    again = decode_dataset(recorded, tmp_path / "a", ["jscc", "hifi"], settings)
    assert 0 < again.skipped < 14
    decode_dataset(recorded, tmp_path / "b", ["jscc", "hifi"], settings)
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_failures_are_rows_with_reasons(dataset: Path, tmp_path: Path) -> None:
    content = bytearray((dataset / "set-000001.sigmf-data").read_bytes())
    content[100] ^= 1
    (dataset / "set-000001.sigmf-data").write_bytes(content)
    (dataset / "set-000002.sigmf-data").unlink()
    path = dataset / "set-000003.sigmf-meta"
    path.write_text(path.read_text().replace("1000000.0", "2000000.0"))
    row = read_index(dataset)[0]
    with DatasetWriter(dataset, "set") as writer:
        noise = open_capture(dataset, row)
        quiet = np.random.default_rng(0).normal(scale=1e-3, size=(2, 20_000))
        writer.add(10, replace(noise, samples=(quiet[0] + 1j * quiet[1]).astype(np.complex64)), LAYOUT)
        writer.add(11, noise, load_layout("blind"))
    counts = decode_dataset(dataset, tmp_path / "a", ["jscc"], SETTINGS)
    reasons = {row["recording"]: row["reason"] for row in results(tmp_path / "a") if row["status"] == "failed"}
    assert counts.failed == len(reasons) == 5
    assert "sigmf-data was changed" in reasons["set-000001"]
    assert "can't be read" in reasons["set-000002"]
    assert "sigmf-meta was changed" in reasons["set-000003"]
    assert "no frame was found" in reasons["set-000010"] and "no burst of energy" in reasons["set-000010"]
    assert decode_dataset(dataset, tmp_path / "a", ["jscc"], SETTINGS).decoded == 0, "a failure is a result"


def test_of_an_image_that_lacks_a_frame_the_rest_is_decoded(tmp_path: Path) -> None:
    """Of two images over two frames each, one lacks its second frame, and comes again whole in another capture."""
    layout, bundle = load_layout("photo"), load_bundle("photo")
    _, images = load_image_folder(bundle.path / "samples", (3, 256, 256))
    wide = torch.stack([torch.cat([images[2], images[3]], dim=2), torch.cat([images[4], images[5]], dim=2)])
    frames = encode_images(["a", "b"], wide, bundle.for_shape((3, 256, 512)).codec, layout, 10.0).frames
    with DatasetWriter(tmp_path / "set", "set") as dataset:
        for number, sent in enumerate([[frames[0], frames[2], frames[3]], [*frames[:2], frames[0]], frames[1:2]]):
            with open_radio(f"sim:csnr_db=10,seed={number}", layout=layout) as radio:
                radio.transmit(modulate_stream(sent, layout))
                dataset.add(number, radio.receive(), layout, CaptureNotes(csnr_db=10.0, images=2))
    settings = DatasetSettings("photo")
    decode_dataset(tmp_path / "set", tmp_path / "out", ["jscc"], settings)
    rows = {(row["number"], row["image"]): row for row in results(tmp_path / "out") if row["image"]}
    ok = {key: row["reason"] for key, row in rows.items() if row["status"] == "ok"}
    half = "50.0% of its symbols were in frames that did not arrive"
    assert ok == {(0, "a"): half, (0, "b"): "", (1, "a"): "", (2, "a"): half}
    assert not rows[0, "a"]["accepted"] and rows[1, "a"]["accepted"]


def test_misuse(recorded: Path, tmp_path: Path) -> None:
    decode_dataset(recorded, tmp_path / "a", ["jscc"], SETTINGS, where="number == 0")
    with pytest.raises(ConfigError, match="steps"):
        decode_dataset(recorded, tmp_path / "a", ["jscc"], DatasetSettings(group=3, decoding=DecodeSettings(steps=3)))
    with pytest.raises(ConfigError, match="each wanted one once"):
        decode_dataset(recorded, tmp_path / "a", ["jscc", "jscc"], SETTINGS)
    for method, complaint in [
        ("jsc", "jscc"),
        ("hifi:zet=1", "zeta"),
        ("hifi:zeta=x", "float"),
        ("hifi:steps=0", "steps"),
        ("hifi:jacobian=maybe", "bool"),
        ("hifi:mode=both", "mode"),
        ("hifi:decay=0", "decay"),
        ("blind:mode=time", "frequency"),
    ]:
        with pytest.raises(ConfigError, match=complaint):
            decode_dataset(recorded, tmp_path / "b", [method], SETTINGS)
    assert not (tmp_path / "b").exists()
    with pytest.raises(RecordingError, match="no capture"):
        select_captures(recorded, "number > 99")
    with pytest.raises(RecordingError, match="no dataset"):
        select_captures(tmp_path)


@given(
    text=st.sampled_from(
        [
            "a > 1",
            "a >= 1 and b != 'x'",
            "a in [0, 2] or not (b == 'x')",
            "0 < a <= 2",
            "not a < 1 and (b == 'y' or a == 3)",
            "b not in ['x']",
        ]
    ),
    rows=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("xy")), min_size=1),
)
def test_filters_mean_what_they_mean_in_python(text: str, rows: list[tuple[int, str]]) -> None:
    table = pyarrow.table({"a": [a for a, _ in rows], "b": [b for _, b in rows]})
    chosen = table.filter(where_expression(text, ["a", "b"]))
    expected = [(a, b) for a, b in rows if eval(text, {}, {"a": a, "b": b})]
    assert list(zip(chosen["a"].to_pylist(), chosen["b"].to_pylist(), strict=True)) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a >", "aa > 1", "__import__('os')", "a + 1 > 2", "(lambda: 1)()", "a.isin([1])", "1", "a is 1", "1 < 2"],
)
def test_filters_are_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match="--where"):
        where_expression(text, ["a", "b"])


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 3]))
def test_pictures_survive(seed: int, channels: int) -> None:
    picture = np.random.default_rng(seed).integers(0, 256, size=(channels, 5, 7)).astype(np.float32) / np.float32(255)
    assert np.array_equal(from_png(to_png(picture)), picture)


@pytest.mark.parametrize("address", ["", "here", "http://localhost"])
def test_a_cluster_is_local_or_has_an_address(address: str) -> None:
    with pytest.raises(ConfigError, match="ray://"):
        run_on(address)


def test_ray_gives_the_same_rows_also_when_a_worker_is_killed(recorded: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the optional package 'ray' (extra 'cluster') is not installed")
    killed: list[int] = []

    def killing(folder: Path, options: DatasetSettings, tasks: Tasks) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
        for result in run_on("local")(folder, options, tasks):
            if not killed:
                names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
                killed.append(next(number for number, name in names.items() if name.startswith(b"ray::Worker")))
                os.kill(killed[0], signal.SIGKILL)
            yield result

    settings = DatasetSettings(group=1, decoding=DecodeSettings(steps=2))
    decode_dataset(recorded, tmp_path / "ray", ["jscc", "hifi"], settings, run=killing)
    decode_dataset(recorded, tmp_path / "one", ["jscc", "hifi"], settings)
    assert killed and results(tmp_path / "ray") == results(tmp_path / "one")
