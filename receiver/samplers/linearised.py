"""The measurement linearised at an image: whitened residual, Jacobian, and the Gauss-Newton step they give."""

from __future__ import annotations

from collections.abc import Callable

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
        #: (B, 2 K) whitened.
        self.residual = torch.view_as_real(weight * measurement.received_cells()).flatten(1) - self._predicted.detach()

    def transposed(self, u: Tensor) -> Tensor:
        """Return J^T u, (B, C, H, W), of u (B, 2 K); differentiable in u where u asks for a gradient."""
        (found,) = torch.autograd.grad(self._predicted, self._x, u, retain_graph=True, create_graph=u.requires_grad)
        return found

    @torch.no_grad()
    def gauss_newton(self, left: Tensor, covariance: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
        """Return C J^T (J C J^T + I)^-1 left, (B, C, H, W), by conjugate gradients from 0, image by image.

        It is the change of x of most posterior density, where changes are N(0, C). One iteration takes one product
        with J^T; every further one takes another, and one with J.

        Args:
            left: (B, 2 K), what the changes have to explain.
            covariance: multiplies images (B, C, H, W) by C.
            iterations: conjugate gradient steps.
        """
        direction, power = left, left.square().sum(dim=1, keepdim=True)
        total = torch.zeros_like(self._x)
        for remaining in reversed(range(iterations)):
            direction = direction.detach().requires_grad_(remaining > 0)
            pulled = self.transposed(direction)
            up = covariance(pulled)
            # Of C along J^T direction, at least 0: the Jacobian of a network is no covariance but nearly.
            curvature = (pulled * up).flatten(1).sum(dim=1, keepdim=True).clamp(min=0)
            length = power / (curvature + direction.square().sum(dim=1, keepdim=True)).clamp(min=1e-20)
            total = total + length[:, :, None, None] * up
            if remaining:
                # J^T u is linear in u, so that its own derivative is a product with J.
                (applied,) = torch.autograd.grad(pulled, direction, up)
                left = left - length * (applied + direction)
                before, power = power, left.square().sum(dim=1, keepdim=True)
                direction = left + power / before.clamp(min=1e-20) * direction
        return total
