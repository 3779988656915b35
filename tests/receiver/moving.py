"""Frames of Gaussian symbols over taps that move, for the tests of several folders."""

from __future__ import annotations

import numpy as np

from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from sdr.framing import pack_frames
from sdr.layout import FrameLayout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.symbols import Symbols


def received_frames(
    layout: FrameLayout, count: int, air: str = "taps=8,csnr_db=10", doppler_hz: float = 0.0, seed: int = 1
) -> list[SyncedFrame]:
    """Return what is found of `count` frames sent; without Doppler each has taps of its own, which stand still."""
    parts = np.random.default_rng(seed).standard_normal((2, count, layout.capacity))
    parts /= np.sqrt(np.sum(np.mean(parts**2, axis=2), axis=0))[:, None]
    ids = tuple(f"i{index}" for index in range(count))
    symbols = Symbols((parts[0] + 1j * parts[1]).astype(np.complex64), "00c0ffee", ids, (1, 32, 32), 10.0)
    still = f",block_samples={layout.frame_samples}" if "taps" in air else ""
    moving = f",doppler_hz={doppler_hz}" if doppler_hz else still
    with open_radio(f"sim:{air},seed={seed}{moving}", layout=layout) as radio:
        radio.transmit(modulate_stream(pack_frames(symbols, layout), layout))
        return find_frames(radio.receive(), layout)
