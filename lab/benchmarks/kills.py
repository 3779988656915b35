"""Kill verbs at random moments, and see whether an input is lost or a result stands under its name that is none.

    python -m lab.benchmarks.kills --count 40 --out runs/kills
    python -m lab.benchmarks.kills --verb record --verb import --count 100 --out runs/kills

Each kill is a SIGKILL at a moment drawn evenly over the time that the verb takes when it is left alone. Afterwards the
inputs must be what they were, whatever has its final name must verify, and the same command must succeed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from sdr.errors import OtaError
from sdr.files import write_json
from sdr.layout import load_layout
from sdr.outputs import MARKER_NAME, read_marker
from sdr.recordings.layout_file import holds_layout
from sdr.recordings.recording import Recording, read_recording, write_recording
from sdr.recordings.verify import verify_dataset

_LIMIT_S = 600.0


@dataclass(frozen=True)
class Verb:
    """A verb that writes.

    Attributes:
        words: command line; {in} is the folder of inputs, {out} the output.
        check: returns what is wrong with an output that has its final name; nothing for a good one.
    """

    words: str
    check: Callable[[Path], str]


@dataclass(frozen=True)
class Killed:
    """What became of a verb's kills.

    Attributes:
        verb: name in `VERBS`.
        kills: that met the running process.
        too_late: runs that had ended before.
        lost_inputs: after which an input was not what it had been.
        bad_results: after which something under its final name did not verify.
        stuck: after which the same command failed.
        problems: what was wrong, a line each.
    """

    verb: str
    kills: int
    too_late: int
    lost_inputs: int
    bad_results: int
    stuck: int
    problems: tuple[str, ...]


def check_recording(out: Path) -> str:
    """Return what is wrong with the recording of a stem; metadata is what makes one."""
    if not Path(f"{out}.sigmf-meta").exists():
        return ""
    try:
        read_recording(out)
    except OtaError as error:
        return str(error)
    layout = Path(f"{out}.layout.json")
    return "" if not layout.exists() or holds_layout(layout, load_layout("paper")) else f"{layout} is damaged"


def check_folder(out: Path) -> str:
    """Return what is wrong with a finished folder: files that its marker lists and it lacks."""
    if not out.exists():
        return ""
    marker = read_marker(out)
    if marker is None:
        return f"{out} has no {MARKER_NAME}"
    missing = [name for name in marker.files if not (out / name).exists()]
    return f"{out} lacks {', '.join(missing)}" if missing else ""


def check_dataset(out: Path) -> str:
    """Return what is wrong with the captures that a dataset's index lists; leftovers are for the next writer."""
    if not (out / "index.jsonl").exists():
        return ""
    wrong = [line for line in verify_dataset(out) if "killed" not in line and "is not complete" not in line]
    return "; ".join(wrong)


def check_profile(out: Path) -> str:
    """Return what is wrong with a calibration profile."""
    from sdr.calibration_profile import load_profile

    try:
        if Path(f"{out}.toml").exists():
            load_profile(Path(f"{out}.toml"))
    except OtaError as error:
        return str(error)
    return ""


VERBS = {
    "record": Verb("record --radio file:{in}/tx --out {out} --force", check_recording),
    "import": Verb("dataset import {in}/tx.sigmf-meta {in}/tx.sigmf-meta --layout paper --out {out}", check_dataset),
    "transmit": Verb("transmit --radio file:{out} --images {in}/images --force", check_recording),
    "decode": Verb("decode {in}/tx --layout paper --method jscc --out {out} --force", check_folder),
    "calibrate": Verb("calibrate --radio sim:csnr_db=20 --frames 16 --out {out}.toml --force", check_profile),
    "report": Verb("report {in}/run {in}/run --out {out} --force", check_folder),
}
"""Verbs by name; one that writes is covered by being added."""


def prepare(folder: Path) -> None:
    """Write the inputs: images, a transmission of them, and a run folder."""
    from receiver.bundles.bundle import find_bundle

    (folder / "images").mkdir()
    for path in sorted((find_bundle() / "samples").glob("*.png"))[:4]:
        shutil.copy(path, folder / "images")
    _ota(f"transmit --radio file:{folder}/tx --images {folder}/images").wait(_LIMIT_S)
    sent = read_recording(folder / "tx").samples
    # Long enough that writing it takes a while.
    write_recording(Recording(np.concatenate([sent, np.zeros(1 << 22, np.complex64)])), folder / "tx")
    _ota(f"decode {folder}/tx --layout paper --method jscc --out {folder}/run").wait(_LIMIT_S)


def kill_verb(name: str, inputs: Path, work: Path, count: int, rng: random.Random) -> Killed:
    """Kill a verb `count` times."""
    verb, before = VERBS[name], _digest(inputs)
    kills = late = lost = bad = stuck = 0
    problems: list[str] = []
    command = verb.words.format(**{"in": inputs, "out": work / "out"})
    began = time.monotonic()
    if _ota(command).wait(_LIMIT_S) != 0:
        problems.append(f"{command} fails by itself")
    seconds = time.monotonic() - began
    for _ in range(count):
        process = _ota(command)
        try:
            process.wait(rng.uniform(0.0, seconds))
            late += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        if _digest(inputs) != before:
            lost += 1
            problems.append("an input changed")
        if wrong := verb.check(work / "out"):
            bad += 1
            problems.append(wrong)
    if _ota(command).wait(_LIMIT_S) != 0:
        stuck += 1
        problems.append(f"{command} fails after the kills")
    if wrong := verb.check(work / "out"):
        bad += 1
        problems.append(wrong)
    return Killed(name, kills, late, lost, bad, stuck, tuple(problems[:20]))


def _ota(words: str) -> subprocess.Popen[bytes]:
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-m", "ota", *words.split()], start_new_session=True, **quiet)


def _digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        found.update(str(path.relative_to(folder)).encode())
        if path.is_file():
            found.update(path.read_bytes())
    return found.hexdigest()


def main() -> int:
    """Run the benchmark; the exit status is 1 where anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="kills of each verb")
    parser.add_argument("--verb", action="append", choices=sorted(VERBS), help="repeatable; default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for kills.json")
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="ota-kills-") as scratch:
        inputs = Path(scratch, "in")
        inputs.mkdir()
        prepare(inputs)
        for name in given.verb or VERBS:
            work = Path(scratch, name)
            work.mkdir()
            rows.append(kill_verb(name, inputs, work, given.count, random.Random(given.seed)))
            print(rows[-1], flush=True)
    write_json(given.out / "kills.json", [asdict(row) for row in rows])
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
