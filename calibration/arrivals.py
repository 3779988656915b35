"""Put the sounding frames of a recording on the transmitter's schedule."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.calibration_profile import CalibrationError
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

CODEC_DIGEST = "ca11b8a7"
"""Codec digest in the header of a sounding frame; no image codec has it."""

MIN_FRAMES = 8
"""Sounding frames without which nothing is measured."""


@dataclass(frozen=True, eq=False)
class Arrivals:
    """F sounding frames that arrived as scheduled.

    Attributes:
        frames: the frames, their headers read; as all antennas received them.
        numbers: (F,) which of the frames sent each of them is.
        place: (F,) samples from the first frame found to each, by the transmitter's schedule.
        start: (F,) first sample of each in the recording.
        arrival: (F,) sample at which the strongest path of each arrives, at the antenna that hears it best.
        sfo: what the SFO may be, as a ratio, the likeliest first: how much sooner than scheduled frames arrive, per
            sample.
        base: sample at which the strongest path of a frame at place 0 arrives.
        gaps: (place in samples, samples lost) wherever later frames arrived that much too soon.
    """

    frames: tuple[SyncedFrame, ...]
    numbers: NDArray[np.int64]
    place: NDArray[np.int64]
    start: NDArray[np.int64]
    arrival: NDArray[np.float64]
    sfo: tuple[float, ...]
    base: float
    gaps: tuple[tuple[int, int], ...]

    def base_for(self, sfo: float) -> float:
        """Return the sample at which the strongest path of a frame at place 0 arrives under another SFO."""
        return float(np.median(self.arrival - self.place * (1 - sfo)))


def find_arrivals(recording: Recording, layout: FrameLayout, num_sent: int, origin: int) -> Arrivals:
    """Find the sounding frames of a recording.

    Args:
        recording: the capture.
        layout: layout of the frames.
        num_sent: how many different frames were sent.
        origin: place of frame 0 in what was sent; negative where the transmission repeats.

    Raises:
        CalibrationError: too few sounding frames were found; it says what else was heard.
    """
    found = find_frames(recording, layout)
    frames = [f for f in found if f.header is not None and f.header.codec_digest == CODEC_DIGEST]
    if len(frames) < MIN_FRAMES:
        raise CalibrationError(_why_nothing(recording, len(found), len(frames)))
    number = np.array([f.header.frame_number for f in frames if f.header is not None], dtype=np.int64)
    start = np.array([f.start for f in frames], dtype=np.int64)
    loudest = [max(f.antennas, key=lambda each: each.signal_power / each.noise_var) for f in frames]
    arrival = start + np.array([f.arrival_samples for f in loudest], dtype=np.float64)
    # Repeated transmissions: count the periods that have passed.
    period = num_sent * layout.frame_samples
    place = (number - number[0]) * layout.frame_samples
    if origin < 0:
        place = place + period * np.rint((start - start[0] - place) / period).astype(np.int64)
    gaps = _find_gaps(place, arrival - place, layout.cp_samples + 4)
    schedule = place
    for at, lost in gaps:
        place = place - lost * (schedule >= at)
    sfo = _likely_sfo(place, arrival - place, frames, recording.settings.center_hz)
    base = float(np.median(arrival - place * (1 - sfo[0])))
    keep = np.abs(arrival - place * (1 - sfo[0]) - base) < layout.cp_samples + 4
    if np.count_nonzero(keep) < max(MIN_FRAMES, len(frames) // 2):
        raise CalibrationError(
            "the sounding frames don't keep their distance: samples were lost on the way; lower the rate"
        )
    kept = tuple(frame for frame, keeps in zip(frames, keep, strict=True) if keeps)
    return Arrivals(kept, number[keep], place[keep], start[keep], arrival[keep], sfo, base, gaps)


def _find_gaps(place: NDArray[np.int64], late: NDArray[np.float64], least: int) -> tuple[tuple[int, int], ...]:
    """Return where frames begin to arrive sooner and go on so, as samples were lost: (place, samples lost).

    Args:
        place: (F,) by the schedule.
        late: (F,) how much later than scheduled frames arrived.
        least: gaps of more samples are found.
    """
    gaps = []
    for index in range(2, late.size - 1):
        before, after = float(np.median(late[max(index - 3, 0) : index])), late[index : index + 3]
        lost = before - float(np.median(after))
        # One stray frame is no gap, and a gap shows at its first frame only.
        if lost > least and abs(late[index] - np.median(after)) <= least and abs(late[index - 1] - before) <= least:
            gaps.append((int(place[index]), round(lost)))
    return tuple(gaps)


def _why_nothing(recording: Recording, found: int, ours: int) -> str:
    """Return one line about a recording that holds no sounding."""
    health = recording.health
    if health.clipped_fraction > 0.01:
        return (
            f"{100 * health.clipped_fraction:.0f} % of the samples are saturated and only {ours} sounding frames are "
            "readable; lower tx_gain_db or rx_gain_db, or put an attenuator in between"
        )
    if found > ours:
        return (
            f"{found} frames were found, but only {ours} sounding frames with a readable header; raise the gains, or "
            "end the other transmission"
        )
    return (
        f"no signal: {ours} sounding frames in {recording.num_samples} samples at {health.rms_dbfs:.0f} dBFS, "
        f"{MIN_FRAMES} are needed; check antennas and gains, and that both radios are on one frequency and rate"
    )


def _likely_sfo(
    place: NDArray[np.int64], late: NDArray[np.float64], frames: list[SyncedFrame], center_hz: float
) -> tuple[float, ...]:
    """Return what the SFO may be, as a ratio, the likeliest first.

    One reference drives carrier and sampling clock, so where the measured SFO fits the CFO that is likeliest; but
    carriers may be tuned apart.

    Args:
        place: (F,) by the schedule.
        late: (F,) how much later than scheduled frames arrived.
        frames: F frames.
        center_hz: carrier, 0 where there is none.
    """
    # The slope between the medians of the first and the last third; outliers are frames whose first paths faded.
    third = max(len(frames) // 3, 1)
    span = float(np.median(place[-third:]) - np.median(place[:third]))
    if span <= 0:
        return (0.0,)
    measured = -(float(np.median(late[-third:])) - float(np.median(late[:third]))) / span
    spread = 1.4826 * float(np.median(np.abs(late - np.median(late)))) + 0.05
    error = 2.5 * spread / np.sqrt(third) / span
    found = [measured] if abs(measured) > 4 * error else [0.0]
    if center_hz > 0:
        tied = float(np.median([f.cfo_hz for f in frames])) / center_hz
        if abs(measured - tied) < 3 * error:
            found = [tied, *found]
    return tuple(dict.fromkeys(found))
