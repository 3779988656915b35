"""Quality against channel SNR: one experiment file, many points, every one of them through the whole receiver.

A point is a condition (a channel SNR, or one of the file's own) and a method. For each condition the images are
encoded, framed and sent over the simulated radio; the recording is then decoded as any other, synchronisation and
channel estimation included. A finished point is kept in `parts/`, so an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.evaluation.metrics import psnr_db, ssim
from lab.evaluation.outcomes import MAX_PSNR_DB, ImageOutcome, stored_fields
from lab.evaluation.realism import Realism, RealismScore, load_realism
from lab.evaluation.statistics import roc_curve
from lab.evaluation.summary import CHANNEL_FOUND, LOW_SUCCESS_PSNR_DB, SUCCESS_PSNR_DB, Summary, summarise
from lab.experiments.capacity import CapacityPoint, capacity_line
from lab.experiments.link import Reception, send
from lab.experiments.plan import Condition, Sweep, held_out_images, sweep_layout
from lab.experiments.points import Point, check_fingerprint, collect_point, point_name, read_point, write_point
from lab.experiments.tables import write_rows
from receiver.bundles.bundle import Bundle, load_bundle, parts_of
from receiver.codecs.side_information import fixed_symbols
from receiver.decode import DecodeSettings, decode_recording
from receiver.samplers.variants import method_variant
from receiver.separation.sources.source import TooLargeError
from sdr.files import replacing, write_text
from sdr.framing import images_per_frame
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent

#: Images of the grid.
GRID_COLUMNS = 8
RESULTS_NAME = "results.parquet"
SUMMARY_NAME = "sweep.json"
GRID_NAME = "grid.npz"

Points = Mapping[tuple[Condition, str], Point]


@dataclass(frozen=True, kw_only=True)
class SweepImage(ImageOutcome):
    """One image of one point: a row of results.parquet.

    Attributes:
        experiment: name of the sweep.
        condition: name of the condition.
        csnr_db: channel SNR, dB.
        ssim: structural similarity to the original.
    """

    experiment: str
    condition: str
    csnr_db: float
    ssim: float

    @property
    def score(self) -> float:
        """By which acceptance is judged: low for images that the receiver takes for good."""
        return -self.expected_psnr_db

    def row(self) -> dict[str, object]:
        """Return the row as results.parquet keeps it."""
        return {
            "experiment": self.experiment,
            "condition": self.condition,
            "csnr_db": self.csnr_db,
            "method": self.method,
            "id": self.id,
            "psnr_db": self.psnr_db,
            "ssim": self.ssim,
            "residual": self.residual,
            "accepted": self.accepted,
            "score": self.score,
            "channel_distance": self.channel_distance,
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class PointSummary:
    """One point of a sweep, as sweep.json keeps it under `summary`.

    Attributes:
        experiment: name of the sweep.
        condition: name of the condition.
        csnr_db: channel SNR, dB.
        method: name of the method.
        n: images that arrived.
        sent: images sent.
        frames: frames found.
        sent_frames: frames sent.
        summary: of what arrived; None where fewer than two images did.
    """

    experiment: str
    condition: str
    csnr_db: float
    method: str
    n: int
    sent: int
    frames: int
    sent_frames: int
    summary: Summary | None

    def row(self) -> dict[str, object]:
        """Return the point with the fields of its summary beside its own, None where there is no summary."""
        nothing = {field.name: None for field in fields(Summary)}
        measures = nothing if self.summary is None else self.summary.row()
        return {**measures, **{key: value for key, value in vars(self).items() if key != "summary"}}

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> PointSummary:
        """Return the point that `row` gave."""
        summary = None if row.get("psnr_db") is None else Summary.from_row(row)
        return cls(**{**stored_fields(cls, row), "summary": summary})


@dataclass(frozen=True)
class TableRow:
    """One point as a line of the paper's tables.

    An image that never arrived counts as a failure in `success_*` and `dh_below_0p1`; the means are over those that
    did, and None where fewer than two did.

    Attributes:
        method: name of the method.
        channel: options of the simulated radio, "awgn" for white noise alone.
        csnr_db: channel SNR, dB.
        images_per_frame: most images in one frame.
        n: images sent.
        psnr_db: mean PSNR.
        psnr_db_se: its standard error.
        realism: distance of the decoded set to real images.
        success_15db: fraction of the images with PSNR >= 15 dB.
        success_17db: fraction of the images with PSNR >= 17 dB.
        dh_below_0p1: fraction of the images whose channel was found, d_h < 0.1; None where the truth is not known.
        dh_mean: mean of d_h.
        acceptance_auc: how well the expected PSNR separates images of 15 dB and more from the others, as the area under
            the ROC; None where there is only one kind.
        acceptance_auc_low: lower end of its 95 % interval.
        acceptance_auc_high: upper end of it.
        condition: name of the condition.
        realism_se: standard error of `realism`.
        realism_null: realism of the deterministic decoder's images with noise of the same error.
        residual: median normalised residual.
        accepted: fraction of what arrived that the receiver accepts.
        seconds_per_image: decoding time.
        lpips_vgg: mean LPIPS to the originals, where it was measured; so is the one that follows.
        dists: mean DISTS to the originals.
    """

    method: str
    channel: str
    csnr_db: float
    images_per_frame: int
    n: int
    psnr_db: float | None
    psnr_db_se: float | None
    realism: float | None
    success_15db: float
    success_17db: float
    dh_below_0p1: float | None
    dh_mean: float | None
    acceptance_auc: float | None
    acceptance_auc_low: float | None
    acceptance_auc_high: float | None
    condition: str
    realism_se: float | None
    realism_null: float | None
    residual: float | None
    accepted: float | None
    seconds_per_image: float | None
    lpips_vgg: float | None
    dists: float | None

    def row(self) -> dict[str, object]:
        """Return the line as `ota sweep --json` prints it and sweep.json keeps it under `rows`."""
        return asdict(self)


@dataclass(frozen=True)
class SweepResult:
    """What a sweep came to.

    Attributes:
        summaries: one per condition and method.
        rows: the same points as lines of the paper's tables.
    """

    summaries: tuple[PointSummary, ...]
    rows: tuple[TableRow, ...]


def run_sweep(sweep: Sweep, out: Path, device: str = "cpu", progress: Progress = silent) -> SweepResult:
    """Compute the missing points, then write results.parquet, sweep.json and grid.npz into `out`.

    Args:
        sweep: the experiment.
        out: folder to write or to go on with.
        device: torch device.
        progress: called with the points that are done.

    Raises:
        ConfigError: `out` holds points of an experiment with other settings.
    """
    bundle = load_bundle(sweep.bundle, prior=sweep.prior or None)
    realism = load_realism(bundle.path) if "realism" in parts_of(bundle.path) else None
    ids, images = held_out_images(sweep, bundle.accepted_shape)
    originals = dict(zip(ids, images, strict=True))
    bundle = bundle.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    size = fixed_symbols(bundle.codec)
    layout = sweep_layout(sweep, size)
    fingerprint = {**sweep.fingerprint, "layout_digest": layout.digest, "bundle_digest": bundle.digest}
    # Conditions that no layout can have are found out before anything is written.
    layouts = {condition: condition.layout(layout) for condition in sweep.all_conditions}
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    check_fingerprint(parts / "settings.json", fingerprint)
    points = _compute_points(sweep, bundle, layouts, originals, parts, device, progress)

    per_frame = 1 if size is None else images_per_frame(size, layout)
    kept: dict[tuple[Condition, str], list[SweepImage]] = {}
    summaries: dict[tuple[Condition, str], PointSummary] = {}
    rows: dict[tuple[Condition, str], TableRow] = {}
    # The plain decoder first: it is the null of methods that err less.
    for done, (condition, method) in enumerate(sorted(points, key=lambda key: key[1] != "jscc")):
        progress(f"score {condition.name}, {method}", done, len(points))
        point = points[condition, method]
        scored = score_images(sweep, condition, point, originals)
        plain, plain_summary = None, None
        if method != "jscc" and (condition, "jscc") in points:
            plain, plain_summary = points[condition, "jscc"], summaries[condition, "jscc"].summary
        summary = summarise_point(sweep, condition, method, point, originals, realism, plain, plain_summary)
        # A single image has no summary, and is left out of the table of images.
        kept[condition, method] = scored if summary.summary is not None else []
        summaries[condition, method] = summary
        rows[condition, method] = table_row(condition, summary, scored, point.channel_known, per_frame)
    result = SweepResult(tuple(summaries[key] for key in points), tuple(rows[key] for key in points))
    floor = None if realism is None else realism.score(images, torch.Generator().manual_seed(sweep.seed))
    write_rows(out / RESULTS_NAME, [image.row() for key in points for image in kept[key]])
    line: tuple[CapacityPoint, ...] = ()
    if sweep.capacity:
        line = capacity_line(sweep.capacity, list(layouts), originals, bundle.codec.num_symbols, progress)
    _write_summary(out / SUMMARY_NAME, sweep, result, floor, fingerprint, line)
    _write_grid(out / GRID_NAME, dict(list(originals.items())[:GRID_COLUMNS]), points)
    return result


def _compute_points(
    sweep: Sweep,
    bundle: Bundle,
    layouts: Mapping[Condition, FrameLayout],
    originals: Mapping[str, Tensor],
    parts: Path,
    device: str,
    progress: Progress,
) -> Points:
    """Send and decode what is missing in `parts`; return all points, condition by condition."""
    ids, images = list(originals), torch.stack(list(originals.values()))
    settings = DecodeSettings(seed=sweep.seed, device=device, batch_size=sweep.batch_size)
    total = len(layouts) * len(sweep.methods)
    progress("points", 0, total)
    points: dict[tuple[Condition, str], Point] = {}
    for condition, layout in layouts.items():
        sent: dict[str, Reception] = {}
        for method in sweep.methods:
            path = parts / point_name(condition, method)
            point = read_point(path, method)
            if point is None:
                shown = _within_point(progress, f"{condition.name}, {method}")
                way = method_variant(method).separation
                key = "" if way is None else f"{way.source} {way.choice}"
                try:
                    if key not in sent:
                        sent[key] = send(sweep, bundle.codec, layout, ids, images, condition, method=way)
                    result = decode_recording(sent[key].recording, layout, bundle, [method], settings, progress=shown)
                    collected = collect_point(result, sent[key], bundle.image_shape, layout, ids)
                except TooLargeError:
                    # A result, too: nothing was sent, and every image counts as one that did not arrive.
                    collected = Point((), torch.zeros(0, *bundle.image_shape), False, 0, 0)
                write_point(path, collected)
                # Scored as it is kept (16 bits a pixel), so that a resumed sweep gives the very same numbers.
                point = read_point(path, method)
                assert point is not None
            points[condition, method] = point
            progress("points", len(points), total)
    return points


def _within_point(progress: Progress, name: str) -> Progress:
    def inner(description: str, done: float, total: float, /) -> None:
        if description.startswith("decode"):
            progress(name, done, total)

    return inner


def score_images(sweep: Sweep, condition: Condition, point: Point, originals: Mapping[str, Tensor]) -> list[SweepImage]:
    """Return the images of a point with their PSNR and structural similarity."""
    if not point.outcomes:
        return []
    truth = torch.stack([originals[image_id] for image_id in point.ids])
    psnr = psnr_db(point.pictures, truth).clamp(max=MAX_PSNR_DB)
    similarity = ssim(point.pictures, truth)
    return [
        SweepImage(
            **{
                **vars(outcome),
                "experiment": sweep.name,
                "condition": condition.name,
                "csnr_db": condition.csnr_db,
                "psnr_db": float(psnr[index]),
                "ssim": float(similarity[index]),
            }
        )
        for index, outcome in enumerate(point.outcomes)
    ]


def summarise_point(
    sweep: Sweep,
    condition: Condition,
    method: str,
    point: Point,
    originals: Mapping[str, Tensor],
    realism: Realism | None,
    plain: Point | None,
    plain_summary: Summary | None = None,
) -> PointSummary:
    """Return the summary of a point.

    Where fewer than two images arrived it has no measures: that is a result, too, and must not stop the other points.

    Args:
        sweep: the experiment.
        condition: of the point.
        method: of the point.
        point: what arrived.
        originals: (C, H, W) each by id.
        realism: the distance and its reference; None: it is not measured.
        plain: the deterministic decoder's point under the same condition, for the noise null.
        plain_summary: its summary.
    """
    summary = None
    if len(point.outcomes) >= 2:
        # Methods that decode one recording have the same images in the same order; of another one the null is unknown.
        plain = plain if plain is not None and plain.ids == point.ids else None
        truth = torch.stack([originals[image_id] for image_id in point.ids])
        summary = summarise(
            method,
            point.outcomes,
            point.pictures,
            truth,
            realism,
            plain=None if plain is None else plain.pictures,
            plain_summary=None if plain is None else plain_summary,
            seed=sweep.seed,
        )
    return PointSummary(
        experiment=sweep.name,
        condition=condition.name,
        csnr_db=condition.csnr_db,
        method=method,
        n=len(point.outcomes),
        sent=len(originals),
        frames=point.frames,
        sent_frames=point.sent_frames,
        summary=summary,
    )


def table_row(
    condition: Condition, point: PointSummary, images: Sequence[SweepImage], channel_known: bool, per_frame: int
) -> TableRow:
    """Return a point as a line of the paper's tables.

    Args:
        condition: of the point.
        point: its summary.
        images: that arrived.
        channel_known: whether the true channel is known.
        per_frame: most images in one frame.
    """
    n, summary = point.sent, point.summary
    distances = [image.channel_distance for image in images if image.channel_distance is not None]
    roc = roc_curve([image.score for image in images], [image.reaches(LOW_SUCCESS_PSNR_DB) for image in images])
    return TableRow(
        method=point.method,
        channel=condition.channel or "awgn",
        csnr_db=condition.csnr_db,
        images_per_frame=per_frame,
        n=n,
        psnr_db=None if summary is None else summary.psnr_db,
        psnr_db_se=None if summary is None else summary.psnr_se_db,
        realism=None if summary is None else summary.realism,
        success_15db=sum(image.reaches(LOW_SUCCESS_PSNR_DB) for image in images) / n,
        success_17db=sum(image.reaches(SUCCESS_PSNR_DB) for image in images) / n,
        dh_below_0p1=sum(distance < CHANNEL_FOUND for distance in distances) / n if channel_known else None,
        dh_mean=sum(distances) / len(distances) if distances else None,
        acceptance_auc=None if roc is None else roc.area,
        acceptance_auc_low=None if roc is None else roc.low,
        acceptance_auc_high=None if roc is None else roc.high,
        condition=condition.name,
        realism_se=None if summary is None else summary.realism_se,
        realism_null=None if summary is None else summary.realism_null,
        residual=None if summary is None else summary.residual,
        accepted=None if summary is None else summary.accepted,
        seconds_per_image=None if summary is None else summary.seconds_per_image,
        lpips_vgg=None if summary is None else summary.lpips_vgg,
        dists=None if summary is None else summary.dists,
    )


def _write_summary(
    path: Path,
    sweep: Sweep,
    result: SweepResult,
    floor: RealismScore | None,
    fingerprint: Mapping[str, object],
    capacity: Sequence[CapacityPoint],
) -> None:
    content = {
        "sweep": asdict(sweep),
        "settings": dict(fingerprint),
        "summary": [point.row() for point in result.summaries],
        "rows": [row.row() for row in result.rows],
        "capacity": [point.row() for point in capacity],
        "floor": None if floor is None else {"realism": floor.value, "realism_se": floor.std_error},
    }
    write_text(path, json.dumps(content, indent=1) + "\n")


def _write_grid(path: Path, originals: Mapping[str, Tensor], points: Points) -> None:
    """Keep the grid: `labels` (rows,), `pictures` uint8 (rows, columns, C, H, W), `there` (rows, columns)."""
    labels, rows, there = ["original"], [torch.stack(list(originals.values()))], [[True] * len(originals)]
    for (condition, method), point in points.items():
        arrived = dict(zip(point.ids, point.pictures, strict=True))
        labels.append(f"{condition.name}, {method}")
        there.append([image_id in arrived for image_id in originals])
        rows.append(
            torch.stack([arrived.get(image_id, torch.zeros_like(image)) for image_id, image in originals.items()])
        )
    pictures = (torch.stack(rows).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with replacing(path) as file:
        np.savez_compressed(file, labels=np.array(labels, dtype=str), pictures=pictures, there=np.array(there))
