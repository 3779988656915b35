"""Summarise what was wrong with the captures of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lab.experiments.selection import select_captures
from lab.reports.sheets import plain

_WARNINGS_SHOWN = 20


# Health


def capture_health(folder: Path, keep: Callable[[str, Figure], str]) -> dict[str, Any]:
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
        "figure": keep(f"health-{plain(folder.name)}", figure),
    }
