"""Measure how fast samples get from a radio to the disk, hashed."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from lab.experiments.record_radio import record_stream
from sdr.errors import RecordingError
from sdr.files import replacing
from sdr.layout import FrameLayout, load_layout
from sdr.radios.base import Radio
from sdr.radios.open import open_radio
from sdr.recordings.verify import verify_dataset

_MESSAGE_SAMPLES = 1 << 16
_PERIOD_SAMPLES = 1 << 18
_BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class RecordingRow:
    """One radio's way to the disk.

    Attributes:
        radio: URI, or what was done without one.
        samples: recorded, complex float32.
        seconds: from the first sample to the index line on the disk.
        processor_s: processor time of this process, all threads.
        msps: samples per second of time, in millions.
        msps_processor: samples per second of one core's processor time, in millions.
    """

    radio: str
    samples: int
    seconds: float
    processor_s: float
    msps: float
    msps_processor: float


def _row(radio: str, samples: int, seconds: float, processor_s: float) -> RecordingRow:
    return RecordingRow(radio, samples, seconds, processor_s, samples / seconds / 1e6, samples / processor_s / 1e6)


def measure_recording(folder: Path, samples: int, rotate_bytes: int, seed: int = 0) -> list[RecordingRow]:
    """Record `samples` from a simulated and from a ZMQ radio into datasets in `folder`, and check every hash.

    Hashing alone and writing alone are measured beside them.

    Raises:
        RecordingError: a file is not what was hashed while it was written.
    """
    layout = load_layout("air")
    rng = np.random.default_rng(seed)
    parts = rng.normal(scale=0.1, size=2 * _PERIOD_SAMPLES).astype(np.float32)
    period = np.clip(parts, -0.7, 0.7).view(np.complex64)
    rows = [_hash_alone(period, samples), _write_alone(folder / "plain", period, samples)]
    for uri in ("sim:csnr_db=20,taps=8,cfo_hz=300", "sim:csnr_db=20,taps=8,cfo_hz=300,block_samples=100000"):
        with open_radio(uri, layout=layout) as radio:
            radio.transmit(period, cyclic=True)
            rows.append(_record(radio, uri, layout, folder / f"sim{len(rows)}", samples, rotate_bytes))
    with _zmq_source(period, samples + _PERIOD_SAMPLES) as uri, open_radio(uri, layout=layout) as radio:
        rows.append(_record(radio, "zmq:rx=tcp://127.0.0.1", layout, folder / "zmq", samples, rotate_bytes))
    return rows


def _record(radio: Radio, name: str, layout: FrameLayout, out: Path, samples: int, rotate_bytes: int) -> RecordingRow:
    # What a first block costs once (imports, a sender that starts) is no matter of rate.
    radio.receive(_MESSAGE_SAMPLES)
    began, busy = time.perf_counter(), time.process_time()
    counts = record_stream(radio, layout, out, samples / layout.rate_sps, rotate_bytes, lambda *_: None, lambda _: None)
    row = _row(name, counts.samples, time.perf_counter() - began, time.process_time() - busy)
    wrong = verify_dataset(out)
    if wrong:
        raise RecordingError(f"what was recorded is not what was hashed: {wrong[0]}")
    return row


def _hash_alone(period: np.ndarray, samples: int) -> RecordingRow:
    digest, data = hashlib.sha512(), period.view(np.uint8).data
    began, busy = time.perf_counter(), time.process_time()
    for _ in range(-(-samples // period.size)):
        digest.update(data)
    return _row("SHA-512 alone", samples, time.perf_counter() - began, time.process_time() - busy)


def _write_alone(path: Path, period: np.ndarray, samples: int) -> RecordingRow:
    data = period.view(np.uint8).data
    began, busy = time.perf_counter(), time.process_time()
    with replacing(path) as file:
        for _ in range(-(-samples // period.size)):
            file.write(data)
    row = _row("writing alone", samples, time.perf_counter() - began, time.process_time() - busy)
    path.unlink()
    return row


@contextmanager
def _zmq_source(period: np.ndarray, samples: int) -> Iterator[str]:
    """Run a process that pushes samples as fast as they are taken; yield the URI that receives them."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_push, args=(theirs, period.tobytes(), samples), daemon=True)
    process.start()
    try:
        yield f"zmq:rx=tcp://127.0.0.1:{ours.recv()},timeout_s=30"
    finally:
        process.terminate()
        process.join()


def _push(port: Connection, data: bytes, samples: int) -> None:
    import zmq

    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    port.send(socket.bind_to_random_port("tcp://127.0.0.1"))
    size = 8 * _MESSAGE_SAMPLES
    messages = [data[begin : begin + size] for begin in range(0, len(data), size)]
    for index in range(-(-samples // _MESSAGE_SAMPLES)):
        socket.send(messages[index % len(messages)], copy=False)
    context.term()  # waits until all of it is taken
