"""Bring sampled images down to the noise level where the sampler left them above it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from receiver.samplers.problem import Problem

#: Step of Adam in pixels at the start; the smallest tried that closed the gap at 30 dB within 40 steps.
_CONSISTENCY_RATE = 0.0075


def down_to_noise(problem: Problem, x: Tensor, h: Tensor) -> Tensor:
    """Move images whose normalised residual exceeds 1 towards the measurement until it no longer does.

    The guidance's steps have a fixed length (a norm's gradient), too long to settle within a small noise. This is the
    discrepancy principle: an image stops at the noise level, so that noise is never fitted.

    Args:
        x: (B, C, H, W) images in [0, 1].
        h: (F, L) their taps.
    """
    measurement = problem.measurement
    x = x.clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=_CONSISTENCY_RATE)
    total = problem.settings.consistency_steps
    for index in range(total):
        residual = measurement.residual(problem.codec.encode(x, measurement.csnr_db), h)
        done = (residual <= 1).view(-1, 1, 1, 1)
        if bool(done.all()):
            break
        (x.grad,) = torch.autograd.grad((residual - 1).clamp(min=0).sum(), x)
        optimiser.param_groups[0]["lr"] = _CONSISTENCY_RATE / 2 * (1 + math.cos(math.pi * index / total))
        before = x.detach().clone()
        optimiser.step()
        with torch.no_grad():
            x.copy_(torch.where(done, before, x))
    return x.detach().clamp(0, 1)
