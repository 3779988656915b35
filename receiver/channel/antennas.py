"""The channel estimate that goes with antennas that were combined into one."""

from __future__ import annotations

import numpy as np

from receiver.channel.estimate import ChannelEstimate, Complex
from receiver.measurement.model import Measurement


def combined_estimate(measurement: Measurement, estimate: ChannelEstimate, taps: Complex) -> ChannelEstimate:
    """Return the estimate of combined antennas; the given one where there is one antenna.

    An error of one antenna's estimate reaches the combined cells as its noise does, with the weight of the antenna.

    Args:
        measurement: of F frames at A antennas.
        estimate: of each antenna's channel, F * A rows.
        taps: (F, N) of the combined antennas, see `receiver.measurement.antennas.combined`.
    """
    antennas = measurement.antennas
    if antennas == 1:
        return estimate
    size = measurement.layout.fft_size
    apart = (-1, antennas, size)
    noise_var = measurement.noise_var.cpu().double().numpy().reshape(-1, antennas, 1)
    weight = np.maximum(np.abs(estimate.response.reshape(apart)) ** 2, 1e-12) / noise_var
    level = 1 / np.sum(1 / noise_var, axis=1)
    over_noise = np.sum(weight * estimate.response_var.reshape(apart) / noise_var, axis=1) / weight.sum(axis=1)
    # Errors of carriers are taken to be independent: a covariance of taps that is circulant.
    lags = np.fft.ifft(level * over_noise, axis=-1) / size
    steps = np.arange(size)
    taps_cov = lags[..., (steps[:, None] - steps[None, :]) % size]
    return ChannelEstimate(taps, taps_cov, np.fft.fft(taps, axis=-1), level[:, 0])
