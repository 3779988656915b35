"""What a published family of checkpoints is, for those who bring one: `ota bundle import`.

A module of `receiver.codecs` or `receiver.priors` declares the families that its networks were published as in
`PUBLISHED`; nothing else has to be changed for a new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor

from sdr.errors import ConfigError

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of the tensors of a checkpoint by name, without what wrappers put before the names."""

#: Sides of the images that most networks were published for, pixels.
PUBLISHED_SIDE = 256


@dataclass(frozen=True)
class ImportOptions:
    """What a checkpoint can't tell of itself; None: not given.

    Attributes:
        image_size: (H, W) in pixels of the images that are sent, for networks of one size.
        size: depth of the network by the name that its authors gave it.
        channels: features that are sent at each position, C of the public code.
        variant: which of several networks with equal weights.
        eta: features to send for each bit, of codecs of variable rate.
        level: quality, of codecs that have it.
    """

    image_size: tuple[int, int] | None = None
    size: str | None = None
    channels: int | None = None
    variant: str | None = None
    eta: float | None = None
    level: float | None = None

    @property
    def colour_shape(self) -> tuple[int, int, int]:
        """(3, H, W), of the published size where none is given."""
        height, width = self.image_size or (PUBLISHED_SIDE, PUBLISHED_SIDE)
        return 3, height, width


@dataclass(frozen=True)
class Conventions:
    """How a codec of a family uses its symbols, for people.

    Attributes:
        packing: of features into complex symbols.
        power: what is normalised, and how a receiver undoes it.
        snr: how the networks are told the channel SNR.
        rate: complex symbols a colour pixel, in terms of the options.
        side: information that is sent beside the symbols.
    """

    packing: str
    power: str
    snr: str
    rate: str
    side: str = "none"


Config = TypeVar("Config")


@dataclass(frozen=True)
class Published(Generic[Config]):
    """A published family.

    Attributes:
        name: for `--family`.
        network: family of its networks, as bundle.toml names it.
        title: what it is, for people.
        configure: gives the configuration of a checkpoint with tensors of these shapes, as far as options leave it
            open; sizes that a checkpoint doesn't tell are the published ones.
        takes: the fields of `ImportOptions` that mean something to it.
        conventions: of codecs.
        measure: gives the configuration with what is measured on images (C, H, W) in [0, 1], where something is.
        folder: of families that are published as folders: the file with the weights, and what gives the configuration
            in place of `configure`, called with the folder, too.
    """

    name: str
    network: str
    title: str
    configure: Callable[[Shapes, ImportOptions], Config]
    takes: frozenset[str] = frozenset()
    conventions: Conventions | None = None
    measure: Callable[[Config, Any, Sequence[Tensor]], Config] | None = None
    folder: tuple[str, Callable[[Path, Shapes, ImportOptions], Config]] | None = None

    def check(self, options: ImportOptions) -> None:
        """Refuse options that mean nothing to the family.

        Raises:
            ConfigError: names one, and those that it has.
        """
        for field in fields(options):
            if getattr(options, field.name) is not None and field.name not in self.takes:
                has = ", ".join(OPTION_NAMES[name] for name in sorted(self.takes)) or "none"
                raise ConfigError(f"{OPTION_NAMES[field.name]} means nothing to family {self.name}; it has {has}.")


#: How the command line spells the fields of `ImportOptions`.
OPTION_NAMES = {
    "image_size": "--image-size",
    "size": "--size",
    "channels": "--C",
    "variant": "--variant",
    "eta": "--eta",
    "level": "--level",
}


def length(shapes: Shapes, names: Sequence[str], axis: int, default: int) -> int:
    """Return the length of an axis of the first tensor that a checkpoint has, `default` where it has none of them."""
    for name in names:
        shape = shapes.get(name, ())
        if len(shape) > axis:
            return shape[axis]
    return default


def count(shapes: Shapes, template: str) -> int:
    """Return for how many successive whole numbers from 0 a checkpoint has a tensor whose name starts so."""
    number = 0
    while any(name.startswith(template.format(number)) for name in shapes):
        number += 1
    return number
