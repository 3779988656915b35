"""Detect preamble A in a stream, confirm it with preamble B."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
import scipy.special
from numpy.typing import NDArray

from receiver.sync.arrays import fft, ifft, mean_power, ramp, squared_magnitude, turn, window_sums
from sdr.layout import FrameLayout

CANDIDATE_FALSE_ALARM = 3e-4
"""Probability per noise sample of passing step 1."""

CONFIRM_FALSE_ALARM = 1e-12
"""Probability per hypothesis (a lag and a carrier offset) that noise passes step 2."""

_SCREEN_FALSE_ALARM = 1e-6
# Inside a frame with more than the first metric no other with less than the second is looked for: it is at least 4 dB
# weaker.
_STRONG_METRIC, _BURIED_METRIC = 0.5, 0.08
_METRIC_SAMPLES = 1 << 15


@dataclass(frozen=True)
class Antennas:
    """Samples of A antennas of equal noise.

    Attributes:
        samples: (A, n).
        mean: (A,) of each antenna.
    """

    samples: NDArray[np.complex64]
    mean: NDArray[np.complex128]


@dataclass(frozen=True)
class Hits:
    """Confirmed preambles of F frames.

    Attributes:
        window: (F,) first sample of preamble A's window for the first path.
        offset_carriers: (F,) carrier offset in carriers.
        metric: (F,) half-symbol correlation, 0..1.
        score: (F,) share of the preambles' energy within a channel's length.
    """

    window: NDArray[np.int64]
    offset_carriers: NDArray[np.float64]
    metric: NDArray[np.float64]
    score: NDArray[np.float64]

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Hits:
        return Hits(self.window[rows], self.offset_carriers[rows], self.metric[rows], self.score[rows])


def _half_metric(antennas: Antennas, layout: FrameLayout, stride: int) -> NDArray[np.float64]:
    """Return |sum_m conj(r[d+m]) r[d+m+N/2]|^2 over the energies of both half symbols, for d = 0, stride, 2 stride ..

    It is in 0..1. Correlation and energies are summed over the antennas, whose carrier offset is one.
    """
    half = layout.fft_size // 2
    blocks, span = antennas.samples.shape[1] // stride, half // stride
    metric = np.zeros(max(blocks - 2 * span + 1, 0))
    # Silence is rounding errors of the mean; the floor keeps their ratio from looking coherent.
    floor = 1e-100
    for samples, mean in zip(antennas.samples, antennas.mean, strict=True):
        used = samples[: blocks * stride]
        floor += 1e-10 * max(float(np.vdot(used, used).real) - used.size * abs(mean) ** 2, 0.0)
    step = _METRIC_SAMPLES // stride
    # Pieces stay in the cache.
    for low in range(0, metric.size, step):
        correlation, energy = _piece_sums(
            antennas, slice(low * stride, min(low + step + 2 * span - 1, blocks) * stride), half, stride
        )
        energy = np.maximum(energy, floor, dtype=np.float64)
        metric[low : low + step] = squared_magnitude(correlation.astype(np.complex128)) / (
            energy[:-span] * energy[span:]
        )
    return np.minimum(metric, 1.0, out=metric)


def _piece_sums(antennas: Antennas, part: slice, half: int, stride: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the correlation of successive half symbols and the energy of each, over a part of the samples."""
    sums: list[tuple[NDArray[Any], NDArray[Any]]] = []
    for samples, mean in zip(antennas.samples, antennas.mean, strict=True):
        piece = samples[part] - np.complex64(mean)
        parts = piece.view(np.float32).reshape(-1, 2 * stride)
        late = piece[half:].reshape(-1, stride)
        correlation = window_sums(np.vecdot(piece[: late.size].reshape(-1, stride), late), half // stride)
        sums.append((correlation, window_sums(np.einsum("bs,bs->b", parts, parts), half // stride)))
    return _summed([correlation for correlation, _ in sums]), _summed([energy for _, energy in sums])


def candidates(antennas: Antennas, layout: FrameLayout) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find where the half-symbol correlation peaks, at most one place per half symbol or so.

    Returns:
        places, ascending, and the peaks.
    """
    half = layout.fft_size // 2
    threshold = 1.0 - CANDIDATE_FALSE_ALARM ** (1.0 / (len(antennas.samples) * half - 1))
    # A window that is a 32nd of a half symbol off loses a sixteenth of the metric at most.
    stride = max(1, min(8, half // 16))
    metric = _half_metric(antennas, layout, stride)
    spacing = max((half + layout.cp_samples) // stride, 1)
    blocks = -(-metric.size // spacing)
    padded = np.zeros(blocks * spacing)
    padded[: metric.size] = metric
    padded = padded.reshape(blocks, spacing)
    peaks = padded.max(axis=1)
    places = padded.argmax(axis=1) + np.arange(blocks) * spacing
    # A peak beside a larger one within half a spacing is the same event seen from the neighbouring block.
    near = np.diff(places) < spacing // 2
    beaten = np.zeros(blocks, dtype=bool)
    beaten[:-1] |= near & (peaks[1:] > peaks[:-1])
    beaten[1:] |= near & (peaks[:-1] >= peaks[1:])
    kept = (peaks > threshold) & ~beaten
    return stride * places[kept], peaks[kept]


@lru_cache(maxsize=32)
def _score_threshold(fft_size: int, num_active: int, window: int, false_alarm: float) -> float:
    """Return the share of energy in `window` lags that white noise exceeds with probability `false_alarm`."""
    share = window / fft_size
    return float(scipy.special.betainccinv(share * num_active, (1 - share) * num_active, false_alarm))


def window_taps(layout: FrameLayout) -> int:
    """Return how many lags hold a channel: the prefix and its first sample, or a few where the prefix is shorter."""
    return min(max(layout.cp_samples + 1, 4), layout.fft_size // 4)


def confirm(
    antennas: Antennas,
    layout: FrameLayout,
    candidates: NDArray[np.int64],
    peaks: NDArray[np.float64],
    max_cfo_hz: float,
) -> Hits:
    """Return the candidates that both preambles confirm, one per frame, in order of time."""
    taps = window_taps(layout)
    screen, final = (
        _score_threshold(layout.fft_size, len(antennas.samples) * layout.num_active, taps, alarm)
        for alarm in (_SCREEN_FALSE_ALARM, CONFIRM_FALSE_ALARM)
    )
    parts: list[Hits] = []

    def score(places: NDArray[np.int64]) -> None:
        for first in range(0, places.size, 256):
            hits = _score(antennas, layout, places[first : first + 256], max_cfo_hz)
            parts.append(hits[hits.score > final])
            # What lies in between is scored once more at the place that the first pass found.
            between = hits.window[(hits.score > screen) & (hits.score <= final)]
            if between.size:
                hits = _score(antennas, layout, between, max_cfo_hz)
                parts.append(hits[hits.score > final])

    strong = peaks > _STRONG_METRIC
    score(candidates[strong])
    # Most weak candidates are the payload of strong frames, whose spectrum multipath has coloured.
    known = np.sort(np.concatenate([part.window for part in parts])) if parts else np.zeros(0, dtype=np.int64)
    owner = np.searchsorted(known, candidates) - 1
    since = candidates - known[np.maximum(owner, 0)] if known.size else np.full(candidates.size, -1)
    inside = (owner >= 0) & (since > layout.symbol_samples) & (since < layout.num_symbols * layout.symbol_samples)
    score(candidates[~strong & ~(inside & (peaks < _BURIED_METRIC))])
    if not parts:
        return Hits(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
    found = Hits(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Hits)))
    found = found[np.argsort(found.window, kind="stable")]
    kept: list[int] = []
    for row in range(found.window.size):
        if kept and found.window[row] - found.window[kept[-1]] < layout.symbol_samples:
            if found.score[row] > found.score[kept[-1]]:
                kept[-1] = row
            continue
        kept.append(row)
    return found[np.array(kept, dtype=np.int64)]


@lru_cache(maxsize=8)
def _carrier_shifts(
    layout: FrameLayout, max_cfo_hz: float
) -> tuple[NDArray[np.int64], NDArray[np.complex64], NDArray[np.complex64]]:
    """Prepare the carrier offsets that are tried.

    Returns:
        offsets in pairs of carriers; (N, offsets) the patterns that A times conj(B) is correlated with; and
        (offsets, 2, N) the weights of A and B that gather a channel in few lags.
    """
    size = layout.fft_size
    pairs = min(-(-round(max_cfo_hz / layout.carrier_spacing_hz) // 2), size // 4)
    offsets = np.arange(-pairs, pairs + 1)
    reference = layout.preamble_a * layout.preamble_b.conj()
    shifted = np.stack([np.roll(reference, 2 * offset) for offset in offsets], axis=1)
    # Noise on the combined correlation is white when every carrier is divided by its reference's norm.
    both = np.stack([layout.preamble_a, layout.preamble_b]).conj()
    norm = np.sqrt(np.sum(np.abs(both) ** 2, axis=0))
    both = both / np.where(norm > 0, norm, 1.0)
    weights = np.stack([np.roll(both, 2 * offset, axis=1) for offset in offsets])
    return offsets, np.ascontiguousarray(shifted.conj()), weights.astype(np.complex64)


def _score(antennas: Antennas, layout: FrameLayout, windows: NDArray[np.int64], max_cfo_hz: float) -> Hits:
    """Find the best hypothesis around each window position of preamble A.

    The offset in whole carriers is where A times conj(B) fits the known product best, which no delay disturbs; under
    it the known preambles gather a channel's energy in few lags.
    """
    size, symbol, taps = layout.fft_size, layout.symbol_samples, window_taps(layout)
    half = size // 2
    windows = windows[(windows >= 0) & (windows + symbol + size <= antennas.samples.shape[1])]
    received = [
        np.lib.stride_tricks.sliding_window_view(samples, size)[windows[:, None] + np.array([0, symbol])]
        - np.complex64(mean)
        for samples, mean in zip(antennas.samples, antennas.mean, strict=True)
    ]
    # Per antenna, then summed over them.
    correlation = _summed([(each[:, 0, :half].conj() * each[:, 0, half:]).sum(axis=1) for each in received])
    correlation = correlation.astype(np.complex128)
    first, second = (
        _summed([mean_power(each[:, 0, part]) for each in received]) for part in (slice(0, half), slice(half, size))
    )
    energy = first * second * half**2
    metric = np.minimum(squared_magnitude(correlation) / np.maximum(energy, np.finfo(np.float64).tiny), 1.0)
    fraction = np.angle(correlation) / np.pi  # in carriers, modulo 2
    grids = [fft(each * ramp(-fraction / size, size)[:, None, :], axis=-1, overwrite_x=True) for each in received]
    offsets, patterns, weights = _carrier_shifts(layout, max_cfo_hz)
    matches = squared_magnitude(_summed([grid[:, 0] * grid[:, 1].conj() for grid in grids]) @ patterns)
    best = matches.argmax(axis=1)
    pair = offsets[best]
    row = np.arange(windows.size)
    # The offset leaves the phase that it gathers from one symbol to the next. That the carriers stay shifted by whole
    # pairs turns the lags but leaves their powers.
    between = turn(-(fraction + 2 * pair) * symbol / size)[:, None]
    combined = [grid[:, 0] * weights[best, 0] + grid[:, 1] * weights[best, 1] * between for grid in grids]
    # The share is taken of what the carriers hold at this shift, or a strong neighbour would mask the frame.
    total = _summed([mean_power(each) for each in combined]) * size**2
    lags: Any = _summed([squared_magnitude(ifft(each, axis=-1, norm="forward", overwrite_x=True)) for each in combined])
    inside = window_sums(np.concatenate([lags, lags[:, : taps - 1]], axis=1), taps)
    lag = inside.argmax(axis=1)
    score = inside[row, lag] / np.maximum(total, np.finfo(np.float64).tiny)
    # Windows that begin before the true one see the paths late: the lag says by how much, modulo N.
    moved = windows + np.where(lag >= half, lag - size, lag)
    return Hits(moved, fraction + 2.0 * pair, metric, score)


def _summed(antennas: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the sum over antennas."""
    return antennas[0] if len(antennas) == 1 else np.sum(antennas, axis=0)


def dc_outside_frames(samples: NDArray[np.complex64], layout: FrameLayout, hits: Hits) -> complex:
    """Return the mean of the samples outside of frames where it is significant, else 0.

    Frames have a mean of their own (a carrier at 0 Hz, equal preambles), so only what lies between them counts.
    """
    outside = np.ones(samples.size, dtype=bool)
    margin = layout.symbol_samples
    for window in hits.window.tolist():
        begin = window - layout.cp_samples
        end = begin + layout.num_symbols * layout.symbol_samples
        outside[max(begin - layout.cp_samples, 0) : end + 2 * window_taps(layout)] = False
    count = int(np.count_nonzero(outside))
    if count < margin // 4:
        return 0j
    quiet = samples[outside]
    mean = complex(quiet.mean(dtype=np.complex128))
    variance = float(np.mean(squared_magnitude(quiet - np.complex64(mean)), dtype=np.float64))
    return mean if abs(mean) ** 2 > 12.0 * variance / count else 0j
