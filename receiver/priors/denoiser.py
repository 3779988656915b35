"""Diffusion priors: the noise schedule and denoisers that return the posterior mean of the clean image.

Time runs as in the paper: t = 1..T, with alpha_bar[0] = 1 for the clean image, and
x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps with images scaled to [-1, 1].
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from receiver.priors.schedule import Schedule

Prediction = Literal["epsilon", "v"]


class Denoiser(Protocol):
    """The prior as the samplers see it.

    Attributes:
        schedule: the noise schedule that `t` counts in.
        image_shape: (C, H, W).

    `at` gives the denoiser for a shape, as that of a codec does.
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def at(self, shape: tuple[int, int, int]) -> Denoiser: ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], the posterior mean (Tweedie).

        Args:
            x_t: (B, C, H, W) noisy images on the [-1, 1] scale.
            t: (B,) int64 steps 1..T.

        Returns:
            (B, C, H, W) on the [-1, 1] scale, not clamped, differentiable in `x_t`.
        """
        ...
