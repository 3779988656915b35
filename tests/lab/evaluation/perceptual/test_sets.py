"""Distances of sets of images against independent formulas."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lab.evaluation.perceptual.registry import SET_METRICS, SetMetric
from lab.evaluation.perceptual.sets import frechet_score, kernel_score, pool5_features
from lab.evaluation.realism import RealismScore, frechet_distance
from receiver.bundles.bundle import find_bundle
from receiver.images.files import load_image_folder
from sdr.errors import InputError

SCORES = (frechet_score, kernel_score)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def features(count: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return shift + torch.randn(count, 6, generator=generator(seed), dtype=torch.float64)


@pytest.fixture(params=SET_METRICS)
def metric(request: pytest.FixtureRequest) -> SetMetric:
    metric = SET_METRICS[request.param]
    if not metric.available:
        pytest.skip("run `make metrics`")
    return metric


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    return load_image_folder(find_bundle("photo") / "samples", (3, 256, 256))[1][:8, :, 96:144, 96:144]


def noisy(images: torch.Tensor, std: float) -> torch.Tensor:
    return (images + std * torch.randn(images.shape, generator=generator(1))).clamp(0, 1)


@pytest.mark.parametrize("counts", [(40, 50), (4, 5), (4, 50), (50, 4)])
def test_the_frechet_score_and_its_error_equal_their_definition(counts: tuple[int, int]) -> None:
    a, b = features(counts[0], 1), features(counts[1], 2, 0.3)
    statistics = [(x.mean(dim=0), torch.cov(x.mT)) for x in (a, b)]
    score = frechet_score(a, b, generator(5), rounds=4)
    assert score.value == pytest.approx(frechet_distance(*statistics[0], *statistics[1]), rel=1e-6)
    draws = generator(5)
    resampled = [a[torch.randint(len(a), (len(a),), generator=draws)] for _ in range(4)]
    values = [frechet_score(images, b, generator(), rounds=2).value for images in resampled]
    assert score.std_error == pytest.approx(np.std(values, ddof=1), rel=1e-5)


def test_the_frechet_score_equals_scipys_matrix_root() -> None:
    a, b = features(40, 1), features(50, 2, 0.3)
    covs = [np.cov(x.numpy(), rowvar=False) for x in (a, b)]
    means = [x.numpy().mean(axis=0) for x in (a, b)]
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0] + covs[1] - 2 * np.real(sqrtm(covs[0] @ covs[1])))
    assert frechet_score(a, b, generator(), rounds=2).value == pytest.approx(expected, rel=1e-6)


def unbiased(a: torch.Tensor, b: torch.Tensor, names: list[int], paired: bool = False) -> float:
    """The estimator by its definition, over pairs of different images (and of originals of others, where paired)."""

    def kernel(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 6 + 1) ** 3)

    within = [kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if names[i] != names[j]]
    real_names = names if paired else [-1 - i for i in range(len(b))]
    of_real = [kernel(b[i], b[j]) for i, n in enumerate(real_names) for j, m in enumerate(real_names) if n != m]
    across = [kernel(a[i], b[j]) for i, n in enumerate(names) for j, m in enumerate(real_names) if n != m]
    return float(np.mean(within) + np.mean(of_real) - 2 * np.mean(across))


def test_the_kernel_score_and_its_error_equal_their_definition() -> None:
    a, b = features(7, 1), features(9, 2, 0.3)
    score = kernel_score(a, b, generator(5), rounds=4)
    assert score.value == pytest.approx(unbiased(a, b, list(range(7))))
    draws, resampled = generator(5), []
    for _ in range(4):
        picks = torch.randint(7, (7,), generator=draws)
        resampled.append(unbiased(a[picks], b, picks.tolist()))
    assert score.std_error == pytest.approx(np.std(resampled, ddof=1), rel=1e-5)


def test_the_paired_kernel_score_and_its_error_equal_their_definition() -> None:
    a, b = features(7, 1), features(7, 2, 0.3)
    score = kernel_score(a, b, generator(5), paired=True, rounds=4)
    assert score.value == pytest.approx(unbiased(a, b, list(range(7)), paired=True))
    draws, resampled = generator(5), []
    for _ in range(4):
        picks = torch.randint(7, (7,), generator=draws)
        resampled.append(unbiased(a[picks], b[picks], picks.tolist(), paired=True))
    assert score.std_error == pytest.approx(np.std(resampled, ddof=1), rel=1e-5)


def test_the_paired_frechet_error_draws_both_together() -> None:
    a, b = features(30, 1), features(30, 2, 0.3)
    score = frechet_score(a, b, generator(5), paired=True, rounds=4)
    assert score.value == pytest.approx(frechet_score(a, b, generator(), rounds=2).value)
    draws = generator(5)
    picks = [torch.randint(30, (30,), generator=draws) for _ in range(4)]
    values = [frechet_score(a[places], b[places], generator(), rounds=2).value for places in picks]
    assert score.std_error == pytest.approx(np.std(values, ddof=1), rel=1e-5)


@pytest.mark.parametrize("score", SCORES)
def test_originals_paired_with_themselves_are_at_no_distance_for_certain(score) -> None:
    found = score(features(9, 1), features(9, 1), generator(), paired=True)
    assert found.value == pytest.approx(0, abs=1e-9) and found.std_error == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_pairs_with_small_errors_have_narrow_scores(score) -> None:
    real = features(60, 1)
    images = real + 0.05 * features(60, 2)
    assert score(images, real, generator(), paired=True).std_error < 0.2 * score(images, real, generator()).std_error


def test_the_kernel_score_is_unbiased_and_the_frechet_score_is_not() -> None:
    sets = [(features(8, 2 * seed), features(8, 2 * seed + 1)) for seed in range(200)]
    kernel, frechet = (np.array([score(*pair, generator(), rounds=2).value for pair in sets]) for score in SCORES[::-1])
    assert abs(kernel.mean()) < 3 * kernel.std() / np.sqrt(len(sets))
    assert frechet.min() > 0


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("paired", [False, True])
def test_errors_are_as_wide_as_scores_of_fresh_sets(score, paired: bool) -> None:
    """The reference is held fixed where it is one, and drawn with the images where it holds their originals."""
    real = features(400, 1000)

    def pair(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        images = features(60, seed, 0.5)
        return (images, images + 0.3 * features(60, seed + 500, 0.5)) if paired else (images, real)

    fresh = np.array([score(*pair(seed), generator(), paired, rounds=2).value for seed in range(100)])
    found = np.mean([score(*pair(seed), generator(seed), paired).std_error for seed in range(10)])
    assert 0.7 < found / fresh.std() < 1.4


def test_sets_of_one_are_at_no_distance_and_damage_is(metric: SetMetric, photographs: torch.Tensor) -> None:
    scores = [metric(noisy(photographs, std), photographs, generator()) for std in (0.0, 0.05, 0.15, 0.4)]
    values = [score.value for score in scores]
    assert values == sorted(values) and len(set(values)) == 4
    assert scores[0].value == pytest.approx(0, abs=1e-4) or scores[0].value < 0
    assert all(isinstance(score, RealismScore) and score.std_error > 0 for score in scores)
    same = metric(photographs, photographs, generator(), paired=True)
    assert same.value == pytest.approx(0, abs=1e-9) and same.std_error == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="as many originals as images"):
        metric(photographs[1:], photographs, generator(), paired=True)


def test_order_does_not_matter_and_seeds_do(metric: SetMetric, photographs: torch.Tensor) -> None:
    images = noisy(photographs, 0.1)
    score = metric(images, photographs, generator())
    assert metric(images.flip(0), photographs, generator()).value == pytest.approx(score.value, rel=1e-4)
    assert metric(images, photographs.flip(0), generator()).value == pytest.approx(score.value, rel=1e-4)
    assert metric(images, photographs, generator()) == score
    assert metric(images, photographs, generator(1)).std_error != score.std_error


def test_grey_images_are_their_colour_copies_and_sizes_may_differ(metric: SetMetric, photographs: torch.Tensor) -> None:
    grey = photographs[:, :1]
    images = noisy(grey, 0.1)
    score = metric(images, grey, generator())
    in_colour = metric(images.expand(-1, 3, -1, -1), grey.expand(-1, 3, -1, -1), generator())
    assert in_colour.value == pytest.approx(score.value, rel=1e-4)
    mixed = [*images[:7], images[7, :, :40]]
    assert metric(mixed, list(grey), generator()).value == pytest.approx(score.value, rel=0.5)


def test_too_few_and_too_small_images_are_one_line(metric: SetMetric, photographs: torch.Tensor) -> None:
    for images, message in (
        (photographs[:1], "at least two images"),
        (photographs[..., :31], "at least 32"),
        (photographs * 2, "Clamp them"),
        (photographs[:, :2], "needs images"),
    ):
        with pytest.raises(InputError, match=message) as error:
            metric(images, photographs, generator())
        assert "\n" not in str(error.value)


def test_features_are_one_vector_an_image(metric: SetMetric, photographs: torch.Tensor) -> None:
    found = pool5_features(photographs)
    assert found.shape == (8, 512) and found.dtype == torch.float64 and (found >= 0).all()
    torch.testing.assert_close(pool5_features(list(photographs)), found, rtol=1e-3, atol=1e-5)
    with pytest.raises(InputError, match="at least one"):
        pool5_features([])
