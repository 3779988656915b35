"""DISTS: deep image structure and texture similarity (Ding et al. 2020, arXiv:2004.07728)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.perceptual.files import read
from lab.evaluation.perceptual.images import batched, check, in_colour, of_originals
from lab.evaluation.perceptual.networks import VGG16_CHANNELS, VGG16_MIN_SIDE, vgg16_features

#: Mean and standard deviation of ImageNet, for images in [0, 1].
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_C1, _C2 = 1e-6, 1e-6


def l2_pool(x: Tensor) -> Tensor:
    """Return the root of the mean square over a Hanning window of 3x3 pixels, every 2 pixels: pooling without aliases.

    >>> l2_pool(torch.full((1, 1, 4, 4), 2.0))[0, 0, 1, 1].item()
    2.0
    """
    row = torch.hann_window(5, periodic=False, dtype=x.dtype, device=x.device)[1:-1]
    window = torch.outer(row, row)
    window = (window / window.sum()).expand(x.shape[1], 1, 3, 3)
    return (F.conv2d(x.square(), window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def dists(images: Tensor, originals: Tensor) -> Tensor:
    """Return DISTS, (B,), 0 for equals; smaller is better.

    The authors shrink photographs to a shorter side of 256 first; here images are taken as they are.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 16 pixels.

    Raises:
        InputError: other shapes or values. ModelError: the weights are missing or altered.
    """
    check("DISTS", images, originals, VGG16_MIN_SIDE)
    network, weights = read("vgg16", images.device), read("dists", images.device)
    alpha, beta = weights["alpha"], weights["beta"]
    channels = (3, *VGG16_CHANNELS)
    total = alpha.sum() + beta.sum()
    alphas, betas = (alpha / total).split(channels), (beta / total).split(channels)

    def features(batch: Tensor) -> list[Tensor]:
        batch = in_colour(batch)
        mean, std = (batch.new_tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
        return [batch, *vgg16_features(network, (batch - mean) / std, l2_pool)]

    def distance(batch: Tensor, originals: Tensor) -> Tensor:
        similarity = batch.new_zeros(len(batch))
        layers = zip(features(batch), of_originals("DISTS", features, originals), alphas, betas, strict=True)
        for found, wanted, of_means, of_covariances in layers:
            mean_a, mean_b = found.mean(dim=(2, 3)), wanted.mean(dim=(2, 3))
            centred_a, centred_b = found - mean_a[..., None, None], wanted - mean_b[..., None, None]
            var_a, var_b = centred_a.square().mean(dim=(2, 3)), centred_b.square().mean(dim=(2, 3))
            covariance = (centred_a * centred_b).mean(dim=(2, 3))
            texture = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
            structure = (2 * covariance + _C2) / (var_a + var_b + _C2)
            similarity = similarity + texture @ of_means + structure @ of_covariances
        return 1 - similarity

    return batched(distance, images, originals)
