"""What is measured of a link against what the simulated air was told, over random draws."""

import numpy as np
import pytest

from calibration.frequency import measure_frequency
from calibration.link import measure_channel, measure_delay, measure_noise, tap_statistics
from calibration.session import CalibrationPlan, measure_link
from calibration.sounding import Sounding, analyse_sounding, capture_sounding
from sdr.air.impairments import exponential_pdp, noise_var_for_csnr
from sdr.calibration_profile import CalibrationError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings

PAPER, AIR = load_layout("paper"), load_layout("air")
CENTER_HZ = 2.4e9


def sound(options: str, layout=PAPER, num_frames: int = 300) -> Sounding:
    settings = RadioSettings(rate_sps=layout.rate_sps, center_hz=CENTER_HZ)
    with open_radio(f"sim:{options}", settings, layout) as radio:
        recording, sent, origin = capture_sounding(radio, radio, layout, num_frames)
    return analyse_sounding(recording, layout, sent, origin)


@pytest.fixture(scope="module")
def fading() -> list[tuple[dict[str, float], Sounding]]:
    """Soundings of random fading channels: (truth, sounding)."""
    rng = np.random.default_rng(20260)
    draws = []
    for seed in range(8):
        truth = {
            "taps": int(rng.integers(2, 11)),
            "decay": float(rng.uniform(1.0, 5.0)),
            "csnr_db": float(rng.uniform(15.0, 28.0)),
            "delay_samples": int(rng.integers(0, 5)) * PAPER.frame_samples,
        }
        options = ",".join(f"{key}={value}" for key, value in truth.items())
        draws.append((truth, sound(f"{options},seed={seed},block_samples={PAPER.frame_samples}")))
    return draws


def test_power_delay_profiles_and_their_intervals(fading) -> None:
    covered, errors_db = [], []
    for truth, sounding in fading:
        profile, values, warnings = measure_channel(sounding)
        true = exponential_pdp(truth["taps"], truth["decay"])
        size = min(true.size, len(profile.powers))
        strong = true[:size] > 0.01
        measured = np.array(profile.powers)[:size]
        errors_db += list(10 * np.log10(measured / true[:size])[strong])
        low, high = np.array(profile.low)[:size], np.array(profile.high)[:size]
        covered += list(((low <= true[:size]) & (true[:size] <= high))[strong])
        assert not warnings and 150 < profile.draws <= 300
        if "pdp_decay_samples" in values and truth["taps"] >= 4:
            assert values["pdp_decay_samples"].value == pytest.approx(truth["decay"], rel=0.25)
    # 300 draws leave 4.34 dB / sqrt(300) = 0.25 dB on each tap.
    assert np.std(errors_db) < 0.35 and np.quantile(np.abs(errors_db), 0.9) < 0.5
    assert np.mean(covered) >= 0.88


def test_noise_floors_and_csnr(fading) -> None:
    covered = []
    for truth, sounding in fading:
        true_db = 10 * np.log10(noise_var_for_csnr(PAPER, truth["csnr_db"]))
        noise = measure_noise(sounding)["noise_floor_dbfs"]
        assert noise.value == pytest.approx(true_db, abs=0.3)
        covered.append(noise.low <= true_db <= noise.high)
        csnr = measure_channel(sounding)[1]["csnr_db"]
        assert csnr.value == pytest.approx(truth["csnr_db"], abs=0.7)
    assert np.mean(covered) >= 0.7


def test_latency_is_exact(fading) -> None:
    for truth, sounding in fading:
        assert measure_delay(sounding)["latency_samples"].value == truth["delay_samples"]


def test_a_single_path_is_placed_between_samples() -> None:
    latency = measure_delay(sound("csnr_db=15,delay_samples=1000.3,seed=4", num_frames=64))["latency_samples"]
    assert latency.value == pytest.approx(1000.3, abs=0.01) and latency.low < latency.high


def test_ppm_of_the_pair_and_of_the_sampling_clock() -> None:
    rng, covered = np.random.default_rng(7), []
    for seed in range(8):
        ppm = float(rng.uniform(-15, 15))
        found = measure_frequency(sound(f"csnr_db=15,taps=6,offset_ppm={ppm},seed={seed}", AIR, 32))
        carrier, clock = found["carrier_offset_ppm"], found["clock_offset_ppm"]
        assert carrier.value == pytest.approx(ppm, abs=0.05)
        assert clock.value == pytest.approx(ppm, abs=0.05)
        covered.append(carrier.low <= ppm <= carrier.high)
    assert np.mean(covered) >= 0.7


def test_a_channel_that_stays_is_called_so() -> None:
    sounding = sound("csnr_db=20,taps=6,seed=1", num_frames=32)
    assert tap_statistics(sounding).fading < 0.05
    profile, _, warnings = measure_channel(sounding)
    assert profile.draws == 1 and "never changed" in warnings[0]


def test_slow_fading_counts_as_fewer_draws() -> None:
    sounding = sound(f"csnr_db=20,taps=6,seed=1,block_samples={8 * PAPER.frame_samples}")
    stats = tap_statistics(sounding)
    assert 20 < stats.draws < 80  # 300 frames in blocks of 8 are 38
    assert measure_channel(sounding)[1]["coherence_time_s"].value == pytest.approx(
        7 * PAPER.frame_samples / PAPER.rate_sps, rel=0.35
    )


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (lambda rng: 1e-3 * rng.standard_normal((2, 60_000)), "no signal"),
        (lambda rng: np.sign(rng.standard_normal((2, 60_000))), "saturated"),
    ],
)
def test_nothing_heard_is_one_clear_line(samples, words: str) -> None:
    real, imaginary = samples(np.random.default_rng(0)).astype(np.float32)
    recording = Recording((real + 1j * imaginary).astype(np.complex64), RadioSettings(rate_sps=PAPER.rate_sps))
    with pytest.raises(CalibrationError, match=words):
        analyse_sounding(recording, PAPER, 16, 0)


def test_radios_on_different_frequencies_are_refused() -> None:
    with (
        open_radio("sim:", RadioSettings(rate_sps=1e6, center_hz=2.4e9), PAPER) as one,
        open_radio("sim:", RadioSettings(rate_sps=1e6, center_hz=2.45e9), PAPER) as other,
        pytest.raises(CalibrationError, match="same center_hz"),
    ):
        measure_link(one, other, PAPER, CalibrationPlan(["frequency"]))
