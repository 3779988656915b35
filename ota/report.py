"""`ota report`: the report of a finished run, once more."""

from __future__ import annotations

from pathlib import Path

import typer

from ota.console import emit_json, note
from sdr.errors import InputError


def report(
    run: Path = typer.Argument(help="Run folder of `ota demo` or `ota decode`, or output folder of `ota sweep`."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Write report.html (for a sweep: the figures) anew from what a run folder holds.

    Nothing is decoded again. The report is one file without outside references: pass it on as it is.

    \b
    Examples:
      ota report runs/demo
      ota report runs/awgn
    """
    if not run.is_dir():
        raise InputError(f"{run} is not a folder. Give the --out of a finished run.")
    if (run / "sweep.json").is_file():
        from receiver.sweep import write_figures

        written = write_figures(run)
    elif (run / "run.json").is_file():
        from receiver.report import write_gallery, write_report

        written = [write_report(run), write_gallery(run)]
    else:
        raise InputError(f"{run} has neither run.json nor sweep.json. Give the --out of a finished run.")
    if json_output:
        emit_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            note(f"written: {path}")
