"""What codecs for images of several sizes have in common."""

from __future__ import annotations

import copy
from typing import Self

from receiver.codecs.codec import Config, ImageShape, Network, NetworkCodec, Words, check_shape
from sdr.errors import ConfigError, InputError


class SizedCodec(NetworkCodec[Config, Network]):
    """A network and its configuration; `for_shape` gives the codec for images of one shape, with the same weights.

    Args:
        config: a dataclass that describes the network.
        network: encoder and decoder.
        channels: of the images.
        multiples: what the height and the width of an image must divide by.
    """

    def __init__(self, config: Config, network: Network, channels: int, multiples: tuple[int, int]) -> None:
        super().__init__(config, network)
        self.multiples = multiples
        self._channels = channels
        self._shape: tuple[int, int, int] | None = None

    @property
    def accepted_shape(self) -> ImageShape:
        return self._channels, None, None

    def for_shape(self, shape: tuple[int, int, int]) -> Self:
        """Return the codec for images of shape (C, H, W).

        Raises:
            InputError: it takes no such images.
        """
        check_shape(shape, self.accepted_shape, "The codec")
        tall, wide = self.multiples
        if shape[1] % tall or shape[2] % wide:
            raise InputError(
                f"An image is {shape[2]}x{shape[1]} pixels; the codec needs a width that divides by {wide} and a "
                f"height that divides by {tall}. Crop or resize it."
            )
        bound = copy.copy(self)
        bound._digest, bound._shape = self.digest, shape
        return bound

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images it takes.

        Raises:
            ConfigError: `for_shape` has not been called.
        """
        if self._shape is None:
            raise ConfigError("A codec for any size has no image shape of its own; use the one of for_shape(shape).")
        return self._shape


class WholeImageCodec(SizedCodec[Config, Network]):
    """A `SizedCodec` whose symbols are one word, the image."""

    @property
    def word_length(self) -> int:
        """Symbols of a word: all of an image."""
        return self.num_symbols

    @property
    def words(self) -> Words:
        """One word, the image."""
        return Words.whole(self.num_symbols)
