"""Train the models for Fashion-MNIST: codec, prior and the features of the realism distance, on its training split."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.realism import DISTANCES, FeatureNet, Realism, RealismConfig, load_realism
from lab.training.channel import channel_quality, transmit, transmit_awgn, transmit_fading
from lab.training.diffusion import one_shot_quality, prediction_errors, start_denoiser
from lab.training.loop import draw_from, initialised_by
from lab.training.part import train_part
from lab.training.task import Stage, Task, TrainingConfig
from receiver.bundles.bundle import find_bundle, load_codec, write_part
from receiver.bundles.weights import half_precision
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.codecs.codec import Codec
from receiver.images.fashion_mnist import load_fashion_mnist
from receiver.priors.denoiser import NetworkDenoiser
from receiver.priors.unet import PriorConfig, UNetDenoiser
from sdr.errors import ConfigError
from sdr.progress import Progress, silent

EVAL_STEPS = (25, 50, 100, 200, 400, 700)
"""Steps at which the prior's one-shot estimate is evaluated."""

CODEC_TRAINING = TrainingConfig(steps=6000, minutes=30, learning_rate=1.5e-3)
PRIOR_TRAINING = TrainingConfig(steps=11_000, minutes=60)
REALISM_TRAINING = TrainingConfig(steps=1200, minutes=3, warmup_steps=50)


def codec_loss(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error over the channels of `transmit`."""
    return (transmit(codec, images, generator) - images).square().mean()


def evaluate_codec(codec: Codec, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Measure the mean PSNR in dB over `images` on AWGN and over fading, at each of `EVAL_CSNR_DB`.

    Returns:
        by "psnr_db at <csnr> dB" and "psnr_db at <csnr> dB, fading".
    """
    generator = torch.Generator().manual_seed(seed)
    awgn = channel_quality(codec, images, transmit_awgn, generator)
    fading = channel_quality(codec, images, transmit_fading, generator)
    return awgn | {f"{key}, fading": value for key, value in fading.items()}


def train_codec(
    out: str | Path,
    config: TrainingConfig = CODEC_TRAINING,
    architecture: AdjsccConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the ADJSCC codec and write it to a bundle folder.

    Args:
        out: bundle folder; gets codec.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the network; that of `start`, or the shipped one, when missing.
        start: a bundle (name or folder) whose codec training begins with; its own initialisation when missing.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.fashion_mnist`.
        progress: called with the steps that are done.

    Returns:
        quality on the test split, see `evaluate_codec`.
    """
    out = Path(out)
    begun = None if start is None else load_codec(find_bundle(start))
    if begun is not None:
        if begun.family != AdjsccConfig.family:
            raise ConfigError(f"The codec of {start} is for photographs. Name a bundle like fashion.")
        architecture = architecture or begun.config
        if architecture != begun.config:
            raise ConfigError(f"The codec of {start} is {begun.config}, not {architecture}. Leave one of them out.")
    sizes = AdjsccConfig() if architecture is None else architecture
    images, labels = load_fashion_mnist("train", data)
    with initialised_by(config.seed):
        codec = AdjsccCodec(sizes)
    if begun is not None:
        codec.load_state_dict(begun.state_dict())
    codec.to(device=config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on CPUs; the prior is faster without
    task = Task(
        name="codec",
        model=codec,
        loss=lambda batch, _labels, generator: codec_loss(codec, batch, generator),
        stages=[Stage(draw_from(images.to(config.device), labels.to(config.device)))],
        export=lambda ema: write_part(out, "codec", asdict(sizes), ema.network.state_dict()),
        architecture=asdict(sizes) | ({} if begun is None else {"start": begun.digest}),
    )
    test_images = load_fashion_mnist("test", data)[0]
    return train_part(task, out, config, lambda ema: evaluate_codec(ema, test_images), resume=resume, progress=progress)


def prior_loss(denoiser: NetworkDenoiser, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the prediction at uniformly drawn steps; images in [0, 1]."""
    t = torch.randint(1, denoiser.schedule.num_steps + 1, (len(images),), generator=generator, device=images.device)
    return prediction_errors(denoiser, images, t, generator).mean()


def evaluate_prior(denoiser: UNetDenoiser, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Measure the mean loss over `images` (each at one random step), and `one_shot_quality` over the first 1000."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        losses = [float(prior_loss(denoiser, part, generator)) for part in images.split(250)]
    quality = {f"{denoiser.prediction}-MSE": round(sum(losses) / len(losses), 4)}
    return quality | one_shot_quality(denoiser, images[:1000], EVAL_STEPS, generator)


def train_prior(
    out: str | Path,
    config: TrainingConfig = PRIOR_TRAINING,
    architecture: PriorConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the diffusion prior and write it to a bundle folder.

    Args:
        out: bundle folder; gets prior.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the network; the shipped one when missing.
        start: a bundle (name or folder) whose prior, of this architecture, training begins with.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.fashion_mnist`.
        progress: called with the steps that are done.

    Returns:
        quality on the test split, see `evaluate_prior`.
    """
    out = Path(out)
    sizes = PriorConfig() if architecture is None else architecture
    with initialised_by(config.seed):
        denoiser = sizes.denoiser()
    images, labels = load_fashion_mnist("train", data)
    origin = start_denoiser(denoiser, start)
    denoiser.to(config.device)
    task = Task(
        name="prior",
        model=denoiser,
        loss=lambda batch, _labels, generator: prior_loss(denoiser, batch, generator),
        stages=[Stage(draw_from(images.to(config.device), labels.to(config.device)))],
        export=lambda ema: write_part(out, "prior", asdict(sizes), ema.unet.state_dict()),
        architecture=asdict(sizes) | origin,
    )
    test_images = load_fashion_mnist("test", data)[0]
    return train_part(task, out, config, lambda ema: evaluate_prior(ema, test_images), resume=resume, progress=progress)


def train_realism(
    out: str | Path,
    config: TrainingConfig = REALISM_TRAINING,
    architecture: RealismConfig | None = None,
    *,
    resume: bool = True,
    data: str | Path | None = None,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the classifier behind the realism distance, take the reference statistics, and write both.

    Args:
        out: bundle folder; gets realism.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the sizes; the shipped ones when missing.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.fashion_mnist`.
        progress: called with the steps that are done.

    Returns:
        quality on the test split, see `evaluate_realism`.
    """
    out = Path(out)
    sizes = RealismConfig() if architecture is None else architecture
    images, labels = load_fashion_mnist("train", data)
    with initialised_by(config.seed):
        net = FeatureNet(sizes).to(config.device)

    def export(ema: FeatureNet) -> None:
        # What ships is rounded to float16, so the reference is taken with the rounded weights.
        rounded = FeatureNet(sizes)
        rounded.load_state_dict({key: value.float() for key, value in half_precision(ema.state_dict()).items()})
        realism = Realism(sizes, rounded)
        realism.fit_reference(images)
        write_part(out, "realism", asdict(sizes), realism.state_dict())

    task = Task(
        name="realism",
        model=net,
        loss=lambda batch, classes, _generator: F.cross_entropy(net(batch).float(), classes),
        stages=[Stage(draw_from(images.to(config.device), labels.to(config.device)))],
        export=export,
        architecture=asdict(sizes),
    )

    def evaluate(_ema: FeatureNet) -> dict[str, float]:
        return evaluate_realism(load_realism(out), *load_fashion_mnist("test", data))

    return train_part(task, out, config, evaluate, resume=resume, progress=progress)


def evaluate_realism(realism: Realism, images: Tensor, labels: Tensor, count: int = 1000) -> dict[str, float]:
    """Measure the classifier's accuracy over all `images`, and how the distances rate damage to the first `count`."""
    assert realism.net is not None
    with torch.no_grad():
        hits = [
            (realism.net(part).argmax(1) == true).sum()
            for part, true in zip(images.split(500), labels.split(500), strict=True)
        ]
    first = images[:count]
    blurred = F.interpolate(F.avg_pool2d(first, 2), scale_factor=2, mode="bilinear")
    noisy = first + 0.05 * torch.randn(first.shape, generator=torch.Generator().manual_seed(7))
    quality = {"accuracy": round(int(torch.stack(hits).sum()) / len(images), 4)}
    for kind in DISTANCES:
        for name, damaged in (("originals", first), ("blurred", blurred), ("noise 0.05", noisy)):
            quality[f"{kind} distance, {name}, n = {len(first)}"] = round(realism.distance(damaged, kind), 4)
    return quality
