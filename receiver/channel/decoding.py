"""What a codec's decoder is given of a measurement."""

from __future__ import annotations

from torch import Tensor

from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from receiver.measurement.equalise import equalise, symbol_snr
from receiver.measurement.model import Measurement


def decoder_csnr_db(measurement: Measurement) -> Tensor:
    """Return the CSNR (B,) of an image's noise variance, no more than codecs are trained with."""
    return (-10 * measurement.noise_var.log10()[measurement.frame_of_image]).clamp(max=CSNR_RANGE_DB[1])


def for_decoder(codec: Codec, measurement: Measurement, h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symbols (B, K) that the decoder is given of a measurement, and their CSNR, see `as_told`.

    Args:
        codec: that will decode.
        measurement: of one antenna.
        h: (F, L) taps.
    """
    noise_var = measurement.noise_var[measurement.frame_of_cell]
    return as_told(codec, equalise(measurement, h), symbol_snr(measurement, h), noise_var)


def as_told(codec: Codec, estimates: Tensor, snr: Tensor, noise_var: Tensor) -> tuple[Tensor, Tensor]:
    """Return equalised symbols (B, K) as a codec's decoder takes them, and the CSNR that it is told, dB.

    A decoder that takes the CSNR of every symbol is given symbols plus noise, and a CSNR each, (B, K), on average no
    more than codecs are trained with. Another is given symbols that are plus noise behind a flat channel of unit gain,
    which is what it was trained on: MMSE shrinks them by 1 + noise_var, to half at 0 dB. Weak carriers stay weaker than
    strong ones, and noisy ones than others, which tells it how far to trust them. It is told the CSNR (B,) of the noise
    variance.

    Args:
        codec: that will decode.
        estimates: (B, K) MMSE estimates of the symbols.
        snr: (B, K) SNR of every symbol, linear, above 0.
        noise_var: (B, K) or (B, 1) noise variance where signals have unit power.
    """
    highest_db = CSNR_RANGE_DB[1]
    if codec.takes_symbol_csnr:
        excess_db = (10 * snr.mean(dim=1, keepdim=True).log10() - highest_db).clamp(min=0)
        return estimates * ((1 + snr) / snr), 10 * snr.log10() - excess_db
    return estimates * (1 + noise_var), (-10 * noise_var[:, 0].log10()).clamp(max=highest_db)
