"""Training of the models for photographs of any size, on crops of the photographs of `lab.training.photographs`.

The loop, the losses and the checkpoints are those of `lab.training.fashion`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.metrics import psnr_db
from lab.evaluation.realism import Realism, RealismConfig
from lab.training.card import write_card, write_facts
from lab.training.channel import EVAL_CSNR_DB, transmit, transmit_awgn
from lab.training.confidence import BATCH, fit_error_net, many_examples
from lab.training.fashion import start_prior
from lab.training.linear_codec import LINEAR_SIDES, start_linear
from lab.training.loop import Draw, TrainingConfig, draw_from, fit, initialised_by
from lab.training.mixture import fit_mixture, mean_log_likelihood
from lab.training.photographs import CROP, VIEW_SIDE, CropPool, load_split, middle_squares, shrink
from receiver.acceptance import CONFIDENCE_SIDE
from receiver.bundles import bundle as bundles
from receiver.bundles.side_models import write_mixture
from receiver.codecs.codec import CSNR_RANGE_DB
from receiver.codecs.local import LocalCodec, LocalCodecConfig
from receiver.priors.local import LocalDenoiser, LocalPriorConfig
from sdr.errors import ConfigError

CODEC_TRAINING = TrainingConfig(steps=60_000, minutes=82, batch=8, learning_rate=4e-4, warmup_steps=200)
PRIOR_TRAINING = TrainingConfig(steps=60_000, minutes=75, batch=6, learning_rate=8e-4, warmup_steps=300)
CONFIDENCE_TRAINING = TrainingConfig(steps=3000, minutes=8, batch=32)
#: What the codec of each shipped bundle is made of: CBR 1/48, and 1/24 with levels a fifth of the size.
CODECS = {
    "photo": LocalCodecConfig(widths=(96, 128, 192), encoder_blocks=(1, 1, 3), decoder_blocks=(2, 2, 4)),
    "photo24": LocalCodecConfig(
        features=64, widths=(32, 48, 72), encoder_blocks=(1, 1, 2), decoder_blocks=(2, 2, 3), embedding=32
    ),
}
#: Squared error at which the codec's loss begins to flatten: 35 dB.
ERROR_FLOOR = 3e-4
#: Level of the features' scale from which a crop is held back.
LEVEL_MARGIN = 2.0
#: Where the prior's one-shot estimate is evaluated.
EVAL_STEPS = (25, 60, 110, 213, 400, 700)


def codec_loss(codec: LocalCodec, crops: Tensor, generator: torch.Generator) -> Tensor:
    """Mean logarithm of each crop's squared error, what PSNR averages: smooth photographs count as much as rough ones.

    `ERROR_FLOOR` keeps the smoothest from counting for more than that. The scale of the features is free as long as it
    can be told, and would wander off to where it can't: it is held where it was.
    """
    sent: list[Tensor] = []

    def keep(_network: object, _inputs: object, features: Tensor) -> None:
        sent.append(features)

    with codec.network.encoder.register_forward_hook(keep):
        errors = (transmit(codec, crops, generator) - crops).square().mean(dim=(1, 2, 3))
    levels = torch.cat([codec.level(features.float()) for features in sent])
    wandered = levels.mean().square() + (levels.abs() - LEVEL_MARGIN).relu().square().mean()
    return (errors + ERROR_FLOOR).log().mean() + wandered


def _draw_crops(pool: CropPool) -> Draw:
    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        crops = pool.draw(count, generator).to(memory_format=torch.channels_last)
        return crops, torch.zeros(count, dtype=torch.int64)

    return draw


def train_codec(
    out: str | Path,
    config: TrainingConfig = CODEC_TRAINING,
    architecture: LocalCodecConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path,
) -> dict[str, float]:
    """Make the local codec and write it to the bundle folder `out`; as `lab.training.fashion.train_codec`.

    Its linear maps are found in closed form; the levels, where the architecture has any, are trained on crops.

    Args:
        start: bundle whose codec is trained further, instead of a linear one. Blocks that `architecture` has beyond
            that codec's start as the identity.
        data: folder of the collected photographs.

    Returns:
        Quality on the test photographs, see `evaluate_codec`.
    """
    out = Path(out)
    begun = None if start is None else bundles.load_codec(bundles.find_bundle(start))
    if begun is not None and not isinstance(begun, LocalCodec):
        raise ConfigError(f"Bundle {start} has no codec for photographs. Give one like photo with --from.")
    architecture = CODECS["photo"] if architecture is None else architecture
    _, images = load_split(data, "train")
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    with initialised_by(config.seed):
        codec = LocalCodec(architecture)
    if begun is None:
        start_linear(codec, images, torch.Generator().manual_seed(config.seed))
    else:
        _start_from(codec, begun)

    def export(ema: torch.nn.Module) -> None:
        assert isinstance(ema, LocalCodec)
        bundles.write_part(out, "codec", {"network": "local", **asdict(architecture)}, ema.network.state_dict())

    if not architecture.widths:
        export(codec)
        quality = evaluate_codec(codec, views)
        _write_untrained(out, "codec", sum(parameter.numel() for parameter in codec.parameters()), quality)
        return quality
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_crops = codec.at((architecture.channels, CROP, CROP))
    state = fit(
        "codec",
        codec,
        lambda batch, _labels, generator: codec_loss(on_crops, batch, generator),
        _draw_crops(CropPool(images, CROP)),
        config,
        out,
        resume=resume,
        export=export,
        architecture={**asdict(architecture), "crop": CROP, "from": None if begun is None else begun.digest},
        started=[*codec.network.encoder.direct.parameters(), *codec.network.decoder.direct.parameters()],
    )
    assert isinstance(state.ema, LocalCodec)
    quality = evaluate_codec(state.ema, views)
    write_facts(out, "codec", config, state, quality)
    return quality


def _start_from(codec: LocalCodec, begun: LocalCodec) -> None:
    try:
        missing, unexpected = codec.load_state_dict(begun.state_dict(), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{codec.config} can't be started from {begun.config}. Give the same widths.") from error
    if unexpected or any(".levels." not in name for name in missing):
        raise ConfigError(f"{codec.config} can't be started from {begun.config}. Give at least as many blocks.")


#: Components and factors of the mixture of words, and the most words of a copy of a photograph that it is fitted to.
COMPONENTS, FACTORS, WORDS_PER_COPY = 32, 16, 400


def train_mixture(out: str | Path, *, seed: int = 0, data: str | Path) -> dict[str, float]:
    """Fit the mixture to the words (blocks) of the training photographs as the codec of the bundle `out` encodes them.

    Returns:
        mean log-likelihood in nats per real part of a symbol, of the training and of the test photographs.
    """
    out = Path(out)
    codec = bundles.load_codec(bundles.find_bundle(out))
    assert isinstance(codec, LocalCodec)
    generator = torch.Generator().manual_seed(seed)
    train, test = (_words(codec, load_split(data, split)[1], generator) for split in ("train", "test"))
    factors = min(FACTORS, codec.config.features - 1)
    mixture = fit_mixture(train, generator, components=COMPONENTS, factors=factors)
    write_mixture(out, mixture, codec)
    return {
        f"nats per real symbol, {name} photographs": round(mean_log_likelihood(mixture, words), 3)
        for name, words in (("training", train), ("test", test))
    }


@torch.no_grad()
def _words(codec: LocalCodec, images: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """(n, W) words of copies of photographs, as they are before their signs, in random order."""
    low, high = CSNR_RANGE_DB
    found = []
    for copy in (shrink(image, side) for image in images for side in LINEAR_SIDES):
        bound = codec.at((copy.shape[0], copy.shape[1], copy.shape[2]))
        z = bound.encode(copy[None], low + (high - low) * torch.rand(1, generator=generator))[0]
        words = z[bound.words.places] * bound.words.signs[:, None]
        found.append(words[torch.randperm(len(words), generator=generator)[:WORDS_PER_COPY]])
    together = torch.cat(found)
    return together[torch.randperm(len(together), generator=generator)]


def evaluate_codec(codec: LocalCodec, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Mean PSNR in dB over whole photographs (n, 3, H, W) on AWGN at each of `EVAL_CSNR_DB`."""
    bound = codec.at((images.shape[1], images.shape[2], images.shape[3]))
    generator = torch.Generator().manual_seed(seed)
    quality = {}
    with torch.no_grad():
        for csnr_db in EVAL_CSNR_DB:
            told = torch.full((len(images),), csnr_db)
            values = psnr_db(transmit_awgn(bound, images, told, generator).clamp(0, 1), images)
            quality[f"psnr_db at {csnr_db:g} dB"] = round(float(values.mean()), 2)
    return quality


def prior_loss(denoiser: LocalDenoiser, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error of the velocity; small steps, from which photographs are refined, are drawn more often."""
    x_0 = 2 * images - 1
    steps = denoiser.schedule.num_steps
    t = (steps * torch.rand(len(images), generator=generator).square()).long() + 1
    eps = torch.randn(x_0.shape, generator=generator)
    signal, noise = denoiser.schedule.coefficients(t, x_0)
    prediction = denoiser.predict(signal * x_0 + noise * eps, t)
    return (prediction - (signal * eps - noise * x_0)).square().mean()


def evaluate_prior(denoiser: LocalDenoiser, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Mean PSNR in dB of the one-shot x0_hat over whole photographs (n, 3, H, W) at each of `EVAL_STEPS`."""
    generator = torch.Generator().manual_seed(seed)
    quality = {}
    with torch.no_grad():
        for step in EVAL_STEPS:
            t = torch.full((len(images),), step)
            x_t = denoiser.schedule.diffuse(2 * images - 1, t, torch.randn(images.shape, generator=generator))
            values = psnr_db(((denoiser(x_t, t) + 1) / 2).clamp(0, 1), images)
            quality[f"x0_hat psnr_db at t = {step}"] = round(float(values.mean()), 2)
    return quality


def train_prior(
    out: str | Path,
    config: TrainingConfig = PRIOR_TRAINING,
    architecture: LocalPriorConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path,
) -> dict[str, float]:
    """Train the local prior on crops and write it to the bundle folder `out`; as `lab.training.fashion.train_prior`.

    Args:
        start: bundle whose prior, of the same architecture, is trained further.
        data: folder of the collected photographs.
    """
    out = Path(out)
    architecture = LocalPriorConfig() if architecture is None else architecture
    with initialised_by(config.seed):
        denoiser = architecture.denoiser()
    origin = start_prior(denoiser, start)
    _, images = load_split(data, "train")
    denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def export(ema: torch.nn.Module) -> None:
        assert isinstance(ema, LocalDenoiser)
        bundles.write_part(out, "prior", {"network": "local", **asdict(architecture)}, ema.unet.state_dict())

    state = fit(
        "prior",
        denoiser,
        lambda batch, _labels, generator: prior_loss(denoiser, batch, generator),
        _draw_crops(CropPool(images, CROP)),
        config,
        out,
        resume=resume,
        export=export,
        architecture={**asdict(architecture), "crop": CROP, **origin},
    )
    assert isinstance(state.ema, LocalDenoiser)
    quality = evaluate_prior(state.ema, middle_squares(load_split(data, "test")[1], VIEW_SIDE))
    write_facts(out, "prior", config, state, quality)
    return quality


#: Crops that the network behind `accepted` is trained and tested on.
CONFIDENCE_EXAMPLES, CONFIDENCE_TESTS = 6144, 1024


def train_confidence(
    out: str | Path,
    config: TrainingConfig = CONFIDENCE_TRAINING,
    *,
    resume: bool = True,
    data: str | Path,
    examples: int = CONFIDENCE_EXAMPLES,
    tests: int = CONFIDENCE_TESTS,
) -> dict[str, float]:
    """Train the network that tells how wrong a decoded photograph is likely to be, on crops as they are decoded.

    As `lab.training.confidence.train_confidence`, but for what comes blindly through the receiver.
    """
    out = Path(out)
    codec = bundles.load_codec(bundles.find_bundle(out))
    if not isinstance(codec, LocalCodec):
        raise ConfigError(f"The codec in {out} is not for photographs. Give --out of a bundle like photo.")
    codec = codec.at((codec.config.channels, CONFIDENCE_SIDE, CONFIDENCE_SIDE))
    pool, test_pool = (CropPool(load_split(data, split)[1], CONFIDENCE_SIDE) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(config.seed)
    parts = [
        many_examples(codec, pool.draw(min(BATCH, examples - first), generator), generator)
        for first in range(0, examples, BATCH)
    ]
    # Drawn a batch at a time, and kept in half precision: gigabytes otherwise.
    plainly = draw_from(torch.cat([x_d.half() for x_d, _ in parts]), torch.cat([told for _, told in parts]))

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_d, told = plainly(count, generator)
        return x_d.float(), told

    return fit_error_net(
        out,
        codec,
        draw,
        test_pool.draw(tests, torch.Generator().manual_seed(7)),
        config,
        resume=resume,
        architecture={"examples": examples, "crop": CONFIDENCE_SIDE},
    )


#: Shorter sides of the photographs whose patches are the reference of the realism distance.
REFERENCE_SIDES = (256, 512)


def train_realism(out: str | Path, *, data: str | Path) -> dict[str, float]:
    """Take the patch statistics of the training photographs, and write them to the bundle folder `out`.

    Returns:
        the distances of the test photographs, whole, blurred and noisy.
    """
    out = Path(out)
    architecture = RealismConfig(channels=3, classes=0)
    realism = Realism(architecture)
    _, images = load_split(data, "train")
    realism.fit_reference([shrink(image, side) for image in images for side in REFERENCE_SIDES])
    bundles.write_part(out, "realism", asdict(architecture), realism.state_dict())
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    blurred = F.interpolate(F.avg_pool2d(views, 2), scale_factor=2, mode="bilinear")
    noisy = views + 0.05 * torch.randn(views.shape, generator=torch.Generator().manual_seed(7))
    quality = {
        f"patch distance, {name}, n = {len(views)}": round(realism(damaged), 4)
        for name, damaged in (("originals", views), ("blurred", blurred), ("noise 0.05", noisy))
    }
    _write_untrained(out, "realism", 0, quality)
    return quality


def _write_untrained(out: Path, part: str, parameters: int, quality: dict[str, float]) -> None:
    """The record of a part that was found in closed form, and the model card."""
    facts = {"parameters": parameters, "quality": quality}
    bundles.write_bytes(out / f"{part}.json", (json.dumps(facts, indent=2) + "\n").encode())
    write_card(out)
