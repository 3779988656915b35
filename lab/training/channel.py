"""Pass symbols over a simulated channel inside the gradient path of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from sdr.air.impairments import exponential_pdp

#: Where the codec is evaluated.
EVAL_CSNR_DB = (0.0, 5.0, 10.0, 14.0)
#: Channel of the faded half of the codec's training: taps of an exponential profile and its time constant in samples.
FADING_TAPS = 8
FADING_DECAY = 4.0
#: The same as a channel of the simulated radio, with an offset of the carrier.
FADING = f"taps={FADING_TAPS},decay={FADING_DECAY},cfo_hz=300"


def transmit(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after a CSNR uniform over `CSNR_RANGE_DB`, one each; half of them fade, half see AWGN."""
    low, high = CSNR_RANGE_DB
    csnr_db = low + (high - low) * torch.rand(len(images), generator=generator)
    faded = len(images) // 2
    return torch.cat(
        [
            transmit_fading(codec, images[:faded], csnr_db[:faded], generator),
            transmit_awgn(codec, images[faded:], csnr_db[faded:], generator),
        ]
    )


def transmit_awgn(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after encoding, noise at `csnr_db` (B,) and decoding."""
    z = codec.encode(images, csnr_db)
    noise = torch.randn(*z.shape, 2, generator=generator)
    std = torch.pow(10.0, -csnr_db / 20)[:, None] / math.sqrt(2)
    return codec.decode(z + torch.view_as_complex(noise) * std, csnr_db)


def transmit_fading(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """The same over block fading: every symbol on a carrier of its own behind `FADING_TAPS` Rayleigh taps.

    The decoder gets what `Measurement.decoder_input` gives with the channel known.
    """
    z = codec.encode(images, csnr_db)
    noise_var = torch.pow(10.0, -csnr_db / 10)[:, None]
    power = torch.from_numpy(exponential_pdp(FADING_TAPS, FADING_DECAY)).float()
    taps = torch.view_as_complex(torch.randn(len(images), FADING_TAPS, 2, generator=generator)) * (power / 2).sqrt()
    carriers = torch.randperm(4 * z.shape[1], generator=generator)[: z.shape[1]]
    gain = torch.fft.fft(taps, n=4 * z.shape[1])[:, carriers]
    noise = torch.view_as_complex(torch.randn(*z.shape, 2, generator=generator)) * (noise_var / 2).sqrt()
    equalised = gain.conj() * (gain * z + noise) / (gain.abs().square() + noise_var) * (1 + noise_var)
    return codec.decode(equalised, csnr_db)
