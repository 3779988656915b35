"""Estimate noise power and signal level of a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import mean_power, squared_magnitude
from receiver.sync.known import Known, known_symbols
from sdr.layout import FrameLayout

# Noise that timing always assumes, relative to the signal: no channel is so exactly one of the profiles that 40 dB more
# of it would mean anything, and on a part of the band the evidence would then follow rounding errors.
_MODEL_ERROR = 1e-4


def combine(
    powers: list[tuple[NDArray[np.float64], int]], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) noise power and its standard error from estimates (power (F,), complex degrees of freedom).

    They are weighted by their degrees of freedom. An estimate far above the smallest one is not noise but something
    else on the air, and is left out.
    """
    powers = [item for item in powers if item[1] > 0]
    if not powers:
        return np.zeros(count), np.zeros(count)
    values = np.stack([power for power, _ in powers])
    freedom = np.array([float(count) for _, count in powers])[:, None]
    trusted = np.take_along_axis(values, (values * (1 + 3 / np.sqrt(freedom))).argmin(axis=0)[None], axis=0)
    weight = np.where(values <= trusted * (1.25 + 6 / np.sqrt(freedom)), freedom, 0.0)
    weight = np.where(np.isfinite(values), weight, 0.0)
    total = np.maximum(weight.sum(axis=0), 1.0)
    mean = np.sum(np.where(weight > 0, values, 0.0) * weight, axis=0) / total
    return mean, mean / np.sqrt(total)


def quiet(known: Known, grid: NDArray[np.complex64]) -> list[tuple[NDArray[np.float64], int]]:
    """Power and degrees of freedom of what the transmitter left empty: odd carriers of A (first symbol), nulls."""
    powers: list[tuple[NDArray[np.float64], int]] = []
    if known.odd.size:
        powers.append((mean_power(grid[:, 0, known.odd]), known.odd.size))
    if known.null.size:
        powers.append((mean_power(grid[:, :, known.null]), known.null.size * grid.shape[1]))
    return powers


def header_scatter(
    grid: NDArray[np.complex64],
    conjugate: NDArray[np.complex64],
    products: NDArray[np.complex64],
    spin: NDArray[np.complex64],
    layout: FrameLayout,
) -> tuple[NDArray[np.float64], int]:
    """(F,) noise power and its degrees of freedom from how known symbols X (F, M, N), given as X^*, scatter about each
    carrier's gain.

    No assumption on the channel but that it stands still; each symbol's own phase is taken out first by `spin` (F, M).
    """
    known = known_symbols(layout)
    # A header that was limited differs from frame to frame.
    energy = (
        np.sum(squared_magnitude(conjugate), axis=1)
        if known.limited
        else np.broadcast_to(known.energy, grid[:, 0].shape)
    )
    response = (spin[:, None, :] @ products)[:, 0] / np.maximum(energy, 1e-3)
    # What the fit leaves is the whole less the fit, where that isn't a difference of nearly equal numbers.
    parts = grid.view(np.float32)
    whole = np.einsum("fmn,fmn->fn", parts, parts).reshape(*energy.shape, 2).sum(axis=2)
    left = active_carriers(whole - energy * squared_magnitude(response), layout).sum(axis=1, dtype=np.float64)
    close = np.flatnonzero(left < 3e-3 * active_carriers(whole, layout).sum(axis=1, dtype=np.float64))
    if close.size:
        rest = response[close, None, :] * conjugate[close].conj()
        rest -= grid[close] * spin[close, :, None]
        rest = active_carriers(rest, layout)
        left[close] = mean_power(rest) * (rest.shape[1] * rest.shape[2])
    freedom = (grid.shape[1] - 1) * layout.num_active - grid.shape[1] // 2
    return left / freedom, freedom


def active_carriers(grid: NDArray[Any], layout: FrameLayout) -> NDArray[Any]:
    """The active carriers of a grid (..., N), in any order."""
    return grid if layout.num_active == layout.fft_size else np.take(grid, layout.active_bins, axis=-1)


def levels(
    layout: FrameLayout, powers: list[tuple[NDArray[np.float64], int]], pair: NDArray[np.complex64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) noise and signal power per active carrier, good enough to weigh evidence with."""
    total = mean_power(active_carriers(pair, layout))
    noise_var = combine(powers, total.size)[0]
    total = np.maximum(total, np.finfo(np.float32).tiny)
    noise_var = np.clip(noise_var, _MODEL_ERROR * total, 0.9 * total)
    return noise_var, total - noise_var
