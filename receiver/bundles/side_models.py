"""Read and write what a bundle holds beside its networks: codebook, mixture, covariance, network of confidence.

Each is optional. All but the first belong to one codec, whose digest the file's metadata name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from receiver.bundles.weights import half_precision, read_weights
from receiver.codecs.codec import Codec, ImageShape, NetworkCodec
from receiver.error_net import ErrorNet
from receiver.priors.symbols import SymbolMixture
from sdr.errors import ConfigError, ModelError
from sdr.files import write_bytes

CODEBOOK_FILE = "codebook.safetensors"
MIXTURE_FILE = "mixture.safetensors"
COVARIANCE_FILE = "covariance.safetensors"
CONFIDENCE_FILE = "confidence.safetensors"

#: Largest file of them that is read.
MAX_BYTES = 64 << 20

T = TypeVar("T")


def _read(path: Path, read: Callable[[Any], T], codec: Codec | None = None) -> T | None:
    """Return what `read` makes of an open file; None where there is no file.

    Args:
        path: of the file, named after its verb of `ota train`.
        read: is given the open safetensors file.
        codec: that the file must belong to, None where it belongs to none.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """
    if not path.is_file():
        return None
    if path.stat().st_size > MAX_BYTES:
        raise ModelError(f"{path} has {path.stat().st_size} bytes, at most {MAX_BYTES} are allowed. Restore it.")
    try:
        with safe_open(path, framework="pt") as file:
            made_for = (file.metadata() or {}).get("codec")
            result = read(file)
    except (SafetensorError, OSError, ConfigError) as error:
        raise ModelError(f"{path} is damaged ({error}). Restore it, or run `ota train {path.stem}`.") from error
    if codec is not None and made_for != codec.digest:
        raise ModelError(f"{path} is of codec {made_for}, the bundle's is {codec.digest}. Run `ota train {path.stem}`.")
    return result


def write_codebook(folder: Path, images: Tensor) -> None:
    """Write images (n, C, H, W) in [0, 1] as the codebook of a bundle, 8 bits a pixel."""
    pixels = (images * 255).round().to(torch.uint8)
    write_bytes(folder / CODEBOOK_FILE, save({"images": pixels}))


def load_codebook(folder: Path, image_shape: ImageShape, device: str | torch.device = "cpu") -> Tensor | None:
    """Return images (n, C, H, W) in [0, 1], or None where the bundle has no codebook.

    Args:
        folder: of the bundle.
        image_shape: (C, H, W) that they must have.
        device: where they go.

    Raises:
        ModelError: damaged, oversized, or of another image shape.
    """
    path = folder / CODEBOOK_FILE
    images = _read(path, lambda file: file.get_tensor("images"))
    if images is None:
        return None
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[0] < 1 or shape[1:] != image_shape:
        raise ModelError(f"{path} holds images {shape}, needed are images {image_shape}. Restore it.")
    if images.dtype != torch.uint8:
        raise ModelError(f"{path} holds {images.dtype}, needed is uint8. Restore it, or run `ota train codebook`.")
    return images.to(device).float() / 255


def write_confidence(folder: Path, weights: Mapping[str, Tensor], codec: Codec) -> None:
    """Write the weights of an `ErrorNet` that was trained for a codec."""
    write_bytes(folder / CONFIDENCE_FILE, save(half_precision(weights), metadata={"codec": codec.digest}))


def load_confidence(folder: Path, codec: Codec, device: str | torch.device = "cpu") -> ErrorNet | None:
    """Return the network, frozen, or None where the bundle has none.

    Args:
        folder: of the bundle.
        codec: of the bundle.
        device: where the network goes.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """
    path, net = folder / CONFIDENCE_FILE, ErrorNet(codec.accepted_shape[0])
    weights = _read(path, lambda _file: read_weights(path, net.state_dict()), codec)
    if weights is None:
        return None
    net.load_state_dict(weights)
    return net.to(device).eval().requires_grad_(False)


def write_mixture(folder: Path, mixture: SymbolMixture, codec: Codec) -> None:
    """Write the mixture of a codec's symbols."""
    parts = {name: part.half().contiguous() for name, part in vars(mixture).items()}
    write_bytes(folder / MIXTURE_FILE, save(parts, metadata={"codec": codec.digest}))


def load_mixture(folder: Path, codec: Codec, device: str | torch.device = "cpu") -> SymbolMixture | None:
    """Return the mixture, or None where the bundle has none.

    Args:
        folder: of the bundle.
        codec: of the bundle.
        device: where the mixture goes.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """

    def read(file: Any) -> SymbolMixture:
        names = [field.name for field in fields(SymbolMixture)]
        return SymbolMixture(**{name: file.get_tensor(name).to(device).float() for name in names})

    path = folder / MIXTURE_FILE
    mixture = _read(path, read, codec)
    if mixture is not None and mixture.num_symbols != codec.word_length:
        raise ModelError(
            f"{path} has words of {mixture.num_symbols} symbols, the codec's have {codec.word_length}. "
            "Run `ota train mixture`."
        )
    return mixture


def write_covariance(folder: Path, covariance: Tensor, codec: Codec) -> None:
    """Write the covariance (n, n, 2 k + 1, 2 k + 1) of a codec's features."""
    parts = {"covariance": covariance.half().contiguous()}
    write_bytes(folder / COVARIANCE_FILE, save(parts, metadata={"codec": codec.digest}))


def take_covariance(folder: Path, codec: NetworkCodec[Any, Any]) -> None:
    """Give the codec of a bundle the covariance of its features, where the bundle has it.

    Raises:
        ModelError: damaged, oversized, or of another codec.
    """
    path = folder / COVARIANCE_FILE
    covariance = _read(path, lambda file: file.get_tensor("covariance").float(), codec)
    if covariance is None:
        return
    try:
        codec.take_covariance(covariance)
    except ConfigError as error:
        raise ModelError(f"{path} is of no use here: {error} Restore it, or run `ota train covariance`.") from error
