"""Every method of the registry on a toy whose prior and codec are exact; the algorithms' own formulas."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from receiver.channel.prior import ChannelPrior
from receiver.codecs.linear import LinearCodec
from receiver.error_net import ErrorNet
from receiver.measurement.equalise import equalise
from receiver.measurement.model import Measurement
from receiver.priors.gaussian import AnalyticGaussianDenoiser
from receiver.priors.schedule import Schedule
from receiver.samplers import METHODS, Channel, MethodSettings, Models, Posterior, sample
from receiver.samplers.diffusion import Guidance
from receiver.samplers.guidance import (
    AlignedGuidance,
    Confirmed,
    ConfirmingGuidance,
    DiffusedChannelGuidance,
    MeasurementGuidance,
    PixelGuidance,
)
from receiver.samplers.hifi import back_projected
from receiver.samplers.landing import level_of_error
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from receiver.samplers.problem import Problem
from sdr.errors import ConfigError, InputError
from sdr.layout import load_layout

SHAPE = (1, 8, 8)
TAPS = 3
NOISE_VAR = 0.01


class Toy:
    """Smooth Gaussian images through a linear codec and a short channel; everything known."""

    def __init__(self, images: int = 8, noise_var: float = NOISE_VAR) -> None:
        generator = torch.Generator().manual_seed(1)
        place = torch.arange(8.0)
        kernel = torch.exp(-0.5 * (place[:, None] - place[None, :]).square() / 2.0**2)
        cov = 0.15 * torch.kron(kernel, kernel) + 1e-4 * torch.eye(64)
        self.denoiser = AnalyticGaussianDenoiser(torch.zeros(SHAPE), cov, Schedule(100, 1e-3, 0.2))
        draws = torch.randn(images, 64, generator=generator) @ torch.linalg.cholesky(cov).T
        self.images = (draws.view(images, *SHAPE) + 1) / 2
        self.codec = LinearCodec(SHAPE, 16, generator)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.error_net = ErrorNet(SHAPE[0], width=4).eval().requires_grad_(False)
        self.prior = ChannelPrior(torch.tensor([0.6, 0.3, 0.1]))
        self.h = torch.randn(images // 2, TAPS, dtype=torch.complex64, generator=generator) * self.prior.power.sqrt()
        self.layout = load_layout("paper")
        z = self.codec.encode(self.images, 10.0)
        grid = (images // 2, 1, 256)
        slots = [slice(i % 2 * 16, (i % 2 + 1) * 16) for i in range(images)]
        cells = [torch.from_numpy(self.layout.cell_index[s].copy()) + i // 2 * 256 for i, s in enumerate(slots)]
        blank = Measurement(
            y=torch.zeros(grid, dtype=torch.complex64),
            noise_var=torch.full(grid[:1], noise_var),
            cells=torch.stack(cells),
            scramble=torch.stack([torch.from_numpy(self.layout.cell_scramble[s].copy()) for s in slots]),
            layout=self.layout,
            previous_symbol=torch.zeros(grid[0], 256, dtype=torch.complex64),
            tracking_grid=torch.zeros(grid, dtype=torch.complex64),
            image_ids=tuple(map(str, range(images))),
            csnr_db=torch.full((images,), 10.0),
            image_shape=SHAPE,
            codec_digest="00000000",
            pilots=torch.zeros(grid[0], 1, 256, dtype=torch.complex64),
            scale=torch.ones(grid[0]),
        )
        noise = torch.randn(grid, dtype=torch.complex64, generator=generator) * noise_var**0.5
        self.measurement = blank.with_received(blank.forward(z, self.h) + noise)

    def sample(self, method: str, settings: MethodSettings | None = None, seed: int = 0, **kwargs) -> Posterior:
        return sample(
            method,
            self.measurement,
            kwargs.get("channel", Channel(self.prior, self.h)),
            Models(self.codec, self.denoiser, error_net=self.error_net),
            kwargs.get("generator") or torch.Generator().manual_seed(seed),
            settings=settings,
            draws=kwargs.get("draws", 1),
            on_step=kwargs.get("on_step"),
        )


@pytest.fixture(scope="module")
def toy() -> Toy:
    return Toy()


def quick(method: str) -> MethodSettings:
    return replace(METHODS[method].settings, steps=10, candidates=2, turbo_rounds=2)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_returns_images_and_repeats_itself(toy: Toy, method: str) -> None:
    first, second, other = (toy.sample(method, quick(method), seed) for seed in (0, 0, 1))
    assert first.x.shape == toy.images.shape
    assert bool(first.x.isfinite().all()) and bool((first.x >= 0).all()) and bool((first.x <= 1).all())
    assert first.h.shape[0] == toy.measurement.num_frames
    assert torch.equal(first.x, second.x)
    if METHODS[method].needs_denoiser:
        assert not torch.equal(first.x, other.x)
        assert len(first.trace) == 10


@pytest.mark.parametrize(("land", "guided"), [("land", "guided"), ("blind-land", "blind-guided")])
def test_landing_begins_at_the_level_that_the_error_tells(land: str, guided: str) -> None:
    """Told one error for all images, it is guidance from the level of that error, and not from another."""
    toy = Toy()
    for parameter in toy.error_net.back[-1].parameters():
        parameter.zero_()
    squared_error = toy.error_net(toy.images, torch.zeros(len(toy.images), 3)).exp()
    level = int(level_of_error(squared_error, large=False)[0])
    settings = replace(quick(land), steps=3)
    landed = toy.sample(land, settings).x
    assert torch.equal(landed, toy.sample(guided, replace(settings, first_level=level)).x)
    assert not torch.equal(landed, toy.sample(guided, settings).x)


def test_levels_rise_with_the_error() -> None:
    for large in (False, True):
        levels = level_of_error(torch.logspace(-4, -1, 30), large)
        assert bool((levels.diff() >= 0).all()) and int(levels[0]) < 50 and int(levels[-1]) > 500


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.needs_error_net])
def test_a_method_that_needs_a_network_of_confidence_says_so(method: str) -> None:
    toy = Toy()
    toy.error_net = None
    with pytest.raises(ConfigError, match="confidence"):
        toy.sample(method, quick(method))


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if entry.blind])
def test_a_blind_method_never_sees_the_channel(toy: Toy, method: str) -> None:
    """With and without an estimate at hand the result is the same, and the pilots may be anything."""
    given = toy.sample(method, quick(method))
    without = toy.sample(method, quick(method), channel=Channel(toy.prior))
    assert torch.equal(given.x, without.x)


@pytest.mark.parametrize("method", [name for name, entry in METHODS.items() if not entry.blind])
def test_a_method_that_needs_a_channel_says_so(toy: Toy, method: str) -> None:
    with pytest.raises(ConfigError, match="blind"):
        toy.sample(method, quick(method), channel=Channel(toy.prior))


@pytest.mark.parametrize("method", ["diffcom", "hifi"])
def test_guided_methods_explain_what_was_received(toy: Toy, method: str) -> None:
    """The residual comes down to the noise and the image comes nearer than the prior's own draws."""
    posterior = toy.sample(method, replace(METHODS[method].settings, steps=50))
    residual = toy.measurement.residual(toy.codec.encode(posterior.x, 10.0), posterior.h)
    assert float(residual.median()) < 2.0
    # An independent draw from the prior would be off by twice the pixels' variance, about 0.075 in [0, 1].
    assert float((posterior.x - toy.images).square().mean()) < 0.04


def test_back_projection_finds_what_decodes_to_the_image_decoded(toy: Toy) -> None:
    """Its fixed points satisfy D(W^-1(W(E(x)))) = x_d; with a codec that only projects, every step comes nearer."""
    codec = LinearCodec(SHAPE, 16, torch.Generator().manual_seed(0), normalise=False, scale=3.0)
    settings = replace(METHODS["hifi"].settings, steps=1)
    x_d = codec.decode(0.9 * codec.encode(toy.images.clamp(0.2, 0.8), 10.0), 10.0)

    def mismatch(steps: int) -> float:
        problem = SimpleNamespace(
            measurement=toy.measurement,
            codec=codec,
            encoder_csnr_db=toy.measurement.csnr_db,
            settings=replace(settings, back_projections=steps),
        )
        x = back_projected(cast(Problem, problem), toy.h, x_d)
        clean = toy.measurement.with_received(toy.measurement.forward(codec.encode(x, 10.0), toy.h))
        return float((x_d - codec.decode(equalise(clean, toy.h), 10.0)).square().mean())

    assert mismatch(9) < 0.5 * mismatch(3) < 0.5 * mismatch(0)
    assert toy.sample("hifi", replace(settings, back_projections=4)).x.shape == toy.images.shape


def test_consistency_stops_at_the_noise_level() -> None:
    quiet = Toy(noise_var=1e-5)
    rough = replace(METHODS["hifi"].settings, consistency_steps=0)
    with_steps, without = (quiet.sample("hifi", s) for s in (METHODS["hifi"].settings, rough))
    before, after = (
        quiet.measurement.residual(quiet.codec.encode(p.x, 10.0), p.h).median() for p in (without, with_steps)
    )
    assert float(before) > 10
    assert float(after) < float(before) / 5


def test_diffcom_potential_is_the_norm_per_image(toy: Toy) -> None:
    guidance = MeasurementGuidance(toy.codec, toy.measurement, toy.h, zeta=0.7)
    t = torch.ones(len(toy.images), dtype=torch.long)
    z = toy.codec.encode(toy.images, 10.0)
    error = toy.measurement.received_cells() - toy.measurement.gains(toy.h) * z
    torch.testing.assert_close(
        guidance.potential(toy.images, t, guidance.init())[0], 0.7 * error.abs().square().sum(-1).sqrt()
    )


def test_hifi_potential_adds_the_confirming_norm(toy: Toy) -> None:
    """Equation (19) by hand: zeta ||y - W(E(x))|| + gamma ||x_d - D(W^-1(W(E(x))))||."""
    x_d, x = torch.rand(toy.images.shape, generator=torch.Generator().manual_seed(2)), toy.images
    guidance = confirming(toy, x_d, 0.3, 0.2)
    z, gains = toy.codec.encode(x, 10.0), toy.measurement.gains(toy.h)
    measured = (toy.measurement.received_cells() - gains * z).abs().square().sum(-1).sqrt()
    equalised = gains.conj() * gains * z / (gains.abs().square() + NOISE_VAR) * (1 + NOISE_VAR)
    confirmed = (x_d - toy.codec.decode(equalised, 10.0)).square().sum(dim=(1, 2, 3)).sqrt()
    t = torch.ones(len(x), dtype=torch.long)
    potential, _ = guidance.potential(x, t, guidance.init())
    torch.testing.assert_close(potential, 0.3 * measured + 0.2 * confirmed, rtol=1e-4, atol=1e-4)


def confirming(toy: Toy, x_d: Tensor, zeta: float, gamma: float, h: Tensor | None = None, **unknown) -> Guidance:
    """HiFi-DiffCom's guidance as a real one would be given it, with known taps unless told otherwise."""
    start = Confirmed(toy.h if h is None else h, NuisanceEstimate.begin(toy.measurement, NuisancePrior()), x_d)
    return ConfirmingGuidance(toy.codec, start, zeta, gamma, **unknown)


def guidances(toy: Toy) -> dict[str, Guidance]:
    """One of each kind, with what a real one would be given."""
    measured = MeasurementGuidance(toy.codec, toy.measurement, toy.h, 0.3)
    aligned = PixelGuidance(toy.images.flip(0), 0.3)
    return {
        "measurement": measured,
        "pixel": aligned,
        "aligned": AlignedGuidance(measured, aligned),
        "confirming": confirming(toy, toy.images.flip(0), 0.3, 0.3),
        "diffused": DiffusedChannelGuidance(
            toy.codec,
            toy.measurement,
            toy.prior,
            0.3,
            0.1,
            toy.denoiser.schedule.alpha_bar,
            torch.Generator().manual_seed(5),
        ),
    }


@pytest.mark.parametrize("kind", ["measurement", "pixel", "aligned", "confirming", "diffused"])
def test_gradients_of_every_guidance_pass_finite_differences(toy: Toy, kind: str) -> None:
    """In the image, through codec and channel, and in whatever else is unknown."""
    guidance = guidances(toy)[kind]
    state = guidance.init()
    unknowns = guidance.unknowns(state)
    t = torch.full((len(toy.images),), 40)
    x = toy.images.clone().requires_grad_()
    gradients = torch.autograd.grad(guidance.potential(x, t, state)[0].sum(), [x, *unknowns])
    generator = torch.Generator().manual_seed(3)
    for leaf, gradient in zip([x, *unknowns], gradients, strict=True):
        for _ in range(3):
            direction = torch.randn(leaf.shape, generator=generator)

            def along(step: float, leaf: Tensor = leaf, direction: Tensor = direction) -> Tensor:
                with torch.no_grad():
                    leaf += step * direction
                    value = guidance.potential(x, t, state)[0].double().sum()
                    leaf -= step * direction
                return value

            numeric = (along(1e-3) - along(-1e-3)) / 2e-3
            assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=0.02, abs=0.02)


def test_joint_guidance_descends_on_the_marginal_evidence(toy: Toy) -> None:
    """With h re-solved inside, the potential's square is the minimum over h of distance and prior, less the prior."""
    guidance = confirming(
        toy, torch.zeros_like(toy.images), 1.0, 0.0, h=torch.zeros_like(toy.h), channel_prior=toy.prior
    )
    t = torch.ones(len(toy.images), dtype=torch.long)
    _, state = guidance.potential(toy.images, t, guidance.init())
    # Given the true image the conditional mean is the channel, to the accuracy of 32 noisy cells.
    assert float((state.h - toy.h).abs().square().sum(-1).max()) < 0.05


@pytest.mark.parametrize(
    "setting", [{"steps": 0}, {"zeta": -1.0}, {"eta": 1.5}, {"gamma": float("nan")}, {"candidates": 0}, {"average": 0}]
)
def test_bad_settings_are_refused(setting) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        MethodSettings(**setting)


@pytest.mark.parametrize("method", METHODS)
def test_draws_come_in_one_batch(toy: Toy, method: str) -> None:
    """R draws per image, different from each other unless the method is deterministic; one draw is the plain call."""
    posterior = toy.sample(method, quick(method), draws=3)
    count = len(toy.images)
    assert posterior.draws == 3 and posterior.x.shape == (3 * count, *SHAPE)
    assert posterior.h.shape[0] == 3 * toy.measurement.num_frames
    torch.testing.assert_close(posterior.mean, posterior.x.view(3, count, *SHAPE).mean(0))
    assert posterior.spread.shape == toy.images.shape
    if method != "blind-jscc":  # its draws differ where their starts end in different channels, which they need not
        assert bool((posterior.spread.flatten(1).mean(1) > 1e-4).all()) != (method == "jscc")
    single = toy.sample(method, quick(method))
    assert torch.equal(single.x, toy.sample(method, quick(method), draws=1).x)
    with pytest.raises(ConfigError, match="spread"):
        _ = single.spread


@pytest.mark.parametrize("method", ["diffcom", "hifi"])
def test_the_mean_of_draws_is_nearer_than_a_draw_and_the_spread_tells_by_how_much(toy: Toy, method: str) -> None:
    """E ||draw - x||^2 = E ||mean - x||^2 + spread^2 (1 - 1 / R) holds exactly, whatever the sampler.

    DiffCom starts each draw from noise and so differs more between draws than HiFi, which starts all from one image.
    """
    posterior = toy.sample(method, replace(METHODS[method].settings, steps=20), draws=8)
    draws = posterior.x.unflatten(0, (8, -1))
    single = (draws - toy.images).square().mean()
    averaged = (posterior.mean - toy.images).square().mean()
    spread = posterior.spread.square().mean() * 7 / 8
    torch.testing.assert_close(single, averaged + spread, rtol=1e-3, atol=1e-6)
    assert float(averaged) < (0.9 if method == "diffcom" else 1) * float(single)


@pytest.mark.parametrize("method", METHODS)
def test_an_average_is_the_mean_of_so_many_samples(toy: Toy, method: str) -> None:
    """Its steps are counted on, and draws of it are averages of their own."""
    settings, generator = replace(quick(method), steps=2), torch.Generator().manual_seed(5)
    one, other = (toy.sample(method, settings, draws=2, generator=generator) for _ in range(2))
    steps: list[int] = []
    averaged = replace(settings, average=2)
    found = toy.sample(method, averaged, seed=5, draws=2, on_step=lambda index, _: steps.append(index))
    torch.testing.assert_close(found.x, (one.x + other.x) / 2)
    torch.testing.assert_close(found.h, (one.h + other.h) / 2)
    assert steps == list(range(len(steps))) and len(steps) in (0, averaged.evaluations)


def test_received_symbols_must_be_finite_and_models_of_one_size(toy: Toy) -> None:
    y = toy.measurement.y.clone()
    y.view(-1)[toy.measurement.cells[1, :3]] = float("nan")
    spoiled = copy.copy(toy)
    spoiled.measurement = toy.measurement.with_received(y)
    with pytest.raises(InputError, match="3 of the received"):
        spoiled.sample("jscc")
    spoiled = copy.copy(toy)
    spoiled.codec = LinearCodec((1, 16, 16), 16, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match=r"\(1, 16, 16\)"):
        spoiled.sample("jscc")


@pytest.mark.parametrize("noise_var", [0.0, -0.1, float("nan")])
def test_noise_variances_must_be_positive(toy: Toy, noise_var: float) -> None:
    with pytest.raises(ConfigError, match="noise_var"):
        replace(toy.measurement, noise_var=torch.full_like(toy.measurement.noise_var, noise_var))


def test_no_draws_are_refused(toy: Toy) -> None:
    with pytest.raises(ConfigError, match="0 draws"):
        toy.sample("jscc", draws=0)
