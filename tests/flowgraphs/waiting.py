"""Wait for what other threads and processes do."""

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until a condition holds, and fail if it doesn't in time."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.01)
