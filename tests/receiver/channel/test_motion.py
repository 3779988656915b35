"""What known symbols say of moving taps, against closed forms and dense linear algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch

from receiver.channel.conditional import conditional_channel
from receiver.channel.motion import measure_motion, motion_basis
from receiver.channel.prior import ChannelPrior, channel_prior
from sdr.layout import load_layout
from tests.receiver.moving import received_frames
from tests.receiver.simulated import gaussian, make_measurement

PAPER = load_layout("paper")
POWER = channel_prior(PAPER).power.double().numpy()


@pytest.mark.parametrize("count", [4, 31, 700])
@pytest.mark.parametrize("turns", [0.0, 0.01, 0.05, 0.14])
def test_random_sums_of_the_functions_have_the_correlation_of_jakes(count, turns):
    times = np.arange(count) * 266e-6
    basis = motion_basis(times, turns / 266e-6)
    expected = scipy.special.j0(2 * np.pi * turns * (np.arange(count)[:, None] - np.arange(count)))
    assert np.trace(expected - basis @ basis.T) / count < 1.1e-4
    assert np.abs(expected - basis @ basis.T).max() < 0.01
    # About as many as turns fit into the time, twice over, and a few.
    assert basis.shape[1] <= 2 * turns * count + 8
    if turns == 0:
        assert np.allclose(basis, 1)


@pytest.mark.parametrize("doppler_hz", [50.0, 200.0])
def test_the_doppler_of_frames_is_found(doppler_hz):
    frames = received_frames(PAPER, 8, doppler_hz=doppler_hz)
    assert len(frames) == 8 and all(frame.header is not None for frame in frames)
    found = [measure_motion(frame, PAPER, POWER) for frame in frames]
    assert all(motion.moves for motion in found)
    # The carrier offset is known to a part of the Doppler only, which shifts the spectrum.
    assert 0.7 * doppler_hz < np.median([motion.doppler_hz for motion in found]) < 1.6 * doppler_hz
    noise_var = PAPER.amplitude**2 * 0.1 / np.array([frame.signal_power for frame in frames])
    # What leaks between carriers comes on top.
    excess = np.mean(np.array([motion.noise_var for motion in found]) / noise_var)
    assert 0.95 < excess < (1.1 if doppler_hz < 100 else 1.4)


@pytest.mark.parametrize("air", ["taps=8,csnr_db=10", "taps=8,csnr_db=0,cfo_hz=2000", "csnr_db=25,delay_samples=99"])
@pytest.mark.parametrize("name", ["paper", "air"])
def test_frames_that_stand_still_do_not_move(name, air):
    layout = load_layout(name)
    frames = [frame for frame in received_frames(layout, 8, air) if frame.header is not None]
    assert len(frames) >= 6
    assert not any(
        measure_motion(frame, layout, channel_prior(layout).power.double().numpy()).moves for frame in frames
    )


def test_coefficients_given_symbols_are_those_of_dense_algebra():
    """Posterior of y = A c + n by the normal equations of the whole matrix A, and known cells as more rows of it."""
    layout = replace(PAPER, name="two", data_symbols=3)
    motion = torch.from_numpy(motion_basis(np.arange(3) * 266e-6, 400.0)).float().expand(2, -1, -1)
    rank, taps, power = motion.shape[-1], 5, torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    z, c = gaussian((2, 768), 1), gaussian((2, rank * taps), 2) * power.sqrt().repeat(rank)
    plain = make_measurement(z, torch.zeros(2, taps) + 0j, 0.05, layout, per_frame=1)
    moving = replace(plain, motion=motion, noise_ratio=1 + torch.arange(768).view(1, 3, 256).expand(2, -1, -1) / 768)
    moving = moving.with_received(moving.forward(z, c) + plain.y)
    extra = gaussian((2, 40, rank * taps), 3)
    told = (extra @ c[..., None])[..., 0] + gaussian((2, 40), 4) * 0.1
    prior = ChannelPrior(power.repeat(rank), extra.mH @ extra / 0.01, (extra.mH @ told[..., None])[..., 0] / 0.01)
    found = conditional_channel(moving, z, prior)
    units = torch.eye(rank * taps) + 0j
    for frame in range(2):
        columns = [moving.forward(z, unit.expand(2, -1))[frame].flatten() for unit in units]
        design, known = torch.stack(columns, dim=1).to(torch.complex128), extra[frame].to(torch.complex128)
        weight = 1 / (0.05 * moving.noise_ratio[frame].flatten()).double()
        precision = design.mH @ (weight[:, None] * design) + known.mH @ known / 0.01
        precision += torch.diag(1 / power.repeat(rank))
        cross = design.mH @ (weight * moving.y[frame].flatten().to(design)) + known.mH @ told[frame].to(design) / 0.01
        assert torch.allclose(found.mean[frame].to(design), torch.linalg.solve(precision, cross), atol=1e-4)
        assert torch.allclose(found.covariance[frame].to(design), torch.linalg.inv(precision), atol=1e-5)
