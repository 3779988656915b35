"""The channel as an unknown, against brute-force Gaussian conditioning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.codecs import LinearCodec
from receiver.measurement import Measurement
from receiver.priors import Schedule
from receiver.samplers.blind import (
    ChannelPrior,
    codebook_evidence,
    conditional_channel,
    spread_candidates,
    turbo,
)
from receiver.samplers.guidance import DiffusedChannelGuidance
from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError
from sdr.layout import FrameLayout, load_layout

TAPS = 4
PRIOR = ChannelPrior(torch.from_numpy(exponential_pdp(TAPS, 2.0)).float())


def make_measurement(
    z: Tensor, h: Tensor, noise_var: float, layout: FrameLayout, per_frame: int, seed: int = 0
) -> Measurement:
    """Images' symbols z (B, K) through taps h (F, L) and noise, all known to the test."""
    frames, symbols = h.shape[0], z.shape[1]
    block = layout.data_symbols * layout.fft_size
    index = np.arange(len(z))
    slots = [slice(i % per_frame * symbols, (i % per_frame + 1) * symbols) for i in index]
    cells = np.stack([layout.cell_index[s] + i // per_frame * block for i, s in zip(index, slots, strict=True)])
    scramble = np.stack([layout.cell_scramble[s] for s in slots])
    grid = (frames, layout.data_symbols, layout.fft_size)
    measurement = Measurement(
        y=torch.zeros(grid, dtype=torch.complex64),
        noise_var=torch.full((frames,), noise_var),
        cells=torch.from_numpy(cells.astype(np.int64)),
        scramble=torch.from_numpy(scramble),
        layout=layout,
        before=torch.zeros(frames, layout.fft_size, dtype=torch.complex64),
        known=torch.zeros(grid, dtype=torch.complex64),
        image_ids=tuple(map(str, index)),
        csnr_db=torch.full((len(z),), 10.0),
        image_shape=(1, 4, 4),
        codec_digest="00000000",
        pilots=torch.zeros(frames, layout.pilot_symbols, layout.fft_size, dtype=torch.complex64),
        scale=torch.ones(frames),
    )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(grid, dtype=torch.complex64, generator=generator) * noise_var**0.5
    return measurement.with_received(measurement.forward(z, h) + noise)


def gaussian(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))


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
    result = turbo(measurement, codec, PRIOR, torch.stack([wrong, h], dim=1), torch.full((6,), 10.0), rounds=3)
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
            torch.full((frames,), 10.0),
            1.0,
            0.0,
            schedule.alpha_bar,
            torch.Generator().manual_seed(15),
            printed,
        )
        for t in range(200, 0, -1):
            steps = torch.full((frames,), t), torch.full((frames,), t - 1)
            guidance.advance([torch.zeros_like(guidance.h_t)], *steps)
        power[printed] = torch.view_as_complex(guidance.h_t.detach()).abs().square().mean(0)
    # Each power is estimated from 800 draws: a standard error of 3.5 %.
    torch.testing.assert_close(power[False], PRIOR.power, rtol=0.15, atol=0.0)
    assert not bool((power[True] < 10 * PRIOR.power).any())


def test_powers_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="positive"):
        ChannelPrior(torch.tensor([1.0, 0.0]))
