"""Results of decoding: of a frame, of an image, and of a recording."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from receiver.channel.estimate import ChannelEstimate
from receiver.sync.absence import Absence
from receiver.sync.frame import SyncedFrame
from sdr.layout import FrameLayout

#: Fields of `FrameReport` whose key in run folders is an older name.
_STORED_NAMES = {
    "sfo_ppm": "drift_ppm",
    "sfo_std_ppm": "drift_std_ppm",
    "corrected_sfo_ppm": "corrected_drift_ppm",
}


@dataclass(frozen=True)
class FrameReport:
    """Measurements of one frame.

    Attributes:
        start_sample: first sample of the frame in the recording.
        cfo_hz: carrier frequency offset.
        snr_db: received signal to noise per active carrier.
        header_ok: whether the header's checksum was right.
        frame_number: from the header, None without one.
        metric: detection metric, 0..1.
        noise_var: noise power per carrier, in units of the recording.
        cfo_std_hz: standard error of `cfo_hz`.
        snr_std_db: standard error of `snr_db`.
        noise_var_std: standard error of `noise_var`.
        sfo_ppm: sampling-clock offset as measured.
        sfo_std_ppm: its standard error.
        corrected_sfo_ppm: sampling-clock offset that was corrected.
        evm_db: error vector magnitude of the header, whose symbols are known once it is read.
        papr_db: peak over mean power of the frame's samples as received.
        phase_rms_rad: rms common phase that was taken from the data symbols.
        phase_jitter_rad: rms phase of the header's symbols about a line.
        phase_residual_rad: standard error of the phase left in a data symbol.
        timing_residual_samples: standard error of the delay left in a data symbol.
    """

    start_sample: int
    cfo_hz: float
    snr_db: float
    header_ok: bool
    frame_number: int | None
    metric: float
    noise_var: float
    cfo_std_hz: float
    snr_std_db: float
    noise_var_std: float
    sfo_ppm: float
    sfo_std_ppm: float
    corrected_sfo_ppm: float
    evm_db: float
    papr_db: float
    phase_rms_rad: float
    phase_jitter_rad: float
    phase_residual_rad: float
    timing_residual_samples: float

    @classmethod
    def of(cls, frame: SyncedFrame, layout: FrameLayout, samples: NDArray[np.complex64]) -> FrameReport:
        """Return the report of a frame found in samples (n,)."""
        first = frame.start + frame.advance
        taken_rad = frame.phase_rad[layout.pilot_symbols :]
        power = np.abs(samples[max(first, 0) : first + layout.num_symbols * layout.symbol_samples]) ** 2
        return cls(
            start_sample=first,
            cfo_hz=frame.cfo_hz,
            snr_db=frame.snr_db,
            header_ok=frame.header_ok,
            frame_number=None if frame.header is None else frame.header.frame_number,
            metric=frame.metric,
            noise_var=frame.noise_var,
            cfo_std_hz=frame.cfo_std_hz,
            snr_std_db=frame.snr_std_db,
            noise_var_std=frame.noise_var_std,
            sfo_ppm=frame.sfo_ppm,
            sfo_std_ppm=frame.sfo_std_ppm,
            corrected_sfo_ppm=frame.corrected_sfo_ppm,
            evm_db=frame.evm_db,
            papr_db=float(10 * np.log10(power.max() / power.mean())),
            phase_rms_rad=float(np.sqrt(np.mean(taken_rad**2))) if taken_rad.size else 0.0,
            phase_jitter_rad=frame.phase_jitter_rad,
            phase_residual_rad=frame.phase_residual_rad,
            timing_residual_samples=frame.timing_residual_samples,
        )

    def row(self) -> dict[str, Any]:
        """Return the report as it is stored in run folders."""
        return {_STORED_NAMES.get(name, name): value for name, value in vars(self).items()}

    @classmethod
    def stored_names(cls) -> tuple[str, ...]:
        """Return the keys of `row`."""
        return tuple(_STORED_NAMES.get(field.name, field.name) for field in fields(cls))

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> FrameReport:
        """Return the report that `row` stored; further keys are left alone, numbers stored as None are NaN."""
        values: dict[str, Any] = {field.name: row[_STORED_NAMES.get(field.name, field.name)] for field in fields(cls)}
        for name, value in values.items():
            if value is None and name != "frame_number":
                values[name] = math.nan
        return cls(**values)


@dataclass(frozen=True)
class ImageResult:
    """A decoded image.

    Attributes:
        id: from the header.
        method: name in :data:`receiver.samplers.METHODS`.
        residual: ||y - W_h(E(x))||^2 / (K noise_var), about 1 for a right answer.
        residual_std: its standard deviation for right answers, whose mean is 1; see :func:`expected_residual_std`.
        residual_limit: the largest residual that is accepted.
        expected_psnr_db: PSNR that the image is likely to have, see :mod:`receiver.acceptance`.
        accepted: whether the residual is no larger than noise explains and `expected_psnr_db` no less than
            `ACCEPTED_PSNR_DB`; needs no ground truth.
        seconds: wall time of the batch divided by its images.
        cbr: channel bandwidth ratio, complex symbols per value of the source, side information included.
        side_cbr: the part of it that is side information.
        image: (C, H, W) float32 in [0, 1]; the first draw where there are several.
        frame_number: the (first) frame that carried it.
        start_sample: `SyncedFrame.start` of that frame.
        taps: (L,) complex, the channel that it was decoded with, in the measurement's units (E||h||^2 = 1).
        mean: (C, H, W) mean of the draws, None where there is but one.
        spread: (C, H, W) standard deviation of the draws, None where there is but one.
        lost: share of its symbols that were in frames which did not arrive.
        receptions: how often its symbols were received, on average, where what was asked for again is combined with
            what came before; then `cbr` counts each reception, and `frame_number`, `start_sample` and `taps` are those
            of the first. None where nothing was asked for.
    """

    id: str
    method: str
    residual: float
    residual_std: float
    residual_limit: float
    expected_psnr_db: float
    accepted: bool
    seconds: float
    cbr: float
    side_cbr: float
    image: NDArray[np.float32]
    frame_number: int
    start_sample: int
    taps: NDArray[np.complex64]
    mean: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None
    lost: float = 0.0
    receptions: float | None = None


@dataclass(frozen=True)
class DecodeResult:
    """Everything decoded from one recording.

    Attributes:
        frames: every frame found, in order.
        images: per method and image, in the order of the methods asked for.
        synced: the synchronised frames behind ``frames``.
        estimates: pilot LMMSE estimate per frame that has a header (None for layouts without pilots), of the first
            antenna.
        incomplete: ids of images some of whose frames were not found.
        absent: frames that are missing, as far as those found tell.
        seen: where no header could be read: what was seen instead, and what to do; else empty.
    """

    frames: tuple[FrameReport, ...]
    images: tuple[ImageResult, ...]
    synced: tuple[SyncedFrame, ...]
    estimates: tuple[ChannelEstimate | None, ...]
    incomplete: tuple[str, ...]
    absent: tuple[Absence, ...] = ()
    seen: str = ""

    @property
    def partial(self) -> bool:
        """Whether frames, headers, images or parts of images are missing."""
        lost = any(image.lost for image in self.images)
        return lost or bool(self.incomplete or self.absent) or not all(frame.header_ok for frame in self.frames)
