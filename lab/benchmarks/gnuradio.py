"""Measure GNU Radio's own OFDM receiver, to compare ours with."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowgraphs.supervisor import Flowgraph


def measure_gnuradio_receiver(samples: int, timeout_s: float = 120.0) -> Mapping[str, Any]:
    """Run GNU Radio's `digital.ofdm_rx` over so many samples on this machine.

    Returns:
        what the flowgraph printed: `samples`, `processor_s` (processor time), `packets_sent`, `packets_received`, ..

    Raises:
        FlowgraphError: there is no GNU Radio, or it failed.
    """
    with tempfile.TemporaryDirectory() as workdir:
        process = Flowgraph("flowgraphs.benchmark_ofdm", {"samples": samples}, Path(workdir))
        try:
            return process.wait_ready(timeout_s)
        finally:
            process.stop()


def receiver_msps(measured: Mapping[str, Any]) -> float:
    """Return the millions of samples per second of one core."""
    return measured["samples"] / measured["processor_s"] / 1e6
