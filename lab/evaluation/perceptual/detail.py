"""How much detail is left or made up: in the whole image, in its smooth blocks, and as a grid of 4 pixels.

Samplers can blur, add grain where the original is smooth, and leave the grid of networks that fold 4x4 pixels into one.
Each metric has a right value, that of the original, and wrong ones on either side.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.perceptual.images import check, luma

#: Side of a block, a multiple of the period.
BLOCK = 16
PERIOD = 4
#: A block of an original is smooth below this standard deviation (of the mean over channels, white is 1).
SMOOTH_STD = 0.015


def laplacian(images: Tensor, originals: Tensor) -> Tensor:
    """Return the energy of the 5-point Laplacian over that of the original, (B,).

    1 is right, less is blurred, more is noisy or too sharp; NaN where the original is flat.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 3 pixels.

    Raises:
        InputError: other shapes or values.

    >>> stripes = torch.tensor([0.0, 1.0, 0.0, 1.0]).expand(1, 1, 4, 4)
    >>> float(laplacian(0.5 * stripes, stripes))
    0.25
    """
    check("laplacian", images, originals, 3)

    def energy(x: Tensor) -> Tensor:
        around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
        return (around - 4 * x[..., 1:-1, 1:-1]).square().mean(dim=(1, 2, 3))

    return _ratio(energy(images), energy(originals))


def smooth_std_ratio(images: Tensor, originals: Tensor) -> Tensor:
    """Return the mean standard deviation in smooth blocks over that of the original in them, (B,).

    1 is right, less is flattened, more has grain or mottle where the original has none. Smooth are the blocks of 16x16
    pixels in which the original's standard deviation is below 0.015; NaN where there are none, or they are flat.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 16 pixels.

    Raises:
        InputError: other shapes or values.
    """
    check("smooth_std_ratio", images, originals, BLOCK)
    found, real = blocks(images).std(dim=-1), blocks(originals).std(dim=-1)
    smooth = real < SMOOTH_STD
    return _ratio((found * smooth).sum(dim=1), (real * smooth).sum(dim=1))


def grid_share(images: Tensor, originals: Tensor) -> Tensor:
    """Return the share of the variance in smooth blocks that repeats every 4 pixels, (B,).

    0 for what has no such grid (white noise and slopes have 0 on average; an image may fall a little below), 1 for a
    grid alone. Smooth blocks are those of `smooth_std_ratio`; NaN where there are none, or the image is flat in them.

    The part that repeats is the mean over the 16 places of each phase within a block. Of noise, that mean keeps 15 of
    255 degrees of freedom, which are taken off, as in an analysis of variance.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 16 pixels.

    Raises:
        InputError: other shapes or values.
    """
    check("grid_share", images, originals, BLOCK)
    smooth = blocks(originals).std(dim=-1) < SMOOTH_STD
    found = blocks(images)
    centred = found - found.mean(dim=-1, keepdim=True)
    repeats = BLOCK // PERIOD
    by_phase = centred.unflatten(-1, (repeats, PERIOD, repeats, PERIOD)).mean(dim=(-4, -2))
    grid = (by_phase.square().mean(dim=(-2, -1)) * smooth).sum(dim=1)
    share = _ratio(grid, (centred.square().mean(dim=-1) * smooth).sum(dim=1))
    by_chance = (PERIOD**2 - 1) / (BLOCK**2 - 1)
    return (share - by_chance) / (1 - by_chance)


def blocks(images: Tensor) -> Tensor:
    """Return the mean over channels in blocks that do not overlap, (B, blocks, 256); what exceeds them is left out."""
    return F.unfold(luma(images)[:, None], BLOCK, stride=BLOCK).mT


def _ratio(found: Tensor, real: Tensor) -> Tensor:
    """Return found / real, NaN where `real` is 0."""
    return torch.where(real > 0, found / real, torch.nan)
