"""Read frames: header, grid and all that is measured of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import fft, mean_power, ramp, turn
from receiver.sync.detection import Hits, window_taps
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.known import known_symbols, matched_filter, transmitted
from receiver.sync.levels import active_carriers, combine, header_scatter, levels, quiet
from receiver.sync.offsets import (
    against,
    blind_slope,
    gathered,
    phase_and_delay,
    settled_drift,
    slope,
    strongest_arrival,
    symbol_times,
)
from receiver.sync.tracking import Squares, track
from sdr.header import FrameHeader, decode_headers
from sdr.layout import FrameLayout

_BATCH_SAMPLES = 1 << 18


class _Frames:
    """The samples of F frames, and their symbols under given starts and carrier offsets."""

    def __init__(self, samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout) -> None:
        self.samples, self.dc_offset, self.layout = samples, dc_offset, layout

    def symbols(
        self, start: NDArray[np.int64], cfo_hz: NDArray[np.float64], first: int, count: int
    ) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
        """(F, count, N) grid of symbols from `first` on, and (F, count) cycles by which each has yet to be turned."""
        layout, size = self.layout, self.layout.fft_size
        begin = start[:, None] + (first + np.arange(count)) * layout.symbol_samples + layout.cp_samples
        if begin.size and begin.min() >= 0 and begin.max() + size <= self.samples.size:
            windows = np.lib.stride_tricks.sliding_window_view(self.samples, size)[begin]
        else:
            # A start tried past either end reads the edge's sample again; such a frame is dropped later.
            windows = self.samples[np.clip(begin[..., None] + np.arange(size), 0, self.samples.size - 1)]
        if self.dc_offset:
            windows -= np.complex64(self.dc_offset)
        turns = cfo_hz / layout.rate_sps
        windows *= ramp(-turns, size)[:, None, :]
        grid = fft(windows, axis=-1, norm="ortho", overwrite_x=True)
        return grid, -turns[:, None] * (begin - start[:, None])

    def gap_power(self, start: NDArray[np.int64], arrival: int) -> tuple[NDArray[np.float64], int]:
        """(F,) mean power of the gap behind each frame and its samples; infinite where the recording ends first."""
        layout = self.layout
        low = layout.num_symbols * layout.symbol_samples + arrival + window_taps(layout)
        count = layout.frame_samples - 2 - low
        if count < 16:
            return np.full(start.size, np.inf), 0
        inside = (start + low >= 0) & (start + low + count <= self.samples.size)
        index = np.clip(start[:, None] + low, 0, self.samples.size - count) + np.arange(count)
        power = mean_power(self.samples[index] - np.complex64(self.dc_offset))
        return np.where(inside, power, np.inf), count


def read_frames(
    samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout, hits: Hits, center_hz: float
) -> list[SyncedFrame]:
    """Timing, offset, header, noise and symbols of confirmed frames, in order of time."""
    frames = _Frames(samples, dc_offset, layout)
    # Transforms run on few frames at a time, which stay in the cache; decoding wants as many as there are.
    batch = max(_BATCH_SAMPLES // (layout.first_pilot_symbol * layout.symbol_samples), 8)
    rows = [np.arange(low, min(low + batch, hits.window.size)) for low in range(0, hits.window.size, batch)]
    soft = np.empty((hits.window.size, layout.header_symbols, layout.num_active), dtype=np.float32)
    begun = [_begin_frames(frames, hits[part], soft[part[0] : part[-1] + 1]) for part in rows]
    if not begun:
        return []
    headers, cells = decode_headers(soft, layout)
    result: list[SyncedFrame] = []
    for part, each in zip(rows, begun, strict=True):
        result += _finish_frames(frames, each, [headers[row] for row in part], cells[part], center_hz)
    return sorted(result, key=lambda frame: frame.start)


@dataclass(frozen=True)
class _Begun:
    """Frames up to their equalised headers; arrays begin with F.

    Turns of whole symbols are gathered in `turns` (cycles) and applied to sums over carriers; the grid itself is turned
    once, at the end.
    """

    hits: Hits
    start: NDArray[np.int64]
    cfo_hz: NDArray[np.float64]
    change_hz: NDArray[np.float64]
    grid: NDArray[np.complex64]
    turns: NDArray[np.float64]
    noise_var: NDArray[np.float64]
    power: NDArray[np.float64]
    moved: NDArray[np.bool_]


def _begin_frames(frames: _Frames, hits: Hits, soft: NDArray[np.float32]) -> _Begun:
    """Preambles and header of frames; the header's cells, equalised, go to `soft` (F, header_symbols, A)."""
    layout = frames.layout
    known = known_symbols(layout)
    advance = timing_advance(layout)
    spacing_s = layout.symbol_samples / layout.rate_sps
    start = hits.window - layout.cp_samples
    cfo_hz = hits.offset_carriers * layout.carrier_spacing_hz

    def finer_offset(each: list[NDArray[Any]], noise_var: Any, power: Any, move: NDArray[np.int64]) -> Any:
        """A against B: three times finer than the halves of A against each other."""
        a, b = (
            taps.estimate(one, noise_var, power, move)
            for one, taps in zip(each, (known.flat[1], known.flat_b), strict=True)
        )
        return np.angle(np.sum(a.conj() * b, axis=1)) / (2 * np.pi * spacing_s)

    def match_each(pair: NDArray[np.complex64]) -> list[NDArray[Any]]:
        return [matched_filter(pair[:, i] * known.single[i].conj()) for i in (0, 1)]

    pair, turns = frames.symbols(start, cfo_hz, 0, 2)
    pair *= turn(turns)[:, :, None]
    noise_var, power = levels(layout, [*quiet(known, pair), frames.gap_power(start, advance)], pair)
    each = match_each(pair)
    # To a few samples here; the second look, with the offset better known, goes sample by sample.
    reach = layout.cp_samples + advance
    move = known.arrival[2].arrival(each[0] + each[1], noise_var, power, reach, 3 if reach > 24 else 1) - advance
    start, cfo_hz = start + move, cfo_hz + finer_offset(each, noise_var, power, move)

    span = layout.first_pilot_symbol
    grid, turns = frames.symbols(start, cfo_hz, 0, span)
    pair = grid[:, :2] * turn(turns[:, :2])[:, :, None]
    noise_var, power = levels(layout, [*quiet(known, pair), frames.gap_power(start, advance)], pair)
    each = match_each(pair)
    reach = min(advance + 4, layout.cp_samples + advance)
    move = known.arrival[2].arrival(each[0] + each[1], noise_var, power, reach) - advance
    change_hz = finer_offset(each, noise_var, power, move)
    times = symbol_times(layout, 0, span)
    turns = turns + cfo_hz[:, None] * (move[:, None] / layout.rate_sps) - change_hz[:, None] * times
    rows = np.flatnonzero(move)
    if rows.size:
        # Exact while paths stay within the prefix.
        grid[rows] *= ramp(move[rows] / layout.fft_size, layout.fft_size)[:, None, :]
    start, cfo_hz = start + move, cfo_hz + change_hz
    taps = known.flat[2].estimate(each[0] + each[1], noise_var, power, move)
    response = fft(taps.astype(np.complex64), n=layout.fft_size, axis=1) * known.mask
    anchor_s = float(times[:2].mean())
    # The taps' phase is that of the preambles before the change; their middle is the anchor of both.
    response *= turn((cfo_hz - change_hz) * move / layout.rate_sps - change_hz * anchor_s)[:, None]
    limit_hz = 0.2 / (spacing_s * 2)  # well inside the ambiguity of squared symbols, 1 / (2 T)
    equalised = grid[:, 2:] * response.conj()[:, None, :]
    squares: Any = (equalised[:, :, None, :] @ equalised[:, :, :, None])[:, :, 0, 0]
    change_hz = blind_slope(squares * turn(2 * turns[:, 2:]), times[2:], anchor_s, limit_hz)
    spin = turn(turns[:, 2:] - change_hz[:, None] * (times[2:] - anchor_s))[:, :, None]
    for cells, bins in known.runs:
        np.multiply(equalised.real[:, :, bins], spin.real, out=soft[:, :, cells])
        soft[:, :, cells] -= equalised.imag[:, :, bins] * spin.imag
    return _Begun(hits, start, cfo_hz, change_hz, grid, turns, noise_var, power, move != 0)


def _finish_frames(
    frames: _Frames,
    begun: _Begun,
    headers: list[FrameHeader | None],
    cells: NDArray[np.float32],
    center_hz: float,
) -> list[SyncedFrame]:
    """The same frames with what their headers add."""
    layout = frames.layout
    known, span = known_symbols(layout), layout.first_pilot_symbol
    read = np.array([header is not None for header in headers], dtype=bool)
    # Without a header nothing but the preambles is known, and the blind slope may be nonsense.
    change_hz = np.where(read, begun.change_hz, 0.0)
    turns = begun.turns - change_hz[:, None] * symbol_times(layout, 0, span)
    cfo_hz = begun.cfo_hz + change_hz
    result: list[SyncedFrame] = []
    for rows, symbols in ((np.flatnonzero(read), span), (np.flatnonzero(~read), 2)):
        if not rows.size:
            continue
        conjugate = np.zeros((rows.size, symbols, layout.fft_size), dtype=np.complex64)
        conjugate[:, :2] = known.single.conj() * known.mask
        if symbols > 2:
            values = cells if rows.size == read.size else cells[rows]
            for part, bins in known.runs:
                conjugate[:, 2:, bins] = values[:, :, part]
            if known.limited:
                conjugate[:, 2:] = transmitted(conjugate[:, 2:], layout).conj() * known.mask
        grid = begun.grid if rows.size == read.size else begun.grid[rows]
        result += _measure_frames(
            frames, begun.hits[rows], [headers[row] for row in rows], grid, turns[rows], conjugate, begun.start[rows],
            cfo_hz[rows], begun.noise_var[rows], begun.power[rows], begun.moved[rows], center_hz,
        )  # fmt: skip
    return result


def _measure_frames(
    frames: _Frames,
    hits: Hits,
    headers: list[FrameHeader | None],
    grid: NDArray[np.complex64],
    turns: NDArray[np.float64],
    conjugate: NDArray[np.complex64],
    start: NDArray[np.int64],
    cfo_hz: NDArray[np.float64],
    noise_var: NDArray[np.float64],
    power: NDArray[np.float64],
    moved: NDArray[np.bool_],
    center_hz: float,
) -> list[SyncedFrame]:
    """The last refinement, from known symbols X, given as X^* (F, M, N).

    grid (F, preambles + header, N) is overwritten; its symbols have yet to be turned by `turns` (same, without N).
    """
    layout, count = frames.layout, start.size
    known, advance = known_symbols(layout), timing_advance(layout)
    span, full = conjugate.shape[1], grid.shape[1]
    times = symbol_times(layout, 0, span)
    spacing_s = layout.symbol_samples / layout.rate_sps
    limit_hz = 0.05 / (spacing_s * 2)
    products = grid[:, :span] * conjugate
    spin = turn(turns)
    matched = matched_filter(gathered(products, spin[:, :span]))
    # Without noise the evidence is a difference of large numbers.
    move = known.arrival[span].arrival(matched.astype(np.complex128), noise_var, power, advance + 2) - advance
    change_hz = np.zeros(count)
    if span > 2:
        response = fft(known.flat[span].estimate(matched, noise_var, power), n=layout.fft_size) * known.mask
        change_hz = slope(against(products, response) * spin[:, :span], times, limit_hz)
    start, cfo_hz = start + move, cfo_hz + change_hz
    turns = turns - change_hz[:, None] * symbol_times(layout, 0, full)
    # Turning whole symbols leaves the offset's leakage between carriers; where that or a moved window would show above
    # the noise, the symbols are taken from the samples again.
    leak = (np.pi * change_hz / layout.carrier_spacing_hz) ** 2 / 3 * power
    stale = np.flatnonzero(moved | (move != 0) | (leak > 0.02 * noise_var))
    if stale.size:
        fresh, turns[stale] = frames.symbols(start[stale], cfo_hz[stale], 0, full)
        grid[stale] = fresh
        products[stale] = part = fresh[:, :span] * conjugate[stale]
        if span > 2:
            spin = turn(turns[stale, :span])
            combined = matched_filter(gathered(part, spin))
            estimate = known.flat[span].estimate(combined, noise_var[stale], power[stale])
            response = fft(estimate, n=layout.fft_size) * known.mask
            again = slope(against(part, response) * spin, times, limit_hz)
            turns[stale] -= again[:, None] * symbol_times(layout, 0, full)
            cfo_hz[stale] += again
    spin = turn(turns)
    correlated = gathered(products, spin[:, :span])
    matched = matched_filter(correlated)

    tail, tail_turns = frames.symbols(start, cfo_hz, full, layout.num_symbols - full)
    tail *= turn(tail_turns)[:, :, None]
    powers = [*quiet(known, grid[:, :2]), frames.gap_power(start, advance)]
    if known.null.size:
        powers.append((mean_power(tail[:, :, known.null]), known.null.size * tail.shape[1]))
    scatter = np.full(count, np.nan)
    drift_ppm, drift_std, jitter = np.zeros(count), np.full(count, np.inf), np.zeros(count)
    phase = delay = np.zeros((count, span - 1))
    near_var = slope_var = np.zeros(count)
    phase_var = delay_var = np.zeros(count)
    omega = 2 * np.pi / layout.fft_size * known.signed
    if span > 2:
        response = np.fft.fft(known.flat[span].estimate(matched, noise_var, power), n=layout.fft_size, axis=1)
        # Preamble A is on half of the carriers only; the rest is alike.
        phase, delay, phase_var, delay_var = phase_and_delay(
            products[:, 1:], spin[:, 1:], response.astype(np.complex64) * known.mask, omega
        )
        spin_each = spin[:, 1:] * turn(-phase / (2 * np.pi))
        scatter, freedom = header_scatter(grid[:, 1:], conjugate[:, 1:], products[:, 1:], spin_each, layout)
        powers.append((scatter, freedom))
    noise_var, noise_std = combine(powers, count)
    # Preambles and header all have unit mean power per active carrier, whatever the header says.
    total = mean_power(active_carriers(grid, layout))
    noise_var = np.maximum(noise_var, np.maximum(1e-12 * total, float(np.finfo(np.float32).tiny)))
    sent_power = mean_power(conjugate if known.limited else conjugate[:1]) * (layout.fft_size / layout.num_active)
    power = np.maximum((total - noise_var) / sent_power, 1e-3 * noise_var)
    cells = full * layout.num_active
    power_std = np.sqrt((2 * power * noise_var + noise_var**2) / cells + noise_std**2)
    weights = 2 * power * np.sum((times - times.mean()) ** 2) * layout.num_active / noise_var
    cfo_std = 1.0 / (2 * math.pi * np.sqrt(weights))
    taps = known.flat[span].estimate(matched, noise_var, power)
    response = np.fft.fft(taps, n=layout.fft_size, axis=1)
    arrival = strongest_arrival(matched, correlated, known.signed, layout.cp_samples)
    if span > 3:
        when = times[1:] - times[1:].mean()
        lever = np.sum(when**2)
        # A clock that is fast at the transmitter makes symbols arrive ever earlier.
        drift_ppm = -(delay @ when) / lever / layout.rate_sps * 1e6
        drift_std = np.sqrt(noise_var * delay_var / lever) / layout.rate_sps * 1e6
        straight = phase - phase.mean(axis=1, keepdims=True) - ((phase @ when) / lever)[:, None] * when
        excess = np.sum(straight**2, axis=1) / (span - 3) - noise_var * phase_var
        jitter = np.sqrt(np.maximum(excess, 0.0))
        # Within as many symbols as carry data the phase wanders less.
        near = np.lib.stride_tricks.sliding_window_view(straight, min(max(layout.data_symbols, 2), span - 1), axis=1)
        near_var = np.maximum(near.var(axis=2, ddof=1).mean(axis=1) - noise_var * phase_var, 0.0)
    drift, drift_var = settled_drift(drift_ppm, drift_std, cfo_hz, cfo_std, center_hz)
    tail_times = symbol_times(layout, full, tail.shape[1])
    if np.any(drift):
        early = drift[:, None] * 1e-6 * layout.rate_sps * tail_times  # samples
        tail *= turn(-early[:, :, None] * omega / (2 * np.pi))
    common = np.zeros((count, tail.shape[1]))
    phase_left = timing_left = np.full(count, np.inf)
    if span > 3:
        # The header's line is as uncertain as noise and jitter make it.
        slope_var = (2 * np.pi * cfo_std) ** 2 + jitter**2 / np.sum((times[1:] - times[1:].mean()) ** 2)
        away = tail_times[layout.pilot_symbols :] - times.mean()
        phase_left = np.sqrt(slope_var * np.mean(away**2) + jitter**2)
        timing_left = np.sqrt(drift_var * np.mean(away**2)) * layout.rate_sps * 1e-6
    if layout.tracking:
        common, phase_left = track(tail, layout, response, noise_var)
        tail *= turn(-common / (2 * np.pi))[:, :, None]
    elif layout.data_symbols > 1 and span > 3:
        # Only where it would show above the noise: phase and delay, as the error power that they make of the signal.
        shown = phase_left**2 + timing_left**2 * np.mean(omega[layout.active_bins] ** 2)
        rows = np.flatnonzero(shown * power > 0.02 * noise_var)
        if rows.size:
            squares = Squares(tail[rows], layout, response[rows], noise_var[rows])
            common[rows], phase_left[rows] = squares.phase(tail_times, slope_var[rows], near_var[rows])
            more, timing_left[rows] = squares.drift(tail_times, drift_var[rows])
            drift[rows] += more
            early = more[:, None] * 1e-6 * layout.rate_sps * (tail_times - tail_times.mean())
            tail[rows] *= turn(-common[rows, :, None] / (2 * np.pi) - early[:, :, None] * omega / (2 * np.pi))

    grid *= spin[:, :, None]
    return [
        SyncedFrame(
            grid=tail[row],
            header=headers[row],
            start=int(start[row]),
            advance=advance,
            cfo_hz=float(cfo_hz[row]),
            cfo_std_hz=float(cfo_std[row]),
            metric=float(hits.metric[row]),
            noise_var=float(noise_var[row]),
            noise_var_std=float(noise_std[row]),
            signal_power=float(power[row]),
            preamble_grid=grid[row, :2],
            header_grid=grid[row, 2:],
            known_taps=taps[row].astype(np.complex64),
            signal_power_std=float(power_std[row]),
            arrival_samples=float(arrival[row]),
            drift_ppm=float(drift_ppm[row]),
            drift_std_ppm=float(drift_std[row]),
            corrected_drift_ppm=float(drift[row]),
            phase_rad=common[row],
            phase_jitter_rad=float(jitter[row]),
            phase_residual_rad=float(phase_left[row]),
            timing_residual_samples=float(timing_left[row]),
            error_var=float(scatter[row]),
        )
        for row in range(count)
    ]
