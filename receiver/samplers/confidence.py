"""How good an answer is likely to be, without the original: its residual, and a rehearsal of its own transmission."""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.codecs import Codec
from receiver.measurement import Measurement
from receiver.samplers.core import Randomness, standard_normal

#: Mean squared error of re-encoded right answers in units of the symbol power, on top of the noise: the codec is not
#: idempotent. 99 in 100 of 128 held-out images have less (deterministic decoder, 20 and 30 dB), a wrong one about 2.
CODEC_MISMATCH_VAR = 0.12

#: Rehearsals averaged.
_REHEARSALS = 4
#: By what the squared error of a rehearsal, at the largest residual accepted, falls short of the real one: an answer is
#: easier to send than the image was, as it has lost what can't be sent. Of 384 blind images of the shipped bundle.
_OPTIMISM = 11.5


def residual_limit(num_symbols: int, noise_var: float) -> float:
    """Largest normalised residual that is accepted.

    The true image has 1 +- 1 / sqrt(K) (a chi-square over 2 K degrees of freedom). A draw from the posterior lies as
    far from the truth as the truth from the posterior's mean, so it may fit worse by as much again; three standard
    errors and the codec's own mismatch are added.
    """
    return 2 * (1 + 3 / num_symbols**0.5) + CODEC_MISMATCH_VAR / noise_var


@torch.no_grad()
def expected_squared_error(
    measurement: Measurement,
    codec: Codec,
    x: Tensor,
    h: Tensor,
    residual: Tensor,
    encoder_csnr_db: Tensor,
    decoder_csnr_db: Tensor,
    generator: Randomness,
) -> Tensor:
    """(B,) squared error per pixel that the answer is likely to have (a parametric bootstrap).

    The answer is sent once more, over the channel and with the noise that were found, and decoded: what that loses
    tells how much such an image loses. Where the answer explains the measurement badly, the error is larger by as much.

    Args:
        x: (B, C, H, W) answers. h: (F, L) their taps. residual: (B,) normalised. generator: of noise per frame.
    """
    z = codec.encode(x, encoder_csnr_db)
    clean = measurement.forward(z, h)
    spread = (measurement.noise_var / 2).sqrt()[:, None, None]
    total = torch.zeros_like(residual)
    for _ in range(_REHEARSALS):
        noise = torch.view_as_complex(standard_normal((*clean.shape, 2), generator, clean.device)) * spread
        again = measurement.with_received(clean + noise.to(clean))
        decoded = codec.decode(again.decoder_input(h), decoder_csnr_db).clamp(0, 1)
        total = total + (decoded - x).square().mean(dim=(1, 2, 3))
    noise_var = measurement.noise_var.tolist()
    limits = [
        residual_limit(measurement.num_symbols, noise_var[frame]) for frame in measurement.frame_of_image.tolist()
    ]
    return _OPTIMISM * residual / residual.new_tensor(limits) * total / _REHEARSALS
