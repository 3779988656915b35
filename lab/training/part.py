"""Train a part of a bundle, measure it, and record both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lab.training.card import write_facts
from lab.training.loop import fit
from lab.training.task import Model, Task, TrainingConfig
from sdr.progress import Progress, silent


def train_part(
    task: Task[Model],
    out: Path,
    config: TrainingConfig,
    evaluate: Callable[[Model], dict[str, float]],
    *,
    resume: bool = True,
    progress: Progress = silent,
) -> dict[str, float]:
    """Train a part, then write its record and the model card.

    Args:
        task: what is trained.
        out: bundle folder; gets the loss curve (.csv, .png), a checkpoint, the record (.json) and README.md, beside
            what the task exports.
        config: the recipe.
        evaluate: measures the averaged model.
        resume: go on from the checkpoint in `out` if there is one.
        progress: called with the steps that are done.

    Returns:
        quality as `evaluate` measured it.
    """
    state = fit(task, out, config, resume=resume, progress=progress)
    quality = evaluate(state.ema)
    write_facts(out, task.name, config, state, quality)
    return quality
