"""Decode captures of one layout with models that are loaded once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import BatchDecoder, DecodeSettings, batches_of_images, check_shapes
from receiver.front_end import correct_samples
from receiver.images.files import to_png
from receiver.samplers.variants import Variant, method_variant
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import stream_frames
from receiver.sync.rate import check_rate
from sdr.errors import ConfigError, InputError, OtaError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.recordings.dataset import IndexRow, capture_blocks, layout_of

#: Columns of parts and of results.parquet. The key of a row is (recording, start_sample, image, method, seed); `frame`
#: is the number in the header, -1 without one. `picture` is a PNG, null where `status` is "failed"; then `reason` says
#: why, and `image` is empty where the failure is a whole frame's (or, with start_sample -1, a whole recording's).
#: `taps` are real and imaginary parts in turn, in the units of `receiver.measurement.model.Measurement`.
SCHEMA = pyarrow.schema(
    [
        ("recording", pyarrow.string()),
        ("number", pyarrow.int64()),
        ("frame", pyarrow.int64()),
        ("start_sample", pyarrow.int64()),
        ("image", pyarrow.string()),
        ("method", pyarrow.string()),
        ("seed", pyarrow.int64()),
        ("steps", pyarrow.int64()),
        ("status", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("residual", pyarrow.float64()),
        ("residual_limit", pyarrow.float64()),
        ("expected_psnr_db", pyarrow.float64()),
        ("accepted", pyarrow.bool_()),
        ("snr_db", pyarrow.float64()),
        ("cfo_hz", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("taps", pyarrow.list_(pyarrow.float32())),
        ("picture", pyarrow.binary()),
    ]
)


# Decoding a group


@dataclass(frozen=True)
class DatasetSettings:
    """What, apart from the samples and the methods, the rows depend on.

    Args:
        bundle: models, a name or a folder.
        group: neighbours in the index that are decoded together.
        decoding: how their images are decoded.

    Raises:
        ConfigError: a group of less than one capture.
    """

    bundle: str = "fashion"
    group: int = 16
    decoding: DecodeSettings = DecodeSettings()  # noqa: RUF009  # frozen

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ConfigError(f"group = {self.group} must be at least 1.")


def frame_generator(recording: str, start_sample: int, variant: Variant, seed: int, device: str) -> torch.Generator:
    """Of what a sampler draws for one frame of a dataset. Settings of one method share it: their draws are paired."""
    key = f"{recording}/{start_sample}/{variant.method}/{seed}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.Generator(device).manual_seed(number)


class Decoder:
    """Holds the models, decodes groups of captures. One per process."""

    def __init__(self, folder: Path, settings: DatasetSettings) -> None:
        self._folder, self._settings = folder, settings.decoding
        self._bundle: Bundle = load_bundle(settings.bundle)
        self._decoder = BatchDecoder(self._bundle, settings.decoding)

    def decode(self, captures: Sequence[IndexRow], methods: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Every image of the captures with each method, in `SCHEMA`, batch by batch; failures as rows."""
        rows: list[dict[str, Any]] = []
        variants = [method_variant(method, self._settings.steps) for method in methods]
        layouts: dict[str, list[IndexRow]] = {}
        for capture in captures:
            layouts.setdefault(capture.layout_digest, []).append(capture)
        for same in layouts.values():
            try:
                layout = layout_of(self._folder, same[0])
            except OtaError as error:
                rows += [row for capture in same for row in self._failed(capture, variants, str(error))]
                continue
            frames = self._frames(same, layout, variants, rows)
            for batch in batches_of_images(((item, item[1]) for item in frames), self._settings.batch_size):
                rows += self._decode_batch(batch, layout, variants)
                yield pyarrow.Table.from_pylist(rows, SCHEMA)
                rows.clear()
        if rows:
            yield pyarrow.Table.from_pylist(rows, SCHEMA)

    def _failed(
        self,
        capture: IndexRow,
        variants: Iterable[Variant],
        reason: str,
        frame: SyncedFrame | None = None,
        image: str = "",
    ) -> list[dict[str, Any]]:
        number = frame.header.frame_number if frame is not None and frame.header is not None else -1
        return [
            {
                "recording": capture.recording,
                "number": capture.number,
                "frame": number,
                "start_sample": -1 if frame is None else frame.start,
                "image": image,
                "method": variant.label,
                "seed": self._settings.seed,
                "steps": variant.settings.steps,
                "status": "failed",
                "reason": " ".join(reason.split()),
                "snr_db": None if frame is None else frame.snr_db,
                "cfo_hz": None if frame is None else frame.cfo_hz,
            }
            for variant in variants
        ]

    def _frames(
        self,
        captures: Sequence[IndexRow],
        layout: FrameLayout,
        variants: Sequence[Variant],
        failed: list[dict[str, Any]],
    ) -> Iterator[tuple[IndexRow, SyncedFrame]]:
        """Frames with headers, capture by capture."""
        for capture in captures:
            found = 0
            try:
                check_rate(capture.rate_sps, layout)
                for frame in stream_frames(self._blocks(capture), layout, center_hz=capture.center_hz):
                    found += 1
                    if frame.header is None:
                        failed += self._failed(capture, variants, "the header could not be read", frame)
                    elif frame.header.codec_digest != self._bundle.codec.digest[:8]:
                        reason = f"encoded by codec {frame.header.codec_digest}, not by bundle {self._bundle.name}"
                        failed += self._failed(capture, variants, reason, frame)
                    elif reason := self._misfit(frame.header):
                        failed += self._failed(capture, variants, reason, frame)
                    else:
                        yield capture, frame
                if not found:
                    failed += self._failed(capture, variants, "no frame was found")
            except OtaError as error:
                failed += self._failed(capture, variants, str(error))

    def _misfit(self, header: FrameHeader) -> str:
        """Why images that a header tells of can't be the bundle's; empty where they can."""
        try:
            check_shapes([header], self._bundle)
        except OtaError as error:
            return str(error)
        return ""

    def _blocks(self, capture: IndexRow) -> Iterator[NDArray[np.complex64]]:
        profile = self._settings.calibration
        if profile is not None:
            profile.check(capture.settings)
        for block in capture_blocks(self._folder, capture):
            yield block if profile is None else correct_samples(block, profile.values)

    def _decode_batch(
        self, batch: Sequence[tuple[IndexRow, SyncedFrame]], layout: FrameLayout, variants: Sequence[Variant]
    ) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        options = self._settings
        try:
            measured = self._decoder.measure([frame for _, frame in batch], layout)
        except InputError as error:
            return [row for capture, frame in batch for row in self._failed(capture, variants, str(error), frame)]
        frame_of_image = measured.measurement.frame_of_image.tolist()
        whole = {
            (batch[place][0].recording, image)
            for place, image in zip(frame_of_image, measured.measurement.image_ids, strict=True)
        }
        for variant in variants:
            if layout.pilot_symbols == 0 and not variant.blind:
                reason = f"layout {layout.name} has no pilots, which {variant.label} needs"
                rows += [row for capture, frame in batch for row in self._failed(capture, [variant], reason, frame)]
                continue
            generators = [
                frame_generator(capture.recording, frame.start, variant, options.seed, options.device)
                for capture, frame in batch
            ]
            images = self._decoder.decode(measured, variant, generators)
            for place, image in zip(frame_of_image, images, strict=True):
                capture, frame = batch[place]
                rows.append(
                    {
                        "recording": capture.recording,
                        "number": capture.number,
                        "frame": image.frame_number,
                        "start_sample": image.start_sample,
                        "image": image.id,
                        "method": image.method,
                        "seed": options.seed,
                        "steps": variant.settings.steps,
                        "status": "ok",
                        "reason": "",
                        "residual": image.residual,
                        "residual_limit": image.residual_limit,
                        "expected_psnr_db": image.expected_psnr_db,
                        "accepted": image.accepted,
                        "snr_db": frame.snr_db,
                        "cfo_hz": frame.cfo_hz,
                        "seconds": image.seconds,
                        "taps": image.taps.view(np.float32),
                        "picture": to_png(image.image),
                    }
                )
            told = set(whole)
            for capture, frame in batch:
                for lost in frame.header.image_ids if frame.header is not None else ():
                    if (capture.recording, lost) not in told:
                        rows += self._failed(capture, [variant], "not all of its frames were found", frame, lost)
                        told.add((capture.recording, lost))
        return rows
