"""Schedule and denoisers against closed forms."""

import pytest
import torch

from receiver.bundles.bundle import load_denoiser
from receiver.networks.unet import UNetModel
from receiver.priors.denoiser import Denoiser
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from receiver.priors.local import LocalPriorConfig
from receiver.priors.schedule import Schedule
from receiver.priors.unet import PriorConfig, UNetDenoiser
from sdr.errors import ConfigError, InputError

SHAPE = (1, 4, 4)


class Oracle(UNetModel):
    """A U-Net that answers with the true noise or velocity of a known image, and remembers what it was asked."""

    def __init__(self, x_0: torch.Tensor, schedule: Schedule, prediction: str, patch: int, learned_sigma: bool) -> None:
        channels = x_0.shape[1] * patch**2
        super().__init__(4, channels, 32, channels * (2 if learned_sigma else 1), 1, (), channel_mult=(1,))
        self.x_0, self.schedule, self.prediction, self.patch = x_0, schedule, prediction, patch
        self.learned_sigma = learned_sigma
        self.asked: torch.Tensor | None = None

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        self.asked = timesteps
        x_0 = torch.nn.functional.pixel_unshuffle(self.x_0, self.patch)
        alpha_bar = self.schedule.alpha_bar[timesteps + 1].float().view(-1, 1, 1, 1)
        eps = (x - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()
        out = eps if self.prediction == "epsilon" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0
        return torch.cat([out, torch.full_like(out, 99)], dim=1) if self.learned_sigma else out


def test_the_schedule_is_the_one_of_ddpm() -> None:
    schedule = Schedule()
    product, expected = 1.0, [1.0]
    for t in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * t / 999)
        expected.append(product)
    assert schedule.alpha_bar.dtype == torch.float64
    torch.testing.assert_close(schedule.alpha_bar, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    assert bool((schedule.alpha_bar.diff() < 0).all())


def test_diffusing_keeps_unit_variance_and_starts_at_the_image() -> None:
    schedule = Schedule()
    x_0 = torch.randn(500, *SHAPE, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(500, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(schedule.diffuse(x_0, torch.zeros(500, dtype=torch.int64), eps), x_0)
    for t in (1, 300, 1000):
        x_t = schedule.diffuse(x_0, torch.full((500,), t), eps)
        assert float(x_t.var()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    "t", [torch.tensor([1001, 1]), torch.tensor([-1, 1]), torch.tensor([1]), torch.tensor([1.0, 2.0])]
)
def test_steps_outside_the_schedule_are_refused(t: torch.Tensor) -> None:
    with pytest.raises(InputError, match="Steps t"):
        Schedule().coefficients(t, torch.zeros(2, 1))


@pytest.mark.parametrize("options", [{"num_steps": 0}, {"beta_first": 0.0}, {"beta_last": 1.0}, {"beta_first": 0.03}])
def test_impossible_schedules_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        Schedule(**options)


@pytest.mark.parametrize("learned_sigma", [False, True])
@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_perfect_network_gives_the_clean_image_back(prediction: str, patch: int, learned_sigma: bool) -> None:
    schedule = Schedule()
    x_0 = torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    oracle = Oracle(x_0, schedule, prediction, patch, learned_sigma)
    denoiser = UNetDenoiser(oracle, schedule, (2, 8, 8), prediction, patch)  # type: ignore[arg-type]
    t = torch.tensor([1, 40, 500])
    x_t = schedule.diffuse(x_0, t, torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(denoiser(x_t, t), x_0, rtol=1e-3, atol=1e-3)
    assert oracle.asked is not None and oracle.asked.tolist() == [0, 39, 499]


def gaussian(diagonal: bool) -> tuple[AnalyticGaussianDenoiser, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    mean = torch.rand(SHAPE, generator=generator) - 0.5
    if diagonal:
        variances = torch.rand(SHAPE, generator=generator)
        return AnalyticGaussianDenoiser(mean, variances), mean, torch.diag(variances.flatten())
    factor = torch.randn(16, 16, generator=generator) / 4
    cov = factor @ factor.T
    return AnalyticGaussianDenoiser(mean, cov), mean, cov


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_gaussian_denoiser_solves_the_normal_equations(diagonal: bool) -> None:
    denoiser, mean, cov = gaussian(diagonal)
    x_t = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([30, 700])
    out = denoiser(x_t, t)
    for i in range(2):
        alpha_bar = denoiser.schedule.alpha_bar[t[i]]
        c = cov.double()
        gain = alpha_bar.sqrt() * c @ torch.linalg.inv(alpha_bar * c + (1 - alpha_bar) * torch.eye(16))
        centred = x_t[i].double().flatten() - alpha_bar.sqrt() * mean.double().flatten()
        expected = mean.double().flatten() + gain @ centred
        torch.testing.assert_close(out[i].double().flatten(), expected, rtol=1e-4, atol=1e-5)


def test_no_other_estimate_beats_the_gaussian_denoiser() -> None:
    denoiser, mean, cov = gaussian(False)
    generator = torch.Generator().manual_seed(4)
    root = torch.linalg.cholesky(cov + 1e-6 * torch.eye(16))
    x_0 = mean + (torch.randn(4000, 16, generator=generator) @ root.T).view(-1, *SHAPE)
    t = torch.full((4000,), 300)
    x_t = denoiser.schedule.diffuse(x_0, t, torch.randn(x_0.shape, generator=generator))
    out = denoiser(x_t, t)
    error = float((out - x_0).square().mean())
    # The error is orthogonal to the estimate, and shrinking or stretching it only hurts.
    assert float(((out - x_0) * (out - mean)).mean()) == pytest.approx(0, abs=0.01 * float(cov.trace()) / 16)
    for factor in (0.8, 1.2):
        assert float((mean + factor * (out - mean) - x_0).square().mean()) > error


def test_the_gaussian_denoiser_is_differentiable() -> None:
    denoiser, _, _ = gaussian(False)
    x_t = torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: denoiser(x, torch.tensor([100])), (x_t,))


def test_a_covariance_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="covariance"):
        AnalyticGaussianDenoiser(torch.zeros(SHAPE), torch.zeros(3, 3))
    with pytest.raises(ConfigError, match="semidefinite"):
        AnalyticGaussianDenoiser(torch.zeros(SHAPE), -torch.eye(16))


def test_networks_and_images_that_do_not_fit_are_refused() -> None:
    unet = UNetModel(8, 4, 32, 4, 1, (), channel_mult=(1,))
    with pytest.raises(ConfigError, match="channels in"):
        UNetDenoiser(unet, Schedule(), (1, 8, 8))
    with pytest.raises(ConfigError, match="divide by the patch"):
        UNetDenoiser(unet, Schedule(), (1, 7, 8), "v", 2)
    with pytest.raises(ConfigError, match="predicts"):
        UNetDenoiser(unet, Schedule(), (1, 8, 8), "x0", 2)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="divide by 8"):
        PriorConfig(image_shape=(1, 36, 32))
    with pytest.raises(ConfigError, match="norm_groups"):
        PriorConfig(norm_groups=7).denoiser()


DENOISERS = {
    "shipped": load_denoiser,
    "gaussian": lambda: gaussian(False)[0],
    "learned sigma": lambda: PriorConfig(image_shape=(1, 8, 8), learned_sigma=True, prediction="epsilon").denoiser(),
}


@pytest.mark.parametrize("name", sorted(DENOISERS))
def test_every_denoiser_keeps_the_protocol(name: str) -> None:
    denoiser: Denoiser = DENOISERS[name]()
    x_t = torch.randn(2, *denoiser.image_shape, generator=torch.Generator().manual_seed(6)).requires_grad_()
    out = denoiser(x_t, torch.tensor([1, denoiser.schedule.num_steps]))
    assert out.shape == x_t.shape and out.dtype == torch.float32 and bool(out.isfinite().all())
    (gradient,) = torch.autograd.grad(out.sum(), x_t)
    assert float(gradient.abs().max()) > 0


def test_the_shipped_prior_denoises_held_out_images() -> None:
    from lab.evaluation.metrics import psnr_db
    from receiver.bundles.bundle import find_bundle
    from receiver.images.files import load_image_folder

    denoiser = load_denoiser()
    _, images = load_image_folder(find_bundle() / "samples", denoiser.image_shape)
    generator = torch.Generator().manual_seed(7)
    for step, floor_db in ((50, 28.0), (200, 21.0)):
        t = torch.full((len(images),), step)
        x_t = denoiser.schedule.diffuse(2 * images - 1, t, torch.randn(images.shape, generator=generator))
        with torch.no_grad():
            out = (denoiser(x_t, t) + 1) / 2
        noisy = float(psnr_db((x_t / float(denoiser.schedule.alpha_bar[step].sqrt()) + 1) / 2, images).mean())
        assert float(psnr_db(out, images).mean()) > max(floor_db, noisy + 4)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.1)])
def test_a_prior_runs_in_other_precisions(precision, tolerance) -> None:
    config = PriorConfig(image_shape=(1, 16, 16), model_channels=16, attention_resolutions=(2,), num_head_channels=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = config.denoiser()
    for parameter in denoiser.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    denoiser.requires_grad_(False)
    assert denoiser.at_precision("auto") is denoiser
    other = denoiser.at_precision(precision)
    x_t, t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([100, 400])
    wanted = denoiser(x_t, t)
    assert float((other(x_t, t) - wanted).abs().max()) < tolerance * float(wanted.abs().max())
    assert other.unet is not denoiser.unet and type(denoiser.unet).__name__ == "UNetModel"


def test_a_prior_without_precisions_says_so() -> None:
    with pytest.raises(ConfigError, match="--precision bf16 is for priors of the family adm"):
        LocalPriorConfig(widths=(16,), blocks=(1,)).denoiser().at_precision("bf16")
