"""Combine the antennas of a measurement into one.

Given the channels H_a and noise of power s_a, independent between antennas, all that y_a = H_a X + n_a say of what was
sent, X, is in sum_a conj(H_a) y_a / s_a, on every carrier of its own (maximum-ratio combining, a sufficient statistic).
Scaled to

    y = G sum_a conj(H_a) y_a / s_a / sum_a |H_a|^2 / s_a,    G^2 = s sum_a |H_a|^2 / s_a,    1 / s = sum_a 1 / s_a

it is what one antenna of gain G, real and positive, and noise power s would have received: the SNRs add up. Whatever
turns whole symbols at all antennas alike is left as it is. Where taps move, every symbol is combined with its own; the
gain is one for all, and what a symbol's sum_a |H_a|^2 / s_a differs from their mean counts as noise of its cells. It is
exact behind a limiter and an amplifier, too, as they change X alone, but not where taps are longer than the prefix:
what reaches from symbol to symbol differs between antennas.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from receiver.measurement.model import LOST_RATIO, Measurement

#: Gain, over all antennas, below which they count by their noise alone: nothing was received.
_NO_GAIN = 1e-12


def combined(measurement: Measurement, h: Tensor) -> tuple[Measurement, Tensor]:
    """Return the measurement of one antenna that stands for all, and its taps; as they are where there is one.

    Args:
        measurement: of F frames at A antennas.
        h: (F * A, L) taps, or (F * A, r L) coefficients of taps that move.

    Returns:
        a measurement of F rows whose taps stand still, and taps (F, N), as many as carriers, of a real and positive
        response.
    """
    antennas = measurement.antennas
    if antennas == 1:
        return measurement, h

    def apart(values: Tensor) -> Tensor:
        return values.unflatten(0, (-1, antennas))

    of_symbols = apart(measurement.response(measurement.symbol_taps(h)))  # (F, A, S, N), or 1 for S
    noise_var = apart(measurement.noise_var)  # (F, A)
    level = 1 / (1 / noise_var).sum(dim=1)  # (F,)

    def strength(response: Tensor) -> Tensor:
        return (response.abs().square() + _NO_GAIN) / noise_var[..., None, None]

    usual = strength(of_symbols).sum(dim=1).mean(dim=1, keepdim=True)  # (F, 1, N)
    gain = (level[:, None, None] * usual).sqrt()

    def one(grid: Tensor, ratio: Tensor, response: Tensor) -> tuple[Tensor, Tensor]:
        """Return a grid (F * A, M, N), and the ratios of its cells' noise, as of one antenna."""
        matched = (apart(grid / ratio) * (response.conj() / noise_var[..., None, None])).sum(dim=1)
        total = (strength(response) / apart(ratio)).sum(dim=1)
        even = usual / total
        # Rounding must not make of a cell that no antenna received one that arrived.
        even = torch.where(even > (1 - 1e-4) * LOST_RATIO, LOST_RATIO, even)
        return matched * (gain / total), even

    y, noise_ratio = one(measurement.y, measurement.noise_ratio, of_symbols)
    # Pilots come just before the first of them.
    pilots, pilot_noise_ratio = one(measurement.pilots, measurement.pilot_noise_ratio, of_symbols[:, :, :1])
    block = measurement.layout.data_symbols * measurement.layout.fft_size
    frame = measurement.cells // (antennas * block)
    heard = replace(
        measurement,
        antennas=1,
        motion=None,
        y=y,
        noise_var=level,
        noise_ratio=noise_ratio,
        pilots=pilots,
        pilot_noise_ratio=pilot_noise_ratio,
        cells=frame * block + measurement.cells % block,
        previous_symbol=measurement.previous_symbol[::antennas],
        tracking_grid=measurement.tracking_grid[::antennas],
        scale=measurement.scale[::antennas],
        mode="frequency" if measurement.mode == "frequency" else "carrier",
    )
    return heard, torch.fft.ifft(gain[:, 0].to(measurement.y.dtype))
