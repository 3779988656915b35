"""The codec family ADJSCC: convolutions with attention to the channel SNR."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from receiver.codecs.codec import (
    ImageShape,
    NetworkCodec,
    Words,
    check_images,
    check_shape,
    check_symbols,
    per_image,
    unit_power,
)
from receiver.codecs.published import Conventions, ImportOptions, Published, Shapes, length
from receiver.networks.adjscc import ADJSCC
from sdr.errors import ConfigError


@dataclass(frozen=True)
class AdjsccConfig:
    """Configuration of an `AdjsccCodec`.

    Attributes:
        image_shape: (C, H, W), sides that divide by 4.
        channel_num: channels of the feature map that is sent, C of `ADJSCC`.
        width: channels inside.
        kernels: side of each layer's kernel.
        edge_width: channels of the first and last layer.
        edge_kernel: side of their kernels.

    Raises:
        ConfigError: sizes that fit no network.
    """

    family: ClassVar[str] = "adjscc"

    image_shape: tuple[int, int, int] = (1, 32, 32)
    channel_num: int = 2
    width: int = 64
    kernels: tuple[int, ...] = (5, 5, 5, 5, 5)
    edge_width: int = 16
    edge_kernel: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "kernels", tuple(self.kernels))
        sizes = (*self.image_shape, *self.kernels, self.channel_num, self.width, self.edge_width, self.edge_kernel)
        if min(sizes) < 1:
            raise ConfigError(f"Every size of ADJSCC must be at least 1, got {self}.")
        if len(self.image_shape) != 3 or any(side % 4 for side in self.image_shape[1:]):
            raise ConfigError(f"ADJSCC needs image sides that divide by 4, got the shape {self.image_shape}.")
        if self.num_reals % 2:
            raise ConfigError(
                f"ADJSCC with channel_num = {self.channel_num} gives an odd number of reals; use an even one."
            )

    @property
    def num_reals(self) -> int:
        """Real numbers per image, two a symbol."""
        _, height, width = self.image_shape
        return self.channel_num * (height // 4) * (width // 4)

    def network(self) -> ADJSCC:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        try:
            return ADJSCC(
                self.channel_num, self.image_shape[0], self.width, self.kernels, self.edge_width, self.edge_kernel
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: ADJSCC) -> AdjsccCodec:
        """Return the codec around a network of this configuration."""
        return AdjsccCodec(self, network)


FAMILY = AdjsccConfig


def _published(shapes: Shapes, options: ImportOptions) -> AdjsccConfig:
    def size(place: str, default: int) -> int:
        return length(shapes, [f"jscc_encoder.{place}.0.weight", f"Encoder.{place}.0.weight"], 0, default)

    width = size("conv_block1", 256)
    channel_num = options.channels or size("conv_block5", 2)
    return AdjsccConfig(options.colour_shape, channel_num, width, (9, 5, 5, 5, 5), edge_width=width, edge_kernel=7)


PUBLISHED = (
    Published(
        "adjscc",
        AdjsccConfig.family,
        "ADJSCC of DiffCom, for AWGN of 0 to 14 dB",
        _published,
        frozenset({"image_size", "channels"}),
        Conventions(
            packing="first half of the features real, second half imaginary",
            power="1 per image; the decoder takes symbols of power 1",
            snr="dB, to encoder and decoder",
            rate="C / 32",
        ),
    ),
)


class AdjsccCodec(NetworkCodec[AdjsccConfig, ADJSCC]):
    """ADJSCC with power-normalised complex symbols: the first half of the feature map is real, the second imaginary.

    (The order of the DiffCom authors' OFDM code, so their checkpoints mean the same here.)

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
    """

    def __init__(self, config: AdjsccConfig, network: ADJSCC | None = None) -> None:
        super().__init__(config, config.network() if network is None else network)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.config.image_shape

    @property
    def accepted_shape(self) -> ImageShape:
        return self.image_shape

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        check_shape(shape, self.accepted_shape, "The codec")
        return self

    def resized(self, shape: tuple[int, int, int]) -> Self:
        # The network is convolutional; what it makes of another size is good for timing only.
        return type(self)(replace(self.config, image_shape=shape), self.network)

    @property
    def num_symbols(self) -> int:
        return self.config.num_reals // 2

    @property
    def word_length(self) -> int:
        return self.num_symbols

    @property
    def words(self) -> Words:
        return Words.whole(self.num_symbols)

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        check_images(images, self.image_shape)
        # Complex tensors exist in no half precision, so the symbols leave autocast here.
        features = self.network.encode(images, per_image(csnr_db, images)).float().flatten(1)
        real, imag = features.chunk(2, dim=1)
        return unit_power(torch.complex(real, imag))

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        check_symbols(z, self.num_symbols)
        _, height, width = self.image_shape
        features = torch.cat([z.real, z.imag], dim=1).view(-1, self.config.channel_num, height // 4, width // 4)
        return self.network.decode(features, per_image(csnr_db, features)).float()
