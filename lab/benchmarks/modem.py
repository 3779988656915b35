"""Measure detection, synchronisation and channel estimation against their theoretical bounds, and throughputs.

Every number comes with the sample it was counted over and a 95 % confidence interval: Wilson's for rates, chi-square
for powers of errors. Bounds are computed here, from the waveform, and not from the estimators.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from lab.benchmarks.bounds import cfo_bound_hz, lmmse_bound, power_interval, timing_bound_samples
from lab.evaluation.statistics import mean_and_error, wilson_interval
from receiver.channel.estimate import estimate_channel, fourier_matrix
from receiver.sync.preamble import find_frames, stream_frames
from sdr.air.impairments import (
    apply_awgn,
    apply_cfo,
    apply_delay,
    apply_multipath,
    draw_taps,
    exponential_pdp,
    noise_var_for_csnr,
)
from sdr.errors import InputError
from sdr.framing import FrameContent, frame_grid, pack_frames
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate, modulate_stream
from sdr.progress import Progress
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols

#: Taps of the fading channel, and decay of its exponential power delay profile in samples.
NUM_TAPS, DECAY = 8, 4.0
#: Frames whose channel gain lies below this are left out of detection rates in fading.
FADE_DB = -10.0


@dataclass(frozen=True)
class Row:
    """One point of one curve.

    Attributes:
        quantity: what was measured.
        channel: "awgn", "rayleigh8", a layout, or "".
        snr_db: SNR per active carrier; NaN where it does not apply.
        fft_size: carriers of the layout.
        n: sample size.
        value: the figure.
        low: lower end of its 95 % interval.
        high: upper end of it.
        bound: theoretical bound; NaN where there is none.
        unit: of the last four.
    """

    quantity: str
    channel: str
    snr_db: float
    fft_size: int
    n: int
    value: float
    low: float
    high: float
    bound: float
    unit: str


def _db(ratio: float) -> float:
    return 10.0 * math.log10(max(ratio, 1e-30))


def _contents(layout: FrameLayout, count: int, rng: np.random.Generator) -> list[FrameContent]:
    """Return frames full of random symbols."""
    z = rng.standard_normal((count, layout.capacity)) + 1j * rng.standard_normal((count, layout.capacity))
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    ids = tuple(f"i{index}" for index in range(count))
    return pack_frames(Symbols(z.astype(np.complex64), "00c0ffee", ids, (1, 32, 32), 10.0), layout)


@dataclass(frozen=True)
class _Sent:
    """A capture of frames with random gaps and one carrier offset.

    Attributes:
        samples: with noise.
        arrivals: (frames,) where the first path of each begins, samples.
        gains: (frames,) power gain of each one's channel.
        cfo_hz: carrier offset.
    """

    samples: NDArray[np.complex64]
    arrivals: NDArray[np.float64]
    gains: NDArray[np.float64]
    cfo_hz: float


def _capture(
    layout: FrameLayout,
    pieces: list[NDArray[np.complex64]],
    count: int,
    snr_db: float,
    fading: bool,
    rng: np.random.Generator,
    fractional: bool = False,
) -> _Sent:
    gaps = rng.integers(layout.fft_size, 3 * layout.fft_size, count)
    arrivals, gains, parts = np.empty(count), np.empty(count), []
    place = 0
    for index in range(count):
        piece = pieces[int(rng.integers(len(pieces)))]
        delay, gain = 0.0, 1.0
        if fading:
            taps = draw_taps(exponential_pdp(NUM_TAPS, DECAY), rng)
            piece, gain = apply_multipath(piece, taps), float(np.sum(np.abs(taps) ** 2))
        elif fractional:
            delay = float(rng.uniform(0.0, 1.0))
            piece = apply_delay(piece, delay)
        parts += [np.zeros(gaps[index], np.complex64), piece]
        arrivals[index], gains[index] = place + gaps[index] + delay, gain
        place += int(gaps[index]) + piece.size
    parts.append(np.zeros(2 * layout.fft_size, np.complex64))
    cfo_hz = float(rng.uniform(-60e3, 60e3))
    clean = apply_cfo(np.concatenate(parts), cfo_hz, layout.rate_sps)
    return _Sent(apply_awgn(clean, noise_var_for_csnr(layout, snr_db), rng), arrivals, gains, cfo_hz)


def _match(sent: _Sent, layout: FrameLayout) -> Iterator[tuple[int, Any]]:
    """Yield every frame found at its place, with the index of the frame sent."""
    for frame in find_frames(Recording(sent.samples), layout):
        error = frame.start + frame.advance - sent.arrivals
        index = int(np.abs(error).argmin())
        if abs(error[index]) <= layout.cp_samples:
            yield index, frame


def measure_sync(layout: FrameLayout, frames: int, seed: int, progress: Progress) -> list[Row]:
    """Measure detection, carrier offset and noise variance over SNR, in white noise and in Rayleigh fading."""
    rows: list[Row] = []
    per_capture = 40
    points = [("awgn", snr) for snr in (-3.0, 0.0, 3.0, 5.0, 10.0, 15.0, 20.0)]
    points += [("rayleigh8", snr) for snr in (0.0, 3.0, 6.0, 10.0, 15.0)]
    for done, (channel, snr_db) in enumerate(points):
        progress("synchronisation", done, len(points))
        rng = np.random.default_rng([seed, done])
        pieces = [modulate(content, layout) for content in _contents(layout, 16, rng)]
        found = eligible = headers = 0
        cfo, noise, noise_z = [], [], []
        for _ in range(-(-frames // per_capture)):
            sent = _capture(layout, pieces, per_capture, snr_db, channel != "awgn", rng)
            strong = 10 * np.log10(np.maximum(sent.gains, 1e-9)) > FADE_DB
            eligible += int(strong.sum())
            for index, frame in _match(sent, layout):
                found += bool(strong[index])
                headers += frame.header_ok and bool(strong[index])
                noise_var = noise_var_for_csnr(layout, snr_db)
                noise.append(frame.noise_var / noise_var)
                noise_z.append((frame.noise_var - noise_var) / frame.noise_var_std)
                if frame.header_ok:
                    cfo.append(frame.cfo_hz - sent.cfo_hz)
        low, high = wilson_interval(found, eligible)
        rows.append(Row("detection", channel, snr_db, layout.fft_size, eligible, found / eligible, low, high, 0.99, ""))
        low, high = wilson_interval(headers, eligible)
        rate = headers / eligible
        rows.append(Row("header", channel, snr_db, layout.fft_size, eligible, rate, low, high, math.nan, ""))
        span = layout.first_pilot_symbol
        if len(cfo) > 1:
            square = float(np.mean(np.square(cfo)))
            low, high = (math.sqrt(edge) for edge in power_interval(square, len(cfo)))
            for name, bound in (
                ("cfo_rmse", cfo_bound_hz(layout, snr_db, span)),
                ("cfo_rmse_over_preamble_bound", cfo_bound_hz(layout, snr_db, 2)),
            ):
                rows.append(
                    Row(name, channel, snr_db, layout.fft_size, len(cfo), math.sqrt(square), low, high, bound, "Hz")
                )
        errors = np.abs(10 * np.log10(noise)) if noise else np.zeros(0)
        within = int(np.sum(errors < 0.5))
        low, high = wilson_interval(within, errors.size)
        share = within / max(errors.size, 1)
        rows.append(
            Row("noise_within_half_db", channel, snr_db, layout.fft_size, errors.size, share, low, high, 0.9, "")
        )
        spread = float(np.mean(np.square(noise_z))) if noise_z else math.nan
        low, high = power_interval(spread, len(noise_z))
        rows.append(
            Row("noise_z_square", channel, snr_db, layout.fft_size, len(noise_z), spread, low, high, 1.0, "")
        )  # fmt: skip
    progress("synchronisation", len(points), len(points))
    return rows


def measure_timing(layout: FrameLayout, frames: int, seed: int, progress: Progress) -> list[Row]:
    """Measure the delay of a single path at any fraction of a sample, carrier offset unknown, against its bound."""
    rows: list[Row] = []
    points = (0.0, 5.0, 10.0, 15.0, 20.0)
    for done, snr_db in enumerate(points):
        progress("timing", done, len(points))
        rng = np.random.default_rng([seed, 5000 + done])
        pieces = [modulate(content, layout) for content in _contents(layout, 16, rng)]
        late: list[float] = []
        for _ in range(-(-frames // 40)):
            sent = _capture(layout, pieces, 40, snr_db, False, rng, fractional=True)
            late += [
                frame.start + frame.arrival_samples - sent.arrivals[index]
                for index, frame in _match(sent, layout)
                if frame.header_ok
            ]
        square = float(np.mean(np.square(late)))
        low, high = (math.sqrt(edge) for edge in power_interval(square, len(late)))
        bound = timing_bound_samples(layout, snr_db)
        rows.append(
            Row("timing_rmse", layout.name, snr_db, layout.fft_size, len(late), math.sqrt(square), low, high, bound,
                "samples")
        )  # fmt: skip
    progress("timing", len(points), len(points))
    return rows


def measure_false_alarms(layout: FrameLayout, samples: int, seed: int, progress: Progress) -> Row:
    """Count frames "found" in white noise, streamed block by block."""
    rng = np.random.default_rng([seed, 1000])
    block = 1 << 20

    def blocks() -> Iterator[NDArray[np.complex64]]:
        for done in range(0, samples, block):
            progress("false alarms", done, samples)
            yield rng.standard_normal((min(block, samples - done), 2), dtype=np.float32).view(np.complex64)[:, 0]

    alarms = sum(1 for _ in stream_frames(blocks(), layout))
    progress("false alarms", samples, samples)
    # Poisson's exact interval, per sample.
    low = float(scipy.stats.chi2.ppf(0.025, 2 * alarms)) / 2 / samples if alarms else 0.0
    high = float(scipy.stats.chi2.ppf(0.975, 2 * alarms + 2)) / 2 / samples
    return Row("false_alarms", "noise", math.nan, layout.fft_size, samples, alarms / samples, low, high, 1e-8, "")


def full_band(fft_size: int) -> FrameLayout:
    """Return the paper's layout with another number of carriers, all of them active."""
    return replace(
        load_layout("paper"),
        fft_size=fft_size,
        active=tuple(range(-fft_size // 2, fft_size // 2)),
        header_symbols=12 * 256 // fft_size,
    )


def measure_channel(frames: int, seed: int, progress: Progress) -> list[Row]:
    """Measure the mean squared error of every estimator from one pilot symbol, the profile known, over the bound."""
    rows: list[Row] = []
    pdp = exponential_pdp(NUM_TAPS, DECAY)
    cases = [("64", full_band(64)), ("256", full_band(256)), ("air", load_layout("air"))]
    for done, (label, layout) in enumerate(cases):
        progress("channel estimation", done, len(cases))
        matrix = fourier_matrix(np.arange(layout.fft_size), NUM_TAPS, layout.fft_size)
        active = layout.active_bins
        for snr_db in (0.0, 5.0, 10.0, 15.0, 20.0):
            rng = np.random.default_rng([seed, 2000 + done, int(snr_db)])
            noise_var = 10 ** (-snr_db / 10)
            taps = np.stack([draw_taps(pdp, rng) for _ in range(frames)])
            truth = taps @ matrix.T
            noise = rng.standard_normal((2, frames, *layout.pilots.shape)) * math.sqrt(noise_var / 2)
            pilots = truth[:, None, :] * layout.pilots + noise[0] + 1j * noise[1]
            bound = lmmse_bound(layout, noise_var, pdp)
            for name in ("ls", "dft", "lmmse"):
                count = min(frames, 50) if name == "ls" else frames
                errors = []
                for low in range(0, count, 50):  # the covariances of LS are large
                    part = slice(low, min(low + 50, count))
                    response = estimate_channel(name, pilots[part], layout, noise_var, pdp).response
                    errors.append(np.abs((response - truth[part])[:, active]) ** 2)
                each = np.concatenate(errors).mean(axis=1)
                mean, deviation = mean_and_error(each)
                low_db, high_db = _db(mean - 1.96 * deviation), _db(mean + 1.96 * deviation)
                rows.append(
                    Row(f"ce_{name}", label, snr_db, layout.fft_size, count, _db(mean), low_db, high_db, _db(bound),
                        "dB")
                )  # fmt: skip
    progress("channel estimation", len(cases), len(cases))
    return rows


def measure_papr(layout: FrameLayout, frames: int, seed: int) -> Row:
    """Measure the peak-to-average power of OFDM symbols that carry data, median and central 95 %."""
    grids = [frame_grid(content, layout) for content in _contents(layout, frames, np.random.default_rng([seed, 3000]))]
    data = np.concatenate([grid[layout.first_data_symbol :] for grid in grids])
    power = np.abs(np.fft.ifft(data, axis=1)) ** 2
    ratio = 10 * np.log10(power.max(axis=1) / power.mean(axis=1))
    low, middle, high = np.quantile(ratio, [0.025, 0.5, 0.975])
    return Row("papr", layout.name, math.nan, layout.fft_size, ratio.size, float(middle), float(low), float(high),
               math.nan, "dB")  # fmt: skip


def _fastest(work: Callable[[], Any], samples: int, times: int) -> tuple[float, float, float]:
    """Return millions of samples per second of processor time: best, worst and best again (the interval's ends)."""
    rates = []
    for _ in range(times):
        began = time.process_time()
        work()
        rates.append(samples / max(time.process_time() - began, 1e-9) / 1e6)
    return max(rates), min(rates), max(rates)


def measure_throughput(seed: int, quick: bool, progress: Progress) -> list[Row]:
    """Measure samples per second of one core: transmitter; receiver on dense frames, sparse ones, noise."""
    rows: list[Row] = []
    times = 3 if quick else 6
    for done, name in enumerate(("paper", "air")):
        progress("throughput", done, 2)
        layout, rng = load_layout(name), np.random.default_rng([seed, 4000 + done])
        contents = _contents(layout, 160 if quick else 480, rng)
        dense = modulate_stream(contents, layout, 500)
        best = _fastest(lambda c=contents, la=layout: modulate_stream(c, la, 500), dense.size, 2)
        rows.append(Row("tx_msps", name, math.nan, layout.fft_size, dense.size, *best, math.nan, "MS/s"))
        faded = apply_multipath(dense, draw_taps(exponential_pdp(NUM_TAPS, DECAY), rng))
        noise_var = noise_var_for_csnr(layout, 15.0)
        noisy = apply_awgn(apply_cfo(faded, 12_345.0, layout.rate_sps), noise_var, rng)
        spaced = np.zeros((len(contents), 10 * layout.frame_samples), np.complex64)
        frames = faded[500 : 500 + len(contents) * layout.frame_samples]
        spaced[:, : layout.frame_samples] = frames.reshape(len(contents), -1)
        sparse = apply_awgn(spaced[: len(contents) // 8].reshape(-1), noise_var, rng)
        silence = apply_awgn(np.zeros(2_000_000, np.complex64), noise_var, rng)
        for kind, samples in (("dense", noisy), ("sparse", sparse), ("noise", silence)):
            recording = Recording(samples)
            find_frames(recording, layout)  # the layout's tables are made once
            best = _fastest(lambda r=recording, la=layout: find_frames(r, la), samples.size, times)
            rows.append(
                Row(f"rx_msps_{kind}", name, math.nan, layout.fft_size, samples.size, *best, math.nan, "MS/s")
            )  # fmt: skip
    progress("throughput", 2, 2)
    return rows


def _peak_memory_mib(samples: int) -> float:
    """Return the peak resident memory, MiB, of this process after it has synchronised a stream of so many samples."""
    layout, rng = load_layout("air"), np.random.default_rng(0)
    block = np.zeros(1 << 20, np.complex64)
    sent = modulate_stream(_contents(layout, 8, rng), layout, 500)
    block[: sent.size] = sent
    block = apply_awgn(block, noise_var_for_csnr(layout, 10.0), rng)
    found = sum(1 for _ in stream_frames((block for _ in range(samples // block.size)), layout))
    if found < 8 * (samples // block.size):
        raise InputError(f"a stream of {samples} samples lost frames: {found} were found")
    # Not `getrusage`, whose peak a process inherits from the one that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def measure_memory(quick: bool, progress: Progress) -> list[Row]:
    """Measure the peak memory of a short capture and a long one, each in a process of its own."""
    rows: list[Row] = []
    lengths = (10_000_000, 40_000_000) if quick else (10_000_000, 100_000_000)
    for done, samples in enumerate(lengths):
        progress("memory", done, len(lengths))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peak = pool.submit(_peak_memory_mib, samples).result()
        rows.append(Row("peak_memory", "air", math.nan, 256, samples, peak, peak, peak, math.nan, "MiB"))
    progress("memory", len(lengths), len(lengths))
    return rows


def run_modem_benchmark(quick: bool, seed: int, progress: Progress) -> list[Row]:
    """Measure all curves but GNU Radio's throughput.

    Args:
        quick: count 120 frames a point and 2e7 noise samples instead of 2000 and 4e8 (no alarm in that many means fewer
            than one in 1e8, with 95 % confidence).
        seed: of everything random.
        progress: called as it goes on.
    """
    layout = load_layout("paper")
    rows = measure_throughput(seed, quick, progress) + measure_memory(quick, progress)
    rows += measure_sync(layout, 120 if quick else 2000, seed, progress)
    rows += measure_timing(load_layout("air"), 120 if quick else 1000, seed, progress)
    rows += measure_channel(300 if quick else 3000, seed, progress)
    rows.append(measure_false_alarms(layout, 20_000_000 if quick else 400_000_000, seed, progress))
    return [*rows, measure_papr(layout, 50 if quick else 500, seed)]


def summarise(rows: list[Row], gnuradio_msps: float | None) -> dict[str, Any]:
    """Return the figures of `ota bench modem --json`.

    Args:
        rows: what `run_modem_benchmark` measured; `rx_msps` is of frames back to back, the hardest case.
        gnuradio_msps: throughput of GNU Radio's receiver; None where there is none.
    """
    at = {(row.quantity, row.channel): row for row in rows}
    rx_msps = at["rx_msps_dense", "air"].value
    alarms = at["false_alarms", "noise"]

    def over(row: Row) -> float:
        return 20 * math.log10(row.value / row.bound)

    return {
        "rx_msps": rx_msps,
        "tx_msps": at["tx_msps", "air"].value,
        "gnuradio_rx_msps": gnuradio_msps,
        "rx_ratio": None if gnuradio_msps is None else rx_msps / gnuradio_msps,
        "detection": [
            {"channel": row.channel, "snr_db": row.snr_db, "n": row.n, "rate": row.value}
            for row in rows
            if row.quantity == "detection"
        ],
        "false_alarms": round(alarms.value * alarms.n),
        "noise_samples": alarms.n,
        "cfo_db_over_crlb": [
            {"snr_db": row.snr_db, "db": over(row)}
            for row in rows
            if row.quantity == "cfo_rmse" and row.channel == "awgn" and row.snr_db >= 0
        ],
        "ce_db_over_lmmse": [
            {"fft_size": row.fft_size, "snr_db": row.snr_db, "db": row.value - row.bound}
            for row in rows
            if row.quantity == "ce_lmmse" and row.channel != "air"
        ],
    }
