"""Train a network: one loop for all, resumable, with an average of the weights."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sdr.errors import ConfigError, ModelError
from sdr.files import replacing, write_bytes, write_text
from sdr.progress import Progress, silent

REPORT_STEPS = 100
"""Steps per row of the loss curve; checkpoints are written at these places only."""

STARTED_RATE = 0.02
"""Share of the learning rate for parameters that start from good values: full steps of Adam would shake them off."""

Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Loss of images and what is beside them (labels), with a generator for all that is random."""

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Draws a batch of so many images and what is beside them (labels)."""

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
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

    Raises:
        ConfigError: a value out of range.
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


@dataclass(frozen=True, eq=False)
class Task(Generic[Model]):
    """What is trained.

    Attributes:
        name: of the part; its files are named after it.
        model: with its initial weights.
        loss: of a batch.
        draw: makes batches.
        export: is given the averaged model at every checkpoint and at the end.
        architecture: distinguishes this training from others, apart from its recipe.
        started: parameters that start from good values; they are moved at `STARTED_RATE` of the learning rate.
    """

    name: str
    model: Model
    loss: Loss
    draw: Draw
    export: Callable[[Model], None]
    architecture: Mapping[str, object]
    started: Sequence[nn.Parameter] = ()


@dataclass
class State(Generic[Model]):
    """All that a run needs to go on, besides its configuration.

    Attributes:
        model: in training.
        ema: average of its weights.
        optimiser: of the model.
        generator: of everything random.
        step: steps done.
        seconds: of training.
        rows: loss curve: step, seconds, mean loss since the row before.
    """

    model: Model
    ema: Model
    optimiser: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    rows: list[tuple[int, float, float]] = field(default_factory=list)


@contextmanager
def initialised_by(seed: int) -> Iterator[None]:
    """Seed torch's global generator, from which layers draw their initial weights, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def learning_rate_at(config: TrainingConfig, step: int, done: float) -> float:
    """Return the learning rate of a step, with the fraction `done` of the run behind it."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _done(config: TrainingConfig, state: State) -> float:
    """Return the fraction of the run that is over, by steps or by time, whichever is further."""
    by_time = 0.0 if config.minutes is None else state.seconds / (60 * config.minutes)
    return max(state.step / config.steps, by_time)


def save_checkpoint(path: Path, state: State, fingerprint: str) -> None:
    """Write a checkpoint from which a run of the same fingerprint can go on."""
    content = {
        "fingerprint": fingerprint,
        "model": state.model.state_dict(),
        "ema": state.ema.state_dict(),
        "optimiser": state.optimiser.state_dict(),
        "generator": state.generator.get_state(),
        "step": state.step,
        "seconds": state.seconds,
        "rows": state.rows,
    }
    with replacing(path) as file:
        torch.save(content, file)


def _load_checkpoint(path: Path, state: State, fingerprint: str) -> None:
    """Put a checkpoint into a state.

    Raises:
        ModelError: damaged, or of another fingerprint.
    """
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
        state.rows = [(int(step), float(seconds), float(loss)) for step, seconds, loss in saved["rows"]]
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a usable checkpoint ({error}). Delete it to start anew.") from error


def _update_ema(ema: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average towards the model's weights."""
    with torch.no_grad():
        for kept, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)


def fit(
    task: Task[Model], out: Path, config: TrainingConfig, *, resume: bool = True, progress: Progress = silent
) -> State[Model]:
    """Train a model, with checkpoints and a loss curve in a folder.

    Args:
        task: what is trained.
        out: folder; made where it is missing.
        config: the recipe.
        resume: go on from the checkpoint in `out` if there is one.
        progress: called with the steps that are done.

    Raises:
        ModelError: a checkpoint that can't be used, or a loss that is no number any more.
    """
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, curve = out / f"{task.name}.checkpoint.pt", out / f"{task.name}.csv"
    state = _initial(task, config)
    fingerprint = _fingerprint(task, config)
    if resume and checkpoint.is_file():
        _load_checkpoint(checkpoint, state, fingerprint)
    task.model.train()
    saved_at = state.seconds
    total, count = 0.0, 0
    while (done := _done(config, state)) < 1:
        total, count = total + _step(task, state, config, done), count + 1
        if not math.isfinite(total):
            raise ModelError(f"The loss of {task.name} became {total} at step {state.step}. Lower the learning rate.")
        if count == REPORT_STEPS:
            state.rows.append((state.step, state.seconds, total / count))
            progress(f"train the {task.name}", state.step, config.steps)
            total, count = 0.0, 0
            if state.seconds - saved_at > config.checkpoint_s:
                saved_at = state.seconds
                save_checkpoint(checkpoint, state, fingerprint)
                _write_curve(curve, state.rows)
                task.export(state.ema.eval())
    progress(f"train the {task.name}", state.step, max(state.step, 1))
    if count:
        state.rows.append((state.step, state.seconds, total / count))
    save_checkpoint(checkpoint, state, fingerprint)
    _write_curve(curve, state.rows)
    _plot_curve(curve.with_suffix(".png"), task.name, state.rows)
    task.export(state.ema.eval())
    return state


def _initial(task: Task[Model], config: TrainingConfig) -> State[Model]:
    """Return the state of a run that has not begun."""
    started = {id(parameter) for parameter in task.started}
    groups = [
        {"params": [p for p in task.model.parameters() if id(p) not in started], "rate": 1.0},
        {"params": list(task.started), "rate": STARTED_RATE},
    ]
    groups = [group for group in groups if group["params"]]
    return State(
        task.model,
        copy.deepcopy(task.model).requires_grad_(False),
        torch.optim.AdamW(groups, config.learning_rate, weight_decay=config.weight_decay),
        torch.Generator().manual_seed(config.seed),
    )


def _fingerprint(task: Task, config: TrainingConfig) -> str:
    """Return what a checkpoint must share with a run that goes on from it."""
    # The limits are left out, so that a finished run can be prolonged by resuming it with higher ones.
    recipe = {key: value for key, value in asdict(config).items() if key not in ("steps", "minutes", "checkpoint_s")}
    return json.dumps([recipe, dict(task.architecture)], sort_keys=True)


def _step(task: Task, state: State, config: TrainingConfig, done: float) -> float:
    """Take one step with the fraction `done` of the run behind it, and return its loss."""
    began = time.perf_counter()
    for group in state.optimiser.param_groups:
        group["lr"] = group["rate"] * learning_rate_at(config, state.step, done)
    images, labels = task.draw(config.batch, state.generator)
    state.optimiser.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
        value = task.loss(images, labels, state.generator)
    value.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
    state.optimiser.step()
    # A young average forgets faster, so that early exports are not dominated by the initialisation.
    _update_ema(state.ema, state.model, min(config.ema_decay, (1 + state.step) / (10 + state.step)))
    state.step += 1
    state.seconds += time.perf_counter() - began
    return float(value.detach())


def draw_from(images: Tensor, labels: Tensor) -> Draw:
    """Return a function that draws whole images, each as likely as any other, with the labels beside them."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picked = torch.randint(len(images), (count,), generator=generator)
        return images[picked], labels[picked]

    return draw


def _write_curve(path: Path, rows: list[tuple[int, float, float]]) -> None:
    lines = ["step,seconds,loss", *(f"{step},{seconds:.1f},{loss:.6f}" for step, seconds, loss in rows)]
    write_text(path, "\n".join(lines) + "\n")


def _plot_curve(path: Path, name: str, rows: list[tuple[int, float, float]]) -> None:
    from matplotlib.figure import Figure  # slow to import, and only wanted at the end of a run

    axes = (figure := Figure(figsize=(6, 3), layout="constrained")).subplots()
    axes.plot([row[0] for row in rows], [row[2] for row in rows])
    # The loss of some is itself a logarithm.
    axes.set(xlabel="step", ylabel="training loss", title=name, yscale="log" if rows[-1][2] > 0 else "linear")
    axes.grid(True, alpha=0.3)
    image = io.BytesIO()
    figure.savefig(image, dpi=100, format="png")
    write_bytes(path, image.getvalue())
