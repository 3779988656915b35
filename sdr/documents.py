"""Read TOML and JSON files into frozen dataclasses, strictly: what is unknown, missing or of another type is an error.

Written here and not taken from a library: layouts and profiles are read in the interpreter that has GNU Radio, too,
which has nothing but the standard library and NumPy. That library reads TOML and doesn't write it: `to_toml` does.
"""

import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from sdr.errors import ConfigError, OtaError, did_you_mean

T = TypeVar("T")

MAX_DOCUMENT_BYTES = 4 << 20
"""Largest file that is read."""


def read_document(
    path: Path, error: type[OtaError] = ConfigError, what: str = "file", max_bytes: int = MAX_DOCUMENT_BYTES
) -> dict[str, Any]:
    """Read a table from a TOML or, where the name ends in .json, a JSON file in UTF-8 (a byte order mark is allowed).

    Args:
        path: the file.
        error: class of the errors.
        what: what kind of file it is, for messages.
        max_bytes: largest file that is read.

    Raises:
        `error`: the file can't be read, is too large, or holds no table.
    """
    document = _parsed(path, "JSON" if path.suffix == ".json" else "TOML", error, what, max_bytes)
    if not isinstance(document, dict):
        raise error(f"{what} {path} must hold a table of fields, found a {type(document).__name__}")
    return document


def read_json(
    path: Path, error: type[OtaError] = ConfigError, what: str = "file", max_bytes: int = MAX_DOCUMENT_BYTES
) -> Any:
    """Read a JSON file of any name and content; the rest is as for `read_document`."""
    return _parsed(path, "JSON", error, what, max_bytes)


def _parsed(path: Path, kind: str, error: type[OtaError], what: str, max_bytes: int) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except (OSError, ValueError) as reason:  # ValueError: a name that no file can have
        raise error(f"{what} {path} can't be read: {getattr(reason, 'strerror', reason)}; check the path") from None
    if len(content) > max_bytes:
        raise error(f"{what} {path} is larger than {max_bytes} bytes; this is no {what}")
    try:
        text = content.decode("utf-8-sig")
        return json.loads(text) if kind == "JSON" else tomllib.loads(text)
    except (ValueError, RecursionError) as reason:
        first_line = str(reason).splitlines()[0] if str(reason) else type(reason).__name__
        raise error(f"{what} {path} is not valid {kind}: {first_line}") from None


def from_table(kind: type[T], table: Mapping[str, Any], source: str, error: type[OtaError] = ConfigError) -> T:
    """Make a dataclass from a table of its fields.

    Fields may be str, int, float (whole numbers are taken too), bool, Literal, optional ones, tuples of these,
    mappings from str, and dataclasses (tables), alone or in tuples (lists of tables). `init=False` fields are skipped.

    Args:
        kind: the dataclass, which checks the values itself.
        table: the fields.
        source: where the table is from, for messages.
        error: class of the errors.

    Raises:
        `error`: an unknown or missing field, or a value of another type.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Point:
    ...     x: float
    ...     tags: tuple[str, ...] = ()
    >>> from_table(Point, {"x": 3, "tags": ["a"]}, "here")
    Point(x=3.0, tags=('a',))
    >>> from_table(Point, {"x": 3, "tag": []}, "here")
    Traceback (most recent call last):
        ...
    sdr.errors.ConfigError: here: unknown key 'tag'; did you mean 'tags'?
    """
    if not isinstance(table, Mapping):
        raise error(f"{source} must be a table of fields, found {table!r:.60}")
    known = {item.name: item for item in dataclasses.fields(kind) if item.init}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise error(f"{source}: unknown key {key!r:.60}; {did_you_mean(str(key), known)}")
    for name, item in known.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise error(f"{source}: {name} is missing; add it")
    hints = typing.get_type_hints(kind)
    values = {key: checked_value(hints[key], value, f"{source}: {key}", error) for key, value in table.items()}
    try:
        return kind(**values)
    except OtaError as reason:
        raise error(f"{source}: {reason}") from None


def checked_value(hint: Any, value: Any, where: str, error: type[OtaError]) -> Any:
    """Return `value` as the type that a field asks for: see `from_table`, and `object` for anything.

    Args:
        hint: the type.
        value: as TOML or JSON has it.
        where: it stands, for messages.
        error: class of the errors.

    Raises:
        `error`: it is of another type.
    """
    if hint is object:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (one for one in arguments if one is not type(None))
        return checked_value(hint, value, where, error)
    if origin is typing.Literal:
        if value not in arguments or isinstance(value, bool) != isinstance(arguments[0], bool):
            raise error(f"{where} must be one of {', '.join(map(str, arguments))}, found {value!r:.60}")
        return value
    if origin is tuple:
        fixed = Ellipsis not in arguments
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(arguments)):
            wanted = f"{len(arguments)} values" if fixed else _called(arguments[0])
            raise error(f"{where} must be a list of {wanted}, found {value!r:.60}")
        if fixed:
            return tuple(
                checked_value(kind, one, f"{where}[{index}]", error)
                for index, (kind, one) in enumerate(zip(arguments, value, strict=True))
            )
        return tuple(checked_value(arguments[0], one, f"{where}[{index}]", error) for index, one in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise error(f"{where} must be a table, found {value!r:.60}")
        return {str(key): checked_value(arguments[1], one, f"{where}.{key}", error) for key, one in value.items()}
    if dataclasses.is_dataclass(hint):
        return from_table(typing.cast(type, hint), value, where, error)
    wanted = (int, float) if hint is float else hint
    if not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool):
        raise error(f"{where} must be {_called(hint)}, found {value!r:.60}")
    if hint is not float:
        return value
    try:
        return float(value)
    except OverflowError:
        raise error(f"{where} = {value!r:.40} is outside the range of numbers") from None


def _called(hint: Any) -> str:
    """Return what messages call a type."""
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "a table"
    return names.get(hint, str(hint))


def to_toml(document: Mapping[str, Any]) -> str:
    """Return the TOML text of a table of scalars, lists of scalars, tables and lists of flat tables.

    >>> print(to_toml({"name": "a", "taps": [1.0, 0.5], "points": [{"x": 1}]}), end="")
    name = "a"
    taps = [1.0, 0.5]
    <BLANKLINE>
    [[points]]
    x = 1
    """
    lines: list[str] = []

    def scalar(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(scalar(item) for item in value) + "]"
        if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL and what lies beyond 16 bits
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return repr(value) if isinstance(value, float) else json.dumps(value)

    def table(path: str, content: Mapping[str, Any]) -> None:
        plain = {k: v for k, v in content.items() if not isinstance(v, dict) and not _is_tables(v)}
        if path and (plain or not content):
            lines.extend(["", f"[{path}]"])
        lines.extend(f"{key} = {scalar(value)}" for key, value in plain.items())
        for key, value in content.items():
            name = key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key)
            place = f"{path}.{name}" if path else name
            if isinstance(value, dict):
                table(place, value)
            elif _is_tables(value):
                for item in value:
                    lines.extend(["", f"[[{place}]]"])
                    lines.extend(f"{k} = {scalar(v)}" for k, v in item.items())

    table("", document)
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)
