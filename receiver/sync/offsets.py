"""Estimate what is left of carrier offset, clock offset and delay within a frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import squared_magnitude, turn
from sdr.layout import FrameLayout


def symbol_times(layout: FrameLayout, first: int, count: int) -> NDArray[np.float64]:
    """(count,) seconds from the frame's start to the centre of each symbol's window."""
    centre = layout.cp_samples + (layout.fft_size - 1) / 2
    return ((first + np.arange(count, dtype=np.float64)) * layout.symbol_samples + centre) / layout.rate_sps


def gathered(products: NDArray[np.complex64], spin: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(F, N) sum of Y X^* (F, M, N) over the symbols, each turned by spin (F, M)."""
    sums: Any = spin[:, None, :] @ products
    return sums[:, 0]


def against(products: NDArray[np.complex64], response: NDArray[Any]) -> NDArray[np.complex64]:
    """(F, M) sum of Y X^* (F, M, N) over the carriers against the channel (F, N) that all symbols together show."""
    sums: Any = products @ response.conj().astype(np.complex64)[:, :, None]
    return sums[:, :, 0]


def slope(sums: NDArray[np.complex64], times: NDArray[np.float64], limit_hz: float) -> NDArray[np.float64]:
    """(F,) carrier offset (Hz) left in known symbols: maximises |sum_m e^-2ipift sums|^2; sums (F, M) of `_against`."""
    exact: Any = sums.astype(np.complex128)
    centred = 2 * np.pi * (times - times.mean())
    trial = np.linspace(-limit_hz, limit_hz, 129)
    best = trial[squared_magnitude(exact @ np.exp(-1j * trial[:, None] * centred).T).argmax(axis=1)]
    for _ in range(3):
        turned: Any = exact * np.exp(-1j * best[:, None] * centred)
        c0, c1, c2 = turned.sum(axis=1), -1j * (turned @ centred), -(turned @ centred**2)
        rise, bend = 2 * (c1 * c0.conj()).real, 2 * (squared_magnitude(c1) + (c2 * c0.conj()).real)
        # Newton's step where the fit is a hill, at most one step of the grid.
        move = np.where(bend < 0, -rise / np.where(bend < 0, bend, 1.0), 0.0)
        best = best + np.clip(move, trial[0] - trial[1], trial[1] - trial[0])
    return best


def blind_slope(
    squares: NDArray[Any], times: NDArray[np.float64], anchor_s: float, limit_hz: float
) -> NDArray[np.float64]:
    """(F,) carrier offset left in BPSK symbols: the slope (Hz) of half the phase of their summed squares.

    squares (F, M) is the sum of (conj(H) y)^2 over the carriers, with phases relative to time `anchor_s`.
    """
    trial = np.linspace(-limit_hz, limit_hz, 257)
    turns = np.exp(-4j * np.pi * trial[:, None] * (times - anchor_s)[None, :])
    return trial[(squares.astype(np.complex128) @ turns.T).real.argmax(axis=1)]


def strongest_arrival(
    matched: NDArray[Any], correlated: NDArray[np.complex64], signed: NDArray[Any], reach: int
) -> NDArray[np.float64]:
    """(F,) delay of the strongest path, samples: the peak of the matched filter, also between its samples.

    matched (F, N) is the transform of correlated (F, N), X^* Y summed over symbols.
    """
    size = matched.shape[1]
    lags = np.arange(-4, reach + 1)
    strongest = lags[squared_magnitude(np.take(matched, lags % size, axis=1)).argmax(axis=1)].astype(np.float64)
    # Half way between two samples the peak may be no hill any more: begin on the better side of each.
    sides = np.array([-0.5, -0.25, 0.0, 0.25, 0.5])
    turned: Any = correlated * turn(strongest[:, None] * (signed / size))
    fits = squared_magnitude(turned @ turn(signed[:, None] / size * sides))
    first = strongest + sides[fits.argmax(axis=1)]
    delay = first
    omega = 2 * np.pi / size * signed
    moments = np.stack([np.ones(size), omega, omega**2], axis=1).astype(np.complex64)
    for _ in range(2):
        turned = correlated * turn(delay[:, None] * (signed / size))
        sums = (turned @ moments).astype(np.complex128)
        c0, c1, c2 = sums[:, 0], 1j * sums[:, 1], -sums[:, 2]
        rise, bend = 2 * (c1 * c0.conj()).real, 2 * (squared_magnitude(c1) + (c2 * c0.conj()).real)
        move = np.where(bend < 0, -rise / np.where(bend < 0, bend, 1.0), 0.0)
        delay = np.clip(delay + move, first - 0.5, first + 0.5)
    return delay


def phase_and_delay(
    products: NDArray[np.complex64], spin: NDArray[np.complex64], response: NDArray[np.complex64], omega: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What known unit-modulus cells tell of each symbol: products Y X^* (F, M, A), to be turned by spin (F, M),
    response (F, A), omega (A,) radians.

    Returns:
        Phase in radians and delay in samples on top of the response, both (F, M), and their variances per unit of
        noise power, both (F,).
    """
    weight = squared_magnitude(response).astype(np.float64)
    energy = np.maximum(weight.sum(axis=1), 1e-300)
    middle = (weight @ omega) / energy
    spread = np.maximum((weight @ omega**2) - middle**2 * energy, 1e-300)
    gain = response.conj()
    kernel = np.stack([gain, gain * (omega - middle[:, None]).astype(np.float32)], axis=2)
    sums = (products @ kernel * spin[:, :, None]).astype(np.complex128)
    phase = np.angle(sums[:, :, 0])
    delay = -(sums[:, :, 1] * np.exp(-1j * phase)).imag / spread[:, None]
    return phase, delay, 0.5 / energy, 0.5 / spread


def settled_drift(
    drift_ppm: NDArray[np.float64],
    drift_std: NDArray[np.float64],
    cfo_hz: NDArray[np.float64],
    cfo_std: NDArray[np.float64],
    center_hz: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) drift that is corrected: the carrier's where it fits the measured one, else that if it is significant.

    And the variance of its error, ppm^2.
    """
    measured = np.where(np.abs(drift_ppm) > 4 * drift_std, drift_ppm, 0.0)
    if center_hz <= 0:
        return measured, drift_std**2
    tied = cfo_hz / center_hz * 1e6
    # A transmitter tuned off on purpose has a carrier offset that its clock does not share.
    fits = np.abs(drift_ppm - tied) <= 3 * drift_std
    return np.where(fits, tied, measured), np.where(fits, (cfo_std / center_hz * 1e6) ** 2, drift_std**2)
