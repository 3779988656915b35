"""Select captures of a dataset by an expression over its columns."""

from __future__ import annotations

import ast
import io
import itertools
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.json
from numpy.typing import NDArray

from sdr.errors import ConfigError, RecordingError, did_you_mean
from sdr.recordings.dataset import IndexRow, iterate_index, read_index_rows

# Choosing captures

_INDEX_SCHEMA = pyarrow.schema(
    [
        (
            item.name,
            {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}[
                getattr(item.type, "__name__", str(item.type))
            ],
        )
        for item in fields(IndexRow)
    ]
)
_INDEX_CHUNK = 4096


def index_tables(folder: Path, columns: Iterable[str]) -> Iterator[tuple[pyarrow.Table, list[int]]]:
    """Some columns of a dataset's index, fields of `sdr.recordings.dataset.IndexRow`, as tables of some thousand rows.

    Each comes with the offsets of its lines in the index. Reading few columns takes a third of the time of all.

    Raises:
        RecordingError: no dataset, or a damaged index.
    """
    schema = pyarrow.schema([_INDEX_SCHEMA.field(name) for name in columns])
    options = pyarrow.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    lines = iterate_index(folder)
    while chunk := list(itertools.islice(lines, _INDEX_CHUNK)):
        text = b"".join(line for _, line in chunk)
        try:
            table = pyarrow.json.read_json(
                io.BytesIO(text), read_options=pyarrow.json.ReadOptions(block_size=2 * len(text)), parse_options=options
            )
        except pyarrow.ArrowException:
            for _, line in chunk:  # says which field of which line
                IndexRow.from_line(line)
            raise
        yield table, [offset for offset, _ in chunk]


_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.In: lambda a, b: a.isin(b),
    ast.NotIn: lambda a, b: ~a.isin(b),
}


def _compares_a_column(node: ast.Compare) -> bool:
    return all(type(op) in _COMPARISONS for op in node.ops) and any(
        isinstance(side, ast.Name) for side in (node.left, *node.comparators)
    )


def where_expression(text: str, columns: Sequence[str]) -> pyarrow.compute.Expression:
    """A filter over the columns, in Python's spelling: comparisons, `in`, `and`, `or`, `not`, parentheses.

    Raises:
        ConfigError: a syntax error, an unknown column, or anything else than the above.

    >>> where_expression("0 <= csnr_db < 5 and not stale", ["csnr_db", "stale"])
    <pyarrow.compute.Expression (((csnr_db >= 0) and (csnr_db < 5)) and invert(stale))>
    """

    def build(node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op, values):
                parts = [build(value) for value in values]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part if isinstance(op, ast.And) else joined | part
                return joined
            case ast.UnaryOp(ast.Not(), operand):
                return ~build(operand)
            case ast.Compare(left, ops, comparators) if _compares_a_column(node):
                sides = [left, *comparators]
                parts = [
                    _COMPARISONS[type(op)](term(a), term(b))
                    for a, op, b in zip(sides[:-1], ops, sides[1:], strict=True)
                ]
                joined = parts[0]
                for part in parts[1:]:
                    joined = joined & part
                return joined
            case ast.Name():
                return term(node)
        raise ConfigError(f"--where {text!r}: '{ast.unparse(node)}' is no comparison of a column; see `ota decode -h`.")

    def term(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            if node.id not in columns:
                raise ConfigError(f"--where: there is no column {node.id!r}; {did_you_mean(node.id, columns)}")
            return pyarrow.compute.field(node.id)
        try:
            return ast.literal_eval(node)
        except ValueError:
            raise ConfigError(f"--where {text!r}: '{ast.unparse(node)}' is neither a column nor a value.") from None

    try:
        return build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, AttributeError) as error:
        raise ConfigError(f"--where {text!r} can't be read ({error}).") from None


@dataclass(frozen=True, eq=False)
class Selection:
    """Captures of a dataset, in the order of its index; their rows stay on the disk until they are asked for.

    Attributes:
        places: (n,) of each capture in the whole index. numbers: (n,) `IndexRow.number`. offsets: (n,) of the lines.
        looked_at: captures of the whole dataset.
    """

    folder: Path
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    looked_at: int

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, picked: slice | Sequence[int] | NDArray[np.int64] = slice(None)) -> list[IndexRow]:
        """The captures at some positions of the selection, all by default."""
        return read_index_rows(self.folder, self.offsets[picked].tolist())

    def positions(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Where in the selection the captures of these numbers are.

        Raises:
            RecordingError: one is not in it.
        """
        order = np.argsort(self.numbers)
        found = np.searchsorted(self.numbers, numbers, sorter=order)
        positions = order[np.minimum(found, len(order) - 1)]
        lost = [
            number for number, is_one in zip(numbers, self.numbers[positions] == numbers, strict=True) if not is_one
        ]
        if lost:
            raise RecordingError(f"{self.folder} has no capture {lost[0]}; give the dataset that was decoded")
        return positions


def select_captures(folder: Path, where: str = "") -> Selection:
    """The captures that fulfil a filter; see `where_expression`.

    Raises:
        ConfigError: a bad filter. RecordingError: no dataset, or nothing in it is selected.
    """
    chosen = where_expression(where, _INDEX_SCHEMA.names) if where else None
    places, numbers, offsets = array("q"), array("q"), array("q")
    looked_at = 0
    columns = [name for name in _INDEX_SCHEMA.names if name == "number" or re.search(rf"\b{name}\b", where)]
    for table, begins in index_tables(folder, columns):
        mine = pyarrow.table(
            {
                **{name: table[name] for name in table.column_names},
                "_place": pyarrow.array(range(looked_at, looked_at + table.num_rows)),
                "_offset": pyarrow.array(begins),
            }
        )
        looked_at += table.num_rows
        if chosen is not None:
            try:
                mine = mine.filter(chosen)
            except pyarrow.ArrowException as error:
                raise ConfigError(f"--where {where!r} can't be applied ({str(error).splitlines()[0]}).") from None
        for column, kept in (("_place", places), ("number", numbers), ("_offset", offsets)):
            kept.extend(mine[column].to_pylist())
    if not looked_at:
        raise RecordingError(f"dataset {folder} has no complete capture; record some")
    if not places:
        raise RecordingError(f"no capture of {folder} fulfils --where {where!r}; {looked_at} were looked at")
    taken = [np.array(kept, dtype=np.int64) for kept in (places, numbers, offsets)]
    return Selection(folder, taken[0], taken[1], taken[2], looked_at)
