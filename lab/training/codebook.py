"""Write a codebook: the coded symbols of training images, from which blind decoding may start."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from receiver.images.fashion_mnist import load_fashion_mnist
from sdr.files import write_bytes

#: More entries find the channel no more often (see the model card) and cost time.
CODEBOOK_IMAGES = 512


def train_codebook(folder: str | Path, *, count: int = CODEBOOK_IMAGES, seed: int = 0) -> int:
    """Draw `count` images of the training split and write `codebook.safetensors`; returns the number of entries."""
    images, _ = load_fashion_mnist("train")
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    entries = (images[drawn] * 255).round().to(torch.uint8)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / "codebook.safetensors", save({"images": entries}))
    return len(entries)
