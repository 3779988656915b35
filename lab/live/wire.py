"""Carry messages between the engine's processes, and in the same form to the pages.

A message is a JSON header and any number of arrays: four bytes with the header's length (little-endian), the header
padded with spaces to a multiple of eight bytes, then the arrays one after the other, each padded to eight bytes. The
header's `kind` says what it is, its `arrays` where each array lies: name, dtype, shape, offset from the header's end.
"""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.files import json_ready

DTYPES = ("uint8", "float32", "int32")
"""Types of arrays that a page understands."""

AIR_SOCKET = "air"
"""Where samples of a simulated air are to be had, among the engine's sockets."""

Arrays = Mapping[str, NDArray[Any]]

_ALIGNMENT = 8


def encode_message(kind: str, values: Mapping[str, Any], arrays: Arrays | None = None) -> bytes:
    """Return a message as bytes.

    Args:
        kind: of the message.
        values: whatever JSON can hold; NaN and infinities become null.
        arrays: by name; of `DTYPES`.

    >>> decode_message(encode_message("frame", {"number": 3}, {"cells": np.zeros(2, np.float32)}))[0]["number"]
    3
    """
    places, parts, offset = [], [], 0
    for name, array in (arrays or {}).items():
        if array.dtype.name not in DTYPES:
            raise TypeError(f"array {name} has type {array.dtype}; use one of {', '.join(DTYPES)}")
        data = np.ascontiguousarray(array).tobytes()
        places.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape), "offset": offset})
        data += bytes(-len(data) % _ALIGNMENT)
        parts.append(data)
        offset += len(data)
    header = json.dumps(json_ready({"kind": kind, **values, "arrays": places}), allow_nan=False).encode()
    header += b" " * (-(len(header) + 4) % _ALIGNMENT)
    return b"".join([struct.pack("<I", len(header)), header, *parts])


def read_header(message: bytes) -> dict[str, Any]:
    """Return the header of a message of ours."""
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length])


def decode_message(message: bytes) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return the header and the arrays of a message of ours."""
    header = read_header(message)
    begin = 4 + struct.unpack_from("<I", message)[0]
    arrays = {}
    for place in header["arrays"]:
        count = int(np.prod(place["shape"]))
        flat = np.frombuffer(message, place["dtype"], count, begin + place["offset"])
        arrays[place["name"]] = flat.reshape(place["shape"])
    return header, arrays


class Bus:
    """The sockets of one process: where messages for the pages go, orders come from, and work is handed on.

    Nothing here ever waits for a slow reader: what finds a queue full is dropped and counted.

    Args:
        folder: of the sockets, readable by this user only: work is handed on as pickles.
        name: of the process; orders for it carry it.

    Attributes:
        dropped: messages for the pages that found the queue full.
    """

    def __init__(self, folder: Path, name: str) -> None:
        try:
            import zmq
        except ImportError:
            raise RadioError("the live page needs the package 'pyzmq'; install it in this interpreter") from None
        self.name, self.dropped = name, 0
        self._folder, self._zmq, self._context = folder, zmq, zmq.Context()
        self._out = self._socket(zmq.PUSH, 256)
        self._out.connect(address(folder, "pages"))
        self._orders = self._socket(zmq.SUB, 64)
        self._orders.setsockopt(zmq.SUBSCRIBE, b"")
        self._orders.connect(address(folder, "orders"))

    def _socket(self, kind: int, queued: int) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(self._zmq.LINGER, 200)
        socket.setsockopt(self._zmq.SNDHWM, queued)
        socket.setsockopt(self._zmq.RCVHWM, queued)
        return socket

    def another(self) -> Bus:
        """Return a bus of the same process for another thread: a socket belongs to one."""
        return Bus(self._folder, self.name)

    def close(self) -> None:
        """Let go of the sockets, after what waits has left."""
        self._context.destroy(linger=500)

    def publish(self, kind: str, arrays: Arrays | None = None, **values: Any) -> None:
        """Send a message to the pages; it says which process it is from."""
        try:
            self._out.send(encode_message(kind, {"from": self.name, **values}, arrays), self._zmq.NOBLOCK)
        except self._zmq.Again:
            self.dropped += 1

    def orders(self) -> list[tuple[str, Any]]:
        """Return the (name, value) of all orders that came since the last call."""
        found = []
        while True:
            try:
                found.append(pickle.loads(self._orders.recv(self._zmq.NOBLOCK)))
            except self._zmq.Again:
                return found

    def sender(self, to: str, queued: int) -> Callable[[Any], bool]:
        """Return a function that hands work to a process and says whether its queue of `queued` had room."""
        socket = self._socket(self._zmq.PUSH, queued)
        # Without it, what is sent while nobody listens would wait for him without a bound of its own.
        socket.setsockopt(self._zmq.IMMEDIATE, 1)
        socket.connect(address(self._folder, to))

        def send(work: Any) -> bool:
            try:
                socket.send(pickle.dumps(work, protocol=5), self._zmq.NOBLOCK)
            except self._zmq.Again:
                return False
            return True

        return send

    def receiver(self, queued: int) -> Callable[[float], Any]:
        """Return a function (timeout_s) that returns the next piece of work for this process, or None."""
        socket = self._socket(self._zmq.PULL, queued)
        socket.bind(address(self._folder, self.name))

        def receive(timeout_s: float) -> Any:
            return pickle.loads(socket.recv()) if socket.poll(round(1000 * timeout_s)) else None

        return receive


def address(folder: Path, name: str) -> str:
    """Return the ZMQ address of a socket in the engine's folder."""
    return f"ipc://{folder}/{name}"
