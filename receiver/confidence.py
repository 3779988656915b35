"""The part of a bundle that tells how wrong a decoded image is likely to be, for the codec it was trained with.

`confidence.safetensors` holds the weights of :class:`receiver.samplers.confidence.ErrorNet` in half precision and the
digest of the codec.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from receiver.bundles import read_weights
from receiver.codecs import Codec
from receiver.samplers.confidence import ErrorNet
from sdr.errors import ModelError

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
