"""Transmit, record and decode in a loop for as long as asked, and see whether memory, descriptors or threads grow.

The verbs run in this process, one after the other, over GNU Radio's ZMQ loopback, an emulated Pluto and an emulated
USRP, through their real drivers; the emulated radios are processes of their own, which are watched, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.benchmarks.writing_verbs import Run, copy_samples
from lab.evaluation.statistics import fitted_slope
from sdr.errors import InputError
from sdr.progress import Progress, silent

#: Share of a soak, from its start, in which caches fill; growth is told behind it.
_WARM_UP = 0.25


@dataclass(frozen=True)
class ProcessRow:
    """How a process grew, behind a first quarter in which caches fill.

    Attributes:
        process: its name: "ota", or an emulated radio.
        rounds: after each of which it was looked at.
        first_mb: resident memory, megabytes: median of the first ten rounds.
        last_mb: the same of the last ten.
        growth_mb_per_hour: slope of a line through all.
        growth_standard_error: of that slope.
        descriptors: fewest and most that were open.
        threads: fewest and most.
    """

    process: str
    rounds: int
    first_mb: float
    last_mb: float
    growth_mb_per_hour: float
    growth_standard_error: float
    descriptors: tuple[int, int]
    threads: tuple[int, int]


@dataclass(frozen=True)
class SoakResult:
    """What came of a soak.

    Attributes:
        minutes: it took.
        rounds: of all three links.
        images: that were decoded.
        missing: images that were sent and not decoded.
        failures: verbs that failed, a line each.
        processes: how they grew.
    """

    minutes: float
    rounds: int
    images: int
    missing: int
    failures: tuple[str, ...]
    processes: tuple[ProcessRow, ...]


def soak(run: Run, folder: Path, minutes: float, progress: Progress = silent) -> SoakResult:
    """Run the loop.

    Args:
        run: runs a command line in this process and returns its exit status.
        folder: empty folder to work in.
        minutes: for so long; the round that is running then ends.
        progress: called as it goes on.

    Raises:
        InputError: an emulated radio does not start.
    """
    pictures = copy_samples(folder / "img", 4)
    with _emulated() as (radios, numbers):
        watched = {"ota": os.getpid(), **numbers}
        seen: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in watched}
        links = {"loopback": "", **radios}
        images, sent, failures = 0, 0, []
        began = time.monotonic()
        while (seconds := time.monotonic() - began) < 60 * minutes or not sent:
            progress("soak", round(seconds), round(60 * minutes))
            for name, radio in links.items():
                decoded, told = _round(run, radio, pictures, folder / "work")
                images, sent = images + decoded, sent + len(list(pictures.iterdir()))
                failures += [f"round {len(seen['ota'])}, {name}: {line}" for line in told]
            for name, number in watched.items():
                seen[name].append((time.monotonic() - began, *_look(number)))
    rounds = len(seen["ota"])
    rows = tuple(growth(name, np.array(values)) for name, values in seen.items())
    taken_minutes = (time.monotonic() - began) / 60
    return SoakResult(taken_minutes, rounds, images, sent - images, tuple(failures), rows)


def _round(run: Run, radio: str, pictures: Path, work: Path) -> tuple[int, list[str]]:
    """Send, record and decode once; return how many images came of it, and what failed."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    heard = ["--layout", str(work / "heard.layout.json"), "--method", "jscc", "--out", str(work / "decoded"), "--json"]
    commands = (
        ["record", "--radio", radio, "--images", str(pictures), "--seconds", "0.1", "--out", str(work / "heard")],
        ["decode", str(work / "heard"), *heard],
    )
    if not radio:
        commands = (["demo", "--images", str(pictures), "--method", "jscc", "--out", str(work / "decoded"), "--json"],)
    answer = ""
    for command in commands:
        out, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            status = run(command)
        if status != 0:
            said = errors.getvalue().strip().splitlines()
            return 0, [f"{command[0]} ended with status {status}: {said[-1] if said else ''}"]
        answer = out.getvalue()
    return len({image["id"] for image in json.loads(answer)["images"]}), []


@contextlib.contextmanager
def _emulated() -> Iterator[tuple[dict[str, str], dict[str, int]]]:
    """Start a Pluto and a USRP on airs of their own; yield their URIs and the numbers of their processes."""
    air = ["--csnr-db=20", "--taps=4", "--json"]
    commands = {
        "emulated Pluto": ["pluto", "--port=0", *air],
        # Its ports are fixed, so it needs an address that nobody else has.
        "emulated USRP": ["usrp", f"--addr=127.{random.randrange(1, 255)}.{random.randrange(256)}.77", *air],
    }
    with contextlib.ExitStack() as stack:
        radios, numbers = {}, {}
        for name, command in commands.items():
            words = [sys.executable, "-m", "ota", "emulate", *command]
            child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            stack.callback(_end, child)
            assert child.stdout is not None
            answer: Mapping[str, str] = json.loads(child.stdout.readline() or "{}")
            if "radio" not in answer:
                raise InputError(f"The {name} did not start. See what `ota emulate {' '.join(command)}` says.")
            radios[name], numbers[name] = answer["radio"], child.pid
        yield radios, numbers


def _end(child: subprocess.Popen[str]) -> None:
    child.terminate()
    child.communicate()


def _look(number: int) -> tuple[float, int, int]:
    """Return resident memory in megabytes, open descriptors and threads of a process."""
    place = Path("/proc", str(number))
    status = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
    return int(status["VmRSS"].split()[0]) / 1024, len(os.listdir(place / "fd")), int(status["Threads"])


def growth(name: str, values: np.ndarray) -> ProcessRow:
    """Return how a process grew, of rows of seconds, megabytes, descriptors and threads."""
    kept = values[values[:, 0] >= _WARM_UP * values[-1, 0]]
    hours, memory = kept[:, 0] / 3600, kept[:, 1]
    slope, error = (float("nan") if value is None else value for value in fitted_slope(hours, memory))
    return ProcessRow(
        *(name, len(kept), float(np.median(memory[:10])), float(np.median(memory[-10:])), slope, error),
        (int(kept[:, 2].min()), int(kept[:, 2].max())),
        (int(kept[:, 3].min()), int(kept[:, 3].max())),
    )
