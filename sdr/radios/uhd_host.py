"""Find UHD on this machine, hold a USRP for one program, and explain what UHD says."""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
import string
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sdr.errors import RadioError

PYTHON_VARIABLES = ("OTA_UHD_PYTHON", "OTA_GNURADIO_PYTHON")
"""Environment variables that name an interpreter which may have UHD."""

INSTALL = "apt-get install python3-uhd uhd-host, or set OTA_UHD_PYTHON to the interpreter that has it"
"""Remedy where UHD is missing."""


_NAMES = ("serial", "addr", "name", "type")


def find_uhd_python() -> str:
    """Return the interpreter to run UHD in: this one, those of `PYTHON_VARIABLES`, or the system's.

    Raises:
        RadioError: none of them has `uhd`.
    """
    return find_python("uhd", PYTHON_VARIABLES, f"no interpreter has UHD's Python API (tried {{}}); {INSTALL}")


def find_python(module: str, variables: tuple[str, ...], none_found: str) -> str:
    """Return the interpreter that has a module: this one, those that environment variables name, or the system's.

    Args:
        module: that is looked for.
        variables: names of environment variables.
        none_found: message for none; what was tried is put in.

    Raises:
        RadioError: none of them has it.
    """
    if importlib.util.find_spec(module) is not None:
        return sys.executable
    named = [value for name in variables if (value := os.environ.get(name))]
    tried = []
    for python in dict.fromkeys([*named, shutil.which("python3"), "/usr/bin/python3"]):
        if python is None or python == sys.executable:
            continue
        probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
        try:
            found = subprocess.run([python, "-c", probe], env=child_environment(), capture_output=True, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            found = None
        if found is not None and found.returncode == 0:
            return python
        tried.append(python)
    raise RadioError(none_found.format(", ".join([sys.executable, *tried])))


def child_environment() -> dict[str, str]:
    """Return our environment without what would make another interpreter load this one's packages."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    environment["OMP_NUM_THREADS"] = environment["OPENBLAS_NUM_THREADS"] = "1"
    return environment


@contextlib.contextmanager
def claim_usrp(args: str, device: str = "USRP") -> Iterator[tuple[int, ...]]:
    """Hold USRPs, or another device, for this program: not all refuse a second one, which would break the first.

    Yields the descriptors of the locks; a child that inherits them holds the USRPs as long as it lives.

    Args:
        args: UHD's device arguments, or such as these.
        device: what it is called in messages.

    Raises:
        RadioError: another program of ours holds one of them, or one is named twice.
    """
    identities = _identities(args)
    twice = next((each for each in identities if identities.count(each) > 1), None)
    if twice is not None:
        raise RadioError(f"the {device} '{args}' is {twice} twice; name two different ones")
    with contextlib.ExitStack() as locks:
        yield tuple(locks.enter_context(_locked(identity, args, device)) for identity in identities)


def _identities(args: str) -> list[str]:
    """Return what each device is known by: UHD takes `addr1=..` for the second one's `addr`.

    >>> _identities("type=usrp2,addr0=192.168.10.2,addr1=192.168.10.3"), _identities("type=b200")
    (['addr=192.168.10.2', 'addr=192.168.10.3'], ['type=b200'])
    """
    pairs = dict(item.split("=", 1) for item in args.split(",") if "=" in item)
    numbers = sorted({key[len(key.rstrip(string.digits)) :] for key in pairs})
    found = [
        next((f"{name}={pairs[name + number]}" for name in _NAMES if name + number in pairs), None)
        for number in numbers
        if number
    ]
    several = [identity for identity in found if identity is not None]
    return several or [next((f"{name}={pairs[name]}" for name in _NAMES if name in pairs), "any")]


@contextlib.contextmanager
def _locked(identity: str, args: str, device: str) -> Iterator[int]:
    """Hold the device of this identity; see `claim_usrp`."""
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
                f"the {device} '{args}' is busy: process {holder or 'unknown'} has it; end that one, or use another"
            ) from None
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def explain_uhd(message: str, log: str, args: str) -> str:
    """Return what UHD's error means for the user, in one line with the remedy.

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
