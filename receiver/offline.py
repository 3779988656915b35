"""Decoding a dataset: all its captures, any methods, resumable, in bounded memory.

Captures are decoded in groups of neighbours in the index, so that a batch of images may come from several of them. A
finished group is one Parquet file in `parts/`; `results.parquet` joins them in the end. A group that was cut off leaves
nothing, and is decoded again. The samplers' draws depend on what a row is keyed by and on nothing else, so that neither
an interruption nor what is decoded beside an image changes it. What fails becomes a row with its reason.

What is held of the whole dataset is a few numbers per capture; rows of the index are read when their group comes.

Ground truth is never opened here; see `receiver.scores`.
"""

from __future__ import annotations

import ast
import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.json
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from PIL import Image

from receiver.bundles import Bundle, load_bundle
from receiver.calibrated import correct_samples
from receiver.decode import BatchDecoder, Variant, batches_of_images, check_prior, check_shapes, method_variant
from receiver.sync import SyncedFrame, stream_frames
from sdr.calibration_profile import CalibrationProfile
from sdr.errors import ConfigError, InputError, OtaError, RecordingError, did_you_mean
from sdr.files import write_bytes
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.recordings.dataset import IndexRow, capture_blocks, iterate_index, layout_of, read_index_rows

#: Called with (description, done, total).
Progress = Callable[[str, float, float], None]

#: Columns of parts and of results.parquet. The key of a row is (recording, start_sample, image, method, seed); `frame`
#: is the number in the header, -1 without one. `picture` is a PNG, null where `status` is "failed"; then `reason` says
#: why, and `image` is empty where the failure is a whole frame's (or, with start_sample -1, a whole recording's).
#: `taps` are real and imaginary parts in turn, in the units of `receiver.measurement.Measurement`.
SCHEMA = pyarrow.schema(
    [
        ("recording", pyarrow.string()),
        ("number", pyarrow.int64()),
        ("frame", pyarrow.int64()),
        ("start_sample", pyarrow.int64()),
        ("image", pyarrow.string()),
        ("method", pyarrow.string()),
        ("seed", pyarrow.int64()),
        ("steps", pyarrow.int64()),
        ("status", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("residual", pyarrow.float64()),
        ("residual_limit", pyarrow.float64()),
        ("expected_psnr_db", pyarrow.float64()),
        ("accepted", pyarrow.bool_()),
        ("snr_db", pyarrow.float64()),
        ("cfo_hz", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("taps", pyarrow.list_(pyarrow.float32())),
        ("picture", pyarrow.binary()),
    ]
)

SETTINGS_NAME = "settings.json"
RESULTS_NAME = "results.parquet"
PARTS_NAME = "parts"


# Choosing captures

_INDEX_SCHEMA = pyarrow.schema(
    [
        (
            item.name,
            {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}[
                getattr(item.type, "__name__", str(item.type))
            ],
        )
        for item in fields(IndexRow)
    ]
)
_INDEX_CHUNK = 4096


def index_tables(folder: Path, columns: Iterable[str]) -> Iterator[tuple[pyarrow.Table, list[int]]]:
    """Some columns of a dataset's index, fields of `sdr.recordings.dataset.IndexRow`, as tables of some thousand rows.

    Each comes with the offsets of its lines in the index. Reading few columns takes a third of the time of all.

    Raises:
        RecordingError: no dataset, or a damaged index.
    """
    schema = pyarrow.schema([_INDEX_SCHEMA.field(name) for name in columns])
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    lines = iterate_index(folder)
    while chunk := list(itertools.islice(lines, _INDEX_CHUNK)):
        text = b"".join(line for _, line in chunk)
        try:
            table = pyarrow.json.read_json(
                io.BytesIO(text), read_options=pyarrow.json.ReadOptions(block_size=2 * len(text)), parse_options=options
            )
        except pyarrow.ArrowException:
            for _, line in chunk:  # says which field of which line
                IndexRow.from_line(line)
            raise
        yield table, [offset for offset, _ in chunk]


_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.In: lambda a, b: a.isin(b),
    ast.NotIn: lambda a, b: ~a.isin(b),
}


def _compares_a_column(node: ast.Compare) -> bool:
    return all(type(op) in _COMPARISONS for op in node.ops) and any(
        isinstance(side, ast.Name) for side in (node.left, *node.comparators)
    )


def where_expression(text: str, columns: Sequence[str]) -> pyarrow.compute.Expression:
    """A filter over the columns, in Python's spelling: comparisons, `in`, `and`, `or`, `not`, parentheses.

    Raises:
        ConfigError: a syntax error, an unknown column, or anything else than the above.

    >>> where_expression("0 <= csnr_db < 5 and not stale", ["csnr_db", "stale"])
    <pyarrow.compute.Expression (((csnr_db >= 0) and (csnr_db < 5)) and invert(stale))>
    """

    def build(node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op, values):
                parts = [build(value) for value in values]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part if isinstance(op, ast.And) else joined | part
                return joined
            case ast.UnaryOp(ast.Not(), operand):
                return ~build(operand)
            case ast.Compare(left, ops, comparators) if _compares_a_column(node):
                sides = [left, *comparators]
                parts = [
                    _COMPARISONS[type(op)](term(a), term(b))
                    for a, op, b in zip(sides[:-1], ops, sides[1:], strict=True)
                ]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part
                return joined
            case ast.Name():
                return term(node)
        raise ConfigError(f"--where {text!r}: '{ast.unparse(node)}' is no comparison of a column; see `ota decode -h`.")

    def term(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id not in columns:
                raise ConfigError(f"--where: there is no column {node.id!r}; {did_you_mean(node.id, columns)}")
            return pyarrow.compute.field(node.id)
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ConfigError(f"--where {text!r}: '{ast.unparse(node)}' is neither a column nor a value.") from None

    try:
        return build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, AttributeError) as error:
        raise ConfigError(f"--where {text!r} can't be read ({error}).") from None


@dataclass(frozen=True, eq=False)
class Selection:
    """Captures of a dataset, in the order of its index; their rows stay on the disk until they are asked for.

    Attributes:
        places: (n,) of each capture in the whole index. numbers: (n,) `IndexRow.number`. offsets: (n,) of the lines.
        looked_at: captures of the whole dataset.
    """

    folder: Path
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    looked_at: int

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, picked: slice | Sequence[int] | NDArray[np.int64] = slice(None)) -> list[IndexRow]:
        """The captures at some positions of the selection, all by default."""
        return read_index_rows(self.folder, self.offsets[picked].tolist())

    def positions(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Where in the selection the captures of these numbers are.

        Raises:
            RecordingError: one is not in it.
        """
        order = np.argsort(self.numbers)
        found = np.searchsorted(self.numbers, numbers, sorter=order)
        positions = order[np.minimum(found, len(order) - 1)]
        lost = [
            number for number, is_one in zip(numbers, self.numbers[positions] == numbers, strict=True) if not is_one
        ]
        if lost:
            raise RecordingError(f"{self.folder} has no capture {lost[0]}; give the dataset that was decoded")
        return positions


def select_captures(folder: Path, where: str = "") -> Selection:
    """The captures that fulfil a filter; see `where_expression`.

    Raises:
        ConfigError: a bad filter. RecordingError: no dataset, or nothing in it is selected.
    """
    chosen = where_expression(where, _INDEX_SCHEMA.names) if where else None
    places, numbers, offsets = array("q"), array("q"), array("q")
    looked_at = 0
    columns = [name for name in _INDEX_SCHEMA.names if name == "number" or re.search(rf"\b{name}\b", where)]
    for table, begins in index_tables(folder, columns):
        mine = pyarrow.table(
            {
                **{name: table[name] for name in table.column_names},
                "_place": pyarrow.array(range(looked_at, looked_at + table.num_rows)),
                "_offset": pyarrow.array(begins),
            }
        )
        looked_at += table.num_rows
        if chosen is not None:
            try:
                mine = mine.filter(chosen)
            except pyarrow.ArrowException as error:
                raise ConfigError(f"--where {where!r} can't be applied ({str(error).splitlines()[0]}).") from None
        for column, kept in (("_place", places), ("number", numbers), ("_offset", offsets)):
            kept.extend(mine[column].to_pylist())
    if not looked_at:
        raise RecordingError(f"dataset {folder} has no complete capture; record some")
    if not places:
        raise RecordingError(f"no capture of {folder} fulfils --where {where!r}; {looked_at} were looked at")
    taken = [np.array(kept, dtype=np.int64) for kept in (places, numbers, offsets)]
    return Selection(folder, taken[0], taken[1], taken[2], looked_at)


# Decoding a group


@dataclass(frozen=True)
class DecodeSettings:
    """What, apart from the samples and the methods, the rows depend on.

    Args:
        bundle: name or folder. steps: reverse steps, each method's own where None. seed: of the samplers.
        group: neighbours in the index that are decoded together. batch_size: images decoded at once.
        device: torch device. calibration: profile of the radios.
    """

    bundle: str = "fashion"
    steps: int | None = None
    seed: int = 0
    group: int = 16
    batch_size: int = 64
    device: str = "cpu"
    calibration: CalibrationProfile | None = None

    def __post_init__(self) -> None:
        if self.seed < 0 or self.group < 1 or self.batch_size < 1:
            raise ConfigError(
                f"seed = {self.seed} must be at least 0, group = {self.group} and batch_size = {self.batch_size} at "
                "least 1."
            )


def frame_generator(recording: str, start_sample: int, variant: Variant, seed: int, device: str) -> torch.Generator:
    """Of what a sampler draws for one frame of a dataset. Settings of one method share it: their draws are paired."""
    key = f"{recording}/{start_sample}/{variant.method}/{seed}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.Generator(device).manual_seed(number)


class Decoder:
    """Holds the models, decodes groups of captures. One per process."""

    def __init__(self, folder: Path, settings: DecodeSettings) -> None:
        self._folder, self._settings = folder, settings
        self._bundle: Bundle = load_bundle(settings.bundle)
        self._decoder = BatchDecoder(self._bundle, settings.device, settings.calibration)

    def decode(self, captures: Sequence[IndexRow], methods: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Every image of the captures with each method, in `SCHEMA`, batch by batch; failures as rows."""
        rows: list[dict[str, Any]] = []
        variants = [method_variant(method, self._settings.steps) for method in methods]
        layouts: dict[str, list[IndexRow]] = {}
        for capture in captures:
            layouts.setdefault(capture.layout_digest, []).append(capture)
        for same in layouts.values():
            try:
                layout = layout_of(self._folder, same[0])
            except OtaError as error:
                rows += [row for capture in same for row in self._failed(capture, variants, str(error))]
                continue
            frames = self._frames(same, layout, variants, rows)
            for batch in batches_of_images(((item, item[1]) for item in frames), self._settings.batch_size):
                rows += self._decode_batch(batch, layout, variants)
                yield pyarrow.Table.from_pylist(rows, SCHEMA)
                rows.clear()
        if rows:
            yield pyarrow.Table.from_pylist(rows, SCHEMA)

    def _failed(
        self,
        capture: IndexRow,
        variants: Iterable[Variant],
        reason: str,
        frame: SyncedFrame | None = None,
        image: str = "",
    ) -> list[dict[str, Any]]:
        number = frame.header.frame_number if frame is not None and frame.header is not None else -1
        return [
            {
                "recording": capture.recording,
                "number": capture.number,
                "frame": number,
                "start_sample": -1 if frame is None else frame.start,
                "image": image,
                "method": variant.label,
                "seed": self._settings.seed,
                "steps": variant.settings.steps,
                "status": "failed",
                "reason": " ".join(reason.split()),
                "snr_db": None if frame is None else frame.snr_db,
                "cfo_hz": None if frame is None else frame.cfo_hz,
            }
            for variant in variants
        ]

    def _frames(
        self,
        captures: Sequence[IndexRow],
        layout: FrameLayout,
        variants: Sequence[Variant],
        failed: list[dict[str, Any]],
    ) -> Iterator[tuple[IndexRow, SyncedFrame]]:
        """Frames with headers, capture by capture."""
        for capture in captures:
            found = 0
            try:
                if abs(capture.rate_sps - layout.rate_sps) > 1e-3 * layout.rate_sps:
                    raise RecordingError(
                        f"the capture has {capture.rate_sps:g} samples per second, layout {layout.name} needs "
                        f"{layout.rate_sps:g}; import it with resampling"
                    )
                for frame in stream_frames(self._blocks(capture), layout, center_hz=capture.center_hz):
                    found += 1
                    if frame.header is None:
                        failed += self._failed(capture, variants, "the header could not be read", frame)
                    elif frame.header.codec_digest != self._bundle.codec.digest[:8]:
                        reason = f"encoded by codec {frame.header.codec_digest}, not by bundle {self._bundle.name}"
                        failed += self._failed(capture, variants, reason, frame)
                    elif reason := self._misfit(frame.header):
                        failed += self._failed(capture, variants, reason, frame)
                    else:
                        yield capture, frame
                if not found:
                    failed += self._failed(capture, variants, "no frame was found")
            except OtaError as error:
                failed += self._failed(capture, variants, str(error))

    def _misfit(self, header: FrameHeader) -> str:
        """Why images that a header tells of can't be the bundle's; empty where they can."""
        try:
            check_shapes([header], self._bundle)
        except OtaError as error:
            return str(error)
        return ""

    def _blocks(self, capture: IndexRow) -> Iterator[NDArray[np.complex64]]:
        profile = self._settings.calibration
        if profile is not None:
            profile.check(capture.settings)
        for block in capture_blocks(self._folder, capture):
            yield block if profile is None else correct_samples(block, profile.values)

    def _decode_batch(
        self, batch: Sequence[tuple[IndexRow, SyncedFrame]], layout: FrameLayout, variants: Sequence[Variant]
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        options = self._settings
        try:
            measured = self._decoder.measure([frame for _, frame in batch], layout)
        except InputError as error:
            return [row for capture, frame in batch for row in self._failed(capture, variants, str(error), frame)]
        frame_of_image = measured.measurement.frame_of_image.tolist()
        whole = {
            (batch[place][0].recording, image)
            for place, image in zip(frame_of_image, measured.measurement.image_ids, strict=True)
        }
        for variant in variants:
            if layout.pilot_symbols == 0 and not variant.blind:
                reason = f"layout {layout.name} has no pilots, which {variant.label} needs"
                rows += [row for capture, frame in batch for row in self._failed(capture, [variant], reason, frame)]
                continue
            generators = [
                frame_generator(capture.recording, frame.start, variant, options.seed, options.device)
                for capture, frame in batch
            ]
            images = self._decoder.decode(measured, variant, generators)
            for place, image in zip(frame_of_image, images, strict=True):
                capture, frame = batch[place]
                rows.append(
                    {
                        "recording": capture.recording,
                        "number": capture.number,
                        "frame": image.frame_number,
                        "start_sample": image.start_sample,
                        "image": image.id,
                        "method": image.method,
                        "seed": options.seed,
                        "steps": variant.settings.steps,
                        "status": "ok",
                        "reason": "",
                        "residual": image.residual,
                        "residual_limit": image.residual_limit,
                        "expected_psnr_db": image.expected_psnr_db,
                        "accepted": image.accepted,
                        "snr_db": frame.snr_db,
                        "cfo_hz": frame.cfo_hz,
                        "seconds": image.seconds,
                        "taps": image.taps.view(np.float32),
                        "picture": to_png(image.image),
                    }
                )
            told = set(whole)
            for capture, frame in batch:
                for lost in frame.header.image_ids if frame.header is not None else ():
                    if (capture.recording, lost) not in told:
                        rows += self._failed(capture, [variant], "not all of its frames were found", frame, lost)
                        told.add((capture.recording, lost))
        return rows


def to_png(picture: NDArray[np.float32]) -> bytes:
    """(C, H, W) in [0, 1] as PNG, 8 bits a channel."""
    pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def from_png(data: bytes) -> NDArray[np.float32]:
    """The inverse: (C, H, W) float32."""
    pixels = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


# Decoding a dataset


@dataclass(frozen=True)
class Task:
    """One group to decode."""

    group: int
    captures: tuple[IndexRow, ...]
    methods: tuple[str, ...]

    @property
    def part_name(self) -> str:
        """Of its Parquet file: the same captures and methods always go to the same one."""
        told = json.dumps([[capture.recording for capture in self.captures], self.methods])
        return f"{self.group:06d}-{zlib.crc32(told.encode()):08x}.parquet"


class Tasks:
    """What is left to do, in the order of the index; each task is made when it is asked for.

    Args:
        captures: the selection.
        missing: (methods, captures) which of them lack rows.
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


#: Runs tasks in any order, gives each with its tables.
Runner = Callable[[Path, DecodeSettings, Tasks], Iterator[tuple[Task, Iterable[pyarrow.Table]]]]


def run_here(folder: Path, settings: DecodeSettings, tasks: Tasks) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
    """Decode in this process, a group after the other."""
    decoder = Decoder(folder, settings)
    for task in tasks:
        yield task, decoder.decode(task.captures, task.methods)


def decode_dataset(
    folder: Path,
    out: Path,
    methods: Sequence[str],
    settings: DecodeSettings | None = None,
    *,
    where: str = "",
    run: Runner = run_here,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Decode what `out` lacks of the selected captures, then write results.parquet.

    Args:
        methods: see `receiver.decode.method_variant`.

    Returns:
        counts: `captures` selected, `skipped` and `decoded` (captures times methods), `rows`, `failed` rows.

    Raises:
        ConfigError: a bad method or filter, or `out` holds rows of other settings, models or another dataset.
        RecordingError: no dataset, nothing selected, or another process writes into `out`.
    """
    settings = settings or DecodeSettings()
    variants = [method_variant(method, settings.steps) for method in methods]
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError(f"Found methods {', '.join(methods) or 'none'}; give each wanted one once with --method.")
    check_prior(variants, load_bundle(settings.bundle))
    report = progress or (lambda description, done, total: None)
    captures = select_captures(folder, where)
    parts = out / PARTS_NAME
    parts.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        _check_settings(out / SETTINGS_NAME, folder, settings)
        for partial in parts.glob(".*.part"):
            partial.unlink()
        missing = ~_finished(parts, settings.seed, methods, captures.numbers)
        tasks = Tasks(captures, methods, missing, settings.group)
        total = missing.size
        count = skipped = total - int(missing.sum())
        report("decode", count, total)
        for task, tables in run(folder, settings, tasks) if len(tasks) else ():
            _write_part(tables, parts / task.part_name)
            count += len(task.captures) * len(task.methods)
            report("decode", count, total)
        rows, failed = _join(parts, out / RESULTS_NAME)
    return {
        "captures": len(captures),
        "skipped": skipped,
        "decoded": total - skipped,
        "rows": rows,
        "failed": failed,
    }


def part_files(parts: Path) -> list[tuple[int, Path]]:
    """The files of a folder of parts, each with its group, in order."""
    return sorted((int(path.name.partition("-")[0]), path) for path in parts.glob("*.parquet"))


def _finished(parts: Path, seed: int, methods: Sequence[str], numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(methods, captures) which captures, by number, have rows of which method."""
    done: list[list[NDArray[np.int64]]] = [[] for _ in methods]
    for _, path in part_files(parts):
        try:
            table = pyarrow.parquet.read_table(path, columns=["number", "method", "seed"])
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RecordingError(
                f"{path} is damaged ({reason}); remove it, and what it held is decoded again"
            ) from None
        theirs = table.group_by(table.column_names).aggregate([])
        theirs = theirs.filter(pyarrow.compute.field("seed") == seed)
        for mine, method in zip(done, methods, strict=True):
            mine.append(theirs.filter(pyarrow.compute.field("method") == method)["number"].to_numpy())
    return np.stack([np.isin(numbers, np.concatenate([*mine, numbers[:0]])) for mine in done])


def _write_part(tables: Iterable[pyarrow.Table], path: Path) -> None:
    """Write tables as they come; the file takes its name when the last one is on the disk."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        with pyarrow.parquet.ParquetWriter(file, SCHEMA) as writer:
            for table in tables:
                writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _join(parts: Path, target: Path) -> tuple[int, int]:
    """Write all parts, in the order of their groups, into one file; returns rows and failed rows."""
    rows = failed = 0
    partial = target.with_name(f".{target.name}.part")
    with pyarrow.parquet.ParquetWriter(partial, SCHEMA) as writer:
        for _, path in part_files(parts):
            file = pyarrow.parquet.ParquetFile(path)
            for index in range(file.num_row_groups):
                table = file.read_row_group(index)
                writer.write_table(table)
                rows += table.num_rows
                failed += table.filter(pyarrow.compute.field("status") == "failed").num_rows
    os.replace(partial, target)
    return rows, failed


@contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    with (out / ".lock").open("a+b") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecordingError(f"another process decodes into {out}; wait for it, or name another --out") from None
        yield


def _check_settings(path: Path, folder: Path, settings: DecodeSettings) -> None:
    """Keep rows of one dataset, one set of models and one number of steps together."""
    # Another seed has rows of its own; another device gives the same rows up to rounding.
    told = {item.name: getattr(settings, item.name) for item in fields(settings)}
    told |= {"calibration": None if settings.calibration is None else settings.calibration.digest}
    first = next(line for _, line in iterate_index(folder))
    fingerprint = {
        **{key: value for key, value in told.items() if key not in ("seed", "device")},
        "bundle": load_bundle(settings.bundle).digest,
        "first_capture": IndexRow.from_line(first).data_sha512,
    }
    text = json.dumps(fingerprint, indent=1, sort_keys=True)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path.parent} holds rows of another dataset, other models, steps, calibration, group or batch "
                "size. Name another --out."
            )
        return
    write_bytes(path, text.encode())
