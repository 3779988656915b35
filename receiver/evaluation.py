"""Scoring decoded images against their originals: per method, with uncertainty and the null beside every claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch

from receiver.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db, ssim
from receiver.realism import Images, Realism, noise_null
from sdr.errors import ConfigError

#: A decoded image counts as a success from this PSNR on; below it, black backgrounds alone can pass.
SUCCESS_PSNR_DB = 17.0
#: A channel counts as found below this squared error (the true channel has unit mean power).
CHANNEL_FOUND = 0.1
#: The paper's bar for a success, by which acceptance is judged; black backgrounds alone can pass it.
LOW_SUCCESS_PSNR_DB = 15.0
#: An identical copy has no finite PSNR; means are taken over values cut here.
MAX_PSNR_DB = 100.0


@dataclass(frozen=True)
class Summary:
    """One method over one set of images.

    Attributes:
        method: name of the method.
        n: images.
        psnr_db: mean PSNR; psnr_se_db its standard error.
        ssim: mean structural similarity, over five scales (MS-SSIM) where all images are large
            enough; ssim_se its standard error.
        realism: distance of the decoded set to real images (smaller is better); realism_se its standard error.
        realism_null: the same for the deterministic decoder's images plus white noise that makes their mean squared
            error equal this method's: what noise alone would gain. None for the deterministic decoder itself.
        success_17db: fraction of images with PSNR >= 17 dB; success_low and success_high its 95 % Wilson interval.
        seconds_per_image: decoding time.
        residual: median normalised residual, about 1 for right answers.
        accepted: fraction whose residual noise explains.
        channel_found: fraction whose channel was found, ||h_hat - h||^2 < 0.1; None where the truth is not known.
    """

    method: str
    n: int
    psnr_db: float
    psnr_se_db: float
    ssim: float
    ssim_se: float
    realism: float
    realism_se: float
    realism_null: float | None
    realism_null_se: float | None
    success_17db: float
    success_low: float
    success_high: float
    seconds_per_image: float
    residual: float
    accepted: float
    channel_found: float | None = None

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON and Parquet."""
        return asdict(self)


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
    (0.83, 1.0)
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


def summarise(
    method: str,
    images: Images,
    originals: Images,
    *,
    realism: Realism,
    plain: Images | None,
    seconds: Sequence[float],
    residuals: Sequence[float],
    accepted: Sequence[bool],
    channel_distances: Sequence[float] | None = None,
    seed: int = 0,
) -> Summary:
    """Score the images of one method against their originals.

    Args:
        realism: the distance and its reference.
        plain: the deterministic decoder's images of the same originals, for the noise null; None: no null.
        seconds: n, per image. residuals: n, normalised. accepted: n.
        channel_distances: n, squared error of the channel that each image was decoded with, where the truth is known.
        seed: of the bootstrap and of the null's noise.

    Raises:
        ConfigError: fewer than two images, which have no distance between sets.
    """
    n = len(images)
    if n < 2:
        raise ConfigError(f"{method} has {n} images to score; a distance between sets needs at least 2.")
    generator = torch.Generator().manual_seed(seed)
    pairs = list(zip(images, originals, strict=True))
    psnr = torch.cat([psnr_db(image[None], true[None]) for image, true in pairs]).clamp(max=MAX_PSNR_DB)
    similarity = ms_ssim if all(min(image.shape[1:]) >= MS_SSIM_MIN_SIDE for image in images) else ssim
    structure = torch.cat([similarity(image[None], true[None]) for image, true in pairs])
    successes = int((psnr >= SUCCESS_PSNR_DB).sum())
    low, high = wilson_interval(successes, n)
    score = realism.score(images, generator)
    null = None
    if plain is not None:
        null = realism.score(noise_null(plain, originals, images, generator), generator)
    return Summary(
        method=method,
        n=n,
        psnr_db=float(psnr.mean()),
        psnr_se_db=float(psnr.std() / math.sqrt(n)),
        ssim=float(structure.mean()),
        ssim_se=float(structure.std() / math.sqrt(n)),
        realism=score.value,
        realism_se=score.std_error,
        realism_null=None if null is None else null.value,
        realism_null_se=None if null is None else null.std_error,
        success_17db=successes / n,
        success_low=low,
        success_high=high,
        seconds_per_image=sum(seconds) / n,
        residual=statistics.median(residuals),
        accepted=sum(accepted) / n,
        channel_found=None
        if channel_distances is None
        else sum(distance < CHANNEL_FOUND for distance in channel_distances) / n,
    )
