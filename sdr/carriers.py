"""Write carriers as ranges, as files hold them, and read them."""

from collections.abc import Iterable

from sdr.errors import LayoutError

MAX_FFT_SIZE = 65536
"""Largest FFT size of a layout."""


def to_ranges(carriers: Iterable[int]) -> list[list[int]]:
    """Return ascending carriers as [first, last] pairs, both included.

    >>> to_ranges([-2, -1, 1, 2, 3])
    [[-2, -1], [1, 3]]
    """
    ranges: list[list[int]] = []
    for carrier in carriers:
        if ranges and carrier == ranges[-1][1] + 1:
            ranges[-1][1] = carrier
        else:
            ranges.append([carrier, carrier])
    return ranges


def from_ranges(value: object, where: str) -> tuple[int, ...]:
    """Return the carriers of a list of whole numbers and [first, last] pairs, both included.

    Args:
        value: the list as a file holds it.
        where: what the list is, for messages.

    Raises:
        LayoutError: it is something else, or far too long.

    >>> from_ranges([-1, [1, 3]], "active")
    (-1, 1, 2, 3)
    """
    if not isinstance(value, list) or len(value) > MAX_FFT_SIZE:
        raise LayoutError(f"{where} must be a list of carriers or [first, last] pairs")
    carriers: list[int] = []
    for item in value:
        pair = item if isinstance(item, list) else [item, item]
        if len(pair) != 2 or any(isinstance(end, bool) or not isinstance(end, int) for end in pair):
            raise LayoutError(f"{where} holds {item!r:.60}; needed a carrier or a [first, last] pair")
        first, last = pair
        if not -MAX_FFT_SIZE <= first <= last <= MAX_FFT_SIZE or len(carriers) + last - first >= MAX_FFT_SIZE:
            raise LayoutError(f"{where} has the range {item!r:.60}, which is reversed or too large")
        carriers.extend(range(first, last + 1))
    return tuple(carriers)
