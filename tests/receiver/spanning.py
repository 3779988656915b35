"""Synchronised frames of images that span frames, without samples behind them."""

from __future__ import annotations

import numpy as np

from receiver.sync.frame import SyncedFrame
from sdr.framing import pack_frames
from sdr.header import FrameHeader
from sdr.layout import load_layout
from sdr.symbols import Symbols

PHOTO = load_layout("photo")


def synced(header: FrameHeader, start: int = 0) -> SyncedFrame:
    grid = np.ones((17, 256), np.complex64)
    return SyncedFrame(
        grid=grid, header=header, start=start, advance=2, cfo_hz=0.0, cfo_std_hz=1.0, metric=1.0, noise_var=0.1,
        noise_var_std=0.01, signal_power=1.0, preamble_grid=grid[:2], header_grid=grid[:12],
        known_taps=np.ones(1, np.complex64),
    )  # fmt: skip


def sent(num_symbols: int = 3 * PHOTO.capacity + 100, ids: tuple[str, ...] = ("a", "b")) -> list[SyncedFrame]:
    z = np.ones((len(ids), num_symbols), np.complex64)
    frames = pack_frames(Symbols(z, "00000000", ids, (3, 512, 512), 10.0), PHOTO)
    return [synced(frame.header, index * PHOTO.frame_samples) for index, frame in enumerate(frames)]
