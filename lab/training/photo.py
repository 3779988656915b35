"""Train the models for photographs of any size, on crops of the photographs of `lab.training.photographs`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.realism import Realism, RealismConfig
from lab.training.card import write_untrained
from lab.training.channel import channel_quality, transmit, transmit_awgn
from lab.training.confidence import BATCH, fit_error_net, many_examples
from lab.training.diffusion import one_shot_quality, prediction_loss, start_denoiser
from lab.training.linear_codec import LINEAR_SIDES, start_linear
from lab.training.loop import Draw, Task, TrainingConfig, draw_from, initialised_by
from lab.training.mixture import fit_mixture, mean_log_likelihood
from lab.training.part import train_part
from lab.training.photographs import CROP, VIEW_SIDE, CropPool, load_split, middle_squares, shrink
from receiver.acceptance import CONFIDENCE_SIDE
from receiver.bundles.bundle import find_bundle, load_codec, write_part
from receiver.bundles.side_models import write_mixture
from receiver.codecs.codec import CSNR_RANGE_DB, Codec, NetworkCodec
from receiver.codecs.local import LocalCodec, LocalCodecConfig, LocalCodecNetwork
from receiver.priors.denoiser import NetworkDenoiser
from receiver.priors.local import LocalPriorConfig
from sdr.errors import ConfigError
from sdr.progress import Progress, silent

CODEC_TRAINING = TrainingConfig(steps=60_000, minutes=82, batch=8, learning_rate=4e-4, warmup_steps=200)
PRIOR_TRAINING = TrainingConfig(steps=60_000, minutes=75, batch=6, learning_rate=8e-4, warmup_steps=300)
CONFIDENCE_TRAINING = TrainingConfig(steps=3000, minutes=8, batch=32)
CODECS = {
    "photo": LocalCodecConfig(widths=(96, 128, 192), encoder_blocks=(1, 1, 3), decoder_blocks=(2, 2, 4)),
    "photo24": LocalCodecConfig(
        features=64, widths=(32, 48, 72), encoder_blocks=(1, 1, 2), decoder_blocks=(2, 2, 3), embedding=32
    ),
}
"""Codec of each shipped bundle: CBR 1/48, and 1/24 with levels a fifth of the size."""

ERROR_FLOOR = 3e-4
"""Squared error at which the codec's loss begins to flatten: 35 dB."""

LEVEL_MARGIN = 2.0
"""Level of the features' scale from which a crop is held back, standard deviations."""

EVAL_STEPS = (25, 60, 110, 213, 400, 700)
"""Steps at which the prior's one-shot estimate is evaluated."""


def codec_loss(codec: LocalCodec, crops: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean logarithm of each crop's squared error, so that smooth photographs count as much as rough ones.

    `ERROR_FLOOR` keeps the smoothest from counting for more than that. The scale of the features is free within the
    range that symbols can state, and would wander out of it: it is held where it was.
    """
    sent: list[Tensor] = []

    def keep(_network: object, _inputs: object, features: Tensor) -> None:
        sent.append(features)

    with codec.network.encoder.register_forward_hook(keep):
        errors = (transmit(codec, crops, generator) - crops).square().mean(dim=(1, 2, 3))
    levels = torch.cat([codec.level(features.float()) for features in sent])
    wandered = levels.mean().square() + (levels.abs() - LEVEL_MARGIN).relu().square().mean()
    return (errors + ERROR_FLOOR).log().mean() + wandered


def _draw_crops(images: Sequence[Tensor]) -> Draw:
    """Return a function that draws crops of photographs, with zeros beside them."""
    pool = CropPool(images, CROP)

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
    progress: Progress = silent,
) -> dict[str, float]:
    """Make the local codec and write it to a bundle folder.

    Its linear maps are found in closed form; the levels, where the architecture has any, are trained on crops.

    Args:
        out: bundle folder; gets codec.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the network; that of the bundle `photo` when missing.
        start: bundle whose codec is trained further, instead of a linear one. Blocks that `architecture` has beyond
            that codec's start as the identity.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of the collected photographs.
        progress: called with the steps that are done.

    Returns:
        quality on the test photographs, see `evaluate_codec`.
    """
    out = Path(out)
    begun = None if start is None else load_codec(find_bundle(start))
    if begun is not None and begun.family != LocalCodecConfig.family:
        raise ConfigError(f"Bundle {start} has no codec for photographs. Give one like photo with --from.")
    sizes = CODECS["photo"] if architecture is None else architecture
    _, images = load_split(data, "train")
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    with initialised_by(config.seed):
        codec = LocalCodec(sizes)
    if begun is None:
        start_linear(codec, images, torch.Generator().manual_seed(config.seed))
    else:
        start_codec(codec, begun)

    def export(ema: LocalCodec) -> None:
        write_part(out, "codec", {"network": sizes.family, **asdict(sizes)}, ema.network.state_dict())

    if not sizes.widths:
        export(codec)
        quality = evaluate_codec(codec, views)
        write_untrained(out, "codec", sum(parameter.numel() for parameter in codec.parameters()), quality)
        return quality
    codec.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    on_crops = codec.for_shape((sizes.channels, CROP, CROP))
    task = Task(
        name="codec",
        model=codec,
        loss=lambda batch, _labels, generator: codec_loss(on_crops, batch, generator),
        draw=_draw_crops(images),
        export=export,
        architecture={**asdict(sizes), "crop": CROP, "from": None if begun is None else begun.digest},
        started=[*codec.network.encoder.direct.parameters(), *codec.network.decoder.direct.parameters()],
    )
    return train_part(task, out, config, lambda ema: evaluate_codec(ema, views), resume=resume, progress=progress)


def start_codec(codec: LocalCodec, begun: NetworkCodec) -> None:
    """Give a codec the weights of another one; blocks that it has beyond that one's stay the identity.

    Raises:
        ConfigError: other widths, or fewer blocks.
    """
    try:
        missing, unexpected = codec.load_state_dict(begun.state_dict(), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{codec.config} can't be started from {begun.config}. Give the same widths.") from error
    if unexpected or any(".levels." not in name for name in missing):
        raise ConfigError(f"{codec.config} can't be started from {begun.config}. Give at least as many blocks.")


#: Components and factors of the mixture of words, and the most words that a copy of a photograph gives to its fit.
COMPONENTS, FACTORS, WORDS_PER_COPY = 32, 16, 400


def train_mixture(out: str | Path, *, seed: int = 0, data: str | Path) -> dict[str, float]:
    """Fit the mixture to the words (blocks) of the training photographs as the codec of a bundle encodes them.

    Args:
        out: bundle folder with the codec; gets mixture.safetensors.
        seed: of the fit.
        data: folder of the collected photographs.

    Returns:
        mean log-likelihood in nats per real part of a symbol, of the training and of the test photographs.
    """
    out = Path(out)
    codec = _photo_codec(out)
    generator = torch.Generator().manual_seed(seed)
    train, test = (_words(codec, load_split(data, split)[1], generator) for split in ("train", "test"))
    factors = min(FACTORS, codec.config.features - 1)
    mixture = fit_mixture(train, generator, components=COMPONENTS, factors=factors)
    write_mixture(out, mixture, codec)
    return {
        f"nats per real symbol, {name} photographs": round(mean_log_likelihood(mixture, words), 3)
        for name, words in (("training", train), ("test", test))
    }


def _photo_codec(folder: Path) -> NetworkCodec[LocalCodecConfig, LocalCodecNetwork]:
    """Load the codec of a bundle for photographs.

    Raises:
        ConfigError: it is for something else.
    """
    codec = load_codec(find_bundle(folder))
    if codec.family != LocalCodecConfig.family:
        raise ConfigError(f"The codec in {folder} is not for photographs. Give --out of a bundle like photo.")
    return codec


@torch.no_grad()
def _words(codec: Codec, images: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """Return words (n, W) of copies of photographs, as they are before their signs, in random order."""
    low, high = CSNR_RANGE_DB
    found = []
    for copy in (shrink(image, side) for image in images for side in LINEAR_SIDES):
        bound = codec.for_shape((copy.shape[0], copy.shape[1], copy.shape[2]))
        z = bound.encode(copy[None], low + (high - low) * torch.rand(1, generator=generator))[0]
        words = z[bound.words.places] * bound.words.signs[:, None]
        found.append(words[torch.randperm(len(words), generator=generator)[:WORDS_PER_COPY]])
    together = torch.cat(found)
    return together[torch.randperm(len(together), generator=generator)]


def evaluate_codec(codec: Codec, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Measure the mean PSNR in dB over whole photographs (n, 3, H, W) on AWGN, at each of `EVAL_CSNR_DB`."""
    bound = codec.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    return channel_quality(bound, images, transmit_awgn, torch.Generator().manual_seed(seed))


def prior_loss(denoiser: NetworkDenoiser, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean squared error of the velocity; small steps, which refine photographs, are drawn more often."""
    t = (denoiser.schedule.num_steps * torch.rand(len(images), generator=generator).square()).long() + 1
    return prediction_loss(denoiser, images, t, generator)


def evaluate_prior(denoiser: NetworkDenoiser, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Measure `one_shot_quality` over whole photographs (n, 3, H, W) at each of `EVAL_STEPS`."""
    return one_shot_quality(denoiser, images, EVAL_STEPS, torch.Generator().manual_seed(seed))


def train_prior(
    out: str | Path,
    config: TrainingConfig = PRIOR_TRAINING,
    architecture: LocalPriorConfig | None = None,
    *,
    start: str | Path | None = None,
    resume: bool = True,
    data: str | Path,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the local prior on crops and write it to a bundle folder.

    Args:
        out: bundle folder; gets prior.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the network; the shipped one when missing.
        start: bundle whose prior, of the same architecture, is trained further.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of the collected photographs.
        progress: called with the steps that are done.

    Returns:
        quality on the test photographs, see `evaluate_prior`.
    """
    out = Path(out)
    sizes = LocalPriorConfig() if architecture is None else architecture
    with initialised_by(config.seed):
        denoiser = sizes.denoiser()
    origin = start_denoiser(denoiser, start)
    denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    description = {"network": sizes.family, **asdict(sizes)}
    task = Task(
        name="prior",
        model=denoiser,
        loss=lambda batch, _labels, generator: prior_loss(denoiser, batch, generator),
        draw=_draw_crops(load_split(data, "train")[1]),
        export=lambda ema: write_part(out, "prior", description, ema.unet.state_dict()),
        architecture={**asdict(sizes), "crop": CROP, **origin},
    )
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    return train_part(task, out, config, lambda ema: evaluate_prior(ema, views), resume=resume, progress=progress)


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
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the network that estimates the error of decoded photographs, on crops as they are decoded.

    As `lab.training.confidence.train_confidence`, but for what comes blindly through the receiver.

    Args:
        out: bundle folder with the codec; gets confidence.safetensors and what `train_part` writes.
        config: the recipe.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of the collected photographs.
        examples: crops that it is trained on.
        tests: crops that it is tested on.
        progress: called with the steps that are done.

    Returns:
        quality on crops of test photographs, see `evaluate_confidence`.
    """
    out = Path(out)
    codec = _photo_codec(out)
    codec = codec.for_shape((codec.config.channels, CONFIDENCE_SIDE, CONFIDENCE_SIDE))
    pool, test_pool = (CropPool(load_split(data, split)[1], CONFIDENCE_SIDE) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(config.seed)
    parts = [
        many_examples(codec, pool.draw(min(BATCH, examples - first), generator), generator)
        for first in range(0, examples, BATCH)
    ]
    # Drawn a batch at a time, and kept in half precision: gigabytes otherwise.
    kept = draw_from(torch.cat([x_d.half() for x_d, _ in parts]), torch.cat([targets for _, targets in parts]))

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_d, targets = kept(count, generator)
        return x_d.float(), targets

    return fit_error_net(
        out,
        codec,
        draw,
        test_pool.draw(tests, torch.Generator().manual_seed(7)),
        config,
        architecture={"examples": examples, "crop": CONFIDENCE_SIDE},
        resume=resume,
        progress=progress,
    )


REFERENCE_SIDES = (256, 512)
"""Shorter sides of the photographs whose patches are the reference of the realism distance, pixels."""


def train_realism(out: str | Path, *, data: str | Path) -> dict[str, float]:
    """Take the patch statistics of the training photographs, and write them to a bundle folder.

    Args:
        out: bundle folder; gets realism.safetensors, its section of bundle.toml, its record and README.md.
        data: folder of the collected photographs.

    Returns:
        the distances of the test photographs, whole, blurred and noisy.
    """
    out = Path(out)
    architecture = RealismConfig(channels=3, classes=0)
    realism = Realism(architecture)
    _, images = load_split(data, "train")
    realism.fit_reference([shrink(image, side) for image in images for side in REFERENCE_SIDES])
    write_part(out, "realism", asdict(architecture), realism.state_dict())
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    blurred = F.interpolate(F.avg_pool2d(views, 2), scale_factor=2, mode="bilinear")
    noisy = views + 0.05 * torch.randn(views.shape, generator=torch.Generator().manual_seed(7))
    quality = {
        f"patch distance, {name}, n = {len(views)}": round(realism(damaged), 4)
        for name, damaged in (("originals", views), ("blurred", blurred), ("noise 0.05", noisy))
    }
    write_untrained(out, "realism", 0, quality)
    return quality
