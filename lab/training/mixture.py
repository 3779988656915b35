"""Fit the mixture of a bundle: the distribution of its codec's symbols, for the start of a blind decoder.

It is fitted to the encoded training images by k-means, expectation maximisation with full covariances, and a factor
analysis of every component.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lab.training.part import fashion_codec
from receiver.bundles.side_models import write_mixture
from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from receiver.images.fashion_mnist import load_fashion_mnist
from receiver.priors.symbols import SymbolMixture
from sdr.errors import ConfigError

#: More of either find the channel a little better and cost as much more.
COMPONENTS = 64
FACTORS = 64
_KMEANS_ROUNDS = 20
_EM_ROUNDS = 8
_ANALYSIS_ROUNDS = 8
#: Least variance of a real part of a symbol, whose mean square is about 1/2: keeps a component from collapsing.
_LEAST_VARIANCE = 2e-4


def fit_mixture(
    symbols: Tensor, generator: torch.Generator, *, components: int = COMPONENTS, factors: int = FACTORS
) -> SymbolMixture:
    """Fit a mixture to symbols (n, K) complex.

    Args:
        symbols: (n, K), one word a row.
        generator: draws the first means.
        components: of the mixture.
        factors: of each component.

    Raises:
        ConfigError: fewer symbols than a covariance of every component needs.
    """
    data = torch.cat([symbols.real, symbols.imag], dim=1)
    count, size = data.shape
    if count < 2 * components or not 1 <= factors < size:
        raise ConfigError(
            f"{count} images of {size // 2} symbols can't be fitted by {components} components of {factors} factors; "
            "give more images, or fewer components."
        )
    means = data[torch.randperm(count, generator=generator)[:components]]
    for _ in range(_KMEANS_ROUNDS):
        nearest = torch.cdist(data, means).argmin(dim=1)
        filled = torch.bincount(nearest, minlength=components)[:, None]
        sums = torch.zeros_like(means).index_add(0, nearest, data)
        means = torch.where(filled > 0, sums / filled.clamp(min=1), means)
    odds = torch.nn.functional.one_hot(torch.cdist(data, means).argmin(dim=1), components).to(data)
    weight, means, covariances = _moments(data, odds)
    for _ in range(_EM_ROUNDS):
        lower = torch.linalg.cholesky(covariances)
        log_joint = torch.stack(
            [
                weight[c].log()
                - torch.linalg.solve_triangular(lower[c], (data - means[c]).T, upper=False).square().sum(0) / 2
                - torch.diagonal(lower[c]).log().sum()
                for c in range(components)
            ],
            dim=1,
        )
        weight, means, covariances = _moments(data, log_joint.softmax(dim=1))
    loadings, noise = _factor_analysis(covariances, factors)
    return SymbolMixture(weight, means, loadings, noise)


def _moments(data: Tensor, odds: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (C,), means (C, D) and covariances (C, D, D) of data (n, D), in components by odds (n, C)."""
    # A component that nothing belongs to keeps the weight of one image.
    mass = odds.sum(0).clamp(min=1)
    means = odds.T @ data / mass[:, None]
    floor = _LEAST_VARIANCE * torch.eye(data.shape[1])
    covariances = [
        (centred * share[:, None]).T @ centred / total + floor
        for centred, share, total in zip((data - mean for mean in means), odds.T, mass, strict=True)
    ]
    return mass / mass.sum(), means, torch.stack(covariances)


def _factor_analysis(covariances: Tensor, factors: int) -> tuple[Tensor, Tensor]:
    """Return loadings (C, D, R) and variances (C, D) whose loadings loadings^T + diag(variances) is near (C, D, D)."""
    diagonal = torch.diagonal(covariances, dim1=1, dim2=2)
    noise = 0.3 * diagonal
    loadings = covariances[..., :factors]
    for _ in range(_ANALYSIS_ROUNDS):
        scale = noise.sqrt()
        values, vectors = torch.linalg.eigh(covariances / scale[:, :, None] / scale[:, None, :])
        strength = (values[:, None, -factors:] - 1).clamp(min=0).sqrt()
        loadings = scale[..., None] * vectors[..., -factors:] * strength
        noise = (diagonal - loadings.square().sum(-1)).clamp(min=_LEAST_VARIANCE / 2)
    return loadings, noise


def train_mixture(folder: str | Path, *, seed: int = 0, data: str | Path | None = None) -> dict[str, float]:
    """Fit the mixture to the training images as the bundle's codec encodes them.

    They are encoded for CSNRs all over the range of the codecs' training, on which symbols hardly depend.

    Args:
        folder: of the bundle with the codec; gets mixture.safetensors.
        seed: of the fit.
        data: folder of Fashion-MNIST, see `receiver.images.fashion_mnist`.

    Returns:
        mean log-likelihood in nats per real part of a symbol, of the training and of the test images.
    """
    folder = Path(folder)
    codec = fashion_codec(folder, "mixture")
    generator = torch.Generator().manual_seed(seed)
    train, test = (_encode(codec, load_fashion_mnist(split, data)[0], generator) for split in ("train", "test"))
    mixture = fit_mixture(train, generator)
    write_mixture(folder, mixture, codec)
    return {
        f"nats per real symbol, {name}": round(mean_log_likelihood(mixture, symbols[:2000]), 3)
        for name, symbols in (("training images", train), ("test images", test))
    }


def mean_log_likelihood(mixture: SymbolMixture, symbols: Tensor) -> float:
    """Return the mean log-likelihood in nats per real part of symbols (n, K)."""
    data = torch.cat([symbols.real, symbols.imag], dim=1)
    total = sum(
        float(mixture.posterior(part, torch.full_like(part, 1e-6)).log_likelihood.sum()) for part in data.split(32)
    )
    return total / data.numel()


@torch.no_grad()
def _encode(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Encode images for CSNRs all over the range of training, (n, K)."""
    low, high = CSNR_RANGE_DB
    csnr_db = low + (high - low) * torch.rand(len(images), generator=generator)
    return torch.cat([codec.encode(*part) for part in zip(images.split(500), csnr_db.split(500), strict=True)])
