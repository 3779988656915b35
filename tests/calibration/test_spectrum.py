"""What is sent beside the band, and the mixer's image across it, against what the simulated air did."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.figures import draw_profile
from calibration.frontend import measure_frontend
from calibration.session import CalibrationPlan, measure_link
from calibration.sounding import analyse_sounding, capture_sounding, sounding_frames
from calibration.spectrum import measure_papr, measure_spectrum, periodogram
from sdr.air.amplifier import apply_rapp
from sdr.air.impairments import noise_var_for_csnr
from sdr.layout import load_layout
from sdr.modem import modulate
from sdr.radios.open import open_radio

PAPER, AIR = load_layout("paper"), load_layout("air")


def capture(options: str, layout, num_frames: int):
    with open_radio(f"sim:{options}", layout=layout) as radio:
        return capture_sounding(radio, radio, layout, num_frames)


@pytest.mark.parametrize("saturation", [0.2, 0.0])
def test_the_spectrum_as_sent_through_channel_and_noise(saturation: float) -> None:
    recording, sent, origin = capture(f"csnr_db=25,taps=4,cfo_hz=700,pa_saturation={saturation},seed=3", AIR, 40)
    sounding = analyse_sounding(recording, AIR, sent, origin)
    noise_dbfs = 10 * np.log10(noise_var_for_csnr(AIR, 25.0))
    points, values = measure_spectrum(sounding, noise_dbfs)
    occupied = AIR.num_symbols * AIR.symbol_samples
    frames = [modulate(content, AIR)[:occupied] for content in sounding_frames(AIR, 40)]
    if saturation:
        frames = [apply_rapp(samples, saturation, 2.0) for samples in frames]
    true = np.mean([periodogram(samples)[0] for samples in frames], axis=0)
    offset_hz = np.array([point.offset_hz for point in points])
    true_db = 10 * np.log10(true / true[(np.abs(offset_hz) < 3.5e5) & (np.abs(offset_hz) > 4e4)].mean())
    strong = true_db > -25
    measured = np.array([point.level_db for point in points])
    np.testing.assert_allclose(measured[strong], true_db[strong], atol=1.5)
    held = [p.low_db - 0.1 <= t <= p.high_db + 0.1 for p, t, s in zip(points, true_db, strong, strict=True) if s]
    assert np.mean(held) > 0.7
    # A layout whose carriers end at 100 of 128, two bins of 64 left out.
    outside = np.abs(offset_hz) > 1e6 * (100 / 256 + 2 / 64)
    beside = 10 * np.log10(np.mean(10 ** (true_db[outside] / 10)))
    assert values["adjacent_power_db"].value == pytest.approx(beside, abs=1.0)


def test_peaks_over_the_mean_shrink_in_an_amplifier() -> None:
    layout = replace(PAPER, clip_ratio=1.5)
    recording, sent, origin = capture("csnr_db=25,seed=1", layout, 16)
    found = measure_papr(analyse_sounding(recording, layout, sent, origin), (0.15, 2.0))
    # Limited to 1.5 rms, and the limiter takes some of the mean as well.
    assert 3.52 < found["papr_sent_db"].value < 4.2
    assert found["papr_amplified_db"].value < found["papr_sent_db"].value - 1
    assert found["papr_sent_db"].low < found["papr_sent_db"].value < found["papr_sent_db"].high


def test_an_image_that_differs_over_the_band() -> None:
    recording, sent, origin = capture("csnr_db=28,taps=3,cfo_hz=900,seed=2", PAPER, 16)
    ratio = np.array([0.06, 0.05j])  # image = ratio * conj(samples), a filter of two taps
    image = np.convolve(recording.samples.conj(), ratio)[: recording.num_samples]
    spoiled = replace(recording, samples=(recording.samples + image).astype(np.complex64))
    points = measure_frontend(analyse_sounding(spoiled, PAPER, sent, origin)).receivers[0].image
    turns = np.array([point.offset_hz for point in points]) / PAPER.rate_sps
    true = np.abs(ratio[0] + ratio[1] * np.exp(-2j * np.pi * turns))
    found = 10 ** (np.array([point.level_db for point in points]) / 20)
    np.testing.assert_allclose(found, true, atol=0.006)
    assert found.max() > 3 * found.min()
    held = [p.low_db <= 20 * np.log10(t) <= p.high_db for p, t in zip(points, true, strict=True)]
    assert np.mean(held) >= 0.6


def test_a_profile_has_a_picture(tmp_path) -> None:
    air = "csnr_db=25,taps=4,cfo_hz=900,pa_saturation=0.2,image_rejection_db=20,dc=0.01,block_samples=4352"
    with open_radio(f"sim:{air}", layout=PAPER) as radio:
        profile = measure_link(radio, radio, PAPER, CalibrationPlan(num_frames=32))
    assert profile.spectrum and profile.image and profile.frequency and profile.pdp
    # The front end is taken out before the channel is looked at.
    assert profile.get("csnr_db") == pytest.approx(25.0, abs=1.5)
    assert profile.get("error_floor_dbfs") == pytest.approx(profile.get("noise_floor_dbfs"), abs=0.5)
    path = draw_profile(profile, tmp_path / "p.png")
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000
    assert [p.name for p in tmp_path.iterdir()] == ["p.png"]
