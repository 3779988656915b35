"""Measure how much a set of images looks like real ones, without downloaded networks and without pairing images.

Two Frechet distances between the sets' statistics, both on features of small neighbourhoods (features of whole images,
such as a classifier's last layer, rate blurry pictures as more real than originals):

- `feature`: per-pixel features in the lower half of a small classifier of Fashion-MNIST;
- `patch`: 8x8 patches of pixels; no network at all.

Features are whitened by the real images' own covariance first.

Both are biased upwards at small numbers of images: compare at equal numbers, give the originals' own score as the
floor, and always report the noise null (`noise_null`) beside a method: white noise alone can lower such a distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.bundles.bundle import DEFAULT_BUNDLE, find_bundle, load, read_config
from receiver.codecs.codec import weights_digest
from sdr.errors import ConfigError, InputError

#: A set of images: (B, C, H, W), or (C, H, W) each where sizes differ.
Images = Tensor | Sequence[Tensor]

DistanceKind = Literal["feature", "patch"]
#: The distances, in the order of preference.
DISTANCES: tuple[DistanceKind, ...] = ("feature", "patch")

#: Directions whose variance is below this fraction of the largest are flat, and no longer amplified by whitening. (For
#: patches that is about one step of 8 bits.)
_FLAT: dict[DistanceKind, float] = {"feature": 1e-3, "patch": 3e-6}


@dataclass(frozen=True)
class RealismConfig:
    """Sizes of the classifier and of the patches.

    Attributes:
        channels: of the images.
        width: channels of the features, a multiple of 8.
        classes: that the classifier tells apart; 0: there is none.
        patch_side: pixels.
        patch_stride: pixels between neighbouring patches.

    Raises:
        ConfigError: a size that no network can have.
    """

    channels: int = 1
    width: int = 32
    classes: int = 10
    patch_side: int = 8
    patch_stride: int = 4

    @property
    def kinds(self) -> tuple[DistanceKind, ...]:
        """Distances there are, in the order of preference; without a classifier only that of patches."""
        return DISTANCES if self.classes else ("patch",)

    def __post_init__(self) -> None:
        sizes = (self.channels, self.width, self.patch_side, self.patch_stride)
        if min(sizes) < 1 or self.classes < 0 or self.width % 8:
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
        """Return the features (B, width, H/2, W/2) of images (B, C, H, W) in [0, 1]."""
        return self.front(images)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, classes) of images (B, C, H, W) in [0, 1]."""
        return self.head(self.back(self.features(images)).flatten(1))


@dataclass(frozen=True)
class Moments:
    """Moments of each image's features, from which the mean and covariance of any selection of images follow.

    Attributes:
        means: (B, D) float64, mean feature of each image.
        squares: (B, D, D) float64, mean outer product of each image's features.
    """

    means: Tensor
    squares: Tensor

    def pooled(self, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean (D,) and covariance (D, D) over all images, weighted by `weights` (B,) >= 0 where given."""
        if weights is None:
            weights = torch.ones(len(self.means), dtype=torch.float64)
        weights = weights / weights.sum()
        mean = weights @ self.means
        square = torch.einsum("b,bij->ij", weights, self.squares)
        return mean, square - torch.outer(mean, mean)


def _moments(vectors: Tensor) -> Moments:
    """Return the moments of features (B, positions, D)."""
    vectors = vectors.double()
    return Moments(vectors.mean(dim=1), vectors.mT @ vectors / vectors.shape[1])


def _concat(parts: list[Moments]) -> Moments:
    return Moments(torch.cat([part.means for part in parts]), torch.cat([part.squares for part in parts]))


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.mT


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians.

    It is |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2).

    Args:
        mean_a: (D,).
        cov_a: (D, D).
        mean_b: (D,).
        cov_b: (D, D).
    """
    root = _root(cov_a)
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


@dataclass(frozen=True)
class RealismScore:
    """A realism distance.

    Attributes:
        value: 0 is best.
        std_error: bootstrap standard error over images.
    """

    value: float
    std_error: float


class Realism(nn.Module):
    """Reference statistics of real images, and the distances of other images to them.

    The statistics are buffers, so they are stored and loaded with the weights; `fit_reference` sets them.

    Args:
        config: sizes.
        net: the classifier; a fresh one where None.
    """

    def __init__(self, config: RealismConfig, net: FeatureNet | None = None) -> None:
        super().__init__()
        self.config = config
        self.net = None
        if config.classes:
            self.net = FeatureNet(config) if net is None else net
        sizes = {"feature": config.width, "patch": config.channels * config.patch_side**2}
        for kind in config.kinds:
            size = sizes[kind]
            self.register_buffer(f"reference_{kind}_mean", torch.zeros(size))
            self.register_buffer(f"reference_{kind}_cov", torch.eye(size))

    @property
    def digest(self) -> str:
        """Digest of configuration, weights and reference, 8 hex digits."""
        return weights_digest(asdict(self.config), self.state_dict())

    def _vectors(self, images: Tensor, kind: DistanceKind) -> Tensor:
        """Return the features (B, positions, D) of images (B, C, H, W)."""
        if kind == "feature":
            assert self.net is not None
            return self.net.features(images).flatten(2).mT
        return F.unfold(images, self.config.patch_side, stride=self.config.patch_stride).mT

    @torch.no_grad()
    def moments(self, images: Images, kind: DistanceKind) -> Moments:
        """Return the per-image moments of images in [0, 1].

        Raises:
            InputError: fewer than two images, or of another number of channels.
        """
        if len(images) < 2 or any(image.ndim != 3 or image.shape[0] != self.config.channels for image in images):
            raise InputError(
                f"A realism distance needs at least two images of {self.config.channels} channel(s), got "
                f"{len(images)} of {tuple(images[0].shape) if len(images) else 'none'}."
            )
        parts = images.split(256) if isinstance(images, Tensor) else [image[None] for image in images]
        return _concat([_moments(self._vectors(part.clamp(0, 1), kind)) for part in parts])

    def fit_reference(self, images: Images) -> None:
        """Take the statistics of real images in [0, 1] as the reference."""
        for kind in self.config.kinds:
            # Statistics are additive, so the per-image moments of all real images never exist at once.
            parts = [self.moments(images[first : first + 1024], kind) for first in range(0, len(images), 1024)]
            weights = torch.tensor([len(part.means) for part in parts], dtype=torch.float64)
            means = torch.stack([part.means.mean(dim=0) for part in parts])
            squares = torch.stack([part.squares.mean(dim=0) for part in parts])
            mean, cov = Moments(means, squares).pooled(weights)
            self.get_buffer(f"reference_{kind}_mean").copy_(mean)
            self.get_buffer(f"reference_{kind}_cov").copy_(cov)

    def comparison(self, kind: DistanceKind) -> Callable[[Tensor, Tensor], float]:
        """Return the function that gives the distance to the reference of a mean (D,) and a covariance (D, D).

        The distance has no unit.
        """
        mean = self.get_buffer(f"reference_{kind}_mean").double()
        cov = self.get_buffer(f"reference_{kind}_cov").double()
        # Both kinds are whitened: otherwise brightness and slow gradients would drown the texture.
        values, vectors = torch.linalg.eigh(cov)
        change = (vectors / (values.clamp(min=0) + _FLAT[kind] * values.max()).sqrt()).mT
        size = mean.numel()
        mean, cov = change @ mean, change @ cov @ change.mT
        return lambda m, c: frechet_distance(mean, cov, change @ m, change @ c @ change.mT) / size

    def distance(self, images: Images, kind: DistanceKind | None = None) -> float:
        """Return the distance of images in [0, 1] (clamped) to the reference, per dimension; 0 is best.

        Args:
            images: at least two.
            kind: which distance; the preferred one where None.
        """
        kind = kind or self.config.kinds[0]
        return self.comparison(kind)(*self.moments(images, kind).pooled())

    def forward(self, images: Images) -> float:
        """Return the preferred distance."""
        return self.distance(images)

    def score(
        self, images: Images, generator: torch.Generator, kind: DistanceKind | None = None, rounds: int = 50
    ) -> RealismScore:
        """Return the distance with a standard error from resampling the images `rounds` times."""
        kind = kind or self.config.kinds[0]
        moments, compare = self.moments(images, kind), self.comparison(kind)
        count = len(moments.means)
        values = []
        for _ in range(rounds):
            picks = torch.randint(count, (count,), generator=generator)
            values.append(compare(*moments.pooled(torch.bincount(picks, minlength=count).double())))
        return RealismScore(compare(*moments.pooled()), float(torch.tensor(values).std()))


def noise_null(deterministic: Images, originals: Images, method_images: Images, generator: torch.Generator) -> Images:
    """Return the deterministic output with white noise added until it is as wrong as a method's output.

    A method's realism means something only where it beats that of this null, which has the same mean squared error over
    the whole set and has learnt nothing about images.

    Args:
        deterministic: output of the deterministic decoder.
        originals: the images sent.
        method_images: the method's output.
        generator: draws the noise.

    Returns:
        as many images in [0, 1]; `deterministic` itself where it is already as wrong as the method's.

    Raises:
        InputError: shapes that differ.
    """
    shapes = [[tuple(image.shape) for image in images] for images in (deterministic, originals, method_images)]
    if not shapes[0] == shapes[1] == shapes[2]:
        raise InputError(
            f"The noise null needs three sets of the same shapes, got {', '.join(str(found[:3]) for found in shapes)}."
        )
    base, true, other = (
        torch.cat([image.flatten() for image in images]) for images in (deterministic, originals, method_images)
    )
    base = base.clamp(0, 1)
    target = float((other.clamp(0, 1) - true).square().mean())
    if float((base - true).square().mean()) >= target:
        return deterministic
    noise = torch.randn(base.shape, generator=generator).to(base)

    def noisy(std: float) -> Tensor:
        return (base + std * noise).clamp(0, 1)

    # Clamping to [0, 1] takes a part of the noise away again, so its strength is searched for, not computed.
    low, high = 0.0, 4.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if float((noisy(middle) - true).square().mean()) < target else (low, middle)
    parts = noisy(low).split([image.numel() for image in deterministic])
    null = [part.view(image.shape) for part, image in zip(parts, deterministic, strict=True)]
    return torch.stack(null) if isinstance(deterministic, Tensor) else null


def load_realism(name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu") -> Realism:
    """Load the realism distances of a bundle.

    Raises:
        ModelError: the bundle has none, or they are damaged.
    """
    folder = find_bundle(name_or_path)
    config = read_config(folder, "realism", {"classifier": RealismConfig})
    return load(lambda: Realism(config), folder, "realism", device)
