"""Draw the figures of a sweep from its results file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.evaluation.statistics import RocCurve, roc_curve
from lab.evaluation.summary import LOW_SUCCESS_PSNR_DB
from lab.reports.figures import COLOURS, METHOD_NAMES, OTHER_COLOURS, roc_figure
from sdr.errors import InputError


def write_figures(out: Path) -> list[Path]:
    """Draw what a sweep left in `out`, with one standard error each way.

    Returns:
        the pictures written: psnr.png and realism.png against channel SNR or condition, tradeoff.png with realism
        against PSNR, grid.png with the first images, and roc.png where some images failed.

    Raises:
        InputError: a file of the sweep is missing or damaged.
    """
    path = out / "sweep.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        name, floor, summary = content["sweep"]["name"], content["floor"], content["summary"]
        numeric = not content["sweep"]["conditions"]
        images = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
        with np.load(out / "grid.npz") as stored:
            grid = {key: stored[key] for key in stored}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, pyarrow.ArrowException) as error:
        raise InputError(
            f"{path} or a file beside it is missing or damaged ({error}). Run the sweep again; finished points are "
            "kept."
        ) from error
    scored = [row for row in summary if row["psnr_db"] is not None]
    count = max((row["n"] for row in scored), default=0)
    title = f"{name}, {count} images, ± 1 standard error"
    figures = {
        "psnr.png": _curve_figure(scored, "psnr_db", "psnr_se_db", "PSNR (dB)", numeric),
        "realism.png": _curve_figure(
            scored, "realism", "realism_se", "realism distance (lower is better)", numeric, floor["realism"]
        ),
        "tradeoff.png": _tradeoff_figure(scored, floor["realism"]),
    }
    for figure in figures.values():
        figure.axes[0].set_title(title)
        if figure.axes[0].get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    figures["grid.png"] = _grid_figure(grid["labels"].tolist(), grid["pictures"], grid["there"])
    curves = _roc_curves(images)
    if curves:
        figures["roc.png"] = roc_figure(curves)
        figures["roc.png"].axes[0].set_title(f"{name}: images of less than {LOW_SUCCESS_PSNR_DB:g} dB found out")
    written = []
    for file, figure in figures.items():
        partial = out / f".{file}.{os.getpid()}.part"
        figure.savefig(partial, dpi=120, format="png")
        os.replace(partial, out / file)
        written.append(out / file)
    return written


def _by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    own: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        own.setdefault(row["method"], []).append(row)
    return own


def _curve_figure(
    rows: Sequence[Mapping[str, Any]], key: str, error_key: str, label: str, numeric: bool, floor: float | None = None
) -> Figure:
    """One curve a method over channel SNR (numeric) or condition; with a floor also the noise nulls, on a log scale."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    names = list(dict.fromkeys(row["condition"] for row in rows))
    for method, own in _by_method(rows).items():
        own = sorted(own, key=lambda row: row["csnr_db"] if numeric else names.index(row["condition"]))
        at = [row["csnr_db"] if numeric else names.index(row["condition"]) for row in own]
        drawn = axes.errorbar(
            at,
            [row[key] for row in own],
            [row[error_key] for row in own],
            marker="o",
            ms=4,
            capsize=3,
            ls="-" if numeric else "none",
            color=COLOURS.get(method),
            label=METHOD_NAMES.get(method, method),
        )
        nulls = [(place, row) for place, row in zip(at, own, strict=True) if row["realism_null"] is not None]
        if floor is not None and nulls:
            axes.errorbar(
                [place for place, _ in nulls],
                [row["realism_null"] for _, row in nulls],
                [row["realism_null_se"] for _, row in nulls],
                ls=":" if numeric else "none",
                marker="x",
                ms=4,
                capsize=2,
                lw=1,
                color=drawn[0].get_color(),
                label=f"noise null of {method}",
            )
    if floor is not None:
        axes.axhline(floor, color="k", lw=0.8, ls="--", label="originals")
        axes.set_yscale("log")
    if not numeric:
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set(xlabel="channel SNR (dB)" if numeric else "", ylabel=label)
    axes.grid(alpha=0.3, which="both")
    return figure


def _tradeoff_figure(rows: Sequence[Mapping[str, Any]], floor: float) -> Figure:
    """Realism against PSNR, every point labelled with its condition; down and to the right is better."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for method, own in _by_method(rows).items():
        drawn = axes.errorbar(
            [row["psnr_db"] for row in own],
            [row["realism"] for row in own],
            [row["realism_se"] for row in own],
            [row["psnr_se_db"] for row in own],
            marker="o",
            ms=4,
            lw=0.8,
            capsize=2,
            color=COLOURS.get(method),
            label=METHOD_NAMES.get(method, method),
        )
        for row in own:
            axes.annotate(
                row["condition"],
                (row["psnr_db"], row["realism"]),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7,
                color=drawn[0].get_color(),
            )
    axes.axhline(floor, color="k", lw=0.8, ls="--", label="originals")
    axes.set_yscale("log")
    axes.set(xlabel="PSNR (dB)", ylabel="realism distance (lower is better)")
    axes.grid(alpha=0.3, which="both")
    return figure


def _grid_figure(labels: Sequence[str], pictures: NDArray[np.uint8], there: NDArray[np.bool_]) -> Figure:
    """The same images in every row; blank where one did not arrive."""
    rows, columns = there.shape
    figure = Figure(figsize=(2.4 + 0.8 * columns, 0.84 * rows), layout="constrained")
    for line, label, row, arrived in zip(
        figure.subplots(rows, columns, squeeze=False), labels, pictures, there, strict=True
    ):
        for axes, picture, is_there in zip(line, row, arrived, strict=True):
            axes.set(xticks=[], yticks=[])
            if is_there:
                shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
                axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    return figure


def _roc_curves(images: Sequence[Mapping[str, Any]]) -> list[tuple[str, str | None, RocCurve]]:
    """One curve a method, over all conditions: the more failures, the surer the curve."""
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method, own in _by_method(images).items():
        curve = roc_curve([row["score"] for row in own], [row["psnr_db"] >= LOW_SUCCESS_PSNR_DB for row in own])
        if curve is not None:
            curves.append((method, COLOURS.get(method), curve))
    return curves
