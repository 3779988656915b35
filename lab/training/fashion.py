"""Training of the shipped models: codec, prior and realism features, on the training split of Fashion-MNIST.

One loop serves all three: AdamW, warm-up and cosine decay, an exponential moving average (EMA) of the weights, which is
what ships, and checkpoints from which a run goes on. Everything lands in one bundle folder, see
`receiver.bundles.bundle`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lab.evaluation.metrics import psnr_db
from lab.evaluation.realism import DISTANCES, FeatureNet, Realism, RealismConfig, load_realism
from lab.training.card import write_facts
from lab.training.channel import EVAL_CSNR_DB, transmit, transmit_awgn, transmit_fading
from lab.training.loop import TrainingConfig, draw_from, fit, initialised_by
from receiver.bundles import bundle as bundles
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.codecs.codec import Codec, weights_digest
from receiver.images.fashion_mnist import load_fashion_mnist
from receiver.priors.local import LocalDenoiser
from receiver.priors.unet import PriorConfig, UNetDenoiser
from sdr.errors import ConfigError

#: Where the prior's one-shot estimate is evaluated.
EVAL_STEPS = (25, 50, 100, 200, 400, 700)


CODEC_TRAINING = TrainingConfig(steps=6000, minutes=30, learning_rate=1.5e-3)
PRIOR_TRAINING = TrainingConfig(steps=11_000, minutes=60)
REALISM_TRAINING = TrainingConfig(steps=1200, minutes=3, warmup_steps=50)


def codec_loss(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error over the channels of `transmit`."""
    return (transmit(codec, images, generator) - images).square().mean()


def evaluate_codec(codec: AdjsccCodec, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Mean PSNR in dB over `images` on AWGN and over fading at each of `EVAL_CSNR_DB`.

    Keyed "psnr_db at <csnr> dB" and "psnr_db at <csnr> dB, fading".
    """
    generator = torch.Generator().manual_seed(seed)
    quality = {}
    with torch.no_grad():
        for transmit, suffix in ((transmit_awgn, ""), (transmit_fading, ", fading")):
            for csnr_db in EVAL_CSNR_DB:
                values = [
                    psnr_db(transmit(codec, part, torch.full((len(part),), csnr_db), generator).clamp(0, 1), part)
                    for part in images.split(250)
                ]
                quality[f"psnr_db at {csnr_db:g} dB{suffix}"] = round(float(torch.cat(values).mean()), 2)
    return quality


def train_codec(
    out: str | Path,
    config: TrainingConfig = CODEC_TRAINING,
    architecture: AdjsccConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path | None = None,
) -> dict[str, float]:
    """Train the ADJSCC codec and write it to the bundle folder `out`.

    Args:
        out: bundle folder; gets codec.safetensors, its section of bundle.toml, codec.csv and .png, a checkpoint.
        config: the recipe.
        architecture: the network; that of `start`, or the shipped one, when missing.
        start: a bundle (name or folder) whose codec training begins with; its own initialisation when missing.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.files`.

    Returns:
        Quality on the test split, see `evaluate_codec`.
    """
    out = Path(out)
    begun = None if start is None else bundles.load_codec(bundles.find_bundle(start))
    if begun is not None:
        if not isinstance(begun, AdjsccCodec):
            raise ConfigError(f"The codec of {start} is for photographs. Name a bundle like fashion.")
        architecture = architecture or begun.config
        if architecture != begun.config:
            raise ConfigError(f"The codec of {start} is {begun.config}, not {architecture}. Leave one of them out.")
    architecture = AdjsccConfig() if architecture is None else architecture
    images, labels = load_fashion_mnist("train", data)
    with initialised_by(config.seed):
        codec = AdjsccCodec(architecture)
    if begun is not None:
        codec.load_state_dict(begun.state_dict())
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on CPUs; the prior is faster without

    def export(ema: nn.Module) -> None:
        assert isinstance(ema, AdjsccCodec)
        bundles.write_part(out, "codec", asdict(architecture), ema.network.state_dict())

    state = fit(
        "codec",
        codec,
        lambda batch, _labels, generator: codec_loss(codec, batch, generator),
        draw_from(images, labels),
        config,
        out,
        resume=resume,
        export=export,
        architecture=asdict(architecture) | ({} if begun is None else {"start": begun.digest}),
    )
    assert isinstance(state.ema, AdjsccCodec)
    quality = evaluate_codec(state.ema, load_fashion_mnist("test", data)[0])
    write_facts(out, "codec", config, state, quality)
    return quality


def prior_loss(denoiser: UNetDenoiser, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the prediction at uniformly drawn steps; images in [0, 1]."""
    x_0 = 2 * images - 1
    t = torch.randint(1, denoiser.schedule.num_steps + 1, (len(images),), generator=generator)
    eps = torch.randn(x_0.shape, generator=generator)
    prediction = denoiser.predict(denoiser.schedule.diffuse(x_0, t, eps), t)
    if denoiser.prediction == "epsilon":
        return (prediction - eps).square().mean()
    signal, noise = denoiser.schedule.coefficients(t, x_0)
    return (prediction - (signal * eps - noise * x_0)).square().mean()


def evaluate_prior(denoiser: UNetDenoiser, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Mean loss over `images` (each at one random step), and the mean PSNR of the one-shot x0_hat at `EVAL_STEPS`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        losses = [float(prior_loss(denoiser, part, generator)) for part in images.split(250)]
        quality = {f"{denoiser.prediction}-MSE": round(sum(losses) / len(losses), 4)}
        for step in EVAL_STEPS:
            values = []
            for part in images[:1000].split(250):
                t = torch.full((len(part),), step)
                x_t = denoiser.schedule.diffuse(2 * part - 1, t, torch.randn(part.shape, generator=generator))
                values.append(psnr_db(((denoiser(x_t, t) + 1) / 2).clamp(0, 1), part))
            quality[f"x0_hat psnr_db at t = {step}"] = round(float(torch.cat(values).mean()), 2)
    return quality


def start_prior(denoiser: UNetDenoiser | LocalDenoiser, start: str | Path | None) -> dict[str, str]:
    """Give a prior the weights of that of the bundle `start`; what the record of a run says of its beginning.

    Raises:
        ConfigError: that one is made of something else.
    """
    if start is None:
        return {}
    begun = bundles.load_denoiser(start)
    try:
        denoiser.load_state_dict(begun.state_dict())
    except RuntimeError as error:
        raise ConfigError(f"The prior of {start} is of another kind. Give a bundle of the same kind.") from error
    return {"start": weights_digest({}, begun.state_dict())}


def train_prior(
    out: str | Path,
    config: TrainingConfig = PRIOR_TRAINING,
    architecture: PriorConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path | None = None,
) -> dict[str, float]:
    """Train the diffusion prior and write it to the bundle folder `out`.

    Args:
        out: bundle folder; gets prior.safetensors, its section of bundle.toml, prior.csv and .png, a checkpoint.
        config: the recipe.
        architecture: the network; the shipped one when missing.
        start: a bundle (name or folder) whose prior, of this architecture, training begins with.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.files`.

    Returns:
        Quality on the test split, see `evaluate_prior`.
    """
    out = Path(out)
    architecture = PriorConfig() if architecture is None else architecture
    with initialised_by(config.seed):
        denoiser = architecture.denoiser()
    origin = start_prior(denoiser, start)
    images, labels = load_fashion_mnist("train", data)

    def export(ema: nn.Module) -> None:
        assert isinstance(ema, UNetDenoiser)
        bundles.write_part(out, "prior", asdict(architecture), ema.unet.state_dict())

    state = fit(
        "prior",
        denoiser,
        lambda batch, _labels, generator: prior_loss(denoiser, batch, generator),
        draw_from(images, labels),
        config,
        out,
        resume=resume,
        export=export,
        architecture=asdict(architecture) | origin,
    )
    assert isinstance(state.ema, UNetDenoiser)
    quality = evaluate_prior(state.ema, load_fashion_mnist("test", data)[0])
    write_facts(out, "prior", config, state, quality)
    return quality


def train_realism(
    out: str | Path,
    config: TrainingConfig = REALISM_TRAINING,
    architecture: RealismConfig | None = None,
    *,
    resume: bool = True,
    data: str | Path | None = None,
) -> dict[str, float]:
    """Train the classifier behind the realism distance, take the reference statistics, and write both to `out`.

    Args:
        out: bundle folder; gets realism.safetensors, its section of bundle.toml, realism.csv and .png, a checkpoint.
        config: the recipe.
        architecture: the sizes; the shipped ones when missing.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.files`.

    Returns:
        Quality on the test split, see `evaluate_realism`.
    """
    out = Path(out)
    architecture = RealismConfig() if architecture is None else architecture
    images, labels = load_fashion_mnist("train", data)
    with initialised_by(config.seed):
        net = FeatureNet(architecture)

    def export(ema: nn.Module) -> None:
        assert isinstance(ema, FeatureNet)
        # What ships is rounded to float16, so the reference is taken with the rounded weights.
        rounded = FeatureNet(architecture)
        rounded.load_state_dict({key: value.float() for key, value in bundles.half_precision(ema.state_dict()).items()})
        realism = Realism(architecture, rounded)
        realism.fit_reference(images)
        bundles.write_part(out, "realism", asdict(architecture), realism.state_dict())

    state = fit(
        "realism",
        net,
        lambda batch, classes, _generator: F.cross_entropy(net(batch).float(), classes),
        draw_from(images, labels),
        config,
        out,
        resume=resume,
        export=export,
        architecture=asdict(architecture),
    )
    quality = evaluate_realism(load_realism(out), *load_fashion_mnist("test", data))
    write_facts(out, "realism", config, state, quality)
    return quality


def evaluate_realism(realism: Realism, images: Tensor, labels: Tensor, count: int = 1000) -> dict[str, float]:
    """The classifier's accuracy over all `images`, and how the distances rate known damage to the first `count`."""
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
