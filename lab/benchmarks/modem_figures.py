"""Draw the modem's curves beside their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.benchmarks.modem import Row

FIGURE_DPI = 110


def write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write one PNG per group of curves; error bars are 95 % intervals.

    Args:
        rows: what `lab.benchmarks.modem.run_modem_benchmark` measured.
        folder: that exists.

    Returns:
        the files written.
    """
    figures = {
        "detection": _detection_figure(rows),
        "cfo": _cfo_figure(rows),
        "timing": _timing_figure(rows),
        "noise": _noise_figure(rows),
        "channel": _channel_figure(rows),
    }
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=FIGURE_DPI)
    return [folder / f"{name}.png" for name in figures]


def _curves(rows: Sequence[Row], quantity: str) -> dict[str, list[Row]]:
    """Return the points of a quantity by channel."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if row.quantity == quantity:
            found.setdefault(row.channel, []).append(row)
    return found


def _axes() -> Axes:
    return Figure(figsize=(6.4, 4.4), layout="constrained").subplots()


def _draw(axes: Axes, points: Sequence[Row], label: str, line: str = "-", width: float | None = None) -> None:
    places, values = [row.snr_db for row in points], [row.value for row in points]
    errors = [[row.value - row.low for row in points], [row.high - row.value for row in points]]
    axes.errorbar(
        places, values, np.maximum(errors, 0.0), marker="o", capsize=3, label=label, linestyle=line, linewidth=width
    )


def _draw_bound(axes: Axes, points: Sequence[Row], label: str, line: str = "k--", width: float | None = None) -> None:
    axes.plot([row.snr_db for row in points], [row.bound for row in points], line, linewidth=width, label=label)


def _finished(axes: Axes, title: str, ylabel: str, log: bool = False) -> Figure:
    axes.set(title=title, xlabel="SNR per active carrier, dB", ylabel=ylabel)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    assert isinstance(axes.figure, Figure)
    return axes.figure


def _detection_figure(rows: Sequence[Row]) -> Figure:
    axes = _axes()
    for quantity, line in (("detection", "-"), ("header", ":")):
        for channel, points in _curves(rows, quantity).items():
            _draw(axes, points, f"{quantity}, {channel}", line)
    axes.axhline(0.99, color="grey", linewidth=0.8)
    return _finished(axes, "Frames found, headers read", "rate")


def _bounded_axes(rows: Sequence[Row], quantity: str) -> Axes:
    """Draw a quantity over its Cramer-Rao bound, which is the same in all channels."""
    axes, curves = _axes(), _curves(rows, quantity)
    for channel, points in curves.items():
        _draw(axes, points, channel)
    _draw_bound(axes, next(iter(curves.values())), "Cramer-Rao, known symbols")
    return axes


def _cfo_figure(rows: Sequence[Row]) -> Figure:
    axes = _bounded_axes(rows, "cfo_rmse")
    _draw_bound(axes, _curves(rows, "cfo_rmse_over_preamble_bound")["awgn"], "Cramer-Rao, preambles", "k:")
    return _finished(axes, "Carrier offset", "RMSE, Hz", log=True)


def _timing_figure(rows: Sequence[Row]) -> Figure:
    axes = _bounded_axes(rows, "timing_rmse")
    return _finished(axes, "Timing, one path at a fraction of a sample", "RMSE, samples", log=True)


def _noise_figure(rows: Sequence[Row]) -> Figure:
    axes = _axes()
    for channel, points in _curves(rows, "noise_within_half_db").items():
        _draw(axes, points, channel)
    axes.axhline(0.9, color="grey", linewidth=0.8)
    return _finished(axes, "Noise variance within 0.5 dB", "share of frames")


def _channel_figure(rows: Sequence[Row]) -> Figure:
    axes = _axes()
    for name in ("ls", "dft", "lmmse"):
        for label, points in _curves(rows, f"ce_{name}").items():
            _draw(axes, points, f"{name}, {label}", width=1)
    for label, points in _curves(rows, "ce_lmmse").items():
        _draw_bound(axes, points, f"bound, {label}", width=0.7)
    return _finished(axes, "Channel estimation from one pilot symbol", "MSE, dB")
