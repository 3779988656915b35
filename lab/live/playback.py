"""Play recordings instead of hearing an air: the frames and images are those that `ota decode` finds in them."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lab.live.assembly import FrameCounter
from lab.live.pictures import LINES_PER_SECOND, line_dbfs
from lab.live.process import Status, run_process
from lab.live.receiver import BLOCK_S, PLAIN, QUEUED_WORK, SAMPLER, Past, Recorder, Work, frame_row
from lab.live.settings import LAST_S, Job
from lab.live.wire import Bus
from receiver.fitting import batches_of_images
from receiver.front_end import in_units
from receiver.results import FrameReport
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import stream_frames
from sdr.errors import OtaError, RecordingError
from sdr.layout import FrameLayout
from sdr.recordings.antennas import read_antennas
from sdr.recordings.dataset import IndexRow, is_dataset, open_capture, read_index
from sdr.recordings.recording import Recording

DATASET_BLOCK_SAMPLES = 1 << 20
"""Blocks in which `ota decode` reads the captures of a dataset."""


@dataclass(frozen=True, eq=False)
class Programme:
    """A recording, and what is in it.

    Attributes:
        recording: that is played.
        frames: found in it, in order of time.
        rows: one a frame, as a page shows it.
        work: for the decoders, in batches as `ota decode` makes them; it comes when it is played.
    """

    recording: Recording
    frames: tuple[SyncedFrame, ...]
    rows: tuple[dict[str, Any], ...]
    work: tuple[Work, ...]


def make_programme(
    recording: Recording, layout: FrameLayout, batch_size: int, draws: int, capture: str | None = None
) -> Programme:
    """Find all that a recording holds.

    Args:
        recording: that is played.
        layout: of its frames.
        batch_size: images that are decoded together, at most.
        draws: samples of the posterior per image.
        capture: name of the recording in a dataset, whose decoding is seeded by it; None: it is none of a dataset.

    Raises:
        RecordingError: its rate is not the layout's, or it was made with another one.
    """
    from lab.experiments.decode_file import check_layout

    check_layout(recording, layout)
    recording = in_units(recording)
    step = recording.num_samples if capture is None else DATASET_BLOCK_SAMPLES
    starts = range(0, recording.num_samples, step)
    blocks = (np.stack([heard[first : first + step] for heard in recording.antennas]) for first in starts)
    frames = tuple(stream_frames(blocks, layout, center_hz=recording.settings.center_hz))
    rows = tuple(frame_row(FrameReport.of(frame, layout, recording.samples), frame) for frame in frames)
    readable = [(frame, frame) for frame in frames if frame.header is not None]
    batches = batches_of_images(readable, batch_size, draws if capture is None else 1)
    work = tuple(Work(tuple(batch), 0.0, index if capture is None else capture) for index, batch in enumerate(batches))
    return Programme(recording, frames, rows, work)


@dataclass(frozen=True)
class Track:
    """A recording among those that are played one after the other.

    Attributes:
        folder: of the dataset; None: it is a single recording.
        row: of the dataset's index; None likewise.
        path: of the single recording; None: it is one of a dataset.
        begin: its first sample among those of all tracks.
        end: behind its last one.
    """

    folder: Path | None
    row: IndexRow | None
    path: Path | None
    begin: int
    end: int

    def load(self, job: Job) -> Programme:
        """Read it and find what it holds.

        Raises:
            OtaError: it can't be read, or is of another layout.
        """
        decoding = job.plan.settings.decoding
        batch_size, draws, layout = decoding.batch_size, job.values.get("draws", 1), job.plan.layout
        if self.folder is not None and self.row is not None:
            return make_programme(open_capture(self.folder, self.row), layout, batch_size, draws, self.row.recording)
        assert self.path is not None
        return make_programme(read_antennas([self.path]), layout, batch_size, draws)


def find_tracks(path: Path, layout: FrameLayout) -> list[Track]:
    """Return what is played: a recording, or the captures of a dataset that have a layout, in the index's order.

    Raises:
        RecordingError: it can't be read, or none has the layout.
    """
    if not is_dataset(path):
        return [Track(None, None, path, 0, read_antennas([path]).num_samples)]
    rows = [row for row in read_index(path) if row.layout_digest in ("", layout.digest)]
    if not rows:
        raise RecordingError(f"no capture of {path} has layout {layout.name} ({layout.digest}); give another --layout")
    ends = list(itertools.accumulate(row.num_samples for row in rows))
    return [Track(path, row, None, end - row.num_samples, end) for row, end in zip(rows, ends, strict=True)]


def play(job: Job) -> None:
    """Run the process that plays recordings."""
    run_process(job, _play)


def _play(job: Job, bus: Bus) -> None:
    path = job.plan.settings.play
    if path is None:
        raise RecordingError("there is no recording to play; give --play")
    _Player(job, bus, find_tracks(path, job.plan.layout)).run()


class _Player:
    """The loop that plays. Positions count the samples of all tracks."""

    def __init__(self, job: Job, bus: Bus, tracks: list[Track]) -> None:
        self._job, self._bus, self._tracks = job, bus, tracks
        self._begins = np.array([track.begin for track in tracks])
        self._end = tracks[-1].end
        self._values = dict(job.values)
        self._to = {name: bus.sender(name, QUEUED_WORK) for name in (PLAIN, SAMPLER)}
        self._dropped = dict.fromkeys(self._to, 0)
        self._counter = FrameCounter()
        self._position = self._failures = 0
        self._load(0)
        settings = self._programme.recording.settings
        self._rate_sps = settings.rate_sps
        self._past = Past(round(LAST_S * self._rate_sps))
        self._recorder = Recorder(job, bus, settings, self._past)

    def _load(self, index: int) -> None:
        self._programme = programme = self._tracks[index].load(self._job)
        self._index = index
        self._starts = np.array([frame.start for frame in programme.frames], dtype=np.int64)
        self._work_starts = np.array([work.frames[0].start for work in programme.work], dtype=np.int64)
        self._counter.forget()
        row = self._tracks[index].row
        name = "" if row is None else f"{row.recording}, {index + 1} of {len(self._tracks)}: "
        duration_s = programme.recording.duration_s
        text = f"playing {name}{duration_s:.2f} s with {len(programme.frames)} frames"
        self._bus.publish("event", level="info", text=text)

    def _loaded(self, index: int) -> bool:
        """Load a track; say why it is left out where that fails.

        Raises:
            OtaError: so do all the others.
        """
        try:
            self._load(index)
        except OtaError as error:
            self._failures += 1
            if self._failures >= len(self._tracks):
                raise
            self._bus.publish("event", level="error", text=f"left out: {error}")
            return False
        self._failures = 0
        return True

    def run(self) -> None:
        """Play until the process is ended."""
        status = Status(self._bus)
        step = max(1, round(self._rate_sps / LINES_PER_SECOND))
        due_s = time.monotonic()
        while True:
            self._obey()
            status.publish(self._numbers)
            if self._values["pause"] or self._position >= self._end:
                if not self._values["pause"] and self._values["loop"]:
                    self._jump(0)
                due_s = time.monotonic()
                time.sleep(BLOCK_S)
                continue
            index = int(np.searchsorted(self._begins, self._position, side="right")) - 1
            if index != self._index and not self._loaded(index):
                self._position = self._tracks[index].end
                continue
            self._step(min(self._position + step, self._tracks[index].end))
            due_s = max(due_s + step / self._rate_sps, time.monotonic() - 1.0)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def _jump(self, position: int) -> None:
        self._position = position
        self._counter.forget()

    def _step(self, end: int) -> None:
        """Play up to a sample of the present track."""
        offset = self._tracks[self._index].begin
        first, last = self._position - offset, end - offset
        self._position = end
        now = time.monotonic()
        block = np.stack([heard[first:last] for heard in self._programme.recording.antennas])
        self._past.add(block, now)
        if block.shape[1] >= 256:
            place = end / self._end
            self._bus.publish("line", {"power_dbfs": line_dbfs(block[0])}, time_s=time.time(), place=place)
        for index in _between(self._work_starts, first, last):
            planned = self._programme.work[index]
            work = Work(planned.frames, now, planned.seeds)
            for name, send in self._to.items():
                self._dropped[name] += not send(work)
        rows = []
        for index in _between(self._starts, first, last):
            header = self._programme.frames[index].header
            self._counter.count(None if header is None else header.frame_number)
            rows.append({**self._programme.rows[index], "time_s": time.time()})
        if rows:
            self._bus.publish("frames", rows=rows)

    def _obey(self) -> None:
        for name, value in self._bus.orders():
            self._values[name] = value
            if name == "seek":
                self._jump(int(value * self._end))
            self._recorder.obey(name, value)
        self._recorder.limit()

    def _numbers(self) -> dict[str, float | int]:
        return {
            "samples": self._past.end,
            "place": self._position / self._end,
            "frames": self._counter.found,
            "frames_unread": self._counter.unread,
            "frames_lost": self._counter.lost,
            "frames_twice": self._counter.twice,
            "dropped_plain": self._dropped[PLAIN],
            "dropped_sampler": self._dropped[SAMPLER],
            "recorded_s": round(self._past.recorded_samples / self._rate_sps, 2),
        }


def _between(starts: NDArray[np.int64], begin: int, end: int) -> range:
    """Return the indices of sorted starts in begin..end, those before the first sample with it."""
    low = 0 if begin == 0 else int(np.searchsorted(starts, begin))
    return range(low, int(np.searchsorted(starts, end)))
