"""Hear an air without an end: spectra, frames and their measurements, recordings; hand whole images to the decoders."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.live.assembly import FrameCounter, ImageAssembler
from lab.live.pictures import Waterfall
from lab.live.process import Status, run_process
from lab.live.settings import LAST_S, RECORD_LIMIT_S, SNAPSHOT_S, Job
from lab.live.wire import AIR_SOCKET, Bus, address
from receiver.results import FrameReport
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import stream_frames
from sdr.errors import RadioError, RecordingError
from sdr.radios.base import RX_SETTINGS, Radio, Streams, Tunes
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording, utc_now, write_recording
from sdr.settings import RadioSettings

CHUNK_SAMPLES = 1 << 15
"""Starts of frames that are searched together: a frame is known a thirtieth of a second after it came, or two."""

BLOCK_S = 0.02
PLAIN, SAMPLER = "plain", "sampler"
"""Names of the decoders' processes."""

QUEUED_WORK = 4
"""Work that waits for a decoder at either end of its way, at most: what is older is not worth showing."""


@dataclass(frozen=True, eq=False)
class Work:
    """Frames of whole images for a decoder.

    Attributes:
        frames: with headers.
        captured_s: `time.monotonic()` when their last sample came.
        seeds: what seeds its decoding where a recording is played: the number of the batch, or of a dataset the name
            of the capture; None on an air.
    """

    frames: tuple[SyncedFrame, ...]
    captured_s: float
    seeds: int | str | None = None


class Past:
    """The last seconds of a stream, and what is being recorded.

    Blocks are of samples (n,), or (A, n) of A antennas.

    Args:
        keep_samples: that are kept.
    """

    def __init__(self, keep_samples: int) -> None:
        self._keep = keep_samples
        self._blocks: deque[NDArray[np.complex64]] = deque()
        self._times: deque[tuple[int, float]] = deque()
        self.end = 0
        self._size = 0
        self._recorded: list[NDArray[np.complex64]] | None = None
        self._recorded_size = 0

    def add(self, block: NDArray[np.complex64], now_s: float) -> None:
        """Add the next samples, which came at `now_s`; those of another number of antennas begin anew."""
        if self._blocks and self._blocks[-1].shape[:-1] != block.shape[:-1]:
            self._blocks.clear()
            self._times.clear()
            self._size = self._recorded_size = 0
            self._recorded = None if self._recorded is None else []
        self._blocks.append(block)
        count = block.shape[-1]
        self._size += count
        self.end += count
        self._times.append((self.end, now_s))
        while self._size - self._blocks[0].shape[-1] >= self._keep:
            self._size -= self._blocks.popleft().shape[-1]
            self._times.popleft()
        if self._recorded is not None:
            self._recorded.append(block)
            self._recorded_size += count

    def last(self, count: int) -> NDArray[np.complex64]:
        """Return the last samples, at most `count`."""
        found: list[NDArray[np.complex64]] = []
        left = count
        for block in reversed(self._blocks):
            if left <= 0:
                break
            found.append(block[..., -left:])
            left -= block.shape[-1]
        return np.concatenate(found[::-1], axis=-1) if found else np.zeros(0, np.complex64)

    def came_s(self, sample: int) -> float:
        """Return when a sample came: the time of its block, or of the oldest or newest one that is known."""
        for end, when in self._times:
            if end > sample:
                return when
        return self._times[-1][1] if self._times else time.monotonic()

    def start_recording(self) -> None:
        """Begin to keep all samples."""
        self._recorded, self._recorded_size = [], 0

    @property
    def recorded_samples(self) -> int:
        """Samples recorded so far."""
        return self._recorded_size if self._recorded is not None else 0

    @property
    def recording(self) -> bool:
        """Whether samples are being recorded."""
        return self._recorded is not None

    def stop_recording(self) -> NDArray[np.complex64]:
        """Return what was recorded."""
        blocks, self._recorded = self._recorded or [], None
        return np.concatenate(blocks, axis=-1) if blocks else np.zeros(0, np.complex64)


class Recorder:
    """Writes what pages ask for, beside the stream.

    Args:
        job: of the process.
        bus: its bus.
        radio: settings that the recordings carry.
        past: of the stream.

    Attributes:
        radio: likewise; they may be changed.
    """

    def __init__(self, job: Job, bus: Bus, radio: RadioSettings, past: Past) -> None:
        self._layout, self._out = job.plan.layout, job.plan.settings.out
        self._bus, self.radio, self._past = bus, radio, past
        self._written = 0

    def obey(self, name: str, value: Any) -> None:
        """Do what an order asks for, if it is one for a recorder."""
        if name == "record_last":
            self.write(self._past.last(round(LAST_S * self.radio.rate_sps)), "recording")
        elif name == "snapshot":
            self.write(self._past.last(round(SNAPSHOT_S * self.radio.rate_sps)), "snapshot")
        elif name == "record" and value:
            self._past.start_recording()
        elif name == "record" and self._past.recording:
            self.write(self._past.stop_recording(), "recording")

    def limit(self) -> None:
        """End a recording that has become too long, and say so."""
        if self._past.recorded_samples > RECORD_LIMIT_S * self.radio.rate_sps:
            self.obey("record", False)
            self._bus.publish("set", name="record", value=False)

    def write(self, samples: NDArray[np.complex64], purpose: str) -> None:
        """Write samples as SigMF, in a thread of its own, and say so on the page.

        Args:
            samples: (n,) or (A, n), at least one.
            purpose: "recording" or "snapshot".
        """
        if not samples.size:
            self._bus.publish("event", level="error", text=f"no samples for a {purpose} yet")
            return
        self._written += 1
        name = f"{purpose}-{time.strftime('%Y%m%d-%H%M%S')}-{self._written}"
        first, *others = np.atleast_2d(samples)
        recording = Recording(first, self.radio, utc_now(), self._layout.digest, others=tuple(others))
        threading.Thread(target=self._write, args=(recording, name, purpose)).start()

    def _write(self, recording: Recording, name: str, purpose: str) -> None:
        # A socket belongs to one thread: this one has a bus of its own, as it would in another process.
        bus = self._bus.another()
        try:
            meta = write_recording(recording, self._out / name)
        except RecordingError as error:
            bus.publish("event", level="error", text=str(error))
        else:
            text = f"{purpose}: {recording.duration_s:.2f} s written to {meta}"
            bus.publish("event", level="info", text=text, recorded=name, purpose=purpose)
        finally:
            bus.close()


def listen(job: Job) -> None:
    """Run the receiver's process."""
    run_process(job, _listen)


def _listen(job: Job, bus: Bus) -> None:
    with open_receiver(job) as radio:
        bus.publish("ready")
        _Listener(job, bus, radio).run()


def open_receiver(job: Job) -> Radio:
    """Open the radio that hears the air.

    Raises:
        RadioError: it can't be opened.
    """
    settings, layout = job.plan.settings, job.plan.layout
    if settings.simulated or settings.duplex:
        # The air may begin late, and the engine sees its process die.
        uri = f"zmq:rx={address(job.folder, AIR_SOCKET)},timeout_s=3600,antennas={settings.antennas}"
    else:
        uri = settings.rx_radio or settings.radio or ""
    return open_radio(uri, layout=layout)


class _Listener:
    """The loop of the receiver."""

    def __init__(self, job: Job, bus: Bus, radio: Radio) -> None:
        self._bus, self._radio, self._layout = bus, radio, job.plan.layout
        self._rate_sps = radio.settings.rate_sps
        self._past = Past(round(LAST_S * self._rate_sps))
        self._values = {name: job.values[name] for name in RX_SETTINGS if name in job.values}
        self._retuned = isinstance(radio, Tunes)  # a process that began anew has what the page had set
        self._recorder = Recorder(job, bus, self._heard_with(job), self._past)
        self._waterfall = Waterfall(self._rate_sps)
        self._counter, self._assembler = FrameCounter(), ImageAssembler(self._layout)
        self._to = {name: bus.sender(name, QUEUED_WORK) for name in (PLAIN, SAMPLER)}
        self._dropped = dict.fromkeys(self._to, 0)
        self._status = Status(bus)
        self._began_s = 0.0

    def _heard_with(self, job: Job) -> RadioSettings:
        """Return the settings that recordings carry: of the radio, not of the socket that its samples come through."""
        uri = job.plan.settings.radio if job.plan.settings.duplex else None
        return replace(self._radio.settings, uri=uri or self._radio.settings.uri, **self._values)

    def run(self) -> None:
        """Hear until the process is ended."""
        center_hz = self._recorder.radio.center_hz
        rows: list[dict[str, Any]] = []
        sent_s = time.monotonic()
        for frame in stream_frames(self._blocks(), self._layout, center_hz=center_hz, chunk_samples=CHUNK_SAMPLES):
            rows.append(self._take(frame))
            if time.monotonic() - sent_s > BLOCK_S:
                self._bus.publish("frames", rows=rows)
                rows, sent_s = [], time.monotonic()

    def _take(self, frame: SyncedFrame) -> dict[str, Any]:
        """Count a frame, hand on the images that it ends, and return its row."""
        self._counter.count(None if frame.header is None else frame.header.frame_number)
        captured_s = self._past.came_s(frame.start + self._layout.frame_samples)
        for frames in self._assembler.add(frame):
            work = Work(tuple(frames), captured_s)
            for name, send in self._to.items():
                self._dropped[name] += not send(work)
        samples = self._past.last(self._past.end - max(frame.start, 0))
        origin = self._past.end - samples.shape[-1]
        first = np.atleast_2d(samples)[0]
        report = FrameReport.of(replace(frame, start=frame.start - origin), self._layout, first)
        return frame_row(replace(report, start_sample=report.start_sample + origin), frame)

    def _blocks(self) -> Iterator[NDArray[np.complex64]]:
        """Yield blocks of samples as they come, with all that is done to each on the way."""
        while True:
            if self._retuned:
                self._tune()
            with contextlib.closing(stream_blocks(self._radio, round(BLOCK_S * self._rate_sps))) as blocks:
                for block in blocks:
                    now = time.monotonic()
                    self._began_s = self._began_s or now
                    self._past.add(block, now)
                    for line in self._waterfall.add(np.atleast_2d(block)[0]):
                        self._bus.publish("line", {"power_dbfs": line}, time_s=time.time())
                    self._obey()
                    self._status.publish(self._numbers)
                    yield block
                    if self._retuned:
                        break

    def _tune(self) -> None:
        """Set the radio as the controls are, and tell its limits there; what it refuses is set back."""
        assert isinstance(self._radio, Tunes)
        self._retuned = False
        try:
            self._radio.tune_receiver(**self._values)
        except RadioError as error:
            self._bus.publish("event", level="error", text=str(error))
            self._values = {name: getattr(self._radio.settings, name) for name in self._values}
            for name, value in self._values.items():
                self._bus.publish("set", name=name, value=value)
        self._recorder.radio = self._radio.settings
        self._bus.publish("limits", limits=self._radio.rx_limits())

    def _obey(self) -> None:
        for name, value in self._bus.orders():
            self._recorder.obey(name, value)
            if name in self._values:
                self._values[name] = value
                self._retuned = isinstance(self._radio, Tunes)
                self._recorder.radio = replace(self._recorder.radio, **self._values)
        self._recorder.limit()

    def _numbers(self) -> dict[str, float | int]:
        due = (time.monotonic() - self._began_s) * self._rate_sps
        return {
            "samples": self._past.end,
            "samples_due": round(due),
            "overflows": getattr(self._radio, "overflows", lambda: 0)(),
            "frames": self._counter.found,
            "frames_unread": self._counter.unread,
            "frames_lost": self._counter.lost,
            "frames_twice": self._counter.twice,
            "images_incomplete": self._assembler.incomplete,
            "dropped_plain": self._dropped[PLAIN],
            "dropped_sampler": self._dropped[SAMPLER],
            "recorded_s": round(self._past.recorded_samples / self._rate_sps, 2),
        }


def frame_row(report: FrameReport, frame: SyncedFrame) -> dict[str, Any]:
    """Return what a page shows of a frame: its report, as run folders store it, and the images in it."""
    ids = [] if frame.header is None else list(frame.header.image_ids)
    return {**report.row(), "images": ids, "time_s": time.time()}


def stream_blocks(radio: Radio, block_samples: int) -> Generator[NDArray[np.complex64], None, None]:
    """Yield the samples that a radio hears in blocks (n,), or (A, n) of A antennas, without a gap.

    Raises:
        RadioError: it can't stream, or fails.
    """
    if isinstance(radio, Streams):
        yield from radio.stream(block_samples)
        return
    if radio.capabilities.finite:
        raise RadioError(f"radio '{radio.settings.uri}' can't stream: its samples have an end; use --play")
    while True:  # what a ZMQ radio gives next follows what it gave last
        heard = radio.receive(block_samples)
        yield np.stack(heard.antennas) if heard.others else heard.samples
