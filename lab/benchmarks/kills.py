"""Kill verbs at random moments, and look for lost inputs and for results that stand under their names and are none."""

from __future__ import annotations

import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.benchmarks.faults import incomplete_results
from lab.benchmarks.writing_verbs import filled
from sdr.errors import InputError
from sdr.progress import Progress, silent

_LIMIT_S = 600.0

#: Every other kill falls into this last share of a run, in which results take their names.
_LAST_SHARE = 0.2


@dataclass(frozen=True)
class KillRow:
    """What became of one verb's kills.

    Attributes:
        verb: that was killed.
        kills: that met the running process.
        lost_inputs: kills after which an input was not what it had been.
        damaged: kills after which something under its final name did not verify.
        stuck: kills after which the same command, run again, failed.
        problems: what was wrong, a line each.
    """

    verb: str
    kills: int
    lost_inputs: int
    damaged: int
    stuck: int
    problems: tuple[str, ...]


def kill_verbs(
    commands: Mapping[str, str], inputs: Path, out: Path, count: int, seed: int = 0, progress: Progress = silent
) -> list[KillRow]:
    """Kill command lines with SIGKILL, so many times in all.

    Args:
        commands: by verb, see `lab.benchmarks.writing_verbs.WRITING_VERBS`.
        inputs: folder that they read.
        out: folder that they write to; it is emptied.
        count: of kills, shared out among the verbs.
        seed: of the moments.
        progress: called as it goes on.

    Raises:
        InputError: a command line fails when it is left alone.
    """
    rows = []
    for index, (verb, command) in enumerate(commands.items()):
        kills = (count * (index + 1)) // len(commands) - (count * index) // len(commands)
        progress("kill", sum(row.kills for row in rows), count)
        rows.append(_kill_verb(verb, filled(command, inputs, out), inputs, out, kills, random.Random(f"{seed} {verb}")))
    return rows


def _kill_verb(verb: str, words: Sequence[str], inputs: Path, out: Path, count: int, rng: random.Random) -> KillRow:
    """Kill one command line; half of the times where the last kill left it, so that it goes on or replaces."""
    before = _digest(inputs)
    _empty(out)
    began = time.monotonic()
    if status := _start(words).wait(_LIMIT_S):
        raise InputError(f"ota {' '.join(words)} ends with status {status} by itself, so there is nothing to kill.")
    seconds = time.monotonic() - began
    kills = lost = damaged = stuck = 0
    problems: list[str] = []
    while kills < count:
        if kills % 4 in (0, 1):
            _empty(out)
        earliest = 0.0 if kills % 2 else (1.0 - _LAST_SHARE) * seconds
        ended = _killed(words, rng.uniform(earliest, seconds))
        if ended is not None:
            seconds = min(seconds, ended)  # it was faster than it had been
            continue
        kills += 1
        if _digest(inputs) != before:
            lost += 1
            problems.append("an input is not what it was")
        wrong = incomplete_results(out)
        damaged += bool(wrong)
        problems += wrong
        if kills in (1, 2, 3, 4, count) and (status := _start(words).wait(_LIMIT_S)):
            stuck += 1
            problems.append(f"run again it ends with status {status}")
    return KillRow(verb, kills, lost, damaged, stuck, tuple(problems))


def _empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ota", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _killed(words: Sequence[str], after_s: float) -> float | None:
    """Run a command line and kill it after so many seconds; return how long it took if it ended before."""
    began = time.monotonic()
    process = _start(words)
    try:
        process.wait(after_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            return None
    return time.monotonic() - began


def _digest(folder: Path) -> str:
    """Return a digest of the names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)}\n".encode())
        if path.is_file():
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
