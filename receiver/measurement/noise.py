"""How noisy every cell of a frame is: carriers that are jammed, symbols that a burst has struck.

Noise is taken as the sum of a part that every carrier has of its own, throughout the frame, and one that an OFDM symbol
has on all carriers. Both are what the receiver sees: preambles and header, which are known once the header is read,
scatter about each carrier's gain; a pilot symbol differs from what they predict; a data symbol has more power than they
predict. No symbol of an image is decided upon. Of frames that were found by their prefix nothing is known: silence
beside frames tells of carriers (`receiver.sync.prefix`), and the power of the other symbols of one that was struck.

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
from receiver.sync.noise_powers import burst_noise, carrier_noise
from sdr.framing import image_spans
from sdr.header import encode_header
from sdr.layout import FrameLayout

Real = NDArray[np.float64]
Complex = NDArray[np.complex128]

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
    if frame.silence is not None:
        return _noise_of_silence(frame, frame.silence, layout)
    scatter = _known_scatter(frame, layout)
    if scatter is None:
        return CellNoise.even(frame.noise_var, layout)
    of_carrier = carrier_noise(scatter.squared / scatter.freedom, scatter.freedom)
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
    noise.pilots[:, bins] = ratio + burst_noise(errors, np.broadcast_to(predicted, errors.shape), 1.0)[:, None]
    powers = np.abs(received[pilots:]) ** 2 / level
    signal = np.abs(scatter.gain) ** 2 / level * _occupied(frame, layout)[:, bins]
    # A jammed carrier says little of the signal.
    predicted = ratio + signal * _signal_share((powers - ratio) / ratio, signal / ratio)
    noise.data[:, bins] = ratio + burst_noise(powers, predicted, _excess_variance(powers / predicted))[:, None]
    return noise


def _noise_of_silence(frame: SyncedFrame, silence: Real, layout: FrameLayout) -> CellNoise:
    """Return noise of which carriers tell by silence, and symbols by their power beside that of most.

    No channel is known, so that the power of a carrier is predicted by the data symbols themselves.
    """
    bins, pilots = layout.active_bins, layout.pilot_symbols
    own_level = float(1 / np.mean(1 / silence[bins]))
    noise = CellNoise.even(min(frame.noise_var, own_level), layout)
    ratio = silence[bins] / own_level
    noise.pilots[:, bins] = noise.data[:, bins] = ratio
    occupied = _occupied(frame, layout)[:, bins]
    powers = np.abs(frame.grid[pilots:, bins]) ** 2 / noise.level
    count = occupied.sum(axis=1)
    filled = count > 0.25 * count.max(initial=0)
    if np.count_nonzero(filled) < _MEDIAN_SYMBOLS:
        return noise
    of_symbol = np.sum(powers * occupied, axis=1) / np.maximum(count, 1)
    kept = occupied * (filled & (of_symbol <= _STRUCK * np.median(of_symbol[filled])))[:, None]
    signal = np.sum(kept * (powers - ratio), axis=0) / np.maximum(kept.sum(axis=0), 1)
    predicted = ratio + np.maximum(signal, 0) * occupied
    noise.data[:, bins] += burst_noise(powers, predicted, _excess_variance(powers / predicted))[:, None]
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
    trust = np.ones(bins.size)
    for _ in range(3):
        gain = kept @ (received * sent.conj()) / np.maximum(kept @ energy, 1e-9)
        predicted = gain * sent
        turn = np.sum(received * predicted.conj() * trust, axis=1, keepdims=True)
        received = received * turn.conj() / np.maximum(np.abs(turn), 1e-300)
        squared = np.abs(received - predicted) ** 2
        # A jammed carrier must not turn all of a symbol.
        of_carrier = np.maximum(kept @ squared, 1e-300)
        trust = np.minimum(np.median(of_carrier) / of_carrier, 1)
        power = (squared * trust).mean(axis=1)
        kept = (power <= _STRUCK * np.median(power)).astype(float)
    freedom = int(kept.sum()) - 1
    if freedom < 1 or not squared.any():
        return None
    return _Scatter(gain, kept @ squared, freedom)


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
        excess: (S, A) power above the noise, over the carriers' noise.
        signal: (S, A) power that the gains predict, likewise.
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
