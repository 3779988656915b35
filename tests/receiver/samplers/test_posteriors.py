"""Samples against posteriors that are known: through codec and channel with known taps, and jointly with unknown ones.

The guidance here is exact (the paper's is a norm with a strength, no likelihood), so that loop, codec, forward model
and the channel's conditional have nowhere to hide.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.codecs.linear import LinearCodec
from receiver.measurement.model import Measurement
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from receiver.priors.schedule import Schedule
from receiver.samplers import reverse_diffusion, reverse_steps
from receiver.samplers.diffusion import Guidance, from_image
from sdr.layout import load_layout

NOISE_VAR = 0.4


def received(z: Tensor, h: Tensor, seed: int) -> Measurement:
    """One frame with one image's symbols z (1, K) through h (1, L), noise included."""
    layout = load_layout("paper")
    blank = Measurement(
        y=torch.zeros(1, 1, 256, dtype=torch.complex64),
        noise_var=torch.full((1,), NOISE_VAR),
        cells=torch.from_numpy(layout.cell_index[: z.shape[1]].copy())[None],
        scramble=torch.from_numpy(layout.cell_scramble[: z.shape[1]].copy())[None],
        layout=layout,
        previous_symbol=torch.zeros(1, 256, dtype=torch.complex64),
        tracking_grid=torch.zeros(1, 1, 256, dtype=torch.complex64),
        image_ids=("x",),
        csnr_db=torch.full((1,), 10.0),
        image_shape=(1, 1, 4),
        codec_digest="00000000",
        pilots=torch.zeros(1, 1, 256, dtype=torch.complex64),
        scale=torch.ones(1),
    )
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(blank.y.shape, dtype=torch.complex64, generator=generator) * NOISE_VAR**0.5
    return blank.with_received(blank.forward(z, h) + noise)


class EvidenceGuidance(Guidance[None]):
    """-weight log p(y | x_t), with p(y | x_t) the mean of p(y | x_0) over nodes of the Gaussian p(x_0 | x_t).

    The images lie in a subspace, x_0 = mean + basis s; `log_evidence` maps images in [0, 1] to log p(y | x_0). The
    weight turns the score into the step of the reverse SDE.
    """

    def __init__(self, log_evidence, basis: Tensor, power: Tensor, schedule: Schedule, order: int) -> None:
        nodes, weights = np.polynomial.hermite_e.hermegauss(order)
        grid = np.stack(np.meshgrid(*[nodes] * basis.shape[1], indexing="ij"), axis=-1).reshape(-1, basis.shape[1])
        mass = np.prod(np.stack(np.meshgrid(*[weights] * basis.shape[1], indexing="ij"), axis=-1), axis=-1).ravel()
        self.nodes, self.log_mass = torch.from_numpy(grid), torch.from_numpy(np.log(mass / mass.sum()))
        self.log_evidence, self.basis, self.power, self.schedule = log_evidence, basis, power, schedule

    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        abar, before = (self.schedule.alpha_bar[max(int(u), 0)] for u in (t[0], t[0] - 1))
        alpha = abar / before
        spread = (1 / (1 / self.power + abar / (1 - abar))).sqrt()
        shift = (self.nodes * spread) @ self.basis.T / 2  # image scale
        around = x0_hat.double().flatten(1)[:, None] + shift
        log_p = torch.logsumexp(self.log_evidence(around) + self.log_mass, dim=1)
        return -(1 - alpha) / alpha.sqrt() * log_p, None


class Toy:
    """Gaussian images on a plane in 4 pixels, and a linear codec of 2 symbols."""

    def __init__(self, steps: int) -> None:
        generator = torch.Generator().manual_seed(3)
        self.codec = LinearCodec((1, 1, 4), 2, generator, normalise=False, scale=4.0)
        self.mean = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)
        self.basis = torch.linalg.qr(torch.randn(4, 2, generator=generator, dtype=torch.float64)).Q
        self.power = torch.tensor([0.4, 0.15], dtype=torch.float64)
        cov = self.basis @ torch.diag(self.power) @ self.basis.T
        self.denoiser = AnalyticGaussianDenoiser(self.mean.view(1, 1, 4), cov, Schedule(steps, 1e-3, 12 / steps))

    def images(self, s: Tensor) -> Tensor:
        """(B, 1, 1, 4) in [0, 1] of coordinates (B, 2)."""
        return ((self.mean + s @ self.basis.T + 1) / 2).view(-1, 1, 1, 4)

    def symbols(self, flat: Tensor) -> Tensor:
        """(..., 2) complex128 of images (..., 4) in [0, 1]; what `codec.encode` computes."""
        real, imag = ((flat - 0.5) @ self.codec.matrix.double().T * self.codec.scale).chunk(2, dim=-1)
        return torch.complex(real, imag)

    def sample(self, log_evidence, count: int, order: int) -> Tensor:
        """(count, 2) coordinates drawn by the reverse diffusion."""
        guidance = EvidenceGuidance(log_evidence, self.basis, self.power, self.denoiser.schedule, order)
        generator = torch.Generator().manual_seed(4)
        x_t = torch.randn(count, 1, 1, 4, generator=generator)
        steps = reverse_steps(torch.full((count,), self.denoiser.schedule.num_steps), self.denoiser.schedule.num_steps)
        x, *_ = reverse_diffusion(self.denoiser, guidance, x_t, steps, generator=generator)
        return (x.double().flatten(1) - self.mean) @ self.basis


def test_known_channel_gives_the_closed_form_posterior() -> None:
    """Gaussian prior, linear encoder, known taps: mean and covariance of s are those of Gaussian conditioning."""
    toy = Toy(steps=200)
    h = torch.tensor([[0.8 + 0.3j, -0.2 + 0.4j]])
    measurement = received(
        toy.codec.encode(toy.images(torch.tensor([[0.9, -0.5]], dtype=torch.float64)).float(), 10.0), h, 5
    )

    def seen(flat: Tensor) -> Tensor:
        return measurement.gains(h).to(torch.complex128) * toy.symbols(flat)

    y = measurement.received_cells().to(torch.complex128)
    found = toy.sample(lambda flat: -(y - seen(flat)).abs().square().sum(-1) / NOISE_VAR, 2000, 5)

    origin = torch.view_as_real(seen(toy.images(torch.zeros(1, 2, dtype=torch.float64)).flatten(1))).flatten()
    columns = [
        torch.view_as_real(seen(toy.images(torch.eye(2, dtype=torch.float64)[[i]]).flatten(1))).flatten() - origin
        for i in range(2)
    ]
    a, prior = torch.stack(columns, dim=1), torch.diag(toy.power)
    gain = prior @ a.T @ torch.linalg.inv(a @ prior @ a.T + NOISE_VAR / 2 * torch.eye(4))
    mean = gain @ (torch.view_as_real(y).flatten() - origin)
    cov = prior - gain @ a @ prior
    # Four standard errors of 2000 draws, and 4 % of the posterior's own width for the 200 steps.
    width = cov.diagonal().sqrt()
    assert bool(((found.mean(0) - mean).abs() < (4 / 2000**0.5 + 0.04) * width).all())
    assert torch.allclose(torch.cov(found.T), cov, atol=0.12 * float(width.max()) ** 2)
    assert float((mean.abs() / toy.power.sqrt()).max()) > 0.5 and float((width / toy.power.sqrt()).min()) < 0.7


def test_unknown_channel_gives_the_joint_posterior() -> None:
    """Unknown taps, no pilot: x from the evidence, h from its conditional, together the joint posterior of both.

    The truth is brute force: with the image on a grid over its plane everything about h is Gaussian.
    """
    toy = Toy(steps=150)
    prior = ChannelPrior(torch.tensor([0.7, 0.3]))
    sent = toy.codec.encode(toy.images(torch.tensor([[1.0, 0.6]], dtype=torch.float64)).float(), 10.0)
    measurement = received(sent, torch.tensor([[0.9 - 0.4j, 0.2 + 0.5j]]), 6)
    y = measurement.received_cells()[0].to(torch.complex128)
    angle = -2 * math.pi / 256 * (measurement.cells[0] % 256)[:, None] * torch.arange(2, dtype=torch.float64)
    turns = torch.polar(torch.ones_like(angle), angle)

    def log_evidence(flat: Tensor) -> Tensor:
        """log CN(y; 0, A P A^H + noise), A = diag(z) F, up to a constant; 2 x 2, so written out."""
        z = toy.symbols(flat)
        shared = turns @ torch.diag(prior.power.double()).to(turns) @ turns.conj().T
        p = z[..., 0].abs().square() * shared[0, 0].real + NOISE_VAR
        q = z[..., 1].abs().square() * shared[1, 1].real + NOISE_VAR
        r = z[..., 0] * z[..., 1].conj() * shared[0, 1]
        det = p * q - r.abs().square()
        fit = q * y[0].abs().square() + p * y[1].abs().square() - 2 * (y[0].conj() * r * y[1]).real
        return -fit / det - det.log()

    def channel(s: Tensor):
        """Conditional of h for every row of coordinates, by the code under test."""
        many = measurement.repeat(len(s))
        return conditional_channel(many, toy.codec.encode(toy.images(s).float(), 10.0), prior)

    axes = [torch.linspace(-5, 5, 81, dtype=torch.float64) * power.sqrt() for power in toy.power]
    grid = torch.cartesian_prod(*axes)
    log_p = log_evidence(toy.images(grid).flatten(1)) - (grid.square() / toy.power).sum(1) / 2
    weight = torch.softmax(log_p, dim=0)
    # The evidence used for guidance is that of the code, up to a constant.
    some = grid[::271]
    ours, other = channel(some).log_evidence.double(), log_evidence(toy.images(some).flatten(1))
    assert float((ours - other - (ours - other).mean()).abs().max()) < 1e-3

    def moments(s: Tensor, mean: Tensor, cov: Tensor, w: Tensor) -> Tensor:
        """E s, E s s^T, E h, E |h|^2, E s h: the first and second joint moments, (m,) real."""
        power = mean.abs().square() + torch.diagonal(cov, dim1=-2, dim2=-1).real
        cross = (s[:, :, None] * mean[:, None, :]).flatten(1)
        joint = torch.cat([torch.view_as_real(v.to(torch.complex128)).flatten(1) for v in (mean, cross)], dim=1)
        return w @ torch.cat([s, (s[:, :, None] * s[:, None, :]).flatten(1), joint, power.double()], dim=1)

    found = channel(grid)
    expected = moments(grid, found.mean, found.covariance, weight)
    draws = toy.sample(log_evidence, 2000, 6)
    conditional = channel(draws)
    factor = torch.linalg.cholesky(conditional.covariance)
    noise = torch.randn(2000, 2, 1, dtype=torch.complex64, generator=torch.Generator().manual_seed(7))
    h = conditional.mean + (factor @ noise)[..., 0]
    each = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    got = moments(draws, h, torch.zeros(2000, 2, 2, dtype=torch.complex64), each)
    # Four standard errors of 2000 draws of quantities of unit size or less, and the steps' own error.
    assert float((got - expected).abs().max()) < 4 * 0.7 / 2000**0.5 + 0.02
    before = moments(
        grid, torch.zeros_like(found.mean), found.covariance, torch.softmax(-(grid.square() / toy.power).sum(1) / 2, 0)
    )
    assert float((expected - before).abs().max()) > 0.3, "the posterior is far from the prior"
    assert float(h.mean(0).abs().max()) == pytest.approx(float(expected[6:10].view(2, 2).norm(dim=1).max()), abs=0.08)


def test_images_scale_to_the_diffusion_scale_and_back() -> None:
    toy = Toy(steps=20)
    s = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    torch.testing.assert_close((from_image(toy.images(s)).flatten(1) - toy.mean) @ toy.basis, s)
    torch.testing.assert_close(
        toy.symbols(toy.images(s).flatten(1)), toy.codec.encode(toy.images(s).float(), 10.0).to(torch.complex128),
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
