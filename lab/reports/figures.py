"""Draw the figures that reports share: spectrum, constellation, channel, ROC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.evaluation.statistics import RocCurve
from lab.reports.diagnostics import SHOWN_FRAMES
from receiver.samplers.variants import ALL_METHODS
from sdr.files import replacing
from sdr.layout import FrameLayout

#: Colours that methods without one of their own take in turn.
OTHER_COLOURS = ("#ff7f0e", "#9467bd", "#e377c2", "#bcbd22", "#17becf", "#000000")


def method_colour(label: str) -> str | None:
    """Return the colour of a method in every figure; None for one without, such as a method with other settings."""
    return ALL_METHODS[label].colour if label in ALL_METHODS else None


def method_title(label: str) -> str:
    """Return the name of a method for people; a method with other settings is called as it was asked for.

    >>> method_title("hifi"), method_title("hifi:steps=5")
    ('HiFi-DiffCom', 'hifi:steps=5')
    """
    return ALL_METHODS[label].title if label in ALL_METHODS else label


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Path, dpi: float) -> None:
    """Write a figure in the format of the path's suffix."""
    with replacing(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix[1:])


def spectrum_figure(diagnostics: Mapping[str, NDArray]) -> Figure:
    """Draw the spectrum of a recording, antenna by antenna; arrays as `lab.reports.diagnostics.diagnose` gives them."""
    axes = (figure := new_figure(8, 2.6)).subplots()
    spectra = np.atleast_2d(diagnostics["spectrum_dbfs"])  # older runs hold that of one antenna, (bins,)
    for number, power in enumerate(spectra):
        axes.plot(diagnostics["spectrum_hz"] / 1e3, power, lw=0.9, label=f"antenna {number}")
    if len(spectra) > 1:
        axes.legend(fontsize=8)
    axes.set(xlabel="frequency (kHz)", ylabel="power per bin (dBFS)")
    axes.grid(alpha=0.3)
    return figure


def constellation_figure(diagnostics: Mapping[str, NDArray]) -> Figure:
    """Draw the header cells of the first frames, as received and equalised."""
    axes = (figure := new_figure(8, 4)).subplots(1, 2)
    for axis, key, title in zip(
        axes, ("header_cells_before", "header_cells_after"), ("as received", "equalised"), strict=True
    ):
        for cells in diagnostics[key]:
            axis.plot(cells.real.ravel(), cells.imag.ravel(), ".", ms=1.5, alpha=0.5)
        axis.set(title=f"{title} (BPSK, one colour a frame)", xlabel="in phase", ylabel="quadrature", aspect="equal")
        axis.set(xlim=(-3, 3), ylim=(-3, 3))
        axis.grid(alpha=0.3)
    return figure


def channel_figure(diagnostics: Mapping[str, NDArray], layout: FrameLayout) -> Figure:
    """Draw the channel that the first frames were found to have met, beside the true one where that is known."""
    count = min(SHOWN_FRAMES, len(diagnostics["responses"]))
    carriers = np.array(layout.active)
    axes = (figure := new_figure(8, 2.0 * ((count + 1) // 2) + 0.6)).subplots((count + 1) // 2, 2, squeeze=False)
    for index, axis in enumerate(axes.ravel()):
        if index >= count:
            axis.axis("off")
            continue
        response = diagnostics["responses"][index][layout.active_bins]
        axis.plot(carriers, 20 * np.log10(np.abs(response) + 1e-9), lw=1.2, label="estimate")
        title = f"frame at sample {diagnostics['frame_starts'][index]}"
        if "true_responses" in diagnostics:
            true = diagnostics["true_responses"][index][layout.active_bins]
            axis.plot(carriers, 20 * np.log10(np.abs(true) + 1e-9), "k--", lw=0.9, label="truth")
            title += f", error {10 * np.log10(diagnostics['channel_distances'][index] + 1e-9):.1f} dB"
        axis.set_title(title, fontsize=9)
        axis.set(xlabel="carrier", ylabel="gain (dB)")
        axis.grid(alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    return figure


def few_labels(value: float, _place: int) -> str:
    """Return a label for 2, 3 and 5 of every decade: all of them would overlap."""
    return f"{value:g}" if f"{value:e}"[0] in "235" else ""


def roc_figure(curves: Sequence[tuple[str, str | None, RocCurve]]) -> Figure:
    """Draw curves of (label, colour, curve), each with its area, the area's 95 % interval and the numbers of images."""
    axes = (figure := new_figure(7, 4)).subplots()
    axes.set_prop_cycle(color=OTHER_COLOURS)
    for label, colour, curve in curves:
        area = f"{curve.area:.2f} ({curve.low:.2f}..{curve.high:.2f}), {curve.bad} of {curve.good + curve.bad} bad"
        axes.plot(curve.false_alarms, curve.hits, lw=1.4, color=colour, label=f"{label}: area {area}")
    axes.plot([0, 1], [0, 1], "k:", lw=0.7)
    axes.set(xlabel="good images rejected", ylabel="bad images rejected", xlim=(-0.01, 1), ylim=(0, 1.01))
    axes.grid(alpha=0.3)
    if curves:
        figure.legend(loc="outside lower center", fontsize=8)
    return figure
