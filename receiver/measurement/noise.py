"""How noisy every cell of a frame is: carriers that are jammed, symbols that a burst has struck.

Noise is taken as the sum of a part that every carrier has of its own, throughout the frame, and one that an OFDM symbol
has on all carriers. Both are what the receiver sees: preambles and header, which are known once the header is read,
scatter about each carrier's gain; a pilot symbol differs from what they predict; a data symbol has more power than they
predict. No symbol of an image is decided upon.

Carriers are shrunk towards each other by empirical Bayes: the distribution of noise powers that explains all carriers
of the frame best, on a grid of decibels, is the prior of each. Where noise is white it is narrow, and nothing is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from receiver.measurement.model import LOST_RATIO
from receiver.sync.frame import SyncedFrame
from receiver.sync.known import transmitted
from sdr.framing import image_spans
from sdr.header import encode_header
from sdr.layout import FrameLayout

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

#: Noise powers that a carrier may have, over the mean of all, and those that a burst adds, over the common one.
_CARRIER_RATIOS = 10 ** (np.arange(-25, 41) / 10)
_BURST_RATIOS = np.concatenate([[0.0], 10 ** (np.arange(-10, 51) / 10)])
#: Rounds in which the prior of carriers is found.
_PRIOR_ROUNDS = 30
#: Odds that a burst strikes a symbol.
_BURST_ODDS = 0.02
#: A known symbol whose error is so many times the median one tells nothing of carriers.
_STRUCK = 2.0
#: Data symbols from which their median power is taken for what all would have without bursts.
_MEDIAN_SYMBOLS = 3


@dataclass(frozen=True, eq=False)
class CellNoise:
    """Noise of one frame.

    Attributes:
        level: that most cells have, linear power in the scale of the frame's grid.
        data: (S, N) noise of data cells over `level`.
        pilots: (P, N) the same of pilots.
    """

    level: float
    data: Real
    pilots: Real

    @classmethod
    def even(cls, level: float, layout: FrameLayout) -> CellNoise:
        """Return white noise."""
        size = layout.fft_size
        return cls(level, np.ones((layout.data_symbols, size)), np.ones((layout.pilot_symbols, size)))


@dataclass(frozen=True, eq=False)
class _Scatter:
    """What the known symbols of a frame tell, on A active carriers.

    Attributes:
        gain: (A,) complex.
        squared: (A,) sum of the squared errors.
        freedom: complex degrees of freedom in each sum.
    """

    gain: Complex
    squared: Real
    freedom: int


def measure_noise(frame: SyncedFrame, layout: FrameLayout) -> CellNoise:
    """Measure the noise of every cell of a frame with a header; white where too little of the frame is known."""
    if frame.lost:
        even = CellNoise.even(frame.noise_var, layout)
        # The least noise of a measurement may be above the level.
        endless = 1e3 * LOST_RATIO
        return replace(even, data=endless * even.data, pilots=endless * even.pilots)
    scatter = _known_scatter(frame, layout)
    if scatter is None:
        return CellNoise.even(frame.noise_var, layout)
    of_carrier = _carrier_noise(scatter)
    own_level = 1 / np.mean(1 / of_carrier)
    # Whatever else is on the air raises either estimate, never lowers it.
    level = min(frame.noise_var, float(own_level))
    ratio = of_carrier / own_level
    bins, pilots = layout.active_bins, layout.pilot_symbols
    noise = CellNoise.even(level, layout)
    received = frame.grid[:, bins].astype(np.complex128)
    known = transmitted(layout.pilots, layout)[:, bins] * scatter.gain
    turn = np.sum(received[:pilots] * known.conj(), axis=1, keepdims=True)
    errors = np.abs(received[:pilots] - known * turn / np.maximum(np.abs(turn), 1e-300)) ** 2 / level
    predicted = ratio * (1 + 1 / scatter.freedom)
    noise.pilots[:, bins] = ratio + _bursts(errors, np.broadcast_to(predicted, errors.shape), 1.0)[:, None]
    powers = np.abs(received[pilots:]) ** 2 / level
    signal = np.abs(scatter.gain) ** 2 / level * _occupied(frame, layout)[:, bins]
    predicted = ratio + signal * _signal_share(powers - ratio, signal)
    noise.data[:, bins] = ratio + _bursts(powers, predicted, _excess_variance(powers / predicted))[:, None]
    return noise


def _known_scatter(frame: SyncedFrame, layout: FrameLayout) -> _Scatter | None:
    """Fit a gain to each carrier, and leave out known symbols that a burst has struck; None where that can't be."""
    assert frame.header is not None
    bins = layout.active_bins
    received = np.concatenate([frame.preamble_grid, frame.header_grid])[:, bins].astype(np.complex128)
    sent = np.concatenate([[layout.preamble_a, layout.preamble_b], encode_header(frame.header, layout)])
    sent = transmitted(sent, layout)[:, bins]
    energy = np.abs(sent) ** 2
    # A frame that was found by its prefix has been aligned by nothing that is known.
    if frame.error_var != frame.error_var or len(received) != len(sent) or not np.isfinite(received).all():
        return None
    kept, gain, squared = np.ones(len(sent)), np.zeros(bins.size, np.complex128), np.zeros(sent.shape)
    for _ in range(3):
        gain = kept @ (received * sent.conj()) / np.maximum(kept @ energy, 1e-9)
        predicted = gain * sent
        turn = np.sum(received * predicted.conj(), axis=1, keepdims=True)
        received = received * turn.conj() / np.maximum(np.abs(turn), 1e-300)
        squared = np.abs(received - predicted) ** 2
        power = squared.mean(axis=1)
        kept = (power <= _STRUCK * np.median(power)).astype(float)
    freedom = int(kept.sum()) - 1
    if freedom < 1 or not squared.any():
        return None
    return _Scatter(gain, kept @ squared, freedom)


def _carrier_noise(scatter: _Scatter) -> Real:
    """Return the noise power (A,) of every carrier, the inverse of its expected inverse."""
    found = scatter.squared / scatter.freedom
    mean = float(found.mean())
    log_likelihood = -scatter.freedom * (np.log(_CARRIER_RATIOS) + found[:, None] / mean / _CARRIER_RATIOS)
    likelihood = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
    prior = np.full(_CARRIER_RATIOS.size, 1 / _CARRIER_RATIOS.size)
    for _ in range(_PRIOR_ROUNDS):
        prior = (likelihood * (prior / (likelihood @ prior)[:, None])).mean(axis=0)
    posterior = likelihood * prior
    return mean * posterior.sum(axis=1) / (posterior @ (1 / _CARRIER_RATIOS))


def _occupied(frame: SyncedFrame, layout: FrameLayout) -> NDArray[np.bool_]:
    """Return which data cells (S, N) carry something."""
    assert frame.header is not None
    occupied = np.zeros(layout.data_symbols * layout.fft_size, dtype=bool)
    for span in image_spans(frame.header):
        occupied[layout.cell_index[span.payload_start : span.payload_start + span.num_symbols]] = True
    occupied = occupied.reshape(layout.data_symbols, layout.fft_size)
    occupied[:, layout.tracking_bins] = True
    occupied[np.ix_(layout.pilot_rows, layout.active_bins)] = True
    return occupied


def _signal_share(excess: Real, signal: Real) -> float:
    """Return by what the data's power differs from the header's: an image over several frames need not be even.

    Args:
        excess: (S, A) power above the noise.
        signal: (S, A) power that the gains predict.
    """
    sent = signal.sum(axis=1)
    filled = sent > 0.25 * sent.max(initial=0.0)
    if np.count_nonzero(filled) < _MEDIAN_SYMBOLS:
        return 1.0
    share = np.sum(excess * (signal > 0), axis=1)[filled] / sent[filled]
    return float(np.clip(np.median(share), 0.0, 10.0))


def _excess_variance(normalised: Real) -> float:
    """Return the variance of normalised powers (S, A) over that of a Gaussian variable's, at least 1.

    Codecs' symbols are rarely Gaussian, so that a symbol's power tells less than its number of cells would have it.
    """
    mean = np.maximum(normalised.mean(axis=1), 1e-300)
    return max(1.0, float(np.median(normalised.var(axis=1) / mean**2)))


def _bursts(powers: Real, predicted: Real, excess_variance: float) -> Real:
    """Return the noise (M,) that bursts add to symbols, by the powers (M, A) of their cells; all over the common noise.

    Args:
        powers: found.
        predicted: expected without a burst.
        excess_variance: see `_excess_variance`; the likelihood counts by so much less.
    """
    total = predicted[:, None] + _BURST_RATIOS[:, None]
    log_likelihood = -(np.log(total) + powers[:, None] / total).sum(axis=2) / excess_variance
    odds = np.full(_BURST_RATIOS.size, _BURST_ODDS / (_BURST_RATIOS.size - 1))
    odds[0] = 1 - _BURST_ODDS
    log_posterior = log_likelihood + np.log(odds)
    posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
    return posterior.sum(axis=1) / (posterior @ (1 / (1 + _BURST_RATIOS))) - 1
