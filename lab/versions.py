"""The versions that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

#: The packages whose versions are kept beside every result.
RECORDED_PACKAGES = ("diffcom-ota", "numpy", "scipy", "torch", "sigmf", "pyzmq", "pyarrow")


def versions() -> dict[str, str]:
    """Return the versions of Python, of the platform and of those of `RECORDED_PACKAGES` that are installed."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in RECORDED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
