"""The spectrum of a recording: its power is that of the samples, wherever these end."""

from __future__ import annotations

import numpy as np
import pytest

from lab.reports import diagnostics
from lab.reports.diagnostics import spectrum

RATE_SPS = 1e6


@pytest.mark.parametrize("samples", [512, 700, 5000, 300_000])
def test_white_noise_has_its_power_in_every_bin(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnostics, "_SEGMENTS", 100)  # so that some recordings are taken in pieces
    rng = np.random.default_rng(samples)
    noise = (0.1 * (rng.standard_normal(samples) + 1j * rng.standard_normal(samples))).astype(np.complex64)
    frequency_hz, power_dbfs = spectrum(noise, RATE_SPS)
    assert frequency_hz.shape == power_dbfs.shape == (512,) and np.all(np.diff(frequency_hz) > 0)
    assert frequency_hz[0] == -RATE_SPS / 2
    power = 10 ** (power_dbfs / 10)
    # The power of one segment alone is that of chi-square numbers.
    assert power.sum() == pytest.approx(0.02, rel=0.2 if samples < 5000 else 0.05)


def test_a_tone_stands_where_it_is() -> None:
    tone = 0.5 * np.exp(2j * np.pi * 0.125 * np.arange(20_000))
    frequency_hz, power_dbfs = spectrum(tone.astype(np.complex64), RATE_SPS)
    assert frequency_hz[power_dbfs.argmax()] == 0.125 * RATE_SPS
    assert 10 * np.log10(np.sum(10 ** (power_dbfs / 10))) == pytest.approx(20 * np.log10(0.5), abs=0.01)


def test_a_recording_shorter_than_a_segment_is_padded() -> None:
    _, power_dbfs = spectrum(np.ones(3, np.complex64), RATE_SPS)
    assert power_dbfs.shape == (512,) and np.isfinite(power_dbfs).all()
