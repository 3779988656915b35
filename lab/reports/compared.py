"""Read runs and decoded datasets that a report compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

from lab.evaluation.statistics import mean_and_error, wilson_interval
from lab.evaluation.summary import SUCCESS_PSNR_DB, SnrPoint
from lab.experiments.decode_dataset import SETTINGS_NAME
from lab.experiments.scores import SCORES_NAME, SCORES_SCHEMA, SUMMARY_NAME, ScoreRow, score_table
from lab.experiments.sweep import SUMMARY_NAME as SWEEP_NAME
from lab.reports.run_folder import RUN_NAME, ImageRow, damage_told, read_run
from sdr.documents import read_document, read_json
from sdr.errors import InputError


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A decoded dataset, a run of one recording, or a sweep.

    Attributes:
        name: of its folder.
        folder: that it lies in.
        points: one per channel SNR and method.
        rows: images in `SCORES_SCHEMA`, none for a sweep; `psnr_db` is null where there is no ground truth.
        settings: of a decoded dataset, else empty.
    """

    name: str
    folder: Path
    points: tuple[SnrPoint, ...]
    rows: pyarrow.Table
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """Methods, in the order in which they come."""
        return list(dict.fromkeys(point.method for point in self.points))


def read_compared(folder: Path) -> ComparedRun:
    """Return what a folder holds for comparison.

    Raises:
        InputError: nothing, or it is damaged.
    """
    with damage_told(folder):
        if (folder / SETTINGS_NAME).is_file():
            return _decoded_dataset(folder)
        if (folder / SWEEP_NAME).is_file():
            content = read_json(folder / SWEEP_NAME, InputError)
            # A sweep's summary is of the images that arrived.
            points = [SnrPoint.from_row({**row, "sent": row["n"], "arrived": row["n"]}) for row in content["summary"]]
            return ComparedRun(folder.name, folder, tuple(points), SCORES_SCHEMA.empty_table())
        if (folder / RUN_NAME).is_file():
            return _single_run(folder)
    raise InputError(
        f"{folder} is neither a dataset nor a decoded one, nor a run of `ota demo`, `ota decode` or `ota sweep`."
    )


@dataclass(frozen=True)
class PairedGain:
    """What a run gains over another one of the same captures, image by image.

    Attributes:
        run: its name.
        over: name of the other one.
        method: of both.
        csnr_db: channel SNR that the encoder was given; None where it is not known.
        n: images that arrived in both.
        gain_db: mean difference of their PSNRs.
        gain_se_db: its standard error; NaN of one image.
    """

    run: str
    over: str
    method: str
    csnr_db: float | None
    n: int
    gain_db: float
    gain_se_db: float


def paired_gains(runs: Sequence[ComparedRun]) -> list[PairedGain]:
    """Return what each decoded dataset gains over the first one of the same dataset, by channel SNR and method."""
    first: dict[object, ComparedRun] = {}
    gains: list[PairedGain] = []
    for run in runs:
        capture = run.settings.get("first_capture")
        if capture is not None and (over := first.setdefault(capture, run)) is not run:
            differences: dict[tuple[float | None, str], list[float]] = {}
            before = _psnr_db(over)
            for key, psnr_db in _psnr_db(run).items():
                if key in before:
                    csnr_db, method, *_ = key
                    differences.setdefault((csnr_db, method), []).append(psnr_db - before[key])
            gains += [
                PairedGain(run.name, over.name, method, csnr_db, len(values), *mean_and_error(values))
                for (csnr_db, method), values in differences.items()
            ]
    return gains


def _psnr_db(run: ComparedRun) -> dict[tuple[float | None, str, str, str, int], float]:
    """Return the PSNR of what arrived, by channel SNR, method, recording, image and seed."""
    names = ("csnr_db", "method", "recording", "image", "seed", "psnr_db")
    columns = [run.rows[name].to_pylist() for name in names]
    return {(*key,): value for *key, value in zip(*columns, strict=True) if value is not None}


def _decoded_dataset(folder: Path) -> ComparedRun:
    settings = read_document(folder / SETTINGS_NAME, InputError)
    if not (folder / SCORES_NAME).is_file():
        raise InputError(f"{folder} is not scored. Repeat its `ota decode` with --score; nothing is done twice.")
    points = [SnrPoint.from_row(row) for row in read_json(folder / SUMMARY_NAME, InputError)]
    rows = pyarrow.parquet.read_table(folder / SCORES_NAME, schema=SCORES_SCHEMA)
    return ComparedRun(folder.name, folder, tuple(points), rows, settings)


def _single_run(folder: Path) -> ComparedRun:
    run = read_run(folder)
    points = [_run_point(method, [image for image in run.images if image.method == method]) for method in run.methods]
    rows = [
        ScoreRow(
            recording=folder.name,
            image=image.id,
            method=image.method,
            seed=0,
            psnr_db=image.psnr_db,
            residual=image.residual,
            residual_limit=image.residual_limit,
            expected_psnr_db=image.expected_psnr_db,
            accepted=image.accepted,
            seconds=image.seconds,
        )
        for image in run.images
    ]
    return ComparedRun(folder.name, folder, tuple(points), score_table(rows))


def _run_point(method: str, images: Sequence[ImageRow]) -> SnrPoint:
    """Summarise what one method made of one recording, of which only what arrived is known."""
    psnr = np.array([image.psnr_db for image in images if image.psnr_db is not None])
    successes = int((psnr >= SUCCESS_PSNR_DB).sum())
    low, high = wilson_interval(successes, psnr.size)
    return SnrPoint(
        csnr_db=None,
        method=method,
        sent=len(images),
        arrived=len(images),
        psnr_db=float(psnr.mean()) if psnr.size else None,
        psnr_se_db=mean_and_error(psnr)[1] if psnr.size > 1 else None,
        success_17db=successes / psnr.size if psnr.size else None,
        success_low=low if psnr.size else None,
        success_high=high if psnr.size else None,
        accepted=sum(image.accepted for image in images) / len(images),
        seconds_per_image=sum(image.seconds for image in images) / len(images),
    )
