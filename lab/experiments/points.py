"""Score and keep one point of a sweep: one condition, one value, all methods."""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.evaluation.channel_truth import channel_distance
from lab.experiments.link import Reception
from lab.experiments.plan import Condition
from receiver.bundles.bundle import Bundle
from receiver.results import DecodeResult
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError, InputError
from sdr.files import write_bytes
from sdr.layout import FrameLayout


@dataclass(frozen=True)
class Point:
    """What came of one method at one channel SNR, over the images that arrived.

    Attributes:
        ids: of the images, n of them. pictures: (n, C, H, W) float32 in [0, 1].
        residuals, accepted, seconds: n each.
        scores: n, each the negative of the expected PSNR, dB.
        channel_distances: n squared errors of the taps; None where the true channel is not known.
        frames: frames found. sent_frames: frames sent.
    """

    ids: tuple[str, ...]
    pictures: Tensor
    residuals: tuple[float, ...]
    accepted: tuple[bool, ...]
    seconds: tuple[float, ...]
    scores: tuple[float, ...]
    channel_distances: tuple[float, ...] | None
    frames: int
    sent_frames: int


def score_point(result: DecodeResult, sent: Reception, bundle: Bundle, layout: FrameLayout, ids: set[str]) -> Point:
    images = [image for image in result.images if image.id in ids]
    synced = {frame.start: frame for frame in result.synced}
    distances = None
    if sent.truth is not None:
        distances = tuple(
            channel_distance(image.taps, synced[image.start_sample], sent.truth, layout) for image in images
        )
    shape = (0, *bundle.image_shape)
    pictures = np.stack([image.image for image in images]) if images else np.zeros(shape, np.float32)
    return Point(
        tuple(image.id for image in images),
        torch.from_numpy(pictures),
        tuple(image.residual for image in images),
        tuple(image.accepted for image in images),
        tuple(image.seconds for image in images),
        tuple(-image.expected_psnr_db for image in images),
        distances,
        len(result.frames),
        sent.sent_frames,
    )


def point_name(condition: Condition, method: str) -> str:
    """File of a point: readable, and different wherever the condition or the method's settings are."""
    told = json.dumps([asdict(condition), asdict(method_variant(method))], sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9.+-]+", "_", f"{condition.name}-{method}")
    return f"{readable[:100]}-{zlib.crc32(told.encode()):08x}.npz"


def check_fingerprint(path: Path, fingerprint: Mapping[str, Any]) -> None:
    text = json.dumps(fingerprint, sort_keys=True, indent=1)
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path.parent.parent} holds points of a sweep with other settings or models. Name another --out, or "
                "add --force to throw them away."
            )
        return
    write_bytes(path, text.encode())


def write_point(path: Path, point: Point) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    arrays = {
        "ids": np.array(point.ids, dtype=str),
        # 16 bits a pixel: far finer than any figure shows.
        "pictures": (point.pictures.numpy() * 65535).round().astype(np.uint16),
        "residuals": np.array(point.residuals),
        "accepted": np.array(point.accepted, dtype=bool),
        "seconds": np.array(point.seconds),
        "scores": np.array(point.scores),
        "frames": np.array(point.frames),
        "sent_frames": np.array(point.sent_frames),
    }
    if point.channel_distances is not None:
        arrays["channel_distances"] = np.array(point.channel_distances)
    with partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    os.replace(partial, path)


def read_point(path: Path) -> Point | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            return Point(
                tuple(stored["ids"].tolist()),
                torch.from_numpy(stored["pictures"].astype(np.float32) / 65535),
                tuple(stored["residuals"].tolist()),
                tuple(stored["accepted"].tolist()),
                tuple(stored["seconds"].tolist()),
                tuple(stored["scores"].tolist()),
                tuple(stored["channel_distances"].tolist()) if "channel_distances" in stored else None,
                int(stored["frames"]),
                int(stored["sent_frames"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged ({error}). Delete it; the sweep computes it again.") from error
