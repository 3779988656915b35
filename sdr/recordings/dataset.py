"""Datasets: many captures in one folder, written so that an interruption at any moment costs one capture at most.

    DIR/NAME.sigmf-collection        SigMF collection of all captures
    DIR/NAME-000012.sigmf-data       samples, cf32_le at full scale 1
    DIR/NAME-000012.sigmf-meta       what is known of them without knowing what was sent
    DIR/index.jsonl                  one line per complete capture, appended after its files are on the disk
    DIR/layouts/DIGEST.json          the frame layouts
    DIR/truth/NAME-000012.npz        what was sent and what the simulated channel was; nothing that decodes opens it

The index is the truth about what is complete. Files are written under a temporary name, hashed on the way, made durable
and renamed; the line comes last. Whatever a killed writer leaves without a line is removed, and named, when the dataset
is opened for writing again. Each line carries its own checksum and the hashes of the files that it stands for.
"""

import fcntl
import hashlib
import io
import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import LayoutError, RecordingError
from sdr.layout import FrameLayout, load_layout, save_layout
from sdr.recordings.recording import (
    DATA_SUFFIX,
    FLOOR_DBFS,
    META_SUFFIX,
    NAMESPACE,
    Recording,
    RecordingHealth,
    read_recording,
)
from sdr.settings import RadioSettings

COLLECTION_SUFFIX = ".sigmf-collection"
INDEX_NAME = "index.jsonl"
TRUTH_FOLDER = "truth"
LAYOUT_FOLDER = "layouts"
EXTENSION_VERSION = "1.0.0"

_LOCK_NAME = ".lock"
_PART_SUFFIX = ".part"
_CHECK = b',"check":"'
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class IndexRow:
    """One complete capture.

    Args:
        recording: stem of its files in the dataset's folder.
        number: position in the dataset's plan, 0 and up; unique.
        layout, layout_digest: frame layout; empty where unknown.
        utc: time of the first sample; empty where unknown.
        num_samples, rate_sps, center_hz, tx_gain_db, rx_gain_db, radio: as the radio was set.
        csnr_db: channel SNR that the encoder was told; NaN where unknown.
        images: images that were sent; 0 where unknown.
        repetition: how often the same settings were captured before.
        attempt: captures of this number that the health gate threw away before this one.
        healthy: no warning. warnings: joined by "; ".
        rms_dbfs, peak_dbfs, dc_dbfs, clipped_fraction, overflows, gain_step_db, stale, transmit_gaps: see
            `sdr.recordings.recording.RecordingHealth`.
        codec_digest, calibration_digest: empty where unknown.
        data_bytes, data_sha512, meta_sha512: of the two files. truth_sha512: empty where there is no truth.
    """

    recording: str
    number: int
    layout: str
    layout_digest: str
    utc: str
    num_samples: int
    rate_sps: float
    center_hz: float
    tx_gain_db: float
    rx_gain_db: float
    radio: str
    csnr_db: float
    images: int
    repetition: int
    attempt: int
    healthy: bool
    warnings: str
    rms_dbfs: float
    peak_dbfs: float
    dc_dbfs: float
    clipped_fraction: float
    overflows: int
    gain_step_db: float
    stale: bool
    transmit_gaps: int
    codec_digest: str
    calibration_digest: str
    data_bytes: int
    data_sha512: str
    meta_sha512: str
    truth_sha512: str

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            wanted: Any = item.type
            if wanted is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, item.name, float(value))
            elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise RecordingError(f"index field {item.name} must be {wanted.__name__}, found {value!r:.60}")
        if not self.recording or "/" in self.recording or self.recording.startswith("."):
            raise RecordingError(f"index field recording must be a file's stem, found {self.recording!r:.60}")

    @property
    def settings(self) -> RadioSettings:
        """How the radio was set; the bandwidth is in the metadata only."""
        return RadioSettings(self.radio, self.center_hz, self.rate_sps, None, self.tx_gain_db, self.rx_gain_db)

    def to_line(self) -> bytes:
        """The row as a line of the index, checksum included."""
        values = {key: None if value != value else value for key, value in asdict(self).items()}  # NaN is no JSON
        body = json.dumps(values, separators=(",", ":"), allow_nan=False).encode()[:-1]
        return body + _CHECK + f"{zlib.crc32(body):08x}".encode() + b'"}\n'

    @classmethod
    def from_line(cls, line: bytes) -> "IndexRow":
        """Read a line that `line_is_whole`.

        Raises:
            RecordingError: a field is missing, unknown, or of the wrong type.
        """
        try:
            values = json.loads(line)
            del values["check"]
            values["csnr_db"] = math.nan if values["csnr_db"] is None else values["csnr_db"]
            return cls(**values)
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f"an index line is not of this version ({error}); record anew") from None


def line_is_whole(line: bytes) -> bool:
    """Whether an index line ends as it should and matches its checksum."""
    body, found, rest = line.rpartition(_CHECK)
    return bool(found) and rest == f"{zlib.crc32(body):08x}".encode() + b'"}\n'


def iterate_index(folder: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a dataset's index, checked, each with its offset in the file, one at a time.

    A torn last line (a writer was killed, or is writing) is left out.

    Raises:
        RecordingError: there is no index, or a line was changed; it says which.
    """
    path = folder / INDEX_NAME
    offset = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                if not line_is_whole(line):
                    raise RecordingError(
                        f"{path} line {number} was changed or damaged: its checksum is wrong; restore the file from a "
                        "copy"
                    )
                yield offset, line
                offset += len(line)
    except OSError as error:
        raise RecordingError(f"{folder} is no dataset: {INDEX_NAME} can't be read ({error.strerror})") from None


def read_index_rows(folder: Path, offsets: Iterable[int]) -> list[IndexRow]:
    """The captures whose lines begin at offsets that `iterate_index` told.

    Raises:
        RecordingError: the index can't be read, or is not what it was.
    """
    rows = []
    try:
        with (folder / INDEX_NAME).open("rb") as file:
            for offset in offsets:
                file.seek(offset)
                line = file.readline()
                if not line_is_whole(line):
                    raise RecordingError(f"{folder / INDEX_NAME} was changed while it was read; start again")
                rows.append(IndexRow.from_line(line))
    except OSError as error:
        raise RecordingError(f"{folder} is no dataset: {INDEX_NAME} can't be read ({error.strerror})") from None
    return rows


def read_index(folder: Path) -> list[IndexRow]:
    """All complete captures of a dataset, in the order in which they were finished.

    Raises:
        RecordingError: no dataset, or its index is damaged.
    """
    return [IndexRow.from_line(line) for _, line in iterate_index(folder)]


def is_dataset(folder: Path) -> bool:
    """Whether a path is the folder of a dataset."""
    return (folder / INDEX_NAME).is_file()


def open_capture(folder: Path, row: IndexRow) -> Recording:
    """The recording of a row; metadata and data must be what the writer left.

    Raises:
        RecordingError: a file is missing or differs from its hash.
    """
    meta = folder / (row.recording + META_SUFFIX)
    if _sha512_of(meta) != row.meta_sha512:
        raise RecordingError(f"{meta} was changed after it was recorded; restore it from a copy")
    recording = read_recording(meta)
    if recording.num_samples != row.num_samples:
        raise RecordingError(f"{meta} has {recording.num_samples} samples, the index says {row.num_samples}")
    return recording


def layout_of(folder: Path, row: IndexRow) -> FrameLayout:
    """The frame layout of a row.

    Raises:
        LayoutError: its file is missing, or holds another layout.
    """
    if not row.layout_digest:
        raise LayoutError(f"recording {row.recording} names no layout; give --layout")
    layout = load_layout(folder / LAYOUT_FOLDER / f"{row.layout_digest}.json")
    if layout.digest != row.layout_digest:
        raise LayoutError(f"{LAYOUT_FOLDER}/{row.layout_digest}.json holds layout {layout.digest}; restore the file")
    return layout


def read_truth(folder: Path, row: IndexRow) -> dict[str, NDArray[Any]]:
    """What was sent in a capture, for scoring only.

    Raises:
        RecordingError: there is none, or it was changed.
    """
    path = folder / TRUTH_FOLDER / f"{row.recording}.npz"
    if not row.truth_sha512:
        raise RecordingError(f"recording {row.recording} has no ground truth; nothing can be scored")
    if _sha512_of(path) != row.truth_sha512:
        raise RecordingError(f"{path} was changed after it was recorded; restore it from a copy")
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored}


def _sha512_of(path: Path) -> str:
    digest = hashlib.sha512()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise RecordingError(f"{path} can't be read: {error.strerror}; restore it from a copy") from None
    return digest.hexdigest()


def verify_dataset(folder: Path) -> list[str]:
    """Everything that is wrong with a dataset, one line each; empty for a good one. All files are read.

    Raises:
        RecordingError: no dataset, or an index so damaged that nothing can be said about the rest.
    """
    wrong: list[str] = []
    path = folder / INDEX_NAME
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise RecordingError(f"{folder} is no dataset: {INDEX_NAME} can't be read ({error.strerror})") from None
    rows: list[IndexRow] = []
    for number, line in enumerate(lines, start=1):
        if not line_is_whole(line):
            torn = number == len(lines) and not line.endswith(b"\n")
            what = "is torn: its writer was killed" if torn else "was changed or damaged"
            wrong.append(f"{INDEX_NAME} line {number} {what}")
            continue
        try:
            rows.append(IndexRow.from_line(line))
        except RecordingError as error:
            wrong.append(f"{INDEX_NAME} line {number}: {error}")
    for row in rows:
        expected = [(row.recording + DATA_SUFFIX, row.data_sha512), (row.recording + META_SUFFIX, row.meta_sha512)]
        if row.truth_sha512:
            expected.append((f"{TRUTH_FOLDER}/{row.recording}.npz", row.truth_sha512))
        for name, sha512 in expected:
            if not (folder / name).is_file():
                wrong.append(f"{name} is missing")
            elif _sha512_of(folder / name) != sha512:
                wrong.append(f"{name} was changed after it was recorded")
        if row.layout_digest:
            try:
                layout_of(folder, row)
            except LayoutError as error:
                wrong.append(str(error))
    wrong += [f"{name} is not complete: no line of the index stands for it" for name in _strangers(folder, rows)]
    wrong += _wrong_collections(folder, rows)
    return list(dict.fromkeys(wrong))


def _wrong_collections(folder: Path, rows: Sequence[IndexRow]) -> Iterator[str]:
    streams = {row.recording: row.meta_sha512 for row in rows}
    found = sorted(folder.glob("*" + COLLECTION_SUFFIX))
    if not found:
        yield f"the {COLLECTION_SUFFIX} file is missing: its writer was killed, or is still at it"
    for path in found:
        try:
            listed = {
                item["name"]: item["hash"] for item in json.loads(path.read_bytes())["collection"]["core:streams"]
            }
        except (ValueError, KeyError, TypeError):
            yield f"{path.name} is damaged"
            continue
        if listed != streams:
            yield f"{path.name} does not list the captures of the index: its writer was killed, or it was changed"


def _strangers(folder: Path, rows: Sequence[IndexRow]) -> list[str]:
    """Names of files, below the folder, that belong to no complete capture."""
    known = {row.recording for row in rows}
    names = []
    for place, suffixes in ((folder, (DATA_SUFFIX, META_SUFFIX)), (folder / TRUTH_FOLDER, (".npz",))):
        if not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            stem = next((path.name.removesuffix(s) for s in suffixes if path.name.endswith(s)), None)
            partial = path.name.startswith(".") and path.name.endswith(_PART_SUFFIX)
            if partial or (stem is not None and stem not in known):
                names.append(str(path.relative_to(folder)))
    return names


@dataclass(frozen=True)
class CaptureNotes:
    """What the one who records knows of a capture besides the samples; see `IndexRow`.

    Attributes:
        frame_ids: numbers of the frames that were sent. antenna: model, empty where not stated.
        problems: found by whoever recorded, on top of the samples' health.
    """

    csnr_db: float = math.nan
    images: int = 0
    repetition: int = 0
    attempt: int = 0
    codec_digest: str = ""
    calibration_digest: str = ""
    frame_ids: tuple[int, ...] = ()
    antenna: str = ""
    problems: tuple[str, ...] = ()


class DatasetWriter:
    """Adds captures to a dataset, new or begun. One writer at a time; a context manager.

    Args:
        folder: of the dataset; made where missing.
        name: of the collection, and the beginning of every recording's name; letters, digits and . _ -.
        description, author, license: for the metadata; empty ones are left out.

    Attributes:
        rows: complete captures. removed: files and lines of captures that were not complete, now removed.

    Raises:
        RecordingError: another writer is at work, the folder holds another collection or can't be written, the index
            is damaged, or the package 'sigmf' is missing.
    """

    def __init__(self, folder: Path, name: str, description: str = "", author: str = "", license: str = "") -> None:
        try:
            import sigmf
        except ImportError:
            raise RecordingError(
                "writing a dataset needs the package 'sigmf'; install it in this interpreter"
            ) from None
        if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith("."):
            raise RecordingError(f"a dataset's name must be letters, digits and . _ -, found {name!r:.60}")
        self._sigmf = sigmf
        self.folder, self.name = folder, name
        self._about = {"core:description": description, "core:author": author, "core:license": license}
        self.rows: list[IndexRow] = []
        self.removed: list[str] = []
        try:
            (folder / TRUTH_FOLDER).mkdir(parents=True, exist_ok=True)
            self._lock = (folder / _LOCK_NAME).open("a+b")
        except OSError as error:
            raise RecordingError(f"dataset {folder} can't be written: {error.strerror}") from None
        try:
            # The kernel lets go of the lock with the process, however that ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RecordingError(
                f"another writer is at work on dataset {folder}; wait for it, or use another folder"
            ) from None
        try:
            self._recover()
        except BaseException:
            self._lock.close()
            raise
        self._numbers = {row.number for row in self.rows}

    def _recover(self) -> None:
        others = [p.name for p in self.folder.glob("*" + COLLECTION_SUFFIX) if p.name != self.name + COLLECTION_SUFFIX]
        if others:
            raise RecordingError(f"{self.folder} holds the collection {others[0]}, not {self.name}; use another folder")
        index = self.folder / INDEX_NAME
        try:
            if not index.exists():
                index.touch()
            self.rows = read_index(self.folder)
            whole = sum(len(row.to_line()) for row in self.rows)
            if index.stat().st_size > whole:
                os.truncate(index, whole)
                self.removed.append(f"{INDEX_NAME}: a torn line")
            for name in _strangers(self.folder, self.rows):
                (self.folder / name).unlink()
                self.removed.append(name)
            self._index = index.open("ab", buffering=0)
        except OSError as error:
            raise RecordingError(f"dataset {self.folder} can't be written: {error.strerror}") from None

    def __enter__(self) -> "DatasetWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.write_collection()
        except RecordingError:
            if error is None:  # else what ended the block is the news, and the index has all that is needed
                raise
        finally:
            self.close()

    def close(self) -> None:
        """Let another writer in; a second call does nothing."""
        self._index.close()
        self._lock.close()

    def __contains__(self, number: int) -> bool:
        return number in self._numbers

    def next_number(self) -> int:
        """The smallest number above all captures."""
        return max(self._numbers, default=-1) + 1

    def add(
        self,
        number: int,
        recording: Recording,
        layout: FrameLayout | None = None,
        notes: CaptureNotes | None = None,
        truth: Mapping[str, NDArray[Any]] | None = None,
    ) -> IndexRow:
        """Write a capture; when this returns, it is on the disk.

        Args:
            number: in the plan; not in the dataset yet.
            truth: arrays for `truth/`; no pickles.

        Raises:
            RecordingError: the number is taken, or something can't be written; nothing of the capture stays then.
        """
        return self.add_blocks(number, [recording], layout, notes, truth)

    def add_blocks(
        self,
        number: int,
        blocks: Iterable[Recording],
        layout: FrameLayout | None = None,
        notes: CaptureNotes | None = None,
        truth: Mapping[str, NDArray[Any]] | None = None,
    ) -> IndexRow:
        """The same for a capture that comes in blocks that follow each other without a gap.

        Memory is that of two blocks: one comes while the other is stored. Ctrl-C while the blocks come ends the capture
        with what there is, then goes on.
        """
        if number in self._numbers:
            raise RecordingError(f"dataset {self.folder} has a capture {number} already; give another number")
        notes = notes or CaptureNotes()
        stem = f"{self.name}-{number:06d}"
        data, meta = self.folder / (stem + DATA_SUFFIX), self.folder / (stem + META_SUFFIX)
        truth_path = self.folder / TRUTH_FOLDER / f"{stem}.npz"
        written: list[Path] = []
        interrupted: KeyboardInterrupt | None = None
        try:
            if layout is not None:
                self._keep_layout(layout)
            levels, sha512, first = _Levels(), hashlib.sha512(), None
            with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as writer, _durable(data, written) as file:

                def store(block: Recording) -> None:
                    samples = np.ascontiguousarray(block.samples, dtype="<c8").view(np.uint8)
                    for begin in range(0, samples.size, _CHUNK_BYTES):
                        chunk = samples[begin : begin + _CHUNK_BYTES].data
                        # Both let go of the interpreter's lock, so a second core does the hashing.
                        hashed = hasher.submit(sha512.update, chunk)
                        file.write(chunk)
                        hashed.result()
                    levels.add(block)

                source, pending = iter(blocks), None
                while True:
                    try:
                        block = next(source, None)  # comes while the one before it is stored
                        if pending is not None:
                            pending.result()
                    except KeyboardInterrupt as error:
                        if first is None:
                            raise
                        interrupted, block = error, None
                        if pending is not None:
                            pending.result()
                    if block is None:
                        break
                    first = first or block
                    pending = writer.submit(store, block)
            if first is None:
                raise RecordingError("a capture needs at least one block of samples; none came")
            health = levels.health()
            warnings = (*health.warnings, *notes.problems)
            document = self._metadata(first, levels.count, sha512.hexdigest(), health, layout, notes).encode()
            with _durable(meta, written) as file:
                file.write(document)
            truth_bytes = b""
            if truth is not None:
                buffer = io.BytesIO()
                np.savez(buffer, **truth)  # type: ignore[arg-type]  # numpy's stub wants one type for all keywords
                truth_bytes = buffer.getvalue()
                with _durable(truth_path, written) as file:
                    file.write(truth_bytes)
            row = IndexRow(
                recording=stem,
                number=number,
                layout="" if layout is None else layout.name,
                layout_digest="" if layout is None else layout.digest,
                utc=first.utc,
                num_samples=levels.count,
                rate_sps=first.settings.rate_sps,
                center_hz=first.settings.center_hz,
                tx_gain_db=first.settings.tx_gain_db,
                rx_gain_db=first.settings.rx_gain_db,
                radio=first.settings.uri,
                csnr_db=notes.csnr_db,
                images=notes.images,
                repetition=notes.repetition,
                attempt=notes.attempt,
                healthy=not warnings,
                warnings="; ".join(warnings),
                **asdict(health),
                codec_digest=notes.codec_digest,
                calibration_digest=notes.calibration_digest,
                data_bytes=8 * levels.count,
                data_sha512=sha512.hexdigest(),
                meta_sha512=hashlib.sha512(document).hexdigest(),
                truth_sha512=hashlib.sha512(truth_bytes).hexdigest() if truth is not None else "",
            )
            _sync_folder(self.folder)
            self._append(row)
        except OSError as error:
            _remove(written)
            raise RecordingError(
                f"capture {stem} can't be written: {error.strerror or error}; all captures before it are complete"
            ) from None
        except BaseException:
            _remove(written)
            raise
        if interrupted is not None:
            raise interrupted
        return row

    def _append(self, row: IndexRow) -> None:
        line, size = row.to_line(), os.fstat(self._index.fileno()).st_size
        try:
            if self._index.write(line) != len(line):
                raise OSError(28, "No space left on device")
            os.fsync(self._index.fileno())
        except OSError:
            os.ftruncate(self._index.fileno(), size)
            raise
        self.rows.append(row)
        self._numbers.add(row.number)

    def _keep_layout(self, layout: FrameLayout) -> None:
        path = self.folder / LAYOUT_FOLDER / f"{layout.digest}.json"
        if not path.is_file():
            save_layout(layout, path)

    def _metadata(
        self,
        first: Recording,
        count: int,
        sha512: str,
        health: RecordingHealth,
        layout: FrameLayout | None,
        notes: CaptureNotes,
    ) -> str:
        """SigMF metadata that the package's validator accepts. What isn't known is left out."""
        settings = first.settings
        used = {NAMESPACE: True, "capture_details": True, "signal": layout is not None, "antenna": bool(notes.antenna)}
        info: dict[str, Any] = {
            "core:datatype": "cf32_le",
            "core:sample_rate": settings.rate_sps,
            "core:num_channels": 1,
            "core:sha512": sha512,
            "core:recorder": "diffcom-ota",
            "core:hw": settings.uri,
            "core:collection": self.name,
            "core:extensions": [
                {"name": name, "version": EXTENSION_VERSION, "optional": True} for name in used if used[name]
            ],
            **{key: value for key, value in self._about.items() if value},
            f"{NAMESPACE}:settings": {k: v for k, v in asdict(settings).items() if v is not None},
            f"{NAMESPACE}:health": asdict(health),
        }
        if notes.antenna:
            info["antenna:model"] = notes.antenna
        own = {
            "layout_digest": "" if layout is None else layout.digest,
            "codec_digest": notes.codec_digest,
            "calibration_digest": notes.calibration_digest,
            "frame_ids": list(notes.frame_ids),
        }
        info.update({f"{NAMESPACE}:{key}": value for key, value in own.items() if value})
        signal = self._sigmf.SigMFFile(global_info=info)
        capture: dict[str, Any] = {
            "core:frequency": settings.center_hz,
            "capture_details:gain": settings.rx_gain_db,
        }
        if first.utc:
            capture["core:datetime"] = first.utc
            capture["capture_details:start_capture"] = first.utc
            capture["capture_details:stop_capture"] = _later(first.utc, count / settings.rate_sps)
        if settings.bandwidth_hz is not None:
            capture["capture_details:acquisition_bandwidth"] = settings.bandwidth_hz
        signal.add_capture(0, metadata=capture)
        if layout is not None:
            spacing = layout.rate_sps / layout.fft_size
            low, high = min(layout.active), max(layout.active)
            signal.add_annotation(
                0,
                length=count,
                metadata={
                    "core:freq_lower_edge": settings.center_hz + (low - 0.5) * spacing,
                    "core:freq_upper_edge": settings.center_hz + (high + 0.5) * spacing,
                    "core:label": "OFDM frames",
                    "core:comment": f"frame layout {layout.name} ({layout.digest})",
                    "signal:detail": {"type": "digital", "multiplexing": "ofdm"},
                },
            )
        signal.validate()
        return signal.dumps() + "\n"

    def write_collection(self) -> Path:
        """Write the SigMF collection of all complete captures; leaving the context does so too.

        Raises:
            RecordingError: it can't be written.
        """
        from sigmf.sigmffile import __specification__ as version  # the version whose schema checks us

        rows = sorted(self.rows, key=lambda row: row.number)
        content = {
            "core:version": version,
            "core:extensions": [],
            **{key: value for key, value in self._about.items() if value},
            "core:streams": [{"name": row.recording, "hash": row.meta_sha512} for row in rows],
        }
        path = self.folder / (self.name + COLLECTION_SUFFIX)
        written: list[Path] = []
        try:
            with _durable(path, written) as file:
                file.write((json.dumps({"collection": content}, indent=1) + "\n").encode())
        except OSError as error:
            raise RecordingError(f"{path} can't be written: {error.strerror or error}") from None
        return path


class _Levels:
    """Health of a capture that comes in blocks."""

    def __init__(self) -> None:
        self.count = 0
        self._power, self._mean, self._peak, self._clipped = 0.0, 0.0 + 0.0j, 0.0, 0
        self._told: list[RecordingHealth] = []

    def add(self, block: Recording) -> None:
        told, count = block.health, block.num_samples
        self.count += count
        self._power += count * 10.0 ** (told.rms_dbfs / 10.0)
        self._peak = max(self._peak, 10.0 ** (told.peak_dbfs / 10.0))
        self._mean += complex(block.samples.sum(dtype=np.complex128))
        self._clipped += round(told.clipped_fraction * count)
        self._told.append(told)

    def health(self) -> RecordingHealth:
        if len(self._told) == 1:
            return self._told[0]
        return RecordingHealth(
            rms_dbfs=_level_dbfs(self._power / self.count),
            peak_dbfs=_level_dbfs(self._peak),
            dc_dbfs=_level_dbfs(abs(self._mean / self.count) ** 2),
            clipped_fraction=self._clipped / self.count,
            overflows=sum(told.overflows for told in self._told),
            gain_step_db=max((told.gain_step_db for told in self._told), key=abs),
            stale=any(told.stale for told in self._told),
            transmit_gaps=sum(told.transmit_gaps for told in self._told),
        )


def _level_dbfs(power: float) -> float:
    return max(FLOOR_DBFS, 10.0 * math.log10(power)) if power > 0 else FLOOR_DBFS


def _later(utc: str, seconds: float) -> str:
    from datetime import datetime, timedelta

    moved = datetime.fromisoformat(utc) + timedelta(seconds=seconds)
    return moved.isoformat(timespec="microseconds").replace("+00:00", "Z")


class _durable:
    """A file that takes its name when the block ends well, its content on the disk by then; else it vanishes."""

    def __init__(self, target: Path, written: list[Path]) -> None:
        self._target, self._written = target, written
        self._partial = target.with_name(f".{target.name}{_PART_SUFFIX}")

    def __enter__(self) -> Any:
        self._file = self._partial.open("wb", buffering=0)
        return self

    def write(self, chunk: Any) -> None:
        view = memoryview(chunk)
        while view:
            view = view[self._file.write(view) :]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
                os.replace(self._partial, self._target)
                self._written.append(self._target)
        finally:
            self._file.close()
            self._partial.unlink(missing_ok=True)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def capture_blocks(folder: Path, row: IndexRow, block_samples: int = 1 << 20) -> Iterator[NDArray[np.complex64]]:
    """The samples of a capture, a block at a time, after both its files have been found to be what the writer left.

    Memory is that of one block, whatever the length of the capture.

    Raises:
        RecordingError: a file is missing or differs from its hash, or a sample is NaN or infinite.
    """
    data = folder / (row.recording + DATA_SUFFIX)
    for path, sha512 in ((folder / (row.recording + META_SUFFIX), row.meta_sha512), (data, row.data_sha512)):
        if _sha512_of(path) != sha512:
            raise RecordingError(f"{path} was changed after it was recorded; restore it from a copy")
    with data.open("rb") as file:
        while chunk := file.read(8 * block_samples):
            block = np.frombuffer(chunk, dtype="<c8").astype(np.complex64)
            if not np.isfinite(block.view(np.float32)).all():
                raise RecordingError(f"{data} holds NaN or infinite samples; record it again")
            yield block
