"""Track phase and delay of each OFDM symbol over pilots and data, and take them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import any_antenna, balanced, pooled, shared
from receiver.sync.arrays import turn
from receiver.sync.frame import Complex
from receiver.sync.known import known_symbols
from receiver.sync.levels import Levels
from receiver.sync.offsets import Clock, symbol_times
from sdr.layout import FrameLayout


@dataclass(frozen=True, eq=False)
class Tracked:
    """Pilots and data of F frames with the symbols turned against each other.

    Attributes:
        tail: (F, P + S, N) complex64.
        phase_rad: (F, P + S) common phase that was removed from each symbol.
        early_samples: (F, P + S) by how much each symbol was taken to be early; removed.
        phase_left_rad: (F,) standard error of what is left of it in data symbols, rms; infinite where it is unknown.
        timing_left_samples: (F,) the same of the delay.
        sfo_ppm: (F,) SFO that was corrected.
    """

    tail: NDArray[np.complex64]
    phase_rad: NDArray[np.float64]
    early_samples: NDArray[np.float64]
    phase_left_rad: NDArray[np.float64]
    timing_left_samples: NDArray[np.float64]
    sfo_ppm: NDArray[np.float64]


def straighten(
    tail: NDArray[np.complex64],
    layout: FrameLayout,
    response: NDArray[Any],
    weight: NDArray[np.float32] | None,
    level: Levels,
    clock: Clock,
    antennas: int,
) -> Tracked:
    """Take SFO and common phase out of pilots and data.

    Args:
        tail: (F, P + S, N), overwritten.
        layout: of the frames.
        response: (F, N).
        weight: (F, N) of the carriers, None for 1.
        level: noise and signal.
        clock: what preambles and header say of carrier and clock.
        antennas: A, whose rows are turned alike.
    """
    omega, pilots = known_symbols(layout).omega, layout.pilot_symbols
    times = symbol_times(layout, layout.first_pilot_symbol, tail.shape[1])
    sfo_ppm = clock.settled_ppm.copy()
    early = sfo_ppm[:, None] * 1e-6 * layout.rate_sps * times
    if np.any(sfo_ppm):
        tail *= turn(-early[:, :, None] * omega / (2 * np.pi))
    phase = np.zeros(tail.shape[:2])
    phase_left = timing_left = np.full(len(tail), np.inf)
    if clock.measured:
        away = times[pilots:] - clock.middle_s
        phase_left = np.sqrt(clock.slope_var * np.mean(away**2) + clock.jitter_rad**2)
        timing_left = np.sqrt(clock.settled_var * np.mean(away**2)) * layout.rate_sps * 1e-6
    if layout.tracking:
        phase, phase_left = track(tail, layout, response, weight, level.level, antennas)
        tail *= turn(-phase / (2 * np.pi))[:, :, None]
    elif layout.data_symbols > 1 and clock.measured and not layout.pilot_rows.size:
        # Only where it would show above the noise: phase and delay, as the error power that they make of the signal.
        shown = phase_left**2 + timing_left**2 * np.mean(omega[layout.active_bins] ** 2)
        rows = np.flatnonzero(any_antenna(shown * level.power > 0.02 * level.level, antennas))
        if rows.size:
            of_rows = None if weight is None else weight[rows]
            squares = Squares(tail[rows], layout, response[rows], of_rows, level.level[rows], antennas)
            phase[rows], phase_left[rows] = squares.phase(times, clock.slope_var[rows], clock.near_var[rows])
            more_ppm, timing_left[rows] = squares.sfo(times, clock.settled_var[rows])
            sfo_ppm[rows] += more_ppm
            more = more_ppm[:, None] * 1e-6 * layout.rate_sps * (times - times.mean())
            tail[rows] *= turn(-phase[rows, :, None] / (2 * np.pi) - more[:, :, None] * omega / (2 * np.pi))
            early[rows] += more
    return Tracked(tail, phase, early, phase_left, timing_left, sfo_ppm)


class Squares:
    """Squares of the data cells, which show phase and delay of data symbols against each other without decisions.

    The cells are descrambled and equalised, z_hat = conj(H) y / (|H|^2 + noise), antennas combined. Unless the codec's
    symbols are circular, the sum of their squares over a symbol points into the same direction in all symbols of a
    frame, but for twice the symbol's phase (and, over the carriers, twice the slope that a delay makes).
    """

    def __init__(
        self,
        tail: NDArray[np.complex64],
        layout: FrameLayout,
        response: NDArray[Any],
        weight: NDArray[np.float32] | None,
        noise_var: NDArray[np.float64],
        antennas: int,
    ) -> None:
        self.layout = layout
        scramble = np.zeros(layout.data_symbols * layout.fft_size, dtype=np.complex64)
        scramble[layout.cell_index] = layout.cell_scramble
        bins = layout.active_bins
        response = response[:, bins]
        weighted = response if weight is None else response * weight[:, bins]
        power: Any = response.conj() * weighted
        energy = pooled(balanced(power.real, noise_var, antennas), antennas)
        gain = balanced(weighted.conj(), noise_var, antennas) / (energy + shared(noise_var, antennas)[:, None])
        cells: Any = pooled(tail[:, layout.pilot_symbols :, bins] * gain[:, None, :], antennas)
        self.squares: Complex = (cells * scramble.reshape(layout.data_symbols, -1)[:, bins].conj()) ** 2
        sums = self.squares.sum(axis=2)
        # About the direction that all symbols share.
        self.squares *= np.exp(-1j * np.angle(sums.sum(axis=1)))[:, None, None]
        # Variance of a sum's component across that direction.
        spread = np.sum(self.squares.imag**2, axis=2).mean(axis=1)
        along = self.squares.real.sum(axis=2).mean(axis=1)
        # The part of the length that is no accident; symbols that are circular have none, and say nothing.
        length = np.sqrt(np.maximum(along**2 - 2 * spread / layout.data_symbols, 1e-6 * spread))
        # Where nothing was sent at all, all is zero.
        self.length = np.maximum(length, 1e-30)
        self.turn = 0.5 * np.angle(self.squares.sum(axis=2))
        turn_var = np.where(length > 0, spread, np.inf) / (4 * self.length**2)
        self.turn_var = np.clip(turn_var, 1e-12, 1e6)[:, None]

    def phase(
        self, tail_times: NDArray[np.float64], slope_var: NDArray[np.float64], jitter_var: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate the symbols' phase: a slope and what is left of each data symbol, both shrunk by their variance.

        Args:
            tail_times: (P + S,) of the symbols, s.
            slope_var: (F,) variance of the slope before, (rad/s)^2.
            jitter_var: (F,) variance of a symbol's phase about it before, rad^2.

        Returns:
            phase (F, P + S), rad, and the standard error (F,) that is left, rms over data symbols.
        """
        times = tail_times[self.layout.pilot_symbols :]
        away, middle = times - times.mean(), self.turn.mean(axis=1, keepdims=True)
        ml_var = (self.turn_var[:, 0] + jitter_var) / np.sum(away**2)
        trust = slope_var / (slope_var + ml_var)
        slope = trust * ((self.turn - middle) @ away) / np.sum(away**2)
        kept = jitter_var[:, None] / (jitter_var[:, None] + self.turn_var)
        phase = slope[:, None] * (tail_times - times.mean())
        phase[:, self.layout.pilot_symbols :] += kept * (self.turn - middle - slope[:, None] * away)
        left = slope_var * (1 - trust) * np.mean(away**2) + (kept * self.turn_var)[:, 0]
        return phase, np.sqrt(left)

    def sfo(
        self, tail_times: NDArray[np.float64], sfo_var: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate the SFO that is left, shrunk by its variance.

        Args:
            tail_times: (P + S,) of the symbols, s.
            sfo_var: (F,) variance of the SFO before, ppm^2.

        Returns:
            SFO (F,), ppm, and the standard error (F,) of the delay that is left, samples.
        """
        layout = self.layout
        times = tail_times[layout.pilot_symbols :]
        omega = 2 * np.pi / layout.fft_size * np.array(layout.active, dtype=np.float64)
        omega = omega - omega.mean()
        turned = self.squares * np.exp(-2j * self.turn)[:, :, None]
        lever = self.length * np.mean(omega**2)
        delay = -(turned.imag @ omega) / (2 * lever[:, None])
        delay_var = np.clip((turned.imag**2 @ omega**2).mean(axis=1) / (4 * lever**2), 1e-12, 1e6)
        away = times - times.mean()
        information = np.sum(away**2) / delay_var
        # A clock that is fast at the transmitter makes symbols arrive ever earlier.
        scale = 1e6 / layout.rate_sps
        slope = -(delay @ away) / np.sum(away**2) * scale
        trust = sfo_var / (sfo_var + scale**2 / information)
        left = sfo_var * (1 - trust) * np.mean(away**2) / scale**2
        return slope * trust, np.sqrt(left)


def track(
    tail: NDArray[np.complex64],
    layout: FrameLayout,
    response: NDArray[Any],
    weight: NDArray[np.float32] | None,
    noise_var: NDArray[np.float64],
    antennas: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate the phase of pilot and data symbols against preambles and header from pilots and tracking carriers.

    It is shrunk by its own uncertainty against the phase it would have without any noise of the oscillators (none), so
    that few tracking carriers at low SNR do no harm.

    Args:
        tail: (F, P + S, N).
        layout: of the frames, with tracking carriers.
        response: (F, N).
        weight: (F, N) of the carriers, None for 1.
        noise_var: (F,) that weights refer to.
        antennas: A.

    Returns:
        phase (F, P + S), rad, and the standard error (F,) that is left in data symbols, rms.
    """
    pilots, first = layout.pilot_symbols, layout.tracking_bins
    sums, energy = [], []
    for bins, rows, values in (
        (layout.active_bins, slice(0, pilots), layout.pilots[:, layout.active_bins]),
        (first, slice(pilots, None), layout.tracking_symbols),
    ):
        gain = response[:, None, bins] * values
        weighted = gain if weight is None else gain * weight[:, None, bins]
        sums.append(np.sum(tail[:, rows, bins] * weighted.conj(), axis=2))
        energy.append(np.sum((gain.conj() * weighted).real, axis=2))
    correlated, power = (
        pooled(balanced(np.concatenate(parts, axis=1), noise_var, antennas), antennas) for parts in (sums, energy)
    )
    phase = np.angle(correlated)
    variance = 0.5 * shared(noise_var, antennas)[:, None] / np.maximum(power, 1e-300)
    spread = np.maximum(np.mean(phase**2, axis=1, keepdims=True) - variance.mean(axis=1, keepdims=True), 0.0)
    kept = spread / np.maximum(spread + variance, 1e-300)
    return phase * kept, np.sqrt(np.mean((kept * variance)[:, pilots:], axis=1))
