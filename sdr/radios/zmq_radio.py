"""Use ZMQ sockets as a radio: `zmq:rx=tcp://host:port,tx=tcp://host:port`.

Samples are raw cf32 little-endian over PUSH and PULL, which block where PUB and SUB would silently drop; there are no
tags. Both ends connect; `rx_bind=yes` and `tx_bind=yes` bind instead, on loopback only unless `anywhere=yes`. Samples
of several antennas are interleaved: `zmq:rx=tcp://host:port,antennas=2`.
"""

import ipaddress
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.options import option_readers, parse_options
from sdr.radios.base import ContextRadio, Driver, RadioCapabilities
from sdr.recordings.recording import MAX_ANTENNAS, Recording, utc_now
from sdr.settings import RadioSettings

SAMPLE_BYTES = 8
_MAX_MESSAGE_BYTES = 256 << 20
_MESSAGE_SAMPLES = 1 << 16
_PROBE_MS = 500


@dataclass(frozen=True)
class ZmqOptions:
    """Options of a `zmq:` URI.

    Args:
        rx: endpoint to receive from, or None.
        tx: endpoint to transmit to, or None.
        rx_bind: bind `rx` instead of connecting it.
        tx_bind: bind `tx` instead of connecting it.
        anywhere: allow binding to addresses that other hosts can reach.
        timeout_s: longest wait for the next samples, or for a peer to take some.
        antennas: whose samples are interleaved in what is received: one of each, then the next.

    Raises:
        RadioError: an endpoint is missing or can't be used, or a value is out of range.
    """

    rx: str | None = None
    tx: str | None = None
    rx_bind: bool = False
    tx_bind: bool = False
    anywhere: bool = False
    timeout_s: float = 10.0
    antennas: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.antennas <= MAX_ANTENNAS:
            raise RadioError(f"zmq: antennas = {self.antennas} is outside 1..{MAX_ANTENNAS}")
        if self.rx is None and self.tx is None:
            raise RadioError("zmq: needs rx=tcp://host:port, tx=tcp://host:port or both")
        if not 0 < self.timeout_s <= 3600:
            raise RadioError(f"zmq: timeout_s = {self.timeout_s:g} is outside 0..3600")
        for endpoint, bind in ((self.rx, self.rx_bind), (self.tx, self.tx_bind)):
            if endpoint is not None:
                check_endpoint(endpoint, bind, self.anywhere)
            elif bind:
                raise RadioError("zmq: rx_bind and tx_bind need the endpoint that they bind")


def parse_zmq(rest: str) -> ZmqOptions:
    """Return the options that follow `zmq:`.

    Raises:
        RadioError: an option is unknown, given twice, or out of range.

    >>> parse_zmq("rx=tcp://127.0.0.1:5555").timeout_s
    10.0
    """
    return ZmqOptions(**parse_options(rest, option_readers(ZmqOptions), "zmq:", RadioError))


class ZmqRadio(ContextRadio):
    """A radio behind ZMQ sockets: PULL to receive, PUSH to transmit.

    Args:
        settings: what captures say of the radio.
        layout: layout whose digest captures carry.
        options: endpoints, and how to use them.

    Raises:
        RadioError: a socket can't be opened, or the package 'pyzmq' is missing.
    """

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None, options: ZmqOptions) -> None:
        super().__init__(settings, layout)
        rx, tx = options.rx, options.tx
        try:
            import zmq
        except ImportError:
            raise RadioError("zmq: radios need the package 'pyzmq'; install it in this interpreter") from None
        self._zmq = zmq
        self.capabilities = RadioCapabilities(
            transmit=tx is not None, receive=rx is not None, antennas=options.antennas
        )
        self._timeout_s, self._antennas = options.timeout_s, options.antennas
        self._rest = b""
        self._bound: dict[Any, bool] = {}
        self._context = zmq.Context()
        self._rx = self._tx = None
        try:
            if rx is not None:
                self._rx = self._socket(zmq.PULL, rx, options.rx_bind)
            if tx is not None:
                self._tx = self._socket(zmq.PUSH, tx, options.tx_bind)
        except RadioError:
            self.close()
            raise

    def _socket(self, kind: int, endpoint: str, bind: bool) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(self._zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(self._zmq.LINGER, 0)
        # Samples for nobody are not queued: without a peer that has shaken hands there is no room.
        socket.setsockopt(self._zmq.IMMEDIATE, 1)
        self._bound[socket] = bind
        try:
            if bind:
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
        except self._zmq.ZMQError as error:
            socket.close()
            raise RadioError(f"zmq: can't {'bind' if bind else 'connect'} {endpoint}: {error}") from None
        return socket

    @property
    def rx_endpoint(self) -> str | None:
        """Endpoint received from, with the port that a bind to port 0 chose."""
        return None if self._rx is None else self._rx.getsockopt_string(self._zmq.LAST_ENDPOINT)

    @property
    def tx_endpoint(self) -> str | None:
        """Endpoint transmitted to, with the port that a bind to port 0 chose."""
        return None if self._tx is None else self._tx.getsockopt_string(self._zmq.LAST_ENDPOINT)

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Push samples, waiting while the peer is slower.

        Raises:
            RadioError: no transmit endpoint, nobody is there, or no peer takes samples within the timeout.
        """
        self._check_transmit(samples, cyclic)
        if self._tx is None:
            raise RadioError(f"radio '{self.settings.uri}' has no transmit endpoint; add tx=tcp://host:port")
        for first in range(0, samples.size, _MESSAGE_SAMPLES):
            if not self._tx.poll(round(1000 * self._timeout_s), self._zmq.POLLOUT):
                what = f"took {first} of {samples.size} samples, then nothing"
                stranger = self._stranger(self._tx, self._zmq.PUB, "SUB, which may drop samples; use PULL")
                remedy = stranger or "; start the receiving end"
                raise RadioError(f"{self.tx_endpoint} {what} for {self._timeout_s:g} s{remedy}")
            self._tx.send(samples[first : first + _MESSAGE_SAMPLES].astype("<c8").tobytes())
        # What is still queued must survive an immediate close, but not hold up an exit for ever.
        self._tx.setsockopt(self._zmq.LINGER, round(1000 * self._timeout_s))

    def receive(self, num_samples: int | None = None) -> Recording:
        """Pull exactly `num_samples` of each antenna; what a message holds beyond them is kept for the next call.

        Raises:
            RadioError: no receive endpoint, a message that is no whole number of samples or comes in parts, or no
                samples within the timeout, however many empty messages come; it says how many samples had come, and is
                a `BrokenCapture` that holds them. They are also kept for the next call.
        """
        self._check_receive(num_samples)
        if self._rx is None:
            raise RadioError(f"radio '{self.settings.uri}' has no receive endpoint; add rx=tcp://host:port")
        assert num_samples is not None
        samples = np.empty((num_samples, self._antennas), dtype="<c8")
        sample_bytes = SAMPLE_BYTES * self._antennas
        room, filled = samples.reshape(-1).view(np.uint8).data, 0
        message, self._rest = memoryview(self._rest), b""
        utc, deadline = utc_now(), 0.0
        while True:
            if message or not deadline:
                deadline = time.monotonic() + self._timeout_s
            taken = min(len(message), len(room) - filled)
            room[filled : filled + taken] = message[:taken]
            filled += taken
            if filled == len(room):
                self._rest = bytes(message[taken:])
                break
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._rx.poll(max(1, round(1000 * left_s))):
                self._rest = bytes(room[:filled])
                stranger = self._stranger(self._rx, self._zmq.SUB, "PUB, which may drop samples; use PUSH")
                error = RadioError(
                    f"{self.rx_endpoint} gave {filled // sample_bytes} of {num_samples} samples, then nothing "
                    f"for {self._timeout_s:g} s{stranger or '; start the sending end or ask for fewer'}"
                )
                raise self._broken(error, samples[: filled // sample_bytes].T, utc)
            try:
                message = memoryview(self._message())
            except RadioError as error:
                raise self._broken(error, samples[: filled // sample_bytes].T, utc) from None
        return self._record(*np.ascontiguousarray(samples.T, np.complex64))

    def _message(self) -> bytes:
        """Return the message that has come.

        Raises:
            RadioError: it is no whole number of samples, or one of several parts; none of these is left.
        """
        assert self._rx is not None
        message = self._rx.recv()
        parts = 1
        while self._rx.getsockopt(self._zmq.RCVMORE):
            self._rx.recv()
            parts += 1
        if parts > 1:
            raise RadioError(
                f"{self.rx_endpoint} sent a message in {parts} parts; send each block of samples as one, without tags "
                "or topic"
            )
        if len(message) % SAMPLE_BYTES:
            raise RadioError(
                f"{self.rx_endpoint} sent a message of {len(message)} bytes, which is no whole number of "
                f"{SAMPLE_BYTES}-byte samples; turn tags off at the sending end"
            )
        return message

    def _stranger(self, socket: Any, kind: int, name: str) -> str:
        """Return what to say where a socket of a kind that does not fit ours is at the other end; else nothing.

        Args:
            socket: ours, which got no peer.
            kind: that would fit the stranger.
            name: of the stranger, and what to do.
        """
        endpoint = socket.getsockopt_string(self._zmq.LAST_ENDPOINT)
        if self._bound[socket] or endpoint.startswith("inproc"):
            return ""
        probe = self._context.socket(kind)
        probe.setsockopt(self._zmq.LINGER, 0)
        monitor = probe.get_monitor_socket(self._zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            probe.connect(endpoint)
            return f"; the other end is a {name} there" if monitor.poll(_PROBE_MS) else ""
        finally:
            probe.disable_monitor()
            monitor.close()
            probe.close()

    def close(self) -> None:
        """Close the sockets."""
        super().close()
        for socket in (self._rx, self._tx):
            if socket is not None:
                socket.close()
        self._rx = self._tx = None
        self._context.term()


def check_endpoint(endpoint: str, bind: bool, anywhere: bool) -> None:
    """Refuse an endpoint that can't be used, or that is to be bound within other hosts' reach.

    Raises:
        RadioError: the endpoint is wrong, or open to other hosts though `anywhere` is not set.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in ("tcp", "ipc", "inproc"):
        raise RadioError(f"zmq: endpoint '{endpoint}' must look like tcp://127.0.0.1:5555 or ipc:///path")
    if parts.scheme != "tcp":
        return
    host = parts.hostname or ""
    try:
        has_port = parts.port is not None or endpoint.endswith(":*")
    except ValueError:
        has_port = endpoint.endswith(":*")
    if not host or not has_port:
        raise RadioError(f"zmq: endpoint '{endpoint}' needs a host and a port, as in tcp://127.0.0.1:5555")
    if bind and not anywhere and host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise RadioError(
                f"zmq: binding '{endpoint}' would let other hosts in; use 127.0.0.1, or, if you mean it, add "
                "anywhere=yes to the URI (--anywhere to ota serve)"
            )


def _open_zmq(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> ZmqRadio:
    return ZmqRadio(settings, layout, parse_zmq(rest))


DRIVER = Driver(parse_zmq, _open_zmq)
