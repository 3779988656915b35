"""Weigh carriers and header symbols by their noise, where that is not white.

A weight is the frame's noise level over the noise of a cell, of mean 1 over the active carriers where no burst strikes.
The sum of `w Y X^*` over carriers is then to noise of that level what the sum of `Y X^*` is to white noise: sufficient
for a channel, a delay or an offset. So all estimates are those for white noise, of weighted products. Where side lobes
matter, what weights took away is put back as the channel predicts it (`receiver.sync.known.completed`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import pooled
from receiver.sync.arrays import fft, mean_power, squared_magnitude, turn
from receiver.sync.batch import Batch
from receiver.sync.known import completed, known_symbols, matched_filter
from receiver.sync.noise_powers import burst_noise, carrier_noise
from receiver.sync.offsets import blind_slope, symbol_times
from sdr.layout import FrameLayout

#: Standard errors by which the flatness of empty carriers has to differ from that of white noise.
_FLATNESS_ERRORS = 6.0
#: Noise over signal, below which no weight is needed to read a header.
_LITTLE_NOISE = 0.01
#: Standard errors by which the power of a header symbol that a burst struck exceeds the others'.
_STRUCK_ERRORS = 5.0
#: Error of a known symbol over that of most, from which it counts for less.
_STRUCK_RATIO = 2.0


@dataclass(frozen=True, eq=False)
class CarrierWeights:
    """Weights of F frames that preambles show.

    Attributes:
        weight: (F, N) 1 throughout where noise is white.
        level: (F,) noise level; NaN where noise is white.
    """

    weight: NDArray[np.float32]
    level: NDArray[np.float64]


def preamble_weights(pair: NDArray[np.complex64], layout: FrameLayout) -> CarrierWeights | None:
    """Return the weights that received preambles (F, 2, N) show; None where the noise of all frames is white.

    Carriers that preamble A leaves empty hold noise alone, and its others differ from those of B by noise and a phase
    that all share. The former say whether noise is white: by its spectral flatness, the geometric over the arithmetic
    mean of its powers.
    """
    known = known_symbols(layout)
    if not known.odd.size:
        return None
    even = layout.active_bins[layout.active_bins % 2 == 0]
    empty = squared_magnitude(pair[:, 0, known.odd]) + np.finfo(np.float32).tiny
    mean = empty.mean(axis=1)
    dented = np.log(mean) - np.log(empty).mean(axis=1) - np.euler_gamma
    limit = _FLATNESS_ERRORS * math.sqrt((math.pi**2 / 6 - 1) / known.odd.size)
    rows = np.flatnonzero(dented > limit)
    rows = rows[mean[rows] > _LITTLE_NOISE * mean_power(pair[rows][:, 0, even])]
    if not rows.size:
        return None
    sent = np.take(known.single, even, axis=1)
    energy = squared_magnitude(sent)
    gain = np.take(pair[rows], even, axis=2) * (sent.conj() / energy)
    turned = gain[:, 0].conj() * gain[:, 1]
    # Every carrier has a vote, however strong what jams it is.
    phase = np.sum(turned / np.maximum(np.abs(turned), 1e-30), axis=1, keepdims=True)
    differing = gain[:, 1] - gain[:, 0] * (phase / np.maximum(np.abs(phase), 1e-30))
    error = np.zeros((rows.size, layout.fft_size))
    error[:, known.odd] = empty[rows]
    error[:, even] = squared_magnitude(differing) / np.sum(1 / energy, axis=0)
    weight, level = np.ones((len(pair), layout.fft_size), np.float32), np.full(len(pair), np.nan)
    for row, each in zip(rows, error[:, layout.active_bins], strict=True):
        usual = float(np.median(each)) / math.log(2)
        # One error says little of a carrier: what jams it is taken to jam its neighbours.
        near = np.lib.stride_tricks.sliding_window_view(np.pad(each, 1, mode="edge") / usual, 3)
        noise = usual * (1 + burst_noise(near, np.ones(near.shape), 1.0))
        level[row] = 1 / np.mean(1 / noise)
        weight[row, layout.active_bins] = level[row] / noise
    return CarrierWeights(weight, level)


def uneven_headers(batch: Batch, layout: FrameLayout) -> tuple[NDArray[np.float32], Batch]:
    """Weigh the cells of headers by the noise that they show unread.

    A symbol that a burst struck has more power than the others. The component of BPSK cells across the channel is
    noise alone, whatever they carry.

    Args:
        batch: of frames with known preambles.
        layout: of the frames.

    Returns:
        the cells (F, header symbols, active carriers) as they are decoded, antennas combined; and the frames with the
        weights and the carrier offset that were found.
    """
    active, first = layout.active_bins, layout.first_header_symbol
    grid = batch.grid * turn(batch.turns)[:, :, None]
    response = preamble_response(batch, grid, layout)[:, active]
    header, strength = grid[:, first:, active], squared_magnitude(response).astype(np.float64)
    noise = batch.noise_var[:, None] / batch.cell_weight[:, 0, active]
    added = _burst_noise(squared_magnitude(header).astype(np.float64), strength + noise, batch.noise_var)
    times, anchor_s = symbol_times(layout, 0, layout.first_pilot_symbol)[first:], preamble_time(layout)
    along = header * response[:, None, :].conj()

    def combined(cells: NDArray[Any], noise: NDArray[np.float64]) -> NDArray[Any]:
        return pooled(cells / (noise[:, None, :] + added[:, :, None]), batch.antennas)

    squares = np.sum(combined(along, noise) ** 2, axis=2)
    blind_hz = blind_slope(squares, times, anchor_s, blind_limit_hz(layout))
    along *= turn(-blind_hz[:, None] * (times - anchor_s))[:, :, None]
    across = 2 * along.imag.astype(np.float64) ** 2 / np.maximum(strength, 1e-30)[:, None, :]
    quiet = added == 0
    count = np.maximum(quiet.sum(axis=1), 1)
    found = np.einsum("fmn,fm->fn", across, quiet) / count[:, None]
    noise = np.stack([carrier_noise(each, half / 2) for each, half in zip(found, count, strict=True)])
    noise_var = 1 / np.mean(1 / noise, axis=1)
    weight = np.ones(grid.shape, np.float32)
    weight[:, :first, active] = (noise_var[:, None] / noise)[:, None, :]
    weight[:, first:, active] = noise_var[:, None, None] / (noise[:, None, :] + added[:, :, None])
    soft = combined(along.real, noise)[:: batch.antennas].astype(np.float32)
    return soft, replace(batch, weight=weight, noise_var=noise_var, blind_hz=blind_hz)


def _burst_noise(
    powers: NDArray[np.float64], predicted: NDArray[np.float64], level: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the noise power (F, M) that bursts add to header symbols.

    Args:
        powers: (F, M, A) of their cells.
        predicted: (F, A) without a burst, up to a factor of each frame.
        level: (F,) of the noise.
    """
    ratio = np.mean(powers / predicted[:, None, :], axis=2)
    usual = np.median(ratio, axis=1, keepdims=True)
    struck = ratio > usual * (1 + _STRUCK_ERRORS / math.sqrt(powers.shape[2]))
    added = np.zeros(ratio.shape)
    for row in np.flatnonzero(struck.any(axis=1)):
        found = powers[row, struck[row]] / (usual[row, 0] * level[row])
        expected = np.broadcast_to(predicted[row] / level[row], found.shape)
        added[row, struck[row]] = level[row] * burst_noise(found, expected, 1.0)
    return added


def without_struck(batch: Batch, powers: NDArray[np.float64], layout: FrameLayout) -> Batch:
    """Return frames with a header in which symbols that a burst struck count for less.

    Args:
        batch: of frames with all known symbols.
        powers: (F, H) mean power of their active carriers.
        layout: of the frames.
    """
    most = powers.mean(axis=1) * (1 + _STRUCK_ERRORS / math.sqrt(layout.num_active))
    rows = np.flatnonzero(powers.max(axis=1) > most)
    if not rows.size:
        return batch
    part = batch[rows]
    grid = part.grid * turn(part.turns)[:, :, None]
    predicted = preamble_response(part, grid, layout)[:, None, :] * part.conjugate.conj()
    weight = part.cell_weight[:, :1] * known_symbols(layout).mask
    energy = np.sum(weight * squared_magnitude(predicted), axis=2)
    # A symbol may be stronger, too, as the channel moves; a burst is what its own gain does not explain.
    gain = np.sum(weight * grid * predicted.conj(), axis=2) / np.maximum(energy, 1e-30)
    error = np.sum(weight * squared_magnitude(grid - gain[:, :, None] * predicted), axis=2) / layout.num_active
    usual = np.median(error, axis=1, keepdims=True)
    added = np.where(error > _STRUCK_RATIO * usual, error - usual, 0.0)
    level = part.noise_var[:, None, None]
    weight = level / (level / part.cell_weight[:, :1] + added[:, :, None])
    return batch.weighed(rows, weight.astype(np.float32), part.noise_var)


def preamble_response(batch: Batch, grid: NDArray[np.complex64], layout: FrameLayout) -> NDArray[np.complex64]:
    """Return the channel (F, N) that the preambles of a grid (F, H, N), carrier offset removed, show."""
    known = known_symbols(layout)
    weight, sent = batch.cell_weight[:, :2], known.single.conj()
    lacking = None if batch.weight is None else np.sum(squared_magnitude(sent) * (1 - weight), axis=1)
    flat, sums = known.flat[2], np.sum(grid[:, :2] * sent * weight, axis=1)
    sums = completed(sums, lacking, flat, batch.noise_var, batch.power)
    taps = flat.estimate(matched_filter(sums), batch.noise_var, batch.power)
    return fft(taps.astype(np.complex64), n=layout.fft_size, axis=1) * known.mask


def preamble_time(layout: FrameLayout) -> float:
    """Return the seconds from a frame's start to the middle of its preambles, at which their channel's phase holds."""
    return float(symbol_times(layout, 0, 2).mean())


def blind_limit_hz(layout: FrameLayout) -> float:
    """Return the largest carrier offset that the header's squares show, well inside their ambiguity, 1 / (2 T)."""
    return 0.1 * layout.rate_sps / layout.symbol_samples
