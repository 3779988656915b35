"""Draw the figures of a sweep from the files that it left."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow
import pyarrow.parquet
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.evaluation.statistics import RocCurve, roc_curve
from lab.evaluation.summary import LOW_SUCCESS_PSNR_DB, Summary
from lab.experiments.capacity import CapacityPoint
from lab.experiments.sweep import GRID_NAME, RESULTS_NAME, SUMMARY_NAME, PointSummary
from lab.reports.figures import OTHER_COLOURS, method_colour, method_title, roc_figure, save_figure
from lab.reports.run_folder import damage_told
from receiver.separation.sources import SOURCES
from sdr.arrays import load_arrays
from sdr.documents import read_document
from sdr.errors import InputError

#: Resolution of the figures.
FIGURE_DPI = 120

T = TypeVar("T")


def write_figures(out: Path) -> list[Path]:
    """Draw what a sweep left in `out`, with one standard error each way.

    Returns:
        the pictures written: psnr.png and realism.png against channel SNR or condition, tradeoff.png with realism
        against PSNR, lpips.png where LPIPS was measured, grid.png with the first images, and roc.png where some
        images failed.

    Raises:
        InputError: a file of the sweep is missing or damaged.
    """
    path = out / SUMMARY_NAME
    with damage_told(path):
        content = read_document(path, InputError)
        name, floor = content["sweep"]["name"], content["floor"]
        numeric = not content["sweep"]["conditions"]
        points = [PointSummary.from_row(row) for row in content["summary"]]
        ideal = content["sweep"].get("capacity", ""), [CapacityPoint(**row) for row in content.get("capacity", [])]
        images = pyarrow.parquet.read_table(out / RESULTS_NAME).to_pylist()
        stored = load_arrays(out / GRID_NAME, InputError, "run the sweep again; finished points are kept")
        grid = _grid_figure(stored["labels"].tolist(), stored["pictures"], stored["there"])
        figures = _figures(name, floor, numeric, points, images, ideal)
    figures["grid.png"] = grid
    for file, figure in figures.items():
        save_figure(figure, out / file, FIGURE_DPI)
    return [out / file for file in figures]


def _figures(
    name: str,
    floor: Mapping[str, float] | None,
    numeric: bool,
    points: Sequence[PointSummary],
    images: Sequence[Mapping[str, Any]],
    ideal: tuple[str, Sequence[CapacityPoint]],
) -> dict[str, Figure]:
    """Draw the curves of a sweep, by file name, with an image codec's PSNR at capacity (`ideal`, its name first)."""
    measured = [(point, point.summary) for point in points if point.summary is not None]
    count = max((point.n for point, _ in measured), default=0)
    figures = {"psnr.png": _psnr_figure(measured, numeric, *ideal)}
    if floor is not None:
        figures["realism.png"] = _realism_figure(measured, numeric, floor["realism"])
        figures["tradeoff.png"] = _tradeoff_figure(measured, floor["realism"])
    if any(summary.lpips_vgg is not None for _, summary in measured):
        figures["lpips.png"] = _lpips_figure(measured, numeric)
    for figure in figures.values():
        figure.axes[0].set_title(f"{name}, {count} images, ± 1 standard error")
        if figure.axes[0].get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    curves = _roc_curves([(row["method"], row["score"], row["psnr_db"]) for row in images])
    if curves:
        figures["roc.png"] = roc_figure(curves)
        figures["roc.png"].axes[0].set_title(f"{name}: images of less than {LOW_SUCCESS_PSNR_DB:g} dB found out")
    return figures


#: A point of a sweep with its summary.
_Measured = tuple[PointSummary, Summary]


def _by_method(items: Sequence[T], method: Callable[[T], str]) -> dict[str, list[T]]:
    own: dict[str, list[T]] = {}
    for item in items:
        own.setdefault(method(item), []).append(item)
    return own


def _curves(points: Sequence[_Measured], numeric: bool) -> list[tuple[str, list[float], list[Summary]]]:
    """Return every method with its points in order: their places on the axis, and their summaries."""
    names = list(dict.fromkeys(point.condition for point, _ in points))

    def place(one: _Measured) -> float:
        return one[0].csnr_db if numeric else names.index(one[0].condition)

    return [
        (method, [place(one) for one in sorted(own, key=place)], [one[1] for one in sorted(own, key=place)])
        for method, own in _by_method(points, lambda one: one[0].method).items()
    ]


def _finish_curves(figure: Figure, points: Sequence[_Measured], numeric: bool, ylabel: str) -> Figure:
    axes = figure.axes[0]
    if not numeric:
        names = list(dict.fromkeys(point.condition for point, _ in points))
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes.set(xlabel="channel SNR (dB)" if numeric else "", ylabel=ylabel)
    axes.grid(alpha=0.3, which="both")
    return figure


def _psnr_figure(points: Sequence[_Measured], numeric: bool, source: str, capacity: Sequence[CapacityPoint]) -> Figure:
    """Draw PSNR over channel SNR (numeric) or condition, one curve a method, and the image codec at capacity."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for method, places, summaries in _curves(points, numeric):
        axes.errorbar(
            places,
            [summary.psnr_db for summary in summaries],
            [summary.psnr_se_db for summary in summaries],
            marker="o",
            ms=4,
            capsize=3,
            ls="-" if numeric else "none",
            color=method_colour(method),
            label=method_title(method),
        )
    names = list(dict.fromkeys(point.condition for point, _ in points))
    reached = [
        (point.csnr_db if numeric else names.index(point.condition), point.psnr_db)
        for point in capacity
        if point.psnr_db is not None and point.condition in names
    ]
    if reached:
        places, values = zip(*sorted(reached), strict=True)
        title = SOURCES[source].title if source in SOURCES else source
        axes.plot(places, values, "k--" if numeric else "k_", lw=1, label=f"{title} at the channel's capacity")
    return _finish_curves(figure, points, numeric, "PSNR (dB)")


def _numbers(rows: Sequence[Mapping[str, Any]], field: str) -> NDArray[np.float64]:
    """Return a field of each row, NaN where it was not measured."""
    return np.array([row.get(field) for row in rows], dtype=np.float64)


def _null_figure(points: Sequence[_Measured], numeric: bool, measure: str) -> Figure:
    """Draw a field of `Summary`, one curve a method with its noise null beside it."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for method, places, summaries in _curves(points, numeric):
        rows = [summary.row() for summary in summaries]
        drawn = axes.errorbar(
            places,
            _numbers(rows, measure),
            _numbers(rows, f"{measure}_se"),
            marker="o",
            ms=4,
            capsize=3,
            ls="-" if numeric else "none",
            color=method_colour(method),
            label=method_title(method),
        )
        nulls = _numbers(rows, f"{measure}_null")
        if np.isfinite(nulls).any():
            axes.errorbar(
                places,
                nulls,
                np.nan_to_num(_numbers(rows, f"{measure}_null_se")),
                ls=":" if numeric else "none",
                marker="x",
                ms=4,
                capsize=2,
                lw=1,
                color=drawn[0].get_color(),
                label=f"noise null of {method}",
            )
    return figure


def _realism_figure(points: Sequence[_Measured], numeric: bool, floor: float) -> Figure:
    """Draw realism on a log scale over the floor."""
    axes = (figure := _null_figure(points, numeric, "realism")).axes[0]
    axes.axhline(floor, color="k", lw=0.8, ls="--", label="originals")
    axes.set_yscale("log")
    return _finish_curves(figure, points, numeric, "realism distance (lower is better)")


def _lpips_figure(points: Sequence[_Measured], numeric: bool) -> Figure:
    """Draw LPIPS to the originals."""
    figure = _null_figure(points, numeric, "lpips_vgg")
    return _finish_curves(figure, points, numeric, "LPIPS, VGG16 (lower is better)")


def _tradeoff_figure(points: Sequence[_Measured], floor: float) -> Figure:
    """Draw realism against PSNR, every point labelled with its condition; down and to the right is better."""
    axes = (figure := Figure(figsize=(6.6, 4.8), layout="constrained")).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for method, own in _by_method(points, lambda one: one[0].method).items():
        rows = [summary.row() for _, summary in own]
        drawn = axes.errorbar(
            [summary.psnr_db for _, summary in own],
            _numbers(rows, "realism"),
            _numbers(rows, "realism_se"),
            [summary.psnr_se_db for _, summary in own],
            marker="o",
            ms=4,
            lw=0.8,
            capsize=2,
            color=method_colour(method),
            label=method_title(method),
        )
        for point, summary in own:
            axes.annotate(
                point.condition,
                (summary.psnr_db, math.nan if summary.realism is None else summary.realism),
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
    """Draw the same images in every row; blank where one did not arrive."""
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


def _roc_curves(images: Sequence[tuple[str, float, float]]) -> list[tuple[str, str | None, RocCurve]]:
    """Return one curve a method, over all conditions: the more failures, the surer the curve.

    Args:
        images: method, score and PSNR in dB of each.
    """
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method, own in _by_method(images, lambda image: image[0]).items():
        curve = roc_curve([score for _, score, _ in own], [psnr_db >= LOW_SUCCESS_PSNR_DB for _, _, psnr_db in own])
        if curve is not None:
            curves.append((method, method_colour(method), curve))
    return curves
