"""Posterior samplers of the DiffCom family over one reverse-diffusion loop.

Notation (the paper's letters; arXiv 2406.07390):

==================  ==========================================================================================
``x_t``             diffused images at step t, (B, C, H, W), scale [-1, 1]; ``x0_hat`` the posterior mean E[x_0 | x_t]
``h``, ``h_t``      channel taps, (F, L) complex; ``h0_hat`` their posterior mean
``y``               received grid, kept by :class:`receiver.measurement.model.Measurement`
``z``               JSCC symbols E(x), (B, K) complex, unit mean power per image
``zeta``, ``gamma`` strength of the measurement and of the confirming gradient (both on the norm, not its square)
``eta``             0: deterministic (DDIM), 1: ancestral (DDPM) steps
``abar``            cumulative noise schedule, ``abar[0] = 1``
==================  ==========================================================================================

Read :mod:`~receiver.samplers.diffusion` first (the loop), then :mod:`~receiver.samplers.guidance` (what each algorithm
adds to it), then the methods, a file each: :mod:`~receiver.samplers.deterministic`, :mod:`~receiver.samplers.diffcom`,
:mod:`~receiver.samplers.hifi`, :mod:`~receiver.samplers.blind.methods` (the channel as one more unknown).
"""

from receiver.samplers.diffusion import adaptive_start, reverse_diffusion, reverse_steps
from receiver.samplers.methods import METHODS, sample
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import Channel, Models
from receiver.samplers.settings import MethodSettings

__all__ = [
    "METHODS",
    "Channel",
    "MethodSettings",
    "Models",
    "Posterior",
    "adaptive_start",
    "reverse_diffusion",
    "reverse_steps",
    "sample",
]
