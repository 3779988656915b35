"""Measure how fast GNU Radio's own OFDM receiver is on this machine: samples of `digital.ofdm_tx` through `ofdm_rx`.

    python -m flowgraphs.benchmark_ofdm --samples 1000000

prints `READY {json}` with the samples, packets sent and received, and the processor time that the receiver took. The
frames are noise-free and have gaps, which that receiver needs.
"""

import argparse
import itertools
import json
import os
import sys
import threading
import time

import numpy as np
import pmt
from gnuradio import blocks, digital, gr

PACKET_BYTES = 96
GAP_SAMPLES = 400


def make_packets(count: int) -> np.ndarray:
    """Return complex64 samples of `count` packets, a gap of zeros after each."""
    top = gr.top_block()
    data = np.random.default_rng(0).integers(0, 256, count * PACKET_BYTES, dtype=np.uint8)
    source = blocks.vector_source_b(data.tolist(), False, 1, [])
    tagger = blocks.stream_to_tagged_stream(gr.sizeof_char, 1, PACKET_BYTES, "packet_len")
    transmitter = digital.ofdm_tx(fft_len=64, cp_len=16, packet_length_tag_key="packet_len", bps_payload=2)
    sink = blocks.vector_sink_c()
    top.connect(source, tagger, transmitter, sink)
    top.run()
    starts = [int(tag.offset) for tag in sink.tags() if pmt.symbol_to_string(tag.key) == "packet_len"]
    samples = np.array(sink.data(), dtype=np.complex64)
    edges = [*sorted(set(starts)), samples.size]
    gap = np.zeros(GAP_SAMPLES, dtype=np.complex64)
    parts = [gap]
    for first, last in itertools.pairwise(edges):
        parts += [samples[first:last], gap]
    return np.concatenate(parts)


def receive(samples: np.ndarray, repeats: int) -> tuple[float, float, int]:
    """Return processor seconds, wall seconds and bytes received: `samples`, `repeats` times, through `ofdm_rx`."""
    top = gr.top_block()
    source = blocks.vector_source_c(np.tile(samples, repeats), False, 1, [])
    receiver = digital.ofdm_rx(fft_len=64, cp_len=16, packet_length_tag_key="packet_len", bps_payload=2)
    sink = blocks.vector_sink_b()
    top.connect(source, receiver, sink)
    wall, processor = time.perf_counter(), time.process_time()
    top.run()
    return time.process_time() - processor, time.perf_counter() - wall, len(sink.data())


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.benchmark_ofdm")
    parser.add_argument("--samples", type=int, default=1_000_000, help="samples to receive, roughly")
    parser.add_argument("--exit-with-parent", action="store_true", help="end when standard input closes")
    arguments = parser.parse_args()
    if arguments.exit_with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    packets = 50
    samples = make_packets(packets)
    repeats = max(1, arguments.samples // samples.size)
    processor, wall, received = receive(samples, repeats)
    answer = {
        "samples": samples.size * repeats,
        "processor_s": processor,
        "wall_s": wall,
        "packets_sent": packets * repeats,
        "packets_received": received // PACKET_BYTES,
    }
    print("READY " + json.dumps(answer), flush=True)
    # The blocks' own threads may hang at exit.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
