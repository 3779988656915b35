"""Read a bundle's symbol statistics and error network: codebook, mixture, confidence."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from receiver.codecs import Codec
from receiver.samplers.mixture import SymbolMixture
from sdr.errors import ConfigError, ModelError
from sdr.files import write_bytes

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
