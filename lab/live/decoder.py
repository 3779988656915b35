"""Decode images while they come: a plain decoder that keeps up with the air, and a sampler that takes the newest."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lab.live.pictures import shown
from lab.live.process import Status, run_process
from lab.live.receiver import QUEUED_WORK, Work
from lab.live.settings import Job
from lab.live.wire import Bus
from receiver.bundles.bundle import load_bundle
from receiver.channel.antennas import combined_estimate
from receiver.decode import BatchDecoder, MeasuredFrames
from receiver.fitting import check_codec, check_shapes
from receiver.measurement.antennas import combined
from receiver.measurement.equalise import unshrunk
from receiver.results import ImageResult
from receiver.samplers.variants import Variant, method_variant
from sdr.errors import ConfigError, InputError, ModelError
from sdr.layout import FrameLayout

PLAIN_BATCH_PIXELS = 32 * 1024
"""Pixels of images that the plain decoder decodes together, at most, of what waits: small images are quicker together,
large ones would wait for each other. A piece of work is never parted."""

SAMPLER_TARGET_S = 4.0
"""The sampler takes as many images together as it decodes in about this time, at least those of one frame."""

SAMPLER_NICENESS = 10
"""The sampler gets what the others leave of the processors: they keep up with the air, it doesn't have to."""

SHOWN_PIXELS = 1 << 17
"""Pixels of images in one message, at most, and at least one image."""

PROGRESS_S = 0.2
PANEL_S = 0.1
"""Constellation and channel are shown this often, at most."""

SHOWN_CELLS = 1024


class ImageDecoder:
    """Decodes work with one method.

    Args:
        job: of the process.
        draws: samples of the posterior per image.
    """

    def __init__(self, job: Job, draws: int) -> None:
        settings = job.plan.settings
        self.layout: FrameLayout = job.plan.layout
        self._models = load_bundle(settings.bundle, settings.decoding.device)
        self._seed, self._batches = settings.decoding.seed, 0
        self._decoding = settings.decoding
        self.set_draws(draws)

    def set_draws(self, draws: int) -> None:
        """Take another number of samples per image."""
        self.decoder = BatchDecoder(self._models, replace(self._decoding, draws=draws))

    def measure(self, works: Sequence[Work]) -> MeasuredFrames | None:
        """Measure the frames of some work; None where they carry what these models did not make."""
        frames = [frame for work in works for frame in work.frames]
        try:
            check_codec(frames, self._models)
            check_shapes([frame.header for frame in frames if frame.header is not None], self._models)
            return self.decoder.measure(frames, self.layout)
        except (ModelError, InputError):
            return None

    def decode(
        self,
        measured: MeasuredFrames,
        variant: Variant,
        seeds: int | str | None,
        on_step: Callable[[int, Tensor], None] | None = None,
    ) -> list[ImageResult]:
        """Decode measured frames with the noise that `ota decode` gives them, see `Work.seeds`."""
        if isinstance(seeds, str):
            from lab.experiments.group_decoder import frame_generator

            device = self._decoding.device
            generators = [frame_generator(seeds, frame.start, variant, self._seed, device) for frame in measured.frames]
            return self.decoder.decode(measured, variant, generators, on_step)
        if seeds is None:
            seeds, self._batches = self._batches, self._batches + 1
        generator = torch.Generator(self._decoding.device).manual_seed(self._seed + seeds)
        return self.decoder.decode(measured, variant, generator, on_step)


def publish_images(bus: Bus, results: Sequence[ImageResult], captured_s: float, variant: Variant) -> None:
    """Publish decoded images with their quality, as many pictures as `SHOWN_PIXELS` allow."""
    now = time.monotonic()
    rows = [image_row(result, now - captured_s) for result in results]
    pixels = results[0].image.shape[1] * results[0].image.shape[2]
    newest = results[-max(1, SHOWN_PIXELS // pixels) :]
    arrays = {"images": np.stack([shown(result.image) for result in newest])}
    means = [result.mean for result in newest if result.mean is not None]
    spreads = [result.spread for result in newest if result.spread is not None]
    if means and spreads:
        arrays["means"] = np.stack([shown(mean) for mean in means])
        arrays["spreads"] = np.stack([shown(4 * spread) for spread in spreads])
    first = len(results) - len(newest)
    bus.publish("images", arrays, method=variant.method, rows=rows, first=first, time_s=time.time())


def image_row(result: ImageResult, latency_s: float) -> dict[str, Any]:
    """Return what a page shows of a decoded image beside the picture."""
    names = ("id", "residual", "residual_std", "residual_limit", "expected_psnr_db", "accepted", "seconds")
    row = {name: getattr(result, name) for name in (*names, "frame_number", "start_sample")}
    return {**row, "latency_s": latency_s}


def publish_panels(
    bus: Bus, decoder: BatchDecoder, measured: MeasuredFrames, results: Sequence[ImageResult], captured_s: float
) -> None:
    """Publish the constellation of the newest images of a batch, and the channel of its last frame.

    Several antennas are shown as the one that stands for them, see `receiver.measurement.antennas`. Without pilots the
    channel is that of the last image's decoding, and its uncertainty is not known.
    """
    measurement, row = measured.measurement, len(measured.frames) - 1
    if measurement.layout.pilot_symbols:
        each = decoder.estimate(measured)
        all_taps = torch.from_numpy(each.taps.astype(np.complex64)).to(measurement.y.device)
        one, all_taps = combined(measurement, all_taps)
        estimate = combined_estimate(measurement, each, all_taps.numpy(force=True))
        measurement = one
        taps, response = estimate.taps[row], estimate.response[row]
        taps_std = np.sqrt(np.maximum(np.real(np.diagonal(estimate.taps_cov[row])), 0))
        response_std = np.sqrt(np.maximum(estimate.frame(row).response_var, 0))
    else:
        taps = results[-1].taps
        response = np.fft.fft(taps, measurement.layout.fft_size)
        taps_std, response_std = np.full(taps.size, np.nan), np.full(response.size, np.nan)
        if measurement.antennas == 1:
            all_taps = torch.from_numpy(np.broadcast_to(taps, (measurement.num_frames, taps.size)).copy())
        else:
            # An answer has the taps of the one antenna; those that preambles and header saw will do for a picture.
            seen = np.stack([antenna.known_taps for frame in measured.frames for antenna in frame.antennas])
            seen = torch.from_numpy(seen).to(measurement.y) / measurement.scale[:, None]
            measurement, all_taps = combined(measurement, seen)
    newest = slice(-max(1, SHOWN_CELLS // measurement.num_symbols), None)
    cells = unshrunk(measurement, all_taps)[newest].numpy(force=True)
    received = measurement.received_cells()[newest].numpy(force=True)
    frame = measured.frames[row]
    bus.publish(
        "channel",
        {
            "before": _pairs(received),
            "after": _pairs(cells),
            "taps": np.abs(taps).astype(np.float32),
            "taps_std": taps_std.astype(np.float32),
            "response_db": _decibels(response),
            "low_db": _decibels(np.maximum(np.abs(response) - 2 * response_std, 0)),
            "high_db": _decibels(np.abs(response) + 2 * response_std),
        },
        frame_number=None if frame.header is None else frame.header.frame_number,
        advance=frame.advance,
        captured_s=captured_s,
    )


def _pairs(cells: NDArray[np.complex64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(cells.reshape(-1)[:SHOWN_CELLS], np.complex64).view(np.float32)


def _decibels(magnitude: NDArray[Any]) -> NDArray[np.float32]:
    """Return 20 log10 of magnitudes (N,) in bin order, the lowest frequency first."""
    return np.fft.fftshift(20 * np.log10(np.abs(magnitude) + 1e-3)).astype(np.float32)


class Rate:
    """Images in a second, over the last five seconds, and the median latency of as many images."""

    def __init__(self) -> None:
        self._done: deque[tuple[float, int, float]] = deque(maxlen=512)

    def add(self, images: int, latency_s: float) -> None:
        """Count images."""
        self._done.append((time.monotonic(), images, latency_s))

    def numbers(self) -> dict[str, float | int]:
        """Return both."""
        since = time.monotonic() - 5.0
        recent = [item for item in self._done if item[0] > since]
        latencies = [latency for _, _, latency in recent]
        return {
            "images_per_s": round(sum(count for _, count, _ in recent) / 5.0, 2),
            "latency_s": float(np.median(latencies)) if latencies else float("nan"),
        }


def decode_plain(job: Job) -> None:
    """Run the process of the plain decoder."""
    run_process(job, _decode_plain)


def _decode_plain(job: Job, bus: Bus) -> None:
    torch.set_num_threads(1)
    receive = bus.receiver(QUEUED_WORK)
    decoder, variant = ImageDecoder(job, draws=1), method_variant(job.plan.plain)
    rate, status = Rate(), Status(bus)
    counts = {"images": 0, "frames_strange": 0}
    panel_s = 0.0
    waiting: Work | None = None
    while True:
        bus.orders()
        status.publish(lambda: {**counts, **rate.numbers()})
        work, waiting = waiting or receive(0.1), None
        if work is None:
            continue
        works = [work]
        while work.seeds is None and sum(map(_num_pixels, works)) < PLAIN_BATCH_PIXELS:
            waiting = receive(0)
            if waiting is None or waiting.seeds is not None or _shape(waiting) != _shape(work):
                break
            works.append(waiting)
            waiting = None
        measured = decoder.measure(works)
        if measured is None:
            counts["frames_strange"] += sum(len(each.frames) for each in works)
            continue
        results = decoder.decode(measured, variant, work.seeds)
        counts["images"] += len(results)
        rate.add(len(results), time.monotonic() - works[0].captured_s)
        publish_images(bus, results, works[0].captured_s, variant)
        if time.monotonic() - panel_s > PANEL_S:
            publish_panels(bus, decoder.decoder, measured, results, works[-1].captured_s)
            panel_s = time.monotonic()


def _num_images(work: Work) -> int:
    header = work.frames[-1].header
    return 0 if header is None else len(header.image_ids)


def _num_pixels(work: Work) -> int:
    header = work.frames[-1].header
    return 0 if header is None else len(header.image_ids) * math.prod(header.image_shape[1:])


def _shape(work: Work) -> tuple[int, ...]:
    header = work.frames[-1].header
    return () if header is None else header.image_shape


class Newest:
    """The newest work, taken from a queue as it comes by a thread of its own; what is older is dropped and counted.

    Args:
        receive: as `Bus.receiver` returns it.

    Attributes:
        dropped: images that were never taken.
    """

    def __init__(self, receive: Callable[[float], Work | None]) -> None:
        self._receive = receive
        self._held: deque[Work] = deque()
        self._lock = threading.Condition()
        self.room = 1
        self.dropped = 0
        threading.Thread(target=self._fill, daemon=True).start()

    def _fill(self) -> None:
        while True:
            work = self._receive(0.5)
            if work is None:
                continue
            with self._lock:
                self._held.append(work)
                while len(self._held) > self.room:
                    self.dropped += _num_images(self._held.popleft())
                self._lock.notify()

    def take(self, timeout_s: float) -> list[Work]:
        """Return the newest work of one kind, oldest first, after a wait for some; batches come alone."""
        with self._lock:
            if not self._held:
                self._lock.wait(timeout_s)
            held = list(self._held)
            self._held.clear()
        if not held:
            return []
        alike = [
            work for work in held if work.seeds is None and held[-1].seeds is None and _shape(work) == _shape(held[-1])
        ]
        kept = alike or held[-1:]
        self.dropped += sum(map(_num_images, held)) - sum(map(_num_images, kept))
        return kept


def decode_newest(job: Job) -> None:
    """Run the process of the sampler."""
    run_process(job, _decode_newest)


def _decode_newest(job: Job, bus: Bus) -> None:
    torch.set_num_threads(1)
    os.nice(SAMPLER_NICENESS)
    receive = bus.receiver(QUEUED_WORK)
    values = dict(job.values)
    decoder = ImageDecoder(job, values["draws"])
    newest, rate, status = Newest(receive), Rate(), Status(bus)
    counts = {"images": 0}

    def numbers() -> dict[str, float | int]:
        return {**counts, "images_dropped": newest.dropped, "together": newest.room, **rate.numbers()}

    while True:
        for name, value in bus.orders():
            if name in ("method", "steps", "draws"):
                values[name] = value
                newest.room = 1  # how long the new ones take is not known
                decoder.set_draws(values["draws"])
        variant = method_variant(values["method"], values["steps"])
        status.publish(numbers)
        works = newest.take(0.2)
        measured = decoder.measure(works) if works else None
        if measured is None:
            continue
        began = time.monotonic()
        on_step = _progress(bus, variant, measured, lambda: status.publish(numbers))
        try:
            results = decoder.decode(measured, variant, works[0].seeds, on_step)
        except ConfigError as error:  # what is played has more antennas than the method takes
            bus.publish("event", level="error", text=str(error))
            continue
        seconds = time.monotonic() - began
        counts["images"] += len(results)
        rate.add(len(results), time.monotonic() - works[0].captured_s)
        newest.room = max(1, min(16, int(SAMPLER_TARGET_S / (seconds / len(works)))))
        publish_images(bus, results, works[0].captured_s, variant)


def _progress(
    bus: Bus, variant: Variant, measured: MeasuredFrames, alive: Callable[[], None]
) -> Callable[[int, Tensor], None]:
    """Return a function (step, x0_hat) that shows the first image of a batch as it sharpens."""
    image_id = measured.measurement.image_ids[0]
    shown_s = 0.0

    def on_step(step: int, x0_hat: Tensor) -> None:
        nonlocal shown_s
        alive()
        if time.monotonic() - shown_s > PROGRESS_S:
            shown_s = time.monotonic()
            picture = shown(x0_hat[0].detach().float().numpy(force=True))
            steps = variant.settings.evaluations
            bus.publish("progress", {"image": picture}, id=image_id, method=variant.method, step=step + 1, steps=steps)

    return on_step
