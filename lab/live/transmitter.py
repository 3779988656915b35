"""Send images, one after the other, at a stated rate."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from lab.live.air import Air, open_air
from lab.live.process import Status, run_process
from lab.live.sending import Due, Group, Schedule, encode_folder_groups, encode_groups
from lab.live.settings import Job
from lab.live.video import NewestFrame, VideoSchedule, picture_shape
from lab.live.wire import Bus
from receiver.bundles.bundle import load_bundle
from sdr.framing import FrameContent, images_per_frame, pack_frames

_TICK_S = 0.005
_TRUTH_S = 0.1


def transmit(job: Job) -> None:
    """Run the transmitter's process."""
    run_process(job, _transmit)


def _transmit(job: Job, bus: Bus) -> None:
    with ThreadPoolExecutor(1) as beside:  # GNU Radio starts while the images are encoded
        opening = beside.submit(open_air, job)
        try:
            schedule = _make_schedule(job)
        except BaseException:
            opening.result().close()
            raise
        air = opening.result()
    try:
        bus.publish("event", level="info", text="transmitter: ready")
        if limits := getattr(air, "limits", dict)():
            bus.publish("limits", limits=limits)
        _Sender(job, bus, air, schedule).run()
    finally:
        air.close()
        schedule.close()


def _make_schedule(job: Job) -> Due:
    """Return the images of the folder, all encoded, or those of a video, encoded as they come."""
    settings, layout = job.plan.settings, job.plan.layout
    models = load_bundle(settings.bundle)
    told_db = settings.told_csnr_db
    if settings.video is None:
        return Schedule(encode_folder_groups(job.plan.image_folder, models, layout, told_db), settings.fps)
    torch.set_num_threads(1)
    shape = picture_shape(models.accepted_shape)

    def encode(ids: list[str], pictures: list[NDArray[np.uint8]]) -> list[Group]:
        images = [torch.from_numpy(np.moveaxis(picture, -1, 0) / np.float32(255)) for picture in pictures]
        return encode_groups(ids, images, models, layout, told_db)

    together = max(1, images_per_frame(models.for_shape(shape).codec.num_symbols, layout))
    return VideoSchedule(NewestFrame(settings.video, shape), encode, together, settings.fps)


class _Sender:
    """The loop of the transmitter."""

    def __init__(self, job: Job, bus: Bus, air: Air, schedule: Due) -> None:
        self._bus, self._air, self._layout = bus, air, job.plan.layout
        self._schedule = schedule
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
