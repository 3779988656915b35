"""Captures of others become a dataset: none twice, nothing stated in vain, and scored once it is said what was sent."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdr.recordings.dataset import INDEX_NAME


def theirs(path: Path, samples: np.ndarray, **info: object) -> Path:
    """A recording of another tool."""
    samples.astype("<c8").tofile(f"{path}.sigmf-data")
    meta = {"global": {"core:datatype": "cf32_le", "core:sample_rate": 1e6, **info}, "captures": []}
    meta["global"] = {key: value for key, value in meta["global"].items() if value is not None}
    Path(f"{path}.sigmf-meta").write_text(json.dumps(meta))
    return Path(f"{path}.sigmf-meta")


@pytest.fixture
def samples_sent(sent: Path) -> np.ndarray:
    return np.fromfile(f"{sent}.sigmf-data", "<c8")


def test_an_import_repeated_after_an_error_takes_no_file_twice(ota, refused, samples_sent, tmp_path):
    broken = samples_sent.copy()
    broken[5] = np.nan
    files = [theirs(tmp_path / name, samples) for name, samples in (("a", samples_sent), ("b", broken))]
    files.append(theirs(tmp_path / "c", samples_sent))  # equal samples in another file: another capture
    command = ("dataset", "import", *files, "--layout", "paper", "--out", tmp_path / "set")
    assert "sample 5" in refused(*command)
    theirs(tmp_path / "b", samples_sent)
    answer = ota(*command, "--json").json
    assert answer["there_already"] == ["set-000000"] and answer["recordings"] == ["set-000001", "set-000002"]
    again = ota(*command)
    assert again.code == 0 and again.err.count("left out") == 3
    assert ota("dataset", "list", tmp_path / "set", "--json").json["captures"] == 3


@pytest.mark.parametrize(
    ("info", "options", "says"),
    [
        ({}, ("--datatype", "ci16"), "--datatype"),
        ({}, ("--rate-sps", "5e6"), "5000000 is stated"),
        ({"core:sample_rate": None}, (), "--rate-sps"),
        ({}, ("--rate-sps", "nan"), "rate_sps"),
        ({}, ("--full-scale", "0"), "full_scale"),
        ({}, ("--center-hz", "-1"), "center_hz"),
    ],
)
def test_what_is_stated_in_vain_is_refused(refused, samples_sent, tmp_path, info, options, says):
    file = theirs(tmp_path / "a", samples_sent, **info)
    assert says in refused("dataset", "import", file, *options, "--layout", "paper", "--out", tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_what_is_stated_is_heeded(ota, samples_sent, tmp_path):
    file = theirs(tmp_path / "a", samples_sent * 2048, **{"core:sample_rate": None})
    options = ("--rate-sps", 1e6, "--center-hz", 868e6, "--full-scale", 2048)
    assert ota("dataset", "import", file, *options, "--layout", "paper", "--out", tmp_path / "set").code == 0
    row = ota("dataset", "list", tmp_path / "set", "--json").json["rows"][0]
    assert row["rate_sps"] == 1e6 and row["center_hz"] == 868e6
    assert row["rms_dbfs"] == pytest.approx(20 * np.log10(np.sqrt(np.mean(np.abs(samples_sent) ** 2))), abs=0.01)


def test_half_of_the_band_is_told(ota, samples_sent, tmp_path):
    file = theirs(tmp_path / "a", samples_sent[::2], **{"core:sample_rate": 5e5})
    outcome = ota("dataset", "import", file, "--layout", "paper", "--out", tmp_path / "set")
    assert outcome.code == 0 and "50%" in outcome.err
    assert not ota("dataset", "list", tmp_path / "set", "--json").json["rows"][0]["healthy"]


def test_an_imported_dataset_can_be_scored(ota: Callable, refused: Callable, samples_sent, samples, tmp_path):
    data, out = tmp_path / "set", tmp_path / "out"
    ota("dataset", "import", theirs(tmp_path / "a", samples_sent), "--layout", "paper", "--out", data)
    decode = ("decode", data, "--method", "jscc", "--out", out, "--json")
    assert ota(*decode).code == 0
    assert "not scored" in refused("report", data, out, "--out", tmp_path / "report")
    assert "ota dataset truth" in refused(*decode, "--score")
    truth = ("dataset", "truth", data, "--images", samples)
    assert "1 captures" in ota(*truth).err
    assert "already" in refused(*truth)
    assert ota("dataset", "verify", data).code == 0
    summary = ota(*decode, "--score").json["summary"]
    assert summary[0]["sent"] == summary[0]["arrived"] == 8 and summary[0]["psnr_db"] > 20


def test_repeated_lines_of_an_index_are_told_as_what_they_are(ota, refused, samples_sent, tmp_path):
    data = tmp_path / "set"
    files = [theirs(tmp_path / name, samples_sent) for name in "ab"]
    ota("dataset", "import", *files, "--layout", "paper", "--out", data)
    index = data / INDEX_NAME
    first, second = index.read_bytes().splitlines(keepends=True)
    readers = {
        "list": ("dataset", "list", data),
        "decode": ("decode", data, "--method", "jscc", "--out", tmp_path / "out"),
        "import": ("dataset", "import", *files, "--layout", "paper", "--out", data),
        "truth": ("dataset", "truth", data, "--images", tmp_path),
        "report": ("report", data, "--out", tmp_path / "report"),
    }
    for content in (first + second + first, second + second):
        index.write_bytes(content)
        for command in readers.values():
            assert "repeats" in refused(*command)
        outcome = ota("dataset", "verify", data)
        assert outcome.code == 2 and "repeats recording" in outcome.out


def test_a_doubled_number_is_told(ota, refused, samples_sent, tmp_path):
    from dataclasses import replace

    from sdr.recordings.dataset import read_index

    data = tmp_path / "set"
    files = [theirs(tmp_path / name, samples_sent) for name in "ab"]
    ota("dataset", "import", *files, "--layout", "paper", "--out", data)
    rows = read_index(data)
    (data / INDEX_NAME).write_bytes(b"".join(replace(row, number=7).to_line() for row in rows))
    assert "repeats capture number 7 of line 1" in refused("dataset", "list", data)
