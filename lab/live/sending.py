"""Make groups of images that are sent together, and say when they are due."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lab.live.pictures import shown
from receiver.bundles.bundle import Bundle
from receiver.images.files import load_images
from sdr.framing import images_per_frame
from sdr.header import image_id_from_stem
from sdr.layout import FrameLayout
from sdr.symbols import Symbols
from transmitter.encode import check_unique, encode_images

MAX_IMAGES = 256
"""Images of a folder that are sent; all are encoded before the first one is."""

_MAX_LATE_S = 0.5


@dataclass(frozen=True, eq=False)
class Group:
    """Images that are sent together.

    Attributes:
        symbols: of the images.
        originals: uint8 (H, W, C) each.
    """

    symbols: Symbols
    originals: tuple[NDArray[np.uint8], ...]


def encode_folder_groups(folder: Path, models: Bundle, layout: FrameLayout, csnr_db: float) -> list[Group]:
    """Return the images of a folder as they are sent, as many together as share a frame.

    Raises:
        InputError: the folder holds no images, or two of one name.
    """
    stems, images = load_images(folder, models.accepted_shape)
    stems, images = stems[:MAX_IMAGES], images[:MAX_IMAGES]
    ids = [image_id_from_stem(stem) for stem in stems]
    check_unique(ids, stems)
    return encode_groups(ids, images, models, layout, csnr_db)


def encode_groups(
    ids: Sequence[str], images: Sequence[Tensor], models: Bundle, layout: FrameLayout, csnr_db: float
) -> list[Group]:
    """Return images (C, H, W) in [0, 1] as they are sent, as many together as share a frame."""
    groups = []
    for symbols in encode_images(list(ids), list(images), models.codec, layout, csnr_db).symbols:
        together = max(1, images_per_frame(symbols.symbols_per_image, layout))
        for first in range(0, symbols.num_images, together):
            chosen = slice(first, first + together)
            part = Symbols(
                symbols.z[chosen],
                symbols.codec_digest,
                symbols.image_ids[chosen],
                symbols.image_shape,
                symbols.csnr_db,
            )
            pictures = tuple(shown(images[ids.index(name)].numpy()) for name in part.image_ids)
            groups.append(Group(part, pictures))
    return groups


class Due(Protocol):
    """Whatever says which images are due."""

    left_out: int

    def due(self, now_s: float) -> Iterator[Group]:
        """Yield the groups that are due."""
        ...

    def close(self) -> None:
        """Stop."""
        ...


class Schedule:
    """Says which images are due, at a stated rate; what is late by more than `_MAX_LATE_S` is left out and counted.

    Args:
        groups: to send, in turn.
        fps: images in a second.

    Attributes:
        left_out: groups that were never sent.
    """

    def __init__(self, groups: list[Group], fps: float) -> None:
        self._groups, self._fps = groups, fps
        self._next, self._due_s = 0, time.monotonic()
        self.left_out = 0

    def due(self, now_s: float) -> Iterator[Group]:
        """Yield the groups that are due."""
        while self._due_s <= now_s:
            group = self._groups[self._next % len(self._groups)]
            self._next += 1
            late = now_s - self._due_s > _MAX_LATE_S
            self._due_s += group.symbols.num_images / self._fps
            if late:
                self.left_out += 1
            else:
                yield group

    def close(self) -> None:
        """Do nothing: there is nothing to stop."""
