"""Files of published weights and parameters, in a cache folder outside the repository.

`make metrics` writes them once (see `fetch`). Every file is checked against a digest of its tensors when it is read, so
that a metric either has the published numbers or doesn't run.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from sdr.errors import ModelError

#: SHA-256 over the tensors of each file, see `tensors_digest`.
DIGESTS = {
    "alexnet": "1b465e0ce6c6bff87f89c7463a8c1f58dd435a0381b22ceca1d343235b6e280c",
    "vgg16": "9fe9c98f9d2ed8bb65fbb10f32f50dcfdf57c722eeeab3bef61464a3259d167c",
    "dists": "7176e799aca93e194c7b1bd18029ba55a854f853bbc0d7250b5c5d9338be653b",
    "niqe": "5304a0b9b831cb400904a08d1afdecc3e827a0ee36414ad80cfd80a343614348",
}


def cache_folder() -> Path:
    """Return the folder of the files: `OTA_METRICS` where it is set, else ~/.cache/diffcom-ota/metrics."""
    named = os.environ.get("OTA_METRICS")
    return Path(named) if named else Path.home() / ".cache" / "diffcom-ota" / "metrics"


def file_path(name: str) -> Path:
    """Return where the file of that name is, or would be."""
    return cache_folder() / f"{name}.safetensors"


def is_there(name: str) -> bool:
    """Return whether there is a file of that name; it is checked when it is read."""
    return file_path(name).is_file()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and values, which no version of the file format changes.

    >>> tensors_digest({"a": torch.zeros(2)}) == tensors_digest({"a": torch.zeros(2, 1)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def read(name: str, device: torch.device | str = "cpu") -> Mapping[str, Tensor]:
    """Return the tensors of a file by name, on a device; they are read once per process and must not be written to.

    Raises:
        ModelError: the file is missing, damaged or altered.
    """
    return _kept(file_path(name), DIGESTS[name], str(device))


@functools.lru_cache(maxsize=16)
def _kept(path: Path, digest: str, device: str) -> Mapping[str, Tensor]:
    return {name: value.to(device) for name, value in read_checked(path, digest).items()}


def read_checked(path: Path, digest: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file that must have the given digest.

    Raises:
        ModelError: the file is missing, damaged or altered.
    """
    try:
        tensors = load(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(f"There is no {path}, which this metric needs. Run `make metrics`.") from None
    except OSError as reason:
        raise ModelError(f"{path} can't be read: {reason.strerror}. Check the path.") from None
    except SafetensorError:
        raise ModelError(f"{path} is damaged. Run `make metrics`.") from None
    found = tensors_digest(tensors)
    if found != digest:
        raise ModelError(f"{path} has the digest {found[:8]}, needed {digest[:8]}. Run `make metrics`.")
    return tensors
