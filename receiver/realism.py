"""How much a set of images looks like the real ones, without downloaded networks and without pairing images.

Two Frechet distances between the sets' statistics, both on features of small neighbourhoods (features of whole images,
such as a classifier's last layer, rate blurry pictures as more real than originals):

- `feature`: per-pixel features in the lower half of a small classifier of Fashion-MNIST;
- `patch`: 8x8 patches of pixels; no network at all.

Features are whitened by the real images' own covariance first.

Both are biased upwards at small numbers of images: compare at equal numbers, give the originals' own score as the
floor, and always report the noise null (`noise_null`) beside a method: white noise alone can lower such a distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.codecs import weights_digest
from sdr.errors import ConfigError, InputError

DistanceKind = Literal["feature", "patch"]
#: The distances, in the order of preference.
DISTANCES: tuple[DistanceKind, ...] = ("feature", "patch")

#: Directions whose variance is below this fraction of the largest are flat, and no longer amplified by whitening. (For
#: patches that is about one step of 8 bits.)
_FLAT: dict[DistanceKind, float] = {"feature": 1e-3, "patch": 3e-6}


@dataclass(frozen=True)
class RealismConfig:
    """Sizes of the classifier and of the patches."""

    channels: int = 1
    width: int = 32
    classes: int = 10
    patch_side: int = 8
    patch_stride: int = 4

    def __post_init__(self) -> None:
        if min(self.channels, self.width, self.classes, self.patch_side, self.patch_stride) < 1 or self.width % 8:
            raise ConfigError(f"Sizes must be at least 1, and the width divide by 8, got {self}.")


class FeatureNet(nn.Module):
    """A small convolutional classifier; the outputs of its second layer are the features.

    Group normalisation keeps the features from being little more than local brightness.
    """

    def __init__(self, config: RealismConfig) -> None:
        super().__init__()
        width = config.width

        def block(channels: int, out: int, stride: int) -> list[nn.Module]:
            return [nn.Conv2d(channels, out, 3, stride, padding=1), nn.GroupNorm(8, out), nn.SiLU()]

        self.front = nn.Sequential(*block(config.channels, width, 1), *block(width, width, 2))
        self.back = nn.Sequential(
            *block(width, width, 1),
            *block(width, 2 * width, 2),
            *block(2 * width, 2 * width, 2),
            nn.AdaptiveAvgPool2d(4),
        )
        self.head = nn.Linear(32 * width, config.classes)

    def features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, width, H/2, W/2)."""
        return self.front(images)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to (B, classes) logits."""
        return self.head(self.back(self.features(images)).flatten(1))


@dataclass(frozen=True)
class Moments:
    """Per-image sums from which the mean and covariance of any selection of images follow.

    Args:
        means: (B, D) float64, mean feature of each image.
        squares: (B, D, D) float64, mean outer product of each image's features.
    """

    means: Tensor
    squares: Tensor

    def pooled(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean (D,) and covariance (D, D) over all images, or with weights (B,) >= 0 per image."""
        if weights is None:
            weights = torch.ones(len(self.means), dtype=torch.float64)
        weights = weights / weights.sum()
        mean = weights @ self.means
        square = torch.einsum("b,bij->ij", weights, self.squares)
        return mean, square - torch.outer(mean, mean)


def _moments(vectors: Tensor) -> Moments:
    """Moments of (B, positions, D) features."""
    vectors = vectors.double()
    return Moments(vectors.mean(dim=1), vectors.mT @ vectors / vectors.shape[1])


def _concat(parts: list[Moments]) -> Moments:
    return Moments(torch.cat([part.means for part in parts]), torch.cat([part.squares for part in parts]))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared 2-Wasserstein distance of two Gaussians: |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)."""
    root = _root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@dataclass(frozen=True)
class RealismScore:
    """A distance with its bootstrap standard error over images."""

    value: float
    std_error: float


class Realism(nn.Module):
    """Reference statistics of real images, and the distances of other images to them.

    Args:
        config: sizes.
        net: the classifier; a fresh one when missing.

    The statistics are buffers, so they are stored and loaded with the weights; `fit_reference` sets them.
    """

    def __init__(self, config: RealismConfig, net: FeatureNet | None = None) -> None:
        super().__init__()
        self.config = config
        self.net = FeatureNet(config) if net is None else net
        sizes = {"feature": config.width, "patch": config.channels * config.patch_side**2}
        for kind, size in sizes.items():
            self.register_buffer(f"reference_{kind}_mean", torch.zeros(size))
            self.register_buffer(f"reference_{kind}_cov", torch.eye(size))

    @property
    def digest(self) -> str:
        """8 hex digits over configuration, weights and reference."""
        return weights_digest(asdict(self.config), self.state_dict())

    def _vectors(self, images: Tensor, kind: DistanceKind) -> Tensor:
        """(B, positions, D) raw features."""
        if kind == "feature":
            return self.net.features(images).flatten(2).mT
        return F.unfold(images, self.config.patch_side, stride=self.config.patch_stride).mT

    @torch.no_grad()
    def moments(self, images: Tensor, kind: DistanceKind) -> Moments:
        """Per-image moments of (B, C, H, W) images in [0, 1]."""
        if images.ndim != 4 or images.shape[0] < 2 or images.shape[1] != self.config.channels:
            raise InputError(
                f"A realism distance needs at least two images of {self.config.channels} channel(s), got "
                f"{tuple(images.shape)}."
            )
        return _concat([_moments(self._vectors(part.clamp(0, 1), kind)) for part in images.split(256)])

    def fit_reference(self, images: Tensor) -> None:
        """Take the statistics of real images (B, C, H, W) in [0, 1] as the reference."""
        for kind in DISTANCES:
            # Statistics are additive, so the per-image moments of all real images never exist at once.
            parts = [self.moments(part, kind) for part in images.split(1024)]
            weights = torch.tensor([len(part.means) for part in parts], dtype=torch.float64)
            means = torch.stack([part.means.mean(dim=0) for part in parts])
            squares = torch.stack([part.squares.mean(dim=0) for part in parts])
            mean, cov = Moments(means, squares).pooled(weights)
            self.get_buffer(f"reference_{kind}_mean").copy_(mean)
            self.get_buffer(f"reference_{kind}_cov").copy_(cov)

    def _compare(self, kind: DistanceKind) -> Callable[[Tensor, Tensor], float]:
        """The distance to the reference of a given mean and covariance, in units free of scale."""
        mean = self.get_buffer(f"reference_{kind}_mean").double()
        cov = self.get_buffer(f"reference_{kind}_cov").double()
        # Both kinds are whitened: otherwise brightness and slow gradients would drown the texture.
        values, vectors = torch.linalg.eigh(cov)
        change = (vectors / (values.clamp(min=0) + _FLAT[kind] * values.max()).sqrt()).mT
        size = mean.numel()
        mean, cov = change @ mean, change @ cov @ change.mT
        return lambda m, c: frechet_distance(mean, cov, change @ m, change @ c @ change.mT) / size

    def distance(self, images: Tensor, kind: DistanceKind = "feature") -> float:
        """Distance of images (B, C, H, W) in [0, 1] (clamped) to the reference, per dimension; 0 is best."""
        return self._compare(kind)(*self.moments(images, kind).pooled())

    def forward(self, images: Tensor) -> float:
        """The preferred distance."""
        return self.distance(images)

    def score(
        self, images: Tensor, generator: torch.Generator, kind: DistanceKind = "feature", rounds: int = 50
    ) -> RealismScore:
        """The distance with a standard error from resampling the images `rounds` times."""
        moments, compare = self.moments(images, kind), self._compare(kind)
        count = len(moments.means)
        values = []
        for _ in range(rounds):
            picks = torch.randint(count, (count,), generator=generator)
            values.append(compare(*moments.pooled(torch.bincount(picks, minlength=count).double())))
        return RealismScore(compare(*moments.pooled()), float(torch.tensor(values).std()))


def noise_null(deterministic: Tensor, originals: Tensor, method_images: Tensor, generator: torch.Generator) -> Tensor:
    """The deterministic output with white noise added until it is as wrong as a method's output.

    A method's realism means something only where it beats this: the null has the same mean squared error over the whole
    set, and nothing learnt about images.

    Args:
        deterministic: (B, C, H, W) output of the deterministic decoder.
        originals: (B, C, H, W) the images sent.
        method_images: (B, C, H, W) the method's output.
        generator: draws the noise.

    Returns:
        (B, C, H, W) in [0, 1]. Without any noise if the deterministic output is already as wrong as the method's.

    Raises:
        InputError: shapes that differ.
    """
    if not deterministic.shape == originals.shape == method_images.shape:
        raise InputError(
            f"The noise null needs three sets of one shape, got {tuple(deterministic.shape)}, "
            f"{tuple(originals.shape)}, {tuple(method_images.shape)}."
        )
    base = deterministic.clamp(0, 1)
    target = float((method_images.clamp(0, 1) - originals).square().mean())
    noise = torch.randn(base.shape, generator=generator).to(base)

    def noisy(std: float) -> Tensor:
        return (base + std * noise).clamp(0, 1)

    # Clamping to [0, 1] takes a part of the noise away again, so its strength is searched for, not computed.
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float((noisy(middle) - originals).square().mean()) < target else (low, middle)
    return noisy(low)
