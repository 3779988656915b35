"""Print what a verb has to say: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sdr.files import json_ready
from sdr.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from lab.reports.run_folder import ImageRow


def note(text: str) -> None:
    """Print one line for a person."""
    print(text, file=sys.stderr, flush=True)


def emit_json(result: Mapping[str, object]) -> None:
    """Print the one JSON object of `--json`."""
    print(json.dumps(json_ready(result), allow_nan=False))


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show progress on standard error, and nothing where that is no terminal."""
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
    """Print a table; all columns but the first are flush right."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    cells = [[cell if isinstance(cell, str) else str(cell) for cell in row] for row in rows]
    console = Console()
    needed = sum(max(map(len, column)) + 3 for column in zip(columns, *cells, strict=True)) + 1
    if not console.is_terminal:  # a log file has room for whole rows
        console = Console(width=max(140, needed))
    if needed > console.width and console.is_terminal:  # nothing is cut: a row becomes a paragraph
        print(title)
        for row in cells:
            print("\n".join(["", *(f"{column}: {cell}" for column, cell in zip(columns, row, strict=True) if cell)]))
        return
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in cells:
        table.add_row(*map(escape, row))
    console.print(table)


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def print_images(images: Sequence[ImageRow], limit: int = 20) -> None:
    """Print the first images as a table."""
    scored = any(image.psnr_db is not None for image in images)
    columns = ["id", "method", "residual", "accepted", *(["PSNR dB"] if scored else []), "path"]
    table = []
    for image in images[:limit]:
        psnr = [] if not scored else ["" if image.psnr_db is None else f"{image.psnr_db:.2f}"]
        accepted = "yes" if image.accepted else "no"
        table.append([image.id, image.method, f"{image.residual:.3f}", accepted, *psnr, image.path])
    more = f" (first {limit} of {len(images)})" if len(images) > limit else ""
    print_table(f"Decoded images{more}", columns, table)


def note_lost_blocks(images: Sequence[ImageRow]) -> None:
    """Print a line for each method whose blocks failed their checksum."""
    from receiver.separation.methods import lost_blocks

    for line in lost_blocks((image.method, image.accepted) for image in images):
        note(f"warning: {line}")
