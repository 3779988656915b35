"""Read options written as one string, "key=value,key=value": the only place that does."""

import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from sdr.errors import InputError, OtaError, did_you_mean

Reader = Callable[[str], Any]
"""Turns the text of a value into the value; raises ValueError where it can't."""


def finite(text: str) -> float:
    """Read a finite number.

    Raises:
        ValueError: it is none.
    """
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def yes_or_no(text: str) -> bool:
    """Read "yes" or "no" (or "true" and "false", or "1" and "0").

    Raises:
        ValueError: it is neither.
    """
    if text.lower() in ("yes", "true", "1"):
        return True
    if text.lower() in ("no", "false", "0"):
        return False
    raise ValueError


def powers(text: str) -> tuple[float, ...]:
    """Read finite numbers separated by colons.

    Raises:
        ValueError: one of them is none.
    """
    return tuple(finite(part) for part in text.split(":"))


_READERS: dict[Any, Reader] = {int: int, float: finite, str: str, bool: yes_or_no, tuple[float, ...]: powers}
_WANTED: dict[Any, str] = {
    int: "a whole number",
    finite: "a number",
    str: "text",
    yes_or_no: "yes or no",
    powers: "numbers such as 1:0.5:0.1",
}


def option_readers(kind: type) -> dict[str, Reader]:
    """Return how to read each field of a dataclass of numbers, texts, truth values and powers, optional or not.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Options:
    ...     rate_sps: float | None = None
    ...     count: int = 1
    >>> option_readers(Options)["count"]("3")
    3
    """
    readers = {}
    for name, hint in typing.get_type_hints(kind).items():
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
        readers[name] = _READERS[hint]
    return readers


def parse_options(
    text: str, known: Mapping[str, Reader], owner: str, error: type[OtaError] = InputError
) -> dict[str, Any]:
    """Return the options of "key=value,key=value".

    Args:
        text: what to read; empty items are left out.
        known: reader of this module for the value of each key.
        owner: whose options they are, for messages.
        error: class of the errors.

    Raises:
        `error`: an unknown or repeated key, or a value that can't be read.

    >>> parse_options("taps=8,cfo_hz=300", {"taps": int, "cfo_hz": finite}, "sim:")
    {'taps': 8, 'cfo_hz': 300.0}
    """
    options: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise error(f"{owner} has no option '{key}'; {did_you_mean(key, known)}")
        if not equals or not value:
            raise error(f"{owner} option '{key}' needs a value, as in {key}=...")
        if key in options:
            raise error(f"{owner} option '{key}' is given twice")
        try:
            options[key] = known[key](value)
        except ValueError:
            raise error(f"{owner} option {key} must be {_WANTED[known[key]]}, found '{value}'") from None
    return options
