"""The codec family PDJSCC: ADJSCC trained for how images look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from receiver.codecs.codec import check_images, check_symbols, per_image, unit_power
from receiver.codecs.published import Conventions, ImportOptions, Published, Shapes, length
from receiver.codecs.sized import WholeImageCodec
from receiver.networks.pdjscc import PDJSCC
from sdr.errors import ConfigError, InputError

#: Pixels per side that become one position of the feature map.
_STRIDE = 4


@dataclass(frozen=True)
class PdjsccConfig:
    """What a `PdjsccCodec` is made of.

    Attributes:
        channel_num: C of `PDJSCC`, even; C / 32 complex symbols per pixel.
        channels: of the image.
        width: channels inside.
    """

    family: ClassVar[str] = "pdjscc"

    channel_num: int = 2
    channels: int = 3
    width: int = 256

    def __post_init__(self) -> None:
        if min(self.channel_num, self.channels, self.width) < 1 or self.channel_num % 2:
            raise ConfigError(f"PDJSCC needs sizes of at least 1 and an even channel_num, got {self}.")

    def network(self) -> PDJSCC:
        """Return a freshly initialised network."""
        try:
            return PDJSCC(self.channel_num, self.channels, self.width)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: PDJSCC) -> PdjsccCodec:
        """Return the codec around a network of this configuration."""
        return PdjsccCodec(self, network)


FAMILY = PdjsccConfig


def _published(shapes: Shapes, options: ImportOptions) -> PdjsccConfig:
    width = length(shapes, ["Encoder.conv_block1.0.weight"], 0, 256)
    channel_num = options.channels or length(shapes, ["Encoder.conv_block5.0.weight"], 0, 2)
    return PdjsccConfig(channel_num, width=width)


PUBLISHED = (
    Published(
        "pdjscc",
        PdjsccConfig.family,
        "PDJSCC of DiffCom, trained for how images look",
        _published,
        frozenset({"channels"}),
        Conventions(
            packing="first half of the features real, second half imaginary",
            power="1 per image; the decoder takes symbols of power 1",
            snr="dB, to encoder and decoder",
            rate="C / 32",
        ),
    ),
)


class PdjsccCodec(WholeImageCodec[PdjsccConfig, PDJSCC]):
    """PDJSCC with power-normalised complex symbols: the first half of the feature map is real, the second imaginary.

    Sides that don't divide by 4 are extended by reflection at the right and at the bottom, and cropped again. The
    public code normalises the power of a batch, this one that of each image.

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
    """

    def __init__(self, config: PdjsccConfig, network: PDJSCC | None = None) -> None:
        super().__init__(config, config.network() if network is None else network, config.channels, (1, 1))

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        """Return the codec for images of shape (C, H, W), at least 4x4 pixels."""
        bound = super().for_shape(shape)
        if min(shape[1:]) < _STRIDE:
            raise InputError(f"An image is {shape[2]}x{shape[1]} pixels, at least 4x4 are needed. Enlarge it.")
        return bound

    @property
    def _grid(self) -> tuple[int, int]:
        _, height, width = self.image_shape
        return -(-height // _STRIDE), -(-width // _STRIDE)

    @property
    def num_symbols(self) -> int:
        """Complex symbols per image."""
        rows, columns = self._grid
        return rows * columns * self.config.channel_num // 2

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return symbols (B, K) of images (B, C, H, W), see `Codec`."""
        check_images(images, self.image_shape)
        (_, height, width), (rows, columns) = self.image_shape, self._grid
        padded = F.pad(images, (0, columns * _STRIDE - width, 0, rows * _STRIDE - height), mode="reflect")
        real, imag = self.network.encode(padded, per_image(csnr_db, images)).float().flatten(1).chunk(2, dim=1)
        return unit_power(torch.complex(real, imag))

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return images (B, C, H, W) of symbols (B, K), see `Codec`."""
        check_symbols(z, self.num_symbols)
        _, height, width = self.image_shape
        features = torch.cat([z.real, z.imag], dim=1).unflatten(1, (self.config.channel_num, *self._grid))
        return self.network.decode(features, per_image(csnr_db, z)).float()[:, :, :height, :width]
