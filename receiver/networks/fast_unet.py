"""The ADM U-Net for sampling on a GPU: half precision, channels last, fused normalisation, CUDA graphs.

`FastUNet` computes what a `UNetModel` computes with the same weights; tests hold it to that. It is for sampling only:
the gradient reaches the image, not the weights. What makes it fast, each by itself:

- weights and features in bfloat16 or float16, so that convolutions run on the matrix units; sums, normalisation and
  embeddings stay in single precision;
- channels last from the first to the last convolution, which these units want, with `receiver.networks.fused_norm` in
  between;
- attention by PyTorch's fused scaled-dot-product kernels on heads that are views of one matrix product;
- forward and backward passes captured as CUDA graphs per shape, as a small batch waits for launches otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from receiver.networks import fused_norm
from receiver.networks.unet import AttentionBlock, Downsample, ResBlock, UNetModel, Upsample, timestep_embedding

#: (x, timesteps, labels) to the network's output.
_Call = Callable[..., Tensor]


class FastUNet(nn.Module):
    """A `UNetModel` for sampling; the same arguments, the same output up to the precision.

    Args:
        unet: the network, on the device that it runs on; its weights are copied.
        dtype: of weights and features: torch.bfloat16, torch.float16 or torch.float32.
        graphs: capture CUDA graphs, one for each shape and for each with or without a gradient.
    """

    def __init__(self, unet: UNetModel, dtype: torch.dtype = torch.bfloat16, *, graphs: bool = True) -> None:
        super().__init__()
        self.dtype = dtype
        self.in_channels, self.out_channels, self.num_classes = unet.in_channels, unet.out_channels, unet.num_classes
        self._unet = [unet]  # not a submodule: its parameters are these, in another type
        self._fused = fused_norm.available(next(unet.parameters()).device)
        self._graphs = graphs and self._fused
        self._captured: dict[tuple[object, ...], _Call] = {}
        self._weights = {
            id(layer): _converted(layer, dtype) for layer in unet.modules() if isinstance(layer, nn.Conv2d | nn.Conv1d)
        }

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute the network's output, (B, out_channels, H, W) float32; see `UNetModel.forward`.

        Raises:
            ValueError: labels missing or not wanted.
        """
        if (y is not None) != (self.num_classes is not None):
            raise ValueError("Labels y must be given exactly when the model was built with num_classes.")
        arguments = (x, timesteps) if y is None else (x, timesteps, y)
        with torch.autocast(x.device.type, enabled=False):
            if not self._graphs:
                return self._run(*arguments)
            wants_gradient = torch.is_grad_enabled() and x.requires_grad
            key = (tuple(x.shape), timesteps.dtype, wants_gradient)
            if key not in self._captured:
                capture = _captured_with_gradient if wants_gradient else _captured_without_gradient
                self._captured[key] = capture(self._run, arguments)
            # The graph's output is overwritten by its next replay.
            return self._captured[key](*arguments).clone()

    def _run(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        (unet,) = self._unet
        emb = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        if y is not None:
            emb = emb + unet.label_emb(y)
        h = x.to(self.dtype).contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in unet.input_blocks:
            h = self._stage(stage, h, emb)
            skips.append(h)
        h = self._stage(unet.middle_block, h, emb)
        for stage in unet.output_blocks:
            h = self._stage(stage, torch.cat([h, skips.pop()], dim=1), emb)
        norm, _, conv = unet.out
        return self._conv(conv, self._norm(norm, h, *_affine(norm, len(h)))).float()

    def _stage(self, stage: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
        for layer in stage.children():
            if isinstance(layer, ResBlock):
                h = self._residual(layer, h, emb)
            elif isinstance(layer, AttentionBlock):
                h = self._attention(layer, h)
            elif isinstance(layer, nn.Conv2d):
                h = self._conv(layer, h)
            else:
                h = self._resampled(layer, h)
        return h

    def _residual(self, block: ResBlock, x: Tensor, emb: Tensor) -> Tensor:
        norm, _, conv = block.in_layers
        h = self._norm(norm, x, *_affine(norm, len(x)))
        h = self._conv(conv, self._resampled(block.resample, h))
        condition = block.emb_layers(emb)
        norm, _, _, conv = block.out_layers
        weight, bias = _affine(norm, len(x))
        if block.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        else:
            h = h + condition.to(h.dtype)[:, :, None, None]
        h = self._conv(conv, self._norm(norm, h, weight, bias))
        x = self._resampled(block.resample, x)
        skip = block.skip_connection
        return (self._conv(skip, x) if isinstance(skip, nn.Conv2d) else x) + h

    def _attention(self, block: AttentionBlock, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        flat = self._norm(block.norm, x, *_affine(block.norm, batch), silu=False).permute(0, 2, 3, 1).flatten(1, 2)
        qkv = F.linear(flat, *self._weights[id(block.qkv)])
        # The published models order the 3 * C rows of `qkv` in one of two ways: (head, q/k/v, c) or (q/k/v, head, c).
        order = (block.heads, 3) if block.interleaved_heads else (3, block.heads)
        parts = qkv.view(batch, height * width, *order, channels // block.heads)
        q, k, v = parts.unbind(3 if block.interleaved_heads else 2)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        out = F.linear(mixed.transpose(1, 2).flatten(2), *self._weights[id(block.proj_out)])
        return x + out.unflatten(1, (height, width)).permute(0, 3, 1, 2)

    def _resampled(self, layer: nn.Module, h: Tensor) -> Tensor:
        if isinstance(layer, Upsample):
            h = F.interpolate(h, scale_factor=2, mode="nearest")
            return self._conv(layer.conv, h) if layer.with_conv else h
        if isinstance(layer, Downsample):
            return self._conv(layer.op, h) if isinstance(layer.op, nn.Conv2d) else layer.op(h)
        return h

    def _conv(self, layer: nn.Module, h: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        weight, bias = self._weights[id(layer)]
        return F.conv2d(h, weight, bias, layer.stride, layer.padding)  # type: ignore[arg-type]

    def _norm(self, norm: nn.Module, h: Tensor, weight: Tensor, bias: Tensor, silu: bool = True) -> Tensor:
        assert isinstance(norm, nn.GroupNorm)
        compute = fused_norm.fused_norm_silu if self._fused else fused_norm.plain_norm_silu
        return compute(h, weight, bias, norm.num_groups, norm.eps, silu)


def _converted(layer: nn.Conv2d | nn.Conv1d, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return weight and bias of a layer in another type: channels last, or as a matrix where it has no extent."""
    weight = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    if isinstance(layer, nn.Conv1d):
        return weight[:, :, 0].contiguous(), bias
    return weight.contiguous(memory_format=torch.channels_last), bias


def _affine(norm: nn.Module, batch: int) -> tuple[Tensor, Tensor]:
    """Return a normalisation's factor and bias for every image, (B, C) float32."""
    assert isinstance(norm, nn.GroupNorm)
    return (
        norm.weight.detach().float()[None].expand(batch, -1).contiguous(),
        norm.bias.detach().float()[None].expand(batch, -1).contiguous(),
    )


def _captured_with_gradient(run: _Call, arguments: tuple[Tensor, ...]) -> _Call:
    """Capture a forward and a backward pass, after a few plain ones that choose algorithms."""
    samples = tuple(value.detach().clone().requires_grad_(value.requires_grad) for value in arguments)
    return torch.cuda.make_graphed_callables(run, samples)  # type: ignore[return-value]


def _captured_without_gradient(run: _Call, arguments: tuple[Tensor, ...]) -> _Call:
    """Capture a forward pass."""
    inputs = tuple(value.detach().clone() for value in arguments)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(3):
            run(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad(), torch.cuda.graph(graph):
        output = run(*inputs)

    def replay(*values: Tensor) -> Tensor:
        for kept, value in zip(inputs, values, strict=True):
            kept.copy_(value)
        graph.replay()
        return output

    return replay
