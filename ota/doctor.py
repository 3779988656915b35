"""`ota doctor`: say what this machine has, and what is missing."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from ota import __version__
from ota.console import emit_json, print_table
from sdr.errors import OtaError

ROOT = Path(__file__).resolve().parent.parent
#: Packages that the receiver needs, by the name they are installed under.
RECEIVER_PACKAGES = (
    "numpy",
    "scipy",
    "torch",
    "safetensors",
    "pillow",
    "pyzmq",
    "sigmf",
    "pyarrow",
    "matplotlib",
    "jinja2",
)


#: Packages of this project.
OWN_PACKAGES = ("sdr", "receiver", "transmitter", "flowgraphs", "calibration", "lab", "ota")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for.

    Attributes:
        what: it is.
        ok: whether it is there and right.
        found: what was found.
        remedy: what to do where it is not right.
        needed: whether `ota demo` needs it.
    """

    what: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, version(name))
    except PackageNotFoundError:
        return Finding(name, False, "missing", "make setup")


def _python() -> Finding:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    return Finding("python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer")


def _own_package(name: str) -> Finding:
    """Find out whose package is imported: a different project on the package index is called `sdr`, too."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return Finding(f"package {name}", False, "missing", "make setup, or run from the repository")
    folder = Path(spec.origin).resolve().parent
    ours = folder == ROOT / name
    return Finding(
        f"package {name}", ours, str(folder), "" if ours else f"a foreign package {name} shadows ours: uninstall it"
    )


def _gnuradio() -> Finding:
    from flowgraphs.supervisor import find_gnuradio_python

    try:
        gnuradio = find_gnuradio_python()
        return Finding("GNU Radio", True, f"{gnuradio.version} in {gnuradio.python} (NumPy {gnuradio.numpy_version})")
    except OtaError as error:
        return Finding("GNU Radio", False, "missing", str(error))


def _bundle(name: str) -> Finding:
    folder = ROOT / "models" / name
    needed = ("bundle.toml", "codec.safetensors", "prior.safetensors", "realism.safetensors", "samples")
    missing = [file for file in needed if not (folder / file).exists()]
    if missing:
        return Finding(f"models/{name}", False, f"no {', '.join(missing)}", "restore the files, or run ota train")
    return Finding(f"models/{name}", True, f"{len(list((folder / 'samples').iterdir()))} held-out images")


def _dataset() -> Finding:
    folder = Path(os.environ.get("OTA_FASHION_MNIST") or "/usr/share/datasets/fashion-mnist")
    found = (folder / "t10k-images-idx3-ubyte.gz").is_file() and (folder / "train-images-idx3-ubyte.gz").is_file()
    remedy = "apt-get install dataset-fashion-mnist, or set OTA_FASHION_MNIST (needed by ota sweep and ota train)"
    return Finding("Fashion-MNIST", found, str(folder) if found else "missing", "" if found else remedy, needed=False)


def _tool(name: str, package: str) -> Finding:
    path = shutil.which(name)
    remedy = "" if path else f"apt-get install {package} (only for hardware radios)"
    return Finding(name, path is not None, path or "missing", remedy, needed=False)


def _command(*argv: str, timeout_s: float = 20.0) -> str | None:
    """Return what a command prints, or None where it is missing, fails to start or hangs."""
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def _libiio() -> Finding:
    """Find the system's libiio and the Python binding that must fit it: pylibiio 1.x refuses libiio 0.x."""
    name = ctypes.util.find_library("iio")
    if name is None:
        return Finding("libiio", False, "missing", "apt-get install libiio0 (only for a Pluto)", needed=False)
    major, minor, tag = ctypes.c_uint(), ctypes.c_uint(), ctypes.create_string_buffer(8)
    ctypes.CDLL(name).iio_library_get_version(ctypes.byref(major), ctypes.byref(minor), tag)
    found = f"libiio {major.value}.{minor.value}"
    try:
        binding, driver = version("pylibiio"), version("pyadi-iio")
    except PackageNotFoundError as error:
        return Finding("libiio", False, f"{found}, no {error.name}", "pip install '.[radio]'", needed=False)
    if major.value == 0 and not binding.startswith("0."):
        remedy = "pip install 'pylibiio<1': 1.x needs libiio 1.x"
        return Finding("libiio", False, f"{found}, pylibiio {binding}", remedy, needed=False)
    return Finding("libiio", True, f"{found}, pylibiio {binding}, pyadi-iio {driver}", needed=False)


def _uhd() -> Finding:
    from sdr.radios.uhd_host import find_uhd_python

    try:
        python = find_uhd_python()
    except OtaError as error:
        return Finding("UHD", False, "missing", str(error), needed=False)
    if _command(python, "-c", "import uhd") is None:
        return Finding("UHD", False, f"broken in {python}", "reinstall python3-uhd", needed=False)
    printed = (_command("uhd_config_info", "--version") or "UHD of unknown version").strip().splitlines()[-1]
    return Finding("UHD", True, f"{printed} in {python}", needed=False)


def _soapy() -> Finding:
    from sdr.radios.soapy import find_soapy_python

    try:
        python = find_soapy_python()
    except OtaError as error:
        return Finding("SoapySDR", False, "missing", str(error), needed=False)
    names = "import SoapySDR as s; print(s.getAPIVersion(), *(m.rpartition('/lib')[2] for m in s.listModules()))"
    printed = _command(python, "-c", names)
    if printed is None:
        return Finding("SoapySDR", False, f"broken in {python}", "reinstall python3-soapysdr", needed=False)
    version, *modules = printed.split()
    found = ", ".join(name.removesuffix(".so").removesuffix("Support") for name in modules) or "no modules"
    return Finding("SoapySDR", True, f"{version} in {python}: {found}", needed=False)


#: USB vendor and product of the radios, what they are, and the Mbit/s below which they can't keep up.
USB_RADIOS = {
    ("0456", "b673"): ("ADALM-Pluto", 480),
    ("2500", "0020"): ("USRP B200/B210", 5000),
    ("2500", "0021"): ("USRP B200mini", 5000),
    ("2500", "0022"): ("USRP B205mini", 5000),
}


def usb_radios(sysfs: Path = Path("/sys/bus/usb/devices"), nodes: Path = Path("/dev/bus/usb")) -> list[Finding]:
    """Return the radios on USB: their speed, and whether this user may open them."""
    findings = []
    for device in sorted(sysfs.glob("*")):
        try:
            vendor, product, speed, bus, number = (
                (device / name).read_text(encoding="ascii").strip()
                for name in ("idVendor", "idProduct", "speed", "busnum", "devnum")
            )
        except (OSError, UnicodeDecodeError):
            continue  # a hub's interface, or unplugged this moment
        if (vendor, product) not in USB_RADIOS:
            continue
        name, needed_mbps = USB_RADIOS[vendor, product]
        what, found = f"USB {name}", f"{speed} Mbit/s on bus {bus}"
        node = nodes / f"{int(bus):03d}" / f"{int(number):03d}"
        if not os.access(node, os.R_OK | os.W_OK):
            remedy = "add a udev rule (packages libiio0, uhd-host bring one), join group plugdev, plug in again"
            findings.append(Finding(what, False, f"{found}, no permission on {node}", remedy, needed=False))
        elif float(speed) < needed_mbps:
            remedy = f"use a port and cable of {needed_mbps} Mbit/s, or rates that fit"
            findings.append(Finding(what, False, f"{found}, needs {needed_mbps}", remedy, needed=False))
        else:
            findings.append(Finding(what, True, found, needed=False))
    return findings


def _networked_radios() -> list[Finding]:
    """Return what the drivers' own discovery sees; radios on a loopback address must be named with --radio."""
    findings = []
    contexts = [
        line for line in (_command("iio_info", "-S") or "").splitlines() if "[" in line and "local:" not in line
    ]
    findings += [Finding("libiio context", True, line.strip(), needed=False) for line in contexts]
    devices = (_command("uhd_find_devices") or "").split("-- UHD Device")[1:]
    for device in devices:
        fields = " ".join(line.strip() for line in device.splitlines() if ":" in line)
        findings.append(Finding("UHD device", True, fields, needed=False))
    return findings or [Finding("radios", True, "none found by libiio and UHD", needed=False)]


def try_radio(uri: str, seconds: float, rate_sps: float) -> list[Finding]:
    """Open a radio and receive from it for a while, without transmitting.

    Raises:
        OtaError: it can't be opened; the message carries the remedy.
    """
    from sdr.radios.open import open_radio
    from sdr.recordings.health import measure_health
    from sdr.settings import RadioSettings

    with open_radio(uri, RadioSettings(rate_sps=rate_sps)) as radio:
        rate_sps = radio.settings.rate_sps
        findings = [
            Finding("radio", True, f"{uri} at {rate_sps / 1e6:g} MS/s, {radio.settings.center_hz / 1e6:g} MHz"),
        ]
        firmware = getattr(radio, "firmware", "")
        if firmware:
            findings.append(Finding("firmware", True, firmware))
        stream = getattr(radio, "stream", None)
        if stream is None:
            return findings
        blocks = stream()
        # The clock starts after the first block: what comes before it is the set-up.
        block = next(blocks)
        count, began = 0, time.perf_counter()
        while count < seconds * rate_sps:
            block = next(blocks)
            count += block.shape[-1]
        elapsed = time.perf_counter() - began
        overflows = getattr(radio, "overflows", None)
        lost = overflows() if overflows is not None else 0
        blocks.close()
    if block.ndim > 1:
        levels = ", ".join(f"{measure_health(samples).rms_dbfs:.0f}" for samples in block)
        findings.append(Finding("antennas", True, f"{len(block)} together, {levels} dBFS"))
    ok = lost == 0 and count / elapsed > 0.98 * rate_sps
    remedy = "lower the rate, use a faster port, or close what else keeps this machine busy"
    found = f"{count / elapsed / 1e6:.2f} of {rate_sps / 1e6:g} MS/s over {elapsed:.1f} s, {lost} overflows"
    return [*findings, Finding("sustained rate", ok, found, "" if ok else remedy)]


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("machine", True, f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB disk free")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _machine,
    _python,
    *(lambda name=name: _own_package(name) for name in OWN_PACKAGES),
    *(lambda name=name: _package(name) for name in RECEIVER_PACKAGES),
    _gnuradio,
    *(lambda name=name: _bundle(name) for name in ("fashion", "photo", "photo24")),
    _dataset,
    lambda: _tool("iio_info", "libiio-utils"),
    lambda: _tool("uhd_find_devices", "uhd-host"),
    _libiio,
    _uhd,
    _soapy,
)


def doctor(
    radio: str = typer.Option("", help="Also open this radio and receive from it; nothing is transmitted."),
    seconds: float = typer.Option(3.0, min=0.1, max=600, help="How long to receive from --radio."),
    rate_sps: float = typer.Option(1e6, min=1e3, max=1e9, help="Sample rate to try --radio at."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Say what this machine has, what is missing, and the remedy.

    Looks for GNU Radio, libiio, UHD, SoapySDR and their versions, the radios that they and USB show, their speed and
    permissions.
    With --radio the radio is opened and its sustained receive rate measured. Exit status 2 when something is missing
    that `ota demo` needs, or when --radio fails.

    \b
    Examples:
      ota doctor
      ota doctor --json
      ota doctor --radio pluto:ip:192.168.2.1 --rate-sps 5e6 --seconds 60
      OTA_GNURADIO_PYTHON=/opt/gnuradio/bin/python3 ota doctor
    """
    findings = [check() for check in CHECKS] + usb_radios() + _networked_radios()
    if radio:
        findings += try_radio(radio, seconds, rate_sps)
    healthy = all(finding.ok or not finding.needed for finding in findings)
    if json_output:
        emit_json(
            {
                "version": __version__,
                "ok": healthy,
                "checks": [
                    {"what": f.what, "ok": f.ok, "found": f.found, "remedy": f.remedy, "needed": f.needed}
                    for f in findings
                ],
            }
        )
    else:
        print_table(
            f"diffcom-ota {__version__}",
            ("", "looked for", "found", "remedy"),
            [
                ("ok" if f.ok else "MISSING" if f.needed else "absent", f.what, f.found, "" if f.ok else f.remedy)
                for f in findings
            ],
        )
    if not healthy:
        raise typer.Exit(2)
