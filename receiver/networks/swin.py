"""Swin Transformer blocks (Liu et al. 2021, arXiv 2103.14030) on maps (B, H, W, C), channels last.

Parameter names and shapes are those of the published checkpoints of SwinJSCC and NTSCC+. These files also hold two
tensors that follow from sizes, `relative_position_index` and `attn_mask`; the mask belongs to the image size of the
training. Both are left out here: loading drops them, and the mask is made for the map at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Of maps of fewer features all that a gradient needs is kept. SwinJSCC has 2 million features in its first stage for
#: 256x256 pixels, so that it is computed twice in batches of 8, or for photographs of 768x768.
KEPT_FEATURES = 16_000_000
#: Added to the attention between pixels that only the cyclic shift made neighbours.
_APART = -100.0


def dropping(*names: str) -> Callable[..., None]:
    """Return a hook for `register_load_state_dict_pre_hook` that ignores the entries `names` of a module."""

    def drop(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        for name in names:
            state.pop(prefix + name, None)

    return drop


def to_windows(x: Tensor, side: int) -> Tensor:
    """Cut (B, H, W, C) into (B, n, side * side, C), row by row; H and W must divide by `side`."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // side, side, width // side, side, channels).transpose(2, 3)
    return x.reshape(batch, -1, side * side, channels)


def from_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Undo `to_windows`: (B, n, side * side, C) to (B, height, width, C)."""
    batch, _, area, channels = x.shape
    side = round(area**0.5)
    x = x.view(batch, height // side, width // side, side, side, channels).transpose(2, 3)
    return x.reshape(batch, height, width, channels)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shift_mask(height: int, width: int, side: int, device: torch.device) -> Tensor:
    """Return what is added to the attention in each window of a map rolled by half a window.

    Args:
        height: of the map in pixels.
        width: of the map in pixels.
        side: pixels per side of a window.
        device: where the map is.

    Returns:
        (n, 1, side * side, side * side), 0 between pixels that touched before the roll and -100 elsewhere.
    """
    shift = side // 2

    def region(length: int) -> Tensor:
        place = torch.arange(length, device=device)
        return (place >= length - side).int() + (place >= length - shift).int()

    regions = to_windows((3 * region(height)[:, None] + region(width))[None, :, :, None], side)[0, :, :, 0]
    return _APART * (regions[:, None, :, None] != regions[:, None, None, :]).float()


def _relative_index(side: int) -> Tensor:
    """Return (side**2, side**2) rows of the bias table: (2 * side - 1) * row distance + column distance."""
    place = torch.arange(side)
    rows, columns = place.repeat_interleave(side), place.repeat(side)
    return (rows[:, None] - rows + side - 1) * (2 * side - 1) + columns[:, None] - columns + side - 1


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each relative position.

    Args:
        channels: of the map.
        side: pixels per side of a window.
        heads: attention heads.
        cross: queries come from one map, keys and values from another.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, side: int, heads: int, cross: bool = False) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} attention heads.")
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2, heads))
        self.register_buffer("relative_position_index", _relative_index(side), persistent=False)
        if cross:
            self.q = nn.Linear(channels, channels)
            self.kv = nn.Linear(channels, 2 * channels)
        else:
            self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.cross = cross
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_load_state_dict_pre_hook(dropping("relative_position_index"))

    def forward(self, x: Tensor, keys: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend within each window.

        Args:
            x: (B, n, area, C) windows.
            keys: (B, n, area, C) windows of the other map, for cross attention.
            mask: (n, 1, area, area), added before the softmax.

        Returns:
            (B, n, area, C).
        """
        if self.cross:
            assert keys is not None
            q, k, v = (self._by_head(part) for part in (self.q(x), *self.kv(keys).chunk(2, dim=-1)))
        else:
            q, k, v = (self._by_head(part) for part in self.qkv(x).chunk(3, dim=-1))
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        bias = bias if mask is None else bias + mask
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(mixed.transpose(2, 3).flatten(3))

    def _by_head(self, part: Tensor) -> Tensor:
        """(B, n, area, C) to (B, n, heads, area, C / heads)."""
        return part.unflatten(-1, (self.heads, -1)).transpose(2, 3)


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention, then a perceptron, each normalised and added to what came in.

    Args:
        channels: of the map.
        side: pixels per side of a window; H and W of the map must divide by it.
        heads: attention heads.
        mlp_ratio: hidden units of the perceptron per channel.
        shifted: windows are offset by half of their side.
    """

    def __init__(self, channels: int, side: int, heads: int, mlp_ratio: float, shifted: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, side, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.side = side
        self.shift = side // 2 if shifted else 0
        self.register_load_state_dict_pre_hook(dropping("attn_mask"))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape; where the map is large, a gradient computes the block a second time."""
        if torch.is_grad_enabled() and x.requires_grad and x.numel() >= KEPT_FEATURES:
            return checkpoint(self._block, x, use_reentrant=False)  # type: ignore[return-value]
        return self._block(x)

    def _block(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        h = self.norm1(x)
        if self.shift:
            mask = shift_mask(height, width, self.side, x.device)
            h = torch.roll(h, (-self.shift, -self.shift), (1, 2))
            h = from_windows(self.attn(to_windows(h, self.side), mask=mask), height, width)
            h = torch.roll(h, (self.shift, self.shift), (1, 2))
        else:
            h = from_windows(self.attn(to_windows(h, self.side)), height, width)
        x = x + h
        return x + self.mlp(self.norm2(x))


def swin_blocks(channels: int, depth: int, side: int, heads: int, mlp_ratio: float) -> nn.ModuleList:
    """Return `depth` blocks, every other one shifted."""
    return nn.ModuleList(SwinBlock(channels, side, heads, mlp_ratio, i % 2 == 1) for i in range(depth))


def modulators(channels: int, layers: int) -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return the layers `sm_list` and `bm_list` that `modulation` runs.

    Args:
        channels: of the map that is modulated; inside are 1.5 times as many.
        layers: how often a number modulates.
    """
    hidden = int(channels * 1.5)
    widths = [channels, *[hidden] * layers, channels]
    lists = [nn.Linear(inside, outside) for inside, outside in pairwise(widths)]
    return nn.ModuleList(lists), nn.ModuleList(_Modulator(hidden) for _ in range(layers))


class _Modulator(nn.Module):
    """A number to `hidden` gains in (0, 1)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        layers: Sequence[nn.Module] = (
            nn.Linear(1, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.Sigmoid(),
        )
        self.fc = nn.Sequential(*layers)

    def forward(self, value: Tensor) -> Tensor:
        return self.fc(value[:, None])


def modulation(
    sm_list: nn.ModuleList, bm_list: nn.ModuleList, x: Tensor, value: Tensor, detach: bool = False
) -> Tensor:
    """Return gains in (0, 1) for every element of a map, from the map and one number per image.

    Args:
        sm_list: linear layers over the channels, one more than `bm_list`.
        bm_list: networks that turn the number into gains.
        x: (B, ..., C) the map.
        value: (B,) the number, such as the SNR in dB or the count of channels to send.
        detach: let no gradient flow through the gains into the map.

    Returns:
        The shape of `x`.
    """
    h = x.detach() if detach else x
    for linear, modulator in zip(sm_list, bm_list, strict=False):
        gains = modulator(value.to(x.dtype))
        h = linear(h) * gains.view(len(gains), *[1] * (x.ndim - 2), -1)
    return torch.sigmoid(sm_list[-1](h))
