"""DiffCom (Algorithm 1), and the variants of Table V that begin from noise, too."""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.samplers.consistency import down_to_noise
from receiver.samplers.deterministic import decoded
from receiver.samplers.diffusion import Guidance, State, Trajectory, reverse_diffusion, reverse_steps, to_image
from receiver.samplers.guidance import AlignedGuidance, MeasurementGuidance, PixelGuidance
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem
from receiver.samplers.randomness import standard_normal


def diffcom(problem: Problem) -> Posterior:
    """Sample from noise, pulled by the measurement at every step (Algorithm 1)."""
    guidance = MeasurementGuidance(problem.codec, problem.measurement, problem.h, problem.settings.zeta)
    x, trace, _ = guided(problem, guidance, from_noise(problem))
    return problem.posterior(down_to_noise(problem, x, problem.h), problem.h, trace)


def pixel_aligned(problem: Problem) -> Posterior:
    """Sample as `diffcom` with a distance that also holds the image to the deterministic decoding (Table V, d)."""
    measured = MeasurementGuidance(problem.codec, problem.measurement, problem.h, problem.settings.zeta)
    aligned = PixelGuidance(decoded(problem, problem.h), problem.settings.gamma)
    x, trace, _ = guided(problem, AlignedGuidance(measured, aligned), from_noise(problem))
    return problem.posterior(down_to_noise(problem, x, problem.h), problem.h, trace)


def post_processing(problem: Problem) -> Posterior:
    """Refine the deterministic decoding by the prior in the pixel domain (Table V, "DeepJSCC + DPS")."""
    guidance = PixelGuidance(decoded(problem, problem.h), problem.settings.gamma)
    x, trace, _ = guided(problem, guidance, from_noise(problem))
    return problem.posterior(x, problem.h, trace)


def from_noise(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return x_T (B, C, H, W) and its steps (steps + 1, B)."""
    count, device = problem.measurement.num_images, problem.measurement.y.device
    start = torch.full((count,), problem.denoiser.schedule.num_steps, device=device)
    shape = (count, *problem.denoiser.image_shape)
    return standard_normal(shape, problem.generator, device), reverse_steps(start, problem.settings.steps)


def guided(problem: Problem, guidance: Guidance[State], start: tuple[Tensor, Tensor]) -> Trajectory[State]:
    """Run the reverse diffusion from x_t and its steps; the images that it ends with are in [0, 1]."""
    found = reverse_diffusion(
        problem.denoiser,
        guidance,
        *start,
        generator=problem.generator,
        rule=problem.settings.rule,
        on_step=problem.on_step,
    )
    return found._replace(x=to_image(found.x).clamp(0, 1))
