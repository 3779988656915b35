"""Estimate the taps of sounding frames from all their cells."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from receiver.channel.estimate import fourier_matrix
from receiver.sync.frame import SyncedFrame
from sdr.layout import FrameLayout

_WELL_CONDITIONED = 30.0
_EM_STEPS = 100


@dataclass(frozen=True, eq=False)
class TapFit:
    """Taps of F frames.

    Attributes:
        taps: complex (F, L) taps.
        power: (L,) mean power of each tap without the noise.
        taps_var: (L,) variance of the noise on each tap, in the mean over frames.
        error_var: (F,) power per cell of what is left when the fitted channel is taken off, unbiased.
    """

    taps: NDArray[np.complex128]
    power: NDArray[np.float64]
    taps_var: NDArray[np.float64]
    error_var: NDArray[np.float64]


def well_conditioned(layout: FrameLayout, length: int) -> bool:
    """Return whether `length` taps can be estimated from a single frame: the carriers fill the band."""
    fourier = fourier_matrix(np.asarray(layout.active), length, layout.fft_size)
    return bool(np.linalg.cond(fourier.conj().T @ fourier) < _WELL_CONDITIONED)


def num_cells(layout: FrameLayout) -> int:
    """Return how many known cells a frame has: preamble A fills every other carrier only."""
    return (layout.num_symbols - 1) * layout.num_active + int(np.count_nonzero(layout.preamble_a))


def fit_taps(
    frames: Sequence[SyncedFrame],
    sent: Sequence[NDArray[np.complex128]],
    shift: NDArray[np.float64],
    layout: FrameLayout,
    length: int,
    alike: bool,
) -> TapFit:
    """Estimate the taps of F frames.

    Least squares where the carriers fill the band. Where they don't, a single frame can't separate taps a sample
    apart; there the powers are those that make what was received most likely (expectation maximisation), and the taps
    are the LMMSE estimates under them.

    Args:
        frames: F frames.
        sent: complex (symbols, A) cells of each as they left the transmitter.
        shift: (F,) samples by which each frame's windows open behind the first tap.
        layout: layout of the frames.
        length: L.
        alike: whether the sent cells' magnitudes are the same in all frames, as without an amplifier.
    """
    bins, signed = layout.active_bins, np.asarray(layout.active)
    fourier = fourier_matrix(signed, length, layout.fft_size)
    matched = np.empty((len(frames), length), dtype=np.complex128)
    received_power = np.empty(len(frames))
    grams = np.zeros((1 if alike else len(frames), length, length), dtype=np.complex128)
    for row, frame in enumerate(frames):
        x = sent[row]
        y = np.concatenate([frame.preamble_grid, frame.header_grid, frame.grid])[:, bins].astype(np.complex128)
        y = y * np.exp(-2j * np.pi / layout.fft_size * signed * shift[row])
        if row < len(grams):
            grams[row] = fourier.conj().T @ (np.sum(np.abs(x) ** 2, axis=0)[:, None] * fourier)
        matched[row] = np.sum(y * x.conj(), axis=0) @ fourier.conj()
        received_power[row] = np.sum(np.abs(y) ** 2) - _unsent(y, layout)
    freedom = num_cells(layout) - length

    def error_of(taps: NDArray[np.complex128]) -> NDArray[np.float64]:
        cross = np.sum(taps.conj() * matched, axis=1).real
        fitted = np.sum(taps.conj() * (grams @ taps[:, :, None])[:, :, 0], axis=1).real
        return np.maximum(received_power - 2 * cross + fitted, 1e-30) / freedom

    if well_conditioned(layout, length):
        inverse = np.linalg.inv(grams)
        taps = (inverse @ matched[:, :, None])[:, :, 0]
        error = error_of(taps)
        noise = np.real(np.diag(inverse.mean(axis=0))).astype(np.float64) * float(error.mean())
        return TapFit(taps, np.mean(np.abs(taps) ** 2, axis=0) - noise, noise, error)
    ridge = float(np.trace(grams[0]).real) / length
    taps = (np.linalg.inv(grams + 1e-3 * ridge * np.eye(length)) @ matched[:, :, None])[:, :, 0]
    power = np.mean(np.abs(taps) ** 2, axis=0)
    spread = np.ones(length)
    for _ in range(_EM_STEPS):
        noise_var = float(error_of(taps).mean())
        floor = 1e-9 * float(power.max())
        covariance = np.linalg.inv(grams / noise_var + np.diag(1 / np.maximum(power, floor)))
        taps = (covariance @ matched[:, :, None])[:, :, 0] / noise_var
        spread = np.real(np.einsum("fll->fl", covariance)).mean(axis=0)
        power = np.mean(np.abs(taps) ** 2, axis=0) + spread
    return TapFit(taps, power, spread, error_of(taps))


def _unsent(y: NDArray[np.complex128], layout: FrameLayout) -> float:
    """Return the power on the carriers of preamble A that nothing was sent on."""
    empty = np.asarray(layout.preamble_a)[layout.active_bins] == 0
    return float(np.sum(np.abs(y[0, empty]) ** 2))
