"""One step of the optimiser, on a GPU recorded as a CUDA graph.

A step of these networks is some thousands of small kernels: started one by one they keep a GPU waiting. So the whole of
it - drawing the batch, loss, gradients, AdamW and the average of the weights - is recorded once for each stage, after a
few ordinary steps, and replayed from then on. What changes from step to step lies in tensors on the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lab.training.fused_block import use_fused_blocks
from lab.training.task import Stage, State, Task, TrainingConfig

#: Ordinary steps before a step is recorded: kernels are compiled and chosen in them, buffers made.
_ORDINARY_STEPS = 3


@contextmanager
def fast_kernels() -> Iterator[None]:
    """Let a GPU choose its convolutions by trial and multiply in TF32; put both back afterwards."""
    backends = torch.backends
    before = backends.cudnn.benchmark, backends.cuda.matmul.allow_tf32
    backends.cudnn.benchmark = backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        backends.cudnn.benchmark, backends.cuda.matmul.allow_tf32 = before


def optimiser(groups: Sequence[dict[str, Any]], config: TrainingConfig) -> torch.optim.AdamW:
    """Return AdamW for groups of parameters; on a GPU in one kernel, with learning rates that lie in tensors."""
    if torch.device(config.device).type == "cuda":
        groups = [{**group, "lr": torch.tensor(config.learning_rate, device=config.device)} for group in groups]
    recorded = torch.device(config.device).type == "cuda"
    return torch.optim.AdamW(
        groups,
        config.learning_rate,
        betas=(0.9, config.second_moment),
        weight_decay=config.weight_decay,
        fused=recorded or None,
        capturable=recorded,
    )


class Step:
    """Takes steps of a run.

    Args:
        task: what is trained.
        state: of the run, which every step moves on.
        config: the recipe.
        recorded: on a GPU, replay a recorded step.
        fused: on a GPU, compute residual blocks of local networks by few kernels.
    """

    def __init__(
        self, task: Task, state: State, config: TrainingConfig, *, recorded: bool = True, fused: bool = True
    ) -> None:
        self._task, self._state, self._config = task, state, config
        self._stage: Stage | None = None
        self._recorded: _Recorded | None = None
        device = torch.device(config.device)
        self._records = recorded and device.type == "cuda"
        self._forget = torch.ones((), device=device)
        if fused and config.bf16:
            use_fused_blocks(state.model, torch.bfloat16)

    def __call__(self, done: float) -> float:
        """Take one step with the fraction `done` of the run behind it, and return its loss."""
        state, config = self._state, self._config
        began = time.perf_counter()
        for group in state.optimiser.param_groups:
            rate = group["rate"] * config.learning_rate_at(state.step, done)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        # A young average forgets faster, so that early exports are not dominated by the initialisation.
        self._forget.fill_(1 - min(config.ema_decay, (1 + state.step) / (10 + state.step)))
        loss = float(self._computation(done)())
        state.step += 1
        state.seconds += time.perf_counter() - began
        return loss

    def _computation(self, done: float) -> Callable[[], Tensor]:
        stage = next(stage for stage in self._task.stages if done < stage.until)
        if stage is not self._stage:
            self._stage = stage
            self._recorded = _Recorded(self._compute, self._state.generator) if self._records else None
        return self._recorded or self._compute

    def _compute(self) -> Tensor:
        """Draw a batch and move the weights along its gradient; return its loss, without waiting for it."""
        state, config = self._state, self._config
        assert self._stage is not None
        images, labels = self._stage.draw(max(1, round(config.batch * self._stage.batch_share)), state.generator)
        state.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(torch.device(config.device).type, torch.bfloat16, enabled=config.bf16):
            value = self._task.loss(images, labels, state.generator)
        value.backward()
        nn.utils.clip_grad_norm_(state.model.parameters(), config.clip_norm)
        state.optimiser.step()
        _move_average(state.ema, state.model, self._forget)
        return value.detach()


class _Recorded:
    """A computation without arguments that is replayed as a CUDA graph after a few ordinary runs."""

    def __init__(self, compute: Callable[[], Tensor], generator: torch.Generator) -> None:
        self._compute, self._generator = compute, generator
        self._ordinary = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._value: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._ordinary < _ORDINARY_STEPS:
            self._ordinary += 1
            return self._beside()
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            self._graph.register_generator_state(self._generator)
            with torch.cuda.graph(self._graph):
                self._value = self._compute()
        self._graph.replay()
        assert self._value is not None
        return self._value

    def _beside(self) -> Tensor:
        """Compute on a stream of its own, as recording does."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            value = self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        return value


@torch.no_grad()
def _move_average(average: nn.Module, model: nn.Module, forget: Tensor) -> None:
    """Move the average towards the model's weights by the share `forget`, ()."""
    for kept, new in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(new, forget)
        else:
            kept.copy_(new)
