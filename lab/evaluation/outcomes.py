"""What came of one image, spelled the same by every experiment and report."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.evaluation.channel_truth import ChannelTruth, channel_distance
from lab.evaluation.metrics import psnr_db
from receiver.codecs.codec import ImageShape
from receiver.images.files import load_images
from receiver.results import DecodeResult
from sdr.documents import checked_value
from sdr.errors import InputError
from sdr.header import image_id_from_stem
from sdr.layout import FrameLayout

#: An identical copy has no finite PSNR; values are cut here before means are taken.
MAX_PSNR_DB = 100.0


@dataclass(frozen=True, kw_only=True)
class ImageOutcome:
    """One image as one method decoded it: what the receiver says of it, and what the ground truth says.

    Attributes:
        id: of the image, as sent.
        method: name of the method, with settings where it has its own ("hifi:steps=5").
        residual: normalised squared residual, about 1 for a right answer; not finite where a sampler diverged.
        expected_psnr_db: PSNR that the receiver expects without knowing the original, dB.
        accepted: whether the receiver takes the image for right.
        seconds: decoding time.
        cbr: complex symbols per value of the source, side information included; None in rows of an older version.
        side_cbr: the part of it that is side information.
        psnr_db: PSNR against the original, dB, at most `MAX_PSNR_DB`; None without one.
        channel_distance: squared error of the channel that the image was decoded with, the true one having unit mean
            power; None where that is not known.
    """

    id: str
    method: str
    residual: float
    expected_psnr_db: float
    accepted: bool
    seconds: float
    cbr: float | None = None
    side_cbr: float | None = None
    psnr_db: float | None = None
    channel_distance: float | None = None

    def reaches(self, psnr_db: float) -> bool:
        """Return whether the image is known to have at least this PSNR, dB."""
        return self.psnr_db is not None and self.psnr_db >= psnr_db


def stored_fields(kind: type, row: Mapping[str, object]) -> dict[str, Any]:
    """Return what a stored row holds of a dataclass's fields; those that an older version did not store are None.

    Columns that are no field are left out, and so are missing fields that have a default. Anything may be None.

    Raises:
        InputError: the row is no table, or a value is of another type than its field.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"a row of {kind.__name__} must be a table of fields, found {row!r:.60}")
    hints = typing.get_type_hints(kind)
    found = {
        field.name: row.get(field.name)
        for field in fields(kind)
        if field.name in row or (field.default is MISSING and field.default_factory is MISSING)
    }
    return {
        name: None if value is None else checked_value(hints[name], value, f"{kind.__name__}.{name}", InputError)
        for name, value in found.items()
    }


def load_originals(folder: Path, shape: ImageShape) -> dict[str, Tensor]:
    """Return the images of a folder, (C, H, W) in [0, 1] each, by the id that they are sent under.

    Raises:
        InputError: something in the folder is no image of this shape.
    """
    stems, images = load_images(folder, shape)
    return {image_id_from_stem(stem): image for stem, image in zip(stems, images, strict=True)}


def image_psnr_db(image: Tensor, original: Tensor) -> float:
    """Return the PSNR of one image (C, H, W), at most `MAX_PSNR_DB`."""
    return min(MAX_PSNR_DB, float(psnr_db(image[None], original[None])[0]))


def image_outcomes(
    result: DecodeResult, originals: Mapping[str, Tensor], layout: FrameLayout, truth: ChannelTruth | None = None
) -> tuple[ImageOutcome, ...]:
    """Compare every decoded image with its original, and its channel with the true one.

    Args:
        result: of one recording.
        originals: (C, H, W) each by id; none where the ground truth is not known.
        layout: of the frames.
        truth: the simulated channel.

    Returns:
        the outcomes, in the order of `result.images`.

    Raises:
        InputError: originals were given, but not one of them belongs to a decoded image.
    """
    if originals and result.images and not any(image.id in originals for image in result.images):
        raise InputError(
            f"None of the {len(originals)} originals is called like a decoded image ({result.images[0].id}.png, ...). "
            "Give the folder that was transmitted."
        )
    frames = {frame.start: frame for frame in result.synced}
    outcomes = []
    for image in result.images:
        original = originals.get(image.id)
        distance = None
        if truth is not None:
            distance = channel_distance(image.taps, frames[image.start_sample], truth, layout)
        outcomes.append(
            ImageOutcome(
                id=image.id,
                method=image.method,
                residual=image.residual,
                expected_psnr_db=image.expected_psnr_db,
                accepted=image.accepted,
                seconds=image.seconds,
                cbr=image.cbr,
                side_cbr=image.side_cbr,
                psnr_db=None if original is None else image_psnr_db(torch.from_numpy(image.image), original),
                channel_distance=distance,
            )
        )
    return tuple(outcomes)
