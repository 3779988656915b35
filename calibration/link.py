"""Measure a link from a sounding: noise, delay, power delay profile. Intervals are 95 %."""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

from calibration.fading import measure_fading
from calibration.sounding import Sounding
from receiver.sync.frame import timing_advance
from sdr.calibration_profile import CalibrationError, PowerDelayProfile, Value

_FLOOR = 1e-3
"""Taps below -30 dB of all are not looked at."""

_FIRST_PATH = 0.02
"""The first path is the first tap of at least this share of the strongest: what is weaker may be leakage."""

_ONE_PATH = 0.95

STATIC = 0.05
"""Relative variance of a tap's power below which the channel counts as unchanging (Rayleigh fading has 1)."""


def _value(interval: tuple[float, float, float], unit: str, method: str) -> Value:
    return Value(interval[0], interval[1], interval[2], unit, method)


def weighted_mean(values: NDArray[np.float64], std: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return the mean of independent measurements and its 95 % interval, which scatter beyond their errors widens.

    >>> weighted_mean(np.array([1.0, 3.0]), np.array([1e-6, 1e-6]))[0]
    2.0
    """
    weight = 1.0 / np.maximum(std, 1e-12) ** 2
    mean = float(np.sum(weight * values) / weight.sum())
    excess = float(np.sum(weight * (values - mean) ** 2)) / max(values.size - 1, 1)
    error = math.sqrt(max(excess, 1.0) / weight.sum())
    reach = float(scipy.stats.t.ppf(0.975, max(values.size - 1, 1))) * error
    return mean, mean - reach, mean + reach


def measure_noise(sounding: Sounding) -> dict[str, Value]:
    """Measure the noise floor from the gaps between frames, and the error power per cell of the frames, in dBFS."""
    layout, samples = sounding.layout, sounding.recording.samples
    occupied = layout.num_symbols * layout.symbol_samples
    # Echoes end a prefix or so after the last symbol; the next frame may come a few samples early.
    low, high = occupied + layout.cp_samples + 10, layout.frame_samples - 4
    # Single frames are found late where their first path has faded; the common axis says where they are.
    begin = sounding.axis_zero + tap_statistics(sounding).first
    pieces = []
    for place in sounding.place * (1 - sounding.sfo_ppm * 1e-6):
        first = round(begin + float(place))
        if high > low and first + high <= samples.size:
            pieces.append(samples[first + low : first + high].astype(np.complex128))
    found: dict[str, Value] = {}
    if pieces:
        quiet = np.concatenate(pieces)
        quiet = quiet - quiet.mean()
        freedom = 2 * (quiet.size - 1)
        power = float(np.sum(np.abs(quiet) ** 2)) / (quiet.size - 1)
        found["noise_floor_dbfs"] = _power_value(power, freedom, f"{quiet.size} samples between frames")
    error = float(sounding.error_var.mean())
    freedom = 2 * sounding.error_freedom * sounding.error_var.size
    found["error_floor_dbfs"] = _power_value(error, freedom, "what the fitted channel leaves of known cells")
    return found


def _power_value(power: float, freedom: int, method: str) -> Value:
    """Return a power from a chi-square of `freedom` degrees of freedom, in dBFS."""
    power = max(power, 1e-30)
    low, high = (freedom / scipy.stats.chi2.ppf(q, freedom) for q in (0.975, 0.025))
    level, least, most = (10 * math.log10(power * factor) for factor in (1.0, low, high))
    return Value(level, least, most, "dBFS", method)


@dataclass(frozen=True, eq=False)
class TapStatistics:
    """Second-order statistics of the taps of a sounding.

    Attributes:
        power: (L,) mean power of each tap, noise taken off.
        noise: (L,) what was taken off.
        shape: (L,) each mean power's relative precision: it scatters as a Gamma distribution of this shape.
        fading: relative variance of the taps' powers: 1 for Rayleigh fading, 0 for a channel that stays.
        draws: how many independent channels there were.
        correlation: (lags,) correlation of the powers, frame to frame; lag 0 first.
        first: first tap that holds something.
        last: last tap that holds something.
    """

    power: NDArray[np.float64]
    noise: NDArray[np.float64]
    shape: NDArray[np.float64]
    fading: float
    draws: float
    correlation: NDArray[np.float64]
    first: int
    last: int


def tap_statistics(sounding: Sounding) -> TapStatistics:
    """Return the mean powers of the taps, and how far to trust them.

    Raises:
        CalibrationError: no tap stands out of the noise.
    """
    squared = np.abs(sounding.taps) ** 2
    count, noise = squared.shape[0], sounding.taps_var
    mean = squared.mean(axis=0)
    power = sounding.power
    threshold = np.maximum(4 * noise / math.sqrt(count), _FLOOR * power.max())
    present = np.flatnonzero(power > threshold)
    if not present.size:
        raise CalibrationError("no path stands out of the noise; raise tx_gain_db, or send more frames")
    strong = np.flatnonzero(power >= max(_FIRST_PATH * power.max(), threshold.max()))
    first, last = int(strong[0]), int(present[-1])
    centred = (squared - mean)[:, first : last + 1]
    spread = np.sum(centred**2) / max(count - 1, 1)
    # Noise alone makes powers scatter by 2 p s + s^2.
    by_noise = np.sum((2 * np.maximum(power, 0) * noise + noise**2)[first : last + 1])
    fading = float(np.clip((spread - by_noise) / np.sum(power[first : last + 1] ** 2), 0.0, 2.0))
    lags = min(count // 2, 64)
    correlation = np.array([np.sum(centred[k:] * centred[: count - k]) for k in range(lags)])
    correlation = correlation / max(float(correlation[0]), 1e-300) * count / (count - np.arange(lags))
    if fading < STATIC:
        draws = 1.0
    else:
        # What is not significantly correlated is not counted.
        limit = 2.5 / math.sqrt(count * max(last - first + 1, 1))
        ends = np.flatnonzero(correlation[1:] < limit)
        until = int(ends[0]) + 1 if ends.size else lags
        draws = max(count / (1 + 2 * float(np.sum(correlation[1:until]))), 1.0)
    effective = count if fading < STATIC else draws
    held = np.maximum(power, 0.0)
    variance = (fading * held**2) / effective + (2 * held * noise + noise**2) / count
    shape = np.maximum(mean, 1e-300) ** 2 / np.maximum(variance, 1e-300)
    return TapStatistics(power, noise, shape, fading, draws, correlation, first, last)


def measure_channel(sounding: Sounding) -> tuple[PowerDelayProfile, dict[str, Value], list[str]]:
    """Measure the power delay profile, its exponential fit, CSNR and fading; and return doubts about them.

    Raises:
        CalibrationError: no tap stands out of the noise.
    """
    stats, layout = tap_statistics(sounding), sounding.layout
    used = slice(stats.first, stats.last + 1)
    power, noise, shape = (v[used] for v in (stats.power, stats.noise, stats.shape))
    mean = power + noise
    low = np.maximum(mean * shape / scipy.stats.gamma.ppf(0.975, shape) - noise, 0.0)
    high = np.maximum(mean * shape / scipy.stats.gamma.ppf(0.025, shape) - noise, 1e-12)
    held = np.maximum(power, 0.0)
    total = float(held.sum())
    static = stats.fading < STATIC
    count = sounding.taps.shape[0]
    # Late by so many samples: where the synchroniser saw the first path against where it is on the common axis.
    opened = np.array([f.start + f.advance for f in sounding.frames]) - sounding.place * (1 - sounding.sfo_ppm * 1e-6)
    late = np.rint(opened - (sounding.axis_zero + stats.first)).astype(int)
    samples, counts = np.unique(np.clip(late, -timing_advance(layout), layout.cp_samples + 2), return_counts=True)
    profile = PowerDelayProfile(
        powers=tuple(held / total),
        low=tuple(np.minimum(low, held) / total),
        high=tuple(np.maximum(high, held) / total),
        draws=stats.draws,
        timing_samples=tuple(samples),
        timing_odds=tuple(counts / counts.sum()),
        method=f"least-squares taps of {count} frames on one time axis, noise taken off",
    )
    values: dict[str, Value] = {}
    csnr = 10 * math.log10(total / float(sounding.error_var.mean()))
    # Taps fade independently: the total is as sure as its parts together.
    relative = math.sqrt(float(np.sum(mean**2 / shape))) / total
    reach = 1.96 * 10 / math.log(10) * math.hypot(relative, 1 / math.sqrt(sounding.error_freedom * count))
    values["csnr_db"] = Value(csnr, csnr - reach, csnr + reach, "dB", "power of all taps over error power per cell")
    warnings = []
    if static:
        warnings.append("the channel never changed while it was sounded: its profile is that of one channel")
    elif stats.draws < 30:
        warnings.append(f"only {stats.draws:.0f} independent channels were seen; send more --frames")
    if not static:
        values |= measure_fading(sounding, stats.first, stats.last)
        values |= _fit_decay(power + noise, noise, stats.draws)
    return profile, values, warnings


def _fit_decay(mean: NDArray[np.float64], noise: NDArray[np.float64], draws: float) -> dict[str, Value]:
    """Fit an exponential profile by maximum likelihood: powers scatter as Gamma variables of shape `draws`."""
    taps = np.arange(mean.size)
    if mean.size < 3:
        return {}

    def model(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.exp(parameters[0] - taps * np.exp(-parameters[1])) + noise

    def loss(parameters: NDArray[np.float64]) -> float:
        m = model(parameters)
        return float(np.sum(np.log(m) + mean / m))

    start = np.array([math.log(max(mean[0] - noise[0], 1e-12)), math.log(max(mean.size / 3, 0.5))])
    best = scipy.optimize.minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-10})
    log_decay = float(best.x[1])
    m = model(best.x)
    clean = m - noise
    gradient = np.stack([clean / m, clean / m * taps * math.exp(-log_decay)])
    information = draws * gradient @ gradient.T
    reach = 1.96 * math.sqrt(max(float(np.linalg.pinv(information)[1, 1]), 0.0))
    # By how much the taps miss the exponential, against how much they scatter.
    misfit = float(np.mean((mean / m - 1) ** 2) * draws)
    method = f"exponential, maximum likelihood over {mean.size} taps, misfit {misfit:.1f} (1 if it is one)"
    decay = math.exp(log_decay)
    if not 1e-2 < decay < 1e4:
        return {}
    return {
        "pdp_taps": Value(mean.size, mean.size, mean.size, "samples", "taps that stand out of the noise"),
        "pdp_decay_samples": Value(decay, decay * math.exp(-reach), decay * math.exp(reach), "samples", method),
    }


def measure_continuity(sounding: Sounding) -> tuple[dict[str, Value], list[str]]:
    """Measure `lost_samples` of the capture, from where the frames arrived, and warn if there were any."""
    layout, lost = sounding.layout, sum(size for _, size in sounding.gaps)
    span_s = float(sounding.place[-1] - sounding.place[0]) / layout.rate_sps
    reported = sounding.recording.health.overflows
    method = (
        f"{len(sounding.frames)} numbered frames over {span_s:.3g} s at {layout.rate_sps:g} samples/s, "
        f"{len(sounding.gaps)} gaps; the driver reported {reported}"
    )
    warnings = []
    if lost:
        warnings.append(f"{lost} samples were lost in {len(sounding.gaps)} gaps; lower the rate, or end other programs")
    return {"lost_samples": Value(lost, lost, lost, "samples", method)}, warnings


def measure_delay(sounding: Sounding) -> dict[str, Value]:
    """Measure the latency of the first path in samples, where the transmission was sent once; else nothing."""
    if not sounding.absolute:
        return {}
    stats = tap_statistics(sounding)
    latency = float(sounding.first_delay + stats.first)
    method = "first path against the transmitted samples"
    if stats.fading >= STATIC:
        return {"latency_samples": Value(latency, latency, latency, "samples", method)}
    places = []
    for group in np.array_split(np.arange(sounding.taps.shape[0]), 8):
        taps = sounding.taps[group]
        strongest = int(np.argmax(np.mean(np.abs(taps) ** 2, axis=0)))
        # Frames differ by the phase that the carrier offset leaves; the strongest tap has it.
        aligned = np.mean(taps * np.exp(-1j * np.angle(taps[:, strongest]))[:, None], axis=0)
        place, fit = _single_path(aligned, np.asarray(sounding.layout.active) / sounding.layout.fft_size, strongest)
        if fit < _ONE_PATH:
            return {"latency_samples": Value(latency, latency, latency, "samples", method)}
        places.append(place + sounding.first_delay)
    found = np.array(places)
    interval = weighted_mean(found, np.full(found.size, max(float(found.std(ddof=1)), 1e-6)))
    return {"latency_samples": _value(interval, "samples", "one path, fitted to a fraction of a sample")}


def _single_path(taps: NDArray[np.complex128], turns: NDArray[np.float64], near: int) -> tuple[float, float]:
    """Delay of the one path that fits (L,) taps best, within a sample of tap `near`, and how well it fits, 0..1."""
    index = np.arange(taps.size)

    def miss(delay: float) -> float:
        path = np.exp(-2j * np.pi * turns * delay) @ np.exp(2j * np.pi * np.outer(turns, index))
        return -float(np.abs(np.vdot(path, taps)) ** 2 / (np.vdot(path, path).real * np.vdot(taps, taps).real))

    best = cast("Any", scipy.optimize.minimize_scalar(miss, bounds=(near - 1, near + 1), method="bounded"))
    return float(best.x), -float(best.fun)
