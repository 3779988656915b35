"""Break files as people, disks and enemies do: bytes changed, cut, repeated; values that nobody would write."""

from __future__ import annotations

import json
import random
import re
from typing import Any

_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        3,
        1e-320,
        -1e308,
        1e308,
        2**31,
        2**63,
        10**40,
        -(2**70),
        float("nan"),
        float("inf"),
    ),
    *("", "x", "../x", "/etc/hostname", "a\0b", "\n", "cf32_le", "2026-11-28T12:00:00Z", "\ud800", "ä" * 200),
    *([], [0], [[]], [None, "x"], {}, {"x": 1}, [1] * 70, ["a", {"b": [1.5]}]),
)
_TOML_VALUES = (
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "1e308",
    "9" * 30,
    '""',
    '"../x"',
    "[]",
    "[[1]]",
    "{}",
    "true",
    "1979-05-27",
    '"x',
)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """Return a file's content, changed in one of many ways."""
    if rng.random() < 0.6 and (changed := _changed_value(content, rng)) is not None:
        return changed
    return _changed_bytes(content, rng)


def _changed_value(content: bytes, rng: random.Random) -> bytes | None:
    """Return JSON, JSON lines or TOML with one value replaced, removed or added; None for what is none of these."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        lines = re.findall(r"^[\w\"-]+ = .*$", text, re.MULTILINE)
        if not lines:
            return None
        line = rng.choice(lines)
        key = line.partition(" = ")[0]
        value = rng.choice(_TOML_VALUES)
        return text.replace(line, rng.choice((f"{key} = {value}", "", f"{line}\n{line}", f"{key}x = {value}"))).encode()
    _change_node(document, rng)
    return json.dumps(document).encode()


def _change_node(document: Any, rng: random.Random) -> None:
    """Change one entry of a tree of dicts and lists in place."""
    nodes = [document]
    for node in nodes:
        nodes += [
            child for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, dict | list)
        ]
    node = rng.choice([one for one in nodes if one] or nodes)
    if isinstance(node, dict):
        key = rng.choice([*node, "x"])
        if rng.random() < 0.2:
            node.pop(key, None)
        else:
            node[key] = rng.choice(_VALUES)
    elif node:
        node[rng.randrange(len(node))] = rng.choice(_VALUES)
        if rng.random() < 0.2:
            node += node


def _changed_bytes(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(data[: rng.randrange(len(data) + 1)])
    if kind == 1:
        begin = rng.randrange(len(data) + 1)
        return bytes(data[:begin] + data[begin : begin + rng.randrange(64)] * 2 + data[begin:])
    if kind == 2:
        begin = rng.randrange(len(data) + 1)
        return bytes(data[:begin] + data[begin + rng.randrange(64) :])
    # Headers, where sizes and types stand, are hit most of the time.
    span = len(data) if rng.random() < 0.4 else min(len(data), 200)
    for _ in range(rng.choice((1, 2, 4, 16))):
        if span:
            data[rng.randrange(span)] = rng.choice((0, 255, 127, 128, rng.randrange(256)))
    return bytes(data)
