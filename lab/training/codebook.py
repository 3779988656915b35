"""Draw a codebook: training images from which blind decoding may start."""

from __future__ import annotations

from pathlib import Path

import torch

from receiver.bundles.side_models import write_codebook
from receiver.images.fashion_mnist import load_fashion_mnist

CODEBOOK_IMAGES = 512
"""Entries of a codebook; more find the channel no more often (see the model card) and cost time."""


def train_codebook(folder: str | Path, *, count: int = CODEBOOK_IMAGES, seed: int = 0) -> int:
    """Draw `count` images of the training split as the codebook of a bundle folder; return the number of entries."""
    images, _ = load_fashion_mnist("train")
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    write_codebook(Path(folder), images[drawn])
    return len(drawn)
