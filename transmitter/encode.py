"""Encode images into symbols and pack them into frames."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdr.errors import InputError
from sdr.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from receiver.codecs.codec import Codec
    from sdr.framing import FrameContent
    from sdr.layout import FrameLayout


def encode_folder(
    folder: Path,
    codec: Codec,
    layout: FrameLayout,
    csnr_db: float,
    *,
    refine_steps: int = 0,
    progress: Progress | None = None,
) -> tuple[list[str], list[FrameContent]]:
    """The images of a folder as frames.

    Returns:
        image ids in sending order, and the frames.

    Raises:
        InputError: something in the folder is no image, or two names end in one id.
    """
    from receiver.images.files import load_images
    from sdr.header import image_id_from_stem

    if not -20 <= csnr_db <= 60:
        raise InputError(f"--csnr-db {csnr_db:g} is outside -20..60 dB. The codec is trained for 0..14 dB.")
    stems, images = load_images(folder, codec.takes)
    ids = [image_id_from_stem(stem) for stem in stems]
    check_unique(ids, stems)
    return ids, encode_images(ids, images, codec, layout, csnr_db, refine_steps=refine_steps, progress=progress)


def encode_images(
    ids: Sequence[str],
    images: Sequence[Tensor],
    codec: Codec,
    layout: FrameLayout,
    csnr_db: float,
    *,
    refine_steps: int = 0,
    progress: Progress | None = None,
) -> list[FrameContent]:
    """Images (C, H, W) as frames; neighbours of one shape may share a frame.

    Args:
        refine_steps: in which their symbols are refined. progress: is told of them.

    Raises:
        InputError: an image that the codec or a header can't take.
    """
    import torch

    from sdr.framing import pack_frames
    from sdr.symbols import Symbols
    from transmitter.refine import encode_refined

    frames: list[FrameContent] = []
    refined = 0

    def on_step(count: int) -> None:
        nonlocal refined
        refined += count
        if progress is not None:
            progress("refine the symbols", refined, refine_steps * len(images))

    for shape, group in itertools.groupby(range(len(images)), key=lambda index: tuple(images[index].shape)):
        members = list(group)
        fitting = codec.at((shape[0], shape[1], shape[2]))
        batch = torch.stack([images[index] for index in members])
        z = encode_refined(fitting, batch, csnr_db, refine_steps, on_step=on_step)
        symbols = Symbols(
            z=z.numpy(),
            codec_digest=codec.digest,
            image_ids=tuple(ids[index] for index in members),
            image_shape=fitting.image_shape,
            csnr_db=csnr_db,
        )
        frames += pack_frames(symbols, layout, csnr_db, first_frame=len(frames))
    return frames


def check_unique(ids: Sequence[str], stems: Sequence[str]) -> None:
    """Refuse two images with one id.

    Raises:
        InputError: names the two files.
    """
    first: dict[str, str] = {}
    for image_id, stem in zip(ids, stems, strict=True):
        if image_id in first:
            raise InputError(f"{first[image_id]} and {stem} would both be sent as {image_id!r}. Rename one of them.")
        first[image_id] = stem
