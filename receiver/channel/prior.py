"""The prior of the channel's taps: their power delay profile, and the one a decoder assumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from receiver.channel.estimate import Real
from receiver.sync.frame import timing_advance
from sdr.air.impairments import exponential_pdp
from sdr.calibration_profile import CalibrationProfile
from sdr.errors import ConfigError
from sdr.layout import FrameLayout


def receiver_pdp(
    num_taps: int,
    advance: int,
    decay: float = 4.0,
    profile_taps: int = 8,
    timing_odds: tuple[float, ...] = (0.99, 0.007, 0.002, 0.001),
) -> Real:
    """Return the prior power (num_taps,) of the taps behind a synchroniser that may be a sample or two late.

    The exponential profile starts at tap `advance - e` with probability `timing_odds[e]`; what falls outside of the
    window is dropped, taps that the profile leaves empty keep 1e-4 of the power each (fractional delays leak), and the
    sum is 1.

    Args:
        num_taps: length of the result.
        advance: tap of the first path where the synchroniser is on time.
        decay: time constant of the profile, samples.
        profile_taps: length of the profile.
        timing_odds: probability that the synchroniser is 0, 1, .. samples late; generous by default.

    Raises:
        ConfigError: fewer taps than the advance needs.

    >>> receiver_pdp(4, 1, decay=1e-3, timing_odds=(0.75, 0.25)).round(3).tolist()
    [0.25, 0.75, 0.0, 0.0]
    """
    if num_taps <= advance or advance < 0:
        raise ConfigError(f"An advance of {advance} needs at least {advance + 1} taps, found {num_taps}.")
    profile = np.zeros(num_taps)
    path = exponential_pdp(profile_taps, decay)
    for late, odds in enumerate(timing_odds):
        first = advance - late
        lo, hi = max(first, 0), min(first + profile_taps, num_taps)
        if lo < hi:
            profile[lo:hi] += odds * path[lo - first : hi - first]
    profile = np.maximum(profile / profile.sum(), 1e-4)
    return profile / profile.sum()


def channel_prior(
    layout: FrameLayout, profile_taps: int = 8, decay: float = 4.0, calibrations: Sequence[CalibrationProfile] = ()
) -> ChannelPrior:
    """Return the receiver's prior: an exponential profile behind a synchroniser that may be a sample or two off.

    Args:
        layout: of the frames.
        profile_taps: length of the profile.
        decay: its time constant, samples.
        calibrations: of each antenna, whose measured profile and timing take its place, as far as they are sure; none:
            all antennas have the same.
    """
    advance = timing_advance(layout)
    power = receiver_pdp(advance + profile_taps + 1, advance, decay, profile_taps)
    of_antennas = [power if each.pdp is None else each.pdp.prior(advance, power) for each in calibrations] or [power]
    size = max(each.size for each in of_antennas)
    # A tap that the profile rules out would otherwise make the prior's precision infinite.
    rows = [np.maximum(np.pad(each, (0, size - each.size)), 1e-4) for each in of_antennas]
    return ChannelPrior(torch.from_numpy(rows[0] if len(rows) == 1 else np.stack(rows)).to(torch.float32))


@dataclass(frozen=True)
class ChannelPrior:
    """The taps' distribution h_l ~ CN(0, power_l), independent.

    Attributes:
        power: (L,) positive; sums to about 1, as the measurement is scaled to unit mean signal power. Of taps that
            move, (r L,): that of the coefficients of each function of time. Of A antennas that differ, (A, L).
        gram: (F, r L, r L) what known symbols say of them, over the noise; None: nothing.
        cross: (F, r L) likewise.
    """

    power: Tensor
    gram: Tensor | None = None
    cross: Tensor | None = None

    def __post_init__(self) -> None:
        if self.power.dim() not in (1, 2) or not bool((self.power > 0).all()):
            raise ConfigError(f"Tap powers must be positive, (L,) or (A, L), found shape {tuple(self.power.shape)}.")

    def at(self, rows: Tensor) -> Tensor:
        """Return the taps' powers in rows of frames, the antennas of a frame next to each other.

        Args:
            rows: (n,) numbers of the rows, int64.

        Returns:
            (n, L), or (L,) where the antennas are alike.
        """
        return self.power if self.power.dim() == 1 else self.power[rows.to(self.power.device) % len(self.power)]

    def repeat(self, copies: int) -> ChannelPrior:
        """Return the prior of so many copies of all frames, copy by copy."""
        if self.gram is None or self.cross is None:
            return self
        return ChannelPrior(self.power, self.gram.repeat(copies, 1, 1), self.cross.repeat(copies, 1))

    @property
    def num_taps(self) -> int:
        """L."""
        return self.power.shape[-1]
