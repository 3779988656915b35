"""Hold what a radio has put on the emulated air, and give it as a receiver's clock samples it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdr.air.impairments import INTERPOLATION_REACH, interpolate
from sdr.air.stream import Stage


@dataclass(frozen=True, eq=False)
class Emission:
    """Samples on the air: sample i is sent at `start + i` of the transmitter's clock.

    Attributes:
        samples: complex64 (n,); one period of a cyclic emission.
        start: when its first sample is sent.
        rate_sps: rate of the clock.
        center_hz: carrier.
        tx_gain_db: gain of the transmitter.
        cyclic: whether the samples repeat.
        end: when it is over; infinite for a cyclic one that nobody has stopped.
        phase_start: sample of the period that a cyclic one begins with.
        origin: start of the transmission that it continues without a gap.
        room: memory that `samples` is the beginning of, so that a stream can grow in place.
    """

    samples: NDArray[np.complex64]
    start: int
    rate_sps: float
    center_hz: float
    tx_gain_db: float
    cyclic: bool
    end: float
    phase_start: int = 0
    origin: int = 0
    room: NDArray[np.complex64] = field(default_factory=lambda: np.empty(0, np.complex64))

    def take(self, first: int, last: int, stages: Sequence[Stage] = ()) -> NDArray[np.complex64]:
        """Return complex64 (last - first,): samples first..last-1 counted from `start`, zeros outside.

        Args:
            first: first sample wanted.
            last: the sample after the last one wanted.
            stages: what changes the samples on their way out; without memory.
        """
        out = self._plain(first, last)
        limit = self.end - self.start
        low, high = max(first, 0), last if limit == math.inf else min(last, math.ceil(limit))
        if stages and low < high:
            out[low - first : high - first] = through(stages, out[low - first : high - first])
        return out

    def _plain(self, first: int, last: int) -> NDArray[np.complex64]:
        out = np.zeros(last - first, np.complex64)
        limit = self.end - self.start
        low, high = max(first, 0), last if limit == math.inf else min(last, math.ceil(limit))
        if low >= high:
            return out
        if not self.cyclic:
            out[low - first : high - first] = self.samples[low:high]
            return out
        period = self.samples.size
        done = low
        while done < high:
            offset = (done + self.phase_start) % period
            step = min(high - done, period - offset)
            out[done - first : done - first + step] = self.samples[offset : offset + step]
            done += step
            if done - low >= period:  # one whole period is there: the rest repeats it
                have = done - low
                rest = out[low - first : high - first]
                while have < rest.size:
                    back = have // period * period
                    step = min(back, rest.size - have)
                    rest[have : have + step] = rest[have - back : have - back + step]
                    have += step
                break
        return out


def through(stages: Sequence[Stage], samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return (n,) samples behind all stages."""
    for stage in stages:
        samples = stage(samples)
    return samples


def rotation(first: int, size: int, turns_per_sample: float) -> NDArray[np.complex64]:
    """Return (size,) exp(2j pi turns_per_sample n) for n from `first` on, precise also late on the time line."""
    inner = 1 << 10
    rows = -(-size // inner)
    coarse = np.mod((first + inner * np.arange(rows)) * turns_per_sample, 1.0)
    fine = np.mod(np.arange(inner) * turns_per_sample, 1.0)
    outer = np.exp(2j * np.pi * coarse).astype(np.complex64)[:, None] * np.exp(2j * np.pi * fine).astype(np.complex64)
    return outer.reshape(-1)[:size]


def resample(
    emission: Emission, first: int, last: int, step: float, base: float, stages: Sequence[Stage]
) -> NDArray[np.complex64]:
    """Return (last - first,) samples of an emission at the positions n * step - base."""
    cutoff = min(1.0, 1.0 / step)
    reach = math.ceil(INTERPOLATION_REACH / cutoff)
    positions = np.arange(first, last) * step - base
    begin = math.floor(positions[0]) - reach
    near = emission.take(begin, math.floor(positions[-1]) + reach + 2, stages)
    return interpolate(near, positions - begin, cutoff)
