"""Images that two antennas received, decoded with the shipped models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_image_folder
from receiver.results import DecodeResult
from sdr.calibration_profile import CalibrationError, CalibrationProfile
from sdr.errors import ConfigError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording, utc_now
from sdr.symbols import Symbols
from transmitter.encode import Transmission

LAYOUT = load_layout("paper")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def originals(bundle: Bundle) -> dict[str, torch.Tensor]:
    ids, images = load_image_folder(bundle.samples, bundle.image_shape)
    return dict(zip(ids[:16], images[:16], strict=True))


def sent(bundle: Bundle, originals: dict[str, torch.Tensor]) -> Transmission:
    with torch.no_grad():
        z = bundle.codec.encode(torch.stack(list(originals.values())), 5.0).numpy()
    symbols = Symbols(z, bundle.codec.digest, tuple(originals), bundle.image_shape, 5.0)
    return Transmission((symbols,), tuple(pack_frames(symbols, LAYOUT)), LAYOUT)


@pytest.fixture(scope="module")
def recordings(bundle: Bundle, originals: dict[str, torch.Tensor]) -> tuple[Recording, Recording]:
    """One antenna, and the same one beside another."""
    with open_radio(
        f"sim:csnr_db=5,taps=8,cfo_hz=300,seed=3,block_samples={LAYOUT.frame_samples},rx=2", layout=LAYOUT
    ) as radio:
        radio.transmit(sent(bundle, originals).samples())
        two = radio.receive()
    return replace(two, others=()), two


def psnr_db(result: DecodeResult, originals: dict[str, torch.Tensor]) -> np.ndarray:
    assert sorted(image.id for image in result.images) == sorted(originals)
    return np.array([-10 * np.log10(np.mean((i.image - originals[i.id].numpy()) ** 2)) for i in result.images])


@pytest.mark.parametrize("method", ["jscc", "guided", "bp:steps=3", "blind-jscc:candidates=2"])
def test_a_second_antenna_is_worth_a_decibel_and_more(
    method: str, bundle: Bundle, originals: dict[str, torch.Tensor], recordings: tuple[Recording, Recording]
) -> None:
    one, two = (decode_recording(recording, LAYOUT, bundle, [method]) for recording in recordings)
    gain = psnr_db(two, originals) - psnr_db(one, originals)
    assert gain.mean() > 1.0 and gain.mean() > 2 * gain.std() / 4
    assert np.mean([image.expected_psnr_db for image in two.images]) > np.mean(
        [image.expected_psnr_db for image in one.images]
    )
    assert [frame.snr_db for frame in two.frames] > [frame.snr_db for frame in one.frames]


def test_draws_share_what_was_received(
    bundle: Bundle, originals: dict[str, torch.Tensor], recordings: tuple[Recording, Recording]
) -> None:
    result = decode_recording(recordings[1], LAYOUT, bundle, ["bp:steps=2"], DecodeSettings(draws=2))
    assert all(image.spread is not None and image.spread.max() > 0 for image in result.images)
    assert psnr_db(result, originals).mean() > 18


def test_a_swapped_recording_is_swapped_at_both_antennas(
    bundle: Bundle, originals: dict[str, torch.Tensor], recordings: tuple[Recording, Recording]
) -> None:
    two = recordings[1]
    swapped = replace(two, samples=two.samples.conj(), others=(two.others[0].conj(),))
    as_sent = decode_recording(two, LAYOUT, bundle, ["jscc"])
    back = decode_recording(swapped, LAYOUT, bundle, ["jscc"], DecodeSettings(swap_iq=True))
    np.testing.assert_array_equal(back.images[0].image, as_sent.images[0].image)


def test_what_is_for_one_antenna_is_refused_in_one_line(
    bundle: Bundle, recordings: tuple[Recording, Recording]
) -> None:
    two = recordings[1]
    for error, words, call in (
        (ConfigError, "blind-closed-form decodes one antenna", {"methods": ["blind-closed-form"]}),
        (
            CalibrationError,
            "the calibration profile is of 1 antenna, and the recording has 2; calibrate the radio with rx=2",
            {"settings": DecodeSettings(calibration=CalibrationProfile("sim:", "sim:", 0.0, 1e6, utc_now()))},
        ),
    ):
        with pytest.raises(error, match=words):
            decode_recording(two, LAYOUT, bundle, **({"methods": ["jscc"]} | call))  # type: ignore[arg-type]
