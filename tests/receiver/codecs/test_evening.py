"""Evening out noise: against the closed form, on features that are Gaussian as it takes them to be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receiver.codecs.evening import block_covariance, evened, own_variances

SIDE, FEATURES, REACH = 6, 3, 2


def covariance() -> Tensor:
    """Return the covariance of smooth random features, (3, 3, 5, 5)."""
    white = torch.randn(200, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mixed = torch.einsum(
        "ij,bjhw->bihw", torch.tensor([[1.0, 0, 0, 0.5], [0.5, 1, 0, 0], [0, 0, 0.3, 0.1]]).double(), white
    )
    return block_covariance(torch.nn.functional.avg_pool2d(mixed, 3, 1, 1) * 2, REACH)


def dense(kernel: Tensor) -> Tensor:
    """Return the covariance of a whole image's features, (n, n)."""
    out = torch.zeros(FEATURES, SIDE, SIDE, FEATURES, SIDE, SIDE, dtype=kernel.dtype)
    for row in range(SIDE):
        for column in range(SIDE):
            for down in range(-REACH, REACH + 1):
                for right in range(-REACH, REACH + 1):
                    if 0 <= row + down < SIDE and 0 <= column + right < SIDE:
                        out[:, row + down, column + right, :, row, column] = kernel[:, :, REACH + down, REACH + right]
    return out.reshape(FEATURES * SIDE**2, -1)


def usual(kernel: Tensor) -> Tensor:
    """Return the variances that features have by their covariance, (1, 3, 1, 1)."""
    return kernel[:, :, REACH, REACH].diagonal()[None, :, None, None]


def uneven(seed: int) -> Tensor:
    """Return noise variances over four decades, (1, 3, 6, 6)."""
    shape = (1, FEATURES, SIDE, SIDE)
    return 10 ** (4 * torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 2)


def test_it_is_the_closed_form() -> None:
    kernel, noise_var = covariance(), uneven(1)
    whole, level = dense(kernel), torch.tensor([0.3], dtype=torch.float64)
    torch.testing.assert_close(whole, whole.mT, rtol=0, atol=1e-12)
    received = torch.randn(noise_var.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    received *= (noise_var + 1).sqrt()
    both = whole + torch.diag(noise_var.flatten())
    wanted = (whole + level * torch.eye(len(whole))) @ torch.linalg.solve(both, received.flatten())
    found = evened(received, noise_var, level, kernel, usual(kernel)).flatten()
    assert float((found - wanted).norm() / wanted.norm()) < 0.02


def test_even_noise_is_left_as_it_is() -> None:
    received = torch.randn(2, FEATURES, SIDE, SIDE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    level = torch.tensor([0.3, 2.0], dtype=torch.float64)
    even = level[:, None, None, None].expand_as(received)
    torch.testing.assert_close(evened(received, even, level, covariance(), usual(covariance())), received)


def test_what_is_left_is_about_as_good_as_with_even_noise() -> None:
    """The mean given what was evened has the squared error of the mean given all, and less than without evening."""
    kernel, noise_var = covariance(), uneven(3)
    whole, level = dense(kernel), torch.tensor([0.3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    factor = torch.linalg.cholesky(whole + 1e-9 * torch.eye(len(whole)))
    sent = torch.randn(400, len(whole), generator=generator, dtype=torch.float64) @ factor.mT
    noise = torch.randn(sent.shape, generator=generator, dtype=torch.float64) * noise_var.flatten().sqrt()
    received = (sent + noise).view(-1, *noise_var.shape[1:])
    shrink = torch.linalg.solve(whole + level * torch.eye(len(whole)), whole)

    def error(features: Tensor) -> float:
        return float((features.flatten(1) @ shrink - sent).square().mean())

    even = evened(received, noise_var.expand_as(received), level.expand(400), kernel, usual(kernel))
    best = torch.trace(whole - whole @ torch.linalg.solve(whole + torch.diag(noise_var.flatten()), whole)) / len(whole)
    assert error(even) == pytest.approx(float(best), rel=0.1)
    assert error(even) < 0.5 * error(received)


def test_the_gradient_is_that_of_what_it_computes() -> None:
    kernel, noise_var = covariance(), uneven(5)
    received, direction = torch.randn(2, *noise_var.shape, generator=torch.Generator().manual_seed(6)).double()
    level, leaf = torch.tensor([0.3], dtype=torch.float64), received.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(evened(leaf, noise_var, level, kernel, usual(kernel)).square().sum(), leaf)
    step = 1e-4
    ahead, behind = (
        evened(received + way * direction, noise_var, level, kernel, usual(kernel)) for way in (step, -step)
    )
    numeric = (ahead.square().sum() - behind.square().sum()) / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=0.05)


def test_no_combination_of_features_gets_a_negative_variance() -> None:
    features = torch.rand(1, FEATURES, 5, 4, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(dense(block_covariance(features, REACH))).min()) > -1e-9


def test_an_image_tells_the_variances_of_its_features() -> None:
    """They come out as they are, whatever the usual ones; where all is noise the usual ones are taken."""
    kernel, generator = covariance(), torch.Generator().manual_seed(8)
    shape = (2, FEATURES, 40, 40)
    factors = torch.tensor([0.2, 1.0, 4.0])[:, None, None]
    noise_var = 10 ** (4 * torch.rand(shape, generator=generator, dtype=torch.float64) - 2)
    sent, noise = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    wanted = factors * usual(kernel)
    found = own_variances(sent * wanted.sqrt() + noise * noise_var.sqrt(), noise_var, kernel)
    torch.testing.assert_close(found, wanted.expand(2, -1, -1, -1), rtol=0.25, atol=0)
    loud = torch.full(shape, 1e4, dtype=torch.float64)
    torch.testing.assert_close(
        own_variances(noise * 1e2, loud, kernel), usual(kernel).expand(2, -1, -1, -1), rtol=0.25, atol=0
    )
