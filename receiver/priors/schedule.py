"""The diffusion schedule."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdr.errors import ConfigError, InputError


@dataclass(frozen=True)
class Schedule:
    """The linear variance-preserving schedule of DDPM (Ho et al. 2020, arXiv 2006.11239).

    Attributes:
        num_steps: T.
        beta_first: variance added at t = 1.
        beta_last: variance added at t = T.
        alpha_bar: (T + 1,) float64, product of 1 - beta up to t, alpha_bar[0] = 1.

    Example:
        >>> schedule = Schedule()
        >>> schedule.alpha_bar.shape, float(schedule.alpha_bar[0])
        (torch.Size([1001]), 1.0)
    """

    num_steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)
    _copies: dict[torch.device, Tensor] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.num_steps < 1 or not 0 < self.beta_first <= self.beta_last < 1:
            raise ConfigError(
                f"A schedule needs at least one step and 0 < beta_first <= beta_last < 1, got {self.num_steps}, "
                f"{self.beta_first}, {self.beta_last}."
            )
        betas = torch.linspace(self.beta_first, self.beta_last, self.num_steps, dtype=torch.float64)
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, 0)])
        object.__setattr__(self, "alpha_bar", alpha_bar)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(alpha_bar[t]) and sqrt(1 - alpha_bar[t]), shaped to multiply the (B, ...) tensor `like`.

        Args:
            t: (B,) int64 in 0..T.
            like: (B, ...) gives shape, dtype and device.

        Raises:
            InputError: a step outside 0..T, or not one step per row.
        """
        if t.shape != like.shape[:1] or t.dtype != torch.int64:
            raise InputError(f"Steps t must be int64 of shape ({like.shape[0]},), got {t.dtype} {tuple(t.shape)}.")
        # A GPU would have to be waited for; there the table's own bounds are kept.
        if t.device.type == "cpu" and (int(t.min()) < 0 or int(t.max()) > self.num_steps):
            raise InputError(f"Steps t must lie in 0..{self.num_steps}, got {int(t.min())}..{int(t.max())}.")
        alpha_bar = self._on(t.device)[t].view(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)

    def _on(self, device: torch.device) -> Tensor:
        """Return `alpha_bar` on a device; it is taken there once."""
        if device not in self._copies:
            self._copies[device] = self.alpha_bar.to(device)
        return self._copies[device]

    def diffuse(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Return x_t of clean images (B, ...) in [-1, 1] and standard normal noise of the same shape."""
        signal, noise = self.coefficients(t, x_0)
        return signal * x_0 + noise * eps
