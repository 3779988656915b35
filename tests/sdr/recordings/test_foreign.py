"""Captures of others: every type, any rate, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.errors import RecordingError
from sdr.layout import load_layout
from sdr.recordings.foreign import RAW_TYPES, import_capture, read_raw, resample
from sdr.recordings.recording import Recording, write_recording
from sdr.settings import RadioSettings

LAYOUT = load_layout("air")


def noise(count: int) -> np.ndarray:
    parts = np.random.default_rng(1).uniform(-0.5, 0.5, size=(count, 2)).astype(np.float32)
    return parts.view(np.complex64)[:, 0]


@pytest.mark.parametrize("datatype", RAW_TYPES)
def test_raw_files_come_back_within_a_step(tmp_path: Path, datatype: str) -> None:
    component, scale = RAW_TYPES[datatype]
    parts = noise(100).view(np.float32) * scale
    (parts if scale == 1 else parts.round()).astype(component).tofile(tmp_path / "raw")
    recording = read_raw(tmp_path / "raw", datatype, 2e6, 2.4e9)
    step = 1e-7 if scale == 1 else 1 / scale
    assert np.abs((recording.samples - noise(100)).view(np.float32)).max() <= step
    assert recording.settings.rate_sps == 2e6 and recording.settings.center_hz == 2.4e9


def test_full_scale_of_a_twelve_bit_converter(tmp_path: Path) -> None:
    np.array([2047, -1024], dtype="<i2").tofile(tmp_path / "raw")
    sample = read_raw(tmp_path / "raw", "ci16", 1e6, full_scale=2048).samples[0]
    assert sample == pytest.approx(0.99951 - 0.5j, abs=1e-4)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.3, 4.0), st.floats(-0.44, 0.44))
def test_a_tone_stays_that_tone(ratio: float, turns: float) -> None:
    """At any ratio of rates: phase, level and frequency of a tone in the pass band, nothing of one that would alias."""
    count = 3000
    tone = np.exp(2j * np.pi * turns * np.arange(count)).astype(np.complex64)
    out = resample(tone, ratio * 1e6, 1e6)
    assert out.size == int(count / ratio)
    middle = slice(out.size // 4, 3 * out.size // 4)
    aliased = turns * ratio
    if abs(aliased) < 0.44:
        expected = np.exp(2j * np.pi * aliased * np.arange(out.size))
        assert np.abs(out - expected)[middle].max() < 1e-3
    elif abs(aliased) > 0.51:
        assert np.abs(out[middle]).max() < 1e-3


@pytest.mark.parametrize(
    ("content", "datatype", "complaint"),
    [(b"", "cf32", "0 bytes"), (b"1234567", "ci16", "7 bytes"), (b"12", "ci9", "did you mean 'ci8'")],
)
def test_misuse(tmp_path: Path, content: bytes, datatype: str, complaint: str) -> None:
    (tmp_path / "raw").write_bytes(content)
    with pytest.raises(RecordingError, match=complaint):
        read_raw(tmp_path / "raw", datatype, 1e6)
    with pytest.raises(RecordingError, match="--datatype"):
        import_capture(tmp_path / "raw", LAYOUT)


def test_sigmf_is_read_as_it_says(tmp_path: Path) -> None:
    write_recording(Recording(noise(500), RadioSettings(rate_sps=LAYOUT.rate_sps)), tmp_path / "a")
    assert np.array_equal(import_capture(tmp_path / "a.sigmf-meta", LAYOUT).samples, noise(500))
    write_recording(Recording(noise(500), RadioSettings(rate_sps=2 * LAYOUT.rate_sps)), tmp_path / "b")
    again = import_capture(tmp_path / "b.sigmf-meta", LAYOUT)
    assert again.num_samples == 250 and again.settings.rate_sps == LAYOUT.rate_sps
