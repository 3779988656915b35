"""The channel given the symbols: a linear-Gaussian posterior in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from receiver.channel.prior import ChannelPrior
from receiver.measurement.model import Measurement


@dataclass(frozen=True)
class ConditionalChannel:
    """Posterior p(h | x, y) = CN(mean, covariance) and the evidence log p(y | x), per frame.

    Attributes:
        mean: (..., L) complex.
        covariance: (..., L, L) complex.
        log_evidence: (...,) nats, h marginalised.
    """

    mean: Tensor
    covariance: Tensor
    log_evidence: Tensor


def solve(
    gram: Tensor, cross: Tensor, energy: Tensor, cells: Tensor, noise_var: Tensor, power: Tensor
) -> ConditionalChannel:
    """Condition h on y = A h + noise by sufficient statistics.

    Args:
        gram: (..., L, L) A^H A.
        cross: (..., L) A^H y.
        energy: (...,) ||y||^2.
        cells: (...,) length of y.
        noise_var: (...,) per cell.
        power: (..., L) prior of h.
    """
    noise = noise_var[..., None, None]
    precision = gram / noise + torch.diag_embed(1 / power).to(gram)
    factor = torch.linalg.cholesky(precision)
    scaled = (cross / noise_var[..., None])[..., None]
    mean = torch.cholesky_solve(scaled, factor)[..., 0]
    log_det = 2 * torch.diagonal(factor, dim1=-2, dim2=-1).real.log().sum(-1) + power.log().sum(-1)
    fit = energy / noise_var - (scaled[..., 0].conj() * mean).real.sum(-1)
    log_evidence = -fit - log_det - cells * (noise_var * torch.pi).log()
    return ConditionalChannel(mean, torch.cholesky_inverse(factor), log_evidence)


def tap_steering(carriers: Tensor, num_taps: int, fft_size: int) -> Tensor:
    """Return exp(-2 pi i k l / N) for carriers k (...) and taps l as (..., L)."""
    angle = -2 * torch.pi / fft_size * (carriers[..., None] * torch.arange(num_taps, device=carriers.device) % fft_size)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64)


def conditional_channel(
    measurement: Measurement, z: Tensor, prior: ChannelPrior, noise_var: Tensor | None = None
) -> ConditionalChannel:
    """Return p(h | y, z) of every frame, all its images (and tracking carriers) taken together.

    Args:
        measurement: of the frames.
        z: (B, K) sent symbols.
        prior: of the taps.
        noise_var: (F,) linear, overrides the measurement's (annealing); cells keep their ratios to it.
    """
    noise_var = measurement.noise_var if noise_var is None else noise_var
    size = measurement.layout.fft_size
    motion = measurement.motion
    num_taps = prior.num_taps if motion is None else prior.num_taps // motion.shape[-1]
    steering = tap_steering(torch.arange(size, device=z.device), num_taps, size)
    sent, occupied = measurement.transmitted_grid(z), measurement.sent_grid(z) != 0
    # A noisier cell counts by so much less; what is left out of the evidence is the same for all taps and symbols.
    weight = occupied / measurement.noise_ratio
    power, matched = sent.abs().square() * weight, sent.conj() * measurement.y * weight
    energy = (measurement.y.abs().square() * weight).sum(dim=(1, 2))
    if motion is None:
        power, matched = power.sum(dim=1), matched.sum(dim=1)
        gram = torch.einsum("fn,nl,nm->flm", power.to(steering.dtype), steering.conj(), steering)
        cross = matched @ steering.conj()
    else:
        motion = motion.to(power)
        power = torch.einsum("fsi,fsj,fsn->fijn", motion, motion, power)
        gram = torch.einsum("fijn,nl,nm->filjm", power.to(steering.dtype), steering.conj(), steering)
        gram = gram.flatten(3, 4).flatten(1, 2)
        cross = (motion.mT.to(matched.dtype) @ matched @ steering.conj()).flatten(1)
    if prior.gram is not None and prior.cross is not None:
        # Known symbols count as further cells; what they add to the evidence is the same for all symbols.
        gram = gram + noise_var[:, None, None] * prior.gram.to(gram)
        cross = cross + noise_var[:, None] * prior.cross.to(cross)
    rows = torch.arange(measurement.num_frames, device=energy.device)
    return solve(gram, cross, energy, occupied.sum(dim=(1, 2)), noise_var, prior.at(rows).to(energy))
