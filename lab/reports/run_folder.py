"""Write and read the folder of one decoded run."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError
from sdr.files import json_ready, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from lab.evaluation.channel_truth import ChannelTruth
    from receiver.results import DecodeResult, ImageResult
    from sdr.layout import FrameLayout
    from sdr.recordings.recording import Recording


def image_rows(result: DecodeResult, by_method: bool) -> list[tuple[ImageResult, str]]:
    """Every image with its path inside the run folder; an id seen again (a repeated frame) gets its frame's sample."""
    taken: set[str] = set()
    rows = []
    for image in result.images:
        stem = f"images/{image.method}/{image.id}" if by_method else image.id
        path = f"{stem}.png"
        if path in taken:
            path = f"{stem}@{image.start_sample}.png"
        taken.add(path)
        rows.append((image, path))
    return rows


#: Figures of its frame that every image's row has.
QUALITY = ("metric", "cfo_hz", "snr_db", "evm_db", "papr_db")


def write_images(
    result: DecodeResult, folder: Path, *, by_method: bool, originals: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Write every image, and the originals it is scored against; return one row each.

    Raises:
        InputError: originals were given, but not one belongs to a decoded image.
    """
    import numpy as np
    import torch

    from lab.evaluation.metrics import psnr_db
    from lab.evaluation.summary import MAX_PSNR_DB
    from receiver.images.files import save_image

    rows: list[dict[str, Any]] = []
    frames = {synced.start: frame for synced, frame in zip(result.synced, result.frames, strict=True)}
    for image, path in image_rows(result, by_method):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        decoded = torch.from_numpy(image.image)
        save_image(target, decoded)
        row: dict[str, Any] = {
            "id": image.id,
            "method": image.method,
            "residual": image.residual,
            "residual_std": image.residual_std,
            "residual_limit": image.residual_limit,
            "expected_psnr_db": image.expected_psnr_db,
            "accepted": image.accepted,
            "seconds": image.seconds,
            "path": path,
            "frame_number": image.frame_number,
            "start_sample": image.start_sample,
            **{name: getattr(frames[image.start_sample], name) for name in QUALITY},
        }
        original = originals.get(image.id)
        pictures = {"psnr_db": decoded}
        if image.mean is not None and image.spread is not None:
            row["spread_rms"] = float(np.sqrt(np.mean(image.spread**2)))
            pictures["mean_psnr_db"] = torch.from_numpy(image.mean)
        if originals:
            row |= dict.fromkeys(pictures)
        if original is not None:
            for key, picture in pictures.items():
                row[key] = min(MAX_PSNR_DB, float(psnr_db(picture[None], original[None])[0]))
            kept = folder / "originals" / f"{image.id}.png"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                save_image(kept, original)
        rows.append(row)
    if originals and all(row["psnr_db"] is None for row in rows):
        raise InputError(
            f"None of the {len(originals)} originals is called like a decoded image ({rows[0]['id']}.png, ...). "
            "Give the folder that was transmitted."
        )
    return rows


def describe(
    result: DecodeResult, rows: Sequence[Mapping[str, Any]], layout: FrameLayout, truth: ChannelTruth | None = None
) -> dict[str, Any]:
    """What run.json says of a decoded recording; the channel's error only where its truth is known."""
    from lab.reports.diagnostics import channel_errors

    frames = []
    for frame, synced, error in zip(result.frames, result.synced, channel_errors(result, layout, truth), strict=True):
        residuals = [row["residual"] for row in rows if row["start_sample"] == synced.start]
        mean = sum(residuals) / len(residuals) if residuals else None
        frames.append({**frame.row(), "channel_mse": error, "residual": mean})
    return {
        "frames": frames,
        "images": list(rows),
        "incomplete": list(result.incomplete),
        "partial": bool(result.incomplete) or not all(frame.header_ok for frame in result.frames),
    }


def write_run(
    folder: Path,
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    recording: Recording,
    result: DecodeResult,
    layout: FrameLayout,
    truth: ChannelTruth | None = None,
) -> None:
    """Write run.json, results.parquet, diagnostics.npz, and where there are several draws posterior.npz."""
    from lab.reports.diagnostics import write_diagnostics, write_posterior
    from lab.reports.run_folder import RUN_FORMAT

    write_posterior(folder / "posterior.npz", result)
    write_diagnostics(folder / "diagnostics.npz", recording, result, layout, truth)
    write_rows(folder / "results.parquet", rows)
    write_json(folder / "run.json", {"format": RUN_FORMAT, **run})


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows (dictionaries with equal keys) as Parquet under a temporary name, then rename it."""
    import pyarrow
    import pyarrow.parquet

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json_ready(row) for row in rows]), partial)
    os.replace(partial, path)


#: Layout of run.json; another one is refused.
RUN_FORMAT = 3


def read_run(folder: Path) -> dict[str, Any]:
    path = folder / "run.json"
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Give the --out of a finished run.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}). Repeat the run.") from error
    if not isinstance(run, dict) or run.get("format") != RUN_FORMAT:
        raise InputError(f"{path} does not describe a run of this version. Repeat the run.")
    return run


def read_npz(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path) as stored:
            return {key: stored[key] for key in stored}
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Repeat the run.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}). Repeat the run.") from error
