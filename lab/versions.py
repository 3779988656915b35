"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

#: This program, as it is installed.
PROGRAM = "diffcom-ota"
#: The packages whose versions are kept beside every result.
RECORDED_PACKAGES = ("numpy", "scipy", "torch", "sigmf", "pyzmq", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of this program, Python, the platform and the `RECORDED_PACKAGES`."""
    found = {PROGRAM: _installed(PROGRAM), "python": platform.python_version(), "platform": platform.platform()}
    found |= {package: _installed(package) for package in RECORDED_PACKAGES}
    return {name: number for name, number in found.items() if number is not None}


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
