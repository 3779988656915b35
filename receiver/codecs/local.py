"""The local codec family: fully convolutional, for photographs of any size."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from receiver.codecs.codec import (
    CSNR_RANGE_DB,
    POWER_FLOOR,
    ImageShape,
    NetworkCodec,
    Words,
    check_images,
    check_shape,
    check_symbols,
    per_image,
    unit_power,
)
from receiver.codecs.evening import evened, own_variances
from receiver.networks.local import LocalDecoder, LocalEncoder, in_tiles, pad_to
from sdr.errors import ConfigError, InputError

#: Symbols over which a local codec interleaves: a frame of the layouts for photographs.
_INTERLEAVED = 4096
#: The image's scale is sent as `_LEVEL_MEAN` plus `_LEVEL_STD` times its level, which is cut at `_LEVEL_CUT` standard
#: deviations; so it is always positive.
_LEVEL_MEAN, _LEVEL_STD, _LEVEL_CUT = 1.25, 0.4, 2.5

#: A block whose symbols have less power than this was not received.
_LOST_POWER = 1e-12
#: Least SNR of a symbol over the mean of those that arrived: below, it tells next to nothing.
_LEAST_SNR = 1e-3


@lru_cache(maxsize=64)
def _interleaved(blocks: int, word_length: int, device: torch.device) -> tuple[Words, Tensor]:
    """Return the blocks of an image as words, every other one negated, and (K,) the order in which symbols go out."""
    places = []
    for first in range(0, blocks * word_length, _INTERLEAVED):
        size = min(_INTERLEAVED, blocks * word_length - first)
        # Multiples of the golden section of a length, prime to it, spread neighbours as evenly as can be.
        step = round(size * (5**0.5 - 1) / 2)
        while math.gcd(step, size) > 1:
            step += 1
        places.append(first + torch.arange(size) * step % size)
    order = torch.cat(places)
    signs = 1.0 - 2 * (torch.arange(blocks) % 2)
    words = Words(order.view(blocks, word_length).to(device), signs.to(device))
    return words, order.argsort().to(device)


@dataclass(frozen=True)
class LocalCodecConfig:
    """Configuration of a `LocalCodec`. Widths and blocks count from the image inwards, a level each.

    Attributes:
        channels: of the image.
        side: pixels per side of a block; 4 * 2 ** (levels - 1) where there are levels.
        features: real numbers per block, half as many complex symbols; the last of them carries the image's scale.
        widths: channels of each level; none: the codec is linear but for the scale.
        encoder_blocks: residual blocks of each level.
        decoder_blocks: the same of the decoder.
        embedding: channels that carry the SNR to the blocks.
        local_wiener: the decoder shrinks what is received of each block by what it sees there and around; needs levels.

    Raises:
        ConfigError: sizes that fit no network.
    """

    family: ClassVar[str] = "local"

    channels: int = 3
    side: int = 16
    features: int = 32
    widths: tuple[int, ...] = ()
    encoder_blocks: tuple[int, ...] = ()
    decoder_blocks: tuple[int, ...] = ()
    embedding: int = 128
    local_wiener: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if min(self.channels, self.side, self.features, self.embedding) < 1 or self.features % 2:
            raise ConfigError(f"A local codec needs sizes of at least 1 and an even number of features, got {self}.")

    def network(self) -> LocalCodecNetwork:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        try:
            return LocalCodecNetwork(self)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: LocalCodecNetwork) -> LocalCodec:
        """Return the codec around a network of this configuration."""
        # A tenth faster on CPUs: the blocks normalise over the channels.
        return LocalCodec(self, network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


FAMILY = LocalCodecConfig


class LocalCodecNetwork(nn.Module):
    """Encoder and decoder of a `LocalCodec`.

    Attributes:
        log_scale_mean: mean of the logarithm of the features' scale over photographs.
        log_scale_std: its standard deviation.
    """

    log_scale_mean: Tensor
    log_scale_std: Tensor

    def __init__(self, config: LocalCodecConfig) -> None:
        super().__init__()
        channels, side, widths, inside = config.channels, config.side, config.widths, config.features - 1
        self.encoder = LocalEncoder(channels, side, widths, config.encoder_blocks, inside, config.embedding)
        self.decoder = LocalDecoder(
            channels, side, widths, config.decoder_blocks, inside, config.embedding, config.local_wiener
        )
        self.register_buffer("log_scale_mean", torch.zeros(()))
        self.register_buffer("log_scale_std", torch.ones(()))


class LocalCodec(NetworkCodec[LocalCodecConfig, LocalCodecNetwork]):
    """An SNR-adaptive codec for images of any size: `side**2` pixels make `features / 2` complex symbols.

    The symbols have unit power whatever the image, and the decoder can't know by how much they were scaled for that:
    the last feature of every block says so, as the logarithm of the root mean square of the others. Many blocks say
    the same, so the noise hardly matters. What is sent is positive: a blind decoder tells an image from its negative.

    Every other block is sent negated: so no symbol has a mean over the image.

    Symbols go out block after block, interleaved over `_INTERLEAVED` of them: a frame of the layout `photo` holds whole
    blocks, and a fading carrier takes a little of many blocks rather than all of one.

    With the covariance of its features the decoder takes a CSNR for every symbol: what is received of a noisy one is
    mixed with what the features of the blocks around say of it, until all are as good as if the noise had been even,
    and the network sees that (`receiver.codecs.evening`).

    Sides that don't divide by `side` are padded by repeating the last row and column, and cropped again. As a `Codec`
    it is for images of one shape at a time: `for_shape` gives the one for a shape, with the same weights.
    """

    covariance: Tensor | None

    def __init__(self, config: LocalCodecConfig, network: LocalCodecNetwork | None = None) -> None:
        super().__init__(config, config.network() if network is None else network)
        self._shape: tuple[int, int, int] | None = None
        # Not of the weights: the decoder can do without, and what is sent does not depend on it.
        self.register_buffer("covariance", None, persistent=False)

    @property
    def accepted_shape(self) -> ImageShape:
        return self.config.channels, None, None

    def _description(self) -> Mapping[str, object]:
        described = dict(vars(self.config))
        # A codec without it keeps the digest that it had before there was such a thing.
        if not self.config.local_wiener:
            del described["local_wiener"]
        return described

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        check_shape(shape, self.accepted_shape, "The codec")
        if min(shape[1:]) < self.config.side:
            side = self.config.side
            raise InputError(
                f"An image is {shape[2]}x{shape[1]} pixels, at least {side}x{side} are needed. Enlarge it."
            )
        bound = copy.copy(self)
        bound._digest, bound._shape = self.digest, shape
        return bound

    @property
    def takes_symbol_csnr(self) -> bool:
        return self.covariance is not None

    def take_covariance(self, covariance: Tensor) -> None:
        inside, found = self.config.features - 1, tuple(covariance.shape)
        fits = covariance.ndim == 4 and found[:2] == (inside, inside) and found[2] == found[3] and found[2] % 2 == 1
        if not fits:
            raise ConfigError(f"Covariances have shape {found}, needed is ({inside}, {inside}, n, n) of an odd n.")
        middle = found[2] // 2
        if not bool(covariance.isfinite().all() and (covariance[:, :, middle, middle].diagonal() > 0).all()):
            raise ConfigError("Covariances must be finite, and variances above 0.")
        self.covariance = covariance.to(self.network.log_scale_mean)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        if self._shape is None:
            raise ConfigError("A codec for any size has no image shape of its own; use the one of for_shape(shape).")
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
        return _interleaved(math.prod(self._grid), self.word_length, torch.device("cpu"))[0]

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        check_images(images, self.image_shape)
        rows, columns = (length * self.config.side for length in self._grid)
        csnr_db = per_image(csnr_db, images)
        features = in_tiles(self.network.encoder, pad_to(images, rows, columns), csnr_db).float()
        power = features.square().mean(dim=(1, 2, 3), keepdim=True).clamp(min=POWER_FLOOR)
        level = self.level(features).clamp(-_LEVEL_CUT, _LEVEL_CUT)[:, None, None, None]
        scale = _LEVEL_MEAN + _LEVEL_STD * level.expand(-1, 1, *self._grid)
        return unit_power(self._symbols(torch.cat([features * power.rsqrt(), scale], dim=1)))

    def _symbols(self, reals: Tensor) -> Tensor:
        """Return the symbols (B, K) that carry real numbers (B, features, rows, columns)."""
        words, order = _interleaved(math.prod(self._grid), self.word_length, reals.device)
        real, imag = reals.flatten(2).mT.chunk(2, dim=2)
        return (torch.complex(real, imag) * words.signs[:, None]).flatten(1)[:, order]

    def reals(self, z: Tensor) -> Tensor:
        """Return the real numbers (B, features, rows, columns) that symbols (B, K) carry."""
        words, _ = _interleaved(math.prod(self._grid), self.word_length, z.device)
        sent = (z[:, words.places] * words.signs[:, None]).mT
        return torch.cat([sent.real, sent.imag], dim=1).unflatten(2, self._grid)

    def level(self, features: Tensor) -> Tensor:
        """Return where the scale of the encoder's features is among photographs, (B,) in standard deviations."""
        power = features.square().mean(dim=(1, 2, 3)).clamp(min=POWER_FLOOR)
        return (power.log() / 2 - self.network.log_scale_mean) / self.network.log_scale_std

    def received_features(self, z: Tensor, csnr_db: float | Tensor) -> tuple[Tensor, Tensor]:
        """Take the encoder's features out of received symbols, at their own scale.

        Args:
            z: (B, K) complex64.
            csnr_db: its channel SNR, one number or (B,), dB.

        Returns:
            features (B, features - 1, rows, columns) and their CSNR (B,), dB.
        """
        reals = self.reals(z)
        # Unit power: `count` unit reals and the scale that is sent, times `amplitude`, have a power of (count + 1) / 2.
        count = self.config.features - 1
        lowest, highest = (
            sent_scale * math.sqrt((count + 1) / 2 / (count + sent_scale**2))
            for sent_scale in (_LEVEL_MEAN - _LEVEL_CUT * _LEVEL_STD, _LEVEL_MEAN + _LEVEL_CUT * _LEVEL_STD)
        )
        arrived = self._arrived(z)
        found = (reals[:, -1] * arrived).sum(dim=(1, 2)) / arrived.sum(dim=(1, 2)).clamp(min=1.0)
        found = found.clamp(lowest, highest)
        scale = found * (count / ((count + 1) / 2 - found.square())).sqrt()
        amplitude = ((count + 1) / 2 / (count + scale.square())).sqrt()
        level = (scale - _LEVEL_MEAN) / _LEVEL_STD
        gain = (self.network.log_scale_mean + self.network.log_scale_std * level).exp() / amplitude
        return reals[:, :-1] * gain[:, None, None, None], per_image(csnr_db, z) - 20 * gain.log10()

    def _arrived(self, z: Tensor) -> Tensor:
        """Return which blocks of received symbols (B, K) are of frames that arrived, (B, rows, columns), 1 or 0."""
        words, _ = _interleaved(math.prod(self._grid), self.word_length, z.device)
        power = z.detach()[:, words.places].abs().square().sum(dim=2)
        return (power > _LOST_POWER).float().unflatten(1, self._grid)

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        check_symbols(z, self.num_symbols)
        _, height, width = self.image_shape
        csnr_db = self._per_image_or_symbol(csnr_db, z)
        if len(z) > 1 and not bool(self._arrived(z).all()):
            each = zip(z.split(1), csnr_db.split(1), strict=True)
            return torch.cat([self.decode(*one) for one in each])
        if self.covariance is not None and csnr_db.ndim == 2:
            z, csnr_db = self._evened(z, csnr_db, self.covariance)
        features, feature_csnr_db = self.received_features(z, csnr_db)
        lost_rows = (self._arrived(z) == 0).any(dim=2)[0]
        if not bool(lost_rows.any()):
            return in_tiles(self.network.decoder, features, feature_csnr_db).float()[:, :, :height, :width]
        image = in_tiles(self.network.decoder, features, feature_csnr_db).float()
        # What was lost would spread into what is beside it: rows that arrived whole are decoded by themselves.
        for first, last in _runs(~lost_rows):
            part = in_tiles(self.network.decoder, features[:, :, first:last].contiguous(), feature_csnr_db).float()
            rows = torch.arange(first * self.config.side, last * self.config.side, device=z.device)
            image = image.index_copy(2, rows, part)
        return image[:, :, :height, :width]

    def _per_image_or_symbol(self, csnr_db: float | Tensor, z: Tensor) -> Tensor:
        """Return CSNRs as (B,), or as (B, K) where they are given and taken for every symbol."""
        if self.covariance is not None and isinstance(csnr_db, Tensor) and csnr_db.ndim == 2:
            if csnr_db.shape != z.shape:
                found, needed = tuple(csnr_db.shape), tuple(z.shape)
                raise InputError(f"csnr_db has shape {found}, but symbols have {needed}. Give one each.")
            return csnr_db
        return per_image(csnr_db, z)

    def _evened(self, z: Tensor, csnr_db: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Return symbols (B, K) as if noise had met them evenly, and their CSNR (B,), from `csnr_db` (B, K).

        That is the root mean square of SNRs: 1.5 dB above their mean where carriers fade, as features that neighbours
        tell of are left with less noise than what evens them out; most that codecs are trained with, or the mean.
        """
        words, _ = _interleaved(math.prod(self._grid), self.word_length, z.device)
        arrived = self._arrived(z)[:, None]
        snr = torch.pow(10.0, csnr_db / 10)[:, words.places].mT.unflatten(2, self._grid)
        share = arrived.mean(dim=(1, 2, 3)).clamp(min=_LOST_POWER)
        mean, square = ((values * arrived).mean(dim=(1, 2, 3)) / share for values in (snr, snr.square()))
        highest = mean.clamp(min=10 ** (CSNR_RANGE_DB[1] / 10))
        level = square.sqrt().minimum(highest).clamp(min=_LOST_POWER)
        least = _LEAST_SNR * level[:, None, None, None]
        # A real part has half of a symbol's noise.
        noise_var = 0.5 / torch.cat([snr, snr], dim=1).maximum(least)
        reals = self.reals(z)
        features = reals[:, :-1], noise_var[:, :-1]
        even = evened(*features, 0.5 / level, covariance, own_variances(*features, covariance))
        weight = arrived / noise_var[:, -1:]
        scale = (reals[:, -1:] * weight).sum(dim=(2, 3), keepdim=True) / weight.sum(dim=(2, 3), keepdim=True).clamp(
            min=_LOST_POWER
        )
        reals = torch.cat([even, scale.expand(-1, -1, *self._grid)], dim=1) * arrived
        return self._symbols(reals), 10 * level.log10()


def _runs(flags: Tensor) -> list[tuple[int, int]]:
    """Return first and one past the last place of each run of true flags.

    >>> _runs(torch.tensor([True, True, False, True]))
    [(0, 2), (3, 4)]
    """
    edges = torch.nn.functional.pad(flags.int(), (1, 1)).diff().nonzero()[:, 0].tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
