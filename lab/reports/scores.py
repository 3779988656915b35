"""Draw the scores of a decoded dataset."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab.evaluation.summary import SUCCESS_PSNR_DB
from lab.reports.figures import COLOURS, METHOD_NAMES

FIGURE_NAME = "psnr.png"


def score_figure(runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]]) -> Figure:
    """PSNR and success against channel SNR, a line per run and method; bars are one standard error, and 95 %.

    Args:
        runs: name and summary of each; an empty name is not shown.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    quality, success = figure.subplots(1, 2)
    for label, look, points in series(runs):
        style = {**look, "capsize": 2, "label": label}
        seen = [point for point in points if point["psnr_se_db"] is not None]
        quality.errorbar(
            [point["csnr_db"] for point in seen],
            [point["psnr_db"] for point in seen],
            [point["psnr_se_db"] for point in seen],
            **style,
        )
        share = np.array([[p["success_17db"], p["success_low"], p["success_high"]] for p in points]).reshape(-1, 3)
        bars = np.abs(share[:, :1] - share[:, 1:]).T
        success.errorbar([point["csnr_db"] for point in points], share[:, 0], bars, **style)
    quality.set(xlabel="channel SNR, dB", ylabel="PSNR of what arrived, dB")
    success.set(xlabel="channel SNR, dB", ylabel=f"share of all sent with PSNR >= {SUCCESS_PSNR_DB:g} dB", ylim=(0, 1))
    for axes in (quality, success):
        axes.grid(alpha=0.3)
    if quality.get_legend_handles_labels()[0]:
        quality.legend(fontsize=8)
    return figure


def series(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
) -> Iterator[tuple[str, dict[str, Any], list[Mapping[str, Any]]]]:
    """(label, look, points with a channel SNR) of every run and method; colours tell methods, lines tell runs."""
    methods = list(dict.fromkeys(point["method"] for _, summary in runs for point in summary))
    free = iter(f"C{index}" for index in itertools.count(4))
    colours = {method: COLOURS.get(method) or next(free) for method in methods}
    for number, (name, summary) in enumerate(runs):
        for method in dict.fromkeys(point["method"] for point in summary):
            points = [point for point in summary if point["method"] == method and point["csnr_db"] is not None]
            label = str(METHOD_NAMES.get(method) or method)
            look = {"color": colours[method], "marker": "osD^v"[number % 5], "ls": ("-", "--", ":", "-.")[number % 4]}
            yield (f"{name}: {label}" if name else label), look, points


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """As PNG and as PDF, each under its final name only when complete; returns both paths."""
    written = []
    for suffix in (".png", ".pdf"):
        target = path.with_suffix(suffix)
        partial = target.with_name(f".{target.name}.part")
        figure.savefig(partial, dpi=150, format=suffix[1:])
        os.replace(partial, target)
        written.append(target)
    return written
