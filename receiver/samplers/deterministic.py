"""Decode without a prior, and settle phase, delay and noise by what is decoded."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from receiver.channel.decoding import for_decoder
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Problem

#: Rounds of decoding and correcting that settle phase, delay and noise before a method with known taps begins.
_SETTLING_ROUNDS = 5


@torch.no_grad()
def decoded(problem: Problem, h: Tensor) -> Tensor:
    """Return what the codec's decoder makes of the symbols equalised with taps h (F, L): x_d (B, C, H, W)."""
    return problem.codec.decode(*for_decoder(problem.codec, problem.measurement, h)).clamp(0, 1)


def deterministic(problem: Problem) -> Posterior:
    """Decode with the taps that the pilots gave."""
    x_d = decoded(problem, problem.h)
    return problem.posterior(x_d, problem.h, x_d=x_d)


def settled(problem: Problem) -> Problem:
    """Return the problem without the phases and delays, and with the noise, that the decoder's own answer tells of."""
    for _ in range(_SETTLING_ROUNDS):
        with torch.no_grad():
            z = problem.codec.encode(decoded(problem, problem.h), problem.encoder_csnr_db)
        nuisance = problem.nuisance.with_turns(z, problem.h).with_noise(z, problem.h)
        problem = replace(problem, nuisance=nuisance)
    return problem
