"""What fading makes of a block error rate that is known over white noise.

A rate of 1e-3 over fading would need thousands of blocks a point. Each of many drawn channels is reduced to the white
noise that has the same mutual information of coded bits (MIESM, as system-level simulations of the standard do), and
the curve over white noise tells what becomes of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lab.benchmarks.waterfall import Waterfall
from receiver.separation.channel_code import import_sionna
from receiver.separation.schemes import Scheme
from sdr.air.impairments import exponential_pdp

#: Largest block error rate that a scheme is chosen for.
TARGET_BLER = 1e-3


def bit_information(scheme: Scheme, csnr_db: NDArray[np.float64], draws: int = 1500, seed: int = 0) -> NDArray:
    """Return the mutual information of a symbol and its demapped bits, in bits, at channel SNRs (n,), dB."""
    _, mapping = import_sionna()
    constellation = mapping.Constellation("qam", scheme.bits_per_symbol)
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (draws, scheme.bits_per_symbol), generator=generator).float()
    z = mapping.Mapper(constellation=constellation)(bits)[:, 0]
    unit = torch.view_as_complex(torch.randn((draws, 2), generator=generator)) * 0.5**0.5
    demap = mapping.Demapper("app", constellation=constellation)
    found = []
    for value in csnr_db:
        noise_var = 10 ** (-value / 10)
        soft = demap((z + unit * noise_var**0.5)[:, None], torch.full((draws, 1), noise_var))
        lost = torch.nn.functional.softplus(-soft * (2 * bits - 1)).mean(dim=0).sum() / np.log(2)
        found.append(float(scheme.bits_per_symbol - lost))
    return np.maximum.accumulate(np.array(found))


def fading_bler(
    scheme: Scheme,
    waterfall: Waterfall,
    csnr_db: Sequence[float],
    *,
    taps: int = 8,
    decay: float = 4.0,
    channels: int = 20_000,
    frames: int = 1,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Return block error rates over fading that stays for a frame, at channel SNRs, dB.

    Args:
        scheme: modulation and code rate.
        waterfall: of the scheme over white noise.
        csnr_db: mean channel SNRs.
        taps: of the channel, Rayleigh, with an exponential profile.
        decay: time constant of the profile, samples.
        channels: drawn.
        frames: that an image spans, each with a channel of its own.
        seed: of the channels.
    """
    grid = np.arange(-25.0, 45.0, 1.0)
    information = bit_information(scheme, grid)
    generator = np.random.default_rng(seed)
    parts = generator.standard_normal((channels, frames, taps, 2)) * 0.5**0.5
    h = (parts[..., 0] + 1j * parts[..., 1]) * np.sqrt(exponential_pdp(taps, decay))
    gain_db = 20 * np.log10(np.abs(np.fft.fft(h, n=64, axis=-1)) + 1e-9).reshape(channels, -1)
    rates = []
    for value in csnr_db:
        mean = np.interp(gain_db + value, grid, information).mean(axis=1)
        rates.append(waterfall.bler(np.interp(mean, information, grid)).mean())
    return np.array(rates)


def fading_threshold_db(scheme: Scheme, waterfall: Waterfall, bler: float = TARGET_BLER) -> float:
    """Return the mean channel SNR, dB, where the block error rate over fading of 8 taps falls to `bler`."""
    places = np.arange(waterfall.middle_db, waterfall.middle_db + 25, 0.25)
    rates = np.minimum.accumulate(fading_bler(scheme, waterfall, places.tolist()))
    return float(np.interp(-np.log(bler), -np.log(np.maximum(rates, 1e-12)), places))


def awgn_start_db(scheme: Scheme) -> float:
    """Return about where the waterfall over white noise lies: 0.7 dB above where the bits' information suffices."""
    grid = np.arange(-10.0, 35.0, 1.0)
    return float(np.interp(scheme.efficiency, bit_information(scheme, grid), grid)) + 0.7
