"""Equalise the headers of frames whose channel moves while they last.

The header's symbols are BPSK on all carriers, many more cells than the channel has taps. So each symbol, once decided,
shows the channel anew, and the next one is equalised with what the last ones predict: a Wiener predictor of each tap
for the fastest motion that is expected. It costs noise where the channel stands still, so it is a second try.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special
from numpy.typing import NDArray

from receiver.sync.antennas import balanced, pooled
from receiver.sync.arrays import fft, turn
from receiver.sync.batch import Batch
from receiver.sync.known import known_symbols, matched_filter
from sdr.layout import FrameLayout

#: Doppler shift that taps are predicted for, turns per symbol: one that is larger than the real one does little harm.
_TURNS_PER_SYMBOL = 0.07
#: Symbols that a prediction looks back.
_MEMORY = 6


def followed_headers(batch: Batch, layout: FrameLayout) -> NDArray[np.float32]:
    """Return the header's cells (F, header symbols, active), equalised with taps that follow the decided symbols.

    Antennas are combined.

    Args:
        batch: of frames with known preambles, with the carrier offset that these show.
        layout: of the frames.
    """
    known, first = known_symbols(layout), layout.first_header_symbol
    grid = batch.grid * turn(batch.turns)[:, :, None]
    if batch.weight is not None:
        grid *= batch.weight
    active, ratio = layout.active_bins, batch.noise_var / batch.power / layout.num_active
    estimates: list[NDArray[Any]] = []
    frames = len(batch) // batch.antennas
    soft = np.empty((frames, layout.header_symbols, layout.num_active), np.float32)
    for number in range(layout.first_pilot_symbol):
        conjugate, taps = known.single.conj()[min(number, 1)], (known.flat[1] if number == 0 else known.flat_b)
        if number >= first:
            weights = _predictor(min(number, _MEMORY), ratio * taps.taps)
            past = np.stack(estimates[-_MEMORY:], axis=1)
            response = fft((weights[:, None, :] @ past)[:, 0], n=layout.fft_size, axis=-1)
            cells = balanced((grid[:, number] * response.conj()).real[:, active], batch.noise_var, batch.antennas)
            cells = pooled(cells, batch.antennas)
            soft[:, number - first] = cells[:: batch.antennas]
            conjugate = np.zeros((len(batch), layout.fft_size), np.complex64)
            conjugate[:, active] = np.where(cells < 0, -1.0, 1.0)
        matched = matched_filter(grid[:, number] * conjugate)
        estimates.append(taps.estimate(matched, batch.noise_var, batch.power))
    return soft


def _predictor(count: int, ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights (F, count) of the last `count` estimates of a tap, the oldest first, that predict the next.

    Args:
        count: of the estimates.
        ratio: (F,) variance of their error over the power of the taps.
    """
    turns = 2 * np.pi * _TURNS_PER_SYMBOL
    lags = np.arange(count)
    correlation = scipy.special.j0(turns * (lags[:, None] - lags[None, :]))
    noisy = correlation + ratio[:, None, None] * np.eye(count)
    ahead = scipy.special.j0(turns * np.arange(count, 0, -1))
    return np.linalg.solve(noisy, np.broadcast_to(ahead[:, None], (len(ratio), count, 1)))[..., 0]
