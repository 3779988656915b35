"""Codecs whose receiver must know more of an image than its symbols.

Such a codec sends images at different rates: how many symbols there are, and which features they are, differs from
image to image. That is the image's side information. Given it, the codec is an ordinary `Codec` with a fixed number
of symbols; a posterior sampler encodes every hypothesis with the side information that was received.
"""

from __future__ import annotations

import math
import struct
from abc import abstractmethod
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from receiver.codecs.codec import Codec, Config, Network, Words
from receiver.codecs.sized import SizedCodec
from sdr.errors import ConfigError, InputError


class SideInformation(Protocol):
    """What a receiver must know of an image beside its symbols."""

    def to_bytes(self) -> bytes:
        """Return it as bytes, which must arrive without errors."""
        ...


Side = TypeVar("Side", bound=SideInformation)
POWER_BYTES = 4


@dataclass(frozen=True, eq=False)
class Coded(Generic[Side]):
    """One image as it is sent.

    Attributes:
        z: (K,) complex64 symbols of unit mean power.
        side: what a receiver must know beside them; its bytes must arrive without errors.
    """

    z: Tensor
    side: Side


class VariableRateCodec(SizedCodec[Config, Network], Generic[Config, Network, Side]):
    """An image codec whose rate differs from image to image: symbols are worth something with side information only.

    As a `Codec` it has a family, a digest and image shapes; what needs a fixed number of symbols raises a ConfigError.
    """

    @abstractmethod
    def encode_image(self, image: Tensor, csnr_db: float) -> Coded[Side]:
        """Return symbols and side information of an image (C, H, W) in [0, 1], for a channel SNR in dB."""

    @abstractmethod
    def given(self, side: Side) -> Codec:
        """Return the codec of images that are sent with this side information, differentiable as every codec."""

    @abstractmethod
    def read_side(self, data: bytes) -> Side:
        """Return the side information that `to_bytes` wrote; raise an InputError where it did not write `data`."""

    def decode_image(self, coded: Coded[Side], csnr_db: float) -> Tensor:
        """Return the image (C, H, W), about [0, 1], of symbols as received."""
        return self.given(coded.side).decode(coded.z[None], csnr_db)[0]

    def _without_side(self) -> ConfigError:
        return ConfigError(
            f"A codec of the family {self.family} with this configuration sends every image at a rate of its own, "
            "which can't be used here. Use `ota demo`, `ota transmit` or `ota decode`, or a codec of a fixed rate."
        )

    @property
    def num_symbols(self) -> int:
        raise self._without_side()

    @property
    def word_length(self) -> int:
        raise self._without_side()

    @property
    def words(self) -> Words:
        raise self._without_side()

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        raise self._without_side()

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        raise self._without_side()


def fixed_symbols(codec: Codec) -> int | None:
    """Return the symbols of every image, None where they differ from image to image."""
    return None if isinstance(codec, VariableRateCodec) else codec.num_symbols


def check_power(power: float) -> float:
    """Return a mean square of features as it is sent, rounded to float32.

    Raises:
        InputError: not positive and finite.
    """
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", power))
    except OverflowError:
        rounded = math.inf
    if not (math.isfinite(rounded) and rounded > 0):
        raise InputError(f"The power of features must be positive and finite, got {power}. Receive it again.")
    return rounded


def power_to_bytes(power: float) -> bytes:
    """Return a power as 4 bytes, a little-endian float32."""
    return struct.pack("<f", power)


def power_from_bytes(data: bytes) -> float:
    """Return the power at the beginning of side information; raise an InputError where there is none."""
    if len(data) < POWER_BYTES:
        raise InputError(
            f"Side information has {len(data)} bytes, at least {POWER_BYTES} are needed. Receive it again."
        )
    return check_power(struct.unpack_from("<f", data)[0])
