"""Group normalisation, modulation and SiLU in one pass, for images that lie channels last on a GPU.

    y = silu(group_norm(x) * scale + shift),     scale and shift per image and channel

PyTorch's own group normalisation leaves the channels-last layout and runs each of these steps as kernels of their own;
at 256x256 pixels that costs more than the convolutions between them. Two Triton kernels each way do it: one gathers
sums per channel, the other applies them. Only the gradient with respect to x is computed: sampling needs no other.

Triton comes with PyTorch's CUDA builds; `available()` says whether it can be used.
"""

from __future__ import annotations

import importlib.util
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def available(device: torch.device | str) -> bool:
    """Return whether the fused kernels can run on a device."""
    return torch.device(device).type == "cuda" and importlib.util.find_spec("triton") is not None


def plain_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True) -> Tensor:
    """Compute what `fused_norm_silu` computes with PyTorch's own operations; see there."""
    normalised = F.group_norm(x.float(), groups, eps=eps)
    h = normalised * weight[:, :, None, None] + bias[:, :, None, None]
    return (F.silu(h) if silu else h).to(x.dtype)


def fused_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True) -> Tensor:
    """Normalise, scale, shift and activate; differentiable in `x` alone.

    Args:
        x: (B, C, H, W), channels last, of any floating type.
        weight: (B, C) float32 factor behind the normalisation.
        bias: (B, C) float32 added to it.
        groups: of channels that are normalised together.
        eps: added to the variance.
        silu: activate; else the result is linear in the normalised x.

    Returns:
        (B, C, H, W) of the type of x, channels last.
    """
    return _NormSilu.apply(x, weight, bias, groups, eps, silu)  # type: ignore[no-any-return]


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = x.shape
        count = height * width * (channels // groups)
        sums, squares = _channel_sums(x)
        mean, square = (part.view(batch, groups, -1).sum(-1) / count for part in (sums, squares))
        std_inverse = (square - mean.square()).clamp(min=0).add(eps).rsqrt()
        each = channels // groups
        mean, std_inverse = (part.repeat_interleave(each, dim=1) for part in (mean, std_inverse))
        slope = std_inverse * weight
        offset = bias - mean * slope
        ctx.save_for_backward(x, slope, offset, mean, std_inverse)
        ctx.groups, ctx.count, ctx.silu = groups, count, silu
        return _modulated(x, slope, offset, silu)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, slope, offset, mean, std_inverse = ctx.saved_tensors
        gradient = gradients[0].to(x.dtype).contiguous(memory_format=torch.channels_last)
        batch, channels = slope.shape
        # With u = slope x + offset and v = d loss / d u: sums of v and of v x per channel.
        of_v, of_vx = _gradient_sums(x, gradient, slope, offset, ctx.silu)
        first, second = slope * of_v, slope * std_inverse * (of_vx - mean * of_v)
        first, second = (
            part.view(batch, ctx.groups, -1).sum(-1).repeat_interleave(channels // ctx.groups, dim=1) / ctx.count
            for part in (first, second)
        )
        by_x = -std_inverse * second
        constant = -first - mean * by_x
        found = _gradient(x, gradient, slope, offset, by_x, constant, ctx.silu)
        return found, None, None, None, None, None


def _channel_sums(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return sums and sums of squares over the pixels, (B, C) float32."""
    batch, channels, height, width = x.shape
    programs, rows, repeats, block = _partition(height * width, channels)
    sums = x.new_empty(2, batch, programs, channels, dtype=torch.float32)
    _kernels()["sums"][batch, programs](x, sums[0], sums[1], height * width, programs, channels, block, rows, repeats)
    return sums[0].sum(1), sums[1].sum(1)


def _modulated(x: Tensor, slope: Tensor, offset: Tensor, silu: bool) -> Tensor:
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    programs, rows, repeats, block = _partition(height * width, channels)
    pixels = height * width
    _kernels()["apply"][batch, programs](x, slope, offset, out, pixels, programs, channels, block, rows, repeats, silu)
    return out


def _gradient_sums(x: Tensor, gradient: Tensor, slope: Tensor, offset: Tensor, silu: bool) -> tuple[Tensor, Tensor]:
    """Return sums over the pixels of v = d loss / d u and of v x, (B, C) float32."""
    batch, channels, height, width = x.shape
    programs, rows, repeats, block = _partition(height * width, channels)
    sums = x.new_empty(2, batch, programs, channels, dtype=torch.float32)
    _kernels()["gradient_sums"][batch, programs](
        x, gradient, slope, offset, sums[0], sums[1], height * width, programs, channels, block, rows, repeats, silu
    )
    return sums[0].sum(1), sums[1].sum(1)


def _gradient(
    x: Tensor, gradient: Tensor, slope: Tensor, offset: Tensor, by_x: Tensor, constant: Tensor, silu: bool
) -> Tensor:
    """Return slope v + by_x x + constant, of the type of x."""
    out = torch.empty_like(x)
    batch, channels, height, width = x.shape
    programs, rows, repeats, block = _partition(height * width, channels)
    pixels = height * width
    _kernels()["gradient"][batch, programs](
        x, gradient, slope, offset, by_x, constant, out, pixels, programs, channels, block, rows, repeats, silu
    )
    return out


def _partition(pixels: int, channels: int) -> tuple[int, int, int, int]:
    """Return programs per image, rows of pixels at a time, how many of these a program takes, and padded channels."""
    block = 1 << (channels - 1).bit_length()
    rows = max(1, min(4096 // block, 64))
    programs = max(1, min(-(-pixels // rows), 256))
    repeats = -(-pixels // (rows * programs))
    return programs, rows, repeats, block


@cache
def _kernels() -> dict[str, Any]:
    """Return the Triton kernels; made on first use, so that nothing else needs Triton."""
    import triton
    import triton.language as tl

    # Every kernel runs on (images, programs); a program takes `repeats` blocks of `rows` pixels, all channels of each.

    @triton.jit
    def sums_kernel(
        x_ptr, sum_ptr, square_ptr, pixels, programs,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr,
    ):  # fmt: skip
        image, program = tl.program_id(0), tl.program_id(1)
        cols = tl.arange(0, BLOCK)
        total = tl.zeros([BLOCK], dtype=tl.float32)
        square = tl.zeros([BLOCK], dtype=tl.float32)
        base = image.to(tl.int64) * pixels * C
        for k in range(REPEATS):
            rows = (program * REPEATS + k) * ROWS + tl.arange(0, ROWS)
            mask = (rows[:, None] < pixels) & (cols[None, :] < C)
            x = tl.load(x_ptr + base + rows[:, None] * C + cols[None, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(x, axis=0)
            square += tl.sum(x * x, axis=0)
        at = (image * programs + program) * C + cols
        tl.store(sum_ptr + at, total, mask=cols < C)
        tl.store(square_ptr + at, square, mask=cols < C)

    @triton.jit
    def apply_kernel(
        x_ptr, slope_ptr, offset_ptr, out_ptr, pixels, programs,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        image, program = tl.program_id(0), tl.program_id(1)
        cols = tl.arange(0, BLOCK)
        slope = tl.load(slope_ptr + image * C + cols, mask=cols < C, other=0.0)
        offset = tl.load(offset_ptr + image * C + cols, mask=cols < C, other=0.0)
        base = image.to(tl.int64) * pixels * C
        for k in range(REPEATS):
            rows = (program * REPEATS + k) * ROWS + tl.arange(0, ROWS)
            mask = (rows[:, None] < pixels) & (cols[None, :] < C)
            at = base + rows[:, None] * C + cols[None, :]
            u = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32) * slope[None, :] + offset[None, :]
            if SILU:
                u = u / (1.0 + tl.exp(-u))
            tl.store(out_ptr + at, u.to(out_ptr.dtype.element_ty), mask=mask)

    @triton.jit
    def gradient_sums_kernel(
        x_ptr, g_ptr, slope_ptr, offset_ptr, v_ptr, vx_ptr, pixels, programs,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        image, program = tl.program_id(0), tl.program_id(1)
        cols = tl.arange(0, BLOCK)
        slope = tl.load(slope_ptr + image * C + cols, mask=cols < C, other=0.0)
        offset = tl.load(offset_ptr + image * C + cols, mask=cols < C, other=0.0)
        of_v = tl.zeros([BLOCK], dtype=tl.float32)
        of_vx = tl.zeros([BLOCK], dtype=tl.float32)
        base = image.to(tl.int64) * pixels * C
        for k in range(REPEATS):
            rows = (program * REPEATS + k) * ROWS + tl.arange(0, ROWS)
            mask = (rows[:, None] < pixels) & (cols[None, :] < C)
            at = base + rows[:, None] * C + cols[None, :]
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            v = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if SILU:
                u = x * slope[None, :] + offset[None, :]
                s = 1.0 / (1.0 + tl.exp(-u))
                v = v * s * (1.0 + u * (1.0 - s))
            of_v += tl.sum(v, axis=0)
            of_vx += tl.sum(v * x, axis=0)
        place = (image * programs + program) * C + cols
        tl.store(v_ptr + place, of_v, mask=cols < C)
        tl.store(vx_ptr + place, of_vx, mask=cols < C)

    @triton.jit
    def gradient_kernel(
        x_ptr, g_ptr, slope_ptr, offset_ptr, by_x_ptr, constant_ptr, out_ptr, pixels, programs,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr, SILU: tl.constexpr,
    ):  # fmt: skip
        image, program = tl.program_id(0), tl.program_id(1)
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        slope = tl.load(slope_ptr + image * C + cols, mask=inside, other=0.0)
        offset = tl.load(offset_ptr + image * C + cols, mask=inside, other=0.0)
        by_x = tl.load(by_x_ptr + image * C + cols, mask=inside, other=0.0)
        constant = tl.load(constant_ptr + image * C + cols, mask=inside, other=0.0)
        base = image.to(tl.int64) * pixels * C
        for k in range(REPEATS):
            rows = (program * REPEATS + k) * ROWS + tl.arange(0, ROWS)
            mask = (rows[:, None] < pixels) & inside[None, :]
            at = base + rows[:, None] * C + cols[None, :]
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            v = tl.load(g_ptr + at, mask=mask, other=0.0).to(tl.float32)
            if SILU:
                u = x * slope[None, :] + offset[None, :]
                s = 1.0 / (1.0 + tl.exp(-u))
                v = v * s * (1.0 + u * (1.0 - s))
            found = slope[None, :] * v + by_x[None, :] * x + constant[None, :]
            tl.store(out_ptr + at, found.to(out_ptr.dtype.element_ty), mask=mask)

    return {
        "sums": sums_kernel,
        "apply": apply_kernel,
        "gradient_sums": gradient_sums_kernel,
        "gradient": gradient_kernel,
    }
