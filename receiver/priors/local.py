"""A local denoiser for photographs of any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from receiver.networks.local import LocalUNet, in_tiles, pad_to
from receiver.priors.denoiser import NetworkDenoiser
from receiver.priors.schedule import Schedule
from sdr.errors import ConfigError


@dataclass(frozen=True)
class LocalPriorConfig:
    """Configuration of a `LocalDenoiser`; widths and blocks count from the image inwards, a level each.

    Attributes:
        channels: of the image.
        widths: channels of each level.
        blocks: residual blocks of each level.
        embedding: channels that carry the step to the blocks.
        num_steps: of the schedule.
        fold: pixels per side that are folded into channels before the first level.

    Raises:
        ConfigError: sizes that fit no network.
    """

    family: ClassVar[str] = "local"

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

    def network(self) -> LocalUNet:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        try:
            return LocalUNet(self.channels, self.widths, self.blocks, self.embedding, self.fold)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def denoiser(self, network: LocalUNet | None = None) -> LocalDenoiser:
        """Return the denoiser around a network of this configuration; a freshly initialised one when missing."""
        return LocalDenoiser(self.network() if network is None else network, Schedule(self.num_steps))


FAMILY = LocalPriorConfig


class LocalDenoiser(NetworkDenoiser[LocalUNet]):
    """A local U-Net that predicts velocity, as a denoiser of images of any size.

    Args:
        unet: the network.
        schedule: the schedule it was trained with.
    """

    def __init__(self, unet: LocalUNet, schedule: Schedule) -> None:
        super().__init__(unet, schedule, (unet.channels, None, None), "v")

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        _, _, height, width = x_t.shape
        side = self.unet.side
        padded = pad_to(x_t, -(-height // side) * side, -(-width // side) * side)
        # The root spreads the early steps, where the noise grows fastest.
        level = (t.to(torch.float32) / self.schedule.num_steps).sqrt()
        return in_tiles(self.unet, padded, level).float()[:, :, :height, :width]
