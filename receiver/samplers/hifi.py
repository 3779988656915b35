"""HiFi-DiffCom (Algorithm 2): from the diffused deterministic decoding, with the confirming term."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.samplers.confirming import confirmed
from receiver.samplers.consistency import down_to_noise
from receiver.samplers.deterministic import decoded
from receiver.samplers.diffcom import from_noise, guided
from receiver.samplers.diffusion import adaptive_start, diffuse, from_image, reverse_steps
from receiver.samplers.guidance import Confirmed, ConfirmingGuidance
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import LOST_LEVEL, Problem


def hifi(problem: Problem) -> Posterior:
    """Sample with the taps that the pilots gave (Algorithm 2)."""
    return confirmed_sample(problem, problem.h, decoded(problem, problem.h))


def confirmed_sample(
    problem: Problem, h: Tensor, x_d: Tensor, channel_prior: ChannelPrior | None = None, anchor: Tensor | None = None
) -> Posterior:
    """Sample from the diffused x_d; with `channel_prior` the taps are unknown and found along with the image.

    Args:
        h: (F, L) taps to begin with.
        x_d: (B, C, H, W) what the decoder made of the measurement with them.
        anchor: (F, L) an estimate of unknown taps that is drawn upon at every step; see `ConfirmingGuidance`.
    """
    guidance = ConfirmingGuidance(
        problem.codec,
        Confirmed(h, problem.nuisance, x_d),
        problem.settings.zeta,
        problem.settings.gamma,
        channel_prior,
        anchor,
    )
    start = from_decoded(problem, back_projected(problem, h, x_d))
    x, trace, state = guided(problem, guidance, start)
    problem = replace(problem, nuisance=state.nuisance)
    if channel_prior is not None:
        with torch.no_grad():
            z = problem.codec.encode(x, problem.encoder_csnr_db)
            h = conditional_channel(problem.measurement, z, channel_prior).mean
    return problem.posterior(down_to_noise(problem, x, h), h, trace)


def from_decoded(problem: Problem, x_d: Tensor) -> tuple[Tensor, Tensor]:
    """Return x_Ts and its steps, eq. (20) and (21); x_T where the settings say so."""
    if not problem.settings.adaptive:
        return from_noise(problem)
    schedule = problem.denoiser.schedule
    ratio = problem.codec.num_symbols / x_d[0].numel()
    csnr = 10 ** (problem.decoder_csnr_db / 10)
    start = adaptive_start(schedule, csnr, ratio, problem.settings.tau, least_dsnr=problem.settings.least_dsnr)
    start = torch.where(problem.lacks_symbols, LOST_LEVEL * schedule.num_steps // 1000, start)
    x_t = diffuse(schedule, from_image(x_d), start, problem.generator)
    return x_t, reverse_steps(start, problem.settings.steps)


@torch.no_grad()
def back_projected(problem: Problem, h: Tensor, x_d: Tensor) -> Tensor:
    """x <- x + x_d - D(W_h^-1(W_h(E(x)))): what the decoder loses of x is put back, a fixed point is consistent."""
    measurement, x = problem.measurement, x_d
    for _ in range(problem.settings.back_projections):
        z = problem.codec.encode(x, problem.encoder_csnr_db)
        x = (x + x_d - confirmed(problem.codec, measurement, z, h)).clamp(0, 1)
    return x
