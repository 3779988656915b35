"""Notice when the machine pauses, which a test of a radio that runs in real time can't be blamed for."""

import threading
import time

_TICK_S = 0.025


class PauseMeter:
    """Measure by how much a thread that only sleeps is woken too late: the machine, or this process, stood still."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Forget what was measured so far."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._measure, name="pauses", daemon=True)
            self._thread.start()
        self._longest_s = 0.0

    @property
    def longest_s(self) -> float:
        """Longest pause since `begin`, seconds."""
        return self._longest_s

    def _measure(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_TICK_S)
            now = time.monotonic()
            self._longest_s = max(self._longest_s, now - before - _TICK_S)
            before = now
