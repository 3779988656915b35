"""The measurement linearised at an image: whitened residual, Jacobian, and the Gauss-Newton step they give."""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.samplers.diffusion import reduced_precision, to_image
from receiver.samplers.problem import Problem


class LinearisedMeasurement:
    """y about images x: r = w (y - W_h(E(x))) as real numbers of unit noise variance, and J = d(w W_h(E(x)))/dx.

    Gain and noise variance of every carrier enter as they are.

    Args:
        problem: measurement and codec.
        h: (F, L) taps.
        x: (B, C, H, W) on the diffusion scale [-1, 1].
    """

    def __init__(self, problem: Problem, h: Tensor, x: Tensor) -> None:
        measurement = problem.measurement
        self._x = x.detach().requires_grad_()
        weight = (2 / measurement.cell_noise_var).sqrt()
        with torch.enable_grad():
            with reduced_precision(len(x), x.device):
                z = problem.codec.encode(to_image(self._x), problem.encoder_csnr_db)
            self._predicted = torch.view_as_real(weight * measurement.predicted_cells(z, h)).flatten(1)
            self._zero = torch.zeros_like(self._predicted, requires_grad=True)
            # Linear in `_zero`, so that its own derivative is a product with J.
            (self._back,) = torch.autograd.grad(self._predicted, self._x, self._zero, create_graph=True)
        #: (B, 2 K) whitened.
        self.residual = torch.view_as_real(weight * measurement.received_cells()).flatten(1) - self._predicted.detach()

    def transposed(self, u: Tensor) -> Tensor:
        """Return J^T u, (B, C, H, W), of u (B, 2 K)."""
        return torch.autograd.grad(self._predicted, self._x, u, retain_graph=True)[0]

    def applied(self, v: Tensor) -> Tensor:
        """Return J v, (B, 2 K), of v (B, C, H, W)."""
        return torch.autograd.grad(self._back, self._zero, v, retain_graph=True)[0]

    def gauss_newton(self, left: Tensor, prior_var: float | Tensor, iterations: int) -> Tensor:
        """Return J^T (J J^T + I / prior_var)^-1 left, (B, C, H, W), by conjugate gradients from 0, image by image.

        It is the change of x of most posterior density, where changes are N(0, prior_var I), one number or (B, 1), and
        `left` (B, 2 K) is what they have to explain.
        """
        direction, power = left, left.square().sum(dim=1, keepdim=True)
        total = torch.zeros_like(self._x)
        for _ in range(iterations):
            up = self.transposed(direction)
            applied = self.applied(up) + direction / prior_var
            length = power / (direction * applied).sum(dim=1, keepdim=True).clamp(min=1e-20)
            total = total + length[:, :, None, None] * up
            left = left - length * applied
            before, power = power, left.square().sum(dim=1, keepdim=True)
            direction = left + power / before.clamp(min=1e-20) * direction
        return total.detach()
