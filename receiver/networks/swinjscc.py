"""SwinJSCC: joint source-channel coding with Swin Transformers (Yang et al. 2024, arXiv 2308.09361).

One class for the four published variants, which differ in what the network adapts to:

    none    neither: one SNR, one rate
    snr     the SNR ("SA")
    rate    the rate ("RA"): the encoder picks `rate` of the last width's channels for each image
    both    SNR and rate ("SA&RA")

Parameter names and shapes are those of the public checkpoints, so these load with `load_state_dict(strict=True)`.
The file of `none` holds the modulators of `snr` without using them; the two can't be told apart by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks.swin import modulation, modulators, swin_blocks

Adapts = Literal["none", "snr", "rate", "both"]

#: Depths of the encoder's stages in the published sizes; the decoder's are these in reverse order.
DEPTHS = {"small": (2, 2, 2, 2), "base": (2, 2, 6, 2), "large": (2, 2, 18, 2)}
#: How often the SNR or the rate modulates the features.
_LAYERS = 7


class _Merge(nn.Module):
    """Halve the resolution: four neighbours become one pixel."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=-1)))


class _Split(nn.Module):
    """Double the resolution: one pixel becomes four neighbours."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.increment = nn.Linear(channels, 4 * out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.increment(self.norm(x)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(x, 2).permute(0, 2, 3, 1)


class _Down(nn.Module):
    """A stage of the encoder: merge (but for the first stage), then blocks."""

    def __init__(self, channels: int, out: int, depth: int, heads: int, side: int, mlp_ratio: float) -> None:
        super().__init__()
        if channels:
            self.downsample = _Merge(channels, out)
        self.merges = bool(channels)
        self.blocks = swin_blocks(out, depth, side, heads, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = self.downsample(x) if self.merges else x
        for block in self.blocks:
            x = block(x)
        return x


class _Up(nn.Module):
    """A stage of the decoder: blocks, then split."""

    def __init__(self, channels: int, out: int, depth: int, heads: int, side: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = swin_blocks(channels, depth, side, heads, mlp_ratio)
        self.upsample = _Split(channels, out)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.upsample(x)


class _Patches(nn.Module):
    """Turn patches of pixels into channels."""

    def __init__(self, in_channels: int, channels: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).permute(0, 2, 3, 1)


class _Encoder(nn.Module):
    def __init__(
        self,
        adapts: Adapts,
        C: int,
        in_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        side: int,
        mlp_ratio: float,
        detach: bool,
    ) -> None:
        super().__init__()
        self.adapts, self.detach = adapts, detach
        self.patch_embed = _Patches(in_channels, widths[0], 2)
        ins = [0, *widths[:-1]]
        self.layers = nn.ModuleList(
            _Down(*sizes, side, mlp_ratio) for sizes in zip(ins, widths, depths, heads, strict=True)
        )
        self.norm = nn.LayerNorm(widths[-1])
        if adapts in ("none", "snr"):
            self.head_list = nn.Linear(widths[-1], C)
        if adapts == "both":
            self.sm_list1, self.bm_list1 = modulators(widths[-1], _LAYERS)
        self.sm_list, self.bm_list = modulators(widths[-1], _LAYERS)

    def forward(self, images: Tensor, csnr_db: Tensor, rate: int, channels: Tensor | None) -> tuple[Tensor, Tensor]:
        x = self.patch_embed(images)
        for stage in self.layers:
            x = stage(x)
        x = self.norm(x)
        if self.adapts == "snr":
            x = x * modulation(self.sm_list, self.bm_list, x, csnr_db, self.detach)
        elif self.adapts == "both":
            x = x * modulation(self.sm_list1, self.bm_list1, x, csnr_db, self.detach)
        if self.adapts in ("none", "snr"):
            x = self.head_list(x)
            return x, torch.ones(len(x), x.shape[-1], dtype=torch.bool, device=x.device)
        gains = modulation(self.sm_list, self.bm_list, x, torch.full_like(csnr_db, rate), self.detach)
        if channels is None:
            # A stable order of ties, so that every machine sends the same channels.
            order = gains.sum(dim=(1, 2)).argsort(dim=1, descending=True, stable=True)
            channels = torch.zeros_like(order, dtype=torch.bool).scatter(1, order[:, :rate], True)
        return x * gains * channels[:, None, None], channels


class _Decoder(nn.Module):
    def __init__(
        self,
        adapts: Adapts,
        C: int,
        out_channels: int,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        side: int,
        mlp_ratio: float,
        detach: bool,
    ) -> None:
        super().__init__()
        self.adapts, self.detach = adapts, detach
        if adapts in ("none", "snr"):
            self.head_list = nn.Linear(C, widths[0])
        outs = [*widths[1:], out_channels]
        self.layers = nn.ModuleList(
            _Up(*sizes, side, mlp_ratio) for sizes in zip(widths, outs, depths, heads, strict=True)
        )
        if adapts != "rate":
            self.sm_list, self.bm_list = modulators(widths[0], _LAYERS)

    def forward(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        x = self.head_list(features) if self.adapts in ("none", "snr") else features
        if self.adapts in ("snr", "both"):
            x = x * modulation(self.sm_list, self.bm_list, x, csnr_db, self.detach)
        for stage in self.layers:
            x = stage(x)
        return x.permute(0, 3, 1, 2)


class SwinJSCC(nn.Module):
    """Encoder and decoder. The defaults are the public configuration for photographs ("base").

    The sides of the images must divide by `side_multiple`, 128 by default.

    Args:
        adapts: which variant.
        C: channels that are sent, where the rate is fixed.
        in_channels: channels of the image.
        widths: channels of each stage of the encoder.
        depths: blocks of each stage of the encoder.
        heads: attention heads of each stage of the encoder.
        side: pixels per side of an attention window.
        mlp_ratio: hidden units of the perceptrons per channel.
        detach: let no gradient flow through the gains of the modulation into the features that they come from, as the
            public code does. Outputs are the same; gradients are then not those of the encoder.

    Raises:
        ValueError: an unknown variant, or widths, depths and heads that don't fit each other.
    """

    def __init__(
        self,
        adapts: Adapts = "both",
        C: int = 96,
        in_channels: int = 3,
        widths: Sequence[int] = (128, 192, 256, 320),
        depths: Sequence[int] = DEPTHS["base"],
        heads: Sequence[int] = (4, 6, 8, 10),
        side: int = 8,
        mlp_ratio: float = 4.0,
        detach: bool = False,
    ) -> None:
        super().__init__()
        if adapts not in ("none", "snr", "rate", "both"):
            raise ValueError(f"SwinJSCC adapts to none, snr, rate or both, not {adapts!r}.")
        if not len(widths) == len(depths) == len(heads) > 0:
            raise ValueError(f"SwinJSCC needs a width, a depth and heads per stage, got {widths}, {depths}, {heads}.")
        self.adapts: Adapts = adapts
        self.stride = 2 ** len(widths)
        self.side_multiple = self.stride * side
        self.width = widths[-1]
        self.encoder = _Encoder(adapts, C, in_channels, widths, depths, heads, side, mlp_ratio, detach)
        self.decoder = _Decoder(
            adapts, C, in_channels, widths[::-1], depths[::-1], heads[::-1], side, mlp_ratio, detach
        )

    def encode(
        self, images: Tensor, csnr_db: Tensor, rate: int = 0, channels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return features and which of their channels are sent.

        Args:
            images: (B, in_channels, H, W) in [0, 1].
            csnr_db: (B,) channel SNR in dB.
            rate: channels to send, 1 to the last width; ignored where the rate is fixed.
            channels: (B, last width) bool, the channels to send instead of the encoder's own choice.

        Returns:
            (B, H / 16, W / 16, C) features, zero where not sent, not yet power normalised; (B, C) bool, the channels
            that are sent. With a variable rate, C is the last width.
        """
        return self.encoder(images, csnr_db, rate, channels)

    def decode(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        """Return images (B, in_channels, H, W), about [0, 1], of features as `encode` gives them."""
        return self.decoder(features, csnr_db)
