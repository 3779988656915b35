"""Write files and folders so that nobody ever sees half of one.

Everything is written under a temporary name beside its final one and renamed when it is complete; a name that begins
with a dot and ends in `.part` is such a leftover. Modes follow the umask. Only this module and
`sdr.outputs`, which decides who may have a name, rename.
"""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any


def temporary_beside(path: Path) -> Path:
    """Return a name in the folder of `path` that nothing has yet."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")


def is_partial(path: Path) -> bool:
    """Return whether a file or folder is what an interrupted writer left under a temporary name."""
    return path.name.startswith(".") and path.name.endswith(".part")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a file that takes the name `path` when the block ends well, and vanishes when it does not.

    Args:
        path: final name; its folder is made where it is missing.
        mode: "wb" or "w" (UTF-8).

    Raises:
        OSError: the file can't be written; what was at `path` stays.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_beside(target)
    try:
        with partial.open(mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except OSError as error:  # a full disk does not say where it is
        error.filename = error.filename or str(target)
        raise
    finally:
        partial.unlink(missing_ok=True)


class GrowingFile:
    """A file that somebody else writes by name, such as a GNU Radio sink, and that may be watched as it grows.

    Its temporary name follows from the final one, so that another process can find it.

    Args:
        path: final name.

    Attributes:
        path: final name.
        partial: name to write under until `finish`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.part")

    def size_bytes(self) -> int:
        """Return how long the file is by now, 0 where there is none."""
        for path in (self.partial, self.path):
            with contextlib.suppress(FileNotFoundError):
                return path.stat().st_size
        return 0

    def finish(self) -> None:
        """Give the file its final name."""
        os.replace(self.partial, self.path)

    def discard(self) -> None:
        """Remove what was written."""
        self.partial.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a whole file."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write a whole file as UTF-8; what is no text, as in a file's name in another encoding, is written as its code."""
    write_bytes(path, content.encode("utf-8", "backslashreplace"))


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any] | list[Any]) -> None:
    """Write an object as JSON; see `json_ready`."""
    write_text(path, json.dumps(json_ready(content), indent=1, allow_nan=False) + "\n")


def json_ready(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinities as None at any depth, NumPy scalars as Python's.

    >>> json_ready({"a": (1.0, float("nan"))})
    {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_ready(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
