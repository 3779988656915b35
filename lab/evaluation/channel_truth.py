"""Compare a channel estimate with the simulated channel. For evaluation only: no decoder may import this.

The simulated channel gives out[n] = sum_l taps[block(n), l] in[n - l], rotated by 2 pi cfo_hz n / rate_sps, with
block(n) = max(0, (n - first_redraw_sample) // redraw_samples); moving taps are linear between blocks' first samples. A
recording may begin earlier by `delay_samples` and be scaled by `gain`. The receiver sees the same channel through its
own convention: delays count from `SyncedFrame.start`, the carrier offset is removed with phase 0 at `start`, and grids
are divided by the root of the mean signal power.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from receiver.channel.estimate import fourier_matrix
from receiver.sync.frame import SyncedFrame
from sdr.errors import ConfigError
from sdr.layout import FrameLayout


@dataclass(frozen=True, eq=False)
class ChannelTruth:
    """What a simulated channel did. Sample indices count from the channel's first sample.

    Attributes:
        taps: complex (blocks, L), E||h||^2 = 1.
        redraw_samples: samples per block, > 0.
        cfo_hz: carrier offset; its phase is 0 at the channel's first sample.
        frame_starts: int (F,) first sample of each frame sent (first prefix sample of preamble A).
        first_redraw_sample: where block 0 begins to count.
        delay_samples: recording sample n is channel sample n - delay_samples.
        gain: real amplitude factor from the channel's output to the recording.
        moving: whether taps move from one block's to the next one's.

    Raises:
        ConfigError: values that no channel can have.
    """

    taps: NDArray[np.complex64]
    redraw_samples: int
    cfo_hz: float
    frame_starts: NDArray[np.int64]
    first_redraw_sample: int = 0
    delay_samples: int = 0
    gain: float = 1.0
    moving: bool = False

    def __post_init__(self) -> None:
        if self.taps.ndim != 2 or self.taps.shape[0] == 0:
            raise ConfigError(f"True taps have shape {self.taps.shape}; needed (blocks, L).")
        if self.redraw_samples < 1 or self.frame_starts.ndim != 1 or self.frame_starts.size == 0 or self.gain <= 0:
            raise ConfigError(
                f"A truth needs redraw_samples > 0, frame_starts (F,) and gain > 0; found {self.redraw_samples}, "
                f"{self.frame_starts.shape} and {self.gain}."
            )

    @classmethod
    def from_mapping(cls, truth: Mapping[str, Any]) -> ChannelTruth:
        """Return what the channel flowgraph or the simulated radio left: a mapping with the fields without default.

        Raises:
            ConfigError: one of these is missing.
        """
        missing = {"taps", "redraw_samples", "cfo_hz", "frame_starts"} - set(truth)
        if missing:
            raise ConfigError(f"The channel's truth lacks {', '.join(sorted(missing))}; run the link again.")
        return cls(
            taps=np.asarray(truth["taps"]),
            redraw_samples=int(truth["redraw_samples"]),
            cfo_hz=float(truth["cfo_hz"]),
            frame_starts=np.asarray(truth["frame_starts"], dtype=np.int64),
            first_redraw_sample=int(truth.get("first_redraw_sample", 0)),
            delay_samples=int(truth.get("delay_samples", 0)),
            gain=float(truth.get("gain", 1.0)),
            moving=bool(truth.get("moving", False)),
        )


def frame_index(frame: SyncedFrame, truth: ChannelTruth) -> int:
    """Return which of the frames sent this is: the one whose start is nearest."""
    arrival = frame.start + frame.advance - truth.delay_samples
    return int(np.abs(truth.frame_starts - arrival).argmin())


def timing_error_samples(frame: SyncedFrame, truth: ChannelTruth) -> int:
    """Return by how many samples the receiver puts the first path too late."""
    arrival = frame.start + frame.advance - truth.delay_samples
    return int(arrival - truth.frame_starts[frame_index(frame, truth)])


def _taps_and_delay(
    frame: SyncedFrame, truth: ChannelTruth, layout: FrameLayout, data_symbol: float | None = None
) -> tuple[NDArray[np.complex128], int]:
    """Return the true taps (L,) and the lag of the first one, in the middle of a data symbol, or of all of them."""
    if data_symbol is None:
        data_symbol = (layout.data_symbols - 1) / 2
    first = (layout.first_data_symbol + data_symbol) * layout.symbol_samples + layout.cp_samples
    middle = frame.start - truth.delay_samples + first + (layout.fft_size - 1) / 2  # in channel samples
    block = max(0, int(middle - truth.first_redraw_sample) // truth.redraw_samples)
    if block >= truth.taps.shape[0]:
        raise ConfigError(
            f"The frame at sample {frame.start} lies in block {block}, but the truth has {truth.taps.shape[0]}; "
            "this truth belongs to another recording."
        )
    removed = frame.cfo_hz * (middle - (frame.start - truth.delay_samples))
    turns = (truth.cfo_hz * middle - removed) / layout.rate_sps
    delay = int(truth.frame_starts[frame_index(frame, truth)]) + truth.delay_samples - frame.start
    taps = truth.taps[block].astype(np.complex128)
    if truth.moving:
        place = (middle - truth.first_redraw_sample) / truth.redraw_samples - block
        taps += place * (truth.taps[min(block + 1, len(truth.taps) - 1)] - taps)
    return taps * np.exp(2j * np.pi * turns), delay


def true_response(frame: SyncedFrame, truth: ChannelTruth, layout: FrameLayout) -> NDArray[np.complex128]:
    """Return the response (N,) that a frame's data symbols met, in the receiver's convention, E mean|H|^2 = 1."""
    taps, delay = _taps_and_delay(frame, truth, layout)
    size = layout.fft_size
    late = np.exp(-2j * np.pi * (np.arange(size) * delay % size) / size)
    return fourier_matrix(np.arange(size), taps.size, size) @ taps * late


def true_symbol_taps(
    frame: SyncedFrame, truth: ChannelTruth, layout: FrameLayout, num_taps: int
) -> NDArray[np.complex128]:
    """Return the taps (S, num_taps) that each data symbol of a frame met, as `true_taps` has them."""
    return np.stack([true_taps(frame, truth, layout, num_taps, symbol) for symbol in range(layout.data_symbols)])


def true_taps(
    frame: SyncedFrame, truth: ChannelTruth, layout: FrameLayout, num_taps: int, data_symbol: float | None = None
) -> NDArray[np.complex128]:
    """Return the same as taps (num_taps,) behind `frame.start`; what falls outside of 0..num_taps-1 is lost.

    Args:
        data_symbol: number of the data symbol that met them; None: their middle.
    """
    taps, delay = _taps_and_delay(frame, truth, layout, data_symbol)
    aligned = np.zeros(num_taps, dtype=np.complex128)
    places = np.arange(taps.size) + delay
    inside = (places >= 0) & (places < num_taps)
    aligned[places[inside]] = taps[inside]
    return aligned


def channel_distance(
    taps: ArrayLike, frame: SyncedFrame, truth: ChannelTruth, layout: FrameLayout, scale: float | None = None
) -> float:
    """Return d_h = ||h_hat - h||^2 over all delays, with E||h||^2 = 1 of the true taps h.

    Args:
        taps: complex (L,) estimate.
        frame: that the estimate is of.
        truth: of the channel.
        layout: of the frame.
        scale: factor by which the taps map sent cells to the recording's raw grid; None: sqrt(frame.signal_power),
            right for taps in the units of `receiver.measurement.model.Measurement`.
    """
    estimate = np.asarray(taps, dtype=np.complex128)
    factor = np.sqrt(frame.signal_power) if scale is None else scale
    response = fourier_matrix(np.arange(layout.fft_size), estimate.shape[-1], layout.fft_size) @ estimate * factor
    difference = response / (layout.amplitude * truth.gain) - true_response(frame, truth, layout)
    return float(np.mean(np.abs(difference) ** 2))
