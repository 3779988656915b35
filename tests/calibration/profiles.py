"""Profiles of one antenna and of two."""

from dataclasses import replace

from sdr.calibration_profile import (
    AntennaProfile,
    BandPoint,
    CalibrationProfile,
    FrequencyPoint,
    GainPoint,
    PowerDelayProfile,
    Value,
)

PDP = PowerDelayProfile((0.75, 0.25), (0.7, 0.2), (0.8, 0.3), 200.0, (-1, 0), (0.25, 0.75), "test")
PROFILE = CalibrationProfile(
    tx="pluto:ip:192.168.2.1",
    rx="pluto:ip:192.168.2.1 serial 1044",
    center_hz=2.45e9,
    rate_sps=1e6,
    measured_utc="2026-01-01T12:00:00+00:00",
    values={"carrier_offset_ppm": Value(1.5, 1.4, 1.6, "ppm", 'a "quoted" method')},
    pdp=PDP,
    gain=(GainPoint(-20.0, 10.0, 5.0, 4.9, 5.1, -60.0, -50.0, False),),
    frequency=(FrequencyPoint(0.0, 1.0, 0.5, 1.5), FrequencyPoint(1.0, 2.0, 1.5, 2.5, 38.0, 40.0)),
    image=(BandPoint(-1e5, -30.0, -31.0, -29.0),),
    versions={"diffcom-ota": "0.1.0"},
    warnings=("one", "two"),
)


def value(number: float) -> Value:
    return Value(number, number - 0.1, number + 0.1, "dB", "test")


LATE = PowerDelayProfile((0.5, 0.3, 0.2), (0.4, 0.2, 0.1), (0.6, 0.4, 0.3), 200.0, (-2,), (1.0,), "test")
TWO = replace(
    PROFILE,
    pdp=None,
    gain=(),
    image=(),
    antennas=(
        AntennaProfile({"iq_phase_deg": value(4.0), "dc_i": value(0.01)}, PDP, PROFILE.gain, PROFILE.image),
        AntennaProfile({"iq_phase_deg": value(-3.0), "dc_i": value(0.02), "relative_gain_db": value(-4.0)}, LATE),
    ),
)
