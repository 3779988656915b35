"""The expected error of an answer: the rehearsal against its closed form, the network against real errors."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lab.training.confidence import decoding_examples, train_confidence
from lab.training.task import TrainingConfig
from receiver.acceptance import (
    OPTIMISM,
    assess,
    predicted_squared_error,
    rehearsed_squared_error,
    residual_limit,
)
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.bundles.side_models import CONFIDENCE_FILE, load_confidence
from receiver.bundles.weights import half_precision
from receiver.channel.prior import ChannelPrior
from receiver.codecs.linear import LinearCodec
from receiver.error_net import CONFIDENCE_SIDE, ErrorNet
from receiver.images.fashion_mnist import load_fashion_mnist
from receiver.measurement.equalise import unshrunk
from receiver.measurement.model import Measurement
from receiver.samplers import METHODS, Channel, Models, sample
from receiver.samplers.nuisance import NuisanceEstimate, NuisancePrior
from receiver.samplers.problem import Problem
from receiver.samplers.taps import Taps
from receiver.samplers.variants import method_variant
from sdr.errors import ModelError
from sdr.layout import load_layout
from tests.receiver.simulated import make_measurement

SHAPE = (1, 8, 8)
NOISE_VAR = 0.1
TOLD = torch.full((64,), 10.0)


@pytest.mark.parametrize("noise_var", [0.01, 0.1])
def test_the_rehearsed_error_is_that_of_a_linear_codec_in_closed_form(noise_var: float) -> None:
    codec = LinearCodec(SHAPE, 20, torch.Generator().manual_seed(1), normalise=False, scale=8.0)
    x = 0.5 + 0.08 * torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(2))
    told = torch.full((200,), 10.0)
    h = torch.ones(200, 1, dtype=torch.complex64)
    measurement = make_measurement(codec.encode(x, told), h, noise_var, load_layout("paper"), 1)
    residual = torch.linspace(0.5, 2, 200)
    found = rehearsed_squared_error(measurement, codec, x, h, residual, torch.Generator().manual_seed(3))
    lost = (x - codec.decode(codec.encode(x, told), told)).square().mean(dim=(1, 2, 3))
    expected = lost + 20 * noise_var / 8.0**2 / 64
    ratio = found / (OPTIMISM * residual / residual_limit(20, noise_var) * expected)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)


def test_the_error_of_a_large_image_is_the_mean_of_its_tiles() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ErrorNet(3, width=4).eval()
    generator = torch.Generator().manual_seed(1)
    # Flat tiles of different brightness: one row of 3, the last a pixel narrower than the others.
    sizes = (CONFIDENCE_SIDE - 1, CONFIDENCE_SIDE - 1, CONFIDENCE_SIDE - 2)
    tiles = [torch.rand(2, 3, 1, 1, generator=generator).expand(2, 3, 40, size) for size in sizes]
    facts = torch.randn(2, 3, generator=generator)
    with torch.no_grad():
        found = net.squared_error(torch.cat(tiles, dim=3), facts)
        alone = torch.stack([net(tile, facts).exp() for tile in tiles])
    weights = torch.tensor(sizes)[:, None] / sum(sizes)
    torch.testing.assert_close(found, (weights * alone).sum(dim=0))


@cache
def shipped() -> tuple[Bundle, ErrorNet, Tensor]:
    """The bundle, its network and 64 test images."""
    bundle = load_bundle()
    net = load_confidence(bundle.path, bundle.codec)
    assert net is not None
    return bundle, net, load_fashion_mnist("test")[0][:64]


@cache
def received() -> tuple[Measurement, Tensor]:
    """The 64 images at 10 dB through a channel of unit gain with an echo of a tenth of the power; its taps."""
    bundle, _, images = shipped()
    h = torch.tensor([[0.95, 0.31j]]).expand(64, -1).to(torch.complex64)
    with torch.no_grad():
        z = bundle.codec.encode(images, TOLD)
    return make_measurement(z, h, NOISE_VAR, load_layout("paper"), 1), h


def judged(measurement: Measurement, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Expected PSNR in dB of answers, and whether they are accepted."""
    bundle, net, _ = shipped()
    with torch.no_grad():
        residual = measurement.residual(bundle.codec.encode(x, TOLD), h)
    error = predicted_squared_error(measurement, bundle.codec, net, x, h)
    psnr = -10 * error.log10()
    return psnr, (psnr >= 15) & (residual <= residual_limit(measurement.num_symbols, NOISE_VAR))


def decoded(measurement: Measurement, h: Tensor) -> Tensor:
    with torch.no_grad():
        return shipped()[0].codec.decode(unshrunk(measurement, h), TOLD).clamp(0, 1)


def test_good_answers_are_accepted_and_their_error_is_told() -> None:
    _, _, images = shipped()
    measurement, h = received()
    x_d = decoded(measurement, h)
    psnr, accepted = judged(measurement, x_d, h)
    true = -10 * (x_d - images).square().mean(dim=(1, 2, 3)).log10()
    assert float(accepted.float().mean()) > 0.95
    assert float((psnr - true).abs().mean()) < 2
    assert float(torch.corrcoef(torch.stack([psnr, true]))[0, 1]) > 0.7


def nonsense(kind: str) -> tuple[Measurement, Tensor, Tensor]:
    """Measurement, answer and taps that don't belong together."""
    _, _, images = shipped()
    measurement, h = received()
    generator = torch.Generator().manual_seed(4)
    if kind == "random image":
        return measurement, torch.rand(images.shape, generator=generator), h
    if kind == "another image":
        return measurement, images.roll(1, 0), h
    if kind == "wrong channel":
        wrong = torch.randn(64, 8, dtype=torch.complex64, generator=generator) * 8**-0.5
        return measurement, decoded(measurement, wrong), wrong
    noise = torch.randn(measurement.y.shape, dtype=torch.complex64, generator=generator) * (1 + NOISE_VAR) ** 0.5
    measurement = measurement.with_received(noise)
    return measurement, decoded(measurement, h), h


@pytest.mark.parametrize("kind", ["random image", "another image", "wrong channel", "noise alone"])
def test_nonsense_is_refused(kind: str) -> None:
    good, _ = judged(received()[0], decoded(*received()), received()[1])
    psnr, accepted = judged(*nonsense(kind))
    assert float(accepted.float().mean()) < 0.05
    assert float(psnr.mean()) < float(good.mean()) - 4


def test_noise_alone_decoded_blindly_is_refused() -> None:
    bundle, net, _ = shipped()
    measurement, _, _ = nonsense("noise alone")
    few = replace(
        measurement,
        **{name: getattr(measurement, name)[:16] for name in ("cells", "scramble", "csnr_db", "image_ids")},
    )
    answer = sample(
        "blind-jscc",
        few,
        Channel(ChannelPrior(torch.full((8,), 1 / 8))),
        Models(bundle.codec),
        torch.Generator().manual_seed(0),
    )
    told = assess(answer, bundle.codec, torch.Generator().manual_seed(0), net)
    limit = residual_limit(measurement.num_symbols, NOISE_VAR)
    accepted = (told.expected_squared_error <= 10**-1.5) & (told.residual <= limit)
    assert float(accepted.float().mean()) <= 1 / 16


def test_a_farther_answer_is_never_thought_better() -> None:
    measurement, h = received()
    x_d = decoded(measurement, h)
    bundle, net, images = shipped()
    expected = [
        predicted_squared_error(measurement, bundle.codec, net, x_d.lerp(images.roll(1, 0), step), h)
        for step in (0.0, 0.2, 0.5, 1.0)
    ]
    assert all(bool((b >= a).all()) for a, b in itertools.pairwise(expected))


def test_examples_of_training_are_what_they_are_said_to_be() -> None:
    bundle, _, _ = shipped()
    images = load_fashion_mnist("train")[0][:128]
    x_d, facts, log_error = decoding_examples(bundle.codec, images, torch.Generator().manual_seed(5))
    true = ((x_d - images).square().mean(dim=(1, 2, 3)) + 1e-5).log()
    assert torch.allclose(true, log_error) and bool(facts.isfinite().all())
    empty, wrong, right = log_error[:4], log_error[4:32], log_error[32:]
    assert float(right.median()) < -4.3 < -3.5 < float(wrong.median()) and bool((empty > -3.5).all())


def test_a_network_of_another_codec_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    bundle, net, _ = shipped()
    assert load_confidence(tmp_path, bundle.codec) is None
    path = tmp_path / CONFIDENCE_FILE
    save_file(half_precision(net.state_dict()), path, metadata={"codec": "00000000"})
    with pytest.raises(ModelError, match=r"of codec 00000000.*ota train confidence"):
        load_confidence(tmp_path, bundle.codec)
    whole = (bundle.path / CONFIDENCE_FILE).read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"\0" * len(whole)):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match="damaged"):
            load_confidence(tmp_path, bundle.codec)
    weights = load_file(bundle.path / CONFIDENCE_FILE)
    save_file({name: value.repeat(2, *[1] * (value.dim() - 1)) for name, value in weights.items()}, path)
    with pytest.raises(ModelError, match="doesn't fit"):
        load_confidence(tmp_path, bundle.codec)


def test_training_writes_a_network_that_loads_and_has_learned(tmp_path: Path) -> None:
    bundle, _, _ = shipped()
    for name in ("bundle.toml", "codec.safetensors"):
        (tmp_path / name).write_bytes((bundle.path / name).read_bytes())
    recipe = TrainingConfig(steps=60, batch=32, learning_rate=3e-3, warmup_steps=5, ema_decay=0.9, bf16=False)
    quality = train_confidence(tmp_path, recipe, examples=256, blind=16, tests=128)
    assert load_confidence(tmp_path, bundle.codec) is not None
    assert len(quality) == 3 and (tmp_path / "README.md").read_text().count("## confidence") == 1
    # Without learning it is below 0.02.
    assert quality["share of the variance that is told, n = 128"] > 0.3


@pytest.mark.parametrize("text", ["jscc", "jscc:phase_std_rad=0.1,noise_std=0.2", "guided:steps=2", "bp:steps=2"])
def test_what_was_decoded_is_not_decoded_again(text: str) -> None:
    """What a method's own decoding tells of its answer is what decoding anew would tell."""
    bundle, net, _ = shipped()
    measurement, h = received()
    models = Models(bundle.codec, bundle.denoiser, None, None, net)
    channel, generator = Channel(ChannelPrior(torch.tensor([0.9, 0.1])), h), torch.Generator().manual_seed(0)
    variant = method_variant(text)
    answer = sample(variant.method, measurement, channel, models, generator, settings=variant.settings)
    assert answer.x_d is not None and (answer.x_d is answer.x) == text.startswith("jscc")
    known, anew = (assess(one, bundle.codec, generator, net) for one in (answer, replace(answer, x_d=None)))
    torch.testing.assert_close(known.expected_squared_error, anew.expected_squared_error, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(known.residual, anew.residual)


def test_what_was_decoded_with_other_taps_is_decoded_again() -> None:
    bundle, net, images = shipped()
    measurement, h = received()
    models, generator = Models(bundle.codec, bundle.denoiser, None, None, net), torch.Generator().manual_seed(0)
    problem = Problem(
        NuisanceEstimate.begin(measurement, NuisancePrior()),
        models,
        Channel(ChannelPrior(torch.tensor([0.9, 0.1]))),
        METHODS["blind-guided"].settings,
        generator,
        generator,
    )
    answer = Taps(problem, h, problem.channel.prior).posterior(images, decoded(measurement, h), [torch.zeros(64)])
    assert answer.x_d is None and not torch.equal(answer.h, h)
