"""Start the process that holds a USRP (`sdr.radios.uhd_process`), and speak with it."""

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.radios.uhd_host import INSTALL, child_environment, claim_usrp, explain_uhd, find_uhd_python

PROCESS_FILE = Path(__file__).with_name("uhd_process.py")
"""File that the process runs."""

ANSWER_S = 10.0
"""Longest wait for an answer to a request that takes no time by itself."""

CLOSE_S = 5.0
"""Longest wait for the process to end."""

# Our own folder must not be searched first: it holds modules called like other people's.
_BOOT = "import runpy, sys; sys.path.pop(0); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_MAX_REPLY_BYTES = 1 << 20


def last_words(log: str) -> str:
    """Return the line of a log that says why a program ended: that of its exception, else the last one.

    >>> last_words('Traceback ..\\n  File "a.py", line 3\\n    f()\\nRuntimeError: no FPGA\\n  File "b.py"\\n')
    'RuntimeError: no FPGA'
    """
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    said = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|terminate|what\(\))\b.*:", line)]
    return (said or lines or ["it said nothing"])[-1][:200]


class UhdLink:
    """The process that holds one USRP, from here to `close`; safe to use from several threads.

    A subclass for another driver says how that is called, found and explained.

    Args:
        uri: of the radio, for messages.
        args: UHD's device arguments.

    Raises:
        RadioError: no interpreter has UHD, another program of ours holds the USRP, or the process can't be started.
    """

    name, device, install = "UHD", "USRP", INSTALL

    def __init__(self, uri: str, args: str) -> None:
        self._uri, self._args = uri, args
        self._lock = threading.RLock()
        self._capturing = False
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as its writer)
        try:
            python = self.find_python()
            with claim_usrp(args, self.device) as claims:
                self._process, self._socket = self._start(python, claims)
        except BaseException:
            self._log.close()
            raise

    def find_python(self) -> str:
        """Return the interpreter that has the driver."""
        return find_uhd_python()

    def process_file(self) -> Path:
        """Return the file that the process runs."""
        return PROCESS_FILE

    def _start(self, python: str, claims: tuple[int, ...]) -> tuple[subprocess.Popen[bytes], socket.socket | None]:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    [python, "-c", _BOOT, str(self.process_file()), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(theirs.fileno(), *claims),
                    env=child_environment(),
                    start_new_session=True,  # Ctrl-C is for us; it ends when we do
                )
            except OSError as error:
                ours.close()
                raise RadioError(f"can't start {python}: {error.strerror}; {self.install}") from None
        return process, ours

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    # Requests

    def ask(
        self, request: dict[str, Any], limit_s: float = ANSWER_S, samples: NDArray[np.complex64] | None = None
    ) -> dict[str, Any]:
        """Return the reply to a request.

        Args:
            request: as `sdr.radios.uhd_process.serve` takes it.
            limit_s: longest wait for the reply.
            samples: complex64 (n,) that belong to the request.

        Raises:
            RadioError: the reply is an error, there is none, or a capture is going on.
        """
        with self._lock:
            self._check_idle()
            self._say(request, samples)
            return self._checked(self._hear(limit_s)[0])

    def capture(
        self, request: dict[str, Any], limit_s: float, summary: dict[str, Any]
    ) -> Iterator[tuple[int, NDArray[np.complex64]]]:
        """Yield the pieces of a capture, each with the position of its first sample.

        Args:
            request: what to capture.
            limit_s: longest wait for the first piece.
            summary: is filled with what the device says at the end of the capture.

        Raises:
            RadioError: as `ask`.
        """
        with self._lock:
            self._check_idle()
            self._say(request)
            over, self._capturing = False, True
            try:
                while True:
                    reply, piece = self._hear(limit_s)
                    limit_s = ANSWER_S
                    if "position" not in reply:
                        over = True
                        summary |= self._checked(reply)
                        return
                    yield reply["position"], piece
            finally:
                self._capturing = False
                if not over and self._socket is not None:
                    self._say({"do": "halt"})
                    while "position" in self._hear(ANSWER_S)[0]:
                        pass

    def explain(self, message: str) -> str:
        """Return what an error of UHD's means, in one line."""
        return explain_uhd(message, self._tail(), self._args)

    def _check_idle(self) -> None:
        if self._capturing:
            raise RadioError(f"the {self.device} is streaming; close the stream before anything else is asked of it")

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" in reply and "from_uhd" in reply:
            message = reply["error"]
            raise RadioError(
                self.explain(message) if reply["from_uhd"] else f"{self._uri.partition(':')[0]}: {message}"
            )
        return reply

    # Messages

    def _say(self, request: dict[str, Any], samples: NDArray[np.complex64] | None = None) -> None:
        if self._socket is None:
            raise RadioError(f"radio '{self._uri}' is closed; open it again")
        text = json.dumps(request).encode()
        payload = b"" if samples is None else np.ascontiguousarray(samples).tobytes()
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.sendall(struct.pack(">II", len(text), len(payload)) + text)
            self._socket.sendall(payload)
        except OSError:
            raise self._died() from None

    def _hear(self, limit_s: float) -> tuple[dict[str, Any], NDArray[np.complex64]]:
        assert self._socket is not None
        self._socket.settimeout(limit_s)
        try:
            json_size, payload_size = struct.unpack(">II", self._read(8))
            reply = json.loads(bytes(self._read(min(json_size, _MAX_REPLY_BYTES))))
            return reply, np.frombuffer(self._read(payload_size), np.complex64)
        except TimeoutError:
            self._kill()
            raise RadioError(
                f"{self.name} gave no answer within {limit_s:.0f} s; check the {self.device}'s cable and power, and "
                "open it again"
            ) from None
        except (OSError, EOFError):
            raise self._died() from None

    def _read(self, size: int) -> bytearray:
        assert self._socket is not None
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = self._socket.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return content

    # The end

    def _died(self) -> RadioError:
        # Its last words are there when it has ended, and it ends by itself.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        self._kill()
        return RadioError(f"{self.name}'s process ended ({last_words(self._tail())}); open the {self.device} again")

    def _tail(self) -> str:
        """Return the last of what UHD and its process printed."""
        size = self._log.seek(0, os.SEEK_END)
        return os.pread(self._log.fileno(), 8000, max(0, size - 8000)).decode(errors="replace")

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
            self._process.kill()
            self._process.wait()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """End the process, which mutes the transmitter; a second call does nothing."""
        if self._log.closed:
            return
        if self._socket is not None:
            # The end of the link is what every state of the process understands, in the middle of a capture too.
            self._socket.close()
            self._socket = None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
        self._kill()
        self._log.close()
