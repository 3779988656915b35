"""Datasets: what is complete stays, what is not is named, and other SigMF tools read it."""

import importlib.resources
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import sigmf
import sigmf.validate
from hypothesis import given
from hypothesis import strategies as st

from sdr.errors import LayoutError, RecordingError
from sdr.layout import load_layout
from sdr.recordings.dataset import IndexRow, layout_of, line_is_whole, open_capture, read_index, read_truth
from sdr.recordings.health import measure_health
from sdr.recordings.recording import Recording
from sdr.recordings.verify import verify_dataset
from sdr.recordings.writer import CaptureNotes, DatasetWriter
from sdr.settings import RadioSettings

LAYOUT = load_layout("air")
NOTES = CaptureNotes(csnr_db=7.5, images=2, frame_ids=(3, 4), codec_digest="00c0ffee", antenna="a wire")


def capture(seed: int, size: int = 1000) -> Recording:
    parts = np.random.default_rng(seed).normal(scale=0.1, size=(2, size))
    settings = RadioSettings(rate_sps=LAYOUT.rate_sps, center_hz=2.4e9, bandwidth_hz=1e6, rx_gain_db=12)
    return Recording((parts[0] + 1j * parts[1]).astype(np.complex64), settings, "2026-01-02T03:04:05Z", LAYOUT.digest)


def fill(folder: Path, count: int = 3) -> list[IndexRow]:
    with DatasetWriter(folder, "set", description="noise") as dataset:
        return [dataset.add(i, capture(i), LAYOUT, NOTES, {"z": np.arange(i)}) for i in range(count)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fill(tmp_path / "data")
    return tmp_path / "data"


def test_everything_comes_back(folder: Path) -> None:
    rows = read_index(folder)
    assert [row.number for row in rows] == [0, 1, 2]
    assert verify_dataset(folder) == []
    for row in rows:
        recording = open_capture(folder, row)
        assert np.array_equal(recording.samples, capture(row.number).samples)
        assert recording.settings == capture(0).settings and row.csnr_db == 7.5 and row.healthy
        assert recording.health == measure_health(recording.samples)
        assert layout_of(folder, row) == LAYOUT
        assert np.array_equal(read_truth(folder, row)["z"], np.arange(row.number))


def test_other_tools_accept_it(folder: Path) -> None:
    """sigmf's own reader checks data hashes, its validator the metadata, its collection class the metadata's hashes."""
    paths = [str(path) for path in sorted(folder.glob("*.sigmf-meta"))]
    done = subprocess.run([sys.executable, "-m", "sigmf.validate", *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    collection = sigmf.fromfile(str(folder / "set.sigmf-collection"))
    assert collection.get_stream_names() == ["set-000000", "set-000001", "set-000002"]
    foreign = sigmf.fromfile(paths[1])
    assert np.array_equal(foreign.read_samples(), capture(1).samples)
    info = foreign.get_global_info()
    assert info["antenna:model"] == "a wire" and info["diffcom_ota:frame_ids"] == [3, 4]
    assert all(extension["optional"] for extension in info["core:extensions"])
    assert foreign.get_captures()[0]["capture_details:acquisition_bandwidth"] == 1e6


def collection_errors(path: Path) -> list[str]:
    """What sigmf's schema of collections says, its streams being objects as the specification has them.

    The schema that the package ships (1.14) wants pairs there, against the specification, its own description and the
    package's own collections; see the next test.
    """
    schema = json.loads(importlib.resources.files("sigmf").joinpath("schema-collection.json").read_text())
    schema["properties"]["collection"]["properties"]["core:streams"]["items"] = {
        "type": "object",
        "required": ["name", "hash"],
        "properties": {"name": {"type": "string"}, "hash": {"type": "string", "pattern": "^[0-9a-f]{128}$"}},
    }
    validator = jsonschema.Draft202012Validator(schema)
    return [error.message for error in validator.iter_errors(json.loads(path.read_text()))]


def test_the_collection_is_what_the_specification_wants(folder: Path) -> None:
    path = folder / "set.sigmf-collection"
    assert collection_errors(path) == []
    content = json.loads(path.read_text())
    del content["collection"]["core:streams"][1]["hash"], content["collection"]["core:version"]
    path.write_text(json.dumps(content))
    assert len(collection_errors(path)) == 2


def test_no_validator_of_sigmf_accepts_a_collection_of_its_own(folder: Path) -> None:
    """Why `collection_errors` mends the schema: once this fails, the package is mended and can be used as it is."""
    own = sigmf.SigMFCollection(["set-000000.sigmf-meta"], base_path=folder)
    own.tofile(str(folder / "own.sigmf-collection"))
    with pytest.raises(AttributeError, match="validate"):
        sigmf.validate.main((str(folder / "own.sigmf-collection"),))
    shipped = json.loads(importlib.resources.files("sigmf").joinpath("schema-collection.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads((folder / "own.sigmf-collection").read_text()), shipped)
    assert collection_errors(folder / "own.sigmf-collection") == []


def test_metadata_tells_nothing_of_what_was_sent_but_the_layout(folder: Path) -> None:
    told = json.loads((folder / "set-000001.sigmf-meta").read_text())
    assert "csnr_db" not in json.dumps(told) and "z" not in told["global"]


@given(st.data())
def test_index_lines_round_trip_and_show_any_change(data: st.DataObject) -> None:
    row = IndexRow(
        *("set-000000", data.draw(st.integers(0, 10**9)), "air", LAYOUT.digest, "", 5, 1e6, 0.0, 0.0, 0.0, "sim:"),
        data.draw(st.one_of(st.just(math.nan), st.floats(-20, 60))),
        *(1, 0, 0, False, data.draw(st.text()), -20.0, -10.0, -50.0, 0.0, 0, 0.0, False, 0, "", "", 40, "", "", ""),
    )
    line = row.to_line()
    assert line_is_whole(line) and line.count(b"\n") == 1
    again = IndexRow.from_line(line)
    assert again.to_line() == line
    place = data.draw(st.integers(0, len(line) - 1))
    changed = line[:place] + bytes([line[place] ^ (1 << data.draw(st.integers(0, 7)))]) + line[place + 1 :]
    assert not line_is_whole(changed)
    assert not line_is_whole(line[:place])


Damage = Callable[[Path], object]


def _flip(name: str) -> Damage:
    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(bytes(content))

    return damage


def _edit(folder: Path) -> None:
    path = folder / "set-000001.sigmf-meta"
    path.write_text(path.read_text().replace("2400000000.0", "2500000000.0"))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_flip("set-000001.sigmf-data"), "set-000001.sigmf-data was changed"),
        (_flip("set-000001.sigmf-meta"), "set-000001.sigmf-meta was changed"),
        (_edit, "set-000001.sigmf-meta was changed"),
        (_flip("truth/set-000001.npz"), "truth/set-000001.npz was changed"),
        (_flip("index.jsonl"), "index.jsonl line 2 was changed"),
        (_flip("set.sigmf-collection"), "set.sigmf-collection"),
        (lambda folder: (folder / "set-000001.sigmf-data").unlink(), "set-000001.sigmf-data is missing"),
        (lambda folder: (folder / "set-000001.sigmf-meta").unlink(), "set-000001.sigmf-meta is missing"),
        (lambda folder: (folder / "layouts" / f"{LAYOUT.digest}.json").unlink(), LAYOUT.digest),
        (lambda folder: (folder / "set.sigmf-collection").unlink(), "the .sigmf-collection file is missing"),
        (lambda folder: (folder / "set-000009.sigmf-data").touch(), "set-000009.sigmf-data is not complete"),
        (
            lambda folder: (folder / ".set-000009.sigmf-data.part").touch(),
            ".set-000009.sigmf-data.part is not complete",
        ),
    ],
)
def test_damage_is_found_and_named(folder: Path, damage: Damage, named: str) -> None:
    damage(folder)
    wrong = verify_dataset(folder)
    assert any(named in line for line in wrong), wrong


@pytest.mark.parametrize("name", ["set-000001.sigmf-data", "set-000001.sigmf-meta"])
def test_a_damaged_capture_is_refused_and_its_neighbours_are_not(folder: Path, name: str) -> None:
    _flip(name)(folder)
    rows = read_index(folder)
    with pytest.raises(RecordingError, match="set-000001"):
        open_capture(folder, rows[1])
    assert open_capture(folder, rows[2]).num_samples == 1000


def test_a_swapped_layout_is_refused(folder: Path) -> None:
    from sdr.layout import save_layout

    save_layout(load_layout("paper"), folder / "layouts" / f"{LAYOUT.digest}.json")
    with pytest.raises(LayoutError):
        layout_of(folder, read_index(folder)[0])


@pytest.mark.parametrize("cut", [1, 30, 10**6])
def test_a_killed_writer_leaves_what_was_complete(folder: Path, cut: int) -> None:
    """At any byte of the index: the torn line goes, its files go, all others stay, and the capture can be redone."""
    lines = (folder / "index.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "index.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][: -min(cut, len(lines[2]))])
    (folder / ".set-000003.sigmf-data.part").write_bytes(b"half")
    with DatasetWriter(folder, "set", description="noise") as dataset:
        assert [row.number for row in dataset.rows] == [0, 1] and 2 not in dataset
        assert {"set-000002.sigmf-data", "set-000002.sigmf-meta", ".set-000003.sigmf-data.part"} <= set(dataset.removed)
        dataset.add(2, capture(2), LAYOUT, NOTES, {"z": np.arange(2)})
    assert verify_dataset(folder) == []
    assert (folder / "index.jsonl").read_bytes() == b"".join(lines)


def test_two_writers_exclude_each_other(folder: Path) -> None:
    with DatasetWriter(folder, "set"), pytest.raises(RecordingError, match="another writer"):
        DatasetWriter(folder, "set")
    DatasetWriter(folder, "set").close()


def test_another_collection_is_refused(folder: Path) -> None:
    with pytest.raises(RecordingError, match=r"set\.sigmf-collection"):
        DatasetWriter(folder, "other")


def test_a_full_disk_costs_the_capture_at_hand_only(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the disk: the operating system refuses the write in the same way."""
    folder = tmp_path / "data"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DatasetWriter(folder, "set") as dataset:
        dataset.add(0, capture(0), LAYOUT)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        try:
            with pytest.raises(RecordingError, match=r"set-000001 can't be written: .*before it are complete"):
                dataset.add(1, capture(1, 10_000), LAYOUT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(folder.glob("*000001*")) and not list(folder.glob(".*.part"))
        dataset.add(1, capture(1, 10_000), LAYOUT)
    assert verify_dataset(folder) == []


def test_blocks_equal_one_capture(tmp_path: Path) -> None:
    whole = capture(5, 3000)
    parts = [replace(whole, samples=part, health=measure_health(part)) for part in np.split(whole.samples, 3)]
    with DatasetWriter(tmp_path / "a", "set") as dataset:
        one = dataset.add(0, whole, LAYOUT)
    with DatasetWriter(tmp_path / "b", "set") as dataset:
        many = dataset.add_blocks(0, iter(parts), LAYOUT)
    assert many.data_sha512 == one.data_sha512 and many.num_samples == 3000
    for name in ("rms_dbfs", "peak_dbfs", "dc_dbfs", "clipped_fraction"):
        assert getattr(many, name) == pytest.approx(getattr(one, name), abs=1e-4)


def test_ctrl_c_completes_the_capture_at_hand(tmp_path: Path) -> None:
    def interrupted():
        yield capture(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), DatasetWriter(tmp_path, "set") as dataset:
        dataset.add_blocks(0, interrupted(), LAYOUT)
    assert [row.num_samples for row in read_index(tmp_path)] == [1000]
    assert verify_dataset(tmp_path) == []


def test_a_number_is_taken_once(folder: Path) -> None:
    with DatasetWriter(folder, "set") as dataset, pytest.raises(RecordingError, match="capture 1"):
        dataset.add(1, capture(1), LAYOUT)
