"""Uncertainties of proportions and of receiver operating characteristics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sdr.errors import ConfigError


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a rate.

    >>> [round(edge, 3) for edge in wilson(100, 100)]
    [0.963, 1.0]
    """
    if n == 0:
        return 0.0, 1.0
    z, rate = 1.959964, successes / n
    centre, half = rate + z * z / (2 * n), z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((centre - half) / scale, 0.0), min((centre + half) / scale, 1.0)


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson score interval of a proportion (95 % by default).

    >>> low, high = wilson_interval(9, 10)
    >>> round(low, 2), round(high, 2)
    (0.6, 0.98)
    """
    if n < 1 or not 0 <= successes <= n:
        raise ConfigError(f"{successes} successes of {n} is no proportion; give 0..n successes of at least one.")
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class RocCurve:
    """How well a score tells good images from bad ones, low scores being good.

    Attributes:
        false_alarms, hits: rising from 0 to 1; fraction of the good and of the bad images that score at least as much
            as a threshold which falls from infinity.
        area: probability that a good image scores lower than a bad one, ties counting half.
        low, high: its 95 % interval.
        good, bad: images of each kind, at least one.
    """

    false_alarms: tuple[float, ...]
    hits: tuple[float, ...]
    area: float
    low: float
    high: float
    good: int
    bad: int


def roc_curve(scores: Sequence[float], good: Sequence[bool]) -> RocCurve | None:
    """The curve of all thresholds; None where all images are good or all are bad.

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
    """Score interval of an area under the ROC (Newcombe 2006, Statistics in Medicine 25:559, method 5).

    The areas that the one found is no more than z standard errors from, with Hanley and McNeil's variance at the area
    in question and both samples counted as (good + bad) / 2. Unlike a bootstrap it has a width at an area of 1, too.

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
