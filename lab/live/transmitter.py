"""Send the images of a folder, one after the other and again, at a stated rate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lab.live.air import Air, open_air
from lab.live.pictures import shown
from lab.live.process import Status, run_process
from lab.live.settings import Job
from lab.live.wire import Bus
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.images.files import load_images
from sdr.framing import FrameContent, images_per_frame, pack_frames
from sdr.header import image_id_from_stem
from sdr.layout import FrameLayout
from sdr.symbols import Symbols
from transmitter.encode import check_unique, encode_images

MAX_IMAGES = 256
"""Images of a folder that are sent; all are encoded before the first one is."""

_TICK_S = 0.005
_TRUTH_S = 0.1
_MAX_LATE_S = 0.5


@dataclass(frozen=True, eq=False)
class Group:
    """Images that are sent together.

    Attributes:
        symbols: of the images.
        originals: uint8 (H, W, C) each.
    """

    symbols: Symbols
    originals: tuple[NDArray[np.uint8], ...]


def encode_groups(folder: Path, models: Bundle, layout: FrameLayout, csnr_db: float) -> list[Group]:
    """Return the images of a folder as they are sent, as many together as share a frame.

    Raises:
        InputError: the folder holds no images, or two of one name.
    """
    stems, images = load_images(folder, models.accepted_shape)
    stems, images = stems[:MAX_IMAGES], images[:MAX_IMAGES]
    ids = [image_id_from_stem(stem) for stem in stems]
    check_unique(ids, stems)
    groups = []
    for symbols in encode_images(ids, images, models.codec, layout, csnr_db).symbols:
        together = max(1, images_per_frame(symbols.symbols_per_image, layout))
        for first in range(0, symbols.num_images, together):
            chosen = slice(first, first + together)
            part = Symbols(
                symbols.z[chosen],
                symbols.codec_digest,
                symbols.image_ids[chosen],
                symbols.image_shape,
                symbols.csnr_db,
            )
            pictures = tuple(shown(images[ids.index(name)].numpy()) for name in part.image_ids)
            groups.append(Group(part, pictures))
    return groups


class Schedule:
    """Says which images are due, at a stated rate; what is late by more than `_MAX_LATE_S` is left out and counted.

    Args:
        groups: to send, in turn.
        fps: images in a second.

    Attributes:
        left_out: groups that were never sent.
    """

    def __init__(self, groups: list[Group], fps: float) -> None:
        self._groups, self._fps = groups, fps
        self._next, self._due_s = 0, time.monotonic()
        self.left_out = 0

    def due(self, now_s: float) -> Iterator[Group]:
        """Yield the groups that are due."""
        while self._due_s <= now_s:
            group = self._groups[self._next % len(self._groups)]
            self._next += 1
            late = now_s - self._due_s > _MAX_LATE_S
            self._due_s += group.symbols.num_images / self._fps
            if late:
                self.left_out += 1
            else:
                yield group


def transmit(job: Job) -> None:
    """Run the transmitter's process."""
    run_process(job, _transmit)


def _transmit(job: Job, bus: Bus) -> None:
    settings, layout = job.plan.settings, job.plan.layout
    with ThreadPoolExecutor(1) as beside:  # GNU Radio starts while the images are encoded
        opening = beside.submit(open_air, job)
        try:
            models = load_bundle(settings.bundle)
            groups = encode_groups(job.plan.image_folder, models, layout, settings.told_csnr_db)
        except BaseException:
            opening.result().close()
            raise
        air = opening.result()
    try:
        bus.publish("event", level="info", text="transmitter: ready")
        if limits := getattr(air, "limits", dict)():
            bus.publish("limits", limits=limits)
        _Sender(job, bus, air, groups).run()
    finally:
        air.close()


class _Sender:
    """The loop of the transmitter."""

    def __init__(self, job: Job, bus: Bus, air: Air, groups: list[Group]) -> None:
        self._bus, self._air, self._layout = bus, air, job.plan.layout
        self._schedule = Schedule(groups, job.plan.settings.fps)
        self._muted = bool(job.values["mute"])
        self._frames = self._images = self._dropped = 0
        self._truth_s = self._taps_since_s = 0.0
        self._taps = np.zeros(0, np.complex64)

    def run(self) -> None:
        """Send until the process is ended."""
        status = Status(self._bus)
        while True:
            for name, value in self._bus.orders():
                if name == "mute" and value != self._muted:
                    self._muted = value
                    self._air.mute(value)
                else:
                    self._air.change(name, value)
            for group in self._schedule.due(time.monotonic()):
                if not self._muted:
                    self._send(group)
            self._air.tick()
            self._publish_taps()
            status.publish(self._numbers)
            time.sleep(_TICK_S)

    def _send(self, group: Group) -> None:
        frames: list[FrameContent] = pack_frames(group.symbols, self._layout, first_frame=self._frames)
        self._frames += len(frames)
        self._images += group.symbols.num_images
        self._dropped += self._air.send(frames)
        for image_id, picture in zip(group.symbols.image_ids, group.originals, strict=True):
            self._bus.publish("original", {"image": picture}, id=image_id)

    def _publish_taps(self) -> None:
        now = time.monotonic()
        if now < self._truth_s:
            return
        self._truth_s = now + _TRUTH_S
        taps = self._air.taps()
        if taps is not None:
            if not np.array_equal(taps, self._taps):
                self._taps, self._taps_since_s = taps, now
            response = np.fft.fft(taps, self._layout.fft_size)
            self._bus.publish(
                "truth",
                {
                    "taps": np.abs(taps).astype(np.float32),
                    "response_db": np.fft.fftshift(20 * np.log10(np.abs(response) + 1e-6)).astype(np.float32),
                },
                since_s=self._taps_since_s,
            )

    def _numbers(self) -> dict[str, float | int]:
        return {
            "frames_sent": self._frames,
            "images_sent": self._images,
            "frames_not_taken": self._dropped,
            "groups_left_out": self._schedule.left_out,
            "late_samples": getattr(self._air, "late_samples", 0),
            "overflows": getattr(self._air, "overflows", 0),
            "muted": int(self._muted),
        }
