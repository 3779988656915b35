"""Scoring a decoded dataset against what was sent. For evaluation only: no decoder may import this."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from receiver.bundles import write_bytes
from receiver.evaluation import MAX_PSNR_DB, SUCCESS_PSNR_DB, wilson_interval
from receiver.metrics import psnr_db
from receiver.offline import RESULTS_NAME, from_png
from receiver.report import COLOURS, METHOD_NAMES
from sdr.dataset import IndexRow, read_index, read_truth
from sdr.errors import InputError

SCORES_NAME = "scores.parquet"
SUMMARY_NAME = "summary.json"
FIGURE_NAME = "psnr.png"
_ROWS = 1024


def score_results(out: Path, dataset: Path) -> list[dict[str, Any]]:
    """Score results.parquet in `out`; write scores.parquet, summary.json and psnr.png (and .pdf) beside it.

    A row of scores.parquet is an image sent and a method: `psnr_db` (null where it did not arrive), `accepted`,
    `residual`, and the capture's settings. An image that arrived several times counts once, by its first frame.

    Returns:
        a summary per channel SNR (as told to the encoder) and method: `sent`, `arrived`, `psnr_db` and `psnr_se_db` of
        what arrived, `success_17db` of what was sent with its 95 % interval `success_low`, `success_high`, `accepted`
        of what arrived, `seconds_per_image`.

    Raises:
        InputError: no results. RecordingError: the ground truth is missing or was changed.
    """
    path = out / RESULTS_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing. Decode the dataset first.")
    captures = {row.recording: row for row in read_index(dataset)}
    scored: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    asked: dict[tuple[str, str, int], None] = {}
    cache: dict[str, dict[str, NDArray[Any]]] = {}

    def originals(recording: str) -> dict[str, NDArray[Any]]:
        if recording not in cache:
            if len(cache) > 64:  # rows come recording by recording
                cache.clear()
            truth = read_truth(dataset, captures[recording])
            cache[recording] = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
        return cache[recording]

    columns = ["recording", "image", "method", "seed", "status", "residual", "accepted", "seconds", "picture"]
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS, columns=columns):
        for row in batch.to_pylist():
            asked[row["recording"], row["method"], row["seed"]] = None
            key = (row["recording"], row["image"], row["method"], row["seed"])
            sent = originals(row["recording"])
            if row["status"] != "ok" or key in scored or row["image"] not in sent:
                continue
            picture = torch.from_numpy(from_png(row.pop("picture")).copy())
            original = torch.from_numpy(sent[row["image"]].astype(np.float32) / 255)
            psnr = min(MAX_PSNR_DB, float(psnr_db(picture[None], original[None])[0]))
            scored[key] = {**row, "psnr_db": psnr}
    rows: list[dict[str, Any]] = []
    for recording, method, seed in asked:
        for image in originals(recording):
            found = scored.get((recording, image, method, seed), {})
            rows.append(_row(captures[recording], image, method, seed, found))
    partial = out / f".{SCORES_NAME}.part"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), partial)
    os.replace(partial, out / SCORES_NAME)
    summary = _summarise(rows)
    write_bytes(out / SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())
    _write_figure(summary, out / FIGURE_NAME)
    return summary


def _row(capture: IndexRow, image: str, method: str, seed: int, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recording": capture.recording,
        "image": image,
        "method": method,
        "seed": seed,
        "csnr_db": None if math.isnan(capture.csnr_db) else capture.csnr_db,
        "layout": capture.layout,
        "psnr_db": found.get("psnr_db"),
        "residual": found.get("residual"),
        "accepted": found.get("accepted"),
        "seconds": found.get("seconds"),
    }


def _summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    points: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for row in rows:
        points.setdefault((math.nan if row["csnr_db"] is None else row["csnr_db"], row["method"]), []).append(row)
    summary = []
    for (csnr_db, method), members in sorted(points.items(), key=lambda item: item[0]):
        arrived = [row for row in members if row["psnr_db"] is not None]
        psnr = np.array([row["psnr_db"] for row in arrived])
        successes = int((psnr >= SUCCESS_PSNR_DB).sum())
        low, high = wilson_interval(successes, len(members))
        summary.append(
            {
                "csnr_db": None if math.isnan(csnr_db) else csnr_db,
                "method": method,
                "sent": len(members),
                "arrived": len(arrived),
                "psnr_db": float(psnr.mean()) if arrived else None,
                "psnr_se_db": float(psnr.std(ddof=1) / math.sqrt(len(psnr))) if len(psnr) > 1 else None,
                "success_17db": successes / len(members),
                "success_low": low,
                "success_high": high,
                "accepted": sum(row["accepted"] for row in arrived) / len(arrived) if arrived else None,
                "seconds_per_image": sum(row["seconds"] for row in arrived) / len(arrived) if arrived else None,
            }
        )
    return summary


def _write_figure(summary: list[dict[str, Any]], path: Path) -> None:
    """PSNR and success against channel SNR, a line per method; bars are one standard error, and 95 % for success."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    quality, success = figure.subplots(1, 2)
    for method in dict.fromkeys(point["method"] for point in summary):
        points = [point for point in summary if point["method"] == method and point["csnr_db"] is not None]
        look = {"color": COLOURS.get(method), "label": METHOD_NAMES.get(method, method), "marker": "o", "capsize": 2}
        seen = [point for point in points if point["psnr_se_db"] is not None]
        quality.errorbar(
            [point["csnr_db"] for point in seen],
            [point["psnr_db"] for point in seen],
            [point["psnr_se_db"] for point in seen],
            **look,
        )
        share = np.array([[p["success_17db"], p["success_low"], p["success_high"]] for p in points]).reshape(-1, 3)
        bars = np.abs(share[:, :1] - share[:, 1:]).T
        success.errorbar([point["csnr_db"] for point in points], share[:, 0], bars, **look)
    quality.set(xlabel="channel SNR, dB", ylabel="PSNR of what arrived, dB")
    success.set(xlabel="channel SNR, dB", ylabel=f"share of all sent with PSNR >= {SUCCESS_PSNR_DB:g} dB", ylim=(0, 1))
    for axes in (quality, success):
        axes.grid(alpha=0.3)
    quality.legend(fontsize=8)
    for suffix in (".png", ".pdf"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
