"""`ota dataset`: look into a dataset, check it, and bring in captures of others."""

from __future__ import annotations

import itertools
from dataclasses import asdict
from pathlib import Path

import typer

from ota.console import emit_json, note, print_table
from sdr.errors import ConfigError

app = typer.Typer(
    help="Look into a dataset, check it, bring in captures of others.", no_args_is_help=True, rich_markup_mode=None
)

#: Columns of `ota dataset list`.
_SHOWN = (
    *("recording", "layout", "csnr_db", "center_hz", "rx_gain_db", "num_samples", "antennas"),
    *("images", "rms_dbfs", "healthy"),
)


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
    files: list[Path] = typer.Argument(help="SigMF recordings (.sigmf-meta or .sigmf), or raw files with --datatype."),
    out: Path = typer.Option(..., help="Dataset to begin or to add to."),
    layout: str = typer.Option(..., help="Frame layout of the captures: a shipped name or a layout file."),
    antenna: list[Path] = typer.Option(
        [], help="File that another antenna of the same receiver made at the same time as the one FILE; repeatable."
    ),
    datatype: str = typer.Option(
        "", help="Raw files: type of the samples as SigMF names it, such as cf32, ci16, ci8 or cu8; I before Q."
    ),
    rate_sps: float | None = typer.Option(None, help="Samples per second; SigMF: where the metadata say none."),
    center_hz: float | None = typer.Option(None, help="Carrier frequency; SigMF: where the metadata say none."),
    full_scale: float | None = typer.Option(None, help="Value of full scale, such as 2048 for a Pluto."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Bring captures that others made into a dataset, resampled to the layout's rate if need be.

    A file whose samples are in the dataset already is left out, so the same command can be repeated.

    \b
    Examples:
      ota dataset import theirs/*.sigmf-meta --layout air --out runs/theirs
      ota dataset import capture.bin --datatype ci16 --full-scale 2048 --rate-sps 2e6 --layout air --out runs/theirs
      ota dataset import left.sigmf-meta --antenna right.sigmf-meta --layout air --out runs/theirs
    """
    from sdr.layout import load_layout
    from sdr.outputs import growing_folder
    from sdr.recordings.foreign import import_capture
    from sdr.recordings.reading import Stated
    from sdr.recordings.writer import CaptureNotes, DatasetWriter, is_begun

    if antenna and len(files) != 1:
        raise ConfigError(f"--antenna goes with one FILE, found {len(files)}. Import the captures one by one.")
    chosen, stated = load_layout(layout), Stated(rate_sps, center_hz, full_scale)
    imported, there = [], []
    read = ((path, import_capture(path, chosen, datatype, stated, antenna)) for path in files)
    first = next(read)  # an error in it leaves no dataset behind
    with growing_folder(out, begun=is_begun(out)), DatasetWriter(out, out.resolve().name) as writer:
        for path, capture in itertools.chain([first], read):
            if (row := writer.find(capture.recording, chosen)) is not None:
                there.append(row.recording)
                note(f"left out: {path} is in {out} already, as {row.recording}")
                continue
            notes = CaptureNotes(problems=capture.problems)
            row = writer.add(writer.next_number(), capture.recording, chosen, notes)
            imported.append(row.recording)
            if row.warnings:
                note(f"warning: {path}: {row.warnings}")
    if json_output:
        emit_json({"dataset": str(out), "recordings": imported, "there_already": there})
        return
    note(f"{len(imported)} captures in {out}")


@app.command("truth")
def give_truth(
    dataset: Path = typer.Argument(help="Folder of the dataset."),
    images: Path = typer.Option(..., help="Folder of the images that were sent in each capture, as <id>.png."),
    where: str = typer.Option("", help="Only captures that fulfil this, as in 'images == 0'."),
    bundle: str = typer.Option("fashion", help="Models that encoded the images."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Say what was sent in captures without ground truth, such as imported ones, so that they can be scored.

    An image of the folder that a capture does not hold counts as one that did not arrive. A capture that has ground
    truth keeps it.

    \b
    Example:
      ota dataset truth runs/theirs --images models/fashion/samples --where "recording == 'theirs-000003'"
    """
    from lab.experiments.ground_truth import give_images

    given = give_images(dataset, images, where, bundle)
    if json_output:
        emit_json({"dataset": str(dataset), "recordings": given})
        return
    note(f"{len(given)} captures of {dataset} have ground truth now")
