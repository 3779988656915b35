"""Weights, inputs and outputs of the public networks, as the files in `golden/` state them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "golden"
#: Largest difference from an output, as a share of the output's largest magnitude.
TOLERANCE = 2e-5
_PRIME = 10007


def _wave(count: int, j: int) -> np.ndarray:
    """cos(0.7 * q(i) + 1.3 * j + 0.1) for i = 0 .. count - 1 with q(i) = (i mod 10007)**3 mod 10007, in float64."""
    i = np.arange(min(count, _PRIME), dtype=np.int64)
    cycle = np.cos(0.7 * (i * i % _PRIME * i % _PRIME) + 1.3 * j + 0.1)
    return np.resize(cycle, count)


def _filled(name: str, shape: tuple[int, ...], j: int, gain: float | list[float]) -> np.ndarray:
    """The j-th tensor: the first row of the rule that fits."""
    count = int(np.prod(shape))
    w, leaf, dims = _wave(count, j), name.split(".")[-1], len(shape)
    if leaf == "gamma" and dims == 2:  # divisive normalisation
        return (0.02 * (1 + w)).reshape(shape) + 0.3 * np.eye(shape[0])
    if leaf == "beta" and dims == 1:
        return 1 + 0.05 * w
    for start, offset, scale in (("_matrix", -1, 0.2), ("_bias", 0, 0.3), ("_factor", 0, 0.2), ("qr_basic", 1, 0.2)):
        if leaf.startswith(start):
            return offset + scale * w
    if leaf == "quantiles":
        return 0.5 * w + np.tile([-10.0, 0.0, 10.0], count // 3)
    if leaf == "qr_scale":
        return 1.6 - 0.2 * np.arange(count)
    if dims == 1 and count == 1:  # slope of a PReLU
        return 0.25 + 0.05 * w
    if dims == 1 and leaf == "weight":  # normalisation
        return 1 + 0.05 * w
    if name.endswith("entropy_parameters.4.bias"):  # scales, then means
        return np.where(np.arange(count) < count // 2, 2 + 1.5 * w, 0.05 * w)
    if dims == 1 or ("rate_adaption_" in name and leaf == "bias"):
        return 0.05 * w
    if leaf in ("rpb", "relative_position_bias_table"):
        return 0.5 * w
    fan_in = shape[1] if "rate_adaption_" in name else count // shape[0]
    return (gain[dims == 4] if isinstance(gain, list) else gain) / np.sqrt(fan_in) * w


@dataclass(frozen=True)
class Golden:
    """One public network.

    Attributes:
        name: of its files.
        document: its JSON file.
        arrays: its NPZ file, empty where there is none.
    """

    name: str
    document: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The full published list of names and shapes."""
        return {name: tuple(shape) for name, shape in self.document["parameters"].items()}

    @property
    def outputs(self) -> dict[str, Any]:
        return self.document["outputs"]

    def weights(self) -> dict[str, Tensor]:
        """The tensors that the rule fills, sorted by name."""
        names = sorted(set(self.shapes) - set(self.document["constants"]))
        return {
            name: torch.from_numpy(
                _filled(name, self.shapes[name], j, self.document["gain"]).reshape(self.shapes[name]).astype(np.float32)
            )
            for j, name in enumerate(names)
        }

    def published(self) -> dict[str, Tensor]:
        """A whole published file: the weights, and zeros for what follows from sizes."""
        return {name: torch.zeros(shape) for name, shape in self.shapes.items()} | self.weights()

    def compare(self, name: str, got: Tensor, tolerance: float = TOLERANCE) -> float:
        """Assert that an output is as stated; return the largest difference from the elements that are stated."""
        record = self.outputs[name]
        assert tuple(got.shape) == tuple(record["shape"]), name
        flat = got.detach().double().flatten().numpy()
        places = [np.arange(8), np.arange(24) * record["sample"]["stride"]]
        wanted = [np.array(record["sample"]["first8"]), np.array(record["sample"]["strided24"])]
        if name in self.arrays:
            places.append(self.arrays[name + ".at"])
            wanted.append(self.arrays[name])
        difference = float(np.abs(flat[np.concatenate(places)] - np.concatenate(wanted)).max())
        limit = tolerance * record["absmax"]
        assert difference <= limit, f"{self.name} {name}: differs by {difference:.2g}, allowed is {limit:.2g}"
        for kind, value in (("mean", flat.mean()), ("std", flat.std()), ("absmax", np.abs(flat).max())):
            assert abs(value - record[kind]) <= limit, f"{self.name} {name}: {kind} {value}, needed is {record[kind]}"
        return difference


@lru_cache(maxsize=4)
def golden(name: str) -> Golden:
    """Read the files of one network."""
    arrays = FOLDER / f"{name}.npz"
    return Golden(
        name,
        json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")),
        dict(np.load(arrays)) if arrays.is_file() else {},
    )


def names(pattern: str) -> list[str]:
    """The networks whose names match a pattern such as `adm_*`."""
    return sorted(path.stem for path in FOLDER.glob(f"{pattern}.json"))


def _sine(phase: np.ndarray) -> Tensor:
    return torch.from_numpy((0.5 + 0.5 * np.sin(phase)).astype(np.float32))


def image(batch: int, height: int, width: int) -> Tensor:
    """(batch, 3, height, width) in [0, 1]: oblique waves."""
    b, c, y, x = np.ogrid[:batch, :3, :height, :width]
    return _sine(0.05 * (x + 2 * y) + 0.9 * c + 0.3 * b)


def chirp(batch: int, height: int, width: int) -> Tensor:
    """(batch, 3, height, width) in [0, 1]: waves that grow finer downwards and to the right."""
    b, c, y, x = np.ogrid[:batch, :3, :height, :width]
    return _sine(0.002 * (x * y) + 0.9 * c + 0.3 * b)


def perturbed(x: Tensor) -> Tensor:
    """Every element changed by at most 5 percent."""
    factors = (1 + 0.05 * np.cos(0.3 * np.arange(x.numel()))).astype(np.float32)
    return x * torch.from_numpy(factors).view(x.shape)


def shapes_of(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's state."""
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}
