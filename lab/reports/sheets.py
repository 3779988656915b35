"""Lay out contact sheets of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray


def plain(method: str) -> str:
    """Return a method's name as a part of a file name.

    >>> plain("hifi:zeta=0.1")
    'hifi_zeta_0.1'
    """
    return "".join(c if c.isalnum() or c in "-." else "_" for c in method)


def sheet(
    pictures: Sequence[Sequence[NDArray[np.float32] | None]], lines: Sequence[str], heads: Sequence[str]
) -> tuple[Figure, Axes]:
    """Draw pictures in lines and columns.

    Args:
        pictures: (C, H, W) in [0, 1] each, line by line; None leaves its place white.
        lines: names of the lines.
        heads: names of the columns.

    Returns:
        the figure, and its axes, in which a picture is one unit wide and high.
    """
    figure = Figure(figsize=(1.8 + 0.62 * len(heads), 0.5 + 0.62 * len(lines)))
    width, height = figure.get_size_inches()
    axis = figure.add_axes((1.7 / width, 0.2 / height, 0.62 * len(heads) / width, 0.62 * len(lines) / height))
    for line, row in enumerate(pictures):
        for column, picture in enumerate(row):
            if picture is None:
                continue
            pixels = np.clip(picture, 0, 1)
            axis.imshow(
                pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0),
                extent=(column + 0.03, column + 0.97, line + 0.97, line + 0.03),
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
    axis.set(xlim=(0, len(heads)), ylim=(len(lines), 0), aspect="equal")
    axis.axis("off")
    for line, name in enumerate(lines):
        axis.text(-0.1, line + 0.5, name, fontsize=8, ha="right", va="center")
    for column, head in enumerate(heads):
        axis.text(column + 0.5, -0.05, head, fontsize=7, ha="center", va="bottom")
    return figure, axis
