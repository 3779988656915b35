"""What a training is: recipe, task and state."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from sdr.errors import ConfigError

STARTED_RATE = 0.02
"""Share of the learning rate for parameters that start from good values: full steps of Adam would shake them off."""

Loss = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""Loss of images and what is beside them (labels), with a generator for all that is random."""

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Draws a batch of so many images and what is beside them (labels), on the generator's device."""

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        steps: optimiser steps; the learning rate has decayed to zero after them.
        minutes: training ends, fully decayed, after this much training time at the latest; None: no limit. A run that
            is resumed with higher limits goes on with the learning rate of that place in the longer cosine.
        batch: images per step, in stages with smaller ones less.
        learning_rate: peak of the cosine.
        weight_decay: of AdamW.
        second_moment: decay of AdamW's mean of squared gradients.
        warmup_steps: linear warm-up.
        ema_decay: of the averaged weights.
        clip_norm: gradients are scaled down to this norm.
        seed: of everything random.
        bf16: bfloat16 autocast in the forward pass.
        device: torch device; on a GPU residual blocks of local networks run fused, and a whole step is one CUDA graph.
        checkpoint_s: seconds between checkpoints.

    Raises:
        ConfigError: a value out of range.
    """

    steps: int
    minutes: float | None = None
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    second_moment: float = 0.999
    warmup_steps: int = 200
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    seed: int = 1
    bf16: bool = True
    device: str = "cpu"
    checkpoint_s: float = 120.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 1 or self.learning_rate <= 0:
            raise ConfigError(f"Training needs steps, batch and learning rate above 0, got {self}.")
        if self.minutes is not None and self.minutes <= 0:
            raise ConfigError(f"The time limit must be above 0 minutes, got {self.minutes}.")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"The EMA decay must lie in [0, 1), got {self.ema_decay}.")

    def learning_rate_at(self, step: int, done: float) -> float:
        """Return the learning rate of a step, with the fraction `done` of the run behind it."""
        warm = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True, eq=False)
class Stage:
    """A part of a run with batches of its own.

    Attributes:
        draw: makes the batches.
        until: share of the run that is over when it ends.
        batch_share: its batches have so much of the configured size, at least one image.
    """

    draw: Draw
    until: float = 1.0
    batch_share: float = 1.0


@dataclass(frozen=True, eq=False)
class Task(Generic[Model]):
    """What is trained.

    Attributes:
        name: of the part; its files are named after it.
        model: with its initial weights, on the device that it is trained on.
        loss: of a batch.
        stages: of the run, in order; the last one until 1.
        export: is given the averaged model, on the CPU, at every checkpoint and at the end.
        architecture: distinguishes this training from others, apart from its recipe.
        started: parameters that start from good values; they are moved at `STARTED_RATE` of the learning rate.
    """

    name: str
    model: Model
    loss: Loss
    stages: Sequence[Stage]
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
