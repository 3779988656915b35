"""Emulate an ADALM-Pluto: the IIOD text protocol on TCP, its samples from and to a shared `Air`.

Unmodified libiio clients (iio_info, iio_readdev, pyadi-iio, gr-iio) take it for the network side of a Pluto. It models
what goes wrong with one: samples come in real time and pile up in few kernel buffers, so that the first buffers after
a change of settings are stale and a slow reader loses samples; a cyclic transmit buffer plays until it is closed;
converters have 12 bits; values out of range are refused; connections break (`PlutoFaults`). Carrier and sampling clock
come from one crystal that is off by some ppm, more so when it gets warm, and `xo_correction` makes up for
it: the clocks are right where it is the crystal's true frequency.

Levels: 2**15 counts sent are 1.0 on the air at 0 dB, and 1.0 on the air is 2**11 counts received at 0 dB.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from sdr.emulated.ad9361 import OVERFLOW_BIT, TX_FULL_SCALE, UNDERFLOW_BIT, Ad9361, Refused
from sdr.emulated.air import Air
from sdr.emulated.pluto_context import ADC, DAC, Key, context_xml
from sdr.errors import RadioError

_SAMPLE_BYTES = 4
_SEND_SAMPLES = 1 << 16
_MAX_LINE = 4096
_MAX_ATTRIBUTE = 1 << 20
_MAX_BUFFER_SAMPLES = 1 << 24


@dataclass
class PlutoFaults:
    """Faults to provoke; may be changed at any time.

    Args:
        open_errno: opening a buffer fails with this error number (13 permission denied, 16 busy); 0 for none.
        drop_after_buffers: the connection breaks when so many receive buffers went out in all; None for never.
        stall_after_buffers: as above, but the device falls silent instead.
        missing_device: a device name that the context lacks, as with the wrong firmware.
        bad_context: describe the devices in something that is no XML.
        garbled_replies: answer READ with something that is no number.
    """

    open_errno: int = 0
    drop_after_buffers: int | None = None
    stall_after_buffers: int | None = None
    missing_device: str = ""
    bad_context: bool = False
    garbled_replies: bool = False


class EmulatedPluto:
    """A Pluto at `uri`; a context manager that listens while it is open.

    Args:
        air: what it hears and is heard on; one of its own unless given (then it hears itself only).
        name: its name on the air.
        host: address to listen at; loopback unless another is given.
        port: TCP port; 0 takes a free one.
        ppm: error of its crystal at a transceiver temperature of `ROOM_C`.
        ppm_per_c: by how much that changes per degree Celsius.
        faults: what shall go wrong.
        rx: receivers; 2 as in the 2r2t mode of a Pluto Rev C.

    Attributes:
        air: where it is.
        name: its name there.
        faults: what shall go wrong, to be changed at any time.
        transceiver: its attributes, to be read and written from this side too.

    Raises:
        RadioError: the port is taken.
        InputError: the name is taken on this air.
    """

    def __init__(
        self,
        air: Air | None = None,
        name: str = "pluto",
        host: str = "127.0.0.1",
        port: int = 0,
        ppm: float = 0.0,
        faults: PlutoFaults | None = None,
        ppm_per_c: float = 0.0,
        rx: int = 1,
    ) -> None:
        self._rx = rx
        self.air = Air() if air is None else air
        self.name = name
        self.faults = PlutoFaults() if faults is None else faults
        self._open: dict[str, _Buffer] = {}
        self._buffers_sent = 0
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self.transceiver = Ad9361(self.air, name, ppm, ppm_per_c, rx)
        self._lock = self.transceiver.lock
        try:
            self._listener = socket.create_server((host, port), backlog=16)
        except OSError as error:
            self.air.detach(name)
            raise RadioError(
                f"the emulated Pluto can't listen at {host}:{port}: {error.strerror}; choose another port"
            ) from None
        self.host, self.port = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True)
        self._acceptor.start()

    @property
    def uri(self) -> str:
        """Address as libiio writes it; `pluto:` before it makes it a radio URI."""
        return f"ip:{self.host}:{self.port}"

    @property
    def tx_gain_db(self) -> float:
        """Present transmit gain; -89.75 is muted."""
        return self.transceiver.tx_gain_db

    @property
    def transmitting(self) -> bool:
        """Whether a transmit buffer is open."""
        with self._lock:
            return DAC in self._open

    @property
    def receiving(self) -> bool:
        """Whether a receive buffer is open."""
        with self._lock:
            return ADC in self._open

    @property
    def num_connections(self) -> int:
        """Clients' TCP connections."""
        with self._lock:
            return len(self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Break all connections, stop transmitting and leave the air."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):  # wakes the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._acceptor.join(5.0)
        for thread in self._threads:
            thread.join(5.0)
        self.air.detach(self.name)

    def drop_connections(self) -> None:
        """Break all present connections, as a pulled cable does."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # Connections

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                thread = threading.Thread(target=self._serve, args=(connection,), name=f"{self.name}-iiod", daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one client until it leaves."""
        client = _Client(connection)
        try:
            while (line := client.line()) is not None:
                words = line.split()
                if not words:
                    continue
                if words[0] == "EXIT":
                    return
                handler = _COMMANDS.get(words[0])
                try:
                    if handler is None:
                        raise Refused(errno.EINVAL)
                    handler(self, client, words[1:])
                except Refused as refused:
                    client.send(b"%d\n" % -refused.number)
                except (ValueError, KeyError, IndexError):
                    client.send(b"%d\n" % -errno.EINVAL)
        except (OSError, EOFError):
            pass  # the client is gone
        finally:
            with self._lock:
                for device in [d for d, buffer in self._open.items() if buffer.owner is client]:
                    self._close_buffer(device)
                self._connections.discard(connection)
            connection.close()

    # Commands of the protocol

    def _print(self, client: "_Client", _: list[str]) -> None:
        xml = b"nonsense" if self.faults.bad_context else context_xml(self.uri, self.faults.missing_device, self._rx)
        client.send(b"%d\n%s\n" % (len(xml), xml))

    def _version(self, client: "_Client", _: list[str]) -> None:
        client.send(b"0.25.emulate\n")

    def _timeout(self, client: "_Client", _: list[str]) -> None:
        client.send(b"0\n")

    def _no_trigger(self, client: "_Client", _: list[str]) -> None:
        raise Refused(errno.ENOENT)

    def _set(self, client: "_Client", words: list[str]) -> None:
        device, option, value = words
        if option != "BUFFERS_COUNT" or device not in (ADC, DAC) or not 1 <= int(value) <= 64:
            raise Refused(errno.EINVAL)
        client.kernel_buffers[device] = int(value)
        client.send(b"0\n")

    def _read(self, client: "_Client", words: list[str]) -> None:
        key = _attribute(words)
        with self._lock:
            if key == (ADC, "DEBUG", "", "direct_reg_access") and ADC in self._open:
                self._fill(self._open[ADC])  # its flags are those of now
        value = self.transceiver.read(key).encode() + b"\0"
        if self.faults.garbled_replies:
            client.send(b"garbled\n")
            return
        client.send(b"%d\n%s\n" % (len(value), value))

    def _write(self, client: "_Client", words: list[str]) -> None:
        size = int(words[-1])
        if not 0 <= size <= _MAX_ATTRIBUTE:
            raise Refused(errno.EINVAL)
        value = client.take(size)  # before anything can be refused, or it would be taken for commands
        self.transceiver.write(_attribute(words[:-1]), value.split(b"\0")[0].decode(errors="replace").strip())
        client.send(b"%d\n" % size)

    def _open_command(self, client: "_Client", words: list[str]) -> None:
        device, size = words[0], int(words[1])
        # The channels that are wanted, I and Q of the first receiver or of both.
        receivers = {"3": 1, "f": self._rx if device == ADC else 0}.get(words[2].lstrip("0").lower(), 0)
        if device not in (ADC, DAC) or not 1 <= size <= _MAX_BUFFER_SAMPLES or not receivers:
            raise Refused(errno.EINVAL)
        if self.faults.open_errno:
            raise Refused(self.faults.open_errno)
        with self._lock:
            if device in self._open:
                raise Refused(errno.EBUSY)
            cyclic = device == DAC and words[3:] == ["CYCLIC"]
            count, chip = client.kernel_buffers.get(device, 4), self.transceiver
            self._open[device] = _Buffer(client, size, count, cyclic, chip.now_samples(), chip.clock, receivers)
        client.send(b"0\n")

    def _close_command(self, client: "_Client", words: list[str]) -> None:
        with self._lock:
            self._owned(client, words[0])
            self._close_buffer(words[0])
        client.send(b"0\n")

    def _owned(self, client: "_Client", device: str) -> "_Buffer":
        buffer = self._open.get(device)
        if buffer is None or buffer.owner is not client:
            raise Refused(errno.EBADF)
        return buffer

    def _close_buffer(self, device: str) -> None:
        del self._open[device]
        if device == DAC:
            self.air.stop(self.name)  # whatever is still queued is never sent

    def _read_buffer(self, client: "_Client", words: list[str]) -> None:
        buffer, size = self._owned(client, words[0]), int(words[1])
        if size != buffer.size * buffer.receivers * _SAMPLE_BYTES or words[0] != ADC:
            raise Refused(errno.EINVAL)
        start = self._next_block(buffer)
        if self._buffers_sent == self.faults.stall_after_buffers:
            self._closing.wait()
        if self._buffers_sent == self.faults.drop_after_buffers:
            self.drop_connections()
            raise EOFError
        client.send(b"%d\n%08x\n" % (size, 4**buffer.receivers - 1))
        done = 0
        while done < buffer.size:
            step = min(_SEND_SAMPLES, buffer.size - done)
            client.send(self.transceiver.capture(start + done, step, buffer.receivers).tobytes())
            done += step
        self._buffers_sent += 1

    def _next_block(self, buffer: "_Buffer") -> int:
        """Wait for the next filled kernel buffer and return its first sample."""
        while True:
            with self._lock:
                self._fill(buffer)
                if buffer.filled:
                    return buffer.filled.pop(0)
                missing = buffer.next_start + buffer.size - self.transceiver.now_samples()
                wait_s = missing / self.transceiver.rate_sps
            if self._closing.wait(min(max(wait_s, 0.0) + 1e-4, 0.2)):
                raise EOFError

    def _fill(self, buffer: "_Buffer") -> None:
        """Let the converter fill kernel buffers up to now."""
        now, clock = self.transceiver.now_samples(), self.transceiver.clock
        if buffer.clock != clock:
            # What was not read yet is dropped when the clock changes.
            buffer.filled.clear()
            buffer.next_start, buffer.clock = now, clock
        while len(buffer.filled) < buffer.count and buffer.next_start + buffer.size <= now:
            buffer.filled.append(buffer.next_start)
            buffer.next_start += buffer.size
        if len(buffer.filled) == buffer.count and now > buffer.next_start:
            # No buffer is free: the converter's samples have nowhere to go until one is read.
            self.transceiver.status[ADC] |= OVERFLOW_BIT
            buffer.next_start = now

    def _write_buffer(self, client: "_Client", words: list[str]) -> None:
        buffer, size = self._owned(client, words[0]), int(words[1])
        if words[0] != DAC or not 0 < size <= buffer.size * _SAMPLE_BYTES or size % _SAMPLE_BYTES:
            raise Refused(errno.EINVAL)
        client.send(b"0\n")
        counts = np.frombuffer(client.take(size), "<i2").astype(np.float32)
        samples = (counts / np.float32(TX_FULL_SCALE)).view(np.complex64)
        with self._lock:
            chip = self.transceiver
            now, rate, center_hz, gain_db = chip.now_samples(), chip.rate_sps, chip.tx_center_hz, chip.tx_level_db
            if buffer.cyclic:
                self.air.stop(self.name)
                self.air.transmit(self.name, samples, now, rate, center_hz, gain_db, cyclic=True)
            else:
                if buffer.clock != chip.clock:
                    buffer.next_start, buffer.clock = now, chip.clock  # it was opened before the rate was set
                if buffer.pushed and buffer.next_start < now:
                    self.transceiver.status[DAC] |= UNDERFLOW_BIT
                # The first buffer starts a little later than now, so that the client gets a head start.
                start = max(buffer.next_start, now)
                self.air.transmit(self.name, samples, start, rate, center_hz, gain_db)
                buffer.next_start = start + samples.size
                buffer.pushed = True
        ahead = buffer.count * buffer.size
        while not buffer.cyclic and not self._closing.is_set():
            late = buffer.next_start - self.air.now_samples(rate, self.name) - ahead
            if late <= 0:
                break
            self._closing.wait(late / rate + 1e-4)
        client.send(b"%d\n" % size)


def _attribute(words: list[str]) -> Key:
    """Return the attribute that a READ or WRITE names."""
    device, *rest = words
    if rest[0] in ("INPUT", "OUTPUT"):
        return device, rest[0], rest[1], rest[2]
    if rest[0] in ("DEBUG", "BUFFER"):
        return device, rest[0], "", rest[1]
    return device, "", "", rest[0]


@dataclass
class _Buffer:
    """An open buffer.

    Attributes:
        owner: client that opened it.
        size: samples of one buffer.
        count: buffers in the kernel.
        cyclic: whether it repeats.
        next_start: sample that the next buffer begins with.
        clock: clock that samples are counted by.
        receivers: whose samples it holds, interleaved.
        filled: first samples of the buffers that wait to be read.
        pushed: whether something was written.
    """

    owner: "_Client"
    size: int
    count: int
    cyclic: bool
    next_start: int
    clock: tuple[float, float]
    receivers: int = 1
    filled: list[int] = field(default_factory=list)
    pushed: bool = False


class _Client:
    """One TCP connection, read in lines and counted bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self.kernel_buffers: dict[str, int] = {}

    def line(self) -> str | None:
        """Return the next line without its end, None when the client is gone."""
        line = self._file.readline(_MAX_LINE)
        return line.decode(errors="replace").strip() if line.endswith(b"\n") else None

    def take(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)


_COMMANDS: dict[str, Callable[[EmulatedPluto, _Client, list[str]], None]] = {
    "PRINT": EmulatedPluto._print,
    "VERSION": EmulatedPluto._version,
    "TIMEOUT": EmulatedPluto._timeout,
    "GETTRIG": EmulatedPluto._no_trigger,
    "SET": EmulatedPluto._set,
    "READ": EmulatedPluto._read,
    "WRITE": EmulatedPluto._write,
    "OPEN": EmulatedPluto._open_command,
    "CLOSE": EmulatedPluto._close_command,
    "READBUF": EmulatedPluto._read_buffer,
    "WRITEBUF": EmulatedPluto._write_buffer,
}
