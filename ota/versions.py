"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ota import __version__

#: The packages whose versions a run folder records.
RECORDED_PACKAGES = ("numpy", "scipy", "torch", "sigmf", "pyzmq", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of this program, of Python, of the platform and of `RECORDED_PACKAGES`."""
    found = {"diffcom-ota": __version__, "python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
