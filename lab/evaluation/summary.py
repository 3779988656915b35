"""Scoring decoded images against their originals: per method, with uncertainty and the null beside every claim."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db, ssim
from lab.evaluation.realism import Images, Realism, noise_null
from lab.evaluation.statistics import wilson_interval
from sdr.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from torch import Tensor

    from lab.evaluation.channel_truth import ChannelTruth
    from lab.evaluation.realism import RealismScore
    from receiver.results import DecodeResult, ImageResult
    from sdr.layout import FrameLayout


def channel_distances(result: DecodeResult, truth: ChannelTruth, layout: FrameLayout) -> list[float]:
    """Squared error of the channel that each image was decoded with, in the order of the images."""
    from lab.evaluation.channel_truth import channel_distance

    frames = {frame.start: frame for frame in result.synced}
    return [channel_distance(image.taps, frames[image.start_sample], truth, layout) for image in result.images]


def score(
    result: DecodeResult,
    originals: Mapping[str, Tensor],
    distances: Sequence[float] | None,
    realism: Realism,
    seed: int,
) -> tuple[list[Summary], RealismScore | None]:
    """One summary a method, over the images that every method decoded, and the score of their originals: the floor.

    A single image has no distance between sets, and so no summary.
    """
    by_method: dict[str, dict[str, ImageResult]] = {}
    distance_of: dict[tuple[str, str], float] = {}
    for index, image in enumerate(result.images):
        # Of an image received twice (a repeated transmission) the first copy counts.
        by_method.setdefault(image.method, {}).setdefault(image.id, image)
        if distances is not None:
            distance_of.setdefault((image.method, image.id), distances[index])
    common = [
        image_id
        for image_id in next(iter(by_method.values()))
        if image_id in originals and all(image_id in images for images in by_method.values())
    ]
    if not common:
        raise RecordingError("No image was decoded by every method. Raise the SNR.")
    if len(common) == 1:
        return [], None

    def together(images: list[Tensor]) -> Images:
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images

    truth = together([originals[image_id] for image_id in common])

    def stacked(method: str) -> Images:
        return together([torch.from_numpy(by_method[method][image_id].image) for image_id in common])

    summaries = []
    for method, images in by_method.items():
        picked = [images[image_id] for image_id in common]
        plain = stacked("jscc") if method != "jscc" and "jscc" in by_method else None
        summaries.append(
            summarise(
                method,
                stacked(method),
                truth,
                realism=realism,
                plain=plain,
                seconds=[image.seconds for image in picked],
                residuals=[image.residual for image in picked],
                accepted=[image.accepted for image in picked],
                channel_distances=[distance_of[method, image_id] for image_id in common] if distance_of else None,
                seed=seed,
            )
        )
    return summaries, realism.score(truth, torch.Generator().manual_seed(seed))


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
