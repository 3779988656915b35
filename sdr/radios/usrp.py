"""USRPs, through UHD's Python API: `uhd:type=b200,serial=30F1A2B` or `uhd:addr=192.168.10.2`.

What follows `uhd:` are UHD's own device arguments, among which options of ours may stand, separated by commas:

- `center_hz`, `bandwidth_hz`, `tx_gain_db`, `rx_gain_db`: as in `RadioSettings`, and they win over those given.
- `rx_offset_hz`: the receiver is tuned so much higher than the transmitter.
- `trim_ppm`: the device's reference runs so much fast: both carriers are tuned so much lower. The sampling clock stays.
- `lo_offset_hz`: the oscillators stand so far beside the carrier, and their leakage with them.
- `tx_antenna`, `rx_antenna`, `tx_subdev`, `rx_subdev`, `clock_source`, `time_source`: by UHD's names.
- `wire`: samples between host and device, `sc16`, `sc12` or `sc8`; not every USRP can do all.
- `timeout_s`: longest wait for an answer, a lock or a pulse, beyond the time that samples take by themselves.

UHD lives in a process of its own (`sdr.radios.uhd_process`), in whichever interpreter has it: `uhd` and GNU Radio's
`uhd` can't share a process, and Debian's is built for the system's Python. One program at a time may have a USRP.

The transmitter stands at its lowest gain except while something is being sent.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError, did_you_mean
from sdr.layout import FrameLayout
from sdr.radios.base import ContextRadio, RadioCapabilities
from sdr.recordings.recording import Recording, measure_health, utc_now
from sdr.settings import RadioSettings

DEFAULT_CENTER_HZ = 2.45e9
"""Where to tune if nobody says: the 2.4 GHz ISM band."""

PYTHON_VARIABLES = ("OTA_UHD_PYTHON", "OTA_GNURADIO_PYTHON")
"""Environment variables that name an interpreter which may have UHD."""

WIRE_FORMATS = ("sc16", "sc12", "sc8")
OPEN_S = 60.0
"""Longest that opening may take: some USRPs load their FPGA first."""
CLOSE_S = 5.0
_PROCESS_FILE = Path(__file__).with_name("uhd_process.py")
_BOOT = "import runpy, sys; sys.path.pop(0); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
_MAX_REPLY_BYTES = 1 << 20
_UHD_KEYS = {
    "type", "addr", "second_addr", "serial", "name", "product", "resource", "master_clock_rate", "fpga", "fw",
    "recv_frame_size", "recv_buff_size", "num_recv_frames", "send_frame_size", "send_buff_size", "num_send_frames",
    "mgmt_addr", "mcr", "system_ref_rate", "dboard_clock_rate", "ignore_cal_file", "mode_n",
}  # fmt: skip
_INSTALL = "apt-get install python3-uhd uhd-host, or set OTA_UHD_PYTHON to the interpreter that has it"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


@dataclass(frozen=True)
class UsrpOptions:
    """What a `uhd:` URI may say beyond UHD's own device arguments; see the module's documentation.

    Raises:
        RadioError: a value is out of range.
    """

    center_hz: float | None = None
    bandwidth_hz: float | None = None
    tx_gain_db: float | None = None
    rx_gain_db: float | None = None
    rx_offset_hz: float = 0.0
    lo_offset_hz: float | None = None
    trim_ppm: float = 0.0
    tx_antenna: str | None = None
    rx_antenna: str | None = None
    tx_subdev: str | None = None
    rx_subdev: str | None = None
    clock_source: str | None = None
    time_source: str | None = None
    wire: str = "sc16"
    timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.wire not in WIRE_FORMATS:
            raise RadioError(f"uhd: wire = '{self.wire}' is unknown; {did_you_mean(self.wire, WIRE_FORMATS)}")
        if not 0.1 <= self.timeout_s <= 600.0:
            raise RadioError(f"uhd: timeout_s = {self.timeout_s:g} is outside 0.1..600")
        for name in ("rx_offset_hz", "lo_offset_hz"):
            if not abs(getattr(self, name) or 0.0) <= 100e6:
                raise RadioError(f"uhd: {name} = {getattr(self, name):g} is outside +-100 MHz")
        if not abs(self.trim_ppm) <= 100.0:
            raise RadioError(f"uhd: trim_ppm = {self.trim_ppm:g} is outside +-100")


_OPTION_TYPES: dict[str, Callable[[str], Any]] = {
    field.name: str if "str" in str(field.type) else _number for field in fields(UsrpOptions)
}


def parse_usrp(rest: str) -> tuple[str, UsrpOptions]:
    """Split what follows `uhd:` into UHD's device arguments and our options.

    Raises:
        RadioError: an option is misspelt, given twice, or out of range.

    >>> parse_usrp("type=b200,rx_gain_db=20,serial=30F1A2B")
    ('type=b200,serial=30F1A2B', UsrpOptions(center_hz=None, bandwidth_hz=None, tx_gain_db=None, rx_gain_db=20.0, ...
    """
    args: list[str] = []
    values: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, text = item.partition("=")
        if key not in _OPTION_TYPES:
            hint = did_you_mean(key, _OPTION_TYPES)
            if not equals or (key not in _UHD_KEYS and hint.startswith("did")):
                raise RadioError(f"uhd: can't read '{item}'; {hint} Everything is key=value, as in uhd:type=b200")
            args.append(item)
            continue
        if not text or key in values:
            raise RadioError(f"uhd: option '{key}' needs one value, as in {key}=...")
        try:
            values[key] = _OPTION_TYPES[key](text)
        except ValueError:
            raise RadioError(f"uhd: option {key} must be a number, found '{text}'") from None
    return ",".join(args), UsrpOptions(**values)


def usrp_settings(settings: RadioSettings, options: UsrpOptions) -> RadioSettings:
    """`settings` with what the URI says, and a carrier where there was none."""
    named = ("center_hz", "bandwidth_hz", "tx_gain_db", "rx_gain_db")
    told = {key: value for key in named if (value := getattr(options, key)) is not None}
    settings = replace(settings, **told)
    return settings if settings.center_hz else replace(settings, center_hz=DEFAULT_CENTER_HZ)


def find_uhd_python() -> str:
    """The interpreter to run UHD in: this one, those of `PYTHON_VARIABLES`, or the system's.

    Raises:
        RadioError: none of them has `uhd`.
    """
    if importlib.util.find_spec("uhd") is not None:
        return sys.executable
    named = [value for name in PYTHON_VARIABLES if (value := os.environ.get(name))]
    tried = []
    for python in dict.fromkeys([*named, shutil.which("python3"), "/usr/bin/python3"]):
        if python is None or python == sys.executable:
            continue
        probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('uhd') is None)"
        try:
            found = subprocess.run([python, "-c", probe], env=_environment(), capture_output=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            found = None
        if found is not None and found.returncode == 0:
            return python
        tried.append(python)
    raise RadioError(f"no interpreter has UHD's Python API (tried {', '.join([sys.executable, *tried])}); {_INSTALL}")


def _environment() -> dict[str, str]:
    """Our environment without what would make another interpreter load this one's packages."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = "1"
    return environment


@contextlib.contextmanager
def claim_usrp(args: str) -> Iterator[int]:
    """Hold a USRP for this program: not all of them refuse a second one, which would break the first.

    Yields the descriptor of the lock; a child that inherits it holds the USRP as long as it lives.

    Raises:
        RadioError: another program of ours holds it.
    """
    pairs = dict(item.split("=", 1) for item in args.split(",") if "=" in item)
    identity = next((f"{k}={pairs[k]}" for k in ("serial", "addr", "name", "type") if k in pairs), "any")
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"ota-usrp-{name}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:  # another user's: locking it needs no more than reading
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            raise RadioError(
                f"the USRP '{args}' is busy: process {holder or 'unknown'} has it; end that one, or use another USRP"
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def explain_uhd(message: str, log: str, args: str) -> str:
    """What UHD's error means for the user, in one line with the remedy.

    Args:
        message: text of UHD's exception.
        log: what UHD printed.
        args: device arguments.
    """
    text = f"{log}\n{message}".lower()
    last = next((line.strip() for line in reversed(message.strip().splitlines()) if line.strip()), "no reason given")
    what = f"the USRP '{args}'" if args else "the USRP"
    if "insufficient permission" in text or "permission denied" in text or "libusb_error_access" in text:
        return (
            f"no permission to use {what}; install the udev rules (sudo cp /usr/lib/uhd/utils/uhd-usrp.rules "
            "/etc/udev/rules.d/, sudo udevadm control --reload-rules), then plug it in again"
        )
    if "libusb_error_busy" in text or "claim device" in text or "someone tried to claim" in text or "in use" in text:
        return f"{what} is busy: another program has it; end that one, or use another USRP"
    if "compatibility number" in text or "compat number" in text:
        found = next((line.strip() for line in message.splitlines() if "compat" in line.lower()), last)
        return (
            f"the firmware or FPGA image of {what} doesn't fit this UHD ({found}); run uhd_images_downloader, "
            f"then uhd_image_loader --args '{args}'"
        )
    if "no devices found" in text:
        return (
            f"no device found for {what}; check its power and cable, that no other program has it, and what "
            f"uhd_find_devices --args '{args}' says"
        )
    if "wire format" in text or "otw format" in text or "converter" in text:
        return f"{what} can't send samples that way ({last}); use wire=sc16"
    if "not a valid" in text and "subdev" in text:
        return f"{what} has no such subdevice ({'; '.join(message.split(chr(10))[-2:]).strip()}); leave the option out"
    if "timeout" in text or "timed out" in text or "link dead" in text or "ack" in text:
        return f"{what} doesn't answer any more ({last}); check its cable and power, and open it again"
    return f"{what}: UHD says '{last}'; see its manual"


class UsrpRadio(ContextRadio):
    """A USRP; a context manager. Its time is the device's clock, in seconds.

    Args:
        rest: what follows `uhd:` in the URI.
        settings: how to set it; the URI's options win.
        layout: layout that will travel over it.

    Raises:
        RadioError: UHD or the device is missing, busy, not ours to use or of the wrong firmware; a setting is out of
            range; an oscillator or a reference doesn't lock.
    """

    capabilities = RadioCapabilities(cyclic=True, has_time=True)

    def __init__(self, rest: str, settings: RadioSettings, layout: FrameLayout | None = None) -> None:
        self._args, self._options = parse_usrp(rest)
        super().__init__(usrp_settings(settings, self._options), layout)
        self._timeout_s = self._options.timeout_s
        self._lock = threading.RLock()
        self._cyclic = self._capturing = False
        self._stream_gaps = 0
        self._pending_s = 0.0
        self.about: dict[str, Any] = {}
        self._link: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as its writer)
        try:
            python = find_uhd_python()
            with claim_usrp(self._args) as claim:
                self._start(python, claim)
            self._set("open", self.settings)
        except BaseException:
            self.close()
            raise

    # Settings

    def _set(self, what: str, settings: RadioSettings) -> None:
        options = {k: v for k, v in asdict(self._options).items() if v is not None}
        request = {k: v for k, v in asdict(settings).items() if k != "uri"}
        request |= {"do": what, "args": self._args, "options": options, "timeout_s": self._timeout_s}
        self.about = self._ask(request, (OPEN_S if what == "open" else 5.0) + 6 * self._timeout_s)
        self.settings = replace(settings, rate_sps=self.about["rate_sps"])

    def apply(self, settings: RadioSettings) -> None:
        """Set rate, bandwidth, oscillators and gains, muted; what was being transmitted ends.

        Raises:
            RadioError: a setting is out of the device's range, or an oscillator doesn't lock.
        """
        self._check_open()
        self._cyclic = False
        self._set("apply", replace(usrp_settings(settings, UsrpOptions()), uri=self.settings.uri))

    @property
    def trim_ppm(self) -> float:
        """What its carriers are tuned lower by."""
        return self._options.trim_ppm

    @property
    def temperature_c(self) -> float | None:
        """Temperature in degrees Celsius, where the USRP has a thermometer; the warmest one."""
        self._check_open()
        return self._ask({"do": "temperature"})["temperature_c"]

    def now_s(self) -> float:
        """The device's clock."""
        self._check_open()
        return float(self._ask({"do": "now"})["now_s"])

    # Transmitting

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False, at_s: float | None = None) -> None:
        """Send samples as one burst with zeros before and after; what was being transmitted before ends.

        A cyclic transmission goes on until the next call, `apply` or `close`. A single one is over, and the
        transmitter muted, when this returns; unless it was given a time, then `finish_transmit` waits for it.

        Args:
            at_s: device time of the first sample; as soon as may be if None.

        Raises:
            RadioError: the samples don't fit, came late or too slowly (underrun), got lost, or the device vanished.
        """
        self._check_transmit(samples, cyclic)
        if cyclic and at_s is not None:
            raise RadioError("a cyclic transmission starts at once; leave the time out")
        self._ask({"do": "transmit", "cyclic": cyclic, "at_s": at_s}, 5.0 + self._pending_s, samples)
        self._cyclic = cyclic
        self._pending_s = samples.size / self.settings.rate_sps + 2.0
        if not cyclic:
            self._pending_s += 0.0 if at_s is None else max(0.0, at_s - self.now_s())
            if at_s is None:
                self.finish_transmit()

    def finish_transmit(self) -> None:
        """Wait until a burst that was given a time is over; a cyclic transmission is ended.

        Raises:
            RadioError: as `transmit`.
        """
        self._check_open()
        if self._cyclic:
            self._ask({"do": "stop"}, 5.0 + self._pending_s)
        told = self._ask({"do": "finish"}, 5.0 + self._pending_s)
        self._pending_s = 0.0
        cyclic, self._cyclic = self._cyclic, False
        self._check_transmission(told, cyclic)

    def mute(self) -> None:
        """End what is being transmitted."""
        self._check_open()
        self._ask({"do": "stop"}, 5.0 + self._pending_s)
        self._cyclic, self._pending_s = False, 0.0

    def _check_transmission(self, told: dict[str, Any], cyclic: bool) -> None:
        if "error" in told:
            raise RadioError(explain_uhd(told["error"], self._tail(), self._args))
        if "stalled" in told:
            raise RadioError(
                f"the USRP took {told['stalled']} samples, then no more; check its cable and power, and open it again"
            )
        if told["late"] and not cyclic:  # what repeats has no time that it could miss
            raise RadioError(
                "late burst: its time had passed when it reached the USRP, so it was not sent; ask for a later time"
            )
        if told["underruns"]:
            raise RadioError(
                f"underrun: samples came too late {told['underruns']} times, so the transmission has gaps; "
                "lower the rate, or end other programs"
            )
        if told["lost"]:
            raise RadioError(
                f"{told['lost']} packets got lost on their way to the USRP; check the cable, and raise send_buff_size"
            )
        if not told["acknowledged"] and not cyclic:
            raise RadioError("the USRP never confirmed the end of the burst; check its cable, and open it again")

    # Receiving

    def receive(self, num_samples: int | None = None, at_s: float | None = None) -> Recording:
        """Capture samples that arrive after this call began, or from the device time `at_s` on.

        Samples that got lost on the way are zeros, so that the rest keeps its place; `health.overflows` counts the
        gaps.

        Raises:
            RadioError: the device vanished, or `at_s` had passed.
        """
        self._check_receive(num_samples)
        assert num_samples is not None
        samples = np.zeros(num_samples, np.complex64)
        utc = utc_now()
        wait_s = 0.0 if at_s is None else max(0.0, at_s - self.now_s())
        told: dict[str, Any] = {}
        for position, piece in self._pieces(num_samples, at_s, wait_s, told):
            samples[position : position + piece.size] = piece
        np.clip(samples.view(np.float32), -1.0, 1.0, out=samples.view(np.float32))
        gaps = told["transmission"].get("underruns", 0) + told["transmission"].get("lost", 0)
        overflows = told["overflows"] + told["dropped"]
        health = measure_health(samples, overflows, told["gain_step_db"], transmit_gaps=gaps)
        return Recording(samples, self.settings, utc, self.layout_digest, health)

    def stream(self, block_samples: int = 1 << 16) -> Iterator[NDArray[np.complex64]]:
        """Blocks of complex64 (block_samples,), without end; zeros where samples got lost. Close it to stop.

        Raises:
            RadioError: the device vanished.
        """
        self._check_open()
        self._stream_gaps = 0
        block, filled, done = np.zeros(block_samples, np.complex64), 0, 0
        for position, piece in self._pieces(None, None, 0.0, {}):
            self._stream_gaps += position > done
            for part in (np.zeros(position - done, np.complex64), piece):
                taken = 0
                while taken < part.size:
                    count = min(part.size - taken, block_samples - filled)
                    block[filled : filled + count] = part[taken : taken + count]
                    filled, taken = filled + count, taken + count
                    if filled == block_samples:
                        yield block
                        block, filled = np.zeros(block_samples, np.complex64), 0
            done = position + piece.size

    def overflows(self) -> int:
        """Gaps in the present or last stream."""
        return self._stream_gaps

    def _pieces(
        self, num_samples: int | None, at_s: float | None, wait_s: float, told: dict[str, Any]
    ) -> Iterator[tuple[int, NDArray[np.complex64]]]:
        """Pieces of a capture with their positions; `told` is filled with what the device says about it."""
        with self._lock:
            self._check_idle()
            self._say({"do": "receive", "num_samples": num_samples, "at_s": at_s})
            over, self._capturing = False, True
            try:
                limit_s = 10.0 + wait_s
                while True:
                    reply, piece = self._hear(limit_s)
                    limit_s = 10.0
                    if "position" not in reply:
                        over = True
                        told |= self._checked(reply)
                        return
                    yield reply["position"], piece
            finally:
                self._capturing = False
                if not over and self._link is not None:
                    self._say({"do": "halt"})
                    while "position" in self._hear(10.0)[0]:
                        pass

    # The process

    def _start(self, python: str, claim: int) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [python, "-c", _BOOT, str(_PROCESS_FILE), str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    pass_fds=(theirs.fileno(), claim),
                    env=_environment(),
                    start_new_session=True,  # Ctrl-C is for us; it ends when we do
                )
            except OSError as error:
                ours.close()
                raise RadioError(f"can't start {python}: {error.strerror}; {_INSTALL}") from None
        self._link = ours

    def _ask(
        self, request: dict[str, Any], limit_s: float = 10.0, samples: NDArray[np.complex64] | None = None
    ) -> dict[str, Any]:
        with self._lock:
            self._check_idle()
            self._say(request, samples)
            return self._checked(self._hear(limit_s)[0])

    def _check_idle(self) -> None:
        if self._capturing:
            raise RadioError("the USRP is streaming; close the stream before anything else is asked of it")

    def _checked(self, reply: dict[str, Any]) -> dict[str, Any]:
        if "error" in reply and "from_uhd" in reply:
            message = reply["error"]
            raise RadioError(explain_uhd(message, self._tail(), self._args) if reply["from_uhd"] else f"uhd: {message}")
        return reply

    def _say(self, request: dict[str, Any], samples: NDArray[np.complex64] | None = None) -> None:
        if self._link is None:
            raise RadioError(f"radio '{self.settings.uri}' is closed; open it again")
        text = json.dumps(request).encode()
        payload = b"" if samples is None else np.ascontiguousarray(samples).tobytes()
        self._link.settimeout(10.0)
        try:
            self._link.sendall(struct.pack(">II", len(text), len(payload)) + text)
            self._link.sendall(payload)
        except OSError:
            self._died()

    def _hear(self, limit_s: float) -> tuple[dict[str, Any], NDArray[np.complex64]]:
        assert self._link is not None
        self._link.settimeout(limit_s)
        try:
            json_size, payload_size = struct.unpack(">II", self._read(8))
            reply = json.loads(bytes(self._read(min(json_size, _MAX_REPLY_BYTES))))
            return reply, np.frombuffer(self._read(payload_size), np.complex64)
        except TimeoutError:
            self._kill()
            raise RadioError(
                f"UHD gave no answer within {limit_s:.0f} s; check the USRP's cable and power, and open it again"
            ) from None
        except (OSError, EOFError):
            self._died()
            raise AssertionError from None

    def _read(self, size: int) -> bytearray:
        assert self._link is not None
        content = bytearray(size)
        view = memoryview(content)
        while view:
            count = self._link.recv_into(view)
            if not count:
                raise EOFError
            view = view[count:]
        return content

    def _died(self) -> None:
        tail = self._tail().strip().splitlines()
        self._kill()
        raise RadioError(
            f"UHD's process ended ({tail[-1][:200] if tail else 'it said nothing'}); open the USRP again"
        ) from None

    def _tail(self) -> str:
        """The last of what UHD and its process printed."""
        size = self._log.seek(0, os.SEEK_END)
        return os.pread(self._log.fileno(), 8000, max(0, size - 8000)).decode(errors="replace")

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
            self._process.kill()
            self._process.wait()
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        """End what is being transmitted, mute, and let go of the device; a second call does nothing."""
        if self._closed:
            return
        super().close()
        if self._link is not None:
            # The end of the link is what every state of the process understands, in the middle of a capture too.
            self._link.close()
            self._link = None
            assert self._process is not None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_S)
        self._kill()
        self._log.close()
