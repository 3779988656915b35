"""Estimate what is left of carrier offset, sampling-clock offset (SFO) and delay within a frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import any_antenna, balanced, pooled, shared
from receiver.sync.arrays import fft, squared_magnitude, turn
from receiver.sync.batch import Batch, FrameSamples
from receiver.sync.frame import Complex, timing_advance
from receiver.sync.known import completed, known_symbols, matched_filter
from sdr.layout import FrameLayout


def symbol_times(layout: FrameLayout, first: int, count: int) -> NDArray[np.float64]:
    """Return the seconds from the frame's start to the middle of each symbol's window, (count,)."""
    centre = layout.cp_samples + (layout.fft_size - 1) / 2
    return ((first + np.arange(count, dtype=np.float64)) * layout.symbol_samples + centre) / layout.rate_sps


def gathered(products: NDArray[np.complex64], spin: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Sum products (F, M, N) over the symbols, each turned by spin (F, M); (F, N)."""
    sums: Any = spin[:, None, :] @ products
    return sums[:, 0]


def against(products: NDArray[np.complex64], response: NDArray[Any]) -> NDArray[np.complex64]:
    """Sum products (F, M, N) over the carriers against the channel (F, N) that all symbols together show; (F, M)."""
    sums: Any = products @ response.conj().astype(np.complex64)[:, :, None]
    return sums[:, :, 0]


def newton_step(value: Complex, first: Complex, second: Complex) -> NDArray[np.float64]:
    """Return Newton's step (F,) towards the peak of |f(x)|^2 from f and its first two derivatives (F,).

    It is 0 where the place is no hill.
    """
    rise = 2 * (first * value.conj()).real
    bend = 2 * (squared_magnitude(first) + (second * value.conj()).real)
    return np.where(bend < 0, -rise / np.where(bend < 0, bend, 1.0), 0.0)


def slope(sums: NDArray[np.complex64], times: NDArray[np.float64], limit_hz: float) -> NDArray[np.float64]:
    """Return the carrier offset f (F,), Hz, left in known symbols: the peak of |sum_m sums_m exp(-2 pi i f t_m)|^2.

    Args:
        sums: (F, M), see `against`.
        times: (M,) s.
        limit_hz: largest offset that is tried.
    """
    exact: Any = sums.astype(np.complex128)
    centred = 2 * np.pi * (times - times.mean())
    trial = np.linspace(-limit_hz, limit_hz, 129)
    best = trial[squared_magnitude(exact @ np.exp(-1j * trial[:, None] * centred).T).argmax(axis=1)]
    for _ in range(3):
        turned: Any = exact * np.exp(-1j * best[:, None] * centred)
        move = newton_step(turned.sum(axis=1), -1j * (turned @ centred), -(turned @ centred**2))
        # At most one step of the grid.
        best = best + np.clip(move, trial[0] - trial[1], trial[1] - trial[0])
    return best


def blind_slope(
    squares: NDArray[Any], times: NDArray[np.float64], anchor_s: float, limit_hz: float
) -> NDArray[np.float64]:
    """Return the carrier offset (F,), Hz, left in BPSK symbols: the slope of half the phase of their summed squares.

    Args:
        squares: (F, M) sum of (conj(H) y)^2 over the carriers, with phases relative to the time `anchor_s`.
        times: (M,) s.
        anchor_s: see `squares`.
        limit_hz: largest offset that is tried.
    """
    trial = np.linspace(-limit_hz, limit_hz, 257)
    turns = np.exp(-4j * np.pi * trial[:, None] * (times - anchor_s)[None, :])
    return trial[(squares.astype(np.complex128) @ turns.T).real.argmax(axis=1)]


def strongest_arrival(
    matched: NDArray[Any], correlated: NDArray[np.complex64], signed: NDArray[Any], reach: int
) -> NDArray[np.float64]:
    """Return the delay (F,) of the strongest path, samples: the matched filter's peak, also between its samples.

    Args:
        matched: (F, N).
        correlated: (F, N), its transform.
        signed: (N,) carrier numbers, negative ones in the second half.
        reach: largest delay that is looked at, samples.
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
        move = newton_step(sums[:, 0], 1j * sums[:, 1], -sums[:, 2])
        delay = np.clip(delay + move, first - 0.5, first + 0.5)
    return delay


@dataclass(frozen=True, eq=False)
class Aligned:
    """Frames whose timing and carrier offset are final.

    Attributes:
        batch: with `start`, `cfo_hz` and `turns` as they are now.
        products: (F, M, N) complex64, weighted.
        spin: (F, H) complex64.
        correlated: (F, N) complex64.
        matched: (F, N) complex64.
    """

    batch: Batch
    products: NDArray[np.complex64]
    spin: NDArray[np.complex64]
    correlated: NDArray[np.complex64]
    matched: NDArray[np.complex64]


def align(samples: FrameSamples, batch: Batch) -> Aligned:
    """Refine timing and carrier offset by the known symbols; overwrites the batch's grid."""
    layout, count, full = samples.layout, batch.num_known, batch.grid.shape[1]
    known, advance = known_symbols(layout), timing_advance(layout)
    times, all_times = symbol_times(layout, 0, count), symbol_times(layout, 0, full)
    limit_hz = 0.05 / (layout.symbol_samples / layout.rate_sps * 2)
    grid, noise_var, power, antennas = batch.grid, batch.noise_var, batch.power, batch.antennas

    def offset_left(rows: Any, products: Any, spin: Any, matched: Any) -> NDArray[np.float64]:
        taps = flat.estimate(matched, noise_var[rows], power[rows])
        response = fft(taps.astype(np.complex64), n=layout.fft_size) * known.mask
        sums = balanced(against(products, response), noise_var[rows], antennas)
        return slope(pooled(sums, antennas) * spin, times, limit_hz)

    weighted = batch.weighted
    products = grid[:, :count] * weighted
    spin = turn(batch.turns)[:, :count]
    lacking, flat = batch.lacking, known.flat[count]
    matched = matched_filter(completed(gathered(products, spin), lacking, flat, noise_var, power))
    # Without noise the evidence is a difference of large numbers.
    evidence = known.arrival[count]
    move = evidence.arrival(matched.astype(np.complex128), noise_var, power, advance + 2, 1, antennas) - advance
    change_hz = np.zeros(len(batch))
    if batch.header_read:
        change_hz = offset_left(slice(None), products, spin, matched)
    start, cfo_hz = batch.start + move, batch.cfo_hz + change_hz
    turns = batch.turns - change_hz[:, None] * all_times
    # Turning whole symbols leaves the offset's leakage between carriers; where that or a moved window would show above
    # the noise, the symbols are taken from the samples again.
    leak = (np.pi * change_hz / layout.carrier_spacing_hz) ** 2 / 3 * power
    stale = np.flatnonzero(any_antenna(batch.moved | (move != 0) | (leak > 0.02 * noise_var), antennas))
    if stale.size:
        fresh, turns[stale] = samples.symbols(start[stale], cfo_hz[stale], 0, full)
        grid[stale] = fresh
        products[stale] = part = fresh[:, :count] * weighted[stale]
        if batch.header_read:
            spin = turn(turns[stale, :count])
            again_hz = offset_left(stale, part, spin, matched_filter(gathered(part, spin)))
            turns[stale] -= again_hz[:, None] * all_times
            cfo_hz[stale] += again_hz
    spin = turn(turns)
    correlated = completed(gathered(products, spin[:, :count]), lacking, flat, noise_var, power)
    batch = replace(batch, start=start, cfo_hz=cfo_hz, turns=turns)
    return Aligned(batch, products, spin, correlated, matched_filter(correlated))


@dataclass(frozen=True, eq=False)
class SymbolOffsets:
    """Phase and delay of known symbols on top of a channel.

    Attributes:
        phase: (F, M) rad.
        delay: (F, M) samples.
        phase_var: (F,) variance of a phase per unit of noise power, of which antennas count by their mean.
        delay_var: (F,) the same of a delay.
        trust: (F, M) by how much less a symbol counts than the one that is least noisy, 0..1.
    """

    phase: NDArray[np.float64]
    delay: NDArray[np.float64]
    phase_var: NDArray[np.float64]
    delay_var: NDArray[np.float64]
    trust: NDArray[np.float64]


def symbol_offsets(
    products: NDArray[np.complex64],
    spin: NDArray[np.complex64],
    response: NDArray[np.complex64],
    weight: NDArray[np.float32] | None,
    omega: NDArray[Any],
    noise_var: NDArray[np.float64],
    antennas: int,
) -> SymbolOffsets:
    """Estimate phase and delay of symbols of known unit-modulus cells.

    Args:
        products: (F, M, N), to be turned by spin (F, M).
        spin: see `products`.
        response: (F, N).
        weight: (F, M, N) in the products, None for 1.
        omega: (N,).
        noise_var: (F,).
        antennas: A.
    """
    strength = squared_magnitude(response).astype(np.float64)
    each = strength[:, None, :] if weight is None else strength[:, None, :] * weight
    each = pooled(balanced(each, noise_var, antennas), antennas)
    energies = np.maximum(each.sum(axis=2), 1e-300)
    best = np.arange(len(energies)), energies.argmax(axis=1)
    strength, energy = each[best], energies[best]
    middle = (strength @ omega) / energy
    spread = np.maximum((strength @ omega**2) - middle**2 * energy, 1e-300)
    # What jams a carrier jams it in all symbols, so that their weights differ by little but a factor.
    trust = np.broadcast_to(energies / energy[:, None], products.shape[:2])
    gain = response.conj()
    kernel = np.stack([gain, gain * (omega - middle[:, None]).astype(np.float32)], axis=2)
    sums: Any = (products @ kernel * spin[:, :, None]).astype(np.complex128)
    sums = pooled(balanced(sums, noise_var, antennas), antennas)
    phase = np.angle(sums[:, :, 0])
    delay = -(sums[:, :, 1] * np.exp(-1j * phase)).imag / (spread[:, None] * trust)
    return SymbolOffsets(phase, delay, 0.5 / energy, 0.5 / spread, trust)


def header_offsets(aligned: Aligned, layout: FrameLayout) -> SymbolOffsets | None:
    """Estimate phase and delay of preamble B and the header's symbols; None where the header is not read.

    Preamble A is left out: it is on half of the carriers only.
    """
    batch, known = aligned.batch, known_symbols(layout)
    if not batch.header_read:
        return None
    taps = known.flat[batch.num_known].estimate(aligned.matched, batch.noise_var, batch.power)
    response = fft(taps.astype(np.complex64), n=layout.fft_size) * known.mask
    turned = aligned.products[:, 1:], aligned.spin[:, 1 : batch.num_known]
    weight = None if batch.weight is None else batch.weight[:, 1 : batch.num_known]
    return symbol_offsets(*turned, response, weight, known.omega, batch.noise_var, batch.antennas)


@dataclass(frozen=True, eq=False)
class Clock:
    """Carrier and sampling clock of F frames as the known symbols show them, with their errors.

    Attributes:
        measured: whether there were enough known symbols; if not, SFO and phase are unknown.
        middle_s: mean time of the known symbols, about which carrier phase and delay are fitted.
        cfo_std_hz: (F,) standard error of the carrier offset.
        sfo_ppm: (F,) how much faster the transmitter's sampling clock was measured to be.
        sfo_std_ppm: (F,) its standard error.
        settled_ppm: (F,) the SFO to correct, see `settled_sfo`.
        settled_var: (F,) variance of its error, ppm^2.
        jitter_rad: (F,) rms phase of the header's symbols about a straight line, the noise's part taken off.
        near_var: (F,) variance of that phase within as many symbols as carry data, rad^2.
        slope_var: (F,) variance of the phase's slope, (rad/s)^2.
    """

    measured: bool
    middle_s: float
    cfo_std_hz: NDArray[np.float64]
    sfo_ppm: NDArray[np.float64]
    sfo_std_ppm: NDArray[np.float64]
    settled_ppm: NDArray[np.float64]
    settled_var: NDArray[np.float64]
    jitter_rad: NDArray[np.float64]
    near_var: NDArray[np.float64]
    slope_var: NDArray[np.float64]


def measure_clock(
    batch: Batch,
    offsets: SymbolOffsets | None,
    noise_var: NDArray[np.float64],
    power: NDArray[np.float64],
    layout: FrameLayout,
    center_hz: float,
) -> Clock:
    """Fit a line through the phases and one through the delays of the header's symbols.

    Args:
        batch: aligned.
        offsets: of all known symbols but preamble A; fewer than three of them say nothing of a clock.
        noise_var: (F,) as finally measured.
        power: (F,) likewise.
        layout: of the frames.
        center_hz: carrier frequency, 0 where it is not known.
    """
    times = symbol_times(layout, 0, batch.num_known)
    weights = 2 * power * np.sum((times - times.mean()) ** 2) * layout.num_active / noise_var
    weights, noise_var = pooled(weights, batch.antennas), shared(noise_var, batch.antennas)
    cfo_std_hz = 1.0 / (2 * math.pi * np.sqrt(weights))
    count = len(batch)
    sfo_ppm, sfo_std_ppm, jitter = np.zeros(count), np.full(count, np.inf), np.zeros(count)
    near_var = slope_var = np.zeros(count)
    measured = offsets is not None and batch.num_known > 3
    if offsets is not None and measured:
        trust, total = offsets.trust, offsets.trust.sum(axis=1, keepdims=True)
        when = times[1:] - (trust @ times[1:])[:, None] / total
        lever = np.sum(trust * when**2, axis=1)
        # A clock that is fast at the transmitter makes symbols arrive ever earlier.
        sfo_ppm = -np.sum(trust * offsets.delay * when, axis=1) / lever / layout.rate_sps * 1e6
        sfo_std_ppm = np.sqrt(noise_var * offsets.delay_var / lever) / layout.rate_sps * 1e6
        phase = offsets.phase
        straight = phase - np.sum(trust * phase, axis=1, keepdims=True) / total
        straight = (straight - (np.sum(trust * phase * when, axis=1) / lever)[:, None] * when) * np.sqrt(trust)
        noise = noise_var * offsets.phase_var
        jitter = np.sqrt(np.maximum(np.sum(straight**2, axis=1) / (batch.num_known - 3) - noise, 0.0))
        # Within as many symbols as carry data the phase wanders less.
        width = min(max(layout.data_symbols, 2), batch.num_known - 1)
        near = np.lib.stride_tricks.sliding_window_view(straight, width, axis=1)
        near_var = np.maximum(near.var(axis=2, ddof=1).mean(axis=1) - noise, 0.0)
        # The header's line is as uncertain as noise and jitter make it.
        slope_var = (2 * np.pi * cfo_std_hz) ** 2 + jitter**2 / np.sum((times[1:] - times[1:].mean()) ** 2)
    settled_ppm, settled_var = settled_sfo(sfo_ppm, sfo_std_ppm, batch.cfo_hz, cfo_std_hz, center_hz)
    return Clock(
        measured=measured,
        middle_s=float(times.mean()),
        cfo_std_hz=cfo_std_hz,
        sfo_ppm=sfo_ppm,
        sfo_std_ppm=sfo_std_ppm,
        settled_ppm=settled_ppm,
        settled_var=settled_var,
        jitter_rad=jitter,
        near_var=near_var,
        slope_var=slope_var,
    )


def settled_sfo(
    sfo_ppm: NDArray[np.float64],
    sfo_std_ppm: NDArray[np.float64],
    cfo_hz: NDArray[np.float64],
    cfo_std_hz: NDArray[np.float64],
    center_hz: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Choose the SFO to correct: the carrier's where it fits the measured one, else that if it is significant, else 0.

    Returns:
        SFO (F,), ppm, and the variance (F,) of its error, ppm^2.
    """
    measured = np.where(np.abs(sfo_ppm) > 4 * sfo_std_ppm, sfo_ppm, 0.0)
    if center_hz <= 0:
        return measured, sfo_std_ppm**2
    tied = cfo_hz / center_hz * 1e6
    # A transmitter tuned off on purpose has a carrier offset that its clock does not share.
    fits = np.abs(sfo_ppm - tied) <= 3 * sfo_std_ppm
    return np.where(fits, tied, measured), np.where(fits, (cfo_std_hz / center_hz * 1e6) ** 2, sfo_std_ppm**2)
