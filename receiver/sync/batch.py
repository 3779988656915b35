"""F frames at A antennas that go through every step together, as F * A rows (see `receiver.sync.antennas`)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from receiver.sync.arrays import fft, mean_power, ramp, squared_magnitude
from receiver.sync.detection import window_taps
from sdr.layout import FrameLayout


class FrameSamples:
    """The samples that frames lie in.

    Args:
        samples: (A, n) complex64.
        dc_offset: (A,) taken off every sample.
        layout: of the frames.
    """

    def __init__(self, samples: NDArray[np.complex64], dc_offset: NDArray[np.complex128], layout: FrameLayout) -> None:
        self.samples, self.dc_offset, self.layout = samples, dc_offset, layout

    @property
    def antennas(self) -> int:
        """A."""
        return len(self.samples)

    def _antenna(self, rows: int) -> NDArray[np.int64]:
        """Return the antenna of each of F * A rows."""
        return np.arange(rows) % self.antennas

    def symbols(
        self, start: NDArray[np.int64], cfo_hz: NDArray[np.float64], first: int, count: int
    ) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
        """Transform `count` symbols of each row, beginning with symbol number `first`.

        Returns:
            grid (F * A, count, N) with the carrier offset removed within each symbol, and the cycles (F * A, count) by
            which each symbol has yet to be turned.
        """
        layout, size = self.layout, self.layout.fft_size
        begin = start[:, None] + (first + np.arange(count)) * layout.symbol_samples + layout.cp_samples
        antenna, length = self._antenna(start.size)[:, None], self.samples.shape[1]
        if begin.size and begin.min() >= 0 and begin.max() + size <= length:
            windows = np.lib.stride_tricks.sliding_window_view(self.samples, size, axis=1)[antenna, begin]
        else:
            # A start tried past either end reads the edge's sample again; such a frame is dropped later.
            windows = self.samples[antenna[..., None], np.clip(begin[..., None] + np.arange(size), 0, length - 1)]
        if self.dc_offset.any():
            windows -= self.dc_offset[antenna[..., None]].astype(np.complex64)
        turns = cfo_hz / layout.rate_sps
        windows *= ramp(-turns, size)[:, None, :]
        grid = fft(windows, axis=-1, norm="ortho", overwrite_x=True)
        return grid, -turns[:, None] * (begin - start[:, None])

    def gap_power(self, start: NDArray[np.int64], arrival: int) -> tuple[NDArray[np.float64], int]:
        """Measure the gap behind the frame of each row, whose first path arrives `arrival` samples behind `start`.

        Returns:
            mean power (F * A,), infinite where the recording ends before the gap does, and the samples it is taken
            over.
        """
        layout = self.layout
        low = layout.num_symbols * layout.symbol_samples + arrival + window_taps(layout)
        count = layout.frame_samples - 2 - low
        if count < 16:
            return np.full(start.size, np.inf), 0
        antenna, length = self._antenna(start.size)[:, None], self.samples.shape[1]
        inside = (start + low >= 0) & (start + low + count <= length)
        index = np.clip(start[:, None] + low, 0, length - count) + np.arange(count)
        power = mean_power(self.samples[antenna, index] - self.dc_offset[antenna].astype(np.complex64))
        return np.where(inside, power, np.inf), count


@dataclass(frozen=True, eq=False)
class Batch:
    """What is known of F frames (F * A rows); the legend of the folder gives the meaning of names that are not listed.

    Whole symbols are not turned in `grid` but in `turns`, which is applied to sums over carriers; the grid itself is
    turned once, at the end.

    Attributes:
        metric: (F,) half-symbol correlation, 0..1.
        start: (F,) int64.
        cfo_hz: (F,) of what `grid` and `turns` correct.
        blind_hz: (F,) further carrier offset that the squares of the header's cells show; right where it can be read.
        noise_var: (F,).
        power: (F,).
        moved: (F,) whether a window was moved by turning carriers instead of taking its samples again.
        grid: (F, H, N) complex64.
        turns: (F, H).
        conjugate: (F, M, N) complex64.
        weight: (F, H, N) of each cell, see `receiver.sync.uneven`; None where noise is white. `noise_var` is then the
            level that weights refer to, and `power` is weighted, too.
        antennas: A, whose rows are next to each other.
    """

    metric: NDArray[np.float64]
    start: NDArray[np.int64]
    cfo_hz: NDArray[np.float64]
    blind_hz: NDArray[np.float64]
    noise_var: NDArray[np.float64]
    power: NDArray[np.float64]
    moved: NDArray[np.bool_]
    grid: NDArray[np.complex64]
    turns: NDArray[np.float64]
    conjugate: NDArray[np.complex64]
    weight: NDArray[np.float32] | None = None
    antennas: int = 1

    def __len__(self) -> int:
        return self.start.size

    def __getitem__(self, rows: NDArray[np.int64]) -> Batch:
        """Return some of the rows, those of whole frames; all of them without a copy."""
        if rows.size == len(self):
            return self
        picked = {name: values[rows] for name, values in vars(self).items() if isinstance(values, np.ndarray)}
        return Batch(**picked, antennas=self.antennas)

    @property
    def cell_weight(self) -> NDArray[np.float32]:
        """(F, H, N) the weights, of 1 where noise is white."""
        return np.ones(self.grid.shape, np.float32) if self.weight is None else self.weight

    def merged(self, rows: NDArray[np.int64], part: Batch) -> Batch:
        """Return the batch with the carrier offset and the weights that some of its rows have in another one."""
        blind_hz = self.blind_hz.copy()
        blind_hz[rows] = part.blind_hz
        merged = replace(self, blind_hz=blind_hz)
        return merged if part.weight is None else merged.weighed(rows, part.weight, part.noise_var)

    def weighed(self, rows: NDArray[np.int64], weight: NDArray[np.float32], noise_var: NDArray[np.float64]) -> Batch:
        """Return the batch with the weights (R, H, N) of some rows, and the noise level (R,) that they refer to."""
        weights, levels = self.cell_weight.copy(), self.noise_var.copy()
        weights[rows], levels[rows] = weight, noise_var
        return replace(self, weight=weights, noise_var=levels)

    @property
    def weighted(self) -> NDArray[np.complex64]:
        """(F, M, N) `conjugate` times the weights."""
        return self.conjugate if self.weight is None else self.conjugate * self.weight[:, : self.num_known]

    @property
    def lacking(self) -> NDArray[np.float32] | None:
        """(F, N) energy of the known symbols less their weighted energy; None where noise is white."""
        if self.weight is None:
            return None
        return np.sum(squared_magnitude(self.conjugate) * (1 - self.weight[:, : self.num_known]), axis=1)

    @property
    def num_known(self) -> int:
        """M, symbols that are known."""
        return self.conjugate.shape[1]

    @property
    def header_read(self) -> bool:
        """Whether the known symbols include the header."""
        return self.num_known > 2
