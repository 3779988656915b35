"""Hold captured samples, and write and read their SigMF files.

A recording is a pair PATH.sigmf-meta (JSON) and PATH.sigmf-data. Files are written through the `sigmf` package and
checked by its validator. Reading is our own, because recordings come from third parties: a file that is incomplete,
foreign or hostile must end in one clear line, and its size must be known before memory is taken for it.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError, RecordingError
from sdr.files import replacing
from sdr.recordings.health import RecordingHealth, measure_health
from sdr.recordings.metadata import NAMESPACE, global_info, import_sigmf, metadata_text
from sdr.settings import RadioSettings

META_SUFFIX = ".sigmf-meta"
DATA_SUFFIX = ".sigmf-data"
MAX_SAMPLES = 1 << 28
"""Largest recording that is read into memory unless a caller allows more (2 GiB as complex64)."""

MAX_META_BYTES = 16 << 20
_CHUNK_SAMPLES = 1 << 20
_DATATYPES: dict[str, tuple[str, float]] = {
    # SigMF datatype: NumPy type of one component, value of full scale
    "cf32_le": ("<f4", 1.0),
    "ci16_le": ("<i2", 32768.0),
    "ci8": ("i1", 128.0),
}


def utc_now() -> str:
    """Return the present time as ISO 8601 in UTC, as SigMF wants it.

    >>> utc_now().endswith("Z")
    True
    """
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class Recording:
    """A capture.

    Args:
        samples: complex64 (n,), n >= 1, finite, full scale 1.
        settings: what the radio was set to.
        utc: time of the first sample, ISO 8601; empty where unknown.
        layout_digest: digest of the layout that the capture is meant for; empty where unknown.
        health: measured from the samples unless given.
        partial: the capture broke off before it had the samples that were asked for.

    Raises:
        RecordingError: the samples are of the wrong type, empty, or hold NaN or infinite values.

    >>> Recording(np.ones(4, np.complex64), RadioSettings(), utc_now()).num_samples
    4
    """

    samples: NDArray[np.complex64]
    settings: RadioSettings = field(default_factory=RadioSettings)
    utc: str = ""
    layout_digest: str = ""
    health: RecordingHealth = field(default=None)  # type: ignore[assignment]  # set below, so that readers never see None
    partial: bool = False

    def __post_init__(self) -> None:
        samples = self.samples
        if not isinstance(samples, np.ndarray) or samples.dtype != np.complex64 or samples.ndim != 1:
            found = f"{samples.dtype} {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
            raise RecordingError(f"a recording needs complex64 samples of one dimension, found {found}")
        if not samples.size:
            raise RecordingError("the recording is empty; capture at least one frame")
        samples = np.ascontiguousarray(samples).view()
        for first in range(0, samples.size, _CHUNK_SAMPLES):
            finite = np.isfinite(samples[first : first + _CHUNK_SAMPLES])
            if not finite.all():
                where = first + int(np.argmin(finite))
                raise RecordingError(f"sample {where} of {samples.size} is NaN or infinite; capture again")
        samples.setflags(write=False)
        object.__setattr__(self, "samples", samples)
        if not isinstance(self.settings, RadioSettings):
            raise RecordingError(f"a recording needs RadioSettings, found {type(self.settings).__name__}")
        if self.utc:
            _check_utc(self.utc)
        if not isinstance(self.layout_digest, str) or not re.fullmatch(r"|[0-9a-f]{8}", self.layout_digest):
            raise RecordingError(f"a layout digest is 8 hex digits, found {self.layout_digest!r:.60}")
        if self.health is None:
            object.__setattr__(self, "health", measure_health(samples))

    @property
    def num_samples(self) -> int:
        """Length n."""
        return self.samples.size

    @property
    def duration_s(self) -> float:
        """Length at the settings' rate."""
        return self.samples.size / self.settings.rate_sps


def _check_utc(text: object) -> str:
    try:
        if not isinstance(text, str):
            raise ValueError
        datetime.fromisoformat(text)
    except ValueError:
        raise RecordingError(f"the capture time must be ISO 8601 like {utc_now()}, found {text!r:.60}") from None
    return text


def sigmf_paths(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Return the metadata path and the data path of a recording named by its stem or by either of its files.

    >>> [part.name for part in sigmf_paths("runs/tx.sigmf-data")]
    ['tx.sigmf-meta', 'tx.sigmf-data']
    """
    text = os.fspath(path)
    for suffix in (META_SUFFIX, DATA_SUFFIX):
        text = text.removesuffix(suffix)
    if not Path(text).name:
        raise RecordingError(f"'{os.fspath(path)}' names no recording; give PATH{META_SUFFIX}")
    return Path(text + META_SUFFIX), Path(text + DATA_SUFFIX)


def write_recording(recording: Recording, path: str | os.PathLike[str]) -> Path:
    """Write a recording as SigMF, both files under their final names only when they are complete.

    Args:
        path: stem, or the name of either file.

    Returns:
        The metadata path.

    Raises:
        RecordingError: the files can't be written, or the `sigmf` package is missing.
    """
    import_sigmf()  # a missing one shows before anything is written
    meta_path, data_path = sigmf_paths(path)
    sha512 = hashlib.sha512()
    try:
        # The data gets its name first: metadata never stands for samples that are not there.
        with replacing(meta_path) as meta, replacing(data_path) as data:
            for first in range(0, recording.num_samples, _CHUNK_SAMPLES):
                chunk = recording.samples[first : first + _CHUNK_SAMPLES].astype("<c8").tobytes()
                sha512.update(chunk)
                data.write(chunk)
            meta.write(_metadata(recording, sha512.hexdigest()).encode("utf-8"))
            meta.flush()
            # Nor do old metadata stand for new samples, should we be killed in between.
            meta_path.unlink(missing_ok=True)
    except OSError as error:
        raise RecordingError(f"recording {meta_path} can't be written: {error.strerror or error}") from None
    return meta_path


def _metadata(recording: Recording, sha512: str) -> str:
    """Return the SigMF metadata of a recording as text."""
    info = global_info(recording.settings, recording.health, sha512, (NAMESPACE,))
    if recording.layout_digest:
        info[f"{NAMESPACE}:layout_digest"] = recording.layout_digest
    if recording.partial:
        info[f"{NAMESPACE}:partial"] = True
        info["core:description"] = "The capture broke off: the samples are those that had arrived."
    capture: dict[str, Any] = {"core:frequency": recording.settings.center_hz}
    if recording.utc:
        capture["core:datetime"] = recording.utc
    return metadata_text(info, capture)


def read_recording(path: str | os.PathLike[str], max_samples: int = MAX_SAMPLES) -> Recording:
    """Read a SigMF recording of ours or of a third party.

    Accepts one channel of cf32_le, ci16_le or ci8; integers are converted to full scale 1. The hash is checked where
    there is one. The health stored by the recorder is kept for what only the recorder knows (overflows, gain step,
    staleness); levels are measured from the samples.

    Args:
        path: stem, or the name of either file.
        max_samples: largest recording to accept.

    Raises:
        RecordingError: a file is missing, damaged, truncated or empty, the datatype isn't supported, a sample is NaN
            or infinite, or the recording is too large.
    """
    meta_path, data_path = sigmf_paths(path)
    document = _read_metadata(meta_path)
    info = document["global"]
    datatype = info.get("core:datatype")
    if not isinstance(datatype, str) or datatype not in _DATATYPES:
        raise RecordingError(
            f"{meta_path}: datatype {datatype!r:.60} is not supported; needed one of {', '.join(_DATATYPES)}"
        )
    if info.get("core:num_channels", 1) != 1:
        raise RecordingError(f"{meta_path}: {info['core:num_channels']!r:.60} channels; a recording needs one")
    if "core:dataset" in info or "core:trailing_bytes" in info:
        raise RecordingError(f"{meta_path}: non-conforming data sets are not supported; convert to {DATA_SUFFIX}")
    settings, utc = _read_settings(meta_path, document)
    samples = _read_samples(data_path, info, max_samples)
    digest = info.get(f"{NAMESPACE}:layout_digest", "")
    try:
        recording = Recording(samples, settings, utc, digest)
        stored = info.get(f"{NAMESPACE}:health", {})
        if not isinstance(stored, Mapping):
            raise RecordingError(f"{NAMESPACE}:health must be an object, found {stored!r:.60}")
        kept = {key: stored[key] for key in ("overflows", "gain_step_db", "stale", "transmit_gaps") if key in stored}
        return replace(recording, health=replace(recording.health, **kept))
    except RecordingError as error:
        raise RecordingError(f"{data_path}: {error}") from None


def _read_metadata(meta_path: Path) -> dict[str, Any]:
    """Return the parsed metadata, `captures` present."""
    try:
        with meta_path.open("rb") as file:
            content = file.read(MAX_META_BYTES + 1)
    except OSError as error:
        raise RecordingError(f"recording {meta_path} can't be read: {error.strerror}; check the path") from None
    if len(content) > MAX_META_BYTES:
        raise RecordingError(f"{meta_path} is larger than {MAX_META_BYTES} bytes; this is not SigMF metadata")
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordingError(f"{meta_path} is not valid JSON ({reason}); copy the file again") from None
    if not isinstance(document, dict) or not isinstance(document.get("global"), dict):
        raise RecordingError(f"{meta_path} has no 'global' object; this is not SigMF metadata")
    captures = document.setdefault("captures", [])
    if not isinstance(captures, list) or not all(isinstance(capture, dict) for capture in captures):
        raise RecordingError(f"{meta_path}: 'captures' must be a list of objects")
    for capture in captures:
        if capture.get("core:header_bytes", 0) != 0:
            raise RecordingError(f"{meta_path}: captures with header bytes are not supported; strip them")
    return document


def _read_settings(meta_path: Path, document: dict[str, Any]) -> tuple[RadioSettings, str]:
    """Return settings and time of the first capture; SigMF's own fields win over our extension."""
    info, captures = document["global"], document["captures"]
    first = captures[0] if captures else {}
    rate_sps = info.get("core:sample_rate")
    if isinstance(rate_sps, bool) or not isinstance(rate_sps, (int, float)) or not 1.0 <= rate_sps <= 1e12:
        raise RecordingError(
            f"{meta_path}: core:sample_rate must be 1..1e12 samples per second, found {rate_sps!r:.60}"
        )
    stored = info.get(f"{NAMESPACE}:settings", {})
    if not isinstance(stored, Mapping):
        raise RecordingError(f"{meta_path}: {NAMESPACE}:settings must be an object")
    known = {f.name for f in fields(RadioSettings)}
    values = {key: value for key, value in stored.items() if key in known}
    values.setdefault("uri", f"file:{meta_path.name}")
    values["rate_sps"] = rate_sps
    if "core:frequency" in first:
        values["center_hz"] = first["core:frequency"]
    try:
        settings = RadioSettings(**values)
        utc = _check_utc(first["core:datetime"]) if first.get("core:datetime") else ""
    except (RadioError, RecordingError) as error:
        raise RecordingError(f"{meta_path}: {error}") from None
    return settings, utc


def _read_samples(data_path: Path, info: dict[str, Any], max_samples: int) -> NDArray[np.complex64]:
    """Read the samples of the data file at full scale 1; size and hash are checked."""
    component, full_scale = _DATATYPES[info["core:datatype"]]
    sample_bytes = 2 * np.dtype(component).itemsize
    expected = info.get("core:sha512")
    try:
        size = data_path.stat().st_size
    except OSError as error:
        raise RecordingError(
            f"data file {data_path} can't be read: {error.strerror}; copy it beside its metadata"
        ) from None
    if not data_path.is_file():
        raise RecordingError(f"data file {data_path} is not a regular file")
    if size == 0:
        raise RecordingError(f"data file {data_path} is empty; capture again")
    if size % sample_bytes:
        raise RecordingError(
            f"data file {data_path} has {size} bytes, which is no multiple of the {sample_bytes} of "
            f"{info['core:datatype']}; it is truncated, copy it again"
        )
    if size // sample_bytes > max_samples:
        raise RecordingError(
            f"data file {data_path} has {size // sample_bytes} samples, more than the {max_samples} allowed; cut it"
        )
    samples = np.empty(size // sample_bytes, dtype=np.complex64)
    parts = samples.view(np.float32)
    sha512 = hashlib.sha512()
    try:
        with data_path.open("rb") as file:
            done = 0
            while chunk := file.read(_CHUNK_SAMPLES * sample_bytes):
                if expected is not None:
                    sha512.update(chunk)
                values = np.frombuffer(chunk, dtype=component, count=len(chunk) // np.dtype(component).itemsize)
                if done + values.size > parts.size:
                    break
                parts[done : done + values.size] = values
                done += values.size
    except OSError as error:
        raise RecordingError(f"data file {data_path} can't be read: {error.strerror or error}") from None
    if done != parts.size:
        raise RecordingError(f"data file {data_path} changed while it was read; wait until its writer has finished")
    if expected is not None and (not isinstance(expected, str) or expected.lower() != sha512.hexdigest()):
        raise RecordingError(
            f"data file {data_path} ({samples.size} samples) doesn't match core:sha512 of its metadata; it is "
            "truncated or corrupted, copy it again"
        )
    if full_scale != 1.0:
        parts /= np.float32(full_scale)
    return samples
