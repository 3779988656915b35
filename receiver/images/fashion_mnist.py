"""Read Fashion-MNIST from Debian's package."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdr.errors import InputError

FASHION_MNIST_DIR = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""

FASHION_MNIST_IMAGES = {"train": 60_000, "test": 10_000}
"""Sizes of the two splits."""

FASHION_SHAPE = (1, 32, 32)
"""Shape of the images after padding 28 to 32."""

_SIDE = 28
_PAD = 2
_CLASSES = 10


def fashion_mnist_dir(directory: str | Path | None = None) -> Path:
    """Return the folder with the four IDX files: the argument, else `OTA_FASHION_MNIST`, else Debian's."""
    return Path(directory or os.environ.get("OTA_FASHION_MNIST") or FASHION_MNIST_DIR)


def _read_idx(path: Path, dims: tuple[int, ...]) -> np.ndarray:
    """Read the unsigned bytes of a gzipped IDX file, whose header must state exactly `dims`."""
    if not path.is_file():
        raise InputError(
            f"{path} is missing. Install the Debian package dataset-fashion-mnist, or set OTA_FASHION_MNIST to a copy."
        )
    expected = struct.pack(">BBBB", 0, 0, 8, len(dims)) + struct.pack(f">{len(dims)}I", *dims)
    size = int(np.prod(dims))
    try:
        with gzip.open(path, "rb") as file:
            header = file.read(len(expected))
            # One byte more than expected is asked for, so a longer file is noticed without being read whole.
            data = file.read(size + 1) if header == expected else b""
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{path} can't be unpacked ({error}). Reinstall dataset-fashion-mnist.") from error
    if header != expected:
        raise InputError(f"{path} is not an IDX file of {dims} unsigned bytes. Reinstall dataset-fashion-mnist.")
    if len(data) != size:
        raise InputError(f"{path} holds {len(data)} bytes of data, {size} are needed. Reinstall dataset-fashion-mnist.")
    return np.frombuffer(data, dtype=np.uint8).reshape(dims)


def load_fashion_mnist(split: str, directory: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Load a split of Fashion-MNIST, padded with black to 32x32.

    Args:
        split: "train" (60000 images) or "test" (10000, never used in training).
        directory: folder of the IDX files; see `fashion_mnist_dir`.

    Returns:
        images (n, 1, 32, 32) float32 in [0, 1], and labels (n,) int64 in 0..9.

    Raises:
        InputError: unknown split; file missing, cut short or foreign.
    """
    if split not in FASHION_MNIST_IMAGES:
        raise InputError(f"There is no split {split!r} of Fashion-MNIST; use one of {', '.join(FASHION_MNIST_IMAGES)}.")
    folder = fashion_mnist_dir(directory)
    prefix = "train" if split == "train" else "t10k"
    count = FASHION_MNIST_IMAGES[split]
    pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", (count, _SIDE, _SIDE))
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", (count,))
    if labels.max() >= _CLASSES:
        raise InputError(f"{folder} has a label {labels.max()}, labels end at 9. Reinstall dataset-fashion-mnist.")
    images = torch.zeros(count, *FASHION_SHAPE)
    images[:, 0, _PAD : _PAD + _SIDE, _PAD : _PAD + _SIDE] = torch.from_numpy(pixels / np.float32(255))
    return images, torch.from_numpy(labels.astype(np.int64))


def sample_indices(labels: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Draw `count` indices without repeats, as balanced over the classes as `count` allows; ascending.

    Args:
        labels: (n,) class of each image.
        count: of indices.
        generator: draws them.

    Raises:
        InputError: a class has too few images.
    """
    classes = sorted(set(labels.tolist()))
    quota = {label: count // len(classes) + (place < count % len(classes)) for place, label in enumerate(classes)}
    picked: list[int] = []
    for label in classes:
        members = torch.nonzero(labels == label).flatten()
        if len(members) < quota[label]:
            raise InputError(
                f"Class {label} has {len(members)} images, {quota[label]} are wanted. Ask for fewer samples."
            )
        picked += members[torch.randperm(len(members), generator=generator)[: quota[label]]].tolist()
    return sorted(picked)
