"""Train a network: one loop for all, resumable, with an average of the weights."""

from __future__ import annotations

import copy
import io
import json
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import Tensor, nn

from receiver.bundles import bundle as bundles
from sdr.errors import ConfigError, ModelError

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


@dataclass
class State:
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


def learning_rate_at(config: TrainingConfig, step: int, done: float) -> float:
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _done(config: TrainingConfig, state: State) -> float:
    """Fraction of the run that is over, by steps or by time, whichever is further."""
    by_time = 0.0 if config.minutes is None else state.seconds / (60 * config.minutes)
    return max(state.step / config.steps, by_time)


def save_checkpoint(path: Path, state: State, fingerprint: str, rows: list[tuple[int, float, float]]) -> None:
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


def _load_checkpoint(path: Path, state: State, fingerprint: str) -> list[tuple[int, float, float]]:
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
) -> State:
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
    state = State(
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
                group["lr"] = group["rate"] * learning_rate_at(config, state.step, done)
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
                    save_checkpoint(checkpoint, state, fingerprint, rows)
                    _write_curve(curve, rows)
                    export(state.ema.eval())
                    progress.console.print(
                        f"{name}: step {state.step}, {state.seconds:.0f} s, loss {rows[-1][2]:.5f}", highlight=False
                    )
        progress.update(task, completed=state.step)
    if count:
        rows.append((state.step, state.seconds, total / count))
    save_checkpoint(checkpoint, state, fingerprint, rows)
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
