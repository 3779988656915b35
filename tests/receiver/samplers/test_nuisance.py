"""Phase, delay, carrier offset and noise as unknowns: found where the truth is known, and worth it in the samplers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.evaluation.metrics import psnr_db
from lab.experiments.link import send
from lab.experiments.plan import Sweep, held_out_images, sweep_layout
from receiver.acceptance import assess
from receiver.bundles.bundle import load_bundle
from receiver.channel.pilots import estimate_channels
from receiver.channel.prior import channel_prior
from receiver.measurement.collect import measure_frames
from receiver.measurement.model import Measurement
from receiver.samplers import Channel, Models, sample
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from receiver.samplers.variants import method_settings
from receiver.sync.preamble import find_frames
from sdr.errors import ConfigError
from sdr.layout import load_layout
from tests.receiver.simulated import gaussian, make_measurement

LAYOUT = replace(load_layout("paper"), data_symbols=4)
FRAMES, SYMBOLS, TAPS = 300, 400, 3


def problem(noise_var: float) -> tuple[Tensor, Tensor, Measurement]:
    """Symbols, taps and what was received of them; an image has 400 of the 1024 cells of its frame."""
    z, h = gaussian((FRAMES, SYMBOLS), 1), gaussian((FRAMES, TAPS), 2) / TAPS**0.5
    return z, h, make_measurement(z, h, noise_var, LAYOUT, 1, seed=3)


def turned(measurement: Measurement, phase: Tensor, timing: Tensor) -> Measurement:
    angle = phase[..., None] - 2 * math.pi * torch.fft.fftfreq(LAYOUT.fft_size) * timing[..., None]
    return measurement.with_received(measurement.y * torch.polar(torch.ones_like(angle), angle))


def test_phases_and_delays_are_found_as_well_as_the_cells_allow() -> None:
    """Given symbols and taps the errors have the variance of the Gaussian posterior, prior included."""
    noise_var, prior = 0.5, NuisancePrior(phase_std_rad=0.3, timing_std_samples=0.2)
    z, h, clean = problem(noise_var)
    phase, timing = 0.3 * gaussian((FRAMES, 4), 4).real * 2**0.5, 0.2 * gaussian((FRAMES, 4), 5).real * 2**0.5
    found = NuisanceEstimate.begin(turned(clean, phase, timing), prior)
    for _ in range(6):
        found = found.with_turns(z, h)
    slope = 2 * math.pi * torch.fft.fftfreq(LAYOUT.fft_size)
    energy = 2 / noise_var * (clean.forward(z, h) * (clean.sent_grid(z) != 0)).abs().square()
    p, q, r = (energy.sum(-1), (energy * slope**2).sum(-1), -(energy * slope).sum(-1))
    p, q = p + 1 / 0.3**2, q + 1 / 0.2**2
    for estimate, true, variance in (
        (found.phase, phase, q / (p * q - r**2)),
        (found.timing, timing, p / (p * q - r**2)),
    ):
        # 1200 errors: a mean square is good to 4 %; deep fades are a little less Gaussian.
        assert float(((estimate - true) ** 2 / variance).mean()) == pytest.approx(1, abs=0.2)
    error = (found.measurement.y - clean.y).abs().square().mean() / clean.y.abs().square().mean()
    assert float(error) < 0.01


def test_a_carrier_offset_is_shared_by_the_symbols_of_a_frame() -> None:
    """In much noise phases that belong together are found better than each on its own; nothing else moves."""
    z, h, clean = problem(8.0)
    since_s = (torch.arange(4) + 1.0) * LAYOUT.symbol_samples / LAYOUT.rate_sps
    cfo_hz = 100 * gaussian((FRAMES,), 6).real * 2**0.5
    phase = 2 * math.pi * cfo_hz[:, None] * since_s
    received = turned(clean, phase, torch.zeros_like(phase))
    errors = {}
    spread = float(phase.square().mean().sqrt())
    for name, prior in (
        ("together", NuisancePrior(cfo_std_hz=100.0)),
        ("each", NuisancePrior(phase_std_rad=spread)),
    ):
        found = NuisanceEstimate.begin(received, prior)
        for _ in range(6):
            found = found.with_turns(z, h)
        assert float(found.timing.abs().max()) < 1e-3
        errors[name] = float((found.phase - phase).square().mean())
    assert errors["together"] < 0.6 * errors["each"] < 0.6 * spread**2
    assert NuisanceEstimate.begin(received, NuisancePrior()).with_turns(z, h).measurement is received


def test_the_noise_variance_is_the_mean_of_its_inverse_gamma_posterior() -> None:
    z, h, clean = problem(0.5)
    told = replace(clean, noise_var=torch.full((FRAMES,), 0.25))
    for spread in (0.05, 0.5, 5.0):
        found = NuisanceEstimate.begin(told, NuisancePrior(noise_std=spread))
        found = found.with_noise(z, h)
        squared = float(told.distance(z, h)[0])
        a = 2 + 1 / spread**2
        grid = torch.linspace(0.01, 3, 30_000, dtype=torch.float64)
        log_p = -(a + 1) * grid.log() - 0.25 * (a - 1) / grid - SYMBOLS * grid.log() - squared / grid
        mean = float((torch.softmax(log_p, 0) * grid).sum())
        assert float(found.measurement.noise_var[0]) == pytest.approx(mean, rel=1e-3)
    # With hardly any prior the estimate is that of 400 cells: 5 % each.
    assert float(found.measurement.noise_var.mean()) == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("method", ["jscc", "hifi"])
def test_a_sampler_that_knows_of_them_gets_its_quality_back(method: str) -> None:
    """Sixteen images over white noise at 10 dB with the shipped models; they, not the symbols, are what is known."""
    bundle = load_bundle()
    sweep = Sweep("phases", (10.0,), ("jscc",), num_images=16, images_per_frame=1, seed=3)
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    frames = find_frames(send(sweep, bundle.codec, layout, ids, images, *sweep.all_conditions).recording, layout)
    clean = measure_frames(frames, layout)
    prior = channel_prior(layout)
    h = torch.from_numpy(estimate_channels(clean, prior).taps.astype(np.complex64))
    truth = images[[ids.index(image_id) for image_id in clean.image_ids]]

    def decode(measurement: Measurement, **unknown: float) -> tuple[float, float]:
        posterior = sample(
            method,
            measurement,
            Channel(prior, h),
            Models(bundle.codec, bundle.required_denoiser),
            torch.Generator().manual_seed(1),
            settings=replace(method_settings(method, 5), **unknown),
        )
        assessment = assess(posterior, bundle.codec, torch.Generator().manual_seed(1))
        return float(psnr_db(posterior.x, truth).mean()), float(assessment.residual.median())

    best, residual = decode(clean)
    angle = 0.5 * torch.randn(16, 1, 1, generator=torch.Generator().manual_seed(9)).expand(-1, -1, 256)
    spoiled = clean.with_received(clean.y * torch.polar(torch.ones_like(angle), angle))
    assert decode(spoiled)[0] < best - 1.5 and decode(spoiled, phase_std_rad=0.5)[0] > best - 0.4
    loud = replace(clean, noise_var=clean.noise_var * 10)
    assert decode(loud)[1] < 0.4 * residual
    found, its_residual = decode(loud, noise_std=5.0)
    assert found > best - 0.2 and its_residual == pytest.approx(residual, rel=0.25)


@pytest.mark.parametrize("name", ["phase_std_rad", "timing_std_samples", "cfo_std_hz", "noise_std"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_spreads_are_numbers_of_at_least_zero(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        NuisancePrior(**{name: value})
