"""Put together what the antennas of a receiver see of the same frames.

Arrays of F frames at A antennas have F * A rows, the antennas of a frame next to each other. Antennas share start,
carrier offset and clock, so what these follow from is summed over the antennas of a frame, each weighted by the inverse
of its noise power; channel and levels are each antenna's own. With one antenna all of this leaves values as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def pooled(values: NDArray[Any], antennas: int) -> NDArray[Any]:
    """Return values (F * A, ...) summed over the antennas of each frame; every row has its frame's sum.

    >>> pooled(np.array([1, 2, 10, 20]), 2).tolist()
    [3, 3, 30, 30]
    """
    if antennas == 1:
        return values
    sums = values.reshape(-1, antennas, *values.shape[1:]).sum(axis=1)
    return np.repeat(sums, antennas, axis=0)


def shared(values: NDArray[Any], antennas: int) -> NDArray[Any]:
    """Return values (F * A, ...) averaged over the antennas of each frame; every row has its frame's mean."""
    return pooled(values, antennas) / antennas if antennas > 1 else values


def balanced(values: NDArray[Any], noise_var: NDArray[np.float64], antennas: int) -> NDArray[Any]:
    """Return values (F * A, ...) in which less noisy antennas count more, as if all had the mean noise of theirs.

    Args:
        values: to be summed over the antennas of a frame.
        noise_var: (F * A,).
        antennas: A.
    """
    if antennas == 1:
        return values
    weight = (shared(noise_var, antennas) / noise_var).reshape(-1, *([1] * (values.ndim - 1)))
    return (values * weight).astype(values.dtype)


def any_antenna(rows: NDArray[np.bool_], antennas: int) -> NDArray[np.bool_]:
    """Return, for each row (F * A,), whether it holds at one antenna of its frame."""
    return pooled(rows, antennas) > 0 if antennas > 1 else rows


def noise_floors(samples: NDArray[np.complex64], width: int) -> NDArray[np.float64]:
    """Return the power (A,) of samples (A, n) where they are quietest: the noise, where there are gaps.

    Args:
        samples: of A antennas.
        width: samples that power is averaged over.
    """
    width = min(width, samples.shape[1])
    pieces = samples[:, : samples.shape[1] // width * width].view(np.float32).reshape(len(samples), -1, 2 * width)
    powers = np.einsum("aps,aps->ap", pieces, pieces).astype(np.float64) / width
    floor = np.quantile(powers, 0.02, axis=1)
    return np.maximum(floor, 1e-12 * powers.max(initial=0.0) + 1e-30)
