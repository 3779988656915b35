"""Write and read the frame header: what a receiver must know about a frame, protected far beyond the images.

Bytes, big endian: version (1), frame number (4), layout digest (4), codec digest (4), CSNR in 0.01 dB (2, signed),
channels (1), rows (2), columns (2), symbols per image (3), symbol offset (3), payload symbols (3), number of images
(1), `image_slots` ids of 8 bytes padded with zeros, CRC-32 over all before (4). A frame of an image with side
information holds no other image; its version is 2, and the number of bytes of side information (2) stands in the
second id's place.

The bits go through the rate-1/2 code of `sdr.convolutional_code`. The codeword is repeated over all header cells, each
repetition interleaved by its own permutation, as BPSK with pseudo-random signs.
"""

import base64
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdr.convolutional_code import convolve_bits, convolve_many, invert_code, mend_code, viterbi, viterbi_many
from sdr.errors import InputError, LayoutError
from sdr.layout import ID_BYTES, FrameLayout
from sdr.symbols import MAX_SYMBOLS_PER_IMAGE, check_digest, check_image_id, check_image_shape

HEADER_VERSION = 1
SIDE_VERSION = 2
"""Version of the headers of images with side information."""

MAX_SIDE_BYTES = (1 << 16) - 1
"""The header counts side information in 16 bits."""

_FIELDS = struct.Struct(">BI4s4shBHH")  # version .. columns; the 24-bit counts, the ids and the CRC follow


@dataclass(frozen=True)
class FrameHeader:
    """Content of a frame header.

    Args:
        frame_number: 0 .. 2^32 - 1.
        layout_digest: 8 hex digits of the layout.
        codec_digest: 8 hex digits of the codec (a longer digest is cut).
        csnr_db: channel SNR that the images were encoded for, -327..327 dB; kept to 0.01 dB.
        image_shape: (C, H, W).
        symbols_per_image: K, 1 .. 2^24 - 1.
        symbol_offset: index within the image of the frame's first payload symbol; not 0 only where an image spans
            frames.
        num_payload: used payload symbols of the frame; the rest of the capacity is zero.
        image_ids: the images of the frame in payload order; exactly one where an image spans frames.
        side_bytes: bytes of side information that `symbols_per_image` begins with, see `sdr.side_block`; 0 for none.

    Raises:
        InputError: a field is out of range, or the fields contradict each other.
    """

    frame_number: int
    layout_digest: str
    codec_digest: str
    csnr_db: float
    image_shape: tuple[int, int, int]
    symbols_per_image: int
    symbol_offset: int
    num_payload: int
    image_ids: tuple[str, ...]
    side_bytes: int = 0

    def __post_init__(self) -> None:
        for field, low, high in (
            ("frame_number", 0, 2**32 - 1),
            ("symbols_per_image", 1, MAX_SYMBOLS_PER_IMAGE),
            ("symbol_offset", 0, MAX_SYMBOLS_PER_IMAGE - 1),
            ("num_payload", 1, MAX_SYMBOLS_PER_IMAGE),
            ("side_bytes", 0, MAX_SIDE_BYTES),
        ):
            value = getattr(self, field)
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not low <= value <= high:
                raise InputError(f"header field {field} must be a whole number in {low}..{high}, found {value!r:.60}")
            object.__setattr__(self, field, int(value))
        for what in ("layout", "codec"):
            digest = check_digest(getattr(self, f"{what}_digest"), what)
            object.__setattr__(self, f"{what}_digest", digest[:8])
        csnr_db = self.csnr_db
        if not isinstance(csnr_db, (int, float, np.floating)) or not abs(csnr_db) <= 327.0:
            raise InputError(f"header field csnr_db must be a number in -327..327 dB, found {csnr_db!r:.60}")
        object.__setattr__(self, "csnr_db", round(float(csnr_db) * 100.0) / 100.0)
        object.__setattr__(self, "image_shape", check_image_shape(self.image_shape))
        object.__setattr__(self, "image_ids", tuple(check_image_id(image_id) for image_id in self.image_ids))
        count = len(self.image_ids)
        if not count or len(set(self.image_ids)) != count:
            raise InputError(f"a frame needs one or more different image ids, found {self.image_ids!r:.80}")
        if self.side_bytes and count > 1:
            raise InputError(f"a frame of an image with side information holds no other image, found {count}")
        whole = self.symbol_offset == 0 and self.num_payload == count * self.symbols_per_image
        part = count == 1 and self.symbol_offset + self.num_payload <= self.symbols_per_image
        if not (whole or part):
            raise InputError(
                f"{count} images of {self.symbols_per_image} symbols don't make {self.num_payload} payload symbols "
                f"from symbol {self.symbol_offset} on"
            )


def image_id_from_stem(stem: str) -> str:
    """Return an image id of 1..8 characters for a file's stem: the stem where it fits, else 8 characters of its hash.

    >>> image_id_from_stem("boot-07")
    'boot-07'
    >>> image_id_from_stem("a holiday photo")
    'v3xilbfx'
    """
    try:
        return check_image_id(stem)
    except InputError:
        digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).digest()
        return base64.b32encode(digest)[:8].decode("ascii").lower()


def header_to_bytes(header: FrameHeader, layout: FrameLayout) -> bytes:
    """Return the bytes of a header, CRC included.

    Raises:
        LayoutError: the frame holds more images than the layout has slots.
    """
    slots = len(header.image_ids) + (header.side_bytes > 0)
    if slots > layout.image_slots:
        besides = " and side information" if header.side_bytes else ""
        raise LayoutError(
            f"the frame holds {len(header.image_ids)} images{besides}, but layout '{layout.name}' has "
            f"{layout.image_slots} slots; {slots} are needed"
        )
    channels, height, width = header.image_shape
    body = _FIELDS.pack(
        SIDE_VERSION if header.side_bytes else HEADER_VERSION,
        header.frame_number,
        bytes.fromhex(header.layout_digest),
        bytes.fromhex(header.codec_digest),
        round(header.csnr_db * 100.0),
        channels,
        height,
        width,
    )
    for count in (header.symbols_per_image, header.symbol_offset, header.num_payload):
        body += count.to_bytes(3, "big")
    body += bytes([len(header.image_ids)])
    body += b"".join(image_id.encode("ascii").ljust(ID_BYTES, b"\0") for image_id in header.image_ids)
    if header.side_bytes:
        body += header.side_bytes.to_bytes(2, "big")
    body = body.ljust(layout.header_bytes - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "big")


def header_from_bytes(data: bytes) -> FrameHeader | None:
    """Return the header in `data`, or None if the CRC or a field is wrong."""
    body, crc = data[:-4], int.from_bytes(data[-4:], "big")
    if zlib.crc32(body) != crc or body[0] not in (HEADER_VERSION, SIDE_VERSION):
        return None
    version, number, layout_digest, codec_digest, csnr, channels, height, width = _FIELDS.unpack_from(body)
    place = _FIELDS.size
    per_image, offset, payload = (int.from_bytes(body[place + 3 * i : place + 3 * i + 3], "big") for i in range(3))
    ids = body[place + 10 :]
    count = body[place + 9]
    if count * ID_BYTES > len(ids):
        return None
    side_bytes = int.from_bytes(ids[ID_BYTES : ID_BYTES + 2], "big") if version == SIDE_VERSION else 0
    if (side_bytes > 0) != (version == SIDE_VERSION):
        return None
    try:
        return FrameHeader(
            frame_number=number,
            layout_digest=layout_digest.hex(),
            codec_digest=codec_digest.hex(),
            csnr_db=csnr / 100.0,
            image_shape=(channels, height, width),
            symbols_per_image=per_image,
            symbol_offset=offset,
            num_payload=payload,
            image_ids=tuple(
                ids[ID_BYTES * i : ID_BYTES * (i + 1)].rstrip(b"\0").decode("latin-1") for i in range(count)
            ),
            side_bytes=side_bytes,
        )
    except InputError:
        return None


def encode_header(header: FrameHeader, layout: FrameLayout) -> NDArray[np.complex64]:
    """Make the grid of the header symbols.

    Returns:
        complex64 (header_symbols, N) in FFT bin order, BPSK on every active carrier.

    Raises:
        LayoutError: the frame holds more images than the layout has slots.
    """
    bits = np.unpackbits(np.frombuffer(header_to_bytes(header, layout), dtype=np.uint8))
    coded = convolve_bits(bits)
    cells = 1.0 - 2.0 * coded[layout.header_cell_bits].astype(np.float32)
    grid = np.zeros((layout.header_symbols, layout.fft_size), dtype=np.complex64)
    grid[:, layout.active_bins] = cells.reshape(layout.header_symbols, layout.num_active) * layout.header_scrambler
    return grid


@lru_cache(maxsize=8)
def _repetitions(layout: FrameLayout) -> NDArray[np.int64]:
    """Return (repetitions, coded bits): the header cell that carries each coded bit; one past the last for none."""
    bits_of_cells, num_bits = layout.header_cell_bits, layout.header_coded_bits
    cells = np.full((-(-bits_of_cells.size // num_bits), num_bits), bits_of_cells.size, dtype=np.int64)
    index = np.arange(bits_of_cells.size)
    cells[index // num_bits, bits_of_cells] = index
    return cells


def decode_headers(
    soft: NDArray[np.floating], layout: FrameLayout
) -> tuple[list[FrameHeader | None], NDArray[np.float32]]:
    """Read many headers at once; each result is that of `decode_header`.

    Codewords with no wrong bit, or lone ones, are inverted algebraically, which the checksum confirms; only the others
    go through the Viterbi algorithm.

    Args:
        soft: real (F, header_symbols, num_active), each as `decode_header` takes it.

    Returns:
        F headers, None where there is none; and float32 (F, header_symbols, num_active), the sent cells (+1 or -1) of
        every header that was read, else zeros.
    """
    cells = np.asarray(soft)
    if cells.ndim != 3 or cells.shape[1:] != (layout.header_symbols, layout.num_active) or np.iscomplexobj(cells):
        raise LayoutError(
            f"header cells must be real (F, {layout.header_symbols}, {layout.num_active}) for layout '{layout.name}', "
            f"found {cells.dtype} {cells.shape}"
        )
    count = cells.shape[0]
    headers: list[FrameHeader | None] = [None] * count
    sent = np.zeros(cells.shape, dtype=np.float32)
    flat = cells.reshape(count, -1)
    peaks = np.maximum(flat.max(axis=1), -flat.min(axis=1)) if count else np.zeros(0)
    usable = np.flatnonzero(np.isfinite(peaks) & (peaks > 0))
    if not usable.size:
        return headers, sent
    if usable.size < count:
        cells, peaks = cells[usable], peaks[usable]
    combined = np.zeros((usable.size, layout.header_coded_bits), dtype=np.float32)
    # Few rows at a time stay in the cache; a column of zeros stands for the cells that the last repetition lacks.
    signs = np.zeros((32, layout.header_cell_bits.size + 1), dtype=np.float32)
    for first in range(0, usable.size, 32):
        part = cells[first : first + 32].reshape(-1, signs.shape[1] - 1)
        held = signs[: part.shape[0]]
        np.divide(part, peaks[first : first + 32, None], out=held[:, :-1], casting="same_kind")
        held[:, :-1] *= layout.header_scrambler.reshape(-1)
        for cells_of_bits in _repetitions(layout):
            combined[first : first + 32] += np.take(held, cells_of_bits, axis=1)

    def accept(rows: NDArray[np.int64], bits: NDArray[np.uint8]) -> None:
        packed = np.packbits(bits, axis=1)
        read = []
        for index, row in enumerate(rows):
            header = header_from_bytes(packed[index].tobytes())
            if header and not (header.layout_digest == layout.digest and header.num_payload > layout.capacity):
                headers[usable[row]] = header
                read.append(index)
        for first in range(0, len(read), 32):
            part = read[first : first + 32]
            coded = 1.0 - 2.0 * convolve_many(bits[part]).astype(np.float32)
            values = np.take(coded, layout.header_cell_bits, axis=1).reshape(len(part), *sent.shape[1:])
            values *= layout.header_scrambler
            sent[usable[rows[part]]] = values

    hard = (combined < 0).astype(np.uint8)
    accept(np.arange(usable.size), invert_code(hard))
    for bits_of in (lambda rows: invert_code(mend_code(hard[rows])), lambda rows: viterbi_many(combined[rows])):
        for first in range(0, usable.size, 256):
            rows = np.array(
                [r for r in range(first, min(first + 256, usable.size)) if headers[usable[r]] is None], np.int64
            )
            if rows.size:
                accept(rows, bits_of(rows))
    return headers, sent


def decode_header(soft: NDArray[np.floating], layout: FrameLayout) -> FrameHeader | None:
    """Read a header from its equalised cells.

    Args:
        soft: real (header_symbols, num_active), active carriers ascending; `Re(conj(H) y) / noise_var` of each cell,
            up to one common positive factor. With a poor channel estimate any real value is allowed.

    Returns:
        The header, or None where the CRC fails, a field is impossible, or the cells aren't finite. The layout digest
        is not compared with `layout`'s: the caller can tell the user that the layouts differ.

    Raises:
        LayoutError: `soft` has the wrong shape.
    """
    cells = np.asarray(soft)
    if cells.shape != (layout.header_symbols, layout.num_active) or np.iscomplexobj(cells):
        raise LayoutError(
            f"header cells must be real {(layout.header_symbols, layout.num_active)} for layout '{layout.name}', "
            f"found {cells.dtype} {cells.shape}"
        )
    cells = cells.astype(np.float64)
    peak = float(np.abs(cells).max())
    if not math.isfinite(peak) or peak == 0.0:
        return None
    signs = cells / peak * layout.header_scrambler
    combined = np.zeros(layout.header_coded_bits)
    np.add.at(combined, layout.header_cell_bits, signs.reshape(-1))
    header = header_from_bytes(np.packbits(viterbi(combined)).tobytes())
    if header and header.layout_digest == layout.digest and header.num_payload > layout.capacity:
        return None
    return header
