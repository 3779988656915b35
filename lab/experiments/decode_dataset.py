"""Decode a dataset: all its captures by any methods, resumable, in bounded memory.

Captures are decoded in groups of neighbours in the index, so that a batch of images may come from several of them. A
finished group is one Parquet file in `parts/`; `results.parquet` joins them in the end. A group that was cut off leaves
nothing, and is decoded again. The samplers' draws depend on what a row is keyed by and on nothing else, so that neither
an interruption nor what is decoded beside an image changes it. What fails becomes a row with its reason.

What is held of the whole dataset is a few numbers per capture; rows of the index are read when their group comes.
Parts and results have the columns of `lab.experiments.group_decoder.DatasetRow`.

Ground truth is never opened here; see `lab.experiments.scores`.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from numpy.typing import NDArray

from lab.experiments.group_decoder import SCHEMA, DatasetSettings, Decoder
from lab.experiments.selection import Selection, select_captures
from receiver.bundles.bundle import load_bundle
from receiver.fitting import check_models
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError, RecordingError
from sdr.files import replacing, write_text
from sdr.progress import Progress, silent
from sdr.recordings.antennas import check_chosen
from sdr.recordings.dataset import IndexRow, iterate_index

SETTINGS_NAME = "settings.json"
RESULTS_NAME = "results.parquet"
PARTS_NAME = "parts"


@dataclass(frozen=True)
class Task:
    """One group to decode.

    Attributes:
        group: its number.
        captures: of the group, those that lack rows.
        methods: that they lack rows of.
    """

    group: int
    captures: tuple[IndexRow, ...]
    methods: tuple[str, ...]

    @property
    def part_name(self) -> str:
        """Name of its Parquet file: the same captures and methods always go to the same one."""
        content = json.dumps([[capture.recording for capture in self.captures], self.methods])
        return f"{self.group:06d}-{zlib.crc32(content.encode()):08x}.parquet"


class Tasks:
    """What is left to do, in the order of the index; each task is made when it is asked for.

    Args:
        captures: the selection.
        methods: to decode by.
        missing: (methods, captures) which of them lack rows.
        group: neighbours in the index that are decoded together.
    """

    def __init__(self, captures: Selection, methods: Sequence[str], missing: NDArray[np.bool_], group: int) -> None:
        self._captures, self._methods, self._missing = captures, tuple(methods), missing
        # Captures of a group that lack the same methods go together.
        lacks = (1 << np.arange(len(methods))) @ missing
        wanted = np.flatnonzero(lacks)
        keys = np.stack([captures.places[wanted] // group, lacks[wanted]])
        order = np.lexsort(keys[::-1])
        self._positions, keys = wanted[order], keys[:, order]
        cuts = np.flatnonzero((np.diff(keys) != 0).any(axis=0)) + 1
        self._begins = np.concatenate([[0], cuts, [wanted.size]]) if wanted.size else np.zeros(1, dtype=np.int64)
        self._groups = keys[0]

    def __len__(self) -> int:
        return len(self._begins) - 1

    def __iter__(self) -> Iterator[Task]:
        for first, last in itertools.pairwise(self._begins.tolist()):
            positions = self._positions[first:last]
            methods = itertools.compress(self._methods, self._missing[:, positions[0]])
            yield Task(int(self._groups[first]), tuple(self._captures.rows(positions)), tuple(methods))


#: Decodes tasks in any order and gives each with its tables.
Runner = Callable[[Path, DatasetSettings, Tasks], Iterator[tuple[Task, Iterable[pyarrow.Table]]]]


def run_here(folder: Path, settings: DatasetSettings, tasks: Tasks) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
    """Decode in this process, a group after the other."""
    decoder = Decoder(folder, settings)
    for task in tasks:
        yield task, decoder.decode(task.captures, task.methods)


@dataclass(frozen=True)
class DecodeCounts:
    """What decoding a dataset came to.

    Attributes:
        captures: selected.
        skipped: captures times methods that had rows already.
        decoded: captures times methods that were decoded now.
        rows: in results.parquet.
        failed: of these, rows of what could not be decoded.
    """

    captures: int
    skipped: int
    decoded: int
    rows: int
    failed: int


def decode_dataset(
    folder: Path,
    out: Path,
    methods: Sequence[str],
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  # frozen
    *,
    where: str = "",
    run: Runner = run_here,
    progress: Progress = silent,
) -> DecodeCounts:
    """Decode what `out` lacks of the selected captures, then write results.parquet.

    Args:
        folder: the dataset.
        out: folder of the results; made where it is missing.
        methods: see `receiver.samplers.variants.method_variant`.
        settings: of the decoding.
        where: filter of the captures, see `lab.experiments.selection.where_expression`; empty: all.
        run: who decodes; see `run_here` and `lab.experiments.cluster.run_on`.
        progress: called with the captures times methods that are done.

    Raises:
        ConfigError: a bad method or filter, antennas that a capture does not have, or `out` holds rows of other
            settings, models or another dataset.
        RecordingError: no dataset, nothing selected, or another process writes into `out`.
    """
    variants = [method_variant(method, settings.decoding.steps) for method in methods]
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError(f"Found methods {', '.join(methods) or 'none'}; give each wanted one once with --method.")
    check_models(variants, load_bundle(settings.bundle, prior=settings.prior))
    captures = select_captures(folder, where)
    _check_antennas(captures, settings.use_antennas)
    parts = out / PARTS_NAME
    parts.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        _check_settings(out / SETTINGS_NAME, folder, settings)
        for leftover in (*out.glob(".*.part"), *parts.glob(".*.part")):
            leftover.unlink()
        missing = ~_finished(parts, settings.decoding.seed, methods, captures.numbers)
        tasks = Tasks(captures, methods, missing, settings.group)
        total = missing.size
        count = skipped = total - int(missing.sum())
        progress("decode", count, total)
        for task, tables in run(folder, settings, tasks) if len(tasks) else ():
            _write_part(tables, parts / task.part_name)
            count += len(task.captures) * len(task.methods)
            progress("decode", count, total)
        rows, failed = _join(parts, out / RESULTS_NAME)
    return DecodeCounts(len(captures), skipped, total - skipped, rows, failed)


def _check_antennas(captures: Selection, chosen: Sequence[int]) -> None:
    """Refuse a choice of antennas that not all captures have.

    Raises:
        ConfigError: names the first capture that lacks one.
    """
    lacking = np.flatnonzero(captures.antennas <= max(chosen, default=-1))
    if lacking.size:
        (row,) = captures.rows(lacking[:1])
        others = (
            "" if lacking.size == len(captures) else f', or leave such captures out: --where "antennas > {max(chosen)}"'
        )
        check_chosen(chosen, row.antennas, f"capture {row.recording}", others)


def part_files(parts: Path) -> list[tuple[int, Path]]:
    """Return the files of a folder of parts, each with the number of its group, in order."""
    return sorted((int(path.name.partition("-")[0]), path) for path in parts.glob("*.parquet"))


def _finished(parts: Path, seed: int, methods: Sequence[str], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which captures, by number, have rows of which method: (methods, captures)."""
    done: list[list[NDArray[np.int64]]] = [[] for _ in methods]
    for _, path in part_files(parts):
        try:
            table = pyarrow.parquet.read_table(path, columns=["number", "method", "seed"])
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RecordingError(
                f"{path} is damaged ({reason}); remove it, and what it held is decoded again"
            ) from None
        present = table.group_by(table.column_names).aggregate([])
        present = present.filter(pyarrow.compute.field("seed") == seed)
        for mine, method in zip(done, methods, strict=True):
            mine.append(present.filter(pyarrow.compute.field("method") == method)["number"].to_numpy())
    return np.stack([np.isin(numbers, np.concatenate([*mine, numbers[:0]])) for mine in done])


def _write_part(tables: Iterable[pyarrow.Table], path: Path) -> None:
    """Write tables as they come; the file takes its name when the last one is on the disk."""
    with replacing(path) as file, pyarrow.parquet.ParquetWriter(file, SCHEMA) as writer:
        for table in tables:
            writer.write_table(table)


def _join(parts: Path, target: Path) -> tuple[int, int]:
    """Write all parts, in the order of their groups, into one file; return the numbers of rows and of failed rows."""
    rows = failed = 0
    with replacing(target) as merged, pyarrow.parquet.ParquetWriter(merged, SCHEMA) as writer:
        for _, path in part_files(parts):
            file = pyarrow.parquet.ParquetFile(path)
            for index in range(file.num_row_groups):
                table = _in_schema(file.read_row_group(index))
                writer.write_table(table)
                rows += table.num_rows
                failed += table.filter(pyarrow.compute.field("status") == "failed").num_rows
    return rows, failed


def _in_schema(table: pyarrow.Table) -> pyarrow.Table:
    """Return a table with all columns, empty where an older version did not have them."""
    for field in SCHEMA:
        if field.name not in table.column_names:
            table = table.append_column(field, pyarrow.nulls(table.num_rows, field.type))
    return table.select(SCHEMA.names)


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    with (out / ".lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecordingError(f"another process decodes into {out}; wait for it, or name another --out") from None
        yield


def _check_settings(path: Path, folder: Path, settings: DatasetSettings) -> None:
    """Keep rows of one dataset, one set of models and one number of steps together.

    Another seed has rows of its own; another device gives the same rows up to rounding.
    """
    decoding = settings.decoding
    first = next(line for _, line in iterate_index(folder))
    fingerprint = {
        "steps": decoding.steps,
        "batch_size": decoding.batch_size,
        "draws": decoding.draws,
        "spread": decoding.spread,
        "decay": decoding.decay,
        "calibration": None if decoding.calibration is None else decoding.calibration.digest,
        "group": settings.group,
        "bundle": load_bundle(settings.bundle, prior=settings.prior).digest,
        "first_capture": IndexRow.from_line(first).data_sha512,
    }
    # Named where they are not the default, so that folders of a time before these options are gone on with.
    searched = {"max_cfo_hz": decoding.max_cfo_hz, "swap_iq": decoding.swap_iq}
    usual = DatasetSettings().decoding
    fingerprint |= {key: value for key, value in searched.items() if value != getattr(usual, key)}
    if settings.use_antennas:
        fingerprint["use_antennas"] = settings.use_antennas
    text = json.dumps(fingerprint, indent=1, sort_keys=True)
    if path.is_file():
        if path.read_bytes() != text.encode():
            raise ConfigError(
                f"{path.parent} holds rows of another dataset, other models, antennas, steps, calibration, group or "
                "batch size. Name another --out."
            )
        return
    write_text(path, text)
