"""The mixture of symbols: its posterior, its fit, and the channels found with it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributions import MultivariateNormal

from lab.training.mixture import fit_mixture, mean_log_likelihood
from receiver.bundles.bundle import load_bundle
from receiver.bundles.side_models import load_mixture
from receiver.channel.conditional import tap_steering
from receiver.channel.prior import ChannelPrior
from receiver.codecs.codec import Words, unit_power
from receiver.measurement.model import LOST_RATIO, Measurement
from receiver.priors.symbols import SymbolMixture
from receiver.samplers.blind.mixture import mixture_channel, second_order_channels
from receiver.samplers.blind.starts import as_strong_as_received
from sdr.errors import ConfigError, ModelError
from sdr.layout import load_layout
from tests.receiver.simulated import make_measurement

PRIOR = ChannelPrior(torch.tensor([0.6, 0.25, 0.15]))
SYMBOLS = 24


def make_mixture(components: int = 3, factors: int = 5, seed: int = 0) -> SymbolMixture:
    """Of symbols whose mean power is about 1, most of it in a few factors."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return SymbolMixture(
        torch.rand(components, generator=generator).add(0.5).softmax(0),
        0.35 * drawn(components, 2 * SYMBOLS),
        0.25 * drawn(components, 2 * SYMBOLS, factors),
        0.02 + 0.02 * torch.rand(components, 2 * SYMBOLS, generator=generator),
    )


def draw(mixture: SymbolMixture, count: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    which = torch.multinomial(mixture.weight, count, replacement=True, generator=generator)
    common = torch.randn(count, mixture.factors.shape[2], 1, generator=generator)
    w = mixture.mean[which] + (mixture.factors[which] @ common)[..., 0]
    w = w + mixture.noise[which].sqrt() * torch.randn(w.shape, generator=generator)
    return torch.complex(*w.chunk(2, dim=1))


def components(mixture: SymbolMixture) -> list[MultivariateNormal]:
    covariances = mixture.factors @ mixture.factors.transpose(1, 2) + torch.diag_embed(mixture.noise)
    return [MultivariateNormal(m.double(), c.double()) for m, c in zip(mixture.mean, covariances, strict=True)]


@pytest.mark.parametrize("among", [None, [[2, 0], [1, 2]]])
def test_the_posterior_is_that_of_full_covariances(among: list[list[int]] | None) -> None:
    mixture = make_mixture()
    seen = torch.randn(2, 2 * SYMBOLS, generator=torch.Generator().manual_seed(3))
    noise = 0.05 + torch.rand(2, 2 * SYMBOLS, generator=torch.Generator().manual_seed(4))
    found = mixture.posterior(seen, noise, None if among is None else torch.tensor(among))
    for row in range(2):
        which = range(3) if among is None else among[row]
        extra = torch.diag(noise[row].double())
        log_joint, means, squares = [], [], []
        for c in which:
            part = components(mixture)[c]
            total = part.covariance_matrix + extra
            log_joint.append(
                mixture.weight[c].log() + MultivariateNormal(part.mean, total).log_prob(seen[row].double())
            )
            gain = part.covariance_matrix @ torch.linalg.inv(total)
            means.append(part.mean + gain @ (seen[row].double() - part.mean))
            squares.append(means[-1].square() + torch.diagonal(part.covariance_matrix - gain @ part.covariance_matrix))
        odds = torch.stack(log_joint).softmax(0)
        torch.testing.assert_close(
            found.log_likelihood[row].double(), torch.stack(log_joint).logsumexp(0), rtol=1e-4, atol=1e-3
        )
        torch.testing.assert_close(found.mean[row].double(), odds @ torch.stack(means), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.square[row].double(), odds @ torch.stack(squares), rtol=1e-3, atol=1e-4)


def log_density(measurement: Measurement, mixture: SymbolMixture, h: Tensor) -> Tensor:
    """log p(y | h) p(h) per frame of one image, through full covariances, but for a constant."""
    size = measurement.layout.fft_size
    gain = torch.einsum("bkl,bl->bk", tap_steering(measurement.cells % size, h.shape[1], size), h)
    received = measurement.received_cells()
    total = -(h.abs().square() / PRIOR.power).sum(-1).double()
    for frame in range(len(h)):
        turn = torch.cat(
            [
                torch.cat([torch.diag(gain[frame].real), -torch.diag(gain[frame].imag)], dim=1),
                torch.cat([torch.diag(gain[frame].imag), torch.diag(gain[frame].real)], dim=1),
            ]
        ).double()
        y = torch.cat([received[frame].real, received[frame].imag]).double()
        noise = float(measurement.noise_var[frame]) / 2 * torch.eye(len(y), dtype=torch.float64)
        logs = [
            mixture.weight[c].log()
            + MultivariateNormal(turn @ part.mean, turn @ part.covariance_matrix @ turn.T + noise).log_prob(y)
            for c, part in enumerate(components(mixture))
        ]
        total[frame] += torch.stack(logs).logsumexp(0)
    return total


def test_em_climbs_the_density_with_symbols_marginalised_and_finds_the_channel() -> None:
    mixture, frames = make_mixture(), 12
    generator = torch.Generator().manual_seed(5)
    h = torch.randn(frames, 3, dtype=torch.complex64, generator=generator) * PRIOR.power.sqrt()
    measurement = make_measurement(draw(mixture, frames), h, 0.02, load_layout("paper"), 1)
    starts = h[:, None] + 0.2 * torch.randn(frames, 4, 3, dtype=torch.complex64, generator=generator)
    climbed = [
        log_density(measurement, mixture, mixture_channel(measurement, mixture, PRIOR, starts[:, :1], **steady))
        for steady in ({"rounds": rounds, "initial_noise": 1.0} for rounds in (1, 2, 4, 16))
    ]
    for lower, higher in itertools.pairwise(climbed):
        assert bool((higher >= lower - 0.05).all())
    found = mixture_channel(measurement, mixture, PRIOR, starts)
    assert float((found - h).abs().square().sum(-1).median()) < 0.02
    # The truth is no better explained, by more than the taps' own freedom.
    assert bool((log_density(measurement, mixture, found) > log_density(measurement, mixture, h) - 1).all())


def test_images_that_share_a_frame_share_its_channel() -> None:
    mixture = make_mixture()
    h = torch.randn(6, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(6)) * PRIOR.power.sqrt()
    errors = []
    for per_frame in (1, 4):
        measurement = make_measurement(draw(mixture, 6 * per_frame), h, 0.1, load_layout("paper"), per_frame)
        found = mixture_channel(measurement, mixture, PRIOR, h[:, None], rounds=16)
        errors.append(float((found - h).abs().square().sum(-1).mean()))
    assert errors[1] < errors[0] / 2


def test_the_misfit_of_a_mixture_counts_as_noise() -> None:
    mixture = make_mixture()
    h = torch.randn(6, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(6)) * PRIOR.power.sqrt()
    measurement = make_measurement(draw(mixture, 6), h, 0.1, load_layout("paper"), 1)
    noisier = replace(measurement, noise_var=measurement.noise_var + 0.3)
    found = mixture_channel(measurement, mixture, PRIOR, h[:, None], misfit=0.3)
    torch.testing.assert_close(found, mixture_channel(noisier, mixture, PRIOR, h[:, None]))
    assert not torch.equal(found, mixture_channel(measurement, mixture, PRIOR, h[:, None]))


def test_taps_are_as_strong_as_what_was_received() -> None:
    """Whatever strength they were found with, and although a frame's cells are jammed or were lost."""
    generator = torch.Generator().manual_seed(6)
    h = torch.randn(6, 3, dtype=torch.complex64, generator=generator) * PRIOR.power.sqrt()
    z = unit_power(torch.randn(6, 4000, dtype=torch.complex64, generator=generator))
    measurement = make_measurement(z, h, 0.1, load_layout("photo-blind"), 1)
    ratio = measurement.noise_ratio.clone()
    ratio.view(6, -1)[:, ::5] = LOST_RATIO
    ratio.view(6, -1)[:, 1::5] = 100.0
    y = (
        measurement.y
        + torch.randn(ratio.shape, dtype=torch.complex64, generator=generator)
        * (0.1 * (ratio - 1) * (ratio < LOST_RATIO)).sqrt()
    )
    y = torch.where(ratio < LOST_RATIO, y, 0)
    for factor in (0.5, 1.0, 2.0):
        found = as_strong_as_received(replace(measurement, noise_ratio=ratio, y=y), factor * h)
        torch.testing.assert_close(found.norm(dim=1), h.norm(dim=1), rtol=0.03, atol=0)
        torch.testing.assert_close(found / found.norm(dim=1, keepdim=True), h / h.norm(dim=1, keepdim=True))


def test_second_order_statistics_tell_the_channel_up_to_its_sign() -> None:
    # Many words of improper symbols, and almost no noise: h * h is known well, and one of its roots is h or -h.
    generator = torch.Generator().manual_seed(2)
    layout = load_layout("photo-blind")
    power = torch.where(torch.arange(2 * SYMBOLS) < SYMBOLS, 0.9, 0.1)
    mixture = SymbolMixture(
        torch.ones(1), torch.zeros(1, 2 * SYMBOLS), torch.zeros(1, 2 * SYMBOLS, 1), power[None].clone()
    )
    frames, count = 6, layout.capacity // SYMBOLS
    h = PRIOR.power.sqrt() * torch.randn(frames, 3, dtype=torch.complex64, generator=generator)
    z = torch.complex(*(power.sqrt() * torch.randn(frames, count, 2 * SYMBOLS, generator=generator)).chunk(2, dim=2))
    measurement = make_measurement(z.flatten(1), h, 1e-3, layout, 1)
    words = Words(torch.arange(count * SYMBOLS).view(count, SYMBOLS), torch.ones(count))
    drawn = PRIOR.power.sqrt() * torch.randn(frames, 12, 3, dtype=torch.complex64, generator=generator)
    roots = second_order_channels(measurement, mixture, PRIOR, drawn, words, kept=3)
    assert roots.shape == (frames, 3, 3)
    error = (
        torch.minimum((roots - h[:, None]).norm(dim=-1), (roots + h[:, None]).norm(dim=-1)) / h.norm(dim=-1)[:, None]
    )
    assert float(error.min(dim=1).values.max()) < 0.3 and float(error.min(dim=1).values.median()) < 0.1
    # Those that are kept differ, unless the best has to fill up.
    first, others = roots[:, :1], roots[:, 1:]
    apart = torch.minimum((others - first).norm(dim=-1), (others + first).norm(dim=-1)) / first.norm(dim=-1)
    assert bool(((apart > 0.05) | (others == first).all(dim=-1)).all()) and bool((apart > 0.05).any())


def test_a_mixture_of_other_symbols_is_refused() -> None:
    z, h = torch.ones(2, 30, dtype=torch.complex64), torch.ones(2, 3, dtype=torch.complex64)
    measurement = make_measurement(z, h, 0.1, load_layout("paper"), 1)
    with pytest.raises(ConfigError, match="24 symbols"):
        mixture_channel(measurement, make_mixture(), PRIOR, h[:, None])


def test_the_fit_explains_new_symbols_as_well_as_what_drew_them() -> None:
    truth = make_mixture()
    fitted = fit_mixture(draw(truth, 6000), torch.Generator().manual_seed(0), components=3, factors=5)
    new = draw(truth, 500, seed=2)
    assert mean_log_likelihood(fitted, new) > mean_log_likelihood(truth, new) - 0.03
    assert float(fitted.weight.sum()) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ConfigError, match="more images"):
        fit_mixture(new[:5], torch.Generator(), components=3)


@pytest.mark.parametrize(
    "field, spoiled", [("noise", torch.zeros), ("weight", torch.zeros), ("mean", lambda s: torch.full(s, torch.nan))]
)
def test_a_mixture_checks_itself(field: str, spoiled) -> None:
    mixture = make_mixture()
    with pytest.raises(ConfigError):
        replace(mixture, **{field: spoiled(getattr(mixture, field).shape)})
    with pytest.raises(ConfigError):
        replace(mixture, **{field: getattr(mixture, field)[:1]})


def test_the_shipped_mixture_is_of_the_shipped_codec(tmp_path: Path) -> None:
    bundle = load_bundle()
    mixture = load_mixture(bundle.path, bundle.codec)
    assert mixture is not None and mixture.num_symbols == bundle.codec.num_symbols
    assert load_mixture(tmp_path, bundle.codec) is None
    path = tmp_path / "mixture.safetensors"
    save_file({name: part.half() for name, part in vars(mixture).items()}, path, metadata={"codec": "00000000"})
    with pytest.raises(ModelError, match="of codec 00000000"):
        load_mixture(tmp_path, bundle.codec)
    for damaged in (b"", path.read_bytes()[:-5]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            load_mixture(tmp_path, bundle.codec)
