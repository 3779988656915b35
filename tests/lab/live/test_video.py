"""Videos as a source: the newest picture first, and one line where there is none."""

import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.live.sending import encode_groups
from lab.live.settings import LiveSettings, make_plan
from lab.live.video import NewestFrame, VideoSchedule, check_video, picture_shape
from receiver.bundles.bundle import load_bundle
from receiver.separation.sources.ffmpeg import ffmpeg_path
from sdr.errors import ConfigError, InputError
from sdr.layout import load_layout

LIMIT_S = 60.0
STEP = 12
"""Brightness of a frame is STEP times its number."""


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Two seconds of 10 frames a second, each of one brightness, twice as wide as high."""
    path = tmp_path_factory.mktemp("video") / "steps.mkv"
    frames = np.repeat(np.arange(20, dtype=np.uint8) * STEP, 64 * 32)
    command = [ffmpeg_path(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "64x32", "-r", "10", "-i", "-"]
    subprocess.run([*command, "-c:v", "ffv1", str(path)], input=frames.tobytes(), check=True)
    return path


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 24, 40)])
def test_what_is_not_taken_in_time_is_left_out(video, shape):
    check_video(video, shape)
    frames = NewestFrame(video, shape)
    try:
        numbers, deadline = [], time.monotonic() + LIMIT_S
        # A queue would hand on each frame; it plays again when it is over.
        while not {"left out", "again"} <= {
            "left out" if after > before + 1 else "again" if after < before else ""
            for before, after in itertools.pairwise(numbers)
        }:
            assert time.monotonic() < deadline, numbers
            frame = frames.take(5.0)
            assert frame is not None and frame.shape == (*shape[1:], shape[0])
            assert np.ptp(frame) <= 2
            numbers.append(round(float(frame.mean()) / STEP))
            time.sleep(0.25)
    finally:
        frames.close()


def test_the_newest_pictures_are_sent_and_those_before_them_counted(video):
    models, layout = load_bundle("fashion"), load_layout("paper")

    def encode(ids, pictures):
        images = [torch.from_numpy(np.moveaxis(picture, -1, 0) / np.float32(255)) for picture in pictures]
        return encode_groups(ids, images, models, layout, 10.0)

    schedule = VideoSchedule(NewestFrame(video, picture_shape(models.accepted_shape)), encode, 4, 1000.0)
    try:
        deadline = time.monotonic() + LIMIT_S
        while schedule.left_out < 1:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (group,) = schedule.due(time.monotonic())
        assert group.symbols.num_images == len(group.originals) == 4
        assert int(group.symbols.image_ids[0][1:]) >= 4 and len(set(group.symbols.image_ids)) == 4
        assert all(picture.shape == (32, 32, 1) for picture in group.originals)
    finally:
        schedule.close()


def test_a_video_that_ends_says_so(tmp_path, video):
    frames = NewestFrame(video, (1, 32, 32))
    frames._process.kill()
    with pytest.raises(InputError, match="ended"):
        for _ in range(100):
            frames.take(1.0)
    frames.close()


def test_what_is_no_video_is_refused_in_one_line(tmp_path, video, monkeypatch):
    (tmp_path / "text.mp4").write_text("no video\n")
    (tmp_path / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    for path, words in (
        ("/dev/video99", "no such file or device"),
        (tmp_path / "text.mp4", "is no video"),
        (tmp_path / "list.m3u8", "is no video"),
        (tmp_path, "--images"),
    ):
        with pytest.raises(InputError, match=words) as refused:
            make_plan(LiveSettings(video=Path(path)))
        assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="leave out"):
        LiveSettings(video=video, images=tmp_path)
    ffmpeg_path.cache_clear()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"videos need .*\[baselines\]"):
        make_plan(LiveSettings(video=video))
