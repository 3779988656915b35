"""Block error rates over the channel SNR: counted, fitted, and searched for.

A curve is a normal distribution function in dB, as the waterfall of a long code is, fitted by maximum likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import norm

from lab.evaluation.statistics import wilson_interval

#: Block error rate at which curves are compared.
COMPARED_BLER = 1e-2
#: Standard deviations, dB, that a fitted waterfall may have.
_WIDTHS_DB = (0.03, 3.0)


@dataclass(frozen=True)
class BlerPoint:
    """Blocks counted at one channel SNR.

    Attributes:
        scheme: name of modulation and code rate.
        where: they were sent.
        csnr_db: channel SNR, dB.
        blocks: sent.
        errors: blocks that were not found, failed the checksum, or were wrong.
    """

    scheme: str
    where: str
    csnr_db: float
    blocks: int
    errors: int

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the block error rate."""
        return wilson_interval(self.errors, self.blocks)


@dataclass(frozen=True)
class Waterfall:
    """A block error rate over the channel SNR: 1 - Phi((csnr_db - middle_db) / width_db).

    Attributes:
        middle_db: where half of the blocks fail.
        width_db: standard deviation.
        error_db: standard error of `at(COMPARED_BLER)`, from blocks drawn anew.
    """

    middle_db: float
    width_db: float
    error_db: float = 0.0

    def at(self, bler: float) -> float:
        """Return the channel SNR, dB, of a block error rate."""
        return float(self.middle_db + self.width_db * norm.isf(bler))

    def bler(self, csnr_db: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the block error rate at channel SNRs, dB."""
        return norm.sf((csnr_db - self.middle_db) / self.width_db)


def search_waterfall(
    count: Callable[[float, int, int], BlerPoint], start_db: float, blocks: int, step_db: float = 0.3
) -> list[BlerPoint]:
    """Find where a curve falls and count blocks there.

    Args:
        count: counts so many blocks at a channel SNR with a seed.
        start_db: a first guess.
        blocks: counted in all, about.
        step_db: between channel SNRs.

    Returns:
        the points: some 20 blocks each until one loses all and one none, then the rest in between.
    """
    few = max(4, blocks // 6)
    points = [count(start_db, few, 1)]
    while points[-1].errors and len(points) < 20:
        points.append(count(points[-1].csnr_db + step_db, few, len(points) + 1))
    while min(points, key=lambda p: p.csnr_db).errors < few // 2 and len(points) < 20:
        lowest = min(points, key=lambda p: p.csnr_db).csnr_db
        points.append(count(lowest - step_db, few, len(points) + 1))
    rough = fit_waterfall(points, resamples=0)
    middle, spread = rough.middle_db, max(rough.width_db, 0.08)
    for index, place in enumerate((middle, middle + spread, middle + 2 * spread)):
        points.append(count(place, max(4, blocks // 5), 100 + index))
    return points


def fit_waterfall(points: Sequence[BlerPoint], resamples: int = 200, seed: int = 0) -> Waterfall:
    """Fit a waterfall to counted blocks by maximum likelihood.

    Args:
        points: of one scheme and channel.
        resamples: of the blocks, which tell the standard error.
        seed: of these.
    """
    csnr_db = np.array([point.csnr_db for point in points])
    blocks = np.array([point.blocks for point in points])
    errors = np.array([point.errors for point in points])

    def fitted(lost: NDArray[np.int64]) -> Waterfall:
        def cost(parameters: NDArray[np.float64]) -> float:
            middle, width = parameters[0], np.clip(np.exp(parameters[1]), *_WIDTHS_DB)
            rate = np.clip(norm.sf((csnr_db - middle) / width), 1e-9, 1 - 1e-9)
            # A weak prior about 0.2 dB keeps the width finite where no point has both outcomes.
            return float(-(lost * np.log(rate) + (blocks - lost) * np.log1p(-rate)).sum() + (np.log(width / 0.2)) ** 2)

        start = np.array([np.average(csnr_db, weights=0.05 + (lost / blocks) * (1 - lost / blocks)), np.log(0.2)])
        best = minimize(cost, start, method="Nelder-Mead").x
        return Waterfall(float(best[0]), float(np.clip(np.exp(best[1]), *_WIDTHS_DB)))

    found = fitted(errors)
    if not resamples:
        return found
    generator = np.random.default_rng(seed)
    places = [
        fitted(generator.binomial(blocks, np.clip((errors + 0.25) / (blocks + 0.5), 0, 1))).at(COMPARED_BLER)
        for _ in range(resamples)
    ]
    return Waterfall(found.middle_db, found.width_db, float(np.std(places)))
