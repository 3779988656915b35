"""Bundles: folders with the models that belong together.

A bundle folder holds `bundle.toml` (the architectures), `codec.safetensors` and `prior.safetensors` (weights),
`samples/` (held-out images named by id), and what training wrote about them. A bundle without a prior decodes by the
methods that need none. What scores decoded images (`[realism]`) lies there too; no decoder reads it, see
`lab.evaluation.realism`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from receiver.bundles.weights import half_precision, read_weights
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.codecs.codec import ImageShape, check_shape, weights_digest
from receiver.codecs.local import LocalCodec, LocalCodecConfig
from receiver.priors.local import LocalDenoiser, LocalPriorConfig
from receiver.priors.schedule import Schedule
from receiver.priors.unet import PriorConfig, UNetDenoiser
from sdr.errors import ConfigError, ModelError, OtaError
from sdr.files import write_bytes

#: Where the shipped bundles are: beside the packages, in the repository.
MODELS_DIR = Path(__file__).resolve().parents[2] / "models"
DEFAULT_BUNDLE = "fashion"

#: Each part's kinds of network; the key `network` of its section says which, the first where it is missing.
CODECS: dict[str, type[AdjsccConfig | LocalCodecConfig]] = {"adjscc": AdjsccConfig, "local": LocalCodecConfig}
PRIORS: dict[str, type[PriorConfig | LocalPriorConfig]] = {"adm": PriorConfig, "local": LocalPriorConfig}
PARTS = ("codec", "prior", "realism")


@dataclass(frozen=True)
class Bundle:
    """Models that belong together, in evaluation mode, their parameters frozen.

    Args:
        name: of the folder.
        path: the folder.
        codec: encoder and decoder.
        prior: the diffusion prior, None where there is none.
        digest: 8 hex digits over both.
    """

    name: str
    path: Path
    codec: AdjsccCodec | LocalCodec
    prior: UNetDenoiser | LocalDenoiser | None
    digest: str

    @property
    def denoiser(self) -> UNetDenoiser | LocalDenoiser:
        """The prior.

        Raises:
            ModelError: there is none.
        """
        if self.prior is None:
            raise ModelError(f"Bundle '{self.name}' has no prior. Use a method that needs none, or another bundle.")
        return self.prior

    @property
    def takes(self) -> ImageShape:
        """(C, H, W) of the images it takes; None where any height and width."""
        return self.codec.takes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a bundle of one shape (or of `at`)."""
        return self.codec.image_shape

    def to(self, device: str | torch.device) -> Bundle:
        """The bundle, its codec and prior on another device."""
        return replace(self, codec=self.codec.to(device), prior=None if self.prior is None else self.prior.to(device))

    def at(self, shape: tuple[int, int, int]) -> Bundle:
        """The bundle for images of one shape (C, H, W).

        Raises:
            InputError: it takes no such images.
        """
        check_shape(shape, self.takes, f"Bundle '{self.name}'")
        return replace(self, codec=self.codec.at(shape), prior=None if self.prior is None else self.prior.at(shape))

    @property
    def samples(self) -> Path:
        """Folder of the held-out images."""
        return self.path / "samples"


def find_bundle(name_or_path: str | Path = DEFAULT_BUNDLE) -> Path:
    """The folder of a bundle: a path to one, or a name under the repository's `models/`.

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


def _same_type(value: object, default: object) -> bool:
    """Whether a TOML value can stand where `default` does; integers do for numbers, lists for tuples."""
    if isinstance(default, tuple | list):
        sample = default[0] if default else 1
        return isinstance(value, list) and all(_same_type(item, sample) for item in value)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)


_Config = TypeVar("_Config")


def read_config(folder: Path, part: str, kinds: Mapping[str, type[_Config]]) -> _Config:
    """Read the section of a part.

    Args:
        folder: of the bundle. part: one of `PARTS`.
        kinds: the part's kinds of network and the dataclass that describes each.

    Raises:
        ModelError: no such section, or it describes no model.
    """
    path = folder / "bundle.toml"
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ModelError(f"{path} can't be read ({error}). Restore it or train the bundle again.") from error
    unknown = sorted(set(sections) - set(PARTS))
    if unknown:
        raise ModelError(f"{path} has an unknown section [{unknown[0]}]; it may have {', '.join(PARTS)}.")
    section = sections.get(part)
    if not isinstance(section, dict):
        raise ModelError(f"{path} has no section [{part}]. Train it with `ota train {part}`.")
    network = section.pop("network", next(iter(kinds)))
    if network not in kinds:
        raise ModelError(f"{path}: {part}.network = {network!r} is unknown; it may be {', '.join(kinds)}.")
    kind = kinds[network]
    defaults = kind().__dict__
    unknown = sorted(set(section) - set(defaults))
    if unknown:
        raise ModelError(f"{path} has an unknown key {part}.{unknown[0]}; known are {', '.join(sorted(defaults))}.")
    try:
        for key, default in defaults.items():
            if key in section and not _same_type(section[key], default):
                raise ConfigError(f"{key} = {section[key]!r} is of the wrong type, the default is {default!r}.")
        return kind(**section)
    except OtaError as error:
        raise ModelError(f"The section [{part}] of {path} doesn't describe a model: {error}") from error


_Module = TypeVar("_Module", bound=nn.Module)


def load(build: Callable[[], _Module], folder: Path, part: str, device: str | torch.device) -> _Module:
    """A network with its weights from the bundle, in evaluation mode, frozen."""
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


def load_codec(
    name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu"
) -> AdjsccCodec | LocalCodec:
    """The codec alone, which is all that a transmitter needs."""
    folder = find_bundle(name_or_path)
    config = read_config(folder, "codec", CODECS)
    if isinstance(config, LocalCodecConfig):
        local = LocalCodec(config, load(config.network, folder, "codec", device)).eval()
        # A tenth faster on CPUs: the blocks normalise over the channels.
        return local.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert isinstance(config, AdjsccConfig)
    return AdjsccCodec(config, load(config.network, folder, "codec", device)).eval()


def load_denoiser(
    name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu"
) -> UNetDenoiser | LocalDenoiser:
    """The diffusion prior alone."""
    folder = find_bundle(name_or_path)
    config = read_config(folder, "prior", PRIORS)
    if isinstance(config, LocalPriorConfig):
        return LocalDenoiser(load(config.unet, folder, "prior", device), Schedule(config.num_steps)).eval()
    assert isinstance(config, PriorConfig)
    unet = load(config.unet, folder, "prior", device)
    return UNetDenoiser(unet, Schedule(config.num_steps), config.image_shape, config.prediction, config.patch).eval()


def load_bundle(name_or_path: str | Path = DEFAULT_BUNDLE, device: str | torch.device = "cpu") -> Bundle:
    """All models of a bundle that decoding needs.

    Args:
        name_or_path: a folder, or the name of one under `models/`.
        device: where the models go.

    Raises:
        ModelError: missing, damaged, foreign, or parts that don't fit each other.
    """
    folder = find_bundle(name_or_path)
    codec = load_codec(folder, device)
    prior = load_denoiser(folder, device) if _has_part(folder, "prior") else None
    if prior is not None and prior.takes != codec.takes:
        raise ModelError(
            f"The parts of {folder} don't fit each other: codec {codec.takes}, prior {prior.takes}. Train them with "
            "one image shape."
        )
    parts = [codec.digest, *([] if prior is None else [weights_digest({}, prior.unet.state_dict())])]
    digest = hashlib.blake2b(" ".join(parts).encode(), digest_size=4).hexdigest()
    return Bundle(folder.resolve().name, folder, codec, prior, digest)


def _has_part(folder: Path, part: str) -> bool:
    """Whether bundle.toml describes the part, or its weights lie there without a description (which is told then)."""
    described = tomllib.loads((folder / "bundle.toml").read_text(encoding="utf-8"))
    return part in described or (folder / f"{part}.safetensors").is_file()


def write_part(folder: Path, part: str, config: Mapping[str, object], state: Mapping[str, Tensor]) -> None:
    """Write one model of a bundle: its weights in float16 and its section of bundle.toml.

    Args:
        config: fields of the part's configuration, and `network` where it isn't of the part's first kind.

    Raises:
        ConfigError: unknown part.
    """
    if part not in PARTS:
        raise ConfigError(f"A bundle has no part {part!r}, it has {', '.join(PARTS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{part}.safetensors", save(half_precision(state)))
    toml = folder / "bundle.toml"
    sections = tomllib.loads(toml.read_text(encoding="utf-8")) if toml.is_file() else {}
    sections[part] = dict(config)
    lines = []
    for section in sorted(sections):
        # JSON's spelling of strings, numbers, booleans and lists is also TOML's.
        lines += [f"[{section}]", *(f"{key} = {json.dumps(value)}" for key, value in sections[section].items()), ""]
    write_bytes(toml, "\n".join(lines).encode())
