"""Distances between sets of images, by features of VGG16: a Frechet distance and KID's.

The features are not those of Inception, so these are no FID and no KID of the literature, and have names of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lab.evaluation.perceptual.files import read
from lab.evaluation.perceptual.images import batched, check, in_colour
from lab.evaluation.perceptual.networks import max_pool, vgg16_features
from lab.evaluation.realism import Images, RealismScore
from sdr.errors import InputError

#: The smallest side from which there is a fifth pooled pixel.
MIN_SIDE = 32
#: Mean and standard deviation of ImageNet, for images in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pool5_features(images: Images) -> Tensor:
    """Return the mean over all places of VGG16's last pooled layer, (N, 512) in float64.

    Args:
        images: (N, 3 or 1, H, W) in [0, 1], or (3 or 1, H, W) each where sizes differ; sides of at least 32 pixels.

    Raises:
        InputError: other shapes or values. ModelError: the weights are missing or altered.
    """
    parts = [images] if isinstance(images, Tensor) else [image[None] for image in images]
    if not parts:
        raise InputError("Features need at least one image, got none.")
    for part in parts:
        check("Features of VGG16", part, least=MIN_SIDE)
    weights = read("vgg16", parts[0].device)

    def features(batch: Tensor) -> Tensor:
        batch = in_colour(batch)
        mean, std = (batch.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return max_pool(vgg16_features(weights, (batch - mean) / std)[-1]).mean(dim=(2, 3))

    return torch.cat([batched(features, part) for part in parts]).double()


def _resampled(
    features: Tensor, value_of: Callable[[Tensor], float], generator: torch.Generator, rounds: int
) -> RealismScore:
    """Return the value of counts (N,) of 1, and its standard error over counts as drawn with replacement."""
    count = len(features)
    values = []
    for _ in range(rounds):
        picks = torch.randint(count, (count,), generator=generator)
        values.append(value_of(torch.bincount(picks, minlength=count).to(features.device)))
    whole = torch.ones(count, dtype=torch.long, device=features.device)
    return RealismScore(value_of(whole), float(torch.tensor(values).std()))


def _features_of(metric: str, images: Images, reference: Images, paired: bool) -> tuple[Tensor, Tensor]:
    if min(len(images), len(reference)) < 2 or (paired and len(images) != len(reference)):
        needed = "as many originals as images, and at least two" if paired else "at least two images on each side"
        raise InputError(f"{metric} needs {needed}, got {len(images)} and {len(reference)}.")
    return pool5_features(images), pool5_features(reference)


def frechet_score(
    found: Tensor, real: Tensor, generator: torch.Generator, paired: bool = False, rounds: int = 50
) -> RealismScore:
    """Return the Frechet distance of features (N, D) to those of the reference (M, D); see `fd_vgg16`.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2), with C_a = A^T A of deviations A (N, D): the last trace is the sum
    of the singular values of A B^T, which for few images is a small matrix, where the covariances are large ones.
    """

    def mean_and_deviations(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        weights = counts.double()
        mean = weights @ features / weights.sum()
        rows = (weights / (weights.sum() - 1)).sqrt()[:, None] * (features - mean)
        return mean, torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows

    fixed = mean_and_deviations(real, torch.ones_like(real[:, 0]))

    def value_of(counts: Tensor) -> float:
        mean, rows = mean_and_deviations(found, counts)
        real_mean, real_rows = mean_and_deviations(real, counts) if paired else fixed
        shared = torch.linalg.svdvals(rows @ real_rows.mT).sum()
        spread = rows.square().sum() + real_rows.square().sum() - 2 * shared
        return float((mean - real_mean).square().sum() + spread)

    return _resampled(found, value_of, generator, rounds)


def kernel_score(
    found: Tensor, real: Tensor, generator: torch.Generator, paired: bool = False, rounds: int = 50
) -> RealismScore:
    """Return the squared discrepancy of features (N, D) from those of the reference (M, D); see `kid_vgg16`."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[1] + 1) ** 3

    def without_diagonal(products: Tensor) -> Tensor:
        return products - products.diagonal().diag()

    # An image drawn twice is no pair of images, nor is one with its own original: such would count as likeness.
    within, of_real = without_diagonal(kernel(found, found)), without_diagonal(kernel(real, real))
    across = without_diagonal(kernel(found, real)) if paired else kernel(found, real).mean(dim=1)
    fixed = float(of_real.sum()) / (len(real) * (len(real) - 1))

    def value_of(counts: Tensor) -> float:
        weights = counts.double()
        pairs = weights.sum().square() - weights.square().sum()
        if paired:
            return float(weights @ (within + of_real - 2 * across) @ weights / pairs)
        return float(weights @ within @ weights / pairs - 2 * weights @ across / weights.sum()) + fixed

    return _resampled(found, value_of, generator, rounds)


def fd_vgg16(
    images: Images, reference: Images, generator: torch.Generator, paired: bool = False, rounds: int = 50
) -> RealismScore:
    """Return the Frechet distance between the features of two sets, 0 for equals; smaller is better.

    Biased upwards at small numbers of images, and the more so below 512: compare at equal numbers only.

    Args:
        images, reference: see `pool5_features`; at least two each, of any numbers.
        generator: draws the images for the standard error.
        paired: the reference holds the images' originals, in their order, and both are drawn together; otherwise it is
            held fixed.
        rounds: how often.

    Raises:
        InputError: too few images, other shapes or values. ModelError: the weights are missing or altered.
    """
    return frechet_score(*_features_of("FD-VGG16", images, reference, paired), generator, paired, rounds)


def kid_vgg16(
    images: Images, reference: Images, generator: torch.Generator, paired: bool = False, rounds: int = 50
) -> RealismScore:
    """Return the squared maximum mean discrepancy of two sets under the kernel (x y / 512 + 1)^3; smaller is better.

    KID's estimator (Binkowski et al. 2018, arXiv:1801.01401), unbiased at any number of images, and so about 0 or a
    little below it for two sets of one kind. Not multiplied by 1000.

    Args:
        images, reference: see `pool5_features`; at least two each, of any numbers.
        generator: draws the images for the standard error.
        paired: the reference holds the images' originals, in their order: no image is compared with its own one
            (Gretton et al. 2012, equation 4), and both are drawn together; otherwise the reference is held fixed.
        rounds: how often.

    Raises:
        InputError: too few images, other shapes or values. ModelError: the weights are missing or altered.
    """
    return kernel_score(*_features_of("KID-VGG16", images, reference, paired), generator, paired, rounds)
