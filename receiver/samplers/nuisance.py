"""Estimate phase and delay of every data symbol, carrier offset and noise variance along with the image.

A phase and a delay turn the received cells by factors of unit modulus, so y' = conj(turn) y is a measurement without
them and nothing else has to know. Given the symbols and the taps both are found by Gauss-Newton steps under Gaussian
priors. A carrier offset that is left turns symbol s by a phase that grows with s: it is the shared part of the phases'
prior. The noise variance has an inverse-gamma prior, which a residual turns into another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.measurement.model import Measurement
from receiver.measurement.nuisance import unit_turn
from sdr.errors import ConfigError
from sdr.layout import FrameLayout

#: Variance, in radians or samples squared, of what is known: a hundredth of a percent of a turn is not worth moving.
_KNOWN_VAR = 1e-8


@dataclass(frozen=True)
class NuisancePrior:
    """How far off each quantity may be; 0: it is known.

    Attributes:
        phase_std_rad: of every data symbol's own phase, beside what the taps and the carrier offset give it.
        timing_std_samples: of every data symbol's own delay.
        cfo_std_hz: of the carrier offset left since the pilots.
        noise_std: of the noise variance, over the variance itself.
    """

    phase_std_rad: float = 0.0
    timing_std_samples: float = 0.0
    cfo_std_hz: float = 0.0
    noise_std: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}; 0 or more is needed.")

    @property
    def turns(self) -> bool:
        """Whether phase or delay are unknown."""
        return self.phase_std_rad > 0 or self.timing_std_samples > 0 or self.cfo_std_hz > 0

    def turn_precision(self, layout: FrameLayout) -> Tensor:
        """Return the inverse covariance of all phases, then all delays, of a frame, (2 S, 2 S) float64."""
        count = layout.data_symbols
        # The taps are those of the pilots' centre, as far as there are any.
        since_s = torch.arange(count, dtype=torch.float64) + (layout.pilot_symbols + 1) / 2
        since_s *= layout.symbol_samples / layout.rate_sps
        growth = 2 * torch.pi * self.cfo_std_hz * since_s
        cov = torch.zeros(2 * count, 2 * count, dtype=torch.float64)
        cov[:count, :count] = torch.outer(growth, growth)
        own = torch.tensor([self.phase_std_rad] * count + [self.timing_std_samples] * count, dtype=torch.float64)
        return torch.linalg.inv(cov + torch.diag(own.square() + _KNOWN_VAR))


@dataclass(frozen=True, eq=False)
class NuisanceEstimate:
    """Estimates of the further unknowns of one measurement, and the measurement without them.

    Attributes:
        received: the measurement as it came.
        prior: of the unknowns.
        measurement: corrected by the present estimates.
        phase: (F, S) radians, float64, as a precision of what is known is large.
        timing: (F, S) samples, float64.
        precision: (2 S, 2 S) float64, see `NuisancePrior.turn_precision`.
    """

    received: Measurement
    prior: NuisancePrior
    measurement: Measurement
    phase: Tensor
    timing: Tensor
    precision: Tensor

    @classmethod
    def begin(cls, received: Measurement, prior: NuisancePrior) -> NuisanceEstimate:
        """Return the estimate before anything was learned: no phase, no delay, the measured noise."""
        zero = received.y.new_zeros(received.y.shape[:2], dtype=torch.float64)
        return cls(received, prior, received, zero, zero, prior.turn_precision(received.layout).to(zero))

    @torch.no_grad()
    def with_turns(self, z: Tensor, h: Tensor) -> NuisanceEstimate:
        """Take one Gauss-Newton step for phases and delays, given symbols z (B, K) and taps h (F, L)."""
        if not self.prior.turns:
            return self
        measurement = self.measurement
        size, count = measurement.layout.fft_size, measurement.layout.data_symbols
        sent = measurement.sent_grid(z) != 0
        predicted = measurement.forward(z, h) * sent
        slope = -2 * torch.pi * torch.fft.fftfreq(size, dtype=self.phase.dtype, device=z.device)
        weight = 2 / (measurement.noise_var[:, None, None] * measurement.noise_ratio)
        energy = weight * predicted.abs().square()
        # Im conj(p) e, the gradient along a turn: nothing is linearised but the turn itself.
        pull = weight * (predicted.conj() * (measurement.y - predicted)).imag
        blocks = [[energy, energy * slope], [energy * slope, energy * slope.square()]]
        curvature = torch.cat(
            [torch.cat([torch.diag_embed(part.sum(-1)) for part in row], dim=-1) for row in blocks], dim=-2
        )
        gradient = torch.cat([pull.sum(-1), (pull * slope).sum(-1)], dim=-1)
        now = torch.cat([self.phase, self.timing], dim=-1)
        right = (gradient - now @ self.precision)[..., None]
        step = torch.linalg.solve(curvature + self.precision, right)[..., 0]
        phase, timing = (now + step).split(count, dim=-1)
        turn = (phase[..., None] + slope * timing[..., None]).to(measurement.noise_var)
        corrected = measurement.with_received(self.received.y * unit_turn(-turn))
        return replace(self, measurement=corrected, phase=phase, timing=timing)

    @torch.no_grad()
    def with_noise(self, z: Tensor, h: Tensor) -> NuisanceEstimate:
        """Take the noise variance's mean given the residual that symbols z (B, K) and taps h (F, L) leave."""
        if self.prior.noise_std == 0:
            return self
        measurement = self.measurement
        sent = measurement.sent_grid(z) != 0
        squared = (measurement.y - measurement.forward(z, h)).abs().square() / measurement.noise_ratio
        squared = (squared * sent).sum(dim=(1, 2))
        # An inverse gamma variable of shape a has the relative variance 1 / (a - 2).
        shape = 2 + 1 / self.prior.noise_std**2
        mean = ((shape - 1) * self.received.noise_var + squared) / (shape - 1 + sent.sum(dim=(1, 2)))
        return replace(self, measurement=replace(measurement, noise_var=mean))
