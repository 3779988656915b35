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
from functools import lru_cache

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


def _inverse_taps() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Delays (a, b) with a(D) g0(D) + b(D) g1(D) = 1 over GF(2): they undo the encoder where no bit is wrong."""
    # Polynomials as whole numbers, bit i for D^i; a generator's most significant bit is delay 0.
    first, second = (int(f"{g:07b}"[::-1], 2) for g in _GENERATORS)
    rows = [(first, 1, 0), (second, 0, 1)]
    while rows[1][0]:
        (high, a, b), (low, c, d) = rows
        while high.bit_length() >= low.bit_length():
            shift = high.bit_length() - low.bit_length()
            high, a, b = high ^ (low << shift), a ^ (c << shift), b ^ (d << shift)
        rows = [(low, c, d), (high, a, b)]
    _, a, b = rows[0]
    return tuple(i for i in range(a.bit_length()) if a >> i & 1), tuple(i for i in range(b.bit_length()) if b >> i & 1)


_INVERSE_TAPS = _inverse_taps()
# Of the arriving states s and s + 32 the predecessors are 2s and 2s + 1. Both generators use their first and last bit,
# so the four branches of such a butterfly are plus or minus one number: row `_BUTTERFLY[s]` of (x0+x1, x0-x1, x1-x0,
# -x0-x1).
_BUTTERFLY = np.array(
    [2 * (_OUTPUT_SIGNS[0, 2 * s, 0] < 0) + (_OUTPUT_SIGNS[1, 2 * s, 0] < 0) for s in range(32)], dtype=np.int64
)


def _shifted_xor(streams: NDArray[np.uint8], delays: tuple[int, ...], out: NDArray[np.uint8]) -> None:
    for delay in delays:
        out[:, delay:] ^= streams[:, : streams.shape[1] - delay]


def convolve_many(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`convolve_bits` of each row: (F, n) to (F, 2 (n + 6))."""
    padded = np.pad(bits, ((0, 0), (0, HEADER_TAIL_BITS)))
    coded = np.zeros((bits.shape[0], padded.shape[1], 2), dtype=np.uint8)
    for index, generator in enumerate(_GENERATORS):
        stream = np.zeros_like(padded)
        _shifted_xor(padded, tuple(delay for delay in range(7) if generator >> (6 - delay) & 1), stream)
        coded[:, :, index] = stream
    return coded.reshape(bits.shape[0], -1)


def invert_code(hard: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(F, n) bits of codewords (F, 2 (n + 6)) without a wrong bit; nonsense where there is one.

    >>> bits = np.array([[1, 0, 1, 1]], np.uint8)
    >>> invert_code(convolve_many(bits))
    array([[1, 0, 1, 1]], dtype=uint8)
    """
    pairs = hard.reshape(hard.shape[0], -1, 2)
    bits = np.zeros(pairs.shape[:2], dtype=np.uint8)
    for index, delays in enumerate(_INVERSE_TAPS):
        _shifted_xor(np.ascontiguousarray(pairs[:, :, index]), delays, bits)
    return bits[:, : bits.shape[1] - HEADER_TAIL_BITS]


# What a lone wrong bit of either stream leaves in the syndrome, seven silent places before it.
_LONE_WRONG = tuple(
    sum(1 << (7 + delay) for delay in range(7) if generator >> (6 - delay) & 1) for generator in _GENERATORS[::-1]
)


def mend_code(hard: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codewords (F, 2 (n + 6)) with the wrong bits put right that lie fourteen or more steps from any other.

    The streams c0 = g0 b and c1 = g1 b satisfy g1 c0 + g0 c1 = 0; a wrong bit of c0 leaves g1 there, one of c1 g0.

    >>> coded = convolve_many(np.array([[1, 0, 1, 1]], np.uint8))
    >>> wrong = coded.copy()
    >>> wrong[0, 5] ^= 1
    >>> np.array_equal(mend_code(wrong), coded)
    True
    """
    pairs = hard.reshape(hard.shape[0], -1, 2)
    steps = pairs.shape[1]
    # Seven places of zeros on both sides, so that wrong bits at either end look like the others.
    padded = np.zeros((2, hard.shape[0], steps + 14), dtype=np.uint8)
    padded[:, :, 7 : 7 + steps] = pairs.transpose(2, 0, 1)
    syndrome = np.zeros(padded.shape[1:], dtype=np.uint8)
    for stream, generator in zip(padded, _GENERATORS[::-1], strict=True):
        _shifted_xor(stream, tuple(delay for delay in range(7) if generator >> (6 - delay) & 1), syndrome)
    window = np.zeros((hard.shape[0], steps), dtype=np.uint16)
    for place in range(14):
        window |= syndrome[:, place : place + steps].astype(np.uint16) << place
    mended = pairs.copy()
    for index, pattern in enumerate(_LONE_WRONG):
        mended[:, :, index] ^= window == pattern
    return mended.reshape(hard.shape)


def viterbi_many(soft: NDArray[np.floating]) -> NDArray[np.uint8]:
    """`viterbi` of each row: (F, 2 (n + 6)) soft values to (F, n) bits."""
    count = soft.shape[0]
    pairs = np.ascontiguousarray(soft.astype(np.float32).reshape(count, -1, 2).transpose(1, 2, 0))  # (steps, 2, F)
    steps = pairs.shape[0]
    plus, minus = pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]
    table = np.stack([plus, minus, -minus, -plus], axis=1)
    # Row 3 - i of the table is minus row i: states s and s + 32 see opposite branches.
    rows = np.concatenate([_BUTTERFLY, 3 - _BUTTERFLY])
    metric = np.full((_NUM_STATES, count), -1e30, dtype=np.float32)
    metric[0] = 0.0
    chosen = np.empty((steps, 2, 32, count), dtype=bool)
    first, second = (np.empty((2, 32, count), dtype=np.float32) for _ in range(2))
    for low in range(0, steps, 16):
        branches = np.take(table[low : low + 16], rows, axis=1).reshape(-1, 2, 32, count)
        for step, branch in enumerate(branches, low):
            np.add(metric[0::2], branch, out=first)
            np.subtract(metric[1::2], branch, out=second)
            np.greater(second, first, out=chosen[step])
            metric = np.maximum(first, second).reshape(_NUM_STATES, count)
        metric -= metric.max(axis=0)  # keeps float32 exact enough however long the codeword
    bits = np.empty((steps, count), dtype=np.uint8)
    state, column = np.zeros(count, dtype=np.int64), np.arange(count)
    for step in range(steps - 1, -1, -1):
        bits[step] = state >> 5
        state = ((state << 1) & 63) | chosen[step].reshape(-1).take(state * count + column)
    return np.ascontiguousarray(bits[: steps - HEADER_TAIL_BITS].T)


@lru_cache(maxsize=8)
def _repetitions(layout: FrameLayout) -> NDArray[np.int64]:
    """(repetitions, coded bits): which header cell carries each coded bit; one past the last cell for none."""
    bits_of_cells, num_bits = layout.header_cell_bits, layout.header_coded_bits
    cells = np.full((-(-bits_of_cells.size // num_bits), num_bits), bits_of_cells.size, dtype=np.int64)
    index = np.arange(bits_of_cells.size)
    cells[index // num_bits, bits_of_cells] = index
    return cells


def decode_headers(
    soft: NDArray[np.floating], layout: FrameLayout
) -> tuple[list[FrameHeader | None], NDArray[np.float32]]:
    """Read many headers at once; what `decode_header` reads from each.

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
            header = _from_bytes(packed[index].tobytes())
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
    header = _from_bytes(np.packbits(viterbi(combined)).tobytes())
    if header and header.layout_digest == layout.digest and header.num_payload > layout.capacity:
        return None
    return header
