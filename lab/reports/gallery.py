"""Show images side by side: originals, received symbols, and what each method made of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.reports.figures import save_figure
from lab.reports.pictures import WHITE_SPREAD, file_uri, picture_uri, pixels, symbols_uri
from lab.reports.run_folder import (
    DIAGNOSTICS_NAME,
    ORIGINALS_NAME,
    POSTERIOR_NAME,
    Run,
    damage_told,
    read_npz,
    read_run,
)
from sdr.errors import InputError

#: Images in the gallery.
SHOWN_IMAGES = 64
#: Images in gallery.png.
GALLERY_COLUMNS = 12
#: Resolution of gallery.png.
GALLERY_DPI = 100


@dataclass(frozen=True)
class DecodedPicture:
    """What one method made of an image; pictures are data URIs.

    Attributes:
        picture: the decoded image.
        residual: normalised; None where it is not finite.
        accepted: whether the receiver takes the image for right.
        psnr_db: against the original; None without one.
        mean: of the draws; None for one draw.
        spread: of the draws, white at `WHITE_SPREAD`; None for one draw.
    """

    picture: str
    residual: float | None
    accepted: bool
    psnr_db: float | None
    mean: str | None
    spread: str | None


@dataclass(frozen=True)
class GalleryRow:
    """One image; pictures are data URIs.

    Attributes:
        id: of the image.
        original: as it was sent; None where it is not known.
        received: its symbols as they came; None where no frame of it was read.
        decoded: what each method made of it.
    """

    id: str
    original: str | None
    received: str | None
    decoded: dict[str, DecodedPicture] = field(default_factory=dict)


def gallery_rows(folder: Path, run: Run, diagnostics: Mapping[str, NDArray]) -> list[GalleryRow]:
    """Return the first images of a run with their pictures.

    Args:
        folder: of the run.
        run: what run.json holds.
        diagnostics: what `lab.reports.diagnostics.diagnose` kept of it.

    Raises:
        InputError: a picture is missing or damaged.
    """
    pieces = np.split(diagnostics["received_symbols"], np.cumsum(diagnostics["received_counts"])[:-1])
    symbols = dict(zip(diagnostics["received_ids"].tolist(), pieces, strict=False))
    posterior = read_npz(folder / POSTERIOR_NAME) if (folder / POSTERIOR_NAME).is_file() else None
    rows: dict[str, GalleryRow] = {}
    for index, image in enumerate(run.images):
        if image.id not in rows:
            if len(rows) == SHOWN_IMAGES:
                continue
            original = folder / ORIGINALS_NAME / f"{image.id}.png"
            received = symbols.get(image.id)
            rows[image.id] = GalleryRow(
                image.id,
                file_uri(original) if original.is_file() else None,
                None if received is None else symbols_uri(received),
            )
        if image.method not in rows[image.id].decoded:
            rows[image.id].decoded[image.method] = DecodedPicture(
                file_uri(folder / image.path),
                image.residual if math.isfinite(image.residual) else None,
                image.accepted,
                image.psnr_db,
                None if posterior is None else _posterior_uri(posterior, "mean", index),
                None if posterior is None else _posterior_uri(posterior, "spread", index, WHITE_SPREAD),
            )
    return list(rows.values())


def _posterior_uri(posterior: Mapping[str, NDArray], part: str, index: int, white: float = 1.0) -> str:
    height, width = posterior["sizes"][index]
    return picture_uri(posterior[part][index, :, :height, :width] / white)


def write_gallery(folder: Path) -> Path:
    """Write gallery.png into a run folder: the first images in columns; original, received and methods in rows.

    Returns:
        its path.

    Raises:
        InputError: run.json or diagnostics.npz is missing or damaged.
    """
    with damage_told(folder):
        figure = _gallery(folder)
    target = folder / "gallery.png"
    save_figure(figure, target, GALLERY_DPI)
    return target


def _gallery(folder: Path) -> Figure:
    """Draw the gallery of a run folder."""
    run, diagnostics = read_run(folder), read_npz(folder / DIAGNOSTICS_NAME)
    if not run.images:
        raise InputError(f"{folder} holds no decoded image. Repeat the run.")
    columns = gallery_rows(folder, run, diagnostics)[:GALLERY_COLUMNS]
    rows: list[tuple[str, list[str | None]]] = [
        ("original", [column.original for column in columns]),
        ("received", [column.received for column in columns]),
    ]
    for method in run.methods:
        decoded = [column.decoded.get(method) for column in columns]
        rows.append((method, [None if entry is None else entry.picture for entry in decoded]))
    rows = [(name, pictures) for name, pictures in rows if any(pictures)]
    shown = next(picture for _, pictures in rows for picture in pictures if picture is not None)
    inches = 0.8 if max(pixels(shown).shape[:2]) <= 64 else 2.4
    figure = Figure(figsize=(0.9 + inches * len(columns), 1.02 * inches * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.set(xticks=[], yticks=[])
            if picture is not None:
                axis.imshow(pixels(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure
