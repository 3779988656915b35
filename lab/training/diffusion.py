"""Train diffusion priors: their loss, where they start, and how well they denoise in one step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.evaluation.metrics import psnr_db
from receiver.bundles.bundle import load_denoiser
from receiver.codecs.codec import weights_digest
from receiver.priors.denoiser import NetworkDenoiser
from sdr.errors import ConfigError

_BATCH = 250


def prediction_errors(denoiser: NetworkDenoiser, images: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Return the squared error of what the network predicts, (B,).

    Args:
        denoiser: in training.
        images: (B, C, H, W) in [0, 1].
        t: (B,) steps.
        generator: draws the noise.
    """
    x_0 = 2 * images - 1
    eps = torch.randn(x_0.shape, generator=generator, device=x_0.device)
    prediction = denoiser.predict(denoiser.schedule.diffuse(x_0, t, eps), t)
    if denoiser.prediction == "epsilon":
        return (prediction - eps).square().mean(dim=(1, 2, 3))
    signal, noise = denoiser.schedule.coefficients(t, x_0)
    return (prediction - (signal * eps - noise * x_0)).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def one_shot_quality(
    denoiser: NetworkDenoiser, images: Tensor, steps: Sequence[int], generator: torch.Generator
) -> dict[str, float]:
    """Measure x0_hat from one evaluation of the network, as mean PSNR in dB over images (n, C, H, W), by step."""
    quality = {}
    for step in steps:
        values = []
        for part in images.split(_BATCH):
            t = torch.full((len(part),), step)
            x_t = denoiser.schedule.diffuse(2 * part - 1, t, torch.randn(part.shape, generator=generator))
            values.append(psnr_db(((denoiser(x_t, t) + 1) / 2).clamp(0, 1), part))
        quality[f"x0_hat psnr_db at t = {step}"] = round(float(torch.cat(values).mean()), 2)
    return quality


def start_denoiser(denoiser: NetworkDenoiser, start: str | Path | None) -> dict[str, str]:
    """Give a denoiser the weights of that of the bundle `start`, if there is one.

    Returns:
        an entry by which this beginning is recorded.

    Raises:
        ConfigError: the bundle's denoiser is made of something else.
    """
    if start is None:
        return {}
    begun = load_denoiser(start)
    try:
        denoiser.load_state_dict(begun.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"The prior of {start} is of another kind. Give a bundle of the same kind.") from error
    return {"start": weights_digest({}, begun.state_dict())}
