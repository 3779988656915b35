"""Block-fading multipath as a GNU Radio block: taps that change at an exact sample have no in-tree equivalent."""

import numpy as np
from gnuradio import gr
from numpy.typing import NDArray

from sdr.errors import InputError
from sdr.impairments import draw_taps, exponential_pdp


class BlockFading(gr.sync_block):
    """A FIR whose taps are drawn anew every `redraw_samples` samples.

    Output sample n is the sum over l of taps[block(n), l] * input[n - l], where block(n) is
    (n - first_redraw_sample) // redraw_samples, and 0 before. With `first_redraw_sample` = 0 this equals
    `sdr.impairments.apply_block_fading`.

    Args:
        num_taps: L, taps one sample apart.
        decay: time constant of the exponential delay profile in samples.
        redraw_samples: samples between changes.
        first_redraw_sample: sample at which block 0 begins to count.
        seed: seed of the taps.

    Attributes:
        taps: (L,) complex64 per block drawn so far.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self, num_taps: int, decay: float, redraw_samples: int, first_redraw_sample: int = 0, seed: int = 0
    ) -> None:
        if redraw_samples < 1 or first_redraw_sample < 0 or seed < 0:
            raise InputError(
                "redraw_samples must be at least 1, first_redraw_sample and seed at least 0, found "
                f"{redraw_samples}, {first_redraw_sample} and {seed}"
            )
        gr.sync_block.__init__(self, name="block_fading", in_sig=[np.complex64], out_sig=[np.complex64])
        self.pdp = exponential_pdp(num_taps, decay)
        self.redraw_samples = redraw_samples
        self.first_redraw_sample = first_redraw_sample
        self.rng = np.random.default_rng(seed)
        self.taps: list[NDArray[np.complex64]] = [draw_taps(self.pdp, self.rng)]
        self.set_history(num_taps)
        # Python is called once per buffer: a larger one costs less per sample.
        self.set_min_output_buffer(1 << 16)

    def work(self, input_items: list[NDArray[np.complex64]], output_items: list[NDArray[np.complex64]]) -> int:
        samples, out = input_items[0], output_items[0]
        first = self.nitems_written(0)
        done = 0
        while done < len(out):
            block = max(0, (first + done - self.first_redraw_sample) // self.redraw_samples)
            while block >= len(self.taps):
                self.taps.append(draw_taps(self.pdp, self.rng))
            block_end = self.first_redraw_sample + (block + 1) * self.redraw_samples
            count = min(len(out) - done, block_end - first - done)
            taps = self.taps[block]
            # The scheduler hands over L - 1 samples of history before the first new one.
            out[done : done + count] = np.convolve(samples[done : done + count + len(taps) - 1], taps, mode="valid")
            done += count
        return done
