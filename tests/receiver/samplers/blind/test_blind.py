"""The channel as an unknown, against brute-force Gaussian conditioning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.codecs.linear import LinearCodec
from receiver.measurement.model import Measurement
from receiver.priors.schedule import Schedule
from receiver.samplers.blind.evidence import codebook_evidence, spread_candidates
from receiver.samplers.blind.turbo import turbo
from receiver.samplers.guidance import DiffusedChannelGuidance
from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError
from sdr.layout import load_layout
from tests.receiver.simulated import gaussian, make_measurement

TAPS = 4
PRIOR = ChannelPrior(torch.from_numpy(exponential_pdp(TAPS, 2.0)).float())


def brute_force(measurement: Measurement, z: Tensor, images: list[int], frame: int, noise_var: float):
    """Conditional mean, covariance and evidence of one frame's taps through the full covariance of its cells."""
    size = measurement.layout.fft_size
    carriers = (measurement.cells[images] % size).flatten().numpy()
    sent = (z * measurement.scramble)[images].flatten().numpy().astype(complex)
    y = measurement.y.flatten()[measurement.cells[images]].flatten().numpy().astype(complex)
    a = sent[:, None] * np.exp(-2j * np.pi * np.outer(carriers, np.arange(TAPS)) / size)
    prior = np.diag(PRIOR.power.numpy().astype(float))
    cov = a @ prior @ a.conj().T + noise_var * np.eye(len(y))
    gain = prior @ a.conj().T @ np.linalg.inv(cov)
    log_evidence = -(y.conj() @ np.linalg.solve(cov, y)).real - np.linalg.slogdet(np.pi * cov)[1]
    return gain @ y, prior - gain @ a @ prior, log_evidence


@pytest.mark.parametrize("name", ["paper", "air", "blind"])
@pytest.mark.parametrize("per_frame", [1, 2])
def test_conditional_channel_is_gaussian_conditioning(name: str, per_frame: int) -> None:
    layout = load_layout(name)
    z, h = gaussian((2 * per_frame, 20), 1), gaussian((2, TAPS), 2) * PRIOR.power.sqrt()
    measurement = make_measurement(z, h, 0.1, layout, per_frame)
    found = conditional_channel(measurement, z, PRIOR)
    for frame in range(2):
        images = [i for i in range(len(z)) if i // per_frame == frame]
        mean, cov, log_evidence = brute_force(measurement, z, images, frame, 0.1)
        np.testing.assert_allclose(found.mean[frame].numpy(), mean, atol=1e-4)
        np.testing.assert_allclose(found.covariance[frame].numpy(), cov, atol=1e-5)
        assert float(found.log_evidence[frame]) == pytest.approx(log_evidence, rel=1e-4, abs=5e-3)


def test_conditional_channel_error_has_the_stated_covariance() -> None:
    """Over draws of channel and noise the error of the mean matches the covariance, and falls with the noise."""
    layout = load_layout("paper")
    frames = 400
    z, h = gaussian((frames, 30), 3), gaussian((frames, TAPS), 4) * PRIOR.power.sqrt()
    errors = []
    for noise_var in (0.5, 0.05):
        measurement = make_measurement(z, h, noise_var, layout, 1, seed=5)
        found = conditional_channel(measurement, z, PRIOR)
        error = (found.mean - h).abs().square().sum(-1).mean()
        expected = torch.diagonal(found.covariance, dim1=-2, dim2=-1).real.sum(-1).mean()
        assert float(error) == pytest.approx(float(expected), rel=0.15)
        errors.append(float(error))
    assert errors[1] < errors[0]


def test_codebook_evidence_equals_the_conditional_of_each_entry_and_finds_the_truth() -> None:
    layout = load_layout("paper")
    codebook = gaussian((40, 60), 6)
    sent = codebook[[7, 23, 31]]
    h = gaussian((3, TAPS), 7) * PRIOR.power.sqrt()
    measurement = make_measurement(sent, h, 0.05, layout, 1)
    log_evidence, means = codebook_evidence(measurement, codebook, PRIOR, measurement.noise_var, chunk=16)
    assert log_evidence.argmax(dim=1).tolist() == [7, 23, 31]
    for entry in (0, 7, 39):
        found = conditional_channel(measurement, codebook[entry].expand(3, -1), PRIOR)
        torch.testing.assert_close(means[:, entry], found.mean, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(log_evidence[:, entry], found.log_evidence, atol=1e-2, rtol=1e-4)


def test_candidates_are_the_best_and_then_far_apart() -> None:
    means = torch.tensor([[[0.0], [0.1], [1.0], [5.0], [9.0]]], dtype=torch.complex64)
    log_evidence = torch.tensor([[10.0, 9.0, 8.0, 7.0, -50.0]])
    chosen = spread_candidates(log_evidence, means, 3, pool=4)
    assert chosen[0, :, 0].real.tolist() == [0.0, 5.0, 1.0]


def test_turbo_with_a_good_start_keeps_it_and_with_two_picks_it() -> None:
    """With a codec that loses nothing, the evidence prefers the true channel to a rotated one."""
    codec = LinearCodec((1, 8, 8), 32, torch.Generator().manual_seed(8))
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(9))
    z = codec.encode(images, 10.0)
    h = gaussian((3, TAPS), 10) * PRIOR.power.sqrt()
    h = h / h.abs().square().sum(-1, keepdim=True).sqrt()
    measurement = make_measurement(z, h, 1e-3, load_layout("paper"), 2)
    wrong = gaussian((3, TAPS), 11) * PRIOR.power.sqrt()
    result = turbo(measurement, codec, PRIOR, torch.stack([wrong, h], dim=1), rounds=3)
    assert ((result.h - h).abs().square().sum(-1) < 0.1).all()
    assert result.x.shape == images.shape


def test_diffused_channel_prior_is_sampled_right_and_the_printed_form_is_not() -> None:
    """Without data, Algorithm 3's channel chain ends in CN(0, power); as printed it diverges."""
    layout = load_layout("paper")
    frames = 800
    codec = LinearCodec((1, 4, 4), 8, torch.Generator().manual_seed(12))
    z = gaussian((frames, 8), 13)
    measurement = make_measurement(z, gaussian((frames, TAPS), 14), 1.0, layout, 1)
    schedule = Schedule(200, 5e-4, 0.08)
    power = {}
    for printed in (False, True):
        guidance = DiffusedChannelGuidance(
            codec,
            measurement,
            PRIOR,
            1.0,
            0.0,
            schedule.alpha_bar,
            torch.Generator().manual_seed(15),
            printed,
        )
        channel = guidance.init()
        for t in range(200, 0, -1):
            steps = torch.full((frames,), t), torch.full((frames,), t - 1)
            channel = guidance.advance(channel, [torch.zeros_like(channel.h_t)], *steps)
        power[printed] = torch.view_as_complex(channel.h_t.detach()).abs().square().mean(0)
    # Each power is estimated from 800 draws: a standard error of 3.5 %.
    torch.testing.assert_close(power[False], PRIOR.power, rtol=0.15, atol=0.0)
    assert not bool((power[True] < 10 * PRIOR.power).any())


def test_powers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="positive"):
        ChannelPrior(torch.tensor([1.0, 0.0]))
