"""Model a power amplifier: Rapp's AM/AM curve, clipping, and what they do to a Gaussian signal."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdr.air.impairments import check_samples
from sdr.errors import InputError
from sdr.layout import FrameLayout


@lru_cache(maxsize=64)
def bussgang(limit: float, saturation: float = 0.0, smoothness: float = 2.0) -> tuple[float, float]:
    """Return gain and uncorrelated distortion power of a limiter and a Rapp amplifier (Bussgang's theorem).

    The samples are circular Gaussian, of rms 1.

    Args:
        limit: magnitude that samples are limited to.
        saturation: of the amplifier behind the limiter, 0 for none.
        smoothness: of its curve.

    >>> [round(value, 3) for value in bussgang(1.0)]
    [0.772, 0.037]
    """
    # u = |sample|^2 is exponentially distributed; the midpoint rule takes the limiter's kink well.
    step = 1e-3
    u = np.arange(step / 2, 40.0, step)
    weight = np.exp(-u) * step
    magnitude = np.minimum(np.sqrt(u), limit)
    if saturation:
        magnitude = magnitude * (1 + (magnitude / saturation) ** (2 * smoothness)) ** (-0.5 / smoothness)
    kept = float(np.sum(weight * magnitude * np.sqrt(u)))
    return kept, max(float(np.sum(weight * magnitude**2)) - kept**2, 0.0)


def amplified_power(layout: FrameLayout, saturation: float, smoothness: float) -> float:
    """Return the mean power behind limiter and amplifier over that before them."""
    kept, added = bussgang(layout.magnitude_limit / layout.rms, saturation / layout.rms, smoothness)
    return kept**2 + added


def clip(samples: NDArray[np.complex64], limit: float) -> NDArray[np.complex64]:
    """Limit the magnitude of every sample to `limit`, keeping its phase.

    >>> clip(np.array([3 + 4j, 0.3 + 0.4j], np.complex64), limit=1.0)
    array([0.6+0.8j, 0.3+0.4j], dtype=complex64)
    """
    check_samples(samples)
    if not limit > 0:
        raise InputError(f"a magnitude limit must be > 0, found {limit}")
    magnitude = np.abs(samples)
    return np.where(magnitude > limit, samples * (limit / np.maximum(magnitude, limit)), samples).astype(np.complex64)


def apply_rapp(samples: NDArray[np.complex64], saturation: float, smoothness: float) -> NDArray[np.complex64]:
    """Amplify as a solid-state amplifier (Rapp, 1991): x / (1 + (|x| / saturation)^(2 p))^(1 / 2p), phase kept.

    >>> apply_rapp(np.array([1.0 + 0j], np.complex64), saturation=1.0, smoothness=1.0).round(4)
    array([0.7071+0.j], dtype=complex64)
    """
    check_samples(samples)
    if not (saturation > 0 and 0.1 <= smoothness <= 50):
        raise InputError(f"an amplifier needs saturation > 0 and smoothness 0.1..50, found {saturation}, {smoothness}")
    ratio = (np.abs(samples) / saturation).astype(np.float64)
    # Far above saturation the power would overflow; there the output is the saturation level itself.
    gain = np.where(
        ratio > 1,
        1 / np.maximum(ratio, 1) * (1 + np.maximum(ratio, 1) ** (-2 * smoothness)) ** (-0.5 / smoothness),
        (1 + np.minimum(ratio, 1) ** (2 * smoothness)) ** (-0.5 / smoothness),
    )
    return (samples * gain).astype(np.complex64)
