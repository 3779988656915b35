"""Find frames in a recording or a stream by their preambles; the steps are listed in `receiver.sync`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from receiver.sync.absence import FramePlace
from receiver.sync.antennas import noise_floors
from receiver.sync.detection import Antennas, Hits, candidates, confirm, dc_outside_frames
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.interference import without_interference
from receiver.sync.rate import check_rate
from receiver.sync.reading import read_frames
from sdr.errors import ConfigError
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

MAX_CFO_HZ = 65e3
"""Carrier offsets searched: 25 ppm at 2.4 GHz, and a little more."""

CHUNK_SAMPLES = 1 << 22
"""Starts that are searched together; fewer where frames are wanted soon after they came."""


OnCut = Callable[[FramePlace], None]
"""Called with each frame that the recording cuts off."""


def find_frames(
    recording: Recording, layout: FrameLayout, *, max_cfo_hz: float = MAX_CFO_HZ, on_cut: OnCut | None = None
) -> list[SyncedFrame]:
    """Find all whole frames of a recording, in order of time.

    A frame that the recording cuts off before its last data symbol is left out, and `on_cut` is told. Frames whose
    header fails its CRC are returned with `header=None`. Of several antennas all are searched together.

    Args:
        recording: any samples.
        layout: of the frames.
        max_cfo_hz: largest carrier offset, in Hz, that is searched.
        on_cut: see above.

    Raises:
        RecordingError: the recording's rate is not the layout's.
    """
    check_rate(recording.settings.rate_sps, layout)
    center_hz = recording.settings.center_hz
    blocks = [recording.stacked]
    return list(stream_frames(blocks, layout, max_cfo_hz=max_cfo_hz, center_hz=center_hz, on_cut=on_cut))


def stream_frames(
    blocks: Iterable[NDArray[np.complex64]],
    layout: FrameLayout,
    *,
    max_cfo_hz: float = MAX_CFO_HZ,
    center_hz: float = 0.0,
    on_cut: OnCut | None = None,
    chunk_samples: int = CHUNK_SAMPLES,
) -> Iterator[SyncedFrame]:
    """Yield the frames of a capture that comes in blocks of any size, in order of time, as soon as they are complete.

    Memory is bounded by the largest block plus a few frames, whatever the length of the capture. `find_frames` is this
    with one block.

    Args:
        blocks: complex64 arrays (n,), or (A, n) of A antennas, that follow each other without a gap.
        layout: of the frames.
        max_cfo_hz: largest carrier offset, in Hz, that is searched.
        center_hz: carrier frequency; where positive, a carrier offset is also taken as a sign of the sampling clock's.
        on_cut: called, behind the last whole frame, with each frame that the end cuts off.
        chunk_samples: starts that are searched together: a frame is yielded at most two of these, and a frame, after
            its last sample came.
    """
    search = _Search(layout, max_cfo_hz, center_hz)
    rest = np.zeros((1, 0), dtype=np.complex64)
    origin = 0  # index in the capture of rest[0]
    begin = 0  # index in the capture up to which starts were searched
    for block in blocks:
        block = np.atleast_2d(block)
        rest = block if not rest.size else np.concatenate([rest, block], axis=1)
        while begin + chunk_samples + search.ahead <= origin + rest.shape[1]:
            low = max(begin - search.behind - origin, 0)
            high = begin + chunk_samples + search.ahead - origin
            yield from search.step(rest[:, low:high], origin + low, begin, begin + chunk_samples)
            begin += chunk_samples
        # A copy, or the view would keep its whole block alive.
        drop = max(begin - search.behind - origin, 0)
        rest, origin = rest[:, drop:].copy(), origin + drop
    yield from search.step(rest, origin, begin, origin + rest.shape[1])
    yield from search.finish()
    if on_cut is not None:
        for cut in search.cut_off():
            on_cut(cut)


def _without_interference(
    samples: NDArray[np.complex64], layout: FrameLayout
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Return the samples (A, n) to read and those to search, see `receiver.sync.interference`."""
    pairs = [without_interference(antenna, layout) for antenna in samples]
    # One antenna's samples need no copy.
    read, searched = (np.atleast_2d(each[0]) if len(each) == 1 else np.stack(each) for each in zip(*pairs, strict=True))
    return read, searched


def _balanced(samples: NDArray[np.complex64], mean: NDArray[np.complex128], layout: FrameLayout) -> Antennas:
    """Return antennas (A, n) scaled to equal noise, as far as quiet parts of the samples tell."""
    centred = samples - mean[:, None].astype(np.complex64)
    gain = noise_floors(centred, max(layout.gap_samples // 2, 16)) ** -0.5
    gain /= gain.max()
    return Antennas(samples * gain[:, None].astype(np.float32), mean * gain)


class _Search:
    """Search for frames in successive, overlapping parts of one capture."""

    def __init__(self, layout: FrameLayout, max_cfo_hz: float, center_hz: float) -> None:
        self.layout, self.max_cfo_hz, self.center_hz = layout, max_cfo_hz, center_hz
        self.occupied = layout.num_symbols * layout.symbol_samples
        # A frame is read where its preamble is found, so a part reaches a frame and its gap past the last start.
        self.ahead = layout.frame_samples + 4 * layout.symbol_samples
        self.behind = 3 * layout.symbol_samples
        self.last_window = -(1 << 62)
        self.read: list[int] = []
        self.cut: list[FramePlace] = []
        self.last_end = 0
        self.held: list[SyncedFrame] = []

    def step(self, samples: NDArray[np.complex64], origin: int, begin: int, end: int) -> Iterator[SyncedFrame]:
        """Yield frames whose preamble A begins in begin..end of the capture.

        Args:
            samples: (A, n) of the antennas, from sample `origin` of the capture on.
            origin: see `samples`.
            begin: see above.
            end: see above.
        """
        layout, count = self.layout, samples.shape[1]
        if count < layout.fft_size:
            return
        samples, searched = _without_interference(samples, layout)
        mean = np.array([complex(antenna.mean()) for antenna in searched])
        even = Antennas(searched, mean) if len(samples) == 1 else _balanced(searched, mean, layout)
        hits = confirm(even, layout, *candidates(even, layout), self.max_cfo_hz)
        dc_offset = np.array([dc_outside_frames(antenna, layout, hits) for antenna in samples])
        # A window near the border may be seen a sample earlier or later from either side of it.
        place = hits.window + origin
        mine = (place >= begin - layout.symbol_samples) & (place < end)
        mine &= place >= self.last_window + layout.symbol_samples
        # The recording has to hold the frame to its last data symbol; a hit is true to a prefix or so.
        slack = layout.cp_samples + timing_advance(layout)
        first = hits.window - layout.cp_samples
        mine &= first >= -slack
        ends = first + self.occupied <= count + slack
        rows = np.flatnonzero(mine & ends)
        if rows.size:
            self.last_window = int(place[rows[-1]])
        for frame in read_frames(samples, dc_offset, layout, hits[rows], self.center_hz):
            if frame.start + layout.cp_samples >= 0 and frame.start + self.occupied <= count:
                self.held.append(frame.moved(origin) if origin else frame)
                if frame.header is not None:
                    self.last_end = frame.start + origin + self.occupied
            else:
                ends[rows] &= np.abs(first[rows] - frame.start) > layout.symbol_samples
        for row in np.flatnonzero(mine & ~ends):
            self.cut.append(self._cut_frame(samples, dc_offset, hits[np.array([row])], origin))
        yield from self._release(end - self.occupied)

    def _cut_frame(
        self, samples: NDArray[np.complex64], dc_offset: NDArray[np.complex128], hit: Hits, origin: int
    ) -> FramePlace:
        """Return a frame that the samples end in, with its header if they hold that."""
        try:
            frame = read_frames(samples, dc_offset, self.layout, hit, self.center_hz)[0]
        except ConfigError:  # too little of it is there to measure anything
            return FramePlace(int(hit.window[0]) - self.layout.cp_samples + origin, None)
        return FramePlace(frame.start + frame.advance + origin, frame.header)

    def cut_off(self) -> list[FramePlace]:
        """Return the frames that the end cuts off, less false alarms on the payload of a whole one."""
        return [frame for frame in self.cut if frame.header is not None or frame.start_sample >= self.last_end]

    def finish(self) -> Iterator[SyncedFrame]:
        """Yield the frames that were held back."""
        yield from self._release(1 << 62)

    def _release(self, before: int) -> Iterator[SyncedFrame]:
        """Yield frames that start before a sample, less those without a header that overlap one with a header.

        The latter are false alarms on a frame's payload, or what is left of a frame under a stronger one.
        """
        self.read += [frame.start for frame in self.held if frame.header is not None]
        while self.held and self.held[0].start < before:
            frame = self.held.pop(0)
            if frame.header is not None or all(abs(frame.start - start) >= self.occupied for start in self.read):
                yield frame
        horizon = (self.held[0].start if self.held else before) - self.occupied
        self.read = [start for start in self.read if start > horizon]
        held = {frame.start for frame in self.held}
        self.read = [start for start in self.read if start not in held]
