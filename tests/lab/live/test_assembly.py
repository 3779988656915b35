"""Frames of one image are handed on together as they come, with placeholders for those that were lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lab.live.assembly import ImageAssembler
from receiver.sync.frame import SyncedFrame
from tests.receiver.spanning import PHOTO, sent


def handed_on(frames: list[SyncedFrame]) -> tuple[list[list[tuple[int, bool]]], int]:
    """Return number and loss of the frames of each image in the order of handing on, and the images that lacked one."""
    assembler = ImageAssembler(PHOTO)
    images = [image for frame in frames for image in assembler.add(frame)]
    return [[(f.header.frame_number, f.lost) for f in image if f.header] for image in images], assembler.incomplete


def test_the_frames_of_an_image_are_handed_on_with_its_last_one() -> None:
    assembler, frames = ImageAssembler(PHOTO), sent()
    assert [len(assembler.add(frame)) for frame in frames] == [0, 0, 0, 1, 0, 0, 0, 1]
    images, incomplete = handed_on(frames)
    assert [[number for number, _ in image] for image in images] == [[0, 1, 2, 3], [4, 5, 6, 7]] and not incomplete


@pytest.mark.parametrize("lost", [{0}, {1}, {1, 2}, {3}, {0, 3}])
def test_an_image_is_handed_on_without_a_lost_frame_and_the_next_one_is_whole(lost: set[int]) -> None:
    images, incomplete = handed_on([frame for index, frame in enumerate(sent()) if index not in lost])
    assert images == [[(index, index in lost) for index in range(4)], [(index, False) for index in range(4, 8)]]
    assert incomplete == 1


def test_what_means_nothing_without_a_frame_is_left_out() -> None:
    coded = [replace(f, header=replace(f.header, side_bytes=8)) for f in sent() if f.header]
    images, incomplete = handed_on([coded[0], *coded[2:]])
    assert images == [[(index, False) for index in range(4, 8)]] and incomplete == 1


def test_frames_whose_header_was_not_read_are_lost_ones() -> None:
    frames = sent(ids=("a",))
    images, _ = handed_on([frames[0], replace(frames[1], header=None), *frames[2:]])
    assert images == [[(0, False), (1, True), (2, False), (3, False)]]


def test_a_frame_with_several_images_is_whole_by_itself() -> None:
    (frame,) = sent(num_symbols=PHOTO.capacity // 2)
    assert handed_on([frame, frame]) == ([[(0, False)]] * 2, 0)
