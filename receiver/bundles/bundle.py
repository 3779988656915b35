"""Bundles: folders with the models that belong together.

A bundle folder holds `bundle.toml` (the architectures), `codec.safetensors` and `prior.safetensors` (weights),
`samples/` (held-out images named by id), and what training wrote about them. A bundle without a prior decodes by the
methods that need none. What scores decoded images (`[realism]`) lies there too; no decoder reads it, see
`lab.evaluation.realism`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

import receiver.codecs
import receiver.priors
from receiver.bundles.families import families
from receiver.bundles.side_models import take_covariance
from receiver.bundles.weights import half_precision, read_weights
from receiver.codecs.codec import CodecConfig, ImageShape, NetworkCodec, check_shape, shape_text
from receiver.priors.denoiser import DenoiserConfig, NetworkDenoiser, Precision
from sdr.documents import from_table, read_document
from sdr.errors import ConfigError, ModelError
from sdr.files import write_bytes, write_text

#: Where the shipped bundles are: beside the packages, in the repository.
MODELS_DIR = Path(__file__).resolve().parents[2] / "models"
DEFAULT_BUNDLE = "fashion"

#: Each part's families; the key `network` of its section says which, the first where it is missing.
CODECS: dict[str, type[CodecConfig]] = families(receiver.codecs, "adjscc")
DENOISERS: dict[str, type[DenoiserConfig]] = families(receiver.priors, "adm")
PARTS = ("codec", "prior", "realism")


@dataclass(frozen=True)
class Bundle:
    """Models that belong together, in evaluation mode, their parameters frozen.

    Args:
        name: of the folder.
        path: the folder.
        codec: encoder and decoder.
        denoiser: the diffusion prior, None where there is none.
        digest: 8 hex digits over both.
    """

    name: str
    path: Path
    codec: NetworkCodec[Any, Any]
    denoiser: NetworkDenoiser[Any] | None
    digest: str

    @property
    def required_denoiser(self) -> NetworkDenoiser[Any]:
        """The diffusion prior, where it must be there.

        Raises:
            ModelError: there is none.
        """
        if self.denoiser is None:
            raise ModelError(f"Bundle '{self.name}' has no prior. Use a method that needs none, or another bundle.")
        return self.denoiser

    @property
    def accepted_shape(self) -> ImageShape:
        """(C, H, W) of the images that codec and prior take; None where any height and width."""
        if self.denoiser is None:
            return self.codec.accepted_shape
        return common_shape(self.codec.accepted_shape, self.denoiser.accepted_shape, f"the parts of {self.name}")

    @property
    def any_size(self) -> bool:
        """Whether it takes images of any height and width."""
        return None in self.accepted_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a bundle of one shape (or of `for_shape`)."""
        return self.codec.image_shape

    def to(self, device: str | torch.device) -> Bundle:
        """Return the bundle with its models on another device."""
        denoiser = None if self.denoiser is None else self.denoiser.to(device)
        return replace(self, codec=self.codec.to(device), denoiser=denoiser)

    def at_precision(self, precision: Precision) -> Bundle:
        """Return the bundle with its prior ready to run in a precision, see `NetworkDenoiser.at_precision`."""
        return replace(self, denoiser=None if self.denoiser is None else self.denoiser.at_precision(precision))

    def for_shape(self, shape: tuple[int, int, int]) -> Bundle:
        """Return the bundle for images of one shape (C, H, W).

        Raises:
            InputError: it takes no such images.
        """
        check_shape(shape, self.accepted_shape, f"Bundle '{self.name}'")
        denoiser = None if self.denoiser is None else self.denoiser.for_shape(shape)
        return replace(self, codec=self.codec.for_shape(shape), denoiser=denoiser)

    @property
    def samples(self) -> Path:
        """Folder of the held-out images."""
        return self.path / "samples"


def find_bundle(name_or_path: str | Path = DEFAULT_BUNDLE) -> Path:
    """Return the folder of a bundle: a path to one, or a name under the repository's `models/`.

    Raises:
        ModelError: there is none; the message lists what there is.
    """
    for folder in (Path(name_or_path), MODELS_DIR / name_or_path):
        if (folder / "bundle.toml").is_file():
            return folder
    there = sorted(path.parent.name for path in MODELS_DIR.glob("*/bundle.toml"))
    raise ModelError(
        f"There is no bundle {str(name_or_path)!r} (a folder with bundle.toml). Use {', '.join(there) or 'a path'}, "
        "or train one with `ota train`."
    )


_Config = TypeVar("_Config")


def read_config(folder: Path, part: str, kinds: Mapping[str, type[_Config]]) -> _Config:
    """Read the section of a part.

    Args:
        folder: of the bundle.
        part: one of `PARTS`.
        kinds: configuration classes by the name that `network` has; the first where it has none.

    Raises:
        ModelError: no such section, or it describes no model.
    """
    path = folder / "bundle.toml"
    sections = read_document(path, ModelError, "description of a bundle")
    unknown = sorted(set(sections) - set(PARTS))
    if unknown:
        raise ModelError(f"{path} has an unknown section [{unknown[0]}]; it may have {', '.join(PARTS)}.")
    section = sections.get(part)
    if not isinstance(section, dict):
        brought = "" if part == "realism" else f", or bring one with `ota bundle import --{part}`"
        raise ModelError(f"{path} has no section [{part}]. Train it with `ota train {part}`{brought}.")
    network = str(section.pop("network", next(iter(kinds))))
    if network not in kinds:
        raise ModelError(f"{path}: {part}.network = {network!r} is unknown; it may be {', '.join(kinds)}.")
    return from_table(kinds[network], section, f"{path}, [{part}]", ModelError)


_Module = TypeVar("_Module", bound=nn.Module)


def load(build: Callable[[], _Module], folder: Path, part: str, device: str | torch.device) -> _Module:
    """Return a network with its weights from the bundle, in evaluation mode, frozen.

    Args:
        build: makes the network.
        folder: of the bundle.
        part: the name of its file of weights.
        device: where the network goes.

    Raises:
        ModelError: weights that are missing, damaged or of another network.
    """
    path = folder / f"{part}.safetensors"
    try:
        # Built without memory first, so that a description of something huge fails on the file, not on allocation.
        with torch.device("meta"):
            expected = build().state_dict()
        weights = read_weights(path, expected)
        module = build()
    except ConfigError as error:
        raise ModelError(
            f"The section [{part}] of {folder / 'bundle.toml'} doesn't describe a model: {error}"
        ) from error
    module.load_state_dict(weights)
    return module.to(device).eval().requires_grad_(False)


def load_codec(name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu") -> NetworkCodec[Any, Any]:
    """Return the codec alone, which is all that a transmitter needs."""
    folder = find_bundle(name_or_path)
    config = read_config(folder, "codec", CODECS)
    codec = config.codec(load(config.network, folder, "codec", device)).eval()
    take_covariance(folder, codec)
    return codec


def load_denoiser(
    name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu"
) -> NetworkDenoiser[Any]:
    """Return the diffusion prior alone."""
    folder = find_bundle(name_or_path)
    config = read_config(folder, "prior", DENOISERS)
    return config.denoiser(load(config.network, folder, "prior", device)).eval()


def load_bundle(
    name_or_path: str | Path = DEFAULT_BUNDLE,
    device: str | torch.device = "cpu",
    prior: str | Path | None = None,
) -> Bundle:
    """Load all models of a bundle that decoding needs.

    Args:
        name_or_path: a folder, or the name of one under `models/`.
        device: where the models go.
        prior: another bundle, whose prior is taken; None: its own, if it has one.

    Raises:
        ModelError: missing, damaged, foreign, or parts that don't fit each other.
    """
    folder = find_bundle(name_or_path)
    codec = load_codec(folder, device)
    denoiser = None
    if prior is not None or _has_part(folder, "prior"):
        denoiser = load_denoiser(folder if prior is None else prior, device)
    if denoiser is not None:
        source = folder if prior is None else f"codec of {folder} and prior of {prior}"
        common_shape(codec.accepted_shape, denoiser.accepted_shape, f"the parts of {source}")
    parts = [codec.digest, *([] if denoiser is None else [denoiser.digest])]
    digest = hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()
    return Bundle(folder.resolve().name, folder, codec, denoiser, digest)


def _has_part(folder: Path, part: str) -> bool:
    """Return whether bundle.toml describes the part, or weights without a description are there (an error later)."""
    described = read_document(folder / "bundle.toml", ModelError, "description of a bundle")
    return part in described or (folder / f"{part}.safetensors").is_file()


def common_shape(one: ImageShape, other: ImageShape, what: str) -> ImageShape:
    """Return the shape (C, H, W) of images that two models both take; None where any height or width.

    Args:
        one: what one model takes.
        other: what the other takes.
        what: they are, for messages.

    Raises:
        ModelError: there are no such images.
    """
    if any(mine is not None and own is not None and mine != own for mine, own in zip(one, other, strict=True)):
        taken = f"{shape_text(one)} and {shape_text(other)}"
        raise ModelError(f"Images of {what} don't fit each other: {taken}. Use models of one image shape.")
    return one[0], one[1] or other[1], one[2] or other[2]


def parts_of(folder: Path) -> list[str]:
    """Return the parts that a folder has of a bundle, none where it is no bundle.

    Raises:
        ModelError: bundle.toml can't be read.
    """
    path = folder / "bundle.toml"
    return sorted(read_document(path, ModelError, "description of a bundle")) if path.is_file() else []


def write_part(
    folder: Path, part: str, config: Mapping[str, object], state: Mapping[str, Tensor], *, half: bool = True
) -> None:
    """Write one model of a bundle: its weights and its section of bundle.toml.

    Args:
        folder: of the bundle.
        part: one of `PARTS`.
        config: fields of the part's configuration, and `network` where it isn't of the part's first family.
        state: weights.
        half: store them in float16; else in float32.

    Raises:
        ConfigError: unknown part.
    """
    if part not in PARTS:
        raise ConfigError(f"A bundle has no part {part!r}, it has {', '.join(PARTS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    single = {key: value.detach().to("cpu", torch.float32).contiguous() for key, value in state.items()}
    write_bytes(folder / f"{part}.safetensors", save(half_precision(state) if half else single))
    toml = folder / "bundle.toml"
    sections = read_document(toml, ModelError, "description of a bundle") if toml.is_file() else {}
    sections[part] = dict(config)
    lines = []
    for section in sorted(sections):
        # JSON's spelling of strings, numbers, booleans and lists is also TOML's.
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in sections[section].items()), ""]
    write_text(toml, "\n".join(lines))
