"""A U-Net denoiser of one image size."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from receiver.codecs.published import ImportOptions, Published, Shapes, length
from receiver.networks.fast_unet import FastUNet
from receiver.networks.unet import UNetModel
from receiver.priors.denoiser import NetworkDenoiser, Precision, Prediction
from receiver.priors.schedule import Schedule
from sdr.errors import ConfigError


@dataclass(frozen=True)
class PriorConfig:
    """Configuration of a `UNetDenoiser`; the fields after `num_steps` are options of `UNetModel`.

    `attention_resolutions` are downsampling factors of the folded image, as in `UNetModel`; `classes` are the labels of
    a class-conditional network, 0 where it has none.

    Raises:
        ConfigError: sizes that fit no network.
    """

    family: ClassVar[str] = "adm"

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
    classes: int = 0

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
        if (
            min(sizes) < 1
            or self.norm_groups < 1
            or self.classes < 0
            or not self.channel_mult
            or min(self.channel_mult) <= 0
        ):
            raise ConfigError(f"Every size of the prior must be at least 1, got {self}.")
        if self.classes < 0:
            raise ConfigError(f"A prior has 0 classes or more, got {self.classes}.")
        side = self.patch * 2 ** (len(self.channel_mult) - 1)
        if any(length % side for length in self.image_shape[1:]):
            raise ConfigError(f"The prior needs image sides that divide by {side}, got the shape {self.image_shape}.")

    def network(self) -> UNetModel:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
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
                num_classes=self.classes or None,
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def denoiser(self, network: UNetModel | None = None) -> UNetDenoiser:
        """Return the denoiser around a network of this configuration; a freshly initialised one when missing."""
        unet = self.network() if network is None else network
        return UNetDenoiser(unet, Schedule(self.num_steps), self.image_shape, self.prediction, self.patch)


FAMILY = PriorConfig


@dataclass(frozen=True)
class _Adm:
    """What a published ADM U-Net does not tell by its shapes; it is called for its configuration."""

    blocks: int
    attention: tuple[int, ...]
    labels: bool = False

    def __call__(self, shapes: Shapes, options: ImportOptions) -> PriorConfig:
        return PriorConfig(
            image_shape=options.colour_shape,
            patch=1,
            prediction="epsilon",
            learned_sigma=True,
            model_channels=length(shapes, ["input_blocks.0.0.weight"], 0, 256),
            num_res_blocks=self.blocks,
            attention_resolutions=self.attention,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_heads=4,
            num_head_channels=64,
            resblock_updown=True,
            norm_groups=32,
            classes=length(shapes, ["label_emb.weight"], 0, 1000) if self.labels else 0,
        )


def _published(name: str, title: str, configure: _Adm) -> Published[PriorConfig]:
    return Published(name, PriorConfig.family, title, configure, frozenset({"image_size"}))


PUBLISHED = (
    _published("adm-ffhq", "ADM U-Net of faces, ffhq_10m.pt", _Adm(1, (16,))),
    _published("adm-imagenet", "ADM U-Net of ImageNet, 256x256_diffusion_uncond.pt", _Adm(2, (8, 16, 32))),
    _published(
        "adm-imagenet-class",
        "class-conditional ADM U-Net of ImageNet, 256x256_diffusion.pt",
        _Adm(2, (8, 16, 32), labels=True),
    ),
)


#: What "auto" means here is for GPUs.
_DTYPES = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class UNetDenoiser(NetworkDenoiser[UNetModel]):
    """A U-Net that predicts noise or velocity, as a denoiser.

    Args:
        unet: takes `patch**2 * C` channels; a learned-sigma head's second half of the outputs is dropped.
        schedule: the schedule it was trained with.
        image_shape: (C, H, W) that it is asked for.
        prediction: "epsilon" (the public models) or "v".
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
        super().__init__(unet, schedule, image_shape, prediction)
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
        self.patch = patch

    def resized(self, shape: tuple[int, int, int]) -> Self:
        # The network is convolutional; what it makes of another size is good for timing only.
        return type(self)(self.unet, self.schedule, shape, self.prediction, self.patch)

    def at_precision(self, precision: Precision) -> Self:
        if precision == "auto" and self._device.type != "cuda":
            return self
        bound = copy.copy(self)
        # Modules are kept in a table, which the copy must not share.
        bound._modules = dict(self._modules)
        bound.unet = FastUNet(self.unet, _DTYPES[precision])  # type: ignore[assignment]  # the same call
        return bound

    @property
    def _device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def classes(self) -> int:
        return self.unet.num_classes or 0

    def predict(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self._outputs(x_t, t)[0]

    def with_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        prediction, *variance = self._outputs(x_t, t)
        if not variance:
            return super().with_variance(x_t, t)
        return self.posterior_mean(x_t, t, prediction), (variance[0] + 1) / 2

    def _outputs(self, x_t: Tensor, t: Tensor) -> list[Tensor]:
        """Return the network's prediction (B, C, H, W), and what it says of the variance where it learned that."""
        labels = None
        if self.classes:
            if self._label is None:
                raise ConfigError(
                    f"The prior is told one of {self.classes} classes. Give it with the method, as in hifi:label=207."
                )
            labels = torch.full_like(t, self._label)
        # The networks count their steps from 0.
        out = self.unet(F.pixel_unshuffle(x_t, self.patch), t - 1, labels)
        return [F.pixel_shuffle(part, self.patch).float() for part in out.split(self.unet.in_channels, dim=1)]
