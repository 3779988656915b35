"""Watch `ota live` from outside, as a page does, and measure how it keeps up with what it hears."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np

from lab.evaluation.statistics import fitted_slope
from lab.live.controls import ACTIONS
from lab.live.process import memory_mb
from lab.live.receiver import PLAIN, SAMPLER
from lab.live.wire import read_header
from sdr.errors import FlowgraphError, RadioError

START_S = 60.0
"""Longest wait for the address and for the first picture."""

MEMORY_S = 1.0
STOP_S = 20.0
_FILLING = 5
_SHARE = 10
_ALL = "all"
_WHEN = "when_s"


class RunningLink:
    """`ota live` as a process of its own; a context manager.

    Args:
        options: of the command line, without `--port`.
        cwd: folder to run it in; None: this process's.

    Attributes:
        process: that runs.
        began_s: `time.monotonic()` when it was started.
        address: of the page, with its token.
        origin: of the page.
        socket: address of the page's WebSocket, with its token.

    Raises:
        FlowgraphError: it ended without an address; the message holds its last line.
    """

    def __init__(self, options: Sequence[str], cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "ota", "live", "--port", "0", *options]
        self.began_s = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=cwd)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        found = re.search(r"http://\S+", line)
        if found is None:
            self.process.communicate()
            raise FlowgraphError(line.strip().removeprefix("error: ") or "ota live ended without a word")
        self.address = found.group()
        parts = urlsplit(self.address)
        self.origin, self.socket = f"http://{parts.netloc}", f"ws://{parts.netloc}/socket?{parts.query}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()

    def page_s(self) -> float:
        """Return how long after the start the page can be had.

        Raises:
            FlowgraphError: it can't within `START_S`.
        """
        while time.monotonic() - self.began_s < START_S:
            try:
                with urllib.request.urlopen(self.address, timeout=START_S) as page:
                    page.read()
                return time.monotonic() - self.began_s
            except urllib.error.URLError:
                time.sleep(0.02)
        raise FlowgraphError(f"no page within {START_S:g} s")

    def memory_mb(self) -> float:
        """Return the resident memory of all its processes, flowgraphs included; what they share counts in each."""
        return sum(memory_mb(pid) for pid in [self.process.pid, *_descendants(self.process.pid)])


def _descendants(pid: int) -> list[int]:
    """Return the process ids of all that a process started, and what those started."""
    found = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(word) for word in tasks.read_text().split()]
        except OSError:  # it has just ended
            continue
        for child in children:
            found += [child, *_descendants(child)]
    return found


class Watcher:
    """A page without a picture: it hears all that pages hear, and may control the link. A context manager.

    Args:
        link: that runs.

    Raises:
        FlowgraphError: the link has ended.
    """

    def __init__(self, link: RunningLink) -> None:
        self._link = link

    def __enter__(self) -> Self:
        from websockets.sync.client import connect

        opened = connect(self._link.socket, origin=self._link.origin, max_queue=None, max_size=None)  # type: ignore[arg-type]
        self._socket = opened.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, name: str, value: Any = None) -> None:
        """Set a control, or do an action, which has no value."""
        import json

        self._socket.send(json.dumps({"do": name} if name in ACTIONS else {"set": name, "value": value}))

    def messages(self, limit_s: float) -> Iterator[bytes]:
        """Yield all messages that come within so many seconds.

        Raises:
            FlowgraphError: the link ended.
        """
        from websockets.exceptions import ConnectionClosed

        end_s = time.monotonic() + limit_s
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                message = self._socket.recv(timeout=left_s)
            except TimeoutError:
                return
            except ConnectionClosed:
                _, said = self._link.process.communicate(timeout=STOP_S)
                raise FlowgraphError(f"the link ended: {said.strip() or 'without a word'}") from None
            if isinstance(message, bytes):
                yield message

    def headers(self, limit_s: float) -> Iterator[dict[str, Any]]:
        """Yield the headers of all messages that come within so many seconds."""
        return map(read_header, self.messages(limit_s))


@dataclass
class Seen:
    """What came within a stretch of time.

    Attributes:
        counts: messages by kind.
        first: numbers of each process's first status, and when it came in seconds; `last` likewise.
        latencies_s: capture to picture, of each image by the plain decoder.
        memory: (seconds, MB) of all processes together, and by the name of each that says how much it has.
        events: texts of level error.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, dict[str, float]] = field(default_factory=dict)
    last: dict[str, dict[str, float]] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    events: list[str] = field(default_factory=list)

    def add(self, header: dict[str, Any], now_s: float) -> None:
        """Take a message that came at `now_s`."""
        kind = header["kind"]
        self.counts[kind] += 1
        if kind == "status":
            numbers = {**header["numbers"], "dropped_messages": header.get("dropped_messages", 0)}
            numbers[_WHEN] = now_s
            if "memory_mb" in header:
                self.memory[header["from"]].append((now_s, header["memory_mb"]))
            self.first.setdefault(header["from"], numbers)
            self.last[header["from"]] = numbers
        elif kind == "images" and header["from"] == PLAIN:
            self.latencies_s += [row["latency_s"] for row in header["rows"]]
        elif kind == "event" and header["level"] == "error":
            self.events.append(header["text"])

    def grown(self, process: str, name: str) -> float:
        """Return by how much a number of a process grew; 0 where it has no such number."""
        return self.last.get(process, {}).get(name, 0) - self.first.get(process, {}).get(name, 0)

    def rate(self, process: str, name: str) -> float | None:
        """Return by how much a number of a process grew in a second; None of fewer than two statuses."""
        seconds = self.grown(process, _WHEN)
        return self.grown(process, name) / seconds if seconds else None


def measure(options: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run `ota live` with some options, watch it for so long after the first picture, and return what was seen.

    Samples are lost where a radio says so (`overflows`), or where a simulated air could not make them in time
    (`late_samples`). `behind_s` is by how much fewer samples came than the clock asks for, at the end of the stretch
    less at its start.

    Raises:
        FlowgraphError: the link ended, or no picture came.
    """
    with RunningLink(options) as link:
        page_s = link.page_s()
        with Watcher(link) as watcher:
            controls = next(watcher.headers(START_S))
            picture_s = _first_picture_s(watcher, link)
            seen, began_s = Seen(), time.monotonic()
            for header in watcher.headers(seconds):
                now_s = time.monotonic() - began_s
                seen.add(header, now_s)
                if not seen.memory[_ALL] or now_s - seen.memory[_ALL][-1][0] >= MEMORY_S:
                    seen.memory[_ALL].append((now_s, link.memory_mb()))
            watched_s = time.monotonic() - began_s
    return {
        "options": list(options),
        "radio": controls["about"]["radio"],
        "rate_sps": controls["about"]["rate_sps"],
        "page_s": page_s,
        "picture_s": picture_s,
        "watched_s": watched_s,
        **_figures(seen, watched_s, controls["about"]["rate_sps"]),
    }


def _first_picture_s(watcher: Watcher, link: RunningLink) -> float:
    for header in watcher.headers(START_S):
        if header["kind"] == "images" and header["from"] == PLAIN:
            return time.monotonic() - link.began_s
    raise RadioError(f"no picture within {START_S:g} s; see what the page says with the same options")


def _figures(seen: Seen, watched_s: float, rate_sps: float) -> dict[str, Any]:
    receiver = {name: seen.grown("receiver", name) for name in seen.last.get("receiver", {})}
    latencies = np.array(seen.latencies_s)
    dropped = {
        f"{process}.{name}": seen.grown(process, name)
        for process, numbers in seen.last.items()
        for name in numbers
        if "drop" in name or name in ("groups_left_out", "frames_not_taken", "frames_strange")
    }
    return {
        "samples": receiver["samples"],
        "overflows": receiver["overflows"] + seen.grown("transmitter", "overflows"),
        "late_samples": seen.grown("transmitter", "late_samples"),
        "behind_s": (receiver["samples_due"] - receiver["samples"]) / rate_sps,
        "frames": receiver["frames"],
        **{name: receiver[name] for name in ("frames_lost", "frames_unread", "frames_twice", "images_incomplete")},
        "lines_per_s": seen.counts["line"] / watched_s,
        "plain_images_per_s": seen.rate(PLAIN, "images"),
        "sampler_images_per_s": seen.rate(SAMPLER, "images"),
        "latency_median_s": float(np.median(latencies)) if latencies.size else None,
        "latency_95_s": float(np.quantile(latencies, 0.95)) if latencies.size else None,
        "memory": {name: _memory(np.array(measured)) for name, measured in seen.memory.items()},
        "dropped": dropped,
        "errors": seen.events,
    }


def _memory(measured: np.ndarray) -> dict[str, float | None]:
    """Return how memory changed, of (n, 2) seconds and MB, without the first fifth of the time, in which it fills."""
    times_s, memory_mb = measured[measured.shape[0] // _FILLING :].T
    edge = max(1, memory_mb.size // _SHARE)
    slope, error = fitted_slope(times_s / 60.0, memory_mb)
    return {
        "start_mb": float(memory_mb[:edge].mean()),
        "end_mb": float(memory_mb[-edge:].mean()),
        "slope_mb_per_min": slope,
        "slope_error_mb_per_min": error,
    }
