"""What the receiver knows of a frame before it has read it: symbols, and what estimates are made of them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import pooled
from receiver.sync.arrays import fft, ifft, squared_magnitude, turn
from receiver.sync.detection import window_taps
from receiver.sync.frame import Complex, timing_advance
from sdr.air.amplifier import amplified_power, apply_rapp, clip
from sdr.air.impairments import exponential_pdp
from sdr.layout import FrameLayout

_TIMING_DECAYS = (0.25, 1.0, 4.0, 10.0)


def transmitted(grid: NDArray[Any], layout: FrameLayout, curve: tuple[float, float] | None = None) -> Complex:
    """Return known symbols (..., N) as limiter and amplifier let them out.

    They are in units of cells of unit mean power behind both. Without an amplifier it is the same grid unless its
    samples are limited. (`Measurement` does the same to unknown symbols, differentiably.)

    Args:
        grid: (..., N) cells.
        layout: says where samples are limited.
        curve: saturation and smoothness of the amplifier, None where it is linear.
    """
    time = np.fft.ifft(grid.astype(np.complex128), axis=-1, norm="ortho") * layout.amplitude
    limit, scale = layout.magnitude_limit, layout.amplitude
    if not time.size or (curve is None and np.abs(time).max() <= limit):
        return grid.astype(np.complex128)
    samples = clip(time.astype(np.complex64).reshape(-1), limit)
    if curve is not None:
        samples = apply_rapp(samples, *curve)
        scale *= amplified_power(layout, *curve) ** 0.5
    return np.fft.fft(samples.reshape(time.shape) / scale, axis=-1, norm="ortho")


class Known:
    """What follows from a layout's known symbols, computed once.

    Attributes:
        preambles: (2, N) complex128, as the transmitter lets them out.
        single: the same in complex64; doubles would spread to the batch.
        limited: whether the transmitter limits samples, which spreads energy over the carriers that are left empty.
        odd: carriers that preamble A leaves empty.
        null: carriers that stay empty, but for DC, which holds the receiver's offset, and those beside active ones,
            which catch what leaks from them.
        runs: where runs of neighbouring carriers lie among the active ones, and among all.
        mask: (N,) 1 on active carriers, else 0.
        signed: (N,) carrier numbers, negative ones in the second half.
        omega: (N,) see the legend.
        energy: (N,) of preamble B and a header.
        arrival: timing evidence by the number of known symbols.
        flat: LMMSE taps by the number of known symbols; 1 is preamble A alone.
        flat_b: LMMSE taps by preamble B alone.
    """

    def __init__(self, layout: FrameLayout) -> None:
        self.preambles = transmitted(np.stack([layout.preamble_a, layout.preamble_b]), layout)
        limited = not np.array_equal(self.preambles[0], layout.preamble_a.astype(np.complex128))
        odd = layout.active_bins[layout.active_bins % 2 == 1]
        self.odd = np.zeros(0, dtype=np.int64) if limited else odd
        near = np.concatenate([layout.active_bins, layout.active_bins + 1, layout.active_bins - 1, [0]])
        null = np.setdiff1d(np.arange(layout.fft_size), near % layout.fft_size)
        self.null = np.zeros(0, dtype=np.int64) if limited or layout.clip_ratio is not None else null
        self.limited = limited or layout.clip_ratio is not None
        edges = np.flatnonzero(np.diff(layout.active_bins) != 1) + 1
        self.runs = [
            (slice(int(run[0]), int(run[-1]) + 1), slice(int(bins[0]), int(bins[-1]) + 1))
            for run, bins in zip(
                np.split(np.arange(layout.num_active), edges), np.split(layout.active_bins, edges), strict=True
            )
        ]
        self.mask = np.zeros(layout.fft_size, dtype=np.float32)
        self.mask[layout.active_bins] = 1.0
        self.signed: NDArray[Any] = np.fft.fftfreq(layout.fft_size, 1.0 / layout.fft_size)
        self.omega: NDArray[Any] = 2 * np.pi / layout.fft_size * self.signed
        header_energy = np.zeros(layout.fft_size)
        header_energy[layout.active_bins] = float(layout.header_symbols)
        self.energy = (np.abs(self.preambles[1]) ** 2 + header_energy).astype(np.float32)
        pair = np.sum(np.abs(self.preambles) ** 2, axis=0)
        taps = max(layout.cp_samples - timing_advance(layout), 4)
        self.arrival = {2: _Evidence(pair, taps), layout.first_pilot_symbol: _Evidence(pair + header_energy, taps)}
        self.flat = {
            1: _FlatTaps(np.abs(self.preambles[0]) ** 2, window_taps(layout)),
            2: _FlatTaps(pair, window_taps(layout)),
            layout.first_pilot_symbol: _FlatTaps(pair + header_energy, window_taps(layout)),
        }
        self.flat_b = _FlatTaps(np.abs(self.preambles[1]) ** 2, window_taps(layout))
        self.single = self.preambles.astype(np.complex64)


@lru_cache(maxsize=8)
def known_symbols(layout: FrameLayout) -> Known:
    """Return what follows from the known symbols of a layout."""
    return Known(layout)


def _gram(energy: NDArray[np.float64], taps: int) -> Complex:
    """Return the Gram matrix (taps, taps), Toeplitz, of known symbols with this energy per carrier (N,)."""
    lags = np.fft.ifft(energy) * energy.size
    return lags[(np.arange(taps)[:, None] - np.arange(taps)[None, :]) % energy.size]


class _Evidence:
    """Evidence log p(Y | first path at lag d) over channels of exponential profile, for many frames at once.

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
        antennas: int = 1,
    ) -> NDArray[np.int64]:
        """Return the lag (F,) of the first path, -reach..reach in steps of `stride`.

        Antennas of a frame share it, and the profile; their taps are independent.

        Args:
            matched: (F, N).
            noise_var: (F,).
            power: (F,).
            reach: samples.
            stride: samples.
            antennas: A, F being the rows of all frames at all antennas.
        """
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
        total = np.logaddexp.reduce(pooled(quadratic - log_det[:, None, :], antennas), axis=2)
        return starts[total.argmax(axis=1)]


class _FlatTaps:
    """LMMSE taps under a flat profile of the signal's power, for many frames at once.

    `receiver.channel.estimate` solves the same equations under any profile and gives covariances; here one
    eigendecomposition serves every frame and noise level, which makes estimates cost two small products.
    """

    def __init__(self, energy: NDArray[np.float64], taps: int) -> None:
        self.taps, self.energy = taps, energy
        self.values, self.vectors = np.linalg.eigh(_gram(energy, taps))

    def estimate(
        self,
        matched: NDArray[Any],
        noise_var: NDArray[np.float64],
        power: NDArray[np.float64],
        move: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """Return taps (F, L).

        Args:
            matched: (F, N).
            noise_var: (F,).
            power: (F,).
            move: (F,) samples by which starts are taken later.
        """
        load = _load(self.taps, noise_var, power)
        if move is None:
            lags = matched[:, : self.taps]
        else:
            lags = np.take_along_axis(matched, (np.arange(self.taps) + move[:, None]) % matched.shape[1], axis=1)
        projected = lags @ self.vectors.conj()
        return (projected / (np.maximum(self.values, 0.0) + load[:, None])) @ self.vectors.T


def completed(
    correlated: NDArray[np.complex64],
    lacking: NDArray[np.float32] | None,
    flat: _FlatTaps,
    noise_var: NDArray[np.float64],
    power: NDArray[np.float64],
    first_lag: int = 0,
) -> NDArray[np.complex64]:
    """Return weighted sums of X^* Y (F, N) with what the weights took away put back as the channel predicts it.

    The matched filter's output then has the side lobes of all known symbols again, which evidence and taps expect, and
    taps estimated from it are those that the weighted sums show.

    Args:
        correlated: (F, N).
        lacking: (F, N) energy of the known symbols less their weighted energy, None where nothing is weighted.
        flat: taps by these symbols.
        noise_var: (F,).
        power: (F,).
        first_lag: of the taps.
    """
    if lacking is None:
        return correlated
    size, lags = correlated.shape[1], np.arange(flat.taps)
    energy = np.fft.ifft(flat.energy - lacking) * size
    normal = energy[:, (lags[:, None] - lags[None, :]) % size]
    normal += _load(flat.taps, noise_var, power)[:, None, None] * np.eye(flat.taps)
    matched = matched_filter(correlated)[:, (lags + first_lag) % size]
    taps = np.linalg.solve(normal, matched[:, :, None])[:, :, 0].astype(np.complex64)
    late = turn(-first_lag * np.arange(size) / size)
    return correlated + lacking * late * fft(taps, n=size, axis=1)


def _load(taps: int, noise_var: NDArray[np.float64], power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return noise over signal per tap (F,)."""
    return np.maximum(noise_var, 1e-9 * power) * taps / power


def matched_filter(correlated: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return the matched filter's output (F, N) at all lags of X^* Y summed over symbols (F, N)."""
    return ifft(correlated, axis=-1, norm="forward")
