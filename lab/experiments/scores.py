"""Scoring a decoded dataset against what was sent. For evaluation only: no decoder may import this."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from lab.evaluation.metrics import psnr_db
from lab.evaluation.statistics import wilson_interval
from lab.evaluation.summary import MAX_PSNR_DB, SUCCESS_PSNR_DB
from lab.experiments.decode_dataset import PARTS_NAME, part_files
from lab.experiments.selection import Selection, select_captures
from receiver.images.files import from_png
from sdr.errors import InputError
from sdr.files import write_bytes
from sdr.recordings.dataset import IndexRow, read_truth

SCORES_NAME = "scores.parquet"
SUMMARY_NAME = "summary.json"
_ROWS = 1024


SCORES_SCHEMA = pyarrow.schema(
    [
        ("recording", pyarrow.string()),
        ("image", pyarrow.string()),
        ("method", pyarrow.string()),
        ("seed", pyarrow.int64()),
        ("csnr_db", pyarrow.float64()),
        ("layout", pyarrow.string()),
        ("psnr_db", pyarrow.float64()),
        ("residual", pyarrow.float64()),
        ("residual_limit", pyarrow.float64()),
        ("expected_psnr_db", pyarrow.float64()),
        ("accepted", pyarrow.bool_()),
        ("seconds", pyarrow.float64()),
    ]
)


def score_results(out: Path, dataset: Path) -> list[dict[str, Any]]:
    """Score the rows in `out`; write scores.parquet and summary.json beside them.

    A row of scores.parquet is an image sent and a method, in `SCORES_SCHEMA`: `psnr_db` (null where it did not arrive),
    what the decoder said of it, and the capture's settings. An image that arrived several times counts once, by its
    first frame. Memory is that of a group's rows, without pictures, and of the index.

    Returns:
        a summary per channel SNR (as told to the encoder) and method: `sent`, `arrived`, `psnr_db` and `psnr_se_db` of
        what arrived, `success_17db` of what was sent with its 95 % interval `success_low`, `success_high`, `accepted`
        of what arrived, `seconds_per_image`.

    Raises:
        InputError: no results. RecordingError: the ground truth is missing or was changed.
    """
    parts = part_files(out / PARTS_NAME)
    if not parts:
        raise InputError(f"{out} holds no results. Decode the dataset first.")
    index = select_captures(dataset)
    points: dict[tuple[float, str], _Point] = {}
    partial = out / f".{SCORES_NAME}.part"
    with pyarrow.parquet.ParquetWriter(partial, SCORES_SCHEMA) as writer:
        for _, members in itertools.groupby(parts, key=lambda part: part[0]):
            rows = _score_group([path for _, path in members], index)
            for row in rows:
                csnr_db = math.nan if row["csnr_db"] is None else row["csnr_db"]
                points.setdefault((csnr_db, row["method"]), _Point()).add(row)
            writer.write_table(pyarrow.Table.from_pylist(rows, SCORES_SCHEMA))
    os.replace(partial, out / SCORES_NAME)
    summary = [
        {"csnr_db": None if math.isnan(csnr_db) else csnr_db, "method": method, **point.summary()}
        for (csnr_db, method), point in sorted(points.items(), key=lambda item: item[0])
    ]
    write_bytes(out / SUMMARY_NAME, (json.dumps(summary, indent=1) + "\n").encode())
    return summary


def _score_group(paths: Sequence[Path], index: Selection) -> list[dict[str, Any]]:
    """Rows of scores.parquet of the captures of one group, whose rows are nowhere else."""
    columns = [
        *("recording", "number", "image", "method", "seed"),
        *("status", "residual", "residual_limit", "expected_psnr_db", "accepted", "seconds", "picture"),
    ]
    captures: dict[str, IndexRow] = {}
    originals: dict[str, dict[str, NDArray[Any]]] = {}
    scored: dict[tuple[str, str, str, int], dict[str, Any]] = {}
    asked: dict[tuple[str, str, int], None] = {}
    for batch in itertools.chain.from_iterable(
        pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS, columns=columns) for path in paths
    ):
        told = batch.to_pylist()
        new = {row["number"] for row in told if row["recording"] not in captures}
        if new:
            rows = index.rows(index.positions(sorted(new)))
            captures |= {row.recording: row for row in rows}
            for row in rows:
                truth = read_truth(index.folder, row)
                originals[row.recording] = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
        for row in told:
            asked[row["recording"], row["method"], row["seed"]] = None
            key = (row["recording"], row["image"], row["method"], row["seed"])
            sent = originals[row["recording"]]
            if row["status"] != "ok" or key in scored or row["image"] not in sent:
                continue
            scored[key] = {**row, "picture": None, "psnr_db": picture_psnr_db(row["picture"], sent[row["image"]])}
    return [
        _row(captures[recording], image, method, seed, scored.get((recording, image, method, seed), {}))
        for recording, method, seed in asked
        for image in originals[recording]
    ]


def picture_psnr_db(picture: bytes, original: NDArray[np.uint8]) -> float:
    """PSNR of a row's PNG against the original pixels (C, H, W)."""
    decoded = torch.from_numpy(from_png(picture).copy())
    sent = torch.from_numpy(original.astype(np.float32) / 255)
    return min(MAX_PSNR_DB, float(psnr_db(decoded[None], sent[None])[0]))


def _row(capture: IndexRow, image: str, method: str, seed: int, found: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "recording": capture.recording,
        "image": image,
        "method": method,
        "seed": seed,
        "csnr_db": None if math.isnan(capture.csnr_db) else capture.csnr_db,
        "layout": capture.layout,
        **{
            key: found.get(key)
            for key in ("psnr_db", "residual", "residual_limit", "expected_psnr_db", "accepted", "seconds")
        },
    }


@dataclass
class _Point:
    """Sums over the images of one channel SNR and method."""

    sent: int = 0
    arrived: int = 0
    successes: int = 0
    accepted: int = 0
    seconds: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, row: Mapping[str, Any]) -> None:
        self.sent += 1
        if row["psnr_db"] is None:
            return
        self.arrived += 1
        self.successes += row["psnr_db"] >= SUCCESS_PSNR_DB
        self.accepted += row["accepted"]
        self.seconds += row["seconds"]
        # Welford's recurrence: no second pass, no cancellation.
        off = row["psnr_db"] - self.mean
        self.mean += off / self.arrived
        self.squares += off * (row["psnr_db"] - self.mean)

    def summary(self) -> dict[str, Any]:
        n = self.arrived
        low, high = wilson_interval(self.successes, self.sent)
        return {
            "sent": self.sent,
            "arrived": n,
            "psnr_db": self.mean if n else None,
            "psnr_se_db": math.sqrt(self.squares / (n - 1) / n) if n > 1 else None,
            "success_17db": self.successes / self.sent,
            "success_low": low,
            "success_high": high,
            "accepted": self.accepted / n if n else None,
            "seconds_per_image": self.seconds / n if n else None,
        }
