"""What a receiver asks to be sent again, all that goes back from it to the transmitter; and frames that answer it.

An answer holds symbols of any images, in the order of the request, whose digest stands where other frames name a codec.
"""

import base64
import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdr.documents import from_table
from sdr.errors import InputError
from sdr.framing import FrameContent
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.symbols import MAX_SYMBOLS_PER_IMAGE, check_image_id

ANSWER_SHAPE = (1, 1, 1)
"""Shape in the headers of answers: no image has a single value."""

ANSWER_ID = "again"
"""Image id in the headers of answers."""


@dataclass(frozen=True)
class WantedSymbols:
    """Symbols of one image that are wanted again.

    Args:
        image: its id.
        bits: of all its symbols, 1 for those that are wanted, most significant first, in base64.

    Raises:
        InputError: no id of an image, or no base64 of a bit at least.

    >>> WantedSymbols.of("boot", np.array([True, False, True])).indices
    array([0, 2])
    """

    image: str
    bits: str

    def __post_init__(self) -> None:
        check_image_id(self.image)
        if not self.indices.size:
            raise InputError(f"no symbol of image {self.image} is wanted; leave it out")

    @classmethod
    def of(cls, image: str, wanted: NDArray[np.bool_]) -> "WantedSymbols":
        """Return those of an image's symbols (K,) that are marked."""
        return cls(image, base64.b64encode(np.packbits(wanted).tobytes()).decode("ascii"))

    @cached_property
    def indices(self) -> NDArray[np.int64]:
        """Indices of the wanted symbols, ascending."""
        try:
            packed = base64.b64decode(self.bits.encode("ascii"), validate=True)
        except ValueError:
            raise InputError(f"the wanted symbols of image {self.image} are not in base64") from None
        return np.flatnonzero(np.unpackbits(np.frombuffer(packed, dtype=np.uint8)))


@dataclass(frozen=True)
class RepeatRequest:
    """What is wanted again.

    Args:
        symbols: of images, each named once.
        frames: numbers that are missing between those heard; what they held is wanted as it was.
        heard: the largest frame number heard, -1 for none; what later frames held is wanted as it was.

    Raises:
        InputError: a value that no request can have.

    >>> RepeatRequest.from_json(RepeatRequest((), (3,), 7).to_json())
    RepeatRequest(symbols=(), frames=(3,), heard=7)
    """

    symbols: tuple[WantedSymbols, ...] = ()
    frames: tuple[int, ...] = ()
    heard: int = -1

    def __post_init__(self) -> None:
        if self.heard < -1 or any(not 0 <= number < 2**32 for number in self.frames):
            raise InputError(f"frame numbers lie in 0..2^32-1, found {self.frames} and, heard last, {self.heard}")
        images = [wanted.image for wanted in self.symbols]
        if len(set(images)) < len(images):
            raise InputError("an image is named twice in a request to send again; name each once")
        if self.num_symbols > MAX_SYMBOLS_PER_IMAGE:
            raise InputError(f"{self.num_symbols} symbols are wanted at once, at most {MAX_SYMBOLS_PER_IMAGE} can be")

    @property
    def num_symbols(self) -> int:
        """Symbols wanted, without those of frames."""
        return sum(wanted.indices.size for wanted in self.symbols)

    @property
    def digest(self) -> str:
        """8 hex digits by which answers name the request."""
        return hashlib.sha256(self.to_json().encode("ascii")).hexdigest()[:8]

    def to_json(self) -> str:
        """Return the request as one line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "RepeatRequest":
        """Return the request that a text holds.

        Raises:
            InputError: it holds none.
        """
        try:
            table = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a request to send again must be JSON: {error}") from None
        if not isinstance(table, dict):
            raise InputError(f"a request to send again must be a table of fields, found {table!r:.60}")
        return from_table(cls, table, "request to send again", InputError)


def is_answer(header: FrameHeader) -> bool:
    """Return whether a frame holds symbols that were asked for again."""
    return header.image_shape == ANSWER_SHAPE


def pack_answer(
    request: RepeatRequest, symbols: NDArray[np.complex64], layout: FrameLayout, csnr_db: float, first_frame: int
) -> list[FrameContent]:
    """Distribute the symbols that answer a request over frames.

    Args:
        request: that is answered.
        symbols: (M,) those of its images, in its order.
        layout: of the frames.
        csnr_db: CSNR to announce.
        first_frame: number of the first frame.
    """
    frames = []
    for index, first in enumerate(range(0, symbols.size, layout.capacity)):
        part = symbols[first : first + layout.capacity]
        payload = np.zeros(layout.capacity, dtype=np.complex64)
        payload[: part.size] = part
        header = FrameHeader(
            frame_number=(first_frame + index) % 2**32,
            layout_digest=layout.digest,
            codec_digest=request.digest,
            csnr_db=csnr_db,
            image_shape=ANSWER_SHAPE,
            symbols_per_image=symbols.size,
            symbol_offset=first,
            num_payload=part.size,
            image_ids=(ANSWER_ID,),
        )
        frames.append(FrameContent(header, payload))
    return frames


def answered_symbols(request: RepeatRequest, header: FrameHeader) -> list[tuple[str, NDArray[np.int64], int]]:
    """Return what a frame that answers a request holds: image, indices of its symbols, and the first one's place.

    The place is in the payload, where the image's symbols stand one behind another.
    """
    first, last = header.symbol_offset, header.symbol_offset + header.num_payload
    found, before = [], 0
    for wanted in request.symbols:
        begin, end = max(first, before), min(last, before + wanted.indices.size)
        if begin < end:
            found.append((wanted.image, wanted.indices[begin - before : end - before], begin - first))
        before += wanted.indices.size
    return found
