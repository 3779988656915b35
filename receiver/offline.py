"""Decoding a dataset: all its captures, any methods, resumable, in bounded memory.

Captures are decoded in groups of neighbours in the index, so that a batch of images may come from several of them. A
finished group is one Parquet file in `parts/`; `results.parquet` joins them in the end. A group that was cut off leaves
nothing, and is decoded again, with the same draws. What fails becomes a row with its reason.

Ground truth is never opened here; see `receiver.scores`.
"""

from __future__ import annotations

import ast
import fcntl
import io
import json
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
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

from receiver.bundles import Bundle, load_bundle, write_bytes
from receiver.codebook import load_codebook
from receiver.decode import (
    channel_prior,
    check_prior,
    check_shapes,
    estimate_channels,
    fits_batch,
    method_settings,
    residual_limit,
    sized_settings,
)
from receiver.measurement import Measurement
from receiver.samplers import METHODS, Channel, sample
from receiver.samplers.blind import ChannelPrior
from receiver.sync import SyncedFrame, stream_frames
from sdr.dataset import IndexRow, capture_blocks, index_lines, layout_of
from sdr.errors import ConfigError, InputError, OtaError, RecordingError, did_you_mean
from sdr.layout import FrameLayout

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


# Choosing captures


def index_table(folder: Path) -> pyarrow.Table:
    """The index of a dataset as a table, a column per field of `sdr.dataset.IndexRow`.

    Raises:
        RecordingError: no dataset, a damaged index, or an empty one.
    """
    return _as_table(folder, index_lines(folder))


def _as_table(folder: Path, lines: Sequence[bytes]) -> pyarrow.Table:
    if not lines:
        raise RecordingError(f"dataset {folder} has no complete capture; record some")
    options = pyarrow.json.ReadOptions(block_size=max(1 << 20, 2 * max(map(len, lines))))
    return pyarrow.json.read_json(io.BytesIO(b"".join(lines)), read_options=options).drop_columns(["check"])


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


def select_captures(folder: Path, where: str = "") -> list[tuple[int, IndexRow]]:
    """Captures by number, each with its group's basis: its place in the whole index, whatever is selected.

    Raises:
        ConfigError: a bad filter. RecordingError: no dataset, or nothing in it is selected.
    """
    lines = index_lines(folder)
    table = _as_table(folder, lines)
    table = table.append_column("place", pyarrow.array(range(table.num_rows)))
    chosen = table
    if where:
        try:
            chosen = table.filter(where_expression(where, table.column_names))
        except pyarrow.ArrowException as error:
            raise ConfigError(f"--where {where!r} can't be applied ({str(error).splitlines()[0]}).") from None
    if not chosen.num_rows:
        raise RecordingError(f"no capture of {folder} fulfils --where {where!r}; {table.num_rows} were looked at")
    return [(place, IndexRow.from_line(lines[place])) for place in chosen["place"].to_pylist()]


# Decoding a group


@dataclass(frozen=True)
class DecodeSettings:
    """What, apart from the samples, the rows depend on.

    Args:
        bundle: name or folder. steps: reverse steps, each method's own where None. seed: of the samplers.
        group: neighbours in the index that are decoded together. batch_size: images decoded at once.
        device: torch device.
    """

    bundle: str = "fashion"
    steps: int | None = None
    seed: int = 0
    group: int = 16
    batch_size: int = 64
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.seed < 0 or self.group < 1 or self.batch_size < 1:
            raise ConfigError(
                f"seed = {self.seed} must be at least 0, group = {self.group} and batch_size = {self.batch_size} at "
                "least 1."
            )


class Decoder:
    """Holds the models, decodes groups of captures. One per process."""

    def __init__(self, folder: Path, settings: DecodeSettings) -> None:
        self._folder, self._settings = folder, settings
        self._bundle: Bundle = load_bundle(settings.bundle).to(settings.device)
        self._codebook = load_codebook(self._bundle.path, self._bundle.takes, settings.device)

    def decode(self, group: int, captures: Sequence[IndexRow], methods: Sequence[str]) -> pyarrow.Table:
        """Every image of the captures with each method, in `SCHEMA`; failures as rows."""
        rows: list[dict[str, Any]] = []
        layouts: dict[str, list[IndexRow]] = {}
        for capture in captures:
            layouts.setdefault(capture.layout_digest, []).append(capture)
        for same in layouts.values():
            try:
                layout = layout_of(self._folder, same[0])
            except OtaError as error:
                rows += [row for capture in same for row in self._failed(capture, methods, str(error))]
                continue
            for index, batch in enumerate(self._batches(same, layout, methods, rows)):
                for method in methods:
                    rows += self._decode_batch(batch, layout, method, f"{group}/{layout.digest}/{index}")
        return pyarrow.Table.from_pylist(rows, SCHEMA)

    def _failed(
        self, capture: IndexRow, methods: Iterable[str], reason: str, frame: SyncedFrame | None = None, image: str = ""
    ) -> list[dict[str, Any]]:
        number = frame.header.frame_number if frame is not None and frame.header is not None else -1
        return [
            {
                "recording": capture.recording,
                "number": capture.number,
                "frame": number,
                "start_sample": -1 if frame is None else frame.start,
                "image": image,
                "method": method,
                "seed": self._settings.seed,
                "steps": method_settings(method, self._settings.steps).steps,
                "status": "failed",
                "reason": " ".join(reason.split()),
                "snr_db": None if frame is None else frame.snr_db,
                "cfo_hz": None if frame is None else frame.cfo_hz,
            }
            for method in methods
        ]

    def _batches(
        self, captures: Sequence[IndexRow], layout: FrameLayout, methods: Sequence[str], failed: list[dict[str, Any]]
    ) -> Iterator[list[tuple[IndexRow, SyncedFrame]]]:
        """Frames with headers, in batches of about `batch_size` images, cut where a new image begins."""
        batch: list[tuple[IndexRow, SyncedFrame]] = []
        images, shape = 0, None
        for capture in captures:
            found = 0
            try:
                if abs(capture.rate_sps - layout.rate_sps) > 1e-3 * layout.rate_sps:
                    raise RecordingError(
                        f"the capture has {capture.rate_sps:g} samples per second, layout {layout.name} needs "
                        f"{layout.rate_sps:g}; import it with resampling"
                    )
                blocks = capture_blocks(self._folder, capture)
                for frame in stream_frames(blocks, layout, center_hz=capture.center_hz):
                    found += 1
                    if frame.header is None:
                        failed += self._failed(capture, methods, "the header could not be read", frame)
                        continue
                    if frame.header.codec_digest != self._bundle.codec.digest[:8]:
                        reason = f"encoded by codec {frame.header.codec_digest}, not by bundle {self._bundle.name}"
                        failed += self._failed(capture, methods, reason, frame)
                        continue
                    try:
                        check_shapes([frame.header], self._bundle)
                    except OtaError as error:
                        failed += self._failed(capture, methods, str(error), frame)
                        continue
                    if not fits_batch(frame.header, images, shape, self._settings.batch_size):
                        yield batch
                        batch, images = [], 0
                    batch.append((capture, frame))
                    shape = frame.header.image_shape
                    images += len(frame.header.image_ids) if frame.header.symbol_offset == 0 else 0
                if not found:
                    failed += self._failed(capture, methods, "no frame was found")
            except OtaError as error:
                failed += self._failed(capture, methods, str(error))
        if batch:
            yield batch

    def _decode_batch(
        self, batch: Sequence[tuple[IndexRow, SyncedFrame]], layout: FrameLayout, method: str, name: str
    ) -> list[dict[str, Any]]:
        frames = [frame for _, frame in batch]
        options = self._settings
        if layout.pilot_symbols == 0 and not METHODS[method].blind:
            reason = f"layout {layout.name} has no pilots, which {method} needs"
            return [row for capture, frame in batch for row in self._failed(capture, [method], reason, frame)]
        try:
            measurement = Measurement.from_frames(frames, layout).to(options.device)
        except InputError as error:
            return [row for capture, frame in batch for row in self._failed(capture, [method], str(error), frame)]
        models = self._bundle.at(measurement.image_shape)
        prior = channel_prior(layout)
        prior = ChannelPrior(prior.power.to(options.device))
        h = None
        if not METHODS[method].blind:
            taps = estimate_channels(measurement, prior).taps.astype(np.complex64)
            h = torch.from_numpy(taps).to(options.device)
        chosen = method_settings(method, options.steps)
        # The draws depend on what is decoded, not on when: a repeated group repeats them.
        seed = (options.seed << 32) + zlib.crc32(f"{name}/{method}".encode())
        began = time.perf_counter()
        posterior = sample(
            method,
            measurement,
            codec=models.codec,
            denoiser=models.prior,
            channel=Channel(prior, h),
            encoder_csnr_db=measurement.csnr_db,
            generator=torch.Generator(options.device).manual_seed(seed),
            settings=sized_settings(chosen, measurement.image_shape),
            codebook=self._codebook if METHODS[method].blind else None,
        )
        seconds = (time.perf_counter() - began) / measurement.num_images
        with torch.no_grad():
            residual = measurement.residual(models.codec.encode(posterior.x, measurement.csnr_db), posterior.h).cpu()
        taps = posterior.h.cpu().numpy().astype(np.complex64).view(np.float32)
        pictures = posterior.x.cpu().numpy()
        noise_var = measurement.noise_var.tolist()
        rows = []
        for index, place in enumerate(measurement.frame_of_image.tolist()):
            capture, frame = batch[place]
            assert frame.header is not None
            rows.append(
                {
                    "recording": capture.recording,
                    "number": capture.number,
                    "frame": frame.header.frame_number,
                    "start_sample": frame.start,
                    "image": measurement.image_ids[index],
                    "method": method,
                    "seed": options.seed,
                    "steps": chosen.steps,
                    "status": "ok",
                    "reason": "",
                    "residual": float(residual[index]),
                    "accepted": float(residual[index]) <= residual_limit(measurement.num_symbols, noise_var[place]),
                    "snr_db": frame.snr_db,
                    "cfo_hz": frame.cfo_hz,
                    "seconds": seconds,
                    "taps": taps[place],
                    "picture": to_png(pictures[index]),
                }
            )
        whole = {(row["recording"], row["image"]) for row in rows}
        for capture, frame in batch:
            for image in frame.header.image_ids if frame.header is not None else ():
                if (capture.recording, image) not in whole:
                    rows += self._failed(capture, [method], "not all of its frames were found", frame, image)
                    whole.add((capture.recording, image))
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


#: Runs tasks in any order, gives each with its table.
Runner = Callable[[Path, DecodeSettings, Sequence[Task]], Iterator[tuple[Task, pyarrow.Table]]]


def run_here(folder: Path, settings: DecodeSettings, tasks: Sequence[Task]) -> Iterator[tuple[Task, pyarrow.Table]]:
    """Decode in this process, a group after the other."""
    decoder = Decoder(folder, settings)
    for task in tasks:
        yield task, decoder.decode(task.group, task.captures, task.methods)


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

    Returns:
        counts: `captures` selected, `skipped` and `decoded` (captures times methods), `rows`, `failed` rows.

    Raises:
        ConfigError: a bad method or filter, or `out` holds rows of other settings, models or another dataset.
        RecordingError: no dataset, nothing selected, or another process writes into `out`.
    """
    settings = settings or DecodeSettings()
    for method in methods:
        method_settings(method, settings.steps)
    if not methods or len(set(methods)) != len(methods):
        raise ConfigError(f"Found methods {', '.join(methods) or 'none'}; give each wanted one once with --method.")
    check_prior(methods, load_bundle(settings.bundle))
    report = progress or (lambda description, done, total: None)
    captures = select_captures(folder, where)
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    with _only_writer(out):
        _check_settings(out / SETTINGS_NAME, folder, settings)
        for partial in parts.glob(".*.part"):
            partial.unlink()
        done = _finished(parts, settings.seed)
        tasks = _tasks(captures, methods, settings.group, done)
        total = len(captures) * len(methods)
        count = skipped = total - sum(len(task.captures) * len(task.methods) for task in tasks)
        report("decode", count, total)
        for task, table in run(folder, settings, tasks) if tasks else ():
            _write_table(table, parts / task.part_name)
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


def _tasks(
    captures: Sequence[tuple[int, IndexRow]], methods: Sequence[str], group: int, done: set[tuple[str, str]]
) -> list[Task]:
    """What is left, by group; within a group, captures that lack the same methods go together."""
    wanted: dict[tuple[int, tuple[str, ...]], list[IndexRow]] = {}
    for place, capture in captures:
        missing = tuple(method for method in methods if (capture.recording, method) not in done)
        if missing:
            wanted.setdefault((place // group, missing), []).append(capture)
    return [Task(number, tuple(rows), missing) for (number, missing), rows in wanted.items()]


def _finished(parts: Path, seed: int) -> set[tuple[str, str]]:
    """Pairs (recording, method) that have rows."""
    done: set[tuple[str, str]] = set()
    for path in sorted(parts.glob("*.parquet")):
        try:
            table = pyarrow.parquet.read_table(path, columns=["recording", "method", "seed"])
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise RecordingError(
                f"{path} is damaged ({reason}); remove it, and what it held is decoded again"
            ) from None
        done |= {
            (recording, method)
            for recording, method, its in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
            if its == seed
        }
    return done


def _write_table(table: pyarrow.Table, path: Path) -> None:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as file:
        file.write(buffer.getvalue())
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _join(parts: Path, target: Path) -> tuple[int, int]:
    """Write all parts, in the order of their groups, into one file; returns rows and failed rows."""
    rows = failed = 0
    partial = target.with_name(f".{target.name}.part")
    with pyarrow.parquet.ParquetWriter(partial, SCHEMA) as writer:
        for path in sorted(parts.glob("*.parquet")):
            table = pyarrow.parquet.read_table(path, schema=SCHEMA)
            writer.write_table(table)
            rows += table.num_rows
            failed += table["status"].to_pylist().count("failed")
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
    told = asdict(replace(settings, seed=0, device=""))
    first = index_lines(folder)[0]
    fingerprint = {
        **{key: value for key, value in told.items() if key not in ("seed", "device")},
        "bundle": load_bundle(settings.bundle).digest,
        "first_capture": IndexRow.from_line(first).data_sha512,
    }
    text = json.dumps(fingerprint, indent=1, sort_keys=True)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path.parent} holds rows of another dataset, other models, steps, group or batch size. Name another "
                "--out."
            )
        return
    write_bytes(path, text.encode())
