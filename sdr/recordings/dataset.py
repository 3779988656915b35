"""Read datasets: many captures in one folder.

    DIR/NAME.sigmf-collection        SigMF collection of all captures
    DIR/NAME-000012.sigmf-data       samples, cf32_le at full scale 1, several antennas interleaved
    DIR/NAME-000012.sigmf-meta       what is known of them without knowing what was sent
    DIR/index.jsonl                  one line per complete capture, appended after its files are on the disk
    DIR/layouts/DIGEST.json          the frame layouts
    DIR/truth/NAME-000012.npz        what was sent and what the simulated channel was; nothing that decodes opens it

The index is the truth about what is complete: `sdr.recordings.writer` writes files under a temporary name, hashes them
on the way, makes them durable and renames them; the line comes last. Whatever a killed writer leaves without a line is
removed, and named, when the dataset is opened for writing again. Each line carries its own checksum and the hashes of
the files that it stands for.
"""

import hashlib
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.arrays import load_arrays
from sdr.errors import LayoutError, RecordingError
from sdr.layout import FrameLayout, load_layout
from sdr.recordings.archive import DATA_SUFFIX, META_SUFFIX
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import MAX_ANTENNAS, Recording
from sdr.settings import RadioSettings

COLLECTION_SUFFIX = ".sigmf-collection"
INDEX_NAME = "index.jsonl"
TRUTH_FOLDER = "truth"
LAYOUT_FOLDER = "layouts"

_CHECK = b',"check":"'
_BEGINNING = re.compile(rb'{"recording":("(?:[^"\\]|\\.)*"),"number":(\d+),')
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class IndexRow:
    """One complete capture.

    Args:
        recording: stem of its files in the dataset's folder.
        number: position in the dataset's plan, 0 and up; unique.
        layout: name of the frame layout; empty where unknown.
        layout_digest: its digest; empty where unknown.
        utc: time of the first sample; empty where unknown.
        num_samples: length of the capture, of each antenna.
        rate_sps: as the radio was set.
        center_hz: as the radio was set.
        tx_gain_db: as the radio was set.
        rx_gain_db: as the radio was set.
        radio: the radio's URI.
        csnr_db: channel SNR that the images were encoded for; NaN where unknown.
        images: images that were sent; 0 where unknown.
        repetition: how often the same settings were captured before.
        attempt: captures of this number that the health gate threw away before this one.
        healthy: whether there is no warning.
        warnings: joined by "; ".
        rms_dbfs: see `sdr.recordings.health.RecordingHealth`; of several antennas the worst, as what follows.
        peak_dbfs: see `RecordingHealth`.
        dc_dbfs: see `RecordingHealth`.
        clipped_fraction: see `RecordingHealth`.
        overflows: see `RecordingHealth`.
        gain_step_db: see `RecordingHealth`.
        stale: see `RecordingHealth`.
        transmit_gaps: see `RecordingHealth`.
        codec_digest: digest of the codec; empty where unknown.
        calibration_digest: digest of the calibration profile; empty where unknown.
        data_bytes: size of the data file.
        data_sha512: its hash.
        meta_sha512: hash of the metadata file.
        truth_sha512: hash of the truth; empty where there is none.
        antennas: of the capture; indexes of a time when there could be but one don't say so.

    Raises:
        RecordingError: a field is of the wrong type, or sizes don't fit each other.
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
    antennas: int = 1

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            wanted: Any = item.type
            if wanted is float and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, item.name, float(value))
            elif not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
                raise RecordingError(f"index field {item.name} must be {wanted.__name__}, found {value!r:.60}")
        if not self.recording or "/" in self.recording or "\0" in self.recording or self.recording.startswith("."):
            raise RecordingError(f"index field recording must be a file's stem, found {self.recording!r:.60}")
        if not re.fullmatch(r"|[0-9a-f]{8}", self.layout_digest):
            raise RecordingError(f"index field layout_digest must be 8 hex digits, found {self.layout_digest!r:.60}")
        if not 1 <= self.antennas <= MAX_ANTENNAS or self.data_bytes != 8 * self.antennas * self.num_samples:
            raise RecordingError(
                f"index fields don't fit: {self.antennas} antennas of {self.num_samples} samples in {self.data_bytes} "
                "bytes; restore the file from a copy"
            )

    @property
    def settings(self) -> RadioSettings:
        """Settings of the radio; the bandwidth is in the metadata only."""
        return RadioSettings(self.radio, self.center_hz, self.rate_sps, None, self.tx_gain_db, self.rx_gain_db)

    def to_line(self) -> bytes:
        """Return the row as a line of the index, checksum included."""
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
    """Return whether an index line ends as it should and matches its checksum."""
    body, found, rest = line.rpartition(_CHECK)
    return bool(found) and rest == f"{zlib.crc32(body):08x}".encode() + b'"}\n'


class RepeatedLines:
    """Finds lines of an index that stand for a capture which another line stands for already."""

    def __init__(self) -> None:
        self._lines: dict[bytes | int, int] = {}

    def add(self, number: int, line: bytes) -> str:
        """Take line `number` of the index, whole; return what is wrong with it, empty where nothing is."""
        found = _BEGINNING.match(line)
        if found is None:
            return "does not begin as its writer's lines do; restore the file from a copy"
        recording, capture = found.group(1), int(found.group(2))
        for key, called in ((recording, f"recording {recording.decode()}"), (capture, f"capture number {capture}")):
            first = self._lines.setdefault(key, number)
            if first != number:
                return f"repeats {called} of line {first}; remove one of the two, or restore the file from a copy"
        return ""


def iterate_index(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a dataset's index, checked, each with its offset in the file.

    A torn last line (a writer was killed, or is writing) is left out.

    Raises:
        RecordingError: there is no index, or a line was changed or repeats another; it says which.
    """
    path = folder / INDEX_NAME
    offset, repeated = 0, RepeatedLines()
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
                if wrong := repeated.add(number, line):
                    raise RecordingError(f"{path} line {number} {wrong}")
                yield offset, line
                offset += len(line)
    except OSError as error:
        raise RecordingError(f"{folder} is no dataset: {INDEX_NAME} can't be read ({error.strerror})") from None


def read_index_rows(folder: Path, offsets: Iterable[int]) -> list[IndexRow]:
    """Return the captures whose lines begin at offsets that `iterate_index` gave.

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
    """Return all complete captures of a dataset, in the order in which they were finished.

    Raises:
        RecordingError: no dataset, or its index is damaged.
    """
    return [IndexRow.from_line(line) for _, line in iterate_index(folder)]


def is_dataset(folder: Path) -> bool:
    """Return whether a path is the folder of a dataset."""
    return (folder / INDEX_NAME).is_file()


def open_capture(folder: Path, row: IndexRow) -> Recording:
    """Read the recording of a row; metadata and data must be what the writer left.

    Raises:
        RecordingError: a file is missing or differs from its hash.
    """
    meta = folder / (row.recording + META_SUFFIX)
    if file_sha512(meta) != row.meta_sha512:
        raise RecordingError(f"{meta} was changed after it was recorded; restore it from a copy")
    recording = read_recording(meta, max_antennas=MAX_ANTENNAS)
    found, said = (recording.num_samples, len(recording.antennas)), (row.num_samples, row.antennas)
    if found != said:
        raise RecordingError(
            f"{meta} has {found[0]} samples of {found[1]} antennas, the index says {said[0]} of {said[1]}"
        )
    return recording


def layout_of(folder: Path, row: IndexRow) -> FrameLayout:
    """Read the frame layout of a row.

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
    """Read what was sent in a capture, for scoring only.

    Raises:
        RecordingError: there is none, or it was changed.
    """
    path = folder / TRUTH_FOLDER / f"{row.recording}.npz"
    if not row.truth_sha512:
        raise RecordingError(
            f"recording {row.recording} has no ground truth; say what was sent by `ota dataset truth {folder}`"
        )
    if file_sha512(path) != row.truth_sha512:
        raise RecordingError(f"{path} was changed after it was recorded; restore it from a copy")
    return load_arrays(path, RecordingError)


def file_sha512(path: Path) -> str:
    """Return the SHA-512 of a file in hex digits.

    Raises:
        RecordingError: it can't be read.
    """
    digest = hashlib.sha512()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise RecordingError(f"{path} can't be read: {error.strerror}; restore it from a copy") from None
    return digest.hexdigest()


def capture_blocks(folder: Path, row: IndexRow, block_samples: int = 1 << 20) -> Iterator[NDArray[np.complex64]]:
    """Yield the samples (A, n) of a capture block by block, after checking that both its files are what was written.

    Memory is that of one block, whatever the length of the capture.

    Raises:
        RecordingError: a file is missing or differs from its hash, or a sample is NaN or infinite.
    """
    data = folder / (row.recording + DATA_SUFFIX)
    for path, sha512 in ((folder / (row.recording + META_SUFFIX), row.meta_sha512), (data, row.data_sha512)):
        if file_sha512(path) != sha512:
            raise RecordingError(f"{path} was changed after it was recorded; restore it from a copy")
    with data.open("rb") as file:
        while chunk := file.read(8 * row.antennas * block_samples):
            block = np.frombuffer(chunk, dtype="<c8").reshape(-1, row.antennas).T.astype(np.complex64, order="C")
            if not np.isfinite(block.view(np.float32)).all():
                raise RecordingError(f"{data} holds NaN or infinite samples; record it again")
            yield block
