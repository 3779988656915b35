"""Run folders: finished at once, or not there."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ota import __version__
from sdr.errors import InputError

#: The packages whose versions a run folder records.
RECORDED_PACKAGES = ("numpy", "scipy", "torch", "sigmf", "pyzmq", "pyarrow")


def check_vacant(path: Path, force: bool) -> None:
    """Refuse a folder that already holds something, before any work is done.

    Raises:
        InputError: `path` is a file, or a folder that is not empty and `force` is not given.
    """
    if path.is_file() or path.is_symlink():
        raise InputError(f"--out {path} is not a folder. Name a folder that is new or empty.")
    if path.is_dir() and any(path.iterdir()) and not force:
        raise InputError(f"--out {path} already holds files. Name another folder, or add --force to replace it.")


@contextmanager
def finished_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block ends well, and vanishes when it does not.

    What `force` replaces stays in place until then.
    """
    check_vacant(path, force)
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.part-", dir=path.parent))
    try:
        # mkdtemp makes a private folder; a result is as readable as the folder around it.
        partial.chmod(path.parent.stat().st_mode & 0o777)
        yield partial
        if path.is_dir():
            replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.old-", dir=path.parent))
            os.replace(path, replaced / "old")
            os.replace(partial, path)
            shutil.rmtree(replaced)
        else:
            os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    found = {"diffcom-ota": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
