"""Give all flowgraph processes their ends, their READY line, and the way in which they end.

Ends are `zmq:tcp://HOST:PORT`, `file:PATH` or a radio such as `pluto:ip:192.168.2.1`; complex float32 samples without
tags or framing in all of them. A ZMQ sink binds (port `*` takes a free one) and a ZMQ source connects; PUSH and PULL,
because PUB drops silently. A file sink gives PATH its name when every sample is there (`sdr.files.GrowingFile`).

A process prints one line `READY {json}` on stdout once its flowgraph runs; one that transmits a given number of frames
through a radio, once they are on the air, where they repeat until SIGTERM. Drivers may leave words in front of it that
end no line, such as gr-iio's U for an underrun. A file sink that knows its number of samples ends the process; a ZMQ
sink never does, because what is still in flight would be lost: it stays idle until SIGTERM. So whoever receives ends
first, and nothing is lost. Exit status: 0 done or stopped, 1 stopped before a file was complete, 2 an error of the
user's.
"""

import argparse
import importlib
import ipaddress
import json
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, Protocol

from gnuradio import blocks, gr, zeromq

from sdr.errors import FlowgraphError, InputError, OtaError, RadioError
from sdr.files import GrowingFile

POLL_S = 0.01
GRACE_S = 3.0
"""Time for a stopped flowgraph to end its threads before the process ends without them."""

ZMQ_TIMEOUT_MS = 100
_QUEUE_FRAMES = 1 << 24


def new_top_block(name: str) -> gr.top_block:
    """Return a top block whose blocks end the process when they fail.

    By default GNU Radio logs the exception of a block and lets the rest of the graph wait forever. It also drops
    messages from a long queue.
    """
    gr.prefs().set_long("DEFAULT", "max_messages", _QUEUE_FRAMES)
    return gr.top_block(name, catch_exceptions=False)


@dataclass(frozen=True)
class Endpoint:
    """One end of a flowgraph: `kind`, and ZMQ address, path, or what follows the scheme in a radio's URI."""

    kind: str
    address: str


RADIO_ENDS = {"pluto": "flowgraphs.iio_ends", "uhd": "flowgraphs.uhd_ends"}
"""Radios that GNU Radio drives itself, and the modules with their `make_sink` and `make_source`; their drivers are
loaded only where such a radio is an end."""


class RadioSink(Protocol):
    """A radio's transmitter: what `run` needs to know of a sink."""

    block: gr.basic_block
    address: str
    to_file: bool

    def num_samples(self) -> int:
        """Return how many samples went in so far."""
        ...

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the least and the greatest value of what `set` takes, by name."""
        ...

    def set(self, name: str, value: float) -> None:
        """Set a gain or the carrier while samples go on, muted while it is retuned.

        Raises:
            RadioError: the radio has no such setting, or refuses the value.
        """
        ...

    def lost(self) -> int:
        """Return how often samples that were heard got lost; 0 where it hears none."""
        ...

    def ready(self) -> bool:
        """Return whether what shall be on the air is there."""
        ...

    def finish(self, total_samples: int | None) -> None:
        """Mute the transmitter."""
        ...


def parse_endpoint(text: str) -> Endpoint:
    """Read `zmq:tcp://HOST:PORT`, `zmq:ipc://PATH`, `file:PATH` or the URI of a radio of `RADIO_ENDS`.

    Raises:
        RadioError: it is something else.
    """
    kind, colon, address = text.partition(":")
    known = kind == "file" or kind in RADIO_ENDS or (kind == "zmq" and address.startswith(("tcp://", "ipc://")))
    if colon and address and known:
        return Endpoint(kind, address)
    raise RadioError(
        f"an end of a flowgraph is zmq:tcp://HOST:PORT, file:PATH or a radio ({', '.join(RADIO_ENDS)}), found "
        f"'{text:.100}'"
    )


def _check_bind(address: str, allow_remote: bool) -> None:
    """Refuse to listen to the whole network unless that was asked for."""
    if allow_remote or address.startswith("ipc://"):
        return
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise RadioError(f"{address} can be reached from other machines; use 127.0.0.1, or add --allow-remote")


def make_source(end: Endpoint, rate_sps: float = 1e6) -> gr.basic_block:
    """Return the block that brings samples in; only a radio minds the rate.

    Raises:
        FlowgraphError: the address or the file can't be used.
        RadioError: the radio can't be used.
    """
    if end.kind in RADIO_ENDS:
        return importlib.import_module(RADIO_ENDS[end.kind]).make_source(end.address, rate_sps)
    if end.kind == "file":
        file_samples(end.address)
        return blocks.file_source(gr.sizeof_gr_complex, end.address, False)
    try:
        return zeromq.pull_source(gr.sizeof_gr_complex, 1, end.address, ZMQ_TIMEOUT_MS, False)
    except RuntimeError as error:
        raise FlowgraphError(f"can't connect to {end.address}: {error}; check the address") from None


def make_radio_sink(end: Endpoint, rate_sps: float, frame_samples: int, total_samples: int | None) -> RadioSink:
    """Return a radio's transmitter; a known number of samples repeats.

    Raises:
        OtaError: the radio can't be used, or the samples don't fit it.
    """
    return importlib.import_module(RADIO_ENDS[end.kind]).make_sink(end.address, rate_sps, frame_samples, total_samples)


def file_samples(path: str) -> int:
    """Return how many samples a raw complex float32 file holds.

    Raises:
        FlowgraphError: it can't be read, or isn't a whole number of samples.
    """
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise FlowgraphError(f"{path} can't be read: {error.strerror}; check the path") from None
    if size % gr.sizeof_gr_complex:
        raise FlowgraphError(
            f"{path} has {size} bytes, not a whole number of 8-byte samples; it is truncated or not complex float32"
        )
    return size // gr.sizeof_gr_complex


class Sink:
    """The end of a flowgraph that samples go to.

    Attributes:
        block: the GNU Radio block.
        address: ZMQ address with its actual port, or the path.
        to_file: whether it is a file.
    """

    def __init__(self, end: Endpoint, allow_remote: bool = False) -> None:
        self.to_file = end.kind == "file"
        self.address = end.address
        if self.to_file:
            self._file = GrowingFile(end.address)
            try:
                self.block = blocks.file_sink(gr.sizeof_gr_complex, str(self._file.partial), False)
            except RuntimeError:
                raise FlowgraphError(f"{end.address} can't be written; check that the folder exists") from None
            return
        _check_bind(end.address, allow_remote)
        try:
            self.block = zeromq.push_sink(gr.sizeof_gr_complex, 1, end.address, ZMQ_TIMEOUT_MS, False)
        except RuntimeError as error:
            raise FlowgraphError(f"can't listen at {end.address}: {error}; use port * for a free one") from None
        self.address = self.block.last_endpoint()

    def num_samples(self) -> int:
        """Return how many samples went in so far."""
        return self.block.nitems_read(0)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return nothing: a file or a socket has no settings."""
        return {}

    def set(self, name: str, value: float) -> None:
        """Refuse: there is nothing to set.

        Raises:
            RadioError: always.
        """
        raise RadioError(f"{self.address} has no {name}")

    def lost(self) -> int:
        """Return 0: it hears nothing."""
        return 0

    def ready(self) -> bool:
        """Return whether the READY line may be printed: at once."""
        return True

    def finish(self, total_samples: int | None) -> None:
        """Mute the transmitter.

        Raises:
            FlowgraphError: fewer than `total_samples` (where known) are in the file.
        """
        if not self.to_file:
            return
        self.block.close()
        found = self._file.size_bytes() // gr.sizeof_gr_complex
        if total_samples is not None and found != total_samples:
            self._file.discard()
            raise FlowgraphError(f"stopped at {found} of {total_samples} samples; {self.address} was not written")
        self._file.finish()


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every flowgraph process takes."""
    parser.add_argument(
        "--sink", required=True, metavar="END", help="zmq:tcp://HOST:PORT (* is a free one) or file:PATH"
    )
    parser.add_argument("--allow-remote", action="store_true", help="let a ZMQ sink listen to other machines")
    parser.add_argument(
        "--exit-with-parent", action="store_true", help="end when standard input closes, that is, when a parent dies"
    )


def run(
    top_block: gr.top_block,
    name: str,
    sink: Sink | RadioSink,
    total_samples: int | None,
    exit_with_parent: bool,
    source: str,
    tick: Callable[[], None] = lambda: None,
    finish: Callable[[], None] = lambda: None,
) -> NoReturn:
    """Run a flowgraph until it is done or SIGTERM comes, then end the process.

    Args:
        total_samples: samples after which a file sink is complete; None if unknown.
        source: what to say about the other end in the READY line.
        tick: called about a hundred times a second; what it raises ends the process.
        finish: called after the flowgraph stopped.

    Raises:
        OtaError: from `tick`, `finish` or an incomplete file. `main` reports it.
    """
    # A plain flag: a threading.Event may be locked by the very code that the signal interrupts.
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    if exit_with_parent:
        threading.Thread(target=_heed_parent, args=(sink,), daemon=True).start()
    top_block.start()
    ready = {
        "process": name,
        "pid": os.getpid(),
        "python": sys.executable,
        "python_version": platform.python_version(),
        "gnuradio": gr.version(),
        "source": source,
        "sink": sink.address,
        "limits": sink.limits(),
    }
    announced, lost = False, 0
    started = time.monotonic()
    try:
        while not stopping:
            if not announced and sink.ready():
                announced = True
                print("READY " + json.dumps(ready), flush=True)
            tick()
            if sink.lost() != lost:
                lost = sink.lost()
                print(f"LOST {lost}", flush=True)
            if sink.to_file and total_samples is not None and sink.num_samples() >= total_samples:
                break
            time.sleep(POLL_S)
    finally:
        # A block that hangs must not keep the process: the threads die with it.
        ending = threading.Thread(target=lambda: (top_block.stop(), top_block.wait()), daemon=True)
        ending.start()
        ending.join(GRACE_S)
        num_samples = sink.num_samples()
        sink.finish(total_samples)
    finish()
    print("DONE " + json.dumps({"samples": num_samples, "seconds": time.monotonic() - started}), flush=True)
    _exit(0)


def main(build_and_run: Callable[[list[str] | None], NoReturn], argv: list[str] | None = None) -> NoReturn:
    """Run a flowgraph's own main function; a user's error becomes one line on stderr and exit status 2."""
    try:
        build_and_run(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(2)
    except OtaError as error:
        print(f"error: {error}", file=sys.stderr)
        _exit(1 if str(error).startswith("stopped at") else 2)


def _heed_parent(sink: Sink | RadioSink) -> None:
    """Set what the parent writes to our standard input, until it closes that, which also happens when it dies.

    A line is a JSON object of names and values. What a radio refuses ends the process: it is not set as it should be.
    """
    for line in sys.stdin:
        try:
            for name, value in json.loads(line).items():
                sink.set(name, value)
        except OtaError as error:
            print(f"error: {error}", file=sys.stderr)
            sink.finish(None)
            _exit(2)
    if not sink.to_file:
        sink.finish(None)  # a radio is muted
    os._exit(4)


def _exit(status: int) -> NoReturn:
    """End at once: interpreter shutdown can hang in GNU Radio's drivers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
