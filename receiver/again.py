"""Ask for symbols again, and decode images from all that was received.

What is asked for follows from what the receiver knows alone: how well it received each symbol, the error that it
expects of each image, and frames whose numbers are missing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from receiver.acceptance import ACCEPTED_PSNR_DB, LOST_SQUARED_ERROR
from receiver.bundles.bundle import Bundle
from receiver.channel.estimate import ChannelEstimate
from receiver.codecs.side_information import VariableRateCodec
from receiver.decode import BatchDecoder, DecodeSettings, MeasuredFrames, as_received, decode_recording
from receiver.fitting import check_codec, check_pilots, check_shapes, images_at_once
from receiver.measurement.antennas import combined
from receiver.measurement.collect import measure_payloads
from receiver.measurement.combine import Payloads, Received, add_receptions, combined_images
from receiver.results import DecodeResult, FrameReport, ImageResult
from receiver.samplers.variants import Variant, method_variant
from receiver.sync.absence import FramePlace, find_absences
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.errors import ConfigError
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.recordings.recording import Recording
from sdr.repeat_request import RepeatRequest, WantedSymbols, is_answer

MAX_MISSING = 4096
"""Most missing frames that are asked for at once: whatever a header says, a request stays short."""


#: Squared error per pixel from which no image is accepted.
_LEAST_REFUSED = 10 ** (-ACCEPTED_PSNR_DB / 10)


def check_combining(variants: Sequence[Variant], bundle: Bundle, layout: FrameLayout) -> None:
    """Refuse methods and codecs whose receptions are not combined.

    Raises:
        ConfigError: names one, and what to do.
    """
    check_pilots(variants, layout)
    for variant in variants:
        if variant.blind or variant.separation is not None or variant.follow:
            why = "follows moving taps" if variant.follow else "decodes blocks of a channel code"
            why = "does not know the channel" if variant.blind else why
            raise ConfigError(
                f"Method {variant.label!r} {why}, so what is sent again can't be combined symbol by symbol. Use "
                "methods such as jscc or hifi, or leave --retransmit out."
            )
    if isinstance(bundle.codec, VariableRateCodec):
        raise ConfigError(
            f"Images of bundle '{bundle.name}' begin with side information, which is not combined. Use a bundle whose "
            "codec has a fixed rate, or leave --retransmit out."
        )


class AskingReceiver:
    """A receiver that asks for symbols again, and what it has received so far.

    Args:
        layout: of the frames.
        bundle: the models.
        methods: to decode by, see `receiver.samplers.variants.method_variant`; what the first one expects of its images
            says what is asked for.
        settings: of the decoding.

    Raises:
        ConfigError: a method or a codec whose receptions are not combined.
    """

    def __init__(self, layout: FrameLayout, bundle: Bundle, methods: Sequence[str], settings: DecodeSettings) -> None:
        self._variants = [
            method_variant(method, settings.steps, spread=settings.spread, decay=settings.decay) for method in methods
        ]
        check_combining(self._variants, bundle, layout)
        self._layout, self._bundle, self._methods, self._settings = layout, bundle, methods, settings
        self._decoder = BatchDecoder(bundle, settings)
        self._requests: dict[str, RepeatRequest] = {}
        self._frames_asked: frozenset[int] = frozenset()
        self._first_heard = -1
        self._num_samples = 0
        #: Of all recordings, taken for one.
        self.result = DecodeResult((), (), (), (), ())

    def hear(self, recording: Recording, progress: Progress = silent) -> None:
        """Decode a recording; images that it tells of, from all that was received of them.

        Args:
            recording: of what was sent first, or of the answer to the last request.
            progress: called with what is being done, how much is done, and of how much.

        Raises:
            ConfigError: unknown method, or a prior that isn't there.
            ModelError: the images were encoded with another codec than the bundle's.
            RecordingError: the recording's rate is not the layout's.
        """
        if not self._num_samples:
            self.result = decode_recording(
                recording, self._layout, self._bundle, self._methods, self._settings, progress=progress
            )
        else:
            self._add(recording, progress)
        self._num_samples += recording.num_samples

    def ask(self, share: float, *, whole_images: bool = False) -> RepeatRequest:
        """Return a request for the symbols whose expected squared error is largest, and for all lost frames.

        A symbol whose receptions have the SNR w together has the expected squared error 1 / (1 + w). It falls by the
        more with another reception, the larger it is.

        Args:
            share: of all symbols of the images, in (0, 1]; lost frames are part of it, and count as full ones.
            whole_images: ask for all symbols of the images whose expected squared error is largest instead.

        Raises:
            ConfigError: a share out of range.
        """
        if not 0 < share <= 1:
            raise ConfigError(f"A share of {share:g} of all symbols can't be asked for; needed above 0, at most 1.")
        frames = _each_once(self.result.synced)
        numbers = sorted(_number(frame) for frame in frames)
        gaps = itertools.chain.from_iterable(range(low + 1, high) for low, high in itertools.pairwise([-1, *numbers]))
        missing = tuple(itertools.islice((gap for gap in gaps if gap not in self._frames_asked), MAX_MISSING))
        heard = max(numbers, default=-1)
        self._first_heard = self._first_heard if self._requests else heard
        wanted: tuple[WantedSymbols, ...] = ()
        if frames:
            received = self._received(frames, self._variants[0])
            expected = None
            if whole_images:
                method = self._variants[0].label
                expected = {image.id: _squared_error(image) for image in self.result.images if image.method == method}
            lost = sum(number <= self._first_heard for number in missing) * self._layout.capacity
            count = round(share * (sum(each.weight.numel() for each in received.values()) + lost)) - lost
            if count > 0:
                wanted = _choose(received, count, expected)
        request = RepeatRequest(wanted, missing, heard)
        self._requests = {**self._requests, request.digest: request}
        self._frames_asked |= {*missing}
        return request

    def _received(self, frames: Sequence[SyncedFrame], variant: Variant) -> dict[str, Received]:
        measurement, channel = self._decoder.prepared(self._payloads(frames), variant)
        assert channel.h is not None
        return add_receptions(frames, Payloads.of(*combined(measurement, channel.h)), self._requests)

    def _payloads(self, frames: Sequence[SyncedFrame]) -> MeasuredFrames:
        """Measure the payloads of frames with headers, whatever is in them."""
        measurement = measure_payloads(frames, self._layout).to(self._settings.device)
        return MeasuredFrames(tuple(frames), measurement, self._bundle.codec)

    def _add(self, recording: Recording, progress: Progress) -> None:
        before, layout = self.result, self._layout
        recording = as_received(recording, self._settings)
        cut: list[FramePlace] = []
        progress("find frames", 0, 1)
        found = find_frames(recording, layout, max_cfo_hz=self._settings.max_cfo_hz, on_cut=cut.append)
        progress("find frames", 1, 1)
        first = [frame for frame in found if frame.header is not None and not is_answer(frame.header)]
        check_codec(first, self._bundle)
        check_shapes([frame.header for frame in first if frame.header is not None], self._bundle)
        reports = [FrameReport.of(frame, layout, recording.samples) for frame in found]
        reports = [replace(report, start_sample=report.start_sample + self._num_samples) for report in reports]
        found = [replace(frame, start=frame.start + self._num_samples) for frame in found]
        cut = [replace(place, start_sample=place.start_sample + self._num_samples) for place in cut]
        synced = (*before.synced, *found)
        images = self._decoded_anew(
            before, _each_once(synced), {_number(frame) for frame in _each_once(found)}, progress
        )
        self.result = DecodeResult(
            frames=(*before.frames, *reports),
            images=images,
            synced=synced,
            estimates=(*before.estimates, *self._estimates(found)),
            incomplete=tuple(i for i in before.incomplete if i not in {image.id for image in images}),
            absent=tuple(find_absences([FramePlace.of(frame) for frame in synced], cut, layout, from_first=True)),
            seen="" if images else before.seen,
        )

    def _decoded_anew(
        self, before: DecodeResult, frames: Sequence[SyncedFrame], new: set[int], progress: Progress
    ) -> tuple[ImageResult, ...]:
        """Return the images, those that frames with `new` numbers tell of from all receptions.

        Args:
            before: what was decoded so far.
            frames: of all recordings, with headers, each sent at most once.
            new: numbers of those not yet decoded.
            progress: called as images are decoded.
        """
        if not new:
            return before.images
        images: list[ImageResult] = []
        for variant in self._variants:
            received = self._received(frames, variant)
            earlier = self._received([f for f in frames if _number(f) not in new], variant) if before.frames else {}
            more = {
                image_id: each
                for image_id, each in received.items()
                if image_id not in earlier or each.receptions > earlier[image_id].receptions
            }
            decoded = self._decode(more, variant, progress)
            kept = {image.id: image for image in before.images if image.method == variant.label}
            images += {**kept, **decoded}.values()
        return tuple(images)

    def _decode(self, received: Mapping[str, Received], variant: Variant, progress: Progress) -> dict[str, ImageResult]:
        """Decode images from all that was received of them; what did not arrive counts as lost."""
        settings, results = self._settings, {}
        for index, batch in enumerate(_batches(received, settings)):
            combined = combined_images(batch, self._layout)
            codec = self._decoder.codec_for(combined.measurement.image_shape)
            measured = MeasuredFrames(combined.frames, combined.measurement, codec, combined.taps)
            generator = torch.Generator(settings.device).manual_seed(settings.seed + index)
            for image in self._decoder.decode(measured, variant, generator):
                known = batch[image.id]
                results[image.id] = replace(
                    image,
                    cbr=image.cbr * max(known.receptions, 1.0),
                    receptions=known.receptions,
                    frame_number=known.header.frame_number,
                    taps=known.taps.cpu().numpy().astype(np.complex64),
                )
            progress(f"decode ({variant.label})", len(results), len(received))
        return results

    def _estimates(self, frames: Sequence[SyncedFrame]) -> list[ChannelEstimate | None]:
        """Return what the pilots tell of every frame's channel; None without a header."""
        readable = [index for index, frame in enumerate(frames) if frame.header is not None]
        if not readable:
            return [None] * len(frames)
        batch = self._payloads([frames[index] for index in readable])
        estimate = self._decoder.estimate(batch, self._settings.spread, self._settings.decay)
        antennas = batch.measurement.antennas
        rows = {index: estimate.frame(row * antennas) for row, index in enumerate(readable)}
        return [rows.get(index) for index in range(len(frames))]


def _number(frame: SyncedFrame) -> int:
    assert frame.header is not None
    return frame.header.frame_number


def _each_once(frames: Sequence[SyncedFrame]) -> list[SyncedFrame]:
    """Return the frames with headers, of those with one number (a transmission that repeats) the first."""
    found: dict[int, SyncedFrame] = {}
    for frame in frames:
        if frame.header is not None:
            found.setdefault(_number(frame), frame)
    return list(found.values())


def _squared_error(image: ImageResult) -> float:
    """Return the squared error per pixel that what arrived of an image is thought to have.

    An image that does not explain what was received has at least the error from which none is accepted.
    """
    expected = 10 ** (-image.expected_psnr_db / 10) - image.lost * LOST_SQUARED_ERROR
    fits = image.residual <= image.residual_limit
    return max(expected / (1 - image.lost), 0.0 if fits else _LEAST_REFUSED)


def _choose(
    received: Mapping[str, Received], count: int, image_errors: Mapping[str, float] | None
) -> tuple[WantedSymbols, ...]:
    """Return the symbols that are wanted.

    Args:
        received: of the images.
        count: of them, at least 1.
        image_errors: expected squared errors of those that were decoded, where whole images are wanted.
    """
    weights = {image_id: each.weight.cpu().numpy() for image_id, each in received.items()}
    errors = [1 / (1 + weight) for weight in weights.values()]
    if image_errors is not None:
        errors = [
            np.full(weight.size, image_errors.get(image_id, _LEAST_REFUSED)) for image_id, weight in weights.items()
        ]
    error = np.concatenate(errors)
    order, sizes = np.argsort(-error, kind="stable"), [weight.size for weight in weights.values()]
    chosen = np.zeros(error.size, dtype=bool)
    chosen[order[:count]] = True
    marks = dict(zip(weights, np.split(chosen, np.cumsum(sizes)[:-1]), strict=True))
    return tuple(WantedSymbols.of(image_id, mark) for image_id, mark in marks.items() if mark.any())


def _batches(received: Mapping[str, Received], settings: DecodeSettings) -> Iterator[dict[str, Received]]:
    """Yield images of one kind that are decoded together."""
    kinds: dict[object, list[str]] = {}
    for image_id, each in received.items():
        kinds.setdefault(each.kind, []).append(image_id)
    for members in kinds.values():
        most = images_at_once(received[members[0]].header.image_shape, settings.batch_size, settings.draws)
        for first in range(0, len(members), most):
            yield {image_id: received[image_id] for image_id in members[first : first + most]}
