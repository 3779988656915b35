"""Write and read frames as PDUs: GNU Radio's serialised form of a metadata dictionary and a vector of complex cells.

The sender of a frame usually lives in an interpreter without GNU Radio, so this module writes (and reads) the wire
format of GNU Radio's `pmt` itself: the few types that a PDU of ours needs. All numbers are big endian; a type byte
precedes every item (gnuradio-runtime/include/pmt/pmt_serial_tags.h).
"""

import struct
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from sdr.errors import FlowgraphError, InputError, LayoutError
from sdr.framing import FrameContent, frame_grid
from sdr.layout import FrameLayout

Metadata = Mapping[str, str | int | float | bool]
"""Metadata of a PDU: names and values."""

MAX_CELLS = 1 << 24
"""Longest vector that is read."""

_TRUE, _FALSE, _SYMBOL, _INT32, _DOUBLE, _NULL, _PAIR, _DICT, _UNIFORM, _INT64 = 0, 1, 2, 3, 4, 6, 7, 9, 10, 13
_C32 = 10  # kind of a uniform vector: pairs of 32-bit floats


def cells_per_frame(layout: FrameLayout) -> int:
    """Return how many cells a frame's PDU has: header, then data without pilots and tracking carriers."""
    return layout.header_symbols * layout.num_active + layout.capacity


def frame_cells(content: FrameContent, layout: FrameLayout) -> NDArray[np.complex64]:
    """Return (cells_per_frame,) what varies from frame to frame, in the order in which the framer fills carriers.

    Symbol by symbol and, within a symbol, by ascending signed carrier: first the header on the active carriers, then
    the data on the data carriers, interleaved and scrambled already. Preambles, pilots and tracking symbols are the
    framer's own.

    Raises:
        LayoutError: the frame was made for another layout.
    """
    grid = frame_grid(content, layout)
    header = grid[layout.first_header_symbol : layout.first_pilot_symbol][:, layout.active_bins]
    data = grid[layout.first_data_symbol + layout.payload_rows][:, layout.data_bins]
    return np.concatenate([header.reshape(-1), data.reshape(-1)]).astype(np.complex64)


def frame_pdu(content: FrameContent, layout: FrameLayout) -> bytes:
    """Return a frame as the transmit flowgraph takes it, with its number and its layout's digest as metadata.

    Raises:
        LayoutError: the frame was made for another layout.
    """
    metadata = {"frame_number": content.header.frame_number, "layout": layout.digest}
    return serialise_pdu(metadata, frame_cells(content, layout))


def _item(value: str | int | float | bool) -> bytes:
    if isinstance(value, bool):
        return bytes([_TRUE if value else _FALSE])
    if isinstance(value, str):
        text = value.encode()
        if len(text) > 0xFFFF:
            raise InputError(f"a PDU's text is at most 65535 bytes long, found {len(text)}")
        return struct.pack(">BH", _SYMBOL, len(text)) + text
    if isinstance(value, int):
        if not -(1 << 63) <= value < 1 << 63:
            raise InputError(f"a PDU's whole numbers have 64 bits, found {value}")
        small = -(1 << 31) <= value < 1 << 31
        return struct.pack(">Bi", _INT32, value) if small else struct.pack(">Bq", _INT64, value)
    return struct.pack(">Bd", _DOUBLE, value)


def serialise_pdu(metadata: Metadata, cells: NDArray[np.complex64]) -> bytes:
    """Return the bytes of `pmt.serialize_str(pmt.cons(metadata, c32vector))`.

    Args:
        metadata: names to texts, whole numbers (64 bit), numbers and truth values.
        cells: (n,) complex.

    Raises:
        InputError: a value has no place in the format.

    >>> serialise_pdu({}, np.array([1 + 2j], np.complex64)).hex(" ")
    '07 06 0a 0a 00 00 00 01 01 00 3f 80 00 00 40 00 00 00'
    """
    if cells.ndim != 1 or cells.size > MAX_CELLS:
        raise InputError(f"a PDU holds one dimension of at most {MAX_CELLS} cells, found shape {cells.shape}")
    parts = [bytes([_PAIR])]
    for key, value in metadata.items():
        parts += [bytes([_DICT, _PAIR]), _item(key), _item(value)]
    # One byte of padding is what pmt itself writes before the elements.
    parts += [bytes([_NULL, _UNIFORM, _C32]), struct.pack(">IBB", cells.size, 1, 0)]
    parts.append(np.ascontiguousarray(cells, dtype=np.complex64).view(np.float32).astype(">f4").tobytes())
    return b"".join(parts)


class _Reader:
    """Takes items off the front of a PDU."""

    def __init__(self, data: bytes, offset: int) -> None:
        self.data, self.offset = data, offset

    def take(self, layout: str) -> tuple[int | float, ...]:
        size = struct.calcsize(layout)
        if self.offset + size > len(self.data):
            raise FlowgraphError(
                f"a PDU ends after {len(self.data)} bytes in the middle of an item; send each PDU whole"
            )
        values = struct.unpack_from(layout, self.data, self.offset)
        self.offset += size
        return values

    def tag(self) -> int:
        return int(self.take(">B")[0])

    def bytes(self, size: int) -> bytes:
        if self.offset + size > len(self.data):
            raise FlowgraphError(f"a PDU announces {size} more bytes than it has; send each PDU whole")
        self.offset += size
        return self.data[self.offset - size : self.offset]

    def value(self) -> str | int | float | bool:
        tag = self.tag()
        if tag in (_TRUE, _FALSE):
            return tag == _TRUE
        if tag == _SYMBOL:
            return self.bytes(int(self.take(">H")[0])).decode(errors="replace")
        formats = {_INT32: ">i", _INT64: ">q", _DOUBLE: ">d"}
        if tag not in formats:
            raise FlowgraphError(f"a PDU's metadata holds an item of pmt type {tag}; texts and numbers are understood")
        return self.take(formats[tag])[0]


def parse_pdu(data: bytes, offset: int = 0) -> tuple[dict[str, str | int | float | bool], NDArray[np.complex64], int]:
    """Read one PDU.

    Args:
        data: bytes that hold a PDU from `offset` on.

    Returns:
        Metadata, cells complex64 (n,), and the offset of what follows.

    Raises:
        FlowgraphError: this is no PDU of a dictionary and complex cells.

    >>> metadata, cells, end = parse_pdu(serialise_pdu({"frame_number": 7}, np.zeros(3, np.complex64)))
    >>> metadata, cells.size
    ({'frame_number': 7}, 3)
    """
    reader = _Reader(data, offset)
    if reader.tag() != _PAIR:
        raise FlowgraphError("this is no PDU: it must begin with a pmt pair; send what flowgraphs.pdu serialises")
    metadata: dict[str, str | int | float | bool] = {}
    while (tag := reader.tag()) == _DICT:
        if reader.tag() != _PAIR:
            raise FlowgraphError("a PDU's metadata must be a dictionary of names and values")
        key = reader.value()
        metadata[str(key)] = reader.value()
    if tag != _NULL or reader.tag() != _UNIFORM or reader.tag() != _C32:
        raise FlowgraphError("a PDU must hold a vector of complex floats (c32vector) after its metadata")
    count, padding = (int(value) for value in reader.take(">IB"))
    if count > MAX_CELLS:
        raise FlowgraphError(f"a PDU announces {count} cells; at most {MAX_CELLS} are taken")
    reader.bytes(padding)
    cells = np.frombuffer(reader.bytes(8 * count), dtype=">f4").astype(np.float32).view(np.complex64)
    return metadata, cells, reader.offset


def parse_pdus(data: bytes) -> Iterator[tuple[dict[str, str | int | float | bool], NDArray[np.complex64]]]:
    """Read PDUs that lie one after the other, as in a file of frames.

    Raises:
        FlowgraphError: the data ends within a PDU, or holds something else.
    """
    offset = 0
    while offset < len(data):
        metadata, cells, offset = parse_pdu(data, offset)
        yield metadata, cells


def check_frame(metadata: Metadata, cells: NDArray[np.complex64], layout: FrameLayout) -> None:
    """Check that a PDU is a frame of this layout.

    Raises:
        LayoutError: it was made for another layout, or its length or its values are wrong.
    """
    digest = metadata.get("layout", layout.digest)
    if digest != layout.digest:
        raise LayoutError(
            f"a frame for layout {digest} came to a framer for layout '{layout.name}' ({layout.digest}); "
            "start both ends with the same layout file"
        )
    needed = cells_per_frame(layout)
    if cells.shape != (needed,):
        raise LayoutError(f"a frame of layout '{layout.name}' has {needed} cells, found {cells.size}; pack it again")
    if not np.isfinite(cells.view(np.float32)).all():
        raise LayoutError("a frame holds NaN or infinite cells; check the encoder")
