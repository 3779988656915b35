"""What DiffCom, HiFi-DiffCom and Blind-DiffCom add to the reverse-diffusion loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from receiver.codecs import Codec
from receiver.measurement import Measurement
from receiver.samplers.blind import ChannelPrior, conditional_channel
from receiver.samplers.core import Randomness, standard_normal
from receiver.samplers.nuisance import Tracker


def _norm(squared: Tensor) -> Tensor:
    """Square root with a finite gradient at 0."""
    return (squared + 1e-12).sqrt()


@dataclass(frozen=True)
class MeasurementGuidance:
    """DiffCom: ``zeta ||y - W_h(E(x0_hat))||`` with a known channel (Algorithm 1, line 12; per image).

    The norm rather than its square, as in the authors' and the DPS code: the step then does not grow with the
    distance, which keeps one ``zeta`` stable over all SNRs.
    """

    codec: Codec
    measurement: Measurement
    h: Tensor
    csnr_db: Tensor
    zeta: float
    unknowns: Sequence[Tensor] = ()

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        z = self.codec.encode(x0_hat, self.csnr_db)
        return self.zeta * _norm(self.measurement.distance(z, self.h))

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        pass


@dataclass(frozen=True)
class PixelGuidance:
    """DPS post-processing: ``gamma ||x_d - x0_hat||`` (Table V, "DeepJSCC + DPS"), no use of ``y`` itself."""

    x_d: Tensor
    gamma: float
    unknowns: Sequence[Tensor] = ()

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        return self.gamma * _norm((self.x_d - x0_hat).square().sum(dim=(1, 2, 3)))

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        pass


@dataclass(frozen=True)
class AlignedGuidance:
    """DiffCom with pixel alignment (Table V, d): the measurement distance plus ``gamma ||x_d - x0_hat||``."""

    measured: MeasurementGuidance
    aligned: PixelGuidance
    unknowns: Sequence[Tensor] = ()

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        return self.measured.potential(x0_hat, t) + self.aligned.potential(x0_hat, t)

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        pass


@dataclass
class ConfirmingGuidance:
    """HiFi-DiffCom: the measurement distance plus ``gamma ||x_d - D(W_h^-1(W_h(E(x0_hat))))||`` (eq. 19).

    With ``prior`` the channel is unknown: at every step h becomes the mean of p(h | x0_hat, y), closed form, and x_d
    is decoded again with it. By the envelope theorem the gradient that holds this h fixed is the gradient of the
    evidence with h marginalised (but for its determinant), so image and channel move together, not in turns. With
    ``anchor``, an estimate of h by the statistics of symbols, h is the mean of both, whose errors have little in common
    while x0_hat is still blurred (192 frames at 10 dB: mean d_h .034, instead of .037 without it).

    With ``tracker`` phases and delays are unknown, too, and take one Gauss-Newton step of their own at every step.
    """

    codec: Codec
    measurement: Measurement
    h: Tensor
    csnr_db: Tensor
    decoder_csnr_db: Tensor
    x_d: Tensor
    zeta: float
    gamma: float
    prior: ChannelPrior | None = None
    anchor: Tensor | None = None
    tracker: Tracker | None = None
    unknowns: Sequence[Tensor] = ()

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        z = self.codec.encode(x0_hat, self.csnr_db)
        if self.tracker is not None:
            self.tracker.update_turns(z.detach(), self.h)
            self.measurement = self.tracker.measurement
        if self.prior is not None:
            with torch.no_grad():
                self.h = conditional_channel(self.measurement, z.detach(), self.prior).mean
                if self.anchor is not None:
                    self.h = (self.h + self.anchor) / 2
        if self.prior is not None or self.tracker is not None:
            with torch.no_grad():
                self.x_d = self.codec.decode(self.measurement.decoder_input(self.h), self.decoder_csnr_db)
        total = self.zeta * _norm(self.measurement.distance(z, self.h))
        if self.gamma > 0:
            clean = self.measurement.with_received(self.measurement.forward(z, self.h))
            confirmed = self.codec.decode(clean.decoder_input(self.h), self.decoder_csnr_db)
            total = total + self.gamma * _norm((self.x_d - confirmed).square().sum(dim=(1, 2, 3)))
        return total

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        pass


@dataclass
class ClosedFormChannelGuidance:
    """DiffCom with an unknown channel: h is the mean of p(h | x0_hat, y), closed form, at every step.

    Given the image, y is linear and Gaussian in h, so the gradient step on h of Algorithm 3 is replaced by its
    exact solution; the gradient on the image then holds that h fixed.
    """

    codec: Codec
    measurement: Measurement
    prior: ChannelPrior
    csnr_db: Tensor
    zeta: float
    unknowns: Sequence[Tensor] = ()
    h: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.h = torch.zeros(
            self.measurement.num_frames, self.prior.num_taps, dtype=torch.complex64, device=self.csnr_db.device
        )

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        z = self.codec.encode(x0_hat, self.csnr_db)
        with torch.no_grad():
            self.h = conditional_channel(self.measurement, z.detach(), self.prior).mean
        return self.zeta * _norm(self.measurement.distance(z, self.h))

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        pass


@dataclass
class DiffusedChannelGuidance:
    """Blind-DiffCom, Algorithm 3: the channel is diffused beside the image under its analytic prior.

    ``printed=True`` keeps line 5 as the paper prints it (wrong sign, prior score at every t), a named baseline that
    diverges. Otherwise Tweedie's formula uses the score of the diffused marginal CN(0, abar p + 1 - abar):
    ``h0_hat = sqrt(abar) p / (abar p + 1 - abar) h_t``.
    """

    codec: Codec
    measurement: Measurement
    prior: ChannelPrior
    csnr_db: Tensor
    zeta_x: float
    zeta_h: float
    alpha_bar: Tensor
    generator: Randomness
    printed: bool = False
    h_t: Tensor = field(init=False)
    h: Tensor = field(init=False)

    def __post_init__(self) -> None:
        shape = (self.measurement.num_frames, self.prior.num_taps, 2)
        self.h_t = standard_normal(shape, self.generator, self.csnr_db.device) / 2**0.5
        self.h_t.requires_grad_()
        self.h = torch.view_as_complex(self.h_t.detach())

    @property
    def unknowns(self) -> Sequence[Tensor]:
        return (self.h_t,)

    def _posterior_mean(self, h_t: Tensor, abar: Tensor) -> Tensor:
        power = self.prior.power.to(h_t.device)[None, :, None]
        if self.printed:
            return (h_t + (1 - abar) * h_t / power) / abar.sqrt()
        return abar.sqrt() * power / (abar * power + 1 - abar) * h_t

    def _abar(self, t: Tensor) -> Tensor:
        # The chains of the frames run in step: the channel follows the first image's.
        return self.alpha_bar.to(self.h_t.device)[t[0]].to(torch.float32)

    def potential(self, x0_hat: Tensor, t: Tensor) -> Tensor:
        h0_hat = torch.view_as_complex(self._posterior_mean(self.h_t, self._abar(t)).contiguous())
        self.h = h0_hat.detach()
        z = self.codec.encode(x0_hat, self.csnr_db)
        return self.zeta_x * _norm(self.measurement.distance(z, h0_hat))

    def advance(self, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> None:
        abar_t, abar_s = self._abar(t), self._abar(s)
        h_t = self.h_t.detach()
        mean = self._posterior_mean(h_t, abar_t)
        step = abar_t / abar_s
        variance = (1 - abar_s) / (1 - abar_t) * (1 - step)
        noise = standard_normal(h_t.shape, self.generator, h_t.device) / 2**0.5
        h_s = step.sqrt() * (1 - abar_s) / (1 - abar_t) * h_t + abar_s.sqrt() * (1 - step) / (1 - abar_t) * mean
        # The potential carries zeta_x; the channel's own strength replaces it.
        h_s = h_s + variance.sqrt() * noise - self.zeta_h / self.zeta_x * gradients[0]
        self.h_t = h_s.requires_grad_()
