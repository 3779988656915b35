"""Estimate noise power and signal level of frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import mean_power, squared_magnitude, turn
from receiver.sync.known import Known, known_symbols
from receiver.sync.offsets import Aligned, SymbolOffsets
from receiver.sync.uneven import CarrierWeights
from sdr.layout import FrameLayout

Power = tuple[NDArray[np.float64], int]
"""Estimate of a noise power: (F,), and the complex degrees of freedom that it is taken over."""

# Noise that timing always assumes, relative to the signal: no channel is so exactly one of the profiles that 40 dB more
# of it would mean anything, and on a part of the band the evidence would then follow rounding errors.
_MODEL_ERROR = 1e-4


def combine(powers: list[Power], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Combine estimates of the noise power of `count` frames, weighted by their degrees of freedom.

    An estimate far above the smallest one is not noise but something else on the air, and is left out.

    Returns:
        noise power (F,) and its standard error (F,).
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


def quiet(known: Known, grid: NDArray[np.complex64]) -> list[Power]:
    """Measure what the transmitter left empty in a grid (F, M, N): odd carriers of A (the first symbol), nulls."""
    powers: list[Power] = []
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
) -> Power:
    """Measure the noise power by how known symbols scatter about each carrier's gain.

    Nothing is assumed of the channel but that it stands still.

    Args:
        grid: (F, M, N) received.
        conjugate: (F, M, N).
        products: (F, M, N).
        spin: (F, M) takes out each symbol's own phase.
        layout: of the frames.
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
    """Return the active carriers of a grid (..., N), in any order."""
    return grid if layout.num_active == layout.fft_size else np.take(grid, layout.active_bins, axis=-1)


def first_levels(
    layout: FrameLayout, powers: list[Power], pair: NDArray[np.complex64], weights: CarrierWeights | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate noise and signal power (F,) per active carrier, well enough to weigh evidence with.

    Args:
        layout: of the frames.
        powers: estimates of the noise.
        pair: (F, 2, N) received preambles.
        weights: of the carriers, where noise is not white: its level is then what they refer to.
    """
    cells = pair if weights is None else pair * np.sqrt(weights.weight)[:, None, :]
    total = mean_power(active_carriers(cells, layout))
    noise_var = combine(powers, total.size)[0]
    if weights is not None:
        noise_var = np.where(np.isnan(weights.level), noise_var, weights.level)
    total = np.maximum(total, np.finfo(np.float32).tiny)
    noise_var = np.clip(noise_var, _MODEL_ERROR * total, 0.9 * total)
    return noise_var, total - noise_var


@dataclass(frozen=True, eq=False)
class Levels:
    """Noise and signal of F frames as finally measured.

    Attributes:
        noise_var: (F,).
        noise_var_std: (F,) its standard error.
        level: (F,) noise level that weights refer to; `noise_var` where noise is white.
        power: (F,).
        power_std: (F,) its standard error.
        scatter: (F,) noise and distortion per cell of the header about the channel, NaN where it is not read.
    """

    noise_var: NDArray[np.float64]
    noise_var_std: NDArray[np.float64]
    level: NDArray[np.float64]
    power: NDArray[np.float64]
    power_std: NDArray[np.float64]
    scatter: NDArray[np.float64]


def measure_levels(
    aligned: Aligned,
    offsets: SymbolOffsets | None,
    powers: list[Power],
    total: NDArray[np.float64],
    layout: FrameLayout,
) -> Levels:
    """Measure noise and signal power with all known symbols.

    Args:
        aligned: the frames.
        offsets: of all known symbols but preamble A, None where the header is not read.
        powers: estimates of the noise from what the transmitter left empty.
        total: (F,) mean power of the active carriers of preambles and header.
        layout: of the frames.
    """
    batch, known, count = aligned.batch, known_symbols(layout), len(aligned.batch)
    scatter = np.full(count, np.nan)
    if offsets is not None:
        spin = aligned.spin[:, 1:] * turn(-offsets.phase / (2 * np.pi))
        products = aligned.products if batch.weight is None else batch.grid[:, : batch.num_known] * batch.conjugate
        parts = (batch.grid[:, 1:], batch.conjugate[:, 1:], products[:, 1:])
        scatter, freedom = header_scatter(*parts, spin, layout)
        powers = [*powers, (scatter, freedom)]
    noise_var, noise_std = combine(powers, count)
    noise_var = np.maximum(noise_var, np.maximum(1e-12 * total, float(np.finfo(np.float32).tiny)))
    sent = batch.conjugate if known.limited else batch.conjugate[:1]
    sent_power = mean_power(sent) * (layout.fft_size / layout.num_active)
    # Preambles and header all have unit mean power per active carrier, whatever the header says.
    power = (total - noise_var) / sent_power
    level = noise_var
    if batch.weight is not None:
        uneven = (batch.weight != 1).any(axis=(1, 2))
        level = np.where(uneven, np.minimum(batch.noise_var, noise_var), noise_var)
        weight = active_carriers(batch.weight, layout)
        weighted = np.mean(weight * squared_magnitude(active_carriers(batch.grid, layout)), axis=(1, 2))
        power = np.where(uneven, (weighted - level) / (sent_power * weight.mean(axis=(1, 2))), power)
    power = np.maximum(power, 1e-3 * level)
    cells = batch.grid.shape[1] * layout.num_active
    power_std = np.sqrt((2 * power * level + level**2) / cells + noise_std**2)
    return Levels(noise_var, noise_std, level, power, power_std, scatter)
