"""The ADJSCC of djscc-playground: attention to the SNR as in ADJSCC, with a divisive normalisation in every layer.

Parameter names and shapes are those of its `model.safetensors`, so that this loads strictly; what CompressAI keeps
beside the weights (bounds of the normalisation) is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from receiver.networks.adjscc import GDN
from receiver.networks.swin import dropping

#: Constants of CompressAI's normalisation.
_CONSTANTS = tuple(
    f"{name}_reparam.{constant}" for name in ("beta", "gamma") for constant in ("pedestal", "lower_bound.bound")
)


def _normalisation(channels: int) -> GDN:
    gdn = GDN(channels)
    gdn.register_load_state_dict_pre_hook(dropping(*_CONSTANTS))
    return gdn


class _Down(nn.Module):
    """A convolution, the normalisation, and an activation unless it is the last layer."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, last: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, kernel, stride, kernel // 2)
        self.GDN = _normalisation(out)
        self.activate_func = nn.Identity() if last else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activate_func(self.GDN(self.conv1(x)))


class _Up(nn.Module):
    """A transposed convolution, the normalisation, and an activation, in the last layer a sigmoid."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, last: bool = False) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(channels, out, kernel, stride, kernel // 2, output_padding=stride - 1)
        self.GDN = _normalisation(out)
        self.activate_func = nn.Sigmoid() if last else nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activate_func(self.GDN(self.deconv1(x)))


class _Gains(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.FC_1 = nn.Linear(channels + 1, channels // 16)
        self.FC_2 = nn.Linear(channels // 16, channels)

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        told = torch.cat([csnr_db[:, None].to(x), x.mean(dim=(2, 3))], dim=1)
        return x * self.FC_2(self.FC_1(told).relu()).sigmoid()[:, :, None, None]


class _Attention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Channel_attention = _Gains(channels)

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        return self.Channel_attention(x, csnr_db)


class _Half(nn.Module):
    """Encoder or decoder: five layers, an attention behind each but the last.

    Args:
        layers: from the input on.
        width: channels between them.
        names: of layers and attentions, before their numbers.
    """

    def __init__(self, layers: list[nn.Module], width: int, names: tuple[str, str]) -> None:
        super().__init__()
        self._names = names
        for number, layer in enumerate(layers, 1):
            self.add_module(f"{names[0]}_{number}", layer)
            if number < len(layers):
                self.add_module(f"{names[1]}_{number}", _Attention(width))

    def forward(self, x: Tensor, csnr_db: Tensor) -> Tensor:
        layer, attention = self._names
        for number in range(1, 5):
            x = self.get_submodule(f"{attention}_{number}")(self.get_submodule(f"{layer}_{number}")(x), csnr_db)
        return self.get_submodule(f"{layer}_5")(x)


class PlaygroundADJSCC(nn.Module):
    """Encoder and decoder. The sides of the images must divide by 4.

    Args:
        M: channels of the feature map that is sent.
        width: channels inside, 16 or more.

    Raises:
        ValueError: too few channels for the attention.
    """

    def __init__(self, M: int, width: int = 256) -> None:
        super().__init__()
        if width < 16:
            raise ValueError(f"The attention needs a width of at least 16, got {width}.")
        inside = [(width, width, 5, 1)] * 2
        down = [_Down(*sizes) for sizes in ((3, width, 9, 2), (width, width, 5, 2), *inside)]
        up = [_Up(*sizes) for sizes in ((M, width, 5, 1), *inside, (width, width, 5, 2))]
        self.encoder = _Half([*down, _Down(width, M, 5, 1, last=True)], width, ("FL_Module", "AL_Module"))
        self.decoder = _Half([*up, _Up(width, 3, 9, 2, last=True)], width, ("FL_De_Module", "AL_De_module"))

    def encode(self, images: Tensor, csnr_db: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] and (B,) dB to (B, M, H/4, W/4), not yet power normalised."""
        return self.encoder(images, csnr_db)

    def decode(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        """(B, M, H/4, W/4) of unit mean square and (B,) dB to (B, 3, H, W) in (0, 1)."""
        return self.decoder(features, csnr_db)
