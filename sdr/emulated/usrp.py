"""Emulate a USRP: an N210 revision 4 with an SBX daughterboard, behind the usrp2 UDP protocol on a loopback address.

Stock UHD talks to it as to the device: `uhd_find_devices --args type=usrp2,addr=127.0.0.2`. The ports are fixed by the
protocol, so every emulated USRP needs a loopback address of its own, and always name it: discovery by broadcast skips
loopback.

What is modelled, each at the register that the driver writes:

- clock time, receive commands (now, at a time, so many samples, continuous, stop), late commands and overflows;
- bursts with their start, end and time, their acknowledgement, late bursts, underruns, lost packets, flow control;
- decimation and interpolation with the gain of their filters, both digital mixers, both synthesisers with the time they
  take to lock, attenuators, the converter's digital gains, full scale, 16 and 8 bit samples on the wire;
- reference and pulse-per-second sources, the MIMO cable, the lock by which one program claims the device, firmware and
  FPGA numbers.

Several on one air are one radio to UHD (`joint_args`). Each has a crystal of its own, and a clock that nobody set; an
external reference, which all have at their inputs, or the cable makes them one.

Radiated level: the SBX's transmit gain of 0..31.5 dB is an attenuation of 31.5..0 dB on the air, the receive gain is
one. So full scale sent with 31.5 dB is full scale received with 0 dB.

>>> with EmulatedUsrp(addr="127.0.0.77") as usrp:
...     usrp.args
'type=usrp2,addr=127.0.0.77,recv_buff_size=4000000'
"""

import collections
import ipaddress
import select
import socket
import struct
import threading
from collections.abc import Sequence
from types import TracebackType

import numpy as np

from sdr.emulated.air import Air
from sdr.emulated.n210_board import N210Board, N210Hardware
from sdr.emulated.usrp_ports import CONTROL_PORT, FIFO_PORT, RX1_PORT, RX_PORT, Peer, UsrpPorts
from sdr.emulated.usrp_receiver import UsrpReceiver
from sdr.emulated.usrp_transmitter import UsrpTransmitter
from sdr.errors import RadioError


class EmulatedUsrp:
    """An N210 with SBX on `addr`, from `start` (or entering the context) to `close`.

    Args:
        air: where it transmits and what it hears; one of its own unless given.
        addr: loopback address; others are refused, because anyone could key the transmitter.
        name: on the air and in the device's EEPROM; the address unless given.
        ppm: error of its crystal.
        hardware: its properties that no register sets.
        cable: emulated USRP at the other end of its MIMO cable, whose clock and time it can take.

    Attributes:
        addr: its address.
        air: where it is.
        board: its registers, and what they set.
        events: how often each kind of event was reported to the host ("burst ack", "underflow", "late burst", ...).

    Raises:
        RadioError: the address is not loopback, or taken.
    """

    def __init__(
        self,
        air: Air | None = None,
        addr: str = "127.0.0.2",
        name: str | None = None,
        ppm: float = 0.0,
        hardware: N210Hardware | None = None,
        cable: "EmulatedUsrp | None" = None,
    ) -> None:
        try:
            loopback = ipaddress.IPv4Address(addr).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise RadioError(f"an emulated USRP lives on a loopback address such as 127.0.0.2, found '{addr}'")
        self.addr = addr
        self.air = Air() if air is None else air
        self.board = N210Board(
            self.air,
            addr,
            addr if name is None else name,
            hardware or N210Hardware(),
            ppm,
            None if cable is None else cable.board,
        )
        self.events: collections.Counter[str] = collections.Counter()
        self._ports = UsrpPorts()
        self._stopping = threading.Event()
        self._receiver = UsrpReceiver(self.board, self._ports, self.events, self._stopping)
        self._transmitter = UsrpTransmitter(self.board, self._ports, self.events, self._stopping)
        self._deferred: collections.deque[bytes] = collections.deque()
        self._fifo_peer: Peer | None = None
        self._threads: list[threading.Thread] = []

    # What tests and users look at

    @property
    def args(self) -> str:
        """UHD device arguments that reach it."""
        return f"type=usrp2,addr={self.addr},recv_buff_size=4000000"

    @property
    def tx_gain_db(self) -> float:
        """SBX transmit gain, 0..31.5; 0 is as quiet as it gets."""
        return self.board.tx_gain_db

    @property
    def transmitting(self) -> bool:
        """Whether a burst is on the air or waits for its time."""
        return self._transmitter.busy

    @property
    def samples_read(self) -> int:
        """Samples that it handed out so far."""
        return self._receiver.samples_read

    # Faults to provoke

    def drop(self) -> None:
        """Fall silent in the middle of whatever is going on, as if the cable had been pulled."""
        self._ports.dropped = True

    def overflow(self) -> None:
        """Let the running reception overflow (UHD's O): a continuous one has a gap, any other one ends."""
        self._receiver.overflow()

    def lose_rx_packets(self, num_packets: int = 1) -> None:
        """Lose the next packets of the reception on their way to the host (UHD's D)."""
        self._receiver.lose_packets(num_packets)

    def lose_tx_packets(self, num_packets: int = 1) -> None:
        """Lose the next packets of a transmission on their way to the device (UHD's S)."""
        self._transmitter.lose_packets(num_packets)

    # Life

    def start(self) -> None:
        """Bind the ports and serve.

        Raises:
            RadioError: a port is taken.
            InputError: the name is taken on this air.
        """
        if self._ports:
            return
        try:
            self._ports.open(self.addr)
            self.air.attach(self.board.name, self.board.ppm)
        except OSError as error:
            self._ports.close()
            raise RadioError(
                f"can't emulate a USRP at {self.addr}: {error.strerror}; use another loopback address"
            ) from None
        except Exception:
            self._ports.close()
            raise
        for what, target in (
            ("control", self._serve_control),
            ("receiver", self._receiver.serve),
            ("transmitter", self._transmitter.serve),
        ):
            thread = threading.Thread(target=target, name=f"{what}@{self.addr}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Leave the air and free the ports; a second call does nothing."""
        self._stopping.set()
        self._receiver.wake()
        for thread in self._threads:
            thread.join()
        if self._threads:
            self.air.detach(self.board.name)
        self._threads.clear()
        self._ports.close()

    def __enter__(self) -> "EmulatedUsrp":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Control

    def _serve_control(self) -> None:
        ports = {self._ports[port].fileno(): port for port in (CONTROL_PORT, RX_PORT, RX1_PORT, FIFO_PORT)}
        while not self._stopping.is_set():
            ready, _, _ = select.select(list(ports), [], [], 0.002 if self._deferred else 0.05)
            for descriptor in ready:
                port = ports[descriptor]
                try:
                    packet, peer = self._ports[port].recvfrom(65536)
                except OSError:  # nothing there after all, or the peer has gone
                    continue
                if self._ports.dropped:
                    continue
                with self.board.lock:
                    self.board.latch_pps()
                    if port == CONTROL_PORT:
                        self._answer_control(packet, peer)
                    elif port == RX_PORT:
                        self._receiver.peer = peer
                    elif port == FIFO_PORT:
                        self._fifo_peer = peer
                        self._deferred.append(packet)
            with self.board.lock:
                while self._deferred and self._execute(self._deferred[0]):
                    self._deferred.popleft()

    def _answer_control(self, packet: bytes, peer: tuple[str, int]) -> None:
        """Answer one packet of the control port: version, id, sequence number, and 24 bytes that depend on the id."""
        if len(packet) < 36:
            return
        kind, sequence = struct.unpack_from(">II", packet, 4)
        reply, body, size = b" ", bytes(packet[12:36]), 36
        match chr(kind & 0xFF):
            case "a":
                reply, body = b"A", socket.inet_aton(self.addr)
            case "r":
                address, value = struct.unpack_from(">II", packet, 12)
                reply, body = b"R", struct.pack(">II", address, self.board.access(packet[20], address, value))
            case "i":
                address, count = packet[12], min(packet[13], 20)
                reply, body = b"I", bytes([address, count]) + self.board.read_eeprom(address, count)
            case "h":
                address, count = packet[12], min(packet[13], 20)
                self.board.write_eeprom(address, packet[14 : 14 + count])
                reply = b"H"
            case "l":
                size = min(max(36, struct.unpack_from(">I", packet, 12)[0]), 65000)
                reply, body = b"L", struct.pack(">I", len(packet))
            case "s":
                reply, body = b"S", bytes(24)
        answer = struct.pack(">III", self.board.hardware.firmware_compat, reply[0], sequence) + body
        self._ports.send(CONTROL_PORT, answer.ljust(size, b"\0"), peer)

    def _execute(self, packet: bytes) -> bool:
        """Execute a register access of the fast control port; False if its time hasn't come."""
        words = np.frombuffer(packet[: len(packet) // 4 * 4], ">u4").tolist()
        if len(words) < 4 or not words[1]:
            return True
        header, body = words[1], words[2:]
        if header >> 20 & 3:
            if len(body) < 4:
                return True
            if body[0] << 32 | body[1] > self.board.now_ticks():
                return False
            body = body[2:]
        control, value = body[0], body[1]
        if control & 0x100:
            self.board.write(control & 0xFF, value)
        else:
            value = self.board.read(control & 0xFF)
        if self._fifo_peer is not None:
            answer = struct.pack(">III", 0x40000003, control & 0xFFFF0000, value)
            self._ports.send(FIFO_PORT, answer, self._fifo_peer)
        return True


def joint_args(usrps: Sequence[EmulatedUsrp]) -> str:
    """Return UHD device arguments that reach several as one device, the first one's channel first.

    >>> joint_args([EmulatedUsrp(addr="127.0.0.77"), EmulatedUsrp(addr="127.0.0.78")])
    'type=usrp2,addr0=127.0.0.77,addr1=127.0.0.78,recv_buff_size=4000000'
    """
    addresses = ",".join(f"addr{index}={usrp.addr}" for index, usrp in enumerate(usrps))
    return f"type=usrp2,{addresses},recv_buff_size=4000000"
