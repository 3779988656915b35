"""Train a part of a bundle, measure it, and record both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.training.card import write_facts
from lab.training.loop import fit
from lab.training.task import Model, Task, TrainingConfig
from receiver.bundles.bundle import find_bundle, load_codec
from receiver.codecs.codec import NetworkCodec, shape_text
from receiver.images.fashion_mnist import FASHION_SHAPE
from sdr.errors import ConfigError
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


def fashion_codec(folder: str | Path, what: str) -> NetworkCodec[Any, Any]:
    """Return the codec of a bundle for the images of Fashion-MNIST.

    Args:
        folder: of the bundle.
        what: is trained for it, for messages.

    Raises:
        ConfigError: it is for other images; says what that means for `what`.
    """
    codec = load_codec(find_bundle(folder))
    if codec.accepted_shape != FASHION_SHAPE:
        raise ConfigError(
            f"The codec in {folder} takes images of {shape_text(codec.accepted_shape)}, and a {what} is trained on "
            "Fashion-MNIST (1x32x32), or with --like photo for codecs of the family local. Decode without it: it is "
            "optional."
        )
    return codec.for_shape(FASHION_SHAPE)
