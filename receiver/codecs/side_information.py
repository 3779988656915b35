"""Codecs whose receiver must know more of an image than its symbols.

Such a codec sends images at different rates: how many symbols there are, and which features they are, differs from
image to image. That is the image's side information. Given it, the codec is an ordinary `Codec` with a fixed number
of symbols; a posterior sampler encodes every hypothesis with the side information that was received.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from receiver.codecs.codec import Codec, ImageShape
from sdr.errors import InputError

Side = TypeVar("Side")
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


class SideCodec(Protocol[Side]):
    """An image codec with side information.

    Attributes:
        name: what it is, for people.
        digest: 8 hex digits over configuration and weights.
        takes: (C, H, W) of the images it can be made to take; None where any height and width.
        image_shape: (C, H, W) of the images it takes.
    """

    family: str
    accepted_shape: ImageShape

    @property
    def digest(self) -> str: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def for_shape(self, shape: tuple[int, int, int]) -> SideCodec[Side]:
        """Return the same codec for images of one shape; raise an InputError where it takes no such images."""
        ...

    def encode(self, image: Tensor, csnr_db: float) -> Coded[Side]:
        """Return symbols and side information of an image (C, H, W) in [0, 1], for a channel SNR in dB."""
        ...

    def decode(self, coded: Coded[Side], csnr_db: float) -> Tensor:
        """Return the image (C, H, W), about [0, 1], of symbols as received."""
        ...

    def given(self, side: Side) -> Codec:
        """Return the codec of images that are sent with this side information, differentiable as every codec."""
        ...

    def read_side(self, data: bytes) -> Side:
        """Return the side information that `to_bytes` wrote; raise an InputError where it did not write `data`."""
        ...


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
