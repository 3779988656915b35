"""A linear code with a known posterior, for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from receiver.codecs.codec import (
    ImageShape,
    Words,
    check_images,
    check_shape,
    check_symbols,
    per_image,
    unit_power,
    weights_digest,
)
from sdr.errors import ConfigError


class LinearCodec:
    """A codec with a closed form: z = A (x - 1/2) / sqrt(power) with A A^H = I, for tests and examples.

    With `normalise=False` the symbols keep a fixed scale instead of unit power per image, which makes the whole map
    affine, so that a Gaussian prior has an exactly known posterior. It is exact under autocast, too.

    Args:
        image_shape: (C, H, W).
        num_symbols: complex symbols K; at most C * H * W / 2, so that the rows can be orthonormal.
        generator: draws the map.
        normalise: unit mean power per image, as every codec on the air.
        scale: the fixed scale without `normalise`.
    """

    family = "linear"

    @property
    def accepted_shape(self) -> ImageShape:
        return self.image_shape

    def for_shape(self, shape: tuple[int, int, int]) -> LinearCodec:
        check_shape(shape, self.accepted_shape, "The codec")
        return self

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        num_symbols: int,
        generator: torch.Generator,
        *,
        normalise: bool = True,
        scale: float = 1.0,
    ) -> None:
        pixels = image_shape[0] * image_shape[1] * image_shape[2]
        if not 0 < 2 * num_symbols <= pixels:
            raise ConfigError(
                f"{num_symbols} complex symbols need at least {2 * num_symbols} pixels, the image has {pixels}."
            )
        square = torch.randn(pixels, pixels, generator=generator, dtype=torch.float64)
        rows = torch.linalg.qr(square).Q[: 2 * num_symbols].float()
        #: (2 K, pixels) real map with orthonormal rows: K real parts, then K imaginary parts.
        self.matrix = rows
        self.image_shape = image_shape
        self.num_symbols = num_symbols
        self.normalise = normalise
        self.scale = scale
        self.digest = weights_digest({"normalise": normalise, "scale": scale}, {"matrix": rows})

    @property
    def word_length(self) -> int:
        return self.num_symbols

    @property
    def takes_symbol_csnr(self) -> bool:
        return False

    @property
    def words(self) -> Words:
        return Words.whole(self.num_symbols)

    @torch.autocast("cpu", enabled=False)
    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        check_images(images, self.image_shape)
        per_image(csnr_db, images)
        real, imag = ((images.flatten(1) - 0.5) @ self.matrix.T).chunk(2, dim=1)
        z = torch.complex(real, imag)
        return unit_power(z) if self.normalise else z * self.scale

    @torch.autocast("cpu", enabled=False)
    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return the minimum-norm images; after normalisation the contrast is unknown and taken as 1 / scale."""
        check_symbols(z, self.num_symbols)
        per_image(csnr_db, z)
        flat = torch.cat([z.real, z.imag], dim=1) / self.scale @ self.matrix
        return flat.view(-1, *self.image_shape) + 0.5
