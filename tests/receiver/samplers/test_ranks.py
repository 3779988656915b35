"""Draws of the posterior against the truth: on a Gaussian toy ranks are uniform, residuals are 1."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from receiver.channel.prior import ChannelPrior
from receiver.codecs.linear import LinearCodec
from receiver.error_net import ErrorNet
from receiver.measurement.model import Measurement
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from receiver.samplers import METHODS, Channel, MethodSettings, Models, sample
from receiver.samplers.linearised import LinearisedMeasurement
from receiver.samplers.problem import Problem
from sdr.layout import load_layout

SHAPE, PIXELS, PIXEL_VAR = (1, 4, 4), 16, 0.02
SYMBOLS, NOISE_VAR, DRAWS = 6, 0.3, 15


INDEPENDENT = PIXEL_VAR * torch.eye(PIXELS)


class Toy:
    """Frames of one image each: Gaussian pixels, a linear codec, known taps that fade carriers.

    Pixels are independent but for `covariance` (16, 16).
    """

    def __init__(self, count: int, scale: float = 20.0, covariance: Tensor = INDEPENDENT) -> None:
        generator = torch.Generator().manual_seed(2)
        normal = torch.randn(count, PIXELS, generator=generator)
        self.truth = (normal @ torch.linalg.cholesky(covariance).T).view(count, *SHAPE)
        self.codec = LinearCodec(SHAPE, SYMBOLS, generator, normalise=False, scale=scale)
        self.denoiser = AnalyticGaussianDenoiser(torch.zeros(SHAPE), covariance)
        self.h = torch.randn(count, 2, dtype=torch.complex64, generator=generator) / 2**0.5
        layout = load_layout("paper")
        grid = (count, 1, 256)
        blank = Measurement(
            y=torch.zeros(grid, dtype=torch.complex64),
            noise_var=torch.full((count,), NOISE_VAR),
            cells=torch.from_numpy(layout.cell_index[:SYMBOLS].copy()) + 256 * torch.arange(count)[:, None],
            scramble=torch.from_numpy(layout.cell_scramble[:SYMBOLS].copy()).expand(count, -1),
            layout=layout,
            previous_symbol=torch.zeros(count, 256, dtype=torch.complex64),
            tracking_grid=torch.zeros(grid, dtype=torch.complex64),
            image_ids=tuple(map(str, range(count))),
            csnr_db=torch.full((count,), 10.0),
            image_shape=SHAPE,
            codec_digest="00000000",
            pilots=torch.zeros(count, 1, 256, dtype=torch.complex64),
            scale=torch.ones(count),
        )
        z = self.codec.encode((self.truth + 1) / 2, 10.0)
        noise = torch.randn(grid, dtype=torch.complex64, generator=generator) * NOISE_VAR**0.5
        self.measurement = blank.with_received(blank.forward(z, self.h) + noise)

    def draw(self, method: str, settings: MethodSettings, draws: int = DRAWS) -> Tensor:
        """(draws, count, 16) on the scale [-1, 1]."""
        posterior = sample(
            method,
            self.measurement,
            Channel(ChannelPrior(torch.tensor([0.5, 0.5])), self.h),
            Models(self.codec, self.denoiser, error_net=ErrorNet(SHAPE[0], width=4).eval()),
            torch.Generator().manual_seed(6),
            settings=settings,
            draws=draws,
        )
        return (2 * posterior.x - 1).view(draws, -1, PIXELS)

    def residual(self, x: Tensor) -> Tensor:
        """(count,) normalised, of images (count, 16)."""
        z = self.codec.encode((x.view(-1, *SHAPE) + 1) / 2, 10.0)
        return self.measurement.residual(z, self.h)


EXACT = MethodSettings(steps=3, first_level=1000, iterations=2 * SYMBOLS, pixel_var=PIXEL_VAR)


#: Steps as many as the discretisation's own error asks for.
MANY_STEPS = MethodSettings(steps=30, first_level=1000, iterations=SYMBOLS)


def correlated() -> Tensor:
    """(16, 16): neighbours on the 4 x 4 grid are alike, and the first rows vary most."""
    row, column = torch.arange(PIXELS) // 4, torch.arange(PIXELS) % 4
    apart = (row[:, None] - row).square() + (column[:, None] - column).square()
    std = 1.5 - row / 4
    return PIXEL_VAR * (std[:, None] * std) * (0.95 * 0.6 ** apart.float() + 0.05 * torch.eye(PIXELS))


@pytest.mark.parametrize(
    ("method", "settings", "toy"),
    [
        ("daps", EXACT, lambda: Toy(400)),
        ("tmpd", MANY_STEPS, lambda: Toy(400)),
        ("tmpd", MANY_STEPS, lambda: Toy(400, covariance=correlated())),
    ],
)
def test_ranks_of_the_truth_among_draws_are_uniform(
    method: str, settings: MethodSettings, toy: Callable[[], Toy]
) -> None:
    """In directions that the code sees and in one that it does not."""
    toy = toy()
    draws = toy.draw(method, settings)
    seen = toy.codec.matrix
    unseen = torch.linalg.svd(seen, full_matrices=True).Vh[len(seen) :]
    for direction in (seen[0], seen[7], seen.sum(dim=0), unseen[0], torch.ones(PIXELS)):
        ranks = (draws @ direction < toy.truth.flatten(1) @ direction).sum(dim=0)
        counts = np.bincount(ranks.numpy(), minlength=DRAWS + 1)
        assert stats.chisquare(counts).pvalue > 1e-3


def conditioned(toy: Toy) -> tuple[Tensor, Tensor]:
    """Mean (16,) and covariance (16, 16) of the posterior of a toy of one image, by Gaussian conditioning."""
    weight = (2 / NOISE_VAR) ** 0.5
    units = torch.cat([torch.zeros(1, PIXELS), torch.eye(PIXELS)]).view(-1, *SHAPE)
    seen = weight * torch.view_as_real(toy.measurement.gains(toy.h) * toy.codec.encode((units + 1) / 2, 10.0)).flatten(
        1
    )
    received = weight * torch.view_as_real(toy.measurement.received_cells()).flatten()
    jacobian = (seen[1:] - seen[0]).T
    covariance = torch.linalg.inv(torch.linalg.inv(toy.denoiser.covariance.float()) + jacobian.T @ jacobian)
    return covariance @ jacobian.T @ (received - seen[0]), covariance


def test_moment_projection_has_the_posterior_of_correlated_pixels() -> None:
    """Decoupled annealing has not: it takes pixels for independent."""
    toy = Toy(1, covariance=correlated())
    mean, covariance = conditioned(toy)
    width = covariance.diagonal().sqrt()

    def wrong(draws: Tensor) -> float:
        return float(((torch.cov(draws.T) - covariance) / torch.outer(width, width)).abs().max())

    draws = toy.draw("tmpd", MANY_STEPS, draws=2000)[:, 0]
    # Four standard errors of 2000 draws, and 4 % of the width for the steps.
    assert bool(((draws.mean(dim=0) - mean).abs() < (4 / 2000**0.5 + 0.04) * width).all())
    assert wrong(draws) < 4 * (2 / 2000) ** 0.5 + 0.06
    assert wrong(toy.draw("daps", EXACT, draws=2000)[:, 0]) > 0.5
    assert float((covariance.diagonal() / toy.denoiser.covariance.diagonal()).min()) < 0.5, "the code tells much"


def test_few_steps_of_moment_projection_keep_the_spread() -> None:
    toy = Toy(1, covariance=correlated())
    draws = toy.draw("tmpd", METHODS["tmpd"].settings, draws=2000)[:, 0]
    assert float((draws.var(dim=0) / conditioned(toy)[1].diagonal()).mean()) == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("method", "settings"), [("daps", EXACT), ("tmpd", MANY_STEPS)])
def test_residuals_of_exact_draws_are_as_those_of_the_truth(method: str, settings: MethodSettings) -> None:
    toy = Toy(400)
    residual = toy.residual(toy.draw(method, settings)[0])
    assert abs(float(residual.mean()) - 1) < 4 * float(residual.std()) / 400**0.5


@pytest.mark.parametrize(
    ("change", "spoil"),
    [
        ("a prior that is too wide", lambda: MethodSettings(**(vars(EXACT) | {"pixel_var": 4 * PIXEL_VAR}))),
        ("a prior that is too narrow", lambda: MethodSettings(**(vars(EXACT) | {"pixel_var": PIXEL_VAR / 4}))),
    ],
)
def test_ranks_tell_a_sampler_that_is_wrong(change: str, spoil: Callable[[], MethodSettings]) -> None:
    """What the test above would have to notice, it notices."""
    toy = Toy(400)
    draws = toy.draw("daps", spoil())
    worst = 1.0
    for direction in torch.linalg.svd(toy.codec.matrix).Vh:
        ranks = (draws @ direction < toy.truth.flatten(1) @ direction).sum(dim=0)
        worst = min(worst, float(stats.chisquare(np.bincount(ranks.numpy(), minlength=DRAWS + 1)).pvalue))
    assert worst < 1e-6, change


@pytest.mark.parametrize("method", ["bp", "guided", "daps", "land", "tmpd"])
def test_the_mean_of_draws_beats_a_draw(method: str) -> None:
    toy = Toy(64)
    draws = toy.draw(method, METHODS[method].settings)
    truth = toy.truth.flatten(1)
    assert float((draws.mean(dim=0) - truth).square().mean()) < float((draws[0] - truth).square().mean())


def linearised(toy: Toy) -> tuple[LinearisedMeasurement, Tensor]:
    """The measurement about grey images, and its Jacobian (count, 2 SYMBOLS, 16)."""
    problem = SimpleNamespace(
        measurement=toy.measurement, codec=toy.codec, encoder_csnr_db=toy.measurement.csnr_db
    )  # fmt: skip
    local = LinearisedMeasurement(cast(Problem, problem), toy.h, torch.zeros_like(toy.truth))
    units = torch.eye(2 * SYMBOLS)[:, None, :].expand(-1, len(toy.truth), -1)
    return local, torch.stack([local.transposed(unit).flatten(1) for unit in units], dim=1)


def test_gauss_newton_solves_for_any_covariance() -> None:
    local, jacobian = linearised(Toy(3))
    covariance = correlated()
    found = local.gauss_newton(local.residual, lambda v: (v.flatten(1) @ covariance).view_as(v), 3 * SYMBOLS)
    gain = covariance @ jacobian.mT @ torch.linalg.inv(jacobian @ covariance @ jacobian.mT + torch.eye(2 * SYMBOLS))
    torch.testing.assert_close(found.flatten(1), (gain @ local.residual[..., None])[..., 0], rtol=1e-3, atol=1e-4)


def test_gauss_newton_is_bounded_where_a_covariance_is_none() -> None:
    """A network's Jacobian may have negative eigenvalues; at curvature 0 a step would have no end."""
    local, _ = linearised(Toy(3))
    left = local.residual
    pull = local.transposed(left)
    share = left.square().sum(dim=1).view(-1, 1, 1, 1) / pull.square().sum(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(local.gauss_newton(left, lambda v: -share * v, 1), -share * pull)
