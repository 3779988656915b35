"""Recordings of two antennas on the command line."""

from pathlib import Path
from typing import Any

import pytest

from sdr.layout import load_layout
from sdr.recordings.antennas import read_antennas
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording

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


def test_what_takes_one_antenna_says_so(refused, heard, tmp_path):
    with pytest.raises(Exception, match="at most 1 can be read"):
        read_recording(heard)
    imported = refused("dataset", "import", f"{heard}.sigmf-meta", "--layout", "paper", "--out", tmp_path / "set")
    assert "core:num_channels is 2, and at most 1 can be read here" in imported
    other = write_recording(Recording(read_antennas([heard]).samples[:-1]), tmp_path / "short")
    assert "antennas of one receiver are recorded together" in refused(
        "decode", heard, "--antenna", other, "--layout", "paper", "--out", tmp_path / "run"
    )
    calibrated = refused("calibrate", "--radio", "sim:rx=2,csnr_db=20", "--out", tmp_path / "profile.toml")
    assert "ota calibrate takes the samples of one antenna" in calibrated
