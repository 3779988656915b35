"""Draw the scores of a decoded dataset."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.evaluation.summary import SUCCESS_PSNR_DB, SnrPoint
from lab.reports.figures import method_colour, method_title, save_figure

FIGURE_NAME = "psnr.png"
#: Resolution of figures that a publication may take.
FIGURE_DPI = 150

#: Runs with their points, by name; an empty name is not shown.
NamedPoints = Sequence[tuple[str, Sequence[SnrPoint]]]


@dataclass(frozen=True)
class Line:
    """One method of one run against channel SNR.

    Attributes:
        label: for the legend.
        colour: tells methods apart.
        marker: tells runs apart.
        linestyle: tells runs apart.
        points: those whose channel SNR is known.
    """

    label: str
    colour: str
    marker: str
    linestyle: str
    points: tuple[SnrPoint, ...]


def score_figure(runs: NamedPoints) -> Figure:
    """Draw PSNR and success against channel SNR, a line per run and method; bars are one standard error, and 95 %."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    quality, success = figure.subplots(1, 2)
    for line in lines(runs):
        seen = [point for point in line.points if point.psnr_se_db is not None]
        draw_line(
            quality,
            line,
            [point.csnr_db for point in seen],
            [point.psnr_db for point in seen],
            [point.psnr_se_db for point in seen],
        )
        rates = [
            (point.csnr_db, point.success_17db, point.success_low, point.success_high)
            for point in line.points
            if point.success_17db is not None and point.success_low is not None and point.success_high is not None
        ]
        draw_line(
            success,
            line,
            [csnr_db for csnr_db, _, _, _ in rates],
            [rate for _, rate, _, _ in rates],
            [
                [abs(rate - low) for _, rate, low, _ in rates],
                [abs(rate - high) for _, rate, _, high in rates],
            ],
        )
    quality.set(xlabel="channel SNR, dB", ylabel="PSNR of what arrived, dB")
    success.set(xlabel="channel SNR, dB", ylabel=f"share of all sent with PSNR >= {SUCCESS_PSNR_DB:g} dB", ylim=(0, 1))
    for axes in (quality, success):
        axes.grid(alpha=0.3)
    if quality.get_legend_handles_labels()[0]:
        quality.legend(fontsize=8)
    return figure


def lines(runs: NamedPoints) -> Iterator[Line]:
    """Yield every method of every run; colours tell methods apart, lines and markers tell runs."""
    methods = list(dict.fromkeys(point.method for _, points in runs for point in points))
    free = iter(f"C{index}" for index in itertools.count(4))
    colours = {method: method_colour(method) or next(free) for method in methods}
    for number, (name, points) in enumerate(runs):
        for method in dict.fromkeys(point.method for point in points):
            title = method_title(method)
            yield Line(
                f"{name}: {title}" if name else title,
                colours[method],
                "osD^v"[number % 5],
                ("-", "--", ":", "-.")[number % 4],
                tuple(point for point in points if point.method == method and point.csnr_db is not None),
            )


def draw_line(axes: Axes, line: Line, x: Sequence[Any], y: Sequence[Any], errors: Sequence[Any]) -> None:
    """Draw a line with error bars: `errors` (n,), or (2, n) downwards and upwards."""
    axes.errorbar(x, y, errors, label=line.label, color=line.colour, marker=line.marker, ls=line.linestyle, capsize=2)


def save_png_and_pdf(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PNG and as PDF; return both paths."""
    written = [path.with_suffix(suffix) for suffix in (".png", ".pdf")]
    for target in written:
        save_figure(figure, target, FIGURE_DPI)
    return written
