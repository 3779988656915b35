"""Draws of the posterior against the truth: on a Gaussian toy ranks are uniform, residuals are 1."""

from __future__ import annotations

from collections.abc import Callable

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
from sdr.layout import load_layout

SHAPE, PIXELS, PIXEL_VAR = (1, 4, 4), 16, 0.02
SYMBOLS, NOISE_VAR, DRAWS = 6, 0.3, 15


class Toy:
    """Frames of one image each: independent Gaussian pixels, a linear codec, known taps that fade carriers."""

    def __init__(self, count: int, scale: float = 20.0) -> None:
        generator = torch.Generator().manual_seed(2)
        self.truth = PIXEL_VAR**0.5 * torch.randn(count, *SHAPE, generator=generator)
        self.codec = LinearCodec(SHAPE, SYMBOLS, generator, normalise=False, scale=scale)
        self.denoiser = AnalyticGaussianDenoiser(torch.zeros(SHAPE), torch.full(SHAPE, PIXEL_VAR))
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

    def draw(self, method: str, settings: MethodSettings) -> Tensor:
        """(DRAWS, count, 16) on the scale [-1, 1]."""
        posterior = sample(
            method,
            self.measurement,
            Channel(ChannelPrior(torch.tensor([0.5, 0.5])), self.h),
            Models(self.codec, self.denoiser, error_net=ErrorNet(SHAPE[0], width=4).eval()),
            torch.Generator().manual_seed(6),
            settings=settings,
            draws=DRAWS,
        )
        return (2 * posterior.x - 1).view(DRAWS, -1, PIXELS)

    def residual(self, x: Tensor) -> Tensor:
        """(count,) normalised, of images (count, 16)."""
        z = self.codec.encode((x.view(-1, *SHAPE) + 1) / 2, 10.0)
        return self.measurement.residual(z, self.h)


EXACT = MethodSettings(steps=3, first_level=1000, iterations=2 * SYMBOLS, pixel_var=PIXEL_VAR)


def test_decoupled_annealing_draws_from_the_posterior_of_independent_pixels() -> None:
    """Ranks of the truth among draws are uniform, in directions that the code sees and in one that it does not."""
    toy = Toy(400)
    draws = toy.draw("daps", EXACT)
    seen = toy.codec.matrix
    unseen = torch.linalg.svd(seen, full_matrices=True).Vh[len(seen) :]
    for direction in (seen[0], seen[7], seen.sum(dim=0), unseen[0], torch.ones(PIXELS)):
        ranks = (draws @ direction < toy.truth.flatten(1) @ direction).sum(dim=0)
        counts = np.bincount(ranks.numpy(), minlength=DRAWS + 1)
        assert stats.chisquare(counts).pvalue > 1e-3


def test_residuals_of_exact_draws_are_as_those_of_the_truth() -> None:
    toy = Toy(400)
    residual = toy.residual(toy.draw("daps", EXACT)[0])
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


@pytest.mark.parametrize("method", ["bp", "guided", "daps", "land"])
def test_the_mean_of_draws_beats_a_draw(method: str) -> None:
    toy = Toy(64)
    draws = toy.draw(method, METHODS[method].settings)
    truth = toy.truth.flatten(1)
    assert float((draws.mean(dim=0) - truth).square().mean()) < float((draws[0] - truth).square().mean())
