"""Calibrate a link: from the first sample to the profile."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from calibration.antennas import compare_antennas
from calibration.frequency import frequency_points, measure_drift, measure_frequency, measure_tone
from calibration.frontend import measure_frontend
from calibration.gain import GainControl, common_plan, measure_gain
from calibration.link import measure_channel, measure_continuity, measure_delay, measure_noise, tap_statistics
from calibration.sounding import MAX_CYCLIC_FRAMES, Sounding, analyse_antennas, capture_sounding, of_antenna
from calibration.spectrum import measure_papr, measure_spectrum
from receiver.front_end import correct_front_end
from sdr.calibration_profile import (
    AntennaProfile,
    BandPoint,
    CalibrationError,
    CalibrationProfile,
    FrequencyPoint,
    GainPoint,
    PowerDelayProfile,
    Value,
)
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.radios.address import device_of
from sdr.radios.base import Radio
from sdr.recordings.recording import utc_now
from sdr.settings import same_rate

PARTS = ("frequency", "gain", "channel", "delay", "frontend")
"""Everything that can be measured."""

TONE_SAMPLES = 1 << 18
"""Samples that a reference tone is looked for in."""

MAX_CLIPPED = 0.01
"""Share of saturated samples beyond which nothing is measured."""

MISSED = 0.1
"""Share of sounding frames that may be missing before the profile warns: those that are lost are the faded ones."""


def serial_of(radio: Radio) -> str:
    """Return a radio's serial number, nothing where it states none."""
    about = getattr(radio, "about", {})
    return next((str(about[key]) for key in ("serial", "hw_serial", "mboard_serial") if about.get(key)), "")


def radio_name(radio: Radio) -> str:
    """Return a radio's name: its address, and its serial number where it states one."""
    device, serial = device_of(radio.settings.uri), serial_of(radio)
    return f"{device} serial {serial}" if serial else device


def all_parts(transmitter: Radio) -> tuple[str, ...]:
    """Return everything that can be measured with a transmitter: a gain plan needs gains to set."""
    return tuple(part for part in PARTS if part != "gain" or isinstance(transmitter, GainControl))


def check_pair(transmitter: Radio, receiver: Radio) -> None:
    """Refuse two radios that can't hear each other.

    Raises:
        CalibrationError: they are set to different rates, or their bands don't overlap.
    """
    tx, rx = transmitter.settings, receiver.settings
    if not transmitter.capabilities.transmit or not receiver.capabilities.receive:
        raise CalibrationError("a calibration needs a radio that transmits and one that receives")
    if not same_rate(tx.rate_sps, rx.rate_sps):
        raise CalibrationError(
            f"the transmitter runs at {tx.rate_sps:g} samples/s and the receiver at {rx.rate_sps:g}; set both alike"
        )
    if tx.center_hz and rx.center_hz and abs(tx.center_hz - rx.center_hz) > rx.rate_sps / 4:
        raise CalibrationError(
            f"the transmitter is tuned to {tx.center_hz:.9g} Hz and the receiver to {rx.center_hz:.9g} Hz; "
            "give both the same center_hz"
        )


@dataclass(frozen=True)
class CalibrationPlan:
    """The plan of a calibration.

    Args:
        parts: of `PARTS`, all that the radios can do if None; noise and CSNR belong to "channel".
        num_frames: sounding frames to record.
        valid_hours: how long the profile is taken for fresh.
        watch_s: how long to sound again and again for the carrier's drift with time and temperature; part "frequency".
        tone_hz: true frequency of a reference tone that is on the air, to compare the receiver with; likewise.
    """

    parts: Sequence[str] | None = None
    num_frames: int = 400
    valid_hours: float = 24.0
    watch_s: float = 0.0
    tone_hz: float | None = None


def measure_link(
    transmitter: Radio,
    receiver: Radio,
    layout: FrameLayout,
    plan: CalibrationPlan | None = None,
    versions: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> CalibrationProfile:
    """Sound a link and put what was asked for into a profile.

    Args:
        transmitter: sends the sounding frames.
        receiver: records them; may be the same radio.
        layout: layout of the frames.
        plan: what to measure, everything if None.
        versions: of what measures.
        progress: called as it goes on.

    Raises:
        CalibrationError: the radios don't fit each other, or too little was heard; nothing was measured then.
        RadioError: a radio failed.
    """
    check_pair(transmitter, receiver)
    session = _Session(transmitter, receiver, layout, plan or CalibrationPlan(), progress)
    parts = all_parts(transmitter) if session.plan.parts is None else session.plan.parts
    before = temperatures(transmitter, receiver)
    if session.plan.tone_hz is not None and "frequency" in parts:
        session.measure_reference(session.plan.tone_hz)
    if "gain" in parts:
        session.measure_gain()
    if set(parts) != {"gain"}:
        soundings = session.sound()
        if "frontend" in parts:
            soundings = session.measure_front_ends(soundings)
        session.measure_parts(soundings, parts)
        if "frequency" in parts:
            session.measure_drift(soundings[0])
    session.values |= _settings_of(transmitter, receiver, before)
    return session.profile(versions or {})


@dataclass
class _Antenna:
    """What has been measured so far of one antenna; see `AntennaProfile`."""

    values: dict[str, Value] = field(default_factory=dict)
    pdp: PowerDelayProfile | None = None
    gain: tuple[GainPoint, ...] = ()
    image: tuple[BandPoint, ...] = ()


class _Session:
    """A calibration that goes on: what has been measured so far.

    Attributes:
        values: measured values by name, common to all antennas.
        antennas: what is each receiving antenna's own.
        warnings: what a user should know.
    """

    def __init__(
        self, transmitter: Radio, receiver: Radio, layout: FrameLayout, plan: CalibrationPlan, progress: Progress
    ) -> None:
        self.transmitter, self.receiver, self.layout = transmitter, receiver, layout
        self.plan, self.progress = plan, progress
        self.measured_utc = utc_now()
        self.values: dict[str, Value] = {}
        self.antennas = [_Antenna() for _ in range(receiver.capabilities.antennas)]
        self.warnings: list[str] = []
        self.frequency: tuple[FrequencyPoint, ...] = ()
        self.spectrum: tuple[BandPoint, ...] = ()

    def measure_gain(self) -> None:
        """Measure the gain plan."""
        plans = measure_gain(self.transmitter, self.receiver, self.layout, progress=self.progress)
        for own, plan in zip(self.antennas, plans, strict=True):
            own.gain = plan.points
            own.values |= plan.values
        if len(plans) > 1:
            self.values |= common_plan(plans)

    def measure_reference(self, tone_hz: float) -> None:
        """Compare the receiver with a reference tone."""
        self.progress("reference tone", 0, 1)
        tone = _silent_capture(self.transmitter, self.receiver, TONE_SAMPLES)
        center_hz = self.receiver.settings.center_hz
        self.values["rx_reference_ppm"] = measure_tone(tone, self.layout.rate_sps, center_hz, tone_hz)
        self.progress("reference tone", 1, 1)

    def sound(self) -> tuple[Sounding, ...]:
        """Send and record sounding frames, and refuse what is saturated; one sounding for each antenna.

        Raises:
            CalibrationError: too little was heard, or too much is saturated.
        """
        self.progress("sound the channel", 0, 2)
        capture = capture_sounding(self.transmitter, self.receiver, self.layout, self.plan.num_frames)
        recording, num_sent, origin = capture
        self.progress("sound the channel", 1, 2)
        soundings = analyse_antennas(recording, self.layout, num_sent, origin)
        self.progress("sound the channel", 2, 2)
        self.measured_utc = recording.utc or self.measured_utc
        self._capture = capture
        clipped = recording.health.clipped_fraction
        if clipped > MAX_CLIPPED:
            raise CalibrationError(
                f"{100 * clipped:.0f} % of the samples are saturated, so nothing measured would be true; lower "
                "tx_gain_db or rx_gain_db, or put an attenuator in between"
            )
        self.warnings += recording.health.warnings
        for antenna, sounding in enumerate(soundings):
            with of_antenna(antenna, len(soundings)):
                tap_statistics(sounding)  # refuses an antenna that hears nothing
        missed = 1 - len(soundings[0].frames) / self.plan.num_frames
        if missed > MISSED:
            self.warnings.append(
                f"{100 * missed:.0f} % of the sounding frames were not read, the weakest of them, which biases powers; "
                "raise the gains"
            )
        return soundings

    def measure_front_ends(self, soundings: Sequence[Sounding]) -> tuple[Sounding, ...]:
        """Measure both front ends, and return the soundings without them: they are no part of the channel."""
        self.progress("front end", 0, 1)
        front = measure_frontend(*soundings)
        self.progress("front end", 1, 1)
        recording, num_sent, origin = self._capture
        corrected = correct_front_end(recording, [receiver.values for receiver in front.receivers])
        corrected_soundings = analyse_antennas(corrected, self.layout, num_sent, origin, front.curve)
        for own, receiver in zip(self.antennas, front.receivers, strict=True):
            own.image = receiver.image
            own.values |= receiver.values
        # What was sent is the same for all antennas: the one that hears it best.
        best = max(corrected_soundings, key=lambda each: np.sum(each.power) / np.mean(each.error_var))
        floor = measure_noise(best).get("noise_floor_dbfs")
        self.spectrum, beside = measure_spectrum(best, None if floor is None else floor.value)
        self.values |= front.values | beside | measure_papr(best, front.curve)
        self.warnings += front.warnings
        return corrected_soundings

    def measure_parts(self, soundings: Sequence[Sounding], parts: Sequence[str]) -> None:
        """Measure what one sounding at each antenna holds."""
        if "frequency" in parts:
            self.values |= measure_frequency(*soundings)
        if "channel" in parts:
            doubts = []
            for own, sounding in zip(self.antennas, soundings, strict=True):
                own.values |= measure_noise(sounding)
                own.pdp, measured, doubts_of_it = measure_channel(sounding)
                own.values |= measured
                doubts.append(doubts_of_it)
            for own, compared in zip(self.antennas, compare_antennas(soundings), strict=True):
                own.values |= compared
            self.warnings += _told_once(doubts)
        if "delay" in parts:
            continuity, lost = measure_continuity(soundings[0])
            self.values |= continuity
            for own, sounding in zip(self.antennas, soundings, strict=True):
                own.values |= measure_delay(sounding)
            self.warnings += lost
            if not soundings[0].absolute:
                self.warnings.append("the transmission repeats without a common clock, so no latency was measured")

    def measure_drift(self, sounding: Sounding) -> None:
        """Measure how the carrier offset moves, and what it says of both references."""
        points = frequency_points(sounding, 0.0, *temperatures(self.transmitter, self.receiver))
        if self.plan.watch_s:
            points = _watch(self.transmitter, self.receiver, self.layout, self.plan.watch_s, self.progress)
        self.frequency = tuple(points)
        self.values |= measure_drift(points, self.receiver.settings.center_hz)
        if "rx_reference_ppm" in self.values and "carrier_offset_ppm" in self.values:
            pair = self.values["carrier_offset_ppm"]
            self.values["tx_reference_ppm"] = _sum(self.values["rx_reference_ppm"], pair)

    def profile(self, versions: Mapping[str, str]) -> CalibrationProfile:
        """Return what was measured."""
        several = len(self.antennas) > 1
        alone = _Antenna() if several else self.antennas[0]
        return CalibrationProfile(
            tx=radio_name(self.transmitter),
            rx=radio_name(self.receiver),
            center_hz=self.receiver.settings.center_hz,
            rate_sps=self.receiver.settings.rate_sps,
            measured_utc=self.measured_utc,
            layout_digest=self.layout.digest,
            values={**self.values, **alone.values},
            pdp=alone.pdp,
            gain=alone.gain,
            frequency=self.frequency,
            spectrum=self.spectrum,
            image=alone.image,
            versions=dict(versions),
            warnings=tuple(dict.fromkeys(self.warnings)),
            valid_hours=self.plan.valid_hours,
            antennas=tuple(AntennaProfile(**vars(own)) for own in self.antennas) if several else (),
        )


def _told_once(doubts: Sequence[Sequence[str]]) -> list[str]:
    """Return doubts about each antenna, one line each: those about all alike once, others with the antenna's number."""
    told = []
    for antenna, of_it in enumerate(doubts):
        told += [text if all(text in each for each in doubts) else f"antenna {antenna}: {text}" for text in of_it]
    return list(dict.fromkeys(told))


def temperatures(transmitter: Radio, receiver: Radio) -> tuple[float | None, float | None]:
    """Return degrees Celsius of both ends, None where a radio has no thermometer."""
    return getattr(transmitter, "temperature_c", None), getattr(receiver, "temperature_c", None)


def _settings_of(transmitter: Radio, receiver: Radio, before: tuple[float | None, float | None]) -> dict[str, Value]:
    """Return temperatures, and how the radios' references were corrected, which a trim starts from."""
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
    """Return complex64 (num_samples,) of the first antenna with nothing of ours on the air."""
    if isinstance(transmitter, GainControl):
        transmitter.mute()
    else:
        transmitter.transmit(np.zeros(num_samples, np.complex64))
    return receiver.receive(num_samples).samples


def _watch(
    transmitter: Radio, receiver: Radio, layout: FrameLayout, watch_s: float, progress: Progress
) -> list[FrequencyPoint]:
    """Return the carrier offset in soundings again and again, each with the temperatures at that time."""
    points: list[FrequencyPoint] = []
    began = time.monotonic()
    while True:
        now_s = time.monotonic() - began
        progress("watch the carrier", min(now_s, watch_s), watch_s)
        recording, sent, origin = capture_sounding(transmitter, receiver, layout, MAX_CYCLIC_FRAMES)
        sounding = analyse_antennas(recording, layout, sent, origin)[0]
        points += frequency_points(sounding, now_s, *temperatures(transmitter, receiver), segments=1)
        if now_s >= watch_s and len(points) >= 3:
            return points


def _sum(one: Value, other: Value) -> Value:
    """Return the sum of two independent measurements."""
    value = one.value + other.value
    reach = float(np.hypot(one.high - one.low, other.high - other.low)) / 2
    return Value(value, value - reach, value + reach, one.unit, f"{other.method}; {one.method}")
