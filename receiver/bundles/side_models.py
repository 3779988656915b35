"""Read a bundle's symbol statistics and error network: codebook, mixture, confidence."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from receiver.acceptance import ErrorNet
from receiver.bundles.weights import read_weights
from receiver.codecs.codec import Codec, ImageShape
from receiver.priors.symbols import SymbolMixture
from sdr.errors import ConfigError, ModelError
from sdr.files import write_bytes

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


FILE = "confidence.safetensors"


def load_confidence(folder: Path, codec: Codec, device: str | torch.device = "cpu") -> ErrorNet | None:
    """The network, frozen, or None where the bundle has none.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    net = ErrorNet(codec.takes[0])
    weights = read_weights(path, net.state_dict())
    try:
        with safe_open(path, framework="pt") as file:
            of = (file.metadata() or {}).get("codec")
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}). Restore it, or run `ota train confidence`.") from error
    if of != codec.digest:
        raise ModelError(f"{path} is of codec {of}, the bundle's is {codec.digest}. Run `ota train confidence`.")
    net.load_state_dict(weights)
    return net.to(device).eval().requires_grad_(False)


_MAX_BYTES = 64 << 20


def write_mixture(folder: Path, mixture: SymbolMixture, codec: Codec) -> None:
    """Write `mixture.safetensors`."""
    parts = {name: part.half().contiguous() for name, part in vars(mixture).items()}
    write_bytes(folder / "mixture.safetensors", save(parts, metadata={"codec": codec.digest}))


def load_mixture(folder: Path, codec: Codec, device: str | torch.device = "cpu") -> SymbolMixture | None:
    """The mixture, or None where the bundle has none.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """
    path = folder / "mixture.safetensors"
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes, at most {_MAX_BYTES} are allowed. Restore it.")
    try:
        with safe_open(path, framework="pt") as file:
            of = (file.metadata() or {}).get("codec")
            parts = {name: file.get_tensor(name).to(device).float() for name in ("weight", "mean", "factors", "noise")}
        mixture = SymbolMixture(**parts)
    except (SafetensorError, OSError, ConfigError) as error:
        raise ModelError(f"{path} is damaged ({error}). Restore it, or run `ota train mixture`.") from error
    if of != codec.digest or mixture.num_symbols != codec.word_length:
        raise ModelError(f"{path} is of codec {of}, the bundle's is {codec.digest}. Run `ota train mixture`.")
    return mixture
