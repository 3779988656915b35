"""Estimate each frame's channel from its pilots."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from receiver.channel.estimate import ChannelEstimate, lmmse_estimate
from receiver.channel.prior import ChannelPrior
from receiver.measurement.model import Measurement
from sdr.errors import ConfigError

UNFORESEEN_POWER = 0.03
"""Share of the channel's power that pilots may find at delays of the prefix which the prior leaves empty. Pilots are
many more than taps, so that it costs nothing measurable where the prior is right (docs/results.md)."""


def estimate_channels(
    measurement: Measurement,
    prior: ChannelPrior,
    known: NDArray[np.complex128] | None = None,
    unforeseen: float = UNFORESEEN_POWER,
) -> ChannelEstimate:
    """Estimate taps by LMMSE from the pilot symbols of every frame, in the measurement's units.

    Args:
        measurement: of frames with pilots.
        prior: of the taps.
        known: (P, N) pilots as they were sent, the layout's unless given.
        unforeseen: least share of the power that all taps within the prefix have together, evenly.

    Raises:
        ConfigError: the layout has no pilots.
    """
    if measurement.layout.pilot_symbols == 0:
        raise ConfigError(
            f"Layout '{measurement.layout.name}' has no pilots to estimate the channel from: use --method blind."
        )
    power = prior.at(torch.arange(measurement.num_frames)).cpu().double().numpy()
    if unforeseen > 0:
        size = power.shape[-1]
        taps = max(size, measurement.layout.cp_samples + 1)
        margins = [(0, 0)] * (power.ndim - 1) + [(0, taps - size)]
        power = np.maximum(np.pad(power, margins), unforeseen / taps)
    # Divided by its own noise, every cell is as noisy as the next.
    weight = measurement.pilot_noise_ratio.cpu().double().numpy() ** -0.5
    return lmmse_estimate(
        measurement.pilots.cpu().numpy() * weight,
        measurement.layout,
        measurement.noise_var.cpu().double().numpy(),
        pdp=power / power.sum(axis=-1, keepdims=True),
        known=weight * (measurement.layout.pilots if known is None else known),
    )
