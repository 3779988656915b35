"""Back projection: posterior sampling with neither gradient nor Jacobian.

The null-space step of DDNM (Wang et al. 2023, arXiv 2212.00490) with the codec's own decoder as the pseudo-inverse:
what the code tells of an image comes from the measurement, what it can't tell from the prior,

    x_0 <- x0_hat + trust (target - D(W_h^-1 W_h E(x0_hat))),
    target = trust fit D(W_h^-1 y) + (1 - trust fit) D(W_h^-1 W_h E(x_d)),    trust = 1 / (1 + noise variance),

where trust is the share of a received symbol's power that is not noise: without it noise is fitted at low SNR. A step
takes one pass of the prior, the encoder and the decoder each.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from receiver.channel.decoding import for_decoder
from receiver.samplers.confirming import confirmed
from receiver.samplers.diffusion import (
    descending_levels,
    diffuse,
    from_image,
    reduced_precision,
    step_down,
    to_image,
)
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem
from receiver.samplers.taps import Taps, drawn_taps, known_taps

#: The last level of 1000 that the prior is asked at.
_LAST_LEVEL = 30


def back_projection(problem: Problem) -> Posterior:
    """Sample with the taps that the pilots gave."""
    return _sample(*known_taps(problem))


def blind_back_projection(problem: Problem) -> Posterior:
    """Sample with taps that are drawn at every step from what image and measurement tell of them."""
    return _sample(*drawn_taps(problem))


@torch.no_grad()
def _sample(taps: Taps, x_d: Tensor) -> Posterior:
    """Sample from the diffused x_d (B, C, H, W), decoded with the taps."""
    problem, settings = taps.problem, taps.problem.settings
    denoiser, schedule = problem.denoiser, problem.denoiser.schedule
    levels = descending_levels(problem.first_level, _LAST_LEVEL, settings.steps, schedule).to(x_d.device)
    x, trace = x_d, []
    with reduced_precision(len(x_d), x_d.device):
        x_t = diffuse(schedule, from_image(x_d), levels[:1].expand(len(x_d)), problem.generator)
        target = _target(taps, x_d)
        for index, (t, s) in enumerate(itertools.pairwise(levels[:, None].expand(-1, len(x_d)))):
            x0_hat = denoiser(x_t, t).float()
            if taps.prior is not None:
                taps = taps.given_image(to_image(x0_hat))
                target = _target(taps, x_d)
            again, distance = _confirmed(taps, to_image(x0_hat))
            x = to_image(x0_hat) + _trust(problem) * (target - again)
            trace.append(distance)
            x_t = step_down(schedule, x_t, x0_hat, (t, s), settings.eta, problem.generator, moved=from_image(x))
            if problem.on_step is not None:
                problem.on_step(index, from_image(x))
    return taps.posterior(x.clamp(0, 1), x_d, trace)


def _target(taps: Taps, x_d: Tensor) -> Tensor:
    """Return what the decoder makes of the measurement, mixed with what it makes of its own answer."""
    problem = taps.problem
    measured = problem.codec.decode(*for_decoder(problem.codec, problem.measurement, taps.h)).float()
    fit = problem.settings.fit * _trust(problem)
    return fit * measured + (1 - fit) * _confirmed(taps, x_d)[0]


def _trust(problem: Problem) -> Tensor:
    """Return the share of the power of received symbols that is not noise, (B, 1, 1, 1)."""
    measurement = problem.measurement
    return (1 / (1 + measurement.noise_var))[measurement.frame_of_image].view(-1, 1, 1, 1)


def _confirmed(taps: Taps, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return what the decoder would make of images x (B, C, H, W) if they had been sent and no noise added.

    Beside it stands the squared distance (B,) of the measurement from that.
    """
    problem, measurement = taps.problem, taps.problem.measurement
    z = problem.codec.encode(x, problem.encoder_csnr_db)
    again = confirmed(problem.codec, measurement, z, taps.h).float()
    return again, measurement.distance(z, taps.h)
