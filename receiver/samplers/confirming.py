"""What a codec's decoder makes of symbols as the channel would deliver them without noise: D(W_h^-1(W_h(z)))."""

from __future__ import annotations

from torch import Tensor

from receiver.channel.decoding import for_decoder
from receiver.codecs.codec import Codec
from receiver.measurement.model import Measurement


def confirmed(codec: Codec, measurement: Measurement, z: Tensor, h: Tensor) -> Tensor:
    """Return the images (B, C, H, W), differentiable in `z`.

    Args:
        codec: decodes.
        measurement: tells the channel's operator and its noise, which equaliser and decoder go by.
        z: (B, K) symbols.
        h: (F, L) taps.
    """
    clean = measurement.with_received(measurement.forward(z, h))
    return codec.decode(*for_decoder(codec, clean, h))
