"""Play a recording instead of hearing an air: the frames and images are those that `ota decode` finds in it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.live.assembly import FrameCounter
from lab.live.pictures import LINES_PER_SECOND, line_dbfs
from lab.live.process import Status, run_process
from lab.live.receiver import BLOCK_S, PLAIN, QUEUED_WORK, SAMPLER, Recorder, Work, frame_row
from lab.live.settings import LAST_S, SNAPSHOT_S, Job
from lab.live.wire import Bus
from receiver.fitting import batches_of_images
from receiver.results import FrameReport
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.errors import RecordingError
from sdr.layout import FrameLayout
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording


@dataclass(frozen=True, eq=False)
class Programme:
    """A recording, and what is in it.

    Attributes:
        recording: that is played.
        frames: found in it, in order of time.
        rows: one a frame, as a page shows it.
        batches: of frames with headers, as `receiver.decode.decode_recording` makes them.
    """

    recording: Recording
    frames: tuple[SyncedFrame, ...]
    rows: tuple[dict[str, Any], ...]
    batches: tuple[tuple[SyncedFrame, ...], ...]


def make_programme(recording: Recording, layout: FrameLayout, batch_size: int, draws: int) -> Programme:
    """Find all that a recording holds.

    Raises:
        RecordingError: its rate is not the layout's, or it was made with another one.
    """
    from lab.experiments.decode_file import check_layout

    check_layout(recording, layout)
    frames = find_frames(recording, layout)
    rows = tuple(frame_row(FrameReport.of(frame, layout, recording.samples), frame) for frame in frames)
    readable = [(frame, frame) for frame in frames if frame.header is not None]
    batches = tuple(tuple(batch) for batch in batches_of_images(readable, batch_size, draws))
    return Programme(recording, tuple(frames), rows, batches)


def play(job: Job) -> None:
    """Run the process that plays a recording."""
    run_process(job, _play)


def _play(job: Job, bus: Bus) -> None:
    settings = job.plan.settings
    if settings.play is None:
        raise RecordingError("there is no recording to play; give --play")
    recording = read_recording(settings.play)
    programme = make_programme(recording, job.plan.layout, settings.decoding.batch_size, job.values.get("draws", 1))
    text = f"playing {recording.duration_s:.2f} s with {len(programme.frames)} frames"
    bus.publish("event", level="info", text=text)
    _Player(job, bus, programme).run()


class _Player:
    """The loop that plays."""

    def __init__(self, job: Job, bus: Bus, programme: Programme) -> None:
        self._bus, self._programme = bus, programme
        self._samples, self._rate_sps = programme.recording.samples, programme.recording.settings.rate_sps
        self._values = dict(job.values)
        self._recorder = Recorder(job, bus, programme.recording.settings)
        self._to = {name: bus.sender(name, QUEUED_WORK) for name in (PLAIN, SAMPLER)}
        self._dropped = dict.fromkeys(self._to, 0)
        self._starts = np.array([frame.start for frame in programme.frames], dtype=np.int64)
        self._batch_starts = np.array([batch[0].start for batch in programme.batches], dtype=np.int64)
        self._counter = FrameCounter()
        self._position = self._record_from = 0
        self._played = 0

    def run(self) -> None:
        """Play until the process is ended."""
        status = Status(self._bus)
        step = max(1, round(self._rate_sps / LINES_PER_SECOND))
        due_s = time.monotonic()
        while True:
            self._obey()
            status.publish(self._numbers)
            if self._values["pause"] or self._position >= self._samples.size:
                if not self._values["pause"] and self._values["loop"]:
                    self._jump(0)
                due_s = time.monotonic()
                time.sleep(BLOCK_S)
                continue
            self._step(min(self._position + step, self._samples.size))
            due_s = max(due_s + step / self._rate_sps, time.monotonic() - 1.0)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _jump(self, position: int) -> None:
        self._position = position
        self._counter.forget()

    def _step(self, end: int) -> None:
        """Play up to a sample."""
        begin, self._position = self._position, end
        self._played += end - begin
        if end - begin >= 256:
            place = end / self._samples.size
            self._bus.publish(
                "line", {"power_dbfs": line_dbfs(self._samples[begin:end])}, time_s=time.time(), place=place
            )
        now = time.monotonic()
        for index in _between(self._batch_starts, begin, end):
            work = Work(self._programme.batches[index], now, index)
            for name, send in self._to.items():
                self._dropped[name] += not send(work)
        rows = []
        for index in _between(self._starts, begin, end):
            header = self._programme.frames[index].header
            self._counter.count(None if header is None else header.frame_number)
            rows.append({**self._programme.rows[index], "time_s": time.time()})
        if rows:
            self._bus.publish("frames", rows=rows)

    def _obey(self) -> None:
        for name, value in self._bus.orders():
            self._values[name] = value
            if name == "seek":
                self._jump(int(value * self._samples.size))
            elif name in ("record_last", "snapshot"):
                seconds, purpose = (LAST_S, "recording") if name == "record_last" else (SNAPSHOT_S, "snapshot")
                begin = max(0, self._position - round(seconds * self._rate_sps))
                self._recorder.write(self._samples[begin : self._position], purpose)
            elif name == "record" and value:
                self._record_from = self._position
            elif name == "record":
                self._recorder.write(self._samples[self._record_from : self._position], "recording")

    def _numbers(self) -> dict[str, float | int]:
        return {
            "samples": self._played,
            "place": self._position / self._samples.size,
            "frames": self._counter.found,
            "frames_unread": self._counter.unread,
            "frames_lost": self._counter.lost,
            "frames_twice": self._counter.twice,
            "dropped_plain": self._dropped[PLAIN],
            "dropped_sampler": self._dropped[SAMPLER],
        }


def _between(starts: np.ndarray, begin: int, end: int) -> range:
    """Return the indices of sorted starts in begin..end, those before the first sample with it."""
    low = 0 if begin == 0 else int(np.searchsorted(starts, begin))
    return range(low, int(np.searchsorted(starts, end)))
