"""A local denoiser for photographs of any size."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from receiver.codecs.codec import ImageShape, check_shape
from receiver.networks.local import LocalUNet, in_tiles, pad_to
from receiver.priors.denoiser import Prediction
from receiver.priors.schedule import Schedule
from sdr.errors import ConfigError


@dataclass(frozen=True)
class LocalPriorConfig:
    """What a `LocalDenoiser` is made of; widths and blocks count from the image inwards, a level each.

    Pixels are folded into channels by `fold` before the first level.
    """

    channels: int = 3
    widths: tuple[int, ...] = (96, 128, 160)
    blocks: tuple[int, ...] = (2, 2, 2)
    embedding: int = 128
    num_steps: int = 1000
    fold: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if min(self.channels, self.embedding, self.num_steps, self.fold) < 1:
            raise ConfigError(f"Every size of the prior must be at least 1, got {self}.")

    def unet(self) -> LocalUNet:
        """A freshly initialised network."""
        try:
            return LocalUNet(self.channels, self.widths, self.blocks, self.embedding, self.fold)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def denoiser(self) -> LocalDenoiser:
        """A freshly initialised denoiser."""
        return LocalDenoiser(self.unet(), Schedule(self.num_steps))


class LocalDenoiser(nn.Module):
    """A local U-Net that predicts velocity, as a denoiser of images of any size.

    Args:
        unet: the network.
        schedule: the schedule it was trained with.
    """

    prediction: Prediction = "v"

    def __init__(self, unet: LocalUNet, schedule: Schedule) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self._shape: tuple[int, int, int] | None = None

    @property
    def takes(self) -> ImageShape:
        return self.unet.channels, None, None

    def at(self, shape: tuple[int, int, int]) -> LocalDenoiser:
        check_shape(shape, self.takes, "The prior")
        bound = copy.copy(self)
        bound._shape = shape
        return bound

    @property
    def image_shape(self) -> tuple[int, int, int]:
        if self._shape is None:
            raise ConfigError("A prior for any size has no image shape of its own; use the one of at(shape).")
        return self._shape

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's own prediction, the velocity, (B, C, H, W) float32."""
        _, _, height, width = x_t.shape
        side = self.unet.side
        padded = pad_to(x_t, -(-height // side) * side, -(-width // side) * side)
        # The root spreads the early steps, where the noise grows fastest.
        level = (t.to(torch.float32) / self.schedule.num_steps).sqrt()
        return in_tiles(self.unet, padded, level).float()[:, :, :height, :width]

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.coefficients(t, x_t)
        return signal * x_t - noise * self.predict(x_t, t)
