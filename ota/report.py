"""`ota report`: the report of a finished run once more, or one over many runs and datasets."""

from __future__ import annotations

from pathlib import Path

import typer

from ota.console import emit_json, note, progress_bar
from sdr.errors import ConfigError, InputError
from sdr.outputs import finished_folder


def report(
    runs: list[Path] = typer.Argument(
        metavar="RUN..",
        help="Run folder of `ota demo` or `ota decode`, or output folder of `ota sweep`; with --out any number of "
        "these, decoded datasets, and datasets.",
    ),
    out: Path | None = typer.Option(None, help="Folder to write a comparison of all RUNs to."),
    capture: list[str] = typer.Option(
        [], help="Comparison: recording to show in detail, repeatable; default: the best, the middle and the worst."
    ),
    bundle: str = typer.Option("fashion", help="Comparison: models that the datasets were decoded with."),
    force: bool = typer.Option(False, "--force", help="Replace what is in --out."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Write report.html (for a sweep: the figures) anew from what a run folder holds, or compare runs.

    The report is one file without outside references: pass it on as it is.

    With --out the report is about all RUNs: PSNR, realism and success against channel SNR with error bars, how well
    acceptance tells good pictures from bad ones, the best, median and worst pictures; with a dataset beside what was
    decoded from it also what was sent, the health of the captures, and some captures in detail: spectrum,
    constellation, channel, the samplers at work and the posterior's spread. Every figure lies beside it in figures/ as
    PNG and PDF.

    \b
    Examples:
      ota report runs/demo
      ota report runs/awgn
      ota report runs/campaign runs/campaign-decoded --out runs/report
      ota report runs/campaign runs/decoded-a runs/decoded-b --capture campaign-000012 --out runs/report
    """
    for run in runs:
        if not run.is_dir():
            raise InputError(f"{run} is not a folder. Give the --out of a finished run.")
    if out is not None:
        written = _compare(runs, out, bundle, capture, force)
    elif len(runs) > 1 or capture:
        raise ConfigError(
            "A report over several runs, or with captures in detail, needs a folder of its own. Add --out."
        )
    else:
        written = _once_more(runs[0])
    if json_output:
        emit_json({"written": [str(path) for path in written]})
    else:
        for path in written if out is None else written[:1]:
            note(f"written: {path}")


def _once_more(run: Path) -> list[Path]:
    if (run / "sweep.json").is_file():
        from lab.reports.sweep import write_figures

        return write_figures(run)
    if (run / "run.json").is_file():
        from lab.reports.gallery import write_gallery
        from lab.reports.run import write_report

        return [write_report(run), write_gallery(run)]
    raise InputError(
        f"{run} has neither run.json nor sweep.json. Give the --out of a finished run, or for a dataset add --out."
    )


def _compare(runs: list[Path], out: Path, bundle: str, captures: list[str], force: bool) -> list[Path]:
    with finished_folder(out, force) as folder, progress_bar() as progress:
        from lab.reports.comparison import write_comparison

        written = write_comparison(runs, folder, bundle=bundle, captures=captures, progress=progress)
    return [out / path.relative_to(folder) for path in written]
