"""The reverse-diffusion loop against closed forms: priors, posteriors, starts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receiver.priors.gaussian import AnalyticGaussianDenoiser
from receiver.priors.schedule import Schedule
from receiver.priors.unet import PriorConfig, UNetDenoiser
from receiver.samplers import adaptive_start, reverse_diffusion, reverse_steps
from receiver.samplers.diffusion import Guidance, StepRule, to_image
from sdr.errors import ConfigError


class NoGuidance(Guidance[None]):
    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        return 0 * x0_hat.sum(dim=(1, 2, 3)), None


class ExactLinearGuidance(Guidance[None]):
    """The exact likelihood score of y = A x0 + n under a Gaussian prior, as a potential.

    p(y | x_t) = N(A x0_hat, A C_t A^T + r I), C_t the covariance of x0 given x_t. The potential's gradient is the
    score times the step of the reverse SDE, (1 - abar_t / abar_s) / sqrt(abar_t / abar_s).
    """

    def __init__(self, y: Tensor, a: Tensor, cov: Tensor, noise_var: float, schedule: Schedule) -> None:
        self.y, self.a, self.cov, self.noise_var, self.schedule = y, a, cov, noise_var, schedule

    def init(self) -> None:
        return None

    def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
        now, before = int(t[0]), max(int(t[0]) - 1, 0)
        abar = self.schedule.alpha_bar[now]
        alpha = abar / self.schedule.alpha_bar[before]
        conditional = torch.linalg.inv(torch.linalg.inv(self.cov) + abar / (1 - abar) * torch.eye(len(self.cov)))
        spread = self.a @ conditional @ self.a.T + self.noise_var * torch.eye(len(self.a))
        error = self.y - (2 * x0_hat - 1).flatten(1).to(self.a.dtype) @ self.a.T
        weight = (1 - alpha) / alpha.sqrt()
        return weight / 2 * torch.einsum("bi,ij,bj->b", error, torch.linalg.inv(spread), error), None


@pytest.fixture
def gaussian() -> AnalyticGaussianDenoiser:
    cov = torch.tensor([[0.30, 0.15, 0.0], [0.15, 0.25, -0.1], [0.0, -0.1, 0.20]], dtype=torch.float64)
    return AnalyticGaussianDenoiser(torch.tensor([0.2, -0.1, 0.3]).view(1, 1, 3), cov, Schedule(400, 2e-4, 0.04))


def run(denoiser, guidance, count: int, seed: int, steps: int, eta: float) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    start = torch.full((count,), denoiser.schedule.num_steps)
    x_t = torch.randn(count, *denoiser.image_shape, generator=generator)
    x, trace, _ = reverse_diffusion(
        denoiser, guidance, x_t, reverse_steps(start, steps), generator=generator, rule=StepRule(eta)
    )
    assert trace.shape == (steps, count)
    return x.flatten(1).double()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_unguided_sampling_draws_from_the_prior(gaussian, eta) -> None:
    x = run(gaussian, NoGuidance(), 20_000, 1, 400, eta)
    mean = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    cov = gaussian.covariance
    # Three sigma of the sample mean is 0.012; the covariance carries the discretisation error as well.
    assert torch.allclose(x.mean(0), mean, atol=0.015)
    assert torch.allclose(torch.cov(x.T), cov, atol=0.015)


def test_guided_sampling_matches_the_gaussian_posterior(gaussian) -> None:
    a = torch.tensor([[1.0, 0.5, -0.3], [0.0, 1.0, 1.0]], dtype=torch.float64)
    y, noise_var = torch.tensor([0.9, -0.4], dtype=torch.float64), 0.05
    mean = torch.tensor([0.2, -0.1, 0.3], dtype=torch.float64)
    cov = gaussian.covariance
    gain = cov @ a.T @ torch.linalg.inv(a @ cov @ a.T + noise_var * torch.eye(2))
    expected_mean, expected_cov = mean + gain @ (y - a @ mean), cov - gain @ a @ cov
    guidance = ExactLinearGuidance(y, a, cov, noise_var, gaussian.schedule)
    x = run(gaussian, guidance, 20_000, 2, 400, 1.0)
    assert torch.allclose(x.mean(0), expected_mean, atol=0.02)
    assert torch.allclose(torch.cov(x.T), expected_cov, atol=0.012)
    # The posterior is far from the prior, so agreeing with it means something.
    assert (expected_mean - mean).abs().max() > 0.3


def test_ancestral_step_is_algorithm_1_line_10(gaussian) -> None:
    """With unit spacing and eta 1 the step equals the printed coefficients."""
    schedule, t = gaussian.schedule, 57
    x_t = torch.randn(4, 1, 1, 3, generator=torch.Generator().manual_seed(3))
    got, *_ = reverse_diffusion(
        gaussian, NoGuidance(), x_t, torch.tensor([[t] * 4, [t - 1] * 4]), generator=torch.Generator().manual_seed(4)
    )
    abar, abar_before = schedule.alpha_bar[t], schedule.alpha_bar[t - 1]
    alpha, beta = abar / abar_before, 1 - abar / abar_before
    noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(4))
    x0_hat = gaussian(x_t, torch.full((4,), t))
    expected = (
        alpha.sqrt() * (1 - abar_before) / (1 - abar) * x_t
        + abar_before.sqrt() * beta / (1 - abar) * x0_hat
        + ((1 - abar_before) / (1 - abar) * beta).sqrt() * noise
    )
    assert torch.allclose(got, expected.float(), atol=1e-5)


def test_gradient_is_that_of_the_potential_through_the_denoiser(gaussian) -> None:
    """zeta times the gradient is subtracted; without the Jacobian it is the gradient at x0_hat over sqrt(abar)."""

    class Pull(NoGuidance):
        def potential(self, x0_hat: Tensor, t: Tensor, state: None) -> tuple[Tensor, None]:
            return 0.3 * (x0_hat - 0.7).square().sum(dim=(1, 2, 3)), None

    t = 120
    x_t = torch.randn(5, 1, 1, 3, generator=torch.Generator().manual_seed(5))
    steps = torch.tensor([[t] * 5, [t - 1] * 5])

    def step(guidance, jacobian: bool) -> Tensor:
        generator = torch.Generator().manual_seed(6)
        return reverse_diffusion(gaussian, guidance, x_t, steps, generator=generator, rule=StepRule(jacobian=jacobian))[
            0
        ]

    def potential(x: Tensor) -> Tensor:
        return 0.3 * (to_image(gaussian(x, torch.full((len(x),), t))) - 0.7).square().sum()

    numeric = torch.zeros_like(x_t)
    for index in range(x_t.numel()):
        shift = torch.zeros_like(x_t).flatten()
        shift[index] = 1e-2
        shift = shift.view_as(x_t)
        numeric.view(-1)[index] = (potential(x_t + shift) - potential(x_t - shift)) / 2e-2
    assert torch.allclose(step(NoGuidance(), True) - step(Pull(), True), numeric, atol=2e-4)
    x0_hat = gaussian(x_t, torch.full((5,), t))
    flat = 0.3 * (to_image(x0_hat) - 0.7) / gaussian.schedule.alpha_bar[t].sqrt()
    assert torch.allclose(step(NoGuidance(), False) - step(Pull(), False), flat.float(), atol=1e-5)


def test_images_of_a_batch_do_not_couple(gaussian) -> None:
    """Changing one image's start leaves the others' results alone."""
    x_t = torch.randn(3, 1, 1, 3, generator=torch.Generator().manual_seed(7))
    other = x_t.clone()
    other[2] += 1.0
    steps = reverse_steps(torch.tensor([300, 100, 200]), 10)

    def decode(start: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(8)
        return reverse_diffusion(gaussian, NoGuidance(), start, steps, generator=generator)[0]

    assert torch.equal(decode(x_t)[:2], decode(other)[:2])


def test_reverse_steps_descend_from_start_to_zero() -> None:
    steps = reverse_steps(torch.tensor([1000, 137, 7]), 20)
    assert steps.shape == (21, 3)
    assert steps[0].tolist() == [1000, 137, 7]
    assert steps[-1].tolist() == [0, 0, 0]
    assert bool((steps[1:] <= steps[:-1]).all())
    # More steps than there are: the clean image is reached last and only once.
    assert reverse_steps(torch.tensor([2]), 6)[:, 0].tolist() == [2, 2, 1, 1, 1, 1, 0]
    assert reverse_steps(torch.tensor([5]), 5)[:, 0].tolist() == [5, 4, 3, 2, 1, 0]


def test_adaptive_start_matches_the_diffusion_snr() -> None:
    """Eq. (21) at CBR 1/16, tau 20: step 138 at 10 dB, and later (noisier) starts for worse channels."""
    schedule = Schedule()
    start = adaptive_start(schedule, torch.tensor([10.0, 1.0, 0.1]), 1 / 16, 20)
    assert start[0] == 138
    assert bool((start[1:] > start[:-1]).all())
    for csnr, t in zip([10.0, 1.0, 0.1], start.tolist(), strict=True):
        dsnr = schedule.alpha_bar[t] / (1 - schedule.alpha_bar[t])
        assert float(dsnr) == pytest.approx((1 + csnr) ** (20 / 32), rel=0.02)
    assert int(adaptive_start(schedule, torch.tensor([1e9]), 1 / 16, 20)[0]) == 1


@pytest.fixture
def learned() -> UNetDenoiser:
    """A prior whose network says what the variance is, and whose x0_hat leaves [-1, 1]."""
    config = PriorConfig(
        image_shape=(1, 8, 8),
        patch=1,
        prediction="epsilon",
        learned_sigma=True,
        model_channels=8,
        attention_resolutions=(),
        channel_mult=(1, 2),
        num_head_channels=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        denoiser = config.denoiser()
        for parameter in denoiser.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return denoiser.eval().requires_grad_(False)


@pytest.mark.parametrize("t", [300, 1])
def test_a_step_of_the_public_code_clips_and_draws_with_the_learned_variance(learned, t) -> None:
    """Mean of the posterior given the clipped x0_hat; log variance between that of the posterior and beta."""
    x_t = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    steps, rule = torch.tensor([[t] * 3, [t - 1] * 3]), StepRule(clip=True, learned_variance=True)
    got, *_ = reverse_diffusion(
        learned, NoGuidance(), x_t, steps, generator=torch.Generator().manual_seed(4), rule=rule
    )
    abar, before = learned.schedule.alpha_bar[t], learned.schedule.alpha_bar[t - 1]
    beta = 1 - abar / before
    epsilon, v = learned.unet(x_t, torch.full((3,), t - 1)).chunk(2, dim=1)
    x0_hat = ((x_t - (1 - abar).sqrt() * epsilon) / abar.sqrt()).clamp(-1, 1)
    assert bool((x0_hat.abs() == 1).any())
    mean = before.sqrt() * beta / (1 - abar) * x0_hat + (1 - beta).sqrt() * (1 - before) / (1 - abar) * x_t
    expected = mean
    if t > 1:
        posterior = (1 - before) / (1 - abar) * beta
        logarithm = (v + 1) / 2 * beta.log() + (1 - v) / 2 * posterior.log()
        expected = mean + (logarithm / 2).exp() * torch.randn(x_t.shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-4)


def test_a_variance_that_was_not_learned_is_refused(gaussian) -> None:
    steps, rule = torch.tensor([[5], [4]]), StepRule(learned_variance=True)
    with pytest.raises(ConfigError, match="learned no variance"):
        reverse_diffusion(
            gaussian, NoGuidance(), torch.zeros(1, 1, 1, 3), steps, generator=torch.Generator(), rule=rule
        )
