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
from torch import Tensor

from receiver.channel.decoding import for_decoder
from receiver.codecs.codec import Codec
from receiver.error_net import CODEC_MISMATCH_VAR, ErrorNet, decoding_squared_error, facts_of_decoding
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
    elif posterior.x_d is posterior.x:
        facts = facts_of_decoding(measurement.gains(posterior.h), measurement.cell_noise_var, residual)
        expected = error_net.squared_error(posterior.x, facts)
    else:
        expected = predicted_squared_error(measurement, codec, error_net, posterior.x, posterior.h, posterior.x_d)
    return Assessment(residual, expected)


@torch.no_grad()
def predicted_squared_error(
    measurement: Measurement, codec: Codec, net: ErrorNet, x: Tensor, h: Tensor, x_d: Tensor | None = None
) -> Tensor:
    """Return the squared error per pixel that answers are likely to have, (B,), as a network has learned it.

    The deterministic decoding with the answer's taps is about the posterior's mean, so that the answer is off by that
    decoding's own error and, independently, by its distance from it.

    Args:
        x: (B, C, H, W) answers.
        h: (F, L) their taps.
        x_d: (B, C, H, W) that decoding, where it is known.
    """
    if x_d is None:
        x_d = codec.decode(*for_decoder(codec, measurement, h)).clamp(0, 1)
    return decoding_squared_error(measurement, codec, net, x_d, h) + (x - x_d).square().mean(dim=(1, 2, 3))


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
    z = codec.encode(x, measurement.csnr_db)
    clean = measurement.forward(z, h)
    spread = (measurement.noise_var[:, None, None] * measurement.noise_ratio / 2).sqrt()
    total = torch.zeros_like(residual)
    for _ in range(_REHEARSALS):
        noise = torch.view_as_complex(standard_normal((*clean.shape, 2), generator, clean.device)) * spread
        again = measurement.with_received(clean + noise.to(clean))
        decoded = codec.decode(*for_decoder(codec, again, h)).clamp(0, 1)
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
    taps = posterior.measurement.symbol_taps(posterior.h)[: measurement.num_frames]
    # Of taps that move, those of the middle symbol stand for all.
    taps = taps[:, taps.shape[1] // 2].cpu().numpy().astype(np.complex64)
    several = posterior.draws > 1
    mean = posterior.mean.cpu().numpy() if several else [None] * count
    spread = posterior.spread.cpu().numpy() if several else [None] * count
    residual, noise_var = assessment.residual.tolist(), measurement.noise_var.tolist()
    arrived, frame_of_cell = measurement.arrived[:count].cpu(), measurement.frame_of_cell.cpu()
    share = 1 - measurement.arrived[:count].double().mean(dim=1)
    expected = (1 - share) * assessment.expected_squared_error[:count] + share * LOST_SQUARED_ERROR
    lost = share.tolist()
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
                lost=lost[index],
            )
        )
    return results
