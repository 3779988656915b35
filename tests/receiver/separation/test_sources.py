"""Image codecs: what goes in comes out, in the bytes that there are, in its own colours."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from receiver.bundles.bundle import find_bundle
from receiver.separation.methods import SEPARATION_METHODS
from receiver.separation.sources import SOURCES, Source, ffmpeg
from receiver.separation.sources.source import MAX_QUALITIES, Pixels, TooLargeError, fill, unpack
from sdr.errors import ConfigError, InputError

EVERY = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def photograph(height: int, width: int) -> Pixels:
    with Image.open(find_bundle("photo") / "samples" / "coffee.jpg") as image:
        return np.asarray(image.convert("RGB"))[60 : 60 + height, 60 : 60 + width]


def psnr_db(found: Pixels, sent: Pixels) -> float:
    return float(-10 * np.log10(np.square((found.astype(float) - sent) / 255).mean() + 1e-9))


@EVERY
def test_more_bytes_make_a_better_image_and_none_are_exceeded(source: Source) -> None:
    sent = photograph(44, 36)  # no multiple of 8
    reached = []
    for num_bytes in (150, 1500):
        data = fill(source, sent, num_bytes)
        assert len(data) <= num_bytes
        # A block is filled up with zeros.
        found = unpack(source, data + bytes(9), 44, 36)
        assert found.shape == sent.shape and found.dtype == np.uint8
        reached.append(psnr_db(found, sent))
    assert reached[0] > 13 and reached[1] > reached[0] + 4 and reached[1] > 26, reached


@EVERY
def test_colours_are_pinned(source: Source) -> None:
    """A wrong matrix or range shows in flat colours: by 10 levels and more."""
    assert 2 <= source.qualities <= MAX_QUALITIES
    sent = np.full((32, 64, 3), (20, 160, 60), np.uint8)
    sent[:, 32:] = (230, 40, 90)
    found = unpack(source, fill(source, sent, 800), 32, 64)
    flat = [slice(4, 24), slice(36, 60)]
    for half in flat:
        assert np.abs(found[8:24, half].astype(float).mean(axis=(0, 1)) - sent[0, half.start]).max() <= 4


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "jpeg-xl"])
def test_the_head_is_not_sent(name: str) -> None:
    source, sent = SOURCES[name], photograph(64, 64)
    stream = source.encode(sent, 30)
    head, body = source.split(stream)
    grey, _ = source.split(source.encode(np.full_like(sent, 128), 30))
    assert head == grey and len(body) < len(stream)
    assert np.array_equal(source.decode(source.join(head, body), 64, 64), source.decode(stream, 64, 64))


@EVERY
def test_what_does_not_fit_is_said(source: Source) -> None:
    with pytest.raises(TooLargeError, match=f"bytes in {source.title}"):
        fill(source, photograph(64, 64), 8)


@EVERY
def test_damaged_images_are_refused(source: Source) -> None:
    data = fill(source, photograph(64, 64), 600)
    for damaged in (b"", bytes([63]) + data[1:2], data[:1] + b"\x85", data[: len(data) // 2], data[:1] + b"\xff" * 9):
        with pytest.raises(InputError):
            unpack(source, damaged, 64, 64)


def test_a_missing_package_or_encoder_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="has no encoder libnothing"):
        ffmpeg.check_encoder("libnothing", ffmpeg.ffmpeg_path())
    ffmpeg.ffmpeg_path.cache_clear()
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ConfigError, match=r"\[baselines\]"):
        ffmpeg.ffmpeg_path()


def test_every_codec_has_its_methods() -> None:
    for name in SOURCES:
        assert {f"{name}-ldpc", f"{name}-ldpc-fixed", f"{name}-ldpc-refined"} <= set(SEPARATION_METHODS)
