"""All metrics of images by name: what each compares, which way is better, and which files it reads.

Names that begin with "pyiqa:" go on to the package pyiqa where a user has installed it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db, ssim
from lab.evaluation.perceptual.detail import grid_share, laplacian, smooth_std_ratio
from lab.evaluation.perceptual.dists import dists
from lab.evaluation.perceptual.files import is_there
from lab.evaluation.perceptual.images import check, in_colour
from lab.evaluation.perceptual.lpips import lpips_alex, lpips_vgg
from lab.evaluation.perceptual.niqe import niqe
from lab.evaluation.perceptual.sets import fd_vgg16, kid_vgg16
from lab.evaluation.realism import Images, RealismScore
from sdr.errors import ConfigError, InputError, did_you_mean

#: Which values are better; "original": those near the original's own.
Better = Literal["lower", "higher", "original"]

PYIQA = "pyiqa:"


@dataclass(frozen=True)
class ImageMetric:
    """A metric with one value per image.

    Attributes:
        name: in tables and options.
        measure: (images, originals) to (B,), or (images) to (B,) where no original is needed.
        needs_original: whether it is.
        better: which values are better.
        min_sides: shorter and longer side in pixels that an image must have at least.
        files: names of the files that it reads, see `files`.
    """

    name: str
    measure: Callable[..., Tensor]
    needs_original: bool
    better: Better
    min_sides: tuple[int, int] = (1, 1)
    files: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether its files are there."""
        return all(is_there(name) for name in self.files)

    def takes(self, height: int, width: int) -> bool:
        """Return whether images of that size are large enough.

        >>> IMAGE_METRICS["niqe"].takes(96, 192), IMAGE_METRICS["niqe"].takes(128, 128)
        (True, False)
        """
        return min(height, width) >= self.min_sides[0] and max(height, width) >= self.min_sides[1]

    def __call__(self, images: Tensor, originals: Tensor | None = None) -> Tensor:
        """Return one value for each of the images (B, 3 or 1, H, W) in [0, 1], as (B,).

        Raises:
            InputError: originals are missing, or the images are not as the metric needs them.
            ModelError: a file is missing or altered.
        """
        if not self.needs_original:
            return self.measure(images)
        if originals is None:
            raise InputError(f"{self.name} compares images with their originals, but there are none. Give them.")
        return self.measure(images, originals)


@dataclass(frozen=True)
class SetMetric:
    """A distance between two sets of images; lower is better.

    Attributes:
        name: in tables and options.
        measure: (images, reference, generator of the bootstrap, paired) to the distance with its standard error.
        files: names of the files that it reads, see `files`.
    """

    name: str
    measure: Callable[[Images, Images, torch.Generator, bool], RealismScore]
    files: tuple[str, ...] = ()

    @property
    def available(self) -> bool:
        """Whether its files are there."""
        return all(is_there(name) for name in self.files)

    def __call__(
        self, images: Images, reference: Images, generator: torch.Generator, paired: bool = False
    ) -> RealismScore:
        """Return the distance and its standard error over images.

        Args:
            images, reference: (N, 3 or 1, H, W) in [0, 1], or a list of (3 or 1, H, W).
            generator: of the bootstrap.
            paired: the reference holds the images' originals, in their order.

        Raises:
            InputError: too few images, or not as the metric needs them. ModelError: a file is missing or altered.
        """
        return self.measure(images, reference, generator, paired)


IMAGE_METRICS = {
    metric.name: metric
    for metric in (
        ImageMetric("psnr_db", psnr_db, True, "higher"),
        ImageMetric("ssim", ssim, True, "higher", (11, 11)),
        ImageMetric("ms_ssim", ms_ssim, True, "higher", (MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE)),
        ImageMetric("lpips_alex", lpips_alex, True, "lower", (31, 31), ("alexnet",)),
        ImageMetric("lpips_vgg", lpips_vgg, True, "lower", (16, 16), ("vgg16",)),
        ImageMetric("dists", dists, True, "lower", (16, 16), ("vgg16", "dists")),
        ImageMetric("niqe", niqe, False, "lower", (96, 192), ("niqe",)),
        ImageMetric("laplacian", laplacian, True, "original", (3, 3)),
        ImageMetric("smooth_std_ratio", smooth_std_ratio, True, "original", (16, 16)),
        ImageMetric("grid_share", grid_share, True, "original", (16, 16)),
    )
}

SET_METRICS = {
    metric.name: metric
    for metric in (
        SetMetric("fd_vgg16", fd_vgg16, ("vgg16",)),
        SetMetric("kid_vgg16", kid_vgg16, ("vgg16",)),
    )
}


def available() -> tuple[str, ...]:
    """Return the names of the metrics whose files are there."""
    return tuple(name for name, metric in {**IMAGE_METRICS, **SET_METRICS}.items() if metric.available)


#: Images that are compared at once.
_AT_ONCE = 4


def values_by_metric(images: Tensor, originals: Tensor, left_out: Sequence[str] = ()) -> dict[str, Tensor]:
    """Return every metric whose files are there and that takes images of this size: a value each, (B,), or NaN.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1].
        left_out: names of metrics that are not asked.

    Raises:
        InputError: other shapes or values. ModelError: a file is altered.
    """
    pairs = list(zip(images.split(_AT_ONCE), originals.split(_AT_ONCE), strict=True))
    return {
        name: torch.cat([metric(*pair) for pair in pairs])
        for name, metric in IMAGE_METRICS.items()
        if name not in left_out and metric.available and metric.takes(*images.shape[2:])
    }


def find_metric(name: str, device: torch.device | str = "cpu") -> ImageMetric | SetMetric:
    """Return the metric of that name, or, after "pyiqa:", one of that package on a device.

    Raises:
        ConfigError: there is none, or pyiqa is not installed.

    >>> find_metric("lpips")
    Traceback (most recent call last):
        ...
    sdr.errors.ConfigError: There is no metric 'lpips'; did you mean 'lpips_vgg'?
    """
    known = {**IMAGE_METRICS, **SET_METRICS}
    if name.startswith(PYIQA):
        return _from_pyiqa(name.removeprefix(PYIQA), str(device))
    if name not in known:
        raise ConfigError(f"There is no metric {name!r:.60}; {did_you_mean(name, known)}")
    return known[name]


@functools.lru_cache(maxsize=8)
def _from_pyiqa(name: str, device: str) -> ImageMetric:
    """Return a metric of the package pyiqa, whose networks load their own weights."""
    try:
        package = importlib.import_module("pyiqa")
    except ImportError as reason:
        raise ConfigError(f"{PYIQA}{name} needs the package pyiqa ({reason}). Install it: pip install pyiqa") from None
    known = package.list_models()
    if name not in known:
        raise ConfigError(f"pyiqa has no metric {name!r:.60}; {did_you_mean(name, known)}")
    if name == "inception_score" or "fid" in name:
        raise ConfigError(f"{PYIQA}{name} compares folders, not images; take fd_vgg16 or kid_vgg16.")
    try:
        metric = package.create_metric(name, device=torch.device(device))
    except Exception as reason:  # a hundred metrics, each with its own way to fail to load its weights
        lines = str(reason).splitlines() or [type(reason).__name__]
        raise ConfigError(f"pyiqa can't load {name}: {lines[0]:.150}. Load it once with pyiqa itself.") from None
    needs_original = metric.metric_mode == "FR"

    def measure(images: Tensor, originals: Tensor | None = None) -> Tensor:
        check(f"{PYIQA}{name}", images, originals)
        pair = (images,) if originals is None else (images, originals)
        with torch.no_grad():
            return metric(*(in_colour(one) for one in pair)).flatten()

    return ImageMetric(f"{PYIQA}{name}", measure, needs_original, "lower" if metric.lower_better else "higher")
