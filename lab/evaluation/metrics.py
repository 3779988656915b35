"""Measure the distortion of images (B, C, H, W) in [0, 1], one value per image.

PSNR and SSIM need a peak value; it is 1 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sdr.errors import InputError

#: Window and constants of Wang et al. 2004 (SSIM) and the scale weights of Wang et al. 2003 (MS-SSIM).
_WINDOW = 11
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)

#: The smallest side that five scales of an 11-pixel window fit into.
MS_SSIM_MIN_SIDE = _WINDOW * 2 ** (len(_SCALE_WEIGHTS) - 1)


def _check(images: Tensor, originals: Tensor) -> None:
    if images.shape != originals.shape or images.ndim != 4:
        raise InputError(
            f"Images {tuple(images.shape)} and originals {tuple(originals.shape)} must both be (B, C, H, W), and alike."
        )


def psnr_db(images: Tensor, originals: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B,) in dB; infinite for identical images.

    >>> float(psnr_db(torch.full((1, 1, 2, 2), 0.6), torch.full((1, 1, 2, 2), 0.5)).round(decimals=3))
    20.0
    """
    _check(images, originals)
    return -10 * torch.log10((images - originals).square().flatten(1).mean(dim=1))


def _ssim_parts(images: Tensor, originals: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSIM and its contrast-structure factor, means (B, C) over the valid positions of the window."""
    offsets = torch.arange(_WINDOW, dtype=images.dtype, device=images.device) - (_WINDOW - 1) / 2
    row = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    row = row / row.sum()
    channels = images.shape[1]
    vertical, horizontal = row.view(1, 1, -1, 1), row.view(1, 1, 1, -1)

    def blur(x: Tensor) -> Tensor:
        x = F.conv2d(x, vertical.expand(channels, -1, -1, -1), groups=channels)
        return F.conv2d(x, horizontal.expand(channels, -1, -1, -1), groups=channels)

    mean_a, mean_b = blur(images), blur(originals)
    var_a = blur(images * images) - mean_a * mean_a
    var_b = blur(originals * originals) - mean_b * mean_b
    cov = blur(images * originals) - mean_a * mean_b
    contrast = (2 * cov + _C2) / (var_a + var_b + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    return (luminance * contrast).mean(dim=(2, 3)), contrast.mean(dim=(2, 3))


def ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Return the structural similarity (B,) (Wang et al. 2004).

    The window is Gaussian, 11 pixels wide, at valid positions only; the mean is over channels.

    Raises:
        InputError: shapes that differ, or sides below 11 pixels.
    """
    _check(images, originals)
    if min(images.shape[2:]) < _WINDOW:
        raise InputError(f"SSIM needs sides of at least {_WINDOW} pixels, got {tuple(images.shape[2:])}.")
    return _ssim_parts(images, originals)[0].mean(dim=1)


def ms_ssim(images: Tensor, originals: Tensor) -> Tensor:
    """Return the multi-scale structural similarity (B,) (Wang et al. 2003), five scales.

    Negative contrast terms count as zero, since their fractional power is not real.

    Raises:
        InputError: shapes that differ, or sides below `MS_SSIM_MIN_SIDE`: use `ssim` there.
    """
    _check(images, originals)
    if min(images.shape[2:]) < MS_SSIM_MIN_SIDE:
        raise InputError(
            f"MS-SSIM needs sides of at least {MS_SSIM_MIN_SIDE} pixels, got {tuple(images.shape[2:])}. Use SSIM."
        )
    result = images.new_ones(images.shape[:2])
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        full, contrast = _ssim_parts(images, originals)
        last = scale == len(_SCALE_WEIGHTS) - 1
        result = result * (full if last else contrast).clamp(min=0) ** weight
        images, originals = F.avg_pool2d(images, 2), F.avg_pool2d(originals, 2)
    return result.mean(dim=1)
