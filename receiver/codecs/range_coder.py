"""An adaptive range coder for short sequences of small numbers, such as the map of rates of an image.

The coder (Martin 1979) narrows an interval by the frequency of each number. Frequencies start equal and follow the
sequence, so that nothing about it has to be known beforehand. What is written is the shortest number in the last
interval, without its trailing zero bytes: a sequence of one and the same number takes next to nothing. Nothing in it
detects errors: other bytes are mostly other numbers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from sdr.errors import InputError

#: Counted for each number seen, against 1 for each number of the alphabet at the start.
_INCREMENT = 24
#: Frequencies are halved where their sum exceeds this.
_MAX_TOTAL = 1 << 16
#: The interval is widened by a byte where it is shorter than this, so that a share of `_MAX_TOTAL` stays precise.
_MIN_SPAN = 1 << 24
_START_BYTES = 4


class _Frequencies:
    """How often each number of an alphabet has been seen."""

    def __init__(self, alphabet: int) -> None:
        self.counts = [1] * alphabet

    def limits(self) -> list[int]:
        """Return where the share of each number begins, and where the last one ends."""
        return [0, *accumulate(self.counts)]

    def count(self, number: int) -> None:
        self.counts[number] += _INCREMENT
        if sum(self.counts) > _MAX_TOTAL:
            self.counts = [(count + 1) // 2 for count in self.counts]


def max_bytes(count: int) -> int:
    """Return the most bytes that `count` numbers may take."""
    return _START_BYTES + 2 * count


def encode(numbers: Sequence[int], alphabet: int) -> bytes:
    """Return numbers 0 .. alphabet - 1 as bytes.

    >>> len(encode([3] * 1000, 26)), decode(encode([3, 1, 2], 26), 3, 26)
    (2, [3, 1, 2])

    Raises:
        InputError: a number outside of the alphabet.
    """
    low, span, size = 0, 1 << 8 * _START_BYTES, _START_BYTES
    frequencies = _Frequencies(alphabet)
    for number in numbers:
        if not 0 <= number < alphabet:
            raise InputError(f"The number {number} is outside of 0..{alphabet - 1}. Give numbers of the alphabet.")
        limits = frequencies.limits()
        step = span // limits[-1]
        low, span = low + step * limits[number], step * frequencies.counts[number]
        while span < _MIN_SPAN:
            low, span, size = low << 8, span << 8, size + 1
        frequencies.count(number)
    for zeros in range(size, -1, -1):
        unit = 1 << 8 * zeros
        rounded = -(-low // unit) * unit
        if rounded < low + span:
            return rounded.to_bytes(size, "big").rstrip(b"\0")
    raise AssertionError("an interval holds its own beginning")


def decode(data: bytes, count: int, alphabet: int) -> list[int]:
    """Return the `count` numbers that `encode` was given.

    Raises:
        InputError: longer than so many numbers can be, or not what `encode` writes.
    """
    if len(data) > max_bytes(count):
        raise InputError(
            f"{len(data)} bytes are too many for {count} numbers, at most {max_bytes(count)} fit. Receive them again."
        )
    place, span = _START_BYTES, 1 << 8 * _START_BYTES
    code = int.from_bytes(data[:place].ljust(place, b"\0"), "big")
    frequencies = _Frequencies(alphabet)
    numbers = []
    for _ in range(count):
        limits = frequencies.limits()
        step = span // limits[-1]
        number = bisect_right(limits, min(code // step, limits[-1] - 1)) - 1
        code, span = code - step * limits[number], step * frequencies.counts[number]
        while span < _MIN_SPAN:
            code, span = code << 8 | (data[place] if place < len(data) else 0), span << 8
            place += 1
        frequencies.count(number)
        numbers.append(number)
    if encode(numbers, alphabet) != data:
        raise InputError(f"The {len(data)} bytes are no {count} numbers below {alphabet}. Receive them again.")
    return numbers
