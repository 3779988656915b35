"""Measure what a sampler costs beyond the networks that it calls, and quality against network evaluations.

Timings are medians of interleaved repetitions on the shipped models and white noise at 10 dB, so that a machine that
is busy with something else slows both sides of a ratio down alike.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.metrics import psnr_db
from lab.evaluation.realism import load_realism, noise_null
from lab.evaluation.statistics import mean_and_error
from lab.experiments.link import send
from lab.experiments.plan import Sweep, held_out_images, sweep_layout
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.channel.pilots import estimate_channels
from receiver.channel.prior import channel_prior
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.fashion_mnist import FASHION_SHAPE
from receiver.measurement.collect import measure_frames
from receiver.measurement.model import Measurement
from receiver.priors.denoiser import Denoiser
from receiver.results import ImageResult
from receiver.samplers import METHODS, Channel, Models, sample
from receiver.samplers.diffusion import reduced_precision
from receiver.samplers.variants import method_settings, method_variant
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.errors import ConfigError
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.recordings.recording import Recording

CSNR_DB = 10.0
#: The images that a ratio is taken at, and the small and the large batch of `batch_gain`.
STEP_BATCH, SMALL_BATCH, LARGE_BATCH = 16, 1, 64
#: Batches whose time and memory are measured, and image sides at the first of them that a frame's cells suffice for.
BATCHES = (1, 4, 16, 64, 128)
SIDES = (32, 64)
#: Methods whose steps are timed, and whether a step also decodes what it encodes.
TIMED = {"diffcom": False, "hifi": True}
#: Methods of the curve beside the plain decoder, each with its network evaluations.
CURVE = tuple(
    f"{method}steps={steps}"
    for method, evaluations in {
        "diffcom:": (20, 50, 100),
        "hifi:": (3, 5, 10, 20, 40),
        "hifi:back_projections=5,": (3, 5, 10),
        "hifi:jacobian=false,": (5, 10, 20),
        "guided:": (2, 3, 5, 8),
        "land:": (1, 2, 3, 4),
        "bp:": (3, 5, 7, 12),
        "daps:": (5, 8),
    }.items()
    for steps in evaluations
)


@dataclass(frozen=True)
class CurvePoint:
    """Quality of one method at one number of network evaluations.

    Attributes:
        method: as `receiver.samplers.variants.method_variant` takes it, but for its steps.
        evaluations: calls of the denoiser; 0 for a decoder alone.
        n: images.
        psnr_db: mean PSNR.
        psnr_db_se: its standard error.
        realism: distance to real images.
        realism_se: its standard error.
        realism_null: of the decoder's images with white noise of the method's mean squared error; None for a decoder.
        seconds_per_image: processor time of decoding, from the frames found on.
    """

    method: str
    evaluations: int
    n: int
    psnr_db: float
    psnr_db_se: float
    realism: float
    realism_se: float
    realism_null: float | None
    seconds_per_image: float


@dataclass(frozen=True)
class Timing:
    """What a ratio was taken of.

    Attributes:
        method: that is timed.
        batch: images decoded at once.
        step_s: seconds per step.
        bare_s: seconds of the bare networks; None where they were not timed.
        ratio: of the two; None likewise.
    """

    method: str
    batch: int
    step_s: float
    bare_s: float | None = None
    ratio: float | None = None


@dataclass(frozen=True)
class ScalingRow:
    """Time and memory of a method at one size.

    Attributes:
        method: that is timed.
        side: of the images, pixels.
        batch: images decoded at once.
        ms_per_image: time per image and step.
        peak_bytes: memory taken beyond the models.
    """

    method: str
    side: int
    batch: int
    ms_per_image: float
    peak_bytes: int


@dataclass(frozen=True)
class SamplerResult:
    """What `ota bench sampler` measures, on one thread.

    Attributes:
        step_overhead: the worst of TIMED: seconds per step over the bare networks of the same batch.
        batch_gain: seconds per image and step at batch 1 over batch 64, HiFi.
        curve: quality against network evaluations.
        timings: what the ratios were taken of.
        scaling: time and peak memory of HiFi by batch and image side.
        memory_mb_per_image: slope of the peak over the batch.
        memory_nonlinearity: largest distance from that line over the whole rise.
        threads: 1.
        images: behind each point of the curve.
    """

    step_overhead: float
    batch_gain: float
    curve: tuple[CurvePoint, ...]
    timings: tuple[Timing, ...]
    scaling: tuple[ScalingRow, ...]
    memory_mb_per_image: float
    memory_nonlinearity: float
    threads: int
    images: int

    def row(self) -> dict[str, object]:
        """Return the result as `--json` prints it."""
        timings = [{key: value for key, value in vars(one).items() if value is not None} for one in self.timings]
        return {**asdict(self), "timings": timings}


class _StopAfter(Exception):
    """Ends a sampler early: its steps are timed, what follows them is not."""


def enlarged(bundle: Bundle, side: int) -> Bundle:
    """Return the same networks, which are convolutional, for larger images: good for timing, not for looking at."""
    if bundle.any_size:
        raise ConfigError(f"Bundle '{bundle.name}' takes images of any size. Name a bundle like fashion.")
    shape = (bundle.image_shape[0], side, side)
    denoiser = bundle.required_denoiser.resized(shape).eval()
    return replace(bundle, codec=bundle.codec.resized(shape).eval(), denoiser=denoiser)


def held_out_measurement(bundle: Bundle, count: int, seed: int) -> tuple[Measurement, Tensor]:
    """Send `count` held-out images over white noise, one per frame; return what is measured, and the pilots' taps."""
    frames, layout, _ = send_held_out(bundle, count, CSNR_DB, seed)
    return measure_with_taps(frames, layout)


def send_held_out(
    bundle: Bundle, count: int, csnr_db: float, seed: int
) -> tuple[list[SyncedFrame], FrameLayout, dict[str, Tensor]]:
    """Send `count` held-out images over white noise; return their frames, one each, the layout, and images by id."""
    sweep = Sweep("bench", (csnr_db,), ("jscc",), num_images=max(count, 2), images_per_frame=1, seed=seed)
    ids, images = held_out_images(sweep, FASHION_SHAPE)
    return send_images(bundle, sweep, ids, F.interpolate(images, bundle.image_shape[1:]), count)


def send_images(
    bundle: Bundle, sweep: Sweep, ids: Sequence[str], images: Tensor, count: int
) -> tuple[list[SyncedFrame], FrameLayout, dict[str, Tensor]]:
    """Send images (n, C, H, W) over the sweep's one condition.

    Returns:
        the first `count` of their frames, the layout, and images by id.
    """
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    frames = find_frames(send(sweep, bundle.codec, layout, ids, images, *sweep.all_conditions).recording, layout)
    return frames[:count], layout, dict(zip(ids, images, strict=True))


def measure_with_taps(frames: Sequence[SyncedFrame], layout: FrameLayout) -> tuple[Measurement, Tensor]:
    """Return what is measured in frames, and the taps (F, L) that their pilots give."""
    measurement = measure_frames(frames, layout)
    taps = estimate_channels(measurement, channel_prior(layout)).taps
    return measurement, torch.from_numpy(taps.astype(np.complex64))


def step_seconds(
    method: str, measurement: Measurement, h: Tensor, bundle: Bundle, steps: int, denoiser: Denoiser | None = None
) -> float:
    """Return the seconds per step of a sampler, start and end left out."""
    stamps: list[float] = []

    def on_step(index: int, x0_hat: Tensor) -> None:
        stamps.append(time.perf_counter())
        if index == steps:
            raise _StopAfter

    try:
        sample(
            method,
            measurement,
            Channel(channel_prior(measurement.layout), h),
            Models(bundle.codec, denoiser or bundle.required_denoiser),
            torch.Generator().manual_seed(0),
            settings=method_settings(method, steps + 2),
            on_step=on_step,
        )
    except _StopAfter:
        return statistics.median(after - before for before, after in itertools.pairwise(stamps))
    raise AssertionError("a sampler takes all of its steps")


def bare_seconds(confirming: bool, measurement: Measurement, bundle: Bundle, steps: int) -> float:
    """Return the seconds of one forward and backward pass through the networks that a step calls, and nothing else.

    These are denoiser, encoder, and with `confirming` the decoder, each on the output of the one before.
    """
    count = measurement.num_images
    x_t = torch.randn(count, *bundle.image_shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((count,), 100)
    taken = []
    for _ in range(steps):
        began = time.perf_counter()
        x_t = x_t.detach().requires_grad_()
        with reduced_precision(count, x_t.device):
            out = bundle.codec.encode((bundle.required_denoiser(x_t, t) + 1) / 2, measurement.csnr_db)
            if confirming:
                out = bundle.codec.decode(out, measurement.csnr_db)
        torch.autograd.grad(torch.view_as_real(out).sum() if out.is_complex() else out.sum(), x_t)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def peak_bytes(run: Callable[[], object]) -> int:
    """Return by how much the resident memory of this process rises while `run` runs (Linux with glibc)."""

    def resident(line: str) -> int:
        return 1024 * int(Path("/proc/self/status").read_text().partition(f"{line}:")[2].split()[0])

    gc.collect()
    # Else what an earlier run has given back to the allocator alone would hide a part of this one.
    ctypes.CDLL(None).malloc_trim(0)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew from what is resident now
    run()
    return resident("VmHWM") - before


def memory_slope(batches: Sequence[int], peaks: Sequence[int]) -> tuple[float, float]:
    """Return the bytes per image of a straight line through the peaks, and the largest distance from it over the rise.

    >>> memory_slope([1, 4, 16], [110, 140, 260])
    (10.0, 0.0)
    """
    slope, start = np.polyfit(batches, np.asarray(peaks, dtype=float), 1)
    away = np.abs(np.asarray(peaks) - start - slope * np.asarray(batches)).max()
    return round(float(slope), 6), round(float(away / (max(peaks) - min(peaks))), 6)


def scaling(bundle: Bundle, seed: int, steps: int, progress: Progress) -> list[ScalingRow]:
    """Measure HiFi's time per image and step, and its memory beyond the models, against batch and image size."""
    cases = [(batch, bundle.image_shape[1]) for batch in BATCHES] + [(BATCHES[2], side) for side in SIDES[1:]]
    rows = []
    for index, (batch, side) in enumerate(cases):
        progress("scaling", index, len(cases))
        models = enlarged(bundle, side)
        measurement, h = held_out_measurement(models, batch, seed)
        taken: list[float] = []
        count = max(steps, 8 // batch)
        peak = peak_bytes(
            lambda m=measurement, h=h, b=models, n=count, taken=taken: taken.append(step_seconds("hifi", m, h, b, n))
        )
        rows.append(ScalingRow("hifi", side, batch, 1e3 * taken[0] / batch, peak))
    progress("scaling", len(cases), len(cases))
    return rows


def quality_curve(
    bundle: Bundle, methods: Sequence[str], count: int, seed: int, progress: Progress = silent
) -> list[CurvePoint]:
    """Measure PSNR, realism and processor time of methods on one recording, white noise at 10 dB.

    Args:
        bundle: with a realism network.
        methods: as `receiver.samplers.variants.method_variant` takes them; the plain decoder is measured first.
        count: of held-out images.
        seed: of everything random.
        progress: called as it goes on.

    Raises:
        ConfigError: an unknown method, or one that the bundle lacks models for.
    """
    variants = {text: method_variant(text) for text in dict.fromkeys(["jscc", *methods])}
    if separate := [text for text, variant in variants.items() if variant.separation is not None]:
        raise ConfigError(f"{separate[0]} has no sampler to measure; see `ota bench separation`.")
    sweep = Sweep("bench", (CSNR_DB,), ("jscc",), num_images=count, seed=seed)
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    recording = send(sweep, bundle.codec, layout, ids, images, *sweep.all_conditions).recording
    originals, realism = dict(zip(ids, images, strict=True)), load_realism(bundle.path)
    points: list[CurvePoint] = []
    plain: Tensor | None = None
    for done, (text, variant) in enumerate(variants.items()):
        progress(f"curve, {text}", done, len(variants))
        found, seconds = timed_decoding(recording, layout, bundle, text, seed)
        pictures = torch.from_numpy(np.stack([image.image for image in found]))
        truth = torch.stack([originals[image.id] for image in found])
        psnr = psnr_db(pictures, truth)
        score = realism.score(pictures, torch.Generator().manual_seed(seed))
        plain = pictures if plain is None else plain
        samples = METHODS[variant.method].needs_denoiser
        null = None
        if samples:
            null = realism(noise_null(plain, truth, pictures, torch.Generator().manual_seed(seed)))
        points.append(
            CurvePoint(
                without_steps(text),
                variant.settings.evaluations if samples else 0,
                len(found),
                *mean_and_error(psnr),
                score.value,
                score.std_error,
                null,
                seconds / len(found),
            )
        )
    progress("curve", len(variants), len(variants))
    return points


def without_steps(text: str) -> str:
    """Return a method without its number of steps.

    >>> without_steps("hifi:steps=5,eta=0")
    'hifi:eta=0'
    """
    name, _, options = text.partition(":")
    return ":".join([name, *filter(None, [",".join(o for o in options.split(",") if not o.startswith("steps="))])])


def timed_decoding(
    recording: Recording, layout: FrameLayout, bundle: Bundle, method: str, seed: int
) -> tuple[tuple[ImageResult, ...], float]:
    """Decode a recording by one method; return its images, and the processor time in seconds after finding frames.

    What else the machine does takes little of processor time, where it may double the time on the clock.
    """
    began = time.process_time()

    def on_stage(stage: str, done: float, total: float) -> None:
        nonlocal began
        if stage == "find frames":
            began = time.process_time()

    images = decode_recording(recording, layout, bundle, [method], DecodeSettings(seed=seed), progress=on_stage).images
    return images, time.process_time() - began


@contextmanager
def one_thread() -> Iterator[None]:
    """Let PyTorch compute on one thread: two that share busy processors wait for each other at every layer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run_sampler_benchmark(quick: bool = False, seed: int = 0, progress: Progress = silent) -> SamplerResult:
    """Measure everything, on one thread.

    Args:
        quick: fewer images and repetitions.
        seed: of everything random.
        progress: called as it goes on.
    """
    with one_thread():
        bundle = load_bundle()
        overheads = _step_overheads(bundle, quick, seed, progress)
        gain, gains = _batch_gain(bundle, quick, seed, progress)
        scaled = scaling(bundle, seed, 2 if quick else 4, progress)
        own = [row for row in scaled if row.side == bundle.image_shape[1]]
        slope, away = memory_slope([row.batch for row in own], [row.peak_bytes for row in own])
        curve = quality_curve(bundle, CURVE, 32 if quick else 256, seed, progress)
    return SamplerResult(
        step_overhead=max(timing.ratio for timing in overheads if timing.ratio is not None),
        batch_gain=gain,
        curve=tuple(curve),
        timings=(*overheads, *gains),
        scaling=tuple(scaled),
        memory_mb_per_image=slope / 1e6,
        memory_nonlinearity=away,
        threads=1,
        images=curve[0].n,
    )


def _step_overheads(bundle: Bundle, quick: bool, seed: int, progress: Progress) -> list[Timing]:
    """Time a step of each method against its bare networks."""
    repeats, steps = (3, 4) if quick else (7, 8)
    measurement, h = held_out_measurement(bundle, STEP_BATCH, seed)
    timings = []
    for index, (method, confirming) in enumerate(TIMED.items()):
        progress("step overhead", index, len(TIMED))
        pairs = [
            (
                step_seconds(method, measurement, h, bundle, steps),
                bare_seconds(confirming, measurement, bundle, steps),
            )
            for _ in range(repeats)
        ]
        whole, bare = (min(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        timings.append(Timing(method, STEP_BATCH, whole, bare, ratio))
    progress("step overhead", len(TIMED), len(TIMED))
    return timings


def _batch_gain(bundle: Bundle, quick: bool, seed: int, progress: Progress) -> tuple[float, list[Timing]]:
    """Time a step of HiFi per image at the small batch over the large one."""
    small, large = (held_out_measurement(bundle, batch, seed) for batch in (SMALL_BATCH, LARGE_BATCH))
    repeats = 1 if quick else 3
    timings, gains = [], []
    for index in range(repeats):
        progress("batch gain", index, repeats)
        alone = step_seconds("hifi", *small, bundle, 8 if quick else 16)
        together = step_seconds("hifi", *large, bundle, 3) / LARGE_BATCH
        gains.append(alone / together)
        timings.append(Timing("hifi", SMALL_BATCH, alone))
        timings.append(Timing("hifi", LARGE_BATCH, together * LARGE_BATCH))
    progress("batch gain", 1, 1)
    return statistics.median(gains), timings


def write_figure(curve: Sequence[CurvePoint], path: Path) -> None:
    """Draw PSNR and realism against network evaluations, each with one standard error, the noise nulls dotted."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    quality, realism = figure.subplots(1, 2)
    for method in dict.fromkeys(point.method for point in curve):
        own = [point for point in curve if point.method == method]
        evaluations = [point.evaluations for point in own]
        for axes, values, errors in (
            (quality, [point.psnr_db for point in own], [point.psnr_db_se for point in own]),
            (realism, [point.realism for point in own], [point.realism_se for point in own]),
        ):
            if evaluations == [0]:
                axes.axhline(values[0], color="grey", ls="--" if method == "jscc" else ":", lw=1, label=method)
                continue
            drawn = axes.errorbar(evaluations, values, errors, marker="o", ms=4, capsize=3, label=method)
            if axes is realism:
                nulls = [math.nan if point.realism_null is None else point.realism_null for point in own]
                axes.plot(evaluations, nulls, ":x", ms=4, color=drawn[0].get_color())
    for axes, label in ((quality, "PSNR (dB)"), (realism, "realism distance (dotted: noise null)")):
        title = f"{CSNR_DB:g} dB, {curve[0].n} images"
        axes.set(xscale="log", xlabel="network evaluations", ylabel=label, title=title)
        axes.grid(alpha=0.3, which="both")
    figure.legend(*quality.get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)
    realism.set_yscale("log")
    figure.savefig(path, dpi=110)
