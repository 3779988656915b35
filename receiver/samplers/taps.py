"""Taps of the channel while an image is sampled: known, or drawn anew given the image's symbols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.samplers.blind.starts import blind_start
from receiver.samplers.deterministic import decoded
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem
from receiver.samplers.randomness import standard_normal


@dataclass(frozen=True)
class Taps:
    """Taps at one step of a sampler.

    Attributes:
        problem: what is decoded.
        h: (F, L) complex.
        prior: of unknown taps; None: they are known and stay as they are.
        anchor: (F, L) an estimate by the symbols' statistics that every draw is averaged with, as both err in ways that
            have little in common; None where there is none.
    """

    problem: Problem
    h: Tensor
    prior: ChannelPrior | None = None
    anchor: Tensor | None = None

    @torch.no_grad()
    def given(self, z: Tensor) -> Taps:
        """Draw the taps from p(h | y, z), z (B, K): the other half of a blocked Gibbs sampler."""
        if self.prior is None:
            return self
        found = conditional_channel(self.problem.measurement, z, self.prior)
        normal = standard_normal((*found.mean.shape, 2), self.problem.frame_generator, z.device) / 2**0.5
        factor = torch.linalg.cholesky(found.covariance)
        h = found.mean + (factor @ torch.view_as_complex(normal).to(factor)[..., None])[..., 0]
        return replace(self, h=h if self.anchor is None else (h + self.anchor) / 2)

    def given_image(self, x: Tensor) -> Taps:
        """Draw the taps given images (B, C, H, W) in [0, 1]."""
        if self.prior is None:
            return self
        return self.given(self.problem.codec.encode(x, self.problem.encoder_csnr_db))

    def posterior(self, x: Tensor, x_d: Tensor, trace: Sequence[Tensor]) -> Posterior:
        """Return the answer, its taps drawn given its images.

        Args:
            x: (B, C, H, W) images in [0, 1].
            x_d: (B, C, H, W) what was decoded with the first taps.
            trace: (B,) potentials of each step.
        """
        with_these_taps = x_d if self.prior is None else None
        return self.problem.posterior(x, self.given_image(x).h, torch.stack(tuple(trace)), with_these_taps)


def known_taps(problem: Problem) -> tuple[Taps, Tensor]:
    """Return the taps that the pilots gave, and what is decoded with them, x_d (B, C, H, W)."""
    return Taps(problem, problem.h), decoded(problem, problem.h)


def drawn_taps(problem: Problem) -> tuple[Taps, Tensor]:
    """Return taps found without pilots, to be drawn anew as the image gets clearer, and x_d (B, C, H, W)."""
    start = blind_start(problem)
    return Taps(problem, start.h, problem.channel.prior, start.h if start.by_mixture else None), start.x_d
