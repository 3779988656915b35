"""The frame header: what a receiver must know about a frame, protected far beyond the images.

Bytes, big endian: version (1), frame number (4), layout digest (4), codec digest (4), CSNR in 0.01 dB (2, signed),
channels (1), rows (2), columns (2), symbols per image (3), symbol offset (3), payload symbols (3), number of images
(1), `image_slots` ids of 8 bytes padded with zeros, CRC-32 over all before (4).

The bits go through the rate-1/2, constraint-length-7 convolutional code with generators 133 and 171 (octal;
CCSDS 131.0-B, IEEE 802.11 17.3.5.6), ended by six zeros. The codeword is repeated over all header cells, each
repetition interleaved by its own permutation, as BPSK with pseudo-random signs.
"""

import base64
import hashlib
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError, LayoutError
from sdr.layout import HEADER_TAIL_BITS, ID_BYTES, FrameLayout
from sdr.symbols import MAX_SYMBOLS_PER_IMAGE, check_digest, check_image_id, check_image_shape

HEADER_VERSION = 1
_FIELDS = struct.Struct(">BI4s4shBHH")  # version .. columns; the 24-bit counts, the ids and the CRC follow
_GENERATORS = (0o133, 0o171)
_NUM_STATES = 64


def _generator_outputs() -> NDArray[np.float32]:
    """(2, 64 states, 2 inputs) sign (+1 for bit 0) of each generator's output; a state is the last six bits, newest
    in the most significant place."""
    register = (np.arange(2)[None, :] << 6) | np.arange(_NUM_STATES)[:, None]
    outputs = [np.unpackbits((register & g).astype(np.uint8)[..., None], axis=-1).sum(-1) % 2 for g in _GENERATORS]
    return 1.0 - 2.0 * np.stack(outputs).astype(np.float32)


_OUTPUT_SIGNS = _generator_outputs()
# Trellis seen from the arriving state s: its newest bit is s >> 5, and it has two predecessors.
_ARRIVING = np.arange(_NUM_STATES)
_INPUT_BIT = _ARRIVING >> 5
_PREDECESSORS = np.stack([(_ARRIVING << 1) & 63, ((_ARRIVING << 1) & 63) | 1])
_BRANCH_SIGNS = np.stack([_OUTPUT_SIGNS[:, predecessors, _INPUT_BIT] for predecessors in _PREDECESSORS])  # (2, 2, 64)


@dataclass(frozen=True)
class FrameHeader:
    """Content of a frame header.

    Args:
        frame_number: 0 .. 2^32 - 1.
        layout_digest: 8 hex digits of the layout.
        codec_digest: 8 hex digits of the codec (a longer digest is cut).
        csnr_db: channel SNR that the encoder was told, -327..327 dB; kept to 0.01 dB.
        image_shape: (C, H, W).
        symbols_per_image: K, 1 .. 2^24 - 1.
        symbol_offset: index within the image of the frame's first payload symbol; not 0 only where an image spans
            frames.
        num_payload: used payload symbols of the frame; the rest of the capacity is zero.
        image_ids: the images of the frame in payload order; exactly one where an image spans frames.

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

    def __post_init__(self) -> None:
        for field, low, high in (
            ("frame_number", 0, 2**32 - 1),
            ("symbols_per_image", 1, MAX_SYMBOLS_PER_IMAGE),
            ("symbol_offset", 0, MAX_SYMBOLS_PER_IMAGE - 1),
            ("num_payload", 1, MAX_SYMBOLS_PER_IMAGE),
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
        whole = self.symbol_offset == 0 and self.num_payload == count * self.symbols_per_image
        part = count == 1 and self.symbol_offset + self.num_payload <= self.symbols_per_image
        if not (whole or part):
            raise InputError(
                f"{count} images of {self.symbols_per_image} symbols don't make {self.num_payload} payload symbols "
                f"from symbol {self.symbol_offset} on"
            )


def image_id_from_stem(stem: str) -> str:
    """An image id of 1..8 characters for a file's stem: the stem itself where it fits, else 8 characters of its hash.

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


def _to_bytes(header: FrameHeader, layout: FrameLayout) -> bytes:
    """The header's bytes, CRC included."""
    if len(header.image_ids) > layout.image_slots:
        raise LayoutError(
            f"the frame holds {len(header.image_ids)} images, but layout '{layout.name}' has {layout.image_slots} slots"
        )
    channels, height, width = header.image_shape
    body = _FIELDS.pack(
        HEADER_VERSION,
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
    body = body.ljust(layout.header_bytes - 4, b"\0")
    return body + zlib.crc32(body).to_bytes(4, "big")


def _from_bytes(data: bytes) -> FrameHeader | None:
    """The header in `data`, or None if the CRC or a field is wrong."""
    body, crc = data[:-4], int.from_bytes(data[-4:], "big")
    if zlib.crc32(body) != crc or body[0] != HEADER_VERSION:
        return None
    _, number, layout_digest, codec_digest, csnr, channels, height, width = _FIELDS.unpack_from(body)
    place = _FIELDS.size
    per_image, offset, payload = (int.from_bytes(body[place + 3 * i : place + 3 * i + 3], "big") for i in range(3))
    ids = body[place + 10 :]
    count = body[place + 9]
    if count * ID_BYTES > len(ids):
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
        )
    except InputError:
        return None


def convolve_bits(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode bits with the rate-1/2 code and end in state 0.

    Args:
        bits: (n,) of 0 and 1.

    Returns:
        (2 * (n + 6),) coded bits, the two generators' outputs alternating.

    >>> convolve_bits(np.array([1], np.uint8)).reshape(-1, 2).T
    array([[1, 0, 1, 1, 0, 1, 1],
           [1, 1, 1, 1, 0, 0, 1]], dtype=uint8)
    """
    outputs = []
    for generator in _GENERATORS:
        impulse = np.array([generator >> (6 - delay) & 1 for delay in range(7)], dtype=np.int64)
        outputs.append(np.convolve(bits.astype(np.int64), impulse) % 2)
    return np.stack(outputs, axis=1).reshape(-1).astype(np.uint8)


def viterbi(soft: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Most likely bits of a codeword of `convolve_bits`.

    Args:
        soft: (2 * (n + 6),) real, finite; proportional to the log-likelihood ratio, positive where the coded bit is
            more likely 0.

    Returns:
        (n,) bits.

    >>> bits = np.array([1, 0, 1, 1], np.uint8)
    >>> viterbi(1.0 - 2.0 * convolve_bits(bits))
    array([1, 0, 1, 1], dtype=uint8)
    """
    pairs = np.asarray(soft, dtype=np.float32).reshape(-1, 2)
    num_steps = pairs.shape[0]
    # (steps, 2 predecessors, 64 states): all branch metrics at once, so that the loop only adds and compares.
    branches = np.einsum("tg,pgs->tps", pairs, _BRANCH_SIGNS)
    metric = np.full(_NUM_STATES, -np.inf, dtype=np.float32)
    metric[0] = 0.0
    chosen = np.empty((num_steps, _NUM_STATES), dtype=bool)
    for step in range(num_steps):
        first, second = metric[_PREDECESSORS] + branches[step]
        np.greater(second, first, out=chosen[step])
        metric = np.maximum(first, second)
        metric -= metric.max()  # keeps float32 exact enough however long the codeword
    bits = np.empty(num_steps, dtype=np.uint8)
    state = 0
    for step in range(num_steps - 1, -1, -1):
        bits[step] = state >> 5
        state = ((state << 1) & 63) | int(chosen[step, state])
    return bits[: num_steps - HEADER_TAIL_BITS]


def encode_header(header: FrameHeader, layout: FrameLayout) -> NDArray[np.complex64]:
    """Grid of the header symbols.

    Returns:
        complex64 (header_symbols, N) in FFT bin order, BPSK on every active carrier.

    Raises:
        LayoutError: the frame holds more images than the layout has slots.
    """
    bits = np.unpackbits(np.frombuffer(_to_bytes(header, layout), dtype=np.uint8))
    coded = convolve_bits(bits)
    cells = 1.0 - 2.0 * coded[layout.header_cell_bits].astype(np.float32)
    grid = np.zeros((layout.header_symbols, layout.fft_size), dtype=np.complex64)
    grid[:, layout.active_bins] = cells.reshape(layout.header_symbols, layout.num_active) * layout.header_scrambler
    return grid


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
    header = _from_bytes(np.packbits(viterbi(combined)).tobytes())
    if header and header.layout_digest == layout.digest and header.num_payload > layout.capacity:
        return None
    return header
