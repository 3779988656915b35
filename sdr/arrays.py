"""Read the arrays of .npz files of unknown origin: sizes are checked before memory is taken, nothing is unpickled."""

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

from numpy.lib import format as npy
from numpy.typing import NDArray

from sdr.errors import InputError, OtaError

MAX_ARRAY_BYTES = 4 << 30
"""Largest content that is read, unpacked."""


def load_arrays(
    path: Path, error: type[OtaError] = InputError, remedy: str = "restore it from a copy"
) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name.

    Args:
        path: the file, as `numpy.savez` or `numpy.savez_compressed` wrote it.
        error: class of the errors.
        remedy: what to do about a file that can't be read.

    Raises:
        `error`: missing, damaged, too large, or something else than arrays of numbers and texts.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_ARRAY_BYTES:
                raise ValueError(f"more than {MAX_ARRAY_BYTES} bytes")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in archive.infolist()}
    except FileNotFoundError:
        raise error(f"{path} is missing; {remedy}") from None
    except (
        *(OSError, ValueError, EOFError, KeyError, TypeError, SyntaxError, OverflowError, MemoryError),
        *(NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error),
    ) as reason:
        raise error(f"{path} is damaged ({' '.join(str(reason).split())[:160]}); {remedy}") from None


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """Return one array, whose header must promise as much as there is."""
    with archive.open(member) as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = header(file)
        if dtype.hasobject or file.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename!r:.60} is not the array that its header promises")
    with archive.open(member) as file:
        return npy.read_array(file, allow_pickle=False)
