"""Encode a folder of images and transmit it, with the radio set as its calibration says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.gain import GainControl
from calibration.session import serial_of
from receiver.bundles.bundle import load_codec
from receiver.samplers.variants import method_variant, sending_methods
from sdr.calibration_profile import CalibrationProfile, load_profile
from sdr.errors import InputError
from sdr.layout import FrameLayout, load_layout
from sdr.progress import Progress
from sdr.radios.base import Radio
from sdr.radios.file import FileRadio
from sdr.radios.open import open_radio
from transmitter.encode import Ways, encode_folder


@dataclass(frozen=True)
class TransmitSettings:
    """What is transmitted, and how.

    Attributes:
        radio: URI.
        images: folder to send.
        layout: frame layout, a name or a file.
        bundle: models, a name or a folder.
        csnr_db: channel SNR that the encoder is given, dB.
        methods: ways to send the images, one after the other: "jscc", or methods such as "avif-ldpc"; each once.
        fading: image codecs' schemes are chosen for fading, not for white noise.
        refine_steps: in which the symbols of each image are refined.
        calibration: profile of the radio, which corrects its reference and sets its gain; None: none.
        cyclic_s: repeat the transmission for so many seconds; None: send it once.
        replaces: whether a recording may be replaced, where the radio is a file.
    """

    radio: str
    images: Path
    layout: str = "paper"
    bundle: str = "fashion"
    csnr_db: float = 10.0
    methods: tuple[str, ...] = ("jscc",)
    fading: bool = False
    refine_steps: int = 0
    calibration: Path | None = None
    cyclic_s: float | None = None
    replaces: bool = False


@dataclass(frozen=True)
class Transmitted:
    """What was transmitted.

    Attributes:
        ids: of the images, in sending order.
        frames: number of frames.
        samples: number of samples.
        layout: of the frames.
    """

    ids: tuple[str, ...]
    frames: int
    samples: int
    layout: FrameLayout


def transmit_folder(settings: TransmitSettings, progress: Progress, note: Callable[[str], None]) -> Transmitted:
    """Encode a folder of images and transmit it.

    Args:
        settings: what and how.
        progress: called as symbols are refined.
        note: called with what the calibration changes, and with doubts whether it fits.

    Raises:
        OtaError: a bad address, layout, bundle, image or profile; nothing was sent then.
    """
    layout = load_layout(settings.layout)
    profile = None if settings.calibration is None else load_profile(settings.calibration)
    # The address is checked before the models are loaded, so that a typo costs nothing.
    uri = settings.radio if profile is None else profile.trimmed(settings.radio)
    with open_radio(uri, layout=layout) as radio:
        if isinstance(radio, FileRadio):
            radio.replaces = settings.replaces
        sent = encode_folder(
            settings.images,
            load_codec(settings.bundle),
            layout,
            settings.csnr_db,
            ways=Ways(sending_methods(method_variant(method) for method in settings.methods), fading=settings.fading),
            refine_steps=settings.refine_steps,
            progress=progress,
        )
        cyclic = settings.cyclic_s is not None
        samples = sent.samples(0 if cyclic else None)
        if profile is not None:
            corrected = uri if uri != settings.radio else None
            samples = _calibrated(radio, profile, corrected, settings.csnr_db, samples, note)
        radio.transmit(samples, cyclic=cyclic)
        if settings.cyclic_s is not None:
            time.sleep(settings.cyclic_s)
    return Transmitted(sent.ids, len(sent.frames), len(samples), layout)


def _calibrated(
    radio: Radio,
    profile: CalibrationProfile,
    corrected: str | None,
    csnr_db: float,
    samples: NDArray[np.complex64],
    note: Callable[[str], None],
) -> NDArray[np.complex64]:
    """Set the gain of an open radio by its profile, where that has a gain plan; return the samples to send.

    `corrected` is the address that it was opened with, where the profile corrected that.
    """
    for doubt in profile.check(radio.settings, serial=serial_of(radio)):
        note(f"warning: {doubt}")
    if corrected is not None:
        note(f"reference corrected: {corrected}")
    if corrected is None or profile.gain:
        return reach_csnr(radio, profile, csnr_db, samples, note)
    note("warning: the profile has no gain plan (`ota calibrate --part gain`), so the gain stays as it is")
    return samples


def reach_csnr(
    radio: Radio,
    profile: CalibrationProfile,
    csnr_db: float,
    samples: NDArray[np.complex64],
    note: Callable[[str], None],
) -> NDArray[np.complex64]:
    """Set the transmit gain as the profile's gain plan says; return the samples, scaled by what the gain can't do.

    Raises:
        CalibrationError: the profile has no gain plan, or can't reach the CSNR.
        InputError: the radio has no gain to set.
    """
    gain_db, scale = profile.plan(csnr_db)
    if not isinstance(radio, GainControl):
        raise InputError(f"radio '{radio.settings.uri}' has no transmit gain to set; leave --calibration out")
    radio.apply(replace(radio.settings, tx_gain_db=gain_db))
    note(f"tx_gain_db = {gain_db:g}, amplitude {scale:.3f} for a CSNR of {csnr_db:g} dB")
    return samples * np.float32(scale)
