"""The ADM U-Net (Dhariwal & Nichol 2021, arXiv 2105.05233), the network of every diffusion prior in this project.

The constructor's options, the parameter names and the shapes are those of the public `openai/guided-diffusion`
checkpoints, so `256x256_diffusion_uncond.pt` or `ffhq_10m.pt` load into this class with `load_state_dict`;
the small shipped prior is the same class with fewer channels. `norm_groups` is the one option of ours: 32
groups are too many for 32 channels, and the number leaves no trace in the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def timestep_embedding(timesteps: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Return cosines, then sines, of `timesteps` at `dim // 2` geometric frequencies.

    Args:
        timesteps: (B,) step numbers, fractions allowed.
        dim: length of the embedding; an odd one is padded with a zero.
        max_period: the longest period, in steps times 2 pi.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    phases = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * exponents)[None]
    return F.pad(torch.cat([phases.cos(), phases.sin()], dim=-1), (0, dim % 2))


class _GroupNorm(nn.GroupNorm):
    """Group normalisation that never computes in half precision."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype == torch.float16:
            return super().forward(input.float()).to(input.dtype)
        return super().forward(input)


def _zeroed(module: nn.Conv1d | nn.Conv2d) -> nn.Module:
    """Return the layer with zero weights, so that its block starts as the identity."""
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


class Upsample(nn.Module):
    """Double the resolution, with or without a convolution behind."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        if with_conv:
            self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.with_conv = with_conv

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        return self.conv(x) if self.with_conv else x


class Downsample(nn.Module):
    """Halve the resolution by a convolution or by averages."""

    def __init__(self, channels: int, with_conv: bool) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if with_conv else nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two normalised 3x3 convolutions with the time embedding between them; may halve or double the resolution."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        out_channels: int,
        *,
        dropout: float,
        norm_groups: int,
        scale_shift: bool,
        use_checkpoint: bool,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            _GroupNorm(norm_groups, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels * (2 if scale_shift else 1)))
        self.out_layers = nn.Sequential(
            _GroupNorm(norm_groups, out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1)),
        )
        self.skip_connection = nn.Identity() if out_channels == channels else nn.Conv2d(channels, out_channels, 1)
        self.resample = nn.Identity() if resample is None else resample
        self.scale_shift = scale_shift
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._block, x, emb, use_reentrant=False)  # type: ignore[return-value]
        return self._block(x, emb)

    def _block(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = conv(self.resample(act(norm(x))))
        condition = self.emb_layers(emb).to(h.dtype)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            out_norm, *rest = self.out_layers
            h = out_norm(h) * (1 + scale) + shift
            for layer in rest:
                h = layer(h)
        else:
            h = self.out_layers(h + condition)
        return self.skip_connection(self.resample(x)) + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of the feature map."""

    def __init__(
        self, channels: int, *, heads: int, norm_groups: int, interleaved_heads: bool, use_checkpoint: bool
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} attention heads.")
        self.norm = _GroupNorm(norm_groups, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))
        self.heads = heads
        self.interleaved_heads = interleaved_heads
        self.use_checkpoint = use_checkpoint

    def forward(self, x: Tensor) -> Tensor:
        if self.use_checkpoint and torch.is_grad_enabled():
            return checkpoint(self._block, x, use_reentrant=False)  # type: ignore[return-value]
        return self._block(x)

    def _block(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        batch, channels, length = flat.shape
        qkv = self.qkv(self.norm(flat))
        # The published models order the 3 * C rows of `qkv` in one of two ways: (head, q/k/v, c) or (q/k/v, head, c).
        width = channels // self.heads
        if self.interleaved_heads:
            q, k, v = qkv.view(batch, self.heads, 3, width, length).unbind(2)
        else:
            q, k, v = qkv.view(batch, 3, self.heads, width, length).unbind(1)
        mixed = F.scaled_dot_product_attention(q.mT, k.mT, v.mT)
        return (flat + self.proj_out(mixed.mT.reshape(batch, channels, length))).view_as(x)


class _Stage(nn.Sequential):
    """Layers in a row; residual blocks among them get the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


@dataclass(frozen=True)
class _Stages:
    """Maker of the stages of a `UNetModel`, whose arguments of the same names these are."""

    emb_channels: int
    num_res_blocks: int
    attention_resolutions: Sequence[int]
    dropout: float
    conv_resample: bool
    use_checkpoint: bool
    num_head_channels: int
    use_scale_shift_norm: bool
    resblock_updown: bool
    interleaved_heads: bool
    norm_groups: int

    def res(self, channels: int, out: int, resample: nn.Module | None = None) -> ResBlock:
        return ResBlock(
            channels,
            self.emb_channels,
            out,
            dropout=self.dropout,
            norm_groups=self.norm_groups,
            scale_shift=self.use_scale_shift_norm,
            use_checkpoint=self.use_checkpoint,
            resample=resample,
        )

    def attention(self, channels: int, heads: int) -> AttentionBlock:
        return AttentionBlock(
            channels,
            heads=heads if self.num_head_channels == -1 else max(1, channels // self.num_head_channels),
            norm_groups=self.norm_groups,
            interleaved_heads=self.interleaved_heads,
            use_checkpoint=self.use_checkpoint,
        )

    def resampled(self, channels: int, kind: type[Downsample | Upsample]) -> nn.Module:
        """Return a layer that halves or doubles the resolution."""
        if self.resblock_updown:
            return self.res(channels, channels, kind(channels, False))
        return kind(channels, self.conv_resample)

    def down(self, in_channels: int, widths: Sequence[int], heads: int) -> tuple[list[nn.Module], list[int]]:
        """Return the stages on the way down and the channels that each of them leaves for the way up."""
        current = widths[0]
        skips = [current]
        stages: list[nn.Module] = [_Stage(nn.Conv2d(in_channels, current, 3, padding=1))]
        for level, width in enumerate(widths):
            for _ in range(self.num_res_blocks):
                layers: list[nn.Module] = [self.res(current, width)]
                current = width
                if 2**level in self.attention_resolutions:
                    layers.append(self.attention(current, heads))
                stages.append(_Stage(*layers))
                skips.append(current)
            if level < len(widths) - 1:
                stages.append(_Stage(self.resampled(current, Downsample)))
                skips.append(current)
        return stages, skips

    def middle(self, channels: int, heads: int) -> _Stage:
        return _Stage(self.res(channels, channels), self.attention(channels, heads), self.res(channels, channels))

    def up(self, widths: Sequence[int], skips: Sequence[int], heads: int) -> list[nn.Module]:
        """Return the stages on the way up, each of which takes what one on the way down left."""
        current, left = widths[-1], list(skips)
        stages: list[nn.Module] = []
        for level in reversed(range(len(widths))):
            for index in range(self.num_res_blocks + 1):
                layers: list[nn.Module] = [self.res(current + left.pop(), widths[level])]
                current = widths[level]
                if 2**level in self.attention_resolutions:
                    layers.append(self.attention(current, heads))
                if level and index == self.num_res_blocks:
                    layers.append(self.resampled(current, Upsample))
                stages.append(_Stage(*layers))
        return stages


class UNetModel(nn.Module):
    """ADM U-Net on (B, in_channels, H, W) images; H and W must divide by 2 ** (len(channel_mult) - 1).

    Args:
        image_size: nominal side of the image in pixels; kept for the record, the network is fully convolutional.
        in_channels: channels of the input.
        model_channels: channels at the multiplier 1; the time embedding has 4 times as many.
        out_channels: channels of the output: twice `in_channels` for a learned-sigma model.
        num_res_blocks: residual blocks per resolution on the way down (one more on the way up).
        attention_resolutions: downsampling factors (not pixels) at which attention follows every residual block.
        dropout: probability inside residual blocks.
        channel_mult: width of each resolution as a multiple of `model_channels`.
        conv_resample: learned 3x3 convolutions when resampling (without `resblock_updown`).
        num_classes: number of labels of a class-conditional model.
        use_checkpoint: trade compute for memory in the backward pass.
        use_fp16: run the torso in half precision (call `convert_to_fp16` after loading).
        num_heads: attention heads; ignored when `num_head_channels` is set.
        num_head_channels: channels per attention head, or -1.
        num_heads_upsample: attention heads on the way up, or -1 for `num_heads`.
        use_scale_shift_norm: the time embedding scales and shifts the second normalisation rather than being added.
        resblock_updown: resample inside residual blocks.
        use_new_attention_order: rows of `qkv` ordered (q/k/v, head, channel) rather than (head, q/k/v, channel).
        norm_groups: groups of every group normalisation; the published models use 32.

    Raises:
        ValueError: widths that do not divide by `norm_groups` or by the heads.
    """

    def __init__(
        self,
        image_size: int,
        in_channels: int,
        model_channels: int,
        out_channels: int,
        num_res_blocks: int,
        attention_resolutions: Sequence[int],
        dropout: float = 0.0,
        channel_mult: Sequence[float] = (1, 2, 4, 8),
        conv_resample: bool = True,
        num_classes: int | None = None,
        use_checkpoint: bool = False,
        use_fp16: bool = False,
        num_heads: int = 1,
        num_head_channels: int = -1,
        num_heads_upsample: int = -1,
        use_scale_shift_norm: bool = False,
        resblock_updown: bool = False,
        use_new_attention_order: bool = False,
        norm_groups: int = 32,
    ) -> None:
        super().__init__()
        widths = [int(mult * model_channels) for mult in channel_mult]
        if any(width % norm_groups for width in widths):
            raise ValueError(f"The widths {widths} must all divide by norm_groups = {norm_groups}.")
        emb_channels = 4 * model_channels
        self.image_size, self.in_channels, self.out_channels = image_size, in_channels, out_channels
        self.model_channels, self.num_classes = model_channels, num_classes
        self.dtype = torch.float16 if use_fp16 else torch.float32

        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)
        stages = _Stages(
            emb_channels=emb_channels,
            num_res_blocks=num_res_blocks,
            attention_resolutions=attention_resolutions,
            dropout=dropout,
            conv_resample=conv_resample,
            use_checkpoint=use_checkpoint,
            num_head_channels=num_head_channels,
            use_scale_shift_norm=use_scale_shift_norm,
            resblock_updown=resblock_updown,
            interleaved_heads=not use_new_attention_order,
            norm_groups=norm_groups,
        )
        down, skips = stages.down(in_channels, widths, num_heads)
        self.input_blocks = nn.ModuleList(down)
        self.middle_block = stages.middle(widths[-1], num_heads)
        heads_up = num_heads if num_heads_upsample == -1 else num_heads_upsample
        self.output_blocks = nn.ModuleList(stages.up(widths, skips, heads_up))
        self.out = nn.Sequential(
            _GroupNorm(norm_groups, widths[0]), nn.SiLU(), _zeroed(nn.Conv2d(widths[0], out_channels, 3, padding=1))
        )

    def _torso_to(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        for blocks in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in blocks.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.to(dtype)

    def convert_to_fp16(self) -> None:
        """Hold and run the torso's convolutions in float16; embeddings, normalisation and the output stay float32."""
        self._torso_to(torch.float16)

    def convert_to_fp32(self) -> None:
        """Undo `convert_to_fp16`."""
        self._torso_to(torch.float32)

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute the network's output.

        Args:
            x: (B, in_channels, H, W) noisy images, about [-1, 1] at small noise.
            timesteps: (B,) steps counted from 0 (the paper's t minus 1).
            y: (B,) int64 labels; given exactly when the model has `num_classes`.

        Returns:
            (B, out_channels, H, W) of the dtype of `x`.

        Raises:
            ValueError: labels missing or not wanted.
        """
        if (y is not None) != (self.num_classes is not None):
            raise ValueError("Labels y must be given exactly when the model was built with num_classes.")
        emb = self.time_embed(timestep_embedding(timesteps, self.model_channels))
        if y is not None:
            emb = emb + self.label_emb(y)
        h = x.to(self.dtype)
        skips = []
        for stage in self.input_blocks:
            h = stage(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for stage in self.output_blocks:
            h = stage(torch.cat([h, skips.pop()], dim=1), emb)
        return self.out(h.to(x.dtype))
