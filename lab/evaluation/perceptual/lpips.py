"""LPIPS v0.1: learned perceptual image patch similarity (Zhang et al. 2018, arXiv:1801.03924)."""

from __future__ import annotations

from torch import Tensor

from lab.evaluation.perceptual.files import read
from lab.evaluation.perceptual.images import batched, check, in_colour, of_originals
from lab.evaluation.perceptual.networks import ALEXNET_MIN_SIDE, VGG16_MIN_SIDE, alexnet_features, vgg16_features

#: Mean and scale of ImageNet as LPIPS has them, for images in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_EPS = 1e-10


def lpips_alex(images: Tensor, originals: Tensor) -> Tensor:
    """Return LPIPS with AlexNet's features, (B,), 0 for equals; smaller is better.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 31 pixels.

    Raises:
        InputError: other shapes or values. ModelError: the weights are missing or altered.
    """
    check("LPIPS (alex)", images, originals, ALEXNET_MIN_SIDE)
    return _lpips("alexnet", images, originals)


def lpips_vgg(images: Tensor, originals: Tensor) -> Tensor:
    """Return LPIPS with VGG16's features, (B,), 0 for equals; smaller is better.

    Args:
        images, originals: (B, 3 or 1, H, W) in [0, 1], sides of at least 16 pixels.

    Raises:
        InputError: other shapes or values. ModelError: the weights are missing or altered.
    """
    check("LPIPS (vgg)", images, originals, VGG16_MIN_SIDE)
    return _lpips("vgg16", images, originals)


def _lpips(network: str, images: Tensor, originals: Tensor) -> Tensor:
    weights = read(network, images.device)
    extract = {"alexnet": alexnet_features, "vgg16": vgg16_features}[network]

    def unit_features(batch: Tensor) -> list[Tensor]:
        batch = in_colour(batch)
        shift, scale = (batch.new_tensor(values).view(1, 3, 1, 1) for values in (_SHIFT, _SCALE))
        features = extract(weights, (2 * batch - 1 - shift) / scale)
        return [feature / (feature.square().sum(dim=1, keepdim=True).sqrt() + _EPS) for feature in features]

    def distance(batch: Tensor, originals: Tensor) -> Tensor:
        wanted_features = of_originals(f"LPIPS {network}", unit_features, originals)
        total = batch.new_zeros(len(batch))
        for index, (found, wanted) in enumerate(zip(unit_features(batch), wanted_features, strict=True)):
            differences = (found - wanted).square().mean(dim=(2, 3))
            total = total + differences @ weights[f"head{index}"]
        return total

    return batched(distance, images, originals)
