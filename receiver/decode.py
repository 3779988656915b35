"""From a recording to images: find the frames, estimate or infer the channel, sample the posterior.

Nothing but the recording, the layout and the receiver's models enters here; ground truth is scored elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.bundles import Bundle
from receiver.calibrated import amplifier, correct_front_end, sent_pilots, with_amplifier
from receiver.channel import ChannelEstimate, lmmse_estimate, receiver_pdp
from receiver.codebook import load_codebook
from receiver.confidence import load_confidence
from receiver.cp_sync import find_frames_by_prefix
from receiver.data import MAX_PIXELS
from receiver.measurement import Measurement, Mode
from receiver.samplers import METHODS, Channel, MethodSettings, sample
from receiver.samplers.blind import ChannelPrior
from receiver.samplers.confidence import ErrorNet, residual_limit
from receiver.samplers.mixture import SymbolMixture
from receiver.side_models import load_mixture
from receiver.sync import SyncedFrame, find_frames, timing_advance
from sdr.calibration_profile import CalibrationProfile
from sdr.errors import ConfigError, InputError, ModelError, did_you_mean
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

#: Called as ``progress(description, done, total)``.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class FrameReport:
    """What the receiver found out about one frame.

    Attributes:
        start_sample: first sample of the frame in the recording.
        cfo_hz: carrier frequency offset.
        snr_db: received signal to noise per active carrier.
        header_ok: the header's checksum was right.
        frame_number: from the header, None without one.
        metric: detection metric in [0, 1].
        noise_var: per carrier, in units of the recording.
        cfo_std_hz, snr_std_db, noise_var_std: standard errors of those estimates.
        drift_ppm, drift_std_ppm: sampling-clock offset that was measured, parts per million, and its standard error.
        corrected_drift_ppm: what was corrected.
        evm_db: error vector magnitude of the header, known symbols once it is read.
        papr_db: peak over mean power of the frame's samples as received.
        phase_rms_rad: rms common phase that was taken from the data symbols. phase_jitter_rad: rms phase of the header.
        phase_residual_rad, timing_residual_samples: standard errors of phase and delay left in a data symbol.
    """

    start_sample: int
    cfo_hz: float
    snr_db: float
    header_ok: bool
    frame_number: int | None
    metric: float
    noise_var: float
    cfo_std_hz: float
    snr_std_db: float
    noise_var_std: float
    drift_ppm: float
    drift_std_ppm: float
    corrected_drift_ppm: float
    evm_db: float
    papr_db: float
    phase_rms_rad: float
    phase_jitter_rad: float
    phase_residual_rad: float
    timing_residual_samples: float

    @classmethod
    def of(cls, frame: SyncedFrame, layout: FrameLayout, samples: NDArray[np.complex64]) -> FrameReport:
        """The report of a frame found in a capture (n,)."""
        first = frame.start + frame.advance
        power = np.abs(samples[max(first, 0) : first + layout.num_symbols * layout.symbol_samples]) ** 2
        return cls(
            start_sample=first,
            cfo_hz=frame.cfo_hz,
            snr_db=frame.snr_db,
            header_ok=frame.header_ok,
            frame_number=None if frame.header is None else frame.header.frame_number,
            metric=frame.metric,
            noise_var=frame.noise_var,
            cfo_std_hz=frame.cfo_std_hz,
            snr_std_db=frame.snr_std_db,
            noise_var_std=frame.noise_var_std,
            drift_ppm=frame.drift_ppm,
            drift_std_ppm=frame.drift_std_ppm,
            corrected_drift_ppm=frame.corrected_drift_ppm,
            evm_db=frame.evm_db,
            papr_db=float(10 * np.log10(power.max() / power.mean())),
            phase_rms_rad=float(np.sqrt(np.mean(frame.phase_rad[layout.pilot_symbols :] ** 2))),
            phase_jitter_rad=frame.phase_jitter_rad,
            phase_residual_rad=frame.phase_residual_rad,
            timing_residual_samples=frame.timing_residual_samples,
        )


@dataclass(frozen=True)
class ImageResult:
    """One decoded image.

    Attributes:
        id: from the header.
        method: name in :data:`receiver.samplers.METHODS`.
        residual: ||y - W_h(E(x))||^2 / (K noise_var), about 1 for a right answer.
        residual_std: its standard deviation for right answers, whose mean is 1; see :func:`expected_residual_std`.
        residual_limit: the largest one accepted.
        expected_psnr_db: what the image is likely to have, see :mod:`receiver.samplers.confidence`.
        accepted: the residual is no larger than noise explains, and `expected_psnr_db` no less than `ACCEPTED_PSNR_DB`;
            needs no ground truth.
        seconds: wall time of the batch divided by its images.
        image: (C, H, W) float32 in [0, 1]; the first draw where there are several.
        frame_number: the (first) frame that carried it.
        start_sample: `SyncedFrame.start` of that frame.
        taps: (L,) complex, the channel that it was decoded with, in the measurement's units (E||h||^2 = 1).
        mean, spread: (C, H, W) mean and standard deviation of the draws, None where there is but one.
    """

    id: str
    method: str
    residual: float
    residual_std: float
    residual_limit: float
    expected_psnr_db: float
    accepted: bool
    seconds: float
    image: NDArray[np.float32]
    frame_number: int
    start_sample: int
    taps: NDArray[np.complex64]
    mean: NDArray[np.float32] | None = None
    spread: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class DecodeResult:
    """Everything decoded from one recording.

    Attributes:
        frames: every frame found, in order.
        images: per method and image, in the order of the methods asked for.
        synced: the synchronised frames behind ``frames``.
        estimates: pilot LMMSE estimate per frame that has a header (None for layouts without pilots).
        incomplete: ids of images some of whose frames were not found.
    """

    frames: tuple[FrameReport, ...]
    images: tuple[ImageResult, ...]
    synced: tuple[SyncedFrame, ...]
    estimates: tuple[ChannelEstimate | None, ...]
    incomplete: tuple[str, ...]


#: Least expected PSNR that is accepted.
ACCEPTED_PSNR_DB = 15.0


def expected_residual_std(frame: SyncedFrame, num_symbols: int) -> float:
    """Standard deviation of the normalised residual of a right answer, whose mean is 1.

    For the image that was sent the residual is a chi-square variable over its 2 K degrees of freedom. So it is for a
    draw from the posterior, which is to `y` what the image sent is. The noise variance that it is divided by has an
    error of its own.
    """
    return (1 / num_symbols + (frame.noise_var_std / frame.noise_var) ** 2) ** 0.5


def channel_prior(
    layout: FrameLayout, spread: int = 8, decay: float = 4.0, calibration: CalibrationProfile | None = None
) -> ChannelPrior:
    """The receiver's prior of the taps: an exponential profile behind a synchroniser that may be a sample or two off.

    Args:
        spread: taps of the profile; decay: its time constant, samples.
        calibration: whose measured profile and timing take its place, as far as they are sure.
    """
    advance = timing_advance(layout)
    power = receiver_pdp(advance + spread + 1, advance, decay, spread)
    if calibration is not None and calibration.pdp is not None:
        power = calibration.pdp.prior(advance, power)
    # A tap that the profile rules out would otherwise make the prior's precision infinite.
    return ChannelPrior(torch.from_numpy(np.maximum(power, 1e-4)).to(torch.float32))


#: Share of the channel's power that pilots may find at delays of the prefix which the prior leaves empty. Pilots are
#: many more than taps, so it costs nothing measurable where the prior is right, and saves 3 dB of PSNR where it is half
#: as long as the channel.
UNFORESEEN_POWER = 0.03


def estimate_channels(
    measurement: Measurement,
    prior: ChannelPrior,
    known: NDArray[np.complex128] | None = None,
    unforeseen: float = UNFORESEEN_POWER,
) -> ChannelEstimate:
    """LMMSE from the pilot symbols of every frame, in the measurement's units.

    Args:
        known: (P, N) what was sent as pilots, the layout's unless given.
        unforeseen: least share of the power that all taps within the prefix have together, evenly.

    Raises:
        ConfigError: the layout has no pilots.
    """
    if measurement.layout.pilot_symbols == 0:
        raise ConfigError(
            f"Layout '{measurement.layout.name}' has no pilots to estimate the channel from: use --method blind."
        )
    power = prior.power.cpu().double().numpy()
    if unforeseen > 0:
        taps = max(power.size, measurement.layout.cp_samples + 1)
        power = np.maximum(np.pad(power, (0, taps - power.size)), unforeseen / taps)
    return lmmse_estimate(
        measurement.pilots.cpu().numpy(),
        measurement.layout,
        measurement.noise_var.cpu().double().numpy(),
        pdp=power / power.sum(),
        known=known,
    )


T = TypeVar("T")

#: Pixels decoded at once, but for a single image: what a sampler keeps for a gradient grows with them.
BATCH_PIXELS = 2_000_000


def batches_of_images(frames: Iterable[tuple[T, SyncedFrame]], batch_size: int, draws: int = 1) -> Iterator[list[T]]:
    """Items in groups of about `batch_size` images of one shape, by the frame beside each; every draw counts.

    They are cut only where a new image begins.
    """
    batch: list[T] = []
    images, shape = 0, None
    for item, frame in frames:
        header = frame.header
        assert header is not None
        begins = header.symbol_offset == 0
        most = min(batch_size, BATCH_PIXELS // (header.image_shape[1] * header.image_shape[2])) // draws
        if batch and (header.image_shape != shape or (begins and images >= max(1, most))):
            yield batch
            batch, images = [], 0
        batch.append(item)
        shape = header.image_shape
        images += len(header.image_ids) if begins else 0
    if batch:
        yield batch


def _check_codec(frames: Sequence[SyncedFrame], bundle: Bundle) -> None:
    strangers = {f.header.codec_digest for f in frames if f.header is not None} - {bundle.codec.digest[:8]}
    if strangers:
        raise ModelError(
            f"The images were encoded by codec {', '.join(sorted(strangers))}, bundle '{bundle.name}' has "
            f"{bundle.codec.digest[:8]}. Give the bundle that was used to transmit with --bundle."
        )


@dataclass(frozen=True)
class Variant:
    """A method with its own settings and those of its forward operator.

    Attributes:
        label: as it was asked for, such as "hifi:zeta=0.5,mode=time". method: name in `METHODS`.
        settings: of the sampler.
        spread, decay: prior of the channel, see :func:`channel_prior`.
        mode: of the forward operator, see :class:`receiver.measurement.Measurement`; None: per carrier where that is
            exact, else through time.
    """

    label: str
    method: str
    settings: MethodSettings
    spread: int = 8
    decay: float = 4.0
    mode: Mode | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.spread <= 256 or not 0 < self.decay <= 1e6:
            raise ConfigError(f"{self.label}: spread = {self.spread} must be 1..256, decay = {self.decay} above 0.")
        if self.mode not in (None, "frequency", "time"):
            raise ConfigError(f"{self.label}: mode must be frequency or time, found {self.mode!r}.")
        if self.mode == "time" and self.blind:
            raise ConfigError(f"{self.label}: blind methods solve for the channel in the frequency domain only.")

    @property
    def blind(self) -> bool:
        """Whether it must do without pilots."""
        return METHODS[self.method].blind


_OPERATOR_KINDS = {"spread": "int", "decay": "float", "mode": "str"}


def method_variant(text: str, steps: int | None = None, **operator: Any) -> Variant:
    """A method by name, or with settings: "NAME:KEY=VALUE,..".

    Keys are those of `MethodSettings`, and spread, decay and mode of `Variant`.

    Args:
        steps: reverse steps, unless `text` gives them. operator: spread, decay and mode, unless `text` gives them.

    Raises:
        ConfigError: unknown method or key, or a bad value.

    >>> method_variant("hifi:steps=50,decay=2").settings.steps
    50
    """
    name, _, options = text.partition(":")
    kinds = {item.name: str(item.type) for item in fields(MethodSettings)} | _OPERATOR_KINDS
    given: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in kinds:
            raise ConfigError(f"{text}: no setting is called {key!r}; {did_you_mean(key, kinds)}")
        try:
            given[key] = _PARSERS[kinds[key]](value)
        except (ValueError, KeyError):
            raise ConfigError(f"{text}: {key} must be {kinds[key]}, found {value!r}.") from None
    settings = method_settings(name, given.pop("steps", steps))
    operator |= {key: given.pop(key) for key in _OPERATOR_KINDS if key in given}
    return Variant(text, name, replace(settings, **given), **operator)


_PARSERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
}


@dataclass(frozen=True, eq=False)
class MeasuredFrames:
    """A batch of frames with headers, measured.

    Attributes:
        frames: at least one. measurement: of their complete images, without any amplifier.
    """

    frames: tuple[SyncedFrame, ...]
    measurement: Measurement


class BatchDecoder:
    """From frames to images, batch by batch: what decoding a recording and decoding a dataset share.

    Args:
        bundle: the models. device: where they run.
        calibration: profile of the radios: prior of the channel, amplifier.
    """

    def __init__(
        self, bundle: Bundle, device: str | torch.device = "cpu", calibration: CalibrationProfile | None = None
    ) -> None:
        self._device, self._calibration = device, calibration
        self._bundle = bundle.to(device)

    @cached_property
    def _codebook(self) -> Tensor | None:
        return load_codebook(self._bundle.path, self._bundle.takes, self._device)

    @cached_property
    def _mixture(self) -> SymbolMixture | None:
        return load_mixture(self._bundle.path, self._bundle.codec, self._device)

    @cached_property
    def _error_net(self) -> ErrorNet | None:
        return load_confidence(self._bundle.path, self._bundle.codec, self._device)

    def measure(self, frames: Sequence[SyncedFrame], layout: FrameLayout) -> MeasuredFrames:
        """Measure frames of one layout, all with headers.

        Raises:
            InputError: no image is complete, or the headers tell of different kinds of images.
        """
        return MeasuredFrames(tuple(frames), Measurement.from_frames(frames, layout).to(self._device))

    def estimate(self, batch: MeasuredFrames, spread: int = 8, decay: float = 4.0) -> ChannelEstimate:
        """The channels from the pilots.

        Raises:
            ConfigError: the layout has no pilots.
        """
        layout = batch.measurement.layout
        curve = amplifier(self._calibration, layout)
        prior = channel_prior(layout, spread, decay, self._calibration)
        known = sent_pilots(layout, curve) if curve is not None or layout.clip_ratio is not None else None
        unforeseen = UNFORESEEN_POWER if self._calibration is None or self._calibration.pdp is None else 0.0
        return estimate_channels(batch.measurement, prior, known, unforeseen)

    def decode(
        self,
        batch: MeasuredFrames,
        variant: Variant,
        generator: torch.Generator | Sequence[torch.Generator],
        draws: int = 1,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> list[ImageResult]:
        """The images of a batch, in the order of its measurement, shown by their first draw.

        Args:
            generator: of the sampler's noise, one or one per frame; see :func:`receiver.samplers.sample`.
        """
        layout = batch.measurement.layout
        prior = channel_prior(layout, variant.spread, variant.decay, self._calibration)
        prior = ChannelPrior(prior.power.to(self._device))
        beyond_prefix = prior.num_taps > layout.cp_samples + 1
        # Blind methods solve for the channel per carrier, where no symbol reaches into the next.
        through_time = (layout.clip_ratio is not None or beyond_prefix) and not (variant.blind and beyond_prefix)
        measurement = replace(batch.measurement, mode=variant.mode or ("time" if through_time else "frequency"))
        measurement = with_amplifier(measurement, amplifier(self._calibration, layout))
        h = None
        if not variant.blind:
            taps = self.estimate(batch, variant.spread, variant.decay).taps.astype(np.complex64)
            h = torch.from_numpy(taps).to(self._device)
        models = self._bundle.at(measurement.image_shape)
        began = time.perf_counter()
        posterior = sample(
            variant.method,
            measurement,
            codec=models.codec,
            denoiser=models.prior,
            channel=Channel(prior, h),
            encoder_csnr_db=measurement.csnr_db,
            generator=generator,
            settings=sized_settings(variant.settings, measurement.image_shape),
            codebook=self._codebook if variant.blind else None,
            mixture=self._mixture if variant.blind else None,
            error_net=self._error_net,
            on_step=on_step,
            draws=draws,
        )
        seconds = (time.perf_counter() - began) / measurement.num_images
        x, h = posterior.x[: measurement.num_images], posterior.h[: measurement.num_frames]
        residual = posterior.residual.tolist()
        expected_psnr_db = (-10 * posterior.expected_squared_error.clamp(min=1e-10).log10()).tolist()
        shown = x.cpu().numpy().astype(np.float32)
        taps = h.cpu().numpy().astype(np.complex64)
        mean = posterior.mean.cpu().numpy() if draws > 1 else None
        spread = posterior.spread.cpu().numpy() if draws > 1 else None
        noise_var = measurement.noise_var.tolist()
        images = []
        for index, place in enumerate(measurement.frame_of_image.tolist()):
            frame = batch.frames[place]
            assert frame.header is not None
            limit = residual_limit(measurement.num_symbols, noise_var[place])
            images.append(
                ImageResult(
                    id=measurement.image_ids[index],
                    method=variant.label,
                    residual=residual[index],
                    residual_std=expected_residual_std(frame, measurement.num_symbols),
                    residual_limit=limit,
                    expected_psnr_db=expected_psnr_db[index],
                    accepted=residual[index] <= limit and expected_psnr_db[index] >= ACCEPTED_PSNR_DB,
                    seconds=seconds,
                    image=shown[index],
                    frame_number=frame.header.frame_number,
                    start_sample=frame.start,
                    taps=taps[place],
                    mean=None if mean is None else mean[index],
                    spread=None if spread is None else spread[index],
                )
            )
        return images


def check_shapes(headers: Iterable[FrameHeader], bundle: Bundle) -> None:
    """Refuse images that the codec can't have made, whatever the headers say.

    Raises:
        ModelError: one of them.
    """
    for shape, count in {(header.image_shape, header.symbols_per_image) for header in headers}:
        if shape[1] * shape[2] > MAX_PIXELS or bundle.at(shape).codec.num_symbols != count:
            raise ModelError(
                f"A header tells of an image of {shape[2]}x{shape[1]} pixels in {count} symbols, which bundle "
                f"'{bundle.name}' does not make. Give the bundle that was used to transmit with --bundle."
            )


def check_prior(variants: Iterable[Variant], bundle: Bundle) -> None:
    """Refuse methods that need a prior where there is none.

    Raises:
        ConfigError: names one, and the methods that need none.
    """
    for variant in variants:
        if bundle.prior is None and METHODS[variant.method].prior:
            without = ", ".join(name for name, known in METHODS.items() if not known.prior)
            raise ConfigError(
                f"Bundle '{bundle.name}' has no prior, which {variant.method} needs; use --method {without}."
            )


def method_settings(method: str, steps: int | None = None) -> MethodSettings:
    """A method's default settings, with another number of steps where given.

    The measurement strength goes with the number of steps as it was found to: about steps ** -0.4.

    Raises:
        ConfigError: unknown method or a bad number of steps.
    """
    if method not in METHODS:
        raise ConfigError(f"There is no method {method!r}; use one of {', '.join(METHODS)}.")
    settings = METHODS[method].settings
    if steps is None:
        return settings
    if steps < 1:
        raise ConfigError(f"Found {steps} steps; at least 1 is needed.")
    factor = (settings.steps / steps) ** 0.4
    return replace(settings, steps=steps, zeta=settings.zeta * factor, gamma=settings.gamma * factor)


def sized_settings(settings: MethodSettings, shape: tuple[int, int, int]) -> MethodSettings:
    """Settings made on 32x32 pixels for images (C, H, W): the strengths go with the fourth root of the pixels.

    Found on photographs of 256x256: with the square root, as the gradient of a norm asks for, HiFi-DiffCom fitted the
    noise (normalised residual 0.34, and grain in every smooth part); so it is 0.9.
    """
    factor = (shape[1] * shape[2] / _SETTINGS_PIXELS) ** 0.25
    return replace(settings, zeta=settings.zeta * factor, gamma=settings.gamma * factor)


#: Pixels of the images that the methods' settings were found on.
_SETTINGS_PIXELS = 32 * 32


def decode_recording(
    recording: Recording,
    layout: FrameLayout,
    bundle: Bundle,
    methods: Sequence[str] = ("hifi",),
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    draws: int = 1,
    spread: int = 8,
    decay: float = 4.0,
    calibration: CalibrationProfile | None = None,
    headers: Sequence[FrameHeader] | None = None,
    progress: Progress | None = None,
) -> DecodeResult:
    """Decode every image of a recording with each of `methods`.

    Args:
        methods: see :func:`method_variant`.
        steps: reverse steps; each method's own where None.
        seed: of the samplers' noise.
        batch_size: images decoded together (whole frames, so it may be exceeded by a frame's images); each draw counts.
        draws: samples of the posterior per image.
        spread, decay: prior of the channel, see :func:`channel_prior`.
        calibration: profile of the radios: prior of the channel, amplifier, the receiver's offset and image.
        headers: of the frames sent; then frames are found by their cyclic prefix, and no preamble or header is read.
        progress: called with what is being done, how much is done, and of how much.

    Raises:
        ConfigError: unknown method, or one that needs pilots on a layout without any, or a prior that isn't there.
        ModelError: the images were encoded with another codec than the bundle's.
        RecordingError: the recording's rate is not the layout's.
        CalibrationError: the calibration is of another radio, rate or band.
    """
    chosen = [method_variant(method, steps, spread=spread, decay=decay) for method in methods]
    for variant in chosen:
        if not variant.blind and layout.pilot_symbols == 0:
            raise ConfigError(
                f"Method {variant.label!r} needs pilots, layout '{layout.name}' has none: use --method blind."
            )
    check_prior(chosen, bundle)
    report = progress or (lambda description, done, total: None)
    report("find frames", 0, 1)
    if calibration is not None:
        calibration.check(recording.settings)
        recording = correct_front_end(recording, calibration.values)
    synced = find_frames(recording, layout) if headers is None else find_frames_by_prefix(recording, layout, headers)
    report("find frames", 1, 1)
    readable = [frame for frame in synced if frame.header is not None]
    _check_codec(readable, bundle)
    check_shapes([frame.header for frame in readable if frame.header is not None], bundle)
    decoder = BatchDecoder(bundle, device, calibration)

    estimates: dict[int, ChannelEstimate] = {}
    incomplete: list[str] = []
    images: dict[str, list[ImageResult]] = {variant.label: [] for variant in chosen}
    batches = list(batches_of_images(((frame, frame) for frame in readable), batch_size, draws))
    for index, batch in enumerate(batches):
        try:
            measured = decoder.measure(batch, layout)
        except InputError:
            # Nothing but parts of images: told as incomplete, the other batches are not lost.
            incomplete += [i for frame in batch if frame.header is not None for i in frame.header.image_ids]
            continue
        incomplete += measured.measurement.incomplete
        if layout.pilot_symbols:
            estimate = decoder.estimate(measured, spread, decay)
            for row, frame in enumerate(batch):
                estimates[frame.start] = ChannelEstimate(
                    estimate.taps[row], estimate.taps_cov[row], estimate.response[row], estimate.noise_var[row]
                )
        for variant in chosen:
            before, total = index * variant.settings.steps, len(batches) * variant.settings.steps

            def on_step(step: int, x0_hat: Tensor, label=variant.label, before=before, total=total) -> None:
                report(f"decode ({label})", before + step + 1, total)

            generator = torch.Generator(device).manual_seed(seed + index)
            images[variant.label] += decoder.decode(measured, variant, generator, draws, on_step)
            report(f"decode ({variant.label})", before + variant.settings.steps, total)
    return DecodeResult(
        frames=tuple(FrameReport.of(frame, layout, recording.samples) for frame in synced),
        images=tuple(image for variant in chosen for image in images[variant.label]),
        synced=tuple(synced),
        estimates=tuple(estimates.get(frame.start) for frame in synced),
        incomplete=tuple(dict.fromkeys(incomplete)),
    )
