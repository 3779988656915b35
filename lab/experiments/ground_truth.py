"""Give captures that others recorded their ground truth."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from lab.experiments.selection import select_captures
from receiver.bundles.bundle import DEFAULT_BUNDLE, load_codec
from receiver.images.files import load_images, stack_images
from sdr.errors import InputError, RecordingError
from sdr.header import image_id_from_stem
from sdr.recordings.dataset import COLLECTION_SUFFIX
from sdr.recordings.writer import DatasetWriter


def give_images(dataset: Path, images: Path, where: str = "", bundle: str = DEFAULT_BUNDLE) -> list[str]:
    """Say which images were sent in each of some captures, for scoring.

    Args:
        dataset: its folder.
        images: folder of images of one size, called by their ids.
        where: filter of the captures, see `lab.experiments.selection.where_expression`; empty: all.
        bundle: models that encoded the images.

    Returns:
        the recordings that have ground truth now.

    Raises:
        InputError: no images, several sizes, or ids alike.
        RecordingError: no such captures, or one of them has ground truth already.
    """
    chosen = select_captures(dataset, where).rows()
    stems, pictures = load_images(images, load_codec(bundle).accepted_shape)
    ids = [image_id_from_stem(stem) for stem in stems]
    if len(set(ids)) != len(ids):
        raise InputError(f"Two images in {images} would be sent under one id. Rename one of them.")
    pixels = (stack_images(stems, pictures) * 255).round().byte().numpy()
    truth = {
        "image_ids": np.array(ids),
        "image_sha256": np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]),
        "images": pixels,
    }
    collections = sorted(dataset.glob("*" + COLLECTION_SUFFIX))
    if not collections:
        raise RecordingError(f"{dataset} has no {COLLECTION_SUFFIX} file; `ota dataset verify` says what else is wrong")
    with DatasetWriter(dataset, collections[0].name.removesuffix(COLLECTION_SUFFIX)) as writer:
        writer.give_truth({row.number for row in chosen}, truth, len(ids))
    return [row.recording for row in chosen]
