"""Make standard output and error bear what they meet: ASCII terminals, odd names, closed and full streams."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

_PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "·": "-", "“": '"', "”": '"', "≥": ">=", "≤": "<="}


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replace what a stream can't take: by ASCII that means the same, else by its code."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    shown = "".join(_PLAIN.get(letter) or letter.encode("ascii", "backslashreplace").decode("ascii") for letter in text)
    return shown, error.end


codecs.register_error("ota_plain", _plain)


class _Forgiving:
    """A standard error that is full or closed: there is nobody left to tell, and the work goes on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            _forget(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _forget(self._stream)


class _Named:
    """Standard output, whose errors say that it is that."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with _naming_standard_output():
            return self._stream.write(text)

    def flush(self) -> None:
        with _naming_standard_output():
            self._stream.flush()


@contextmanager
def _naming_standard_output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, "standard output") from None


def _forget(stream: TextIO) -> None:
    """Throw away what a stream still holds and what comes, so that the interpreter's end does not stumble over it."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()


def _occupy_closed() -> None:
    """Open descriptors 0 to 2 where they are closed: a file of ours must not become a library's standard error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


@contextmanager
def bearing_streams() -> Iterator[None]:
    """Make the streams bear what they meet while the block runs."""
    _occupy_closed()
    before = sys.stdout, sys.stderr
    for stream in before:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ota_plain")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    sys.stdout = _Named(sys.stdout)  # type: ignore[assignment]
    sys.stderr = _Forgiving(sys.stderr or sys.stdout)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def finish_output() -> None:
    """Hand over what standard output still holds; what can't be is thrown away.

    Raises:
        OSError: it is full, or nobody reads it any more.
    """
    try:
        sys.stdout.flush()
    except OSError:
        _forget(sys.stdout)
        raise
