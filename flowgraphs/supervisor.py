"""Start, watch and stop flowgraph processes. No GNU Radio is imported here.

The flowgraphs run in whichever interpreter has GNU Radio: this one, the one that OTA_GNURADIO_PYTHON names, or the
system's `python3`. A child ends when its standard input closes, so none outlives this process, however it ends.
"""

import contextlib
import functools
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sdr.errors import FlowgraphError

PYTHON_VARIABLE = "OTA_GNURADIO_PYTHON"
"""Environment variable that names the interpreter with GNU Radio."""

REMEDY = (
    "apt-get install gnuradio, or create the conda environment of environment.yml, or set "
    f"{PYTHON_VARIABLE} to the interpreter that has GNU Radio"
)

PROBE_TIMEOUT_S = 60.0
READY_TIMEOUT_S = 30.0
GRACE_S = 6.0
"""Time for a process to end after SIGTERM; longer than it waits for its own blocks."""

POLL_S = 0.02
TAIL_BYTES = 65536

_PROBE = (
    "import json, platform, sys; sys.version_info >= (3, 11) or sys.exit('it is older than Python 3.11'); "
    "from gnuradio import gr, analog, blocks, digital, fft, pdu, zeromq; import numpy, pmt; "
    "print('PROBE ' + json.dumps([sys.executable, gr.version(), platform.python_version(), numpy.__version__]))"
)


@dataclass(frozen=True)
class GnuRadio:
    """An interpreter that has GNU Radio: its path, and the versions of GNU Radio, Python and NumPy in it."""

    python: str
    version: str
    python_version: str
    numpy_version: str


def find_gnuradio_python() -> GnuRadio:
    """Find an interpreter that can run the flowgraphs; asked once per process and environment.

    The order is: this interpreter, `OTA_GNURADIO_PYTHON`, `python3` on the path, `/usr/bin/python3`.

    Raises:
        FlowgraphError: none has GNU Radio, or `OTA_GNURADIO_PYTHON` names one that has not.
    """
    return _find(sys.executable, os.environ.get(PYTHON_VARIABLE, ""), os.environ.get("PATH", ""))


@functools.cache
def _find(this_python: str, named: str, search_path: str) -> GnuRadio:
    tried = []
    if importlib.util.find_spec("gnuradio") is not None:
        found = probe_gnuradio(this_python)
        if isinstance(found, GnuRadio):
            return found
        tried.append(f"{this_python}: {found}")
    if named:
        # Whoever names an interpreter means that one: falling back silently would hide the mistake.
        found = probe_gnuradio(named)
        if isinstance(found, GnuRadio):
            return found
        raise FlowgraphError(f"{PYTHON_VARIABLE}={named} has no usable GNU Radio ({found}); {REMEDY}")
    for candidate in dict.fromkeys([shutil.which("python3", path=search_path), "/usr/bin/python3"]):
        if candidate is None or candidate == this_python:
            continue
        found = probe_gnuradio(candidate)
        if isinstance(found, GnuRadio):
            return found
        tried.append(f"{candidate}: {found}")
    raise FlowgraphError(f"no GNU Radio found (tried {'; '.join(tried) or 'no interpreter'}); {REMEDY}")


def probe_gnuradio(python: str) -> GnuRadio | str:
    """Return what GNU Radio an interpreter has, or why it has none."""
    try:
        result = subprocess.run(
            [python, "-c", _PROBE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=_child_environment(None),
        )
    except OSError as error:
        return f"can't be started: {error.strerror}"
    except subprocess.TimeoutExpired:
        return f"gave no answer within {PROBE_TIMEOUT_S:g} s"
    for line in result.stdout.splitlines():
        if line.startswith("PROBE "):
            return GnuRadio(*json.loads(line.removeprefix("PROBE ")))
    lines = result.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with status {result.returncode} and printed nothing"


def _child_environment(root: str | None) -> dict[str, str]:
    """Return our environment without what would make another interpreter load this one's packages."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    if root is not None:
        environment["PYTHONPATH"] = root
    # One thread per block is plenty; numerical libraries would add one per core to each.
    environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = "1"
    environment["PYTHONUNBUFFERED"] = "1"
    # Or else any numpy/ or pdu.py in the current folder would be imported instead of the real one.
    environment["PYTHONSAFEPATH"] = "1"
    return environment


def import_root(workdir: Path) -> str:
    """Return a folder from which another interpreter can import `sdr` and `flowgraphs` and nothing else of ours.

    Installed in site-packages, our neighbours there are compiled for this interpreter and must stay out of sight.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / "numpy").exists():
        return str(root)
    links = workdir.resolve() / "import"
    links.mkdir(exist_ok=True)
    for package in ("sdr", "flowgraphs"):
        with contextlib.suppress(FileExistsError):
            (links / package).symlink_to(root / package, target_is_directory=True)
    return str(links)


def _command_line(options: Mapping[str, object]) -> list[str]:
    """Return options as one word each, so that a value that begins with a dash is no option."""
    return [f"--{name}={value}" for name, value in options.items()]


def describe_status(returncode: int) -> str:
    """Return what an exit status means.

    >>> describe_status(-9)
    'killed by SIGKILL'
    >>> describe_status(2)
    'exit status 2'
    """
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


@dataclass(frozen=True)
class ProcessReport:
    """Report of a process that ran.

    Attributes:
        process: name of the flowgraph.
        pid: process id.
        python: interpreter.
        python_version: its version.
        gnuradio: version of GNU Radio.
        seconds: how long it ran.
    """

    process: str
    pid: int
    python: str
    python_version: str
    gnuradio: str
    seconds: float


class Flowgraph:
    """One flowgraph process.

    Args:
        module: module to run with `-m`, e.g. `flowgraphs.receive`.
        options: its command line, {"cfo-hz": 300} for `--cfo-hz=300`. `--exit-with-parent` is added.
        workdir: existing folder for what the process prints.
        name: what to call it; the last part of the module's name unless given.
        endless: it runs until it is stopped, so that ending by itself is a failure too.
        python: interpreter that has GNU Radio; found unless given.

    Attributes:
        name: what it is called.
        pid: process id.
        process: the process.
        ready: what the process said when its flowgraph ran; empty before.
    """

    def __init__(
        self,
        module: str,
        options: Mapping[str, object],
        workdir: Path,
        name: str | None = None,
        endless: bool = False,
        python: str | None = None,
    ) -> None:
        self.name = name or module.rpartition(".")[2]
        self.endless = endless
        self.python = python or find_gnuradio_python().python
        self.ready: dict[str, Any] = {}
        self.started = time.monotonic()
        self.ended: float | None = None
        self._stopping = False
        self._stdout_path = workdir / f"{self.name}.stdout.txt"
        self._stderr_path = workdir / f"{self.name}.stderr.txt"
        # Files rather than pipes: a pipe that nobody reads blocks the process that writes.
        try:
            with self._stdout_path.open("wb") as stdout, self._stderr_path.open("wb") as stderr:
                self.process = subprocess.Popen(
                    [self.python, "-m", module, *_command_line(options), "--exit-with-parent"],
                    stdin=subprocess.PIPE,
                    stdout=stdout,
                    stderr=stderr,
                    env=_child_environment(import_root(workdir)),
                    cwd=os.getcwd(),
                    # Ctrl-C at the terminal is for us; the children get a SIGTERM.
                    start_new_session=True,
                )
        except OSError as error:
            raise FlowgraphError(f"{self.name} can't be started ({self.python}: {error.strerror}); {REMEDY}") from None
        self.pid = self.process.pid

    def returncode(self) -> int | None:
        """Return the exit status, negative for a signal, None while it runs."""
        code = self.process.poll()
        if code is not None and self.ended is None:
            self.ended = time.monotonic()
        return code

    def alive(self) -> bool:
        """Return whether the process still runs."""
        return self.returncode() is None

    def seconds(self) -> float:
        """Return how long it ran, or has run so far."""
        return (self.ended or time.monotonic()) - self.started

    def report(self) -> ProcessReport:
        """Return what it said of itself when it was ready, and how long it ran."""
        ready = {key: self.ready[key] for key in ("process", "pid", "python", "python_version", "gnuradio")}
        return ProcessReport(**ready, seconds=round(self.seconds(), 3))

    def set(self, name: str, value: float) -> None:
        """Have a radio's gain or carrier set, within the limits that `ready` names. One that died is left alone."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps({name: value}).encode() + b"\n")
            self.process.stdin.flush()

    def last_said(self, word: str) -> Any:
        """Return what its last line `word {json}` on stdout said, None where there is none in sight."""
        for line in reversed(_tail(self._stdout_path).splitlines(keepends=True)):
            # Drivers print there, too, such as a U for an underrun, and end no line.
            _, said, content = line.partition(word + " ")
            if said and line.endswith("\n"):
                return json.loads(content)
        return None

    def stderr_tail(self, num_lines: int = 4) -> list[str]:
        """Return its last lines on stderr, without a C++ backtrace's addresses and Python's underlining."""
        lines = [line.strip() for line in _tail(self._stderr_path).splitlines()]
        return [line for line in lines if line.strip("^~") and not line.startswith("0x")][-num_lines:]

    def check(self) -> None:
        """Check that it runs, was stopped by us, or ended as it should.

        Raises:
            FlowgraphError: it died; the message names it, its exit status and its last words.
        """
        code = self.returncode()
        if code is None or self._stopping or (code == 0 and not self.endless):
            return
        raise FlowgraphError(self._obituary(code))

    def _obituary(self, code: int) -> str:
        words = " | ".join(self.stderr_tail()) or "it printed nothing on stderr"
        remedy = "; run it again" if code <= 0 else ""
        return f"flowgraph '{self.name}' died after {self.seconds():.1f} s ({describe_status(code)}): {words}{remedy}"

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Wait for its READY line and return what it says.

        Raises:
            FlowgraphError: it died or said nothing in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.returncode()
            ready = self.last_said("READY")
            if ready is not None:
                self.ready = ready
                return ready
            if ended is not None:
                raise FlowgraphError(self._obituary(ended))
            if time.monotonic() > deadline:
                words = " | ".join(self.stderr_tail()) or "it printed nothing on stderr"
                raise FlowgraphError(
                    f"flowgraph '{self.name}' was not ready within {timeout_s:g} s: {words}; "
                    "the machine may be too busy"
                )
            time.sleep(POLL_S)

    def wait(self, timeout_s: float) -> None:
        """Wait until it ends by itself.

        Raises:
            FlowgraphError: it died, or still runs after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if time.monotonic() > deadline:
                raise FlowgraphError(f"flowgraph '{self.name}' did not end within {timeout_s:g} s; it may be stuck")
            time.sleep(POLL_S)
        self.check()

    def terminate(self) -> None:
        """Ask it to stop, without waiting."""
        self._stopping = True
        if self.alive():
            self.process.terminate()

    def stop(self, grace_s: float = GRACE_S) -> int:
        """Ask it to stop, kill it if it hangs, and return its exit status."""
        self.terminate()
        try:
            self.process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        code = self.returncode()
        assert code is not None
        return code


def _tail(path: Path) -> str:
    """Return the last of a file that another process is writing."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        return file.read().decode(errors="replace")


class Supervisor:
    """Several flowgraph processes that live and die together.

    A context manager: on the way out, however that comes about, all of them are stopped, and killed if they hang.

    Args:
        workdir: folder for what they print; a temporary one unless given.

    >>> with Supervisor() as supervisor:  # doctest: +SKIP
    ...     receive = supervisor.start("flowgraphs.receive", {"source": "...", "sink": "...", "samples": 9})
    ...     supervisor.watch(lambda: not receive.alive(), timeout_s=10.0)
    """

    def __init__(self, workdir: Path | None = None) -> None:
        self.flowgraphs: list[Flowgraph] = []
        self._temporary = None if workdir is not None else tempfile.TemporaryDirectory(prefix="flowgraphs-")
        self.workdir = workdir if workdir is not None else Path(self._temporary.name)  # type: ignore[union-attr]
        self.workdir.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def start(
        self,
        module: str,
        options: Mapping[str, object],
        name: str | None = None,
        endless: bool = False,
        timeout_s: float = READY_TIMEOUT_S,
    ) -> Flowgraph:
        """Start a flowgraph and wait until it runs; the rest is as for `Flowgraph`.

        Raises:
            FlowgraphError: it can't be started, or it or another one died.
        """
        flowgraph = Flowgraph(module, options, self.workdir, name, endless)
        self.flowgraphs.append(flowgraph)
        flowgraph.wait_ready(timeout_s)
        self.check()
        return flowgraph

    def check(self) -> None:
        """Check that none died.

        Raises:
            FlowgraphError: the first that did.
        """
        for flowgraph in self.flowgraphs:
            flowgraph.check()

    def watch(self, done: Callable[[], bool], timeout_s: float, progress: Callable[[], float] | None = None) -> None:
        """Wait until `done` is true, watching all processes.

        Args:
            timeout_s: time without progress, or in all where no `progress` is given, after which to give up.
            progress: any number that grows while things go on.

        Raises:
            FlowgraphError: a process died, or nothing went on for too long.
        """
        last, since = None, time.monotonic()
        while True:
            self.check()
            if done():
                return
            now = progress() if progress is not None else None
            if now != last:
                last, since = now, time.monotonic()
            if time.monotonic() - since > timeout_s:
                names = ", ".join(flowgraph.name for flowgraph in self.flowgraphs if flowgraph.alive())
                raise FlowgraphError(
                    f"the flowgraphs ({names or 'all ended'}) made no progress for {timeout_s:g} s; "
                    "a process may be stuck or the machine too busy"
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """Stop all, the last started first, and check that none had died before.

        Raises:
            FlowgraphError: one had.
        """
        self.check()
        self._stop_all()

    def _stop_all(self) -> None:
        for flowgraph in reversed(self.flowgraphs):
            flowgraph.terminate()
        for flowgraph in reversed(self.flowgraphs):
            flowgraph.stop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_all()
        if self._temporary is not None:
            self._temporary.cleanup()
