"""`ota dataset`: look into a dataset, check it, and bring in captures of others."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from ota.console import emit_json, note, print_table

app = typer.Typer(
    help="Look into a dataset, check it, bring in captures of others.", no_args_is_help=True, rich_markup_mode=None
)

#: Columns of `ota dataset list`.
_SHOWN = ("recording", "layout", "csnr_db", "center_hz", "rx_gain_db", "num_samples", "images", "rms_dbfs", "healthy")


@app.command("list")
def list_captures(
    dataset: Path = typer.Argument(help="Folder of the dataset."),
    where: str = typer.Option("", help="Only captures that fulfil this, as in 'csnr_db >= 5 and not healthy'."),
    limit: int = typer.Option(20, min=1, help="Captures to show."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Show captures of a dataset. --json gives every column; all of them can be used in --where."""
    from lab.experiments.selection import select_captures

    chosen = select_captures(dataset, where)
    rows = [asdict(row) for row in chosen.rows(slice(limit))]
    if json_output:
        emit_json({"captures": len(chosen), "rows": rows})
        return
    cells = [[f"{row[key]:g}" if isinstance(row[key], float) else str(row[key]) for key in _SHOWN] for row in rows]
    print_table(f"{len(chosen)} captures of {dataset}, the first {len(rows)}", _SHOWN, cells)
    note(f"columns for --where: {', '.join(rows[0])}")


@app.command("verify")
def verify(
    dataset: Path = typer.Argument(help="Folder of the dataset."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Read every file and name what is missing, changed or not complete. Exit status 2 where something is."""
    from sdr.recordings.verify import verify_dataset

    wrong = verify_dataset(dataset)
    if json_output:
        emit_json({"dataset": str(dataset), "wrong": wrong})
    elif not wrong:
        note(f"{dataset} is complete and unchanged")
    else:
        for line in wrong:
            print(line)
    if wrong:
        raise typer.Exit(2)


@app.command("import")
def import_captures(
    files: list[Path] = typer.Argument(help="SigMF recordings (.sigmf-meta), or raw files with --datatype."),
    out: Path = typer.Option(..., help="Dataset to begin or to add to."),
    layout: str = typer.Option(..., help="Frame layout of the captures: a shipped name or a layout file."),
    datatype: str = typer.Option("", help="Raw files: cf32, ci16 or ci8, little-endian, I before Q."),
    rate_sps: float = typer.Option(0.0, help="Raw files: samples per second."),
    center_hz: float = typer.Option(0.0, help="Raw files: carrier frequency."),
    full_scale: float | None = typer.Option(None, help="Raw files: value of full scale, such as 2048 for a Pluto."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Bring captures that others made into a dataset, resampled to the layout's rate if need be.

    \b
    Examples:
      ota dataset import theirs/*.sigmf-meta --layout air --out runs/theirs
      ota dataset import capture.bin --datatype ci16 --full-scale 2048 --rate-sps 2e6 --layout air --out runs/theirs
    """
    from sdr.layout import load_layout
    from sdr.outputs import growing_folder
    from sdr.recordings.foreign import import_capture
    from sdr.recordings.writer import DatasetWriter, is_begun

    chosen = load_layout(layout)
    imported = []
    with growing_folder(out, begun=is_begun(out)), DatasetWriter(out, out.name) as writer:
        for path in files:
            recording = import_capture(path, chosen, datatype, rate_sps, center_hz, full_scale)
            row = writer.add(writer.next_number(), recording, chosen)
            imported.append(row.recording)
            if row.warnings:
                note(f"warning: {path}: {row.warnings}")
    if json_output:
        emit_json({"dataset": str(out), "recordings": imported})
        return
    note(f"{len(imported)} captures in {out}")
