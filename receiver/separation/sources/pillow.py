"""AVIF, JPEG 2000 and JPEG by Pillow.

AVIF and JPEG say in their own streams which colours they have; both are 4:2:0 at full range.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass

import numpy as np
from PIL import Image, features

from receiver.separation.sources.source import Pixels, Source
from sdr.errors import ConfigError, InputError


@dataclass(frozen=True)
class PillowSource(Source):
    """A codec of Pillow.

    Attributes:
        format: name of its plugin.
        feature: name of the library that Pillow must have been built with.
    """

    format: str
    feature: str

    def options(self, quality: int) -> dict[str, object]:
        """Return what the plugin is told."""
        raise NotImplementedError

    def encode(self, pixels: Pixels, quality: int) -> bytes:
        if not features.check(self.feature):
            raise ConfigError(f"This Pillow can't encode {self.title}. Install the wheel of pillow >= 11.3.")
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, self.format, **self.options(quality))
        return buffer.getvalue()

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        try:
            with Image.open(io.BytesIO(stream), formats=[self.format]) as image:
                if image.size != (width, height):
                    raise InputError(f"{self.title}: found {image.size} pixels, not {(width, height)}.")
                return np.asarray(image.convert("RGB"))
        except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
            raise InputError(f"A block holds a damaged {self.title} image ({error}).") from error


@dataclass(frozen=True)
class _Avif(PillowSource):
    """AV1 stills. The container's head holds two lengths, which are set to 0 in heads and put right in streams."""

    def options(self, quality: int) -> dict[str, object]:
        percent = round(100 * quality / (self.qualities - 1))
        colours = {"subsampling": "4:2:0", "range": "full"}
        return {"quality": percent, "speed": 4, "codec": "aom", "max_threads": 1, **colours}

    def split(self, stream: bytes) -> tuple[bytes, bytes]:
        place = stream.find(b"mdat") + 4
        if place < 4:
            return b"", stream
        return _with_avif_length(stream[:place], None), stream[place:]

    def join(self, head: bytes, body: bytes) -> bytes:
        return _with_avif_length(head, len(body)) + body


def _with_avif_length(head: bytes, length: int | None) -> bytes:
    """Return the head of an AVIF file with the length of its one picture in both places, or with zeros (None)."""
    # The item location box: version and flags (4), sizes of its fields (2: offsets and lengths of 4 bytes), items (2),
    # then for the one item its number (2), a reference (2), extents (2), offset (4), length (4).
    place = head.find(b"iloc") + 4
    if place < 4 or len(head) < place + 26 or head[place + 6 : place + 8] != b"\0\1":
        return head
    at = place + 18
    picture, box = (0, 0) if length is None else (length, length + 8)
    head = head[:at] + struct.pack(">I", picture) + head[at + 4 :]
    return head[:-8] + struct.pack(">I", box) + head[-4:]


@dataclass(frozen=True)
class _Jpeg2000(PillowSource):
    """Bare codestreams of one tile; the quality is a compression ratio, 400 down to 2 in equal factors."""

    def options(self, quality: int) -> dict[str, object]:
        ratio = 400 * (2 / 400) ** (quality / (self.qualities - 1))
        return {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True, "no_jp2": True}

    def split(self, stream: bytes) -> tuple[bytes, bytes]:
        tile, data = stream.find(b"\xff\x90\x00\x0a"), stream.find(b"\xff\x93")
        if tile < 0 or data != tile + 12 or not stream.endswith(b"\xff\xd9"):
            return b"", stream
        # The tile's length may be 0 where it is the last one: until the end.
        head = stream[: tile + 6] + b"\0" * 4 + stream[tile + 10 : data + 2]
        return head, stream[data + 2 : -2]

    def join(self, head: bytes, body: bytes) -> bytes:
        return head + body + b"\xff\xd9"


@dataclass(frozen=True)
class _Jpeg(PillowSource):
    """Baseline JPEG with the standard's own Huffman tables, which then need not be sent."""

    def options(self, quality: int) -> dict[str, object]:
        return {"quality": round(1 + 94 * quality / (self.qualities - 1)), "subsampling": "4:2:0"}

    def split(self, stream: bytes) -> tuple[bytes, bytes]:
        scan = stream.find(b"\xff\xda")
        if scan < 0 or not stream.endswith(b"\xff\xd9"):
            return b"", stream
        begin = scan + 2 + int.from_bytes(stream[scan + 2 : scan + 4], "big")
        return stream[:begin], stream[begin:-2]

    def join(self, head: bytes, body: bytes) -> bytes:
        return head + body + b"\xff\xd9"


AVIF = _Avif("avif", "AVIF", 64, "AVIF", "avif")
JPEG_2000 = _Jpeg2000("jpeg2000", "JPEG 2000", 64, "JPEG2000", "jpg_2000")
JPEG = _Jpeg("jpeg", "JPEG", 64, "JPEG", "jpg")
