"""Read runs and datasets that a report compares."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet

from lab.evaluation.statistics import wilson_interval
from lab.evaluation.summary import SUCCESS_PSNR_DB
from lab.experiments.decode_dataset import SETTINGS_NAME
from lab.experiments.scores import SCORES_NAME, SCORES_SCHEMA, SUMMARY_NAME
from lab.reports.run_folder import read_run
from sdr.errors import InputError


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """A decoded dataset, a run of one recording, or a sweep.

    Attributes:
        name: of its folder. summary: points as `lab.experiments.scores.score_results` returns them.
        rows: in `SCORES_SCHEMA`, empty for a sweep; `psnr_db` null where there is no ground truth.
        settings: of a decoded dataset, else empty.
    """

    name: str
    folder: Path
    summary: list[dict[str, Any]]
    rows: pyarrow.Table
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def methods(self) -> list[str]:
        """In the order in which they come."""
        return list(dict.fromkeys(point["method"] for point in self.summary))


def read_compared(folder: Path) -> ComparedRun:
    """What a folder holds for comparison.

    Raises:
        InputError: nothing, or it is damaged.
    """
    try:
        if (folder / SETTINGS_NAME).is_file():
            settings = json.loads((folder / SETTINGS_NAME).read_text(encoding="utf-8"))
            if not (folder / SCORES_NAME).is_file():
                raise InputError(
                    f"{folder} is not scored. Repeat its `ota decode` with --score; nothing is done twice."
                )
            summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
            rows = pyarrow.parquet.read_table(folder / SCORES_NAME, schema=SCORES_SCHEMA)
            return ComparedRun(folder.name, folder, summary, rows, settings)
        if (folder / "sweep.json").is_file():
            content = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
            return ComparedRun(folder.name, folder, _sweep_points(content["summary"]), SCORES_SCHEMA.empty_table())
        if (folder / "run.json").is_file():
            return _single_run(folder)
    except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
        raise InputError(f"{folder} is damaged ({' '.join(str(error).split())[:160]}). Repeat the run.") from None
    raise InputError(
        f"{folder} is neither a dataset nor a decoded one, nor a run of `ota demo`, `ota decode` or `ota sweep`."
    )


def _sweep_points(summary: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    shared = ("csnr_db", "method", "psnr_db", "psnr_se_db", "success_17db", "success_low", "success_high")
    taken = (*shared, "accepted", "seconds_per_image", "realism", "realism_se")
    return [{**{key: row[key] for key in taken}, "sent": row["n"], "arrived": row["n"]} for row in summary]


def _single_run(folder: Path) -> ComparedRun:
    images = read_run(folder)["images"]
    rows = [
        {
            "recording": folder.name,
            "image": image["id"],
            "method": image["method"],
            "seed": 0,
            "psnr_db": image.get("psnr_db"),
            # JSON has no infinity: a residual that is missing was not finite.
            "residual": math.inf if image["residual"] is None else image["residual"],
            "residual_limit": image["residual_limit"],
            "expected_psnr_db": -math.inf if image["expected_psnr_db"] is None else image["expected_psnr_db"],
            "accepted": image["accepted"],
            "seconds": image["seconds"],
        }
        for image in images
    ]
    summary = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        psnr = np.array([row["psnr_db"] for row in own if row["psnr_db"] is not None])
        low, high = wilson_interval(int((psnr >= SUCCESS_PSNR_DB).sum()), max(1, len(psnr)))
        summary.append(
            {
                "csnr_db": None,
                "method": method,
                "sent": len(own),
                "arrived": len(own),
                "psnr_db": float(psnr.mean()) if psnr.size else None,
                "psnr_se_db": float(psnr.std(ddof=1) / math.sqrt(psnr.size)) if psnr.size > 1 else None,
                "success_17db": float((psnr >= SUCCESS_PSNR_DB).mean()) if psnr.size else None,
                "success_low": low if psnr.size else None,
                "success_high": high if psnr.size else None,
                "accepted": sum(row["accepted"] for row in own) / len(own),
                "seconds_per_image": sum(row["seconds"] for row in own) / len(own),
            }
        )
    return ComparedRun(folder.name, folder, summary, pyarrow.Table.from_pylist(rows, SCORES_SCHEMA))
