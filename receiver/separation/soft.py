"""What a receiver knows of every symbol of an image: its value behind the channel, and how noisy that is."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from receiver.channel.estimate import ChannelEstimate
from receiver.measurement.model import Measurement


def soft_symbols(measurement: Measurement, estimate: ChannelEstimate) -> tuple[Tensor, Tensor]:
    """Divide the received symbols by the estimated channel.

    Args:
        measurement: of B images of K symbols.
        estimate: of the channel of each frame, from its pilots.

    Returns:
        the symbols, complex (B, K), and the linear noise power of each, (B, K): noise as measured, the estimate's own
        error and what a limiter adds, over the channel's gain.
    """
    taps = torch.from_numpy(estimate.taps.astype(np.complex64)).to(measurement.y.device)
    gain = measurement.gains(taps)
    doubt = torch.from_numpy(estimate.response_var.astype(np.float32)).to(measurement.y.device)
    doubt_of_cell = doubt[:, None, :].expand(measurement.y.shape).reshape(-1)[measurement.cells]
    kept, distortion = measurement.distortion
    squared = gain.real.square() + gain.imag.square()
    noise = measurement.cell_noise_var + doubt_of_cell + squared * distortion
    squared = (squared * kept**2).clamp(min=1e-12)
    return measurement.received_cells() * (gain * kept).conj() / squared, noise / squared
