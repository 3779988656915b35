"""Measure how a sounded channel changes: K-factor, coherence time and Doppler spread from the powers of its taps.

Both oscillators turn every frame's taps by a phase of their own, so only the powers are compared, which for a
complex Gaussian channel correlate as the square of the taps' own correlation. Intervals are 95 %, of a jackknife over
blocks of frames.
"""

import math
from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from numpy.typing import NDArray

from calibration.sounding import Sounding
from sdr.calibration_profile import Value

BLOCKS = 12
MAX_LAGS = 64
_COHERENT = 0.25
"""Correlation of powers at which the coherence time ends: there the taps' own is one half."""
_HALF = 1.1264
"""J0 squared of it is one half."""
_SLOWEST = 0.02
"""Doppler frequency times the frames' spacing below which nothing moves within the lags looked at."""
_FASTEST = 0.3
"""The same above which neighbouring frames are too little alike (the first zero is at 0.38)."""

Statistic = Callable[[NDArray[np.float64]], float]


def jackknife(statistic: Statistic, count: int) -> tuple[float, float, float]:
    """Return a statistic of weighted frames and its interval, leaving out each of `BLOCKS` blocks in turn."""
    whole = statistic(np.ones(count))
    left_out = []
    for block in np.array_split(np.arange(count), BLOCKS):
        weights = np.ones(count)
        weights[block] = 0.0
        left_out.append(statistic(weights))
    values = np.array(left_out)
    error = math.sqrt((BLOCKS - 1) / BLOCKS * float(np.sum((values - values.mean()) ** 2)))
    reach = float(scipy.stats.t.ppf(0.975, BLOCKS - 1)) * error
    return whole, whole - reach, whole + reach


def power_correlation(
    squared: NDArray[np.float64], numbers: NDArray[np.int64], weights: NDArray[np.float64], lags: int
) -> NDArray[np.float64]:
    """Return (lags,) correlation of tap powers over distances of 0, 1, .. frames; noise is part of lag 0 only.

    Args:
        squared: (F, L) powers of the taps.
        numbers: (F,) place of each frame, in frames.
        weights: (F,) 0 for those that don't count.
        lags: distances to return.
    """
    mean = (weights @ squared) / weights.sum()
    size = int(numbers[-1] - numbers[0]) + 1
    place = numbers - numbers[0]
    # Frames that were missed are zeros without weight, so that distances stay true.
    centred = np.zeros((size, squared.shape[1]))
    centred[place] = (squared - mean) * weights[:, None]
    present = np.zeros(size)
    present[place] = weights
    found = np.empty(lags)
    for lag in range(lags):
        pairs = float(present[lag:] @ present[: size - lag])
        found[lag] = np.sum(centred[lag:] * centred[: size - lag]) / max(pairs, 1.0)
    return found


def clarke(doppler: NDArray[np.float64] | float, lag: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of powers under scattering from all around: J0(2 pi f t)^2."""
    return scipy.special.j0(2 * np.pi * np.multiply.outer(doppler, lag)) ** 2


def _doppler(correlation: NDArray[np.float64]) -> float:
    """Return the Doppler frequency times the frames' spacing that fits correlations; 0 if they never fall."""
    below = np.flatnonzero(correlation < 0.5)
    if not below.size:
        return 0.0
    high = int(below[0])
    above, under = correlation[high - 1], correlation[high]
    crossing = high - 1 + (above - 0.5) / max(above - under, 1e-12)
    rough = _HALF / (2 * np.pi * max(crossing, 1e-3))
    # Beyond the main lobe the shape depends on where the scatterers are.
    last = max(1, min(correlation.size - 1, math.floor(1.6 / (2 * np.pi * rough))))
    lags = np.arange(1.0, last + 1)
    shape = correlation[1 : last + 1]
    best = scipy.optimize.minimize_scalar(
        lambda doppler: float(np.sum((shape - clarke(doppler, lags)) ** 2)),
        bounds=(0.5 * rough, min(1.7 * rough, 0.38)),
        method="bounded",
    )
    return float(best.x)


def measure_fading(sounding: Sounding, first: int, last: int) -> dict[str, Value]:
    """Measure how the channel changes: K-factor, coherence time, Doppler frequency.

    Args:
        sounding: the sounding.
        first: first tap that holds something.
        last: last tap that holds something.

    Returns:
        `fading` and `k_factor` of the strongest path, `coherence_time_s`; `doppler_hz` where neighbours are alike.
    """
    squared = np.abs(sounding.taps[:, first : last + 1]) ** 2
    noise = sounding.taps_var[first : last + 1]
    count, layout = squared.shape[0], sounding.layout
    frame_s = layout.frame_samples / layout.rate_sps
    numbers = np.rint(sounding.place / layout.frame_samples).astype(np.int64)
    strongest = int(np.argmax(squared.mean(axis=0)))
    path = squared[:, strongest]

    def scatter(weights: NDArray[np.float64]) -> float:
        """Return the logarithm of the relative variance of the strongest path's power: 0 for Rayleigh fading."""
        total = weights.sum()
        mean = float(weights @ path) / total
        variance = float(weights @ (path - mean) ** 2) / (total - 1)
        held = max(mean - noise[strongest], 1e-300)
        # On a logarithmic scale its scatter is even.
        by_noise = 2 * held * noise[strongest] + noise[strongest] ** 2
        return math.log(max((variance - by_noise) / held**2, 1e-6))

    def k_factor(relative: float) -> float:
        root = math.sqrt(min(max(1 - relative, 0.0), 1.0))
        return root / max(1 - root, 1e-3)

    value, low, high = (math.exp(v) for v in jackknife(scatter, count))
    found = {
        "fading": Value(value, low, high, "", "relative variance of the strongest path's power, 1 for Rayleigh"),
        "k_factor": Value(
            k_factor(value), k_factor(high), k_factor(low), "", "strongest path, from the scatter of its power"
        ),
    }
    lags = max(min(count // 4, MAX_LAGS), 2)
    by_noise = float(np.sum(2 * np.maximum(squared.mean(axis=0) - noise, 0) * noise + noise**2))

    def correlations(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        found = power_correlation(squared, numbers, weights, lags)
        return np.concatenate([[1.0], found[1:] / max(float(found[0]) - by_noise, 1e-300)])

    whole = correlations(np.ones(count))
    apart = np.flatnonzero(whole < _COHERENT)
    lag = int(apart[0]) if apart.size else lags
    found["coherence_time_s"] = Value(
        lag * frame_s, (lag - 1) * frame_s, lag * frame_s, "s", f"powers correlated by less than {_COHERENT:g}"
    )
    value, low, high = jackknife(lambda weights: _doppler(correlations(weights)), count)
    if _SLOWEST <= value <= _FASTEST and whole[1] > _COHERENT:
        method = f"J0(2 pi f t)^2 through the powers' correlation; rms spread is {1 / math.sqrt(2):.2f} of it"
        found["doppler_hz"] = Value(value / frame_s, max(low, 0.0) / frame_s, high / frame_s, "Hz", method)
    return found
