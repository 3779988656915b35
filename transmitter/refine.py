"""Refine the symbols of single images, as a transmitter can that knows the image and the decoder.

An encoder is fitted to all images at once. For a single one its symbols can be moved until the decoder makes the most
of them, with the noise that the channel SNR stands for. It costs the transmitter a few dozen passes through the
decoder and the receiver nothing: neither the decoder nor what is sent beside the symbols changes. (Compression knows
it as content-adaptive encoding: Campos et al. 2019.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from receiver.codecs.codec import Codec, unit_power
from sdr.errors import ConfigError

#: Size of the first step of the real parts, whose root mean square is 0.7; the steps shrink to 0.
_STEP = 0.04
#: Squared error added before the logarithm is taken: 50 dB.
_LEAST_ERROR = 1e-5
#: Most images and pixels that are encoded at once, and most pixels that are refined at once, which keeps activations.
_ENCODED_IMAGES, _ENCODED_PIXELS, _REFINED_PIXELS = 64, 1_000_000, 300_000


def encode_refined(
    codec: Codec,
    images: Tensor,
    csnr_db: float,
    steps: int,
    *,
    seed: int = 0,
    on_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Encode images and refine their symbols.

    Args:
        codec: for images of this shape.
        images: (B, C, H, W).
        csnr_db: channel SNR that encoder and decoder are made for.
        steps: of the refinement; 0 leaves the symbols as encoded.
        seed: of the noise that is rehearsed.
        on_step: called after each step with the number of images that took it.

    Returns:
        (B, K) complex, unit power.

    Raises:
        ConfigError: less than 0 steps.
    """
    if steps < 0:
        raise ConfigError(f"Found {steps} refining steps; 0 or more are needed.")
    generator = torch.Generator().manual_seed(seed)
    pixels = images.shape[2] * images.shape[3]
    rows = max(1, min(_ENCODED_IMAGES, _ENCODED_PIXELS // pixels))
    with torch.no_grad():
        z = torch.cat([codec.encode(part, csnr_db) for part in images.split(rows)])
    if not steps:
        return z
    rows = max(1, _REFINED_PIXELS // pixels)
    return torch.cat(
        [
            _refined(codec, z_part, part, csnr_db, steps, generator, on_step)
            for z_part, part in zip(z.split(rows), images.split(rows), strict=True)
        ]
    )


def _refined(
    codec: Codec,
    z: Tensor,
    images: Tensor,
    csnr_db: float,
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[int], None],
) -> Tensor:
    """Refine symbols z (B, K) of images that fit into memory together."""
    parts = torch.view_as_real(z).clone().requires_grad_()
    optimiser = torch.optim.Adam([parts], _STEP)
    noise_std = 10 ** (-csnr_db / 20) / 2**0.5
    with torch.enable_grad():
        for step in range(steps):
            optimiser.param_groups[0]["lr"] = _STEP * (1 - step / steps)
            noise = torch.randn(parts.shape, generator=generator) * noise_std
            received = unit_power(torch.view_as_complex(parts)) + torch.view_as_complex(noise)
            error = (codec.decode(received, csnr_db) - images).square().mean(dim=(1, 2, 3))
            (gradient,) = torch.autograd.grad((error + _LEAST_ERROR).log().sum(), parts)
            parts.grad = gradient
            optimiser.step()
            on_step(len(images))
    return unit_power(torch.view_as_complex(parts.detach()))
