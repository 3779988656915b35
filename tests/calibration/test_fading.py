"""How a channel changes, against simulated ones whose statistics are known."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.fading import clarke, measure_fading, power_correlation
from calibration.link import measure_channel, measure_continuity
from calibration.sounding import Sounding, analyse_sounding, capture_sounding
from sdr.layout import load_layout
from sdr.radios.open import open_radio

PAPER = load_layout("paper")


def sound(options: str, num_frames: int) -> Sounding:
    with open_radio(f"sim:{options}", layout=PAPER) as radio:
        recording, sent, origin = capture_sounding(radio, radio, PAPER, num_frames)
    return analyse_sounding(recording, PAPER, sent, origin)


@pytest.fixture(scope="module")
def still() -> Sounding:
    return sound("csnr_db=25,seed=1", 240)


def with_taps(sounding: Sounding, taps: np.ndarray) -> Sounding:
    noise = np.full(taps.shape[1], 1e-6)
    return replace(sounding, taps=taps, taps_var=noise, power=np.mean(np.abs(taps) ** 2, axis=0) - noise)


def test_doppler_of_a_moving_channel() -> None:
    doppler_hz = 30.0
    values = measure_channel(sound(f"tdl=B,delay_spread_s=1e-9,doppler_hz={doppler_hz},csnr_db=25,seed=2", 300))[1]
    found = values["doppler_hz"]
    assert found.value == pytest.approx(doppler_hz, rel=0.2) and found.low <= doppler_hz <= found.high
    assert values["coherence_time_s"].value == pytest.approx(1.52 / (2 * np.pi * doppler_hz), rel=0.5)


def test_frames_that_never_agree_have_no_doppler(still: Sounding) -> None:
    rng = np.random.default_rng(0)
    taps = rng.standard_normal((240, 2, 2)) @ np.array([1, 1j]) / np.sqrt(2)
    found = measure_fading(with_taps(still, taps), 0, 1)
    assert "doppler_hz" not in found and found["coherence_time_s"].low == 0
    assert found["k_factor"].low == 0 and found["fading"].low < 1 < found["fading"].high


def test_the_k_factor_and_how_often_its_interval_holds(still: Sounding) -> None:
    rng, held = np.random.default_rng(1), []
    for _ in range(40):
        k = float(rng.uniform(1.0, 8.0))
        scattered = rng.standard_normal((240, 1, 2)) @ np.array([1, 1j]) / np.sqrt(2 * (k + 1))
        found = measure_fading(with_taps(still, np.sqrt(k / (k + 1)) + scattered), 0, 0)["k_factor"]
        held.append(found.low <= k <= found.high)
        assert found.value == pytest.approx(k, rel=0.5)
    assert np.mean(held) >= 0.85


def test_frames_that_are_missing_leave_distances_true() -> None:
    rng = np.random.default_rng(2)
    numbers, phase = np.arange(500), 2 * np.pi * 0.05 * np.cos(2 * np.pi * (np.arange(24) + 0.5) / 24)
    gains = np.exp(1j * (np.outer(numbers, phase)[:, None, :] + 2 * np.pi * rng.random((1, 150, 24)))).sum(2)
    squared = np.abs(gains) ** 2
    there = np.sort(rng.permutation(500)[:400])
    every, some = (power_correlation(squared[i], numbers[i], np.ones(i.size), 6) for i in (numbers, there))
    np.testing.assert_allclose(some / some[0], every / every[0], atol=0.03)
    np.testing.assert_allclose(every / every[0], clarke(0.05, np.arange(6.0)), atol=0.1)


@pytest.mark.parametrize("gaps", [0, 2])
def test_lost_samples_are_counted_and_the_rest_still_counts(gaps: int) -> None:
    sounding = sound(f"csnr_db=20,taps=3,num_gaps={gaps},gap_samples=700,seed=5", 64)
    found, warnings = measure_continuity(sounding)
    assert found["lost_samples"].value == 700 * gaps and len(warnings) == (gaps > 0)
    assert len(sounding.frames) >= 64 - 2 * gaps
    assert measure_channel(sounding)[1]["csnr_db"].value == pytest.approx(20, abs=3)
