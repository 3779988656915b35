"""Diffusion priors: denoisers that return the posterior mean of the clean image.

Time runs as in the paper: t = 1..T, with alpha_bar[0] = 1 for the clean image, and
x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) eps with images scaled to [-1, 1].

A family of denoisers is a module of this package that sets `FAMILY` to the class of its configuration, see
`DenoiserConfig`. Nothing else has to be changed for a new one: bundles find it by the name that `network` has in
bundle.toml.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

from torch import Tensor, nn

from receiver.codecs.codec import ImageShape, check_shape, weights_digest
from receiver.priors.schedule import Schedule
from sdr.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
"""What a prior computes in; "auto": bfloat16 on a GPU and, in larger batches, on processors that have it."""

Prediction = Literal["epsilon", "v"]
"""What a network predicts: the noise, or the velocity v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0 (Salimans & Ho
2022, arXiv 2202.00512)."""


class Denoiser(Protocol):
    """The prior as the samplers see it.

    Attributes:
        schedule: the noise schedule that `t` counts in.
        image_shape: (C, H, W).
    """

    @property
    def schedule(self) -> Schedule: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    def for_shape(self, shape: tuple[int, int, int]) -> Denoiser:
        """Return the same denoiser for images of one shape (itself where it takes no other).

        Raises:
            InputError: it takes no such images.
        """
        ...

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return E[x_0 | x_t], the posterior mean (Tweedie).

        Args:
            x_t: (B, C, H, W) noisy images on the [-1, 1] scale.
            t: (B,) int64 steps 1..T.

        Returns:
            (B, C, H, W) on the [-1, 1] scale, not clamped, differentiable in `x_t`.
        """
        ...


class DenoiserConfig(Protocol):
    """Configuration of a denoiser: a frozen dataclass whose fields are keys of bundle.toml."""

    family: ClassVar[str]

    def network(self) -> nn.Module:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        ...

    def denoiser(self, network: Any | None = None) -> NetworkDenoiser:
        """Return the denoiser around a network of this configuration; a freshly initialised one when missing."""
        ...


Network = TypeVar("Network", bound=nn.Module)


class NetworkDenoiser(nn.Module, Generic[Network]):
    """A denoiser with weights, as bundles hold them.

    Args:
        unet: the network.
        schedule: the schedule it was trained with.
        accepted_shape: (C, H, W) of the images that it can be made for; None where any height and width.
        prediction: what the network predicts.
    """

    def __init__(self, unet: Network, schedule: Schedule, accepted_shape: ImageShape, prediction: Prediction) -> None:
        super().__init__()
        self.unet = unet
        self.schedule = schedule
        self.accepted_shape = accepted_shape
        self.prediction: Prediction = prediction
        channels, height, width = accepted_shape
        self._shape = None if height is None or width is None else (channels, height, width)
        self._label: int | None = None

    @property
    def digest(self) -> str:
        """8 hex digits of a BLAKE2b hash over the weights."""
        return weights_digest({}, self.unet.state_dict())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that it is made for.

        Raises:
            ConfigError: it is for any size.
        """
        if self._shape is None:
            raise ConfigError("A prior for any size has no image shape of its own; use the one of for_shape(shape).")
        return self._shape

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        """Return the same denoiser for images of one shape.

        Raises:
            InputError: it takes no such images.
        """
        check_shape(shape, self.accepted_shape, "The prior")
        if shape == self._shape:
            return self
        bound = copy.copy(self)
        bound._shape = shape
        return bound

    @property
    def classes(self) -> int:
        """Labels that the network is told one of, 0 where it is told none."""
        return 0

    def with_label(self, label: int) -> Self:
        """Return the same denoiser for images of one class, `label` in 0..classes - 1.

        Raises:
            ConfigError: it has no such class.
        """
        if not 0 <= label < self.classes:
            has = f"the classes 0..{self.classes - 1}" if self.classes else "no classes"
            raise ConfigError(f"The prior has {has}, found label = {label}. Change label.")
        bound = copy.copy(self)
        bound._label = label
        return bound

    def with_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior mean, and where the network puts the variance of a step between its bounds.

        Args:
            x_t: (B, C, H, W) noisy images on the [-1, 1] scale.
            t: (B,) int64 steps 1..T.

        Returns:
            (B, C, H, W) as `forward`, and (B, C, H, W), 0 for the variance of the posterior given x_0 and 1 for that
            of the noise added, on a logarithmic scale.

        Raises:
            ConfigError: the network learned no variance.
        """
        raise ConfigError("The prior learned no variance. Leave learned_variance out.")

    def at_precision(self, precision: Precision) -> Self:
        """Return the same denoiser, ready to run in a precision on the device where its weights are.

        Raises:
            ConfigError: it has none to choose.
        """
        if precision == "auto":
            return self
        raise ConfigError(f"--precision {precision} is for priors of the family adm. Leave it at auto.")

    def resized(self, shape: tuple[int, int, int]) -> Self:
        """Return the same network for images of another size, even where it was not trained for it."""
        return self.for_shape(shape)

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the network's own prediction (noise or velocity), (B, C, H, W) float32."""
        raise NotImplementedError

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.posterior_mean(x_t, t, self.predict(x_t, t))

    def posterior_mean(self, x_t: Tensor, t: Tensor, prediction: Tensor) -> Tensor:
        """Return E[x_0 | x_t] (B, C, H, W) for what the network predicts."""
        signal, noise = self.schedule.coefficients(t, x_t)
        if self.prediction == "v":
            return signal * x_t - noise * prediction
        return (x_t - noise * prediction) / signal
