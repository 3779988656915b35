"""A Gaussian image distribution with a known posterior, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.codecs.codec import check_shape
from receiver.priors.schedule import Schedule
from sdr.errors import ConfigError


class AnalyticGaussianDenoiser:
    """The exact denoiser of a Gaussian image distribution N(mean, cov), against which samplers are tested.

    Args:
        mean: (C, H, W) on the [-1, 1] scale.
        cov: (D, D) covariance of the flattened image, or (C, H, W) variances of independent pixels; D = C * H * W.
        schedule: the noise schedule.
    """

    def __init__(self, mean: Tensor, cov: Tensor, schedule: Schedule | None = None) -> None:
        size = mean.numel()
        if mean.ndim != 3 or cov.shape not in (mean.shape, (size, size)):
            raise ConfigError(
                f"Need a mean (C, H, W) and a covariance ({size}, {size}) or variances like the mean, got "
                f"{tuple(mean.shape)} and {tuple(cov.shape)}."
            )
        self.schedule = Schedule() if schedule is None else schedule
        self.image_shape: tuple[int, int, int] = (mean.shape[0], mean.shape[1], mean.shape[2])
        self.mean = mean
        full = torch.diag(cov.flatten()) if cov.shape == mean.shape else cov
        #: (D, D) float64.
        self.covariance = full.double()
        variances, basis = torch.linalg.eigh(self.covariance)
        if float(variances.min()) < -1e-9 * float(variances.abs().max()):
            raise ConfigError("The covariance is not positive semidefinite.")
        self._variances, self._basis = variances.clamp(min=0), basis

    def for_shape(self, shape: tuple[int, int, int]) -> AnalyticGaussianDenoiser:
        check_shape(shape, self.image_shape, "The prior")
        return self

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.coefficients(t, x_t.double().flatten(1))
        basis, variances = self._basis.to(x_t.device), self._variances.to(x_t.device)
        centred = (x_t.double() - signal[..., None, None] * self.mean.to(x_t.device).double()).flatten(1) @ basis
        gain = signal * variances / (signal**2 * variances + noise**2)
        return self.mean.to(x_t) + ((gain * centred) @ basis.T).view_as(x_t).to(x_t.dtype)
