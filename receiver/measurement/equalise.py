"""Turn received cells into estimates of the symbols, and tell the noise that is left on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from receiver.measurement.model import Measurement
from receiver.measurement.nuisance import NONE, Nuisance

MAP_ITERATIONS = 25
"""Steps that the equaliser takes through a forward model that can't be inverted per cell."""

AMPLIFIER_ITERATIONS = 8
"""The same through an amplifier. Its most likely symbols are weaker than the mean ones, as saturation hides how large
they were, so that a search that is run to the end raises the squared error of its start (docs/results.md)."""


#: SNR of a symbol that was not received, linear.
_LEAST_SNR = 1e-10


def equalise(measurement: Measurement, h: Tensor, noise_var: Tensor | None = None, nuisance: Nuisance = NONE) -> Tensor:
    """Estimate the symbols, which are taken to be CN(0, 1).

    MMSE per cell, conj(g) y / (|g|^2 + noise_var), where the frequency domain is exact. In mode "time" a limiter
    counts as Bussgang has it: a gain and uncorrelated distortion, which is the best linear estimate. With taps beyond
    the prefix or an amplifier it is the symbols of most posterior density under the whole forward model, found by
    L-BFGS from there (`MAP_ITERATIONS` steps; `AMPLIFIER_ITERATIONS` where there is an amplifier).

    Args:
        h: (F, L) taps.
        noise_var: (F,) in place of the measured one (an annealed receiver); cells keep their ratios to it.
        nuisance: what turns whole symbols.

    Returns:
        (B, K) complex.
    """
    noise = measurement.noise_var if noise_var is None else noise_var
    gain, squared, cell_noise = _cells(measurement, h, noise, nuisance)
    linear = gain.conj() * measurement.received_cells() / (squared + cell_noise)
    num_taps = measurement.symbol_taps(h).shape[-1]
    within_prefix = measurement.mode == "carrier" or num_taps <= measurement.layout.cp_samples + 1
    if measurement.mode == "frequency" or (within_prefix and not measurement.pa_saturation):
        return linear
    found = _most_likely(measurement, linear.detach(), h.detach(), noise.detach(), nuisance.detach())
    # A confirming sampler differentiates this; the search itself has the linear equaliser's gradient at best.
    return found + (linear - linear.detach())


def _cells(measurement: Measurement, h: Tensor, noise_var: Tensor, nuisance: Nuisance) -> tuple[Tensor, Tensor, Tensor]:
    """Return gain, its squared magnitude, and noise power of every symbol's cell, (B, K) each.

    Where a limiter or an amplifier counts, its gain and distortion are in them.
    """
    gain = measurement.gains(h, nuisance)
    squared = gain.real.square() + gain.imag.square()
    cell_noise = noise_var[measurement.frame_of_cell] * measurement.cell_noise_ratio
    kept, distortion = measurement.distortion
    if distortion:
        return gain * kept, squared * kept**2, cell_noise + squared * distortion
    return gain, squared, cell_noise


def symbol_snr(measurement: Measurement, h: Tensor) -> Tensor:
    """Return the SNR, linear and above 0, that is left to every equalised symbol of unit power, (B, K).

    It is that of its cell: exact in mode "frequency". Where symbols are searched for in the time domain, what reaches
    from symbol to symbol is left out, so that taps beyond the prefix are told to be better than they are.

    Args:
        h: (F, L) taps.
    """
    _, squared, cell_noise = _cells(measurement, h, measurement.noise_var, NONE)
    return (squared / cell_noise).clamp(min=_LEAST_SNR)


def unshrunk(measurement: Measurement, h: Tensor) -> Tensor:
    """Equalise, scaled so that behind a flat channel of unit gain the result is the symbols plus noise, (B, K)."""
    return equalise(measurement, h) * (1 + measurement.noise_var)[measurement.frame_of_cell]


def _most_likely(measurement: Measurement, start: Tensor, h: Tensor, noise: Tensor, nuisance: Nuisance) -> Tensor:
    """Return argmin over z of sum |y - forward(z)|^2 / noise + |z|^2 over the active carriers, (B, K)."""
    active = torch.from_numpy(np.array(measurement.layout.active_bins)).to(measurement.y.device)
    received = measurement.y.detach()[:, :, active]
    noise = (noise[:, None, None] * measurement.noise_ratio)[:, :, active]
    parts = torch.view_as_real(start.clone()).requires_grad_()
    iterations = AMPLIFIER_ITERATIONS if measurement.pa_saturation else MAP_ITERATIONS
    search = torch.optim.LBFGS([parts], max_iter=iterations, history_size=8, line_search_fn="strong_wolfe")

    def cost() -> Tensor:
        search.zero_grad()
        z = torch.view_as_complex(parts)
        error = received - measurement.forward(z, h, nuisance)[:, :, active]
        misfit = ((error.real.square() + error.imag.square()) / noise).sum()
        value = (misfit + parts.square().sum()) / parts.numel()
        (parts.grad,) = torch.autograd.grad(value, parts)
        return value

    with torch.enable_grad():
        search.step(cost)
    return torch.view_as_complex(parts.detach().contiguous())
