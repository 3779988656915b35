"""An emulated USRP: an N210 revision 4 with an SBX daughterboard, behind the usrp2 UDP protocol on a loopback address.

Stock UHD talks to it as to the device: `uhd_find_devices --args type=usrp2,addr=127.0.0.2`. The ports are fixed by the
protocol, so every emulated USRP needs a loopback address of its own, and always name it: discovery by broadcast skips
loopback.

What is modelled, each at the register that the driver writes:

- clock time, receive commands (now, at a time, so many samples, continuous, stop), late commands and overflows;
- bursts with their start, end and time, their acknowledgement, late bursts, underruns, lost packets, flow control;
- decimation and interpolation with the gain of their filters, both digital mixers, both synthesisers with the time they
  take to lock, attenuators, the converter's digital gains, full scale, 16 and 8 bit samples on the wire;
- reference and pulse-per-second sources, the lock by which one program claims the device, firmware and FPGA numbers.

Radiated level: the SBX's transmit gain of 0..31.5 dB is an attenuation of 31.5..0 dB on the air, the receive gain is
one. So full scale sent with 31.5 dB is full scale received with 0 dB.

>>> with EmulatedUsrp(addr="127.0.0.77") as usrp:
...     usrp.args
'type=usrp2,addr=127.0.0.77,recv_buff_size=4000000'
"""

import collections
import contextlib
import ipaddress
import math
import select
import socket
import struct
import threading
import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdr.emulated.air import Air
from sdr.errors import RadioError

TICK_RATE_HZ = 100_000_000
FIRMWARE_COMPAT, FPGA_COMPAT = 12, 11
CONTROL_PORT, RX_PORT, TX_PORT, RX1_PORT, FIFO_PORT = 49152, 49156, 49157, 49158, 49159
FULL_SCALE = 32767.0
TX_GAIN_MAX_DB = 31.5

RX_LATENCY_S = 0.03
"""How much later than the device's samples are read from the air: by then all transmitters have put theirs there."""
TX_GRACE_S = 0.02
"""How long a burst may run dry before it counts as an underrun: this machine's scheduling, not a real device's."""
TX_LEAD_S = 0.005
"""When a burst without a time starts, after its first packet."""
OVERFLOW_S = 1.0
"""Falling this far behind real time is an overflow."""

# Settings registers, in words from their base; readbacks likewise.
_TIME_HI, _TIME_LO, _TIME_NOW = 10, 11, 13
_SPI_CONTROL, _SPI_DATA = 21, 22
_RX_COMMAND, _RX_TIME_HI, _RX_TIME_LO, _RX_FORMAT, _RX_SID, _RX_SPP, _RX_CLEAR = 32, 33, 34, 35, 37, 39, 40
_RX_FREQ, _RX_SCALE, _RX_RATE = 48, 49, 50
_TX_CLEAR, _TX_FORMAT, _TX_SID, _TX_POLICY, _TX_CYCLES, _TX_PACKETS = 144, 145, 146, 147, 148, 149
_TX_FREQ, _TX_SCALE, _TX_RATE = 160, 161, 162
_ATR_RX_ONLY, _ATR_TX_ONLY, _ATR_BOTH = 185, 186, 187
_SETTINGS_BASE, _READBACK_BASE = 0x7000, 0x5C00
_POLICY_NEXT_BURST = 4
_SPI_CLOCK, _SPI_RX_LO, _SPI_TX_LO, _SPI_ADC = 1, 16, 128, 256
_UP_ENABLED = 1 << 31

# Event codes of the protocol.
_LATE, _OVERFLOW = 2, 8
_BURST_ACK, _UNDERFLOW, _SEQUENCE, _TIME_ERROR = 1, 2, 4, 8
_TX_EVENTS = {_BURST_ACK: "burst ack", _UNDERFLOW: "underflow", _SEQUENCE: "sequence error", _TIME_ERROR: "late burst"}

_UDP, _UDP_SEGMENT = 17, 103
_MAX_DATAGRAM = 65000
_MAX_PACKET_SAMPLES = 16000
_NO_GPSDO = 0x1234ABCD


@dataclass
class _Synthesiser:
    """An ADF4351 (registers 0, 1, 2 and 4 of its data sheet) with divided feedback."""

    registers: dict[int, int]
    locked_at_s: float = 0.0

    def frequency_hz(self, reference_hz: float) -> float:
        r0, r1, r2, r4 = (self.registers.get(index, 0) for index in (0, 1, 2, 4))
        integer, fraction, modulus = r0 >> 15 & 0xFFFF, r0 >> 3 & 0xFFF, r1 >> 3 & 0xFFF
        divider = (r2 >> 14 & 0x3FF) * (2 if r2 >> 24 & 1 else 1)
        if not modulus or not divider:
            return 0.0
        detector_hz = reference_hz * (2 if r2 >> 25 & 1 else 1) / divider
        frequency_hz = detector_hz * (integer + fraction / modulus)
        if r4 >> 23 & 1:  # feedback from the oscillator itself, before the output divider
            frequency_hz /= 1 << (r4 >> 20 & 7)
        return frequency_hz


@dataclass
class _Reception:
    """A running receive command: sample `position` is next; `first` has the time `tick`."""

    tick: int
    first: int
    position: int
    remaining: int | None


class _Sent(NamedTuple):
    """A packet that waits to be radiated: its flow-control number, and the sample after its last."""

    sequence: int
    end: int


class EmulatedUsrp:
    """An N210 with SBX on `addr`, from `start` (or entering the context) to `close`.

    Args:
        air: where it transmits and what it hears; one of its own unless given.
        addr: loopback address; others are refused, because anyone could key the transmitter.
        name: on the air and in the device's EEPROM; the address unless given.
        serial: up to 8 characters.
        ppm: error of its crystal.
        lock_s: time that a synthesiser needs to lock.
        has_reference: whether 10 MHz and pulse per second are at its inputs.
        firmware_compat: what the firmware claims to be; UHD 4 wants 12.
        fpga_compat: what the FPGA claims to be; UHD 4 wants 11.

    Attributes:
        air: where it is.
        events: how often it told the host of each kind of event ("burst ack", "underflow", "late burst", ...).
        lo_locks: set it to False and the synthesisers never lock.

    Raises:
        RadioError: the address is not loopback, or taken.
    """

    def __init__(
        self,
        air: Air | None = None,
        addr: str = "127.0.0.2",
        name: str | None = None,
        serial: str = "EMU00001",
        ppm: float = 0.0,
        lock_s: float = 0.002,
        has_reference: bool = True,
        firmware_compat: int = FIRMWARE_COMPAT,
        fpga_compat: int = FPGA_COMPAT,
    ) -> None:
        try:
            loopback = ipaddress.IPv4Address(addr).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise RadioError(f"an emulated USRP lives on a loopback address such as 127.0.0.2, found '{addr}'")
        if not 1 <= len(serial) <= 8 or not serial.isascii():
            raise RadioError(f"an emulated USRP's serial has 1..8 ASCII characters, found '{serial:.40}'")
        self.addr = addr
        self.name = addr if name is None else name
        self.air = Air() if air is None else air
        self._ppm, self._lock_s, self._has_reference = ppm, lock_s, has_reference
        self._firmware_compat, self._fpga_compat = firmware_compat, fpga_compat
        self._eeproms = {0x50: _motherboard_eeprom(addr, self.name, serial), 0x54: _board_eeprom(0x64)}
        self._eeproms[0x55] = _board_eeprom(0x65)
        self._eeprom_position = dict.fromkeys(self._eeproms, 0)
        self._settings: dict[int, int] = {}
        self._firmware_registers: dict[int, int] = {3: _NO_GPSDO, 7: 4}
        self._clock_dividers: dict[int, int] = {}
        self._adc: dict[int, int] = {}
        self._synthesisers = {_SPI_RX_LO: _Synthesiser({}), _SPI_TX_LO: _Synthesiser({})}
        self._time_offset = 0  # device ticks minus ticks of the air
        self._pps_times: list[tuple[float, int]] = []
        self._lock = threading.RLock()
        self._wake_rx = threading.Condition(self._lock)
        self._rx_commands: collections.deque[tuple[int, int]] = collections.deque()
        self._reception: _Reception | None = None
        self._rx_count = 0
        self._rx_peer: tuple[str, int] | None = None
        self._rx_overflow = False
        self._rx_skip_packets = 0
        self._tx_peer: tuple[str, int] | None = None
        self._tx_skip_packets = 0
        self._reset_transmitter()
        self._deferred: collections.deque[bytes] = collections.deque()
        self._fifo_peer: tuple[str, int] | None = None
        self._stopping = False
        self._dropped = False
        self.lo_locks = True
        self.events: collections.Counter[str] = collections.Counter()
        self._sockets: dict[int, socket.socket] = {}
        self._threads: list[threading.Thread] = []
        self._segmentation = True

    # What tests and users look at

    @property
    def args(self) -> str:
        """UHD device arguments that reach it."""
        return f"type=usrp2,addr={self.addr},recv_buff_size=4000000"

    @property
    def tx_gain_db(self) -> float:
        """SBX transmit gain, 0..31.5; 0 is as quiet as it gets."""
        return _attenuator_gain_db(self._settings.get(_ATR_BOTH, 0) >> 16)

    @property
    def rx_gain_db(self) -> float:
        """SBX receive gain and the converter's digital gains, 0..38."""
        fine = 0.5 * (self._adc.get(0x17, 0) & 0xF) + 0.05 * (self._adc.get(0x1A, 0) & 0xF)
        return _attenuator_gain_db(self._settings.get(_ATR_BOTH, 0)) + fine

    @property
    def tx_center_hz(self) -> float:
        """Where a constant sample is radiated."""
        return self._synthesiser_hz(_SPI_TX_LO) + _signed(self._settings.get(_TX_FREQ, 0)) * TICK_RATE_HZ / 2**32

    @property
    def rx_center_hz(self) -> float:
        """What is received as a constant."""
        return self._synthesiser_hz(_SPI_RX_LO) - _signed(self._settings.get(_RX_FREQ, 0)) * TICK_RATE_HZ / 2**32

    @property
    def tx_lo_hz(self) -> float:
        """The transmit synthesiser, where leakage would be."""
        return self._synthesiser_hz(_SPI_TX_LO)

    @property
    def rx_lo_hz(self) -> float:
        """The receive synthesiser."""
        return self._synthesiser_hz(_SPI_RX_LO)

    @property
    def rx_antenna(self) -> str:
        """Connector that receives: RX2 or TX/RX."""
        return "RX2" if self._settings.get(_ATR_RX_ONLY, 0) >> 14 & 1 else "TX/RX"

    @property
    def tx_antenna(self) -> str:
        """Connector that transmits: TX/RX, or CAL for none."""
        return "TX/RX" if self._settings.get(_ATR_TX_ONLY, 0) >> 30 & 1 else "CAL"

    @property
    def clock_source(self) -> str:
        """Reference in use."""
        return {0x12: "internal", 0x1C: "external", 0x15: "mimo"}.get(self._settings.get(0, 0x12), "unknown")

    @property
    def transmitting(self) -> bool:
        """Whether a burst is on the air or waits for its time."""
        with self._lock:
            return self._tx_position is not None or bool(self._tx_waiting)

    def now_ticks(self) -> int:
        """The device's clock, in ticks of 10 ns."""
        return self._air_ticks() + self._time_offset

    # Faults to provoke

    def drop(self) -> None:
        """Fall silent in the middle of whatever is going on, as if the cable had been pulled."""
        self._dropped = True

    def overflow(self) -> None:
        """Let the running reception overflow (UHD's O): a continuous one has a gap, any other one ends."""
        with self._wake_rx:
            self._rx_overflow = True
            self._wake_rx.notify_all()

    def lose_rx_packets(self, num_packets: int = 1) -> None:
        """Lose the next packets of the reception on their way to the host (UHD's D)."""
        with self._lock:
            self._rx_skip_packets += num_packets

    def lose_tx_packets(self, num_packets: int = 1) -> None:
        """Lose the next packets of a transmission on their way to the device (UHD's S)."""
        with self._lock:
            self._tx_skip_packets += num_packets

    # Life

    def start(self) -> None:
        """Bind the ports and serve."""
        if self._sockets:
            return
        try:
            for port in (CONTROL_PORT, RX_PORT, TX_PORT, RX1_PORT, FIFO_PORT):
                self._sockets[port] = bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
                bound.bind((self.addr, port))
                bound.setblocking(False)
            self.air.attach(self.name, self._ppm)
        except OSError as error:
            self._close_sockets()
            raise RadioError(
                f"can't emulate a USRP at {self.addr}: {error.strerror}; use another loopback address"
            ) from None
        except Exception:
            self._close_sockets()
            raise
        for target in (self._serve_control, self._serve_receiver, self._serve_transmitter):
            thread = threading.Thread(target=target, name=f"{target.__name__}@{self.addr}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Leave the air and free the ports; a second call does nothing."""
        with self._wake_rx:
            self._stopping = True
            self._wake_rx.notify_all()
        for thread in self._threads:
            thread.join()
        if self._threads:
            self.air.detach(self.name)
        self._threads.clear()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()

    def __enter__(self) -> "EmulatedUsrp":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Time and settings

    def _air_ticks(self) -> int:
        return self.air.now_samples(TICK_RATE_HZ, self.name)

    def _synthesiser_hz(self, slave: int) -> float:
        divider = self._clock_dividers.get(7 if slave == _SPI_RX_LO else 5, 1)
        return self._synthesisers[slave].frequency_hz(TICK_RATE_HZ / divider)

    def _locked(self, slave: int) -> bool:
        return self.lo_locks and self.air.now_s() >= self._synthesisers[slave].locked_at_s

    @property
    def _rx_decimation(self) -> int:
        return _rate_divider(self._settings.get(_RX_RATE, 0))

    @property
    def _tx_interpolation(self) -> int:
        return _rate_divider(self._settings.get(_TX_RATE, 0))

    def _read(self, word: int) -> int:
        if word == 9:
            return self._locked(_SPI_RX_LO) | self._locked(_SPI_TX_LO) << 16
        if word in (10, 11):
            return self.now_ticks() >> (32 if word == 10 else 0) & 0xFFFFFFFF
        if word == 12:
            return self._fpga_compat << 16 | 1
        if word == 13:
            return (self.clock_source == "internal" or self._has_reference) << 11
        if word in (14, 15):
            self._latch_pps()
            last_s = math.floor(self.air.now_s()) if self._has_reference else 0
            return (last_s * TICK_RATE_HZ + self._time_offset) >> (32 if word == 14 else 0) & 0xFFFFFFFF
        return 0

    def _latch_pps(self) -> None:
        """Apply the times that were to be set at a pulse which has passed."""
        while self._pps_times and self._pps_times[0][0] <= self.air.now_s():
            at_s, ticks = self._pps_times.pop(0)
            self._time_offset = ticks - round(at_s * TICK_RATE_HZ)

    def _write(self, word: int, value: int) -> None:
        """Set a register and do what that starts."""
        before = (self.tx_center_hz, self.tx_gain_db) if word in (_TX_FREQ, _SPI_DATA, _ATR_BOTH) else None
        self._settings[word] = value
        if word == _TIME_HI:
            ticks = value << 32 | self._settings.get(_TIME_LO, 0)
            if self._settings.get(_TIME_NOW, 0) & 1:
                self._time_offset = ticks - self._air_ticks()
            elif self._has_reference:
                self._pps_times.append((math.floor(self.air.now_s()) + 1.0, ticks))
        elif word == _SPI_DATA:
            self._write_spi(value)
        elif word == _RX_TIME_LO:
            time_ticks = self._settings.get(_RX_TIME_HI, 0) << 32 | value
            self._rx_commands.append((self._settings.get(_RX_COMMAND, 0), time_ticks))
            self._wake_rx.notify_all()
        elif word == _RX_CLEAR:
            self._rx_commands.clear()
            self._reception, self._rx_count = None, 0
        elif word == _TX_CLEAR and value & 1:
            self._reset_transmitter()
            self.air.stop(self.name)
        if before is not None and before != (self.tx_center_hz, self.tx_gain_db):
            self.air.change(self.name, center_hz=self.tx_center_hz, tx_gain_db=self.tx_gain_db - TX_GAIN_MAX_DB)

    def _write_spi(self, value: int) -> None:
        control = self._settings.get(_SPI_CONTROL, 0)
        slave, num_bits = control & 0xFFFFFF, control >> 24 & 0x3F
        word = value >> (32 - num_bits) if 0 < num_bits <= 32 else 0
        if slave in self._synthesisers:
            synthesiser = self._synthesisers[slave]
            synthesiser.registers[word & 7] = word
            if word & 7 == 0:  # writing register 0 starts the calibration
                synthesiser.locked_at_s = self.air.now_s() + self._lock_s
        elif slave == _SPI_ADC:
            self._adc[word >> 8 & 0xFF] = word & 0xFF
        elif slave == _SPI_CLOCK:
            self._write_clock(word >> 8 & 0xFFF, word & 0xFF)

    def _write_clock(self, register: int, value: int) -> None:
        """Dividers of the AD9510's outputs 0..7: cycles in the even register, bypass in the odd one."""
        output, odd = divmod(register - 0x48, 2)
        if not 0 <= output <= 7:
            return
        key = (output + 1) * 1000
        self._clock_dividers[key + odd] = value
        cycles, flags = self._clock_dividers.get(key, 0), self._clock_dividers.get(key + 1, 0x80)
        self._clock_dividers[output] = 1 if flags & 0x80 else (cycles >> 4) + (cycles & 15) + 2

    # Control

    def _serve_control(self) -> None:
        ports = {self._sockets[port].fileno(): port for port in (CONTROL_PORT, RX_PORT, RX1_PORT, FIFO_PORT)}
        while not self._stopping:
            ready, _, _ = select.select(list(ports), [], [], 0.002 if self._deferred else 0.05)
            for descriptor in ready:
                port = ports[descriptor]
                try:
                    packet, peer = self._sockets[port].recvfrom(65536)
                except OSError:  # nothing there after all, or the peer has gone
                    continue
                if self._dropped:
                    continue
                with self._lock:
                    self._latch_pps()
                    if port == CONTROL_PORT:
                        self._answer_control(packet, peer)
                    elif port == RX_PORT:
                        self._rx_peer = peer
                    elif port == FIFO_PORT:
                        self._fifo_peer = peer
                        self._deferred.append(packet)
            with self._lock:
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
                reply, body = b"R", struct.pack(">II", address, self._access(packet[20], address, value))
            case "i":
                address, count = packet[12], min(packet[13], 20)
                reply, body = b"I", bytes([address, count]) + self._read_eeprom(address, count)
            case "h":
                address, count = packet[12], min(packet[13], 20)
                self._write_eeprom(address, packet[14 : 14 + count])
                reply = b"H"
            case "l":
                size = min(max(36, struct.unpack_from(">I", packet, 12)[0]), 65000)
                reply, body = b"L", struct.pack(">I", len(packet))
            case "s":
                reply, body = b"S", bytes(24)
        answer = struct.pack(">III", self._firmware_compat, reply[0], sequence) + body
        self._send(CONTROL_PORT, answer.ljust(size, b"\0"), peer)

    def _access(self, action: int, address: int, value: int) -> int:
        """Peek or poke as the control port asks: actions 1..4 are the FPGA's, 5 and 6 the firmware's."""
        if action in (1, 2):
            return self._read((address - _READBACK_BASE) // 4)
        if action in (3, 4):
            self._write((address - _SETTINGS_BASE) // 4, value)
        elif action == 5:
            return self._firmware_registers.get(address, 0)
        elif action == 6:
            self._firmware_registers[address] = value
        return value

    def _read_eeprom(self, address: int, count: int) -> bytes:
        if address not in self._eeproms:
            return bytes(20)
        start = self._eeprom_position[address]
        self._eeprom_position[address] = (start + count) % 256
        return bytes(self._eeproms[address][(start + i) % 256] for i in range(count)).ljust(20, b"\0")

    def _write_eeprom(self, address: int, content: bytes) -> None:
        if address in self._eeproms and content:
            self._eeprom_position[address] = content[0]
            for offset, byte in enumerate(content[1:]):
                self._eeproms[address][(content[0] + offset) % 256] = byte

    def _execute(self, packet: bytes) -> bool:
        """Execute a register access of the fast control port; False if its time hasn't come."""
        words = np.frombuffer(packet[: len(packet) // 4 * 4], ">u4").tolist()
        if len(words) < 4 or not words[1]:
            return True
        header, body = words[1], words[2:]
        if header >> 20 & 3:
            if len(body) < 4:
                return True
            if body[0] << 32 | body[1] > self.now_ticks():
                return False
            body = body[2:]
        control, value = body[0], body[1]
        if control & 0x100:
            self._write(control & 0xFF, value)
        else:
            value = self._read(control & 0xFF)
        if self._fifo_peer is not None:
            answer = struct.pack(">III", 0x40000003, control & 0xFFFF0000, value)
            self._send(FIFO_PORT, answer, self._fifo_peer)
        return True

    def _send(self, port: int, packet: bytes, peer: tuple[str, int]) -> None:
        if not self._dropped:
            with contextlib.suppress(OSError):  # a peer that has gone misses its answer, as on a wire
                self._sockets[port].sendto(packet, peer)

    # Reception

    def _serve_receiver(self) -> None:
        while not self._stopping:
            with self._wake_rx:
                if self._reception is None and not self._next_command():
                    self._wake_rx.wait(0.1)
                    continue
                wait_s = self._stream_some()
            if wait_s > 0:
                time.sleep(wait_s)

    def _next_command(self) -> bool:
        """Start the next receive command, if there is one."""
        if not self._rx_commands:
            return False
        command, at_ticks = self._rx_commands.popleft()
        if command >> 28 & 1:  # stop, and nothing runs
            return bool(self._rx_commands)
        now = self.now_ticks()
        if command >> 31:
            at_ticks = now
        elif at_ticks < now:
            self._send_rx_event(_LATE, now)
            return False
        decimation = self._rx_decimation
        first = (at_ticks - self._time_offset + decimation // 2) // decimation
        continuous = command >> 29 & 1
        self._reception = _Reception(at_ticks, first, first, None if continuous else command & 0xFFFFFFF)
        self._rx_overflow = False
        return True

    def _stream_some(self) -> float:
        """Send what the running reception has by now; seconds to wait for more."""
        reception = self._reception
        assert reception is not None
        decimation = self._rx_decimation
        rate_sps = TICK_RATE_HZ / decimation
        spp = min(max(1, self._settings.get(_RX_SPP, 364)), _MAX_PACKET_SAMPLES)
        head = self.air.now_samples(rate_sps, self.name) - math.ceil(RX_LATENCY_S * rate_sps)
        available = head - reception.position
        if self._rx_overflow or available > OVERFLOW_S * rate_sps:
            lost_to = max(head, reception.position + spp)
            tick = reception.tick + (lost_to - reception.first) * decimation
            self._rx_overflow = False
            # A continuous reception goes on by itself after the gap, any other one ends.
            self._reception = replace(reception, position=lost_to) if reception.remaining is None else None
            self._send_rx_event(_OVERFLOW, tick)
            return 0.0
        stopping = False
        if reception.remaining is None and self._rx_commands:
            stopping = bool(self._rx_commands[0][0] >> 28 & 1)
        count = available // spp * spp
        if reception.remaining is not None and available >= reception.remaining:
            count = min(available, reception.remaining)
        elif stopping and available > 0:
            count = min(available, spp)
        if count <= 0:
            if stopping and available <= 0 and reception.position == reception.first:
                self._rx_commands.popleft()
                self._reception = None
                return 0.0
            due = reception.position + min(spp, reception.remaining or spp) - head
            return min(0.05, max(0.002, due / rate_sps))
        count = min(count, 128 * spp)
        last = stopping or count == reception.remaining
        self._send_samples(reception, count, spp, decimation, last)
        reception.position += count
        if reception.remaining is not None:
            reception.remaining -= count
        if last:
            self._reception = None
            if stopping:
                self._rx_commands.popleft()
        return 0.0 if last or available - count >= spp else min(0.004, 8 * spp / rate_sps)

    def _send_samples(self, reception: _Reception, count: int, spp: int, decimation: int, last: bool) -> None:
        """Send `count` samples in packets of `spp`; the last one ends the burst if `last`."""
        rate_sps = TICK_RATE_HZ / decimation
        if self._locked(_SPI_RX_LO):
            samples = self.air.receive(
                self.name, reception.position, count, rate_sps, self.rx_center_hz, self.rx_gain_db
            )
        else:
            samples = np.zeros(count, np.complex64)
        gain = self._settings.get(_RX_SCALE, 0) / (1 << 17) * _filter_gain(self._settings.get(_RX_RATE, 0), 4)
        words = _to_wire(samples, gain, bool(self._settings.get(_RX_FORMAT, 0) & 1))
        per_packet = words.size * spp // count if count >= spp else words.size
        tick = reception.tick + (reception.position - reception.first) * decimation
        whole = count // spp
        if whole:
            packets = np.empty((whole, per_packet + 5), ">u4")
            counts = (self._rx_count + np.arange(whole)) % 16
            packets[:, 0] = 0x14100000 | per_packet + 5 | counts.astype(np.uint32) << 16
            if last and count == whole * spp:
                packets[-1, 0] |= 1 << 24
            packets[:, 1] = self._settings.get(_RX_SID, 0)
            ticks = (tick + np.arange(whole, dtype=np.int64) * spp * decimation).astype(np.uint64)
            packets[:, 2] = ticks >> np.uint64(32)
            packets[:, 3] = ticks & np.uint64(0xFFFFFFFF)
            packets[:, 4:-1] = words[: whole * per_packet].reshape(whole, per_packet)
            packets[:, -1] = 0
            self._rx_count += whole
            self._send_rx(packets)
        rest = words[whole * per_packet :]
        if rest.size:
            packet = np.zeros((1, rest.size + 5), ">u4")
            packet[0, 0] = 0x14100000 | last << 24 | (self._rx_count % 16) << 16 | rest.size + 5
            packet[0, 1] = self._settings.get(_RX_SID, 0)
            tick += whole * spp * decimation
            packet[0, 2], packet[0, 3] = tick >> 32, tick & 0xFFFFFFFF
            packet[0, 4:-1] = rest
            self._rx_count += 1
            self._send_rx(packet)

    def _send_rx(self, packets: NDArray[np.uint32]) -> None:
        """Send rows as datagrams, many a system call where the kernel can split them."""
        skip = min(self._rx_skip_packets, len(packets))
        self._rx_skip_packets -= skip
        packets = packets[skip:]
        if self._rx_peer is None or self._dropped or not len(packets):
            return
        bound, size = self._sockets[RX_PORT], packets.shape[1] * 4
        content = memoryview(packets.tobytes())
        step = max(1, _MAX_DATAGRAM // size) * size
        for first in range(0, len(content), step):
            part = content[first : first + step]
            if self._segmentation and len(part) > size:
                try:
                    bound.sendmsg([part], [(_UDP, _UDP_SEGMENT, struct.pack("=H", size))], 0, self._rx_peer)
                    continue
                except BlockingIOError:
                    pass
                except OSError:
                    self._segmentation = False
            for offset in range(0, len(part), size):
                try:
                    bound.sendto(part[offset : offset + size], self._rx_peer)
                except BlockingIOError:
                    select.select([], [bound], [], 0.1)
                except OSError:  # the host has closed its socket
                    return

    def _send_rx_event(self, code: int, tick: int) -> None:
        """Tell the host within the stream that a command was late, or that samples were lost."""
        self.events["late command" if code == _LATE else "overflow"] += 1
        if self._rx_peer is not None:
            sid = self._settings.get(_RX_SID, 0)
            packet = struct.pack(">IIQI", 0x50100005, sid, tick & (1 << 64) - 1, code)
            self._send(RX_PORT, packet, self._rx_peer)

    # Transmission

    def _reset_transmitter(self) -> None:
        self._tx_position: int | None = None  # sample after the last one of the running burst
        self._tx_free = 0  # sample after the last one of the burst before
        self._tx_count: int | None = None
        self._tx_discard = False
        self._tx_waiting: collections.deque[_Sent] = collections.deque()
        self._tx_events: collections.deque[tuple[int, int]] = collections.deque()  # (sample when due, code)
        self._tx_acknowledged = 0
        self._tx_told = 0
        self._tx_told_at_s = 0.0

    def _serve_transmitter(self) -> None:
        bound = self._sockets[TX_PORT]
        buffer = bytearray(65536)
        while not self._stopping:
            busy = self._tx_position is not None or self._tx_waiting or self._tx_events
            select.select([bound], [], [], 0.002 if busy else 0.05)
            with self._lock:
                drained = False
                pieces: list[NDArray[np.complex64]] = []
                for _ in range(256):
                    try:
                        size, self._tx_peer = bound.recvfrom_into(buffer)
                    except OSError:
                        drained = True
                        break
                    if not self._dropped:
                        self._take_packet(memoryview(buffer)[:size], pieces)
                self._radiate(pieces)
                self._tell_host(drained)

    def _radiate(self, pieces: list[NDArray[np.complex64]]) -> None:
        """Put on the air what has been collected; it ends at the burst's position."""
        if not pieces:
            return
        samples = np.concatenate(pieces)
        pieces.clear()
        assert self._tx_position is not None
        self.air.transmit(
            self.name,
            samples,
            self._tx_position - samples.size,
            TICK_RATE_HZ / self._tx_interpolation,
            self.tx_center_hz,
            self.tx_gain_db - TX_GAIN_MAX_DB,
        )

    def _take_packet(self, packet: memoryview, pieces: list[NDArray[np.complex64]]) -> None:
        """Take one packet: flow-control number, header, time if any, samples, trailer if any."""
        if len(packet) < 12:
            return
        sequence, header = struct.unpack_from(">II", packet)
        if not header or header >> 29:
            return
        if self._tx_skip_packets:
            self._tx_skip_packets -= 1
            return
        begin = 8 + 4 * (header >> 28 & 1)
        has_time = bool(header >> 20 & 3)
        if len(packet) < begin + 8 * has_time:
            return
        count, starts, ends = header >> 16 & 15, header >> 25 & 1, header >> 24 & 1
        rate_sps = TICK_RATE_HZ / self._tx_interpolation
        expected, self._tx_count = self._tx_count, (count + 1) % 16
        end = min(len(packet), 4 + 4 * (header & 0xFFFF)) - 4 * (header >> 26 & 1)
        if expected is not None and count != expected:
            self._radiate(pieces)
            self._fail_burst(_SEQUENCE, sequence)
            if not starts:
                return
        if self._tx_discard and not starts:
            self._tx_discard = not ends
            self._tx_waiting.append(_Sent(sequence, 0))
            return
        self._tx_discard = False
        if self._tx_position is None:
            self._radiate(pieces)
            soon = math.ceil(self.air.now_samples(rate_sps, self.name) + TX_LEAD_S * rate_sps)
            position = max(soon, self._tx_free)
            if has_time:
                (tick,) = struct.unpack_from(">Q", packet, begin)
                if tick < self.now_ticks():
                    self._fail_burst(_TIME_ERROR, sequence)
                    self._tx_discard = self._tx_discard and not ends
                    return
                interpolation = self._tx_interpolation
                position = (tick - self._time_offset + interpolation // 2) // interpolation
            self._tx_position = position
        begin += 8 if has_time else 0
        gain = self._settings.get(_TX_SCALE, 0) / (1 << 17) * _filter_gain(self._settings.get(_TX_RATE, 0), 3)
        end = max(begin, end - (end - begin) % 4)
        samples = _from_wire(packet[begin:end], gain, bool(self._settings.get(_TX_FORMAT, 0) & 1))
        pieces.append(samples)
        self._tx_position += samples.size
        self._tx_waiting.append(_Sent(sequence, self._tx_position))
        if ends:
            self._radiate(pieces)
            self._tx_events.append((self._tx_position, _BURST_ACK))
            self._tx_free, self._tx_position = self._tx_position, None

    def _fail_burst(self, code: int, sequence: int) -> None:
        self._send_tx_event(code)
        self._tx_discard = bool(self._settings.get(_TX_POLICY, 0) & _POLICY_NEXT_BURST)
        self._tx_position = None
        self._tx_waiting.append(_Sent(sequence, 0))

    def _tell_host(self, drained: bool) -> None:
        """Acknowledge what has been radiated, report what happened by now."""
        rate_sps = TICK_RATE_HZ / self._tx_interpolation
        now = self.air.now_samples(rate_sps, self.name)
        while self._tx_events and self._tx_events[0][0] <= now:
            self._send_tx_event(self._tx_events.popleft()[1])
        if self._tx_position is not None and drained and now > self._tx_position + TX_GRACE_S * rate_sps:
            self._tx_position = None
            self._tx_discard = bool(self._settings.get(_TX_POLICY, 0) & _POLICY_NEXT_BURST)
            self._send_tx_event(_UNDERFLOW)
        while self._tx_waiting and self._tx_waiting[0].end <= now:
            self._tx_acknowledged = self._tx_waiting.popleft().sequence
        packets, cycles = self._settings.get(_TX_PACKETS, 0), self._settings.get(_TX_CYCLES, 0)
        elapsed_s = self.air.now_s() - self._tx_told_at_s
        new = self._tx_acknowledged - self._tx_told & 0xFFFFFFFF
        if (packets & _UP_ENABLED and new >= packets & ~_UP_ENABLED) or (
            cycles & _UP_ENABLED and new and elapsed_s * TICK_RATE_HZ >= cycles & ~_UP_ENABLED
        ):
            self._tx_told, self._tx_told_at_s = self._tx_acknowledged, self.air.now_s()
            self._send_tx_event(0, self._tx_acknowledged)

    def _send_tx_event(self, code: int, acknowledged: int = 0) -> None:
        if code:
            self.events[_TX_EVENTS[code]] += 1
        if self._tx_peer is not None:
            sid = self._settings.get(_TX_SID, 0)
            packet = struct.pack(
                ">IIQII", 0x50100006, sid, self.now_ticks() & (1 << 64) - 1, code, acknowledged & 0xFFFFFFFF
            )
            self._send(TX_PORT, packet, self._tx_peer)


def _signed(word: int) -> int:
    return word - (1 << 32) if word >> 31 else word


def _rate_divider(word: int) -> int:
    """Ticks per sample: the CIC's factor, and one bit for each half-band filter."""
    return max(1, word & 0xFF) * (1 + (word >> 8 & 1)) * (1 + (word >> 9 & 1))


def _filter_gain(word: int, order: int) -> float:
    """Gain of the mixer's CORDIC and of a CIC filter of that order, whose shift leaves less than a factor of two."""
    power = max(1, word & 0xFF) ** order
    return 1.65 * power / 2 ** math.ceil(math.log2(power))


def _attenuator_gain_db(pins: int) -> float:
    """Gain of an SBX path from its attenuator's six pins, which are active low."""
    return TX_GAIN_MAX_DB - 0.5 * (~(pins >> 8) & 63)


def _to_wire(samples: NDArray[np.complex64], gain: float, eight_bits: bool) -> NDArray[np.uint32]:
    """Words as they travel: big endian, real part first; 8-bit samples two a word."""
    parts = samples.view(np.float32)
    np.clip(parts, -1.0, 1.0, out=parts)  # the converter's full scale
    parts *= np.float32(gain * FULL_SCALE)
    np.rint(parts, out=parts)
    if not eight_bits:
        np.clip(parts, -32768.0, 32767.0, out=parts)
        return parts.astype(np.int16).astype(">i2").view(">u4")
    np.clip(parts, -128.0, 127.0, out=parts)
    octets = parts.astype(np.int8)
    if octets.size % 4:
        octets = np.concatenate([octets, np.zeros(2, np.int8)])
    return octets.view(">u4")


def _from_wire(content: memoryview, gain: float, eight_bits: bool) -> NDArray[np.complex64]:
    """Samples of a packet at the converter, limited to its full scale."""
    raw = np.frombuffer(content, np.int8 if eight_bits else ">i2")
    parts = raw[: raw.size // 2 * 2].astype(np.float32)
    # Eight bits become the upper half of sixteen.
    parts *= np.float32(gain * (256 if eight_bits else 1) / FULL_SCALE)
    np.clip(parts, -1.0, 1.0, out=parts)
    return parts.view(np.complex64)


def _motherboard_eeprom(addr: str, name: str, serial: str) -> bytearray:
    content = bytearray(b"\xff" * 256)
    content[0:2] = struct.pack("<H", 0x0A11)  # N210 revision 4
    content[2:8] = bytes.fromhex("00802f") + socket.inet_aton(addr)[1:]
    content[8:12], content[12:16] = socket.inet_aton("255.0.0.0"), socket.inet_aton(addr)
    content[18:20], content[20:22] = struct.pack("<H", 4), struct.pack("<H", 2)
    content[23] = 0
    content[24:33] = serial.encode().ljust(9, b"\0")
    content[33:56] = name.encode("ascii", "replace")[:22].ljust(23, b"\0")
    content[56:60] = bytes(4)
    return content


def _board_eeprom(board: int) -> bytearray:
    content = bytearray(256)
    content[0:3] = bytes([0xDB, board & 0xFF, board >> 8])
    content[0x1F] = -sum(content[:0x1F]) & 0xFF
    return content
