"""`ota doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import typer

from ota import __version__
from ota.console import emit_json, print_table
from sdr.errors import OtaError

ROOT = Path(__file__).resolve().parent.parent
#: Packages of the receiver, by the name they are installed under.
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


@dataclass(frozen=True)
class Finding:
    """One thing looked for. `needed` says whether a missing one stops `ota demo`."""

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
    """A different project on the package index is called `sdr` too: look whose is imported."""
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


def _bundle() -> Finding:
    folder = ROOT / "models" / "fashion"
    missing = [
        name
        for name in ("bundle.toml", "codec.safetensors", "prior.safetensors", "realism.safetensors", "samples")
        if not (folder / name).exists()
    ]
    if missing:
        return Finding("models/fashion", False, f"no {', '.join(missing)}", "restore the files, or run ota train")
    return Finding("models/fashion", True, f"{len(list((folder / 'samples').glob('*.png')))} held-out images")


def _dataset() -> Finding:
    folder = Path(os.environ.get("OTA_FASHION_MNIST") or "/usr/share/datasets/fashion-mnist")
    found = (folder / "t10k-images-idx3-ubyte.gz").is_file() and (folder / "train-images-idx3-ubyte.gz").is_file()
    remedy = "apt-get install dataset-fashion-mnist, or set OTA_FASHION_MNIST (needed by ota sweep and ota train)"
    return Finding("Fashion-MNIST", found, str(folder) if found else "missing", "" if found else remedy, needed=False)


def _tool(name: str, package: str) -> Finding:
    path = shutil.which(name)
    remedy = "" if path else f"apt-get install {package} (only for hardware radios)"
    return Finding(name, path is not None, path or "missing", remedy, needed=False)


def _machine() -> Finding:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return Finding("machine", True, f"{os.cpu_count()} cores, {memory:.0f} GiB memory, {free:.0f} GiB disk free")


CHECKS: tuple[Callable[[], Finding], ...] = (
    _machine,
    _python,
    *(lambda name=name: _own_package(name) for name in ("sdr", "receiver", "flowgraphs", "calibration", "ota")),
    *(lambda name=name: _package(name) for name in RECEIVER_PACKAGES),
    _gnuradio,
    _bundle,
    _dataset,
    lambda: _tool("iio_info", "libiio-utils"),
    lambda: _tool("uhd_find_devices", "uhd-host"),
)


def doctor(json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output.")) -> None:
    """Say what this machine has, what is missing, and the remedy.

    Exit status 2 when something is missing that `ota demo` needs.

    \b
    Examples:
      ota doctor
      ota doctor --json
      OTA_GNURADIO_PYTHON=/opt/gnuradio/bin/python3 ota doctor
    """
    findings = [check() for check in CHECKS]
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
