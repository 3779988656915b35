"""Front ends against what the simulated air did to the samples, over random draws; and that knowing them pays."""

import math

import numpy as np
import pytest
import torch

from calibration.frontend import measure_frontend
from calibration.session import CalibrationPlan, measure_link
from calibration.sounding import Sounding, analyse_sounding, capture_sounding
from lab.evaluation.metrics import psnr_db
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_image_folder
from sdr.air.amplifier import apply_rapp
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.symbols import Symbols

PAPER = load_layout("paper")
GRID = np.linspace(0.01, 1.0, 100)


def sound(options: str, num_frames: int = 16) -> Sounding:
    with open_radio(f"sim:{options},block_samples={PAPER.frame_samples}", layout=PAPER) as radio:
        recording, sent, origin = capture_sounding(radio, radio, PAPER, num_frames)
    return analyse_sounding(recording, PAPER, sent, origin)


def curve(saturation: float, smoothness: float, peak: float) -> np.ndarray:
    return np.abs(apply_rapp((GRID * peak).astype(np.complex64), saturation, smoothness))


def test_imbalance_offsets_and_amplifier_over_random_draws() -> None:
    rng = np.random.default_rng(11)
    covered = []
    for seed in range(3):
        truth = {
            "pa_saturation": float(rng.uniform(0.2, 0.5)),
            "pa_smoothness": float(rng.uniform(1.2, 4.0)),
            "image_rejection_db": float(rng.uniform(18, 32)),
            "dc": float(rng.uniform(0.002, 0.02)),
            "lo_leakage": float(rng.uniform(0.005, 0.02)),
            "cfo_hz": float(rng.uniform(700, 3000)),
            "taps": 4,
            "csnr_db": 28.0,
            "seed": seed,
        }
        front = measure_frontend(sound(",".join(f"{k}={v}" for k, v in truth.items())))
        values, warnings = front.values | front.receivers[0].values, front.warnings
        assert not warnings
        phase_deg = math.degrees(2 * math.atan(10 ** (-truth["image_rejection_db"] / 20)))
        expected = {
            "iq_gain_db": (0.0, 0.1),
            "iq_phase_deg": (phase_deg, 0.5),
            "dc_i": (truth["dc"], 0.001),
            "dc_q": (0.0, 0.001),
            "lo_leakage": (truth["lo_leakage"], 0.003),
        }
        for name, (true, tolerance) in expected.items():
            assert values[name].value == pytest.approx(true, abs=tolerance), name
            if name != "lo_leakage":
                covered.append(values[name].low <= true <= values[name].high)
        peak = 0.8  # what frames of this layout reach
        found = curve(values["pa_saturation"].value, values["pa_smoothness"].value, peak)
        true_curve = curve(truth["pa_saturation"], truth["pa_smoothness"], peak)
        assert np.abs(found / true_curve - 1).max() < 0.02
        for name in ("pa_saturation", "pa_smoothness"):
            covered.append(values[name].low <= truth[name] <= values[name].high)
    assert np.mean(covered) >= 0.8


def test_a_clean_front_end_is_called_so() -> None:
    front = measure_frontend(sound("csnr_db=20,taps=3,seed=1"))
    values, warnings = front.values | front.receivers[0].values, front.warnings
    assert "pa_saturation" not in values
    assert "linear" in warnings[0] and "run alike" in warnings[1]
    assert abs(values["iq_gain_db"].value) < 0.05 and abs(values["iq_phase_deg"].value) < 0.3


def test_a_calibrated_decoder_gets_better_images() -> None:
    air = f"pa_saturation=0.1,image_rejection_db=12,taps=3,decay=1,block_samples={PAPER.frame_samples}"
    bundle = load_bundle()
    with open_radio(f"sim:{air},csnr_db=25,seed=1", layout=PAPER) as radio:
        profile = measure_link(radio, radio, PAPER, CalibrationPlan(["channel", "frontend"], 32))
    ids, images = load_image_folder(bundle.samples, bundle.image_shape)
    ids, images = ids[:16], images[:16]
    with torch.no_grad():
        z = bundle.codec.encode(images, 20.0)
    symbols = Symbols(z.numpy(), bundle.codec.digest, tuple(ids), bundle.image_shape, 20.0)
    with open_radio(f"sim:{air},csnr_db=25,seed=2", layout=PAPER) as radio:
        radio.transmit(modulate_stream(pack_frames(symbols, PAPER), PAPER))
        recording = radio.receive()
    truth = dict(zip(ids, images, strict=True))
    means = []
    for calibration in (None, profile):
        result = decode_recording(recording, PAPER, bundle, ["jscc"], DecodeSettings(calibration=calibration))
        shown = {image.id: torch.from_numpy(image.image) for image in result.images}
        means.append(float(psnr_db(torch.stack(list(shown.values())), torch.stack([truth[i] for i in shown])).mean()))
    assert means[1] > means[0] + 0.1
