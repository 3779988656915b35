"""The reverse-diffusion loop shared by every method (Algorithms 1 to 3 of the paper)."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from receiver.priors.denoiser import Denoiser, NetworkDenoiser
from receiver.priors.schedule import Schedule
from receiver.samplers.randomness import Randomness, standard_normal
from sdr.errors import ConfigError

State = TypeVar("State")


class Guidance(ABC, Generic[State]):
    """What a method adds to the prior: a potential whose gradient pulls the sample towards the measurement.

    All that changes from step to step is in the state that `init` makes and the other methods return anew.
    """

    @abstractmethod
    def init(self) -> State:
        """Return the state before the first step."""

    @abstractmethod
    def potential(self, x0_hat: Tensor, t: Tensor, state: State) -> tuple[Tensor, State]:
        """Return the weighted distances per image, (B,), and the state that they were taken with.

        Args:
            x0_hat: (B, C, H, W) in [0, 1]; the distances are differentiable in it and in `unknowns(state)`.
            t: (B,) steps.
        """

    def unknowns(self, state: State) -> Sequence[Tensor]:
        """Return leaf tensors besides the image that receive a gradient (the diffused channel of Algorithm 3)."""
        return ()

    def advance(self, state: State, gradients: Sequence[Tensor], t: Tensor, s: Tensor) -> State:
        """Return the state at step `s` from that at step `t`, given the gradients of its unknowns."""
        return state


class Trajectory(NamedTuple, Generic[State]):
    """Attributes: x (B, C, H, W) at the last step, diffusion scale; trace (steps, B) of potentials; the last state."""

    x: Tensor
    trace: Tensor
    state: State


def to_image(x: Tensor) -> Tensor:
    """From the diffusion scale [-1, 1] to the image scale [0, 1]."""
    return (x + 1) / 2


def from_image(image: Tensor) -> Tensor:
    """From the image scale [0, 1] to the diffusion scale [-1, 1]."""
    return image * 2 - 1


def adaptive_start(
    schedule: Schedule, csnr: Tensor, bandwidth_ratio: float, tau: float, eta: float = 1.0, least_dsnr: float = 0.0
) -> Tensor:
    """Starting step of eq. (21): the step whose diffusion SNR equals the expected signal-to-distortion ratio.

    Args:
        csnr: linear channel SNR per image, (B,).
        bandwidth_ratio: channel uses per source sample, k / m.
        tau: the paper's stability constant.
        eta: factor on the step found.
        least_dsnr: taken where the ratio is smaller.

    Returns:
        (B,) int64 in [1, T].
    """
    abar = schedule.alpha_bar[1:].to(torch.float64)
    sdr = (1 + csnr.to(torch.float64)) ** (bandwidth_ratio / 2 * tau)
    sdr = sdr.clamp(min=least_dsnr)
    dsnr = (abar / (1 - abar)).to(sdr.device)
    nearest = (sdr[:, None] - dsnr[None, :]).abs().argmin(dim=1) + 1
    return (eta * nearest).round().long().clamp(1, schedule.num_steps)


def reverse_steps(start: Tensor, steps: int) -> Tensor:
    """Evenly respaced steps from ``start`` (B,) down to 0: (steps + 1, B) int64, never increasing.

    Only the last is 0: where ``start`` has fewer steps than asked for, some repeat (and only the guidance acts there).
    """
    if steps < 1:
        raise ConfigError(f"Found {steps} reverse steps; at least 1 is needed.")
    fraction = torch.arange(steps, -1, -1, dtype=torch.float64, device=start.device) / steps
    respaced = (fraction[:, None] * start.to(torch.float64)[None, :]).round().long()
    respaced[:-1].clamp_(min=1)
    return respaced


def descending_levels(first: int, last: int, steps: int, schedule: Schedule) -> Tensor:
    """Return (steps + 1,) int64 levels, evenly from `first` to `last` and then 0, of which only the last is 0.

    Args:
        first: of 1000, whatever the number of steps of the schedule.
        last: of 1000, at most `first`.
        steps: evaluations of the prior, at least 1.
        schedule: its steps are returned.
    """
    levels = torch.linspace(first, min(first, last), steps, dtype=torch.float64) * schedule.num_steps / 1000
    levels = levels.round().long().clamp(1, schedule.num_steps)
    return torch.cat([levels, levels.new_zeros(1)])


def step_down(
    schedule: Schedule,
    x_t: Tensor,
    x0_hat: Tensor,
    steps: tuple[Tensor, Tensor],
    eta: float,
    generator: Randomness,
    *,
    moved: Tensor | None = None,
    std: Tensor | None = None,
) -> Tensor:
    """Draw x_s given x_t, t >= s: the prior's transition, respaced and with its noise scaled by `eta`.

    Args:
        schedule: of the prior.
        x_t: (B, C, H, W).
        x0_hat: (B, C, H, W) the posterior mean, from which the direction of the noise in x_t follows.
        steps: t and s, (B,) each.
        eta: 0 (DDIM) to 1 (ancestral).
        generator: of the noise.
        moved: (B, C, H, W) what the next image is about, where that is no longer x0_hat.
        std: (B, C, H, W) or (B, 1, 1, 1) standard deviation of the noise, where it is not that of the transition.
    """
    t, s = steps
    signal_t, noise_t = schedule.coefficients(t, x_t)
    signal_s, noise_s = schedule.coefficients(s, x_t)
    variance = eta**2 * (noise_s / noise_t).square() * (1 - (signal_t / signal_s).square())
    direction = (x_t - signal_t * x0_hat) / noise_t
    noise = standard_normal(x_t.shape, generator, x_t.device)
    kept = (noise_s.square() - variance).clamp(min=0).sqrt()
    return (
        signal_s * (x0_hat if moved is None else moved)
        + kept * direction
        + (variance.sqrt() if std is None else std) * noise
    )


def diffuse(schedule: Schedule, x0: Tensor, t: Tensor, generator: Randomness) -> Tensor:
    """Draw x_t given x_0 (eq. 5)."""
    return schedule.diffuse(x0, t, standard_normal(x0.shape, generator, x0.device))


#: Batches from here on run their networks in bfloat16. Below, the conversions cost more than they save (one thread,
#: batch 4: 0.9 of the time; batch 8: 0.75; batch 64: 0.68).
REDUCED_BATCH = 8


def reduced_precision(batch: int, device: torch.device) -> torch.autocast:
    """Context in which networks compute in bfloat16 where that is faster: large batches, hardware that has it.

    The symbols, the channel and everything measured stay in single precision.
    """
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return torch.autocast(device.type, torch.bfloat16, enabled=able and batch >= REDUCED_BATCH)


@dataclass(frozen=True)
class StepRule:
    """How a reverse step is taken.

    Attributes:
        eta: of the noise, 0 (deterministic) to 1 (ancestral).
        jacobian: differentiate through the denoiser (as the paper does); without it the gradient is taken at x0_hat
            and scaled by 1 / sqrt(abar), the derivative of Tweedie's formula with the score held fixed.
        clip: keep x0_hat in [-1, 1], as the public code does; no gradient comes from values beyond.
        learned_variance: draw with the variance that the network learned, as the public code does.
    """

    eta: float = 1.0
    jacobian: bool = True
    clip: bool = False
    learned_variance: bool = False


def reverse_diffusion(
    denoiser: Denoiser,
    guidance: Guidance[State],
    x_t: Tensor,
    steps: Tensor,
    *,
    generator: Randomness,
    rule: StepRule = StepRule(),  # frozen
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Trajectory[State]:
    """Run guided reverse diffusion from ``x_t`` at ``steps[0]`` to ``steps[-1]``.

    Each step draws from the prior's transition, respaced and with its noise scaled by ``eta`` (``eta = 1`` with
    unit spacing is the ancestral step of Algorithm 1, line 10), then subtracts the gradient of the summed potential.
    Images differ in their steps where their starts differ; none couples to another except through the potential.

    Raises:
        ConfigError: a learned variance is asked for and there is none.

    Args:
        x_t: (B, C, H, W) in the diffusion scale.
        steps: (steps + 1, B) from :func:`reverse_steps`.
        rule: of the steps.
        on_step: called with the index of the step and x0_hat (diffusion scale).
    """
    schedule = denoiser.schedule
    state = guidance.init()
    trace: list[Tensor] = []
    precision = reduced_precision(x_t.shape[0], x_t.device)
    for index, (t, s) in enumerate(itertools.pairwise(steps)):
        with precision:
            x_t = x_t.detach().requires_grad_(rule.jacobian)
            with torch.set_grad_enabled(rule.jacobian):
                x0_hat, share = _denoised(denoiser, x_t, t, rule)
            variable = x_t if rule.jacobian else x0_hat.requires_grad_()
            unknowns = guidance.unknowns(state)
            potential, state = guidance.potential(to_image(x0_hat), t, state)
        gradient, *others = torch.autograd.grad(potential.sum(), [variable, *unknowns])
        if not rule.jacobian:
            gradient = gradient / schedule.coefficients(t, x_t)[0]
        with torch.no_grad():
            mean = x0_hat.detach()
            std = None
            if share is not None:
                abar_t, abar_s = (schedule.coefficients(u, x_t)[0].square() for u in (t, s))
                std = rule.eta * _learned_std(share, abar_t, abar_s)
            x_t = step_down(schedule, x_t, mean, (t, s), rule.eta, generator, std=std) - gradient
            state = guidance.advance(state, others, t, s)
            trace.append(potential.detach())
            if on_step is not None:
                on_step(index, mean)
    return Trajectory(x_t.detach(), torch.stack(trace), state)


def _denoised(denoiser: Denoiser, x_t: Tensor, t: Tensor, rule: StepRule) -> tuple[Tensor, Tensor | None]:
    """Return x0_hat, and where the learned variance lies between its bounds; None where it isn't used."""
    share = None
    if rule.learned_variance:
        if not isinstance(denoiser, NetworkDenoiser):
            raise ConfigError("The prior learned no variance. Leave learned_variance out.")
        x0_hat, share = denoiser.with_variance(x_t, t)
    else:
        x0_hat = denoiser(x_t, t)
    return x0_hat.clamp(-1, 1) if rule.clip else x0_hat, share


def _learned_std(share: Tensor, abar_t: Tensor, abar_s: Tensor) -> Tensor:
    """Return the standard deviation of a step from t to s whose variance is interpolated on a logarithmic scale."""
    added = 1 - abar_t / abar_s
    posterior = (1 - abar_s) / (1 - abar_t) * added
    # Nothing is drawn in the last step; where several are at one t, nothing is added between them.
    drawn = (posterior > 0).to(posterior)
    logarithm = share * added.clamp(min=1e-20).log() + (1 - share) * posterior.clamp(min=1e-20).log()
    return (logarithm / 2).exp() * drawn
