"""Oscillators against emulated radios whose crystals are known, and reference tones against their bound."""

import math
from dataclasses import replace

import numpy as np
import pytest

from calibration.frequency import measure_drift, measure_tone
from calibration.session import CalibrationPlan, measure_link
from sdr.calibration_profile import CalibrationError, FrequencyPoint
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import EmulatedPluto
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.settings import RadioSettings

PAPER = load_layout("paper")
RATE_SPS, CENTER_HZ = 1e6, 2.45e9


def tone(ppm: float, tone_hz: float, size: int, noise: float, seed: int) -> np.ndarray:
    """What a receiver that is fast by `ppm` hears of a tone."""
    rng = np.random.default_rng(seed)
    heard_hz = tone_hz / (1 + 1e-6 * ppm) - CENTER_HZ
    samples = 0.1 * np.exp(2j * np.pi * (heard_hz / RATE_SPS * np.arange(size) + rng.uniform()))
    return samples + noise * (rng.standard_normal(size) + 1j * rng.standard_normal(size)) / math.sqrt(2)


def test_a_reference_tone_tells_the_receivers_ppm_with_its_interval() -> None:
    rng, covered, errors = np.random.default_rng(3), [], []
    size, noise = 1 << 14, 0.1
    for seed in range(40):
        ppm, tone_hz = float(rng.uniform(-20, 20)), CENTER_HZ + float(rng.uniform(1e5, 3e5))
        found = measure_tone(tone(ppm, tone_hz, size, noise, seed), RATE_SPS, CENTER_HZ, tone_hz)
        covered.append(found.low <= ppm <= found.high)
        errors.append(found.value - ppm)
    # Cramer and Rao for a tone of unknown phase at 0 dB per sample, in ppm of the carrier.
    bound = math.sqrt(6 / size**3) / (2 * np.pi) * RATE_SPS / CENTER_HZ * 1e6
    assert 0.7 * bound < np.std(errors) < 1.5 * bound
    assert np.mean(covered) >= 0.85


@pytest.mark.parametrize(
    ("center_hz", "tone_hz", "words"),
    [(0.0, 2.45e9, "--center-hz"), (2.45e9, 2.46e9, "tune nearer"), (2.45e9, 2.4499e9, "no reference tone")],
)
def test_a_tone_that_cannot_be_there_is_refused(center_hz: float, tone_hz: float, words: str) -> None:
    quiet = tone(0.0, CENTER_HZ + 2e5, 1 << 14, 0.1, 0)
    if words == "no reference tone":
        quiet = quiet - tone(0.0, CENTER_HZ + 2e5, 1 << 14, 0.0, 0)
    with pytest.raises(CalibrationError, match=words):
        measure_tone(quiet, RATE_SPS, center_hz, tone_hz)


def test_a_drift_follows_time_or_temperature() -> None:
    rng = np.random.default_rng(0)
    points = []
    for index in range(20):
        degrees = 30 + 0.5 * index
        offset = 1000.0 + 0.3 * 2450 * (degrees - 30) + rng.standard_normal()
        points.append(FrequencyPoint(10.0 * index, offset, offset - 1.96, offset + 1.96, degrees, 25.0))
    found = measure_drift(points, CENTER_HZ)
    assert found["carrier_drift_hz_per_s"].low <= 0.3 * 2450 * 0.05 <= found["carrier_drift_hz_per_s"].high
    assert found["tx_ppm_per_c"].value == pytest.approx(0.3, abs=0.001)
    assert "rx_ppm_per_c" not in found  # that one's temperature never moved
    with pytest.raises(CalibrationError, match="at least 3"):
        measure_drift(points[:2], CENTER_HZ)


def test_two_radios_are_brought_together_by_the_profile_of_them() -> None:
    """Crystals 13 ppm apart, by xo_correction to what one hertz of 40 MHz leaves; a tone tells either's own error."""
    air = Air(AirPath(-12.0), 1e-7, 3)
    settings = RadioSettings(rate_sps=PAPER.rate_sps, center_hz=CENTER_HZ, tx_gain_db=-15.0, rx_gain_db=17.0)
    tone_hz = CENTER_HZ + 2e5
    with EmulatedPluto(air, "a", ppm=9.0) as a, EmulatedPluto(air, "b", ppm=-4.0) as b:
        air.attach("reference")
        own = 0.05 * np.exp(2j * np.pi * 0.2 * np.arange(1000)).astype(np.complex64)
        uris = [f"pluto:{a.uri}", f"pluto:{b.uri}"]

        def measure(tone_hz: float | None = None):
            with open_radio(uris[0], settings, PAPER) as tx, open_radio(uris[1], settings, PAPER) as rx:
                return measure_link(tx, rx, PAPER, CalibrationPlan(["frequency"], 48, tone_hz=tone_hz))

        pair = measure()
        assert pair.get("carrier_offset_ppm") == pytest.approx(13.0, abs=0.05)
        assert pair.get("tx_temperature_c") == 38.0 and pair.get("tx_xo_correction_hz") == 40e6
        assert pair.trimmed(uris[1]) == uris[1] and pair.trimmed("sim:") == "sim:"
        before, uris[0] = uris[0], pair.trimmed(uris[0])
        assert uris[0] == f"{before},xo_correction_hz=40000520"
        after = measure()
        assert after.get("carrier_offset_ppm") == pytest.approx(0.0, abs=0.013)
        # What is left is within a hertz of the crystal, and a second correction starts from the first.
        assert after.trimmed(uris[0]) == uris[0]

        air.transmit("reference", own, 0, 1e6, CENTER_HZ, cyclic=True)
        with open_radio(uris[1], settings, PAPER) as rx:
            heard = rx.receive(1 << 16).samples
        air.stop("reference")
        own_ppm = measure_tone(heard, RATE_SPS, CENTER_HZ, tone_hz)
        assert own_ppm.value == pytest.approx(-4.0, abs=0.02)
        known = replace(pair, values={**pair.values, "rx_reference_ppm": own_ppm})
        assert known.trimmed(uris[1]) == f"{uris[1]},xo_correction_hz=39999840"
