"""The transmitter's amplifier as the receiver models it."""

from __future__ import annotations

from dataclasses import replace

from receiver.measurement.model import Measurement
from sdr.calibration_profile import CalibrationProfile
from sdr.layout import FrameLayout

#: A saturation this far above every sample has no effect worth a forward model through time.
_LINEAR_SATURATION = 3.0


def amplifier(profile: CalibrationProfile | None, layout: FrameLayout) -> tuple[float, float] | None:
    """Saturation and smoothness of the transmitter's amplifier, None where it is unknown or does nothing."""
    if profile is None:
        return None
    saturation, smoothness = profile.get("pa_saturation"), profile.get("pa_smoothness")
    if saturation is None or smoothness is None or saturation > _LINEAR_SATURATION * layout.magnitude_limit:
        return None
    return saturation, max(smoothness, 1.0)


def with_amplifier(measurement: Measurement, curve: tuple[float, float] | None) -> Measurement:
    """The measurement with the amplifier in its forward model."""
    if curve is None:
        return measurement
    return replace(measurement, mode="time", pa_saturation=curve[0], pa_smoothness=curve[1])
