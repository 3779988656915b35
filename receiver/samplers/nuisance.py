"""Further unknowns of a measurement: phase and delay of every data symbol, carrier offset, noise variance.

A phase and a delay turn the received cells by factors of unit modulus, so y' = conj(turn) y is a measurement without
them and nothing else has to know. Given the symbols and the taps both are found by Gauss-Newton steps under Gaussian
priors. A carrier offset that is left turns symbol s by a phase that grows with s: it is the shared part of the phases'
prior. The noise variance has an inverse-gamma prior, which a residual turns into another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.measurement import Measurement
from sdr.errors import ConfigError

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


class Tracker:
    """Estimates of the further unknowns of one measurement, and the measurement without them.

    Attributes:
        measurement: corrected by the present estimates.
        phase: (F, S) radians, float64. timing: (F, S) samples, float64.
    """

    def __init__(self, measurement: Measurement, prior: NuisancePrior) -> None:
        self._received = measurement
        self._prior = prior
        self.measurement = measurement
        # In double, as a precision of what is known is large.
        self.phase = measurement.y.new_zeros(measurement.y.shape[:2], dtype=torch.float64)
        self.timing = torch.zeros_like(self.phase)
        self._precision = self._prior_precision().to(self.phase)

    def _prior_precision(self) -> Tensor:
        """(2 S, 2 S) of phases, then delays."""
        layout, prior = self._received.layout, self._prior
        count = layout.data_symbols
        # The taps are those of the pilots' centre, as far as there are any.
        since_s = torch.arange(count, dtype=torch.float64) + (layout.pilot_symbols + 1) / 2
        since_s *= layout.symbol_samples / layout.rate_sps
        growth = 2 * torch.pi * prior.cfo_std_hz * since_s
        cov = torch.zeros(2 * count, 2 * count, dtype=torch.float64)
        cov[:count, :count] = torch.outer(growth, growth)
        own = torch.tensor([prior.phase_std_rad] * count + [prior.timing_std_samples] * count, dtype=torch.float64)
        return torch.linalg.inv(cov + torch.diag(own.square() + _KNOWN_VAR))

    @torch.no_grad()
    def update_turns(self, z: Tensor, h: Tensor) -> None:
        """One Gauss-Newton step for phases and delays, given symbols z (B, K) and taps h (F, L)."""
        if not self._prior.turns:
            return
        measurement = self.measurement
        size, count = measurement.layout.fft_size, measurement.layout.data_symbols
        sent = measurement.sent_grid(z) != 0
        predicted = measurement.forward(z, h) * sent
        slope = -2 * torch.pi * torch.fft.fftfreq(size, dtype=self.phase.dtype, device=z.device)
        weight = 2 / measurement.noise_var[:, None, None]
        energy = weight * predicted.abs().square()
        # Im conj(p) e, the gradient along a turn: nothing is linearised but the turn itself.
        pull = weight * (predicted.conj() * (measurement.y - predicted)).imag
        blocks = [[energy, energy * slope], [energy * slope, energy * slope.square()]]
        curvature = torch.cat(
            [torch.cat([torch.diag_embed(part.sum(-1)) for part in row], dim=-1) for row in blocks], dim=-2
        )
        gradient = torch.cat([pull.sum(-1), (pull * slope).sum(-1)], dim=-1)
        now = torch.cat([self.phase, self.timing], dim=-1)
        precision = self._precision
        right = (gradient - now @ precision)[..., None]
        step = torch.linalg.solve(curvature + precision, right)[..., 0]
        self.phase, self.timing = (now + step).split(count, dim=-1)
        turn = (self.phase[..., None] + slope * self.timing[..., None]).to(measurement.noise_var)
        y = self._received.y * torch.polar(torch.ones_like(turn), -turn)
        self.measurement = replace(measurement, y=y)

    @torch.no_grad()
    def update_noise(self, z: Tensor, h: Tensor) -> None:
        """The noise variance's mean given the residual that symbols z (B, K) and taps h (F, L) leave."""
        if self._prior.noise_std == 0:
            return
        measurement = self.measurement
        sent = measurement.sent_grid(z) != 0
        squared = ((measurement.y - measurement.forward(z, h)).abs().square() * sent).sum(dim=(1, 2))
        # An inverse gamma variable of shape a has the relative variance 1 / (a - 2).
        shape = 2 + 1 / self._prior.noise_std**2
        mean = ((shape - 1) * self._received.noise_var + squared) / (shape - 1 + sent.sum(dim=(1, 2)))
        self.measurement = replace(measurement, noise_var=mean)
