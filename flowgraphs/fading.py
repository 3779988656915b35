"""Define blocks that the channel needs and GNU Radio lacks: impairments in NumPy, an endless file."""

from collections.abc import Sequence

import numpy as np
from gnuradio import gr
from numpy.typing import NDArray

from sdr.air import impairments
from sdr.air.impairments import exponential_pdp
from sdr.air.stream import Stage
from sdr.errors import InputError


class BlockFading(gr.sync_block):
    """A FIR whose taps are drawn anew every `redraw_samples` samples: `sdr.air.impairments.BlockFading`.

    Args:
        num_taps: L, taps one sample apart.
        decay: time constant of the exponential delay profile in samples.
        redraw_samples: samples between changes.
        first_redraw_sample: sample at which block 0 begins to count.
        seed: seed of the taps.
        pdp: powers of the taps, sum 1, in place of `num_taps` and `decay`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        num_taps: int,
        decay: float,
        redraw_samples: int,
        first_redraw_sample: int = 0,
        seed: int = 0,
        pdp: Sequence[float] = (),
    ) -> None:
        if seed < 0:
            raise InputError(f"a seed must be at least 0, found {seed}")
        gr.sync_block.__init__(self, name="block_fading", in_sig=[np.complex64], out_sig=[np.complex64])
        powers = np.asarray(pdp, dtype=np.float64) if len(pdp) else exponential_pdp(num_taps, decay)
        rng = np.random.default_rng(seed)
        self._fading = impairments.BlockFading(powers, redraw_samples, rng, first_redraw_sample)
        self.set_history(powers.size)
        # Python is called once per buffer: a larger one costs less per sample.
        self.set_min_output_buffer(1 << 16)

    @property
    def taps(self) -> list[NDArray[np.complex64]]:
        """(L,) complex64 per block drawn so far."""
        return self._fading.taps

    def work(self, input_items: list[NDArray[np.complex64]], output_items: list[NDArray[np.complex64]]) -> int:
        # The scheduler hands over L - 1 samples of history before the first new one.
        output_items[0][:] = self._fading.filter(input_items[0], self.nitems_written(0))
        return len(output_items[0])


class StageBlock(gr.basic_block):
    """One stage of `sdr.air.stream.stream_stages`, which may give more or fewer samples than it takes."""

    def __init__(self, name: str, stage: Stage) -> None:
        gr.basic_block.__init__(self, name=name, in_sig=[np.complex64], out_sig=[np.complex64])
        self._stage = stage
        self._waiting = np.empty(0, np.complex64)
        self.set_min_output_buffer(1 << 16)

    def forecast(self, noutput_items: int, ninputs: int) -> list[int]:
        """Ask for no input while output waits."""
        return [0 if self._waiting.size else 1] * ninputs

    def general_work(self, input_items: list[NDArray[np.complex64]], output_items: list[NDArray[np.complex64]]) -> int:
        samples, out = input_items[0], output_items[0]
        if not self._waiting.size and samples.size:
            self._waiting = np.asarray(self._stage(samples.copy()), np.complex64)
            self.consume(0, samples.size)
        count = min(out.size, self._waiting.size)
        out[:count] = self._waiting[:count]
        self._waiting = self._waiting[count:]
        return count


class FileThenSilence(gr.sync_block):
    """The complex float32 samples of a file, then zeros for ever."""

    def __init__(self, path: str) -> None:
        gr.sync_block.__init__(self, name="file_then_silence", in_sig=None, out_sig=[np.complex64])
        self._samples = np.fromfile(path, np.complex64)

    def work(self, input_items: list[NDArray[np.complex64]], output_items: list[NDArray[np.complex64]]) -> int:
        out, first = output_items[0], self.nitems_written(0)
        part = self._samples[first : first + out.size]
        out[: part.size] = part
        out[part.size :] = 0
        return out.size
