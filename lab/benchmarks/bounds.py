"""Bound what the receiver's estimators can reach, from the waveform and not from the estimators."""

from __future__ import annotations

import math

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from receiver.channel.estimate import fourier_matrix
from sdr.layout import FrameLayout


def power_interval(mean_square: float, freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a mean square of `freedom` independent Gaussian errors."""
    if freedom < 1:
        return 0.0, math.inf
    low, high = (float(scipy.stats.chi2.ppf(share, freedom)) for share in (0.975, 0.025))
    return mean_square * freedom / low, mean_square * freedom / high


def cfo_bound_hz(layout: FrameLayout, snr_db: float, num_symbols: int) -> float:
    """Return the Cramer-Rao bound (standard deviation) of the carrier offset from a frame's first symbols, all known.

    There is one path of unknown gain and phase; the energy at its places in time counts (Rife and Boorstyn, 1974).
    """
    symbol, size = layout.symbol_samples, layout.fft_size
    times = np.concatenate([m * symbol + layout.cp_samples + np.arange(size) for m in range(num_symbols)])
    spread = np.sum((times - times.mean()) ** 2) / layout.rate_sps**2
    # SNR counts per active carrier; a sample's is lower by the share of carriers in use.
    snr = 10 ** (snr_db / 10) * layout.num_active / size
    return 1.0 / (2 * math.pi * math.sqrt(2 * snr * spread))


def timing_bound_samples(layout: FrameLayout, snr_db: float) -> float:
    """Return the Cramer-Rao bound of one path's delay from preambles and header, gain and phase unknown."""
    signed = np.array(layout.active, dtype=np.float64)
    even = signed[signed % 2 == 0]
    weight = np.sum((even - even.mean()) ** 2) * signed.size / even.size
    weight += (1 + layout.header_symbols) * np.sum((signed - signed.mean()) ** 2)
    return layout.fft_size / (2 * math.pi) / math.sqrt(2 * 10 ** (snr_db / 10) * weight)


def lmmse_bound(layout: FrameLayout, noise_var: float, pdp: NDArray[np.float64]) -> float:
    """Return the mean squared error per active carrier of the best estimate from the pilots, the profile known."""
    fourier = fourier_matrix(layout.active, pdp.size, layout.fft_size)
    covariance = np.linalg.inv(layout.pilot_symbols * fourier.conj().T @ fourier / noise_var + np.diag(1 / pdp))
    return float(np.einsum("kl,lm,km->k", fourier, covariance, fourier.conj(), optimize=True).real.mean())
