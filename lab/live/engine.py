"""Start the processes of a live link, watch them, and start those anew that died.

Whatever dies, the transmitter is muted: nobody watches what it sends. It stays so until a page unmutes it.
"""

from __future__ import annotations

import contextlib
import pickle
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from flowgraphs.supervisor import describe_status
from lab.live.controls import describe_all, radio_controls
from lab.live.forking import begin_imports
from lab.live.receiver import PLAIN, SAMPLER
from lab.live.settings import Job, Plan
from lab.live.snapshot import write_snapshot
from lab.live.wire import address, encode_message, read_header
from receiver.samplers.variants import method_settings
from sdr.errors import FlowgraphError

MAX_DEATHS = 5
"""So many deaths within `DEATHS_S` seconds end the engine."""

DEATHS_S = 60.0
_STOP_S = 8.0

Target = Callable[[Job], None]


def process_targets(plan: Plan) -> dict[str, Target]:
    """Return what each process of a plan runs, by name."""
    from lab.live.decoder import decode_newest, decode_plain
    from lab.live.playback import play
    from lab.live.receiver import listen
    from lab.live.transmitter import transmit

    targets: dict[str, Target] = {"receiver": listen if plan.settings.play is None else play, PLAIN: decode_plain}
    if plan.methods:
        targets[SAMPLER] = decode_newest
    if plan.settings.play is None and not plan.settings.listen:
        targets["transmitter"] = transmit
    return targets


class Engine:
    """The processes, and the two sockets between them and the pages. A context manager.

    Args:
        plan: what is to be done.

    Attributes:
        values: of the controls, as they are now.
        controls: by name; those of a radio come once it has told its limits.
        processes: by name.
    """

    def __init__(self, plan: Plan) -> None:
        import zmq

        self.plan = plan
        self.values = dict(plan.values)
        self.controls = plan.controls
        self.processes: dict[str, BaseProcess] = {}
        self._targets = process_targets(plan)
        self._forks = begin_imports()
        self._begun_with: dict[str, dict[str, Any]] = {}
        self._snapshots: list[BaseProcess] = []
        self._deaths: deque[float] = deque()
        self._told: deque[bytes] = deque()
        self._last_words = ""
        self.folder = Path(tempfile.mkdtemp(prefix="ota-live-"))
        self._zmq, self._context = zmq, zmq.Context()
        self._orders = self._context.socket(zmq.PUB)
        self._orders.setsockopt(zmq.LINGER, 0)
        self._orders.bind(address(self.folder, "orders"))
        self._messages = self._context.socket(zmq.PULL)
        self._messages.setsockopt(zmq.RCVHWM, 1024)
        self._messages.bind(address(self.folder, "pages"))

    def __enter__(self) -> Engine:
        for name in self._targets:
            # A radio's receiver is opened first: opening a radio mutes its transmitter.
            if name != "transmitter" or self.plan.settings.simulated or self.plan.settings.duplex:
                self._start(name)
        return self

    def _start(self, name: str) -> None:
        self._begun_with[name] = dict(self.values)
        job = Job(name, self.folder, self.plan, dict(self.values))
        process = self._forks.Process(target=self._targets[name], args=(job,), name=f"ota-live-{name}", daemon=False)
        process.start()
        self.processes[name] = process

    def order(self, name: str, value: Any) -> None:
        """Set a control or do an action, in whichever process minds it; the pages are told."""
        if name in self.controls:
            self.values[name] = value
            self._tell("set", name=name, value=value)
        if name == "method":
            self.order("steps", method_settings(value).steps)  # those of another method mean little
        self._orders.send(pickle.dumps((name, value)))

    def _tell(self, kind: str, **values: Any) -> None:
        self._told.append(encode_message(kind, {"from": "engine", **values}))

    def messages(self) -> Iterator[bytes]:
        """Yield the messages for the pages that came since the last call."""
        while self._told:
            yield self._told.popleft()
        while True:
            try:
                message = self._messages.recv(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            yield from self._heed(message)

    def _heed(self, message: bytes) -> Iterator[bytes]:
        """Act on a message that is also for the engine, and yield it if it is for the pages."""
        header = read_header(message)
        if header["kind"] == "ready":
            if "transmitter" in self._targets and "transmitter" not in self.processes:
                self._start("transmitter")
            return
        if header["kind"] == "limits":
            self.controls |= radio_controls(self.controls, header["limits"])
            self._tell("controls", controls=describe_all(self.controls), values=self.values)
            return
        if header["kind"] == "status" and header["from"] in self._begun_with:
            # It hears orders now; what was ordered since it was started may have passed it by.
            begun_with = self._begun_with.pop(header["from"])
            for name, value in self.values.items():
                if begun_with.get(name) != value:
                    self._orders.send(pickle.dumps((name, value)))
        elif header["kind"] == "set":
            self.values[header["name"]] = header["value"]
        elif header["kind"] == "event" and header["level"] == "error":
            self._last_words = header["text"]
        elif header["kind"] == "event" and header.get("purpose") == "snapshot":
            self._snapshot(header["recorded"])
        yield message

    def _snapshot(self, recorded: str) -> None:
        job = Job("snapshot", self.folder, self.plan, dict(self.values))
        process = self._forks.Process(target=write_snapshot, args=(job, recorded), name="ota-live-snapshot")
        process.start()
        self._snapshots.append(process)

    def watch(self) -> None:
        """Start anew what died, mute the transmitter, and say so on the pages.

        Raises:
            FlowgraphError: processes die again and again.
        """
        self._snapshots = [process for process in self._snapshots if process.is_alive()]
        for name, process in list(self.processes.items()):
            if process.is_alive():
                continue
            now = time.monotonic()
            self._deaths.append(now)
            while self._deaths and now - self._deaths[0] > DEATHS_S:
                self._deaths.popleft()
            how = describe_status(process.exitcode or 0)
            if len(self._deaths) > MAX_DEATHS:
                words = self._last_words or f"{name}: {how}, without a word"
                raise FlowgraphError(
                    f"processes of the link died {len(self._deaths)} times within {DEATHS_S:g} s; last words: {words}"
                )
            muted = ""
            if name == "receiver" and self.values["record"]:
                self.order("record", False)  # what it had recorded is gone
            if "mute" in self.values:
                self.order("mute", True)
                muted = "; the transmitter is muted"
            self._tell("event", level="error", text=f"{name} died ({how}){muted}; it starts anew", died=name)
            self._start(name)

    def __exit__(self, *_: object) -> None:
        # Receivers first would stop the samples' way; the transmitter has a radio to mute.
        running = [*self.processes.values(), *self._snapshots]
        for process in running:
            process.terminate()
        deadline = time.monotonic() + _STOP_S
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
        with contextlib.suppress(self._zmq.ZMQError):
            self._context.destroy(linger=0)
        shutil.rmtree(self.folder, ignore_errors=True)
