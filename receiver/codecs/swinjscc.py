"""The codec family SwinJSCC: Swin Transformers, with a fixed rate or with a rate that the sender chooses.

WITT, from which SwinJSCC was made, has the networks and the names of its variants `none` and `snr`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from receiver.codecs.codec import POWER_FLOOR, check_images, check_symbols, per_image, unit_power
from receiver.codecs.published import Conventions, ImportOptions, Published, Shapes, count, length
from receiver.codecs.side_information import (
    POWER_BYTES,
    Coded,
    VariableRateCodec,
    check_power,
    power_from_bytes,
    power_to_bytes,
)
from receiver.codecs.sized import WholeImageCodec
from receiver.networks.swinjscc import DEPTHS, Adapts, SwinJSCC
from sdr.errors import ConfigError, InputError

#: Channel SNR at which the power of features is measured, dB: that of the published networks of one SNR.
_MEASURED_CSNR_DB = 10.0


@dataclass(frozen=True)
class SwinjsccConfig:
    """What a codec of the family is made of; see `SwinJSCC`.

    Attributes:
        adapts: the variant: none, snr, rate or both.
        rate: channels of the feature map that are sent for each 16x16 pixels: `rate / 2` complex symbols.
        feature_power: mean square of the features, which the receiver of a fixed-rate network must assume, because
            the symbols have unit power; `mean_power` measures it. Side information says it for the other variants.
        channels: of the image.
        widths: channels of each stage.
        depths: blocks of each stage.
        heads: attention heads of each stage.
        side: pixels per side of an attention window, even.
    """

    family: ClassVar[str] = "swinjscc"

    adapts: Adapts = "both"
    rate: int = 96
    feature_power: float = 1.0
    channels: int = 3
    widths: tuple[int, ...] = (128, 192, 256, 320)
    depths: tuple[int, ...] = DEPTHS["base"]
    heads: tuple[int, ...] = (4, 6, 8, 10)
    side: int = 8

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "heads"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.rate, self.channels, self.side, *self.widths, *self.depths, *self.heads) < 1 or self.side % 2:
            raise ConfigError(f"SwinJSCC needs sizes of at least 1 and an even window, got {self}.")
        if not self.widths or (self.has_side and self.rate > self.widths[-1]):
            raise ConfigError(f"SwinJSCC with the widths {self.widths} can't send {self.rate} channels of the last.")
        if not 0 < self.feature_power < float("inf"):
            raise ConfigError(f"feature_power must be positive and finite, got {self.feature_power}.")

    @property
    def has_side(self) -> bool:
        """Whether the encoder chooses the channels of each image."""
        return self.adapts in ("rate", "both")

    @property
    def sendable(self) -> int:
        """Channels of the feature map."""
        return self.widths[-1] if self.has_side else self.rate

    def network(self) -> SwinJSCC:
        """Return a freshly initialised network."""
        try:
            return SwinJSCC(
                self.adapts, self.rate, self.channels, self.widths, self.depths, self.heads, self.side
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: SwinJSCC) -> SwinjsccCodec | SwinjsccRateCodec:
        """Return the codec around a network of this configuration."""
        return SwinjsccRateCodec(self, network) if self.has_side else SwinjsccCodec(self, network)


FAMILY = SwinjsccConfig


def _published(shapes: Shapes, options: ImportOptions) -> SwinjsccConfig:
    blocks = "encoder.layers.{}.blocks."
    stages = range(count(shapes, blocks) or 4)
    tables = [f"{blocks.format(stage)}0.attn.relative_position_bias_table" for stage in stages]
    depths = tuple(count(shapes, blocks.format(stage) + "{}.") for stage in stages)
    if options.size is not None and options.size not in DEPTHS:
        raise ConfigError(f"SwinJSCC has no --size {options.size!r}; it has {', '.join(DEPTHS)}.")
    return SwinjsccConfig(
        adapts=_variant(shapes, options.variant),
        rate=options.channels or length(shapes, ["encoder.head_list.weight"], 0, 96),
        channels=length(shapes, ["encoder.patch_embed.proj.weight"], 1, 3),
        widths=tuple(length(shapes, [f"{blocks.format(stage)}0.norm1.weight"], 0, 1) for stage in stages),
        depths=depths if options.size is None and all(depths) else DEPTHS[options.size or "base"],
        heads=tuple(length(shapes, [table], 1, 1) for table in tables),
        # A window of s x s pixels has (2 s - 1)^2 relative positions.
        side=(math.isqrt(length(shapes, tables[:1], 0, 225)) + 1) // 2,
    )


def _variant(shapes: Shapes, stated: str | None) -> Adapts:
    """Return what a network adapts to; two of the four variants have the same names and shapes."""
    found: Adapts | None = None
    if any(name.startswith("encoder.bm_list1.") for name in shapes):
        found = "both"
    elif "encoder.head_list.weight" not in shapes:
        found = "rate"
    if found is not None and stated not in (None, found):
        raise ConfigError(f"The checkpoint is of the variant {found}, not {stated}. Leave --variant out.")
    if found is not None:
        return found
    if stated not in ("none", "snr"):
        raise ConfigError(
            "Networks that adapt to nothing (SwinJSCC w/o, WITT_W/O) and to SNR (SwinJSCC SA, WITT) have the same "
            "weights' names and shapes. Say which with --variant none or --variant snr."
        )
    return stated


def _witt(shapes: Shapes, options: ImportOptions) -> SwinjsccConfig:
    config = _published(shapes, options)
    if config.has_side:
        raise ConfigError("The checkpoint adapts to a rate, which WITT can't. Import it as --family swinjscc.")
    return config


def _measured(config: SwinjsccConfig, network: SwinJSCC, images: Sequence[Tensor]) -> SwinjsccConfig:
    """Return the configuration with the power of the features, where no side information will tell it."""
    if config.has_side:
        return config
    side = network.side_multiple
    powers = []
    for image in images:
        _, height, width = (length // side * side for length in (side, *image.shape[1:]))
        if min(height, width) >= side:
            powers.append(mean_power(network, image[None, :, :height, :width], _MEASURED_CSNR_DB))
    if not powers:
        raise InputError(f"No image has {side}x{side} pixels, on which the features' power could be measured.")
    return replace(config, feature_power=sum(powers) / len(powers))


_CONVENTIONS = Conventions(
    packing="position by position, the first half real, the second imaginary",
    power="1 per image; the decoder takes features of their own power, which side information tells (RA), or "
    "which was measured over photographs when the checkpoint was imported",
    snr="dB, to encoder and decoder where it adapts to it",
    rate="C / 512 with four stages, C / 32 with two",
    side="RA: power (4 bytes) and a bit for each channel",
)
PUBLISHED = (
    Published(
        "swinjscc",
        SwinjsccConfig.family,
        "SwinJSCC, with or without adaptation to SNR (SA) and rate (RA)",
        _published,
        frozenset({"size", "channels", "variant"}),
        _CONVENTIONS,
        measure=_measured,
    ),
    Published(
        "witt",
        SwinjsccConfig.family,
        "WITT, with or without adaptation to SNR",
        _witt,
        frozenset({"channels", "variant"}),
        _CONVENTIONS,
        measure=_measured,
    ),
)


@dataclass(frozen=True, eq=False)
class SentChannels:
    """Side information of an image: which channels of its features are sent.

    Attributes:
        channels: (C,) bool, at least one.
        power: mean square of the features that are sent, rounded to float32.
    """

    channels: Tensor
    power: float

    def __post_init__(self) -> None:
        if self.channels.ndim != 1 or self.channels.dtype != torch.bool or not bool(self.channels.any()):
            raise InputError(f"Channels to send must be a list of booleans with one that is true, got {self.channels}.")
        object.__setattr__(self, "power", check_power(self.power))

    def to_bytes(self) -> bytes:
        """Return the power as a little-endian float32, then a bit for each channel, the first the highest."""
        return power_to_bytes(self.power) + np.packbits(self.channels.cpu().numpy()).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, channels: int) -> SentChannels:
        """Undo `to_bytes` for a map of so many channels.

        Raises:
            InputError: `to_bytes` did not write this.
        """
        needed = POWER_BYTES + -(-channels // 8)
        if len(data) != needed:
            raise InputError(f"Side information has {len(data)} bytes, {needed} are needed. Receive it again.")
        bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=POWER_BYTES))
        if bits[channels:].any():
            raise InputError(f"Side information names more than {channels} channels. Receive it again.")
        return cls(torch.from_numpy(bits[:channels].astype(bool)), power_from_bytes(data))


class SwinjsccCodec(WholeImageCodec[SwinjsccConfig, SwinJSCC]):
    """SwinJSCC with a fixed set of channels, and so a fixed number of symbols.

    What is sent is flattened position by position; the first half is real, the second imaginary (so the upper half of
    the picture is real). The public code normalises the power of a batch, this one that of each image.

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
        side: the channels and the features' power; by default those of a fixed-rate network.

    Raises:
        ConfigError: the network chooses channels, and no side information says which.
    """

    _chosen: Tensor
    _places: Tensor

    def __init__(
        self, config: SwinjsccConfig, network: SwinJSCC | None = None, side: SentChannels | None = None
    ) -> None:
        network = config.network() if network is None else network
        super().__init__(config, network, config.channels, (network.side_multiple, network.side_multiple))
        if side is None:
            if config.has_side:
                raise ConfigError(
                    f"SwinJSCC that adapts to {config.adapts} needs side information. Use SwinjsccRateCodec."
                )
            side = SentChannels(torch.ones(config.sendable, dtype=torch.bool), config.feature_power)
        self.side = side
        # Where the samplers need them: a copy at every step would make them wait for the GPU.
        channels = side.channels.to(network.encoder.norm.weight.device)
        self.register_buffer("_chosen", channels, persistent=False)
        self.register_buffer("_places", channels.nonzero()[:, 0], persistent=False)

    @property
    def _grid(self) -> tuple[int, int]:
        _, height, width = self.image_shape
        return height // self.network.stride, width // self.network.stride

    @property
    def num_symbols(self) -> int:
        """Complex symbols per image."""
        rows, columns = self._grid
        return rows * columns * len(self._places) // 2

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return symbols (B, K) of images (B, C, H, W), see `Codec`."""
        check_images(images, self.image_shape)
        channels, rate = self._chosen.expand(len(images), -1), len(self._places)
        features, _ = self.network.encode(images, per_image(csnr_db, images), rate, channels)
        real, imag = features.index_select(-1, self._places).float().flatten(1).chunk(2, dim=1)
        return unit_power(torch.complex(real, imag))

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return images (B, C, H, W) of symbols (B, K), see `Codec`."""
        check_symbols(z, self.num_symbols)
        # Symbols of unit power are features over the root of twice their mean square.
        sent = torch.cat([z.real, z.imag], dim=1).unflatten(1, (*self._grid, -1)) * (2 * self.side.power) ** 0.5
        features = sent.new_zeros(*sent.shape[:-1], len(self._chosen)).index_copy(-1, self._places, sent)
        return self.network.decode(features, per_image(csnr_db, z)).float()


class SwinjsccRateCodec(VariableRateCodec[SwinjsccConfig, SwinJSCC, SentChannels]):
    """SwinJSCC that sends `config.rate` channels, chosen for each image: a `VariableRateCodec`.

    Args:
        config: the architecture, adapting to rate or both.
        network: its weights; a fresh initialisation when missing.

    Raises:
        ConfigError: the network has a fixed rate.
    """

    def __init__(self, config: SwinjsccConfig, network: SwinJSCC | None = None) -> None:
        if not config.has_side:
            raise ConfigError(f"SwinJSCC that adapts to {config.adapts} chooses no channels. Use SwinjsccCodec.")
        network = config.network() if network is None else network
        super().__init__(config, network, config.channels, (network.side_multiple, network.side_multiple))

    def encode_image(self, image: Tensor, csnr_db: float) -> Coded[SentChannels]:
        """Return symbols and channels of an image (C, H, W), see `VariableRateCodec`."""
        check_images(image[None], self.image_shape)
        features, channels = self.network.encode(image[None], per_image(csnr_db, image[None]), self.config.rate)
        power = float(features.detach()[..., channels[0]].square().mean())
        side = SentChannels(channels[0], max(power, POWER_FLOOR))
        return Coded(self.given(side).encode(image[None], csnr_db)[0], side)

    def given(self, side: SentChannels) -> SwinjsccCodec:
        """Return the codec of images of which these channels are sent."""
        if len(side.channels) != self.config.sendable:
            raise InputError(
                f"Side information is of {len(side.channels)} channels, the codec has {self.config.sendable}. Decode "
                "with the codec that encoded."
            )
        codec = SwinjsccCodec(self.config, self.network, side)
        codec._digest = self.digest
        return codec.for_shape(self.image_shape)

    def read_side(self, data: bytes) -> SentChannels:
        """Return the side information that `SentChannels.to_bytes` wrote."""
        return SentChannels.from_bytes(data, self.config.sendable)


def mean_power(network: SwinJSCC, images: Tensor, csnr_db: float) -> float:
    """Return the mean square of a fixed-rate network's features over images (B, C, H, W)."""
    with torch.no_grad():
        return float(network.encode(images, per_image(csnr_db, images))[0].square().mean())
