"""The network that tells how wrong a decoded image is likely to be, without the original."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from receiver.codecs.codec import Codec
from receiver.measurement.model import Measurement

#: Mean squared error of re-encoded right answers in units of the symbol power, on top of the noise: the codec is not
#: idempotent. 99 in 100 of 128 held-out images have less (deterministic decoder, 20 and 30 dB), a wrong one about 2.
CODEC_MISMATCH_VAR = 0.12

#: Centre and spread of the facts that an `ErrorNet` is told; beyond so many spreads they tell no more.
_FACTS_CENTRE, _FACTS_SPREAD, _FACTS_LIMIT = (10.0, -1.5, -0.6), (7.0, 0.8, 0.6), 4.0
#: Pixels per side of the tiles of which an `ErrorNet` tells the error of a larger image.
CONFIDENCE_SIDE = 128
#: Where the network's output begins, about the mean log squared error of the shipped codec.
_LOG_ERROR_CENTRE = -5.0


class ErrorNet(nn.Module):
    """The log of the squared error per pixel to expect of a deterministically decoded image, from it and three facts.

    How much the codec has lost of an image shows in what it has left of it. Whether the channel was the right one shows
    in the residual, and in an image that looks like none.

    Args:
        channels: of the images, which may be of any size.
    """

    def __init__(self, channels: int = 1, width: int = 24) -> None:
        super().__init__()
        sizes = ((channels, width, 1), (width, width, 2), (width, 2 * width, 2), (2 * width, 2 * width, 2))
        layers: list[nn.Module] = []
        for inside, outside, stride in sizes:
            layers += [nn.Conv2d(inside, outside, 3, stride, padding=1), nn.GroupNorm(4, outside), nn.SiLU()]
        self.front = nn.Sequential(*layers)
        self.back = nn.Sequential(nn.Linear(4 * width + 3, 4 * width), nn.SiLU(), nn.Linear(4 * width, 1))

    def forward(self, x_d: Tensor, facts: Tensor) -> Tensor:
        """(B,) of images (B, C, H, W) in [0, 1] and facts (B, 3): see :func:`facts_of_decoding`."""
        features = self.front(x_d - 0.5)
        told = (facts - facts.new_tensor(_FACTS_CENTRE)) / facts.new_tensor(_FACTS_SPREAD)
        told = told.clamp(-_FACTS_LIMIT, _FACTS_LIMIT)
        pooled = [features.mean(dim=(2, 3)), features.std(dim=(2, 3), correction=0), told.to(features)]
        return self.back(torch.cat(pooled, dim=1))[:, 0].float() + _LOG_ERROR_CENTRE

    def squared_error(self, x_d: Tensor, facts: Tensor) -> Tensor:
        """(B,) squared error per pixel: the mean of that of tiles of about the size that the network was trained on."""
        height, width = x_d.shape[2:]
        total = x_d.new_zeros(len(x_d))
        for band in x_d.tensor_split(-(-height // CONFIDENCE_SIDE), dim=2):
            for tile in band.tensor_split(-(-width // CONFIDENCE_SIDE), dim=3):
                total = total + self(tile, facts).exp() * (tile.shape[2] * tile.shape[3])
        return total / (height * width)


def facts_of_decoding(gain: Tensor, noise_var: Tensor, residual: Tensor) -> Tensor:
    """(B, 3): the CSNR in dB, and the logarithms of the symbols' expected squared error and of the misfit.

    The misfit is the residual over what noise and codec explain.

    Args:
        gain: (B, K) complex, that the symbols met. noise_var: (B, K) or (B, 1) beside them.
        residual: (B,) normalised, of the decoded image.
    """
    doubt = (noise_var / (gain.abs().square() + noise_var)).mean(dim=1)
    noise_var = 1 / (1 / noise_var).mean(dim=1)
    misfit = residual / (1 + CODEC_MISMATCH_VAR / noise_var)
    return torch.stack([-10 * noise_var.log10(), doubt.log(), misfit.clamp(min=1e-3).log()], dim=1)


@torch.no_grad()
def facts_of_answer(measurement: Measurement, codec: Codec, x_d: Tensor, h: Tensor) -> Tensor:
    """Return the facts (B, 3) of images x_d (B, C, H, W) that were decoded from a measurement with taps h (F, L)."""
    residual = measurement.residual(codec.encode(x_d, measurement.csnr_db), h)
    return facts_of_decoding(measurement.gains(h), measurement.cell_noise_var, residual)


@torch.no_grad()
def decoding_squared_error(measurement: Measurement, codec: Codec, net: ErrorNet, x_d: Tensor, h: Tensor) -> Tensor:
    """Return the squared error per pixel to expect, (B,), of images x_d (B, C, H, W) decoded with taps h (F, L)."""
    return net.squared_error(x_d, facts_of_answer(measurement, codec, x_d, h))
