"""The training loop on small data: it learns, resumes exactly, and leaves nothing half-written."""

import csv
import dataclasses
import gzip
import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lab.evaluation.realism import RealismConfig
from lab.training import fashion, loop
from lab.training.channel import transmit_awgn
from lab.training.fashion import train_codec, train_prior, train_realism
from lab.training.task import TrainingConfig
from receiver.bundles.bundle import load_bundle, load_codec, load_denoiser
from receiver.codecs.adjscc import AdjsccConfig
from receiver.codecs.linear import LinearCodec
from receiver.images.fashion_mnist import FASHION_MNIST_IMAGES, load_fashion_mnist
from receiver.priors.schedule import Schedule
from receiver.priors.unet import PriorConfig
from sdr.errors import ConfigError, ModelError

QUICK = TrainingConfig(steps=12, batch=4, learning_rate=1e-3, warmup_steps=2, bf16=False, checkpoint_s=0.0)
CODEC = AdjsccConfig(width=16, kernels=(3, 3, 3, 3, 3), edge_width=15, edge_kernel=3)
PRIOR = PriorConfig(model_channels=8, channel_mult=(1, 1), attention_resolutions=(), num_head_channels=8)
REALISM = RealismConfig(width=8, patch_stride=8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares whose side is the label, in files of the true format and (small) sizes."""
    folder = tmp_path_factory.mktemp("data")
    for prefix, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = np.zeros((count, 28, 28), np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[4 : 6 + 2 * label, 4 : 6 + 2 * label] = 200
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            with gzip.open(folder / f"{prefix}-{name}-ubyte.gz", "wb") as file:
                file.write(header + array.tobytes())
    return folder


@pytest.fixture(autouse=True)
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FASHION_MNIST_IMAGES, "train", 60)
    monkeypatch.setitem(FASHION_MNIST_IMAGES, "test", 20)


TRAINERS = {"codec": (train_codec, CODEC), "prior": (train_prior, PRIOR), "realism": (train_realism, REALISM)}


def test_three_trainings_make_a_bundle_with_a_card(tmp_path: Path, data: Path) -> None:
    for name, (train, architecture) in TRAINERS.items():
        seen: list[tuple[str, float, float]] = []
        quality = train(tmp_path, QUICK, architecture, data=data, progress=lambda *told, seen=seen: seen.append(told))
        assert seen[-1] == (f"train the {name}", 12, 12)
        assert quality and all(math.isfinite(value) for value in quality.values())
        facts = json.loads((tmp_path / f"{name}.json").read_text())
        assert facts["quality"] == quality and facts["steps"] == 12
        with (tmp_path / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert int(rows[-1]["step"]) == 12 and float(rows[-1]["loss"]) > 0
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    bundle = load_bundle(tmp_path)
    assert bundle.codec.config == CODEC
    card = (tmp_path / "README.md").read_text()
    assert all(f"## {name}" in card for name in TRAINERS) and "12 steps of 4 images" in card
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", sorted(TRAINERS))
def test_an_interrupted_run_goes_on_to_the_same_weights(
    name: str, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, architecture = TRAINERS[name]
    config = dataclasses.replace(QUICK, steps=24)
    monkeypatch.setattr(loop, "REPORT_STEPS", 8)
    train(tmp_path / "whole", config, architecture, data=data)

    class Interrupted(Exception):
        pass

    saves = 0
    save = loop.save_checkpoint

    def save_then_die(*arguments) -> None:
        nonlocal saves
        save(*arguments)
        saves += 1
        if saves == 2:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", save_then_die)
        with pytest.raises(Interrupted):
            train(tmp_path / "parts", config, architecture, data=data)
    train(tmp_path / "parts", config, architecture, data=data)
    file = f"{name}.safetensors"
    assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()


def test_a_finished_run_is_not_repeated_and_can_be_prolonged(tmp_path: Path, data: Path) -> None:
    train_codec(tmp_path, QUICK, CODEC, data=data)
    digest = load_codec(tmp_path).digest
    train_codec(tmp_path, QUICK, CODEC, data=data)
    assert load_codec(tmp_path).digest == digest
    train_codec(tmp_path, dataclasses.replace(QUICK, steps=15), CODEC, data=data)
    assert load_codec(tmp_path).digest != digest
    assert json.loads((tmp_path / "codec.json").read_text())["steps"] == 15


def test_other_settings_do_not_resume_but_may_restart(tmp_path: Path, data: Path) -> None:
    train_codec(tmp_path, QUICK, CODEC, data=data)
    other = dataclasses.replace(QUICK, batch=5)
    with pytest.raises(ModelError, match="other settings"):
        train_codec(tmp_path, other, CODEC, data=data)
    train_codec(tmp_path, other, CODEC, resume=False, data=data)


@pytest.mark.parametrize("content", [b"", b"text", "cut"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, data: Path, content: bytes | str) -> None:
    train_codec(tmp_path, QUICK, CODEC, data=data)
    path = tmp_path / "codec.checkpoint.pt"
    path.write_bytes(path.read_bytes()[:2000] if isinstance(content, str) else content)
    with pytest.raises(ModelError, match="not a usable checkpoint"):
        train_codec(tmp_path, QUICK, CODEC, data=data)


def test_seeds_decide_everything(tmp_path: Path, data: Path) -> None:
    state = torch.random.get_rng_state()
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_prior(tmp_path / folder, dataclasses.replace(QUICK, seed=seed), PRIOR, data=data)
    a, b, c = ((tmp_path / folder / "prior.safetensors").read_bytes() for folder in "abc")
    assert a == b != c
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_learns(tmp_path: Path, data: Path) -> None:
    config = dataclasses.replace(QUICK, steps=100, learning_rate=5e-3, ema_decay=0.9)
    codec = train_codec(tmp_path, config, CODEC, data=data)
    images, _ = load_fashion_mnist("test", data)
    # A decoder that has learned what images look like, and nothing of the symbols, reaches the mean image.
    mean_image = -10 * math.log10(float((images - images.mean(dim=0)).square().mean()))
    assert codec["psnr_db at 14 dB"] > mean_image + 2
    assert codec["psnr_db at 14 dB"] > codec["psnr_db at 0 dB"]
    assert train_realism(tmp_path, config, REALISM, data=data)["accuracy"] > 0.5
    prior = train_prior(tmp_path, config, PRIOR, data=data)
    nothing = fashion.evaluate_prior(PRIOR.denoiser(), images)["v-MSE"]  # U-Nets start with a zero output layer
    assert prior["v-MSE"] < 0.6 * nothing
    assert load_denoiser(tmp_path).prediction == "v"


def test_the_prior_loss_of_a_network_that_says_nothing_is_the_target_power() -> None:
    # U-Nets start with a zero output layer.
    images = torch.rand(64, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    for prediction in ("epsilon", "v"):
        denoiser = dataclasses.replace(PRIOR, prediction=prediction).denoiser()
        loss = fashion.prior_loss(denoiser, images, torch.Generator().manual_seed(1)).item()
        x_0_power = float((2 * images - 1).square().mean())
        if prediction == "epsilon":
            assert loss == pytest.approx(1, abs=0.02)
        else:
            mean_alpha_bar = float(Schedule().alpha_bar[1:].mean())
            assert loss == pytest.approx(mean_alpha_bar + (1 - mean_alpha_bar) * x_0_power, abs=0.05)


def test_the_awgn_of_training_has_the_power_that_the_csnr_says() -> None:
    codec = LinearCodec((1, 8, 8), 32, torch.Generator().manual_seed(0), normalise=False)
    images = torch.full((2000, 1, 8, 8), 0.5)
    csnr_db = torch.tensor([0.0, 10.0]).repeat_interleave(1000)
    out = transmit_awgn(codec, images, csnr_db, torch.Generator().manual_seed(1))  # type: ignore[arg-type]
    # The map is orthogonal, so the mean noise power per pixel is that per real symbol: half the complex noise_var.
    power = (out - images).square().view(2, -1).mean(dim=1)
    torch.testing.assert_close(power, torch.tensor([0.5, 0.05]), rtol=0.02, atol=0)


def test_the_learning_rate_warms_up_and_decays_to_zero() -> None:
    config = TrainingConfig(steps=1000, learning_rate=1.0, warmup_steps=10)
    rates = [config.learning_rate_at(step, step / 1000) for step in range(1001)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[500] == pytest.approx(0.5) and rates[1000] == pytest.approx(0)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_time_limit_ends_training(tmp_path: Path, data: Path) -> None:
    config = dataclasses.replace(QUICK, steps=10**9, minutes=0.01)
    train_codec(tmp_path, config, CODEC, data=data)
    facts = json.loads((tmp_path / "codec.json").read_text())
    assert 0 < facts["steps"] < 10**6 and facts["seconds"] <= 3


def test_a_diverging_run_stops(tmp_path: Path, data: Path) -> None:
    config = dataclasses.replace(QUICK, learning_rate=1e30, warmup_steps=0, clip_norm=1e30)
    with pytest.raises(ModelError, match="Lower the learning rate"):
        train_prior(tmp_path, config, PRIOR, data=data)


@pytest.mark.parametrize(
    "options", [{"steps": 0}, {"batch": 0}, {"learning_rate": 0.0}, {"minutes": 0.0}, {"ema_decay": 1.0}]
)
def test_impossible_recipes_are_refused(options: dict) -> None:
    with pytest.raises(ConfigError):
        dataclasses.replace(QUICK, **options)
