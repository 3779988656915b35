"""The report of a run folder: one HTML file that needs nothing beside it.

A run folder holds `run.json` (configuration, versions, frames, images, scores, times), `diagnostics.npz` (what
`write_diagnostics` kept of the signal), the images named in run.json, and where there is ground truth `originals/`.
The report is made from these alone, so it can be made again at any time.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter
from numpy.typing import NDArray

from lab.evaluation.statistics import RocCurve, roc_curve
from lab.evaluation.summary import LOW_SUCCESS_PSNR_DB
from lab.reports.figures import (
    COLOURS,
    METHOD_NAMES,
    channel_figure,
    constellation_figure,
    few_labels,
    new_figure,
    roc_figure,
    spectrum_figure,
)
from lab.reports.gallery import gallery_rows
from lab.reports.pictures import TEMPLATES, WHITE_SPREAD, data_uri
from lab.reports.run_folder import read_npz, read_run
from sdr.errors import InputError
from sdr.layout import load_layout

#: Columns of the table of frames: field of run.json's frames, title, format.
FRAME_COLUMNS = (
    ("start_sample", "sample", "%d"),
    ("metric", "metric", "%.3f"),
    ("cfo_hz", "offset Hz", "%.1f"),
    ("snr_db", "SNR dB", "%.1f"),
    ("evm_db", "EVM dB", "%.1f"),
    ("papr_db", "PAPR dB", "%.1f"),
    ("corrected_drift_ppm", "clock ppm", "%.2f"),
    ("phase_jitter_rad", "jitter rad", "%.4f"),
    ("phase_residual_rad", "phase left rad", "%.4f"),
    ("timing_residual_samples", "delay left samples", "%.4f"),
    ("channel_mse", "channel error", "%.4f"),
    ("residual", "residual", "%.2f"),
)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder.

    Returns:
        its path.

    Raises:
        InputError: run.json or diagnostics.npz is missing or damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    run = read_run(folder)
    diagnostics = read_npz(folder / "diagnostics.npz")
    layout = load_layout(folder / "layout.json")
    methods = list(dict.fromkeys(image["method"] for image in run["images"]))
    figures = [
        ("Spectrum of the recording", spectrum_figure(diagnostics)),
        *(
            [("Header cells before and after equalisation", constellation_figure(diagnostics))]
            if _has(diagnostics)
            else []
        ),
        *([("Channel", channel_figure(diagnostics, layout))] if _has(diagnostics) else []),
        ("Normalised residual: about 1 for a right answer", _residual_figure(run["images"], methods)),
        *_roc_figures(run["images"], methods),
        ("Frames", _frames_figure(run["frames"])),
    ]
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    html = environment.get_template("report.html").render(
        run=run,
        methods=methods,
        method_names=METHOD_NAMES,
        figures=[(title, data_uri(figure)) for title, figure in figures],
        gallery=gallery_rows(folder, run, diagnostics, methods),
        small=_small(folder, run),
        channel_distances=diagnostics.get("channel_distances", np.empty(0)).tolist(),
        summary=run.get("summary", []),
        floor=run.get("floor"),
        white_spread=WHITE_SPREAD,
        frame_columns=FRAME_COLUMNS,
        stages=run.get("stages", []),
        processes=run.get("processes", []),
    )
    target = folder / "report.html"
    partial = folder / f".report.html.{os.getpid()}.part"
    partial.write_text(html, encoding="utf-8")
    os.replace(partial, target)
    return target


#: Pictures of at most so many pixels a side are shown enlarged, every pixel a square.
_SMALL_SIDE = 84


def _small(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the pictures of a run are small; false where there are none."""
    from PIL import Image

    for image in run["images"]:
        try:
            with Image.open(folder / image["path"]) as picture:
                return max(picture.size) <= _SMALL_SIDE
        except OSError as error:
            raise InputError(f"{folder / image['path']} can't be read ({error}). Repeat the run.") from error
    return False


def _has(diagnostics: Mapping[str, NDArray]) -> bool:
    return "responses" in diagnostics


def _residual_figure(images: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> Figure:
    scored = any(image.get("psnr_db") is not None for image in images)
    panels = (figure := new_figure(8, 3)).subplots(1, 2 if scored else 1, squeeze=False)[0]
    values = [image["residual"] for image in images if image["residual"] is not None]
    edges = np.geomspace(max(min(values), 1e-2), max(*values, 1e-1) * 1.01, 40) if values else np.array([0.1, 10])
    for method in methods:
        colour = COLOURS.get(method)
        own = [image for image in images if image["method"] == method and image["residual"] is not None]
        panels[0].hist([i["residual"] for i in own], edges, histtype="step", lw=1.5, color=colour, label=method)
        if scored:
            pairs = [(i["residual"], i["psnr_db"]) for i in own if i.get("psnr_db") is not None]
            panels[1].plot([p[0] for p in pairs], [p[1] for p in pairs], ".", ms=4, color=colour, label=method)
    for panel in panels:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(FuncFormatter(few_labels))
    panels[0].set(xlabel="normalised residual", ylabel="images")
    panels[0].axvline(1, color="k", lw=0.7, ls=":")
    panels[0].legend(fontsize=8)
    if scored:
        panels[1].set(xlabel="normalised residual", ylabel="PSNR (dB)")
        panels[1].grid(alpha=0.3)
    return figure


def _roc_figures(images: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> list[tuple[str, Figure]]:
    """How well acceptance knows good images from bad ones, where ground truth tells both kinds."""
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method in methods:
        own = [image for image in images if image["method"] == method and image.get("psnr_db") is not None]
        # JSON has no infinity: what is missing was not finite.
        scores = [math.inf if i["expected_psnr_db"] is None else -i["expected_psnr_db"] for i in own]
        curve = roc_curve(scores, [i["psnr_db"] >= LOW_SUCCESS_PSNR_DB for i in own])
        if curve is not None:
            curves.append((method, COLOURS.get(method), curve))
    title = f"Acceptance: images of less than {LOW_SUCCESS_PSNR_DB:g} dB that are found out"
    return [(title, roc_figure(curves))] if curves else []


def _frames_figure(frames: Sequence[Mapping[str, Any]]) -> Figure:
    axes = (figure := new_figure(8, 2.6)).subplots(1, 2)
    numbers = range(len(frames))
    for axis, key, label in zip(axes, ("snr_db", "cfo_hz"), ("received SNR (dB)", "carrier offset (Hz)"), strict=True):
        axis.plot(numbers, [frame[key] for frame in frames], "o-", ms=3, lw=0.8)
        axis.set(xlabel="frame", ylabel=label)
        axis.grid(alpha=0.3)
    return figure
