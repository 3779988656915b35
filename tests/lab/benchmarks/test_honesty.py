"""The benchmark of honesty: exact draws cover what they say, others don't; it runs on what is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lab.benchmarks.honesty import Sent, coverage, measure, prior_draws, write_figure
from receiver.bundles.bundle import load_bundle
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from sdr.errors import ConfigError


def drawn(factor: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws (9, 200, 50) and truth about the same means, the spread of the draws `factor` times the truth's."""
    generator = torch.Generator().manual_seed(3)
    mean = 0.3 + 0.4 * torch.rand(200, 50, generator=generator)
    truth = mean + 0.05 * torch.randn(200, 50, generator=generator)
    return mean + 0.05 * factor * torch.randn(9, 200, 50, generator=generator), truth


def test_draws_cover_what_they_say_if_they_are_of_the_posterior() -> None:
    shares = coverage(*drawn(1.0), torch.Generator().manual_seed(0))
    assert [share.expected for share in shares] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert all(abs(share.found - share.expected) < 4 * share.se for share in shares)


@pytest.mark.parametrize(("factor", "sign"), [(0.5, -1), (2.0, 1)])
def test_a_wrong_spread_shows(factor: float, sign: int) -> None:
    shares = coverage(*drawn(factor), torch.Generator().manual_seed(0))
    assert all(sign * (share.found - share.expected) > 4 * share.se for share in shares)


def test_pixels_that_never_differ_say_nothing() -> None:
    """Black stays black: equal pixels get a rank by chance, and none of them is unsure."""
    shares = coverage(torch.zeros(9, 200, 50), torch.zeros(200, 50), torch.Generator().manual_seed(0))
    assert all(share.found == 0 and abs(share.found_of_all - share.expected) < 0.03 for share in shares)


def test_draws_of_the_prior_have_its_moments() -> None:
    mean, std = torch.tensor([-0.4, 0.0, 0.4, 0.2]).view(1, 2, 2), torch.tensor([0.1, 0.2, 0.1, 0.3]).view(1, 2, 2)
    x = prior_draws(AnalyticGaussianDenoiser(mean, std.square()), 1000, torch.Generator().manual_seed(2))
    # Four standard errors of 1000 draws; on the scale [0, 1] both are half of what they are on [-1, 1].
    assert bool(((2 * x.mean(dim=0) - 1 - mean).abs() < 4 * std / 1000**0.5).all())
    assert bool(((2 * x.std(dim=0) / std - 1).abs() < 4 / 2000**0.5).all())


def test_images_of_the_prior_are_sent_and_drawn_again() -> None:
    bundle = load_bundle("fashion")
    sent = Sent(2, channel="taps=8,decay=4", from_prior=True, seed=3)
    frames, _, images = sent.frames(bundle)
    assert len(frames) == 2 and list(images) == ["p00000", "p00001"]
    (row,) = measure(bundle, ["tmpd:steps=2,iterations=1"], sent, draws=2)
    assert 0.5 < row.truth_residual < 1.5 and row.excess_se > 0 and row.residual > row.truth_residual


def test_a_method_is_measured_and_drawn(tmp_path: Path) -> None:
    bundle = load_bundle("fashion")
    (row,) = measure(bundle, ["land:steps=1"], Sent(3, seed=1), draws=4, at_once=8)
    assert (row.method, row.images, row.draws, len(row.coverage)) == ("land:steps=1", 3, 4, 2)
    assert 0.1 < row.residual < 3 and row.residual_se > 0 and 0 < row.unsure < 1 and row.told_over_error > 0
    assert row.mean_psnr_db > row.draw_psnr_db > 12
    assert row.gain_db == pytest.approx(row.mean_psnr_db - row.decoder_psnr_db, abs=1e-4)
    write_figure([row], tmp_path / "coverage.png")
    assert (tmp_path / "coverage.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="jscc draws nothing"):
        measure(bundle, ["jscc"], Sent(2), 2)
    with pytest.raises(ConfigError, match="1 draws"):
        measure(bundle, ["land"], Sent(2), 1)
