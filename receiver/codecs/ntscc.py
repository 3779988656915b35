"""The codec family NTSCC+: every position of an image's latents is sent at a rate of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from receiver.codecs import range_coder
from receiver.codecs.codec import POWER_FLOOR, check_images, check_symbols, per_image, unit_power
from receiver.codecs.published import Conventions, ImportOptions, Published, Shapes, length
from receiver.codecs.side_information import (
    POWER_BYTES,
    Coded,
    VariableRateCodec,
    check_power,
    power_from_bytes,
    power_to_bytes,
)
from receiver.codecs.sized import WholeImageCodec
from receiver.networks.ntscc import LEVELS, NTSCC, RATES, rates_sent
from sdr.errors import ConfigError, InputError

#: What heights and widths must divide by.
_MULTIPLES = (128, 64)
#: Quality of the compatible network unless told otherwise: the middle.
_PUBLISHED_LEVEL = 50.0
#: Pixels per side of a position of the latents.
_STRIDE = 16


@dataclass(frozen=True)
class NtsccConfig:
    """What a codec of the family is made of.

    Attributes:
        compat: whether the network adapts to SNR and quality.
        eta: features to send for each bit that the entropy model counts; the published networks know 0.15 to 0.3.
        level: quality, 0 to 99: more sends more. Of a network that is not `compat`, 0.
        width: channels of the first stage of the transform, N of `NTSCC`.
    """

    family: ClassVar[str] = "ntscc"

    compat: bool = False
    eta: float = 0.2
    level: float = 0.0
    width: int = 128

    def __post_init__(self) -> None:
        if not 0 < self.eta < float("inf"):
            raise ConfigError(f"NTSCC+ needs a positive and finite eta, got {self.eta}.")
        if self.width < 1:
            raise ConfigError(f"NTSCC+ needs a width of at least 1, got {self.width}.")
        if not 0 <= self.level < LEVELS or (self.level and not self.compat):
            raise ConfigError(
                f"NTSCC+ knows levels 0..{LEVELS - 1} where it is compat, and 0 otherwise, got {self.level}."
            )

    def network(self) -> NTSCC:
        """Return a freshly initialised network.

        Raises:
            ConfigError: a width that makes no whole attention heads.
        """
        try:
            return NTSCC(self.compat, N=self.width)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: NTSCC) -> NtsccCodec:
        """Return the codec around a network of this configuration."""
        return NtsccCodec(self, network)


FAMILY = NtsccConfig


def _published(shapes: Shapes, options: ImportOptions) -> NtsccConfig:
    compat = "qr_scale" in shapes
    if options.level is not None and not compat:
        raise ConfigError("--level belongs to the compatible NTSCC+, and this is another one. Leave it out.")
    width = length(shapes, ["ntc.g_a0.weight"], 0, 128)
    level = _PUBLISHED_LEVEL if compat and options.level is None else options.level or 0.0
    return NtsccConfig(compat, 0.2 if options.eta is None else options.eta, level, width)


PUBLISHED = (
    Published(
        "ntscc-plus",
        NtsccConfig.family,
        "NTSCC+, for one quality and 10 dB, or compatible with several",
        _published,
        frozenset({"eta", "level"}),
        Conventions(
            packing="neighbours in the order (colour, channel, row, column) are real and imaginary; what is not sent "
            "is left out",
            power="1 per image; the decoder takes features of their own power, which side information tells",
            snr="dB, to encoder and decoder of the compatible network; 10 dB for the others",
            rate="differs from image to image; more for a larger eta or level",
            side="power (4 bytes) and the map of rates, one of 26 for each 16x16 pixels, range-coded",
        ),
    ),
)


@dataclass(frozen=True, eq=False)
class RateMap:
    """Side information of an image: the rate of every position.

    Attributes:
        index: (2, H/32, W/16) places in `RATES`, anchors first; at least one position sends something.
        power: mean square of the features that are sent, rounded to float32.
    """

    index: Tensor
    power: float

    def __post_init__(self) -> None:
        index = self.index.to("cpu", torch.int64)
        if index.ndim != 3 or len(index) != 2 or not bool(((index >= 0) & (index < len(RATES))).all()):
            raise InputError(
                f"A map of rates must be (2, rows, columns) of 0..{len(RATES) - 1}, got {tuple(index.shape)}."
            )
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "power", check_power(self.power))
        if not self.num_reals:
            raise InputError("The entropy model asks for no symbols at all. Raise eta or the level.")

    @property
    def num_reals(self) -> int:
        """Features that are sent, an even number."""
        return int(rates_sent(self.index).sum())

    def to_bytes(self) -> bytes:
        """Return the power as a little-endian float32, then the index in C order as `range_coder` writes it."""
        return power_to_bytes(self.power) + range_coder.encode(self.index.flatten().tolist(), len(RATES))

    @classmethod
    def from_bytes(cls, data: bytes, shape: tuple[int, int, int]) -> RateMap:
        """Undo `to_bytes` for an index of a known shape.

        Raises:
            InputError: `to_bytes` did not write this.
        """
        power = power_from_bytes(data)
        index = range_coder.decode(data[POWER_BYTES:], shape[0] * shape[1] * shape[2], len(RATES))
        return cls(torch.tensor(index).view(shape), power)


class NtsccAtRates(WholeImageCodec[NtsccConfig, NTSCC]):
    """NTSCC+ with a given map of rates, and so a fixed number of symbols: what `NtsccCodec.given` gives.

    The features that are sent stand in the order (colour, channel, row, column); neighbours are real and imaginary.
    The public code sends zeros for the features that are not sent, this one leaves them out.

    Args:
        config: the architecture.
        network: its weights.
        side: the rates and the features' power.
    """

    _index: Tensor
    _places: Tensor

    def __init__(self, config: NtsccConfig, network: NTSCC, side: RateMap) -> None:
        super().__init__(config, network, 3, _MULTIPLES)
        self.side = side
        # Where the samplers need them: a copy at every step would make them wait for the GPU.
        index = side.index.to(network.rate_token_enc.device)
        sent = network.sent(index).movedim(-1, 1)
        self.register_buffer("_index", index, persistent=False)
        self.register_buffer("_places", sent.flatten().nonzero()[:, 0], persistent=False)

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        """Return itself for images of the shape that the map is of."""
        bound = super().for_shape(shape)
        check_map(self.side, shape)
        return bound

    @property
    def num_symbols(self) -> int:
        """Complex symbols per image."""
        return len(self._places) // 2

    def _index_of(self, batch: Tensor) -> Tensor:
        """(B, 2, H/32, W/16) the map, for each of a batch."""
        return self._index.expand(len(batch), -1, -1, -1)

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return symbols (B, K) of images (B, 3, H, W), see `Codec`."""
        check_images(images, self.image_shape)
        latents = self.network.latents(images, self.config.level)
        features = self.network.features(latents, self._index_of(images), per_image(csnr_db, images))
        return unit_power(self.to_symbols(features))

    def to_symbols(self, features: Tensor) -> Tensor:
        """Return the features (B, 2, H/32, W/16, M) that are sent as (B, K) symbols, not normalised."""
        sent = features.movedim(-1, 2).flatten(1).index_select(1, self._places).float()
        return torch.complex(sent[:, 0::2], sent[:, 1::2])

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return images (B, 3, H, W) of symbols (B, K), see `Codec`."""
        check_symbols(z, self.num_symbols)
        # Symbols of unit power are features over the root of twice their mean square.
        sent = torch.view_as_real(z).flatten(1) * (2 * self.side.power) ** 0.5
        colours, rows, columns = self._index.shape
        shape = (colours, self.network.M, rows, columns)
        features = sent.new_zeros(len(z), math.prod(shape)).index_copy(1, self._places, sent)
        features = features.unflatten(1, shape).movedim(2, -1)
        return self.network.decode(features, self._index_of(z), per_image(csnr_db, z), self.config.level).float()


class NtsccCodec(VariableRateCodec[NtsccConfig, NTSCC, RateMap]):
    """NTSCC+ that sends each position at the rate its entropy model asks for: a `VariableRateCodec`.

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
    """

    def __init__(self, config: NtsccConfig, network: NTSCC | None = None) -> None:
        super().__init__(config, config.network() if network is None else network, 3, _MULTIPLES)

    def encode_image(self, image: Tensor, csnr_db: float) -> Coded[RateMap]:
        """Return symbols and rates of an image (3, H, W), see `VariableRateCodec`.

        Raises:
            InputError: another shape, or the entropy model asks for no symbols at all.
        """
        check_images(image[None], self.image_shape)
        latents = self.network.latents(image[None], self.config.level)
        index = self.network.choose(latents, self.config.eta)
        features = self.network.features(latents, index, per_image(csnr_db, image[None]))
        count = max(1, int(rates_sent(index).sum()))
        side = RateMap(index[0], max(float(features.detach().square().sum() / count), POWER_FLOOR))
        return Coded(unit_power(self.given(side).to_symbols(features))[0], side)

    def given(self, side: RateMap) -> NtsccAtRates:
        """Return the codec of images that are sent at these rates."""
        codec = NtsccAtRates(self.config, self.network, side)
        codec._digest = self.digest
        return codec.for_shape(self.image_shape)

    def read_side(self, data: bytes) -> RateMap:
        """Return the side information that `RateMap.to_bytes` wrote."""
        _, height, width = self.image_shape
        return RateMap.from_bytes(data, (2, height // _STRIDE // 2, width // _STRIDE))


def check_map(side: RateMap, shape: tuple[int, int, int]) -> None:
    """Refuse a map of rates that is of images of another shape (3, H, W).

    Raises:
        InputError: names both shapes.
    """
    wanted = (2, shape[1] // _STRIDE // 2, shape[2] // _STRIDE)
    if tuple(side.index.shape) != wanted:
        raise InputError(
            f"A map of rates is {tuple(side.index.shape)}, images of {shape[2]}x{shape[1]} pixels have {wanted}. "
            "Decode with the image's own shape."
        )
