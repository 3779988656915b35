"""The nonlinear transform of NTSCC+: images to latents and back, and how many bits each latent is worth.

Analysis `g_a`, synthesis `g_s`, and a hyperprior `h_a`, `h_s` with a checkerboard context: one colour of the latents
(anchors: row + column odd) predicts the other. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks.entropy import EntropyBottleneck, GaussianConditional, gaussian_likelihood
from receiver.networks.neighbourhood import NeighbourhoodGroup
from receiver.networks.swin import dropping

#: Channels per attention head.
_HEAD = 16


@dataclass(frozen=True)
class Latents:
    """What the entropy model says of the latents of images.

    Attributes:
        hyper: (B, 192, H/64, W/64) latents of the hyperprior.
        hyper_params: (B, 2 M, H/16, W/16) what the hyperprior predicts.
        scales: (B, M, H/16, W/16) predicted standard deviations.
        means: (B, M, H/16, W/16) predicted means.
        likelihoods: (B, M, H/16, W/16) probability of each rounded latent.
    """

    hyper: Tensor
    hyper_params: Tensor
    scales: Tensor
    means: Tensor
    likelihoods: Tensor

    @property
    def bits(self) -> Tensor:
        """(B, H/16, W/16) bits of each position, summed over its channels."""
        return (-self.likelihoods.log2()).clamp(min=0).sum(dim=1)


def is_anchor(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return (height, width) bool: True on the colour of the checkerboard that predicts the other."""
    return (torch.arange(height, device=device)[:, None] + torch.arange(width, device=device)) % 2 == 1


class _Context(nn.Conv2d):
    """A convolution that sees one colour of the checkerboard from the other."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out, 5, padding=2)
        self.register_load_state_dict_pre_hook(dropping("mask"))

    def forward(self, input: Tensor) -> Tensor:
        seen = is_anchor(5, 5, input.device)
        return F.conv2d(input, self.weight * seen, self.bias, padding=2)


def _down(channels: int, out: int, kernel: int = 3) -> nn.Module:
    return nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2)


def _up(channels: int, out: int, kernel: int = 3) -> nn.Module:
    return nn.ConvTranspose2d(channels, out, kernel, stride=2, padding=kernel // 2, output_padding=1)


def _group(channels: int, depth: int, kernel: int = 7) -> nn.Module:
    return NeighbourhoodGroup(channels, depth, kernel, channels // _HEAD)


class NTC(nn.Module):
    """The transform and its entropy model. H and W must divide by 64.

    Args:
        N: channels of the first stage and, times 1.5, of the hyperprior.
        M: channels of the latents.

    Raises:
        ValueError: channels that do not divide into attention heads of 16.
    """

    def __init__(self, N: int = 128, M: int = 320) -> None:
        super().__init__()
        self.M = M
        hyper = N * 3 // 2
        widths, depths = (N, N * 3 // 2, N * 2, M), (2, 2, 6, 2)
        ins = (3, *widths[:-1])
        self._add("g_a", [
            layer
            for i in range(4)
            for layer in (_down(ins[i], widths[i], 3 if i else 5), _group(widths[i], depths[i]))
        ])  # fmt: skip
        self._add("g_s", [
            layer
            for i in (3, 2, 1, 0)
            for layer in (_group(widths[i], depths[i]), _up(widths[i], ins[i], 3 if i else 5))
        ])  # fmt: skip
        self._add("h_a", [_down(M, hyper), _group(hyper, 2, 3), _down(hyper, hyper), _group(hyper, 2, 3)])
        self._add("h_s", [_group(hyper, 2, 3), _up(hyper, hyper), _group(hyper, 2, 3), _up(hyper, 2 * M)])
        self.sc_transform = _Context(M, 2 * M)
        self.entropy_parameters = nn.Sequential(
            nn.Conv2d(4 * M, M * 10 // 3, 1), nn.GELU(), nn.Conv2d(M * 10 // 3, M * 8 // 3, 1), nn.GELU(),
            nn.Conv2d(M * 8 // 3, 2 * M, 1),
        )  # fmt: skip
        self.entropy_bottleneck = EntropyBottleneck(hyper)
        self.gaussian_conditional = GaussianConditional()

    def _add(self, name: str, layers: list[nn.Module]) -> None:
        for i, layer in enumerate(layers):
            self.add_module(f"{name}{i}", layer)

    def _run(self, name: str, count: int, x: Tensor) -> Tensor:
        for i in range(count):
            x = self.get_submodule(f"{name}{i}")(x)
        return x

    def analyse(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] to latents (B, M, H/16, W/16)."""
        return self._run("g_a", 8, images)

    def synthesise(self, y: Tensor) -> Tensor:
        """Latents (B, M, H/16, W/16) to images (B, 3, H, W), about [0, 1]."""
        return self._run("g_s", 8, y)

    def entropy(self, y: Tensor) -> Latents:
        """Return what the entropy model says of latents (B, M, h, w), without the noise that training adds."""
        hyper = self._run("h_a", 4, y)
        hyper_params = self._run("h_s", 4, hyper)
        anchors = is_anchor(y.shape[2], y.shape[3], y.device)
        context = self.sc_transform(y * anchors) * ~anchors
        scales, means = self.entropy_parameters(torch.cat([hyper_params, context], dim=1)).chunk(2, dim=1)
        return Latents(hyper, hyper_params, scales, means, gaussian_likelihood(y, scales, means))
