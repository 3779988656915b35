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


def _features_of(metric: str, images: Images, reference: Images) -> tuple[Tensor, Tensor]:
    if min(len(images), len(reference)) < 2:
        raise InputError(f"{metric} needs at least two images on each side, got {len(images)} and {len(reference)}.")
    return pool5_features(images), pool5_features(reference)


def frechet_score(found: Tensor, real: Tensor, generator: torch.Generator, rounds: int = 50) -> RealismScore:
    """Return the Frechet distance of features (N, D) to those of the reference (M, D); see `fd_vgg16`.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2), with C_a = A^T A of deviations A (N, D): the last trace is the sum
    of the singular values of A B^T, which for few images is a small matrix, where the covariances are large ones.
    """

    def mean_and_deviations(features: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        weights = counts.double()
        mean = weights @ features / weights.sum()
        return mean, (weights / (weights.sum() - 1)).sqrt()[:, None] * (features - mean)

    real_mean, real_rows = mean_and_deviations(real, torch.ones_like(real[:, 0]))
    if len(real_rows) > real_rows.shape[1]:
        real_rows = torch.linalg.qr(real_rows, mode="r").R

    def value_of(counts: Tensor) -> float:
        mean, rows = mean_and_deviations(found, counts)
        shared = torch.linalg.svdvals(rows @ real_rows.mT).sum()
        spread = rows.square().sum() + real_rows.square().sum() - 2 * shared
        return float((mean - real_mean).square().sum() + spread)

    return _resampled(found, value_of, generator, rounds)


def kernel_score(found: Tensor, real: Tensor, generator: torch.Generator, rounds: int = 50) -> RealismScore:
    """Return the squared discrepancy of features (N, D) from those of the reference (M, D); see `kid_vgg16`."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.mT / a.shape[1] + 1) ** 3

    def without_diagonal(products: Tensor) -> Tensor:
        return products - products.diagonal().diag()

    within, across = without_diagonal(kernel(found, found)), kernel(found, real).mean(dim=1)
    of_real = float(without_diagonal(kernel(real, real)).sum()) / (len(real) * (len(real) - 1))

    def value_of(counts: Tensor) -> float:
        # An image drawn twice is no pair: its kernel with itself would count as likeness within the set.
        weights = counts.double()
        pairs = weights.sum().square() - weights.square().sum()
        return float(weights @ within @ weights / pairs - 2 * weights @ across / weights.sum()) + of_real

    return _resampled(found, value_of, generator, rounds)


def fd_vgg16(images: Images, reference: Images, generator: torch.Generator, rounds: int = 50) -> RealismScore:
    """Return the Frechet distance between the features of two sets, 0 for equals; smaller is better.

    Biased upwards at small numbers of images, and the more so below 512: compare at equal numbers only.

    Args:
        images, reference: see `pool5_features`; at least two each, of any numbers.
        generator: draws the images for the standard error; the reference is held fixed.
        rounds: how often.

    Raises:
        InputError: too few images, other shapes or values. ModelError: the weights are missing or altered.
    """
    return frechet_score(*_features_of("FD-VGG16", images, reference), generator, rounds)


def kid_vgg16(images: Images, reference: Images, generator: torch.Generator, rounds: int = 50) -> RealismScore:
    """Return the squared maximum mean discrepancy of two sets under the kernel (x y / 512 + 1)^3; smaller is better.

    KID's estimator (Binkowski et al. 2018, arXiv:1801.01401), unbiased at any number of images, and so about 0 or a
    little below it for two sets of one kind. Not multiplied by 1000.

    Args:
        images, reference: see `pool5_features`; at least two each, of any numbers.
        generator: draws the images for the standard error; the reference is held fixed.
        rounds: how often.

    Raises:
        InputError: too few images, other shapes or values. ModelError: the weights are missing or altered.
    """
    return kernel_score(*_features_of("KID-VGG16", images, reference), generator, rounds)
