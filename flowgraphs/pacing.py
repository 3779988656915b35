"""Define the block that keeps a transmitter on the air between frames."""

import time

import numpy as np
from gnuradio import gr
from numpy.typing import NDArray

from sdr.layout import FrameLayout

STEP_S = 0.005
"""Samples are handed on this often, where a clock paces them."""

MAX_LATE_S = 0.25
"""What is late by more than this is not made up for."""

WAIT_S = 0.001


class Pacer(gr.basic_block):
    """Whole frames as they come, each with its gap of zeros, and zeros while there is none.

    It stands before the framer's limiter, so that the samples which vectorised blocks keep back leave with the next
    zeros, and takes the frames without their gap.

    Args:
        layout: of the frames.
        rate_sps: samples per second by the clock; None: as fast as they are taken, as a radio paces by itself.

    Attributes:
        num_frames: frames begun.
        late_samples: samples that were due and never sent, because they were not taken in time.
    """

    def __init__(self, layout: FrameLayout, rate_sps: float | None) -> None:
        gr.basic_block.__init__(self, name="pacer", in_sig=[np.complex64], out_sig=[np.complex64])
        self._frame = layout.num_symbols * layout.symbol_samples
        self._gap_samples = layout.gap_samples
        self._rate_sps = rate_sps
        self._in_frame = self._in_gap = 0
        self._origin_s: float | None = None
        self._done = 0
        self.late_samples = self.num_frames = 0
        step = round(STEP_S * layout.rate_sps)
        self.set_min_output_buffer(4 * step)
        self._step = step

    def forecast(self, noutput_items: int, ninputs: int) -> list[int]:
        """Ask for no input: zeros need none."""
        return [0] * ninputs

    def general_work(self, input_items: list[NDArray[np.complex64]], output_items: list[NDArray[np.complex64]]) -> int:
        out = output_items[0][: self._due(len(output_items[0]))]
        made, taken = self._fill(out, input_items[0])
        self.consume(0, taken)
        self._done += made
        if not made:
            time.sleep(WAIT_S)  # before the next samples are due, or within a frame whose rest is still to come
        return made

    def _due(self, room: int) -> int:
        """Return how many samples may be sent now, after a wait until there are some."""
        if self._rate_sps is None:
            return min(room, self._step)
        now = time.monotonic()
        if self._origin_s is None:
            self._origin_s = now
        due = int((now - self._origin_s) * self._rate_sps) - self._done
        late = due - int(MAX_LATE_S * self._rate_sps)
        if late > 0:
            self.late_samples += late
            self._origin_s += late / self._rate_sps
            due -= late
        if due < min(self._step, room):
            time.sleep((min(self._step, room) - due) / self._rate_sps)
        return min(room, max(due, 0))

    def _fill(self, out: NDArray[np.complex64], samples: NDArray[np.complex64]) -> tuple[int, int]:
        """Fill `out` from `samples`; return how much of both was used."""
        made = taken = 0
        while made < out.size:
            if not self._in_frame and not self._in_gap and samples.size > taken:
                self._in_frame, self._in_gap = self._frame, self._gap_samples
                self.num_frames += 1
            if self._in_frame:
                count = min(self._in_frame, out.size - made, samples.size - taken)
                if not count:
                    break
                out[made : made + count] = samples[taken : taken + count]
                taken, self._in_frame = taken + count, self._in_frame - count
            else:
                count = min(self._in_gap or out.size, out.size - made)
                out[made : made + count] = 0
                self._in_gap = max(0, self._in_gap - count)
            made += count
        return made, taken
