"""Refine what an image codec left of an image by the diffusion prior, the codec's error as the likelihood.

The decoded image is taken to be the original plus white noise of the error that the block states. From the diffusion
step of about that noise, every step replaces the prior's estimate by the mean of it and of the decoded image, weighted
by how sure each is (as DiffPIR does: Zhu et al. 2023), then goes on without new noise. A codec's error is not white, so
this is a stand-in for generative compression and no more.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from receiver.priors.denoiser import Denoiser
from receiver.samplers.diffusion import diffuse, from_image, reverse_steps, to_image
from receiver.samplers.randomness import Randomness

#: Reverse steps.
STEPS = 12
#: Diffusion noise at the start over the codec's error, as variances.
_START = 1.0


@torch.no_grad()
def refine(denoiser: Denoiser, decoded: Tensor, psnr_db: Tensor, generator: Randomness) -> Tensor:
    """Return images refined by the prior, (B, C, H, W) in [0, 1].

    Args:
        denoiser: for images of this shape.
        decoded: (B, C, H, W) in [0, 1].
        psnr_db: (B,) of these.
        generator: of the noise that the steps begin with.
    """
    schedule = denoiser.schedule
    # The diffusion scale is twice as wide.
    error_var = 4 * 10 ** (-psnr_db.to(decoded) / 10)
    abar = schedule.alpha_bar[1:].to(decoded)
    noise_to_signal = (1 - abar) / abar
    start = (noise_to_signal[None] - _START * error_var[:, None]).abs().argmin(dim=1) + 1
    steps = reverse_steps(start, STEPS)
    x_d = from_image(decoded)
    x_t = diffuse(schedule, x_d, start, generator)
    for t, s in itertools.pairwise(steps):
        signal, noise = schedule.coefficients(t, x_t)
        prior_var = (noise / signal).square()
        weight = prior_var / (prior_var + error_var[:, None, None, None])
        mean = (1 - weight) * denoiser(x_t, t) + weight * x_d
        direction = (x_t - signal * mean) / noise
        signal, noise = schedule.coefficients(s, x_t)
        x_t = signal * mean + noise * direction
    return to_image(x_t).clamp(0, 1)
