"""Hold captured samples, and write them as SigMF.

A recording is a pair PATH.sigmf-meta (JSON) and PATH.sigmf-data. Files are written through the `sigmf` package and
checked by its validator.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError
from sdr.files import replacing
from sdr.recordings.archive import sigmf_paths
from sdr.recordings.health import RecordingHealth, measure_health, worst_health
from sdr.recordings.metadata import NAMESPACE, global_info, import_sigmf, metadata_text
from sdr.settings import RadioSettings

MAX_SAMPLES = 1 << 28
"""Largest recording that is read into memory unless a caller allows more (2 GiB as complex64)."""

MAX_ANTENNAS = 8
"""Most antennas of a recording."""

_CHUNK_SAMPLES = 1 << 20


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
        others: what further antennas of the same receiver heard at the same time, complex64 (n,) each.

    Raises:
        RecordingError: the samples are of the wrong type, empty, or hold NaN or infinite values, or antennas have
            different numbers of them.

    >>> Recording(np.ones(4, np.complex64), RadioSettings(), utc_now()).num_samples
    4
    """

    samples: NDArray[np.complex64]
    settings: RadioSettings = field(default_factory=RadioSettings)
    utc: str = ""
    layout_digest: str = ""
    health: RecordingHealth = field(default=None)  # type: ignore[assignment]  # set below, so that readers never see None
    partial: bool = False
    others: tuple[NDArray[np.complex64], ...] = ()

    def __post_init__(self) -> None:
        samples = _checked(self.samples)
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "others", tuple(_checked(other) for other in self.others))
        if len(self.others) >= MAX_ANTENNAS:
            raise RecordingError(f"{1 + len(self.others)} antennas; a recording has {MAX_ANTENNAS} at most")
        for other in self.others:
            if other.size != samples.size:
                raise RecordingError(
                    f"one antenna has {samples.size} samples, another {other.size}; both have to be recorded together"
                )
        if not isinstance(self.settings, RadioSettings):
            raise RecordingError(f"a recording needs RadioSettings, found {type(self.settings).__name__}")
        if not isinstance(self.utc, str) or (self.utc and not is_utc(self.utc)):
            raise RecordingError(f"the capture time must be ISO 8601 like {utc_now()}, found {self.utc!r:.60}")
        if not isinstance(self.layout_digest, str) or not re.fullmatch(r"|[0-9a-f]{8}", self.layout_digest):
            raise RecordingError(f"a layout digest is 8 hex digits, found {self.layout_digest!r:.60}")
        if self.health is None:
            object.__setattr__(self, "health", worst_health([measure_health(each) for each in self.antennas]))

    @property
    def antennas(self) -> tuple[NDArray[np.complex64], ...]:
        """Samples (n,) of every antenna."""
        return (self.samples, *self.others)

    @property
    def stacked(self) -> NDArray[np.complex64]:
        """Samples (A, n) of all A antennas; those of one are not copied."""
        return np.stack(self.antennas) if self.others else self.samples[None]

    def with_antennas(self, antennas: Iterable[NDArray[np.complex64]]) -> "Recording":
        """Return the recording with other samples (n,), those of one antenna or more; its health is measured anew."""
        first, *others = antennas
        return replace(self, samples=first, others=tuple(others), health=None)  # type: ignore[arg-type]

    def alone(self, what: str) -> NDArray[np.complex64]:
        """Return the samples (n,) of the only antenna.

        Args:
            what: takes no more than one; begins the message.

        Raises:
            RecordingError: there are several.
        """
        if self.others:
            raise RecordingError(
                f"{what} takes the samples of one antenna, and '{self.settings.uri}' gave those of "
                f"{len(self.antennas)}; give one of them alone"
            )
        return self.samples

    @property
    def num_samples(self) -> int:
        """Length n, of each antenna."""
        return self.samples.size

    @property
    def duration_s(self) -> float:
        """Length at the settings' rate."""
        return self.samples.size / self.settings.rate_sps


def _checked(samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return samples (n,) of one antenna, as they may be kept."""
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
    return samples


def interleaved(antennas: Sequence[NDArray[np.complex64]]) -> NDArray[np.complex64]:
    """Return samples (n,) of A antennas as files hold them: (n * A,) little endian, a sample of each, then the next.

    >>> interleaved([np.array([1, 2], np.complex64), np.array([3, 4], np.complex64)]).real.tolist()
    [1.0, 3.0, 2.0, 4.0]
    """
    whole = antennas[0] if len(antennas) == 1 else np.stack(antennas, axis=1).ravel()
    return np.ascontiguousarray(whole, dtype="<c8")


def is_utc(text: str) -> bool:
    """Return whether a text is a time in ISO 8601.

    >>> is_utc("2026-11-28T12:00:00Z"), is_utc("yesterday")
    (True, False)
    """
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def write_recording(recording: Recording, path: str | os.PathLike[str]) -> Path:
    """Write a recording as SigMF, both files under their final names only when they are complete.

    Samples of several antennas are interleaved, as `core:num_channels` says.

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
                chunk = interleaved(
                    [samples[first : first + _CHUNK_SAMPLES] for samples in recording.antennas]
                ).tobytes()
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
    info = global_info(recording.settings, recording.health, len(recording.antennas), sha512, (NAMESPACE,))
    if recording.layout_digest:
        info[f"{NAMESPACE}:layout_digest"] = recording.layout_digest
    if recording.partial:
        info[f"{NAMESPACE}:partial"] = True
        info["core:description"] = "The capture broke off: the samples are those that had arrived."
    capture: dict[str, Any] = {"core:frequency": recording.settings.center_hz}
    if recording.utc:
        capture["core:datetime"] = recording.utc
    return metadata_text(info, capture)
