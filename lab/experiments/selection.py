"""Select captures of a dataset by an expression over its columns."""

from __future__ import annotations

import ast
import functools
import io
import itertools
import operator
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.json
from numpy.typing import NDArray

from lab.experiments.tables import arrow_schema
from sdr.errors import ConfigError, RecordingError, did_you_mean
from sdr.recordings.dataset import IndexRow, iterate_index, read_index_rows

_INDEX_SCHEMA = arrow_schema(IndexRow)
#: Lines of the index that are read at a time.
_INDEX_CHUNK = 4096


def index_tables(folder: Path, columns: Iterable[str]) -> Iterator[tuple[pyarrow.Table, list[int]]]:
    """Yield columns of a dataset's index as tables of some thousand rows, each with the offsets of its lines.

    Args:
        folder: the dataset.
        columns: fields of `sdr.recordings.dataset.IndexRow`; few of them are read faster than all.

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
        if "antennas" in table.column_names:  # which lines of a time when there could be but one lack
            place = table.column_names.index("antennas")
            table = table.set_column(place, schema.field("antennas"), table["antennas"].fill_null(1))
        yield table, [offset for offset, _ in chunk]


_COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda column, values: column.isin(values),
    ast.NotIn: lambda column, values: ~column.isin(values),
}


def _compares_a_column(node: ast.Compare) -> bool:
    return all(type(op) in _COMPARISONS for op in node.ops) and any(
        isinstance(side, ast.Name) for side in (node.left, *node.comparators)
    )


def where_expression(text: str, columns: Sequence[str]) -> pyarrow.compute.Expression:
    """Return a filter over columns, written as in Python: comparisons, `in`, `and`, `or`, `not`, parentheses.

    Args:
        text: such as "csnr_db >= 5 and healthy".
        columns: that it may name.

    Raises:
        ConfigError: a syntax error, an unknown column, or anything else than the above.

    >>> where_expression("0 <= csnr_db < 5 and not stale", ["csnr_db", "stale"])
    <pyarrow.compute.Expression (((csnr_db >= 0) and (csnr_db < 5)) and invert(stale))>
    """

    def build(node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op, values):
                joined = operator.and_ if isinstance(op, ast.And) else operator.or_
                return functools.reduce(joined, [build(value) for value in values])
            case ast.UnaryOp(ast.Not(), operand):
                return ~build(operand)
            case ast.Compare(left, ops, comparators) if _compares_a_column(node):
                pairs = itertools.pairwise([left, *comparators])
                parts = [_COMPARISONS[type(op)](term(a), term(b)) for op, (a, b) in zip(ops, pairs, strict=True)]
                return functools.reduce(operator.and_, parts)
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
        folder: the dataset.
        places: (n,) position of each capture in the whole index.
        numbers: (n,) `IndexRow.number` of each.
        offsets: (n,) where its line begins in the index.
        antennas: (n,) `IndexRow.antennas` of each.
        looked_at: captures of the whole dataset.
    """

    folder: Path
    places: NDArray[np.int64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    antennas: NDArray[np.int64]
    looked_at: int

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, picked: slice | Sequence[int] | NDArray[np.int64] = slice(None)) -> list[IndexRow]:
        """Return the captures at some positions of the selection, all by default."""
        return read_index_rows(self.folder, self.offsets[picked].tolist())

    def positions(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Return where in the selection the captures of these numbers are.

        Raises:
            RecordingError: one of them is not in it.
        """
        order = np.argsort(self.numbers)
        found = np.searchsorted(self.numbers, numbers, sorter=order)
        positions = order[np.minimum(found, len(order) - 1)]
        missing = np.asarray(numbers)[self.numbers[positions] != numbers]
        if missing.size:
            raise RecordingError(f"{self.folder} has no capture {missing[0]}; give the dataset that was decoded")
        return positions


def select_captures(folder: Path, where: str = "") -> Selection:
    """Return the captures that fulfil a filter.

    Args:
        folder: the dataset.
        where: see `where_expression`; empty: all captures.

    Raises:
        ConfigError: a bad filter.
        RecordingError: no dataset, or nothing in it is selected.
    """
    expression = where_expression(where, _INDEX_SCHEMA.names) if where else None
    places, numbers, offsets, antennas = array("q"), array("q"), array("q"), array("q")
    looked_at = 0
    kept = {"_place": places, "number": numbers, "_offset": offsets, "antennas": antennas}
    columns = [name for name in _INDEX_SCHEMA.names if name in kept or re.search(rf"\b{name}\b", where)]
    for table, begins in index_tables(folder, columns):
        rows = table.append_column("_place", pyarrow.array(range(looked_at, looked_at + table.num_rows)))
        rows = rows.append_column("_offset", pyarrow.array(begins))
        looked_at += table.num_rows
        if expression is not None:
            try:
                rows = rows.filter(expression)
            except pyarrow.ArrowException as error:
                raise ConfigError(f"--where {where!r} can't be applied ({str(error).splitlines()[0]}).") from None
        for column, values in kept.items():
            values.extend(rows[column].to_pylist())
    if not looked_at:
        raise RecordingError(f"dataset {folder} has no complete capture; record some")
    if not places:
        raise RecordingError(f"no capture of {folder} fulfils --where {where!r}; {looked_at} were looked at")
    return Selection(
        folder,
        np.array(places, dtype=np.int64),
        np.array(numbers, dtype=np.int64),
        np.array(offsets, dtype=np.int64),
        np.array(antennas, dtype=np.int64),
        looked_at,
    )
