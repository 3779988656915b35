"""Count frames by their numbers, and put the frames of one image together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from receiver.lost_frames import follows, with_lost_frames
from receiver.sync.frame import SyncedFrame
from sdr.layout import FrameLayout

_REMEMBERED = 256
_MODULUS = 1 << 32


class FrameCounter:
    """Counts frames that came, were lost and came twice, by the numbers in their headers.

    A number far behind the last one is a transmitter that began anew.

    Attributes:
        found: frames whose header was read.
        unread: frames whose header was not.
        lost: numbers that were left out.
        twice: numbers that came again.

    >>> counter = FrameCounter()
    >>> for number in (4, 5, 5, 8): counter.count(number)
    >>> counter.found, counter.lost, counter.twice
    (4, 2, 1)
    """

    def __init__(self) -> None:
        self.found = self.unread = self.lost = self.twice = 0
        self._last: int | None = None
        self._recent: deque[int] = deque(maxlen=_REMEMBERED)

    def count(self, number: int | None) -> None:
        """Count a frame; None: its header could not be read."""
        if number is None:
            self.unread += 1
            return
        self.found += 1
        if number in self._recent:
            self.twice += 1
            return
        if self._last is not None:
            ahead = (number - self._last - 1) % _MODULUS
            if ahead < _MODULUS // 2:
                self.lost += ahead
            else:
                self._recent.clear()
        self._last = number
        self._recent.append(number)

    def forget(self) -> None:
        """Begin anew without counting what is missing until the next frame, as after a seek or a pause."""
        self._last = None
        self._recent.clear()


class ImageAssembler:
    """Hands on the frames of images together: one frame with several images, or several frames with one.

    Placeholders stand for frames that were lost; see :func:`receiver.lost_frames.completed_frames`. What means nothing
    without a lost frame is left out.

    Args:
        layout: of the frames.

    Attributes:
        incomplete: images of which a frame was missing.
    """

    def __init__(self, layout: FrameLayout) -> None:
        self.incomplete = 0
        self._layout = layout
        self._open: list[SyncedFrame] = []

    def add(self, frame: SyncedFrame) -> list[list[SyncedFrame]]:
        """Return the frames of each image that this one ends, by being its last one or one of another image."""
        header = frame.header
        if header is None:
            return []
        ended = []
        if self._open and not follows(frame, self._open[-1]):
            ended.append(self._close())
        self._open.append(frame)
        if len(header.image_ids) > 1 or header.symbol_offset + header.num_payload >= header.symbols_per_image:
            ended.append(self._close())
        return [frames for frames in ended if frames]

    def _close(self) -> list[SyncedFrame]:
        """Return the frames of the open image, completed; none where they mean nothing."""
        arrived, self._open = self._open, []
        if _whole(arrived):
            return arrived
        self.incomplete += 1
        completed = with_lost_frames(arrived, self._layout)
        return completed if _whole(completed) else []


def _whole(frames: Sequence[SyncedFrame]) -> bool:
    """Whether frames hold all symbols of their images."""
    headers = [frame.header for frame in frames if frame.header is not None]
    return sum(header.num_payload for header in headers) >= headers[0].symbols_per_image
