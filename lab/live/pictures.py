"""Make pictures for a page: lines of a waterfall from an endless stream, and images as bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LINES_PER_SECOND = 20
BINS = 256
_WINDOWS = 24
_FLOOR = 1e-14


class Waterfall:
    """Power spectra of successive stretches of a stream, `LINES_PER_SECOND` of them in a second of samples.

    Args:
        rate_sps: of the samples.
    """

    def __init__(self, rate_sps: float) -> None:
        self._step = max(BINS, round(rate_sps / LINES_PER_SECOND))
        self._waiting: list[NDArray[np.complex64]] = []
        self._count = 0

    def add(self, block: NDArray[np.complex64]) -> list[NDArray[np.float32]]:
        """Return the lines (BINS,) that a block completes: dBFS per bin, the lowest frequency first."""
        self._waiting.append(block)
        self._count += block.size
        if self._count < self._step:
            return []
        samples = np.concatenate(self._waiting)
        whole = samples.size // self._step * self._step
        self._waiting, self._count = [samples[whole:].copy()], samples.size - whole
        return [line_dbfs(samples[first : first + self._step]) for first in range(0, whole, self._step)]


def line_dbfs(samples: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return (BINS,) the mean power spectrum of samples (n,), in dBFS per bin, the lowest frequency first.

    A tone of full scale is 0 dB. At most `_WINDOWS` windows are used, spread evenly.
    """
    starts = np.linspace(0, samples.size - BINS, min(_WINDOWS, max(1, samples.size // BINS))).astype(np.int64)
    window = np.hanning(BINS).astype(np.float32)
    pieces = np.stack([samples[start : start + BINS] for start in starts]) * (window / window.sum())
    power = np.mean(np.abs(np.fft.fft(pieces, axis=1)) ** 2, axis=0)
    return np.fft.fftshift(10 * np.log10(power + _FLOOR)).astype(np.float32)


def shown(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return an image (C, H, W) in [0, 1] as uint8 (H, W, C)."""
    return np.round(255 * np.clip(np.moveaxis(image, 0, -1), 0, 1)).astype(np.uint8)
