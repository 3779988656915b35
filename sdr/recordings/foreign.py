"""Read captures that others made: raw sample files, SigMF at other rates."""

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError, did_you_mean
from sdr.layout import FrameLayout
from sdr.recordings.recording import DATA_SUFFIX, MAX_SAMPLES, META_SUFFIX, Recording, read_recording
from sdr.settings import RadioSettings

RAW_TYPES: dict[str, tuple[str, float]] = {"cf32": ("<f4", 1.0), "ci16": ("<i2", 32768.0), "ci8": ("i1", 128.0)}
"""Type of one component and the value of full scale, by name. `uhd_rx_cfile` writes cf32 (ci16 with -s), `iio_readdev`
writes ci16 whose full scale is 2048 for a Pluto's 12-bit converter, `hackrf_transfer` writes ci8."""

_HALF_WIDTH = 24
_KAISER_BETA = 10.0
_CHUNK = 1 << 14
# Entries of the kernel's table per sample: linear interpolation between them errs by -100 dB.
_TABLE = 512


def read_raw(
    path: str | os.PathLike[str],
    datatype: str,
    rate_sps: float,
    center_hz: float = 0.0,
    full_scale: float | None = None,
    max_samples: int = MAX_SAMPLES,
) -> Recording:
    """Read a file of nothing but interleaved samples, little-endian.

    Args:
        datatype: key of `RAW_TYPES`.
        full_scale: value that becomes 1; the type's own unless given.

    Raises:
        RecordingError: unknown type, missing, empty or cut file, too many samples, NaN or infinite ones.
    """
    path = Path(path)
    if datatype not in RAW_TYPES:
        raise RecordingError(f"there is no sample type {datatype!r}; {did_you_mean(datatype, RAW_TYPES)}")
    component, scale = RAW_TYPES[datatype]
    scale = scale if full_scale is None else full_scale
    if not (math.isfinite(scale) and scale > 0):
        raise RecordingError(f"full scale must be a positive number, found {scale}")
    sample_bytes = 2 * np.dtype(component).itemsize
    try:
        size = path.stat().st_size
        if size == 0 or size % sample_bytes:
            raise RecordingError(
                f"{path} has {size} bytes, which is no positive multiple of the {sample_bytes} of {datatype}; "
                "check the type, or copy the file again"
            )
        if size // sample_bytes > max_samples:
            raise RecordingError(f"{path} has {size // sample_bytes} samples, at most {max_samples} are read; cut it")
        values = np.fromfile(path, dtype=component).astype(np.float32)
    except OSError as error:
        raise RecordingError(f"{path} can't be read: {error.strerror}; check the path") from None
    samples = (values / np.float32(scale)).view(np.complex64)
    return Recording(samples, RadioSettings(f"file:{path.name}", center_hz, rate_sps))


def resample(samples: NDArray[np.complex64], from_sps: float, to_sps: float) -> NDArray[np.complex64]:
    """Resample by a windowed sinc; output sample 0 falls on input sample 0.

    The pass band ends at 90 % of the lower of the two Nyquist frequencies, so a layout without guard bands ("paper")
    loses its outermost carriers.

    >>> resample(np.ones(1000, np.complex64), 2e6, 1e6).size
    500
    """
    if not (from_sps > 0 and to_sps > 0):
        raise RecordingError(f"rates must be positive, found {from_sps} and {to_sps}")
    ratio = from_sps / to_sps
    # 5 % below Nyquist: half of the transition lies on either side.
    cutoff = 0.95 * min(1.0, 1.0 / ratio)
    half = math.ceil(_HALF_WIDTH * max(1.0, ratio) * 2.5)
    count = max(1, math.floor(samples.size / ratio))
    padded = np.concatenate([np.zeros(half, np.complex64), samples, np.zeros(half + 2, np.complex64)])
    out = np.empty(count, dtype=np.complex64)
    reach = np.arange(-half + 1, half + 1)
    grid = np.arange(half * _TABLE + 1) / _TABLE
    window = np.i0(_KAISER_BETA * np.sqrt(1.0 - (grid / half) ** 2)) / np.i0(_KAISER_BETA)
    table = cutoff * np.sinc(cutoff * grid) * window
    for first in range(0, count, _CHUNK):
        places = np.arange(first, min(first + _CHUNK, count)) * ratio
        whole = np.floor(places).astype(np.int64)
        distance = (places - whole)[:, None] - reach[None, :]
        kernel = np.interp(np.abs(distance), grid, table)
        out[first : first + places.size] = np.einsum("nk,nk->n", kernel, padded[whole[:, None] + reach[None, :] + half])
    return out


def import_capture(
    path: str | os.PathLike[str],
    layout: FrameLayout,
    datatype: str = "",
    rate_sps: float = 0.0,
    center_hz: float = 0.0,
    full_scale: float | None = None,
) -> Recording:
    """Read a foreign capture at the layout's rate: SigMF, or with `datatype` and `rate_sps` stated, a raw file.

    Raises:
        RecordingError: it can't be read, or a raw file's type or rate is not stated.
    """
    if str(path).endswith((META_SUFFIX, DATA_SUFFIX)):
        recording = read_recording(path)
    elif not datatype or not rate_sps:
        raise RecordingError(f"{path} is no SigMF file; state its --datatype ({', '.join(RAW_TYPES)}) and --rate-sps")
    else:
        recording = read_raw(path, datatype, rate_sps, center_hz, full_scale)
    found, wanted = recording.settings, layout.rate_sps
    if abs(found.rate_sps - wanted) <= 1e-9 * wanted:
        return recording
    settings = RadioSettings(found.uri, found.center_hz, wanted, found.bandwidth_hz, found.tx_gain_db, found.rx_gain_db)
    return Recording(resample(recording.samples, found.rate_sps, wanted), settings, recording.utc)
