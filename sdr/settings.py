"""Say how a radio is set for one transmission or capture."""

from dataclasses import dataclass

from sdr.errors import RadioError

RATE_TOLERANCE = 1e-4
"""Relative error of a sampling rate that still counts as the same: two crystals of 50 ppm. The receiver reads frames of
every shipped layout up to here; twice as much turns header symbols too far."""


def same_rate(one_sps: float, other_sps: float) -> bool:
    """Return whether two sampling rates are the same up to `RATE_TOLERANCE`."""
    return abs(one_sps - other_sps) <= RATE_TOLERANCE * other_sps


@dataclass(frozen=True)
class RadioSettings:
    """Settings of a radio, in the units of its own front end.

    Args:
        uri: address of the radio, as `sdr.radios.open.open_radio` takes it.
        center_hz: carrier frequency, 0 where there is no carrier (files, simulation).
        rate_sps: complex samples per second.
        bandwidth_hz: analogue bandwidth; None means the radio's own choice for the rate.
        tx_gain_db: transmit gain. Radios that only attenuate take 0 and below.
        rx_gain_db: receive gain.

    Raises:
        RadioError: a value is not finite or out of range.

    >>> RadioSettings(uri="sim:", rate_sps=1e6).rate_sps
    1000000.0
    """

    uri: str = "sim:"
    center_hz: float = 0.0
    rate_sps: float = 1e6
    bandwidth_hz: float | None = None
    tx_gain_db: float = 0.0
    rx_gain_db: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.uri, str) or not self.uri or not self.uri.isprintable():
            raise RadioError(f"a radio needs a printable address such as 'sim:', found {self.uri!r:.60}")
        limits = {
            "center_hz": (0.0, 1e12),
            "rate_sps": (1.0, 1e12),
            "bandwidth_hz": (1.0, 1e12),
            "tx_gain_db": (-200.0, 200.0),
            "rx_gain_db": (-200.0, 200.0),
        }
        for field, (low, high) in limits.items():
            value = getattr(self, field)
            if field == "bandwidth_hz" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise RadioError(f"radio setting {field} must be a number, found {value!r:.60}")
            if not low <= value <= high:  # NaN fails this too
                raise RadioError(f"radio setting {field} = {value!r:.40} is outside {low:g}..{high:g}")
            object.__setattr__(self, field, float(value))
