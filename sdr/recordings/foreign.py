"""Read captures that others made: raw sample files, SigMF at other rates."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError
from sdr.layout import FrameLayout
from sdr.recordings.antennas import join_antennas
from sdr.recordings.archive import ARCHIVE_SUFFIX, DATA_SUFFIX, META_SUFFIX
from sdr.recordings.datatypes import NAMED_TYPES, RAW_TYPES, datatype
from sdr.recordings.reading import NOTHING_STATED, Stated, file_uri, read_recording
from sdr.recordings.recording import MAX_ANTENNAS, MAX_SAMPLES, Recording
from sdr.settings import RadioSettings

MAX_RATIO = 256.0
"""Largest ratio of two rates, up or down, that is resampled."""

_HALF_WIDTH = 24
_KAISER_BETA = 10.0
# Entries of the kernel that are in memory at a time.
_CHUNK = 1 << 21
# Entries of the kernel's table per sample: linear interpolation between them errs by -100 dB.
_TABLE = 512


def read_raw(
    path: str | os.PathLike[str], datatype_name: str, stated: Stated, max_samples: int = MAX_SAMPLES
) -> Recording:
    """Read a file of nothing but interleaved samples.

    Args:
        path: the file.
        datatype_name: key of `RAW_TYPES`.
        stated: its rate at least.
        max_samples: largest file that is read.

    Raises:
        RecordingError: unknown type, no rate, missing, empty or cut file, too many samples, NaN or infinite ones.
    """
    path = Path(path)
    kind = datatype(datatype_name, RAW_TYPES)
    if stated.rate_sps is None:
        raise RecordingError(f"{path} is no SigMF file; state its --rate-sps")
    try:
        if not path.is_file():
            raise RecordingError(f"{path} is not a file that is there; check the path")
        size = path.stat().st_size
        if size == 0 or size % kind.sample_bytes:
            raise RecordingError(
                f"{path} has {size} bytes, which is no positive multiple of the {kind.sample_bytes} of "
                f"{datatype_name}; check the type, or copy the file again"
            )
        if size // kind.sample_bytes > max_samples:
            raise RecordingError(
                f"{path} has {size // kind.sample_bytes} samples, at most {max_samples} are read; cut it"
            )
        samples = kind.to_complex(path.read_bytes(), stated.full_scale)
    except OSError as error:
        raise RecordingError(f"{path} can't be read: {error.strerror}; check the path") from None
    try:
        return Recording(samples, RadioSettings(file_uri(path), stated.center_hz or 0.0, stated.rate_sps))
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None


def resample(samples: NDArray[np.complex64], from_sps: float, to_sps: float) -> NDArray[np.complex64]:
    """Resample by a windowed sinc; output sample 0 falls on input sample 0.

    The pass band ends at 90 % of the lower of the two Nyquist frequencies, so a layout without guard bands ("paper")
    loses its outermost carriers.

    Raises:
        RecordingError: rates too far apart, or too many samples.

    >>> resample(np.ones(1000, np.complex64), 2e6, 1e6).size
    500
    """
    if not (from_sps > 0 and to_sps > 0 and 1 / MAX_RATIO <= from_sps / to_sps <= MAX_RATIO):
        raise RecordingError(
            f"{from_sps:g} samples per second can't become {to_sps:g}: rates are positive and differ by a factor of "
            f"{MAX_RATIO:g} at most; check the rate that is stated"
        )
    ratio = from_sps / to_sps
    # 5 % below Nyquist: half of the transition lies on either side.
    cutoff = 0.95 * min(1.0, 1.0 / ratio)
    half = math.ceil(_HALF_WIDTH * max(1.0, ratio) * 2.5)
    count = max(1, math.floor(samples.size / ratio))
    if count > MAX_SAMPLES:
        raise RecordingError(
            f"{samples.size} samples become {count} at {to_sps:g} samples per second, at most {MAX_SAMPLES} are taken; "
            "cut the recording"
        )
    block = max(1, _CHUNK // (2 * half))
    padded = np.concatenate([np.zeros(half, np.complex64), samples, np.zeros(half + 2, np.complex64)])
    out = np.empty(count, dtype=np.complex64)
    reach = np.arange(-half + 1, half + 1)
    grid = np.arange(half * _TABLE + 1) / _TABLE
    window = np.i0(_KAISER_BETA * np.sqrt(1.0 - (grid / half) ** 2)) / np.i0(_KAISER_BETA)
    table = cutoff * np.sinc(cutoff * grid) * window
    for first in range(0, count, block):
        places = np.arange(first, min(first + block, count)) * ratio
        whole = np.floor(places).astype(np.int64)
        distance = (places - whole)[:, None] - reach[None, :]
        kernel = np.interp(np.abs(distance), grid, table)
        out[first : first + places.size] = np.einsum("nk,nk->n", kernel, padded[whole[:, None] + reach[None, :] + half])
    return out


@dataclass(frozen=True)
class ForeignCapture:
    """A capture of others.

    Attributes:
        recording: at the layout's rate.
        problems: reasons why frames may not be found in it, one line each.
    """

    recording: Recording
    problems: tuple[str, ...]


def import_capture(
    path: str | os.PathLike[str],
    layout: FrameLayout,
    datatype_name: str = "",
    stated: Stated = NOTHING_STATED,
    antennas: Sequence[str | os.PathLike[str]] = (),
) -> ForeignCapture:
    """Read a foreign capture, of one antenna or more, at the layout's rate.

    Args:
        path: SigMF (either file, or an archive), or a raw file of one antenna.
        layout: of its frames.
        datatype_name: of a raw file; SigMF says it itself.
        stated: of a raw file at least the rate; of SigMF what its metadata lack.
        antennas: files that further antennas of the same receiver made at the same time.

    Raises:
        RecordingError: one can't be read, a raw file's type or rate is not stated, or SigMF's is, or files of antennas
            don't fit each other.
    """
    paths = (path, *antennas)
    recording = join_antennas([_read(each, datatype_name, stated) for each in paths], paths)
    found, wanted = recording.settings, layout.rate_sps
    problems = []
    occupied_hz = (max(layout.active) - min(layout.active) + 1) * layout.carrier_spacing_hz
    if found.rate_sps < 0.999 * occupied_hz:
        problems.append(
            f"{found.rate_sps:.6g} samples per second hold only {found.rate_sps / occupied_hz:.0%} of the "
            f"{occupied_hz:.6g} Hz of layout {layout.name}; record faster"
        )
    if not all(np.any(samples.imag) for samples in recording.antennas):
        problems.append("the quadrature is zero: the lower half of the band mirrors the upper; record both components")
    if abs(found.rate_sps - wanted) <= 1e-9 * wanted:
        return ForeignCapture(recording, tuple(problems))
    settings = RadioSettings(found.uri, found.center_hz, wanted, found.bandwidth_hz, found.tx_gain_db, found.rx_gain_db)
    try:
        first, *others = (resample(samples, found.rate_sps, wanted) for samples in recording.antennas)
    except RecordingError as error:
        raise RecordingError(f"{path}: {error}") from None
    return ForeignCapture(Recording(first, settings, recording.utc, others=tuple(others)), tuple(problems))


def _read(path: str | os.PathLike[str], datatype_name: str, stated: Stated) -> Recording:
    """Read a file of SigMF, or a raw one."""
    if os.fspath(path).endswith((META_SUFFIX, DATA_SUFFIX, ARCHIVE_SUFFIX)):
        if datatype_name:
            raise RecordingError(f"{path} is SigMF, which names its own type; leave out --datatype")
        return read_recording(path, stated=stated, max_antennas=MAX_ANTENNAS)
    if not datatype_name:
        raise RecordingError(f"{path} is no SigMF file; state its --datatype ({NAMED_TYPES}) and --rate-sps")
    return read_raw(path, datatype_name, stated)
