"""Write a dataset: captures are added one by one, and an interruption at any moment costs one capture at most."""

import fcntl
import hashlib
import io
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError
from sdr.files import is_partial, replacing, write_bytes, write_json
from sdr.layout import FrameLayout, save_layout
from sdr.recordings.archive import DATA_SUFFIX, META_SUFFIX
from sdr.recordings.dataset import (
    COLLECTION_SUFFIX,
    INDEX_NAME,
    LAYOUT_FOLDER,
    TRUTH_FOLDER,
    IndexRow,
    iterate_index,
)
from sdr.recordings.health import BlockHealth, RecordingHealth
from sdr.recordings.metadata import NAMESPACE, global_info, import_sigmf, metadata_text
from sdr.recordings.recording import Recording, interleaved
from sdr.recordings.verify import incomplete_files

_LOCK_NAME = ".lock"
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class CaptureNotes:
    """Facts about a capture that are not in its samples.

    Args:
        csnr_db: see `sdr.recordings.dataset.IndexRow`, like what follows.
        images: see `IndexRow`.
        repetition: see `IndexRow`.
        attempt: see `IndexRow`.
        codec_digest: see `IndexRow`.
        calibration_digest: see `IndexRow`.
        frame_ids: numbers of the frames that were sent.
        antenna: model, empty where not stated.
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
    """Add captures to a dataset, new or begun. One writer at a time; a context manager.

    Args:
        folder: of the dataset; made where missing.
        name: of the collection, and the beginning of every recording's name; letters, digits and . _ -.
        description: for the metadata; left out where empty.
        author: likewise.
        license: likewise.

    Attributes:
        rows: complete captures.
        removed: files and lines of captures that were not complete, now removed.

    Raises:
        RecordingError: another writer is at work, the folder holds another collection or can't be written, the index
            is damaged, or the package 'sigmf' is missing.
    """

    def __init__(self, folder: Path, name: str, description: str = "", author: str = "", license: str = "") -> None:
        import_sigmf()  # a missing one shows before anything is written
        if not name or not all(c.isalnum() or c in "._-" for c in name) or name.startswith("."):
            raise RecordingError(f"a dataset's name must be letters, digits and . _ -, found {name!r:.60}")
        self.folder, self.name = folder, name
        about = {"core:description": description, "core:author": author, "core:license": license}
        self._about = {key: value for key, value in about.items() if value}
        self.rows: list[IndexRow] = []
        self.removed: list[str] = []
        self._lock = _lock(folder)
        try:
            self._index = self._recover()
        except BaseException:
            self._lock.close()
            raise
        self._numbers = {row.number for row in self.rows}

    def _recover(self) -> IO[bytes]:
        """Remove what an interrupted writer left, and return the index, opened for appending."""
        others = [p.name for p in self.folder.glob("*" + COLLECTION_SUFFIX) if p.name != self.name + COLLECTION_SUFFIX]
        if others:
            raise RecordingError(f"{self.folder} holds the collection {others[0]}, not {self.name}; use another folder")
        index = self.folder / INDEX_NAME
        try:
            if not index.exists():
                index.touch()
            lines = [line for _, line in iterate_index(self.folder)]
            self.rows = [IndexRow.from_line(line) for line in lines]
            whole = sum(map(len, lines))
            if index.stat().st_size > whole:
                os.truncate(index, whole)
                self.removed.append(f"{INDEX_NAME}: a torn line")
            mine = re.compile(re.escape(self.name) + r"-\d{6,}\.(sigmf-data|sigmf-meta|npz)")
            for name in incomplete_files(self.folder, self.rows):
                # A capture of somebody else's may lie here by mistake.
                if is_partial(Path(name)) or mine.fullmatch(Path(name).name):
                    (self.folder / name).unlink()
                    self.removed.append(name)
            return index.open("ab", buffering=0)
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

    def find(self, recording: Recording, layout: FrameLayout) -> IndexRow | None:
        """Return the row of a recording that is in the dataset already: same samples, radio and layout."""
        names = (recording.settings.uri, layout.digest)
        alike = [r for r in self.rows if (r.radio, r.layout_digest) == names and r.num_samples == recording.num_samples]
        if not alike:
            return None
        sha512 = hashlib.sha512(interleaved(recording.antennas).view(np.uint8).data).hexdigest()
        return next((row for row in alike if row.data_sha512 == sha512), None)

    def give_truth(self, numbers: Collection[int], truth: Mapping[str, NDArray[Any]], images: int) -> None:
        """Say what was sent in captures that have no ground truth yet. All get it, or none.

        Args:
            numbers: of the captures.
            truth: arrays for `truth/`; no pickles.
            images: how many were sent in each.

        Raises:
            RecordingError: a capture has ground truth already, or something can't be written.
        """
        chosen = [row for row in self.rows if row.number in numbers]
        for row in chosen:
            if row.truth_sha512:
                raise RecordingError(f"recording {row.recording} has ground truth already; choose others with --where")
        arrays = _npz(truth)
        sha512 = hashlib.sha512(arrays).hexdigest()
        rows = [replace(row, truth_sha512=sha512, images=images) if row in chosen else row for row in self.rows]
        index = self.folder / INDEX_NAME
        try:
            for row in chosen:
                write_bytes(self.folder / TRUTH_FOLDER / f"{row.recording}.npz", arrays)
            # From here on the index stands for the files: a writer killed before has changed nothing.
            write_bytes(index, b"".join(row.to_line() for row in rows))
            self._index.close()
            self._index = index.open("ab", buffering=0)
        except OSError as error:
            raise RecordingError(f"dataset {self.folder} can't be written: {error.strerror or error}") from None
        self.rows = rows

    def next_number(self) -> int:
        """Return the smallest number above all captures."""
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
            recording: the capture.
            layout: frame layout, None where unknown.
            notes: what else is known.
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
        """Write a capture that comes in blocks that follow each other without a gap; the rest is as for `add`.

        Memory is that of two blocks: one comes while the other is stored. Ctrl-C while the blocks come ends the capture
        with what there is, then goes on.
        """
        if number in self._numbers:
            raise RecordingError(f"dataset {self.folder} has a capture {number} already; give another number")
        notes = notes or CaptureNotes()
        stem = f"{self.name}-{number:06d}"
        data, meta = self.folder / (stem + DATA_SUFFIX), self.folder / (stem + META_SUFFIX)
        truth_path = self.folder / TRUTH_FOLDER / f"{stem}.npz"
        try:
            if layout is not None:
                self._keep_layout(layout)
            stored = _store_blocks(data, blocks)
            metadata = self._metadata(stored, layout, notes).encode()
            write_bytes(meta, metadata)
            truth_sha512 = ""
            if truth is not None:
                arrays = _npz(truth)
                write_bytes(truth_path, arrays)
                truth_sha512 = hashlib.sha512(arrays).hexdigest()
            row = _row(stem, number, stored, layout, notes, hashlib.sha512(metadata).hexdigest(), truth_sha512)
            _sync_folder(self.folder)
            self._append(row)
        except BaseException as error:
            for path in (data, meta, truth_path):
                path.unlink(missing_ok=True)
            if not isinstance(error, OSError):
                raise
            raise RecordingError(
                f"capture {self.folder / stem} can't be written: {error.strerror or error}; all captures before it are "
                "complete"
            ) from None
        if stored.interrupt is not None:
            raise stored.interrupt
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

    def _metadata(self, stored: "_Stored", layout: FrameLayout | None, notes: CaptureNotes) -> str:
        """Return the SigMF metadata of a capture as text. What isn't known is left out."""
        settings, utc = stored.first.settings, stored.first.utc
        used = {NAMESPACE: True, "capture_details": True, "signal": layout is not None, "antenna": bool(notes.antenna)}
        extensions = [name for name in used if used[name]]
        info = global_info(settings, stored.health, stored.antennas, stored.sha512, extensions)
        info |= {"core:collection": self.name, **self._about}
        if notes.antenna:
            info["antenna:model"] = notes.antenna
        own = {
            "layout_digest": "" if layout is None else layout.digest,
            "codec_digest": notes.codec_digest,
            "calibration_digest": notes.calibration_digest,
            "frame_ids": list(notes.frame_ids),
        }
        info |= {f"{NAMESPACE}:{key}": value for key, value in own.items() if value}
        capture: dict[str, Any] = {"core:frequency": settings.center_hz, "capture_details:gain": settings.rx_gain_db}
        if utc:
            capture["core:datetime"] = capture["capture_details:start_capture"] = utc
            capture["capture_details:stop_capture"] = _later(utc, stored.num_samples / settings.rate_sps)
        if settings.bandwidth_hz is not None:
            capture["capture_details:acquisition_bandwidth"] = settings.bandwidth_hz
        annotation = None if layout is None else _annotation(layout, settings.center_hz)
        return metadata_text(info, capture, annotation, stored.num_samples)

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
            **self._about,
            "core:streams": [{"name": row.recording, "hash": row.meta_sha512} for row in rows],
        }
        path = self.folder / (self.name + COLLECTION_SUFFIX)
        try:
            write_json(path, {"collection": content})
        except OSError as error:
            raise RecordingError(f"{path} can't be written: {error.strerror or error}") from None
        return path


def is_begun(folder: Path) -> bool:
    """Return whether a folder holds a dataset, or what is left of one whose writer was killed at the very start."""
    if (folder / INDEX_NAME).is_file():
        return True
    return (folder / _LOCK_NAME).is_file() and {p.name for p in folder.iterdir()} <= {_LOCK_NAME, TRUTH_FOLDER}


def _lock(folder: Path) -> IO[bytes]:
    """Make the folder of a dataset, and return a file that holds its lock until it is closed.

    Raises:
        RecordingError: the folder can't be written, or another writer holds the lock.
    """
    try:
        (folder / TRUTH_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("a+b")
    except OSError as error:
        raise RecordingError(f"dataset {folder} can't be written: {error.strerror}") from None
    try:
        # The kernel lets go of the lock with the process, however that ends.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise RecordingError(
            f"another writer is at work on dataset {folder}; wait for it, or use another folder"
        ) from None
    return lock


@dataclass(frozen=True)
class _Stored:
    """Samples that were stored: `first` is their first block, `interrupt` a Ctrl-C that came meanwhile.

    `num_samples` is that of each antenna.
    """

    first: Recording
    num_samples: int
    sha512: str
    health: RecordingHealth
    interrupt: KeyboardInterrupt | None

    @property
    def antennas(self) -> int:
        return len(self.first.antennas)


def _store_blocks(path: Path, blocks: Iterable[Recording]) -> _Stored:
    """Write blocks of samples as they come: one is stored while the next one comes.

    Raises:
        RecordingError: there is no block, or one is of another number of antennas.
        OSError: the file can't be written.
        KeyboardInterrupt: Ctrl-C before the first block.
    """
    whole, sha512, first = BlockHealth(), hashlib.sha512(), None
    interrupt: KeyboardInterrupt | None = None
    with ThreadPoolExecutor(1) as hasher, ThreadPoolExecutor(1) as writer, replacing(path) as file:

        def store(block: Recording) -> None:
            samples = interleaved(block.antennas).view(np.uint8)
            for begin in range(0, samples.size, _CHUNK_BYTES):
                chunk = samples[begin : begin + _CHUNK_BYTES].data
                # Both let go of the interpreter's lock, so a second core does the hashing.
                hashed = hasher.submit(sha512.update, chunk)
                file.write(chunk)
                hashed.result()
            whole.add(block.antennas, block.health)

        source, pending = iter(blocks), None
        while True:
            try:
                block = next(source, None)  # comes while the one before it is stored
                if pending is not None:
                    pending.result()
            except KeyboardInterrupt as error:
                if first is None:
                    raise
                interrupt, block = error, None
                if pending is not None:
                    pending.result()
            if block is None:
                break
            first = first or block
            pending = writer.submit(store, block)
        if first is None:
            raise RecordingError("a capture needs at least one block of samples; none came")
    return _Stored(first, whole.num_samples, sha512.hexdigest(), whole.health(), interrupt)


def _row(
    stem: str,
    number: int,
    stored: _Stored,
    layout: FrameLayout | None,
    notes: CaptureNotes,
    meta_sha512: str,
    truth_sha512: str,
) -> IndexRow:
    settings, warnings = stored.first.settings, (*stored.health.warnings, *notes.problems)
    return IndexRow(
        recording=stem,
        number=number,
        layout="" if layout is None else layout.name,
        layout_digest="" if layout is None else layout.digest,
        utc=stored.first.utc,
        num_samples=stored.num_samples,
        rate_sps=settings.rate_sps,
        center_hz=settings.center_hz,
        tx_gain_db=settings.tx_gain_db,
        rx_gain_db=settings.rx_gain_db,
        radio=settings.uri,
        csnr_db=notes.csnr_db,
        images=notes.images,
        repetition=notes.repetition,
        attempt=notes.attempt,
        healthy=not warnings,
        warnings="; ".join(warnings),
        **stored.health.levels(),
        **stored.health.reports(),
        codec_digest=notes.codec_digest,
        calibration_digest=notes.calibration_digest,
        data_bytes=8 * stored.antennas * stored.num_samples,
        data_sha512=stored.sha512,
        meta_sha512=meta_sha512,
        truth_sha512=truth_sha512,
        antennas=stored.antennas,
    )


def _annotation(layout: FrameLayout, center_hz: float) -> dict[str, Any]:
    """Return the SigMF annotation of samples that are frames of a layout."""
    low, high = min(layout.active), max(layout.active)
    return {
        "core:freq_lower_edge": center_hz + (low - 0.5) * layout.carrier_spacing_hz,
        "core:freq_upper_edge": center_hz + (high + 0.5) * layout.carrier_spacing_hz,
        "core:label": "OFDM frames",
        "core:comment": f"frame layout {layout.name} ({layout.digest})",
        "signal:detail": {"type": "digital", "multiplexing": "ofdm"},
    }


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub wants one type for all keywords
    return buffer.getvalue()


def _later(utc: str, seconds: float) -> str:
    moved = datetime.fromisoformat(utc) + timedelta(seconds=seconds)
    return moved.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _sync_folder(folder: Path) -> None:
    """Make new names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
