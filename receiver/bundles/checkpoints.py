"""Read published checkpoints: untrusted files of PyTorch or safetensors, with the names of public code.

    network = load_checkpoint(Path("256x256_diffusion_uncond.pt"), lambda: UNetModel(...))

Nothing in a file is run, and sizes are checked before memory is taken for them.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sdr.errors import ModelError

#: A safetensors header may have this many bytes; that of the largest network here has a hundredth.
_MAX_HEADER_BYTES = 16 << 20
#: Where training code puts the weights among other things, the most wanted first: averages before the last step's.
_CONTAINERS = (
    *("params_ema", "ema_state_dict", "model_ema", "ema", "state_dict", "model_state_dict"),
    *("model", "params", "net", "network", "weights"),
)
#: What wrappers put before every name.
_PREFIXES = ("module.", "model.", "_orig_mod.", "net.", "network.", "ema_model.", "ema.")
#: A family of networks and a weight that every member has. ADJSCC and PDJSCC can't be told apart.
_FAMILIES = {
    "ADM U-Net": ("input_blocks.0.0.weight",),
    "ADJSCC or PDJSCC": ("jscc_encoder.conv_block1.0.weight", "Encoder.conv_block1.0.weight"),
    "SwinJSCC or WITT": ("encoder.patch_embed.proj.weight",),
    "NTSCC+": ("ntc.g_a0.weight",),
    "the ADJSCC of djscc-playground": ("encoder.FL_Module_1.conv1.weight",),
}
#: What public loaders of ADJSCC rename.
_RENAMED = {"Encoder.": "jscc_encoder.", "Decoder.": "jscc_decoder."}
#: What only the training of codecs used: the window of a loss that files of ADJSCC, SwinJSCC and WITT may have.
_DROPPED = "distortion_loss."
#: How an archive of PyTorch and a pickle start; the latter is what PyTorch wrote before version 1.6. As the size of a
#: safetensors header, both are far beyond the limit.
_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file by name, without what wrappers and training code put around them.

    Args:
        path: written by `torch.save` (of PyTorch 1.6 or later) or by safetensors.

    Raises:
        ModelError: missing, truncated or damaged; holds Python objects, which could run code, or no weights; or claims
            sizes that it does not have.
    """
    if not path.is_file():
        raise ModelError(f"{path} is no file. Give the path of a checkpoint.")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_ARCHIVE):
        _check_zip(path, size)
        content = _load_zip(path)
    elif start.startswith(_PICKLE) and int.from_bytes(start, "little") > _MAX_HEADER_BYTES:
        raise ModelError(
            f"{path} is a pickle, as PyTorch before 1.6 wrote it, and could run code. Load it where you trust it, and "
            "save it again with a newer PyTorch."
        )
    else:
        _check_header(path, size, start)
        content = _load_safetensors(path)
    tensors = _without_prefixes(_tensors(content))
    if not tensors:
        raise ModelError(f"{path} holds no weights. Give a file with a state_dict.")
    for name, value in tensors.items():
        _check_tensor(path, size, name, value)
    return tensors


def family_of(names: Mapping[str, object]) -> str | None:
    """Return the family of networks that has weights of such names, None where it is unknown."""
    for family, marks in _FAMILIES.items():
        if any(mark in names for mark in marks):
            return family
    return None


Network = TypeVar("Network", bound=nn.Module)


def fits(tensors: dict[str, Tensor], build: Callable[[], nn.Module]) -> bool:
    """Return whether weights as `read_checkpoint` gives them have the names and shapes of a network."""
    with torch.device("meta"):
        twin = build()
    tensors = _as_loaded(tensors, twin)
    return not any(names for _, names in _differences(tensors, twin))


def load_checkpoint(path: Path, build: Callable[[], Network]) -> Network:
    """Return a network with the weights of a file, in evaluation mode, frozen.

    Args:
        path: of the file.
        build: makes the network; called first without memory, so that a wrong file fails before anything is allocated.

    Raises:
        ModelError: as `read_checkpoint`; or a checkpoint of another network, of another size, or with weights that
            are not finite.
    """
    with torch.device("meta"):
        twin = build()
    tensors = _as_loaded(read_checkpoint(path), twin)
    _check_family(path, tensors, twin)
    _check_names(path, tensors, twin)
    network = build()
    network.load_state_dict(tensors)
    for name, value in network.state_dict().items():
        if not bool(value.isfinite().all()):
            raise ModelError(f"{path} has a value in {name} that isn't finite. Get the file again, or another one.")
    return network.eval().requires_grad_(False)


# Files


def _check_zip(path: Path, size: int) -> None:
    """Refuse an archive that is damaged or that claims to hold more than it does."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is truncated or damaged ({error}). Get it again.") from error
    if any(entry.filename.endswith("/constants.pkl") for entry in entries):
        raise ModelError(f"{path} is a program of TorchScript. Save the state_dict of the module alone.")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > size or any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ModelError(
            f"{path} has {size} bytes and claims to unpack to {claimed}; PyTorch writes archives without compression. "
            "Get it from where it was published."
        )


def _load_zip(path: Path) -> object:
    """Return what PyTorch saved, where it is weights and plain values."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|global|class|type) ([\w.]+\.[\w.]+)", str(error))
        what = f" ({found[1]})" if found else ""
        raise ModelError(
            f"{path} holds Python objects{what} beside weights, which could run code. Save its state_dict alone where "
            "you trust it."
        ) from error
    except Exception as error:  # PyTorch raises whatever its parsers do
        raise ModelError(f"{path} is truncated or damaged ({_line(error)}). Get it again.") from error


def _check_header(path: Path, size: int, start: bytes) -> None:
    """Refuse a file that is no safetensors file, or whose header has no sensible size."""
    header = int.from_bytes(start, "little")
    if len(start) < 8 or header < 2:
        raise ModelError(f"{path} is no checkpoint of PyTorch or safetensors. Give another file.")
    if header > min(size - 8, _MAX_HEADER_BYTES):
        raise ModelError(
            f"{path} has {size} bytes and claims a header of {header}. It is truncated or no checkpoint: get it again."
        )


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is truncated or damaged ({_line(error)}). Get it again.") from error


def _check_tensor(path: Path, size: int, name: str, value: Tensor) -> None:
    """Refuse a tensor that is larger than what the file holds for it, or of an odd kind."""
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        raise ModelError(f"{path}: {name} is sparse, quantised or without values. Convert it to a plain tensor.")
    held = min(size, value.untyped_storage().nbytes())
    if value.numel() * value.element_size() > held:
        raise ModelError(
            f"{path}: {name} claims {value.numel()} values, but only {held} bytes are there for it. Get the file again."
        )


# Names


def _tensors(content: object, depth: int = 0) -> dict[str, Tensor]:
    """Return the tensors of a saved mapping, or of the mapping in it that holds the weights."""
    if not isinstance(content, Mapping):
        return {}
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    # Two levels cover {"state_dict": {...}} and {"ema": {"model": {...}}}.
    if depth < 3:
        for name in _CONTAINERS:
            inner = _tensors(content.get(name), depth + 1)
            if len(inner) > len(own):
                return inner
    return own


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut what stands before every name."""
    while tensors:
        prefix = next((prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in tensors)), None)
        if prefix is None:
            break
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _as_loaded(tensors: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Drop what only training used; give the names of ADJSCC's files those of the network, where it has the newer."""
    tensors = {name: value for name, value in tensors.items() if not name.startswith(_DROPPED)}
    if not any(name.startswith("jscc_encoder.") for name in network.state_dict()):
        return tensors
    return {
        next((new + name[len(old) :] for old, new in _RENAMED.items() if name.startswith(old)), name): value
        for name, value in tensors.items()
    }


def _check_family(path: Path, tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    found, wanted = family_of(tensors), family_of(network.state_dict())
    if found != wanted:
        looks = f"looks like {found}" if found else f"is of no known kind (it starts with {min(tensors)})"
        raise ModelError(f"{path} {looks}, needed is {wanted or type(network).__name__}. Give the right file.")


def _check_names(path: Path, tensors: Mapping[str, Tensor], network: nn.Module) -> None:
    """Refuse weights that the network lacks or that it has in another shape; `network` is left unusable."""
    for kind, names in _differences(tensors, network):
        if names:
            more = f" ({len(names)} such)" if len(names) > 1 else ""
            what = f"{kind} {names[0]}{more}".strip()
            raise ModelError(f"{path} doesn't fit the network: {what}. Give the network's options, or another file.")


def _differences(tensors: Mapping[str, Tensor], network: nn.Module) -> Iterator[tuple[str, list[str]]]:
    wanted = {name: value for name, value in network.state_dict().items() if name in tensors}
    yield (
        "another shape of",
        [
            f"{name}: {tuple(tensors[name].shape)}, needed is {tuple(value.shape)}"
            for name, value in sorted(wanted.items())
            if tensors[name].shape != value.shape
        ],
    )
    yield (
        "no floating-point numbers in",
        sorted(
            name
            for name, value in wanted.items()
            if value.is_floating_point() and not tensors[name].is_floating_point()
        ),
    )
    try:
        # The tensors take the places of those without memory: nothing is copied.
        result = network.load_state_dict(dict(tensors), strict=False, assign=True)
    except RuntimeError as error:
        yield "", [line.strip() for line in str(error).splitlines()[1:]] or [_line(error)]
        return
    yield "it lacks", sorted(result.missing_keys)
    yield "it has besides", sorted(result.unexpected_keys)


def _line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
