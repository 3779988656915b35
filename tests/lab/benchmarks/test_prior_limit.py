"""What a prior makes of originals, where the answer is known in closed form."""

import math
import sys

import pytest
import torch

from lab.benchmarks import prior_limit
from lab.benchmarks.prior_limit import drawn_again
from receiver.images.files import save_image
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from sdr.errors import ConfigError


def test_a_gaussian_prior_draws_its_posterior() -> None:
    """Told x_t alone, one evaluation errs by the posterior's variance, and a draw by twice that."""
    denoiser = AnalyticGaussianDenoiser(torch.zeros(1, 16, 16), torch.full((1, 16, 16), 0.2**2))
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.1 * torch.randn(64, 1, 16, 16, generator=generator)
    signal, noise = denoiser.schedule.coefficients(torch.full((64,), 300), images)
    # On the scale [0, 1]; pixels are 5 standard deviations from its ends.
    variance = float(1 / (1 / 0.2**2 + (signal / noise).square().flatten()[0])) / 4
    once = drawn_again(denoiser, images, 300, 1, generator)
    assert float((once - images).square().mean()) == pytest.approx(variance, rel=0.1)
    drawn = drawn_again(denoiser, images, 300, 200, generator)
    assert float((drawn - images).square().mean()) == pytest.approx(2 * variance, rel=0.15)


@pytest.mark.parametrize("level", [0, 1001])
def test_levels_beyond_the_schedule_are_refused(level: int) -> None:
    zero = torch.zeros(1, 1, 4, 4)
    with pytest.raises(ConfigError, match=str(level)):
        drawn_again(AnalyticGaussianDenoiser(zero[0], zero[0] + 1), zero, level, 1, torch.Generator())


def test_the_command_measures_a_bundle_and_refuses_in_one_line(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "images").mkdir()
    out = tmp_path / "limit.json"
    for index, image in enumerate(torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))):
        save_image(tmp_path / "images" / f"{index}.png", image)
    arguments = [
        "prior_limit",
        "--images",
        str(tmp_path / "images"),
        "--levels",
        "60",
        "--evaluations",
        "1",
        "--out",
        str(out),
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    prior_limit.main()
    assert math.isfinite(float(capsys.readouterr().out.split('"psnr_db": ')[1].split(",")[0])) and out.is_file()
    monkeypatch.setattr(sys, "argv", [*arguments, "--bundle", "fashion"])
    with pytest.raises(SystemExit) as left:
        prior_limit.main()
    assert left.value.code == 2 and capsys.readouterr().err.count("\n") == 1
