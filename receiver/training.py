"""Training of the shipped models: codec, prior and realism features, on the training split of Fashion-MNIST.

One loop serves all three: AdamW, warm-up and cosine decay, an exponential moving average (EMA) of the weights, which is
what ships, and checkpoints from which a run goes on. Everything lands in one bundle folder, see `receiver.bundles`.
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import platform
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn
from torch.nn import functional as F

from receiver import bundles
from receiver.codecs import CSNR_RANGE_DB, AdjsccCodec, AdjsccConfig, Codec, weights_digest
from receiver.data import load_fashion_mnist
from receiver.metrics import psnr_db
from receiver.priors import LocalDenoiser, PriorConfig, UNetDenoiser
from receiver.realism import DISTANCES, FeatureNet, Realism, RealismConfig
from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError, ModelError

#: Where the codec is evaluated.
EVAL_CSNR_DB = (0.0, 5.0, 10.0, 14.0)
#: Channel of the faded half of the codec's training: taps of an exponential profile and its time constant in samples.
FADING_TAPS = 8
FADING_DECAY = 4.0
#: The same as a channel of the simulated radio, with an offset of the carrier.
FADING = f"taps={FADING_TAPS},decay={FADING_DECAY},cfo_hz=300"
#: Where the prior's one-shot estimate is evaluated.
EVAL_STEPS = (25, 50, 100, 200, 400, 700)

#: Steps per row of the loss curve; checkpoints are written at these places only.
REPORT_STEPS = 100

Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
#: Images and labels of a batch of so many.
Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Args:
        steps: optimiser steps; the learning rate has decayed to zero after them.
        minutes: training ends, fully decayed, after this much training time at the latest; None: no limit. A run that
            is resumed with higher limits goes on with the learning rate of that place in the longer cosine.
        batch: images per step.
        learning_rate: peak of the cosine.
        weight_decay: of AdamW.
        warmup_steps: linear warm-up.
        ema_decay: of the averaged weights.
        clip_norm: gradients are scaled down to this norm.
        seed: of everything random.
        bf16: bfloat16 autocast in the forward pass.
        checkpoint_s: seconds between checkpoints.
    """

    steps: int
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 200
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    seed: int = 1
    bf16: bool = True
    checkpoint_s: float = 120.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise ConfigError(f"Training needs steps, batch and learning rate above 0, got {self}.")
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"The time limit must be above 0 minutes, got {self.minutes}.")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"The EMA decay must lie in [0, 1), got {self.ema_decay}.")


CODEC_TRAINING = TrainingConfig(steps=6000, minutes=30, learning_rate=1.5e-3)
PRIOR_TRAINING = TrainingConfig(steps=11_000, minutes=60)
REALISM_TRAINING = TrainingConfig(steps=1200, minutes=3, warmup_steps=50)


@dataclass
class _State:
    """All that a run needs to go on, besides its configuration."""

    model: nn.Module
    ema: nn.Module
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0


@contextmanager
def initialised_by(seed: int) -> Iterator[None]:
    """Layers draw their initial weights from torch's global generator, which is seeded here and then put back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _learning_rate(config: TrainingConfig, step: int, done: float) -> float:
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _done(config: TrainingConfig, state: _State) -> float:
    """Fraction of the run that is over, by steps or by time, whichever is further."""
    by_time = 0.0 if config.minutes is None else state.seconds / (60 * config.minutes)
    return max(state.step / config.steps, by_time)


def _save_checkpoint(path: Path, state: _State, fingerprint: str, rows: list[tuple[int, float, float]]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(
        {
            "fingerprint": fingerprint,
            "model": state.model.state_dict(),
            "ema": state.ema.state_dict(),
            "optimiser": state.optimiser.state_dict(),
            "generator": state.generator.get_state(),
            "step": state.step,
            "seconds": state.seconds,
            "rows": rows,
        },
        partial,
    )
    partial.replace(path)


def _load_checkpoint(path: Path, state: _State, fingerprint: str) -> list[tuple[int, float, float]]:
    try:
        saved = torch.load(path, weights_only=True)
        foreign = saved["fingerprint"] != fingerprint
    except (OSError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError) as error:
        raise ModelError(f"{path} is not a usable checkpoint ({error}). Delete it to start anew.") from error
    if foreign:
        raise ModelError(f"{path} belongs to a run with other settings. Repeat them, or start anew without resuming.")
    try:
        state.model.load_state_dict(saved["model"])
        state.ema.load_state_dict(saved["ema"])
        state.optimiser.load_state_dict(saved["optimiser"])
        state.generator.set_state(saved["generator"])
        state.step, state.seconds = int(saved["step"]), float(saved["seconds"])
        return [(int(step), float(seconds), float(loss)) for step, seconds, loss in saved["rows"]]
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a usable checkpoint ({error}). Delete it to start anew.") from error


def _update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for kept, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


#: Share of the learning rate for parameters that start from good values: full steps of Adam would shake them off.
STARTED_RATE = 0.02


def fit(
    name: str,
    model: nn.Module,
    loss: Loss,
    draw: Draw,
    config: TrainingConfig,
    out: Path,
    *,
    resume: bool,
    export: Callable[[nn.Module], None],
    architecture: Mapping[str, object],
    started: Sequence[nn.Parameter] = (),
) -> _State:
    """Train `model` on batches of `draw`; `export` receives the averaged model at every checkpoint and at the end.

    Those of its parameters that `started` from good values are moved at `STARTED_RATE` of the learning rate.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, curve = out / f"{name}.checkpoint.pt", out / f"{name}.csv"
    started_ids = {id(parameter) for parameter in started}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in started_ids], "rate": 1.0},
        {"params": list(started), "rate": STARTED_RATE},
    ]
    groups = [group for group in groups if group["params"]]
    state = _State(
        model,
        copy.deepcopy(model).requires_grad_(False),
        torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay),
        torch.Generator().manual_seed(config.seed),
    )
    # The limits are left out, so that a finished run can be prolonged by resuming it with higher ones.
    recipe = {key: value for key, value in asdict(config).items() if key not in ("steps", "minutes", "checkpoint_s")}
    fingerprint = json.dumps([recipe, dict(architecture)], sort_keys=True)
    rows: list[tuple[int, float, float]] = []
    if resume and checkpoint.is_file():
        rows = _load_checkpoint(checkpoint, state, fingerprint)
    model.train()
    saved_at = state.seconds
    total, count = 0.0, 0
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # Progress is for people: standard output is left to results.
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=config.steps, completed=state.step)
        while (done := _done(config, state)) < 1:
            began = time.perf_counter()
            for group in state.optimiser.param_groups:
                group["lr"] = group["rate"] * _learning_rate(config, state.step, done)
            images, labels = draw(config.batch, state.generator)
            state.optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
                value = loss(images, labels, state.generator)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
            state.optimiser.step()
            # A young average forgets faster, so that early exports are not dominated by the initialisation.
            _update_ema(state.ema, model, min(config.ema_decay, (1 + state.step) / (10 + state.step)))
            state.step += 1
            state.seconds += time.perf_counter() - began
            total, count = total + float(value.detach()), count + 1
            if not math.isfinite(total):
                raise ModelError(f"The loss of {name} became {total} at step {state.step}. Lower the learning rate.")
            if count == REPORT_STEPS:
                rows.append((state.step, state.seconds, total / count))
                progress.update(task, completed=state.step, description=f"{name} loss {total / count:.5f}")
                total, count = 0.0, 0
                if state.seconds - saved_at > config.checkpoint_s:
                    saved_at = state.seconds
                    _save_checkpoint(checkpoint, state, fingerprint, rows)
                    _write_curve(curve, rows)
                    export(state.ema.eval())
                    progress.console.print(
                        f"{name}: step {state.step}, {state.seconds:.0f} s, loss {rows[-1][2]:.5f}", highlight=False
                    )
        progress.update(task, completed=state.step)
    if count:
        rows.append((state.step, state.seconds, total / count))
    _save_checkpoint(checkpoint, state, fingerprint, rows)
    _write_curve(curve, rows)
    _plot_curve(curve.with_suffix(".png"), name, rows)
    export(state.ema.eval())
    return state


def draw_from(images: Tensor, labels: Tensor) -> Draw:
    """Draws of whole images, each as likely as any other."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picked = torch.randint(len(images), (count,), generator=generator)
        return images[picked], labels[picked]

    return draw


def _write_curve(path: Path, rows: list[tuple[int, float, float]]) -> None:
    lines = ["step,seconds,loss", *(f"{step},{seconds:.1f},{loss:.6f}" for step, seconds, loss in rows)]
    bundles.write_bytes(path, ("\n".join(lines) + "\n").encode())


def _plot_curve(path: Path, name: str, rows: list[tuple[int, float, float]]) -> None:
    from matplotlib.figure import Figure  # slow to import, and only wanted at the end of a run

    axes = (figure := Figure(figsize=(6, 3), layout="constrained")).subplots()
    axes.plot([row[0] for row in rows], [row[2] for row in rows])
    # The loss of some is itself a logarithm.
    axes.set(xlabel="step", ylabel="training loss", title=name, yscale="log" if rows[-1][2] > 0 else "linear")
    axes.grid(True, alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, dpi=100, format="png")
    bundles.write_bytes(path, image.getvalue())


def codec_loss(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared error over the channels of `transmit`."""
    return (transmit(codec, images, generator) - images).square().mean()


def transmit(codec: Codec, images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after a CSNR uniform over `CSNR_RANGE_DB`, one each; half of them fade, half see AWGN."""
    low, high = CSNR_RANGE_DB
    csnr_db = low + (high - low) * torch.rand(len(images), generator=generator)
    faded = len(images) // 2
    return torch.cat(
        [
            transmit_fading(codec, images[:faded], csnr_db[:faded], generator),
            transmit_awgn(codec, images[faded:], csnr_db[faded:], generator),
        ]
    )


def transmit_awgn(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Images (B, C, H, W) after encoding, noise at `csnr_db` (B,) and decoding."""
    z = codec.encode(images, csnr_db)
    noise = torch.randn(*z.shape, 2, generator=generator)
    std = torch.pow(10.0, -csnr_db / 20)[:, None] / math.sqrt(2)
    return codec.decode(z + torch.view_as_complex(noise) * std, csnr_db)


def transmit_fading(codec: Codec, images: Tensor, csnr_db: Tensor, generator: torch.Generator) -> Tensor:
    """The same over block fading: every symbol on a carrier of its own behind `FADING_TAPS` Rayleigh taps.

    The decoder gets what `Measurement.decoder_input` gives with the channel known.
    """
    z = codec.encode(images, csnr_db)
    noise_var = torch.pow(10.0, -csnr_db / 10)[:, None]
    power = torch.from_numpy(exponential_pdp(FADING_TAPS, FADING_DECAY)).float()
    taps = torch.view_as_complex(torch.randn(len(images), FADING_TAPS, 2, generator=generator)) * (power / 2).sqrt()
    carriers = torch.randperm(4 * z.shape[1], generator=generator)[: z.shape[1]]
    gain = torch.fft.fft(taps, n=4 * z.shape[1])[:, carriers]
    noise = torch.view_as_complex(torch.randn(*z.shape, 2, generator=generator)) * (noise_var / 2).sqrt()
    equalised = gain.conj() * (gain * z + noise) / (gain.abs().square() + noise_var) * (1 + noise_var)
    return codec.decode(equalised, csnr_db)


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
        data: folder of Fashion-MNIST, see `receiver.data`.

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
        data: folder of Fashion-MNIST, see `receiver.data`.

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
        data: folder of Fashion-MNIST, see `receiver.data`.

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
    quality = evaluate_realism(bundles.load_realism(out), *load_fashion_mnist("test", data))
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


def write_facts(out: Path, name: str, config: TrainingConfig, state: _State, quality: Mapping[str, float]) -> None:
    """Record how a part was trained and what came out, and write the model card anew."""
    facts = {
        "recipe": asdict(config),
        "steps": state.step,
        "seconds": round(state.seconds),
        "device": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "parameters": sum(parameter.numel() for parameter in state.ema.parameters()),
        "quality": dict(quality),
    }
    bundles.write_bytes(out / f"{name}.json", (json.dumps(facts, indent=2) + "\n").encode())
    write_card(out)


_CARD_INTRO = """# Model card of the bundle `{name}`

Trained with `ota train codec|prior|realism` on the 60000 training images of Fashion-MNIST (Zalando Research, MIT
licence; Debian package `dataset-fashion-mnist`), padded with black from 28x28 to 32x32 and scaled to [0, 1], without
augmentation. Quality is measured on the 10000 test images, which no training has seen; the images in `samples/` are of
those. Weights are float16 safetensors, exponentially averaged; architectures are in `bundle.toml`, loss curves in the
`.csv` and `.png` files. One training seed each. Made to show and test the link on 32x32 grey images of clothing; not
meant for other images. For the start of a blind decoder `codebook.safetensors` holds some training images and
`mixture.safetensors` the statistics of the codec's symbols (`ota train codebook|mixture`);
`confidence.safetensors` tells how wrong a decoded image is likely to be (`ota train confidence`).
"""

_CARD_PARTS = {
    "codec": "ADJSCC with SNR attention, 64 complex symbols per image, trained end to end, half on AWGN and half over "
    f"block fading ({FADING_TAPS} Rayleigh taps known to the receiver, MMSE), with the CSNR uniform over "
    f"{CSNR_RANGE_DB[0]:g} to {CSNR_RANGE_DB[1]:g} dB. PSNR is the mean over the test split.",
    "prior": "Diffusion prior: the ADM U-Net on 2x2-folded pixels, 1000 steps of the linear schedule. The loss is over "
    "the test split, the one-shot PSNR over its first 1000 images.",
    "realism": "A classifier whose second layer gives the features of the realism distance, and the statistics of the "
    "training images. Distances are per dimension, 0 is best.",
    "confidence": "A network that tells the log squared error of a decoded image from the image, its residual, the "
    "CSNR and how far the symbols are hidden by noise. Trained on what the codec makes of training images over "
    "fading, a quarter of them with taps that fit another image. Measured on test images sent likewise.",
}


_PHOTO_INTRO = """# Model card of the bundle `{name}`

Made with `ota train codec|prior|realism|mixture|confidence --like photo` from the training photographs listed in
`receiver/photographs.toml` (Debian packages of wallpapers, puzzles, animals and monuments, and scikit-image's samples;
authors and licences stand there, those of the samples too). Measured on the test photographs of that list, which no
training has seen: each whole, shrunk to 256 pixels on its shorter side, the middle square; those are also in `samples/`
(JPEG). Weights are float16 safetensors, architectures are in `bundle.toml`. Takes colour images of any size from 16x16
pixels on.
"""

_PHOTO_PARTS = {
    "codec": "Local codec, told the SNR: each 16x16 pixels become half as many complex symbols as bundle.toml gives "
    "features (32: CBR 1/48, 64: 1/24). Where it has no levels it is the best linear code for the training "
    "photographs, found in closed form: principal components, and the regression of a block's pixels on what is "
    "received of it and its neighbours. Levels are trained from there on crops, half on AWGN and half over fading, at "
    f"{CSNR_RANGE_DB[0]:g} to {CSNR_RANGE_DB[1]:g} dB. PSNR is the mean over the test photographs on AWGN.",
    "prior": "Diffusion prior: a local convolutional U-Net that predicts velocity, 1000 steps of the linear schedule. "
    "The one-shot PSNR is the mean over the test photographs. What samplers make of it is mottled, see "
    "docs/photographs.md.",
    "realism": "Statistics of 8x8 patches of the training photographs, no network. Distances are per dimension, 0 is "
    "best.",
    "confidence": _CARD_PARTS["confidence"] + " Images here are crops of 128x128 pixels of photographs.",
}


def write_card(out: str | Path) -> None:
    """Write README.md, the model card, from what each finished training recorded about itself.

    A `note` added to a record by hand is shown too.
    """
    out = Path(out)
    described = tomllib.loads((out / "bundle.toml").read_text(encoding="utf-8"))
    local = any(section.get("network") == "local" for section in described.values())
    intro, parts = (_PHOTO_INTRO, _PHOTO_PARTS) if local else (_CARD_INTRO, _CARD_PARTS)
    text = [intro.format(name=out.resolve().name)]
    for part, about in parts.items():
        path = out / f"{part}.json"
        if not path.is_file():
            continue
        facts = json.loads(path.read_text(encoding="utf-8"))
        size = (out / f"{part}.safetensors").stat().st_size
        made = f"{facts['parameters']:,} parameters, {size / 1e6:.1f} MB."
        if "recipe" in facts:
            recipe = facts["recipe"]
            made += (
                f" {facts['steps']} steps of {recipe['batch']} images in {facts['seconds'] / 60:.1f} min on "
                f"{facts['device']}; AdamW, peak learning rate {recipe['learning_rate']:g}, cosine decay, "
                f"EMA {recipe['ema_decay']:g}, "
                f"{'bfloat16 autocast' if recipe['bf16'] else 'float32'}, seed {recipe['seed']}."
            )
        text.append(f"## {part}\n\n{about}\n\n{made}\n")
        if "note" in facts:
            text.append(f"{facts['note']}\n")
        rows = "\n".join(f"| {key} | {value:g} |" for key, value in facts["quality"].items())
        text.append(f"| Measured | Value |\n|---|---|\n{rows}\n")
    bundles.write_bytes(out / "README.md", "\n".join(text).encode())
