"""Tell which frames of a transmission are missing from a recording, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from receiver.sync.frame import SyncedFrame
from sdr.header import FrameHeader
from sdr.layout import FrameLayout


@dataclass(frozen=True)
class FramePlace:
    """Place of a frame whose preamble was found.

    Attributes:
        start_sample: where its first path begins.
        header: None where it could not be read.
    """

    start_sample: int
    header: FrameHeader | None

    @classmethod
    def of(cls, frame: SyncedFrame) -> FramePlace:
        """Return the place of a frame that was read."""
        return cls(frame.start + frame.advance, frame.header)


@dataclass(frozen=True)
class Absence:
    """Frames that are missing.

    Attributes:
        reason: one line: what is missing, why, and where there is one, the remedy.
        frame_number: of the first of them; None where it is not known.
        start_sample: where it begins; None where it was not seen.
        image_ids: of its images, as far as they are known.
    """

    reason: str
    frame_number: int | None = None
    start_sample: int | None = None
    image_ids: tuple[str, ...] = ()


def find_absences(
    frames: Sequence[FramePlace], cut: Sequence[FramePlace], layout: FrameLayout, *, from_first: bool
) -> list[Absence]:
    """Return what is missing beside the frames of a recording: frames cut off, and gaps in the frame numbers.

    A frame that was received at another time, as of a transmission that is repeated, is not missing.

    Args:
        frames: found whole, in order of time.
        cut: found, but cut off at the end.
        layout: of the frames.
        from_first: whether the recording ought to hold the transmission from its first frame on; otherwise numbers
            before those found are no gap, but for a frame that the recording begins in.
    """
    numbers = [frame.header.frame_number for frame in frames if frame.header is not None]
    known, found = set(numbers), []
    repeats = any(later <= earlier for earlier, later in pairwise(numbers))
    for frame in cut:
        number = None if frame.header is None else frame.header.frame_number
        if number in known or (number is None and repeats):
            continue
        name = "a frame" if number is None else f"frame {number}"
        reason = f"{name} begins at {frame.start_sample} and is cut off at the end; record longer"
        ids = () if frame.header is None else frame.header.image_ids
        found.append(Absence(reason, number, frame.start_sample, ids))
    known |= {absence.frame_number for absence in found if absence.frame_number is not None}
    if not numbers:
        return found
    before = _cut_at_start(frames, layout)
    if before is not None and before not in known:
        found.append(Absence(f"the recording begins within frame {before}; begin to record earlier", before))
        known.add(before)
    first = 0 if from_first else min(numbers)
    # By gaps, not number by number: a header may hold any number of 32 bits.
    marks = [first - 1, *sorted(number for number in known if first <= number <= max(numbers))]
    if gaps := [(low + 1, high - 1) for low, high in pairwise(marks) if high - low > 1]:
        found.append(Absence(f"{_listed(gaps)} missing, as the numbers of the other frames show", gaps[0][0]))
    return found


def _cut_at_start(frames: Sequence[FramePlace], layout: FrameLayout) -> int | None:
    """Return the number of the frame that the recording begins in.

    None where there is room for a whole one, or where of one at most a symbol would be in the recording beside the gap
    that ends it: a transmission may begin with any number.
    """
    first = frames[0]
    room = layout.gap_samples + layout.symbol_samples, layout.frame_samples
    if first.header is None or first.header.frame_number == 0 or not room[0] <= first.start_sample < room[1]:
        return None
    return first.header.frame_number - 1


def _listed(runs: Sequence[tuple[int, int]]) -> str:
    """Return runs of numbers, first and last of each, ascending, the first five of them, with their verb.

    >>> _listed([(1, 1)]), _listed([(1, 3), (7, 7)])
    ('frame 1 is', 'frames 1-3, 7 are')
    """
    shown = ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in runs[:5])
    more = f" and {len(runs) - 5} more gaps" if len(runs) > 5 else ""
    alone = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"frame {shown} is" if alone else f"frames {shown}{more} are"
