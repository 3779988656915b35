"""Random crops of photographs, drawn on the device that trains.

All copies of all photographs lie in one row of packed pixels, so that a batch of crops is one gather, whatever its
photographs, scales, flips and transpositions: nothing is copied from the host in the middle of a training step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.training.photographs import SCALES, shrink
from sdr.errors import InputError


class CropPool:
    """Random crops of photographs at random scales, flipped and transposed.

    Every photograph that is large enough is as likely as any other, and so is every large enough copy of it.

    Args:
        images: (3, H, W) photographs in [0, 1].
        scales: shorter sides of their copies in pixels; each photograph is also kept as it is.
        device: where the pixels lie and crops are made.

    Raises:
        InputError: no photographs.
    """

    def __init__(
        self, images: Sequence[Tensor], scales: Sequence[int] = SCALES, device: torch.device | str = "cpu"
    ) -> None:
        if not images:
            raise InputError("Crops need photographs, found none. Collect them with `ota train photographs`.")
        copies = [_copies(image, scales) for image in images]
        table = np.zeros((len(copies), max(map(len, copies)), 3), np.int64)
        position = 0
        for photograph, of_one in enumerate(copies):
            for index, copy in enumerate(of_one):
                table[photograph, index] = position, *copy.shape
                position += copy.size
        packed = torch.from_numpy(np.concatenate([copy.reshape(-1) for of_one in copies for copy in of_one]))
        self._pixels = packed.to(device)
        #: (photographs, copies, 3): first pixel, height and width; zeros where there is no copy.
        self._table = torch.from_numpy(table).to(device)
        self._counts = torch.tensor([len(of_one) for of_one in copies], device=device)
        self._usable: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def megapixels(self) -> float:
        """Pixels of all copies, millions."""
        return self._pixels.numel() / 1e6

    def holds(self, side: int) -> bool:
        """Return whether any photograph has crops of `side` pixels."""
        return bool((self._table[:, :, 1:].amin(dim=2) >= side).any())

    def draw(self, count: int, side: int, generator: torch.Generator) -> Tensor:
        """Draw crops, (count, 3, side, side) float32 in [0, 1], channels last.

        Args:
            side: of the square crops, pixels.
            generator: on the pool's device.

        Raises:
            InputError: no photograph is large enough.
        """
        device = self._pixels.device
        photographs, smallest = self._large_enough(side)
        u = torch.rand(count, 7, generator=generator, device=device)
        photograph = photographs[_floor(u[:, 0], len(photographs))]
        smallest = smallest[photograph]
        copy = smallest + _floor(u[:, 1], self._counts[photograph] - smallest)
        start, height, width = self._table[photograph, copy].unbind(1)
        top, left = _floor(u[:, 2], height - side + 1), _floor(u[:, 3], width - side + 1)
        along = torch.arange(side, device=device)
        rows = top[:, None] + torch.where(u[:, 4:5] < 0.5, along, side - 1 - along)
        columns = left[:, None] + torch.where(u[:, 5:6] < 0.5, along, side - 1 - along)
        rows = start[:, None] + rows * width[:, None]
        upright = rows[:, :, None] + columns[:, None, :]
        index = torch.where((u[:, 6] < 0.5)[:, None, None], upright, upright.mT)
        packed = self._pixels[index]
        crops = torch.stack([packed & 255, (packed >> 8) & 255, (packed >> 16) & 255], dim=3)
        return (crops.float() / 255).permute(0, 3, 1, 2)

    def _large_enough(self, side: int) -> tuple[Tensor, Tensor]:
        """Return the photographs that have a copy of at least `side` pixels, and the smallest such of every one."""
        if side not in self._usable:
            shorter = self._table[:, :, 1:].amin(dim=2)
            smallest = ((shorter < side) & (shorter > 0)).sum(dim=1)
            photographs = (smallest < self._counts).nonzero()[:, 0]
            if not len(photographs):
                raise InputError(f"No photograph has {side} pixels on its shorter side. Give larger ones.")
            self._usable[side] = photographs, smallest
        return self._usable[side]


def _floor(uniform: Tensor, count: Tensor | int) -> Tensor:
    """Return whole numbers in 0..count-1 of uniform ones in [0, 1)."""
    return (uniform * count).long().clamp(max=count - 1)


def _copies(image: Tensor, scales: Sequence[int]) -> list[NDArray[np.int32]]:
    """Return a photograph at all scales below its own and as it is, (h, w) pixels packed into 24 bits each."""
    shorter = min(image.shape[1:])
    shrunk = [shrink(image, scale) for scale in scales if scale < 0.97 * shorter]
    packed = []
    for copy in (*shrunk, image):
        red, green, blue = (copy * 255).round().to(torch.int32).numpy()
        packed.append(red | green << 8 | blue << 16)
    return packed
