"""Features of AlexNet and VGG16 (without their classifiers), from the convolutions that `files` holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional as F

#: Convolutions in each stage of VGG16; features are taken after each stage, before it is pooled.
VGG16_STAGES = (2, 2, 3, 3, 3)
VGG16_CHANNELS = (64, 128, 256, 512, 512)
#: The smallest side from which each network has features everywhere.
VGG16_MIN_SIDE, ALEXNET_MIN_SIDE = 16, 31


def _convolve(weights: Mapping[str, Tensor], index: int, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    return F.relu(F.conv2d(x, weights[f"conv{index}.weight"], weights[f"conv{index}.bias"], stride, padding))


def alexnet_features(weights: Mapping[str, Tensor], x: Tensor) -> list[Tensor]:
    """Return the outputs of the five convolutions, each after its ReLU, for x (B, 3, H, W) as the network wants it."""
    features = [_convolve(weights, 0, x, stride=4, padding=2)]
    features.append(_convolve(weights, 1, F.max_pool2d(features[-1], 3, 2), padding=2))
    features.append(_convolve(weights, 2, F.max_pool2d(features[-1], 3, 2)))
    features.append(_convolve(weights, 3, features[-1]))
    features.append(_convolve(weights, 4, features[-1]))
    return features


def max_pool(x: Tensor) -> Tensor:
    """Return the maximum of every 2x2 pixels, as VGG16 has it."""
    return F.max_pool2d(x, 2)


def vgg16_features(
    weights: Mapping[str, Tensor], x: Tensor, pool: Callable[[Tensor], Tensor] = max_pool
) -> list[Tensor]:
    """Return the outputs of the five stages (relu1_2, relu2_2, relu3_3, relu4_3, relu5_3).

    Args:
        x: (B, 3, H, W) as the network wants it.
        pool: between the stages.
    """
    features: list[Tensor] = []
    index = 0
    for count in VGG16_STAGES:
        x = pool(x) if features else x
        for _ in range(count):
            x = _convolve(weights, index, x)
            index += 1
        features.append(x)
    return features
