"""The report over datasets and runs: one HTML file, and its figures as PNG and PDF.

What is compared are decoded datasets (of `ota decode DATASET --score`), runs of one recording, and sweeps. With the
dataset at hand the report also shows its health, the pictures that were sent, and some captures in detail: these few
are decoded once more, with the draws that the rows came from, to see the samplers at work.

Ground truth is opened here. No decoder may import this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from receiver.bundles import Bundle, load_bundle
from receiver.decode import BatchDecoder, decode_recording, method_variant
from receiver.evaluation import LOW_SUCCESS_PSNR_DB, SUCCESS_PSNR_DB, roc_curve, wilson_interval
from receiver.offline import (
    RESULTS_NAME,
    SETTINGS_NAME,
    frame_generator,
    from_png,
    select_captures,
)
from receiver.report import (
    COLOURS,
    TEMPLATES,
    WHITE_SPREAD,
    channel_figure,
    constellation_figure,
    diagnose,
    png_uri,
    read_run,
    roc_figure,
    spectrum_figure,
)
from receiver.scores import SCORES_NAME, SCORES_SCHEMA, SUMMARY_NAME, save_figure, score_figure, series
from receiver.truth import ChannelTruth
from sdr.errors import ConfigError, InputError, OtaError, RecordingError
from sdr.files import write_bytes
from sdr.recordings.dataset import IndexRow, is_dataset, layout_of, open_capture, read_truth

Progress = Callable[[str, float, float], None]

REPORT_NAME = "report.html"
FIGURES_NAME = "figures"
#: Images of a method and channel SNR whose realism is measured; the same number is taken of all.
REALISM_IMAGES = 256
#: Pictures of each kind (best, median, worst) in a grid.
GRID_IMAGES = 5
#: Captures in detail, images of each, draws behind a spread, pictures of a film strip.
DETAILED_CAPTURES, DETAILED_IMAGES, DETAILED_DRAWS, FILM_PICTURES = 3, 4, 8, 8
#: Samples of a capture that are looked at in detail.
DETAILED_SAMPLES = 1 << 22
_WARNINGS_SHOWN = 20


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A decoded dataset, a run of one recording, or a sweep.

    Attributes:
        name: of its folder. summary: points as `receiver.scores.score_results` returns them.
        rows: in `SCORES_SCHEMA`, empty for a sweep; `psnr_db` null where there is no ground truth.
        settings: of a decoded dataset, else empty.
    """

    name: str
    folder: Path
    summary: list[dict[str, Any]]
    rows: pyarrow.Table
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(point["method"] for point in self.summary))


def read_compared(folder: Path) -> ComparedRun:
    """What a folder holds for comparison.

    Raises:
        InputError: nothing, or it is damaged.
    """
    try:
        if (folder / SETTINGS_NAME).is_file():
            settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
            if not (folder / SCORES_NAME).is_file():
                raise InputError(
                    f"{folder} is not scored. Repeat its `ota decode` with --score; nothing is done twice."
                )
            summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
            rows = pyarrow.parquet.read_table(folder / SCORES_NAME, schema=SCORES_SCHEMA)
            return ComparedRun(folder.name, folder, summary, rows, settings)
        if (folder / "sweep.json").is_file():
            content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
            return ComparedRun(folder.name, folder, _sweep_points(content["summary"]), SCORES_SCHEMA.empty_table())
        if (folder / "run.json").is_file():
            return _single_run(folder)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise InputError(f"{folder} is damaged ({' '.join(str(error).split())[:160]}). Repeat the run.") from None
    raise InputError(
        f"{folder} is neither a dataset nor a decoded one, nor a run of `ota demo`, `ota decode` or `ota sweep`."
    )


def _sweep_points(summary: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    shared = ("csnr_db", "method", "psnr_db", "psnr_se_db", "success_17db", "success_low", "success_high")
    taken = (*shared, "accepted", "seconds_per_image", "realism", "realism_se")
    return [{**{key: row[key] for key in taken}, "sent": row["n"], "arrived": row["n"]} for row in summary]


def _single_run(folder: Path) -> ComparedRun:
    images = read_run(folder)["images"]
    rows = [
        {
            "recording": folder.name,
            "image": image["id"],
            "method": image["method"],
            "seed": 0,
            "psnr_db": image.get("psnr_db"),
            # JSON has no infinity: a residual that is missing was not finite.
            "residual": math.inf if image["residual"] is None else image["residual"],
            "residual_limit": image["residual_limit"],
            "expected_psnr_db": -math.inf if image["expected_psnr_db"] is None else image["expected_psnr_db"],
            "accepted": image["accepted"],
            "seconds": image["seconds"],
        }
        for image in images
    ]
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        psnr = np.array([row["psnr_db"] for row in own if row["psnr_db"] is not None])
        low, high = wilson_interval(int((psnr >= SUCCESS_PSNR_DB).sum()), max(1, len(psnr)))
        summary.append(
            {
                "csnr_db": None,
                "method": method,
                "sent": len(own),
                "arrived": len(own),
                "psnr_db": float(psnr.mean()) if psnr.size else None,
                "psnr_se_db": float(psnr.std(ddof=1) / math.sqrt(psnr.size)) if psnr.size > 1 else None,
                "success_17db": float((psnr >= SUCCESS_PSNR_DB).mean()) if psnr.size else None,
                "success_low": low if psnr.size else None,
                "success_high": high if psnr.size else None,
                "accepted": sum(row["accepted"] for row in own) / len(own),
                "seconds_per_image": sum(row["seconds"] for row in own) / len(own),
            }
        )
    return ComparedRun(folder.name, folder, summary, pyarrow.Table.from_pylist(rows, SCORES_SCHEMA))


def write_comparison(
    folders: Sequence[Path],
    out: Path,
    *,
    bundle: str = "fashion",
    captures: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Path]:
    """Write report.html and figures/ into `out`, which exists.

    Args:
        folders: datasets and what was decoded, in any order.
        bundle: models of the decoded datasets, for realism and for the captures in detail.
        captures: recordings to show in detail; the best, the middle and the worst by default.

    Returns:
        the files written.

    Raises:
        InputError: a folder holds nothing to compare, or is damaged. ConfigError: other models, an unknown capture.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    report = progress or (lambda description, done, total: None)
    datasets = [folder for folder in folders if is_dataset(folder)]
    runs = [read_compared(folder) for folder in folders if not is_dataset(folder)]
    names = [run.name for run in runs]
    if len(set(names)) != len(names):
        raise InputError(f"Two runs are called {next(n for n in names if names.count(n) > 1)}. Rename a folder.")
    models = load_bundle(bundle)
    for run in runs:
        if run.settings and run.settings.get("bundle") != models.digest:
            raise ConfigError(f"{run.folder} was decoded by models {run.settings.get('bundle')}, not {models.digest}.")
    sources = {run.name: _dataset_of(run, datasets) for run in runs}
    shown = _detailed(runs, sources, captures)
    (out / FIGURES_NAME).mkdir(exist_ok=True)
    written: list[Path] = []

    def keep(name: str, figure: Figure) -> str:
        picture, document = save_figure(figure, out / FIGURES_NAME / f"{name}.png")
        written.extend((picture, document))
        return png_uri(picture.read_bytes())

    named = [(run.name if len(runs) > 1 else "", run.summary) for run in runs]
    curves: list[tuple[str, str]] = []
    for number, run in enumerate(runs):
        report("realism", number, len(runs))
        if run.settings:
            _add_realism(run, models)
    if any(point["csnr_db"] is not None for run in runs for point in run.summary):
        curves.append(("PSNR and success", keep("psnr", score_figure(named))))
        if any(point.get("realism") is not None for run in runs for point in run.summary):
            curves.append(("Realism", keep("realism", _realism_figure(named))))
    acceptance = _acceptance_figure(runs)
    if acceptance is not None:
        curves.append((f"Acceptance: images below {LOW_SUCCESS_PSNR_DB:g} dB found out", keep("roc", acceptance)))
    grids = []
    for number, run in enumerate(runs):
        report("pictures", number, len(runs))
        for method in run.methods:
            grid = _grid(run, method, sources[run.name])
            if grid is not None:
                grids.append((f"{run.name}: {method}", keep(f"grid-{run.name}-{_plain(method)}", grid)))
    health = [_health(folder, keep) for folder in datasets]
    detailed = []
    for number, (run, dataset, row) in enumerate(shown):
        report("captures in detail", number, len(shown))
        detailed.append(_capture(run, dataset, row, models, keep))
    report("captures in detail", len(shown), max(1, len(shown)))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("comparison.html").render(
        runs=runs,
        curves=curves,
        grids=grids,
        health=health,
        detailed=detailed,
        realism_images=REALISM_IMAGES,
        draws=DETAILED_DRAWS,
        white_spread=WHITE_SPREAD,
        success_db=SUCCESS_PSNR_DB,
    )
    write_bytes(out / REPORT_NAME, html.encode())
    return [out / REPORT_NAME, *written]


def _plain(method: str) -> str:
    return "".join(c if c.isalnum() or c in "-." else "_" for c in method)


def _dataset_of(run: ComparedRun, datasets: Sequence[Path]) -> Path | None:
    """Which of the datasets a run decoded: the one with the first capture that it remembers."""
    wanted = run.settings.get("first_capture")
    for folder in datasets if wanted else ():
        if select_captures(folder).rows(slice(1))[0].data_sha512 == wanted:
            return folder
    return None


# Pictures


def _pictures(folder: Path, wanted: Callable[[Mapping[str, Any]], bool]) -> Iterator[Mapping[str, Any]]:
    """Rows of a decoded dataset that have a picture and are wanted, a thousand in memory at a time."""
    columns = ["recording", "image", "method", "seed", "status", "picture"]
    for batch in pyarrow.parquet.ParquetFile(folder / RESULTS_NAME).iter_batches(1024, columns=columns):
        for row in batch.to_pylist():
            if row["status"] == "ok" and wanted(row):
                yield row


def _add_realism(run: ComparedRun, models: Bundle) -> None:
    """Measure the realism of every point of a decoded dataset, each over the same number of images."""
    csnr_db = dict(zip(run.rows["recording"].to_pylist(), run.rows["csnr_db"].to_pylist(), strict=True))
    count = min(REALISM_IMAGES, *(point["arrived"] for point in run.summary))
    taken: dict[tuple[float | None, str], list[NDArray[np.float32]]] = {}
    for row in _pictures(run.folder, lambda row: row["recording"] in csnr_db):
        mine = taken.setdefault((csnr_db[row["recording"]], row["method"]), [])
        if len(mine) < count:
            mine.append(from_png(row["picture"]))
    for point in run.summary:
        images = taken.get((point["csnr_db"], point["method"]), [])
        if count < 2 or len(images) < count:
            continue
        score = models.realism.score(torch.from_numpy(np.stack(images)), torch.Generator().manual_seed(0))
        point |= {"realism": score.value, "realism_se": score.std_error, "realism_n": count}


def _realism_figure(named: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Figure:
    axes = (figure := Figure(figsize=(6.6, 4), layout="constrained")).subplots()
    for label, look, points in series(named):
        seen = [point for point in points if point.get("realism") is not None]
        if seen:
            axes.errorbar(
                [point["csnr_db"] for point in seen],
                [point["realism"] for point in seen],
                [point["realism_se"] for point in seen],
                **look,
                capsize=2,
                label=label,
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
                curves.append((label, COLOURS.get(method) or f"C{4 + number}", curve))
    return roc_figure(curves) if curves else None


def _grid(run: ComparedRun, method: str, dataset: Path | None) -> Figure | None:
    """The best, the median and the worst pictures of a method, beside what was sent and the other methods' pictures."""
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
    figure, axis = _sheet(pixels, lines, [f"{row['psnr_db']:.1f}" for row in chosen])
    for name, place in zip(blocks, range(0, len(chosen), count), strict=True):
        axis.text(place, len(lines) + 0.05, name, fontsize=8, va="top")
    return figure


def _sheet(
    pictures: Sequence[Sequence[NDArray[np.float32] | None]], lines: Sequence[str], heads: Sequence[str]
) -> tuple[Figure, Any]:
    """Pictures (C, H, W) in [0, 1] in lines and columns, white where there is none; an axis of one unit a picture."""
    figure = Figure(figsize=(1.8 + 0.62 * len(heads), 0.5 + 0.62 * len(lines)))
    width, height = figure.get_size_inches()
    axis = figure.add_axes((1.7 / width, 0.2 / height, 0.62 * len(heads) / width, 0.62 * len(lines) / height))
    for line, row in enumerate(pictures):
        for column, picture in enumerate(row):
            if picture is None:
                continue
            pixels = np.clip(picture, 0, 1)
            axis.imshow(
                pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0),
                extent=(column + 0.03, column + 0.97, line + 0.97, line + 0.03),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
    axis.set(xlim=(0, len(heads)), ylim=(len(lines), 0), aspect="equal")
    axis.axis("off")
    for line, name in enumerate(lines):
        axis.text(-0.1, line + 0.5, name, fontsize=8, ha="right", va="center")
    for column, head in enumerate(heads):
        axis.text(column + 0.5, -0.05, head, fontsize=7, ha="center", va="bottom")
    return figure, axis


def _pictures_of(
    run: ComparedRun, keys: set[tuple[str, str]], seed: int
) -> dict[tuple[str, str, str], NDArray[np.float32]]:
    """(recording, image, method) -> picture, the first one where an image came several times."""
    found: dict[tuple[str, str, str], NDArray[np.float32]] = {}
    if run.settings:
        for row in _pictures(run.folder, lambda row: row["seed"] == seed and (row["recording"], row["image"]) in keys):
            found.setdefault((row["recording"], row["image"], row["method"]), from_png(row["picture"]))
        return found
    for image in read_run(run.folder)["images"]:
        if (run.name, image["id"]) in keys:
            picture = (run.folder / image["path"]).read_bytes()
            found.setdefault((run.name, image["id"], image["method"]), from_png(picture))
    return found


def _originals(
    run: ComparedRun, dataset: Path | None, recordings: set[str]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """(recording, image) -> what was sent, as far as it is at hand."""
    if not run.settings:
        stored = sorted((run.folder / "originals").glob("*.png"))
        return {(run.name, path.stem): from_png(path.read_bytes()) for path in stored}
    if dataset is None:
        return {}
    index = select_captures(dataset, f"recording in {sorted(recordings)!r}")
    found = {}
    for row in index.rows():
        truth = read_truth(dataset, row)
        for image, pixels in zip(truth["image_ids"].tolist(), truth["images"], strict=True):
            found[row.recording, image] = pixels.astype(np.float32) / np.float32(255)
    return found


# Health


def _health(folder: Path, keep: Callable[[str, Figure], str]) -> dict[str, Any]:
    """Numbers, warnings and a figure of a dataset's captures."""
    columns: dict[str, list[Any]] = {}
    warnings: dict[str, list[str]] = {}
    index = select_captures(folder)
    names = ("number", "rms_dbfs", "peak_dbfs", "dc_dbfs", "clipped_fraction", "attempt", "csnr_db")
    for first in range(0, len(index), 4096):
        for row in index.rows(slice(first, first + 4096)):
            for name in names:
                columns.setdefault(name, []).append(getattr(row, name))
            if not row.healthy:
                warnings.setdefault(row.warnings, []).append(row.recording)
    axes = (figure := Figure(figsize=(8, 2.8), layout="constrained")).subplots(1, 2)
    for name, label in (("peak_dbfs", "peak"), ("rms_dbfs", "mean power"), ("dc_dbfs", "offset")):
        axes[0].plot(columns["number"], columns[name], ".", ms=3, label=label)
    axes[0].set(xlabel="capture", ylabel="dBFS")
    axes[1].plot(columns["number"], 100 * np.array(columns["clipped_fraction"]), ".", ms=3, color="C3")
    axes[1].set(xlabel="capture", ylabel="clipped samples (%)")
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    listed = sorted(warnings.items(), key=lambda item: -len(item[1]))
    return {
        "name": folder.name,
        "captures": len(index),
        "unhealthy": sum(map(len, warnings.values())),
        "repeated": sum(columns["attempt"]),
        "warnings": [(text, len(found), found[0]) for text, found in listed[:_WARNINGS_SHOWN]],
        "figure": keep(f"health-{_plain(folder.name)}", figure),
    }


# Captures in detail


def _detailed(
    runs: Sequence[ComparedRun], sources: Mapping[str, Path | None], captures: Sequence[str]
) -> list[tuple[ComparedRun, Path, IndexRow]]:
    """Captures to show, of the first run whose dataset is at hand."""
    for run in runs:
        dataset = sources[run.name]
        if dataset is None:
            continue
        chosen = list(captures)
        if not chosen:
            scored = run.rows.filter(pyarrow.compute.field("psnr_db").is_valid())
            mean = scored.group_by("recording").aggregate([("psnr_db", "mean")]).sort_by("psnr_db_mean")
            ranked = mean["recording"].to_pylist()
            places = np.linspace(len(ranked) - 1, 0, min(DETAILED_CAPTURES, len(ranked))).round().astype(int)
            chosen = [ranked[place] for place in places]
        if not chosen:
            return []
        try:
            rows = {row.recording: row for row in select_captures(dataset, f"recording in {chosen!r}").rows()}
            lost = [name for name in chosen if name not in rows]
        except RecordingError:
            rows, lost = {}, chosen
        if lost:
            raise ConfigError(f"{dataset} has no recording {lost[0]!r}; see `ota dataset list`.")
        return [(run, dataset, rows[name]) for name in chosen]
    if captures:
        raise ConfigError("--capture needs a decoded dataset and its dataset among the folders.")
    return []


def _capture(
    run: ComparedRun, dataset: Path, row: IndexRow, models: Bundle, keep: Callable[[str, Figure], str]
) -> dict[str, Any]:
    """One capture in detail: its signal, and its first images decoded once more with the samplers watched."""
    told: dict[str, Any] = {"row": row, "figures": [], "problem": ""}
    try:
        layout, recording = layout_of(dataset, row), open_capture(dataset, row)
    except OtaError as error:
        return {**told, "problem": str(error)}
    if recording.num_samples > DETAILED_SAMPLES:
        recording = type(recording)(recording.samples[:DETAILED_SAMPLES], recording.settings, recording.utc)
    channel, sent = None, {}
    if row.truth_sha512:
        truth = read_truth(dataset, row)
        sent = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
        known = {key.removeprefix("channel_"): value for key, value in truth.items() if key.startswith("channel_")}
        channel = ChannelTruth.from_mapping(known) if known else None
    found = decode_recording(recording, layout, models, ["jscc" if layout.pilot_symbols else "blind"], steps=1)
    diagnostics = diagnose(recording, found, layout, channel)
    stem = f"capture-{row.recording}"
    figures: list[tuple[str, str]] = told["figures"]
    figures.append(("Spectrum", keep(f"{stem}-spectrum", spectrum_figure(diagnostics))))
    frames = [frame for frame in found.synced if frame.header is not None]
    if not frames:
        return {**told, "problem": f"{len(found.synced)} frames were found, and no header could be read"}
    figures.append(("Header cells", keep(f"{stem}-constellation", constellation_figure(diagnostics))))
    figures.append(("Channel", keep(f"{stem}-channel", channel_figure(diagnostics, layout))))
    decoder = BatchDecoder(models)
    kept: list[Any] = []
    for frame in frames:
        if len(kept) and sum(len(one.header.image_ids) for one in kept) >= DETAILED_IMAGES:
            break
        kept.append(frame)
    try:
        measured = decoder.measure(kept, layout)
    except InputError as error:
        return {**told, "problem": str(error)}
    steps, seed = run.settings.get("steps"), int(run.rows["seed"][0].as_py())
    for method in run.methods:
        variant = method_variant(method, steps)
        if variant.settings.steps < 2 or (layout.pilot_symbols == 0 and not variant.blind):
            continue

        def generators(variant=variant) -> list[torch.Generator]:
            return [frame_generator(row.recording, frame.start, variant, seed, "cpu") for frame in kept]

        film: list[NDArray[np.float32]] = []

        def watch(step: int, x0_hat: Tensor, film=film) -> None:
            film.append(((x0_hat + 1) / 2).numpy())

        shown = decoder.decode(measured, variant, generators(), on_step=watch)
        drawn = decoder.decode(measured, variant, generators(), draws=DETAILED_DRAWS)
        picks = np.linspace(0, len(film) - 1, min(FILM_PICTURES, len(film))).round().astype(int)
        heads = ["sent", *(f"step {pick + 1}" for pick in picks), "decoded", "mean", "spread"]
        count = min(DETAILED_IMAGES, len(shown))
        strips: list[list[NDArray[np.float32] | None]] = []
        for line in range(count):
            original, mean, spread = sent.get(shown[line].id), drawn[line].mean, drawn[line].spread
            assert mean is not None and spread is not None
            strips.append(
                [
                    None if original is None else original.astype(np.float32) / 255,
                    *(film[pick][line] for pick in picks),
                    shown[line].image,
                    mean,
                    spread / WHITE_SPREAD,
                ]
            )
        figure, _ = _sheet(strips, [image.id for image in shown[:count]], heads)
        title = f"Reverse diffusion and posterior, {method}"
        figures.append((title, keep(f"{stem}-{_plain(method)}", figure)))
    return told
