"""Steps of training: stages, the average, and what the device is asked to do."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from lab.training.loop import fit
from lab.training.task import Stage, Task, TrainingConfig

CONFIG = TrainingConfig(steps=10, batch=8, learning_rate=0.1, warmup_steps=0, bf16=False, ema_decay=0.5)


def task_of(stages: list[Stage], model: nn.Module) -> Task:
    def loss(images: Tensor, _labels: Tensor, _generator: torch.Generator) -> Tensor:
        return (model(images) - 1).square().mean()

    return Task("toy", model, loss, stages, lambda ema: None, {})


def test_stages_follow_each_other_with_batches_of_their_own(tmp_path: Path) -> None:
    drawn: list[tuple[str, int]] = []

    def of(name: str):
        def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            drawn.append((name, count))
            return torch.rand(count, 3, generator=generator), torch.zeros(count)

        return draw

    fit(task_of([Stage(of("small"), 0.6), Stage(of("large"), batch_share=0.25)], nn.Linear(3, 1)), tmp_path, CONFIG)
    assert drawn == [("small", 8)] * 6 + [("large", 2)] * 4


def test_a_run_is_adamw_and_an_average_of_its_weights(tmp_path: Path) -> None:
    """The loop against torch's own optimiser, step by step."""
    model = nn.Linear(3, 1)
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(CONFIG.seed)
    average = copy.deepcopy(other)
    adamw = torch.optim.AdamW(other.parameters(), 0.1, betas=(0.9, CONFIG.second_moment), weight_decay=0.01)

    def draw(count: int, source: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.rand(count, 3, generator=source), torch.zeros(count)

    state = fit(task_of([Stage(draw)], model), tmp_path, CONFIG)
    for step in range(CONFIG.steps):
        adamw.param_groups[0]["lr"] = CONFIG.learning_rate_at(step, step / CONFIG.steps)
        adamw.zero_grad()
        (other(draw(8, generator)[0]) - 1).square().mean().backward()
        nn.utils.clip_grad_norm_(other.parameters(), 1.0)
        adamw.step()
        keep = min(0.5, (1 + step) / (10 + step))
        for kept, new in zip(average.parameters(), other.parameters(), strict=True):
            kept.data = keep * kept.data + (1 - keep) * new.data
    for found, expected in zip(state.ema.parameters(), average.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
