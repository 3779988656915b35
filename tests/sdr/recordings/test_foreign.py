"""Captures of others: every type, any rate, and what is wrong with them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.errors import RecordingError
from sdr.layout import load_layout
from sdr.recordings.foreign import import_capture, read_raw, resample
from sdr.recordings.reading import Stated
from sdr.recordings.recording import Recording, write_recording
from sdr.settings import RadioSettings

LAYOUT = load_layout("air")


def noise(count: int) -> np.ndarray:
    parts = np.random.default_rng(1).uniform(-0.5, 0.5, size=(count, 2)).astype(np.float32)
    return parts.view(np.complex64)[:, 0]


def test_full_scale_of_a_twelve_bit_converter(tmp_path: Path) -> None:
    np.array([2047, -1024], dtype="<i2").tofile(tmp_path / "raw")
    sample = read_raw(tmp_path / "raw", "ci16", Stated(1e6, full_scale=2048)).samples[0]
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
    [(b"", "cf32", "0 bytes"), (b"1234567", "ci16", "7 bytes"), (b"12", "ci9", "the types are")],
)
def test_misuse(tmp_path: Path, content: bytes, datatype: str, complaint: str) -> None:
    (tmp_path / "raw").write_bytes(content)
    with pytest.raises(RecordingError, match=complaint):
        read_raw(tmp_path / "raw", datatype, Stated(1e6))
    with pytest.raises(RecordingError, match="--datatype"):
        import_capture(tmp_path / "raw", LAYOUT)


def test_sigmf_is_read_as_it_says(tmp_path: Path) -> None:
    write_recording(Recording(noise(500), RadioSettings(rate_sps=LAYOUT.rate_sps)), tmp_path / "a")
    read = import_capture(tmp_path / "a.sigmf-meta", LAYOUT)
    assert np.array_equal(read.recording.samples, noise(500)) and not read.problems
    with pytest.raises(RecordingError, match="names its own type"):
        import_capture(tmp_path / "a.sigmf-meta", LAYOUT, "ci16")
    write_recording(Recording(noise(500), RadioSettings(rate_sps=2 * LAYOUT.rate_sps)), tmp_path / "b")
    again = import_capture(tmp_path / "b.sigmf-meta", LAYOUT).recording
    assert again.num_samples == 250 and again.settings.rate_sps == LAYOUT.rate_sps


@pytest.mark.parametrize("rate_sps", [1.0, 1e12])
def test_rates_far_from_the_layouts_are_refused_before_memory_is_taken(tmp_path: Path, rate_sps: float) -> None:
    noise(100).tofile(tmp_path / "raw")
    with pytest.raises(RecordingError, match=r"raw: .*can't become"):
        import_capture(tmp_path / "raw", LAYOUT, "cf32", Stated(rate_sps))
    with pytest.raises(RecordingError, match="are taken"):
        resample(np.broadcast_to(np.complex64(0), (1 << 27,)), 1.0, 4.0)


def test_captures_that_lack_something_say_so(tmp_path: Path) -> None:
    noise(400).tofile(tmp_path / "raw")
    half = import_capture(tmp_path / "raw", LAYOUT, "cf32", Stated(LAYOUT.rate_sps / 2))
    assert len(half.problems) == 1 and "% of the" in half.problems[0]
    real = import_capture(tmp_path / "raw", LAYOUT, "rf32", Stated(LAYOUT.rate_sps))
    assert len(real.problems) == 1 and "quadrature" in real.problems[0]
