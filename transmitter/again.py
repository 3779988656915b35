"""Send again what a receiver asks for: the same symbols, in new frames."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sdr.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sdr.framing import FrameContent
    from sdr.repeat_request import RepeatRequest
    from transmitter.encode import Transmission


class Repeater:
    """The transmitter's memory: what was sent, and how often.

    Args:
        transmission: of JSCC symbols without side information, its frames numbered from 0.
    """

    def __init__(self, transmission: Transmission) -> None:
        self._layout, self._first = transmission.layout, transmission.symbols[0]
        self._z = {
            image_id: each.z[row] for each in transmission.symbols for row, image_id in enumerate(each.image_ids)
        }
        self._frames = list(transmission.frames)
        self._answered: set[int] = set()
        self._sent: Counter[str] = Counter()
        self._count(self._frames)

    @property
    def num_frames(self) -> int:
        """Frames sent so far."""
        return len(self._frames)

    @property
    def channel_uses(self) -> int:
        """Symbols of images sent so far."""
        return self._sent.total()

    @property
    def times(self) -> dict[str, float]:
        """How often the symbols of each image were sent, on average."""
        return {image_id: self._sent[image_id] / z.size for image_id, z in self._z.items()}

    def answer(self, request: RepeatRequest) -> list[FrameContent]:
        """Return frames with what was asked for, numbered behind all that were sent so far.

        A frame that is asked for by its number is sent again once: what is lost of that has another number. Answers
        are not: their symbols are asked for anew.

        Raises:
            InputError: a request for what was never sent.
        """
        from dataclasses import replace

        from sdr.framing import FrameContent
        from sdr.repeat_request import is_answer, pack_answer

        if max([*request.frames, request.heard]) >= self.num_frames:
            raise InputError(
                f"frame {max([*request.frames, request.heard])} was heard or is wanted again, but only "
                f"{self.num_frames} frames were sent"
            )
        numbers = {*request.frames, *range(request.heard + 1, self.num_frames)} - self._answered
        self._answered |= numbers
        lost = [frame for frame in map(self._frames.__getitem__, sorted(numbers)) if not is_answer(frame.header)]
        frames = [
            FrameContent(replace(frame.header, frame_number=self.num_frames + index), frame.payload)
            for index, frame in enumerate(lost)
        ]
        z = self._wanted(request)
        frames += pack_answer(request, z, self._layout, self._first.csnr_db, self.num_frames + len(frames))
        self._frames += frames
        self._count(frames, request)
        return frames

    def _wanted(self, request: RepeatRequest) -> NDArray[np.complex64]:
        """Return the symbols (M,) that a request names, in its order."""
        import numpy as np

        parts = [np.zeros(0, np.complex64)]
        for wanted in request.symbols:
            z = self._z.get(wanted.image)
            if z is None or wanted.indices[-1] >= z.size:
                raise InputError(
                    f"symbol {wanted.indices[-1]} of image {wanted.image} is wanted again, but was never sent"
                )
            parts.append(z[wanted.indices])
        return np.concatenate(parts)

    def _count(self, frames: Sequence[FrameContent], request: RepeatRequest | None = None) -> None:
        from sdr.framing import image_spans
        from sdr.repeat_request import answered_symbols, is_answer

        for frame in frames:
            if not is_answer(frame.header):
                for span in image_spans(frame.header):
                    self._sent[span.image_id] += span.num_symbols
            elif request is not None:
                for image_id, indices, _ in answered_symbols(request, frame.header):
                    self._sent[image_id] += indices.size
