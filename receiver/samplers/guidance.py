"""What DiffCom, HiFi-DiffCom and Blind-DiffCom add to the reverse-diffusion loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.decoding import for_decoder
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Codec
from receiver.measurement.model import Measurement
from receiver.samplers.confirming import confirmed
from receiver.samplers.diffusion import Guidance
from receiver.samplers.nuisance import NuisanceEstimate
from receiver.samplers.randomness import Randomness, standard_normal


def _norm(squared: Tensor) -> Tensor:
    """Square root with a finite gradient at 0."""
    return (squared + 1e-12).sqrt()


@dataclass(frozen=True)
class MeasurementGuidance(Guidance[None]):
    """DiffCom: ``zeta ||y - W_h(E(x0_hat))||`` with a known channel (Algorithm 1, line 12; per image).

    The norm rather than its square, as in the authors' and the DPS code: the step then does not grow with the
    distance, which keeps one ``zeta`` stable over all SNRs.
    """

    codec: Codec
    measurement: Measurement
    h: Tensor
    zeta: float

    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        z = self.codec.encode(x0_hat, self.measurement.csnr_db)
        return self.zeta * _norm(self.measurement.distance(z, self.h)), None


@dataclass(frozen=True)
class PixelGuidance(Guidance[None]):
    """DPS post-processing: ``gamma ||x_d - x0_hat||`` (Table V, "DeepJSCC + DPS"), no use of ``y`` itself."""

    x_d: Tensor
    gamma: float

    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        return self.gamma * _norm((self.x_d - x0_hat).square().sum(dim=(1, 2, 3))), None


@dataclass(frozen=True)
class AlignedGuidance(Guidance[None]):
    """DiffCom with pixel alignment (Table V, d): the measurement distance plus ``gamma ||x_d - x0_hat||``."""

    measured: MeasurementGuidance
    aligned: PixelGuidance

    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        return self.measured.potential(x0_hat, t, None)[0] + self.aligned.potential(x0_hat, t, None)[0], None


@dataclass(frozen=True)
class Confirmed:
    """State of `ConfirmingGuidance`.

    Attributes:
        h: (F, L) taps.
        nuisance: estimates of phases and delays, and the measurement without them.
        x_d: (B, C, H, W) what the decoder makes of that measurement with these taps.
    """

    h: Tensor
    nuisance: NuisanceEstimate
    x_d: Tensor


@dataclass(frozen=True)
class ConfirmingGuidance(Guidance[Confirmed]):
    """HiFi-DiffCom: the measurement distance plus ``gamma ||x_d - D(W_h^-1(W_h(E(x0_hat))))||`` (eq. 19).

    With ``channel_prior`` the channel is unknown: at every step h becomes the mean of p(h | x0_hat, y), closed form,
    and x_d is decoded again with it. By the envelope theorem the gradient that holds this h fixed is the gradient of
    the evidence with h marginalised (but for its determinant), so image and channel move together, not in turns. With
    ``anchor``, an estimate of h by the statistics of symbols, h is the mean of both, whose errors have little in common
    while x0_hat is still blurred.

    Phases and delays that are unknown take one Gauss-Newton step of their own at every step.
    """

    codec: Codec
    start: Confirmed
    zeta: float
    gamma: float
    channel_prior: ChannelPrior | None = None
    anchor: Tensor | None = None

    def init(self) -> Confirmed:
        return self.start

    def potential(self, x0_hat: Tensor, t: Tensor, state: Confirmed) -> tuple[Tensor, Confirmed]:
        z = self.codec.encode(x0_hat, state.nuisance.measurement.csnr_db)
        state = self._updated(z.detach(), state)
        measurement = state.nuisance.measurement
        total = self.zeta * _norm(measurement.distance(z, state.h))
        if self.gamma > 0:
            again = confirmed(self.codec, measurement, z, state.h)
            total = total + self.gamma * _norm((state.x_d - again).square().sum(dim=(1, 2, 3)))
        return total, state

    @torch.no_grad()
    def _updated(self, z: Tensor, state: Confirmed) -> Confirmed:
        """Return the unknowns given the symbols of the present image, and what is decoded with them."""
        if self.channel_prior is None and not state.nuisance.prior.turns:
            return state
        nuisance, h = state.nuisance.with_turns(z, state.h), state.h
        if self.channel_prior is not None:
            h = conditional_channel(nuisance.measurement, z, self.channel_prior).mean
            if self.anchor is not None:
                h = (h + self.anchor) / 2
        x_d = self.codec.decode(*for_decoder(self.codec, nuisance.measurement, h))
        return Confirmed(h, nuisance, x_d)


@dataclass(frozen=True)
class ClosedFormChannelGuidance(Guidance[Tensor]):
    """DiffCom with an unknown channel: h is the mean of p(h | x0_hat, y), closed form, at every step.

    Given the image, y is linear and Gaussian in h, so the gradient step on h of Algorithm 3 is replaced by its
    exact solution; the gradient on the image then holds that h fixed. The state is h (F, L).
    """

    codec: Codec
    measurement: Measurement
    channel_prior: ChannelPrior
    zeta: float

    def init(self) -> Tensor:
        return self.measurement.y.new_zeros(self.measurement.num_frames, self.channel_prior.num_taps)

    def potential(self, x0_hat: Tensor, t: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        z = self.codec.encode(x0_hat, self.measurement.csnr_db)
        with torch.no_grad():
            h = conditional_channel(self.measurement, z.detach(), self.channel_prior).mean
        return self.zeta * _norm(self.measurement.distance(z, h)), h


@dataclass(frozen=True)
class DiffusedChannel:
    """State of `DiffusedChannelGuidance`: h_t (F, L, 2), a leaf that needs a gradient, and h0_hat (F, L) complex."""

    h_t: Tensor
    h0_hat: Tensor


@dataclass(frozen=True)
class DiffusedChannelGuidance(Guidance[DiffusedChannel]):
    """Blind-DiffCom, Algorithm 3: the channel is diffused beside the image under its analytic prior.

    ``printed=True`` keeps line 5 as the paper prints it (wrong sign, prior score at every t), a named baseline that
    diverges. Otherwise Tweedie's formula uses the score of the diffused marginal CN(0, abar p + 1 - abar):
    ``h0_hat = sqrt(abar) p / (abar p + 1 - abar) h_t``.
    """

    codec: Codec
    measurement: Measurement
    channel_prior: ChannelPrior
    zeta_x: float
    zeta_h: float
    alpha_bar: Tensor
    generator: Randomness
    printed: bool = False

    def init(self) -> DiffusedChannel:
        shape = (self.measurement.num_frames, self.channel_prior.num_taps, 2)
        h_t = standard_normal(shape, self.generator, self.measurement.y.device) / 2**0.5
        return DiffusedChannel(h_t.requires_grad_(), torch.view_as_complex(h_t.detach()))

    def unknowns(self, state: DiffusedChannel) -> Sequence[Tensor]:
        return (state.h_t,)

    def _posterior_mean(self, h_t: Tensor, abar: Tensor) -> Tensor:
        power = self.channel_prior.power.to(h_t.device)[None, :, None]
        if self.printed:
            return (h_t + (1 - abar) * h_t / power) / abar.sqrt()
        return abar.sqrt() * power / (abar * power + 1 - abar) * h_t

    def _abar(self, t: Tensor) -> Tensor:
        # The chains of the frames run in step: the channel follows the first image's.
        return self.alpha_bar.to(t.device)[t[0]].to(torch.float32)

    def potential(self, x0_hat: Tensor, t: Tensor, state: DiffusedChannel) -> tuple[Tensor, DiffusedChannel]:
        h0_hat = torch.view_as_complex(self._posterior_mean(state.h_t, self._abar(t)).contiguous())
        z = self.codec.encode(x0_hat, self.measurement.csnr_db)
        total = self.zeta_x * _norm(self.measurement.distance(z, h0_hat))
        return total, replace(state, h0_hat=h0_hat.detach())

    def advance(self, state: DiffusedChannel, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> DiffusedChannel:
        abar_t, abar_s = self._abar(t), self._abar(s)
        h_t = state.h_t.detach()
        mean = self._posterior_mean(h_t, abar_t)
        step = abar_t / abar_s
        variance = (1 - abar_s) / (1 - abar_t) * (1 - step)
        noise = standard_normal(h_t.shape, self.generator, h_t.device) / 2**0.5
        h_s = step.sqrt() * (1 - abar_s) / (1 - abar_t) * h_t + abar_s.sqrt() * (1 - step) / (1 - abar_t) * mean
        # The potential carries zeta_x; the channel's own strength replaces it.
        h_s = h_s + variance.sqrt() * noise - self.zeta_h / self.zeta_x * gradients[0]
        return replace(state, h_t=h_s.requires_grad_())
