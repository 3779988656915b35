"""What decoding returns: per frame, per image, and together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from receiver.channel.estimate import ChannelEstimate
from receiver.sync.frame import SyncedFrame
from sdr.layout import FrameLayout


@dataclass(frozen=True)
class FrameReport:
    """What the receiver found out about one frame.

    Attributes:
        start_sample: first sample of the frame in the recording.
        cfo_hz: carrier frequency offset.
        snr_db: received signal to noise per active carrier.
        header_ok: the header's checksum was right.
        frame_number: from the header, None without one.
        metric: detection metric in [0, 1].
        noise_var: per carrier, in units of the recording.
        cfo_std_hz, snr_std_db, noise_var_std: standard errors of those estimates.
        drift_ppm, drift_std_ppm: sampling-clock offset that was measured, parts per million, and its standard error.
        corrected_drift_ppm: what was corrected.
        evm_db: error vector magnitude of the header, known symbols once it is read.
        papr_db: peak over mean power of the frame's samples as received.
        phase_rms_rad: rms common phase that was taken from the data symbols. phase_jitter_rad: rms phase of the header.
        phase_residual_rad, timing_residual_samples: standard errors of phase and delay left in a data symbol.
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
    drift_ppm: float
    drift_std_ppm: float
    corrected_drift_ppm: float
    evm_db: float
    papr_db: float
    phase_rms_rad: float
    phase_jitter_rad: float
    phase_residual_rad: float
    timing_residual_samples: float

    @classmethod
    def of(cls, frame: SyncedFrame, layout: FrameLayout, samples: NDArray[np.complex64]) -> FrameReport:
        """The report of a frame found in a capture (n,)."""
        first = frame.start + frame.advance
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
            drift_ppm=frame.drift_ppm,
            drift_std_ppm=frame.drift_std_ppm,
            corrected_drift_ppm=frame.corrected_drift_ppm,
            evm_db=frame.evm_db,
            papr_db=float(10 * np.log10(power.max() / power.mean())),
            phase_rms_rad=float(np.sqrt(np.mean(frame.phase_rad[layout.pilot_symbols :] ** 2))),
            phase_jitter_rad=frame.phase_jitter_rad,
            phase_residual_rad=frame.phase_residual_rad,
            timing_residual_samples=frame.timing_residual_samples,
        )


@dataclass(frozen=True)
class ImageResult:
    """One decoded image.

    Attributes:
        id: from the header.
        method: name in :data:`receiver.samplers.METHODS`.
        residual: ||y - W_h(E(x))||^2 / (K noise_var), about 1 for a right answer.
        residual_std: its standard deviation for right answers, whose mean is 1; see :func:`expected_residual_std`.
        residual_limit: the largest one accepted.
        expected_psnr_db: what the image is likely to have, see :mod:`receiver.acceptance`.
        accepted: the residual is no larger than noise explains, and `expected_psnr_db` no less than `ACCEPTED_PSNR_DB`;
            needs no ground truth.
        seconds: wall time of the batch divided by its images.
        image: (C, H, W) float32 in [0, 1]; the first draw where there are several.
        frame_number: the (first) frame that carried it.
        start_sample: `SyncedFrame.start` of that frame.
        taps: (L,) complex, the channel that it was decoded with, in the measurement's units (E||h||^2 = 1).
        mean, spread: (C, H, W) mean and standard deviation of the draws, None where there is but one.
    """

    id: str
    method: str
    residual: float
    residual_std: float
    residual_limit: float
    expected_psnr_db: float
    accepted: bool
    seconds: float
    image: NDArray[np.float32]
    frame_number: int
    start_sample: int
    taps: NDArray[np.complex64]
    mean: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class DecodeResult:
    """Everything decoded from one recording.

    Attributes:
        frames: every frame found, in order.
        images: per method and image, in the order of the methods asked for.
        synced: the synchronised frames behind ``frames``.
        estimates: pilot LMMSE estimate per frame that has a header (None for layouts without pilots).
        incomplete: ids of images some of whose frames were not found.
    """

    frames: tuple[FrameReport, ...]
    images: tuple[ImageResult, ...]
    synced: tuple[SyncedFrame, ...]
    estimates: tuple[ChannelEstimate | None, ...]
    incomplete: tuple[str, ...]
