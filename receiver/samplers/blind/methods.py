"""Methods that use no pilot: Blind-DiffCom (Algorithm 3) and what starts from the symbols' statistics."""

from __future__ import annotations

from receiver.samplers.blind.starts import blind_start
from receiver.samplers.diffcom import from_noise, guided
from receiver.samplers.guidance import ClosedFormChannelGuidance, DiffusedChannelGuidance
from receiver.samplers.hifi import confirmed_sample
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem


def blind_deterministic(problem: Problem) -> Posterior:
    """Decode deterministically with the channel that a search from candidates found."""
    start = blind_start(problem)
    return problem.posterior(start.x_d, start.h)


def blind(problem: Problem) -> Posterior:
    """Sample as HiFi-DiffCom, with the taps from their closed-form conditional at every step.

    A search from candidates only initialises; the posterior sampler then moves image and channel together.
    """
    start = blind_start(problem)
    return confirmed_sample(
        problem, start.h, start.x_d, problem.channel.prior, anchor=start.h if start.by_mixture else None
    )


def blind_closed_form(problem: Problem) -> Posterior:
    """Sample as DiffCom from noise with h from its closed-form conditional at every step; no initialisation."""
    guidance = ClosedFormChannelGuidance(
        problem.codec, problem.measurement, problem.channel.prior, problem.settings.zeta
    )
    x, trace, h = guided(problem, guidance, from_noise(problem))
    return problem.posterior(x, h, trace)


def algorithm_3(problem: Problem, printed: bool = False) -> Posterior:
    """Sample image and channel by two reverse diffusions side by side (Algorithm 3); line 5 as printed or mended."""
    guidance = DiffusedChannelGuidance(
        problem.codec,
        problem.measurement,
        problem.channel.prior,
        problem.settings.zeta,
        problem.settings.zeta_h,
        problem.denoiser.schedule.alpha_bar,
        problem.frame_generator,
        printed,
    )
    x, trace, channel = guided(problem, guidance, from_noise(problem))
    return problem.posterior(x, channel.h0_hat, trace)
