"""What a calibration profile changes in the receiver: the recording, the channel's prior, the forward model.

Offset and image of the receiver's mixer are taken out of the samples, which loses nothing. The transmitter's amplifier
can't be undone behind a channel, so it goes into the forward model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from receiver.measurement import Measurement
from sdr.air.amplifier import amplified_power, apply_rapp, clip
from sdr.calibration_profile import CalibrationProfile, Value
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

#: A saturation this far above every sample has no effect worth a forward model through time.
_LINEAR_SATURATION = 3.0


def image_ratio(gain_db: float, phase_deg: float) -> complex:
    """rho of an unbalanced mixer, whose output is proportional to x + rho conj(x) where x is its own wanted output.

    >>> image_ratio(0.0, 0.0)
    0j
    """
    g = 10.0 ** (gain_db / 20.0) * np.exp(1j * math.radians(phase_deg))
    return complex((1 - g) / (1 + g))


def correct_front_end(recording: Recording, values: Mapping[str, Value]) -> Recording:
    """The recording without the receiver's DC offset and mixer image, as far as calibrated values tell them."""
    samples = correct_samples(recording.samples, values)
    return recording if samples is recording.samples else replace(recording, samples=samples)


def correct_samples(samples: NDArray[np.complex64], values: Mapping[str, Value]) -> NDArray[np.complex64]:
    """The same for (n,) samples, themselves where the values tell nothing."""
    known = [values.get(name) for name in ("dc_i", "dc_q", "iq_gain_db", "iq_phase_deg")]
    if all(value is None for value in known):
        return samples
    dc_i, dc_q, gain_db, phase_deg = (0.0 if value is None else value.value for value in known)
    centred = samples - np.complex64(complex(dc_i, dc_q))
    rho = image_ratio(gain_db, phase_deg)
    # y = x + rho x*  is solved by  x = (y - rho y*) / (1 - |rho|^2).
    unmixed = (centred - np.complex64(rho) * centred.conj()) / np.float32(1 - abs(rho) ** 2)
    return unmixed.astype(np.complex64)


def amplifier(profile: CalibrationProfile | None, layout: FrameLayout) -> tuple[float, float] | None:
    """Saturation and smoothness of the transmitter's amplifier, None where it is unknown or does nothing."""
    if profile is None:
        return None
    saturation, smoothness = profile.get("pa_saturation"), profile.get("pa_smoothness")
    if saturation is None or smoothness is None or saturation > _LINEAR_SATURATION * layout.magnitude_limit:
        return None
    return saturation, max(smoothness, 1.0)


def with_amplifier(measurement: Measurement, curve: tuple[float, float] | None) -> Measurement:
    """The measurement with the amplifier in its forward model."""
    if curve is None:
        return measurement
    return replace(measurement, mode="time", pa_saturation=curve[0], pa_smoothness=curve[1])


def sent_pilots(layout: FrameLayout, curve: tuple[float, float] | None) -> NDArray[np.complex128]:
    """(P, N) the pilots as limiter and amplifier let them out, in units of cells of unit mean power behind them."""
    symbols = np.fft.ifft(layout.pilots, axis=1, norm="ortho").astype(np.complex64) * np.float32(layout.amplitude)
    bent = [clip(symbol, layout.magnitude_limit) for symbol in symbols]
    scale = layout.amplitude
    if curve is not None:
        bent = [apply_rapp(symbol, *curve) for symbol in bent]
        scale *= amplified_power(layout, *curve) ** 0.5
    return np.fft.fft(np.stack(bent), axis=1, norm="ortho") / scale
