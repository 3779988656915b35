"""How good an answer is likely to be, without the original: its residual, and the squared error that it likely has.

The error is told by a small network that has seen what the codec makes of training images, where a bundle has one; else
by a rehearsal of the answer's own transmission.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from receiver.channel.conditional import decoder_csnr_db
from receiver.codecs.codec import Codec
from receiver.measurement.equalise import decoder_input
from receiver.measurement.model import Measurement
from receiver.results import ImageResult
from receiver.samplers.posterior import Posterior
from receiver.samplers.randomness import Randomness, standard_normal
from receiver.sync.frame import SyncedFrame

#: Least expected PSNR that is accepted.
ACCEPTED_PSNR_DB = 15.0


def expected_residual_std(frame: SyncedFrame, num_symbols: int) -> float:
    """Standard deviation of the normalised residual of a right answer, whose mean is 1.

    For the image that was sent the residual is a chi-square variable over its 2 K degrees of freedom. So it is for a
    draw from the posterior, which is to `y` what the image sent is. The noise variance that it is divided by has an
    error of its own.
    """
    return (1 / num_symbols + (frame.noise_var_std / frame.noise_var) ** 2) ** 0.5


#: Mean squared error of re-encoded right answers in units of the symbol power, on top of the noise: the codec is not
#: idempotent. 99 in 100 of 128 held-out images have less (deterministic decoder, 20 and 30 dB), a wrong one about 2.
CODEC_MISMATCH_VAR = 0.12

#: Rehearsals averaged.
_REHEARSALS = 4
#: By what the squared error of a rehearsal, at the largest residual accepted, falls short of the real one: an answer is
#: easier to send than the image was, as it has lost what can't be sent. Of 384 blind images of the shipped bundle.
OPTIMISM = 11.5
#: Squared error per pixel where a frame was lost: the mean of twelve holes in photographs (docs/receiver.md).
LOST_SQUARED_ERROR = 0.09


def residual_limit(num_symbols: int, noise_var: float) -> float:
    """Largest normalised residual that is accepted.

    The true image has 1 +- 1 / sqrt(K) (a chi-square over 2 K degrees of freedom). A draw from the posterior lies as
    far from the truth as the truth from the posterior's mean, so it may fit worse by as much again; three standard
    errors and the codec's own mismatch are added.
    """
    return 2 * (1 + 3 / num_symbols**0.5) + CODEC_MISMATCH_VAR / noise_var


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


@dataclass(frozen=True)
class Assessment:
    """How good the answers of a posterior are likely to be.

    Attributes:
        residual: (R * B,) ||y - W_h(E(x))||^2 / (K noise_var), about 1 for a right answer.
        expected_squared_error: (R * B,) per pixel.
    """

    residual: Tensor
    expected_squared_error: Tensor


@torch.no_grad()
def assess(posterior: Posterior, codec: Codec, generator: Randomness, error_net: ErrorNet | None = None) -> Assessment:
    """Assess every draw of a posterior from the measurement alone.

    Args:
        generator: of the noise of a rehearsal, which tells the error where there is no `error_net`.
    """
    measurement = posterior.measurement
    residual = measurement.residual(codec.encode(posterior.x, measurement.csnr_db), posterior.h)
    if error_net is None:
        expected = rehearsed_squared_error(measurement, codec, posterior.x, posterior.h, residual, generator)
    else:
        expected = predicted_squared_error(measurement, codec, error_net, posterior.x, posterior.h)
    return Assessment(residual, expected)


@torch.no_grad()
def predicted_squared_error(measurement: Measurement, codec: Codec, net: ErrorNet, x: Tensor, h: Tensor) -> Tensor:
    """Return the squared error per pixel that answers are likely to have, (B,), as a network has learned it.

    The deterministic decoding with the answer's taps is about the posterior's mean, so that the answer is off by that
    decoding's own error and, independently, by its distance from it.

    Args:
        x: (B, C, H, W) answers.
        h: (F, L) their taps.
    """
    told = decoder_csnr_db(measurement, measurement.noise_var)
    x_d = codec.decode(decoder_input(measurement, h), told).clamp(0, 1)
    facts = facts_of_answer(measurement, codec, x_d, h)
    return net.squared_error(x_d, facts) + (x - x_d).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def rehearsed_squared_error(
    measurement: Measurement, codec: Codec, x: Tensor, h: Tensor, residual: Tensor, generator: Randomness
) -> Tensor:
    """Return the squared error per pixel that answers are likely to have, (B,), by a parametric bootstrap.

    The answer is sent once more, over the channel and with the noise that were found, and decoded: what that loses
    tells how much such an image loses. Where the answer explains the measurement badly, the error is larger by as much.

    Args:
        x: (B, C, H, W) answers.
        h: (F, L) their taps.
        residual: (B,) normalised.
        generator: of noise per frame.
    """
    told = decoder_csnr_db(measurement, measurement.noise_var)
    z = codec.encode(x, measurement.csnr_db)
    clean = measurement.forward(z, h)
    spread = (measurement.noise_var[:, None, None] * measurement.noise_ratio / 2).sqrt()
    total = torch.zeros_like(residual)
    for _ in range(_REHEARSALS):
        noise = torch.view_as_complex(standard_normal((*clean.shape, 2), generator, clean.device)) * spread
        again = measurement.with_received(clean + noise.to(clean))
        decoded = codec.decode(decoder_input(again, h), told).clamp(0, 1)
        total = total + (decoded - x).square().mean(dim=(1, 2, 3))
    noise_var = measurement.noise_var.tolist()
    limits = [
        residual_limit(measurement.num_symbols, noise_var[frame]) for frame in measurement.frame_of_image.tolist()
    ]
    return OPTIMISM * residual / residual.new_tensor(limits) * total / _REHEARSALS


def image_results(
    label: str,
    frames: Sequence[SyncedFrame],
    measurement: Measurement,
    posterior: Posterior,
    assessment: Assessment,
    seconds: float,
) -> list[ImageResult]:
    """Return the decoded images of a measurement with what is thought of them, in its order.

    Args:
        label: of the method.
        frames: F of them, all with headers.
        measurement: of the B images, without the copies of further draws.
        seconds: per image.
    """
    count = measurement.num_images
    shown = posterior.x[:count].cpu().numpy().astype(np.float32)
    taps = posterior.h[: measurement.num_frames].cpu().numpy().astype(np.complex64)
    several = posterior.draws > 1
    mean = posterior.mean.cpu().numpy() if several else [None] * count
    spread = posterior.spread.cpu().numpy() if several else [None] * count
    residual, noise_var = assessment.residual.tolist(), measurement.noise_var.tolist()
    arrived, frame_of_cell = measurement.arrived[:count].cpu(), measurement.frame_of_cell.cpu()
    lost = 1 - measurement.arrived[:count].float().mean(dim=1)
    expected = (1 - lost) * assessment.expected_squared_error[:count] + lost * LOST_SQUARED_ERROR
    expected_psnr_db = (-10 * expected.clamp(min=1e-10).log10()).tolist()
    results = []
    for index in range(count):
        symbols = int(arrived[index].sum())
        place = int(frame_of_cell[index][arrived[index]][0])
        frame = frames[place]
        assert frame.header is not None
        limit = residual_limit(symbols, noise_var[place])
        values, all_symbols = math.prod(frame.header.image_shape), frame.header.symbols_per_image
        results.append(
            ImageResult(
                id=measurement.image_ids[index],
                method=label,
                residual=residual[index],
                residual_std=expected_residual_std(frame, symbols),
                residual_limit=limit,
                expected_psnr_db=expected_psnr_db[index],
                accepted=residual[index] <= limit and expected_psnr_db[index] >= ACCEPTED_PSNR_DB,
                seconds=seconds,
                cbr=all_symbols / values,
                side_cbr=(all_symbols - measurement.num_symbols) / values,
                image=shown[index],
                frame_number=frame.header.frame_number,
                start_sample=frame.start,
                taps=taps[place],
                mean=mean[index],
                spread=spread[index],
                lost=1 - symbols / measurement.num_symbols,
            )
        )
    return results
