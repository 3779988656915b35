"""What a codec's decoder makes of symbols as the channel would deliver them without noise: D(W_h^-1(W_h(z)))."""

from __future__ import annotations

from torch import Tensor

from receiver.codecs.codec import Codec
from receiver.measurement.equalise import decoder_input
from receiver.measurement.model import Measurement


def confirmed(codec: Codec, measurement: Measurement, z: Tensor, h: Tensor, csnr_db: Tensor) -> Tensor:
    """Return the images (B, C, H, W), differentiable in `z`.

    Args:
        codec: decodes.
        measurement: tells the channel's operator and its noise variance, which the equaliser goes by.
        z: (B, K) symbols.
        h: (F, L) taps.
        csnr_db: (B,) that the decoder is told.
    """
    clean = measurement.with_received(measurement.forward(z, h))
    return codec.decode(decoder_input(clean, h), csnr_db)
