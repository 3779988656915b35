"""Neighbourhood attention (Hassani et al. 2023, arXiv 2204.07143): every pixel attends to the square around it.

At an edge the square is moved inwards, so that every pixel has the same number of neighbours. Written for memory:
queries go in tiles, and a tile sees one region of keys in which what lies outside a pixel's square is masked.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks.swin import Mlp

#: Most pixels per side of a tile of queries.
_TILE = 8


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _axis(length: int, kernel: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Plan one axis of a map.

    Args:
        length: pixels along the axis, at least `kernel`.
        kernel: odd side of the neighbourhood.
        device: where the map is.

    Returns:
        (n, R) the pixels whose keys each of n tiles sees; (n, T, R) for each pixel of a tile where such a key is
        relative to it, from 0 to 2 * kernel - 2, or 2 * kernel - 1 where it is no neighbour.
    """
    tile = next(size for size in range(_TILE, 0, -1) if length % size == 0)
    region = min(tile + kernel - 1, length)
    queries = torch.arange(length, device=device).view(-1, tile)
    keys = (queries[:, :1] - kernel // 2).clamp(0, length - region) + torch.arange(region, device=device)
    first = (queries - kernel // 2).clamp(0, length - kernel)[:, :, None]
    near = (keys[:, None] >= first) & (keys[:, None] < first + kernel)
    offset = keys[:, None] - queries[:, :, None] + kernel - 1
    return keys, offset.masked_fill(~near, 2 * kernel - 1)


class NeighbourhoodAttention(nn.Module):
    """Attention of every pixel to `kernel` x `kernel` neighbours, with a learned bias for each relative position.

    Parameter names are those of the published checkpoints. A map smaller than the kernel is padded with zeros at the
    right and at the bottom.

    Args:
        channels: of the map.
        kernel: odd side of the neighbourhood.
        heads: attention heads.
    """

    def __init__(self, channels: int, kernel: int, heads: int) -> None:
        super().__init__()
        if channels % heads or kernel % 2 == 0:
            raise ValueError(
                f"Neighbourhood attention needs an odd kernel and channels that divide into the heads, got kernel "
                f"{kernel}, {channels} channels, {heads} heads."
            )
        self.heads, self.kernel = heads, kernel
        self.qkv = nn.Linear(channels, 3 * channels)
        self.rpb = nn.Parameter(torch.zeros(heads, 2 * kernel - 1, 2 * kernel - 1))
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.rpb, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, max(0, self.kernel - width), 0, max(0, self.kernel - height)))
        row_keys, row_offset = _axis(x.shape[1], self.kernel, x.device)
        column_keys, column_offset = _axis(x.shape[2], self.kernel, x.device)
        # (B, H, W, heads, channels of a head) each.
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(3)
        (rows, tall), (columns, wide) = row_offset.shape[:2], column_offset.shape[:2]
        q = q.unflatten(2, (columns, wide)).unflatten(1, (rows, tall))
        k, v = (part[:, row_keys][:, :, :, column_keys] for part in (k, v))
        # All (B, tiles, tiles, heads, pixels of a tile or region, channels of a head).
        q, k, v = (part.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5) for part in (q, k, v))
        near = F.pad(self.rpb, (0, 1, 0, 1), value=-torch.inf)
        bias = near[:, row_offset][..., column_offset].permute(1, 4, 0, 2, 5, 3, 6).flatten(3, 4).flatten(4, 5)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        mixed = mixed.unflatten(4, (tall, wide)).permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4).flatten(1, 2)
        return self.proj(mixed[:, :height, :width])


class _Block(nn.Module):
    """Neighbourhood attention, then a perceptron, each normalised and added to what came in."""

    def __init__(self, channels: int, kernel: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = NeighbourhoodAttention(channels, kernel, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Group(nn.Module):
    def __init__(self, blocks: list[_Block]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class NeighbourhoodGroup(nn.Module):
    """Blocks of neighbourhood attention in a row, added to what came in.

    Args:
        channels: of the map.
        depth: blocks.
        kernel: odd side of the neighbourhood.
        heads: attention heads.
        mlp_ratio: hidden units of the perceptrons per channel.
    """

    def __init__(self, channels: int, depth: int, kernel: int, heads: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.residual_group = _Group([_Block(channels, kernel, heads, mlp_ratio) for _ in range(depth)])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        h = x.permute(0, 2, 3, 1)
        for block in self.residual_group.blocks:
            h = block(h)
        return x + h.permute(0, 3, 1, 2)
