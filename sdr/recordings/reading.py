"""Read SigMF recordings of ours and of others.

Reading is our own and not the `sigmf` package's, because recordings come from third parties: a file that is incomplete,
foreign or hostile must end in one clear line, and its size must be known before memory is taken for it. What decoding
does not need (dates, frequencies of other tools) is left out where it can't be read.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError, RecordingError
from sdr.recordings.archive import DATA_SUFFIX, Part, recording_parts
from sdr.recordings.datatypes import DATATYPES, datatype
from sdr.recordings.health import REPORTED
from sdr.recordings.metadata import NAMESPACE
from sdr.recordings.recording import MAX_SAMPLES, Recording, is_utc
from sdr.settings import RadioSettings

MAX_META_BYTES = 16 << 20
MAX_CENTER_HZ = 1e12
_CHUNK_SAMPLES = 1 << 20


@dataclass(frozen=True)
class Stated:
    """What a user says of a recording whose metadata don't; what they do say must be the same.

    Args:
        rate_sps: samples per second, 1..1e12; None: not stated. So is what follows.
        center_hz: carrier frequency, 0..1e12.
        full_scale: value of the samples that becomes 1, instead of the datatype's own.

    Raises:
        RecordingError: a value is out of range.
    """

    rate_sps: float | None = None
    center_hz: float | None = None
    full_scale: float | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rate_sps", 1.0, 1e12),
            ("center_hz", 0.0, MAX_CENTER_HZ),
            ("full_scale", 1e-30, 1e30),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN fails this too
                raise RecordingError(f"{name} must be in {low:g}..{high:g}, found {value}")


NOTHING_STATED = Stated()


def read_recording(
    path: str | os.PathLike[str],
    max_samples: int = MAX_SAMPLES,
    stated: Stated = NOTHING_STATED,
    max_antennas: int = 1,
) -> Recording:
    """Read a SigMF recording.

    Accepts any of `DATATYPES`, in two files or in an archive; several channels are interleaved by sample. Integers are
    converted to full scale 1; real samples get a quadrature of 0. The hash is checked where there is one. The health
    stored by the recorder is kept for what only the recorder knows (overflows, gain step, staleness); levels are
    measured from the samples.

    Args:
        path: stem, the name of either file, or an archive PATH.sigmf.
        max_samples: largest recording to accept.
        stated: what the metadata may lack.
        max_antennas: most channels that the caller can use.

    Raises:
        RecordingError: there are more channels, a file is missing, damaged, truncated or empty, the datatype isn't
            supported, a sample is NaN or infinite, the carrier changes on the way, what is stated contradicts the
            metadata, or the recording is too large.
    """
    meta, data = recording_parts(path)
    document = _read_metadata(meta)
    info = document["global"]
    try:
        kind = datatype(info.get("core:datatype"), DATATYPES)
        antennas = _count_antennas(info, max_antennas)
        rate_sps = _read_rate(info, stated)
        count = _count_samples(data, kind.sample_bytes, info["core:datatype"], max_samples, antennas)
        center_hz, utc = _read_captures(document["captures"], count, stated)
        settings = _read_settings(meta.path, info, rate_sps, center_hz)
    except (RadioError, RecordingError) as error:
        raise RecordingError(f"{meta.path}: {error}") from None
    samples = _read_samples(data, count * antennas, info, stated.full_scale).reshape(count, antennas).T
    try:
        digest = info.get(f"{NAMESPACE}:layout_digest", "")
        recording = Recording(samples[0], settings, utc, digest, others=tuple(samples[1:]))
        stored = info.get(f"{NAMESPACE}:health", {})
        if not isinstance(stored, Mapping):
            raise RecordingError(f"{NAMESPACE}:health must be an object, found {stored!r:.60}")
        kept = {key: stored[key] for key in REPORTED if key in stored}
        return replace(recording, health=replace(recording.health, **kept))
    except RecordingError as error:
        raise RecordingError(f"{data.path}: {error}") from None


def _read_metadata(meta: Part) -> dict[str, Any]:
    """Return the parsed metadata, `captures` present."""
    if meta.size > MAX_META_BYTES:
        raise RecordingError(f"{meta.path} is larger than {MAX_META_BYTES} bytes; this is not SigMF metadata")
    try:
        content = b"".join(meta.blocks(MAX_META_BYTES))
    except OSError as error:
        raise RecordingError(f"recording {meta.path} can't be read: {error.strerror}; check the path") from None
    try:
        document = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RecordingError(f"{meta.path} is not valid JSON ({reason}); copy the file again") from None
    if not isinstance(document, dict) or not isinstance(document.get("global"), dict):
        raise RecordingError(f"{meta.path} has no 'global' object; this is not SigMF metadata")
    captures = document.setdefault("captures", [])
    if not isinstance(captures, list) or not all(isinstance(capture, dict) for capture in captures):
        raise RecordingError(f"{meta.path}: 'captures' must be a list of objects")
    return document


def _count_antennas(info: Mapping[str, Any], most: int) -> int:
    """Return the number of channels; refuse more than `most`, and data sets with more than samples in them."""
    channels = info.get("core:num_channels", 1)
    if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= most:
        raise RecordingError(f"core:num_channels is {channels!r:.60}, and at most {most} can be read here; split it")
    if "core:dataset" in info or info.get("core:trailing_bytes", 0) != 0:
        raise RecordingError(f"non-conforming data sets are not supported; convert to {DATA_SUFFIX}")
    return channels


def _finite(value: object) -> float | None:
    """Return a number of the metadata, None where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _read_rate(info: Mapping[str, Any], stated: Stated) -> float:
    found = info.get("core:sample_rate")
    if found is None and stated.rate_sps is not None:
        return stated.rate_sps
    rate_sps = _finite(found)
    if rate_sps is None or not 1.0 <= rate_sps <= 1e12:
        remedy = "; add it, or state it with `ota dataset import --rate-sps`" if found is None else ""
        raise RecordingError(f"core:sample_rate must be 1..1e12 samples per second, found {found!r:.60}{remedy}")
    if stated.rate_sps is not None and abs(stated.rate_sps - rate_sps) > 1e-9 * rate_sps:
        raise RecordingError(f"core:sample_rate is {rate_sps:.12g}, but {stated.rate_sps:.12g} is stated; leave it out")
    return rate_sps


def _read_captures(captures: list[dict[str, Any]], count: int, stated: Stated) -> tuple[float | None, str]:
    """Return the carrier frequency (None where unknown) and the time of the first sample (empty where unknown)."""
    before = -1
    for index, capture in enumerate(captures):
        if capture.get("core:header_bytes", 0) != 0:
            raise RecordingError("captures with header bytes are not supported; strip them")
        start = capture.get("core:sample_start", 0)
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start < count:
            raise RecordingError(
                f"capture {index} begins at sample {start!r:.40}, but the recording has samples 0..{count - 1}; mend "
                "core:sample_start"
            )
        if start <= before:
            raise RecordingError(
                f"capture {index} begins at sample {start}, the one before it at {before}; put the captures in order"
            )
        before = start
    carriers = [_finite(capture.get("core:frequency")) for capture in captures]
    known = [(index, hz) for index, hz in enumerate(carriers) if hz is not None and 0.0 <= hz <= MAX_CENTER_HZ]
    for index, hz in known[1:]:
        if hz != known[0][1]:
            raise RecordingError(
                f"the carrier changes from {known[0][1]:.12g} to {hz:.12g} Hz at sample "
                f"{captures[index]['core:sample_start']}; cut the recording there"
            )
    center_hz = known[0][1] if known else None
    if stated.center_hz is not None:
        if center_hz is not None and center_hz != stated.center_hz:
            raise RecordingError(
                f"core:frequency is {center_hz:.12g}, but {stated.center_hz:.12g} Hz is stated; leave it out"
            )
        center_hz = stated.center_hz
    first = captures[0] if captures else {}
    when = first.get("core:datetime")
    at_start = first.get("core:sample_start", 0) == 0
    return center_hz, when if at_start and isinstance(when, str) and is_utc(when) else ""


def _read_settings(path: Path, info: Mapping[str, Any], rate_sps: float, center_hz: float | None) -> RadioSettings:
    """Return the radio's settings; SigMF's own fields win over our extension."""
    stored = info.get(f"{NAMESPACE}:settings", {})
    if not isinstance(stored, Mapping):
        raise RecordingError(f"{NAMESPACE}:settings must be an object")
    known = {f.name for f in fields(RadioSettings)}
    values = {key: value for key, value in stored.items() if key in known}
    values.setdefault("uri", file_uri(path))
    values["rate_sps"] = rate_sps
    if center_hz is not None:
        values["center_hz"] = center_hz
    return RadioSettings(**values)


def file_uri(path: Path) -> str:
    """Return what settings call the radio of a file of others; what can't be printed is replaced.

    >>> file_uri(Path("runs/a\\tb"))
    'file:a?b'
    """
    return "file:" + "".join(letter if letter.isprintable() else "?" for letter in path.name)


def _count_samples(data: Part, sample_bytes: int, name: str, max_samples: int, antennas: int) -> int:
    """Return how many samples each antenna has, before any of them is read."""
    if data.size == 0:
        raise RecordingError(f"data file {data.path} is empty; capture again")
    if data.size % sample_bytes:
        raise RecordingError(
            f"data file {data.path} has {data.size} bytes, which is no multiple of the {sample_bytes} of {name}; it is "
            "truncated, copy it again"
        )
    count = data.size // sample_bytes
    if count > max_samples:
        raise RecordingError(f"data file {data.path} has {count} samples, more than the {max_samples} allowed; cut it")
    if count % antennas:
        raise RecordingError(
            f"data file {data.path} has {count} samples, which {antennas} channels can't share evenly; it is "
            "truncated, copy it again"
        )
    return count // antennas


def _read_samples(data: Part, count: int, info: Mapping[str, Any], full_scale: float | None) -> NDArray[np.complex64]:
    """Read the samples at full scale 1; the hash is checked."""
    kind, expected = DATATYPES[info["core:datatype"]], info.get("core:sha512")
    samples = np.empty(count, dtype=np.complex64)
    sha512 = hashlib.sha512()
    done = 0
    try:
        for chunk in data.blocks(_CHUNK_SAMPLES * kind.sample_bytes):
            size = len(chunk) // kind.sample_bytes
            if done + size > count or len(chunk) % kind.sample_bytes:
                done = -1
                break
            if expected is not None:
                sha512.update(chunk)
            samples[done : done + size] = kind.to_complex(chunk, full_scale)
            done += size
    except OSError as error:
        raise RecordingError(f"data file {data.path} can't be read: {error.strerror or error}") from None
    if done != count:
        raise RecordingError(f"data file {data.path} changed while it was read; wait until its writer has finished")
    if expected is not None and (not isinstance(expected, str) or expected.lower() != sha512.hexdigest()):
        raise RecordingError(
            f"data file {data.path} ({count} samples) doesn't match core:sha512 of its metadata; it is "
            "truncated or corrupted, copy it again"
        )
    return samples
