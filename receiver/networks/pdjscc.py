"""PDJSCC: the network of ADJSCC, trained with perceptual and adversarial losses.

Parameter names and shapes are those of the public checkpoints, which may also hold the networks that the losses needed
(`Discriminator.`, `_lpips.`, `MS_SSIM.`, `distortion_loss.`); these are ignored.
"""

from __future__ import annotations

from torch import Tensor, nn

from receiver.networks.adjscc import Decoder, Encoder

#: Parts of a published file that only its training used.
LOSSES = ("Discriminator.", "_lpips.", "MS_SSIM.", "distortion_loss.")


class PDJSCC(nn.Module):
    """Encoder and decoder. The defaults are the public configuration for colour images.

    Args:
        C: channels of the feature map that is sent: C * (H/4) * (W/4) real numbers, half as many complex symbols.
        in_channels: channels of the image.
        width: channels inside.
    """

    def __init__(self, C: int, in_channels: int = 3, width: int = 256) -> None:
        super().__init__()
        kernels = (9, 5, 5, 5, 5)
        self.Encoder = Encoder(C, in_channels, width, kernels)
        self.Decoder = Decoder(C, in_channels, width, kernels, width, 7)
        self.register_load_state_dict_pre_hook(_drop_losses)

    def encode(self, images: Tensor, csnr_db: Tensor) -> Tensor:
        """(B, in_channels, H, W) in [0, 1] and (B,) dB to (B, C, H/4, W/4); the sides must divide by 4."""
        return self.Encoder(images, csnr_db)

    def decode(self, features: Tensor, csnr_db: Tensor) -> Tensor:
        """(B, C, H/4, W/4) and (B,) dB to (B, in_channels, H, W) in (0, 1)."""
        return self.Decoder(features, csnr_db)


def _drop_losses(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    for key in [key for key in state if key.startswith(tuple(prefix + loss for loss in LOSSES))]:
        del state[key]
