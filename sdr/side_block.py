"""Write and read side information: bytes that a receiver must have without errors to make sense of an image's symbols.

They stand before the image's symbols in the payload, and are interleaved and scrambled like these. A CRC-32 follows
them; the bits go through the header's convolutional code, as QPSK. The header repeats its codeword to be read at any
channel SNR. Here the announced one is known, so that every bit gets about the same energy at each: the codeword is
repeated 6 times, as the header's in BPSK is 3 times, up to 5 dB, less often above, and once from 13 dB on.
"""

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdr.convolutional_code import TAIL_BITS, convolve_bits, viterbi
from sdr.errors import InputError
from sdr.header import MAX_SIDE_BYTES

_CRC_BYTES = 4
#: The codeword is repeated by as much as the announced channel SNR is below this, dB, but at most so many times.
_ONCE_FROM_DB, _MOST_REPETITIONS = 13.0, 6.0


def side_cells(num_bytes: int, csnr_db: float) -> int:
    """Return how many payload symbols side information takes; none where there is none.

    >>> side_cells(44, 10.0), side_cells(44, 0.0), side_cells(0, 10.0)
    (779, 2340, 0)

    Args:
        num_bytes: of side information.
        csnr_db: channel SNR that the header announces, dB.
    """
    if not num_bytes:
        return 0
    announced_db = round(csnr_db * 100.0) / 100.0  # what a header keeps of it
    repetitions = min(_MOST_REPETITIONS, max(1.0, 10 ** ((_ONCE_FROM_DB - announced_db) / 10)))
    return int(np.ceil(repetitions * (8 * (num_bytes + _CRC_BYTES) + TAIL_BITS)))


@lru_cache(maxsize=64)
def _bit_of_cell(num_bytes: int, csnr_db: float) -> NDArray[np.int64]:
    """Return (2, cells) which coded bit each cell carries in its real and in its imaginary part.

    The parts of a cell carry bits from different repetitions, or from far away in the codeword.
    """
    cells, coded = side_cells(num_bytes, csnr_db), 2 * (8 * (num_bytes + _CRC_BYTES) + TAIL_BITS)
    bits = (np.arange(2 * cells) % coded).reshape(2, cells)
    bits[1] = np.roll(bits[1], cells // 2 + 1)
    bits.setflags(write=False)
    return bits


def encode_side(data: bytes, csnr_db: float) -> NDArray[np.complex64]:
    """Return side information as (side_cells,) symbols of unit power.

    Raises:
        InputError: too long for the header to tell its length.
    """
    if not 0 < len(data) <= MAX_SIDE_BYTES:
        raise InputError(f"Side information has {len(data)} bytes, 1..{MAX_SIDE_BYTES} can be sent. Cut the image.")
    content = data + zlib.crc32(data).to_bytes(_CRC_BYTES, "big")
    coded = convolve_bits(np.unpackbits(np.frombuffer(content, dtype=np.uint8)))
    signs = (1.0 - 2.0 * coded[_bit_of_cell(len(data), csnr_db)]) / np.sqrt(2)
    return (signs[0] + 1j * signs[1]).astype(np.complex64)


def decode_side(soft: NDArray[np.complexfloating], num_bytes: int, csnr_db: float) -> bytes | None:
    """Return the side information of received symbols, or None where its checksum is wrong.

    Args:
        soft: (side_cells,) `conj(gain) y / noise_var` of each symbol, up to one common positive factor.
        num_bytes: of side information, from the header.
        csnr_db: channel SNR that the header announces, dB.

    Raises:
        InputError: the number of symbols is another.
    """
    bits = _bit_of_cell(num_bytes, csnr_db)
    if soft.shape != bits.shape[1:]:
        raise InputError(f"{num_bytes} bytes of side information take {bits.shape[1]} symbols, found {soft.shape}.")
    if not np.isfinite(soft).all():
        return None
    combined = np.zeros(2 * (8 * (num_bytes + _CRC_BYTES) + TAIL_BITS))
    np.add.at(combined, bits, np.stack([soft.real, soft.imag]))
    content = np.packbits(viterbi(combined)).tobytes()
    data, crc = content[:-_CRC_BYTES], int.from_bytes(content[-_CRC_BYTES:], "big")
    return data if zlib.crc32(data) == crc else None
