"""Claim the names that a command writes, so that no output eats an input, a stranger's folder or another run.

Three rules, kept here for every writer:

- What a command writes lies apart from all that it reads: `check_apart`, before any work.
- One writer a name: `claim` holds a lock beside it, which the kernel lets go of with the process, however that ends.
- Only what we made is ever replaced. A folder of ours holds `MARKER_NAME`, which lists our files; whatever else is in
  it, or appears in it while we work, stays.
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sdr.errors import InputError
from sdr.files import is_partial, temporary_beside, write_json

MARKER_NAME = ".ota-output.json"
"""File that tells a folder of ours, and which files in it are ours."""

_FORMAT = 1
_MAX_MARKER_BYTES = 64 << 20
_RECORDING_SUFFIXES = (".sigmf-meta", ".sigmf-data")


# Apart from the inputs


def check_apart(out: Path, inputs: Iterable[Path], name: str = "--out") -> None:
    """Refuse an output that is, holds or lies in something that is read, or that is or holds the working folder.

    Args:
        out: file, folder or stem of files to write.
        inputs: files, folders or stems of recordings that are read; they need not exist.
        name: of the option, for the message.

    Raises:
        InputError: names the input.
    """
    target, here = _real(out), Path.cwd()
    if here.is_relative_to(target):
        raise InputError(f"{name} '{out}' holds the folder you work in. Name a folder in it, such as runs/new.")
    stem = _stem(target)
    for given in inputs:
        for path in dict.fromkeys((_real(given), *(_real(Path(str(given) + s)) for s in _RECORDING_SUFFIXES))):
            inside = target.is_relative_to(path) or path.is_relative_to(target) or _stem(path) == stem
            if inside or _links_into(given, target):
                raise InputError(
                    f"{name} {out} and the input {given} lie in each other, so writing could destroy what is read. "
                    "Name another place to write."
                )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(Path(path).expanduser()))


def _stem(path: Path) -> str:
    """Return the name of a file without the endings of a recording and its layout."""
    text = str(path)
    for suffix in (*_RECORDING_SUFFIXES, ".layout.json"):
        text = text.removesuffix(suffix)
    return text


def _links_into(given: Path, target: Path) -> bool:
    """Return whether a folder holds a symbolic link whose target lies in `target`."""
    if not target.is_dir() or not given.is_dir():
        return False
    for folder, folders, files in os.walk(given):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink() and _real(path).is_relative_to(target):
                return True
    return False


# One writer a name


@contextlib.contextmanager
def claim(path: Path) -> Iterator[None]:
    """Hold the name `path` for this process; folders above it are made, and removed again if nothing came of them.

    Raises:
        InputError: another process holds it.
        OSError: nothing can be written there.
    """
    path = _real(path)
    missing = [parent for parent in path.parents if not parent.exists()]
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"{path} can't be written: {parent} is a file. Name another place to write.")
    lock_path = path.with_name(f".{path.name}.claim")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(lock_path, path)
        try:
            yield
        finally:
            lock_path.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _locked(lock_path: Path, path: Path) -> int:
    """Return a descriptor that holds the lock of a name."""
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it between opening and locking: then another one is made.
            if os.path.lexists(lock_path) and os.path.samestat(os.fstat(descriptor), os.stat(lock_path)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(f"Another process is writing {path}. Wait for it, or name another --out.") from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


# Files


def check_free(paths: Iterable[Path], force: bool, name: str = "--out") -> None:
    """Refuse names of files to write that something has.

    Args:
        paths: names to write.
        force: files that are there may be replaced.
        name: of the option, for the message.

    Raises:
        InputError: one exists and `force` is not given, or is no file.
    """
    for path in paths:
        if path.is_symlink():
            raise InputError(f"{path} is a symbolic link. Name what it points to, or another {name}.")
        if path.is_dir():
            raise InputError(f"{path} is a folder. Name another {name}.")
        if path.exists() and not force:
            raise InputError(f"{path} exists already. Name another {name}, or add --force to replace it.")


@contextlib.contextmanager
def landing(stem: Path, suffixes: Sequence[str], force: bool) -> Iterator[Path]:
    """Yield the stem to write finished files under: `stem`, or another one if files appeared there meanwhile.

    Raises:
        InputError: behind the block, if it is another one; names it.
    """
    place = stem if force else free_stem(stem, suffixes)
    yield place
    if place != stem:
        raise InputError(f"Files appeared at {stem} while this ran, and were left alone. What was written is {place}.")


def free_stem(path: Path, suffixes: Sequence[str]) -> Path:
    """Return `path`, or `path` with a number behind it, such that no file of this stem exists."""
    candidate, number = path, 0
    while any(os.path.lexists(f"{candidate}{suffix}") for suffix in suffixes):
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


# Folders


@dataclass(frozen=True)
class Marker:
    """The files of a folder that this program made, by their path in it.

    Args:
        files: paths.
        patterns: as for `fnmatch`, of files that come and go while a folder grows.
    """

    files: frozenset[str] = frozenset()
    patterns: tuple[str, ...] = ()

    def made(self, name: str) -> bool:
        """Return whether a file is ours."""
        if name in self.files or name == MARKER_NAME or is_partial(Path(name)):
            return True
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)


def read_marker(folder: Path) -> Marker | None:
    """Return the marker of a folder, None where it has none that can be read: then nothing in it counts as ours."""
    path = folder / MARKER_NAME
    try:
        if path.is_symlink() or path.stat().st_size > _MAX_MARKER_BYTES:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        files, patterns = content["files"], content["patterns"]
        if content["format"] != _FORMAT or not all(isinstance(item, str) for item in (*files, *patterns)):
            return None
        return Marker(frozenset(files), tuple(patterns))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_marker(folder: Path, marker: Marker) -> None:
    """Mark a folder as ours."""
    content = {"format": _FORMAT, "files": sorted(marker.files), "patterns": list(marker.patterns)}
    write_json(folder / MARKER_NAME, content)


def _holds_files(folder: Path) -> bool:
    return any(name != MARKER_NAME for name in os.listdir(folder))


def check_vacant(path: Path, force: bool) -> None:
    """Refuse a folder that already holds something, or, with `force`, something that is not ours.

    Raises:
        InputError: `path` is a file, a symbolic link, or a folder that can't be replaced.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InputError(f"--out {path} is not a folder. Name a folder that is new or empty.")
    check_apart(path, ())
    if not path.is_dir() or not _holds_files(path):
        return
    if not force:
        raise InputError(f"--out {path} already holds files. Name another folder, or add --force to replace it.")
    if read_marker(path) is None:
        raise InputError(
            f"--out {path} holds files and no {MARKER_NAME}, so it is no result of this program, and --force leaves it "
            "alone. Name another folder, or remove it yourself."
        )


@contextlib.contextmanager
def finished_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Hold a name from now on, and yield a temporary folder that takes it when the block ends well.

    Everything that takes time belongs into the block: a name that can't be had is refused before. What `force` replaces
    stays in place until then; of it, only what we made is removed. If the block fails, nothing is left.

    Raises:
        InputError: see `check_vacant` and `claim`; or files of others appeared at `path` meanwhile, which stay, and
            the message says where the result is.
    """
    check_vacant(path, force)
    path = _real(path)
    with claim(path):
        check_vacant(path, force)
        partial = temporary_beside(path)
        partial.mkdir()
        try:
            yield partial
            made = frozenset(str(file.relative_to(partial)) for file in partial.rglob("*") if not file.is_dir())
            write_marker(partial, Marker(made))
            _publish(partial, path, force)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, path: Path, force: bool) -> None:
    """Give a finished folder its name; see `finished_folder`."""
    with contextlib.suppress(OSError):
        os.rename(partial, path)  # the kernel refuses a name that something has, but for an empty folder
        return
    marker = read_marker(path) if force and path.is_dir() and not path.is_symlink() else None
    if marker is None:
        beside = free_stem(path, ("",))
        os.rename(partial, beside)
        raise InputError(f"Something appeared at {path} while this ran, and was left alone. The result is in {beside}.")
    replaced = temporary_beside(path)
    os.rename(path, replaced)
    os.rename(partial, path)
    remove_made(replaced, marker)
    left = [file for file in replaced.rglob("*") if not file.is_dir()] if replaced.exists() else []
    for file in left:
        home = path / file.relative_to(replaced)
        if not os.path.lexists(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            os.rename(file, home)
    remove_made(replaced, Marker())
    if replaced.exists():
        beside = free_stem(path, ("",))
        os.rename(replaced, beside)
        raise InputError(f"{path} held files of yours whose names the result has, too. They are in {beside}.")


def remove_made(folder: Path, marker: Marker) -> None:
    """Remove the files of a folder that its marker lists, then every folder that is empty, `folder` among them."""
    for place, folders, files in os.walk(folder, topdown=False):
        # A link to a folder counts as a folder here, but only the link may be removed.
        for name in (*files, *folders):
            path = Path(place, name)
            if (name in files or path.is_symlink()) and marker.made(str(path.relative_to(folder))):
                path.unlink()
        with contextlib.suppress(OSError):
            os.rmdir(place)


@contextlib.contextmanager
def growing_folder(path: Path, *, begun: bool, patterns: Sequence[str] = (), force: bool = False) -> Iterator[None]:
    """Hold a folder that is written bit by bit, and gone on with by the same command.

    Args:
        path: folder; made where it is missing, and removed again if nothing was written to it.
        begun: whether what is there is of the same command, so that it is gone on with.
        patterns: as for `fnmatch`, of the files that may be written, by their path in the folder; it is marked as ours
            then, and `force` removes these first.
        force: start anew.

    Raises:
        InputError: it holds files and can't be gone on with, or with `force` isn't marked; or another process is
            writing it.
    """
    if not begun or force:
        check_vacant(path, force)
    path = _real(path)
    with claim(path):
        if force and (marker := read_marker(path)) is not None:
            remove_made(path, marker)
        new = not path.exists()
        path.mkdir(exist_ok=True)
        try:
            if patterns:
                write_marker(path, Marker(patterns=tuple(patterns)))
            yield
        finally:
            if new and not _holds_files(path):
                remove_made(path, Marker())
