"""One calibration from the first sample to the profile."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from calibration.frequency import frequency_points, measure_drift, measure_frequency, measure_tone
from calibration.frontend import measure_frontend
from calibration.gain import GainControl, measure_gain
from calibration.link import measure_channel, measure_continuity, measure_delay, measure_noise
from calibration.sounding import MAX_CYCLIC_FRAMES, Sounding, analyse_sounding, capture_sounding
from calibration.spectrum import measure_papr, measure_spectrum
from receiver.front_end import correct_front_end
from sdr.calibration_profile import CalibrationError, CalibrationProfile, FrequencyPoint, Value
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.radios.address import device_of
from sdr.radios.base import Radio
from sdr.recordings.recording import utc_now

PARTS = ("frequency", "gain", "channel", "delay", "frontend")

TONE_SAMPLES = 1 << 18

MAX_CLIPPED = 0.01
"""Share of saturated samples beyond which nothing is measured."""

MISSED = 0.1
"""Share of sounding frames that may be missing before the profile warns: those that are lost are the faded ones."""


def serial_of(radio: Radio) -> str:
    """A radio's serial number, nothing where it doesn't tell one."""
    about = getattr(radio, "about", {})
    return next((str(about[key]) for key in ("serial", "hw_serial", "mboard_serial") if about.get(key)), "")


def radio_name(radio: Radio) -> str:
    """A radio by its address, and by its serial number where it tells one."""
    device, serial = device_of(radio.settings.uri), serial_of(radio)
    return f"{device} serial {serial}" if serial else device


def all_parts(transmitter: Radio) -> tuple[str, ...]:
    """Everything that can be measured with a transmitter: a gain plan needs gains to set."""
    return tuple(part for part in PARTS if part != "gain" or isinstance(transmitter, GainControl))


def check_pair(transmitter: Radio, receiver: Radio) -> None:
    """Refuse two radios that can't hear each other.

    Raises:
        CalibrationError: they are set to different rates, or their bands don't overlap.
    """
    tx, rx = transmitter.settings, receiver.settings
    if not transmitter.capabilities.transmit or not receiver.capabilities.receive:
        raise CalibrationError("a calibration needs a radio that transmits and one that receives")
    if abs(tx.rate_sps / rx.rate_sps - 1) > 1e-3:
        raise CalibrationError(
            f"the transmitter runs at {tx.rate_sps:g} samples/s and the receiver at {rx.rate_sps:g}; set both alike"
        )
    if tx.center_hz and rx.center_hz and abs(tx.center_hz - rx.center_hz) > rx.rate_sps / 4:
        raise CalibrationError(
            f"the transmitter is tuned to {tx.center_hz:.9g} Hz and the receiver to {rx.center_hz:.9g} Hz; "
            "give both the same center_hz"
        )


def measure_link(
    transmitter: Radio,
    receiver: Radio,
    layout: FrameLayout,
    *,
    parts: Sequence[str] | None = None,
    num_frames: int = 400,
    valid_hours: float = 24.0,
    watch_s: float = 0.0,
    tone_hz: float | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> CalibrationProfile:
    """Sound a link and put what was asked for into a profile.

    Args:
        parts: of `PARTS`, all that the radios can do if None; noise and CSNR belong to "channel".
        watch_s: how long to sound again and again for the carrier's drift with time and temperature; part "frequency".
        tone_hz: true frequency of a reference tone that is on the air, to compare the receiver with; likewise.

    Raises:
        CalibrationError: the radios don't fit each other, or too little was heard; nothing was measured then.
        RadioError: a radio failed.
    """
    check_pair(transmitter, receiver)
    chosen = all_parts(transmitter) if parts is None else parts
    values: dict[str, Value] = {}
    found: dict[str, Any] = {}
    warnings: list[str] = []
    before = temperatures(transmitter, receiver)
    measured = utc_now()
    if tone_hz is not None and "frequency" in chosen:
        progress("reference tone", 0, 1)
        tone = _silent_capture(transmitter, receiver, TONE_SAMPLES)
        values["rx_reference_ppm"] = measure_tone(tone, layout.rate_sps, receiver.settings.center_hz, tone_hz)
        progress("reference tone", 1, 1)
    if "gain" in chosen:
        found["gain"], planned = measure_gain(transmitter, receiver, layout, progress=progress)
        values |= planned
    if set(chosen) != {"gain"}:
        progress("sound the channel", 0, 2)
        recording, sent, origin = capture_sounding(transmitter, receiver, layout, num_frames)
        progress("sound the channel", 1, 2)
        sounding = analyse_sounding(recording, layout, sent, origin)
        progress("sound the channel", 2, 2)
        measured = recording.utc or measured
        clipped = recording.health.clipped_fraction
        if clipped > MAX_CLIPPED:
            raise CalibrationError(
                f"{100 * clipped:.0f} % of the samples are saturated, so nothing measured would be true; lower "
                "tx_gain_db or rx_gain_db, or put an attenuator in between"
            )
        warnings += recording.health.warnings
        missed = 1 - len(sounding.frames) / num_frames
        if missed > MISSED:
            warnings.append(
                f"{100 * missed:.0f} % of the sounding frames were not read, the weakest of them, which biases powers; "
                "raise the gains"
            )
        if "frontend" in chosen:
            progress("front end", 0, 1)
            front = measure_frontend(sounding)
            progress("front end", 1, 1)
            # What is known of the front ends is no part of the channel.
            corrected = correct_front_end(recording, front.values)
            sounding = analyse_sounding(corrected, layout, sent, origin, curve=front.curve)
            floor = measure_noise(sounding).get("noise_floor_dbfs")
            found["image"] = front.image
            found["spectrum"], beside = measure_spectrum(sounding, None if floor is None else floor.value)
            values |= front.values | beside | measure_papr(sounding, front.curve)
            warnings += front.warnings
        _measure_parts(sounding, chosen, values, found, warnings)
        if "frequency" in chosen:
            center_hz = receiver.settings.center_hz
            points = frequency_points(sounding, 0.0, *temperatures(transmitter, receiver))
            if watch_s:
                points = _watch(transmitter, receiver, layout, watch_s, progress)
            found["frequency"] = tuple(points)
            values |= measure_drift(points, center_hz)
            if "rx_reference_ppm" in values and "carrier_offset_ppm" in values:
                values["tx_reference_ppm"] = _sum(values["rx_reference_ppm"], values["carrier_offset_ppm"])
    values |= _settings_of(transmitter, receiver, before)
    settings = receiver.settings
    return CalibrationProfile(
        tx=radio_name(transmitter),
        rx=radio_name(receiver),
        center_hz=settings.center_hz,
        rate_sps=settings.rate_sps,
        measured_utc=measured,
        layout_digest=layout.digest,
        values=values,
        versions=dict(versions or {}),
        warnings=tuple(dict.fromkeys(warnings)),
        valid_hours=valid_hours,
        **found,
    )


def _measure_parts(
    sounding: Sounding,
    chosen: Sequence[str],
    values: dict[str, Value],
    found: dict[str, Any],
    warnings: list[str],
) -> None:
    """Add what one sounding tells."""
    if "frequency" in chosen:
        values |= measure_frequency(sounding)
    if "channel" in chosen:
        values |= measure_noise(sounding)
        found["pdp"], measured, doubts = measure_channel(sounding)
        values |= measured
        warnings += doubts
    if "delay" in chosen:
        continuity, doubts = measure_continuity(sounding)
        values |= continuity | measure_delay(sounding)
        warnings += doubts
        if not sounding.absolute:
            warnings.append("the transmission repeats without a common clock, so no latency was measured")


def temperatures(transmitter: Radio, receiver: Radio) -> tuple[float | None, float | None]:
    """Degrees Celsius of both ends, None where a radio has no thermometer."""
    return getattr(transmitter, "temperature_c", None), getattr(receiver, "temperature_c", None)


def _settings_of(transmitter: Radio, receiver: Radio, before: tuple[float | None, float | None]) -> dict[str, Value]:
    """Temperatures, and what the radios had been told of their references, which a trim starts from."""
    found = {}
    after = temperatures(transmitter, receiver)
    for end, radio, first, last in zip(("tx", "rx"), (transmitter, receiver), before, after, strict=True):
        if first is not None and last is not None:
            low, high = min(first, last), max(first, last)
            method = "the radio's thermometer, before and after"
            found[f"{end}_temperature_c"] = Value((first + last) / 2, low, high, "degrees C", method)
        for name, unit in (("xo_correction_hz", "Hz"), ("trim_ppm", "ppm")):
            setting = getattr(radio, name, None)
            if setting is not None:
                found[f"{end}_{name}"] = Value(setting, setting, setting, unit, "setting while it was measured")
    return found


def _silent_capture(transmitter: Radio, receiver: Radio, num_samples: int) -> np.ndarray:
    """Samples with nothing of ours on the air."""
    if isinstance(transmitter, GainControl):
        transmitter.mute()
    else:
        transmitter.transmit(np.zeros(num_samples, np.complex64))
    return receiver.receive(num_samples).samples


def _watch(
    transmitter: Radio, receiver: Radio, layout: FrameLayout, watch_s: float, progress: Progress
) -> list[FrequencyPoint]:
    """The carrier offset in soundings again and again, each with the temperatures at that time."""
    points: list[FrequencyPoint] = []
    began = time.monotonic()
    while True:
        now_s = time.monotonic() - began
        progress("watch the carrier", min(now_s, watch_s), watch_s)
        recording, sent, origin = capture_sounding(transmitter, receiver, layout, MAX_CYCLIC_FRAMES)
        sounding = analyse_sounding(recording, layout, sent, origin)
        points += frequency_points(sounding, now_s, *temperatures(transmitter, receiver), segments=1)
        if now_s >= watch_s and len(points) >= 3:
            return points


def _sum(one: Value, other: Value) -> Value:
    """The sum of two independent measurements."""
    value = one.value + other.value
    reach = float(np.hypot(one.high - one.low, other.high - other.low)) / 2
    return Value(value, value - reach, value + reach, one.unit, f"{other.method}; {one.method}")
