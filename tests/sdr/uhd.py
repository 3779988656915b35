"""Whether UHD is there, for tests that drive it.

A skip hides nothing: continuous integration has UHD, and fails where a test was skipped (see tests/conftest.py).
"""

import pytest

from sdr.errors import RadioError
from sdr.radios.uhd_host import find_uhd_python


def _look() -> tuple[str | None, str]:
    try:
        return str(find_uhd_python()), ""
    except RadioError as missing:
        return None, str(missing)


PYTHON, REASON = _look()
"""The interpreter that has UHD, and where there is none, why not."""

needs_uhd = pytest.mark.skipif(PYTHON is None, reason=REASON)
