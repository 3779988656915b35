"""Talk to libiio: load the drivers of a Pluto, and turn what they raise into one line with a remedy."""

import contextlib
import ctypes
import errno
import os
import platform
import threading
import time
from collections.abc import Iterator
from typing import Any

from sdr.errors import RadioError

_DEVICES = ("ad9361-phy", "cf-ad9361-lpc", "cf-ad9361-dds-core-lpc")
_INSTALL = "pip install 'pyadi-iio==0.0.21' 'pylibiio<1' (and the system's libiio0)"
_LOST = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.ENOTCONN, errno.EBADF, errno.ECONNABORTED, errno.ESHUTDOWN)
_ABSENT = (errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


def import_driver() -> tuple[Any, Any]:
    """Return the modules `adi` and `iio`.

    Raises:
        RadioError: they are missing, or don't fit the system's libiio.
    """
    try:
        import adi
        import iio
    except ImportError as error:
        raise RadioError(f"pluto: radios need pyadi-iio, but {error}; {_INSTALL}") from None
    except (OSError, AttributeError) as error:
        raise RadioError(f"pluto: pylibiio doesn't fit the system's libiio ({error}); {_INSTALL}") from None
    if not hasattr(iio, "Context"):
        raise RadioError(f"pluto: another package called 'iio' hides pylibiio; remove it, then {_INSTALL}")
    return adi, iio


_STATUS_REGISTER = 0x80000088
UNDERFLOW_BIT, OVERFLOW_BIT = 1, 4


def read_status(device: Any) -> int:
    """Return the status bits of a converter, 0 where its driver has none."""
    return device.reg_read(_STATUS_REGISTER) if "direct_reg_access" in device.debug_attrs else 0


def clear_status(device: Any) -> None:
    """Clear the status bits of a converter."""
    if "direct_reg_access" in device.debug_attrs:
        device.reg_write(_STATUS_REGISTER, UNDERFLOW_BIT | OVERFLOW_BIT)


class _Hush:
    """Keeps what libiio prints by itself off the terminal: its errors reach us as exceptions, too.

    libiio writes to C's `stderr`, Python does not; so in glibc, where that is a variable, it is set aside meanwhile.
    """

    def __init__(self) -> None:
        self._holders, self._kept = 0, None
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Set C's standard error aside until `end` is called as often."""
        with self._lock:
            self._holders += 1
            if self._holders == 1 and platform.libc_ver()[0] == "glibc":
                library = ctypes.CDLL(None)
                library.fopen.restype = ctypes.c_void_p
                variable = ctypes.c_void_p.in_dll(library, "stderr")
                if nowhere := library.fopen(os.devnull.encode(), b"w"):
                    self._kept, variable.value = variable.value, nowhere

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Call `end` behind the block."""
        try:
            yield
        finally:
            self.end()

    def end(self) -> None:
        """Put C's standard error back when the last one ends."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0 and self._kept is not None:
                library = ctypes.CDLL(None)
                library.fclose.argtypes = [ctypes.c_void_p]
                variable = ctypes.c_void_p.in_dll(library, "stderr")
                nowhere, variable.value, self._kept = variable.value, self._kept, None
                library.fclose(nowhere)


HUSH = _Hush()
"""Of this process."""


@contextlib.contextmanager
def talking(address: str, limit_s: float, doing: str, progress: str = "") -> Iterator[None]:
    """Turn what the drivers raise within the block into one line with a remedy.

    Args:
        address: libiio's URI of the device.
        limit_s: how long libiio waits for an answer.
        doing: what is being done, such as "receiving".
        progress: how far it came, such as "after 100 samples"; may be empty.

    Raises:
        RadioError: the drivers failed.
    """
    began = time.monotonic()
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        # libiio calls a connection broken when it has waited long enough.
        if number in _LOST and time.monotonic() - began >= 0.95 * limit_s:
            number = errno.ETIMEDOUT
        where = f"{address}, {doing}{', ' + progress if progress else ''}"
        raise RadioError(f"{where}: {_explain(number, error, limit_s)}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RadioError(
            f"{address} gave an answer that is no Pluto's while {doing} ({reason:.100}); "
            "check its firmware (v0.31 or newer), power it off and on"
        ) from None


def _explain(number: int, error: OSError, limit_s: float) -> str:
    """Return what libiio's error number means, and what to do."""
    if number == errno.ECONNREFUSED:
        return "connection refused; nothing listens there (a Pluto uses port 30431), check the address"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; add the udev rule for the Pluto (docs/pluto.md) and plug it in again"
    if number == errno.EBUSY:
        return "the device is busy; close the other program that uses it"
    if number == errno.ETIMEDOUT:
        return f"no answer within {limit_s:.3g} s; check cable and power, then try again"
    if number in _LOST:
        return "the connection broke; check cable and power, then open it again"
    if number in _ABSENT:
        return "no device found; plug it in, and see what `iio_info -s` lists"
    if number == errno.EINVAL:
        return (
            "a value was refused, or the answer is no Pluto's; check the address (ip:HOST[:PORT] or usb:[BUS.DEV.IF]) "
            "and the firmware (v0.31 or newer)"
        )
    return f"{error.strerror or error}; check cable, power and firmware"


def check_devices(address: str, context: Any) -> None:
    """Refuse a context that lacks a device of a Pluto's stock firmware.

    Raises:
        RadioError: a device is missing.
    """
    present = {device.name for device in context.devices}
    missing = [name for name in _DEVICES if name not in present]
    if missing:
        model = context.attrs.get("hw_model", "a device of unknown model")
        raise RadioError(
            f"{address} is {model} without '{missing[0]}'; a Pluto with its stock firmware is needed, "
            "update it (v0.31 or newer)"
        )


def check_available(name: str, value: float, unit: str, available: str) -> None:
    """Refuse a value outside of what the device says is available, "[low step high]".

    Raises:
        RadioError: it is.
    """
    check_range(name, value, unit, read_range(available))


def read_range(available: str) -> tuple[float, float]:
    """Return low and high of what the device says is available.

    >>> read_range("[-1 1 73]")
    (-1.0, 73.0)
    """
    low, _, high = (float(word) for word in available.strip("[]\n ").split())
    return low, high


def check_range(name: str, value: float, unit: str, limits: tuple[float, float]) -> None:
    """Refuse a value outside of what the device can do.

    Raises:
        RadioError: it is.
    """
    low, high = limits
    if not low <= value <= high:
        raise RadioError(
            f"{name} = {value:.10g} {unit} is outside what this Pluto can do, {low:.10g}..{high:.10g} {unit}"
        )


def destroy_buffer(buffer: Any) -> None:
    """Destroy a libiio buffer now.

    pylibiio leaves that to the garbage collector. But the traceback of an error keeps a buffer alive, maybe beyond
    its context, and libiio crashes when it destroys a buffer whose context is gone.
    """
    if buffer is not None and buffer._buffer is not None:
        buffer.__del__()
        buffer._buffer = None


def destroy_context(context: Any) -> None:
    """Destroy a libiio context now, while `HUSH` holds: libiio tells of a lost connection once more as it ends.

    Nothing of the context may be used afterwards; its buffers must have been destroyed.
    """
    if context is not None and context._context is not None:
        context.__del__()
        context._context = None
