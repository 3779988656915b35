"""Sending known frames, and what arrived of them on one common time axis.

A sounding is a transmission of numbered frames whose every cell is known. What a receiver finds by itself (frames,
headers) is used; beyond that, every symbol of a frame serves as a pilot, and the frames' known spacing puts the taps
of all of them on one axis of delays.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from receiver.channel.estimate import fourier_matrix
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.air.amplifier import apply_rapp
from sdr.calibration_profile import CalibrationError
from sdr.framing import FrameContent
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.modem import demodulate, modulate, modulate_stream
from sdr.radios.base import Radio
from sdr.recordings.recording import Recording

CODEC_DIGEST = "ca11b8a7"
"""What the header of a sounding frame names as its codec; no image codec has it."""

MAX_CYCLIC_FRAMES = 64
MIN_FRAMES = 8
_EXTRA_TAPS = 8
_WELL_CONDITIONED = 30.0
_EM_STEPS = 100
_AXIS_FRAMES = 48
"""Frames that axes of delays are tried on."""
_AXIS_GAIN = 0.02
"""By how much less must be left over before another axis than the plain one is taken."""


def sounding_frames(layout: FrameLayout, num_frames: int) -> list[FrameContent]:
    """Numbered frames full of QPSK symbols that only depend on the layout and the number."""
    frames = []
    for number in range(num_frames):
        quarter = np.random.Generator(np.random.PCG64([layout.seed, number])).integers(0, 4, layout.capacity)
        payload = np.exp(1j * (np.pi / 4 + np.pi / 2 * quarter)).astype(np.complex64)
        header = FrameHeader(
            frame_number=number,
            layout_digest=layout.digest,
            codec_digest=CODEC_DIGEST,
            csnr_db=0.0,
            image_shape=(1, 1, 1),
            symbols_per_image=layout.capacity,
            symbol_offset=0,
            num_payload=layout.capacity,
            image_ids=("sound",),
        )
        frames.append(FrameContent(header, payload))
    return frames


def capture_sounding(
    transmitter: Radio, receiver: Radio, layout: FrameLayout, num_frames: int, scale: float = 1.0
) -> tuple[Recording, int, int]:
    """Send sounding frames and record at least `num_frames` of them.

    Args:
        scale: amplitude that the samples are multiplied with, 0..1.

    Returns:
        The recording, how many different frames were sent, and the place of frame 0 in what was sent; -1 where the
        transmission repeats, so that no time is common to both ends.
    """
    repeat = transmitter.capabilities.cyclic and not transmitter.capabilities.finite
    count = min(num_frames, MAX_CYCLIC_FRAMES) if repeat else num_frames
    gap = 0 if repeat else layout.gap_samples
    samples = modulate_stream(sounding_frames(layout, count), layout, gap) * np.float32(scale)
    transmitter.transmit(samples, cyclic=repeat)
    wanted = None if receiver.capabilities.finite else (num_frames + 1) * layout.frame_samples
    return receiver.receive(wanted), count, -1 if repeat else gap


@dataclass(frozen=True, eq=False)
class Sounding:
    """What arrived of F sounding frames.

    Attributes:
        recording: the capture. layout: what was sent.
        frames: the frames found whose header was read.
        numbers: (F,) which of the frames sent each of them is.
        place: (F,) samples from the first of them to each, by the transmitter's schedule.
        taps: complex (F, L) channels in the recording's scale, in units of sent cells of unit power.
        power: (L,) mean power of each tap without the noise.
        taps_var: (L,) variance of the noise on each tap, in the mean over frames.
        axis_zero: sample of the recording at which tap 0 of the first frame arrives.
        first_delay: samples that tap 0 lies behind its frame's first sample. Absolute where the transmission was sent
            once, else relative to the first path that the receiver found.
        absolute: whether delays are absolute.
        slope_ppm: how much sooner than scheduled frames arrive with time: the transmitter's clock is faster by that.
        error_var: (F,) power per cell of what is left when the fitted channel is taken off, unbiased.
        error_freedom: complex degrees of freedom behind each of them.
        gaps: (place in samples, samples lost) wherever later frames arrived that much too soon.
    """

    recording: Recording
    layout: FrameLayout
    frames: tuple[SyncedFrame, ...]
    numbers: NDArray[np.int64]
    place: NDArray[np.int64]
    taps: NDArray[np.complex128]
    power: NDArray[np.float64]
    taps_var: NDArray[np.float64]
    axis_zero: float
    first_delay: float
    absolute: bool
    slope_ppm: float
    error_var: NDArray[np.float64]
    error_freedom: int
    gaps: tuple[tuple[int, int], ...] = ()


def analyse_sounding(
    recording: Recording,
    layout: FrameLayout,
    num_sent: int,
    origin: int,
    spread: int | None = None,
    curve: tuple[float, float] | None = None,
) -> Sounding:
    """Channels of all sounding frames of a recording, on one axis of delays.

    Args:
        num_sent, origin: as `capture_sounding` gives them.
        spread: taps to estimate; the prefix and a few more unless given.
        curve: saturation and smoothness of the transmitter's amplifier, where they are known; taps are then those
            behind it, for samples that it lets through as they are.

    Raises:
        CalibrationError: too few sounding frames were found; it says what else was heard.
    """
    found = find_frames(recording, layout)
    frames = [f for f in found if f.header is not None and f.header.codec_digest == CODEC_DIGEST]
    if len(frames) < MIN_FRAMES:
        raise CalibrationError(_why_nothing(recording, len(found), len(frames)))
    number = np.array([f.header.frame_number for f in frames if f.header is not None], dtype=np.int64)
    start = np.array([f.start for f in frames], dtype=np.int64)
    arrival = start + np.array([f.arrival_samples for f in frames])
    # Repeated transmissions: count the periods that have passed.
    period = num_sent * layout.frame_samples
    place = (number - number[0]) * layout.frame_samples
    if origin < 0:
        place = place + period * np.rint((start - start[0] - place) / period).astype(np.int64)
    gaps = _find_gaps(place, arrival - place, layout.cp_samples + 4)
    schedule = place
    for at, lost in gaps:
        place = place - lost * (schedule >= at)
    slopes = _slopes(place, arrival - place, frames, recording.settings.center_hz)
    slope = slopes[0]
    base = float(np.median(arrival - place * (1 - slope)))
    keep = np.abs(arrival - place * (1 - slope) - base) < layout.cp_samples + 4
    if np.count_nonzero(keep) < max(MIN_FRAMES, len(frames) // 2):
        raise CalibrationError(
            "the sounding frames don't keep their distance: samples were lost on the way; lower the rate"
        )
    frames, number, place = [f for f, k in zip(frames, keep, strict=True) if k], number[keep], place[keep]
    start, arrival = start[keep], arrival[keep]
    # The window of taps begins a little ahead of the median arrival of the strongest path.
    lead = min(layout.cp_samples, 12) // 2 + 2
    length = min(spread or layout.cp_samples + _EXTRA_TAPS + lead, layout.num_active // 2, layout.fft_size // 2)

    sent = _sent_cells(layout, number, curve)

    def fit(rows: slice, first: float, slope: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
        # Samples that a frame's windows open behind the axis' zero.
        shift = start[rows] - place[rows] * (1 - slope) - first
        return _fit(frames[rows], [sent[int(n)] for n in number[rows]], shift, layout, length, alike=curve is None)

    first = float(np.floor(base)) - lead
    if _well_conditioned(layout, length):
        # Paths between samples leak into all taps. The axis whose taps leave least over is the one that frames share.
        rows = slice(None, None, max(len(frames) // _AXIS_FRAMES, 1))
        least = (1 - _AXIS_GAIN) * float(fit(rows, first, slope)[3].mean())
        for other in slopes:
            base = float(np.median(arrival - place * (1 - other)))
            for fraction in (0.0, 0.25, 0.5, 0.75):
                zero = float(np.floor(base)) - lead + fraction
                left = float(fit(rows, zero, other)[3].mean())
                if left < least:
                    first, slope, least = zero, other, left
    taps, power, taps_var, error_var = fit(slice(None), first, slope)
    freedom = _num_cells(layout) - length
    if origin >= 0:
        first_delay = first - (origin + int(number[0]) * layout.frame_samples)
    else:
        first_delay = 0.0
    return Sounding(
        recording=recording,
        layout=layout,
        frames=tuple(frames),
        numbers=number,
        place=place,
        taps=taps,
        power=power,
        taps_var=taps_var,
        axis_zero=first,
        first_delay=first_delay,
        absolute=origin >= 0,
        slope_ppm=slope * 1e6,
        error_var=error_var,
        error_freedom=freedom,
        gaps=gaps,
    )


def _find_gaps(place: NDArray[np.int64], late: NDArray[np.float64], least: int) -> tuple[tuple[int, int], ...]:
    """Where frames begin to arrive sooner by more than `least` samples, and go on so: samples were lost before.

    Args:
        place: (F,) by the schedule. late: (F,) how much later than scheduled frames arrived.
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
    """One line about a recording that holds no sounding."""
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


def _slopes(
    place: NDArray[np.int64], late: NDArray[np.float64], frames: list[SyncedFrame], center_hz: float
) -> list[float]:
    """How much sooner than scheduled frames arrive, per sample: what may be, the likeliest first.

    One reference drives carrier and sampling clock, so where the measured slope fits the carrier's offset that is
    likeliest; but carriers may be tuned apart.
    """
    # The slope between the medians of the first and the last third; outliers are frames whose first paths faded.
    third = max(len(frames) // 3, 1)
    span = float(np.median(place[-third:]) - np.median(place[:third]))
    if span <= 0:
        return [0.0]
    measured = -(float(np.median(late[-third:])) - float(np.median(late[:third]))) / span
    spread = 1.4826 * float(np.median(np.abs(late - np.median(late)))) + 0.05
    error = 2.5 * spread / np.sqrt(third) / span
    found = [measured] if abs(measured) > 4 * error else [0.0]
    if center_hz > 0:
        tied = float(np.median([f.cfo_hz for f in frames])) / center_hz
        if abs(measured - tied) < 3 * error:
            found = [tied, *found]
    return list(dict.fromkeys(found))


def _well_conditioned(layout: FrameLayout, length: int) -> bool:
    """Whether taps can be told from another in a single frame: the carriers fill the band."""
    fourier = fourier_matrix(np.asarray(layout.active), length, layout.fft_size)
    return bool(np.linalg.cond(fourier.conj().T @ fourier) < _WELL_CONDITIONED)


def _num_cells(layout: FrameLayout) -> int:
    """Known cells in a frame: preamble A fills every other carrier only."""
    return (layout.num_symbols - 1) * layout.num_active + int(np.count_nonzero(layout.preamble_a))


def _sent_cells(
    layout: FrameLayout, number: NDArray[np.int64], curve: tuple[float, float] | None
) -> dict[int, NDArray[np.complex128]]:
    """(symbols, A) cells of every sounding frame as they leave the transmitter, limiting and amplifier included."""
    contents = {c.header.frame_number: c for c in sounding_frames(layout, int(number.max()) + 1)}
    found = {}
    for key in np.unique(number).tolist():
        samples = modulate(contents[key], layout)
        grid = demodulate(samples if curve is None else apply_rapp(samples, *curve), 0, layout, layout.num_symbols, 0)
        found[key] = (grid[:, layout.active_bins] / layout.amplitude).astype(np.complex128)
    return found


def _fit(
    frames: list[SyncedFrame],
    sent: list[NDArray[np.complex128]],
    shift: NDArray[np.float64],
    layout: FrameLayout,
    length: int,
    alike: bool,
) -> tuple[NDArray[np.complex128], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Taps (F, L) from all cells, (L,) their mean power, (L,) noise on them, (F,) error power per cell.

    Least squares where the carriers fill the band. Where they don't, taps a sample apart can't be told from another
    frame by frame; there the powers are those that make what was received most likely (expectation maximisation), and
    the taps are the LMMSE estimates under them.

    Args:
        sent: cells of each frame. alike: whether their magnitudes are the same in all frames, as without an amplifier.
    """
    bins, signed = layout.active_bins, np.asarray(layout.active)
    fourier = fourier_matrix(signed, length, layout.fft_size)
    matched = np.empty((len(frames), length), dtype=np.complex128)
    received_power = np.empty(len(frames))
    grams = np.zeros((1 if alike else len(frames), length, length), dtype=np.complex128)
    for row, frame in enumerate(frames):
        x = sent[row]
        y = np.concatenate([frame.preamble_grid, frame.header_grid, frame.grid])[:, bins].astype(np.complex128)
        y = y * np.exp(-2j * np.pi / layout.fft_size * signed * shift[row])
        if row < len(grams):
            grams[row] = fourier.conj().T @ (np.sum(np.abs(x) ** 2, axis=0)[:, None] * fourier)
        matched[row] = np.sum(y * x.conj(), axis=0) @ fourier.conj()
        received_power[row] = np.sum(np.abs(y) ** 2) - _unsent(y, layout)
    freedom = _num_cells(layout) - length

    def error_of(taps: NDArray[np.complex128]) -> NDArray[np.float64]:
        cross = np.sum(taps.conj() * matched, axis=1).real
        fitted = np.sum(taps.conj() * (grams @ taps[:, :, None])[:, :, 0], axis=1).real
        return np.maximum(received_power - 2 * cross + fitted, 1e-30) / freedom

    if _well_conditioned(layout, length):
        inverse = np.linalg.inv(grams)
        taps = (inverse @ matched[:, :, None])[:, :, 0]
        error = error_of(taps)
        noise = np.real(np.diag(inverse.mean(axis=0))).astype(np.float64) * float(error.mean())
        return taps, np.mean(np.abs(taps) ** 2, axis=0) - noise, noise, error
    ridge = float(np.trace(grams[0]).real) / length
    taps = (np.linalg.inv(grams + 1e-3 * ridge * np.eye(length)) @ matched[:, :, None])[:, :, 0]
    power = np.mean(np.abs(taps) ** 2, axis=0)
    spread = np.ones(length)
    for _ in range(_EM_STEPS):
        noise_var = float(error_of(taps).mean())
        floor = 1e-9 * float(power.max())
        covariance = np.linalg.inv(grams / noise_var + np.diag(1 / np.maximum(power, floor)))
        taps = (covariance @ matched[:, :, None])[:, :, 0] / noise_var
        spread = np.real(np.einsum("fll->fl", covariance)).mean(axis=0)
        power = np.mean(np.abs(taps) ** 2, axis=0) + spread
    return taps, power, spread, error_of(taps)


def _unsent(y: NDArray[np.complex128], layout: FrameLayout) -> float:
    """Power on the carriers of preamble A that nothing was sent on."""
    empty = np.asarray(layout.preamble_a)[layout.active_bins] == 0
    return float(np.sum(np.abs(y[0, empty]) ** 2))
