"""Do something to an emulated radio while a test waits for that radio."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sdr.emulated.usrp import EmulatedUsrp


def handed_out(usrp: EmulatedUsrp, num_samples: int) -> Callable[[], bool]:
    """Return whether it has handed out so many samples from now on."""
    before = usrp.samples_read
    return lambda: usrp.samples_read >= before + num_samples


@contextmanager
def once(condition: Callable[[], object], action: Callable[[], object], limit_s: float = 30.0) -> Iterator[None]:
    """Act in another thread as soon as a condition holds; fail at the end where it never did."""
    acted, left = threading.Event(), threading.Event()

    def wait() -> None:
        deadline = time.monotonic() + limit_s
        while not condition():
            if left.wait(0.002) or time.monotonic() > deadline:
                return
        action()
        acted.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        left.set()
        thread.join()
    assert acted.is_set(), "what was waited for did not happen"
