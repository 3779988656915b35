"""Correct the receiver's front end: unit of the samples, DC offset and mixer image, all of which loses nothing.

The transmitter's amplifier can't be undone behind a channel, so it goes into the forward model instead
(`receiver.measurement.amplifier`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sdr.calibration_profile import Value
from sdr.recordings.recording import Recording


def image_ratio(gain_db: float, phase_deg: float) -> complex:
    """Return rho of an unbalanced mixer, whose output is proportional to x + rho conj(x), x being the wanted one.

    Args:
        gain_db: of the quadrature branch over the other.
        phase_deg: by which the branches are not at right angles.

    >>> image_ratio(0.0, 0.0)
    0j
    """
    g = 10.0 ** (gain_db / 20.0) * np.exp(1j * math.radians(phase_deg))
    return complex((1 - g) / (1 + g))


_QUIET, _LOUD = 1e-6, 1e6
"""Peaks between which samples are not scaled: their squares neither underflow nor overflow in single precision."""


def unit_factor(samples: NDArray[np.complex64]) -> float:
    """Return the power of two that brings samples (n,) of any unit to about 1; 1 where they need none, or are silent.

    >>> unit_factor(np.full(4, 3e-20, np.complex64)) * 3e-20
    0.553...
    """
    peak = float(np.abs(samples.view(np.float32)).max(initial=0.0))
    if peak == 0.0 or not math.isfinite(peak) or _QUIET <= peak <= _LOUD:
        return 1.0
    return math.ldexp(1.0, -math.frexp(peak)[1])


def in_units(recording: Recording) -> Recording:
    """Return the recording scaled by `unit_factor`, which loses nothing; itself where that is 1."""
    factors = [unit_factor(samples) for samples in recording.antennas]
    if all(factor == 1.0 for factor in factors):
        return recording
    return recording.with_antennas(map(scaled, recording.antennas, factors))


def scaled(samples: NDArray[np.complex64], factor: float) -> NDArray[np.complex64]:
    """Return samples (n,) times a power of two that single precision may not hold."""
    return samples if factor == 1.0 else (samples.astype(np.complex128) * factor).astype(np.complex64)


def correct_front_end(recording: Recording, values: Sequence[Mapping[str, Value]]) -> Recording:
    """Return the recording without the receiver's DC offsets and mixer images, as far as they are calibrated.

    Args:
        recording: of A antennas.
        values: (A) calibrated values of each.
    """
    corrected = [correct_samples(*each) for each in zip(recording.antennas, values, strict=True)]
    if all(after is before for after, before in zip(corrected, recording.antennas, strict=True)):
        return recording
    first, *others = corrected
    return replace(recording, samples=first, others=tuple(others))


def correct_samples(samples: NDArray[np.complex64], values: Mapping[str, Value]) -> NDArray[np.complex64]:
    """Correct samples (n,); return themselves where nothing is calibrated."""
    known = [values.get(name) for name in ("dc_i", "dc_q", "iq_gain_db", "iq_phase_deg")]
    if all(value is None for value in known):
        return samples
    dc_i, dc_q, gain_db, phase_deg = (0.0 if value is None else value.value for value in known)
    centred = samples - np.complex64(complex(dc_i, dc_q))
    rho = image_ratio(gain_db, phase_deg)
    # y = x + rho x*  is solved by  x = (y - rho y*) / (1 - |rho|^2).
    unmixed = (centred - np.complex64(rho) * centred.conj()) / np.float32(1 - abs(rho) ** 2)
    return unmixed.astype(np.complex64)
