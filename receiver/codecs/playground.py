"""The codec family of djscc-playground's ADJSCC, published as folders of Hugging Face."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from receiver.codecs.codec import check_images, check_symbols, per_image, unit_power
from receiver.codecs.published import Conventions, ImportOptions, Published, Shapes, length
from receiver.codecs.sized import WholeImageCodec
from receiver.networks.playground import PlaygroundADJSCC
from sdr.documents import read_document
from sdr.errors import ConfigError, ModelError

#: Pixels per side that become one position of the feature map.
_STRIDE = 4
#: Largest number of features that a folder may tell of, far beyond any use.
_MOST_FEATURES = 4096


@dataclass(frozen=True)
class PlaygroundConfig:
    """What a `PlaygroundCodec` is made of.

    Attributes:
        channel_num: M of `PlaygroundADJSCC`, even; M / 32 complex symbols per pixel.
        width: channels inside.
        power: mean square of the features that the decoder was trained with.
    """

    family: ClassVar[str] = "playground"

    channel_num: int = 16
    width: int = 256
    power: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.channel_num <= _MOST_FEATURES or self.channel_num % 2 or self.width < 1:
            raise ConfigError(f"The codec needs an even channel_num of at most {_MOST_FEATURES}, got {self}.")
        if not 0 < self.power < float("inf"):
            raise ConfigError(f"power must be positive and finite, got {self.power}.")

    def network(self) -> PlaygroundADJSCC:
        """Return a freshly initialised network.

        Raises:
            ConfigError: sizes that fit no network.
        """
        try:
            return PlaygroundADJSCC(self.channel_num, self.width)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def codec(self, network: PlaygroundADJSCC) -> PlaygroundCodec:
        """Return the codec around a network of this configuration."""
        return PlaygroundCodec(self, network)


FAMILY = PlaygroundConfig


def _described(source: Path, shapes: Shapes, options: ImportOptions) -> PlaygroundConfig:
    """Return the configuration that config.json tells; what it says of code is not looked at."""
    path = source / "config.json"
    content = read_document(path, ModelError, "configuration of a model")
    kind = content.get("model_type")
    if kind != "adjscc":
        raise ModelError(f"{path} describes a model of type {kind!r:.60}, needed is 'adjscc'. Give another folder.")
    features, power = content.get("M", 16), content.get("power", 1.0)
    if isinstance(features, bool) or not isinstance(features, int) or not isinstance(power, int | float):
        raise ModelError(f"{path}: M and power must be numbers, found {features!r:.40} and {power!r:.40}.")
    width = length(shapes, ["encoder.FL_Module_1.conv1.weight"], 0, 256)
    return PlaygroundConfig(options.channels or features, width, float(power))


PUBLISHED = (
    Published(
        "hf",
        PlaygroundConfig.family,
        "ADJSCC of djscc-playground, a folder of config.json and model.safetensors",
        lambda shapes, options: PlaygroundConfig(),
        frozenset({"channels"}),
        Conventions(
            packing="first half of the features real, second half imaginary",
            power="1 per image; the decoder takes features of the mean square that config.json tells",
            snr="dB, to encoder and decoder",
            rate="M / 32",
        ),
        folder=("model.safetensors", _described),
    ),
)


class PlaygroundCodec(WholeImageCodec[PlaygroundConfig, PlaygroundADJSCC]):
    """djscc-playground's ADJSCC with power-normalised symbols, for images whose sides divide by 4.

    Args:
        config: the architecture.
        network: its weights; a fresh initialisation when missing.
    """

    def __init__(self, config: PlaygroundConfig, network: PlaygroundADJSCC | None = None) -> None:
        super().__init__(config, config.network() if network is None else network, 3, (_STRIDE, _STRIDE))

    @property
    def _grid(self) -> tuple[int, int, int]:
        _, height, width = self.image_shape
        return self.config.channel_num, height // _STRIDE, width // _STRIDE

    @property
    def num_symbols(self) -> int:
        """Complex symbols per image."""
        features, rows, columns = self._grid
        return features * rows * columns // 2

    def encode(self, images: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return symbols (B, K) of images (B, 3, H, W), see `Codec`."""
        check_images(images, self.image_shape)
        real, imag = self.network.encode(images, per_image(csnr_db, images)).float().flatten(1).chunk(2, dim=1)
        return unit_power(torch.complex(real, imag))

    def decode(self, z: Tensor, csnr_db: float | Tensor) -> Tensor:
        """Return images (B, 3, H, W) of symbols (B, K), see `Codec`."""
        check_symbols(z, self.num_symbols)
        # Symbols of unit power are features over the root of twice their mean square.
        features = torch.cat([z.real, z.imag], dim=1).unflatten(1, self._grid) * (2 * self.config.power) ** 0.5
        return self.network.decode(features, per_image(csnr_db, z)).float()
