"""Summarise the levels of a dataset's captures, and what was wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lab.experiments.selection import select_captures
from lab.reports.sheets import plain

_WARNINGS_SHOWN = 20


@dataclass(frozen=True)
class Health:
    """Health of a dataset.

    Attributes:
        name: of its folder.
        captures: in it.
        unhealthy: captures with a warning.
        repeated: attempts that the health gate threw away.
        warnings: the most frequent ones, each with its number and the first recording.
        figure: levels of the captures, as a data URI; of several antennas the worst, as the index has them.
    """

    name: str
    captures: int
    unhealthy: int
    repeated: int
    warnings: tuple[tuple[str, int, str], ...]
    figure: str


def capture_health(folder: Path, keep: Callable[[str, Figure], str]) -> Health:
    """Return the health of a dataset.

    Args:
        folder: the dataset.
        keep: writes a figure under a name, and returns it as a data URI.
    """
    columns: dict[str, list[float]] = {}
    warnings: dict[str, list[str]] = {}
    index = select_captures(folder)
    names = ("number", "rms_dbfs", "peak_dbfs", "dc_dbfs", "clipped_fraction")
    several = bool(len(index)) and int(index.antennas.max()) > 1
    quietest, worst = (" (quietest antenna)", " (worst antenna)") if several else ("", "")
    repeated = 0
    for first in range(0, len(index), 4096):
        for row in index.rows(slice(first, first + 4096)):
            for name in names:
                columns.setdefault(name, []).append(getattr(row, name))
            repeated += row.attempt
            if not row.healthy:
                warnings.setdefault(row.warnings, []).append(row.recording)
    axes = (figure := Figure(figsize=(8, 2.8), layout="constrained")).subplots(1, 2)
    shown = (("peak_dbfs", f"peak{worst}"), ("rms_dbfs", f"mean power{quietest}"), ("dc_dbfs", f"offset{quietest}"))
    for name, label in shown:
        axes[0].plot(columns["number"], columns[name], ".", ms=3, label=label)
    axes[0].set(xlabel="capture", ylabel="dBFS")
    axes[1].plot(columns["number"], 100 * np.array(columns["clipped_fraction"]), ".", ms=3, color="C3")
    axes[1].set(xlabel="capture", ylabel="clipped (%), worst antenna" if several else "clipped samples (%)")
    axes[0].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    listed = sorted(warnings.items(), key=lambda item: -len(item[1]))
    return Health(
        folder.name,
        len(index),
        sum(map(len, warnings.values())),
        repeated,
        tuple((text, len(found), found[0]) for text, found in listed[:_WARNINGS_SHOWN]),
        keep(f"health-{plain(folder.name)}", figure),
    )
