"""Likelihoods of learned compression: how many bits an entropy coder would spend on a latent.

Nothing is coded with them here: NTSCC+ sets its rates by them. Names are those of the published checkpoints, in which
the layers of the factorised density are called `_matrix0` or, written by later libraries, `matrices.0`.
"""

from __future__ import annotations

import math
import re
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks.swin import dropping

#: No likelihood is smaller: a latent costs at most 30 bits.
LIKELIHOOD_MIN = 1e-9
#: Smallest standard deviation of a Gaussian latent.
SCALE_MIN = 0.11

_CDF_TABLES = ("_offset", "_quantized_cdf", "_cdf_length")


def gaussian_likelihood(y: Tensor, scales: Tensor, means: Tensor) -> Tensor:
    """Return the probability of the integer step that each latent rounds to, at least 1e-9.

    Args:
        y: latents, any shape.
        scales: standard deviations of the latents, raised to 0.11 where smaller.
        means: means of the latents; steps are counted from them.
    """
    scales = scales.clamp(min=SCALE_MIN)
    distance = (y - means).round().abs()
    upper, lower = ((half - distance) / scales / math.sqrt(2) for half in (0.5, -0.5))
    return (0.5 * (torch.erfc(-upper) - torch.erfc(-lower))).clamp(min=LIKELIHOOD_MIN)


class GaussianConditional(nn.Module):
    """Holds no parameters: stands for the tables that published checkpoints carry under its name."""

    def __init__(self) -> None:
        super().__init__()
        self.register_load_state_dict_pre_hook(
            dropping(
                *_CDF_TABLES, "scale_table", "scale_bound", "lower_bound_scale.bound", "likelihood_lower_bound.bound"
            )
        )


class EntropyBottleneck(nn.Module):
    """A learned density for each channel (Balle et al. 2018, arXiv 1802.01436).

    Args:
        channels: of the latents.
        widths: hidden units of the network that models the cumulative distribution.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (3, 3, 3, 3)) -> None:
        super().__init__()
        sizes = (1, *widths, 1)
        self.layers = len(sizes) - 1
        for i, (inside, outside) in enumerate(pairwise(sizes)):
            start = math.log(math.expm1(1 / 10 ** (1 / self.layers) / outside))
            self.register_parameter(f"_matrix{i}", nn.Parameter(torch.full((channels, outside, inside), start)))
            self.register_parameter(f"_bias{i}", nn.Parameter(torch.rand(channels, outside, 1) - 0.5))
            if i < self.layers - 1:
                self.register_parameter(f"_factor{i}", nn.Parameter(torch.zeros(channels, outside, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-10.0, 0.0, 10.0]).repeat(channels, 1, 1))
        self.register_load_state_dict_pre_hook(_rename)
        self.register_load_state_dict_pre_hook(dropping(*_CDF_TABLES, "target", "likelihood_lower_bound.bound"))

    def _logits(self, z: Tensor) -> Tensor:
        """(C, 1, n) to the logits of the cumulative distribution."""
        for i in range(self.layers):
            z = F.softplus(self.get_parameter(f"_matrix{i}")) @ z + self.get_parameter(f"_bias{i}")
            if i < self.layers - 1:
                z = z + self.get_parameter(f"_factor{i}").tanh() * z.tanh()
        return z

    def forward(self, z: Tensor) -> Tensor:
        """Return the probability (B, C, H, W) of each latent's surrounding unit step, at least 1e-9."""
        flat = z.transpose(0, 1).flatten(1)[:, None]
        lower, upper = self._logits(flat - 0.5), self._logits(flat + 0.5)
        # The difference of sigmoids on the side where they are small, which loses no digits.
        sign = -(lower + upper).sign()
        likelihood = ((sign * upper).sigmoid() - (sign * lower).sigmoid()).abs().clamp(min=LIKELIHOOD_MIN)
        return likelihood[:, 0].view(z.shape[1], z.shape[0], *z.shape[2:]).transpose(0, 1)


def _rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Give the density's layers the older of their two names."""
    for key in list(state):
        found = re.fullmatch(re.escape(prefix) + r"(matrices|biases|factors)\.(\d+)", key)
        if found:
            short = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}[found[1]]
            state[f"{prefix}{short}{found[2]}"] = state.pop(key)
