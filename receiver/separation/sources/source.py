"""What every image codec offers, and how its streams are packed into a number of bytes.

A packed stream is what is left of a file once everything is taken off that the receiver can make itself: the head of a
stream (container, parameter sets, tables) is the same for all images of one size and quality, so that the receiver
encodes a grey image of that size and takes its head. Sent are, all counted: one byte for quality and size, of 1 to 3
bytes the length of what follows, and the body. An image that does not fit at the lowest quality is sent at half or a
quarter of its height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sdr.errors import InputError

Pixels = NDArray[np.uint8]
"""(H, W, 3) sRGB."""


class TooLargeError(InputError):
    """An image does not fit into its symbols, however coarsely it is coded."""


#: Most qualities of a codec: 6 bits of the first byte.
MAX_QUALITIES = 64
#: What the other 2 bits say: the image at full, half or a quarter of its size, or at full size with its own head.
_FULL, _HALF, _QUARTER, _OWN_HEAD = range(4)


@dataclass(frozen=True)
class Source(ABC):
    """An image codec.

    Attributes:
        name: in methods, such as "vvc".
        title: for people.
        qualities: how many there are, at most `MAX_QUALITIES`; 0 makes the smallest streams.
    """

    name: str
    title: str
    qualities: int

    @abstractmethod
    def encode(self, pixels: Pixels, quality: int) -> bytes:
        """Encode an image.

        Raises:
            ConfigError: the codec is not installed.
        """

    @abstractmethod
    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        """Decode a stream of an image whose size is known.

        Raises:
            InputError: the stream holds no such image.
        """

    def split(self, stream: bytes) -> tuple[bytes, bytes]:
        """Return the head of a stream, which depends on size and quality alone, and the body."""
        return b"", stream

    def join(self, head: bytes, body: bytes) -> bytes:
        """Return the stream of a head and a body; the inverse of `split`."""
        return head + body


@lru_cache(maxsize=256)
def _grey_head(source: Source, height: int, width: int, quality: int) -> bytes:
    return source.split(source.encode(np.full((height, width, 3), 128, np.uint8), quality))[0]


@lru_cache(maxsize=4096)
def _packed(source: Source, pixels: bytes, height: int, width: int, quality: int, size: int) -> bytes:
    image = _resized(np.frombuffer(pixels, np.uint8).reshape(height, width, 3), *_reduced(height, width, size))
    stream = source.encode(image, quality)
    head, body = source.split(stream)
    if head != _grey_head(source, *image.shape[:2], quality):
        size, body = _OWN_HEAD, stream
    return bytes([size << 6 | quality]) + _length_to_bytes(len(body)) + body


def _reduced(height: int, width: int, size: int) -> tuple[int, int]:
    """Return height and width of an image as it is coded."""
    factor = 2 ** (size % _OWN_HEAD)
    return -(-height // factor), -(-width // factor)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def fill(source: Source, pixels: Pixels, num_bytes: int) -> bytes:
    """Return an image as it is sent, at the best quality that fits, found by bisection.

    Args:
        source: the codec.
        pixels: (H, W, 3).
        num_bytes: that there is room for.

    Raises:
        TooLargeError: the image does not fit at the lowest quality and a quarter of its size.
    """
    height, width = pixels.shape[:2]
    smallest = 0
    for size in (_FULL, _HALF, _QUARTER):
        packed = _packed(source, pixels.tobytes(), height, width, 0, size)
        smallest = len(packed)
        # A head of its own says nothing of a smaller size.
        if smallest <= num_bytes and (size == _FULL or packed[0] >> 6 == size):
            return _best(source, pixels, num_bytes, size, packed)
    raise TooLargeError(
        f"An image of {width}x{height} pixels takes {smallest} bytes in {source.title} at its lowest quality, and the "
        f"symbols hold {num_bytes}. Raise the channel SNR, or choose another codec or a bundle of more symbols."
    )


def _best(source: Source, pixels: Pixels, num_bytes: int, size: int, best: bytes) -> bytes:
    """Return the best of the qualities from 0 on, whose stream `best` fits."""
    fits, too_large = 0, source.qualities
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        packed = _packed(source, pixels.tobytes(), pixels.shape[0], pixels.shape[1], middle, size)
        if len(packed) <= num_bytes and (size == _FULL or packed[0] >> 6 == size):
            fits, best = middle, packed
        else:
            too_large = middle
    return best


def unpack(source: Source, data: bytes, height: int, width: int) -> Pixels:
    """Return the image that was packed; bytes behind it are left alone.

    Raises:
        InputError: `data` is not what `fill` made of an image of this size.
    """
    if not data or (data[0] & MAX_QUALITIES - 1) >= source.qualities:
        raise InputError(f"A block holds no {source.title} image.")
    size, quality = data[0] >> 6, data[0] & MAX_QUALITIES - 1
    length, place = _length_from_bytes(data, 1)
    body = data[place : place + length]
    if len(body) < length:
        raise InputError(f"A block ends before its {source.title} image does.")
    rows, columns = _reduced(height, width, size)
    stream = body if size == _OWN_HEAD else source.join(_grey_head(source, rows, columns, quality), body)
    return _resized(source.decode(stream, rows, columns), height, width)


def _length_to_bytes(length: int) -> bytes:
    """Return a length in as few bytes as it takes, 7 bits each, the last ones first."""
    parts = []
    while length > 0x7F:
        parts.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([*parts, length])


def _length_from_bytes(data: bytes, place: int) -> tuple[int, int]:
    """Return the length that begins at a place, and the place behind it."""
    length = 0
    for index, value in enumerate(data[place : place + 4]):
        length |= (value & 0x7F) << 7 * index
        if value < 0x80:
            return length, place + index + 1
    raise InputError("A block holds a length without an end.")
