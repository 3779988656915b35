"""Array operations that synchronisation is made of."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy
import scipy.fft
from numpy.typing import NDArray


def window_sums(values: NDArray[Any], width: int) -> NDArray[Any]:
    """Return the sums (..., N - width + 1) of `width` successive values of (..., N), in doubling steps."""
    size = values.shape[-1] - width + 1
    block, result, offset, length = values, np.zeros_like(values[..., :size]), 0, 1
    while True:
        if width & length:
            result += block[..., offset : offset + size]
            offset += length
        if 2 * length > width:
            return result
        block = block[..., :-length] + block[..., length:]
        length *= 2


def squared_magnitude(values: Any) -> Any:
    """Return |x|^2 of complex values of any shape."""
    return values.real**2 + values.imag**2


def fft(values: Any, n: int | None = None, axis: int = -1, norm: str = "backward", overwrite_x: bool = False) -> Any:
    """Transform in the precision of the values (SciPy's stubs leave the result's type open)."""
    transform: Any = scipy.fft.fft
    return transform(values, n=n, axis=axis, norm=norm, overwrite_x=overwrite_x, workers=1)


def ifft(values: Any, axis: int = -1, norm: str = "backward", overwrite_x: bool = False) -> Any:
    """Transform back in the precision of the values."""
    transform: Any = scipy.fft.ifft
    return transform(values, axis=axis, norm=norm, overwrite_x=overwrite_x, workers=1)


def turn(cycles: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Return exp(2 pi i cycles) in single precision, whatever the number of cycles; of any shape."""
    angle = ((cycles - np.rint(cycles)) * (2 * np.pi)).astype(np.float32)
    result = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=result.real)
    np.sin(angle, out=result.imag)
    return result


def ramp(cycles: NDArray[np.float64], size: int) -> NDArray[np.complex64]:
    """Return exp(2 pi i cycles n), n = 0 .. size - 1, of cycles (F,), as (F, size); from coarse and fine turns."""
    step = 16
    coarse = turn(cycles[:, None] * np.arange(0, size, step))
    fine = turn(cycles[:, None] * np.arange(step))
    return (coarse[:, :, None] * fine[:, None, :]).reshape(cycles.size, coarse.shape[1] * step)[:, :size]


def symbol_powers(grid: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Return the mean power (F, M) of each symbol of (F, M, N)."""
    parts = np.ascontiguousarray(grid).view(np.float32)
    return np.einsum("fmn,fmn->fm", parts, parts).astype(np.float64) / grid.shape[2]


def mean_power(values: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Return the mean power (F,) of each row of (F, ...)."""
    parts = np.ascontiguousarray(values).reshape(values.shape[0], math.prod(values.shape[1:])).view(np.float32)
    return np.einsum("fn,fn->f", parts, parts).astype(np.float64) / max(parts.shape[1] // 2, 1)
