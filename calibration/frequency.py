"""Measure oscillators: a pair's CFO and SFO, how they move with time and temperature, a receiver against a tone.

Intervals are 95 %.
"""

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from calibration.link import STATIC, tap_statistics, weighted_mean
from calibration.sounding import Sounding
from sdr.calibration_profile import CalibrationError, FrequencyPoint, Value

SEGMENTS = 8
"""Parts of a sounding whose carrier offsets show a drift."""

MAX_TONE_PPM = 100.0
"""Distance from where it should be at which a reference tone is still looked for."""

_LEAST_TONE = 20.0
"""A tone's power over the median bin's: in 2**18 bins noise alone has 12.5 times the mean."""

_LEAST_SPAN_C = 1.0
"""Temperatures must have moved by so much before a frequency is said to follow them."""


def measure_frequency(*soundings: Sounding) -> dict[str, Value]:
    """Measure the CFO in Hz, in ppm of the carrier where there is one, and the SFO.

    Args:
        soundings: the same frames at each antenna; they share the oscillator, and the frames' CFO is that of all.
    """
    sounding = soundings[0]
    frames = sounding.frames
    cfo = weighted_mean(np.array([f.cfo_hz for f in frames]), np.array([f.cfo_std_hz for f in frames]))
    center_hz = sounding.recording.settings.center_hz
    # Within a frame the SFO looks like a CFO where a channel is stronger on one side of the band.
    doubt = 0.2 * sounding.layout.rate_sps * abs(cfo[0]) / center_hz if center_hz > 0 else 0.0
    cfo = (cfo[0], cfo[1] - doubt, cfo[2] + doubt)
    method = f"mean over {len(frames)} frames, each from its known symbols"
    found = {"carrier_offset_hz": Value(*cfo, "Hz", method)}
    if center_hz > 0:
        low, value, high = (1e6 * number / center_hz for number in (cfo[1], cfo[0], cfo[2]))
        found["carrier_offset_ppm"] = Value(value, low, high, "ppm", method)
    # One clock: the antenna that tells it best.
    found["clock_offset_ppm"] = min(map(_sfo, soundings), key=lambda value: value.high - value.low)
    return found


def frequency_points(
    sounding: Sounding,
    began_s: float = 0.0,
    tx_temperature_c: float | None = None,
    rx_temperature_c: float | None = None,
    segments: int = SEGMENTS,
) -> list[FrequencyPoint]:
    """Measure the CFO in every part of a sounding.

    Args:
        sounding: the sounding.
        began_s: time when it began.
        tx_temperature_c: temperature of the transmitter meanwhile, None where unknown.
        rx_temperature_c: the same of the receiver.
        segments: number of parts.
    """
    points = []
    for group in np.array_split(np.arange(len(sounding.frames)), min(segments, len(sounding.frames))):
        frames = [sounding.frames[i] for i in group]
        offset = weighted_mean(np.array([f.cfo_hz for f in frames]), np.array([f.cfo_std_hz for f in frames]))
        at_s = began_s + float(np.mean(sounding.place[group])) / sounding.layout.rate_sps
        points.append(FrequencyPoint(at_s, offset[0], offset[1], offset[2], tx_temperature_c, rx_temperature_c))
    return points


def measure_drift(points: Sequence[FrequencyPoint], center_hz: float) -> dict[str, Value]:
    """Measure how the CFO moves: `carrier_drift_hz_per_s`, and ppm per degree where temperatures moved.

    Raises:
        CalibrationError: fewer than three points.
    """
    if len(points) < 3:
        raise CalibrationError(f"a drift needs at least 3 points in time, found {len(points)}")
    at_s = np.array([p.seconds for p in points])
    offset = np.array([p.carrier_offset_hz for p in points])
    std = np.array([(p.high_hz - p.low_hz) / 3.92 for p in points])
    found = {}
    line = _line(at_s, offset, std)
    if line is not None:
        method = f"line through {len(points)} points over {np.ptp(at_s):.3g} s"
        found["carrier_drift_hz_per_s"] = Value(*line, "Hz/s", method)
    for end in ("tx", "rx"):
        degrees = [getattr(p, f"{end}_temperature_c") for p in points]
        if center_hz <= 0 or any(value is None for value in degrees) or np.ptp(degrees) < _LEAST_SPAN_C:
            continue
        line = _line(np.array(degrees), offset, std)
        if line is not None:
            value, low, high = (1e6 * number / center_hz for number in line)
            method = f"line through {len(points)} points over {np.ptp(degrees):.1f} degrees"
            found[f"{end}_ppm_per_c"] = Value(value, low, high, "ppm/degree", method)
    return found


def _line(
    x: NDArray[np.float64], y: NDArray[np.float64], std: NDArray[np.float64]
) -> tuple[float, float, float] | None:
    """Return the slope of a weighted line with its interval, widened by scatter beyond the standard errors."""
    weight = 1 / np.maximum(std, 1e-9) ** 2
    x = x - np.sum(weight * x) / weight.sum()
    y = y - np.sum(weight * y) / weight.sum()
    lever = float(np.sum(weight * x**2))
    if lever <= 0:
        return None
    slope = float(np.sum(weight * x * y)) / lever
    excess = float(np.sum(weight * (y - slope * x) ** 2)) / (x.size - 2)
    reach = float(scipy.stats.t.ppf(0.975, x.size - 2)) * math.sqrt(max(excess, 1.0) / lever)
    return slope, slope - reach, slope + reach


def measure_tone(samples: NDArray[np.complex64], rate_sps: float, center_hz: float, tone_hz: float) -> Value:
    """Measure by how many ppm a receiver's reference is fast, from a tone whose true frequency is known.

    The tone arrives at tone / (1 + e) - center of what a receiver that is fast by e calls Hz.

    Args:
        samples: complex64 (n,), with nothing but the tone on the air.
        rate_sps: sampling rate.
        center_hz: carrier of the receiver.
        tone_hz: its true frequency on the air.

    Raises:
        CalibrationError: no carrier, a tone out of the band, or none where it could be.
    """
    if center_hz <= 0:
        raise CalibrationError("a reference tone needs a carrier to compare with; give --center-hz")
    wanted_hz, reach_hz = tone_hz - center_hz, MAX_TONE_PPM * 1e-6 * tone_hz
    if abs(wanted_hz) > 0.45 * rate_sps:
        raise CalibrationError(
            f"the reference tone at {tone_hz:.10g} Hz is {wanted_hz:g} Hz beside the carrier, beyond the band of "
            f"{rate_sps:g} samples/s; tune nearer to it"
        )
    power = np.abs(np.fft.fft(samples * np.hanning(samples.size))) ** 2
    frequency = np.fft.fftfreq(samples.size, 1 / rate_sps)
    near = np.flatnonzero(np.abs(frequency - wanted_hz) <= min(reach_hz, 0.49 * rate_sps))
    # The receiver's own offset stands at 0 Hz.
    near = near[np.abs(frequency[near]) > 4 * rate_sps / samples.size]
    peak = int(near[np.argmax(power[near])])
    if power[peak] < _LEAST_TONE * float(np.median(power)):
        raise CalibrationError(
            f"no reference tone within {MAX_TONE_PPM:g} ppm of {tone_hz:.10g} Hz; check its source and the receive gain"
        )
    index = np.arange(samples.size)
    windowed = samples * np.hanning(samples.size)

    def miss(found_hz: float) -> float:
        return -float(np.abs(np.vdot(np.exp(2j * np.pi * found_hz / rate_sps * index), windowed)) ** 2)

    step = rate_sps / samples.size
    near_hz = (frequency[peak] - step, frequency[peak] + step)
    best = cast("Any", scipy.optimize.minimize_scalar(miss, bounds=near_hz, method="bounded"))
    best_hz = float(best.x)
    # What is left turns the phase of one piece after the other.
    pieces = np.array_split(samples * np.exp(-2j * np.pi * best_hz / rate_sps * index), 32)
    sums = np.array([piece.sum() for piece in pieces])
    phase = np.angle(sums * np.conj(sums.sum()))
    at_s = (np.arange(32) + 0.5) * samples.size / 32 / rate_sps
    line = scipy.stats.linregress(at_s, phase)
    reach = float(scipy.stats.t.ppf(0.975, 30)) * float(line.stderr)  # pyright: ignore[reportAttributeAccessIssue]
    slope = float(line.slope)  # pyright: ignore[reportAttributeAccessIssue]
    heard_hz = [best_hz + turn / (2 * np.pi) for turn in (slope, slope + reach, slope - reach)]
    value, low, high = (1e6 * (tone_hz / (hz + center_hz) - 1) for hz in heard_hz)
    return Value(value, low, high, "ppm", f"reference tone at {tone_hz:.10g} Hz, {samples.size} samples")


def _sfo(sounding: Sounding) -> Value:
    """Return the SFO in ppm, positive where the transmitter's clock is faster and frames arrive ever sooner."""
    frames, place = sounding.frames, sounding.place - sounding.place.mean()
    if tap_statistics(sounding).fading >= STATIC:
        # Paths come and go, so the strongest one jumps: the median of all pairs' slopes.
        late = np.array([f.start + f.arrival_samples for f in frames]) - sounding.place
        lines = np.asarray(scipy.stats.theilslopes(late, place), dtype=np.float64) * -1e6
        slope, low, high = float(lines[0]), float(lines[2]), float(lines[3])
        method = f"arrivals of {len(frames)} frames against their schedule, median of slopes"
        return Value(slope, min(low, high, slope), max(low, high, slope), "ppm", method)
    # The same channel each time: its phase over frequency turns with what is left of the SFO.
    turns = np.asarray(sounding.layout.active) / sounding.layout.fft_size
    response = sounding.taps @ np.exp(-2j * np.pi * np.outer(np.arange(sounding.taps.shape[1]), turns))
    reference = response[0]
    for _ in range(2):
        common = np.exp(-1j * np.angle(response @ reference.conj()))[:, None]
        reference = np.mean(response * common, axis=0)
    product = response * reference.conj()
    product = product * np.exp(-1j * np.angle(product.sum(axis=1)))[:, None]
    weight = np.abs(reference) ** 2
    lever = turns - np.sum(weight * turns) / weight.sum()
    late = -(product.imag @ lever) / (2 * np.pi * np.sum(weight * lever**2))
    late = late * weight.sum() / np.maximum(product.real.sum(axis=1), 1e-300)
    slope = -float(place @ late / (place @ place)) * 1e6
    left = late - late.mean() + 1e-6 * slope * place
    error = 1e6 * math.sqrt(float(left @ left) / (len(frames) - 2) / float(place @ place))
    reach = float(scipy.stats.t.ppf(0.975, len(frames) - 2)) * error
    # Frames open at whole samples, so what a fraction of one does comes and goes slowly: neighbours are alike.
    pieces = np.array_split(np.arange(place.size), 8)
    without = [np.delete(np.arange(place.size), piece) for piece in pieces]
    slopes = np.array([np.polyfit(place[rows], late[rows], 1)[0] for rows in without]) * 1e6
    spread = math.sqrt(7 / 8 * float(np.sum((slopes - slopes.mean()) ** 2)))
    reach = max(reach, float(scipy.stats.t.ppf(0.975, 7)) * spread)
    slope += sounding.sfo_ppm
    method = f"phase over frequency of {len(frames)} frames, against their schedule"
    return Value(slope, slope - reach, slope + reach, "ppm", method)
