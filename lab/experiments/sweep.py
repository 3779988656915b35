"""Quality against channel SNR: one experiment file, many points, every one of them through the whole receiver.

A point is a condition (a channel SNR, or one of the file's own) and a method. For each condition the images are
encoded, framed and sent over the simulated radio; the recording is then decoded as any other, synchronisation and
channel estimation included. A finished point is kept in `parts/`, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from torch import Tensor

from lab.evaluation.metrics import psnr_db, ssim
from lab.evaluation.realism import Realism, RealismScore, load_realism
from lab.evaluation.statistics import roc_curve
from lab.evaluation.summary import CHANNEL_FOUND, LOW_SUCCESS_PSNR_DB, MAX_PSNR_DB, SUCCESS_PSNR_DB, Summary, summarise
from lab.experiments.link import Reception, send
from lab.experiments.plan import Condition, Sweep, held_out_images, sweep_layout
from lab.experiments.points import Point, check_fingerprint, point_name, read_point, score_point, write_point
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from sdr.files import write_bytes
from sdr.framing import images_per_frame
from sdr.progress import Progress, silent

#: Images of the grid.
GRID_COLUMNS = 8


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        summaries: one dictionary per condition and method. rows: the same as `result_row` tells it.
    """

    summaries: list[dict[str, Any]]
    rows: list[dict[str, Any]]


def run_sweep(sweep: Sweep, out: Path, device: str = "cpu", progress: Progress = silent) -> SweepResult:
    """Compute the missing points, then write results.parquet and sweep.json into `out`.

    Raises:
        ConfigError: `out` holds points of an experiment with other settings.
    """
    bundle, realism = load_bundle(sweep.bundle), load_realism(sweep.bundle)
    ids, originals = held_out_images(sweep, bundle.accepted_shape)
    bundle = bundle.for_shape((originals.shape[1], originals.shape[2], originals.shape[3]))
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    fingerprint = {**sweep.fingerprint, "layout_digest": layout.digest, "bundle_digest": bundle.digest}
    layouts = [condition.layout(layout) for condition in sweep.all_conditions]
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    check_fingerprint(parts / "settings.json", fingerprint)
    total = len(layouts) * len(sweep.methods)
    progress("points", 0, total)
    points: dict[tuple[Condition, str], Point] = {}
    for condition, own in zip(sweep.all_conditions, layouts, strict=True):
        sent: Reception | None = None
        for text in sweep.methods:
            path = parts / point_name(condition, text)
            point = read_point(path)
            if point is None:
                sent = sent or send(sweep, bundle.codec, own, ids, originals, condition)
                result = decode_recording(
                    sent.recording,
                    own,
                    bundle,
                    [text],
                    DecodeSettings(seed=sweep.seed, device=device, batch_size=sweep.batch_size),
                    progress=_within_point(progress, f"{condition.name}, {text}"),
                )
                write_point(path, score_point(result, sent, bundle, own, set(ids)))
                # Scored as it is kept (16 bits a pixel), so that a resumed sweep gives the very same numbers.
                point = read_point(path)
                assert point is not None
            points[condition, text] = point
            progress("points", len(points), total)
    by_id = dict(zip(ids, originals, strict=True))
    images, summaries = _score(sweep, realism, points, by_id)
    per_frame = images_per_frame(bundle.codec.num_symbols, layout)
    rows = [
        result_row(condition, summary, point, by_id, per_frame)
        for ((condition, _), point), summary in zip(points.items(), summaries, strict=True)
    ]
    floor = realism.score(originals, torch.Generator().manual_seed(sweep.seed))
    _write_results(out, sweep, images, summaries, rows, floor, fingerprint)
    _write_grid_data(out, ids[:GRID_COLUMNS], originals[:GRID_COLUMNS], points)
    return SweepResult(summaries, rows)


def result_row(
    condition: Condition, summary: Mapping[str, Any], point: Point, originals: Mapping[str, Tensor], per_frame: int
) -> dict[str, Any]:
    """One line of the paper's tables for one point.

    An image that never arrived counts as a failure in `success_*` and `dh_below_0p1`; the means are over those that
    did. `acceptance_auc` tells how well the expected PSNR separates images of 15 dB and more from the others, with its
    95 % interval; null where there is only one kind.
    """
    n = len(originals)
    psnr = torch.zeros(0)
    if point.ids:
        psnr = psnr_db(point.pictures, torch.stack([originals[image_id] for image_id in point.ids]))
    distances = point.channel_distances
    roc = roc_curve(point.scores, (psnr >= LOW_SUCCESS_PSNR_DB).tolist())
    return {
        "method": summary["method"],
        "channel": condition.channel or "awgn",
        "csnr_db": condition.csnr_db,
        "images_per_frame": per_frame,
        "n": n,
        "psnr_db": summary["psnr_db"],
        "psnr_db_se": summary["psnr_se_db"],
        "realism": summary["realism"],
        "success_15db": int((psnr >= LOW_SUCCESS_PSNR_DB).sum()) / n,
        "success_17db": int((psnr >= SUCCESS_PSNR_DB).sum()) / n,
        "dh_below_0p1": None if distances is None else sum(d < CHANNEL_FOUND for d in distances) / n,
        "dh_mean": sum(distances) / len(distances) if distances else None,
        "acceptance_auc": None if roc is None else roc.area,
        "acceptance_auc_low": None if roc is None else roc.low,
        "acceptance_auc_high": None if roc is None else roc.high,
        "condition": condition.name,
        "realism_se": summary["realism_se"],
        "realism_null": summary["realism_null"],
        "residual": summary["residual"],
        "accepted": summary["accepted"],
        "seconds_per_image": summary["seconds_per_image"],
    }


def _within_point(progress: Progress, name: str) -> Progress:
    def inner(description: str, done: float, total: float, /) -> None:
        if description.startswith("decode"):
            progress(name, done, total)

    return inner


def _score(
    sweep: Sweep, realism: Realism, points: Mapping[tuple[Condition, str], Point], originals: Mapping[str, Tensor]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One row per image, and one summary per point. The null is drawn from the plain decoder's images of the point."""
    rows: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    for (condition, method), point in points.items():
        base = {
            "experiment": sweep.name,
            "condition": condition.name,
            "csnr_db": condition.csnr_db,
            "method": method,
        }
        counts = {"sent": len(originals), "frames": point.frames, "sent_frames": point.sent_frames}
        if len(point.ids) < 2:
            # Nothing arrived: that is a result too, and must not stop the other points.
            summaries.append({**_empty_summary(method), **base, "n": len(point.ids), **counts})
            continue
        truth = torch.stack([originals[image_id] for image_id in point.ids])
        plain_point = points.get((condition, "jscc")) if method != "jscc" else None
        plain = None
        if plain_point is not None:
            # Every method decodes the same recording, hence the same images in the same order.
            assert plain_point.ids == point.ids
            plain = plain_point.pictures
        summary = summarise(
            method,
            point.pictures,
            truth,
            realism=realism,
            plain=plain,
            seconds=point.seconds,
            residuals=point.residuals,
            accepted=point.accepted,
            channel_distances=point.channel_distances,
            seed=sweep.seed,
        )
        summaries.append({**summary.to_dict(), **base, **counts})
        psnr = psnr_db(point.pictures, truth).clamp(max=MAX_PSNR_DB)
        similarity = ssim(point.pictures, truth)
        for index, image_id in enumerate(point.ids):
            rows.append(
                {
                    **base,
                    "id": image_id,
                    "psnr_db": float(psnr[index]),
                    "ssim": float(similarity[index]),
                    "residual": point.residuals[index],
                    "accepted": point.accepted[index],
                    "score": point.scores[index],
                    "channel_distance": None if point.channel_distances is None else point.channel_distances[index],
                    "seconds": point.seconds[index],
                }
            )
    return rows, summaries


def _empty_summary(method: str) -> dict[str, Any]:
    return {**dict.fromkeys(field.name for field in fields(Summary)), "method": method, "n": 0}


def _write_results(
    out: Path,
    sweep: Sweep,
    images: Sequence[Mapping[str, Any]],
    summaries: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    floor: RealismScore,
    fingerprint: Mapping[str, Any],
) -> None:
    partial = out / f".results.parquet.{os.getpid()}.part"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([dict(row) for row in images]), partial)
    os.replace(partial, out / "results.parquet")
    content = {
        "sweep": asdict(sweep),
        "settings": dict(fingerprint),
        "summary": list(summaries),
        "rows": list(rows),
        "floor": {"realism": floor.value, "realism_se": floor.std_error},
    }
    write_bytes(out / "sweep.json", (json.dumps(content, indent=1) + "\n").encode())


def _write_grid_data(
    out: Path, ids: Sequence[str], originals: Tensor, points: Mapping[tuple[Condition, str], Point]
) -> None:
    """Keep the grid: `labels` (rows,), `pictures` uint8 (rows, columns, C, H, W), `there` (rows, columns)."""
    labels, rows, there = ["original"], [originals], [[True] * len(ids)]
    for (condition, method), point in points.items():
        place = {image_id: index for index, image_id in enumerate(point.ids)}
        labels.append(f"{condition.name}, {method}")
        there.append([image_id in place for image_id in ids])
        rows.append(
            torch.stack(
                [
                    point.pictures[place[image_id]] if image_id in place else torch.zeros_like(original)
                    for image_id, original in zip(ids, originals, strict=True)
                ]
            )
        )
    pictures = (torch.stack(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    partial = out / f".grid.npz.{os.getpid()}.part"
    with partial.open("wb") as file:
        np.savez_compressed(file, labels=np.array(labels, dtype=str), pictures=pictures, there=np.array(there))
    os.replace(partial, out / "grid.npz")
