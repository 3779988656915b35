"""Read options written as one string, "key=value,key=value"."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from sdr.errors import InputError, did_you_mean

# The chain as one string


def finite(text: str) -> float:
    """A finite number.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def powers(text: str) -> tuple[float, ...]:
    return tuple(finite(part) for part in text.split(":"))


_WANTED = {int: "a whole number", finite: "a number", str: "text", powers: "powers such as 1:0.5:0.1"}


def parse_options(
    text: str, known: Mapping[str, Callable[[str], Any]], owner: str, wanted: Mapping[Any, str] | None = None
) -> dict[str, Any]:
    """Read "key=value,key=value".

    Args:
        known: how to read the value of each key; raises ValueError where it can't.
        owner: whose options they are, for messages.
        wanted: what readers that are not of this module want, for messages.

    Raises:
        InputError: an unknown or repeated key, or a value that can't be read.
    """
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise InputError(f"{owner} has no option '{key}'; {did_you_mean(key, known)}")
        if not equals or not value:
            raise InputError(f"{owner} option '{key}' needs a value, as in {key}=...")
        if key in options:
            raise InputError(f"{owner} option '{key}' is given twice")
        try:
            options[key] = known[key](value)
        except ValueError:
            kind = {**_WANTED, **(wanted or {})}[known[key]]
            raise InputError(f"{owner} option {key} must be {kind}, found '{value}'") from None
    return options
