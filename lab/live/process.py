"""Give the engine's processes what they share: their bus, their end with the engine, their status and last words."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from lab.live.settings import Job
from lab.live.wire import Bus
from sdr.errors import OtaError

STATUS_S = 0.5
"""Each process says how it is this often."""

TRIM_S = 10.0
"""What batches of changing size leave free in the heap goes back to the system this often."""

_PAGE_BYTES = resource.getpagesize()


def run_process(job: Job, work: Callable[[Job, Bus], None]) -> NoReturn:
    """Run the work of a process until the engine ends it, or ends.

    A user's error becomes an event on the page and exit status 1.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the engine gets it too, and ends us
    signal.signal(signal.SIGTERM, _on_terminate)
    threading.Thread(target=_end_with_engine, daemon=True).start()
    threading.Thread(target=_give_back_memory, daemon=True).start()
    bus = Bus(job.folder, job.name)
    try:
        work(job, bus)
    except OtaError as error:
        bus.publish("event", level="error", text=f"{job.name}: {' '.join(str(error).split())}")
        time.sleep(0.1)  # for the message to leave
        sys.exit(1)
    sys.exit(0)


def _on_terminate(*_: object) -> None:
    # Unwinds the stack, so that flowgraphs are stopped and a radio is muted.
    raise SystemExit(0)


def _end_with_engine() -> None:
    """End this process when the engine is gone; flowgraphs end, and mute their radio, when we do."""
    engine = multiprocessing.parent_process()
    if engine is not None:
        engine.join()
        os._exit(4)


def _give_back_memory() -> None:
    """Trim the heap again and again, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        time.sleep(TRIM_S)
        trim(0)


class Status:
    """Says how a process is, no more often than every `STATUS_S`.

    Args:
        bus: of the process.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus, self._next_s = bus, 0.0

    def publish(self, numbers: Callable[[], dict[str, float | int]]) -> None:
        """Publish what `numbers` returns, if it is time."""
        now = time.monotonic()
        if now >= self._next_s:
            self._next_s = now + STATUS_S
            self._bus.publish(
                "status", numbers=numbers(), dropped_messages=self._bus.dropped, memory_mb=memory_mb(), pid=os.getpid()
            )


def memory_mb(pid: int | str = "self") -> float:
    """Return the resident memory of a process in MB, 0 where there is none."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return round(int(file.read().split()[1]) * _PAGE_BYTES / 1e6, 1)
    except OSError:
        return 0.0
