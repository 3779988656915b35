"""The codebook of a bundle: training images whose symbols, ranked by evidence, start a blind decoder.

It only initialises; the posterior sampler decides. `codebook.safetensors` holds `images`, uint8 (n, C, H, W).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from receiver.codecs import ImageShape
from receiver.data import load_fashion_mnist
from sdr.errors import ModelError
from sdr.files import write_bytes

#: More entries find the channel no more often (see the model card) and cost time.
CODEBOOK_IMAGES = 512
_MAX_BYTES = 64 << 20


def train_codebook(folder: str | Path, *, count: int = CODEBOOK_IMAGES, seed: int = 0) -> int:
    """Draw `count` images of the training split and write `codebook.safetensors`; returns the number of entries."""
    images, _ = load_fashion_mnist("train")
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    entries = (images[drawn] * 255).round().to(torch.uint8)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / "codebook.safetensors", save({"images": entries}))
    return len(entries)


def load_codebook(folder: Path, image_shape: ImageShape, device: str | torch.device = "cpu") -> Tensor | None:
    """(n, C, H, W) images in [0, 1], or None where the bundle has no codebook.

    Raises:
        ModelError: damaged, oversized, or of another image shape.
    """
    path = folder / "codebook.safetensors"
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes, at most {_MAX_BYTES} are allowed. Restore it.")
    try:
        with safe_open(path, framework="pt") as file:
            shape = tuple(file.get_slice("images").get_shape())
            if len(shape) != 4 or shape[0] < 1 or shape[1:] != image_shape:
                raise ModelError(f"{path} holds images {shape}, needed are images {image_shape}. Restore it.")
            images = file.get_tensor("images")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}). Restore it, or run `ota train codebook`.") from error
    if images.dtype != torch.uint8:
        raise ModelError(f"{path} holds {images.dtype}, needed is uint8. Restore it, or run `ota train codebook`.")
    return images.to(device).float() / 255
