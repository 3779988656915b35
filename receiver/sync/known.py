"""What the receiver knows of a frame before it has read it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import ifft, squared_magnitude
from receiver.sync.detection import window_taps
from receiver.sync.frame import Complex, timing_advance
from sdr.air.amplifier import clip
from sdr.air.impairments import exponential_pdp
from sdr.layout import FrameLayout

_TIMING_DECAYS = (0.25, 1.0, 4.0, 10.0)


# Reading frames. F frames go through every step together; arrays begin with an axis of F.


def transmitted(grid: NDArray[Any], layout: FrameLayout) -> Complex:
    """(..., N) known symbols as they leave the transmitter: the same grid unless its samples were limited."""
    time = np.fft.ifft(grid.astype(np.complex128), axis=-1, norm="ortho") * layout.amplitude
    limit = layout.magnitude_limit
    if not time.size or np.abs(time).max() <= limit:
        return grid.astype(np.complex128)
    limited = clip(time.astype(np.complex64).reshape(-1), limit).reshape(time.shape) / layout.amplitude
    return np.fft.fft(limited, axis=-1, norm="ortho")


class Known:
    """What a layout's known symbols are made of, computed once."""

    def __init__(self, layout: FrameLayout) -> None:
        self.preambles = transmitted(np.stack([layout.preamble_a, layout.preamble_b]), layout)
        # Limiting spreads energy over the carriers that the grid left empty.
        limited = not np.array_equal(self.preambles[0], layout.preamble_a.astype(np.complex128))
        odd = layout.active_bins[layout.active_bins % 2 == 1]
        self.odd = np.zeros(0, dtype=np.int64) if limited else odd
        near = np.concatenate([layout.active_bins, layout.active_bins + 1, layout.active_bins - 1, [0]])
        # Nulls beside active carriers catch what leaks from them; DC holds the receiver's own offset.
        null = np.setdiff1d(np.arange(layout.fft_size), near % layout.fft_size)
        self.null = np.zeros(0, dtype=np.int64) if limited or layout.clip_ratio is not None else null
        self.limited = limited or layout.clip_ratio is not None
        edges = np.flatnonzero(np.diff(layout.active_bins) != 1) + 1
        # Where runs of neighbouring carriers lie among the active ones, and among all.
        self.runs = [
            (slice(int(run[0]), int(run[-1]) + 1), slice(int(bins[0]), int(bins[-1]) + 1))
            for run, bins in zip(
                np.split(np.arange(layout.num_active), edges), np.split(layout.active_bins, edges), strict=True
            )
        ]
        self.mask = np.zeros(layout.fft_size, dtype=np.float32)
        self.mask[layout.active_bins] = 1.0
        self.signed: NDArray[Any] = np.fft.fftfreq(layout.fft_size, 1.0 / layout.fft_size)
        header_energy = np.zeros(layout.fft_size)
        header_energy[layout.active_bins] = float(layout.header_symbols)
        # Of preamble B and a header, per carrier.
        self.energy = (np.abs(self.preambles[1]) ** 2 + header_energy).astype(np.float32)
        pair = np.sum(np.abs(self.preambles) ** 2, axis=0)
        taps = max(layout.cp_samples - timing_advance(layout), 4)
        # Energy per carrier of the preambles; of the preambles and a header.
        self.arrival = {2: _Evidence(pair, taps), layout.first_pilot_symbol: _Evidence(pair + header_energy, taps)}
        self.flat = {
            1: _FlatTaps(np.abs(self.preambles[0]) ** 2, window_taps(layout)),
            2: _FlatTaps(pair, window_taps(layout)),
            layout.first_pilot_symbol: _FlatTaps(pair + header_energy, window_taps(layout)),
        }
        self.flat_b = _FlatTaps(np.abs(self.preambles[1]) ** 2, window_taps(layout))
        # Doubles grow wide by the batch; the preambles are exact in single precision too.
        self.single = self.preambles.astype(np.complex64)


@lru_cache(maxsize=8)
def known_symbols(layout: FrameLayout) -> Known:
    return Known(layout)


def _gram(energy: NDArray[np.float64], taps: int) -> Complex:
    """(taps, taps) Gram matrix (Toeplitz) of known symbols with this energy per carrier."""
    lags = np.fft.ifft(energy) * energy.size
    return lags[(np.arange(taps)[:, None] - np.arange(taps)[None, :]) % energy.size]


class _Evidence:
    """log p(Y | first path at lag d) over channels of exponential profile, for many frames at once.

    With taps h ~ CN(0, P diag(p)) behind lag d it is, but for terms without d, the quadratic form
    c_d^H (G + r diag(1/p))^-1 c_d / s of the matched filter's output c_d at lags d.., with G the Gram matrix of the
    known symbols, s the noise and r = s / P, less the log-determinant. With D = diag(sqrt p) and D G D = U diag(w) U^H
    the inverse is D U diag(1 / (w + r)) U^H D, so that every r costs but a division.
    """

    def __init__(self, energy: NDArray[np.float64], taps: int) -> None:
        gram = _gram(energy, taps)
        roots = [np.sqrt(np.maximum(exponential_pdp(taps, decay), 1e-12)) for decay in _TIMING_DECAYS]
        solved = [np.linalg.eigh(root[:, None] * gram * root[None, :]) for root in roots]
        self.taps = taps
        self.values = np.stack([np.maximum(values, 0.0) for values, _ in solved])  # (profiles, taps)
        self.project = np.concatenate(
            [(vectors.conj().T * root).T for (_, vectors), root in zip(solved, roots, strict=True)], axis=1
        )  # (taps, profiles * taps)

    def arrival(
        self,
        matched: NDArray[Any],
        noise_var: NDArray[np.float64],
        power: NDArray[np.float64],
        reach: int,
        stride: int = 1,
    ) -> NDArray[np.int64]:
        """(F,) lag of the first path, -reach..reach in steps of `stride`, from the matched filter's output (F, N)."""
        count, size = matched.shape
        starts = np.arange(-reach, reach + 1, stride)
        near = np.take(matched, np.arange(-reach, reach + self.taps) % size, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(near, self.taps, axis=1)[:, ::stride]
        projected = windows.reshape(-1, self.taps) @ self.project.astype(matched.dtype)
        projected = squared_magnitude(projected).reshape(count, starts.size, *self.values.shape)
        ratio = (noise_var / power)[:, None, None]
        weights = (1.0 / (self.values + ratio) / noise_var[:, None, None]).astype(projected.dtype)
        quadratic = np.einsum("fdpl,fpl->fdp", projected, weights).astype(np.float64)
        log_det = np.log1p(self.values / ratio).sum(axis=2)
        total = np.logaddexp.reduce(quadratic - log_det[:, None, :], axis=2)
        return starts[total.argmax(axis=1)]


class _FlatTaps:
    """LMMSE taps under a flat profile of the signal's power, for many frames at once."""

    def __init__(self, energy: NDArray[np.float64], taps: int) -> None:
        self.taps = taps
        self.values, self.vectors = np.linalg.eigh(_gram(energy, taps))

    def estimate(
        self,
        matched: NDArray[Any],
        noise_var: NDArray[np.float64],
        power: NDArray[np.float64],
        move: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """(F, taps) from the matched filter's output (F, N), for starts later by `move`."""
        load = np.maximum(noise_var, 1e-9 * power) * self.taps / power
        if move is None:
            lags = matched[:, : self.taps]
        else:
            lags = np.take_along_axis(matched, (np.arange(self.taps) + move[:, None]) % matched.shape[1], axis=1)
        projected = lags @ self.vectors.conj()
        return (projected / (np.maximum(self.values, 0.0) + load[:, None])) @ self.vectors.T


def matched_filter(correlated: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(F, N) matched filter's output at all lags from X^* Y summed over symbols (F, N)."""
    return ifft(correlated, axis=-1, norm="forward")
