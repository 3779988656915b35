"""Serve a radio to another process or host over ZMQ, where a client reaches it as `zmq:rx=..,tx=..`.

The lab's PC holds the radio and its driver, the server with the GPU decodes. Raw cf32 little-endian over PUSH and
PULL, as `sdr.radios.zmq_radio.ZmqRadio` speaks it: received samples leave at one port, those of several antennas
interleaved, samples to transmit come in at the next.

One client at a time: a second one is turned away while the first is connected. When the client vanishes, the radio is
muted. What a client sends without a pause of `PAUSE_S` is one burst.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.radios.base import Radio, Streams
from sdr.radios.zmq_radio import SAMPLE_BYTES, check_endpoint
from sdr.recordings.recording import interleaved

PAUSE_S = 0.1
"""Silence after which a client's burst is complete."""

MAX_BURST_SAMPLES = 1 << 24
BLOCK_SAMPLES = 1 << 15
_QUEUED_BLOCKS = 64
_POLL_MS = 20
_HEARTBEAT_MS = 1000
_TAKE_MS = 10_000
_ZAP = "inproc://zeromq.zap.01"


@runtime_checkable
class Mutes(Protocol):
    """A radio that can be muted."""

    def mute(self) -> None:
        """Stop transmitting."""
        ...


@dataclass
class _Peer:
    """The client that a socket serves; `descriptors` are its possible connections."""

    connected: bool = False
    descriptors: set[int] = field(default_factory=set)


class RadioServer:
    """Serves one radio; a context manager that binds on entry to nothing but what `bind` says.

    Args:
        radio: an open radio. It stays the caller's to close.
        bind: endpoint of received samples, as in tcp://127.0.0.1:5555; samples to transmit go to the next port.
        anywhere: allow addresses that other hosts can reach. There is no encryption and no password.
        cyclic: repeat a client's burst until it sends another or leaves.
        log: called with news for a person.

    Raises:
        RadioError: the endpoint is wrong, taken or open to other hosts, or pyzmq is missing.
    """

    def __init__(
        self,
        radio: Radio,
        bind: str,
        anywhere: bool = False,
        cyclic: bool = False,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        try:
            import zmq
            from zmq.utils.monitor import recv_monitor_message
        except ImportError:
            raise RadioError("serving a radio needs the package 'pyzmq'; install it in this interpreter") from None
        check_endpoint(bind, True, anywhere)
        host, _, port = bind.rpartition(":")
        if not bind.startswith("tcp://") or not port.isdecimal() or not 0 <= int(port) < 65535:
            raise RadioError(f"a radio is served at tcp://HOST:PORT with a port of 0..65534, found '{bind}'")
        if cyclic and not radio.capabilities.cyclic:
            raise RadioError(f"radio '{radio.settings.uri}' can't repeat a burst; serve it without repetition")
        self._zmq, self._recv_event = zmq, recv_monitor_message
        self._radio, self._cyclic, self._log = radio, cyclic, log
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind(_ZAP)
        try:
            self._rx, self._tx = self._bind(host, int(port))
        except RadioError:
            self._context.destroy(linger=0)
            raise
        self._monitors = {"rx": self._rx.get_monitor_socket(), "tx": self._tx.get_monitor_socket()}
        # For each socket the connections that are open, and of the admitted one those it may be: libzmq doesn't say
        # which connection completed its handshake, but one that was turned away ends at once.
        self._accepted: dict[str, set[int]] = {"rx": set(), "tx": set()}
        self._peers: dict[str, _Peer | None] = {"rx": None, "tx": None}
        self._poller = zmq.Poller()
        for socket in (self._zap, self._tx, *self._monitors.values()):
            self._poller.register(socket, zmq.POLLIN)
        self._stream: Any = None
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._once_due = False

    def _bind(self, host: str, port: int) -> tuple[Any, Any]:
        sockets = []
        for kind, number in ((self._zmq.PUSH, port), (self._zmq.PULL, port + 1 if port else 0)):
            socket = self._context.socket(kind)
            socket.setsockopt(self._zmq.LINGER, 0)
            socket.setsockopt(self._zmq.SNDHWM, _QUEUED_BLOCKS)
            socket.setsockopt(self._zmq.RCVHWM, _QUEUED_BLOCKS)
            socket.setsockopt(self._zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
            socket.setsockopt(self._zmq.HEARTBEAT_TIMEOUT, 3 * _HEARTBEAT_MS)
            socket.setsockopt_string(self._zmq.ZAP_DOMAIN, "tx" if sockets else "rx")
            try:
                socket.bind(f"{host}:{number}")
            except self._zmq.ZMQError as error:
                raise RadioError(f"can't serve at {host}:{number}: {error}; choose another port") from None
            sockets.append(socket)
        return sockets[0], sockets[1]

    @property
    def client_uri(self) -> str:
        """The radio URI that a client on this host uses."""
        rx, tx = (socket.getsockopt_string(self._zmq.LAST_ENDPOINT) for socket in (self._rx, self._tx))
        antennas = self._radio.capabilities.antennas
        return f"zmq:rx={rx},tx={tx}" + (f",antennas={antennas}" if antennas > 1 else "")

    @property
    def busy(self) -> bool:
        """Whether a client is connected."""
        return any(peer is not None for peer in self._peers.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_stream()
        for socket in (self._rx, self._tx):
            socket.disable_monitor()
        self._context.destroy(linger=0)

    def run(self, stop: threading.Event) -> None:
        """Serve until `stop` is set.

        Raises:
            RadioError: the radio failed while receiving; the client's samples end there.
        """
        self._once_due = self._radio.settings.uri.startswith("file:")
        flowing = False
        try:
            while not stop.is_set():
                # A burst ends with a pause, so the poll must be able to see one.
                ready = dict(self._poller.poll(round(1000 * PAUSE_S) if self._waiting else 0 if flowing else _POLL_MS))
                if self._zap in ready:
                    self._admit()
                for name, monitor in self._monitors.items():
                    if monitor in ready:
                        self._note(name)
                if self._tx in ready:
                    self._take()
                elif self._waiting:
                    self._transmit()
                flowing = self._receive()
        finally:
            self._end_stream()
            self._mute()

    def _admit(self) -> None:
        """Answer libzmq whether a connection may come in (ZAP, RFC 27)."""
        request = self._zap.recv_multipart()
        version, number, domain = request[0], request[1], request[2].decode(errors="replace")
        free = domain in self._peers and self._peers[domain] is None
        if free:
            self._peers[domain] = _Peer()
        else:
            self._log("a second client was turned away")
        status, text = (b"200", b"OK") if free else (b"400", b"another client is being served")
        self._zap.send_multipart([version, number, status, text, b"", b""])

    def _note(self, name: str) -> None:
        """Follow who is connected."""
        zmq = self._zmq
        event = self._recv_event(self._monitors[name])
        kind, descriptor, peer, accepted = event["event"], event["value"], self._peers[name], self._accepted[name]
        if kind == zmq.EVENT_ACCEPTED:
            accepted.add(descriptor)
        elif kind == zmq.EVENT_HANDSHAKE_SUCCEEDED and peer is not None:
            peer.connected = True
            peer.descriptors = set(accepted)
            self._log(f"client connected ({name})")
        elif kind == zmq.EVENT_DISCONNECTED:
            accepted.discard(descriptor)
            if peer is not None and peer.connected:
                peer.descriptors.discard(descriptor)
        failed = kind in (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL)
        if peer is not None and (not peer.descriptors if peer.connected else failed):
            self._peers[name] = None
            self._log(f"client gone ({name})")
            if name == "rx":
                self._end_stream()
            if not self.busy:
                self._waiting.clear()
                self._waiting_bytes = 0
                self._mute()

    def _take(self) -> None:
        """Keep a message of a client's burst."""
        message = self._tx.recv()
        if len(message) % SAMPLE_BYTES or self._waiting_bytes + len(message) > MAX_BURST_SAMPLES * SAMPLE_BYTES:
            self._log(
                f"a message of {len(message)} bytes was dropped: no whole number of samples, or the burst is too long"
            )
            return
        self._waiting.append(message)
        self._waiting_bytes += len(message)

    def _transmit(self) -> None:
        """Send the burst that is complete."""
        samples = np.frombuffer(b"".join(self._waiting), "<c8").astype(np.complex64)
        self._waiting.clear()
        self._waiting_bytes = 0
        self._end_stream()
        try:
            self._radio.transmit(samples, cyclic=self._cyclic)
        except RadioError as error:
            self._log(f"not transmitted: {error}")
            return
        self._once_due = True
        self._log(f"{samples.size} samples transmitted{', repeating' if self._cyclic else ''}")

    def _receive(self) -> bool:
        """Hand the client the next block, if there is one and it wants it; whether there was."""
        peer = self._peers["rx"]
        if peer is None or not peer.connected or not self._rx.poll(0, self._zmq.POLLOUT):
            return False
        if not self._radio.capabilities.finite:
            if self._stream is None:
                self._stream = self._blocks()
            return self._send(next(self._stream))
        if not self._once_due:
            return False
        self._once_due = False
        recording = self._radio.receive()
        if len(recording.antennas) != self._radio.capabilities.antennas:  # a file's, which a client can't know of
            recording.alone("ota serve")
        samples = recording.stacked
        for first in range(0, samples.shape[1], BLOCK_SAMPLES):
            block = samples[:, first : first + BLOCK_SAMPLES]
            if not self._rx.poll(_TAKE_MS, self._zmq.POLLOUT) or not self._send(block):
                self._log("the client takes no samples; the rest was dropped")
                break
        return True

    def _send(self, samples: NDArray[np.complex64]) -> bool:
        """Queue samples (n,) or (A, n) for the client, those of antennas interleaved, unless it has just gone."""
        try:
            self._rx.send(interleaved(list(np.atleast_2d(samples))).tobytes(), self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False
        return True

    def _blocks(self) -> Iterator[NDArray[np.complex64]]:
        if isinstance(self._radio, Streams):
            yield from self._radio.stream(BLOCK_SAMPLES)
        while True:
            yield self._radio.receive(BLOCK_SAMPLES).stacked

    def _end_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _mute(self) -> None:
        # A radio that is gone can't be muted, and is silent.
        if isinstance(self._radio, Mutes):
            with contextlib.suppress(RadioError):
                self._radio.mute()
