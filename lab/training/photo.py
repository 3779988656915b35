"""Train the models for photographs of any size, on crops of the photographs of `lab.training.photographs`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lab.evaluation.realism import Realism, RealismConfig
from lab.training.card import write_card, write_untrained
from lab.training.channel import channel_quality, transmit, transmit_awgn, transmit_fading
from lab.training.confidence import BATCH, fit_error_net, many_examples
from lab.training.crops import CropPool
from lab.training.diffusion import one_shot_quality, prediction_errors, start_denoiser
from lab.training.linear_codec import LINEAR_SIDES, start_linear
from lab.training.loop import draw_from, initialised_by
from lab.training.mixture import fit_mixture, mean_log_likelihood
from lab.training.part import train_part
from lab.training.photographs import CROP, LARGE_CROP, VIEW_SIDE, load_split, middle_squares, shrink
from lab.training.task import Draw, Stage, Task, TrainingConfig
from receiver.bundles.bundle import find_bundle, load_codec, write_part
from receiver.bundles.side_models import write_covariance, write_mixture
from receiver.codecs.codec import CSNR_RANGE_DB, Codec, NetworkCodec
from receiver.codecs.evening import block_covariance
from receiver.codecs.local import LocalCodec, LocalCodecConfig
from receiver.error_net import CONFIDENCE_SIDE
from receiver.priors.denoiser import NetworkDenoiser
from receiver.priors.local import LocalPriorConfig
from sdr.errors import ConfigError
from sdr.progress import Progress, silent

CODEC_TRAINING = TrainingConfig(steps=60_000, minutes=82, batch=8, learning_rate=4e-4)
PRIOR_TRAINING = TrainingConfig(
    steps=60_000, minutes=75, batch=8, learning_rate=8e-4, second_moment=0.99, warmup_steps=300, ema_decay=0.9993
)
CONFIDENCE_TRAINING = TrainingConfig(steps=3000, minutes=8, batch=32)
GPU_BATCH, GPU_STEPS = 128, 1_000_000
"""Crops per step on a GPU, and more steps than its minutes allow."""
GPU_CODEC_TRAINING = replace(CODEC_TRAINING, steps=GPU_STEPS, minutes=4, batch=GPU_BATCH, learning_rate=6e-4)
GPU_PRIOR_TRAINING = replace(
    PRIOR_TRAINING, steps=GPU_STEPS, minutes=6, batch=GPU_BATCH, learning_rate=1.2e-3, warmup_steps=400
)
CODECS = {
    "photo": LocalCodecConfig(features=32, widths=(96, 128, 192), encoder_blocks=(1, 1, 4), decoder_blocks=(2, 3, 6)),
    "photo24": LocalCodecConfig(
        features=64,
        widths=(32, 48, 72),
        encoder_blocks=(1, 1, 2),
        decoder_blocks=(2, 2, 3),
        embedding=32,
        local_wiener=True,
    ),
}
"""Codec of each shipped bundle: CBR 1/48 and 1/24."""
PRIOR = LocalPriorConfig(widths=(32, 64, 128, 192, 256), blocks=(1, 2, 2, 2, 2), fold=1)
"""Prior of the shipped bundles: single pixels enter and leave it, so that it has no grid of its own."""

SMALL_CROPS = 0.62
"""Share of a training in crops of `CROP`; the rest is in crops of `LARGE_CROP`, most of which is far from a border."""

REFINING_STEPS = 400
"""Steps up to which photographs are refined: the prior is trained on these most."""

EXPECTED_ERRORS = (
    *((1, 0.9), (5, 0.5), (25, 0.18), (60, 0.10), (110, 0.06)),
    *((213, 0.037), (400, 0.034), (700, 0.088), (850, 0.17), (1000, 0.28)),
)
"""Steps of 1000, and the squared error of the velocity that a trained prior has there, about."""

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

    fitting = codec.for_shape((crops.shape[1], crops.shape[2], crops.shape[3]))
    with codec.network.encoder.register_forward_hook(keep):
        errors = (transmit(fitting, crops, generator) - crops).square().mean(dim=(1, 2, 3))
    levels = torch.cat([codec.level(features.float()) for features in sent])
    wandered = levels.mean().square() + (levels.abs() - LEVEL_MARGIN).relu().square().mean()
    return (errors + ERROR_FLOOR).log().mean() + wandered


def _stages(images: Sequence[Tensor], device: str) -> list[Stage]:
    """Return stages of training on crops of photographs: small ones, then `LARGE_CROP`, as many pixels in a step.

    Where no photograph has crops so large, all are small.
    """
    pool = CropPool(images, device=device)

    def draw_of(side: int) -> Draw:
        def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            return pool.draw(count, side, generator), torch.zeros(count, dtype=torch.int64, device=device)

        return draw

    if not pool.holds(LARGE_CROP):
        return [Stage(draw_of(CROP))]
    return [Stage(draw_of(CROP), SMALL_CROPS), Stage(draw_of(LARGE_CROP), batch_share=(CROP / LARGE_CROP) ** 2)]


def train_codec(
    out: str | Path,
    config: TrainingConfig = CODEC_TRAINING,
    architecture: LocalCodecConfig | None = None,
    *,
    start: str | Path | None = None,
    decoder_only: bool = False,
    resume: bool = True,
    data: str | Path,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Make the local codec and write it to a bundle folder.

    Its linear maps are found in closed form; the levels, where the architecture has any, are trained on crops. Where
    `start` knows the covariance of its features, the decoder is trained with it, told the CSNR of every symbol.

    Args:
        out: bundle folder; gets codec.safetensors, its section of bundle.toml, and what `train_part` writes.
        config: the recipe.
        architecture: the network; that of the bundle `photo` when missing.
        start: bundle whose codec is trained further, instead of a linear one. What `architecture` has beyond that
            codec starts as the identity.
        decoder_only: leave the encoder, and so the symbols of every image, as `start` has it.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of the collected photographs.
        progress: called with the steps that are done.
        note: called with a line that names what `start` does not have.

    Returns:
        quality on the test photographs, see `evaluate_codec`.
    """
    out = Path(out)
    begun = None if start is None else load_codec(find_bundle(start))
    if begun is not None and not isinstance(begun, LocalCodec):
        raise ConfigError(f"Bundle {start} has no codec for photographs. Give one like photo with --from.")
    if decoder_only and begun is None:
        raise ConfigError("The decoder alone is trained for an encoder that is there. Give its bundle with --from.")
    sizes = CODECS["photo"] if architecture is None else architecture
    _, images = load_split(data, "train")
    views = middle_squares(load_split(data, "test")[1], VIEW_SIDE)
    with initialised_by(config.seed):
        codec = LocalCodec(sizes)
    if begun is None:
        start_linear(codec, images, torch.Generator().manual_seed(config.seed))
    else:
        new = start_codec(codec, begun)
        if new:
            note(f"not in {start}, starts as the identity: {', '.join(new)}")
        if begun.covariance is not None:
            codec.take_covariance(begun.covariance)
    codec.network.encoder.requires_grad_(not decoder_only)

    def export(ema: LocalCodec) -> None:
        write_part(out, "codec", {"network": sizes.family, **asdict(sizes)}, ema.network.state_dict())

    if not sizes.widths:
        export(codec)
        quality = evaluate_codec(codec, views)
        write_untrained(out, "codec", sum(parameter.numel() for parameter in codec.parameters()), quality)
        return quality
    codec.to(device=config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    task = Task(
        name="codec",
        model=codec,
        loss=lambda batch, _labels, generator: codec_loss(codec, batch, generator),
        stages=_stages(images, config.device),
        export=export,
        architecture={**asdict(sizes), "crops": [CROP, LARGE_CROP], "from": None if begun is None else begun.digest}
        | ({"decoder_only": True} if decoder_only else {}),
        started=[*codec.network.encoder.direct.parameters(), *codec.network.decoder.direct.parameters()],
    )
    return train_part(task, out, config, lambda ema: evaluate_codec(ema, views), resume=resume, progress=progress)


#: Parts of a local codec that leave it as it is until they are trained, by their path in the network.
_IDENTITIES = ("levels", "decoder.prominence", "decoder.gain")


def start_codec(codec: LocalCodec, begun: NetworkCodec) -> list[str]:
    """Give a codec the weights of another one; blocks and a local Wiener filter that it has beyond stay the identity.

    Returns:
        the parts that the other one does not have.

    Raises:
        ConfigError: other widths, fewer blocks, or no local Wiener filter where the other one has it.
    """
    try:
        missing, unexpected = codec.load_state_dict(begun.state_dict(), strict=False)
    except RuntimeError as error:
        raise ConfigError(f"{codec.config} can't be started from {begun.config}. Give the same widths.") from error
    if unexpected or any(not any(f".{part}." in name for part in _IDENTITIES) for name in missing):
        raise ConfigError(
            f"{codec.config} can't be started from {begun.config}. Give at least as many blocks, and a local Wiener "
            "filter where that has one."
        )
    # A block of a level is network.decoder.levels.0.2, a layer network.decoder.gain.
    return list(dict.fromkeys(".".join(name.split(".")[1 : 5 if ".levels." in name else 3]) for name in missing))


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


#: Crops that covariances of features are found from, so many at once, and how many blocks apart they reach.
COVARIANCE_CROPS, _AT_ONCE, REACH = 320, 8, 2
#: What is added to the variances, so that rounding to half precision leaves none negative; they are 0.5 on average.
COVARIANCE_RIDGE = 1e-3


@torch.no_grad()
def train_covariance(out: str | Path, *, seed: int = 0, data: str | Path, progress: Progress = silent) -> None:
    """Find the covariance of the features of neighbouring blocks, as the codec of a bundle sends photographs.

    Args:
        out: bundle folder with the codec; gets covariance.safetensors.
        seed: of the crops and their CSNRs.
        data: folder of the collected photographs.
        progress: called with the crops that are done.
    """
    out = Path(out)
    codec = _photo_codec(out)
    pool, generator = CropPool(load_split(data, "train")[1]), torch.Generator().manual_seed(seed)
    side = LARGE_CROP if pool.holds(LARGE_CROP) else CROP
    bound = codec.for_shape((codec.config.channels, side, side))
    low, high = CSNR_RANGE_DB
    parts = []
    for first in range(0, COVARIANCE_CROPS, _AT_ONCE):
        progress("find covariances of features", first, COVARIANCE_CROPS)
        csnr_db = low + (high - low) * torch.rand(_AT_ONCE, generator=generator)
        sent = bound.reals(bound.encode(pool.draw(_AT_ONCE, side, generator).contiguous(), csnr_db))[:, :-1]
        parts.append(block_covariance(sent, REACH))
    covariance = torch.stack(parts).mean(dim=0)
    covariance[:, :, REACH, REACH] += COVARIANCE_RIDGE * torch.eye(len(covariance))
    write_covariance(out, covariance, codec)
    write_card(out)


def _photo_codec(folder: Path) -> LocalCodec:
    """Load the codec of a bundle for photographs.

    Raises:
        ConfigError: it is for something else.
    """
    codec = load_codec(find_bundle(folder))
    if not isinstance(codec, LocalCodec):
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
    """Measure the mean PSNR in dB over whole photographs (n, 3, H, W) on AWGN and fading, at each of `EVAL_CSNR_DB`."""
    bound = codec.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    generator = torch.Generator().manual_seed(seed)
    awgn = channel_quality(bound, images, transmit_awgn, generator)
    fading = channel_quality(bound, images, transmit_fading, generator)
    return awgn | {f"{name}, fading": value for name, value in fading.items()}


def prior_loss(denoiser: NetworkDenoiser, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the weighted squared error of the velocity.

    Steps that refine photographs are drawn four times in five. A crop's weight there falls with its roughness: skies
    would count for nothing otherwise. The weight depends on the crop as a whole, so what is learned stays a posterior
    mean, of a prior that it tilts a little.
    """
    steps = denoiser.schedule.num_steps
    kind, place = torch.rand(2, len(images), generator=generator, device=images.device)
    t = torch.where(kind < 0.6, REFINING_STEPS * place, steps * torch.where(kind < 0.8, place.square(), place))
    t = (t.long() + 1).clamp(max=steps)
    rough = torch.stack([(2 * images.diff(dim=axis)).square().mean(dim=(1, 2, 3)) for axis in (2, 3)]).sum(dim=0)
    smooth = ((rough + 2e-3) / 0.03).pow(-0.4).clamp(0.4, 2.5).masked_fill(t > REFINING_STEPS, 1.0)
    return (error_weights(steps, images.device)[t] * smooth * prediction_errors(denoiser, images, t, generator)).mean()


@cache
def error_weights(num_steps: int, device: torch.device) -> Tensor:
    """Return (num_steps + 1,) weights that make steps of small and of large expected error count more alike."""
    steps = torch.arange(num_steps + 1) * (1000 / num_steps)
    known, errors = zip(*EXPECTED_ERRORS, strict=True)
    expected = np.exp(np.interp(steps, known, np.log(errors)))
    return torch.from_numpy((0.06 / expected) ** 0.5).float().to(device)


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
    sizes = PRIOR if architecture is None else architecture
    with initialised_by(config.seed):
        denoiser = sizes.denoiser()
    origin = start_denoiser(denoiser, start)
    denoiser.to(device=config.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    description = {"network": sizes.family, **asdict(sizes)}
    task = Task(
        name="prior",
        model=denoiser,
        loss=lambda batch, _labels, generator: prior_loss(denoiser, batch, generator),
        stages=_stages(load_split(data, "train")[1], config.device),
        export=lambda ema: write_part(out, "prior", description, ema.unet.state_dict()),
        architecture={**asdict(sizes), "crops": [CROP, LARGE_CROP], **origin},
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
    pool, test_pool = (CropPool(load_split(data, split)[1]) for split in ("train", "test"))
    generator = torch.Generator().manual_seed(config.seed)
    parts = [
        many_examples(codec, pool.draw(min(BATCH, examples - first), CONFIDENCE_SIDE, generator), generator)
        for first in range(0, examples, BATCH)
    ]
    # Drawn a batch at a time, and kept in half precision: gigabytes otherwise.
    x_d, targets = (
        torch.cat(column) for column in zip(*((x_d.half(), targets) for x_d, targets in parts), strict=True)
    )
    kept = draw_from(x_d.to(config.device), targets.to(config.device))

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x_d, targets = kept(count, generator)
        return x_d.float(), targets

    return fit_error_net(
        out,
        codec,
        draw,
        test_pool.draw(tests, CONFIDENCE_SIDE, torch.Generator().manual_seed(7)),
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
