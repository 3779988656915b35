"""Model the transmitter of an emulated USRP: bursts, their times and acknowledgements, underruns, flow control."""

import collections
import math
import select
import struct
import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdr.emulated.n210_board import (
    POLICY_NEXT_BURST,
    TICK_RATE_HZ,
    TX_CLEAR,
    TX_CYCLES,
    TX_FORMAT,
    TX_GAIN_MAX_DB,
    TX_PACKETS,
    TX_POLICY,
    TX_RATE,
    TX_SCALE,
    TX_SID,
    UP_ENABLED,
    N210Board,
)
from sdr.emulated.n210_wire import filter_gain, from_wire
from sdr.emulated.usrp_ports import TX_PORT, Peer, UsrpPorts

TX_GRACE_S = 0.02
"""Time that a burst may run dry before it counts as an underrun: this machine's scheduling, not a real device's."""

TX_LEAD_S = 0.005
"""Time from the first packet of a burst without a time to its start."""

# Event codes of the protocol.
BURST_ACK, UNDERFLOW, SEQUENCE, TIME_ERROR = 1, 2, 4, 8
_EVENTS = {BURST_ACK: "burst ack", UNDERFLOW: "underflow", SEQUENCE: "sequence error", TIME_ERROR: "late burst"}


class Sent(NamedTuple):
    """A packet that waits to be radiated: its flow-control number, and the sample after its last."""

    sequence: int
    end: int


class UsrpTransmitter:
    """The transmitter: `serve` runs in a thread of its own.

    Args:
        board: how it is set.
        ports: where samples come in.
        events: counts what is reported to the host.
        stopping: ends `serve`.

    Attributes:
        peer: program that transmits, None before it has spoken.
    """

    def __init__(
        self, board: N210Board, ports: UsrpPorts, events: collections.Counter[str], stopping: threading.Event
    ) -> None:
        self._board, self._ports, self._events, self._stopping = board, ports, events, stopping
        self.peer: Peer | None = None
        self._skip_packets = 0
        self._reset()
        board.on_write[TX_CLEAR] = self._clear

    def _reset(self) -> None:
        self._position: int | None = None  # sample after the last one of the running burst
        self._free = 0  # sample after the last one of the burst before
        self._count: int | None = None
        self._discard = False
        self._waiting: collections.deque[Sent] = collections.deque()
        self._due: collections.deque[tuple[int, int]] = collections.deque()  # (sample when due, code)
        self._acknowledged = 0
        self._reported = 0
        self._reported_at_s = 0.0

    def _clear(self, value: int) -> None:
        if value & 1:
            self._reset()
            self._board.air.stop(self._board.name)

    @property
    def busy(self) -> bool:
        """Whether a burst is on the air or waits for its time."""
        with self._board.lock:
            return self._position is not None or bool(self._waiting)

    def lose_packets(self, num_packets: int) -> None:
        """Lose the next packets on their way to the device."""
        with self._board.lock:
            self._skip_packets += num_packets

    def serve(self) -> None:
        """Take packets and put them on the air until the device ends."""
        bound = self._ports[TX_PORT]
        buffer = bytearray(65536)
        while not self._stopping.is_set():
            busy = self._position is not None or self._waiting or self._due
            select.select([bound], [], [], 0.002 if busy else 0.05)
            with self._board.lock:
                drained = False
                pieces: list[NDArray[np.complex64]] = []
                for _ in range(256):
                    try:
                        size, self.peer = bound.recvfrom_into(buffer)
                    except OSError:
                        drained = True
                        break
                    if not self._ports.dropped:
                        self._take_packet(memoryview(buffer)[:size], pieces)
                self._radiate(pieces)
                self._report(drained)

    def _radiate(self, pieces: list[NDArray[np.complex64]]) -> None:
        """Put on the air what has been collected; it ends at the burst's position."""
        if not pieces:
            return
        samples = np.concatenate(pieces)
        pieces.clear()
        assert self._position is not None
        self._board.air.transmit(
            self._board.name,
            samples,
            self._position - samples.size,
            TICK_RATE_HZ / self._board.tx_interpolation,
            self._board.tx_center_hz,
            self._board.tx_gain_db - TX_GAIN_MAX_DB,
        )

    def _take_packet(self, packet: memoryview, pieces: list[NDArray[np.complex64]]) -> None:
        """Take one packet: flow-control number, header, time if any, samples, trailer if any."""
        if len(packet) < 12:
            return
        sequence, header = struct.unpack_from(">II", packet)
        if not header or header >> 29:
            return
        if self._skip_packets:
            self._skip_packets -= 1
            return
        begin = 8 + 4 * (header >> 28 & 1)
        has_time = bool(header >> 20 & 3)
        if len(packet) < begin + 8 * has_time:
            return
        count, starts, ends = header >> 16 & 15, header >> 25 & 1, header >> 24 & 1
        rate_sps = TICK_RATE_HZ / self._board.tx_interpolation
        expected, self._count = self._count, (count + 1) % 16
        end = min(len(packet), 4 + 4 * (header & 0xFFFF)) - 4 * (header >> 26 & 1)
        if expected is not None and count != expected:
            self._radiate(pieces)
            self._fail_burst(SEQUENCE, sequence)
            if not starts:
                return
        if self._discard and not starts:
            self._discard = not ends
            self._waiting.append(Sent(sequence, 0))
            return
        self._discard = False
        if self._position is None:
            self._radiate(pieces)
            soon = math.ceil(self._board.air.now_samples(rate_sps, self._board.name) + TX_LEAD_S * rate_sps)
            position = max(soon, self._free)
            if has_time:
                (tick,) = struct.unpack_from(">Q", packet, begin)
                if tick < self._board.now_ticks():
                    self._fail_burst(TIME_ERROR, sequence)
                    self._discard = self._discard and not ends
                    return
                interpolation = self._board.tx_interpolation
                position = (tick - self._board.time_offset + interpolation // 2) // interpolation
            self._position = position
        begin += 8 if has_time else 0
        gain = self._board.settings.get(TX_SCALE, 0) / (1 << 17) * filter_gain(self._board.settings.get(TX_RATE, 0), 3)
        end = max(begin, end - (end - begin) % 4)
        samples = from_wire(packet[begin:end], gain, bool(self._board.settings.get(TX_FORMAT, 0) & 1))
        pieces.append(samples)
        self._position += samples.size
        self._waiting.append(Sent(sequence, self._position))
        if ends:
            self._radiate(pieces)
            self._due.append((self._position, BURST_ACK))
            self._free, self._position = self._position, None

    def _fail_burst(self, code: int, sequence: int) -> None:
        self._send_event(code)
        self._discard = bool(self._board.settings.get(TX_POLICY, 0) & POLICY_NEXT_BURST)
        self._position = None
        self._waiting.append(Sent(sequence, 0))

    def _report(self, drained: bool) -> None:
        """Acknowledge what has been radiated, report what happened by now."""
        rate_sps = TICK_RATE_HZ / self._board.tx_interpolation
        now = self._board.air.now_samples(rate_sps, self._board.name)
        while self._due and self._due[0][0] <= now:
            self._send_event(self._due.popleft()[1])
        if self._position is not None and drained and now > self._position + TX_GRACE_S * rate_sps:
            self._position = None
            self._discard = bool(self._board.settings.get(TX_POLICY, 0) & POLICY_NEXT_BURST)
            self._send_event(UNDERFLOW)
        while self._waiting and self._waiting[0].end <= now:
            self._acknowledged = self._waiting.popleft().sequence
        packets, cycles = self._board.settings.get(TX_PACKETS, 0), self._board.settings.get(TX_CYCLES, 0)
        elapsed_s = self._board.air.now_s() - self._reported_at_s
        new = self._acknowledged - self._reported & 0xFFFFFFFF
        if (packets & UP_ENABLED and new >= packets & ~UP_ENABLED) or (
            cycles & UP_ENABLED and new and elapsed_s * TICK_RATE_HZ >= cycles & ~UP_ENABLED
        ):
            self._reported, self._reported_at_s = self._acknowledged, self._board.air.now_s()
            self._send_event(0, self._acknowledged)

    def _send_event(self, code: int, acknowledged: int = 0) -> None:
        if code:
            self._events[_EVENTS[code]] += 1
        if self.peer is not None:
            sid = self._board.settings.get(TX_SID, 0)
            packet = struct.pack(
                ">IIQII", 0x50100006, sid, self._board.now_ticks() & (1 << 64) - 1, code, acknowledged & 0xFFFFFFFF
            )
            self._ports.send(TX_PORT, packet, self.peer)
