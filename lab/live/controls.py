"""Define what a page may change, and check what it sends.

A page sends numbers, truth values and names from lists that stand here; never a path, a radio's address, or anything
that becomes a part of one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sdr.errors import InputError

MAX_COMMAND_BYTES = 1024
"""Longest message that a page may send."""

ACTIONS = ("snapshot", "record_last", "take_control")
"""Orders without a value."""


@dataclass(frozen=True)
class Number:
    """A number that a page may set.

    Args:
        low: least value.
        high: greatest value.
        whole: whether it is a whole number.
        unit: as shown; empty for a count.
        title: as shown.
    """

    low: float
    high: float
    whole: bool
    unit: str
    title: str

    def read(self, value: object) -> float | int:
        """Return the value.

        Raises:
            InputError: it is no number, or out of range.
        """
        right = isinstance(value, int if self.whole else int | float) and not isinstance(value, bool)
        if not right or not math.isfinite(value) or not self.low <= value <= self.high:  # type: ignore[arg-type]
            kind = "a whole number" if self.whole else "a number"
            raise InputError(f"{self.title} must be {kind} in {self.low:g}..{self.high:g}, found {value!s:.40}")
        return value  # type: ignore[return-value]


@dataclass(frozen=True)
class Choice:
    """One of several names that a page may choose.

    Args:
        names: the names.
        title: as shown.
    """

    names: tuple[str, ...]
    title: str

    def read(self, value: object) -> str:
        """Return the value.

        Raises:
            InputError: it is none of the names.
        """
        if not isinstance(value, str) or value not in self.names:
            raise InputError(f"{self.title} must be one of {', '.join(self.names)}, found {value!s:.40}")
        return value


@dataclass(frozen=True)
class Switch:
    """Something that a page may turn on and off.

    Args:
        title: as shown.
    """

    title: str

    def read(self, value: object) -> bool:
        """Return the value.

        Raises:
            InputError: it is no truth value.
        """
        if not isinstance(value, bool):
            raise InputError(f"{self.title} must be true or false, found {value!s:.40}")
        return value


Control = Number | Choice | Switch

AIR_CONTROLS: Mapping[str, Control] = {
    "csnr_db": Number(-10, 40, False, "dB", "CSNR"),
    "taps": Number(1, 32, True, "", "taps"),
    "cfo_hz": Number(-20e3, 20e3, False, "Hz", "CFO"),
}
"""What can be changed of a simulated air."""

PLAY_CONTROLS: Mapping[str, Control] = {
    "pause": Switch("pause"),
    "loop": Switch("loop"),
    "seek": Number(0, 1, False, "", "place in the recording"),
}
"""What can be changed of a recording that is played."""


RADIO_CONTROLS: Mapping[str, tuple[str, str]] = {
    "center_hz": ("Hz", "carrier"),
    "tx_gain_db": ("dB", "transmit gain"),
    "rx_gain_db": ("dB", "receive gain"),
}
"""Unit and title of what can be changed of a radio, once it has told its limits."""

TX_SETTINGS = ("center_hz", "tx_gain_db")
"""Those of a radio that transmits."""


def radio_controls(known: Mapping[str, Control], limits: Mapping[str, tuple[float, float]]) -> dict[str, Control]:
    """Return controls of what radios told the limits of; two radios have their common range.

    Args:
        known: controls so far, by name.
        limits: least and greatest values by name.

    >>> radio_controls({}, {"tx_gain_db": (-89.75, 0.0)})["tx_gain_db"].high
    0.0
    """
    found = {}
    for name, (low, high) in limits.items():
        if name not in RADIO_CONTROLS:
            continue
        before = known.get(name)
        # The range of a receiver's gain depends on the carrier: it is told anew.
        if isinstance(before, Number) and name == "center_hz":
            low, high = max(low, before.low), min(high, before.high)
        unit, title = RADIO_CONTROLS[name]
        found[name] = Number(low, high, False, unit, title)
    return found


def controls(methods: Sequence[str], *, simulated: bool, played: bool) -> dict[str, Control]:
    """Return the controls of an engine by name.

    Args:
        methods: that the sampler may run, by name.
        simulated: whether the air is simulated.
        played: whether a recording is played instead of an air.
    """
    found: dict[str, Control] = {"record": Switch("record")}
    if methods:
        found["method"] = Choice(tuple(methods), "method")
        found["steps"] = Number(1, 1000, True, "", "steps")
        found["draws"] = Number(1, 16, True, "", "draws")
    if simulated:
        found |= AIR_CONTROLS
    if played:
        found |= PLAY_CONTROLS
    else:
        found["mute"] = Switch("mute")
    return found


def describe(control: Control) -> dict[str, Any]:
    """Return what a page needs to draw a control."""
    kind = type(control).__name__.lower()
    return {"type": kind, **vars(control)}


def describe_all(known: Mapping[str, Control]) -> dict[str, dict[str, Any]]:
    """Return what a page needs to draw controls, by name."""
    return {name: describe(control) for name, control in known.items()}


def read_command(text: str, known: Mapping[str, Control]) -> tuple[str, Any]:
    """Return the name and the value of what a page asks for; actions have the value None.

    Args:
        text: `{"set": NAME, "value": VALUE}` or `{"do": ACTION}`.
        known: controls by name.

    Raises:
        InputError: it is anything else.

    >>> read_command('{"set": "mute", "value": true}', controls((), simulated=False, played=False))
    ('mute', True)
    """
    if len(text.encode()) > MAX_COMMAND_BYTES:
        raise InputError(f"a command has at most {MAX_COMMAND_BYTES} bytes")
    try:
        command = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("a command is a JSON object") from None
    if isinstance(command, dict):
        name = command.get("do")
        if set(command) == {"do"} and isinstance(name, str) and name in ACTIONS:
            return name, None
        name = command.get("set")
        if set(command) == {"set", "value"} and isinstance(name, str) and name in known:
            return name, known[name].read(command["value"])
    raise InputError(f"a command sets one of {', '.join(known)}, or does one of {', '.join(ACTIONS)}")
