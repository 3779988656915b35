"""VVC, HEVC and JPEG XL by the ffmpeg of `imageio-ffmpeg`, one process an image.

Raw video streams don't say which colours they have, so both ways say it: BT.709 at full range. VVC and HEVC code 10
bits 4:2:0, which is what vvenc has; sides are made even by repeating the last row or column.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from receiver.separation.sources.source import Pixels, Source
from sdr.errors import ConfigError, InputError

#: Longest that one image may take, seconds.
TIMEOUT_S = 300
#: Sides are multiples of it.
_STEP = 8
_ACCURATE = "flags=bicubic+accurate_rnd+full_chroma_int"


@lru_cache(maxsize=1)
def ffmpeg_path() -> str:
    """Return the path of ffmpeg.

    Raises:
        ConfigError: there is none.
    """
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"VVC, HEVC, JPEG XL and videos need the package imageio-ffmpeg ({error}). "
            "Install the extra 'baselines': pip install -e '.[baselines]'."
        ) from error


@lru_cache(maxsize=8)
def check_encoder(encoder: str, ffmpeg: str) -> None:
    """Refuse an ffmpeg without an encoder.

    Raises:
        ConfigError: names both.
    """
    listed = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=TIMEOUT_S)
    if not re.search(rf"^ V\S+ {re.escape(encoder)} ", listed.stdout, re.MULTILINE):
        raise ConfigError(
            f"{ffmpeg} has no encoder {encoder}. Unset IMAGEIO_FFMPEG_EXE or point it to an ffmpeg that has it."
        )


@dataclass(frozen=True)
class FfmpegSource(Source):
    """A codec of ffmpeg.

    Attributes:
        encoder: its name.
        container: format of the stream.
        picture: pixel format that is coded; "rgb24" without any conversion.
    """

    encoder: str
    container: str
    picture: str

    def options(self, quality: int) -> list[str]:
        """Return what the encoder is told."""
        raise NotImplementedError

    def encode(self, pixels: Pixels, quality: int) -> bytes:
        ffmpeg = ffmpeg_path()
        check_encoder(self.encoder, ffmpeg)
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((0, -height % _STEP), (0, -width % _STEP), (0, 0)), mode="edge")
        size = f"{padded.shape[1]}x{padded.shape[0]}"
        given = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", size, "-i", "pipe:"]
        conversion = self._conversion("out")
        wanted = ["-frames:v", "1", "-threads", "1", "-c:v", self.encoder, "-pix_fmt", self.picture]
        return self._run([*given, *conversion, *wanted, *self.options(quality), "-f", self.container], padded.tobytes())

    def decode(self, stream: bytes, height: int, width: int) -> Pixels:
        rows, columns = height + -height % _STEP, width + -width % _STEP
        conversion = self._conversion("in")
        given = ["-threads", "1", *self.reader, "-i", "pipe:", *conversion]
        raw = self._run([*given, "-frames:v", "1", "-pix_fmt", "rgb24", "-f", "rawvideo"], stream)
        if len(raw) != rows * columns * 3:
            raise InputError(f"A block holds a damaged {self.title} image.")
        return np.frombuffer(raw, np.uint8).reshape(rows, columns, 3)[:height, :width].copy()

    @property
    def reader(self) -> list[str]:
        """What ffmpeg is told of a stream to read."""
        return ["-f", self.container]

    def _conversion(self, end: str) -> list[str]:
        """Return the filter that pins the colours of what is coded, at its "in" or "out" end."""
        pinned = f"scale={end}_color_matrix=bt709:{end}_range=full:{_ACCURATE}"
        return [] if self.picture == "rgb24" else ["-vf", pinned]

    def _run(self, arguments: list[str], given: bytes) -> bytes:
        command = [ffmpeg_path(), "-hide_banner", "-loglevel", "error", *arguments, "pipe:1"]
        try:
            done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise InputError(f"{self.title} took longer than {TIMEOUT_S} s for an image; send smaller ones.") from None
        if done.returncode:
            reason = " ".join(done.stderr.decode(errors="replace").split())[-200:]
            raise InputError(f"ffmpeg failed on a {self.title} image ({reason}).")
        return done.stdout


@dataclass(frozen=True)
class _Video(FfmpegSource):
    """An intra picture of a video codec; the quality is the largest quantiser less the one used.

    Attributes:
        largest_qp: coarsest quantiser.
    """

    largest_qp: int

    def is_head(self, unit: bytes) -> bool:
        """Whether a unit of the stream (from its header on) is a parameter set or the like."""
        raise NotImplementedError

    def split(self, stream: bytes) -> tuple[bytes, bytes]:
        for found in re.finditer(b"\0\0\1", stream):
            if not self.is_head(stream[found.end() : found.end() + 2]):
                return stream[: found.end()], stream[found.end() :]
        return b"", stream


@dataclass(frozen=True)
class _Hevc(_Video):
    def options(self, quality: int) -> list[str]:
        parameters = f"qp={self.largest_qp - quality}:info=0:keyint=1:log-level=none:pools=1:frame-threads=1"
        return ["-preset", "veryslow", "-x265-params", parameters]

    def is_head(self, unit: bytes) -> bool:
        return unit[0] >> 1 & 0x3F >= 32


@dataclass(frozen=True)
class _Vvc(_Video):
    def options(self, quality: int) -> list[str]:
        return ["-preset", "medium", "-qp", str(self.largest_qp - quality), "-qpa", "0"]

    def is_head(self, unit: bytes) -> bool:
        # Adaptation parameter sets (17) belong to the picture; access unit delimiters (20) to the head.
        return unit[1] >> 3 in (12, 13, 14, 15, 16, 20)


@dataclass(frozen=True)
class _JpegXl(FfmpegSource):
    """Bare codestreams; the quality is a distance, 15 down to .1 in equal factors."""

    def options(self, quality: int) -> list[str]:
        distance = 15 * (0.1 / 15) ** (quality / (self.qualities - 1))
        return ["-distance", f"{distance:.4f}", "-effort", "7"]

    @property
    def reader(self) -> list[str]:
        return ["-f", "jpegxl_pipe"]


VVC = _Vvc("vvc", "VVC", 64, "libvvenc", "vvc", "yuv420p10le", 63)
HEVC = _Hevc("hevc", "HEVC intra", 52, "libx265", "hevc", "yuv420p10le", 51)
JPEG_XL = _JpegXl("jpeg-xl", "JPEG XL", 64, "libjxl", "image2pipe", "rgb24")
