"""What a verb prints: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sdr.files import json_ready
from sdr.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console


def note(text: str) -> None:
    """One line of news for a person."""
    print(text, file=sys.stderr, flush=True)


def emit_json(result: Mapping[str, Any]) -> None:
    """The one JSON object of `--json`, on standard output."""
    print(json.dumps(json_ready(result), allow_nan=False))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error; plain silence where that is no terminal."""
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=_stderr()) as bar:
        tasks: dict[str, TaskID] = {}

        def advance(description: str, done: float, total: float) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield advance


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*[cell if isinstance(cell, str) else str(cell) for cell in row])
    console = Console()
    if not console.is_terminal:  # a log file has room for whole rows
        console = Console(width=140)
    console.print(table)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_images(rows: Sequence[Mapping[str, Any]], limit: int = 20) -> None:
    """The first images as a table on standard output."""
    scored = "psnr_db" in rows[0]
    columns = ["id", "method", "residual", "accepted", *(["PSNR dB"] if scored else []), "path"]
    table = []
    for row in rows[:limit]:
        psnr = [] if not scored else ["" if row["psnr_db"] is None else f"{row['psnr_db']:.2f}"]
        accepted = "yes" if row["accepted"] else "no"
        table.append([row["id"], row["method"], f"{row['residual']:.3f}", accepted, *psnr, row["path"]])
    more = f" (first {limit} of {len(rows)})" if len(rows) > limit else ""
    print_table(f"Decoded images{more}", columns, table)
