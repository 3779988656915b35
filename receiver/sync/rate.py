"""Check that samples have the rate of a layout."""

from __future__ import annotations

from sdr.errors import RecordingError
from sdr.layout import FrameLayout

RATE_TOLERANCE = 1e-3
"""Relative error of a stated sampling rate that still counts as the layout's: far beyond any oscillator's."""


def check_rate(rate_sps: float, layout: FrameLayout) -> None:
    """Refuse samples of another rate than the layout's.

    Raises:
        RecordingError: the rates differ by more than `RATE_TOLERANCE`.
    """
    if abs(rate_sps - layout.rate_sps) > RATE_TOLERANCE * layout.rate_sps:
        raise RecordingError(
            f"the recording has {rate_sps:g} samples per second, layout '{layout.name}' needs {layout.rate_sps:g}; "
            "use the layout of the transmission or resample"
        )
