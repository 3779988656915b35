"""From a recording to images: find the frames, estimate or infer the channel, sample the posterior.

Nothing but the recording, the layout and the receiver's models enters here; ground truth is scored elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.bundles import Bundle
from receiver.calibrated import amplifier, correct_front_end, sent_pilots, with_amplifier
from receiver.channel import ChannelEstimate, lmmse_estimate, receiver_pdp
from receiver.codebook import load_codebook
from receiver.data import MAX_PIXELS
from receiver.measurement import Measurement
from receiver.samplers import METHODS, Channel, MethodSettings, sample
from receiver.samplers.blind import ChannelPrior
from receiver.sync import SyncedFrame, find_frames, timing_advance
from sdr.calibration_profile import CalibrationProfile
from sdr.errors import ConfigError, InputError, ModelError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.recording import Recording

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
        drift_ppm: sampling-clock offset that was measured, parts per million.
        evm_db: error vector magnitude of the header, known symbols once it is read.
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
    evm_db: float


@dataclass(frozen=True)
class ImageResult:
    """One decoded image.

    Attributes:
        id: from the header.
        method: name in :data:`receiver.samplers.METHODS`.
        residual: ||y - W_h(E(x))||^2 / (K noise_var), about 1 for a right answer.
        accepted: the residual is no larger than noise explains; needs no ground truth.
        seconds: wall time of the batch divided by its images.
        image: (C, H, W) float32 in [0, 1].
        frame_number: the (first) frame that carried it.
        start_sample: `SyncedFrame.start` of that frame.
        taps: (L,) complex, the channel that it was decoded with, in the measurement's units (E||h||^2 = 1).
    """

    id: str
    method: str
    residual: float
    accepted: bool
    seconds: float
    image: NDArray[np.float32]
    frame_number: int
    start_sample: int
    taps: NDArray[np.complex64]


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


#: Mean squared error of re-encoded right answers in units of the symbol power, on top of the noise: the codec is not
#: idempotent. Nine in ten held-out images have less (deterministic decoder, 20 and 30 dB); a wrong image has about 2.
CODEC_MISMATCH_VAR = 0.1


def residual_limit(num_symbols: int, noise_var: float) -> float:
    """Largest normalised residual that is accepted.

    The true image has 1 +- 1 / sqrt(K) (a chi-square over 2 K degrees of freedom). A draw from the posterior lies as
    far from the truth as the truth from the posterior's mean, so it may fit worse by as much again; three standard
    errors and the codec's own mismatch are added.
    """
    return 2 * (1 + 3 / num_symbols**0.5) + CODEC_MISMATCH_VAR / noise_var


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


def estimate_channels(
    measurement: Measurement, prior: ChannelPrior, known: NDArray[np.complex128] | None = None
) -> ChannelEstimate:
    """LMMSE from the pilot symbols of every frame, in the measurement's units.

    Args:
        known: (P, N) what was sent as pilots, the layout's unless given.

    Raises:
        ConfigError: the layout has no pilots.
    """
    if measurement.layout.pilot_symbols == 0:
        raise ConfigError(
            f"Layout '{measurement.layout.name}' has no pilots to estimate the channel from: use --method blind."
        )
    return lmmse_estimate(
        measurement.pilots.cpu().numpy(),
        measurement.layout,
        measurement.noise_var.cpu().double().numpy(),
        pdp=prior.power.cpu().double().numpy(),
        known=known,
    )


#: Pixels decoded at once, but for a single image: what a sampler keeps for a gradient grows with them.
BATCH_PIXELS = 2_000_000


def fits_batch(header: FrameHeader, images: int, shape: tuple[int, int, int] | None, batch_size: int) -> bool:
    """Whether a frame may join a batch of so many images of `shape` (None: of none yet), cut where an image begins."""
    if shape is None or (header.image_shape == shape and header.symbol_offset != 0):
        return True
    limit = max(1, min(batch_size, BATCH_PIXELS // (shape[1] * shape[2])))
    return header.image_shape == shape and images < limit


def _batches(frames: Sequence[SyncedFrame], layout: FrameLayout, batch_size: int) -> Iterator[list[SyncedFrame]]:
    """Frames in groups of about `batch_size` images of one shape, cut only where a new image begins."""
    batch: list[SyncedFrame] = []
    images, shape = 0, None
    for frame in frames:
        assert frame.header is not None
        if not fits_batch(frame.header, images, shape, batch_size):
            yield batch
            batch, images = [], 0
        batch.append(frame)
        shape = frame.header.image_shape
        images += len(frame.header.image_ids) if frame.header.symbol_offset == 0 else 0
    if batch:
        yield batch


def _check_codec(frames: Sequence[SyncedFrame], bundle: Bundle) -> None:
    strangers = {f.header.codec_digest for f in frames if f.header is not None} - {bundle.codec.digest[:8]}
    if strangers:
        raise ModelError(
            f"The images were encoded by codec {', '.join(sorted(strangers))}, bundle '{bundle.name}' has "
            f"{bundle.codec.digest[:8]}. Give the bundle that was used to transmit with --bundle."
        )


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


def check_prior(methods: Iterable[str], bundle: Bundle) -> None:
    """Refuse methods that need a prior where there is none.

    Raises:
        ConfigError: names one, and the methods that need none.
    """
    for method in methods:
        if bundle.prior is None and METHODS[method].prior:
            without = ", ".join(name for name, known in METHODS.items() if not known.prior)
            raise ConfigError(f"Bundle '{bundle.name}' has no prior, which {method} needs; use --method {without}.")


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
    """Settings made on 32x32 pixels for images (C, H, W): the strengths of a norm go with the root of the pixels."""
    factor = (shape[1] * shape[2] / _SETTINGS_PIXELS) ** 0.5
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
    spread: int = 8,
    decay: float = 4.0,
    calibration: CalibrationProfile | None = None,
    progress: Progress | None = None,
) -> DecodeResult:
    """Decode every image of a recording with each of `methods`.

    Args:
        steps: reverse steps; each method's own where None.
        seed: of the samplers' noise.
        batch_size: images decoded together (whole frames, so it may be exceeded by a frame's images).
        spread, decay: prior of the channel, see :func:`channel_prior`.
        calibration: profile of the radios: prior of the channel, amplifier, the receiver's offset and image.
        progress: called with what is being done, how much is done, and of how much.

    Raises:
        ConfigError: unknown method, or one that needs pilots on a layout without any, or a prior that isn't there.
        ModelError: the images were encoded with another codec than the bundle's.
        RecordingError: the recording's rate is not the layout's.
        CalibrationError: the calibration is of another radio, rate or band.
    """
    chosen = {method: method_settings(method, steps) for method in methods}
    for method in chosen:
        if not METHODS[method].blind and layout.pilot_symbols == 0:
            raise ConfigError(f"Method {method!r} needs pilots, layout '{layout.name}' has none: use --method blind.")
    check_prior(chosen, bundle)
    report = progress or (lambda description, done, total: None)
    report("find frames", 0, 1)
    if calibration is not None:
        calibration.check(recording.settings)
        recording = correct_front_end(recording, calibration)
    curve = amplifier(calibration, layout)
    synced = find_frames(recording, layout)
    report("find frames", 1, 1)
    readable = [frame for frame in synced if frame.header is not None]
    _check_codec(readable, bundle)
    check_shapes([frame.header for frame in readable if frame.header is not None], bundle)
    bundle = bundle.to(device)
    blind = any(METHODS[method].blind for method in chosen)
    codebook = load_codebook(bundle.path, bundle.takes, device) if blind else None
    prior = channel_prior(layout, spread, decay, calibration)
    prior = ChannelPrior(prior.power.to(device))

    estimates: dict[int, ChannelEstimate] = {}
    incomplete: list[str] = []
    images: dict[str, list[ImageResult]] = {method: [] for method in chosen}
    batches = list(_batches(readable, layout, batch_size))
    for index, batch in enumerate(batches):
        try:
            plain = Measurement.from_frames(batch, layout).to(device)
        except InputError:
            # Nothing but parts of images: told as incomplete, the other batches are not lost.
            incomplete += [i for frame in batch if frame.header is not None for i in frame.header.image_ids]
            continue
        models = bundle.at(plain.image_shape)
        codec = models.codec
        through = with_amplifier(plain, curve)
        incomplete += plain.incomplete
        h = None
        if layout.pilot_symbols:
            estimate = estimate_channels(plain, prior, None if curve is None else sent_pilots(layout, curve))
            h = torch.from_numpy(estimate.taps.astype(np.complex64)).to(device)
            for row, frame in enumerate(batch):
                estimates[frame.start] = ChannelEstimate(
                    estimate.taps[row], estimate.taps_cov[row], estimate.response[row], estimate.noise_var[row]
                )
        for method, settings in chosen.items():
            # Blind methods solve for the channel in closed form, which needs what was sent to arrive linearly.
            measurement = plain if METHODS[method].blind else through
            total = len(batches) * settings.steps

            def on_step(step: int, x0_hat: Tensor, method=method, settings=settings, index=index, total=total) -> None:
                report(f"decode ({method})", index * settings.steps + step + 1, total)

            began = time.perf_counter()
            posterior = sample(
                method,
                measurement,
                codec=codec,
                denoiser=models.prior,
                channel=Channel(prior, h),
                encoder_csnr_db=measurement.csnr_db,
                generator=torch.Generator(device).manual_seed(seed + index),
                settings=sized_settings(settings, measurement.image_shape),
                codebook=codebook,
                on_step=on_step,
            )
            seconds = (time.perf_counter() - began) / measurement.num_images
            report(f"decode ({method})", (index + 1) * settings.steps, total)
            with torch.no_grad():
                residual = measurement.residual(codec.encode(posterior.x, measurement.csnr_db), posterior.h).cpu()
            shown = posterior.x.cpu().numpy().astype(np.float32)
            taps = posterior.h.cpu().numpy().astype(np.complex64)
            noise_var = measurement.noise_var.tolist()
            for image, frame in enumerate(measurement.frame_of_image.tolist()):
                header = batch[frame].header
                assert header is not None
                images[method].append(
                    ImageResult(
                        id=measurement.image_ids[image],
                        method=method,
                        residual=float(residual[image]),
                        accepted=float(residual[image]) <= residual_limit(measurement.num_symbols, noise_var[frame]),
                        seconds=seconds,
                        image=shown[image],
                        frame_number=header.frame_number,
                        start_sample=batch[frame].start,
                        taps=taps[frame],
                    )
                )
    reports = tuple(
        FrameReport(
            start_sample=frame.start + frame.advance,
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
            evm_db=frame.evm_db,
        )
        for frame in synced
    )
    return DecodeResult(
        frames=reports,
        images=tuple(image for method in chosen for image in images[method]),
        synced=tuple(synced),
        estimates=tuple(estimates.get(frame.start) for frame in synced),
        incomplete=tuple(dict.fromkeys(incomplete)),
    )
