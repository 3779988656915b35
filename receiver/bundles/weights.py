"""Read weights of an untrusted file, and round them to half precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sdr.errors import ModelError

#: A weights file may be larger than the shapes of its tensors say by this much (its header).
_MAX_HEADER_BYTES = 1_000_000


def read_weights(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file as float32, after checks of size, names and shapes against `expected`.

    Raises:
        ModelError: missing, damaged, or weights of another model.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing. Restore it or train it with `ota train {path.stem}`.")
    size, limit = path.stat().st_size, 4 * sum(value.numel() for value in expected.values()) + _MAX_HEADER_BYTES
    if size > limit:
        raise ModelError(f"{path} has {size} bytes, at most {limit} fit its model. Restore it or train it again.")
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 (not a dict)
            wanted = {key: tuple(value.shape) for key, value in expected.items()}
            odd = sorted(key for key in wanted.keys() | shapes.keys() if wanted.get(key) != shapes.get(key))
            if odd:
                key = odd[0]
                raise ModelError(
                    f"{path} doesn't fit bundle.toml: {key} is {shapes.get(key, 'missing')}, needed is "
                    f"{wanted.get(key, 'nothing')} ({len(odd)} such). Restore both files, or train again."
                )
            weights = {key: file.get_tensor(key).float() for key in wanted}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged ({error}). Restore it or train it again.") from error
    for key, value in weights.items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"{path} has a value in {key} that isn't finite. Restore it or train it again.")
    return weights


def half_precision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights as they are shipped: float16, but statistics (`reference_*`) float32, as rounding would show."""
    return {
        key: value.detach()
        .to("cpu", torch.float32 if key.startswith("reference_") else torch.float16)
        .clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
