"""Write rows as Parquet files, and name their columns once: as the fields of a frozen dataclass."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray

from sdr.files import replacing

_ARROW_TYPES = {
    str: pyarrow.string(),
    int: pyarrow.int64(),
    float: pyarrow.float64(),
    bool: pyarrow.bool_(),
    bytes: pyarrow.binary(),
    NDArray[np.float32]: pyarrow.list_(pyarrow.float32()),
}


def arrow_schema(row: type) -> pyarrow.Schema:
    """Return the columns of a table whose rows are instances of a dataclass.

    Args:
        row: the class; its fields are str, int, float, bool, bytes or arrays of float32, or one of these or None.
    """
    hints = typing.get_type_hints(row)

    def arrow_type(hint: object) -> pyarrow.DataType:
        if isinstance(hint, types.UnionType):
            (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
        return _ARROW_TYPES[hint]  # type: ignore[index]

    return pyarrow.schema([(field.name, arrow_type(hints[field.name])) for field in fields(row)])


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows, which have equal keys, as a Parquet file."""
    with replacing(path) as file:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in rows]), file)
