"""The folder of one run: what `ota demo` and `ota decode` write, and what a report is made of.

    run.json          configuration, versions, frames, images, scores, and how long every stage took
    results.parquet   one row per image and method
    diagnostics.npz   what the report draws of the signal
    posterior.npz     mean and spread, where several draws were made of each image
    layout.json       the frame layout
    originals/        the images sent, where they are known
    *.png             the decoded images

This module is the only one that knows how these are spelled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow
import torch
from jinja2 import TemplateError
from numpy.typing import NDArray

from lab.evaluation.outcomes import ImageOutcome, image_psnr_db, stored_fields
from lab.evaluation.realism import RealismScore
from lab.evaluation.summary import Summary
from lab.experiments.decode_file import DecodedRecording
from lab.experiments.stages import Stage
from lab.experiments.tables import write_rows
from lab.reports.diagnostics import channel_errors, write_diagnostics, write_posterior
from lab.versions import versions
from receiver.images.files import save_image
from sdr.arrays import load_arrays
from sdr.contained import contained_path
from sdr.documents import from_table, read_json
from sdr.errors import InputError, OtaError
from sdr.files import json_ready, write_json
from sdr.layout import save_layout

#: Format of run.json; another one is refused.
RUN_FORMAT = 3
#: Largest run.json that is read.
MAX_RUN_BYTES = 64 << 20
RUN_NAME = "run.json"
RESULTS_NAME = "results.parquet"
DIAGNOSTICS_NAME = "diagnostics.npz"
POSTERIOR_NAME = "posterior.npz"
LAYOUT_NAME = "layout.json"
ORIGINALS_NAME = "originals"

#: JSON has no infinity: a value that is missing was not finite, and these can be so in one direction only.
_NOT_FINITE = {"residual": math.inf, "expected_psnr_db": -math.inf}


@dataclass(frozen=True, kw_only=True)
class ImageRow(ImageOutcome):
    """One image of a run: a row of results.parquet, and of `images` in run.json.

    Attributes:
        residual_std: standard deviation of the residual of right answers.
        residual_limit: largest residual that is accepted.
        path: of the PNG in the run folder.
        frame_number: of the (first) frame that carried the image.
        start_sample: where that frame starts in the recording.
        metric: detection metric of the frame, in [0, 1].
        cfo_hz: its carrier offset.
        snr_db: its SNR per active carrier.
        evm_db: error vector magnitude of its header.
        papr_db: peak over mean power of its samples.
        lost: share of its symbols that did not arrive; None where all did.
        receptions: how often its symbols were received, on average; None where nothing was sent again.
        spread_rms: rms of the draws' standard deviation per pixel; None for one draw.
        mean_psnr_db: PSNR of the draws' mean; None for one draw, or without an original.
    """

    residual_std: float
    residual_limit: float
    path: str
    frame_number: int
    start_sample: int
    metric: float
    cfo_hz: float
    snr_db: float
    evm_db: float
    papr_db: float
    lost: float | None = None
    receptions: float | None = None
    spread_rms: float | None = None
    mean_psnr_db: float | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, object]) -> ImageRow:
        """Return the image that a row of run.json holds."""
        found = stored_fields(cls, row)
        for name, value in _NOT_FINITE.items():
            found[name] = value if found[name] is None else found[name]
        return cls(**found)


#: Columns of an image's row, in order; and those that only exist where some image has a value.
_COLUMNS = (
    *("id", "method", "residual", "residual_std", "residual_limit", "expected_psnr_db", "accepted", "seconds"),
    *("path", "frame_number", "start_sample", "metric", "cfo_hz", "snr_db", "evm_db", "papr_db"),
)
_OPTIONAL_COLUMNS = (
    "cbr",
    "side_cbr",
    "lost",
    "receptions",
    "spread_rms",
    "psnr_db",
    "mean_psnr_db",
    "channel_distance",
)


def image_table(images: Sequence[ImageRow]) -> list[dict[str, object]]:
    """Return images as rows with equal keys, ready for JSON and Parquet."""
    present = [name for name in _OPTIONAL_COLUMNS if any(getattr(image, name) is not None for image in images)]
    return [json_ready({name: getattr(image, name) for name in (*_COLUMNS, *present)}) for image in images]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, as run.json holds it.

    Attributes:
        verb: of the command line.
        config: what was asked for.
        frames: found, each a row of the fields of `receiver.results.FrameReport` and `channel_mse` and `residual`, the
            squared error of the frame's channel estimate and the mean residual of its images.
        images: decoded.
        incomplete: ids of images some of whose frames were not found.
        absent: what is known of frames that are missing, a line each.
        partial: whether frames, headers or images are missing.
        stages: what took how long.
        versions: of the packages that the run depends on.
        written_utc: time of writing, ISO 8601.
        processes: GNU Radio processes that took part; None where nothing was sent. So is what follows.
        sent: ids of the images sent (`images`), and the number of frames (`frames`).
        summary: one a method, none for a single image.
        floor: realism of the originals; None for a single image, too.
    """

    verb: str
    config: Mapping[str, object]
    frames: Sequence[Mapping[str, object]]
    images: tuple[ImageRow, ...]
    incomplete: tuple[str, ...]
    absent: tuple[str, ...]
    partial: bool
    stages: tuple[Stage, ...]
    versions: Mapping[str, str]
    written_utc: str
    processes: Sequence[Mapping[str, object]] | None = None
    sent: Mapping[str, object] | None = None
    summary: tuple[Summary, ...] = ()
    floor: RealismScore | None = None

    @property
    def methods(self) -> list[str]:
        """Methods, in the order of their images."""
        return list(dict.fromkeys(image.method for image in self.images))

    def row(self) -> dict[str, object]:
        """Return the run as run.json holds it."""
        scores: dict[str, object] = {}
        if self.sent is not None:
            floor = self.floor
            scores = {
                "processes": self.processes,
                "sent": self.sent,
                "summary": [summary.row() for summary in self.summary],
                "floor": None if floor is None else {"realism": floor.value, "realism_se": floor.std_error},
            }
        return {
            "format": RUN_FORMAT,
            "verb": self.verb,
            "written_utc": self.written_utc,
            "config": self.config,
            "versions": self.versions,
            "frames": self.frames,
            "images": image_table(self.images),
            "incomplete": list(self.incomplete),
            "absent": list(self.absent),
            "partial": self.partial,
            "stages": [asdict(stage) for stage in self.stages],
            **scores,
        }

    def answer(self, out: Path) -> dict[str, object]:
        """Return what `--json` prints of a run whose folder is `out`."""
        keys = (
            "frames",
            "partial",
            "absent",
            *(("summary", "floor", "sent", "stages") if self.sent is not None else ()),
        )
        row = self.row()
        return {
            **{key: row[key] for key in keys},
            "images": [{**image, "path": str(out / str(image["path"]))} for image in image_table(self.images)],
            "out": str(out),
            "report": str(out / "report.html"),
        }


def describe_run(
    decoded: DecodedRecording,
    images: tuple[ImageRow, ...],
    *,
    verb: str,
    config: Mapping[str, object],
    stages: tuple[Stage, ...],
) -> Run:
    """Return the run of a decoded recording.

    Args:
        decoded: the recording and what came of it.
        images: what `write_images` gave.
        verb: of the command line.
        config: what was asked for.
        stages: what took how long.
    """
    result = decoded.result
    errors = channel_errors(result, decoded.layout, decoded.truth)
    frames = []
    for frame, synced, error in zip(result.frames, result.synced, errors, strict=True):
        residuals = [image.residual for image in images if image.start_sample == synced.start]
        mean = sum(residuals) / len(residuals) if residuals else None
        frames.append({**asdict(frame), "channel_mse": error, "residual": mean})
    return Run(
        verb=verb,
        config=config,
        frames=frames,
        images=images,
        incomplete=result.incomplete,
        absent=tuple(absence.reason for absence in result.absent),
        partial=result.partial,
        stages=stages,
        versions=versions(),
        written_utc=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_images(folder: Path, decoded: DecodedRecording, *, by_method: bool) -> tuple[ImageRow, ...]:
    """Write every decoded image, and the originals that they are scored against.

    Args:
        folder: of the run.
        decoded: the recording and what came of it.
        by_method: whether each method has a folder of its own.

    Returns:
        a row for each image, in the order of `decoded.result.images`.
    """
    rows = image_rows(decoded, by_method)
    for image, row in zip(decoded.result.images, rows, strict=True):
        target = folder / row.path
        target.parent.mkdir(parents=True, exist_ok=True)
        save_image(target, torch.from_numpy(image.image))
        original = decoded.originals.get(image.id)
        kept = folder / ORIGINALS_NAME / f"{image.id}.png"
        if original is not None and not kept.exists():
            kept.parent.mkdir(exist_ok=True)
            save_image(kept, original)
    return rows


def image_rows(decoded: DecodedRecording, by_method: bool) -> tuple[ImageRow, ...]:
    """Return a row for each decoded image; an id seen again (a repeated frame) has its frame's sample in its path."""
    result = decoded.result
    frames = {synced.start: frame for synced, frame in zip(result.synced, result.frames, strict=True)}
    taken: set[str] = set()
    rows = []
    for image, outcome in zip(result.images, decoded.outcomes, strict=True):
        stem = f"images/{image.method}/{image.id}" if by_method else image.id
        path = f"{stem}.png" if f"{stem}.png" not in taken else f"{stem}@{image.start_sample}.png"
        taken.add(path)
        frame, original = frames[image.start_sample], decoded.originals.get(image.id)
        mean_psnr_db = None
        if image.mean is not None and original is not None:
            mean_psnr_db = image_psnr_db(torch.from_numpy(image.mean), original)
        rows.append(
            ImageRow(
                **vars(outcome),
                residual_std=image.residual_std,
                residual_limit=image.residual_limit,
                path=path,
                frame_number=image.frame_number,
                start_sample=image.start_sample,
                metric=frame.metric,
                cfo_hz=frame.cfo_hz,
                snr_db=frame.snr_db,
                evm_db=frame.evm_db,
                papr_db=frame.papr_db,
                spread_rms=None if image.spread is None else float(np.sqrt(np.mean(image.spread**2))),
                mean_psnr_db=mean_psnr_db,
                lost=image.lost or None,
                receptions=image.receptions,
            )
        )
    return tuple(rows)


def write_run(folder: Path, run: Run, decoded: DecodedRecording) -> None:
    """Write run.json, results.parquet, layout.json, diagnostics.npz, and where there are several draws posterior.npz.

    Args:
        folder: of the run; `write_images` has written the images.
        run: what happened.
        decoded: the recording and what came of it.
    """
    save_layout(decoded.layout, folder / LAYOUT_NAME)
    write_posterior(folder / POSTERIOR_NAME, decoded.result)
    write_diagnostics(folder / DIAGNOSTICS_NAME, decoded.recording, decoded.result, decoded.layout, decoded.truth)
    write_rows(folder / RESULTS_NAME, image_table(run.images))
    write_json(folder / RUN_NAME, run.row())


def read_run(folder: Path) -> Run:
    """Return the run that a folder holds.

    Raises:
        InputError: run.json is missing, damaged, or of another version.
    """
    path = folder / RUN_NAME
    if not path.is_file():
        raise InputError(f"{path} is missing. Give the --out of a finished run.")
    content = read_json(path, InputError, "file", MAX_RUN_BYTES)
    if not isinstance(content, dict) or content.get("format") != RUN_FORMAT:
        raise InputError(f"{path} does not describe a run of this version. Repeat the run.")
    known = {key: value for key, value in content.items() if key != "format"}
    with damage_told(path):
        stored = from_table(_StoredRun, known, str(path), InputError)
        frames = [_stored_frame(frame) for frame in stored.frames]
        images = tuple(ImageRow.from_row(image) for image in stored.images)
        for image in images:
            contained_path(folder, image.path, str(path))
            contained_path(folder, f"{ORIGINALS_NAME}/{image.id}.png", str(path))
        floor = stored.floor
        return Run(
            verb=stored.verb,
            config=stored.config,
            frames=frames,
            images=images,
            incomplete=stored.incomplete,
            absent=stored.absent,
            partial=stored.partial,
            stages=stored.stages,
            versions=stored.versions,
            written_utc=stored.written_utc,
            processes=None if stored.processes is None else list(stored.processes),
            sent=stored.sent,
            summary=tuple(Summary.from_row(summary) for summary in stored.summary),
            floor=None if floor is None else RealismScore(floor["realism"], floor["realism_se"]),
        )


@dataclass(frozen=True, kw_only=True)
class _StoredRun:
    """What run.json must hold, type by type; see `Run`."""

    verb: str
    written_utc: str
    config: Mapping[str, object]
    versions: Mapping[str, str]
    frames: tuple[Mapping[str, object], ...]
    images: tuple[Mapping[str, object], ...]
    incomplete: tuple[str, ...]
    partial: bool
    stages: tuple[Stage, ...] = ()
    processes: tuple[Mapping[str, object], ...] | None = None
    sent: Mapping[str, object] | None = None
    summary: tuple[Mapping[str, object], ...] = ()
    floor: Mapping[str, float] | None = None
    absent: tuple[str, ...] = ()


def _stored_frame(frame: Mapping[str, object]) -> Mapping[str, object]:
    """Return a frame of run.json: its values must be numbers or None, and what a report shows must be there."""
    for key, value in frame.items():
        if value is not None and not isinstance(value, int | float):
            raise InputError(f"frames: {key} must be a number, found {value!r:.60}")
    if "header_ok" not in frame:
        raise InputError("frames: header_ok is missing")
    return frame


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Tell files of a run that are edited, or don't fit each other, as what they are.

    Args:
        path: what is read.

    Raises:
        InputError: where reading failed on what the files hold.
    """
    try:
        yield
    except OtaError as error:
        if str(path) in str(error):
            raise
        raise InputError(f"{path}: {error}") from error
    except (
        *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration, EOFError),
        *(TemplateError, pyarrow.ArrowException),
    ) as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{path} is damaged ({reason}). Repeat the run.") from error


def read_npz(path: Path) -> dict[str, NDArray]:
    """Return the arrays of a file of a run.

    Raises:
        InputError: it is missing or damaged.
    """
    return load_arrays(path, InputError, "repeat the run")
