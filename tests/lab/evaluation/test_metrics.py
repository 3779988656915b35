"""Distortion and realism metrics against independent formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.ndimage import gaussian_filter

from lab.evaluation.metrics import MS_SSIM_MIN_SIDE, ms_ssim, psnr_db, ssim
from lab.evaluation.realism import DISTANCES, Realism, RealismConfig, frechet_distance, load_realism, noise_null
from receiver.bundles.bundle import find_bundle
from receiver.images.files import load_image_folder
from sdr.errors import InputError


def pair(shape: tuple[int, ...], seed: int, std: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(shape, generator=generator)
    return a, (a + std * torch.randn(shape, generator=generator)).clamp(0, 1)


def ssim_maps(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SSIM and contrast-structure maps of two (H, W) images through scipy's Gaussian filter, valid part."""

    def blur(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, 1.5, radius=5)[5:-5, 5:-5]

    a, b = a.astype(np.float64), b.astype(np.float64)
    ma, mb = blur(a), blur(b)
    va, vb, c = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    contrast = (2 * c + 9e-4) / (va + vb + 9e-4)
    return contrast * (2 * ma * mb + 1e-4) / (ma**2 + mb**2 + 1e-4), contrast


@given(seed=st.integers(0, 1000), std=st.floats(0.01, 0.5))
@settings(max_examples=10, deadline=None)
def test_psnr_is_per_image_and_equals_numpy(seed: int, std: float) -> None:
    a, b = pair((3, 2, 8, 8), seed, std)
    expected = [10 * np.log10(1 / np.mean((a[i].numpy() - b[i].numpy()) ** 2)) for i in range(3)]
    np.testing.assert_allclose(psnr_db(a, b).numpy(), expected, rtol=1e-4)


def test_psnr_of_identical_images_is_infinite() -> None:
    a, _ = pair((1, 1, 8, 8), 0)
    assert psnr_db(a, a).item() == float("inf")


@given(seed=st.integers(0, 1000), std=st.floats(0.01, 0.5))
@settings(max_examples=10, deadline=None)
def test_ssim_equals_scipy(seed: int, std: float) -> None:
    a, b = pair((2, 2, 20, 17), seed, std)
    expected = [np.mean([ssim_maps(a[i, c].numpy(), b[i, c].numpy())[0].mean() for c in range(2)]) for i in range(2)]
    np.testing.assert_allclose(ssim(a, b).numpy(), expected, atol=1e-4)


def test_ms_ssim_equals_scipy() -> None:
    a, b = pair((1, 1, 180, 176), 3)
    x, y, expected = a[0, 0].numpy(), b[0, 0].numpy(), 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        full, contrast = ssim_maps(x, y)
        expected *= (full if scale == 4 else contrast).mean() ** weight
        x, y = (v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2] for v in (x, y))
        x, y = (v.reshape(v.shape[0] // 2, 2, v.shape[1] // 2, 2).mean(axis=(1, 3)) for v in (x, y))
    assert ms_ssim(a, b).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [ssim, ms_ssim])
def test_similarities_are_one_for_equals_symmetric_and_fall_with_noise(metric) -> None:
    a, b = pair((1, 1, MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE), 4)
    worse = pair(a.shape, 4, 0.3)[1]
    assert metric(a, a).item() == pytest.approx(1, abs=1e-5)
    assert metric(a, b).item() == pytest.approx(metric(b, a).item(), abs=1e-6)
    assert metric(a, worse).item() < metric(a, b).item() < 1


def test_images_too_small_or_unlike_are_one_line() -> None:
    small = torch.zeros(1, 1, 10, 10)
    with pytest.raises(InputError, match="at least 11"):
        ssim(small, small)
    with pytest.raises(InputError, match="Use SSIM"):
        ms_ssim(torch.zeros(1, 1, 175, 176), torch.zeros(1, 1, 175, 176))
    for metric in (psnr_db, ssim, ms_ssim):
        with pytest.raises(InputError, match="alike"):
            metric(small, torch.zeros(2, 1, 10, 10))


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_frechet_distance_equals_scipys_matrix_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, 5, 5))
    covs = roots @ roots.transpose(0, 2, 1)
    means = rng.normal(size=(2, 5))
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0] + covs[1] - 2 * np.real(sqrtm(covs[0] @ covs[1])))
    found = frechet_distance(*(torch.from_numpy(v) for v in (means[0], covs[0], means[1], covs[1])))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.fixture(scope="module")
def realism() -> Realism:
    return load_realism()


@pytest.fixture(scope="module")
def originals() -> torch.Tensor:
    return load_image_folder(find_bundle() / "samples", (1, 32, 32))[1]


def noisy(images: torch.Tensor, std: float, seed: int = 1) -> torch.Tensor:
    return (images + std * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def blurred(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(images, 2), scale_factor=2, mode="bilinear")


@pytest.mark.parametrize("kind", DISTANCES)
def test_held_out_originals_are_real_and_damage_is_not(realism: Realism, originals: torch.Tensor, kind) -> None:
    floor = realism.distance(originals, kind)
    assert floor >= 0
    assert realism.distance(blurred(originals), kind) > 10 * floor
    assert realism.distance(noisy(originals, 0.1), kind) > 3 * floor
    assert realism.distance(noisy(originals, 0.2), kind) > realism.distance(noisy(originals, 0.1), kind)


@pytest.mark.parametrize("kind", DISTANCES)
def test_the_reference_images_are_at_distance_zero_and_order_does_not_matter(kind) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        realism = Realism(RealismConfig(width=8, channels=2))
    images = torch.rand(40, 2, 32, 32, generator=torch.Generator().manual_seed(2))
    realism.fit_reference(images)
    assert realism.distance(images, kind) == pytest.approx(0, abs=1e-4)
    other = blurred(images[:20])
    assert realism.distance(other, kind) > 0.01
    assert realism.distance(other.flip(0), kind) == pytest.approx(realism.distance(other, kind), rel=1e-6)


@pytest.mark.parametrize("kind", DISTANCES)
def test_a_score_is_the_distance_with_an_error_that_shrinks(realism: Realism, originals: torch.Tensor, kind) -> None:
    damaged = noisy(originals, 0.1)
    score = realism.score(damaged, torch.Generator().manual_seed(1), kind)
    assert score.value == pytest.approx(realism.distance(damaged, kind), rel=1e-6)
    few = realism.score(damaged[:8], torch.Generator().manual_seed(1), kind)
    assert 0 < score.std_error < few.std_error
    assert score == realism.score(damaged, torch.Generator().manual_seed(1), kind)


def test_the_preferred_distance_is_the_call(realism: Realism, originals: torch.Tensor) -> None:
    assert realism(originals) == realism.distance(originals, DISTANCES[0])


def test_one_image_or_a_foreign_one_has_no_distance(realism: Realism) -> None:
    for images in (torch.zeros(1, 1, 32, 32), torch.zeros(4, 3, 32, 32), torch.zeros(32, 32)):
        with pytest.raises(InputError, match="at least two images"):
            realism(images)


def test_the_noise_null_is_as_wrong_as_the_method(originals: torch.Tensor) -> None:
    deterministic, method = blurred(originals), noisy(originals, 0.25)
    null = noise_null(deterministic, originals, method, torch.Generator().manual_seed(3))
    assert float((null - originals).square().mean()) == pytest.approx(
        float((method - originals).square().mean()), rel=1e-3
    )
    assert float(null.min()) >= 0 and float(null.max()) <= 1
    torch.testing.assert_close(null, noise_null(deterministic, originals, method, torch.Generator().manual_seed(3)))


def test_a_method_better_than_the_decoder_gets_a_null_without_noise(originals: torch.Tensor) -> None:
    deterministic = blurred(originals)
    null = noise_null(deterministic, originals, originals, torch.Generator().manual_seed(3))
    torch.testing.assert_close(null, deterministic.clamp(0, 1), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="same shapes"):
        noise_null(deterministic, originals[:2], originals, torch.Generator())
