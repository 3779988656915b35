"""Even out noise that differs from feature to feature, by what the features of neighbouring blocks tell.

Let s be Gaussian of covariance C, received as r = s + n with independent noise of variances N. Then

    u = r - (N - v) (C + N)^-1 r

is what noise of variance v everywhere would have to leave for the mean of s to be the same, C (C + v)^-1 u being
C (C + N)^-1 r. A decoder that was made for even noise can take it. Where N is v, u is r.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

#: Steps of the conjugate gradients.
_STEPS = 10
#: Added to what is divided by.
_TINY = 1e-30
#: Blocks that the usual variances count for.
_PRIOR_BLOCKS = 4
#: Least variance of an image's feature over the usual one.
_LEAST_VARIANCE = 0.01


def evened(received: Tensor, noise_var: Tensor, level: Tensor, covariance: Tensor, variances: Tensor) -> Tensor:
    """Return features as if noise of variance `level` had met each of them, differentiable in `received`.

    Args:
        received: (B, n, rows, columns) features with their noise.
        noise_var: noise variance of each, likewise; above 0.
        level: (B,) above 0.
        covariance: (n, n, 2 k + 1, 2 k + 1) covariance of the features of two blocks, by their distance.
        variances: (B, n, 1, 1) of the features of each image; their correlations are taken to be the usual ones.
    """
    with torch.autocast(received.device.type, enabled=False):
        return received - (noise_var - level[:, None, None, None]) * _solved(received, noise_var, covariance, variances)


def _solved(received: Tensor, noise_var: Tensor, covariance: Tensor, variances: Tensor) -> Tensor:
    """Return (C + N)^-1 r by conjugate gradients, preconditioned by the diagonal and scaled by the noise.

    The gradient holds the lengths of the steps, so that it is that of a linear map.
    """
    reach = covariance.shape[-1] // 2
    kernel, root = covariance.flip(2, 3), noise_var.rsqrt()
    scale = root * (variances / _usual(covariance)).sqrt()
    diagonal = 1 + variances / noise_var

    def product(one: Tensor, other: Tensor) -> Tensor:
        return (one.detach() * other.detach()).sum(dim=(1, 2, 3), keepdim=True)

    residual = root * received
    found = torch.zeros_like(residual)
    direction = scaled = residual / diagonal
    power = product(residual, scaled)
    for _ in range(_STEPS):
        image = direction + scale * F.conv2d(scale * direction, kernel, padding=reach)
        length = power / (product(direction, image) + _TINY)
        found, residual = found + length * direction, residual - length * image
        scaled = residual / diagonal
        before, power = power, product(residual, scaled)
        direction = scaled + power / (before + _TINY) * direction
    return root * found


def _usual(covariance: Tensor) -> Tensor:
    """Return the variances (n, 1, 1) over all images."""
    reach = covariance.shape[-1] // 2
    return covariance.diagonal()[reach, reach][:, None, None]


@torch.no_grad()
def own_variances(received: Tensor, noise_var: Tensor, covariance: Tensor) -> Tensor:
    """Estimate the variances (B, n, 1, 1) that the features of each image have, of what is received of them.

    Features of a smooth photograph have others than those of a rough one. The usual ones count as much as
    `_PRIOR_BLOCKS` blocks without noise.

    Args:
        received: (B, n, rows, columns).
        noise_var: likewise.
        covariance: as of `evened`.
    """
    usual = _usual(covariance)
    weight = (usual + noise_var).pow(-2)
    total = (weight * (received.square() - noise_var)).sum(dim=(2, 3), keepdim=True) + _PRIOR_BLOCKS / usual
    found = total / (weight.sum(dim=(2, 3), keepdim=True) + _PRIOR_BLOCKS * usual.pow(-2))
    return found.maximum(_LEAST_VARIANCE * usual)


def block_covariance(features: Tensor, reach: int) -> Tensor:
    """Return the covariance of the features of blocks up to `reach` apart, (n, n, 2 reach + 1, 2 reach + 1).

    Distances count by a triangle, and what lies outside of an image as 0, so that no combination of features gets a
    negative variance.

    Args:
        features: (B, n, rows, columns), of zero mean.
    """
    apart = range(-reach, reach + 1)
    padded = F.pad(features, (reach,) * 4)
    rows, columns = features.shape[2:]
    found = features.new_zeros(features.shape[1], features.shape[1], len(apart), len(apart))
    for down in apart:
        for right in apart:
            moved = padded[:, :, reach + down :, reach + right :][:, :, :rows, :columns]
            weight = (1 - abs(down) / (reach + 1)) * (1 - abs(right) / (reach + 1))
            products = torch.einsum("bihw,bjhw->ij", moved, features) / (len(features) * rows * columns)
            found[:, :, reach + down, reach + right] = weight * products
    return found
