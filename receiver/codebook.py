"""The codebook of a bundle: training images whose symbols, ranked by evidence, start a blind decoder.

It only initialises; the posterior sampler decides. `codebook.safetensors` holds `images`, uint8 (n, C, H, W).
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from receiver.codecs import ImageShape
from sdr.errors import ModelError

_MAX_BYTES = 64 << 20


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
