"""Decode groups of captures with models that are loaded once, into the rows of results.parquet.

Ground truth is never opened here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow
import torch
from numpy.typing import NDArray

from lab.experiments.tables import arrow_schema
from receiver.bundles.bundle import load_bundle
from receiver.decode import BatchDecoder, DecodeSettings, MeasuredFrames
from receiver.fitting import antennas_refused, batches_of_images, check_shapes, decodes
from receiver.front_end import correct_samples, scaled, unit_factor
from receiver.images.files import to_png
from receiver.lost_frames import completed_frames
from receiver.results import ImageResult
from receiver.samplers.variants import Variant, method_variant
from receiver.separation.chain import chain_of
from receiver.sync.absence import Absence, FramePlace, find_absences
from receiver.sync.diagnosis import describe_failure
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import stream_frames
from receiver.sync.rate import check_rate
from sdr.errors import ConfigError, InputError, OtaError
from sdr.layout import FrameLayout
from sdr.recordings.antennas import check_chosen
from sdr.recordings.dataset import IndexRow, capture_blocks, layout_of


@dataclass(frozen=True, kw_only=True)
class DatasetRow:
    """A row of a decoded dataset (results.parquet and its parts): an image and a method, or what failed.

    Rows are keyed by recording, start_sample, image, method and seed.

    Attributes:
        recording: of the dataset, by its stem.
        number: of the capture in the dataset.
        frame: number in the frame's header, -1 without one.
        start_sample: of the frame in its recording, -1 where the failure is the whole recording's.
        image: its id; empty where the failure is a whole frame's or recording's.
        method: with settings where it has its own.
        seed: of the samplers.
        steps: reverse steps.
        status: "ok", "failed", or "other" where a frame or capture was sent in a way that the method does not decode.
        reason: why it failed, how it was sent, or what a decoded image lacks; else empty.
        residual: normalised, about 1 for a right answer. It and what follows is None where nothing was decoded.
        residual_limit: largest one that is accepted.
        expected_psnr_db: PSNR that the receiver expects, dB.
        accepted: whether the receiver takes the image for right.
        snr_db: of the frame, per active carrier.
        cfo_hz: carrier offset of the frame.
        seconds: decoding time.
        cbr: complex symbols per value of the source, side information included.
        side_cbr: the part of it that is side information.
        taps: channel that the image was decoded with, real and imaginary parts in turn, in the units of
            `receiver.measurement.model.Measurement`.
        picture: the image as PNG.
    """

    recording: str
    number: int
    frame: int = -1
    start_sample: int = -1
    image: str = ""
    method: str
    seed: int
    steps: int
    status: str
    reason: str = ""
    residual: float | None = None
    residual_limit: float | None = None
    expected_psnr_db: float | None = None
    accepted: bool | None = None
    snr_db: float | None = None
    cfo_hz: float | None = None
    seconds: float | None = None
    cbr: float | None = None
    side_cbr: float | None = None
    taps: NDArray[np.float32] | None = None
    picture: bytes | None = None


#: Columns of parts and of results.parquet.
SCHEMA = arrow_schema(DatasetRow)


def _table(rows: Iterable[DatasetRow]) -> pyarrow.Table:
    return pyarrow.Table.from_pylist([vars(row) for row in rows], SCHEMA)


@dataclass(frozen=True)
class DatasetSettings:
    """What, apart from the samples and the methods, the rows depend on.

    Args:
        bundle: models, a name or a folder.
        group: neighbours in the index that are decoded together.
        decoding: how their images are decoded.
        prior: bundle whose prior is taken; None: that of `bundle`.
        use_antennas: numbers, from 0, of the antennas that are decoded; none: all that a capture has.

    Raises:
        ConfigError: a group of less than one capture.
    """

    bundle: str = "fashion"
    group: int = 16
    decoding: DecodeSettings = DecodeSettings()  # noqa: RUF009  # frozen
    prior: str | None = None
    use_antennas: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ConfigError(f"group = {self.group} must be at least 1.")


def frame_generator(recording: str, start_sample: int, variant: Variant, seed: int, device: str) -> torch.Generator:
    """Return the random generator of one frame of a dataset.

    All settings of one method share it, so that their draws are paired.
    """
    key = f"{recording}/{start_sample}/{variant.method}/{seed}".encode()
    number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.Generator(device).manual_seed(number)


class Decoder:
    """Holds the models, decodes groups of captures. One per process.

    Args:
        folder: of the dataset.
        settings: of the decoding.
    """

    def __init__(self, folder: Path, settings: DatasetSettings) -> None:
        self._folder, self._settings, self._use_antennas = folder, settings.decoding, settings.use_antennas
        self._bundle = load_bundle(settings.bundle, prior=settings.prior)
        self._decoder = BatchDecoder(self._bundle, settings.decoding)

    def decode(self, captures: Sequence[IndexRow], methods: Sequence[str]) -> Iterator[pyarrow.Table]:
        """Yield every image of the captures by each method, in `SCHEMA`, batch by batch; failures are rows, too."""
        rows: list[DatasetRow] = []
        variants = [method_variant(method, self._settings.steps) for method in methods]
        alike: dict[tuple[str, int], list[IndexRow]] = {}
        for capture in captures:
            alike.setdefault((capture.layout_digest, self._num_antennas(capture)), []).append(capture)
        for same in alike.values():
            try:
                layout = layout_of(self._folder, same[0])
            except OtaError as error:
                rows += [row for capture in same for row in self._failed_capture(capture, variants, str(error))]
                continue
            frames = self._frames(same, layout, variants, rows)
            for batch in batches_of_images(((item, item[1]) for item in frames), self._settings.batch_size):
                rows += self._decode_batch(batch, layout, variants)
                yield _table(rows)
                rows.clear()
        if rows:
            yield _table(rows)

    def _num_antennas(self, capture: IndexRow) -> int:
        """Return how many antennas of a capture are decoded."""
        return len(self._use_antennas) or capture.antennas

    def _failed_capture(self, capture: IndexRow, variants: Iterable[Variant], reason: str) -> list[DatasetRow]:
        """Return a row for each method; only those that decode what the capture holds, where that is known, fail."""
        digest = capture.codec_digest[:8]
        fitting = [variant for variant in variants if not digest or decodes(variant, digest, self._bundle)]
        # A capture of an unknown codec is everybody's failure.
        fitting = fitting or [variant for variant in variants if chain_of(digest) is None]
        others = [variant for variant in variants if variant not in fitting]
        return self._failed(capture, fitting, reason) + self._failed(capture, others, reason, status="other")

    def _failed(
        self,
        capture: IndexRow,
        variants: Iterable[Variant],
        reason: str,
        frame: SyncedFrame | None = None,
        image: str = "",
        status: str = "failed",
    ) -> list[DatasetRow]:
        """Return a row for each method that fails on an image, a frame, or (without either) a whole capture."""
        return [
            DatasetRow(
                recording=capture.recording,
                number=capture.number,
                frame=-1 if frame is None or frame.header is None else frame.header.frame_number,
                start_sample=-1 if frame is None else frame.start,
                image=image,
                method=variant.label,
                seed=self._settings.seed,
                steps=variant.settings.steps,
                status=status,
                reason=" ".join(reason.split()),
                snr_db=None if frame is None else frame.snr_db,
                cfo_hz=None if frame is None else frame.cfo_hz,
            )
            for variant in variants
        ]

    def _decoded(self, capture: IndexRow, frame: SyncedFrame, variant: Variant, image: ImageResult) -> DatasetRow:
        lacking = f"{image.lost:.1%} of its symbols were in frames that did not arrive" if image.lost else ""
        return DatasetRow(
            recording=capture.recording,
            number=capture.number,
            frame=image.frame_number,
            start_sample=image.start_sample,
            image=image.id,
            method=image.method,
            seed=self._settings.seed,
            steps=variant.settings.steps,
            status="ok",
            reason=lacking,
            residual=image.residual,
            residual_limit=image.residual_limit,
            expected_psnr_db=image.expected_psnr_db,
            accepted=image.accepted,
            snr_db=frame.snr_db,
            cfo_hz=frame.cfo_hz,
            seconds=image.seconds,
            cbr=image.cbr,
            side_cbr=image.side_cbr,
            taps=image.taps.view(np.float32),
            picture=to_png(image.image),
        )

    def _frames(
        self,
        captures: Sequence[IndexRow],
        layout: FrameLayout,
        variants: Sequence[Variant],
        failed: list[DatasetRow],
    ) -> Iterator[tuple[IndexRow, SyncedFrame]]:
        """Yield the frames that can be decoded, capture by capture; add to `failed` what can't."""
        for capture in captures:
            found: list[FramePlace] = []
            cut: list[FramePlace] = []
            decoded: set[str] = set()
            try:
                check_rate(capture.rate_sps, layout)
                readable = self._readable(capture, layout, variants, failed, found, cut)
                for frame in completed_frames(readable, layout):
                    decoded |= set() if frame.header is None else set(frame.header.image_ids)
                    yield capture, frame
                for absence in find_absences(found, cut, layout, from_first=False):
                    # An image of which other frames arrived has rows of its own.
                    unseen = tuple(image for image in absence.image_ids if image not in decoded)
                    if unseen or not absence.image_ids:
                        failed += self._absent(capture, variants, replace(absence, image_ids=unseen))
                if not found and not cut:
                    failed += self._failed_capture(
                        capture, variants, f"no frame was found: {self._seen(capture, layout)}"
                    )
            except OtaError as error:
                failed += self._failed_capture(capture, variants, str(error))

    def _readable(
        self,
        capture: IndexRow,
        layout: FrameLayout,
        variants: Sequence[Variant],
        failed: list[DatasetRow],
        found: list[FramePlace],
        cut: list[FramePlace],
    ) -> Iterator[SyncedFrame]:
        """Yield the frames of a capture that can be decoded; add to `failed`, `found` and `cut` what is met."""
        search = partial(stream_frames, max_cfo_hz=self._settings.max_cfo_hz, center_hz=capture.center_hz)
        for frame in search(self._blocks(capture), layout, on_cut=cut.append):
            found.append(FramePlace.of(frame))
            if reason := self._undecodable(frame):
                failed += self._failed(capture, variants, reason, frame)
            else:
                yield frame

    def _absent(self, capture: IndexRow, variants: Iterable[Variant], absence: Absence) -> list[DatasetRow]:
        """Return a row for each method and each image that is known to be missing; one for all where none is known."""
        number = -1 if absence.frame_number is None else absence.frame_number
        start = -1 if absence.start_sample is None else absence.start_sample
        return [
            replace(row, frame=number, start_sample=start)
            for image in absence.image_ids or ("",)
            for row in self._failed(capture, variants, absence.reason, image=image)
        ]

    def _seen(self, capture: IndexRow, layout: FrameLayout) -> str:
        """Return what the beginning of a capture without frames shows instead."""
        settings = self._settings
        first = next(iter(self._blocks(capture)))[0]
        return describe_failure(first, layout, (), (), max_cfo_hz=settings.max_cfo_hz, swapped=settings.swap_iq)

    def _undecodable(self, frame: SyncedFrame) -> str:
        """Return why a frame's images can't be decoded by the bundle; empty where they can."""
        if frame.header is None:
            return "the header could not be read"
        if frame.header.codec_digest != self._bundle.codec.digest[:8] and chain_of(frame.header.codec_digest) is None:
            return f"encoded by codec {frame.header.codec_digest}, not by bundle {self._bundle.name}"
        try:
            check_shapes([frame.header], self._bundle)
        except OtaError as error:
            return str(error)
        return ""

    def _blocks(self, capture: IndexRow) -> Iterator[NDArray[np.complex64]]:
        """Yield the samples (A, n) of the antennas that are decoded, as the receiver takes them."""
        antennas = self._use_antennas or range(capture.antennas)
        check_chosen(antennas, capture.antennas, f"capture {capture.recording}")
        profile, factors = self._settings.calibration, [1.0] * len(antennas)
        profiles = () if profile is None else profile.of_antennas(len(antennas))
        if profile is not None:
            profile.check(capture.settings)
        for block in capture_blocks(self._folder, capture):
            # One factor for all blocks of an antenna: that of the first one that needs one.
            heard = [block[number] for number in antennas]
            factors = [
                unit_factor(own) if factor == 1.0 else factor for own, factor in zip(heard, factors, strict=True)
            ]
            block = np.stack(list(map(scaled, heard, factors)))
            block = block.conj() if self._settings.swap_iq else block
            if profiles:
                pairs = zip(block, profiles, strict=True)
                block = np.stack([correct_samples(own, of_it.values) for own, of_it in pairs])
            yield block

    def _decode_batch(
        self, batch: Sequence[tuple[IndexRow, SyncedFrame]], layout: FrameLayout, variants: Sequence[Variant]
    ) -> list[DatasetRow]:
        try:
            measured = self._decoder.measure([frame for _, frame in batch], layout)
        except InputError as error:
            return [row for capture, frame in batch for row in self._failed(capture, variants, str(error), frame)]
        rows: list[DatasetRow] = []
        digest = measured.measurement.codec_digest
        for variant in variants:
            if not decodes(variant, digest, self._bundle):
                chain = chain_of(digest)
                reason = "sent by a JSCC codec" if chain is None else f"sent by {chain.source}-ldpc ({chain.choice})"
                for capture, frame in batch:
                    rows += self._failed(capture, [variant], reason, frame, status="other")
            elif layout.pilot_symbols == 0 and not variant.blind:
                reason = f"layout {layout.name} has no pilots, which {variant.label} needs"
                rows += [row for capture, frame in batch for row in self._failed(capture, [variant], reason, frame)]
            elif reason := antennas_refused(variant, measured.measurement.antennas):
                rows += [row for capture, frame in batch for row in self._failed(capture, [variant], reason, frame)]
            else:
                rows += self._decode_variant(batch, measured, variant)
        return rows

    def _decode_variant(
        self, batch: Sequence[tuple[IndexRow, SyncedFrame]], measured: MeasuredFrames, variant: Variant
    ) -> list[DatasetRow]:
        """Decode a batch by one method; images some of whose frames were not found are failures."""
        settings = self._settings
        generators = [
            frame_generator(capture.recording, frame.start, variant, settings.seed, settings.device)
            for capture, frame in batch
        ]
        images = self._decoder.decode(measured, variant, generators)
        rows_of_frame = measured.measurement.antennas
        carriers = [batch[row // rows_of_frame] for row in measured.measurement.frame_of_image.tolist()]
        rows = [
            self._decoded(capture, frame, variant, image)
            for (capture, frame), image in zip(carriers, images, strict=True)
        ]
        listed = {
            (capture.recording, image)
            for (capture, _), image in zip(carriers, measured.measurement.image_ids, strict=True)
        }
        for capture, frame in batch:
            for image in frame.header.image_ids if frame.header is not None else ():
                if (capture.recording, image) not in listed:
                    rows += self._failed(capture, [variant], "not all of its frames were found", frame, image)
                    listed.add((capture.recording, image))
        return rows
