"""Guidance by the pseudo-inverse: PiGDM (Song et al. 2023, OpenReview 9_gsMA8MRKQ) over the codec.

The encoder is linearised at x0_hat, noise variance and gains are exact, and p(x_0 | x_t) is taken as N(x0_hat, r2 I)
with r2 = 1 - abar:

    x_s <- step(x_t, x0_hat) + rate sqrt(abar) (dx0_hat/dx_t)^T J^T (J J^T + I / r2)^-1 w (y - W_h(E(x0_hat))).

A step takes one pass of prior and encoder, and one product with the Jacobian of each.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from receiver.samplers.diffusion import (
    diffuse,
    from_image,
    reduced_precision,
    reverse_steps,
    step_down,
    to_image,
)
from receiver.samplers.linearised import LinearisedMeasurement
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem
from receiver.samplers.taps import Taps, drawn_taps, known_taps


def pseudo_inverse(problem: Problem) -> Posterior:
    """Sample with the taps that the pilots gave."""
    return sampled_from(usual_level(problem), *known_taps(problem))


def blind_pseudo_inverse(problem: Problem) -> Posterior:
    """Sample with taps that are drawn at every step from what image and measurement tell of them."""
    return sampled_from(usual_level(problem), *drawn_taps(problem))


def usual_level(problem: Problem) -> Tensor:
    """Return the problem's first level for every image, (B,) of 1000."""
    measurement = problem.measurement
    return torch.full((measurement.num_images,), problem.first_level, device=measurement.y.device)


def sampled_from(first_level: Tensor, taps: Taps, x_d: Tensor) -> Posterior:
    """Sample from the diffused x_d (B, C, H, W), decoded with the taps.

    Args:
        first_level: (B,) int64, the diffusion steps of 1000 to which the images are diffused.
        taps: known, or drawn at every step.
        x_d: decoded images in [0, 1].
    """
    problem, settings = taps.problem, taps.problem.settings
    denoiser, schedule = problem.denoiser, problem.denoiser.schedule
    steps = reverse_steps((first_level * schedule.num_steps // 1000).clamp(min=1), settings.steps)
    x_t = diffuse(schedule, from_image(x_d), steps[0], problem.generator)
    trace = []
    for index, (t, s) in enumerate(itertools.pairwise(steps)):
        x_t = x_t.detach().requires_grad_()
        with torch.enable_grad(), reduced_precision(len(x_d), x_d.device):
            x0_hat = denoiser(x_t, t).float()
        taps = taps.given_image(to_image(x0_hat.detach()))
        signal, noise = schedule.coefficients(t, x_t)
        r2 = noise.square()
        local = LinearisedMeasurement(problem, taps.h, x0_hat)
        trace.append(local.residual.square().sum(dim=1))
        pull = local.gauss_newton(local.residual, lambda v, r2=r2: r2 * v, settings.iterations)
        (gradient,) = torch.autograd.grad(x0_hat, x_t, pull)
        with torch.no_grad():
            x0_hat = x0_hat.detach()
            moved = step_down(schedule, x_t.detach(), x0_hat, (t, s), settings.eta, problem.generator)
            x_t = moved + settings.rate * signal * gradient
        if problem.on_step is not None:
            problem.on_step(index, x0_hat)
    return taps.posterior(to_image(x_t).clamp(0, 1), x_d, trace)
