"""Means, proportions, receiver operating characteristics (ROC) and slopes of lines, each with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from sdr.errors import ConfigError


def mean_and_error(values: Sequence[float] | NDArray[np.floating] | Tensor) -> tuple[float, float]:
    """Return the mean of independent values (n,) and its standard error; NaN where n is too small to tell.

    >>> mean_and_error([1.0, 2.0, 3.0, 4.0])
    (2.5, 0.6454972243679028)
    >>> mean_and_error([1.0])
    (1.0, nan)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        return math.nan, math.nan
    return float(array.mean()), float(array.std(ddof=1)) / math.sqrt(array.size) if array.size > 1 else math.nan


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion.

    Args:
        successes: 0..n.
        n: trials; of none nothing is known.

    Returns:
        its ends, low and high, in [0, 1].

    Raises:
        ConfigError: `successes` is not in 0..n.

    >>> [round(edge, 3) for edge in wilson_interval(100, 100)]
    [0.963, 1.0]
    >>> wilson_interval(0, 0)
    (0.0, 1.0)
    """
    if not 0 <= successes <= n:
        raise ConfigError(f"{successes} successes of {n} is no proportion; give 0..n successes.")
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class RocCurve:
    """How well a score tells good images from bad ones, low scores being good.

    Attributes:
        false_alarms: fraction of the good images that score at least a threshold, as that falls from infinity; 0 to 1.
        hits: the same fraction of the bad images, at the same thresholds.
        area: probability that a good image scores lower than a bad one, ties counting half.
        low: lower end of the area's 95 % interval.
        high: upper end of it.
        good: good images, at least one.
        bad: bad images, at least one.
    """

    false_alarms: tuple[float, ...]
    hits: tuple[float, ...]
    area: float
    low: float
    high: float
    good: int
    bad: int


def roc_curve(scores: Sequence[float], good: Sequence[bool]) -> RocCurve | None:
    """Return the ROC over all thresholds, or None where all images are good or all are bad.

    Args:
        scores: n, low for images that are taken for good; NaN counts as infinite.
        good: n, whether each image is.

    >>> curve = roc_curve([0.5, 0.9, 0.7, 3.0], [True, True, False, False])
    >>> curve.area, curve.false_alarms, curve.hits
    (0.75, (0.0, 0.0, 0.5, 0.5, 1.0), (0.0, 0.5, 0.5, 1.0, 1.0))
    """
    count = sum(good)
    other = len(good) - count
    if not count or not other:
        return None
    # A sampler that diverged has no finite residual: it is the worst there is.
    ranked = [math.inf if math.isnan(score) else score for score in scores]
    false_alarms, hits = [0.0], [0.0]
    area = 0.0
    for threshold in sorted(set(ranked), reverse=True):
        same = [is_good for score, is_good in zip(ranked, good, strict=True) if score == threshold]
        false_alarms.append(false_alarms[-1] + sum(same) / count)
        hits.append(hits[-1] + (len(same) - sum(same)) / other)
        area += (false_alarms[-1] - false_alarms[-2]) * (hits[-1] + hits[-2]) / 2
    area = min(max(area, 0.0), 1.0)
    return RocCurve(tuple(false_alarms), tuple(hits), area, *area_interval(area, count, other), count, other)


def area_interval(area: float, good: int, bad: int, z: float = 1.96) -> tuple[float, float]:
    """Return the score interval of an area under the ROC (Newcombe 2006, Statistics in Medicine 25:559, method 5).

    It holds the areas from which `area` is at most `z` standard errors away, with Hanley and McNeil's variance at the
    area in question and both samples counted as (good + bad) / 2. Unlike a bootstrap it has a width at an area of 1.

    Args:
        area: found, in [0, 1].
        good: good images.
        bad: bad images.
        z: quantile of the normal distribution; 1.96 for 95 %.

    >>> low, high = area_interval(1.0, 60, 4)
    >>> round(low, 2), high
    (0.75, 1.0)
    """
    half = (good + bad) / 2 - 1

    def excess(other: float) -> float:
        variance = other * (1 - other) * (1 + half * (1 - other) / (2 - other) + half * other / (1 + other))
        return (area - other) ** 2 - z * z * variance / (good * bad)

    def edge(far: float) -> float:
        near = area
        if excess(far) <= 0:
            return far
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (middle, far) if excess(middle) <= 0 else (near, middle)
        return near

    return edge(0.0), edge(1.0)


def fitted_slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float | None, float | None]:
    """Return the slope of a line through points (n,) and its standard error; None of fewer than three points."""
    if x.size < 3:
        return None, None
    (slope, _), covariance = np.polyfit(x, y, 1, cov=True)
    return float(slope), float(np.sqrt(covariance[0, 0]))
