"""Joint source-channel codecs: images to complex symbols and back.

The posterior samplers differentiate through `encode`, so a codec is a differentiable map; nothing in it clamps
its output.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from receiver.networks.adjscc import ADJSCC
from receiver.networks.local import LocalDecoder, LocalEncoder, in_tiles, pad_to
from sdr.errors import ConfigError, InputError

#: (C, H, W); None where any height or width is taken.
ImageShape = tuple[int, int | None, int | None]

#: Guards the power normalisation of an all-zero feature map; far below any real symbol power.
_POWER_FLOOR = 1e-12

#: Symbols over which a local codec interleaves: a frame of the layouts for photographs.
_INTERLEAVED = 4096
#: A local codec sends the scale as this much for the mean and so much more for a standard deviation, cut where it is as
#: many from the mean. It is always positive.
_LEVEL_MEAN, _LEVEL_STD, _LEVEL_CUT = 1.25, 0.4, 2.5

#: Channel SNRs that codecs are trained with, dB. They extrapolate badly above (told 120 dB, for a recording without
#: noise, the shipped decoder loses 6 dB of PSNR).
CSNR_RANGE_DB = (0.0, 14.0)


@dataclass(frozen=True, eq=False)
class Words:
    """How the symbols of an image fall into words: parts that are alike wherever they stand in the image.

    Attributes:
        places: (n, W) of each word's symbols among those of the image. signs: (n,), 1 or -1, with which each is sent.
    """

    places: Tensor
    signs: Tensor

    @classmethod
    def whole(cls, num_symbols: int) -> Words:
        """One word, the image."""
        return cls(torch.arange(num_symbols)[None], torch.ones(1))

    def thinned(self, count: int) -> Words:
        """At most `count` of them, spread evenly."""
        total = len(self.places)
        kept = torch.arange(min(count, total)) * total // min(count, total)
        return Words(self.places[kept], self.signs[kept])


class Codec(Protocol):
    """An image codec whose code words are complex channel symbols.

    Attributes:
        name: what it is, for people.
        digest: 8 hex digits of a BLAKE2b hash over configuration and weights; goes into the frame header.
        takes: (C, H, W) of the images it can be made to take; None where any height and width.
        image_shape: (C, H, W) of the images it takes.
        num_symbols: complex symbols K per image.
        word_length: symbols W of a word. words: the places of each word's symbols.
    """

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def takes(self) -> ImageShape: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_symbols(self) -> int: ...

    @property
    def word_length(self) -> int: ...

    @property
    def words(self) -> Words: ...

    def at(self, shape: tuple[int, int, int]) -> Codec:
        """The same codec for images of one shape (itself where it takes no other).

        Raises:
            InputError: it takes no such images.
        """
        ...

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Symbols of images.

        Args:
            images: (B, C, H, W) float32, nominally in [0, 1].
            csnr_db: channel SNR that the code is made for, one number or (B,), dB.

        Returns:
            (B, K) complex64 of unit mean power per image, differentiable in `images`.
        """
        ...

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Images of (noisy) symbols.

        Args:
            z: (B, K) complex64.
            csnr_db: channel SNR of `z`, one number or (B,), dB.

        Returns:
            (B, C, H, W) float32, about [0, 1]; differentiable and not clamped: clamp what is shown or stored.
        """
        ...


def unit_power(z: Tensor) -> Tensor:
    """(B, K) complex symbols scaled to unit mean power per row; the gradient knows about the scaling."""
    power = (z.real.square() + z.imag.square()).mean(dim=1, keepdim=True)
    return z * power.clamp(min=_POWER_FLOOR).rsqrt()


def check_shape(shape: tuple[int, int, int], takes: ImageShape, what: str) -> None:
    """Refuse a (C, H, W) that `takes` does not allow.

    Raises:
        InputError: names `what` refuses it.
    """
    fits = all(own in (None, side) and side >= 1 for side, own in zip(shape, takes, strict=True))
    if not fits:
        wanted = "x".join("any" if own is None else str(own) for own in takes)
        raise InputError(f"{what} takes images of shape {wanted}, found {'x'.join(map(str, shape))}.")


def weights_digest(config: Mapping[str, object], state: Mapping[str, Tensor]) -> str:
    """8 hex digits of a BLAKE2b hash over a configuration and float16-rounded weights.

    The rounding makes the digest of freshly trained weights equal that of the float16 file they are shipped in.
    """
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4)
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def _per_image(csnr_db: float | Tensor, like: Tensor) -> Tensor:
    value = torch.as_tensor(csnr_db, dtype=torch.float32, device=like.device)
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, like.shape[0])):
        raise InputError(
            f"csnr_db has shape {tuple(value.shape)}, but there are {like.shape[0]} images. Give one or one each."
        )
    return value.expand(like.shape[0])


def _check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        raise InputError(
            f"The codec takes images of shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}."
        )


def _check_symbols(z: Tensor, num_symbols: int) -> None:
    if z.ndim != 2 or z.shape[1] != num_symbols or not z.is_complex():
        raise InputError(
            f"The codec takes complex symbols of shape (B, {num_symbols}), got {tuple(z.shape)} {z.dtype}."
        )


@dataclass(frozen=True)
class AdjsccConfig:
    """What an `AdjsccCodec` is made of; `channel_num` is C of `ADJSCC`."""

    image_shape: tuple[int, int, int] = (1, 32, 32)
    channel_num: int = 2
    width: int = 64
    kernels: tuple[int, ...] = (5, 5, 5, 5, 5)
    edge_width: int = 16
    edge_kernel: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "kernels", tuple(self.kernels))
        sizes = (*self.image_shape, *self.kernels, self.channel_num, self.width, self.edge_width, self.edge_kernel)
        if min(sizes) < 1:
            raise ConfigError(f"Every size of ADJSCC must be at least 1, got {self}.")
        if len(self.image_shape) != 3 or any(side % 4 for side in self.image_shape[1:]):
            raise ConfigError(f"ADJSCC needs image sides that divide by 4, got the shape {self.image_shape}.")
        if self.num_reals % 2:
            raise ConfigError(
                f"ADJSCC with channel_num = {self.channel_num} gives an odd number of reals; use an even one."
            )

    @property
    def num_reals(self) -> int:
        _, height, width = self.image_shape
        return self.channel_num * (height // 4) * (width // 4)

    def network(self) -> ADJSCC:
        """A freshly initialised network."""
        try:
            return ADJSCC(
                self.channel_num, self.image_shape[0], self.width, self.kernels, self.edge_width, self.edge_kernel
            )
        except ValueError as error:
            raise ConfigError(str(error)) from error


class AdjsccCodec(nn.Module):
    """ADJSCC with power-normalised complex symbols: the first half of the feature map is real, the second imaginary.

    (The order of the DiffCom authors' OFDM code, so their checkpoints mean the same here.)

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
    """

    name = "adjscc"

    def __init__(self, config: AdjsccConfig, network: ADJSCC | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = config.network() if network is None else network
        self._digest: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.config.image_shape

    @property
    def takes(self) -> ImageShape:
        return self.image_shape

    def at(self, shape: tuple[int, int, int]) -> AdjsccCodec:
        check_shape(shape, self.takes, "The codec")
        return self

    @property
    def num_symbols(self) -> int:
        return self.config.num_reals // 2

    @property
    def word_length(self) -> int:
        return self.num_symbols

    @property
    def words(self) -> Words:
        return Words.whole(self.num_symbols)

    @property
    def digest(self) -> str:
        # Hashed once: a codec in use is frozen, and training builds a new one for what it writes.
        if self._digest is None:
            self._digest = weights_digest(asdict(self.config), self.network.state_dict())
        return self._digest

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        _check_images(images, self.image_shape)
        # Complex tensors exist in no half precision, so the symbols leave autocast here.
        features = self.network.encode(images, _per_image(csnr_db, images)).float().flatten(1)
        real, imag = features.chunk(2, dim=1)
        return unit_power(torch.complex(real, imag))

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        _check_symbols(z, self.num_symbols)
        _, height, width = self.image_shape
        features = torch.cat([z.real, z.imag], dim=1).view(-1, self.config.channel_num, height // 4, width // 4)
        return self.network.decode(features, _per_image(csnr_db, features)).float()


@dataclass(frozen=True)
class LocalCodecConfig:
    """What a `LocalCodec` is made of. Widths and blocks count from the image inwards, a level each.

    Args:
        channels: of the image.
        side: pixels per side of a block; 4 * 2 ** (levels - 1) where there are levels.
        features: real numbers per block, half as many complex symbols; the last of them carries the image's scale.
        widths: channels of each level; none: the codec is linear but for the scale.
        encoder_blocks, decoder_blocks: residual blocks of each level.
        embedding: channels that carry the SNR to the blocks.
    """

    channels: int = 3
    side: int = 16
    features: int = 32
    widths: tuple[int, ...] = ()
    encoder_blocks: tuple[int, ...] = ()
    decoder_blocks: tuple[int, ...] = ()
    embedding: int = 128

    def __post_init__(self) -> None:
        for name in ("widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.channels, self.side, self.features, self.embedding) < 1 or self.features % 2:
            raise ConfigError(f"A local codec needs sizes of at least 1 and an even number of features, got {self}.")

    def network(self) -> LocalCodecNetwork:
        """A freshly initialised network."""
        try:
            return LocalCodecNetwork(self)
        except ValueError as error:
            raise ConfigError(str(error)) from error


class LocalCodecNetwork(nn.Module):
    """The encoder and the decoder of a `LocalCodec`, and how the logarithm of the features' scale is distributed."""

    log_scale_mean: Tensor
    log_scale_std: Tensor

    def __init__(self, config: LocalCodecConfig) -> None:
        super().__init__()
        channels, side, widths, inside = config.channels, config.side, config.widths, config.features - 1
        self.encoder = LocalEncoder(channels, side, widths, config.encoder_blocks, inside, config.embedding)
        self.decoder = LocalDecoder(channels, side, widths, config.decoder_blocks, inside, config.embedding)
        self.register_buffer("log_scale_mean", torch.zeros(()))
        self.register_buffer("log_scale_std", torch.ones(()))


class LocalCodec(nn.Module):
    """An SNR-adaptive codec for images of any size: `side**2` pixels make `features / 2` complex symbols.

    The symbols have unit power whatever the image, and the decoder can't know by how much they were scaled for that:
    the last feature of every block says so, as the logarithm of the root mean square of the others. Many blocks say
    the same, so the noise hardly matters. What is sent is positive: a blind decoder tells an image from its negative.

    Every other block is sent negated: so no symbol has a mean over the image.

    Symbols go out block after block, interleaved over `_INTERLEAVED` of them: a frame of the layout `photo` holds whole
    blocks, and a fading carrier takes a little of many blocks rather than all of one.

    Sides that don't divide by `side` are padded by repeating the last row and column, and cropped again. As a `Codec`
    it is for images of one shape at a time: `at` gives the one for a shape, with the same weights.
    """

    name = "local"

    def __init__(self, config: LocalCodecConfig, network: LocalCodecNetwork | None = None) -> None:
        super().__init__()
        self.config = config
        self.network = config.network() if network is None else network
        self._shape: tuple[int, int, int] | None = None
        self._digest: str | None = None

    @property
    def takes(self) -> ImageShape:
        return self.config.channels, None, None

    def at(self, shape: tuple[int, int, int]) -> LocalCodec:
        check_shape(shape, self.takes, "The codec")
        if min(shape[1:]) < self.config.side:
            side = self.config.side
            raise InputError(
                f"An image is {shape[2]}x{shape[1]} pixels, at least {side}x{side} are needed. Enlarge it."
            )
        bound = copy.copy(self)
        bound._digest, bound._shape = self.digest, shape
        return bound

    @property
    def image_shape(self) -> tuple[int, int, int]:
        if self._shape is None:
            raise ConfigError("A codec for any size has no image shape of its own; use the one of at(shape).")
        return self._shape

    @property
    def _grid(self) -> tuple[int, int]:
        _, height, width = self.image_shape
        return -(-height // self.config.side), -(-width // self.config.side)

    @property
    def num_symbols(self) -> int:
        rows, columns = self._grid
        return rows * columns * self.config.features // 2

    @property
    def word_length(self) -> int:
        return self.config.features // 2

    @property
    def words(self) -> Words:
        """The blocks, every other one negated."""
        rows, columns = self._grid
        places = []
        for first in range(0, self.num_symbols, _INTERLEAVED):
            size = min(_INTERLEAVED, self.num_symbols - first)
            # Multiples of the golden section of a length, prime to it, spread neighbours as evenly as can be.
            step = round(size * (5**0.5 - 1) / 2)
            while math.gcd(step, size) > 1:
                step += 1
            places.append(first + torch.arange(size) * step % size)
        signs = 1.0 - 2 * (torch.arange(rows * columns) % 2)
        return Words(torch.cat(places).view(rows * columns, -1), signs)

    @property
    def digest(self) -> str:
        if self._digest is None:
            self._digest = weights_digest(asdict(self.config), self.network.state_dict())
        return self._digest

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        _check_images(images, self.image_shape)
        rows, columns = (length * self.config.side for length in self._grid)
        csnr_db = _per_image(csnr_db, images)
        features = in_tiles(self.network.encoder, pad_to(images, rows, columns), csnr_db).float()
        power = features.square().mean(dim=(1, 2, 3), keepdim=True).clamp(min=_POWER_FLOOR)
        level = self.level(features).clamp(-_LEVEL_CUT, _LEVEL_CUT)[:, None, None, None]
        told = _LEVEL_MEAN + _LEVEL_STD * level.expand(-1, 1, *self._grid)
        real, imag = torch.cat([features * power.rsqrt(), told], dim=1).flatten(2).mT.chunk(2, dim=2)
        words = self.words
        z = (torch.complex(real, imag) * words.signs.to(images.device)[:, None]).flatten(1)
        return unit_power(z[:, words.places.flatten().argsort().to(images.device)])

    def level(self, features: Tensor) -> Tensor:
        """(B,) where the scale of the encoder's features is among photographs: 0 in the middle, ±1 a deviation off."""
        power = features.square().mean(dim=(1, 2, 3)).clamp(min=_POWER_FLOOR)
        return (power.log() / 2 - self.network.log_scale_mean) / self.network.log_scale_std

    def received_features(self, z: Tensor, csnr_db: float | Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's features (B, features - 1, rows, columns) as received, at their own scale; their CSNR in dB.

        Args:
            z: (B, K) complex64. csnr_db: its channel SNR, one number or (B,), dB.
        """
        words = self.words
        sent = (z[:, words.places.to(z.device)] * words.signs.to(z.device)[:, None]).mT
        reals = torch.cat([sent.real, sent.imag], dim=1).unflatten(2, self._grid)
        # Unit power: `count` unit reals and the scale that is told, times `amplitude`, have a power of (count + 1) / 2.
        count = self.config.features - 1
        lowest, highest = (
            told * math.sqrt((count + 1) / 2 / (count + told**2))
            for told in (_LEVEL_MEAN - _LEVEL_CUT * _LEVEL_STD, _LEVEL_MEAN + _LEVEL_CUT * _LEVEL_STD)
        )
        found = reals[:, -1].mean(dim=(1, 2)).clamp(lowest, highest)
        told = found * (count / ((count + 1) / 2 - found.square())).sqrt()
        amplitude = ((count + 1) / 2 / (count + told.square())).sqrt()
        level = (told - _LEVEL_MEAN) / _LEVEL_STD
        gain = (self.network.log_scale_mean + self.network.log_scale_std * level).exp() / amplitude
        return reals[:, :-1] * gain[:, None, None, None], _per_image(csnr_db, z) - 20 * gain.log10()

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        _check_symbols(z, self.num_symbols)
        _, height, width = self.image_shape
        return in_tiles(self.network.decoder, *self.received_features(z, csnr_db)).float()[:, :, :height, :width]


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

    name = "linear"

    @property
    def takes(self) -> ImageShape:
        return self.image_shape

    def at(self, shape: tuple[int, int, int]) -> LinearCodec:
        check_shape(shape, self.takes, "The codec")
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
    def words(self) -> Words:
        return Words.whole(self.num_symbols)

    @torch.autocast("cpu", enabled=False)
    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        _check_images(images, self.image_shape)
        _per_image(csnr_db, images)
        real, imag = ((images.flatten(1) - 0.5) @ self.matrix.T).chunk(2, dim=1)
        z = torch.complex(real, imag)
        return unit_power(z) if self.normalise else z * self.scale

    @torch.autocast("cpu", enabled=False)
    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """The minimum-norm image of the symbols; after normalisation the contrast is unknown and taken as 1 / scale."""
        _check_symbols(z, self.num_symbols)
        flat = torch.cat([z.real, z.imag], dim=1) / self.scale @ self.matrix
        return flat.view(-1, *self.image_shape) + 0.5
