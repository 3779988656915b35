"""Summaries of a method over many images: means with their uncertainty, and the noise null beside every realism.

`Summary` is of a set of decoded images (a demonstration, a point of a sweep); `SnrPoint` is of all images that were
sent at one channel SNR, whether they arrived or not (a decoded dataset).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db, ssim
from lab.evaluation.outcomes import MAX_PSNR_DB, ImageOutcome, stored_fields
from lab.evaluation.perceptual.registry import IMAGE_METRICS
from lab.evaluation.realism import Images, Realism, RealismScore, noise_null
from lab.evaluation.statistics import mean_and_error, wilson_interval
from receiver.results import ImageResult
from sdr.errors import ConfigError, RecordingError

#: A decoded image counts as a success from this PSNR on; below it, black backgrounds alone can pass.
SUCCESS_PSNR_DB = 17.0
#: The paper's bar for a success, by which acceptance is judged; black backgrounds alone can pass it.
LOW_SUCCESS_PSNR_DB = 15.0
#: A channel counts as found below this squared error (the true channel has unit mean power).
CHANNEL_FOUND = 0.1


@dataclass(frozen=True)
class Summary:
    """One method over one set of images.

    Attributes:
        method: name of the method.
        n: images.
        psnr_db: mean PSNR.
        psnr_se_db: its standard error.
        ssim: mean structural similarity, over five scales (MS-SSIM) where all images are large enough.
        ssim_se: its standard error.
        realism: distance of the decoded set to real images (smaller is better); None where it was not measured.
        realism_se: its standard error.
        realism_null: the same for the deterministic decoder's images plus white noise that makes their mean squared
            error equal this method's: what noise alone would gain. None for the deterministic decoder itself.
        realism_null_se: its standard error.
        success_17db: fraction of images with PSNR >= 17 dB.
        success_low: lower end of its 95 % Wilson interval.
        success_high: upper end of it.
        seconds_per_image: decoding time.
        residual: median normalised residual, about 1 for right answers.
        accepted: fraction that the receiver accepts.
        channel_found: fraction whose channel was found, ||h_hat - h||^2 < 0.1; None where the truth is not known.
        lpips_vgg: mean LPIPS to the originals; None where an image is smaller than `PERCEPTUAL_MIN_SIDE` or the network
            is not there (`make metrics`). So are those that follow.
        lpips_vgg_se: its standard error.
        lpips_vgg_null: the same of the images that `realism_null` is of.
        dists: mean DISTS to the originals.
        dists_se: its standard error.
        dists_null: the same of the images that `realism_null` is of.
        cbr: mean of complex symbols per value of the source, side information included; None where it is not known.
        side_cbr: the part of it that is side information.
    """

    method: str
    n: int
    psnr_db: float
    psnr_se_db: float
    ssim: float
    ssim_se: float
    realism: float | None
    realism_se: float | None
    realism_null: float | None
    realism_null_se: float | None
    success_17db: float
    success_low: float
    success_high: float
    seconds_per_image: float
    residual: float
    accepted: float
    channel_found: float | None = None
    lpips_vgg: float | None = None
    lpips_vgg_se: float | None = None
    lpips_vgg_null: float | None = None
    dists: float | None = None
    dists_se: float | None = None
    dists_null: float | None = None
    cbr: float | None = None
    side_cbr: float | None = None

    def row(self) -> dict[str, object]:
        """Return the summary as JSON keeps it."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> Summary:
        """Return the summary that `row` gave; what an older version did not measure is None."""
        return cls(**stored_fields(cls, row))


@dataclass(frozen=True)
class SnrPoint:
    """One method at one channel SNR, over all images that were sent.

    Attributes:
        csnr_db: channel SNR that the encoder was given, dB; None where it is not known.
        method: name of the method.
        sent: images sent.
        arrived: images decoded.
        psnr_db: mean PSNR of what arrived; None where nothing did, or without ground truth. So are those that follow.
        psnr_se_db: its standard error.
        success_17db: fraction of the images sent that arrived with PSNR >= 17 dB.
        success_low: lower end of its 95 % Wilson interval.
        success_high: upper end of it.
        accepted: fraction of what arrived that the receiver accepts.
        seconds_per_image: decoding time of what arrived.
        realism: distance of what arrived to real images; None where it was not measured.
        realism_se: its standard error.
        realism_n: images that it was measured over.
    """

    csnr_db: float | None
    method: str
    sent: int
    arrived: int
    psnr_db: float | None
    psnr_se_db: float | None
    success_17db: float | None
    success_low: float | None
    success_high: float | None
    accepted: float | None
    seconds_per_image: float | None
    realism: float | None = None
    realism_se: float | None = None
    realism_n: int | None = None

    def row(self) -> dict[str, object]:
        """Return the point as summary.json keeps it, without the realism where that was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None or "realism" not in key}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> SnrPoint:
        """Return the point that `row` gave, or that a sweep's summary holds; other columns are ignored."""
        return cls(**stored_fields(cls, row))


def score(
    images: Sequence[ImageResult],
    outcomes: Sequence[ImageOutcome],
    originals: Mapping[str, Tensor],
    realism: Realism | None,
    seed: int,
) -> tuple[list[Summary], RealismScore | None]:
    """Summarise every method over the images that all methods decoded.

    Of an image that was received twice (a repeated transmission) the first copy counts.

    Args:
        images: decoded, any methods.
        outcomes: theirs, in the same order.
        originals: (C, H, W) each by id.
        realism: the distance and its reference; None: it is not measured.
        seed: of the bootstrap and of the nulls' noise.

    Returns:
        one summary a method, and the score of the originals, which is the floor; None without `realism`. A single image
        has no distance between sets: then there is no summary and no floor.

    Raises:
        RecordingError: no image was decoded by every method.
    """
    by_method: dict[str, dict[str, tuple[ImageResult, ImageOutcome]]] = {}
    for image, outcome in zip(images, outcomes, strict=True):
        by_method.setdefault(image.method, {}).setdefault(image.id, (image, outcome))
    common = [
        image_id
        for image_id in next(iter(by_method.values()))
        if image_id in originals and all(image_id in own for own in by_method.values())
    ]
    if not common:
        raise RecordingError("No image was decoded by every method. Raise the SNR.")
    if len(common) == 1:
        return [], None
    pictures = {
        method: together([torch.from_numpy(own[image_id][0].image) for image_id in common])
        for method, own in by_method.items()
    }
    truth = together([originals[image_id] for image_id in common])
    summaries: dict[str, Summary] = {}
    # The plain decoder first: it is the null of methods that err less.
    for method in sorted(by_method, key=lambda name: name != "jscc"):
        summaries[method] = summarise(
            method,
            [by_method[method][image_id][1] for image_id in common],
            pictures[method],
            truth,
            realism,
            plain=pictures.get("jscc") if method != "jscc" else None,
            plain_summary=summaries.get("jscc"),
            seed=seed,
        )
    return [summaries[method] for method in by_method], None if realism is None else realism.score(
        truth, torch.Generator().manual_seed(seed)
    )


def together(images: Sequence[Tensor]) -> Images:
    """Return images (C, H, W) as one tensor (n, C, H, W) where they have one size, else as they are."""
    return torch.stack(list(images)) if len({image.shape for image in images}) == 1 else images


def summarise(
    method: str,
    outcomes: Sequence[ImageOutcome],
    images: Images,
    originals: Images,
    realism: Realism | None,
    *,
    plain: Images | None = None,
    plain_summary: Summary | None = None,
    seed: int = 0,
) -> Summary:
    """Score the images of one method against their originals.

    Args:
        method: its name.
        outcomes: n, one an image.
        images: n, as decoded.
        originals: n, as sent.
        realism: the distance and its reference; None: it is not measured.
        plain: the deterministic decoder's images of the same originals, for the noise null; None: no null.
        plain_summary: theirs, which is the null where the method errs less than they do; None: it is measured anew.
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
    score = None if realism is None else realism.score(images, generator)
    noisy = None if plain is None else noise_null(plain, originals, images, generator)
    # Where the method errs less, its null is the deterministic decoder as it is.
    if plain_summary is not None and noisy is plain:
        nulls = {f"{name}_null": getattr(plain_summary, name) for name in ("realism", *_PERCEPTUAL)}
        nulls["realism_null_se"] = plain_summary.realism_se
    else:
        nulls = _nulls(noisy, originals, realism, generator)
    distances = [outcome.channel_distance for outcome in outcomes]
    (psnr_mean_db, psnr_se_db), (ssim_mean, ssim_se) = mean_and_error(psnr), mean_and_error(structure)
    return Summary(
        method=method,
        n=n,
        psnr_db=psnr_mean_db,
        psnr_se_db=psnr_se_db,
        ssim=ssim_mean,
        ssim_se=ssim_se,
        realism=None if score is None else score.value,
        realism_se=None if score is None else score.std_error,
        success_17db=successes / n,
        success_low=low,
        success_high=high,
        seconds_per_image=sum(outcome.seconds for outcome in outcomes) / n,
        residual=statistics.median(outcome.residual for outcome in outcomes),
        accepted=sum(outcome.accepted for outcome in outcomes) / n,
        channel_found=channel_found(distances),
        **nulls,
        **_perceptual(images, originals),
        cbr=_mean([outcome.cbr for outcome in outcomes]),
        side_cbr=_mean([outcome.side_cbr for outcome in outcomes]),
    )


PERCEPTUAL_MIN_SIDE = 64
"""Pixels that LPIPS and DISTS need for summaries: their networks were judged by people on patches of that side."""

#: Those of `IMAGE_METRICS` that summaries hold.
_PERCEPTUAL = ("lpips_vgg", "dists")


def _perceptual(images: Images, originals: Images) -> dict[str, float]:
    """Return the perceptual fields of a `Summary` that can be measured, by name."""
    found: dict[str, float] = {}
    if any(min(image.shape[1:]) < PERCEPTUAL_MIN_SIDE for image in images):
        return found
    for name in _PERCEPTUAL:
        metric = IMAGE_METRICS[name]
        if metric.available:
            values = torch.cat([metric(x[None], y[None]) for x, y in zip(images, originals, strict=True)])
            found[name], found[f"{name}_se"] = mean_and_error(values)
    return found


def _nulls(
    noisy: Images | None, originals: Images, realism: Realism | None, generator: torch.Generator
) -> dict[str, float | None]:
    """Return the fields of a `Summary` that are of the noise null's images, by name; None where there are none."""
    score = None if realism is None or noisy is None else realism.score(noisy, generator)
    measured = {} if noisy is None else _perceptual(noisy, originals)
    return {
        "realism_null": None if score is None else score.value,
        "realism_null_se": None if score is None else score.std_error,
        **{f"{name}_null": measured.get(name) for name in _PERCEPTUAL},
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean, None where a value is not known."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def channel_found(distances: Sequence[float | None]) -> float | None:
    """Return the fraction of channels that were found, or None where the true ones are not known."""
    known = [distance for distance in distances if distance is not None]
    if not known or len(known) < len(distances):
        return None
    return sum(distance < CHANNEL_FOUND for distance in known) / len(known)
