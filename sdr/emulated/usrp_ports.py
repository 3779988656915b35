"""Hold the UDP ports of an emulated USRP."""

import contextlib
import socket

CONTROL_PORT, RX_PORT, TX_PORT, RX1_PORT, FIFO_PORT = 49152, 49156, 49157, 49158, 49159
"""Ports that the protocol fixes."""

Peer = tuple[str, int]
"""Address of a program that speaks to a port."""


class UsrpPorts:
    """The ports at one address, from `open` to `close`.

    Attributes:
        dropped: whether nothing leaves any more, as if the cable had been pulled.
    """

    def __init__(self) -> None:
        self.dropped = False
        self._sockets: dict[int, socket.socket] = {}

    def __getitem__(self, port: int) -> socket.socket:
        return self._sockets[port]

    def __bool__(self) -> bool:
        return bool(self._sockets)

    def open(self, addr: str) -> None:
        """Bind all ports.

        Raises:
            OSError: a port is taken.
        """
        for port in (CONTROL_PORT, RX_PORT, TX_PORT, RX1_PORT, FIFO_PORT):
            self._sockets[port] = bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_000_000)
            bound.bind((addr, port))
            bound.setblocking(False)

    def close(self) -> None:
        """Close all ports."""
        for bound in self._sockets.values():
            bound.close()
        self._sockets.clear()

    def send(self, port: int, packet: bytes, peer: Peer) -> None:
        """Send one packet from a port."""
        if not self.dropped:
            with contextlib.suppress(OSError):  # a peer that has gone misses its answer, as on a wire
                self._sockets[port].sendto(packet, peer)
