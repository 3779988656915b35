"""Put placeholders for lost frames, so that an image that spans frames is decoded from those that arrived."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from receiver.separation.chain import chain_of
from receiver.sync.frame import SyncedFrame
from sdr.header import FrameHeader
from sdr.layout import FrameLayout


def with_lost_frames(frames: Sequence[SyncedFrame], layout: FrameLayout) -> list[SyncedFrame]:
    """Return the frames, and a placeholder for each frame that an image between them lacks.

    Nothing is put in for an image of which the recording holds a whole copy, which begins with side information, or
    that a channel code protects: without a part of them they mean nothing. Of several incomplete copies the one of most
    frames is completed.

    Args:
        frames: with headers, in the order of time.
        layout: theirs.
    """
    copies: list[list[SyncedFrame]] = []
    for frame in frames:
        if copies and _follows(frame, copies[-1][-1]):
            copies[-1].append(frame)
        else:
            copies.append([frame])
    best: dict[str, list[SyncedFrame]] = {}
    for copy in copies:
        header = _header(copy[0])
        if _in_parts(header, layout) and len(copy) > len(best.get(header.image_ids[0], [])):
            best[header.image_ids[0]] = copy
    completed = {id(copy) for copy in best.values()}
    return [frame for copy in copies for frame in (_completed(copy, layout) if id(copy) in completed else copy)]


def _header(frame: SyncedFrame) -> FrameHeader:
    assert frame.header is not None
    return frame.header


def _in_parts(header: FrameHeader, layout: FrameLayout) -> bool:
    """Whether a header is that of an image that spans frames and means something without some of them."""
    apart = header.symbols_per_image > layout.capacity and len(header.image_ids) == 1
    return apart and not header.side_bytes and chain_of(header.codec_digest) is None


def _follows(frame: SyncedFrame, before: SyncedFrame) -> bool:
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
    count = math.ceil(_header(copy[0]).symbols_per_image / layout.capacity)
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
