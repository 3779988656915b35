"""Local networks for images of any size: convolutions only, no normalisation or attention over the image.

Every output pixel depends on a bounded neighbourhood of the input, so a network that was trained on crops means the
same on a whole photograph, and a photograph may be cut into tiles that overlap by the reach of the network without any
change of the result. The noise level (a diffusion step or a channel SNR) scales and shifts the channels of every block.

Pixels are folded into channels before the first convolution, by 4 unless said otherwise; each further level halves the
resolution.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

#: Pixels per side that are folded into channels, where nothing else is said.
FOLD = 4
#: CSNR that the networks see as 1, dB.
_CSNR_UNIT_DB = 14.0
#: Most that an encoder's levels add to a feature, whose root mean square over photographs is about 0.6.
_LARGEST_ADDITION = 2.0
#: Images of more pixels are computed in tiles: about 1500 x 1500, so that a screenful stays whole.
WHOLE_PIXELS = 2_300_000
#: Side of a tile without its overlap, pixels.
TILE_SIDE = 1024


def fold_side(levels: int, fold: int = FOLD) -> int:
    """Pixels per side behind one position of the innermost of so many levels."""
    return fold * 2 ** (levels - 1)


class _Embedding(nn.Module):
    """(B,) numbers of about -1..1 to (B, channels): sines and cosines, then two layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(25, channels), nn.SiLU(), nn.Linear(channels, channels), nn.SiLU())

    def forward(self, level: Tensor) -> Tensor:
        rates = torch.pi * 2.0 ** torch.arange(0.0, 6.0, 0.5, device=level.device)
        phases = level[:, None] * rates
        return self.layers(torch.cat([level[:, None], phases.cos(), phases.sin()], dim=1))


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Return the layer with zero weights."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def normalised(x: Tensor) -> Tensor:
    """Zero mean and unit variance over the channels, at each position by itself."""
    return F.layer_norm(x.permute(0, 2, 3, 1), x.shape[1:2]).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Two convolutions around a residual, the embedding between them; starts as the identity."""

    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.condition = nn.Linear(embedding, 2 * channels)
        self.second = _zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        h = self.first(normalised(x))
        scale, shift = self.condition(embedded).to(h.dtype)[:, :, None, None].chunk(2, dim=1)
        return x + self.second(F.silu(h * (1 + scale) + shift))


class _Level(nn.ModuleList):
    """Blocks in a row."""

    def __init__(self, channels: int, embedding: int, count: int) -> None:
        super().__init__(Block(channels, embedding) for _ in range(count))

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        for block in self:
            x = block(x, embedded)
        return x


def _down(channels: int, out: int) -> nn.Module:
    return nn.Conv2d(channels, out, 3, stride=2, padding=1)


class _Up(nn.Sequential):
    """A 1x1 convolution to four times as many channels, shuffled to twice the resolution.

    As `nn.PixelShuffle` does it, but channels last throughout, which that leaves.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(nn.Conv2d(channels, 4 * out, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        conv, _ = self
        assert isinstance(conv, nn.Conv2d) and conv.bias is not None
        four, inside = conv.weight.shape[:2]
        out = four // 4
        # From (channel, row, column) to (row, column, channel) of each group of four pixels.
        weight = conv.weight.view(out, 4, inside).transpose(0, 1).reshape(four, inside, 1, 1)
        bias = conv.bias.view(out, 4).T.reshape(four)
        y = F.conv2d(x, weight, bias).permute(0, 2, 3, 1)
        batch, rows, columns, _ = y.shape
        y = y.reshape(batch, rows, columns, 2, 2, out).transpose(2, 3)
        return y.reshape(batch, 2 * rows, 2 * columns, out).permute(0, 3, 1, 2)


def _reach(blocks: Sequence[int], fold: int = FOLD) -> int:
    """Positions of the innermost level that blocks on one way through all levels see to either side, rounded up.

    A block has two convolutions, each level one more to enter it, and the last level one to leave it.
    """
    inner = len(blocks) - 1
    pixels = sum((2 * count + 1) * fold * 2**level for level, count in enumerate(blocks)) + fold * 2**inner
    return -(-pixels // (fold * 2**inner)) + 1


def _check(widths: Sequence[int], blocks: Sequence[int], side: int, fold: int = FOLD) -> None:
    if len(widths) != len(blocks) or any(width < 1 for width in widths) or any(count < 0 for count in blocks):
        raise ValueError(f"Widths and blocks must be given for the same levels, got {widths} and {blocks}.")
    if widths and side != fold_side(len(widths), fold):
        raise ValueError(f"{len(widths)} levels have {fold_side(len(widths), fold)} pixels a side, found {side}.")


class LocalEncoder(nn.Module):
    """(B, C, H, W) to (B, out, H / side, W / side).

    The sum of a linear map of each block of side x side pixels (`direct`) and of what the levels, where there are any,
    add to it: at first nothing.
    """

    def __init__(
        self, channels: int, side: int, widths: Sequence[int], blocks: Sequence[int], out: int, embedding: int
    ) -> None:
        super().__init__()
        _check(widths, blocks, side)
        #: Pixels per side that a position of the input and of the output stands for; reach to either side.
        self.side, self.input_side, self.output_side = side, 1, side
        self.reach = _reach(blocks) if widths else 0
        self.direct = nn.Conv2d(channels, out, side, stride=side)
        if not widths:
            return
        self.embedding = _Embedding(embedding)
        self.enter = nn.Conv2d(channels * FOLD**2, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(_Level(w, embedding, n) for w, n in zip(widths, blocks, strict=True))
        self.downs = nn.ModuleList(_down(a, b) for a, b in itertools.pairwise(widths))
        self.leave = _zeroed(nn.Conv2d(widths[-1], out, 3, padding=1))

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        linear = self.direct(x)
        if not self.reach:
            return linear
        embedded = self.embedding(csnr_db / _CSNR_UNIT_DB)
        h = self.enter(F.pixel_unshuffle(x, FOLD))
        for index, blocks in enumerate(self.levels):
            h = blocks(h if index == 0 else self.downs[index - 1](h), embedded)
        # Bounded, as a scale that runs away would be cut where it is sent, and no gradient would bring it back.
        return linear + _LARGEST_ADDITION * (self.leave(h) / _LARGEST_ADDITION).tanh()


class LocalDecoder(nn.Module):
    """The way back: (B, inside, H / side, W / side) to (B, C, H, W). Widths and blocks count from the image inwards.

    Here too the levels add to a linear map, which takes a position and its eight neighbours, each feature first
    shrunk as its mean power (`power`) and the noise ask for (Wiener). Where it is `local_wiener`, they are shrunk once
    more as the innermost level finds right at each position: even areas have little power in most features, and what
    is received of them there is noise. So that it can tell, it sees how far each feature stands out of the noise.
    """

    power: Tensor

    def __init__(
        self,
        channels: int,
        side: int,
        widths: Sequence[int],
        blocks: Sequence[int],
        inside: int,
        embedding: int,
        local_wiener: bool = False,
    ) -> None:
        super().__init__()
        _check(widths, blocks, side)
        if local_wiener and not widths:
            raise ValueError("A decoder shrinks features by what its levels see: local_wiener needs widths.")
        self.side, self.input_side, self.output_side = side, side, 1
        self.reach = _reach(blocks) if widths else 1
        self.deep = bool(widths)
        self.register_buffer("power", torch.full((inside,), 0.5))
        self.direct = nn.Conv2d(inside, channels * side**2, 3, padding=1)
        if not widths:
            return
        self.embedding = _Embedding(embedding)
        self.enter = nn.Conv2d(inside, widths[-1], 3, padding=1)
        self.levels = nn.ModuleList(_Level(w, embedding, n) for w, n in zip(widths, blocks, strict=True))
        self.ups = nn.ModuleList(_Up(b, a) for a, b in itertools.pairwise(widths))
        self.leave = _zeroed(nn.Conv2d(widths[0], channels * FOLD**2, 3, padding=1))
        self.local_wiener = local_wiener
        if local_wiener:
            self.prominence = _zeroed(nn.Conv2d(inside, widths[-1], 3, padding=1))
            self.gain = _zeroed(nn.Conv2d(widths[-1], inside, 3, padding=1))

    def wiener(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        """Shrink the features to their least squared error each."""
        power = self.power[:, None, None]
        return features * (power / (power + _noise_var(csnr_db)))

    def forward(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        shrunk = self.wiener(features, csnr_db)
        if not self.deep:
            return F.pixel_shuffle(self.direct(shrunk), self.side)
        embedded = self.embedding(csnr_db / _CSNR_UNIT_DB)
        h = self.enter(features)
        if self.local_wiener:
            h = h + self.prominence((features.square() / _noise_var(csnr_db)).log1p())
        for index in reversed(range(len(self.levels))):
            h = self.levels[index](h, embedded)
            if self.local_wiener and index == len(self.levels) - 1:
                shrunk = shrunk * 2 * self.gain(h).sigmoid()
            if index:
                h = self.ups[index - 1](h)
        return F.pixel_shuffle(self.direct(shrunk), self.side) + F.pixel_shuffle(self.leave(h), FOLD)


def _noise_var(csnr_db: Tensor) -> Tensor:
    """Return the noise variance of features, (B, 1, 1, 1): a real part has half of a symbol's noise."""
    return torch.pow(10.0, -csnr_db / 10)[:, None, None, None] / 2


class LocalUNet(nn.Module):
    """(B, C, H, W) to (B, C, H, W): a U-Net of the same blocks, `blocks` of each level on both ways.

    Pixels are folded into channels by `fold`; 1 builds no grid of pixels into the network.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: Sequence[int], embedding: int, fold: int = FOLD
    ) -> None:
        super().__init__()
        if not widths:
            raise ValueError("A U-Net needs at least one level.")
        if fold < 1:
            raise ValueError(f"Pixels are folded by 1 or more, not {fold}.")
        self.channels, self.fold = channels, fold
        self.side, self.input_side, self.output_side = fold_side(len(widths), fold), 1, 1
        _check(widths, blocks, self.side, fold)
        self.reach = _reach([*(2 * count for count in blocks[:-1]), blocks[-1]], fold)
        self.embedding = _Embedding(embedding)
        self.enter = nn.Conv2d(channels * fold**2, widths[0], 3, padding=1)
        self.before = nn.ModuleList(_Level(w, embedding, n) for w, n in zip(widths, blocks, strict=True))
        self.downs = nn.ModuleList(_down(a, b) for a, b in itertools.pairwise(widths))
        self.ups = nn.ModuleList(_Up(b, a) for a, b in itertools.pairwise(widths))
        self.after = nn.ModuleList(_Level(w, embedding, n) for w, n in zip(widths[:-1], blocks[:-1], strict=True))
        self.leave = _zeroed(nn.Conv2d(widths[0], channels * fold**2, 3, padding=1))

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        embedded = self.embedding(level)
        h = self.enter(F.pixel_unshuffle(x, self.fold))
        skips = []
        for index, blocks in enumerate(self.before):
            h = blocks(h if index == 0 else self.downs[index - 1](h), embedded)
            skips.append(h)
        for index in reversed(range(len(self.after))):
            h = self.after[index](skips[index] + self.ups[index](h), embedded)
        return F.pixel_shuffle(self.leave(h), self.fold)


Network = LocalEncoder | LocalDecoder | LocalUNet


def pad_to(images: Tensor, height: int, width: int) -> Tensor:
    """Continue images (B, C, H, W) to `height` and `width` by repeating their last row and column."""
    padding = (0, width - images.shape[3], 0, height - images.shape[2])
    return F.pad(images, padding, mode="replicate") if any(padding) else images


def in_tiles(network: Network, x: Tensor, level: Tensor, *, limit: int = WHOLE_PIXELS, tile: int = TILE_SIDE) -> Tensor:
    """Compute `network(x, level)`, tile by tile where an image has more than `limit` pixels, so that memory is bounded.

    Tiles overlap by the network's reach, so the result is that of the whole image. Where a gradient is wanted, a tile's
    activations are computed again on the way back instead of being kept.

    Args:
        x: (B, C, H, W) input whose sides divide by the network's `side` (a decoder's stand for so many pixels).
        tile: pixels per side of a tile without its overlap.
    """
    height, width = x.shape[2] * network.input_side, x.shape[3] * network.input_side
    if height * width <= limit:
        return network(x, level)
    side, step = network.side, max(1, tile // network.side)
    rows, columns = height // side, width // side
    scale_in, scale_out = side // network.input_side, side // network.output_side
    bands = []
    for top in range(0, rows, step):
        parts = []
        for left in range(0, columns, step):
            (y0, y1), (x0, x1) = (
                (max(0, first - network.reach), min(count, first + step + network.reach))
                for first, count in ((top, rows), (left, columns))
            )
            piece = x[:, :, y0 * scale_in : y1 * scale_in, x0 * scale_in : x1 * scale_in]
            if torch.is_grad_enabled():
                out = checkpoint(network, piece, level, use_reentrant=False)
            else:
                out = network(piece, level)
            bottom, right = min(rows, top + step), min(columns, left + step)
            parts.append(
                out[  # type: ignore[index]
                    :,
                    :,
                    (top - y0) * scale_out : (bottom - y0) * scale_out,
                    (left - x0) * scale_out : (right - x0) * scale_out,
                ]
            )
        bands.append(torch.cat(parts, dim=3))
    return torch.cat(bands, dim=2)
