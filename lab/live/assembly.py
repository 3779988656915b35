"""Count frames by their numbers, and put the frames of one image together."""

from __future__ import annotations

from collections import deque

from receiver.sync.frame import SyncedFrame

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
    """Hands on the frames of whole images: one frame with several images, or several frames with one.

    Attributes:
        incomplete: images of which a frame was missing.
    """

    def __init__(self) -> None:
        self.incomplete = 0
        self._open: list[SyncedFrame] = []

    def add(self, frame: SyncedFrame) -> list[SyncedFrame]:
        """Return the frames of the images that this one completes, in order; none where an image is not whole yet."""
        header = frame.header
        if header is None:
            return []
        expected = self._next()
        if self._open and (header.frame_number, header.image_ids, header.symbol_offset) != expected:
            self.incomplete += 1
            self._open = []
        if not self._open and header.symbol_offset:
            return []  # the rest of an image whose beginning was counted or never heard
        self._open.append(frame)
        if len(header.image_ids) == 1 and header.symbol_offset + header.num_payload < header.symbols_per_image:
            return []
        whole, self._open = self._open, []
        return whole

    def _next(self) -> tuple[int, tuple[str, ...], int] | None:
        if not self._open or (header := self._open[-1].header) is None:
            return None
        number = (header.frame_number + 1) % _MODULUS
        return number, header.image_ids, header.symbol_offset + header.num_payload
