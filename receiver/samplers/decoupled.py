"""Decoupled annealing: DAPS (Zhang et al. 2024, arXiv 2407.01521) with the true likelihood and no strength to tune.

At every level x_0 is drawn from p(x_0 | x_t, y) and diffused to the next level, so that an error of one level is not
carried to the next. The prior's part is N(x0_hat, r2 I), with r2 what it is for independent pixels of a known variance
c, r2 = c (1 - abar) / (c abar + 1 - abar); the measurement is linearised at x0_hat. The draw perturbs both and solves,

    x' = x0_hat + sqrt(r2) e,   x_0 = x' + J^T (J J^T + I / r2)^-1 (w (y - W_h(E(x'))) + e'),

which is exact where the encoder is linear and pixels are independent.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from receiver.samplers.diffusion import (
    descending_levels,
    diffuse,
    from_image,
    reduced_precision,
    to_image,
)
from receiver.samplers.linearised import LinearisedMeasurement
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem
from receiver.samplers.randomness import standard_normal
from receiver.samplers.taps import Taps, drawn_taps, known_taps

#: The last level of 1000: a draw of less than a thousandth of white's range is left in the image.
_LAST_LEVEL = 1


def decoupled(problem: Problem) -> Posterior:
    """Sample with the taps that the pilots gave."""
    return _sample(*known_taps(problem))


def blind_decoupled(problem: Problem) -> Posterior:
    """Sample with taps that are drawn at every level from what image and measurement tell of them."""
    return _sample(*drawn_taps(problem))


def _sample(taps: Taps, x_d: Tensor) -> Posterior:
    """Sample from the diffused x_d (B, C, H, W), decoded with the taps."""
    problem, settings = taps.problem, taps.problem.settings
    denoiser, schedule = problem.denoiser, problem.denoiser.schedule
    levels = descending_levels(problem.first_level, _LAST_LEVEL, settings.steps, schedule).to(x_d.device)
    levels = levels[:, None].expand(-1, len(x_d))
    x_t = diffuse(schedule, from_image(x_d), levels[0], problem.generator)
    x_0, trace = from_image(x_d), []
    for index, (t, s) in enumerate(itertools.pairwise(levels)):
        with torch.no_grad(), reduced_precision(len(x_d), x_d.device):
            x0_hat = denoiser(x_t, t).float()
        taps = taps.given_image(to_image(x0_hat))
        abar = float(schedule.alpha_bar[int(t[0])])
        prior_var = settings.pixel_var * (1 - abar) / (settings.pixel_var * abar + 1 - abar)
        x_0, distance = _drawn(taps, x0_hat, prior_var)
        trace.append(distance)
        x_t = diffuse(schedule, x_0, s, problem.generator)
        if problem.on_step is not None:
            problem.on_step(index, x_0)
    return taps.posterior(to_image(x_0).clamp(0, 1), x_d, trace)


def _drawn(taps: Taps, x0_hat: Tensor, prior_var: float) -> tuple[Tensor, Tensor]:
    """Draw x_0 (B, C, H, W) from N(x0_hat, prior_var I) and the likelihood.

    Beside it stands the whitened squared distance (B,) of the measurement from where the draw began.
    """
    problem = taps.problem
    around = x0_hat + prior_var**0.5 * standard_normal(x0_hat.shape, problem.generator, x0_hat.device)
    local = LinearisedMeasurement(problem, taps.h, around)
    noise = standard_normal(local.residual.shape, problem.generator, x0_hat.device)
    x_0 = around + local.gauss_newton(local.residual + noise, lambda v: prior_var * v, problem.settings.iterations)
    return x_0, local.residual.square().sum(dim=1)
