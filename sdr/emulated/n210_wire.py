"""Write and read what an N210 has on the wire and in its memories: samples, EEPROMs."""

import math
import socket
import struct

import numpy as np
from numpy.typing import NDArray

FULL_SCALE = 32767.0
"""Counts of the converters that are 1.0."""


def filter_gain(word: int, order: int) -> float:
    """Return the gain of the mixer's CORDIC and of a CIC filter, whose shift leaves less than a factor of two.

    Args:
        word: rate register.
        order: of the CIC filter.
    """
    power = max(1, word & 0xFF) ** order
    return 1.65 * power / 2 ** math.ceil(math.log2(power))


def to_wire(samples: NDArray[np.complex64], gain: float, eight_bits: bool) -> NDArray[np.uint32]:
    """Return samples as words on the wire: big endian, real part first; 8-bit samples two a word.

    Args:
        samples: complex64 (n,); their memory is used.
        gain: digital gain behind the converter.
        eight_bits: 8 bits a component instead of 16.
    """
    parts = samples.view(np.float32)
    np.clip(parts, -1.0, 1.0, out=parts)  # the converter's full scale
    parts *= np.float32(gain * FULL_SCALE)
    np.rint(parts, out=parts)
    if not eight_bits:
        np.clip(parts, -32768.0, 32767.0, out=parts)
        return parts.astype(np.int16).astype(">i2").view(">u4")
    np.clip(parts, -128.0, 127.0, out=parts)
    octets = parts.astype(np.int8)
    if octets.size % 4:
        octets = np.concatenate([octets, np.zeros(2, np.int8)])
    return octets.view(">u4")


def from_wire(content: memoryview, gain: float, eight_bits: bool) -> NDArray[np.complex64]:
    """Return the samples of a packet as complex64 (n,) at the converter, limited to its full scale.

    Args:
        content: words on the wire.
        gain: digital gain in front of the converter.
        eight_bits: 8 bits a component instead of 16.
    """
    raw = np.frombuffer(content, np.int8 if eight_bits else ">i2")
    parts = raw[: raw.size // 2 * 2].astype(np.float32)
    # Eight bits become the upper half of sixteen.
    parts *= np.float32(gain * (256 if eight_bits else 1) / FULL_SCALE)
    np.clip(parts, -1.0, 1.0, out=parts)
    return parts.view(np.complex64)


def motherboard_eeprom(addr: str, name: str, serial: str) -> bytearray:
    """Return the 256 bytes that identify the device."""
    content = bytearray(b"\xff" * 256)
    content[0:2] = struct.pack("<H", 0x0A11)  # N210 revision 4
    content[2:8] = bytes.fromhex("00802f") + socket.inet_aton(addr)[1:]
    content[8:12], content[12:16] = socket.inet_aton("255.0.0.0"), socket.inet_aton(addr)
    content[18:20], content[20:22] = struct.pack("<H", 4), struct.pack("<H", 2)
    content[23] = 0
    content[24:33] = serial.encode().ljust(9, b"\0")
    content[33:56] = name.encode("ascii", "replace")[:22].ljust(23, b"\0")
    content[56:60] = bytes(4)
    return content


def board_eeprom(board: int) -> bytearray:
    """Return the 256 bytes that identify a daughterboard."""
    content = bytearray(256)
    content[0:3] = bytes([0xDB, board & 0xFF, board >> 8])
    content[0x1F] = -sum(content[:0x1F]) & 0xFF
    return content
