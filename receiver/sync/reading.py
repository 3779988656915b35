"""Read frames: header, grid and all that is measured of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import balanced, pooled
from receiver.sync.arrays import fft, mean_power, ramp, squared_magnitude, symbol_powers, turn
from receiver.sync.batch import Batch, FrameSamples
from receiver.sync.detection import Hits
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.header_following import followed_headers
from receiver.sync.known import Known, completed, known_symbols, matched_filter, transmitted
from receiver.sync.levels import active_carriers, first_levels, measure_levels, quiet
from receiver.sync.offsets import (
    align,
    blind_slope,
    header_offsets,
    measure_clock,
    strongest_arrival,
    symbol_times,
)
from receiver.sync.tracking import straighten
from receiver.sync.uneven import blind_limit_hz, preamble_time, preamble_weights, uneven_headers, without_struck
from sdr.header import FrameHeader, decode_headers
from sdr.layout import FrameLayout

_BATCH_SAMPLES = 1 << 18


def read_frames(
    samples: NDArray[np.complex64],
    dc_offset: NDArray[np.complex128],
    layout: FrameLayout,
    hits: Hits,
    center_hz: float,
) -> list[SyncedFrame]:
    """Measure confirmed frames and read their headers.

    Args:
        samples: (A, n) that hold the frames, of A antennas.
        dc_offset: (A,) mean of the samples outside of frames.
        layout: of the frames.
        hits: preambles that were confirmed.
        center_hz: carrier frequency, 0 where it is not known.

    Returns:
        the frames in order of time.
    """
    within = FrameSamples(samples, dc_offset, layout)
    # Transforms run on few frames at a time, which stay in the cache; decoding wants as many as there are.
    batch = max(_BATCH_SAMPLES // (layout.first_pilot_symbol * layout.symbol_samples), 8)
    rows = [np.arange(low, min(low + batch, hits.window.size)) for low in range(0, hits.window.size, batch)]
    soft = np.empty((hits.window.size, layout.header_symbols, layout.num_active), dtype=np.float32)
    begun = [_begin_frames(within, hits[part], soft[part[0] : part[-1] + 1]) for part in rows]
    if not begun:
        return []
    headers, cells = decode_headers(soft, layout)
    for number, part in enumerate(rows):
        begun[number] = _read_again(begun[number], part, headers, cells, layout)
    result: list[SyncedFrame] = []
    for part, each in zip(rows, begun, strict=True):
        of_row = np.repeat(part, within.antennas)
        result += _finish_frames(within, each, [headers[row] for row in of_row], cells[of_row], center_hz)
    return sorted(result, key=lambda frame: frame.start)


def _as_moving(batch: Batch, layout: FrameLayout) -> tuple[NDArray[np.float32], Batch]:
    """Equalise headers as if their channel moved; return their cells, and the frames as they are then measured."""
    # Squares about a channel that has moved on say nothing of the carrier.
    return followed_headers(batch, layout), replace(batch, blind_hz=np.zeros(len(batch)))


def _read_again(
    batch: Batch,
    rows: NDArray[np.int64],
    headers: list[FrameHeader | None],
    cells: NDArray[np.float32],
    layout: FrameLayout,
) -> Batch:
    """Read headers that could not be read by what may be the reason; overwrites `headers` and `cells`.

    Args:
        batch: of frames with known preambles.
        rows: (F,) their places in `headers` and `cells`.
        headers: of all frames.
        cells: (frames, header symbols, active carriers) of all frames.
        layout: of the frames.

    Returns:
        the batch with what was found of frames whose headers were read.
    """
    missing = np.array([index for index, row in enumerate(rows) if headers[row] is None], dtype=np.int64)
    if not missing.size:
        return batch
    unread = batch[_rows_of(missing, batch.antennas)]
    uneven = uneven_headers(unread, layout)
    tried = uneven, _as_moving(unread, layout), _as_moving(uneven[1], layout)
    # All at once: a decoder of many codewords takes little longer than one of few.
    found, known = decode_headers(np.concatenate([soft for soft, _ in tried]), layout)
    for number, (_, part) in enumerate(tried):
        own = slice(number * missing.size, (number + 1) * missing.size)
        read = []
        for index, (header, values) in enumerate(zip(found[own], known[own], strict=True)):
            place = rows[missing[index]]
            if header is not None and headers[place] is None:
                headers[place], cells[place] = header, values
                read.append(index)
        if read:
            chosen = np.array(read)
            batch = batch.merged(_rows_of(missing[chosen], batch.antennas), part[_rows_of(chosen, batch.antennas)])
    return batch


def _rows_of(frames: NDArray[np.int64], antennas: int) -> NDArray[np.int64]:
    """Return the rows of a batch that hold some of its frames, at all antennas."""
    return (frames[:, None] * antennas + np.arange(antennas)).reshape(-1)


def _begin_frames(samples: FrameSamples, hits: Hits, soft: NDArray[np.float32]) -> Batch:
    """Time the frames and equalise their headers.

    Args:
        samples: that hold the samples.
        hits: their preambles.
        soft: (F, header symbols, active carriers) gets the header's cells, antennas combined.
    """
    layout = samples.layout
    known, antennas = known_symbols(layout), samples.antennas
    advance = timing_advance(layout)
    spacing_s = layout.symbol_samples / layout.rate_sps
    rows = np.repeat(np.arange(hits.window.size), antennas)
    start = hits.window[rows] - layout.cp_samples
    cfo_hz = hits.offset_carriers[rows] * layout.carrier_spacing_hz

    def finer_offset(each: list[NDArray[Any]], noise_var: Any, power: Any, move: NDArray[np.int64]) -> Any:
        """Compare A with B, which is three times finer than comparing the halves of A."""
        a, b = (
            taps.estimate(one, noise_var, power, move)
            for one, taps in zip(each, (known.flat[1], known.flat_b), strict=True)
        )
        sums = balanced(np.sum(a.conj() * b, axis=1), noise_var, antennas)
        return np.angle(pooled(sums, antennas)) / (2 * np.pi * spacing_s)

    def match_each(pair: NDArray[np.complex64]) -> list[NDArray[Any]]:
        weighed = pair if weights is None else pair * weights.weight[:, None, :]
        return [matched_filter(weighed[:, i] * known.single[i].conj()) for i in (0, 1)]

    def both(each: list[NDArray[Any]], first_lag: int) -> NDArray[Any]:
        if weights is None:
            return each[0] + each[1]
        lacking = (1 - weights.weight) * np.sum(squared_magnitude(known.single), axis=0)
        sums = fft(each[0] + each[1], axis=1, norm="forward")
        return matched_filter(completed(sums, lacking, known.flat[2], noise_var, power, first_lag))

    pair, turns = samples.symbols(start, cfo_hz, 0, 2)
    pair *= turn(turns)[:, :, None]
    weights = preamble_weights(pair, layout)
    noise_var, power = first_levels(layout, [*quiet(known, pair), samples.gap_power(start, advance)], pair, weights)
    each = match_each(pair)
    # To a few samples here; the second look, with the offset better known, goes sample by sample.
    reach = layout.cp_samples + advance
    stride, evidence = 3 if reach > 24 else 1, known.arrival[2]
    move = evidence.arrival(both(each, -advance), noise_var, power, reach, stride, antennas) - advance
    start, cfo_hz = start + move, cfo_hz + finer_offset(each, noise_var, power, move)

    span = layout.first_pilot_symbol
    grid, turns = samples.symbols(start, cfo_hz, 0, span)
    pair = grid[:, :2] * turn(turns[:, :2])[:, :, None]
    noise_var, power = first_levels(layout, [*quiet(known, pair), samples.gap_power(start, advance)], pair, weights)
    each = match_each(pair)
    reach = min(advance + 4, layout.cp_samples + advance)
    matched = both(each, 0)
    move = evidence.arrival(matched, noise_var, power, reach, 1, antennas) - advance
    change_hz = finer_offset(each, noise_var, power, move)
    times = symbol_times(layout, 0, span)
    turns = turns + cfo_hz[:, None] * (move[:, None] / layout.rate_sps) - change_hz[:, None] * times
    moved = np.flatnonzero(move)
    if moved.size:
        # Exact while paths stay within the prefix.
        grid[moved] *= ramp(move[moved] / layout.fft_size, layout.fft_size)[:, None, :]
    start, cfo_hz = start + move, cfo_hz + change_hz
    taps = known.flat[2].estimate(matched, noise_var, power, move)
    response = fft(taps.astype(np.complex64), n=layout.fft_size, axis=1) * known.mask
    anchor_s = preamble_time(layout)
    # The taps' phase is that of the preambles before the change; their middle is the anchor of both.
    response *= turn((cfo_hz - change_hz) * move / layout.rate_sps - change_hz * anchor_s)[:, None]
    gain = response.conj() if weights is None else response.conj() * weights.weight
    gain = balanced(gain, noise_var, antennas)
    equalised: Any = pooled(grid[:, 2:] * gain[:, None, :], antennas)
    squares: Any = (equalised[:, :, None, :] @ equalised[:, :, :, None])[:, :, 0, 0]
    blind_hz = blind_slope(squares * turn(2 * turns[:, 2:]), times[2:], anchor_s, blind_limit_hz(layout))
    spin = turn(turns[:, 2:] - blind_hz[:, None] * (times[2:] - anchor_s))[:, :, None]
    combined, spin = equalised[::antennas], spin[::antennas]
    for cells, bins in known.runs:
        np.multiply(combined.real[:, :, bins], spin.real, out=soft[:, :, cells])
        soft[:, :, cells] -= combined.imag[:, :, bins] * spin.imag
    return Batch(
        metric=hits.metric[rows],
        start=start,
        cfo_hz=cfo_hz,
        blind_hz=blind_hz,
        noise_var=noise_var,
        power=power,
        moved=move != 0,
        grid=grid,
        turns=turns,
        conjugate=np.broadcast_to(known.single.conj() * known.mask, (len(grid), 2, layout.fft_size)),
        weight=None if weights is None else np.broadcast_to(weights.weight[:, None, :], grid.shape),
        antennas=antennas,
    )


def _finish_frames(
    samples: FrameSamples,
    batch: Batch,
    headers: list[FrameHeader | None],
    cells: NDArray[np.float32],
    center_hz: float,
) -> list[SyncedFrame]:
    """Measure frames with what their headers add.

    Args:
        samples: that hold the frames.
        batch: the frames with known preambles.
        headers: one of each row, None where it could not be read.
        cells: (F, header symbols, active carriers) known cells of the headers.
        center_hz: carrier frequency, 0 where it is not known.
    """
    layout = samples.layout
    known, span = known_symbols(layout), layout.first_pilot_symbol
    read = np.array([header is not None for header in headers], dtype=bool)
    # Without a header nothing but the preambles is known, and the blind slope may be nonsense.
    change_hz = np.where(read, batch.blind_hz, 0.0)
    turns = batch.turns - change_hz[:, None] * symbol_times(layout, 0, span)
    batch = replace(batch, cfo_hz=batch.cfo_hz + change_hz, turns=turns)
    result: list[SyncedFrame] = []
    for rows, has_header in ((np.flatnonzero(read), True), (np.flatnonzero(~read), False)):
        if not rows.size:
            continue
        part = batch[rows]
        if has_header:
            values = cells if rows.size == read.size else cells[rows]
            part = replace(part, conjugate=_with_header(part.conjugate, values, known, layout))
        result += _measure_frames(samples, part, [headers[row] for row in rows], center_hz)
    return result


def _with_header(
    preambles: NDArray[np.complex64], cells: NDArray[np.float32], known: Known, layout: FrameLayout
) -> NDArray[np.complex64]:
    """Return the conjugate (F, H, N) of preambles and header, given that (F, 2, N) of preambles and the cells."""
    conjugate = np.zeros((len(cells), layout.first_pilot_symbol, layout.fft_size), dtype=np.complex64)
    conjugate[:, :2] = preambles
    for part, bins in known.runs:
        conjugate[:, 2:, bins] = cells[:, :, part]
    if known.limited:
        conjugate[:, 2:] = transmitted(conjugate[:, 2:], layout).conj() * known.mask
    return conjugate


def _measure_frames(
    samples: FrameSamples, batch: Batch, headers: list[FrameHeader | None], center_hz: float
) -> list[SyncedFrame]:
    """Measure all that a frame says of itself, and turn its symbols; overwrites the batch's grid.

    Args:
        samples: that hold the frames.
        batch: the frames with all symbols that are known of them.
        headers: one each, None where it could not be read.
        center_hz: carrier frequency, 0 where it is not known.
    """
    layout = samples.layout
    known, advance, span = known_symbols(layout), timing_advance(layout), batch.num_known
    symbol_power = symbol_powers(active_carriers(batch.grid, layout))
    if batch.header_read:
        batch = without_struck(batch, symbol_power, layout)
    aligned = align(samples, batch)
    batch, first = aligned.batch, layout.first_pilot_symbol
    tail, turns = samples.symbols(batch.start, batch.cfo_hz, first, layout.num_symbols - first)
    tail *= turn(turns)[:, :, None]
    powers = [*quiet(known, batch.grid[:, :2]), samples.gap_power(batch.start, advance)]
    if known.null.size:
        powers.append((mean_power(tail[:, :, known.null]), known.null.size * tail.shape[1]))
    offsets = header_offsets(aligned, layout)
    level = measure_levels(aligned, offsets, powers, symbol_power.mean(axis=1), layout)
    clock = measure_clock(batch, offsets, level.level, level.power, layout, center_hz)
    taps = known.flat[span].estimate(aligned.matched, level.level, level.power)
    response = np.fft.fft(taps, n=layout.fft_size, axis=1)
    arrival = strongest_arrival(aligned.matched, aligned.correlated, known.signed, layout.cp_samples)
    weight = None if batch.weight is None else batch.weight[:, 0]
    tracked = straighten(tail, layout, response, weight, level, clock, batch.antennas)
    grid = batch.grid
    grid *= aligned.spin[:, :, None]
    rows = [
        SyncedFrame(
            grid=tracked.tail[row],
            header=headers[row],
            start=int(batch.start[row]),
            advance=advance,
            cfo_hz=float(batch.cfo_hz[row]),
            cfo_std_hz=float(clock.cfo_std_hz[row]),
            metric=float(batch.metric[row]),
            noise_var=float(level.noise_var[row]),
            noise_var_std=float(level.noise_var_std[row]),
            signal_power=float(level.power[row]),
            preamble_grid=grid[row, :2],
            header_grid=grid[row, 2:],
            known_taps=taps[row].astype(np.complex64),
            signal_power_std=float(level.power_std[row]),
            arrival_samples=float(arrival[row]),
            sfo_ppm=float(clock.sfo_ppm[row]),
            sfo_std_ppm=float(clock.sfo_std_ppm[row]),
            corrected_sfo_ppm=float(tracked.sfo_ppm[row]),
            phase_rad=tracked.phase_rad[row],
            early_samples=tracked.early_samples[row],
            phase_jitter_rad=float(clock.jitter_rad[row]),
            phase_residual_rad=float(tracked.phase_left_rad[row]),
            timing_residual_samples=float(tracked.timing_left_samples[row]),
            error_var=float(level.scatter[row]),
        )
        for row in range(len(batch))
    ]
    step = batch.antennas
    return [replace(rows[at], others=tuple(rows[at + 1 : at + step])) for at in range(0, len(rows), step)]
