"""Random numbers of each row of a batch by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sdr.errors import ConfigError


@dataclass(frozen=True)
class RowGenerators:
    """A generator for every row of a batch: what a row draws does not depend on the rows beside it.

    Rows may share a generator; they draw from it in turn.
    """

    rows: tuple[torch.Generator, ...]


#: Where a batch's noise comes from.
Randomness = torch.Generator | RowGenerators


def standard_normal(shape: Sequence[int], source: Randomness, device: torch.device) -> Tensor:
    """Independent N(0, 1), row by row where every row has its own generator."""
    if isinstance(source, torch.Generator):
        return torch.randn(tuple(shape), generator=source, device=device)
    if len(source.rows) != shape[0]:
        raise ConfigError(f"Found {len(source.rows)} generators for {shape[0]} rows; one each is needed.")
    return torch.stack([torch.randn(tuple(shape[1:]), generator=one, device=device) for one in source.rows])


def frame_randomness(generator: torch.Generator | Sequence[torch.Generator], draws: int = 1) -> Randomness:
    """Return what the frames of `draws` copies of a batch draw from: one generator for all, or one per frame."""
    return generator if isinstance(generator, torch.Generator) else RowGenerators(tuple(generator) * draws)


def image_randomness(of_frames: Randomness, frame_of_image: Tensor) -> Randomness:
    """Return what images draw from, given what frames draw from and the frame of every image, (B,)."""
    if isinstance(of_frames, torch.Generator):
        return of_frames
    return RowGenerators(tuple(of_frames.rows[frame] for frame in frame_of_image.tolist()))
