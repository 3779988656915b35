"""Send known frames, and bring what arrived of them onto one common time axis.

A sounding is a transmission of numbered frames whose every cell is known. What a receiver finds by itself (frames,
headers) is used; beyond that, every symbol of a frame serves as a pilot, and the frames' known spacing puts the taps
of all of them on one axis of delays. Several antennas find the frames together and share the axis; each has a sounding
of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from calibration.arrivals import CODEC_DIGEST, Arrivals, find_arrivals
from calibration.taps import TapFit, fit_taps, num_cells, well_conditioned
from receiver.sync.frame import SyncedFrame
from sdr.air.amplifier import apply_rapp
from sdr.calibration_profile import CalibrationError
from sdr.framing import FrameContent
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.modem import demodulate, modulate, modulate_stream
from sdr.radios.base import Radio
from sdr.recordings.health import measure_health
from sdr.recordings.recording import Recording

MAX_CYCLIC_FRAMES = 64
"""Different frames of a transmission that repeats."""

_EXTRA_TAPS = 8
_AXIS_FRAMES = 48
"""Frames that axes of delays are tried on."""

_AXIS_GAIN = 0.02
"""Share by which less must be left over before another axis than the plain one is taken."""


def sounding_frames(layout: FrameLayout, num_frames: int) -> list[FrameContent]:
    """Return numbered frames full of QPSK symbols that only depend on the layout and the number."""
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
        transmitter: sends them, again and again where it can.
        receiver: records.
        layout: layout of the frames.
        num_frames: how many to record.
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
    """F sounding frames at one antenna, on one axis of delays.

    Attributes:
        recording: the capture of this antenna.
        layout: layout of the frames.
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
        sfo_ppm: SFO: how much sooner than scheduled frames arrive with time, as the transmitter's clock is faster.
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
    sfo_ppm: float
    error_var: NDArray[np.float64]
    error_freedom: int
    gaps: tuple[tuple[int, int], ...] = ()


def analyse_sounding(
    recording: Recording,
    layout: FrameLayout,
    num_sent: int,
    origin: int,
    curve: tuple[float, float] | None = None,
) -> Sounding:
    """Estimate the channels of all sounding frames of one antenna, on one axis of delays; see `analyse_antennas`.

    Raises:
        RecordingError: there are several antennas.
        CalibrationError: too few sounding frames were found; it says what else was heard.
    """
    recording.alone("a sounding")
    return analyse_antennas(recording, layout, num_sent, origin, curve)[0]


def analyse_antennas(
    recording: Recording,
    layout: FrameLayout,
    num_sent: int,
    origin: int,
    curve: tuple[float, float] | None = None,
) -> tuple[Sounding, ...]:
    """Estimate the channels of all sounding frames at every antenna of a recording, on one axis of delays.

    The antennas share frames, schedule and axis, so that row f, tap l is the same path, at the same time, at all.

    Args:
        recording: the capture.
        layout: layout of the frames.
        num_sent: as `capture_sounding` gives it.
        origin: as `capture_sounding` gives it.
        curve: saturation and smoothness of the transmitter's amplifier, where they are known; taps are then those
            behind it, for samples that it lets through as they are.

    Raises:
        CalibrationError: too few sounding frames were found; it says what else was heard.
    """
    arrivals = find_arrivals(recording, layout, num_sent, origin)
    first, sfo, fits = _common_axis(arrivals, layout, curve)
    first_delay = first - (origin + int(arrivals.numbers[0]) * layout.frame_samples) if origin >= 0 else 0.0
    return tuple(
        Sounding(
            recording=alone,
            layout=layout,
            frames=tuple(frame.antennas[antenna] for frame in arrivals.frames),
            numbers=arrivals.numbers,
            place=arrivals.place,
            taps=fit.taps,
            power=fit.power,
            taps_var=fit.taps_var,
            axis_zero=first,
            first_delay=first_delay,
            absolute=origin >= 0,
            sfo_ppm=sfo * 1e6,
            error_var=fit.error_var,
            error_freedom=num_cells(layout) - fit.taps.shape[1],
            gaps=arrivals.gaps,
        )
        for antenna, (alone, fit) in enumerate(zip(apart(recording), fits, strict=True))
    )


def apart(recording: Recording) -> tuple[Recording, ...]:
    """Return what each antenna recorded, and its own levels; a recording of one antenna is returned as it is."""
    if not recording.others:
        return (recording,)
    of_driver = recording.health
    return tuple(
        replace(
            recording,
            samples=samples,
            others=(),
            health=measure_health(
                samples, of_driver.overflows, of_driver.gain_step_db, of_driver.stale, of_driver.transmit_gaps
            ),
        )
        for samples in recording.antennas
    )


@contextmanager
def of_antenna(index: int, count: int) -> Iterator[None]:
    """Say of which antenna of several what goes wrong in here is.

    Raises:
        CalibrationError: what was raised, with the antenna's number in front of it.
    """
    try:
        yield
    except CalibrationError as error:
        raise CalibrationError(f"antenna {index}: {error}" if count > 1 else str(error)) from None


def _common_axis(
    arrivals: Arrivals, layout: FrameLayout, curve: tuple[float, float] | None
) -> tuple[float, float, list[TapFit]]:
    """Return the sample at which tap 0 of a frame at place 0 arrives, the SFO as a ratio, and each antenna's taps."""
    # The window of taps begins a little ahead of the median arrival of the strongest path.
    lead = min(layout.cp_samples, 12) // 2 + 2
    length = min(layout.cp_samples + _EXTRA_TAPS + lead, layout.num_active // 2, layout.fft_size // 2)
    sent = _sent_cells(layout, arrivals.numbers, curve)
    cells = [sent[int(number)] for number in arrivals.numbers]

    def fit(rows: slice, first: float, sfo: float) -> list[TapFit]:
        # Samples that a frame's windows open behind the axis' zero.
        shift = arrivals.start[rows] - arrivals.place[rows] * (1 - sfo) - first
        frames = zip(*(frame.antennas for frame in arrivals.frames[rows]), strict=True)
        return [fit_taps(each, cells[rows], shift, layout, length, alike=curve is None) for each in frames]

    first, sfo = float(np.floor(arrivals.base)) - lead, arrivals.sfo[0]
    if well_conditioned(layout, length):
        # Paths between samples leak into all taps. The axis whose taps leave least over is the one that frames share.
        rows = slice(None, None, max(len(arrivals.frames) // _AXIS_FRAMES, 1))
        plain = [float(each.error_var.mean()) for each in fit(rows, first, sfo)]
        least = 1 - _AXIS_GAIN
        for other in arrivals.sfo:
            for fraction in (0.0, 0.25, 0.5, 0.75):
                zero = float(np.floor(arrivals.base_for(other))) - lead + fraction
                errors = [float(each.error_var.mean()) for each in fit(rows, zero, other)]
                left = float(np.mean(np.divide(errors, plain)))
                if left < least:
                    first, sfo, least = zero, other, left
    return first, sfo, fit(slice(None), first, sfo)


def _sent_cells(
    layout: FrameLayout, number: NDArray[np.int64], curve: tuple[float, float] | None
) -> dict[int, NDArray[np.complex128]]:
    """Return complex (symbols, A) cells by frame number as they leave the transmitter: limited, and amplified."""
    contents = {c.header.frame_number: c for c in sounding_frames(layout, int(number.max()) + 1)}
    found = {}
    for key in np.unique(number).tolist():
        samples = modulate(contents[key], layout)
        grid = demodulate(samples if curve is None else apply_rapp(samples, *curve), 0, layout, layout.num_symbols, 0)
        found[key] = (grid[:, layout.active_bins] / layout.amplitude).astype(np.complex128)
    return found
