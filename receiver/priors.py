"""Diffusion priors: the noise schedule and denoisers that return the posterior mean of the clean image.

Time runs as in the paper: t = 1..T, with alpha_bar[0] = 1 for the clean image, and
x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps with images scaled to [-1, 1].
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.codecs import ImageShape, check_shape
from receiver.networks.local import LocalUNet, in_tiles, pad_to
from receiver.networks.unet import UNetModel
from sdr.errors import ConfigError, InputError

Prediction = Literal["epsilon", "v"]


@dataclass(frozen=True)
class PriorConfig:
    """What a `UNetDenoiser` is made of; the fields after `num_steps` are options of `UNetModel`.

    `attention_resolutions` are downsampling factors of the folded image, as in `UNetModel`.
    """

    image_shape: tuple[int, int, int] = (1, 32, 32)
    patch: int = 2
    prediction: Prediction = "v"
    learned_sigma: bool = False
    num_steps: int = 1000
    model_channels: int = 32
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (4,)
    channel_mult: tuple[float, ...] = (1, 2, 3)
    conv_resample: bool = True
    num_heads: int = 1
    num_head_channels: int = 32
    use_scale_shift_norm: bool = True
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    norm_groups: int = 8

    def __post_init__(self) -> None:
        for name in ("image_shape", "attention_resolutions", "channel_mult"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.prediction not in ("epsilon", "v"):
            raise ConfigError(f"A prior predicts 'epsilon' or 'v', not {self.prediction!r}.")
        if len(self.image_shape) != 3:
            raise ConfigError(f"The prior's image shape must be (C, H, W), got {self.image_shape}.")
        sizes = (
            *self.image_shape,
            self.patch,
            self.num_steps,
            self.model_channels,
            self.num_res_blocks,
            self.num_heads,
        )
        if min(sizes) < 1 or self.norm_groups < 1 or not self.channel_mult or min(self.channel_mult) <= 0:
            raise ConfigError(f"Every size of the prior must be at least 1, got {self}.")
        side = self.patch * 2 ** (len(self.channel_mult) - 1)
        if any(length % side for length in self.image_shape[1:]):
            raise ConfigError(f"The prior needs image sides that divide by {side}, got the shape {self.image_shape}.")

    def unet(self) -> UNetModel:
        """A freshly initialised network."""
        folded = self.image_shape[0] * self.patch**2
        try:
            return UNetModel(
                image_size=self.image_shape[1] // self.patch,
                in_channels=folded,
                model_channels=self.model_channels,
                out_channels=folded * (2 if self.learned_sigma else 1),
                num_res_blocks=self.num_res_blocks,
                attention_resolutions=self.attention_resolutions,
                channel_mult=self.channel_mult,
                conv_resample=self.conv_resample,
                num_heads=self.num_heads,
                num_head_channels=self.num_head_channels,
                use_scale_shift_norm=self.use_scale_shift_norm,
                resblock_updown=self.resblock_updown,
                use_new_attention_order=self.use_new_attention_order,
                norm_groups=self.norm_groups,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def denoiser(self) -> UNetDenoiser:
        """A freshly initialised denoiser."""
        return UNetDenoiser(self.unet(), Schedule(self.num_steps), self.image_shape, self.prediction, self.patch)


@dataclass(frozen=True)
class Schedule:
    """The linear variance-preserving schedule of DDPM (Ho et al. 2020, arXiv 2006.11239).

    Args:
        num_steps: T.
        beta_first: variance added at t = 1.
        beta_last: variance added at t = T.

    Example:
        >>> schedule = Schedule()
        >>> schedule.alpha_bar.shape, float(schedule.alpha_bar[0])
        (torch.Size([1001]), 1.0)
    """

    num_steps: int = 1000
    beta_first: float = 1e-4
    beta_last: float = 0.02
    #: (T + 1,) float64, alpha_bar[0] = 1.
    alpha_bar: Tensor = field(init=False, repr=False, compare=False)

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
        """sqrt(alpha_bar[t]) and sqrt(1 - alpha_bar[t]), shaped to multiply the (B, ...) tensor `like`.

        Args:
            t: (B,) int64 in 0..T.
            like: (B, ...) gives shape, dtype and device.

        Raises:
            InputError: a step outside 0..T, or not one step per row.
        """
        if t.shape != like.shape[:1] or t.dtype != torch.int64:
            raise InputError(f"Steps t must be int64 of shape ({like.shape[0]},), got {t.dtype} {tuple(t.shape)}.")
        if int(t.min()) < 0 or int(t.max()) > self.num_steps:
            raise InputError(f"Steps t must lie in 0..{self.num_steps}, got {int(t.min())}..{int(t.max())}.")
        alpha_bar = self.alpha_bar.to(t.device)[t].view(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)

    def diffuse(self, x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t of clean images (B, ...) in [-1, 1] and standard normal noise of the same shape."""
        signal, noise = self.coefficients(t, x_0)
        return signal * x_0 + noise * eps


class Denoiser(Protocol):
    """The prior as the samplers see it.

    Attributes:
        schedule: the noise schedule that `t` counts in.
        image_shape: (C, H, W).

    `at` gives the denoiser for a shape, as that of a codec does.
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def at(self, shape: tuple[int, int, int]) -> Denoiser: ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t], the posterior mean (Tweedie).

        Args:
            x_t: (B, C, H, W) noisy images on the [-1, 1] scale.
            t: (B,) int64 steps 1..T.

        Returns:
            (B, C, H, W) on the [-1, 1] scale, not clamped, differentiable in `x_t`.
        """
        ...


class UNetDenoiser(nn.Module):
    """A U-Net that predicts noise or velocity, as a denoiser.

    Args:
        unet: takes `patch**2 * C` channels; a learned-sigma head's second half of the outputs is dropped.
        schedule: the schedule it was trained with.
        image_shape: (C, H, W) that it is asked for.
        prediction: "epsilon" (the public models) or "v" (Salimans & Ho 2022, arXiv 2202.00512),
            v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
        patch: pixels are folded into channels by this factor before the network and back after it.

    Raises:
        ConfigError: channels that do not fit.
    """

    def __init__(
        self,
        unet: UNetModel,
        schedule: Schedule,
        image_shape: tuple[int, int, int],
        prediction: Prediction = "epsilon",
        patch: int = 1,
    ) -> None:
        super().__init__()
        folded = image_shape[0] * patch**2
        if unet.in_channels != folded or unet.out_channels not in (folded, 2 * folded):
            raise ConfigError(
                f"Images {image_shape} at patch {patch} need a U-Net of {folded} channels in and {folded} or "
                f"{2 * folded} out, this one has {unet.in_channels} and {unet.out_channels}."
            )
        if image_shape[1] % patch or image_shape[2] % patch:
            raise ConfigError(f"The image sides of {image_shape} must divide by the patch {patch}.")
        if prediction not in ("epsilon", "v"):
            raise ConfigError(f"A prior predicts 'epsilon' or 'v', not {prediction!r}.")
        self.unet = unet
        self.schedule = schedule
        self.image_shape = image_shape
        self.prediction: Prediction = prediction
        self.patch = patch

    @property
    def takes(self) -> ImageShape:
        return self.image_shape

    def at(self, shape: tuple[int, int, int]) -> UNetDenoiser:
        check_shape(shape, self.takes, "The prior")
        return self

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's own prediction (noise or velocity), (B, C, H, W) float32."""
        # The networks count their steps from 0.
        out = self.unet(F.pixel_unshuffle(x_t, self.patch), t - 1)[:, : self.unet.in_channels]
        return F.pixel_shuffle(out, self.patch).float()

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.coefficients(t, x_t)
        prediction = self.predict(x_t, t)
        if self.prediction == "v":
            return signal * x_t - noise * prediction
        return (x_t - noise * prediction) / signal


@dataclass(frozen=True)
class LocalPriorConfig:
    """What a `LocalDenoiser` is made of; widths and blocks count from the image inwards, a level each."""

    channels: int = 3
    widths: tuple[int, ...] = (96, 128, 160)
    blocks: tuple[int, ...] = (2, 2, 2)
    embedding: int = 128
    num_steps: int = 1000

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        if min(self.channels, self.embedding, self.num_steps) < 1:
            raise ConfigError(f"Every size of the prior must be at least 1, got {self}.")

    def unet(self) -> LocalUNet:
        """A freshly initialised network."""
        try:
            return LocalUNet(self.channels, self.widths, self.blocks, self.embedding)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def denoiser(self) -> LocalDenoiser:
        """A freshly initialised denoiser."""
        return LocalDenoiser(self.unet(), Schedule(self.num_steps))


class LocalDenoiser(nn.Module):
    """A local U-Net that predicts velocity, as a denoiser of images of any size.

    Args:
        unet: the network.
        schedule: the schedule it was trained with.
    """

    prediction: Prediction = "v"

    def __init__(self, unet: LocalUNet, schedule: Schedule) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self._shape: tuple[int, int, int] | None = None

    @property
    def takes(self) -> ImageShape:
        return self.unet.channels, None, None

    def at(self, shape: tuple[int, int, int]) -> LocalDenoiser:
        check_shape(shape, self.takes, "The prior")
        bound = copy.copy(self)
        bound._shape = shape
        return bound

    @property
    def image_shape(self) -> tuple[int, int, int]:
        if self._shape is None:
            raise ConfigError("A prior for any size has no image shape of its own; use the one of at(shape).")
        return self._shape

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The network's own prediction, the velocity, (B, C, H, W) float32."""
        _, _, height, width = x_t.shape
        side = self.unet.side
        padded = pad_to(x_t, -(-height // side) * side, -(-width // side) * side)
        # The root spreads the early steps, where the noise grows fastest.
        level = (t.to(torch.float32) / self.schedule.num_steps).sqrt()
        return in_tiles(self.unet, padded, level).float()[:, :, :height, :width]

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.coefficients(t, x_t)
        return signal * x_t - noise * self.predict(x_t, t)


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
        variances, basis = torch.linalg.eigh(full.double())
        if float(variances.min()) < -1e-9 * float(variances.abs().max()):
            raise ConfigError("The covariance is not positive semidefinite.")
        self._variances, self._basis = variances.clamp(min=0), basis

    def at(self, shape: tuple[int, int, int]) -> AnalyticGaussianDenoiser:
        check_shape(shape, self.image_shape, "The prior")
        return self

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        signal, noise = self.schedule.coefficients(t, x_t.double().flatten(1))
        basis, variances = self._basis.to(x_t.device), self._variances.to(x_t.device)
        centred = (x_t.double() - signal[..., None, None] * self.mean.to(x_t.device).double()).flatten(1) @ basis
        gain = signal * variances / (signal**2 * variances + noise**2)
        return self.mean.to(x_t) + ((gain * centred) @ basis.T).view_as(x_t).to(x_t.dtype)
