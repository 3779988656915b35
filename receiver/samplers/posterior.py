"""What a sampler returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from receiver.measurement.model import Measurement
from sdr.errors import ConfigError


@dataclass(frozen=True)
class Posterior:
    """Samples of the posterior.

    Attributes:
        x: (R * B, C, H, W) images in [0, 1]; draw r of image b is row r * B + b.
        h: (R * F, L) complex taps that the images were decoded with.
        trace: potential per step, (steps, R * B).
        measurement: of all R * B images, corrected by what was found of phases, delays and noise.
        draws: R, samples per image.
        x_d: (R * B, C, H, W) what the deterministic decoder makes of the measurement with these taps, in [0, 1], so
            that it needs not be asked again; `x` itself where that is the answer, None where it was not asked.
    """

    x: Tensor
    h: Tensor
    trace: Tensor = field(repr=False)
    measurement: Measurement = field(repr=False)
    draws: int = 1
    x_d: Tensor | None = field(default=None, repr=False)

    @property
    def mean(self) -> Tensor:
        """(B, C, H, W): mean of the draws, the image of least expected squared error."""
        return self.x.unflatten(0, (self.draws, -1)).mean(dim=0)

    @property
    def spread(self) -> Tensor:
        """(B, C, H, W): standard deviation of every pixel over the draws; what the receiver is unsure of.

        Raises:
            ConfigError: a single draw has no spread.
        """
        if self.draws < 2:
            raise ConfigError("One draw has no spread; sample with draws = 2 or more.")
        return self.x.unflatten(0, (self.draws, -1)).std(dim=0)


def mean_of(samples: Sequence[Posterior]) -> Posterior:
    """Return the mean of samples of the same images, draw by draw: its images, taps and potentials."""
    if len(samples) == 1:
        return samples[0]
    x, h, trace = (torch.stack([getattr(one, name) for one in samples]).mean(dim=0) for name in ("x", "h", "trace"))
    return replace(samples[0], x=x, h=h, trace=trace, x_d=None)
