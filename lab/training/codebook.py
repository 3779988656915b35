"""Draw a codebook: training images from which blind decoding may start."""

from __future__ import annotations

from pathlib import Path

import torch

from receiver.bundles.bundle import load_codec, load_denoiser, parts_of
from receiver.bundles.side_models import MAX_BYTES, write_codebook
from receiver.codecs.codec import ImageShape, shape_text
from receiver.images.fashion_mnist import FASHION_SHAPE, load_fashion_mnist
from receiver.images.files import load_image_folder
from sdr.errors import ConfigError

CODEBOOK_IMAGES = 512
"""Entries of a codebook; more find the channel no more often (see the model card) and cost time."""

#: Left of the largest file for what describes the images in it.
_HEADER_BYTES = 4096


def train_codebook(folder: str | Path, *, count: int = CODEBOOK_IMAGES, seed: int = 0, data: Path | None = None) -> int:
    """Draw `count` images as the codebook of a bundle.

    Args:
        folder: of the bundle, whose codec (or prior, where it has no codec yet) says which images it takes; without
            either, those of Fashion-MNIST.
        count: most entries.
        seed: of the draw.
        data: folder of images to draw from; None: the training split of Fashion-MNIST.

    Returns:
        the number of entries.

    Raises:
        ConfigError: Fashion-MNIST has no images that the bundle takes.
        InputError: the images of `data` are of another size, or of several.
    """
    parts = parts_of(Path(folder))
    shape: ImageShape = FASHION_SHAPE
    if "codec" in parts:
        shape = load_codec(folder).accepted_shape
    elif "prior" in parts:
        shape = load_denoiser(folder).accepted_shape
    if None in shape:
        raise ConfigError(
            f"The bundle {folder} takes images of any size, a codebook has images of one. Decode without it: blind "
            "methods then start from the mixture of symbols, or from random channels."
        )
    if data is not None:
        _, images = load_image_folder(data, shape)
    elif shape == FASHION_SHAPE:
        images, _ = load_fashion_mnist("train")
    else:
        raise ConfigError(
            f"The bundle {folder} takes images of {shape_text(shape)}, Fashion-MNIST has 1x32x32. Give a folder of its "
            "images with --data."
        )
    count = min(count, (MAX_BYTES - _HEADER_BYTES) // images[0].numel())
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    write_codebook(Path(folder), images[drawn])
    return len(drawn)
