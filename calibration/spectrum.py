"""Measure the transmitter's spectrum, beside its band too, and its peaks over its mean. Intervals are 95 %."""

import math

import numpy as np
from numpy.typing import NDArray

from calibration.link import weighted_mean
from calibration.sounding import Sounding, sounding_frames
from sdr.air.amplifier import apply_rapp
from sdr.calibration_profile import BandPoint, Value
from sdr.layout import FrameLayout
from sdr.modem import modulate

BINS = 64
SLOPE = 0.05
"""Relative error of a bin's level that a channel's change within the bin may cause."""
_FLOOR_DB = -99.0


def periodogram(samples: NDArray[np.complex64], bins: int = BINS) -> tuple[NDArray[np.float64], int]:
    """Return (bins,) power per bin under a Hann window, lowest frequency first, and how many were averaged."""
    window = np.hanning(bins + 1)[:-1]
    window = window / np.linalg.norm(window)
    pieces = np.lib.stride_tricks.sliding_window_view(samples, bins)[:: bins // 2]
    power = np.mean(np.abs(np.fft.fft(pieces * window, axis=1)) ** 2, axis=0)
    return np.fft.fftshift(power), len(pieces)


def measure_spectrum(
    sounding: Sounding, noise_floor_dbfs: float | None
) -> tuple[tuple[BandPoint, ...], dict[str, Value]]:
    """Measure the spectrum of the frames as sent: what arrived, without noise, over the channel's mean gain.

    Args:
        noise_floor_dbfs: power per sample between frames; without it nothing is measured.

    Returns:
        `BINS` points relative to the mean of the occupied band, and `adjacent_power_db`, the mean density of the
        carriers that a layout leaves empty at both ends, where it leaves enough of them.
    """
    layout, samples = sounding.layout, sounding.recording.samples
    if noise_floor_dbfs is None:
        return (), {}
    noise_var = 10 ** (noise_floor_dbfs / 10)
    occupied = layout.num_symbols * layout.symbol_samples
    total, count, gain = np.zeros(BINS), 0, np.zeros(BINS)
    frequency = (np.arange(BINS) - BINS // 2) / BINS
    steering = np.exp(-2j * np.pi * np.outer(frequency, np.arange(sounding.taps.shape[1])))
    for row, frame in enumerate(sounding.frames):
        first = frame.start + frame.advance
        piece = samples[first : first + occupied]
        if first < 0 or piece.size < occupied:
            continue
        turn = np.exp(-2j * np.pi * frame.cfo_hz / layout.rate_sps * np.arange(occupied))
        power, pieces = periodogram((piece * turn).astype(np.complex64))
        total, count = total + power, count + pieces
        gain = gain + np.abs(steering @ sounding.taps[row]) ** 2 * layout.amplitude**2
    frames = max(count // ((occupied - BINS) // (BINS // 2) + 1), 1)
    received = total / frames
    inside, outside = _bands(layout, frequency)
    sent = np.maximum(received - noise_var, 0.0) / np.maximum(gain / frames, 1e-30)
    mean = float(sent[inside].mean())
    # Half overlapping Hann windows count for 0.95 of as many independent ones; exponentially distributed powers.
    relative = math.hypot(1.96 / math.sqrt(0.95 * count), SLOPE)
    reach = relative * received / np.maximum(gain / frames, 1e-30) / mean
    level = sent / mean
    points = tuple(
        BandPoint(float(f * layout.rate_sps), _db(v), _db(max(v - r, 0.0)), _db(v + r))
        for f, v, r in zip(frequency, level, reach, strict=True)
    )
    if np.count_nonzero(outside) < 2:
        return points, {}
    adjacent = float(level[outside].mean())
    error = float(np.sqrt(np.sum(reach[outside] ** 2))) / np.count_nonzero(outside)
    method = f"{np.count_nonzero(outside)} of {BINS} bins beside the band, {len(sounding.frames)} frames"
    value = Value(_db(adjacent), _db(max(adjacent - error, 0.0)), _db(adjacent + error), "dB", method)
    return points, {"adjacent_power_db": value}


def _bands(layout: FrameLayout, frequency: NDArray[np.float64]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bins well inside the occupied band, and well outside of it; the carrier's neighbours are neither."""
    low, high = min(layout.active) / layout.fft_size, max(layout.active) / layout.fft_size
    margin = 2.0 / BINS
    inside = (frequency > low + margin) & (frequency < high - margin) & (np.abs(frequency) > margin)
    outside = (frequency < low - margin) | (frequency > high + margin)
    return inside, outside


def _db(power: float) -> float:
    return max(10 * math.log10(power), _FLOOR_DB) if power > 0 else _FLOOR_DB


def measure_papr(sounding: Sounding, curve: tuple[float, float] | None) -> dict[str, Value]:
    """Measure the peak over mean power of a frame: as sent, and behind the amplifier where its curve is known."""
    layout = sounding.layout
    occupied = layout.num_symbols * layout.symbol_samples
    numbers = np.unique(sounding.numbers)[:64]
    contents = {c.header.frame_number: c for c in sounding_frames(layout, int(numbers[-1]) + 1)}
    sent = [modulate(contents[int(number)], layout)[:occupied] for number in numbers]
    found = {"papr_sent_db": _papr(sent, "limited samples")}
    if curve is not None:
        bent = [apply_rapp(samples, *curve) for samples in sent]
        found["papr_amplified_db"] = _papr(bent, "the same through the amplifier's curve")
    return found


def _papr(frames: list[NDArray[np.complex64]], what: str) -> Value:
    ratio = np.array([10 * np.log10(np.abs(f).max() ** 2 / np.mean(np.abs(f) ** 2)) for f in frames])
    spread = max(float(ratio.std(ddof=1)), 1e-6)
    return Value(*weighted_mean(ratio, np.full(ratio.size, spread)), "dB", f"mean of {len(frames)} frames, {what}")
