"""Start, early, the process that those of the engine are forked from."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_IMPORTED = ["lab.live.decoder", "lab.live.playback", "lab.live.transmitter"]


def begin_imports() -> ForkServerContext:
    """Start the process, which imports what the others need meanwhile, and return the context that forks it.

    It is free of threads and sockets, so that forking it is safe at any time, and a process that died is back at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    forkserver.ensure_running()
    return context
