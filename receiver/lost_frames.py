"""Put placeholders for lost frames, so that an image that spans frames is decoded from those that arrived."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from receiver.separation.chain import chain_of
from receiver.sync.frame import SyncedFrame
from sdr.header import FrameHeader
from sdr.layout import FrameLayout


def with_lost_frames(frames: Iterable[SyncedFrame], layout: FrameLayout) -> list[SyncedFrame]:
    """Return the frames, and a placeholder for each frame that an image between them lacks, in the order of time.

    See :func:`completed_frames`.
    """
    return sorted(completed_frames(frames, layout), key=lambda frame: frame.start)


def completed_frames(frames: Iterable[SyncedFrame], layout: FrameLayout) -> Iterator[SyncedFrame]:
    """Yield the frames of whole images as they come, then those of the others with placeholders for what they lack.

    Nothing is put in for an image of which there is a whole copy, which begins with side information, or that a channel
    code protects: without a part of them they mean nothing. Of several incomplete copies the one of most frames is
    completed.

    Args:
        frames: with headers, in the order of time.
        layout: theirs.
    """
    whole: set[str] = set()
    parts: dict[str, list[SyncedFrame]] = {}
    for copy in _copies(frames):
        header = _header(copy[0])
        if not _in_parts(header, layout):
            yield from copy
            continue
        (image,) = header.image_ids
        if len(copy) == _num_frames(header, layout):
            whole.add(image)
            yield from copy
            continue
        longest = parts.get(image, [])
        parts[image], left = (copy, longest) if len(copy) > len(longest) else (longest, copy)
        yield from left
    for image, copy in parts.items():
        yield from copy if image in whole else _completed(copy, layout)


def _copies(frames: Iterable[SyncedFrame]) -> Iterator[list[SyncedFrame]]:
    """Yield the frames of each copy of an image, or a frame of several images."""
    copy: list[SyncedFrame] = []
    for frame in frames:
        if copy and not follows(frame, copy[-1]):
            yield copy
            copy = []
        copy.append(frame)
    if copy:
        yield copy


def _num_frames(header: FrameHeader, layout: FrameLayout) -> int:
    """Return how many frames an image spans."""
    return math.ceil(header.symbols_per_image / layout.capacity)


def _header(frame: SyncedFrame) -> FrameHeader:
    assert frame.header is not None
    return frame.header


def _in_parts(header: FrameHeader, layout: FrameLayout) -> bool:
    """Whether a header is that of an image that spans frames and means something without some of them."""
    apart = header.symbols_per_image > layout.capacity and len(header.image_ids) == 1
    return apart and not header.side_bytes and chain_of(header.codec_digest) is None


def follows(frame: SyncedFrame, before: SyncedFrame) -> bool:
    """Whether a frame holds a later part of the same copy of an image as another one."""
    own, earlier = _header(frame), _header(before)
    parted = own.symbol_offset - earlier.symbol_offset
    same = (own.image_ids, own.symbols_per_image) == (earlier.image_ids, earlier.symbols_per_image)
    apart = own.frame_number - earlier.frame_number
    return same and parted > 0 and apart > 0 and parted == apart * earlier.num_payload


def _completed(copy: Sequence[SyncedFrame], layout: FrameLayout) -> list[SyncedFrame]:
    """Return a copy of an image with placeholders for its lost frames."""
    arrived = {_header(frame).symbol_offset // layout.capacity: frame for frame in copy}
    if any(_header(frame).symbol_offset % layout.capacity for frame in copy):
        return list(copy)
    count = _num_frames(_header(copy[0]), layout)
    return [
        arrived[place] if place in arrived else _placeholder(arrived, place, layout)
        for place in range(count)
        if place in arrived or _numbered(arrived, place)
    ]


def _numbered(arrived: dict[int, SyncedFrame], place: int) -> bool:
    """Whether a frame at a place of an image would have a number that a header can hold."""
    near = min(arrived)
    return 0 <= _header(arrived[near]).frame_number + place - near < 2**32


def _placeholder(arrived: dict[int, SyncedFrame], place: int, layout: FrameLayout) -> SyncedFrame:
    """Return a frame of which nothing was received, like the nearest one that was."""
    near = min(arrived, key=lambda other: abs(other - place))
    frame, offset = arrived[near], place * layout.capacity
    header = _header(frame)
    header = replace(
        header,
        frame_number=header.frame_number + place - near,
        symbol_offset=offset,
        num_payload=min(layout.capacity, header.symbols_per_image - offset),
    )
    start = frame.start + (place - near) * layout.frame_samples
    others = tuple(_not_received(other, header, start) for other in frame.others)
    return replace(_not_received(frame, header, start), others=others)


def _not_received(frame: SyncedFrame, header: FrameHeader, start: int) -> SyncedFrame:
    return replace(frame, grid=np.zeros_like(frame.grid), header=header, start=start, lost=True)
