"""Draw a gallery: originals, received symbols, and what each method made of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lab.reports.pictures import WHITE_SPREAD, file_uri, picture_uri, pixels, symbols_uri
from lab.reports.run_folder import read_npz, read_run

#: Images in the gallery.
SHOWN_IMAGES = 64
#: Images in gallery.png.
GALLERY_COLUMNS = 12


def gallery_rows(
    folder: Path, run: Mapping[str, Any], diagnostics: Mapping[str, NDArray], methods: Sequence[str]
) -> list[dict[str, Any]]:
    """One row an image: original and received pictures, and each method's picture with its residual and PSNR."""
    pieces = np.split(diagnostics["received_symbols"], np.cumsum(diagnostics["received_counts"])[:-1])
    symbols = dict(zip(diagnostics["received_ids"].tolist(), pieces, strict=False))
    posterior = read_npz(folder / "posterior.npz") if (folder / "posterior.npz").is_file() else None
    rows: dict[str, dict[str, Any]] = {}
    for index, image in enumerate(run["images"]):
        if image["id"] not in rows:
            if len(rows) == SHOWN_IMAGES:
                continue
            original = folder / "originals" / f"{image['id']}.png"
            received = symbols.get(image["id"])
            rows[image["id"]] = {
                "id": image["id"],
                "original": file_uri(original) if original.is_file() else None,
                "received": None if received is None else symbols_uri(received),
                "decoded": {},
            }
        rows[image["id"]]["decoded"].setdefault(
            image["method"],
            {
                "picture": file_uri(folder / image["path"]),
                "residual": image["residual"],
                "accepted": image["accepted"],
                "psnr_db": image.get("psnr_db"),
                "mean": None if posterior is None else _posterior_uri(posterior, "mean", index),
                "spread": None if posterior is None else _posterior_uri(posterior, "spread", index, WHITE_SPREAD),
            },
        )
    return list(rows.values())


def _posterior_uri(posterior: Mapping[str, NDArray], part: str, index: int, white: float = 1.0) -> str:
    height, width = posterior["sizes"][index]
    return picture_uri(posterior[part][index, :, :height, :width] / white)


def write_gallery(folder: Path) -> Path:
    """Write `gallery.png` into a run folder: the first images in columns; original, received and methods in rows.

    Returns:
        its path.

    Raises:
        InputError: run.json or diagnostics.npz is missing or damaged.
    """
    run, diagnostics = read_run(folder), read_npz(folder / "diagnostics.npz")
    methods = list(dict.fromkeys(image["method"] for image in run["images"]))
    columns = gallery_rows(folder, run, diagnostics, methods)[:GALLERY_COLUMNS]
    rows: list[tuple[str, list[str | None]]] = [
        ("original", [column["original"] for column in columns]),
        ("received", [column["received"] for column in columns]),
    ]
    for method in methods:
        decoded = [column["decoded"].get(method) for column in columns]
        rows.append((method, [None if entry is None else entry["picture"] for entry in decoded]))
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
    target = folder / "gallery.png"
    partial = folder / f".gallery.png.{os.getpid()}.part"
    figure.savefig(partial, dpi=100, format="png")
    os.replace(partial, target)
    return target
