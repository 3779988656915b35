"""Make a part of a bundle from a published checkpoint.

    part = read_published("codec", "adjscc", Path("ADJSCC_C=2.pth.tar"), ImportOptions())
    write_published(Path("runs/mine"), part)

Names and shapes are checked strictly and the network is run once before anything is written.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import receiver.codecs
import receiver.priors
from receiver.bundles.bundle import MODELS_DIR, common_shape, load_codec, load_denoiser, parts_of, write_part
from receiver.bundles.checkpoints import fits, load_checkpoint, read_checkpoint
from receiver.codecs.codec import NetworkCodec
from receiver.codecs.published import ImportOptions, Published, Shapes
from receiver.codecs.side_information import VariableRateCodec
from receiver.images.files import load_images
from receiver.priors.denoiser import NetworkDenoiser
from sdr.errors import ConfigError, InputError, ModelError, did_you_mean

#: The photographs on which something is measured unless others are given.
PHOTOGRAPHS = MODELS_DIR / "photo" / "samples"
#: Largest side, in pixels, of images that are measured on.
_MEASURED_SIDE = 256
#: Sides, in pixels, of images that codecs for any size are tried on, and at most of those that priors are.
_TRIED_SIDE, _TRIED_PRIOR_SIDE = 128, 64
#: Step and channel SNR that networks are tried at.
_TRIED_STEP, _TRIED_CSNR_DB = 500, 10.0


def _published(package: ModuleType) -> dict[str, Published[Any]]:
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    return {family.name: family for module in modules for family in getattr(module, "PUBLISHED", ())}


#: Published families by part and name.
FAMILIES: Mapping[str, Mapping[str, Published[Any]]] = {
    "codec": _published(receiver.codecs),
    "prior": _published(receiver.priors),
}


@dataclass(frozen=True, eq=False)
class ImportedPart:
    """A part of a bundle, read and tried.

    Attributes:
        part: codec or prior.
        family: that it was published as.
        source: file or folder that it was read from.
        config: of the network.
        network: with its weights.
        model: the codec or the denoiser around it.
    """

    part: str
    family: Published[Any]
    source: Path
    config: Any
    network: nn.Module
    model: NetworkCodec[Any, Any] | NetworkDenoiser[Any]


def read_published(
    part: str, family: str, source: Path, options: ImportOptions, images: Path | None = None
) -> ImportedPart:
    """Read a published checkpoint, check it, and run it once.

    Args:
        part: codec or prior.
        family: name in `FAMILIES`.
        source: file, or folder where the family is published as one.
        options: what the checkpoint can't tell.
        images: folder of images to measure on, where something is measured; None: the shipped photographs.

    Raises:
        ConfigError: unknown family, or options that mean nothing to it.
        ModelError: a checkpoint of another family, or of another size, damaged, or that gives no numbers.
    """
    families = FAMILIES[part]
    if family not in families:
        raise ConfigError(f"There is no published {part} family {family!r}; {did_you_mean(family, families)}")
    published = families[family]
    published.check(options)
    path = source if published.folder is None else source / published.folder[0]
    tensors = read_checkpoint(path)
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    if published.folder is None:
        config = published.configure(shapes, options)
    else:
        config = published.folder[1](source, shapes, options)
    try:
        network = load_checkpoint(path, config.network)
    except ModelError as error:
        if not fits(tensors, config.network):
            raise ModelError(f"{error}{_hint(tensors, shapes, family, families)}") from error
        raise
    if published.measure is not None:
        config = published.measure(config, network, _photographs(images))
    model = config.codec(network) if part == "codec" else config.denoiser(network)
    found = ImportedPart(part, published, source, config, network, model.eval().requires_grad_(False))
    try_part(found.model, str(source))
    return found


def _hint(tensors: dict[str, Tensor], shapes: Shapes, family: str, families: Mapping[str, Published[Any]]) -> str:
    """Return what would make a checkpoint fit that does not, as a sentence; nothing where that is not known."""
    names = []
    for name, published in families.items():
        # What needs options to be told is asked for again when they are missing.
        with contextlib.suppress(ConfigError):
            if published.folder is None and fits(tensors, published.configure(shapes, ImportOptions()).network):
                names.append(name)
    if family in names:
        return " Without the options given it fits."
    return f" It is a checkpoint for --family {' or '.join(names)}." if names else ""


def _photographs(folder: Path | None) -> Sequence[Tensor]:
    """Return images (3, H, W), their middles where they are large."""
    _, images = load_images(PHOTOGRAPHS if folder is None else folder, (3, None, None))
    middles = []
    for image in images:
        top, left = (max(0, (length - _MEASURED_SIDE) // 2) for length in image.shape[1:])
        middles.append(image[:, top : top + _MEASURED_SIDE, left : left + _MEASURED_SIDE])
    return middles


@torch.no_grad()
def try_part(model: NetworkCodec[Any, Any] | NetworkDenoiser[Any], source: str) -> None:
    """Run a codec or a prior once.

    Raises:
        ModelError: what comes out is not finite.
    """
    channels, height, width = model.accepted_shape
    shape = (channels, height or _TRIED_SIDE, width or _TRIED_SIDE)
    outputs = _denoised(model, shape) if isinstance(model, NetworkDenoiser) else _sent(model.for_shape(shape))
    if not bool(outputs.isfinite().all()):
        raise ModelError(f"{source} gives values that are not finite. Get the checkpoint again, or another one.")


def _denoised(model: NetworkDenoiser[Any], shape: tuple[int, int, int]) -> Tensor:
    # Networks of hundreds of millions of weights take a minute at their full size.
    small = (shape[0], min(shape[1], _TRIED_PRIOR_SIDE), min(shape[2], _TRIED_PRIOR_SIDE))
    denoiser = model.resized(small)
    labelled = denoiser.with_label(0) if denoiser.classes else denoiser
    return labelled(2 * _waves(small) - 1, torch.tensor([min(_TRIED_STEP, model.schedule.num_steps)]))


def _sent(codec: NetworkCodec[Any, Any]) -> Tensor:
    image = _waves(codec.image_shape)
    if not isinstance(codec, VariableRateCodec):
        return codec.decode(codec.encode(image, _TRIED_CSNR_DB), _TRIED_CSNR_DB)
    try:
        return codec.decode_image(codec.encode_image(image[0], _TRIED_CSNR_DB), _TRIED_CSNR_DB)
    except InputError as error:
        raise ModelError(f"The codec can't send an image: {error}") from error


def _waves(shape: tuple[int, int, int]) -> Tensor:
    """Return a smooth image (1, C, H, W) in [0, 1]."""
    rows, columns = torch.meshgrid(torch.arange(shape[1]), torch.arange(shape[2]), indexing="ij")
    waves = [torch.sin(0.05 * (columns + 2 * rows) + 0.9 * channel) for channel in range(shape[0])]
    return 0.5 + 0.5 * torch.stack(waves)[None]


def write_published(folder: Path, part: ImportedPart, force: bool = False) -> None:
    """Write a part into a bundle folder, which may have the other one already; single precision is kept.

    Raises:
        InputError: the bundle has such a part, and `force` is not given.
        ModelError: it takes no images that the bundle's other part takes.
    """
    present = parts_of(folder)
    if part.part in present and not force:
        raise InputError(f"{folder} has a {part.part} already. Name another --out, or add --force to replace it.")
    other = {"codec": "prior", "prior": "codec"}[part.part]
    if other in present:
        neighbour = load_denoiser(folder) if other == "prior" else load_codec(folder)
        common_shape(part.model.accepted_shape, neighbour.accepted_shape, f"{part.source} and the {other} of {folder}")
    description = {"network": part.config.family, **vars(part.config)}
    write_part(folder, part.part, description, part.network.state_dict(), half=False)


def parameters(model: NetworkCodec[Any, Any] | NetworkDenoiser[Any]) -> int:
    """Return how many weights a model has."""
    return sum(value.numel() for value in model.state_dict().values())
