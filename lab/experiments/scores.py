"""Score a decoded dataset against what was sent. For evaluation only: no decoder may import this."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from numpy.typing import NDArray

from lab.evaluation.outcomes import image_psnr_db
from lab.evaluation.statistics import wilson_interval
from lab.evaluation.summary import SUCCESS_PSNR_DB, SnrPoint
from lab.experiments.decode_dataset import PARTS_NAME, part_files
from lab.experiments.selection import Selection, select_captures
from lab.experiments.tables import arrow_schema
from receiver.images.files import from_png
from sdr.errors import InputError
from sdr.files import replacing, write_text
from sdr.recordings.dataset import IndexRow, read_truth

SCORES_NAME = "scores.parquet"
SUMMARY_NAME = "summary.json"
#: Rows with their pictures that are in memory at a time.
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class ScoreRow:
    """A row of scores.parquet: an image that was sent, and a method.

    Attributes:
        recording: of the dataset, by its stem.
        image: its id.
        method: with settings where it has its own.
        seed: of the samplers.
        csnr_db: channel SNR that the encoder was given, dB; None where it is not known.
        layout: of the frames.
        psnr_db: against the original, dB. It and what follows is None where the image did not arrive.
        residual: normalised, about 1 for a right answer.
        residual_limit: largest one that is accepted.
        expected_psnr_db: PSNR that the receiver expects, dB.
        accepted: whether the receiver takes the image for right.
        seconds: decoding time.
    """

    recording: str
    image: str
    method: str
    seed: int
    csnr_db: float | None = None
    layout: str | None = None
    psnr_db: float | None = None
    residual: float | None = None
    residual_limit: float | None = None
    expected_psnr_db: float | None = None
    accepted: bool | None = None
    seconds: float | None = None


SCORES_SCHEMA = arrow_schema(ScoreRow)


def score_table(rows: Sequence[ScoreRow]) -> pyarrow.Table:
    """Return rows in `SCORES_SCHEMA`."""
    return pyarrow.Table.from_pylist([vars(row) for row in rows], SCORES_SCHEMA)


def score_results(out: Path, dataset: Path) -> list[SnrPoint]:
    """Score the rows in `out`; write scores.parquet and summary.json beside them.

    An image that arrived several times counts once, by its first frame. Memory is that of a group's rows, without
    pictures, and of the index.

    Args:
        out: what `lab.experiments.decode_dataset.decode_dataset` wrote.
        dataset: that it was decoded from.

    Returns:
        a point for every channel SNR (as the encoder was given it) and method.

    Raises:
        InputError: no results.
        RecordingError: the ground truth is missing or was changed.
    """
    parts = part_files(out / PARTS_NAME)
    if not parts:
        raise InputError(f"{out} holds no results. Decode the dataset first.")
    index = select_captures(dataset)
    tallies: dict[tuple[float, str], _Tally] = {}
    with replacing(out / SCORES_NAME) as file, pyarrow.parquet.ParquetWriter(file, SCORES_SCHEMA) as writer:
        for _, members in itertools.groupby(parts, key=lambda part: part[0]):
            rows = _score_group([path for _, path in members], index)
            for row in rows:
                csnr_db = math.nan if row.csnr_db is None else row.csnr_db
                tallies.setdefault((csnr_db, row.method), _Tally()).add(row)
            writer.write_table(score_table(rows))
    points = [
        tally.point(None if math.isnan(csnr_db) else csnr_db, method)
        for (csnr_db, method), tally in sorted(tallies.items(), key=lambda item: item[0])
    ]
    write_text(out / SUMMARY_NAME, json.dumps([point.row() for point in points], indent=1) + "\n")
    return points


#: (recording, image, method, seed)
_Key = tuple[str, str, str, int]


def _score_group(paths: Sequence[Path], index: Selection) -> list[ScoreRow]:
    """Return the scores of the captures of one group, whose rows are in these files and nowhere else."""
    captures: dict[str, IndexRow] = {}
    originals: dict[str, dict[str, NDArray[Any]]] = {}
    scored: dict[_Key, ScoreRow] = {}
    requested: dict[tuple[str, str, int], None] = {}
    for rows in _decoded_rows(paths):
        unseen = {row["number"] for row in rows if row["recording"] not in captures}
        if unseen:
            found = index.rows(index.positions(sorted(unseen)))
            captures |= {capture.recording: capture for capture in found}
            for capture in found:
                truth = read_truth(index.folder, capture)
                originals[capture.recording] = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
        for row in rows:
            if row["status"] == "other":
                continue  # sent in a way that the method does not decode: no loss of its
            requested[row["recording"], row["method"], row["seed"]] = None
            key = (row["recording"], row["image"], row["method"], row["seed"])
            sent = originals[row["recording"]]
            if row["status"] == "ok" and key not in scored and row["image"] in sent:
                psnr_db = picture_psnr_db(row["picture"], sent[row["image"]])
                scored[key] = _score_row(captures[row["recording"]], key, row, psnr_db)
    return [
        scored.get(key) or _score_row(captures[recording], key)
        for recording, method, seed in requested
        for image in originals[recording]
        for key in [(recording, image, method, seed)]
    ]


def _decoded_rows(paths: Sequence[Path]) -> Iterator[list[dict[str, Any]]]:
    """Yield what scoring needs of the rows of a decoded dataset, some of them at a time."""
    columns = [
        *("recording", "number", "image", "method", "seed"),
        *("status", "residual", "residual_limit", "expected_psnr_db", "accepted", "seconds", "picture"),
    ]
    for path in paths:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(_ROWS, columns=columns):
            yield batch.to_pylist()


def _score_row(
    capture: IndexRow, key: _Key, decoded: Mapping[str, Any] | None = None, psnr_db: float | None = None
) -> ScoreRow:
    """Return the score of an image, from its decoded row where it arrived."""
    recording, image, method, seed = key
    found = decoded or {}
    return ScoreRow(
        recording=recording,
        image=image,
        method=method,
        seed=seed,
        csnr_db=None if math.isnan(capture.csnr_db) else capture.csnr_db,
        layout=capture.layout,
        psnr_db=psnr_db,
        residual=found.get("residual"),
        residual_limit=found.get("residual_limit"),
        expected_psnr_db=found.get("expected_psnr_db"),
        accepted=found.get("accepted"),
        seconds=found.get("seconds"),
    )


def picture_psnr_db(picture: bytes, original: NDArray[np.uint8]) -> float:
    """Return the PSNR of a row's PNG against the original pixels (C, H, W), dB.

    Raises:
        InputError: they are of different shapes.
    """
    decoded = torch.from_numpy(from_png(picture).copy())
    if decoded.shape != original.shape:
        raise InputError(
            f"A decoded picture is {tuple(decoded.shape)}, its original in the ground truth {original.shape}: this "
            "is not what was sent."
        )
    return image_psnr_db(decoded, torch.from_numpy(original.astype(np.float32) / 255))


@dataclass
class _Tally:
    """Sums over the images of one channel SNR and method."""

    sent: int = 0
    arrived: int = 0
    successes: int = 0
    accepted: int = 0
    seconds: float = 0.0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, row: ScoreRow) -> None:
        self.sent += 1
        if row.psnr_db is None or row.accepted is None or row.seconds is None:
            return
        self.arrived += 1
        self.successes += row.psnr_db >= SUCCESS_PSNR_DB
        self.accepted += row.accepted
        self.seconds += row.seconds
        # Welford's recurrence: no second pass, no cancellation.
        off = row.psnr_db - self.mean
        self.mean += off / self.arrived
        self.squares += off * (row.psnr_db - self.mean)

    def point(self, csnr_db: float | None, method: str) -> SnrPoint:
        n = self.arrived
        low, high = wilson_interval(self.successes, self.sent)
        return SnrPoint(
            csnr_db=csnr_db,
            method=method,
            sent=self.sent,
            arrived=n,
            psnr_db=self.mean if n else None,
            psnr_se_db=math.sqrt(self.squares / (n - 1) / n) if n > 1 else None,
            success_17db=self.successes / self.sent,
            success_low=low,
            success_high=high,
            accepted=self.accepted / n if n else None,
            seconds_per_image=self.seconds / n if n else None,
        )
