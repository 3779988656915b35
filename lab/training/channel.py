"""Pass symbols over a simulated channel inside the gradient path of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from lab.evaluation.metrics import psnr_db
from receiver.channel.decoding import as_told
from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from sdr.air.impairments import exponential_pdp

EVAL_CSNR_DB = (0.0, 5.0, 10.0, 14.0)
"""Channel SNRs at which codecs are evaluated, dB."""

FADING_TAPS = 8
"""Taps of the channel that half of a codec's training goes through; their profile is exponential."""

FADING_DECAY = 4.0
"""Time constant of that profile, samples."""

FADING = f"taps={FADING_TAPS},decay={FADING_DECAY},cfo_hz=300"
"""The same as a channel of the simulated radio, with an offset of the carrier."""

_BATCH = 250


def transmit(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Send images (B, C, H, W) at CSNRs uniform over `CSNR_RANGE_DB`, half over fading, half over AWGN; decode them."""
    low, high = CSNR_RANGE_DB
    csnr_db = low + (high - low) * torch.rand(len(images), generator=generator, device=images.device)
    faded = len(images) // 2
    return torch.cat(
        [
            transmit_fading(codec, images[:faded], csnr_db[:faded], generator),
            transmit_awgn(codec, images[faded:], csnr_db[faded:], generator),
        ]
    )


def transmit_awgn(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Send images (B, C, H, W) over AWGN at `csnr_db` (B,), and decode them."""
    z = codec.encode(images, csnr_db)
    noise = torch.randn(*z.shape, 2, generator=generator, device=z.device)
    std = torch.pow(10.0, -csnr_db / 20)[:, None] / math.sqrt(2)
    return codec.decode(z + torch.view_as_complex(noise) * std, csnr_db)


def transmit_fading(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Send images over block fading, every symbol on a carrier of its own behind `FADING_TAPS` Rayleigh taps; decode.

    The decoder is told what the receiver would tell it if it knew the channel. That scales what it receives to unit
    power, so that noise counts over the power that the taps happen to have.
    """
    z = codec.encode(images, csnr_db)
    noise_var = torch.pow(10.0, -csnr_db / 10)[:, None]
    device = z.device
    power = _profile(device)
    normal = torch.randn(len(images), FADING_TAPS, 2, generator=generator, device=device)
    taps = torch.view_as_complex(normal) * (power / 2).sqrt()
    strength = taps.abs().square().sum(dim=1, keepdim=True)
    taps, noise_var = taps / strength.sqrt(), noise_var / strength
    carriers = torch.rand(4 * z.shape[1], generator=generator, device=device).argsort()[: z.shape[1]]
    gain = torch.fft.fft(taps, n=4 * z.shape[1])[:, carriers]
    noise = torch.view_as_complex(torch.randn(*z.shape, 2, generator=generator, device=device))
    noise = noise * (noise_var / 2).sqrt()
    squared = gain.abs().square()
    estimates = gain.conj() * (gain * z + noise) / (squared + noise_var)
    return codec.decode(*as_told(codec, estimates, squared / noise_var, noise_var))


@cache
def _profile(device: torch.device) -> Tensor:
    """Return the mean power of each tap, on a device."""
    return torch.from_numpy(exponential_pdp(FADING_TAPS, FADING_DECAY)).float().to(device)


@torch.no_grad()
def channel_quality(
    codec: Codec,
    images: Tensor,
    channel: Callable[[Codec, Tensor, Tensor, torch.Generator], Tensor],
    generator: torch.Generator,
) -> dict[str, float]:
    """Measure the mean PSNR in dB over images (n, C, H, W) behind a channel, at each of `EVAL_CSNR_DB`."""
    quality = {}
    for csnr_db in EVAL_CSNR_DB:
        values = [
            psnr_db(channel(codec, part, torch.full((len(part),), csnr_db), generator).clamp(0, 1), part)
            for part in images.split(_BATCH)
        ]
        quality[f"psnr_db at {csnr_db:g} dB"] = round(float(torch.cat(values).mean()), 2)
    return quality
