"""Train the network that estimates how wrong a decoded image is: `ota train confidence`.

Training images are sent and decoded deterministically, mostly with about the right taps, some with taps that fit
another image and some where nothing was sent. Others come through the whole receiver without pilots, with the taps that
a blind decoder finds. The network learns the mean squared error of what comes out (gamma deviance: errors many times
the expected one count, as a failure is one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lab.experiments.link import send
from lab.experiments.plan import Sweep, sweep_layout
from lab.training.channel import FADING, FADING_DECAY, FADING_TAPS
from lab.training.loop import draw_from, initialised_by
from lab.training.part import fashion_codec, train_part
from lab.training.task import Draw, Stage, Task, TrainingConfig
from receiver.bundles.bundle import find_bundle
from receiver.bundles.side_models import load_confidence, load_mixture, write_confidence
from receiver.channel.decoding import as_told
from receiver.channel.prior import channel_prior
from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from receiver.error_net import ErrorNet, facts_of_answer, facts_of_decoding
from receiver.images.fashion_mnist import load_fashion_mnist
from receiver.measurement.collect import measure_frames
from receiver.samplers import Channel, Models, sample
from receiver.sync.preamble import find_frames
from sdr.air.impairments import exponential_pdp
from sdr.progress import Progress, silent

CONFIDENCE_TRAINING = TrainingConfig(steps=7000, batch=128, minutes=15)
#: Images that are sent, and of those that are decoded blindly.
EXAMPLES, BLIND_EXAMPLES = 48_000, 7168
#: Blind ones in 10 images of a training batch, and how many are sent at one channel SNR.
_BLIND_IN_TEN, _BLIND_PER_CSNR = 3, 512
#: Test images that it is measured on.
TESTS = 4096
#: Of them so many in a batch of 128 are decoded with taps that fit another image, and so many where nothing was sent.
BATCH, _WRONG, _EMPTY = 128, 32, 4
#: Rounds of decoding and correcting the taps that wrong ones go through at the most.
_ROUNDS = 3
#: Largest squared error of the other taps, in units of the noise variance: a dozen times what pilots leave.
_TAP_ERROR = 0.5
#: A quarter of the images is sent at up to so many decibels more than the codec was trained with.
_BEYOND_DB = 16.0
#: Squared error added before the logarithm is taken: 50 dB.
_LEAST_ERROR = 1e-5


@torch.no_grad()
def decoding_examples(codec: Codec, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Send and decode images (B, C, H, W), some of them wrongly on purpose.

    The channel is that of the codec's own training. In every `BATCH` images the first `_WRONG` get taps that fit
    another image, as a blind decoder may find, and the first `_EMPTY` of those stand where nothing but noise was sent.

    Returns:
        decoded images (B, C, H, W), the facts (B, 3) of their decoding, and their log squared error (B,).
    """
    count, size = len(images), codec.num_symbols
    low, high = CSNR_RANGE_DB
    everything = torch.arange(count)
    csnr_db = low + (high - low) * torch.rand(count, generator=generator)
    csnr_db = csnr_db + _BEYOND_DB * torch.rand(count, generator=generator) * (everything % 4 == 3)
    noise_var = torch.pow(10.0, -csnr_db / 10)[:, None]
    power = torch.from_numpy(exponential_pdp(FADING_TAPS, FADING_DECAY)).float()

    def normal(*shape: int) -> Tensor:
        return torch.view_as_complex(torch.randn(*shape, 2, generator=generator)) / 2**0.5

    carriers = torch.rand(count, 4 * size, generator=generator).argsort(dim=1)[:, :size]
    delays = torch.arange(FADING_TAPS)
    waves = torch.polar(torch.ones(()), -2 * torch.pi * carriers[..., None] * delays / (4 * size))  # (B, K, L)

    def gains(taps: Tensor, rows: Tensor) -> Tensor:
        return (waves[rows] @ taps[..., None])[..., 0]

    def decoded(taps: Tensor, rows: Tensor) -> Tensor:
        gain, noise = gains(taps, rows), noise_var[rows]
        squared = gain.abs().square()
        estimates = gain.conj() * received[rows] / (squared + noise)
        return codec.decode(*as_told(codec, estimates, squared / noise, noise)).clamp(0, 1)

    def fitting(z: Tensor, rows: Tensor) -> Tensor:
        sent = waves[rows] * z[..., None]
        gram = sent.mH @ sent + noise_var[rows][..., None] * torch.diag(1 / power).to(sent)
        return torch.linalg.solve(gram, sent.mH @ received[rows][..., None])[..., 0]

    wrong, empty = everything % BATCH < _WRONG, everything % BATCH < _EMPTY
    taps = normal(count, FADING_TAPS) * power.sqrt()
    received = gains(taps, everything) * codec.encode(images, csnr_db)
    received = torch.where(empty[:, None], normal(count, size), received) + normal(count, size) * noise_var.sqrt()
    spread = _TAP_ERROR * noise_var * torch.rand(count, 1, generator=generator).square()
    found = taps + normal(count, FADING_TAPS) * (spread * power).sqrt()
    rows = everything[wrong]
    word = codec.encode(images[rows].roll(1, 0), csnr_db[rows])
    for index in range(_ROUNDS):
        found[rows] = fitting(word, rows)
        # A share of them is left as it is in every round.
        rows = rows[torch.arange(len(rows)) % (_ROUNDS - index) > 0]
        if len(rows):
            word = codec.encode(decoded(found[rows], rows), csnr_db[rows])
    x_d = decoded(found, everything)
    gain = gains(found, everything)
    residual = (received - gain * codec.encode(x_d, csnr_db)).abs().square().mean(dim=1) / noise_var[:, 0]
    facts = facts_of_decoding(gain, noise_var, residual)
    return x_d, facts, ((x_d - images).square().mean(dim=(1, 2, 3)) + _LEAST_ERROR).log()


@torch.no_grad()
def blind_examples(folder: Path, codec: Codec, images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Send images, one a frame, through the receiver and decode them blindly; those that don't arrive are missing.

    Args:
        folder: of the bundle, whose mixture finds the taps where it has one.
        codec: of the bundle.
        images: (B, C, H, W).
        seed: of channels and starts.

    Returns:
        see `many_examples`.
    """
    mixture = load_mixture(folder, codec)
    low, high = CSNR_RANGE_DB
    parts = images.split(_BLIND_PER_CSNR)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, part in enumerate(parts):
        csnr_db = low + (high - low) * (index + 0.5) / len(parts)
        sweep = Sweep("confidence", (csnr_db,), ("blind-jscc",), channel=FADING, images_per_frame=1, seed=seed + index)
        (condition,) = sweep.all_conditions
        layout = sweep_layout(sweep, codec.num_symbols)
        ids = [str(place) for place in range(len(part))]
        sent = send(sweep, codec, layout, ids, part, condition)
        synced = [frame for frame in find_frames(sent.recording, layout) if frame.header is not None]
        channel = Channel(channel_prior(layout), None)
        for first in range(0, len(synced), BATCH):
            measurement = measure_frames(synced[first : first + BATCH], layout)
            decoded = sample(
                "blind-jscc",
                measurement,
                channel,
                Models(codec, mixture=mixture),
                torch.Generator().manual_seed(seed + index),
            )
            facts = facts_of_answer(measurement, codec, decoded.x, decoded.h)
            originals = part[[int(image_id) for image_id in measurement.image_ids]]
            error = (decoded.x - originals).square().mean(dim=(1, 2, 3))
            found.append((decoded.x, facts, (error + _LEAST_ERROR).log()))
    return _joined(found)


def many_examples(codec: Codec, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Send and decode images (n, C, H, W) by `decoding_examples`.

    Returns:
        decoded images (n, C, H, W), and (n, 4): the facts and the log squared error of each.
    """
    return _joined([decoding_examples(codec, part, generator) for part in images.split(BATCH)])


def _joined(parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    x_d, facts, log_error = (torch.cat(column) for column in zip(*parts, strict=True))
    return x_d, torch.cat([facts, log_error[:, None]], dim=1)


def train_confidence(
    out: str | Path,
    config: TrainingConfig = CONFIDENCE_TRAINING,
    *,
    resume: bool = True,
    data: str | Path | None = None,
    examples: int = EXAMPLES,
    blind: int = BLIND_EXAMPLES,
    tests: int = TESTS,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the network for the codec of a bundle.

    Args:
        out: bundle folder with the codec; gets confidence.safetensors and what `train_part` writes.
        config: the recipe.
        resume: go on from the checkpoint in `out` if there is one.
        data: folder of Fashion-MNIST, see `receiver.images.fashion_mnist`.
        examples: images that are sent with a known channel.
        blind: images that are decoded blindly.
        tests: test images that it is measured on.
        progress: called with the steps that are done.

    Returns:
        quality on the test split, see `evaluate_confidence`.
    """
    out = Path(out)
    codec = fashion_codec(out, "confidence")
    images, _ = load_fashion_mnist("train", data)
    generator = torch.Generator().manual_seed(config.seed)
    picked = images[torch.randperm(len(images), generator=generator)[: examples + blind]]
    several = many_examples(codec, picked[blind:], generator)
    few = blind_examples(find_bundle(out), codec, picked[:blind], config.seed)
    plainly, blindly = (draw_from(*(part.to(config.device) for part in parts)) for parts in (several, few))

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        few = count * _BLIND_IN_TEN // 10
        pairs = zip(plainly(count - few, generator), blindly(few, generator), strict=True)
        x_d, targets = (torch.cat(pair) for pair in pairs)
        return x_d, targets

    return fit_error_net(
        out,
        codec,
        draw,
        load_fashion_mnist("test", data)[0][:tests],
        config,
        architecture={"examples": examples, "blind": blind},
        resume=resume,
        progress=progress,
    )


def fit_error_net(
    out: Path,
    codec: Codec,
    draw: Draw,
    test_images: Tensor,
    config: TrainingConfig,
    *,
    architecture: Mapping[str, object],
    resume: bool = True,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train the network for a codec and write confidence.safetensors.

    Args:
        out: bundle folder.
        codec: for images of one shape.
        draw: draws decoded images and, (n, 4), their facts and log squared errors.
        test_images: (n, C, H, W) that it is measured on.
        config: the recipe.
        architecture: distinguishes this training from others, apart from codec and recipe.
        resume: go on from the checkpoint in `out` if there is one.
        progress: called with the steps that are done.

    Returns:
        see `evaluate_confidence`.
    """
    with initialised_by(config.seed):
        net = ErrorNet(codec.image_shape[0]).to(config.device)

    def loss(batch: Tensor, beside: Tensor, generator: torch.Generator) -> Tensor:
        flipped = torch.rand(len(batch), 1, 1, 1, generator=generator, device=batch.device) < 0.5
        excess = beside[:, 3] - net(torch.where(flipped, batch.flip(-1), batch), beside[:, :3])
        return (excess.exp() - 1 - excess).mean()

    task = Task(
        name="confidence",
        model=net,
        loss=loss,
        stages=[Stage(draw)],
        export=lambda ema: write_confidence(out, ema.state_dict(), codec),
        architecture={"codec": codec.digest, **architecture},
    )

    def evaluate(_ema: ErrorNet) -> dict[str, float]:
        # As it is shipped: rounded to half precision.
        shipped = load_confidence(out, codec)
        assert shipped is not None
        return evaluate_confidence(codec, shipped, test_images)

    return train_part(task, out, config, evaluate, resume=resume, progress=progress)


@torch.no_grad()
def evaluate_confidence(codec: Codec, net: ErrorNet, images: Tensor, seed: int = 7) -> dict[str, float]:
    """Measure how well the error of decoded `images` is estimated: scatter in dB, share of the variance, bias in dB."""
    x_d, targets = many_examples(codec, images, torch.Generator().manual_seed(seed))
    facts, true = targets[:, :3], targets[:, 3]
    error = torch.cat([net(*part) for part in zip(x_d.split(500), facts.split(500), strict=True)])
    missed = (true - error) * 10 / torch.tensor(10.0).log()
    n = len(images)
    return {
        f"standard deviation of the error of the PSNR told, dB, n = {n}": round(float(missed.std()), 2),
        f"share of the variance that is told, n = {n}": round(1 - float((true - error).var() / true.var()), 3),
        f"PSNR told less PSNR, mean, dB, n = {n}": round(float(missed.mean()), 2),
    }
