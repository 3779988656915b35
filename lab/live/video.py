"""Take pictures from a video file or a camera, the newest first: what comes meanwhile is left out, never queued.

A process of ffmpeg decodes and scales them. A file plays at its own speed, and again from its beginning.
"""

from __future__ import annotations

import contextlib
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError

if TYPE_CHECKING:
    from lab.live.sending import Group

FIRST_FRAME_S = 20.0
"""Longest wait for the first frame of a video; a camera may have to wake up."""

ANY_SIDE = 256
"""Side of the pictures where the models take any."""

Picture = NDArray[np.uint8]


def picture_shape(accepted: tuple[int, int | None, int | None]) -> tuple[int, int, int]:
    """Return (C, H, W) of the pictures for models that take an accepted shape; sides of None become `ANY_SIDE`."""
    channels, height, width = accepted
    return channels, height or ANY_SIDE, width or ANY_SIDE


def _command(path: Path, shape: tuple[int, int, int]) -> list[str]:
    """Return the command that writes (H, W, C) bytes a frame to standard output, cut to the middle."""
    from receiver.separation.sources.ffmpeg import ffmpeg_path

    channels, height, width = shape
    camera = path.exists() and stat.S_ISCHR(path.stat().st_mode)
    source = ["-f", "v4l2"] if camera else ["-re", "-stream_loop", "-1"]
    scaled = f"scale={width}:{height}:force_original_aspect_ratio=increase:flags=area,crop={width}:{height}"
    drawn = ["-vf", scaled, "-pix_fmt", "gray" if channels == 1 else "rgb24", "-f", "rawvideo", "-"]
    # An address of the network is no file: nothing but files and devices is opened.
    opened = [] if camera else ["-protocol_whitelist", "file,pipe"]
    given = ["-i", str(path) if camera else f"file:{path}"]
    return [ffmpeg_path(), "-v", "error", "-nostdin", *source, *opened, *given, "-an", *drawn]


def check_video(path: Path, shape: tuple[int, int, int]) -> None:
    """Decode one frame, to find out what is wrong before any process starts.

    Raises:
        ConfigError: there is no ffmpeg.
        InputError: there is no such file or device, or it is no video.
    """
    if not path.exists():
        raise InputError(f"--video {path}: no such file or device; cameras are called /dev/video0 and so on.")
    if path.is_dir():
        raise InputError(f"--video {path} is a folder; a folder of images is sent with --images.")
    command = [*_command(path, shape)[:-1], "-frames:v", "1", "-"]
    try:
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=FIRST_FRAME_S)
    except subprocess.TimeoutExpired:
        raise InputError(f"--video {path} gave no frame within {FIRST_FRAME_S:g} s; check the camera.") from None
    if len(found.stdout) != int(np.prod(shape)):
        raise InputError(f"--video {path} is no video that ffmpeg can read ({_last_line(found.stderr)}).")


def _last_line(said: bytes) -> str:
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "it has no picture"


class NewestFrame:
    """The newest frame of a video that plays; a thread reads them all.

    Args:
        path: file or device.
        shape: (C, H, W) of the frames.
    """

    def __init__(self, path: Path, shape: tuple[int, int, int]) -> None:
        self._path, self._shape = path, shape
        self._process = subprocess.Popen(
            _command(path, shape), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self._news = threading.Condition()
        self._frame: Picture | None = None
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        channels, height, width = self._shape
        size = channels * height * width
        assert self._process.stdout is not None
        while len(data := self._process.stdout.read(size)) == size:
            with self._news:
                self._frame = np.frombuffer(data, np.uint8).reshape(height, width, channels)
                self._news.notify()
        with self._news:
            self._ended = True
            self._news.notify()

    def take(self, timeout_s: float) -> Picture | None:
        """Return the newest frame (H, W, C), uint8, each once; None where none came in time.

        Raises:
            InputError: the video ended.
        """
        with self._news:
            if self._frame is None and not self._ended:
                self._news.wait(timeout_s)
            if self._frame is None and self._ended:
                assert self._process.stderr is not None
                raise InputError(f"the video {self._path} ended ({_last_line(self._process.stderr.read())})")
            frame, self._frame = self._frame, None
        return frame

    def close(self) -> None:
        """End ffmpeg."""
        self._process.kill()
        self._process.communicate()


class VideoSchedule:
    """Says which pictures of a video are due: the newest, encoded by a thread, at most so many in a second.

    Args:
        frames: of the video.
        encode: makes the groups of some pictures, by their ids.
        together: pictures that share a frame.
        fps: pictures in a second, at most.

    Attributes:
        left_out: groups that were never sent, since a newer one was there.
    """

    def __init__(
        self, frames: NewestFrame, encode: Callable[[list[str], list[Picture]], list[Group]], together: int, fps: float
    ) -> None:
        self._frames, self._encode, self._together, self._fps = frames, encode, together, fps
        self._ready: list[Group] | None = None
        self._failure: InputError | None = None
        self._closed = False
        self.left_out = 0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        due_s, count = time.monotonic(), 0
        pictures: list[Picture] = []
        while not self._closed:
            try:
                picture = self._frames.take(0.2)
            except InputError as error:
                self._failure = error
                return
            if picture is None:
                continue
            pictures.append(picture)
            if len(pictures) == self._together:
                ids = [f"v{(count + index) % 10**7}" for index in range(len(pictures))]
                groups = self._encode(ids, pictures)
                self.left_out += self._ready is not None
                self._ready, count, pictures = groups, count + len(pictures), []
            due_s = max(due_s + 1 / self._fps, time.monotonic() - 1 / self._fps)
            time.sleep(max(0.0, due_s - time.monotonic()))

    def due(self, now_s: float) -> Iterator[Group]:
        """Yield the groups that are due.

        Raises:
            InputError: the video ended.
        """
        if self._failure is not None:
            raise self._failure
        ready, self._ready = self._ready, None
        yield from ready or ()

    def close(self) -> None:
        """Stop."""
        self._closed = True
        self._thread.join()
        with contextlib.suppress(OSError):
            self._frames.close()
