"""Model the receiver of an emulated USRP: receive commands, packets of samples, and what gets lost."""

import collections
import math
import select
import struct
import threading
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sdr.emulated.n210_board import (
    RX_CLEAR,
    RX_COMMAND,
    RX_FORMAT,
    RX_RATE,
    RX_SCALE,
    RX_SID,
    RX_SPP,
    RX_TIME_HI,
    RX_TIME_LO,
    TICK_RATE_HZ,
    N210Board,
)
from sdr.emulated.n210_wire import filter_gain, to_wire
from sdr.emulated.usrp_ports import RX_PORT, Peer, UsrpPorts

RX_LATENCY_S = 0.03
"""Delay with which samples are read from the air: by then all transmitters have put theirs there."""

OVERFLOW_S = 1.0
"""Falling this far behind real time is an overflow."""

# Event codes of the protocol.
_LATE, _OVERFLOW = 2, 8
_UDP, _UDP_SEGMENT = 17, 103
_MAX_DATAGRAM = 65000
_MAX_PACKET_SAMPLES = 16000


@dataclass
class Reception:
    """A running receive command: sample `position` is next; `first` has the time `tick`."""

    tick: int
    first: int
    position: int
    remaining: int | None


class UsrpReceiver:
    """The receiver: `serve` runs in a thread of its own.

    Args:
        board: how it is set; its lock is held by whoever calls.
        ports: where samples leave.
        events: counts what is reported to the host.
        stopping: ends `serve`.

    Attributes:
        peer: program that receives, None before it has spoken.
        samples_read: samples that were handed out so far.
    """

    def __init__(
        self, board: N210Board, ports: UsrpPorts, events: collections.Counter[str], stopping: threading.Event
    ) -> None:
        self._board, self._ports, self._events, self._stopping = board, ports, events, stopping
        self._wake = threading.Condition(board.lock)
        self._commands: collections.deque[tuple[int, int]] = collections.deque()
        self._reception: Reception | None = None
        self._count = 0
        self.peer: Peer | None = None
        self.samples_read = 0
        self._overflow = False
        self._skip_packets = 0
        self._segmentation = True
        board.on_write[RX_TIME_LO] = self._take_command
        board.on_write[RX_CLEAR] = self._clear

    def _take_command(self, time_lo: int) -> None:
        settings = self._board.settings
        self._commands.append((settings.get(RX_COMMAND, 0), settings.get(RX_TIME_HI, 0) << 32 | time_lo))
        self._wake.notify_all()

    def _clear(self, _: int) -> None:
        self._commands.clear()
        self._reception, self._count = None, 0

    def wake(self) -> None:
        """Let `serve` see that it shall end."""
        with self._wake:
            self._wake.notify_all()

    def overflow(self) -> None:
        """Let the running reception overflow: a continuous one has a gap, any other one ends."""
        with self._wake:
            self._overflow = True
            self._wake.notify_all()

    def lose_packets(self, num_packets: int) -> None:
        """Lose the next packets on their way to the host."""
        with self._board.lock:
            self._skip_packets += num_packets

    def serve(self) -> None:
        """Send what is received until the device ends."""
        while not self._stopping.is_set():
            with self._wake:
                if self._reception is None and not self._next_command():
                    self._wake.wait(0.1)
                    continue
                wait_s = self._stream_some()
            if wait_s > 0:
                time.sleep(wait_s)

    def _next_command(self) -> bool:
        """Start the next receive command, if there is one."""
        if not self._commands:
            return False
        command, at_ticks = self._commands.popleft()
        if command >> 28 & 1:  # stop, and nothing runs
            return bool(self._commands)
        now = self._board.now_ticks()
        if command >> 31:
            at_ticks = now
        elif at_ticks < now:
            self._send_event(_LATE, now)
            return False
        decimation = self._board.rx_decimation
        first = (at_ticks - self._board.time_offset + decimation // 2) // decimation
        continuous = command >> 29 & 1
        self._reception = Reception(at_ticks, first, first, None if continuous else command & 0xFFFFFFF)
        self._overflow = False
        return True

    def _stream_some(self) -> float:
        """Send what the running reception has by now; seconds to wait for more."""
        reception = self._reception
        assert reception is not None
        decimation = self._board.rx_decimation
        rate_sps = TICK_RATE_HZ / decimation
        spp = min(max(1, self._board.settings.get(RX_SPP, 364)), _MAX_PACKET_SAMPLES)
        head = self._board.air.now_samples(rate_sps, self._board.name) - math.ceil(RX_LATENCY_S * rate_sps)
        available = head - reception.position
        if self._overflow or available > OVERFLOW_S * rate_sps:
            lost_to = max(head, reception.position + spp)
            tick = reception.tick + (lost_to - reception.first) * decimation
            self._overflow = False
            # A continuous reception goes on by itself after the gap, any other one ends.
            self._reception = replace(reception, position=lost_to) if reception.remaining is None else None
            self._send_event(_OVERFLOW, tick)
            return 0.0
        stopping = False
        if reception.remaining is None and self._commands:
            stopping = bool(self._commands[0][0] >> 28 & 1)
        count = available // spp * spp
        if reception.remaining is not None and available >= reception.remaining:
            count = min(available, reception.remaining)
        elif stopping and available > 0:
            count = min(available, spp)
        if count <= 0:
            if stopping and available <= 0 and reception.position == reception.first:
                self._commands.popleft()
                self._reception = None
                return 0.0
            due = reception.position + min(spp, reception.remaining or spp) - head
            return min(0.05, max(0.002, due / rate_sps))
        count = min(count, 128 * spp)
        last = stopping or count == reception.remaining
        self._send_samples(reception, count, spp, decimation, last)
        reception.position += count
        self.samples_read += count
        if reception.remaining is not None:
            reception.remaining -= count
        if last:
            self._reception = None
            if stopping:
                self._commands.popleft()
        return 0.0 if last or available - count >= spp else min(0.004, 8 * spp / rate_sps)

    def _send_samples(self, reception: Reception, count: int, spp: int, decimation: int, last: bool) -> None:
        """Send `count` samples in packets of `spp`; the last one ends the burst if `last`."""
        rate_sps = TICK_RATE_HZ / decimation
        if self._board.rx_locked:
            samples = self._board.air.receive(
                self._board.name, reception.position, count, rate_sps, self._board.rx_center_hz, self._board.rx_gain_db
            )
        else:
            samples = np.zeros(count, np.complex64)
        gain = self._board.settings.get(RX_SCALE, 0) / (1 << 17) * filter_gain(self._board.settings.get(RX_RATE, 0), 4)
        words = to_wire(samples, gain, bool(self._board.settings.get(RX_FORMAT, 0) & 1))
        per_packet = words.size * spp // count if count >= spp else words.size
        tick = reception.tick + (reception.position - reception.first) * decimation
        whole = count // spp
        if whole:
            packets = np.empty((whole, per_packet + 5), ">u4")
            counts = (self._count + np.arange(whole)) % 16
            packets[:, 0] = 0x14100000 | per_packet + 5 | counts.astype(np.uint32) << 16
            if last and count == whole * spp:
                packets[-1, 0] |= 1 << 24
            packets[:, 1] = self._board.settings.get(RX_SID, 0)
            ticks = (tick + np.arange(whole, dtype=np.int64) * spp * decimation).astype(np.uint64)
            packets[:, 2] = ticks >> np.uint64(32)
            packets[:, 3] = ticks & np.uint64(0xFFFFFFFF)
            packets[:, 4:-1] = words[: whole * per_packet].reshape(whole, per_packet)
            packets[:, -1] = 0
            self._count += whole
            self._send(packets)
        rest = words[whole * per_packet :]
        if rest.size:
            packet = np.zeros((1, rest.size + 5), ">u4")
            packet[0, 0] = 0x14100000 | last << 24 | (self._count % 16) << 16 | rest.size + 5
            packet[0, 1] = self._board.settings.get(RX_SID, 0)
            tick += whole * spp * decimation
            packet[0, 2], packet[0, 3] = tick >> 32, tick & 0xFFFFFFFF
            packet[0, 4:-1] = rest
            self._count += 1
            self._send(packet)

    def _send(self, packets: NDArray[np.uint32]) -> None:
        """Send rows as datagrams, many a system call where the kernel can split them."""
        skip = min(self._skip_packets, len(packets))
        self._skip_packets -= skip
        packets = packets[skip:]
        if self.peer is None or self._ports.dropped or not len(packets):
            return
        bound, size = self._ports[RX_PORT], packets.shape[1] * 4
        content = memoryview(packets.tobytes())
        step = max(1, _MAX_DATAGRAM // size) * size
        for first in range(0, len(content), step):
            part = content[first : first + step]
            if self._segmentation and len(part) > size:
                try:
                    bound.sendmsg([part], [(_UDP, _UDP_SEGMENT, struct.pack("=H", size))], 0, self.peer)
                    continue
                except BlockingIOError:
                    pass
                except OSError:
                    self._segmentation = False
            for offset in range(0, len(part), size):
                try:
                    bound.sendto(part[offset : offset + size], self.peer)
                except BlockingIOError:
                    select.select([], [bound], [], 0.1)
                except OSError:  # the host has closed its socket
                    return

    def _send_event(self, code: int, tick: int) -> None:
        """Send the host, within the stream, that a command was late or that samples were lost."""
        self._events["late command" if code == _LATE else "overflow"] += 1
        if self.peer is not None:
            sid = self._board.settings.get(RX_SID, 0)
            packet = struct.pack(">IIQI", 0x50100005, sid, tick & (1 << 64) - 1, code)
            self._ports.send(RX_PORT, packet, self.peer)
