"""Write the report of a run folder: one HTML file that needs nothing beside it.

The report is made from the folder alone (see `lab.reports.run_folder`), so it can be made again at any time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, ScalarFormatter

from lab.evaluation.statistics import RocCurve, roc_curve
from lab.evaluation.summary import LOW_SUCCESS_PSNR_DB
from lab.reports.figures import (
    channel_figure,
    constellation_figure,
    few_labels,
    method_colour,
    method_title,
    new_figure,
    roc_figure,
    spectrum_figure,
)
from lab.reports.gallery import gallery_rows
from lab.reports.pictures import TEMPLATES, WHITE_SPREAD, data_uri
from lab.reports.run_folder import DIAGNOSTICS_NAME, LAYOUT_NAME, ImageRow, Run, damage_told, read_npz, read_run
from receiver.images.files import open_image
from sdr.errors import InputError
from sdr.files import write_text
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


#: Pictures of at most so many pixels a side are shown enlarged, every pixel a square.
_SMALL_SIDE = 84


def write_report(folder: Path) -> Path:
    """Write report.html into a run folder.

    Returns:
        its path.

    Raises:
        InputError: run.json, diagnostics.npz or a picture is missing or damaged.
    """
    with damage_told(folder):
        html = _report(folder)
    target = folder / "report.html"
    write_text(target, html)
    return target


def _report(folder: Path) -> str:
    """Return the report of a run folder."""
    run = read_run(folder)
    if not run.images:
        raise InputError(f"{folder} holds no decoded image. Repeat the run.")
    diagnostics = read_npz(folder / DIAGNOSTICS_NAME)
    layout = load_layout(folder / LAYOUT_NAME)
    draws = run.config.get("draws")
    figures = [("Spectrum of the recording", spectrum_figure(diagnostics))]
    if "responses" in diagnostics:
        figures.append(("Header cells before and after equalisation", constellation_figure(diagnostics)))
        figures.append(("Channel", channel_figure(diagnostics, layout)))
    figures.append(("Normalised residual: about 1 for a right answer", _residual_figure(run.images, run.methods)))
    figures += _roc_figures(run.images, run.methods)
    figures.append(("Frames", _frames_figure(run.frames)))
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("report.html").render(
        run=run,
        draws=draws if isinstance(draws, int) else 1,
        method_title=method_title,
        figures=[(title, data_uri(figure)) for title, figure in figures],
        gallery=gallery_rows(folder, run, diagnostics),
        small=_small(folder, run),
        channel_distances=diagnostics.get("channel_distances", np.empty(0)).tolist(),
        white_spread=WHITE_SPREAD,
        frame_columns=FRAME_COLUMNS,
    )


def _small(folder: Path, run: Run) -> bool:
    """Return whether the pictures of a run are small; False where there are none."""
    if not run.images:
        return False
    with open_image(folder / run.images[0].path, ("PNG",)) as picture:
        return max(picture.size) <= _SMALL_SIDE


def _residual_figure(images: Sequence[ImageRow], methods: Sequence[str]) -> Figure:
    scored = any(image.psnr_db is not None for image in images)
    panels = (figure := new_figure(8, 3)).subplots(1, 2 if scored else 1, squeeze=False)[0]
    finite = [image for image in images if math.isfinite(image.residual)]
    values = [image.residual for image in finite]
    edges = np.geomspace(max(min(values), 1e-2), max(*values, 1e-1) * 1.01, 40) if values else np.array([0.1, 10])
    for method in methods:
        colour = method_colour(method)
        own = [image for image in finite if image.method == method]
        panels[0].hist([i.residual for i in own], edges, histtype="step", lw=1.5, color=colour, label=method)
        if scored:
            known = [image for image in own if image.psnr_db is not None]
            residuals, psnr_db = [i.residual for i in known], [i.psnr_db for i in known]
            panels[1].plot(residuals, psnr_db, ".", ms=4, color=colour, label=method)
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


def _roc_figures(images: Sequence[ImageRow], methods: Sequence[str]) -> list[tuple[str, Figure]]:
    """Draw how well acceptance knows good images from bad ones, where ground truth knows both kinds."""
    curves: list[tuple[str, str | None, RocCurve]] = []
    for method in methods:
        own = [image for image in images if image.method == method and image.psnr_db is not None]
        curve = roc_curve([-i.expected_psnr_db for i in own], [i.reaches(LOW_SUCCESS_PSNR_DB) for i in own])
        if curve is not None:
            curves.append((method, method_colour(method), curve))
    title = f"Acceptance: images of less than {LOW_SUCCESS_PSNR_DB:g} dB that are found out"
    return [(title, roc_figure(curves))] if curves else []


def _frames_figure(frames: Sequence[Mapping[str, object]]) -> Figure:
    axes = (figure := new_figure(8, 2.6)).subplots(1, 2)
    numbers = range(len(frames))
    for axis, key, label in zip(axes, ("snr_db", "cfo_hz"), ("received SNR (dB)", "carrier offset (Hz)"), strict=True):
        axis.plot(numbers, [frame.get(key) for frame in frames], "o-", ms=3, lw=0.8)
        axis.set(xlabel="frame", ylabel=label)
        axis.grid(alpha=0.3)
    return figure
