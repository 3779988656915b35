"""ADJSCC: deep joint source-channel coding with SNR attention (Xu et al. 2021, arXiv 2012.00533).

Parameter names and shapes are those of the checkpoints used by the DiffCom authors' public code (with the prefixes
`jscc_encoder.` and `jscc_decoder.`), so those load with `load_state_dict(strict=True)` into `ADJSCC(C)` with the
default options. The small shipped codec is the same class: fewer channels, smaller kernels, grey images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Offset of the square-root reparametrisation of GDN (Balle et al. 2016, arXiv 1511.06281).
_GDN_OFFSET = 2.0**-18
_GDN_BETA_MIN = 1e-6


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still passes where it would push x back above the bound."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        (grad,) = grad_outputs
        return grad * ((x >= ctx.bound) | (grad < 0)), None


class GDN(nn.Module):
    """Generalised divisive normalisation: x_i / sqrt(beta_i + sum_j gamma_ij x_j^2), or times the root if `inverse`."""

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.sqrt(torch.ones(channels) + _GDN_OFFSET**2))
        self.gamma = nn.Parameter(torch.sqrt(0.1 * torch.eye(channels) + _GDN_OFFSET**2))

    def forward(self, x: Tensor) -> Tensor:
        beta = _LowerBound.apply(self.beta, (_GDN_BETA_MIN + _GDN_OFFSET**2) ** 0.5) ** 2 - _GDN_OFFSET**2
        gamma = _LowerBound.apply(self.gamma, _GDN_OFFSET) ** 2 - _GDN_OFFSET**2
        energy = F.conv2d(x * x, gamma[:, :, None, None], beta)
        return x * (energy.sqrt() if self.inverse else energy.rsqrt())


class AFModule(nn.Module):
    """Scales each channel by a factor computed from the channel means and the SNR."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = (channels + 1) // 16
        if hidden < 1:
            raise ValueError(f"SNR attention needs at least 15 channels, but has {channels}.")
        self.fc1 = nn.Linear(channels + 1, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        context = torch.cat([csnr_db[:, None].to(x.dtype), x.mean(dim=(2, 3))], dim=1)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(context))))[:, :, None, None]


class _PReLU(nn.PReLU):
    """PReLU of one slope, which is a constant on a processor where it isn't trained: its gradient would cost time."""

    def forward(self, input: Tensor) -> Tensor:
        if self.weight.requires_grad or input.device.type != "cpu":
            return super().forward(input)
        return F.leaky_relu(input, self.weight.item())


def _down(channels: int, out: int, kernel: int, stride: int, last: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2), GDN(out)]
    return nn.Sequential(*layers) if last else nn.Sequential(*layers, _PReLU())


def _up(channels: int, out: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.ConvTranspose2d(channels, out, kernel, stride, padding=kernel // 2, output_padding=stride - 1)
    return nn.Sequential(conv, GDN(out, inverse=True), _PReLU())


class Encoder(nn.Module):
    """(B, in_channels, H, W) images in [0, 1] to (B, C, H/4, W/4) features (not yet power normalised)."""

    def __init__(self, C: int, in_channels: int, width: int, kernels: Sequence[int]) -> None:
        super().__init__()
        for index in range(1, 5):
            self.add_module(f"attention{index}", AFModule(width))
        self.conv_block1 = _down(in_channels, width, kernels[0], 2)
        self.conv_block2 = _down(width, width, kernels[1], 2)
        self.conv_block3 = _down(width, width, kernels[2], 1)
        self.conv_block4 = _down(width, width, kernels[3], 1)
        self.conv_block5 = _down(width, C, kernels[4], 1, last=True)

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        for index in range(1, 5):
            x = self.get_submodule(f"conv_block{index}")(x)
            x = self.get_submodule(f"attention{index}")(x, csnr_db)
        return self.conv_block5(x)


class Decoder(nn.Module):
    """(B, C, H/4, W/4) features to (B, out_channels, H, W) images in (0, 1)."""

    def __init__(
        self, C: int, out_channels: int, width: int, kernels: Sequence[int], edge_width: int, edge_kernel: int
    ) -> None:
        super().__init__()
        for index in range(1, 6):
            self.add_module(f"attention{index}", AFModule(width if index < 5 else edge_width))
        self.upconv_block1 = _up(C, width, kernels[4], 1)
        self.upconv_block2 = _up(width, width, kernels[3], 1)
        self.upconv_block3 = _up(width, width, kernels[2], 1)
        self.upconv_block4 = _up(width, width, kernels[1], 2)
        self.upconv_block5 = _up(width, edge_width, kernels[0], 2)
        self.conv_block_out = nn.Sequential(
            nn.ReflectionPad2d(edge_kernel // 2), nn.Conv2d(edge_width, out_channels, edge_kernel), nn.Sigmoid()
        )

    def forward(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        x = features
        for index in range(1, 6):
            x = self.get_submodule(f"upconv_block{index}")(x)
            x = self.get_submodule(f"attention{index}")(x, csnr_db)
        return self.conv_block_out(x)


class ADJSCC(nn.Module):
    """Encoder and decoder. The defaults are the public configuration for colour images.

    Args:
        C: channels of the feature map that is sent: C * (H/4) * (W/4) real numbers, half as many complex symbols.
        in_channels: channels of the image.
        width: channels inside.
        kernels: odd kernel sizes of the five convolutions from the image inwards, the same in the decoder outwards.
        edge_width: channels at full resolution in the decoder (`width` in the public model; less is much faster).
        edge_kernel: odd kernel size of the decoder's last convolution.

    Raises:
        ValueError: kernels that are not five odd sizes, or too few channels for the attention.
    """

    def __init__(
        self,
        C: int,
        in_channels: int = 3,
        width: int = 256,
        kernels: Sequence[int] = (9, 5, 5, 5, 5),
        edge_width: int | None = None,
        edge_kernel: int = 7,
    ) -> None:
        super().__init__()
        if len(kernels) != 5 or any(kernel % 2 == 0 for kernel in (*kernels, edge_kernel)):
            raise ValueError(
                f"ADJSCC needs five odd kernel sizes and an odd edge kernel, got {kernels}, {edge_kernel}."
            )
        self.jscc_encoder = Encoder(C, in_channels, width, kernels)
        self.jscc_decoder = Decoder(
            C, in_channels, width, kernels, width if edge_width is None else edge_width, edge_kernel
        )

    def encode(self, images: Tensor, csnr_db: Tensor) -> Tensor:
        """Encode images (B, in_channels, H, W) in [0, 1] for CSNRs (B,), dB, into features (B, C, H/4, W/4)."""
        return self.jscc_encoder(images, csnr_db)

    def decode(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        """Decode features (B, C, H/4, W/4) at CSNRs (B,), dB, into images (B, in_channels, H, W) in (0, 1)."""
        return self.jscc_decoder(features, csnr_db)

    def forward(self, images: Tensor, csnr_db: Tensor) -> Tensor:
        """Decode what was encoded, without a channel."""
        return self.decode(self.encode(images, csnr_db), csnr_db)
