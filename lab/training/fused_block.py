"""The residual block of local networks as few GPU kernels, for training.

    x + second(silu(scale * first(norm(x)) + shift)),     norm over the channels of each position

PyTorch's layer normalisation starts a thread block for every position and each step in between is a kernel of its own:
with 32 to 256 channels these cost several times the convolutions. Here the convolutions are cuDNN's and five Triton
kernels do the rest, both ways. `use_fused_blocks` puts it into a network; what it computes is the plain block up to the
precision, and a check on the device says so before a training begins.
"""

from __future__ import annotations

import importlib.util
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks.local import Block

#: Added to the variance, as by `torch.nn.functional.layer_norm`.
_EPS = 1e-5
#: Largest relative error against the plain block that is taken for rounding, in bfloat16 and in single precision.
_BOUNDS = {torch.bfloat16: 0.03, torch.float32: 1e-3}


def use_fused_blocks(network: nn.Module, dtype: torch.dtype) -> bool:
    """Let the residual blocks of a network run fused, if the device can and the results agree.

    Args:
        network: on the device that it is trained on; changed in place.
        dtype: that features have in training.

    Returns:
        whether they do.
    """
    device = next(network.parameters()).device
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    if not all(agrees(width, device, dtype) for width in sorted({block.first.in_channels for block in blocks})):
        return False
    for block in blocks:
        block.forward = partial(fused_block, block)  # type: ignore[method-assign]
    return True


def fused_block(block: Block, x: Tensor, embedded: Tensor) -> Tensor:
    """Compute a block's output, (B, C, H, W) channels last; differentiable in x, the embedding and the weights."""
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(x.device.type, enabled=False):
        scale, shift = block.condition(embedded.float()).chunk(2, dim=1)
        assert block.first.bias is not None and block.second.bias is not None
        factor = 1 + scale
        offset = shift + block.first.bias * factor
        weights = [layer.weight.to(x.dtype) for layer in (block.first, block.second)]
        return _FusedBlock.apply(x, factor, offset, *weights, block.second.bias.to(x.dtype))  # type: ignore[no-any-return]


def agrees(width: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the fused block has the values and gradients of the plain one, on random data of 16x32 pixels."""
    generator = torch.Generator(device).manual_seed(width)
    block = Block(width, 16).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for parameter in block.parameters():
        parameter.data.normal_(std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1, generator=generator)
    data = torch.randn(3, width, 16, 32, device=device, generator=generator).to(dtype)
    embedded = torch.randn(3, 16, device=device, generator=generator)
    ramp = torch.linspace(-1, 2, 32, device=device)
    found = []
    for forward in (block.forward, partial(fused_block, block)):
        x = data.contiguous(memory_format=torch.channels_last).requires_grad_()
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = forward(x, embedded)
        gradients = torch.autograd.grad((out.float() * ramp).sum(), [x, *block.parameters()])
        found.append([out.detach(), *gradients])
    return all(
        float((fused.float() - plain.float()).norm() / plain.float().norm().clamp(min=1e-9)) < _BOUNDS[dtype]
        for plain, fused in zip(*found, strict=True)
    )


class _FusedBlock(torch.autograd.Function):
    """x + conv(silu(factor * conv(norm(x)) + offset)) + bias, channels last."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor: Tensor, offset: Tensor, first: Tensor, second: Tensor, bias: Tensor
    ) -> Tensor:
        size = _sizes(x)
        factor, offset = factor.contiguous(), offset.contiguous()
        kernels = _kernels()
        normed, active, out = (torch.empty_like(x) for _ in range(3))
        kernels["norm"][(size.tiles,)](x, normed, size.channels, size.block, size.rows, _EPS)
        h = _channels_last(F.conv2d(normed, first, padding=1))
        kernels["modulate"][(size.tiles,)](h, factor, offset, active, size.pixels, size.channels, size.block, size.rows)
        added = _channels_last(F.conv2d(active, second, padding=1))
        kernels["add"][(size.tiles,)](x, added, bias, out, size.channels, size.block, size.rows)
        ctx.save_for_backward(x, factor, offset, first, second, normed, h, active)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        x, factor, offset, first, second, normed, h, active = ctx.saved_tensors
        gradient = _channels_last(gradients[0].to(x.dtype))
        size = _sizes(x)
        kernels = _kernels()
        of_active, of_second = _convolution_gradients(gradient, active, second)
        of_factor, of_offset, of_bias = (torch.empty(size.programs, size.channels, device=x.device) for _ in range(3))
        of_h, of_x = torch.empty_like(h), torch.empty_like(x)
        kernels["modulate_gradient"][(size.programs,)](
            h, factor, offset, of_active, of_h, of_factor, of_offset,
            size.pixels, size.channels, size.block, size.rows, size.repeats,
        )  # fmt: skip
        of_normed, of_first = _convolution_gradients(of_h, normed, first)
        kernels["norm_gradient"][(size.programs,)](
            x, of_normed, gradient, of_x, of_bias, size.channels, size.block, size.rows, size.repeats, _EPS
        )
        images = len(x)
        of_factor, of_offset = (part.view(images, -1, size.channels).sum(1) for part in (of_factor, of_offset))
        return of_x, of_factor, of_offset, of_first, of_second, of_bias.sum(0).to(gradient.dtype)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _convolution_gradients(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of a 3x3 convolution with respect to its input and its weight."""
    of_x, of_weight, _ = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, True, False]
    )
    return _channels_last(of_x), of_weight


class _sizes:
    """How the positions of (B, C, H, W) are shared out: tiles of `rows` positions, `repeats` of them a program.

    A tile lies within one image, so that its modulation is one.
    """

    def __init__(self, x: Tensor) -> None:
        images, self.channels, height, width = x.shape
        self.pixels = height * width
        self.block = 1 << (self.channels - 1).bit_length()
        self.rows = max(1, min(2048 // self.block, self.pixels & -self.pixels))
        self.tiles = images * self.pixels // self.rows
        per_image = self.pixels // self.rows
        self.repeats = max(1, min(16, per_image & -per_image))
        self.programs = self.tiles // self.repeats


@cache
def _kernels() -> dict[str, Any]:
    """Return the Triton kernels; made on first use, so that nothing else needs Triton."""
    import triton
    import triton.language as tl

    @triton.jit
    def norm(x_ptr, y_ptr, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, EPS: tl.constexpr):
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        at = rows[:, None] * C + cols[None, :]
        mask = (rows[:, None] >= 0) & inside[None, :]
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.sum(x, axis=1) / C
        centred = tl.where(inside[None, :], x - mean[:, None], 0.0)
        std_inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + EPS)
        tl.store(y_ptr + at, (centred * std_inverse[:, None]).to(y_ptr.dtype.element_ty), mask=mask)

    @triton.jit
    def norm_gradient(
        x_ptr, dy_ptr, skip_ptr, dx_ptr, sum_ptr,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr, EPS: tl.constexpr,
    ):  # fmt: skip
        program = tl.program_id(0).to(tl.int64)
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        total = tl.zeros([BLOCK], dtype=tl.float32)
        for k in range(REPEATS):
            rows = (program * REPEATS + k) * ROWS + tl.arange(0, ROWS)
            at = rows[:, None] * C + cols[None, :]
            mask = (rows[:, None] >= 0) & inside[None, :]
            x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
            skip = tl.load(skip_ptr + at, mask=mask, other=0.0).to(tl.float32)
            mean = tl.sum(x, axis=1) / C
            centred = tl.where(inside[None, :], x - mean[:, None], 0.0)
            std_inverse = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + EPS)
            y = centred * std_inverse[:, None]
            mean_dy = tl.sum(dy, axis=1) / C
            mean_dyy = tl.sum(dy * y, axis=1) / C
            dx = skip + std_inverse[:, None] * (dy - mean_dy[:, None] - y * mean_dyy[:, None])
            tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=mask)
            total += tl.sum(skip, axis=0)
        tl.store(sum_ptr + program * C + cols, total, mask=inside)

    @triton.jit
    def add(x_ptr, y_ptr, bias_ptr, out_ptr, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr):
        rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        at = rows[:, None] * C + cols[None, :]
        mask = (rows[:, None] >= 0) & inside[None, :]
        bias = tl.load(bias_ptr + cols, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
        y = tl.load(y_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, (x + y + bias[None, :]).to(out_ptr.dtype.element_ty), mask=mask)

    @triton.jit
    def modulate(
        h_ptr, factor_ptr, offset_ptr, y_ptr, pixels, C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr
    ):
        first = tl.program_id(0).to(tl.int64) * ROWS
        image = first // pixels
        rows = first + tl.arange(0, ROWS)
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        at = rows[:, None] * C + cols[None, :]
        mask = (rows[:, None] >= 0) & inside[None, :]
        factor = tl.load(factor_ptr + image * C + cols, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + image * C + cols, mask=inside, other=0.0).to(tl.float32)
        u = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32) * factor[None, :] + offset[None, :]
        tl.store(y_ptr + at, (u / (1.0 + tl.exp(-u))).to(y_ptr.dtype.element_ty), mask=mask)

    @triton.jit
    def modulate_gradient(
        h_ptr, factor_ptr, offset_ptr, dy_ptr, dh_ptr, of_factor_ptr, of_offset_ptr, pixels,
        C: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, REPEATS: tl.constexpr,
    ):  # fmt: skip
        program = tl.program_id(0).to(tl.int64)
        first = program * (ROWS * REPEATS)
        image = first // pixels
        cols = tl.arange(0, BLOCK)
        inside = cols < C
        factor = tl.load(factor_ptr + image * C + cols, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(offset_ptr + image * C + cols, mask=inside, other=0.0).to(tl.float32)
        of_factor = tl.zeros([BLOCK], dtype=tl.float32)
        of_offset = tl.zeros([BLOCK], dtype=tl.float32)
        for k in range(REPEATS):
            rows = first + k * ROWS + tl.arange(0, ROWS)
            at = rows[:, None] * C + cols[None, :]
            mask = (rows[:, None] >= 0) & inside[None, :]
            h = tl.load(h_ptr + at, mask=mask, other=0.0).to(tl.float32)
            dy = tl.load(dy_ptr + at, mask=mask, other=0.0).to(tl.float32)
            u = h * factor[None, :] + offset[None, :]
            s = 1.0 / (1.0 + tl.exp(-u))
            du = dy * s * (1.0 + u * (1.0 - s))
            tl.store(dh_ptr + at, (du * factor[None, :]).to(dh_ptr.dtype.element_ty), mask=mask)
            of_factor += tl.sum(du * h, axis=0)
            of_offset += tl.sum(du, axis=0)
        tl.store(of_factor_ptr + program * C + cols, of_factor, mask=inside)
        tl.store(of_offset_ptr + program * C + cols, of_offset, mask=inside)

    return {
        "norm": norm,
        "norm_gradient": norm_gradient,
        "add": add,
        "modulate": modulate,
        "modulate_gradient": modulate_gradient,
    }
