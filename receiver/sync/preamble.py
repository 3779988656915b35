"""Finding frames in a recording: detection, timing, carrier offset, header, noise.

The steps, each on bounded chunks of samples:

1. *Candidates*: the correlation between two successive half symbols, normalised by both their energies (Schmidl and
   Cox, IEEE Trans. Commun. 45(12), 1997, with the geometric instead of the arithmetic mean of the energies, which
   makes its distribution under white noise exact: P(metric > x) = (1 - x)^(N/2 - 1)). The threshold is low; noise
   passes it with `CANDIDATE_FALSE_ALARM` per sample.
2. *Confirmation*: after the fractional offset is removed, both preambles are correlated with the known ones for every
   carrier offset in whole carriers. A frame concentrates the energy in a window as long as a channel, noise spreads
   it (a Beta distribution, threshold at `CONFIRM_FALSE_ALARM` per hypothesis).
3. *Timing*: the evidence of each start under channels of exponential profile, marginalised over the taps.
4. *Carrier offset*: half symbols, then preamble A against B, then the header blindly (its BPSK squared), and, once the
   header is read, header and preambles as known symbols.
5. *Noise and signal power*: from carriers and samples that are empty, and from the header's scatter.

6. *Phase and clock over pilots and data*: from tracking carriers, or, where the layout has none, from the squares of
   the data cells, whose mean is not zero for symbols that are not circular. No decision on the data is taken, and what
   is known before (errors of carrier offset and clock, the jitter that the header showed) is weighed against it.

Steps 1 to 5 use neither pilots nor data. Step 6 turns whole symbols against each other; what they have in common is
left, so that a blind decoder finds them as they came.

Convention: `SyncedFrame.start` is a sample index `advance` samples before the first path's arrival. Symbol m's window
begins at `start + m * (N + cp) + cp`; the carrier correction has phase 0 at sample `start`. A path that arrives at
sample `start + d` is tap d, so the first path is usually tap `advance` and a timing error moves the taps by one or two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from receiver.sync.detection import candidates, confirm, dc_outside_frames, without_tones
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.reading import read_frames
from sdr.errors import RecordingError
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

MAX_CFO_HZ = 65e3
"""Carrier offsets searched: 25 ppm at 2.4 GHz, and a little more."""
_CHUNK_SAMPLES = 1 << 22


def find_frames(recording: Recording, layout: FrameLayout, *, max_cfo_hz: float = MAX_CFO_HZ) -> list[SyncedFrame]:
    """All whole frames of a recording, in order of time; empty where there are none.

    A frame that the recording cuts off before its last data symbol is left out. Frames whose header fails its CRC are
    returned with `header=None`.

    Args:
        max_cfo_hz: largest carrier offset, in Hz, that is searched.

    Raises:
        RecordingError: the recording's rate is not the layout's.
    """
    rate_sps = recording.settings.rate_sps
    if abs(rate_sps - layout.rate_sps) > 1e-3 * layout.rate_sps:
        raise RecordingError(
            f"the recording has {rate_sps:g} samples per second, layout '{layout.name}' needs {layout.rate_sps:g}; "
            "use the layout of the transmission or resample"
        )
    center_hz = recording.settings.center_hz
    return list(stream_frames([recording.samples], layout, max_cfo_hz=max_cfo_hz, center_hz=center_hz))


def stream_frames(
    blocks: Iterable[NDArray[np.complex64]],
    layout: FrameLayout,
    *,
    max_cfo_hz: float = MAX_CFO_HZ,
    center_hz: float = 0.0,
) -> Iterator[SyncedFrame]:
    """The frames of a capture that comes in blocks of any size, in order of time, as soon as they are complete.

    Memory is bounded by the largest block plus a few frames, whatever the length of the capture. `find_frames` is this
    with one block.

    Args:
        blocks: complex64 arrays that follow each other without a gap.
        max_cfo_hz: largest carrier offset, in Hz, that is searched.
        center_hz: carrier frequency; where positive, a carrier offset is also taken as a sign of the sampling clock's.
    """
    search = _Search(layout, max_cfo_hz, center_hz)
    rest = np.zeros(0, dtype=np.complex64)
    origin = 0  # index in the capture of rest[0]
    begin = 0  # index in the capture up to which starts were searched
    for block in blocks:
        rest = block if not rest.size else np.concatenate([rest, block])
        while begin + _CHUNK_SAMPLES + search.ahead <= origin + rest.size:
            low = max(begin - search.behind - origin, 0)
            high = begin + _CHUNK_SAMPLES + search.ahead - origin
            yield from search.step(rest[low:high], origin + low, begin, begin + _CHUNK_SAMPLES)
            begin += _CHUNK_SAMPLES
        # A copy, or the view would keep its whole block alive.
        drop = max(begin - search.behind - origin, 0)
        rest, origin = rest[drop:].copy(), origin + drop
    yield from search.step(rest, origin, begin, origin + rest.size)
    yield from search.finish()


class _Search:
    """The frames of successive, overlapping parts of one capture."""

    def __init__(self, layout: FrameLayout, max_cfo_hz: float, center_hz: float) -> None:
        self.layout, self.max_cfo_hz, self.center_hz = layout, max_cfo_hz, center_hz
        self.occupied = layout.num_symbols * layout.symbol_samples
        # A frame is read where its preamble is found, so a part reaches a frame and its gap past the last start.
        self.ahead = layout.frame_samples + 4 * layout.symbol_samples
        self.behind = 3 * layout.symbol_samples
        self.last_window = -(1 << 62)
        self.read: list[int] = []
        self.held: list[SyncedFrame] = []

    def step(self, samples: NDArray[np.complex64], origin: int, begin: int, end: int) -> Iterator[SyncedFrame]:
        """Frames whose preamble A begins in begin..end of the capture; samples[0] is sample `origin` of it."""
        layout = self.layout
        if samples.size < layout.fft_size:
            return
        samples = without_tones(samples)
        mean = complex(samples.mean())
        hits = confirm(samples, mean, layout, *candidates(samples, mean, layout), self.max_cfo_hz)
        dc_offset = dc_outside_frames(samples, layout, hits)
        # A window near the border may be seen a sample earlier or later from either side of it.
        place = hits.window + origin
        mine = (place >= begin - layout.symbol_samples) & (place < end)
        mine &= place >= self.last_window + layout.symbol_samples
        # The recording has to hold the frame to its last data symbol; a hit is true to a prefix or so.
        slack = layout.cp_samples + timing_advance(layout)
        first = hits.window - layout.cp_samples
        mine &= (first >= -slack) & (first + self.occupied <= samples.size + slack)
        rows = np.flatnonzero(mine)
        if rows.size:
            self.last_window = int(place[rows[-1]])
        for frame in read_frames(samples, dc_offset, layout, hits[rows], self.center_hz):
            if frame.start + layout.cp_samples >= 0 and frame.start + self.occupied <= samples.size:
                self.held.append(replace(frame, start=frame.start + origin) if origin else frame)
        yield from self._release(end - self.occupied)

    def finish(self) -> Iterator[SyncedFrame]:
        """What was held back."""
        yield from self._release(1 << 62)

    def _release(self, before: int) -> Iterator[SyncedFrame]:
        """Frames that start before a sample, less those without a header that overlap one with a header.

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
