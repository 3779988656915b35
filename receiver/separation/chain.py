"""An image codec, a scheme and how it was chosen: images to symbols, and blocks back to images.

An image is one transport block. Its bytes are: one that states the codec's own PSNR, which a receiver can't measure;
what :mod:`receiver.separation.sources.source` packs; zeros.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from receiver.channel.estimate import ChannelEstimate
from receiver.measurement.model import Measurement
from receiver.separation.channel_code import bits_to_bytes, bytes_to_bits, channel_code
from receiver.separation.methods import Choice, SeparationMethod
from receiver.separation.schemes import SCHEMES, Scheme
from receiver.separation.soft import soft_symbols
from receiver.separation.sources import SOURCES
from receiver.separation.sources.source import Pixels, fill, unpack
from sdr.errors import InputError

#: Steps of the stated PSNR, dB.
_PSNR_STEP_DB = 0.25
#: What is shown where a block was lost: the mean colour of photographs (of ImageNet's), and of grey ones.
MEAN_COLOUR = {1: (0.45,), 3: (0.485, 0.456, 0.406)}
#: PSNR of a lost image, about.
LOST_PSNR_DB = 11.0


@dataclass(frozen=True)
class Chain:
    """What a frame header's codec digest stands for where no JSCC codec made the symbols.

    Attributes:
        source: name of the image codec.
        scheme: modulation and code rate.
        choice: how the scheme was chosen.
    """

    source: str
    scheme: Scheme
    choice: Choice

    @property
    def digest(self) -> str:
        """8 hex digits, as of a codec."""
        text = f"separation 1 {self.source} {self.scheme.name} {self.choice}"
        return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()

    def belongs_to(self, method: SeparationMethod) -> bool:
        """Whether a method decodes what this chain sent."""
        return (self.source, self.choice) == (method.source, method.choice)


@lru_cache(maxsize=1)
def _chains() -> dict[str, Chain]:
    every = (Chain(source, scheme, choice) for source in SOURCES for scheme in SCHEMES for choice in get_args(Choice))
    return {chain.digest: chain for chain in every}


def chain_of(digest: str) -> Chain | None:
    """Return the chain of the digest in a header; None where the digest is another codec's."""
    return _chains().get(digest)


def encode_image(chain: Chain, image: Tensor, num_symbols: int) -> Tensor:
    """Return an image (C, H, W) in [0, 1] as (K,) complex64 symbols of unit mean power.

    Raises:
        TooLargeError: it does not fit into the symbols.
        ConfigError: a codec is not installed.
    """
    source, code = SOURCES[chain.source], channel_code(chain.scheme, num_symbols)
    pixels = to_pixels(image)
    packed = fill(source, pixels, code.num_bytes - 1)
    decoded = unpack(source, packed, *pixels.shape[:2])
    error = np.square((decoded.astype(np.float64) - pixels) / 255).mean()
    stated = min(255, round(-10 * np.log10(max(error, 1e-7)) / _PSNR_STEP_DB))
    return code.encode(bytes_to_bits(bytes([stated]) + packed, code.num_bits)[None])[0]


@dataclass(frozen=True, eq=False)
class Block:
    """What became of one image's block.

    Attributes:
        image: (C, H, W) in [0, 1]; the mean colour where it was lost.
        lost: whether its checksum failed.
        psnr_db: that the image codec left, as stated in the block; `LOST_PSNR_DB` where it was lost.
        residual: squared distance of the decoded bits' symbols from the received ones over the noise, about 1.
    """

    image: Tensor
    lost: bool
    psnr_db: float
    residual: float


def decode_blocks(chain: Chain, measurement: Measurement, estimate: ChannelEstimate) -> list[Block]:
    """Decode the images of a measurement that a chain sent, in its order.

    Raises:
        ConfigError: a codec is not installed.
    """
    code = channel_code(chain.scheme, measurement.num_symbols)
    z, noise_var = soft_symbols(measurement, estimate)
    bits, right = code.decode(z.cpu(), noise_var.cpu())
    taps = torch.from_numpy(estimate.taps.astype(np.complex64)).to(measurement.y.device)
    residual = measurement.residual(code.encode(bits).to(measurement.y.device), taps).tolist()
    return [
        _opened(chain, bits_to_bytes(row) if checked else None, measurement.image_shape, distance)
        for row, checked, distance in zip(bits, right.tolist(), residual, strict=True)
    ]


def _opened(chain: Chain, data: bytes | None, shape: tuple[int, int, int], residual: float) -> Block:
    """Return the image of a block's bytes; None: its checksum failed."""
    channels, height, width = shape
    try:
        if data is None:
            raise InputError("The block failed its checksum.")
        pixels = unpack(SOURCES[chain.source], data[1:], height, width)
    except InputError:
        # A block with a right checksum and no image in it was made by another version, or forged.
        colour = torch.tensor(MEAN_COLOUR.get(channels, (0.45,) * channels))
        return Block(colour[:, None, None].expand(shape).clone(), True, LOST_PSNR_DB, residual)
    return Block(from_pixels(pixels, channels), False, data[0] * _PSNR_STEP_DB, residual)


def to_pixels(image: Tensor) -> Pixels:
    """Return an image (C, H, W) in [0, 1] as pixels (H, W, 3).

    Raises:
        InputError: neither grey nor of three colours.
    """
    if image.shape[0] not in (1, 3):
        raise InputError(f"Image codecs take 1 or 3 channels, found {image.shape[0]}.")
    values = (image.clamp(0, 1) * 255).round().to(torch.uint8).expand(3, -1, -1)
    return np.ascontiguousarray(values.permute(1, 2, 0).cpu().numpy())


def from_pixels(pixels: Pixels, channels: int) -> Tensor:
    """Return pixels (H, W, 3) as an image (C, H, W) in [0, 1]; grey is the mean of the colours."""
    image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
    return image.contiguous() if channels == 3 else image.mean(dim=0, keepdim=True)
