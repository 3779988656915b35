"""The points of a sweep: one condition and one method each, kept in a file, so that a sweep can be resumed."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lab.evaluation.outcomes import ImageOutcome, image_outcomes
from lab.experiments.link import Reception
from lab.experiments.plan import Condition
from receiver.results import DecodeResult
from receiver.samplers.variants import method_variant
from sdr.arrays import load_arrays
from sdr.errors import ConfigError, InputError
from sdr.files import replacing, write_text
from sdr.layout import FrameLayout


@dataclass(frozen=True, eq=False)
class Point:
    """What one method made of the images under one condition, as far as they arrived.

    Attributes:
        outcomes: n, one an image; `psnr_db` is not among them.
        pictures: (n, C, H, W) float32 in [0, 1].
        channel_known: whether the true channel is known, and with it every `channel_distance`.
        frames: found.
        sent_frames: sent.
    """

    outcomes: tuple[ImageOutcome, ...]
    pictures: Tensor
    channel_known: bool
    frames: int
    sent_frames: int

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the images that arrived."""
        return tuple(outcome.id for outcome in self.outcomes)


def collect_point(
    result: DecodeResult, sent: Reception, shape: tuple[int, ...], layout: FrameLayout, ids: Collection[str]
) -> Point:
    """Return what decoding one transmission by one method came to.

    Args:
        result: of the decoding.
        sent: the transmission.
        shape: of the images.
        layout: of the frames.
        ids: of the images sent; what else was decoded is left out.
    """
    outcomes = image_outcomes(result, {}, layout, sent.truth)
    kept = [index for index, outcome in enumerate(outcomes) if outcome.id in ids]
    pictures = np.stack([result.images[index].image for index in kept]) if kept else np.zeros((0, *shape), np.float32)
    return Point(
        tuple(outcomes[index] for index in kept),
        torch.from_numpy(pictures),
        sent.truth is not None,
        len(result.frames),
        sent.sent_frames,
    )


def point_name(condition: Condition, method: str) -> str:
    """Return the file name of a point: readable, and different wherever the condition or the settings are."""
    content = json.dumps([asdict(condition), asdict(method_variant(method))], sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{condition.name}-{method}")
    return f"{readable[:100]}-{zlib.crc32(content.encode()):08x}.npz"


def check_fingerprint(path: Path, fingerprint: Mapping[str, object]) -> None:
    """Write what the points of a folder depend on, or refuse other settings than the file holds.

    Raises:
        ConfigError: they differ.
    """
    text = json.dumps(fingerprint, sort_keys=True, indent=1)
    if path.is_file():
        if path.read_bytes() != text.encode():
            raise ConfigError(
                f"{path.parent.parent} holds points of a sweep with other settings or models. Name another --out, or "
                "add --force to throw them away."
            )
        return
    write_text(path, text)


def write_point(path: Path, point: Point) -> None:
    """Write a point; `read_point` gives it back, its pictures rounded to 16 bits a pixel."""
    arrays = {
        "ids": np.array(point.ids, dtype=str),
        # 16 bits a pixel: far finer than any figure shows.
        "pictures": (point.pictures.numpy() * 65535).round().astype(np.uint16),
        "residuals": np.array([outcome.residual for outcome in point.outcomes]),
        "accepted": np.array([outcome.accepted for outcome in point.outcomes], dtype=bool),
        "seconds": np.array([outcome.seconds for outcome in point.outcomes]),
        "scores": np.array([-outcome.expected_psnr_db for outcome in point.outcomes]),
        "frames": np.array(point.frames),
        "sent_frames": np.array(point.sent_frames),
    }
    if point.channel_known:
        arrays["channel_distances"] = np.array([outcome.channel_distance for outcome in point.outcomes], dtype=float)
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_point(path: Path, method: str) -> Point | None:
    """Return a point that was kept, or None where there is none.

    Args:
        path: its file.
        method: that it is of.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return None
    remedy = "delete it; the sweep computes it again"
    stored = load_arrays(path, InputError, remedy)
    try:
        ids = stored["ids"].tolist()
        known = "channel_distances" in stored
        distances = stored["channel_distances"].tolist() if known else [None] * len(ids)
        values = [stored[key].tolist() for key in ("residuals", "accepted", "seconds", "scores")]
        outcomes = tuple(
            ImageOutcome(
                id=image_id,
                method=method,
                residual=residual,
                expected_psnr_db=-score,
                accepted=accepted,
                seconds=seconds,
                channel_distance=distance,
            )
            for image_id, residual, accepted, seconds, score, distance in zip(ids, *values, distances, strict=True)
        )
        pictures = torch.from_numpy(stored["pictures"].astype(np.float32) / 65535)
        return Point(outcomes, pictures, known, int(stored["frames"]), int(stored["sent_frames"]))
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); {remedy}") from error
