"""What turns whole symbols on top of the taps: phase, delay, and what is left of the carrier offset."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sdr.layout import FrameLayout


def unit_turn(phase: Tensor) -> Tensor:
    """Return exp(i phase) of real phases in radians, of any shape."""
    return torch.polar(torch.ones_like(phase), phase)


@dataclass(frozen=True, eq=False)
class Nuisance:
    """Further unknowns of the forward model beside symbols and taps; None: nothing of the kind.

    Attributes:
        phase: (F, S) radians, of each data symbol.
        timing: (F, S) samples by which each data symbol is later, small against the cyclic prefix.
        cfo_hz: (F,) carrier offset left, phase 0 at the centre of the first data symbol.
    """

    phase: Tensor | None = None
    timing: Tensor | None = None
    cfo_hz: Tensor | None = None

    def detach(self) -> Nuisance:
        """Return the same values without their gradients."""
        return Nuisance(*(None if value is None else value.detach() for value in vars(self).values()))

    def turned(self, grid: Tensor, layout: FrameLayout) -> Tensor:
        """Return a grid (F, S or 1, N) with each symbol's phase and delay, (F, S, N)."""
        if self.phase is not None:
            grid = grid * unit_turn(self.phase)[:, :, None]
        if self.timing is not None:
            size = layout.fft_size
            carriers = torch.fft.fftfreq(size, 1.0 / size, dtype=self.timing.dtype, device=self.timing.device)
            grid = grid * unit_turn(-2 * torch.pi / size * self.timing[:, :, None] * carriers)
        return grid

    def turned_by_cfo(self, gain: Tensor, layout: FrameLayout) -> Tensor:
        """Return gains (F, 1, N) with the carrier offset's phase at each symbol's centre, (F, S, N).

        The leakage between carriers is left out.
        """
        if self.cfo_hz is None:
            return gain
        spacing_s = layout.symbol_samples / layout.rate_sps
        symbols = torch.arange(layout.data_symbols, dtype=self.cfo_hz.dtype, device=self.cfo_hz.device)
        return gain * unit_turn(2 * torch.pi * spacing_s * self.cfo_hz[:, None] * symbols)[:, :, None]

    def rotated_samples(self, samples: Tensor, layout: FrameLayout) -> Tensor:
        """Return samples (F, n), of one known and all data symbols, turned by the carrier offset sample by sample."""
        if self.cfo_hz is None:
            return samples
        centre = layout.symbol_samples + layout.cp_samples + (layout.fft_size - 1) / 2
        times = torch.arange(samples.shape[-1], dtype=self.cfo_hz.dtype, device=self.cfo_hz.device) - centre
        return samples * unit_turn(2 * torch.pi / layout.rate_sps * self.cfo_hz[:, None] * times)


NONE = Nuisance()
"""Nothing of the kind."""
