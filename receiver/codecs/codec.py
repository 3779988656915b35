"""What every codec offers: images to complex symbols and back.

The posterior samplers differentiate through `encode`, so a codec is a differentiable map; nothing in it clamps
its output.

A family of codecs is a module of this package that sets `FAMILY` to the class of its configuration, see `CodecConfig`.
Nothing else has to be changed for a new one: bundles find it by the name that `network` has in bundle.toml.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from sdr.errors import ConfigError, InputError

ImageShape = tuple[int, int | None, int | None]
"""(C, H, W); None where any height or width is taken."""

POWER_FLOOR = 1e-12
"""Guards the power normalisation of an all-zero feature map; far below any real symbol power."""

CSNR_RANGE_DB = (0.0, 14.0)
"""Channel SNRs that codecs are trained with, dB; above, they extrapolate badly (docs/results.md, Codecs)."""


@dataclass(frozen=True, eq=False)
class Words:
    """The words of an image: parts of its symbols that are alike wherever they stand in the image.

    Attributes:
        places: (n, W) places of each word's symbols among those of the image.
        signs: (n,) 1 or -1, with which each word is sent.
    """

    places: Tensor
    signs: Tensor

    @classmethod
    def whole(cls, num_symbols: int) -> Words:
        """Return one word, the image."""
        return cls(torch.arange(num_symbols)[None], torch.ones(1))

    def thinned(self, count: int) -> Words:
        """Return at most `count` of the words, spread evenly."""
        total = len(self.places)
        kept = torch.arange(min(count, total)) * total // min(count, total)
        return Words(self.places[kept], self.signs[kept])


class Codec(Protocol):
    """An image codec whose code words are complex channel symbols.

    Attributes:
        family: name of the family.
        digest: 8 hex digits of a BLAKE2b hash over configuration and weights; goes into the frame header.
        accepted_shape: (C, H, W) of the images that it can be made for; None where any height and width.
        image_shape: (C, H, W) of the images that it is made for.
        num_symbols: complex symbols K per image.
        word_length: symbols W of a word.
        words: how the symbols fall into words.
        takes_symbol_csnr: whether `decode` may be told a CSNR for every symbol.
    """

    @property
    def family(self) -> str: ...

    @property
    def digest(self) -> str: ...

    @property
    def accepted_shape(self) -> ImageShape: ...

    @property
    def image_shape(self) -> tuple[int, int, int]: ...

    @property
    def num_symbols(self) -> int: ...

    @property
    def word_length(self) -> int: ...

    @property
    def words(self) -> Words: ...

    @property
    def takes_symbol_csnr(self) -> bool:
        return False

    def for_shape(self, shape: tuple[int, int, int]) -> Codec:
        """Return the same codec for images of one shape (itself where it takes no other).

        Raises:
            InputError: it takes no such images.
        """
        ...

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (B, C, H, W) float32, nominally in [0, 1].
            csnr_db: channel SNR that the code is made for, one number or (B,), dB.

        Returns:
            (B, K) complex64 of unit mean power per image, differentiable in `images`.
        """
        ...

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Decode (noisy) symbols.

        Args:
            z: (B, K) complex64, what was sent plus noise.
            csnr_db: channel SNR of `z`, one number or (B,), dB; where `takes_symbol_csnr`, also (B, K), that of each
                symbol.

        Returns:
            (B, C, H, W) float32, about [0, 1]; differentiable and not clamped: clamp what is shown or stored.
        """
        ...


class CodecConfig(Protocol):
    """Configuration of a codec: a frozen dataclass whose fields are keys of bundle.toml."""

    family: ClassVar[str]

    def network(self) -> nn.Module:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        ...

    def codec(self, network: Any) -> NetworkCodec:
        """Return the codec around a network of this configuration."""
        ...


Config = TypeVar("Config", bound=CodecConfig)
Network = TypeVar("Network", bound=nn.Module)


class NetworkCodec(nn.Module, Codec, Generic[Config, Network]):
    """A codec with weights, as bundles hold them.

    Args:
        config: the architecture.
        network: its weights.
    """

    def __init__(self, config: Config, network: Network) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self._digest: str | None = None

    @property
    def family(self) -> str:
        return self.config.family

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        raise NotImplementedError

    def take_covariance(self, covariance: Tensor) -> None:
        """Take the covariance (n, n, 2 k + 1, 2 k + 1) of the features of blocks up to k apart, as they are sent.

        From then on `decode` may be told a CSNR for every symbol.

        Raises:
            ConfigError: codecs of this family have no such features, or others.
        """
        raise ConfigError(f"A codec of family {self.family} has no features of blocks: leave out their covariance.")

    def resized(self, shape: tuple[int, int, int]) -> Self:
        """Return the same network for images of another size, even where it was not trained for it."""
        return self.for_shape(shape)

    @property
    def digest(self) -> str:
        # Hashed once: a codec in use is frozen, and training builds a new one for what it writes.
        if self._digest is None:
            self._digest = weights_digest(self._description(), self.network.state_dict())
        return self._digest

    def _description(self) -> Mapping[str, object]:
        """Return the configuration as the digest takes it."""
        return vars(self.config)


def unit_power(z: Tensor) -> Tensor:
    """Scale complex symbols (B, K) to unit mean power per row; the gradient knows about the scaling."""
    power = (z.real.square() + z.imag.square()).mean(dim=1, keepdim=True)
    return z * power.clamp(min=POWER_FLOOR).rsqrt()


def shape_text(shape: ImageShape) -> str:
    """Return a shape for people: 3x256x256, or 3xanyxany where any height and width are taken."""
    return "x".join("any" if side is None else str(side) for side in shape)


def check_shape(shape: tuple[int, int, int], accepted: ImageShape, what: str) -> None:
    """Refuse a (C, H, W) that `accepted` does not allow.

    Raises:
        InputError: names `what` refuses it.
    """
    fits = all(own in (None, side) and side >= 1 for side, own in zip(shape, accepted, strict=True))
    if not fits:
        raise InputError(f"{what} takes images of shape {shape_text(accepted)}, found {shape_text(shape)}.")


def weights_digest(config: Mapping[str, object], state: Mapping[str, Tensor]) -> str:
    """Return 8 hex digits of a BLAKE2b hash over a configuration and float16-rounded weights.

    The rounding makes the digest of freshly trained weights equal that of the float16 file they are shipped in.
    """
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True).encode(), digest_size=4)
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().to("cpu", torch.float16).contiguous().numpy().tobytes())
    return digest.hexdigest()


def per_image(csnr_db: float | Tensor, like: Tensor) -> Tensor:
    """Return a CSNR, dB, for each of the images (or symbols) of `like`, (B,).

    Raises:
        InputError: neither one number nor one each.
    """
    value = torch.as_tensor(csnr_db, dtype=torch.float32, device=like.device)
    if value.ndim > 1 or (value.ndim == 1 and value.shape[0] not in (1, like.shape[0])):
        raise InputError(
            f"csnr_db has shape {tuple(value.shape)}, but there are {like.shape[0]} images. Give one or one each."
        )
    return value.expand(like.shape[0])


def check_images(images: Tensor, shape: tuple[int, int, int]) -> None:
    """Refuse images that are not (B, *shape).

    Raises:
        InputError: names both shapes.
    """
    if images.ndim != 4 or tuple(images.shape[1:]) != shape:
        raise InputError(
            f"The codec takes images of shape (B, {', '.join(map(str, shape))}), got {tuple(images.shape)}."
        )


def check_symbols(z: Tensor, num_symbols: int) -> None:
    """Refuse symbols that are not complex (B, num_symbols).

    Raises:
        InputError: names both shapes.
    """
    if z.ndim != 2 or z.shape[1] != num_symbols or not z.is_complex():
        raise InputError(
            f"The codec takes complex symbols of shape (B, {num_symbols}), got {tuple(z.shape)} {z.dtype}."
        )
