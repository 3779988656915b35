"""Areas under the ROC: the same as sorted scores give, and intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluation.statistics import area_interval, roc_curve


def test_the_area_is_the_probability_of_the_right_order() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 30, 300)  # with ties
    good = rng.random(300) < 1 / (1 + np.exp((scores - 15) / 5))
    curve = roc_curve(scores.tolist(), good.tolist())
    assert curve is not None
    low, high = scores[good][:, None], scores[~good][None, :]
    assert curve.area == pytest.approx(np.mean((low < high) + (low == high) / 2), abs=1e-12)
    assert (curve.false_alarms[-1], curve.hits[-1]) == pytest.approx((1, 1))
    assert np.all(np.diff(curve.false_alarms) >= 0) and np.all(np.diff(curve.hits) >= 0)
    assert curve.low < curve.area < curve.high
    assert (curve.good, curve.bad) == (good.sum(), (~good).sum())


def test_one_kind_alone_has_no_curve_and_what_diverged_is_bad() -> None:
    assert roc_curve([1.0, 2.0], [True, True]) is None and roc_curve([1.0], [False]) is None
    curve = roc_curve([1.0, 2.0, math.nan], [True, True, False])
    assert curve is not None and curve.area == 1 and curve.high == 1 and curve.low < 1


@pytest.mark.parametrize(("good", "bad", "shift"), [(60, 8, 2.0), (60, 8, 3.5), (200, 4, 2.5)])
def test_the_interval_covers(good: int, bad: int, shift: float) -> None:
    """Two normal populations a shift apart have the area Phi(shift / sqrt 2)."""
    true = 0.5 * (1 + math.erf(shift / 2))
    rng = np.random.default_rng([good, bad])
    covered = 0
    for _ in range(400):
        low, high = rng.standard_normal(good), rng.standard_normal(bad) + shift
        edges = area_interval(float(np.mean(low[:, None] < high[None, :])), good, bad)
        covered += edges[0] <= true <= edges[1]
    # 95 % of 400 are 380 +- 4.4; score intervals of small samples are off by a few percent.
    assert covered >= 366
