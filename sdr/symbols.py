"""Hold coded images on their way into frames."""

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError

MAX_SYMBOLS_PER_IMAGE = (1 << 24) - 1
"""The header counts an image's symbols in 24 bits."""

POWER_TOLERANCE = 0.02
"""Largest distance of the mean power of an image's symbols from 1."""

_ID_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,8}")
_DIGEST_PATTERN = re.compile(r"[0-9a-f]{8,128}")


def check_image_id(image_id: str) -> str:
    """Return `image_id` if a header can carry it: 1..8 characters of [A-Za-z0-9._-].

    Raises:
        InputError: it can't; `sdr.header.image_id_from_stem` makes one that can.
    """
    if not isinstance(image_id, str) or not _ID_PATTERN.fullmatch(image_id):
        raise InputError(f"image id must be 1..8 characters of A-Z a-z 0-9 . _ -, found {image_id!r:.60}")
    return image_id


def check_digest(digest: str, what: str) -> str:
    """Return `digest` if it is 8 or more lower-case hex digits.

    Raises:
        InputError: it isn't.
    """
    if not isinstance(digest, str) or not _DIGEST_PATTERN.fullmatch(digest):
        raise InputError(f"{what} digest must be at least 8 lower-case hex digits, found {digest!r:.60}")
    return digest


def check_image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return `shape` as (C, H, W) if a header can carry it: 1..255 channels, 1..65535 rows and columns.

    Raises:
        InputError: it can't.
    """
    values = tuple(shape)
    whole = all(isinstance(size, (int, np.integer)) and not isinstance(size, bool) for size in values)
    if not whole or len(values) != 3 or not all(1 <= s <= m for s, m in zip(values, (255, 65535, 65535), strict=True)):
        raise InputError(f"image shape must be (C, H, W) with C in 1..255 and H, W in 1..65535, found {shape!r:.60}")
    return int(values[0]), int(values[1]), int(values[2])


@dataclass(frozen=True)
class Symbols:
    """A batch of coded images.

    Args:
        z: complex64 (B, K), mean power 1 per image (within `POWER_TOLERANCE`).
        codec_digest: at least 8 hex digits that identify the codec's weights.
        image_ids: B different ids of 1..8 characters.
        image_shape: (C, H, W) of the images behind the symbols.
        csnr_db: channel SNR that the images were encoded for.
        side_bytes: bytes of side information that the symbols of each image begin with, see `sdr.side_block`.

    Raises:
        InputError: a field is malformed, or the fields contradict each other.

    >>> symbols = Symbols(np.ones((1, 4), np.complex64), "00c0ffee", ("shoe",), (1, 32, 32), 10.0)
    >>> symbols.num_images, symbols.symbols_per_image
    (1, 4)
    """

    z: NDArray[np.complex64]
    codec_digest: str
    image_ids: tuple[str, ...]
    image_shape: tuple[int, int, int]
    csnr_db: float
    side_bytes: int = 0

    def __post_init__(self) -> None:
        z = self.z
        if not isinstance(z, np.ndarray) or z.dtype != np.complex64 or z.ndim != 2:
            found = f"{z.dtype} {z.shape}" if isinstance(z, np.ndarray) else type(z).__name__
            raise InputError(f"symbols must be complex64 (B, K), found {found}")
        if not z.shape[0] or not 1 <= z.shape[1] <= MAX_SYMBOLS_PER_IMAGE:
            raise InputError(f"symbols need at least one image of 1..{MAX_SYMBOLS_PER_IMAGE} symbols, found {z.shape}")
        if not np.isfinite(z.view(np.float32)).all():
            raise InputError("symbols hold NaN or infinite values; check the encoder")
        check_digest(self.codec_digest, "codec")
        object.__setattr__(self, "image_ids", tuple(check_image_id(image_id) for image_id in self.image_ids))
        if len(self.image_ids) != z.shape[0]:
            raise InputError(f"{z.shape[0]} images need as many ids, found {len(self.image_ids)}")
        if len(set(self.image_ids)) != len(self.image_ids):
            twice = next(i for i in self.image_ids if self.image_ids.count(i) > 1)
            raise InputError(f"image id '{twice}' occurs twice; every image of a transmission needs its own")
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        if not isinstance(self.csnr_db, (int, float, np.floating)) or not abs(self.csnr_db) <= 327.0:
            raise InputError(f"csnr_db must be a number in -327..327 dB, found {self.csnr_db!r:.60}")
        object.__setattr__(self, "csnr_db", float(self.csnr_db))
        power = np.square(np.abs(z)).astype(np.float64).mean(axis=1)
        worst = int(np.argmax(np.abs(power - 1.0)))
        if abs(power[worst] - 1.0) > POWER_TOLERANCE:
            raise InputError(
                f"the symbols of image '{self.image_ids[worst]}' have mean power {power[worst]:.4g}; "
                "every image needs mean power 1"
            )
        view = z.view()
        view.setflags(write=False)
        object.__setattr__(self, "z", view)

    @property
    def num_images(self) -> int:
        """Images B."""
        return self.z.shape[0]

    @property
    def symbols_per_image(self) -> int:
        """Symbols K of an image."""
        return self.z.shape[1]
