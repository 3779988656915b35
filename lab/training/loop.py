"""Train a network: one loop for all, resumable, with an average of the weights."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from lab.training.step import Step, fast_kernels, optimiser
from lab.training.task import STARTED_RATE, Draw, Model, State, Task, TrainingConfig
from sdr.errors import ModelError
from sdr.files import replacing, write_bytes, write_text
from sdr.progress import Progress, silent

REPORT_STEPS = 100
"""Steps per row of the loss curve; checkpoints are written at these places only."""


@contextmanager
def initialised_by(seed: int) -> Iterator[None]:
    """Seed torch's global generator, from which layers draw their initial weights, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


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
        saved = torch.load(path, weights_only=True, map_location=next(state.model.parameters()).device)
        foreign = saved["fingerprint"] != fingerprint
    except (OSError, RuntimeError, pickle.UnpicklingError, LookupError, TypeError, ValueError, EOFError) as error:
        raise ModelError(f"{path} is not a usable checkpoint ({error}). Delete it to start anew.") from error
    if foreign:
        raise ModelError(f"{path} belongs to a run with other settings. Repeat them, or start anew without resuming.")
    try:
        state.model.load_state_dict(saved["model"])
        state.ema.load_state_dict(saved["ema"])
        state.optimiser.load_state_dict(saved["optimiser"])
        state.generator.set_state(saved["generator"].cpu())
        state.step, state.seconds = int(saved["step"]), float(saved["seconds"])
        state.rows = [(int(step), float(seconds), float(loss)) for step, seconds, loss in saved["rows"]]
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path} is not a usable checkpoint ({error}). Delete it to start anew.") from error


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

    Returns:
        the state at the end, its averaged model on the CPU.

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
    step = Step(task, state, config)
    saved_at = state.seconds
    total, count = 0.0, 0
    with fast_kernels():
        while (done := _done(config, state)) < 1:
            total, count = total + step(done), count + 1
            if not math.isfinite(total):
                raise ModelError(
                    f"The loss of {task.name} became {total} at step {state.step}. Lower the learning rate."
                )
            if count == REPORT_STEPS:
                state.rows.append((state.step, state.seconds, total / count))
                progress(f"train the {task.name}", *_told(config, state))
                total, count = 0.0, 0
                if state.seconds - saved_at > config.checkpoint_s:
                    saved_at = state.seconds
                    save_checkpoint(checkpoint, state, fingerprint)
                    _write_curve(curve, state.rows)
                    task.export(_on_cpu(state.ema))
    progress(f"train the {task.name}", state.step, max(state.step, 1))
    if count:
        state.rows.append((state.step, state.seconds, total / count))
    save_checkpoint(checkpoint, state, fingerprint)
    _write_curve(curve, state.rows)
    _plot_curve(curve.with_suffix(".png"), task.name, state.rows)
    state.ema = _on_cpu(state.ema)
    task.export(state.ema)
    return state


def _told(config: TrainingConfig, state: State) -> tuple[float, float]:
    """Return what is done and what there is to do, in steps or in seconds, whichever ends the run."""
    if config.minutes is not None and state.seconds / (60 * config.minutes) > state.step / config.steps:
        return state.seconds, 60 * config.minutes
    return state.step, config.steps


def _on_cpu(model: Model) -> Model:
    """Return a copy of a model on the CPU, for use."""
    return copy.deepcopy(model).cpu().eval()


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
        optimiser(groups, config),
        torch.Generator(config.device).manual_seed(config.seed),
    )


def _fingerprint(task: Task, config: TrainingConfig) -> str:
    """Return what a checkpoint must share with a run that goes on from it."""
    # The limits are left out, so that a finished run can be prolonged by resuming it with higher ones.
    recipe = {key: value for key, value in asdict(config).items() if key not in ("steps", "minutes", "checkpoint_s")}
    return json.dumps([recipe, dict(task.architecture)], sort_keys=True)


def draw_from(images: Tensor, labels: Tensor) -> Draw:
    """Return a function that draws whole images, each as likely as any other, with the labels beside them."""

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        picked = torch.randint(len(images), (count,), generator=generator, device=generator.device)
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
