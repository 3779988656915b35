"""Check that samples have the rate of a layout."""

from __future__ import annotations

from sdr.errors import RecordingError
from sdr.layout import FrameLayout
from sdr.settings import RATE_TOLERANCE, same_rate


def check_rate(rate_sps: float, layout: FrameLayout) -> None:
    """Refuse samples of another rate than the layout's.

    Raises:
        RecordingError: the rates differ by more than `RATE_TOLERANCE`.
    """
    if not same_rate(rate_sps, layout.rate_sps):
        raise RecordingError(
            f"the recording has {rate_sps:.8g} samples per second, layout '{layout.name}' needs {layout.rate_sps:.8g} "
            f"to {1e6 * RATE_TOLERANCE:.0f} ppm; use the layout of the transmission, or resample with "
            "`ota dataset import`"
        )
