"""Write the report over datasets and runs: one HTML file, and its figures as PNG and PDF.

Decoded datasets (of `ota decode DATASET --score`), runs of one recording, and sweeps are compared. With the dataset at
hand the report also shows its health, the pictures that were sent, and some captures in detail.

Ground truth is opened here. No decoder may import this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.evaluation.realism import Realism, load_realism
from lab.evaluation.statistics import roc_curve
from lab.evaluation.summary import LOW_SUCCESS_PSNR_DB, SUCCESS_PSNR_DB, SnrPoint
from lab.experiments.decode_dataset import RESULTS_NAME
from lab.experiments.selection import select_captures
from lab.reports.captures import DETAILED_DRAWS, Keep, capture_in_detail, captures_in_detail
from lab.reports.compared import ComparedRun, paired_gains, read_compared
from lab.reports.figures import method_colour, roc_figure
from lab.reports.health import capture_health
from lab.reports.pictures import TEMPLATES, WHITE_SPREAD, png_uri
from lab.reports.run_folder import ORIGINALS_NAME, read_run
from lab.reports.scores import NamedPoints, draw_line, lines, save_png_and_pdf, score_figure
from lab.reports.sheets import plain, sheet
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.images.files import from_png, read_png
from sdr.errors import ConfigError, InputError
from sdr.files import write_text
from sdr.progress import Progress, silent
from sdr.recordings.dataset import is_dataset, read_truth

REPORT_NAME = "report.html"
FIGURES_NAME = "figures"
#: Images of a method and channel SNR whose realism is measured; the same number is taken of all.
REALISM_IMAGES = 256
#: Pictures of each kind (best, median, worst) in a grid.
GRID_IMAGES = 5


def write_comparison(
    folders: Sequence[Path],
    out: Path,
    *,
    bundle: str = "fashion",
    captures: Sequence[str] = (),
    progress: Progress = silent,
) -> list[Path]:
    """Write report.html and figures/ into `out`, which exists.

    Args:
        folders: datasets and what was decoded, in any order.
        out: folder to write to.
        bundle: models of the decoded datasets, for realism and for the captures in detail.
        captures: recordings to show in detail; the best, the middle and the worst by default.
        progress: called as it goes on.

    Returns:
        the files written.

    Raises:
        InputError: a folder holds nothing to compare, or is damaged.
        ConfigError: other models, an unknown capture.
    """
    datasets = [folder for folder in folders if is_dataset(folder)]
    models = load_bundle(bundle)
    runs = _read_runs([folder for folder in folders if not is_dataset(folder)], models)
    sources = {run.name: _dataset_of(run, datasets) for run in runs}
    chosen = captures_in_detail(runs, sources, captures)
    (out / FIGURES_NAME).mkdir(exist_ok=True)
    written: list[Path] = []

    def keep(name: str, figure: Figure) -> str:
        picture, document = save_png_and_pdf(figure, out / FIGURES_NAME / f"{name}.png")
        written.extend((picture, document))
        return png_uri(picture.read_bytes())

    for index, run in enumerate(runs):
        progress("realism", index, len(runs))
        if run.settings:
            runs[index] = _with_realism(run, load_realism(models.path))
    curves = _curves(runs, keep)
    grids = []
    for index, run in enumerate(runs):
        progress("pictures", index, len(runs))
        grids += _grids(run, sources[run.name], keep)
    health = [capture_health(folder, keep) for folder in datasets]
    detailed = []
    for index, (run, dataset, row) in enumerate(chosen):
        progress("captures in detail", index, len(chosen))
        detailed.append(capture_in_detail(run, dataset, row, models, keep))
    progress("captures in detail", len(chosen), max(1, len(chosen)))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("comparison.html").render(
        runs=runs,
        gains=paired_gains(runs),
        curves=curves,
        grids=grids,
        health=health,
        detailed=detailed,
        realism_images=REALISM_IMAGES,
        draws=DETAILED_DRAWS,
        white_spread=WHITE_SPREAD,
        success_db=SUCCESS_PSNR_DB,
    )
    write_text(out / REPORT_NAME, html)
    return [out / REPORT_NAME, *written]


def _read_runs(folders: Sequence[Path], models: Bundle) -> list[ComparedRun]:
    """Read what is compared; refuse two of one name, and decoded datasets of other models."""
    runs = [read_compared(folder) for folder in folders]
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise InputError(f"Two runs are called {next(n for n in names if names.count(n) > 1)}. Rename a folder.")
    for run in runs:
        if run.settings and run.settings.get("bundle") != models.digest:
            raise ConfigError(f"{run.folder} was decoded by models {run.settings.get('bundle')}, not {models.digest}.")
    return runs


def _curves(runs: Sequence[ComparedRun], keep: Keep) -> list[tuple[str, str]]:
    """Draw what there is against channel SNR, and how well acceptance works: title and data URI of each."""
    named = [(run.name if len(runs) > 1 else "", run.points) for run in runs]
    points = [point for run in runs for point in run.points]
    curves = []
    if any(point.csnr_db is not None for point in points):
        curves.append(("PSNR and success", keep("psnr", score_figure(named))))
        if any(point.realism is not None for point in points):
            curves.append(("Realism", keep("realism", _realism_figure(named))))
    acceptance = _acceptance_figure(runs)
    if acceptance is not None:
        curves.append((f"Acceptance: images below {LOW_SUCCESS_PSNR_DB:g} dB found out", keep("roc", acceptance)))
    return curves


def _grids(run: ComparedRun, dataset: Path | None, keep: Keep) -> list[tuple[str, str]]:
    """Draw the pictures of each method of a run: title and data URI of each."""
    grids = {method: _grid(run, method, dataset) for method in run.methods}
    return [
        (f"{run.name}: {method}", keep(f"grid-{run.name}-{plain(method)}", grid))
        for method, grid in grids.items()
        if grid is not None
    ]


def _dataset_of(run: ComparedRun, datasets: Sequence[Path]) -> Path | None:
    """Return which of the datasets a run decoded: the one that begins with the capture that it remembers."""
    wanted = run.settings.get("first_capture")
    for folder in datasets if wanted else ():
        if select_captures(folder).rows(slice(1))[0].data_sha512 == wanted:
            return folder
    return None


def _pictures(folder: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of a decoded dataset that have a picture and are wanted, a thousand in memory at a time."""
    columns = ["recording", "image", "method", "seed", "status", "picture"]
    for batch in pyarrow.parquet.ParquetFile(folder / RESULTS_NAME).iter_batches(1024, columns=columns):
        for row in batch.to_pylist():
            if row["status"] == "ok" and wanted(row):
                yield row


def _with_realism(run: ComparedRun, realism: Realism) -> ComparedRun:
    """Measure the realism of every point of a decoded dataset, each over the same number of images."""
    csnr_db = dict(zip(run.rows["recording"].to_pylist(), run.rows["csnr_db"].to_pylist(), strict=True))
    count = min(REALISM_IMAGES, *(point.arrived for point in run.points))
    pictures: dict[tuple[float | None, str], list[NDArray[np.float32]]] = {}
    for row in _pictures(run.folder, lambda row: row["recording"] in csnr_db):
        own = pictures.setdefault((csnr_db[row["recording"]], row["method"]), [])
        if len(own) < count:
            own.append(from_png(row["picture"]))

    def measured(point: SnrPoint) -> SnrPoint:
        images = pictures.get((point.csnr_db, point.method), [])
        if count < 2 or len(images) < count:
            return point
        score = realism.score(torch.from_numpy(np.stack(images)), torch.Generator().manual_seed(0))
        return replace(point, realism=score.value, realism_se=score.std_error, realism_n=count)

    return replace(run, points=tuple(measured(point) for point in run.points))


def _realism_figure(named: NamedPoints) -> Figure:
    axes = (figure := Figure(figsize=(6.6, 4), layout="constrained")).subplots()
    for line in lines(named):
        seen = [point for point in line.points if point.realism is not None]
        if seen:
            draw_line(
                axes,
                line,
                [point.csnr_db for point in seen],
                [point.realism for point in seen],
                [point.realism_se for point in seen],
            )
    axes.set(xlabel="channel SNR, dB", ylabel="realism distance (lower is better)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8)
    return figure


def _acceptance_figure(runs: Sequence[ComparedRun]) -> Figure | None:
    curves = []
    for run in runs:
        scored = run.rows.select(["method", "psnr_db", "expected_psnr_db"]).drop_null()
        for number, method in enumerate(run.methods):
            own = scored.filter(pyarrow.compute.field("method") == method)
            scores = -own["expected_psnr_db"].to_numpy()
            curve = roc_curve(scores.tolist(), (own["psnr_db"].to_numpy() >= LOW_SUCCESS_PSNR_DB).tolist())
            if curve is not None:
                label = f"{run.name}: {method}" if len(runs) > 1 else method
                curves.append((label, method_colour(method) or f"C{4 + number}", curve))
    return roc_figure(curves) if curves else None


def _grid(run: ComparedRun, method: str, dataset: Path | None) -> Figure | None:
    """Draw the best, the median and the worst pictures of a method, beside what was sent and the other methods'."""
    own = run.rows.filter(pyarrow.compute.field("method") == method).to_pylist()
    own = sorted((row for row in own if row["psnr_db"] is not None), key=lambda row: -row["psnr_db"])
    if not own:
        return None
    count, middle = min(GRID_IMAGES, len(own)), len(own) // 2
    blocks = {
        "best": own[:count],
        "median": own[max(0, middle - count // 2) :][:count],
        "worst": own[-count:],
    }
    chosen = [row for rows in blocks.values() for row in rows]
    pictures = _pictures_of(run, {(row["recording"], row["image"]) for row in chosen}, chosen[0]["seed"])
    originals = _originals(run, dataset, {row["recording"] for row in chosen})
    lines = [*(["sent"] if originals else []), method, *(other for other in run.methods if other != method)]
    pixels = [
        [
            originals.get(key) if name == "sent" else pictures.get((*key, name))
            for key in ((row["recording"], row["image"]) for row in chosen)
        ]
        for name in lines
    ]
    figure, axis = sheet(pixels, lines, [f"{row['psnr_db']:.1f}" for row in chosen])
    for name, place in zip(blocks, range(0, len(chosen), count), strict=True):
        axis.text(place, len(lines) + 0.05, name, fontsize=8, va="top")
    return figure


def _pictures_of(
    run: ComparedRun, keys: set[tuple[str, str]], seed: int
) -> dict[tuple[str, str, str], NDArray[np.float32]]:
    """Return pictures by recording, image and method, the first one where an image came several times."""
    found: dict[tuple[str, str, str], NDArray[np.float32]] = {}
    if run.settings:
        for row in _pictures(run.folder, lambda row: row["seed"] == seed and (row["recording"], row["image"]) in keys):
            found.setdefault((row["recording"], row["image"], row["method"]), from_png(row["picture"]))
        return found
    for image in read_run(run.folder).images:
        if (run.name, image.id) in keys:
            picture = read_png(run.folder / image.path)
            found.setdefault((run.name, image.id, image.method), picture)
    return found


def _originals(
    run: ComparedRun, dataset: Path | None, recordings: set[str]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Return what was sent by recording and image, as far as it is at hand."""
    if not run.settings:
        stored = sorted((run.folder / ORIGINALS_NAME).glob("*.png"))
        return {(run.name, path.stem): read_png(path) for path in stored}
    if dataset is None:
        return {}
    index = select_captures(dataset, f"recording in {sorted(recordings)!r}")
    found = {}
    for row in index.rows():
        truth = read_truth(dataset, row)
        for image, pixels in zip(truth["image_ids"].tolist(), truth["images"], strict=True):
            found[row.recording, image] = pixels.astype(np.float32) / np.float32(255)
    return found
