"""Break files and disks on purpose, and count what is not told in one line.

Fuzzing reads mutated files of every reader in `lab.benchmarks.readers`. A full disk fails the n-th write of a command
line, for every n; nothing that it leaves under a final name may be incomplete.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import pathlib
import random
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet
from safetensors import SafetensorError, safe_open

from lab.benchmarks.mutations import mutated
from lab.benchmarks.readers import READERS, Reader
from lab.benchmarks.writing_verbs import Run, filled
from receiver.images.files import open_image
from sdr.arrays import load_arrays
from sdr.errors import OtaError
from sdr.files import is_partial
from sdr.outputs import MARKER_NAME, read_marker
from sdr.progress import Progress, silent
from sdr.recordings.archive import META_SUFFIX
from sdr.recordings.dataset import is_dataset, read_index
from sdr.recordings.reading import read_recording
from sdr.recordings.verify import verify_dataset

#: Of the files of a slow reader one in so many is read.
_SLOW = 20


@dataclass(frozen=True)
class FuzzRow:
    """What came of mutated files of one reader.

    Attributes:
        reader: its name.
        files: mutated.
        read: of them were still good.
        refused: in one line.
        escaped: the first exceptions of other types, "TYPE: message" each.
        slowest_s: longest that one took.
    """

    reader: str
    files: int
    read: int
    refused: int
    escaped: tuple[str, ...]
    slowest_s: float


def fuzz(
    count: int, seed: int = 0, names: Sequence[str] = tuple(READERS), progress: Progress = silent
) -> list[FuzzRow]:
    """Read `count` mutated files, shared out among readers.

    Args:
        count: of files.
        seed: of the mutations.
        names: of the readers.
        progress: called as it goes on.
    """
    shares = {name: 1.0 / _SLOW if READERS[name].slow else 1.0 for name in names}
    rows = []
    for name in names:
        progress("fuzz", sum(row.files for row in rows), count)
        files = max(1, round(count * shares[name] / sum(shares.values())))
        rows.append(_fuzz_reader(name, READERS[name], files, random.Random(f"{seed} {name}")))
    return rows


def _fuzz_reader(name: str, reader: Reader, files: int, rng: random.Random) -> FuzzRow:
    read = refused = 0
    escaped: dict[str, str] = {}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = reader.prepare(Path(folder))
        reader.read(path)
        content = path.read_bytes()
        for _ in range(files):
            path.write_bytes(mutated(content, rng))
            began = time.perf_counter()
            try:
                reader.read(path)
                read += 1
            except OtaError as error:
                refused += 1
                if "\n" in str(error):
                    escaped.setdefault("several lines", str(error)[:200])
            except Exception as error:  # what fuzzing looks for
                escaped.setdefault(type(error).__name__, str(error)[:200])
            slowest = max(slowest, time.perf_counter() - began)
    told = tuple(f"{kind}: {text}" for kind, text in escaped.items())
    return FuzzRow(name, files, read, refused, told, slowest)


@dataclass(frozen=True)
class DiskRow:
    """What came of a disk that was full at the n-th write of one command line, for all n.

    Attributes:
        verb: of the command line.
        writes: that it makes; so many times it was run.
        tracebacks: runs that ended in anything else than one line and status 2.
        nameless: runs whose line named no file.
        damaged: names of results that were there afterwards and are not complete.
    """

    verb: str
    writes: int
    tracebacks: int
    nameless: int
    damaged: tuple[str, ...]


class _FullFile:
    """A file whose disk is full at one write."""

    def __init__(self, file: Any, disk: _Disk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _FullFile:
        self._file.__enter__()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._file.__exit__(*reason)

    def write(self, content: Any) -> int:
        self._disk.count()
        return self._file.write(content)


class _Disk:
    """Counts writes, and fails one of them."""

    def __init__(self, failing: int) -> None:
        self.writes, self.failing = 0, failing

    def count(self) -> None:
        self.writes += 1
        if self.writes == self.failing:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_disk(failing: int) -> Iterator[_Disk]:
    """Fail the n-th write to any file that this process opens meanwhile; the counter tells how many there were."""
    disk, opened, opened_path = _Disk(failing), builtins.open, pathlib.Path.open

    def wrapped(file: Any, mode: str) -> Any:
        return _FullFile(file, disk) if any(letter in mode for letter in "wa+x") else file

    def fail_open(name: Any, mode: str = "r", *more: Any, **options: Any) -> Any:
        on_disk = not isinstance(name, int) and name != os.devnull  # a number is that of a pipe
        return wrapped(opened(name, mode, *more, **options), mode if on_disk else "r")

    def fail_path(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        return wrapped(opened_path(path, mode, *more, **options), mode)

    builtins.open, pathlib.Path.open = fail_open, fail_path  # type: ignore[assignment]
    try:
        yield disk
    finally:
        builtins.open, pathlib.Path.open = opened, opened_path  # type: ignore[assignment]


def fill_disk(
    run: Run, commands: Mapping[str, str], inputs: Path, out: Path, progress: Progress = silent
) -> list[DiskRow]:
    """Run command lines on a disk that is full at their n-th write, for every n until one ends well.

    Args:
        run: runs a command line and returns its exit status.
        commands: by verb, see `lab.benchmarks.writing_verbs.WRITING_VERBS`.
        inputs: folder that they read.
        out: folder that they write to; emptied before each run.
        progress: called as it goes on.
    """
    rows = []
    for index, (verb, command) in enumerate(commands.items()):
        progress("full disk", index, len(commands))
        tracebacks = nameless = writes = 0
        damaged: list[str] = []
        while True:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            told = io.StringIO()
            with redirect_stderr(told), redirect_stdout(io.StringIO()), full_disk(writes + 1) as disk:
                status = run(filled(command, inputs, out))
            damaged += [f"{verb}, write {writes + 1}: {name}" for name in incomplete_results(out)]
            if disk.writes <= writes:  # the disk held all that there was to write
                break
            writes += 1
            lines = [line for line in told.getvalue().splitlines() if line.startswith("error: ")]
            tracebacks += status != 2 or len(lines) != 1 or "Traceback" in told.getvalue()
            nameless += not any(str(out) in line or out.name in line for line in lines)
        rows.append(DiskRow(verb, writes, tracebacks, nameless, tuple(damaged)))
    return rows


def incomplete_results(folder: Path) -> list[str]:
    """Return the names of files under their final names that are not whole; leftovers that say so are none."""
    wrong = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        try:
            _read_result(path)
        except (OtaError, ValueError, OSError, pyarrow.ArrowException, SafetensorError) as error:
            wrong.append(f"{path.relative_to(folder)} ({str(error)[:100]})")
    for path in folder.rglob(MARKER_NAME):
        if not is_partial(path.parent) and (marker := read_marker(path.parent)) is not None:
            listed = (path.parent / name for name in sorted(marker.files))
            wrong += [f"{file.relative_to(folder)} (missing)" for file in listed if not file.exists()]
    for index in folder.rglob("index.jsonl"):
        if is_dataset(index.parent) and read_index(index.parent):
            # A collection that is missing is told and written anew; a capture of the index must be whole.
            wrong += [
                line for line in verify_dataset(index.parent) if "collection" not in line and "no line" not in line
            ]
    return wrong


def _read_result(path: Path) -> None:
    """Read a result as its suffix says."""
    if path.suffix in (".json", ".sigmf-collection"):
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".parquet":
        pyarrow.parquet.read_table(path)
    elif path.suffix == ".npz":
        load_arrays(path)
    elif path.suffix == ".png":
        with open_image(path, ("PNG",)) as image:
            image.load()
    elif path.suffix == ".toml":
        tomllib.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".safetensors":
        with safe_open(path, "numpy") as tensors:
            tensors.keys()
    elif path.suffix == ".html" and not path.read_text(encoding="utf-8").rstrip().endswith("</html>"):
        raise ValueError("cut")
    elif path.name.endswith(META_SUFFIX):
        read_recording(path)
