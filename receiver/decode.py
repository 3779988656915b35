"""From a recording to images: find the frames, estimate or infer the channel, sample the posterior.

Nothing but the recording, the layout and the receiver's models enters here; ground truth is scored elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from receiver.acceptance import Assessment, assess, image_results
from receiver.bundles.bundle import Bundle
from receiver.bundles.side_models import load_codebook, load_confidence, load_mixture
from receiver.channel.antennas import combined_estimate
from receiver.channel.estimate import ChannelEstimate
from receiver.channel.pilots import UNFORESEEN_POWER, estimate_channels
from receiver.channel.prior import ChannelPrior, channel_prior
from receiver.codecs.codec import Codec
from receiver.codecs.side_information import VariableRateCodec
from receiver.error_net import ErrorNet
from receiver.fitting import (
    antennas_refused,
    batches_of_images,
    check_codec,
    check_draws,
    check_models,
    check_pilots,
    check_shapes,
    decodes,
    frames_by_codec,
)
from receiver.following import follow, follow_decoded
from receiver.front_end import correct_front_end, in_units
from receiver.lost_frames import with_lost_frames
from receiver.measurement.amplifier import amplifier, with_amplifier
from receiver.measurement.antennas import combined
from receiver.measurement.collect import measure_frames
from receiver.measurement.model import Measurement
from receiver.measurement.side import take_side
from receiver.priors.denoiser import Precision
from receiver.priors.symbols import SymbolMixture
from receiver.results import DecodeResult, FrameReport, ImageResult
from receiver.samplers import Channel, Models, sample
from receiver.samplers.antennas import as_one_antenna
from receiver.samplers.randomness import frame_randomness, image_randomness
from receiver.samplers.variants import Variant, method_variant, sized_settings
from receiver.separation.chain import chain_of
from receiver.separation.results import decode_images
from receiver.sync.absence import Absence, FramePlace, find_absences
from receiver.sync.diagnosis import describe_failure
from receiver.sync.frame import SyncedFrame
from receiver.sync.known import transmitted
from receiver.sync.preamble import MAX_CFO_HZ, find_frames
from receiver.sync.prefix import find_frames_by_prefix
from sdr.calibration_profile import CalibrationProfile
from sdr.errors import ConfigError, InputError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.recordings.recording import Recording
from sdr.repeat_request import is_answer

#: Most images that are decoded at once, and most draws of one.
MAX_BATCH = 65536
MAX_DRAWS = 4096


@dataclass(frozen=True)
class DecodeSettings:
    """What, apart from samples, models and methods, decoded images depend on.

    Args:
        steps: reverse steps; each method's own where None.
        seed: of the samplers' noise.
        device: torch device that the models run on.
        batch_size: images decoded together (whole frames, so it may be exceeded by a frame's images); each draw counts.
        draws: samples of the posterior per image.
        spread: taps of the channel's prior, see :func:`receiver.channel.prior.channel_prior`.
        decay: time constant of that prior, samples.
        calibration: profile of the radios: prior of the channel, amplifier, the receiver's offset and image.
        precision: that the prior computes in.
        max_cfo_hz: largest carrier offset that is searched.
        swap_iq: the samples hold Q as the real part and I as the imaginary one: the spectrum is mirrored.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int | None = None
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 64
    draws: int = 1
    spread: int = 8
    decay: float = 4.0
    calibration: CalibrationProfile | None = None
    precision: Precision = "auto"
    max_cfo_hz: float = MAX_CFO_HZ
    swap_iq: bool = False

    def __post_init__(self) -> None:
        for name, least, most in (("seed", 0, 2**63 - 1), ("batch_size", 1, MAX_BATCH), ("draws", 1, MAX_DRAWS)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} = {getattr(self, name)} must be in {least}..{most}.")
        if not 0 < self.max_cfo_hz <= 1e9:
            raise ConfigError(f"max_cfo_hz = {self.max_cfo_hz:g} must lie above 0 and be at most 1e9.")
        if self.precision not in get_args(Precision):
            known = ", ".join(get_args(Precision))
            raise ConfigError(f"precision = {self.precision!r} must be one of {known}.")


def decode_recording(
    recording: Recording,
    layout: FrameLayout,
    bundle: Bundle,
    methods: Sequence[str] = ("hifi",),
    settings: DecodeSettings = DecodeSettings(),  # frozen
    *,
    headers: Sequence[FrameHeader] | None = None,
    progress: Progress = silent,
) -> DecodeResult:
    """Decode every image of a recording with each of `methods`.

    Args:
        methods: see :func:`receiver.samplers.variants.method_variant`.
        headers: of the frames sent; then frames are found by their cyclic prefix, and no preamble or header is read.
        progress: called with what is being done, how much is done, and of how much.

    Raises:
        ConfigError: unknown method, or one that needs pilots on a layout without any, or a prior that isn't there, or
            one that takes one antenna where there are several.
        ModelError: the images were encoded with another codec than the bundle's.
        RecordingError: the recording's rate is not the layout's.
        CalibrationError: the calibration is of another radio, rate or band, or of another number of antennas.
    """
    variants = [
        method_variant(method, settings.steps, spread=settings.spread, decay=settings.decay) for method in methods
    ]
    check_pilots(variants, layout)
    check_models(variants, bundle)
    progress("find frames", 0, 1)
    recording = as_received(recording, settings)
    cut: list[FramePlace] = []
    if headers is None:
        synced = find_frames(recording, layout, max_cfo_hz=settings.max_cfo_hz, on_cut=cut.append)
    else:
        synced = find_frames_by_prefix(recording, layout, headers)
    progress("find frames", 1, 1)
    # What a receiver has asked for means nothing without its request.
    readable = [frame for frame in synced if frame.header is not None and not is_answer(frame.header)]
    seen = ""
    if not readable:
        search = {"max_cfo_hz": settings.max_cfo_hz, "swapped": settings.swap_iq}
        seen = describe_failure(recording.samples, layout, synced, cut, **search)
    check_codec(readable, bundle)
    check_shapes([frame.header for frame in readable if frame.header is not None], bundle)
    places = [FramePlace.of(frame) for frame in synced]
    found = _Found({variant.label: [] for variant in variants})
    decoder = BatchDecoder(bundle, settings)
    for digest, frames in frames_by_codec(with_lost_frames(readable, layout)).items():
        # Of frames that no method decodes the channel is estimated nevertheless.
        fitting = [variant for variant in variants if decodes(variant, digest, bundle)]
        _decode_frames(frames, layout, decoder, fitting, found, progress)
    return DecodeResult(
        frames=tuple(FrameReport.of(frame, layout, recording.samples) for frame in synced),
        images=tuple(image for variant in variants for image in found.images[variant.label]),
        synced=tuple(synced),
        estimates=tuple(found.estimates.get(frame.start) for frame in synced),
        incomplete=tuple(dict.fromkeys(found.incomplete)),
        absent=(*find_absences(places, cut, layout, from_first=True), *_not_found(synced, headers)),
        seen=seen,
    )


def as_received(recording: Recording, settings: DecodeSettings) -> Recording:
    """Return the recording in units of about 1, with I and Q in their places, its front end corrected."""
    if settings.calibration is not None:
        settings.calibration.of_antennas(len(recording.antennas))
        settings.calibration.check(recording.settings)
    recording = in_units(recording)
    if settings.swap_iq:
        others = tuple(other.conj() for other in recording.others)
        recording = replace(recording, samples=recording.samples.conj(), others=others)
    if settings.calibration is None:
        return recording
    profiles = settings.calibration.of_antennas(len(recording.antennas))
    return correct_front_end(recording, [profile.values for profile in profiles])


def _not_found(frames: Sequence[SyncedFrame], headers: Sequence[FrameHeader] | None) -> tuple[Absence, ...]:
    """Return what is missing behind the last frame, where the headers of all frames are known."""
    last = max((frame.header.frame_number for frame in frames if frame.header is not None), default=-1)
    behind = [header.frame_number for header in headers or () if header.frame_number > last]
    reason = f"{len(behind)} frames that were sent behind the last one found are missing; record longer"
    return (Absence(reason, behind[0]),) if behind else ()


@dataclass
class _Found:
    """Images by label of their variant, channel estimates by `SyncedFrame.start`, ids of incomplete images."""

    images: dict[str, list[ImageResult]]
    estimates: dict[int, ChannelEstimate] = field(default_factory=dict)
    incomplete: list[str] = field(default_factory=list)


def _decode_frames(
    frames: Sequence[SyncedFrame],
    layout: FrameLayout,
    decoder: BatchDecoder,
    variants: Sequence[Variant],
    found: _Found,
    progress: Progress,
) -> None:
    """Decode frames with headers of one codec, batch by batch, into `found`."""
    settings = decoder.settings
    batches = list(batches_of_images(((frame, frame) for frame in frames), settings.batch_size, settings.draws))
    for index, batch in enumerate(batches):
        try:
            measured = decoder.measure(batch, layout)
        except InputError:
            # Nothing but parts of images: told as incomplete, the other batches are not lost.
            found.incomplete += [i for frame in batch if frame.header is not None for i in frame.header.image_ids]
            continue
        found.incomplete += measured.measurement.incomplete
        if layout.pilot_symbols:
            estimate = decoder.estimate(measured, settings.spread, settings.decay)
            rows = range(0, measured.measurement.num_frames, measured.measurement.antennas)
            found.estimates |= {frame.start: estimate.frame(row) for row, frame in zip(rows, batch, strict=True)}
        for variant in variants:
            evaluations = variant.settings.evaluations
            before, total = index * evaluations, len(batches) * evaluations

            def on_step(step: int, x0_hat: Tensor, label=variant.label, before=before, total=total) -> None:
                progress(f"decode ({label})", before + step + 1, total)

            generator = torch.Generator(settings.device).manual_seed(settings.seed + index)
            found.images[variant.label] += decoder.decode(measured, variant, generator, on_step)
            progress(f"decode ({variant.label})", before + evaluations, total)


@dataclass(frozen=True, eq=False)
class MeasuredFrames:
    """A batch of frames with headers, measured.

    Attributes:
        frames: at least one.
        measurement: of their complete images, without any amplifier; side information is taken out.
        codec: of the images, with the side information that was received.
        taps: (F, L) complex, of channels that are known; None: the pilots tell them.
    """

    frames: tuple[SyncedFrame, ...]
    measurement: Measurement
    codec: Codec
    taps: Tensor | None = None


class BatchDecoder:
    """Decode frames batch by batch: what decoding a recording and decoding a dataset share.

    Args:
        bundle: the models.
        settings: where they run, draws, calibration.
    """

    def __init__(self, bundle: Bundle, settings: DecodeSettings = DecodeSettings()) -> None:  # frozen
        self.settings = settings
        self._bundle = bundle.to(settings.device).at_precision(settings.precision)

    @cached_property
    def _codebook(self) -> Tensor | None:
        return load_codebook(self._bundle.path, self._bundle.accepted_shape, self.settings.device)

    @cached_property
    def _mixture(self) -> SymbolMixture | None:
        return load_mixture(self._bundle.path, self._bundle.codec, self.settings.device)

    @cached_property
    def _error_net(self) -> ErrorNet | None:
        return load_confidence(self._bundle.path, self._bundle.codec, self.settings.device)

    def measure(self, frames: Sequence[SyncedFrame], layout: FrameLayout) -> MeasuredFrames:
        """Measure frames of one layout, all with headers; those of one image where it has side information.

        Raises:
            InputError: no image is complete, the headers tell of different kinds of images, or side information was
                not received.
        """
        measurement = measure_frames(frames, layout)
        codec = self.codec_for(measurement.image_shape)
        if isinstance(codec, VariableRateCodec):
            data, measurement = take_side(frames, measurement)
            codec = codec.given(codec.read_side(data))
            if codec.num_symbols != measurement.num_symbols:
                raise InputError(
                    f"The side information of image {measurement.image_ids[0]} tells of {codec.num_symbols} symbols, "
                    f"the header of {measurement.num_symbols}. Use the transmitter's version."
                )
        return MeasuredFrames(tuple(frames), measurement.to(self.settings.device), codec)

    def codec_for(self, shape: tuple[int, int, int]) -> Codec:
        """Return the codec for images (C, H, W)."""
        return self._bundle.for_shape(shape).codec

    def estimate(self, batch: MeasuredFrames, spread: int = 8, decay: float = 4.0) -> ChannelEstimate:
        """Estimate the channels from the pilots.

        Raises:
            ConfigError: the layout has no pilots.
        """
        layout, profiles = batch.measurement.layout, self._profiles(batch)
        curve = amplifier(self.settings.calibration, layout)
        prior = channel_prior(layout, spread, decay, profiles)
        known = (
            transmitted(layout.pilots, layout, curve) if curve is not None or layout.clip_ratio is not None else None
        )
        measured = bool(profiles) and all(profile.pdp is not None for profile in profiles)
        unforeseen = 0.0 if measured else UNFORESEEN_POWER
        return estimate_channels(batch.measurement, prior, known, unforeseen)

    def decode(
        self,
        batch: MeasuredFrames,
        variant: Variant,
        generator: torch.Generator | Sequence[torch.Generator],
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> list[ImageResult]:
        """Decode the images of a batch, in the order of its measurement, shown by their first draw.

        Args:
            generator: of the sampler's noise, one or one per frame; see :func:`receiver.samplers.sample`.

        Raises:
            ConfigError: more draws of an image than memory is meant for.
        """
        check_draws(self.settings.draws, batch.measurement.image_shape)
        measurement, channel = self.prepared(batch, variant)
        if variant.separation is not None:
            return self._decode_blocks(batch, measurement, variant, generator)
        began = time.perf_counter()
        models, settings = self._models(batch, variant), sized_settings(variant.settings, measurement.image_shape)
        method, measurement, channel = as_one_antenna(variant.method, measurement, channel, models, settings, generator)
        posterior = sample(
            method,
            measurement,
            channel,
            models,
            generator,
            settings=settings,
            draws=self.settings.draws,
            on_step=on_step,
        )
        of_frames = frame_randomness(generator, self.settings.draws)
        assessment: Assessment = assess(posterior, batch.codec, of_frames, self._error_net)
        seconds = (time.perf_counter() - began) / measurement.num_images
        return image_results(variant.label, batch.frames, measurement, posterior, assessment, seconds)

    def _decode_blocks(
        self,
        batch: MeasuredFrames,
        measurement: Measurement,
        variant: Variant,
        generator: torch.Generator | Sequence[torch.Generator],
    ) -> list[ImageResult]:
        chain = chain_of(measurement.codec_digest)
        assert chain is not None and variant.separation is not None
        estimate = self.estimate(batch, variant.spread, variant.decay)
        heard, taps = combined(measurement, torch.from_numpy(estimate.taps.astype(np.complex64)).to(measurement.y))
        estimate = combined_estimate(measurement, estimate, taps.cpu().numpy())
        refining = None
        if variant.separation.refined:
            denoiser = self._bundle.for_shape(measurement.image_shape).required_denoiser
            refining = denoiser, image_randomness(frame_randomness(generator), heard.frame_of_image)
        return decode_images(variant.label, chain, batch.frames, heard, estimate, refining)

    def prepared(self, batch: MeasuredFrames, variant: Variant) -> tuple[Measurement, Channel]:
        """Return the measurement with the forward operator of a variant, and what is known of the channel.

        Raises:
            ConfigError: the variant takes one antenna, and there are several.
        """
        if reason := antennas_refused(variant, batch.measurement.antennas):
            raise ConfigError(reason)
        layout, calibration = batch.measurement.layout, self.settings.calibration
        # Receptions that were put together are of one antenna, whatever they came from, and their taps are known.
        profiles = self._profiles(batch) if batch.taps is None else ()
        prior = channel_prior(layout, variant.spread, variant.decay, profiles)
        prior = ChannelPrior(prior.power.to(self.settings.device))
        if batch.taps is not None:
            return batch.measurement, Channel(prior, batch.taps)
        beyond_prefix = prior.num_taps > layout.cp_samples + 1
        # Blind methods solve for the channel per carrier, where no symbol reaches into the next.
        through_time = (layout.clip_ratio is not None or beyond_prefix) and not (variant.blind and beyond_prefix)
        measurement = replace(batch.measurement, mode=variant.mode or ("time" if through_time else "frequency"))
        measurement = with_amplifier(measurement, amplifier(calibration, layout))
        if variant.follow and (followed := follow(batch.frames, measurement, prior)) is not None:
            if variant.blind:
                # All that is used of known symbols is how fast the taps move.
                return followed.plain, Channel(ChannelPrior(followed.prior.power))
            followed = follow_decoded(followed, batch.codec)
            # The antennas' taps are kept once they are combined.
            of_taps = followed.prior if measurement.antennas == 1 else prior
            return followed.measurement, Channel(of_taps, followed.h)
        if variant.blind:
            return measurement, Channel(prior)
        taps = self.estimate(batch, variant.spread, variant.decay).taps.astype(np.complex64)
        return measurement, Channel(prior, torch.from_numpy(taps).to(self.settings.device))

    def _profiles(self, batch: MeasuredFrames) -> tuple[CalibrationProfile, ...]:
        """Return the calibration of each antenna, nothing without one."""
        calibration = self.settings.calibration
        return () if calibration is None else calibration.of_antennas(batch.measurement.antennas)

    def _models(self, batch: MeasuredFrames, variant: Variant) -> Models:
        denoiser = self._bundle.for_shape(batch.measurement.image_shape).denoiser
        starts = (self._codebook, self._mixture) if variant.blind else (None, None)
        return Models(batch.codec, denoiser, *starts, self._error_net)
