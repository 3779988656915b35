"""The distribution of coded symbols as a mixture of factor analysers."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from sdr.errors import ConfigError

#: Probability of a component below which it is left out of a word's moments.
_LEAST_ODDS = 1e-4
#: Numbers in the factors of the words that are evaluated together: the tensors then fit a cache.
_FACTOR_NUMBERS = 1 << 22


@dataclass(frozen=True, eq=False)
class SymbolMixture:
    """Distribution p(w) of w = (Re z, Im z), the K symbols of one word, with C components of R factors.

    Attributes:
        weight: (C,) sums to 1.
        mean: (C, 2 K).
        factors: (C, 2 K, R).
        noise: (C, 2 K) variances, positive.

    Raises:
        ConfigError: shapes that don't fit, or values that describe no distribution.
    """

    weight: Tensor
    mean: Tensor
    factors: Tensor
    noise: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.weight, self.mean, self.factors, self.noise)]
        if self.mean.dim() != 2 or self.factors.dim() != 3 or self.mean.shape[1] % 2:
            raise ConfigError(f"A mixture needs weight (C,), mean (C, 2 K) and factors (C, 2 K, R), found {shapes}.")
        count, size = self.mean.shape
        if shapes != [(count,), (count, size), (count, size, self.factors.shape[2]), (count, size)]:
            raise ConfigError(f"The parts of a mixture don't fit each other: {shapes}.")
        if not all(bool(part.isfinite().all()) for part in (self.mean, self.factors)):
            raise ConfigError("A mixture needs finite means and factors.")
        if not bool((self.noise > 0).all()) or not bool((self.weight > 0).all()):
            raise ConfigError("A mixture needs positive weights and noise variances.")

    @property
    def num_symbols(self) -> int:
        """K."""
        return self.mean.shape[1] // 2

    @property
    def mean_symbols(self) -> Tensor:
        """(C, K) complex means of the components."""
        return torch.complex(*self.mean.chunk(2, dim=1))

    def to(self, device: torch.device | str) -> SymbolMixture:
        """Return the mixture on another device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})

    def posterior(self, seen: Tensor, noise: Tensor, among: Tensor | None = None) -> SymbolPosterior:
        """Return p(w | seen) for seen = w + noise, of n rows.

        Args:
            seen: (n, 2 K).
            noise: (n, 2 K) variances.
            among: (n, M) components that count; all where None.
        """
        weight, mean, floor = self.weight, self.mean, self.noise
        turned = self.factors.transpose(1, 2).contiguous()  # (C, R, 2 K)
        rows = len(seen)
        row = torch.arange(rows, device=seen.device)
        # (A, S): components, each for all rows that it counts for.
        if among is None:
            row = row.expand(len(weight), rows)
        else:
            weight, mean, floor, turned = (part[among.flatten()] for part in (weight, mean, floor, turned))
            row = row.repeat_interleave(among.shape[1])[:, None]
        factors = turned.transpose(1, 2)
        inverse = 1 / (floor[:, None] + noise[row])  # of the diagonal part, (A, S, 2 K)
        error = inverse * (seen[row] - mean[:, None])
        weighted = turned[:, None] * inverse[:, :, None]  # (A, S, R, 2 K)
        inner = (weighted.flatten(1, 2) @ factors).unflatten(1, (row.shape[1], -1))
        lower = torch.linalg.cholesky(inner + torch.eye(turned.shape[1], dtype=seen.dtype, device=seen.device))
        whitened = torch.linalg.solve_triangular(lower, (error @ factors)[..., None], upper=False)
        distance = (error.square() / inverse).sum(-1) - whitened.square().sum((-2, -1))
        log_det = 2 * torch.diagonal(lower, dim1=-2, dim2=-1).log().sum(-1) - inverse.log().sum(-1)
        log_joint = weight.log()[:, None] - (distance + log_det + seen.shape[1] * math.log(2 * math.pi)) / 2
        by_row = log_joint.T if among is None else log_joint.view(rows, -1)
        log_likelihood = by_row.logsumexp(dim=1)
        odds = (log_joint - log_likelihood[row]).exp()
        # Moments are most of the work, and few components have a say in them.
        counts = odds > _LEAST_ODDS
        row, odds = row[counts], odds[counts][:, None]
        # Columns of factors inner^-1/2: both the solution and the variances come from them.
        half = torch.linalg.solve_triangular(lower[counts], weighted[counts], upper=False)
        solved = error[counts] - (whitened[counts].transpose(1, 2) @ half)[:, 0]
        expected = seen[row] - noise[row] * solved
        precision = inverse[counts] - half.square().sum(dim=1)
        variance = (noise[row] - noise[row].square() * precision).clamp(min=0)
        total = odds.new_zeros(rows, 1).index_add(0, row, odds)
        return SymbolPosterior(
            log_likelihood,
            by_row,
            torch.zeros_like(seen).index_add(0, row, odds * expected) / total,
            torch.zeros_like(seen).index_add(0, row, odds * (expected.square() + variance)) / total,
        )


@dataclass(frozen=True, eq=False)
class SymbolPosterior:
    """Posterior of n words.

    Attributes:
        log_likelihood: (n,) nats.
        log_joint: (n, M) with each component, nats.
        mean: (n, 2 K) E[w].
        square: (n, 2 K) E[w^2].
    """

    log_likelihood: Tensor
    log_joint: Tensor
    mean: Tensor
    square: Tensor


def posterior_in_parts(mixture: SymbolMixture, seen: Tensor, noise: Tensor, among: Tensor | None) -> SymbolPosterior:
    """Compute `mixture.posterior` a few rows at a time, which keeps its tensors in the cache."""
    rows = max(1, _FACTOR_NUMBERS // mixture.factors.numel())
    chosen = itertools.repeat(None) if among is None else among.split(rows)
    parts = [
        mixture.posterior(some, variance, few)
        for some, variance, few in zip(seen.split(rows), noise.split(rows), chosen, strict=False)
    ]
    return SymbolPosterior(
        *(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(SymbolPosterior))
    )
