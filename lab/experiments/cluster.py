"""Decode a dataset on several processors or machines, with Ray.

Actors hold the models; a task is a group of captures (see `lab.experiments.decode_dataset`). Every machine must see
the dataset under the same path, and have this package. Only the one who asked writes, so an actor that is lost costs
its group's time: the group goes to another one. Ray is an optional dependency: `pip install 'diffcom-ota[cluster]'`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow

from lab.experiments.decode_dataset import Runner, Task, Tasks
from lab.experiments.group_decoder import DatasetSettings, Decoder
from sdr.errors import ConfigError

#: Times that a group is given to another actor before decoding is given up.
MAX_RETRIES = 3


def run_on(address: str) -> Runner:
    """Return a runner for `lab.experiments.decode_dataset.decode_dataset`.

    Args:
        address: "local" starts Ray on this machine, with a CPU for every actor; "ray://HOST:10001" (or "auto") joins a
            cluster that runs.

    Raises:
        ConfigError: Ray is not installed, the address is none, or no cluster answers there.
    """
    if address not in ("local", "auto") and not address.startswith("ray://"):
        raise ConfigError(f"--cluster {address} is neither local, auto nor ray://HOST:PORT.")
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError("--cluster needs the package 'ray'; install the extra 'cluster' of diffcom-ota.") from None

    def run(folder: Path, settings: DatasetSettings, tasks: Tasks) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
        try:
            if address == "local":
                # Ray would otherwise send a copy of the working folder, models and recordings included, to itself.
                ray.init(address="local", include_dashboard=False, log_to_driver=False, configure_logging=False)
            else:
                ray.init(address=address, log_to_driver=False)
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            raise ConfigError(f"--cluster {address}: {' '.join(str(error).split())[:200]}") from None
        try:
            yield from _run_tasks(ray, folder.resolve(), settings, tasks)
        finally:
            ray.shutdown()

    return run


class Worker:
    """What an actor runs."""

    def __init__(self, folder: Path, settings: DatasetSettings) -> None:
        import torch

        torch.set_num_threads(1)  # as many actors as processors share the machine already
        self._decoder = Decoder(folder, settings)

    def decode(self, task: Task) -> list[pyarrow.Table]:
        """Decode one group."""
        return list(self._decoder.decode(task.captures, task.methods))

    def process_id(self) -> int:
        """Return the actor's process id."""
        return os.getpid()


def _run_tasks(
    ray: Any, folder: Path, settings: DatasetSettings, tasks: Tasks
) -> Iterator[tuple[Task, Iterable[pyarrow.Table]]]:
    on_gpu = settings.decoding.device != "cpu"
    resources = {"num_cpus": 1, "num_gpus": 1} if on_gpu else {"num_cpus": 1}
    actor = ray.remote(**resources)(Worker)
    slots = int(ray.cluster_resources().get("GPU" if on_gpu else "CPU", 0))
    if not slots:
        raise ConfigError(f"the cluster has no {'GPU' if on_gpu else 'CPU'} for --device {settings.decoding.device}.")
    workers = [actor.remote(folder, settings) for _ in range(min(slots, len(tasks)))]
    waiting = ((task, 0) for task in tasks)
    lost: list[tuple[Task, int]] = []
    busy: dict[Any, tuple[Any, Task, int]] = {}

    def give(worker: Any) -> None:
        todo = lost.pop() if lost else next(waiting, None)
        if todo is not None:
            busy[worker.decode.remote(todo[0])] = (worker, *todo)

    for worker in workers:
        give(worker)
    while busy:
        (ready,), _ = ray.wait(list(busy), num_returns=1)
        worker, task, tries = busy.pop(ready)
        try:
            tables = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            if tries >= MAX_RETRIES:
                raise ConfigError(
                    f"group {task.group} lost its worker {tries + 1} times ({' '.join(str(error).split())[:160]}); "
                    "give the workers more memory, or decode with a smaller --group."
                ) from None
            lost.append((task, tries + 1))
            give(actor.remote(folder, settings))
            continue
        give(worker)
        yield task, tables
