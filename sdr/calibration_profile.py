"""Hold what is known about a pair of radios and the air between them, as a readable file.

A profile is written by `calibration` and read by the receiver and by whoever sets the radios. Every value carries a
95 % interval and the method that it came by. Files are TOML or JSON, by their suffix, with a digest that shows
whether one was edited or damaged. Where the receiver has several antennas, what all share stands where that of one
antenna would, and each has a part of its own.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.documents import from_table, read_document, to_toml
from sdr.errors import OtaError
from sdr.files import write_text
from sdr.radios.address import device_of, parse_uri, with_option
from sdr.recordings.recording import MAX_ANTENNAS
from sdr.settings import RadioSettings, same_rate

FORMAT = 1
"""Version of the files of one antenna."""

ANTENNAS_FORMAT = 2
"""Version of the files of several antennas."""

VALID_HOURS = 24.0
"""Hours for which a profile is taken for fresh: oscillators drift with temperature, antennas are moved."""

MAX_BACKOFF_DB = 20.0
"""Largest attenuation by scaling samples down, where the transmit gain has an end."""

_CENTER_TOLERANCE = 0.02


class CalibrationError(OtaError, ValueError):
    """A calibration can't be measured, read, or doesn't belong to what it is used for."""


@dataclass(frozen=True)
class Value:
    """A measured number.

    Args:
        value: best estimate.
        low: lower end of the 95 % interval, <= value.
        high: upper end of it, >= value.
        unit: such as "ppm" or "dB".
        method: how it was found, in a few words.

    Raises:
        CalibrationError: not finite, or the interval doesn't hold the value.
    """

    value: float
    low: float
    high: float
    unit: str
    method: str

    def __post_init__(self) -> None:
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
                raise CalibrationError(f"a calibrated {name} must be a finite number, found {number!r:.40}")
            object.__setattr__(self, name, float(number))
        if not self.low <= self.value <= self.high:
            raise CalibrationError(f"the interval {self.low:g}..{self.high:g} doesn't hold {self.value:g}")


@dataclass(frozen=True)
class PowerDelayProfile:
    """Mean power of the taps behind the first path, one sample apart.

    Args:
        powers: (L,) linear, sum 1.
        low: (L,) lower ends of their 95 % intervals.
        high: (L,) upper ends of them.
        draws: how many independent channels were averaged; 1 for one that never changed.
        timing_samples: (T,) by how many samples the synchroniser was late (negative: early).
        timing_odds: (T,) how often each of these happened; sum 1.
        method: how it was found, in a few words.

    Raises:
        CalibrationError: the values contradict each other.
    """

    powers: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    draws: float
    timing_samples: tuple[int, ...]
    timing_odds: tuple[float, ...]
    method: str

    def __post_init__(self) -> None:
        for name in ("powers", "low", "high", "timing_odds"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        object.__setattr__(self, "timing_samples", tuple(int(v) for v in self.timing_samples))
        if not 1 <= len(self.powers) <= 4096 or not len(self.low) == len(self.high) == len(self.powers):
            raise CalibrationError(f"a delay profile needs 1..4096 powers with intervals, found {len(self.powers)}")
        if not (min(self.low) >= 0 and abs(sum(self.powers) - 1) < 1e-3 and self.draws >= 1):
            raise CalibrationError("a delay profile needs powers >= 0 of sum 1 and at least one draw")
        if not all(low <= p <= high for low, p, high in zip(self.low, self.powers, self.high, strict=True)):
            raise CalibrationError("a delay profile's intervals must hold its powers")
        if len(self.timing_samples) != len(self.timing_odds) or abs(sum(self.timing_odds) - 1) > 1e-3:
            raise CalibrationError("a delay profile's timing odds must have sum 1, one for each number of samples")

    def prior(self, advance: int, default: NDArray[np.float64], weight: float = 2.0) -> NDArray[np.float64]:
        """Return (L,) prior powers of a receiver's taps, sum 1.

        Few draws say little: the profile counts as `draws` channels seen, `default` as `weight`.

        Args:
            advance: tap at which the first path usually sits.
            default: (n,) powers that are assumed without a profile.
            weight: number of channels that `default` counts for.
        """
        size = max(advance + len(self.powers) + 1, default.size)
        measured = np.zeros(size)
        for late, odds in zip(self.timing_samples, self.timing_odds, strict=True):
            for tap, power in enumerate(self.powers):
                if 0 <= tap + advance - late < size:
                    measured[tap + advance - late] += odds * power
        assumed = np.zeros(size)
        assumed[: default.size] = default
        mixed = self.draws * measured / measured.sum() + weight * assumed / assumed.sum()
        return mixed / mixed.sum()


@dataclass(frozen=True)
class GainPoint:
    """One point of the gain plan: what arrived at one setting of both gains.

    Attributes:
        tx_gain_db: transmit gain.
        rx_gain_db: receive gain.
        csnr_db: CSNR.
        csnr_low_db: lower end of its 95 % interval.
        csnr_high_db: upper end of it.
        noise_floor_dbfs: noise with nothing being sent.
        level_dbfs: mean power of the capture.
        saturated: whether the converter was.
        evm_db: error vector magnitude of the frames' known cells behind the estimated channel.
    """

    tx_gain_db: float
    rx_gain_db: float
    csnr_db: float
    csnr_low_db: float
    csnr_high_db: float
    noise_floor_dbfs: float
    level_dbfs: float
    saturated: bool
    evm_db: float | None = None


@dataclass(frozen=True)
class FrequencyPoint:
    """The carrier offset at one time.

    Attributes:
        seconds: time after the first sample.
        carrier_offset_hz: carrier offset.
        low_hz: lower end of its 95 % interval.
        high_hz: upper end of it.
        tx_temperature_c: degrees Celsius of the transmitter, None without a thermometer.
        rx_temperature_c: the same of the receiver.
    """

    seconds: float
    carrier_offset_hz: float
    low_hz: float
    high_hz: float
    tx_temperature_c: float | None = None
    rx_temperature_c: float | None = None


@dataclass(frozen=True)
class BandPoint:
    """A level beside the carrier.

    Attributes:
        offset_hz: frequency, counted from the carrier.
        level_db: level.
        low_db: lower end of its 95 % interval.
        high_db: upper end of it.
    """

    offset_hz: float
    level_db: float
    low_db: float
    high_db: float


@dataclass(frozen=True)
class AntennaProfile:
    """What was measured of one receiving antenna of several: its part of the front end, and the air before it.

    Args:
        values: measured values by name; those named `relative_*`, and `fading_correlation`, are against the first
            antenna, which has none.
        pdp: power delay profile, None where it was not measured.
        gain: points of the gain plan, empty where it was not measured.
        image: the mixer's image over the wanted signal, likewise.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    pdp: PowerDelayProfile | None = None
    gain: tuple[GainPoint, ...] = ()
    image: tuple[BandPoint, ...] = ()


@dataclass(frozen=True)
class CalibrationProfile:
    """Everything measured of a pair of radios.

    Args:
        tx: the transmitter, as `device_of` names it, and its serial number where it states one.
        rx: the receiver, likewise.
        center_hz: carrier that both were set to, 0 where there is none.
        rate_sps: sampling rate that both were set to.
        measured_utc: ISO 8601.
        layout_digest: digest of the layout that was sent.
        values: measured values by name; the unit is part of each.
        pdp: power delay profile, None where it was not measured.
        gain: points of the gain plan, empty where it was not measured.
        frequency: carrier offsets over time, likewise.
        spectrum: what is sent, over the mean of the occupied band, likewise.
        image: the mixer's image over the wanted signal, likewise.
        versions: of what measured it.
        warnings: what a user should know, one line each.
        valid_hours: how long it is taken for fresh.
        antennas: what is each receiving antenna's own, where there are several; the rest is common to all of them.
            Empty for one antenna.

    Raises:
        CalibrationError: a field is wrong.
    """

    tx: str
    rx: str
    center_hz: float
    rate_sps: float
    measured_utc: str
    layout_digest: str = ""
    values: Mapping[str, Value] = field(default_factory=dict)
    pdp: PowerDelayProfile | None = None
    gain: tuple[GainPoint, ...] = ()
    frequency: tuple[FrequencyPoint, ...] = ()
    spectrum: tuple[BandPoint, ...] = ()
    image: tuple[BandPoint, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    valid_hours: float = VALID_HOURS
    antennas: tuple[AntennaProfile, ...] = ()

    def __post_init__(self) -> None:
        if not self.tx or not self.rx:
            raise CalibrationError("a calibration profile must say which radios it was measured with")
        if not (self.rate_sps > 0 and self.center_hz >= 0 and self.valid_hours > 0):
            raise CalibrationError("a calibration profile needs rate_sps > 0, center_hz >= 0 and valid_hours > 0")
        try:
            when = datetime.fromisoformat(self.measured_utc)
        except (TypeError, ValueError):
            raise CalibrationError(f"measured_utc must be ISO 8601, found {self.measured_utc!r:.40}") from None
        if when.tzinfo is None:
            raise CalibrationError(f"measured_utc must say its time zone, found {self.measured_utc!r:.40}")
        if self.antennas and not 2 <= len(self.antennas) <= MAX_ANTENNAS:
            raise CalibrationError(
                f"a calibration profile of several antennas has 2..{MAX_ANTENNAS}, found {len(self.antennas)}"
            )
        if self.antennas and (self.pdp is not None or self.gain or self.image):
            raise CalibrationError("pdp, gain and image belong to each antenna of several, not to all together")

    @property
    def num_antennas(self) -> int:
        """Receiving antennas that it is of."""
        return max(len(self.antennas), 1)

    def antenna(self, number: int) -> "CalibrationProfile":
        """Return the part of one of its antennas, and what is common to all, as a profile of one antenna.

        Args:
            number: from 0.

        Raises:
            CalibrationError: there is none of this number.
        """
        if not 0 <= number < self.num_antennas:
            raise CalibrationError(
                f"the calibration profile has no antenna {number}: it is of {_antennas(self.num_antennas)}; "
                f"give a number in 0..{self.num_antennas - 1}"
            )
        if not self.antennas:
            return self
        own = self.antennas[number]
        values = {**self.values, **own.values}
        return replace(self, values=values, pdp=own.pdp, gain=own.gain, image=own.image, antennas=())

    def alone(self, number: int) -> "CalibrationProfile":
        """Return the profile of one of its antennas, for what that one recorded without the others.

        Where the synchroniser puts frames that all antennas hear says nothing of one alone: it is taken to be on time.

        Args:
            number: from 0.

        Raises:
            CalibrationError: there is none of this number.
        """
        own = self.antenna(number)
        return replace(own, pdp=_on_time(own.pdp)) if self.antennas else own

    def chosen(self, numbers: tuple[int, ...]) -> "CalibrationProfile":
        """Return the profile of those antennas of a recording that are decoded, in their order.

        That of a single antenna is returned as it is: it says nothing of which one of several it was.

        Args:
            numbers: from 0; none: all.

        Raises:
            CalibrationError: there is none of such a number.
        """
        if not numbers or not self.antennas:
            return self
        if len(numbers) == 1:
            return self.alone(numbers[0])
        for number in numbers:
            self.antenna(number)
        kept = tuple(self.antennas[number] for number in numbers)
        if len(kept) < self.num_antennas:
            kept = tuple(replace(own, pdp=_on_time(own.pdp)) for own in kept)
        return replace(self, antennas=kept)

    def of_antennas(self, count: int) -> tuple["CalibrationProfile", ...]:
        """Return the profile of each of a recording's antennas.

        Args:
            count: antennas that were recorded.

        Raises:
            CalibrationError: it is of another number of antennas.
        """
        if count == self.num_antennas:
            return tuple(self.antenna(number) for number in range(count))
        remedy = f"calibrate the radio with rx={count}, or decode one of the antennas"
        if self.antennas:
            remedy = f"decode all {self.num_antennas} antennas together, or calibrate anew"
            if count == 1:
                remedy = (
                    f"say which of them it is with `ota decode --calibration-antenna` 0..{self.num_antennas - 1}, "
                    "decode all of them together, or calibrate with one antenna"
                )
        raise CalibrationError(
            f"the calibration profile is of {_antennas(self.num_antennas)}, and the recording has {count}; {remedy}"
        )

    @property
    def digest(self) -> str:
        """Digest of the content, 16 hex digits."""
        return _digest(_document(self))

    def get(self, name: str) -> float | None:
        """Return a value by name, None where it was not measured."""
        found = self.values.get(name)
        return None if found is None else found.value

    def plan(self, csnr_db: float) -> tuple[float, float]:
        """Return the transmit gain in dB, and the amplitude (0..1) to scale samples with, that reach a mean CSNR.

        Gains are taken in steps of 1/2 dB upwards, which all radios have; the amplitude takes off the rest.

        Raises:
            CalibrationError: no gain plan was measured, or the CSNR is out of its linear range.
        """
        constant, low, high = (self.get(k) for k in ("csnr_at_0_db", "tx_linear_low_db", "tx_linear_high_db"))
        if constant is None or low is None or high is None:
            raise CalibrationError("the calibration profile has no gain plan; run `ota calibrate --part gain`")
        wanted = csnr_db - constant
        if wanted > high:
            raise CalibrationError(
                f"a CSNR of {csnr_db:g} dB needs tx_gain_db = {wanted:.1f}, beyond the linear range that ends at "
                f"{high:g}; at most {constant + high:.1f} dB can be had, or raise rx_gain_db and calibrate again"
            )
        # Scaling samples costs resolution of the converter, so it only makes up for what gains can't reach.
        if wanted < low - MAX_BACKOFF_DB:
            raise CalibrationError(
                f"a CSNR of {csnr_db:g} dB is {low - wanted:.1f} dB below what the least gain gives; put an attenuator "
                "between the radios and calibrate again"
            )
        gain_db = max(min(math.ceil(wanted * 2 - 1e-9) / 2, high), low)
        return gain_db, 10.0 ** (min(wanted - gain_db, 0.0) / 20.0)

    def trimmed(self, uri: str) -> str:
        """Return a radio's URI with the option that corrects its reference: `xo_correction_hz` or `trim_ppm`.

        Where a reference tone was measured both ends are trimmed to it, else the transmitter to the receiver. A radio
        of this profile only; others, and offsets that may be none, leave the URI as it is.
        """
        device = device_of(uri)
        tx, rx = self.tx.split(" ")[0], self.rx.split(" ")[0]
        if device == tx:
            pair = self.values.get("carrier_offset_ppm") if tx != rx else None
            end, offset = "tx", self.values.get("tx_reference_ppm", pair)
        elif device == rx:
            end, offset = "rx", self.values.get("rx_reference_ppm")
        else:
            return uri
        scheme = parse_uri(uri).scheme
        if offset is None or offset.low <= 0 <= offset.high or scheme not in _TRIMS:
            return uri
        name = _TRIMS[scheme]
        setting = self.get(f"{end}_{name}")
        if setting is None:
            return uri
        value = round(setting * (1 + 1e-6 * offset.value)) if scheme == "pluto" else setting + offset.value
        return with_option(uri, name, f"{value:.10g}")

    def age_hours(self, now: datetime | None = None) -> float:
        """Return how many hours ago it was measured."""
        moment = now if now is not None else datetime.now(UTC)
        return (moment - datetime.fromisoformat(self.measured_utc)).total_seconds() / 3600.0

    def check(self, settings: RadioSettings, now: datetime | None = None, serial: str = "") -> tuple[str, ...]:
        """Refuse the profile of another radio, rate or band, and return what else is doubtful, one line each.

        Args:
            settings: of the radio or the recording that the profile is to be used for.
            now: time to compare its age with; the present unless given.
            serial: serial number of the radio, empty where unknown.

        Raises:
            CalibrationError: it belongs to something else.
        """
        doubts = []
        device = device_of(settings.uri)
        if settings.uri.startswith(("file:", "zmq:")):
            doubts.append(f"'{settings.uri}' doesn't tell which radio received; the profile is of {self.rx}")
        elif device not in (self.rx.split(" ")[0], self.tx.split(" ")[0]):
            raise CalibrationError(
                f"the calibration profile is of {self.rx}, but this is {device}; measure this one with `ota calibrate`"
            )
        known = [end for end in (self.tx, self.rx) if end.split(" ")[0] == device and " serial " in end]
        if serial and known and not any(end.endswith(f" serial {serial}") for end in known):
            raise CalibrationError(
                f"the calibration profile is of {known[0]}, but at {device} is one of serial {serial}; "
                "measure this one with `ota calibrate`"
            )
        if not same_rate(settings.rate_sps, self.rate_sps):
            raise CalibrationError(
                f"the calibration profile was measured at {self.rate_sps:g} samples/s, this runs at "
                f"{settings.rate_sps:g}; calibrate with the layout that is used"
            )
        ours, theirs = settings.center_hz, self.center_hz
        if ours and theirs and abs(ours / theirs - 1) > _CENTER_TOLERANCE:
            raise CalibrationError(
                f"the calibration profile was measured at {theirs:.6g} Hz, this is tuned to {ours:.6g} Hz; "
                "calibrate there"
            )
        age = self.age_hours(now)
        if age > self.valid_hours:
            doubts.append(
                f"the calibration profile is {age:.0f} hours old, valid for {self.valid_hours:g}; "
                "run `ota calibrate` again"
            )
        elif age < -0.1:
            doubts.append("the calibration profile is of the future; check this machine's clock")
        return tuple(doubts)


_TRIMS = {"pluto": "xo_correction_hz", "uhd": "trim_ppm"}
"""Option by which each kind of radio learns that its reference is off."""


def _antennas(count: int) -> str:
    return "1 antenna" if count == 1 else f"{count} antennas"


# Files

_POINTS = {"gain": GainPoint, "frequency": FrequencyPoint, "spectrum": BandPoint, "image": BandPoint}


def _document(profile: CalibrationProfile) -> dict[str, Any]:
    """Return a profile as it stands in a file, without its digest."""
    document: dict[str, Any] = {"format": ANTENNAS_FORMAT if profile.antennas else FORMAT}
    measured = ("values", "pdp", *_POINTS)
    document |= {k: v for k, v in asdict(profile).items() if k not in (*measured, "versions", "antennas")}
    document["warnings"] = list(profile.warnings)
    document["versions"] = dict(profile.versions)
    document |= _measured(profile)
    if profile.antennas:
        # By number and not in a list: TOML is written with lists of flat tables only.
        document["antennas"] = {str(number): _measured(own) for number, own in enumerate(profile.antennas)}
    return document


def _measured(part: CalibrationProfile | AntennaProfile) -> dict[str, Any]:
    """Return what was measured, as it stands in a file."""
    document: dict[str, Any] = {"values": {name: asdict(value) for name, value in sorted(part.values.items())}}
    if part.pdp is not None:
        document["pdp"] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(part.pdp).items()}
    for name in _POINTS:
        if hasattr(part, name):
            points = [asdict(point) for point in getattr(part, name)]
            document[name] = [{k: v for k, v in point.items() if v is not None} for point in points]
    return document


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def save_profile(profile: CalibrationProfile, path: str | os.PathLike[str]) -> Path:
    """Write a profile as TOML or JSON, under its final name only when it is complete.

    Raises:
        CalibrationError: the path ends in neither .toml nor .json, or can't be written.
    """
    target = check_profile_path(path)
    document = {"digest": profile.digest, **_document(profile)}
    text = to_toml(document) if target.suffix == ".toml" else json.dumps(document, indent=1) + "\n"
    try:
        write_text(target, text)
    except OSError as error:
        raise CalibrationError(f"calibration profile {target} can't be written: {error.strerror}") from None
    return target


def check_profile_path(path: str | os.PathLike[str]) -> Path:
    """Return the path, if a profile can have it.

    Raises:
        CalibrationError: it ends in neither .toml nor .json.
    """
    target = Path(path)
    if target.suffix not in (".toml", ".json"):
        raise CalibrationError(f"a calibration profile is a .toml or .json file, found '{target.name}'")
    return target


def load_profile(path: str | os.PathLike[str], antenna: int | None = None) -> CalibrationProfile:
    """Read a profile.

    Args:
        path: of the file.
        antenna: number of the antenna whose profile is returned, see `CalibrationProfile.alone`; None: of all.

    Raises:
        CalibrationError: it is missing, no profile, of another version, damaged or edited, or has no such antenna.
    """
    source = check_profile_path(path)
    document = read_document(source, CalibrationError, "calibration profile")
    version = document.pop("format", None)
    if version not in (FORMAT, ANTENNAS_FORMAT) or (version == ANTENNAS_FORMAT) != ("antennas" in document):
        raise CalibrationError(
            f"{source} is no calibration profile of format {FORMAT}, or {ANTENNAS_FORMAT} with antennas; run "
            "`ota calibrate` again"
        )
    digest = document.pop("digest", None)
    what = f"{source} is no calibration profile"
    table = dict(document)
    if "antennas" in document:
        table["antennas"] = _in_order(document["antennas"], what)
    profile = from_table(CalibrationProfile, table, what, CalibrationError)
    if digest != _digest({"format": version, **document}):
        raise CalibrationError(f"{source} was edited or damaged: its digest doesn't fit; run `ota calibrate` again")
    return profile if antenna is None else profile.alone(antenna)


def _on_time(pdp: PowerDelayProfile | None) -> PowerDelayProfile | None:
    """Return a profile whose frames are put where its own antenna hears them, not where all of several do."""
    return None if pdp is None else replace(pdp, timing_samples=(0,), timing_odds=(1.0,))


def _in_order(antennas: object, what: str) -> list[object]:
    """Return the antennas' tables, which are called 0, 1, .., in order.

    Raises:
        CalibrationError: one is missing.
    """
    if not isinstance(antennas, Mapping):
        raise CalibrationError(f"{what}: antennas must be a table, found {antennas!r:.60}")
    wanted = [str(number) for number in range(len(antennas))]
    if set(antennas) != set(wanted):
        raise CalibrationError(f"{what}: antennas must be called {', '.join(wanted)}, found {', '.join(antennas):.60}")
    return [antennas[number] for number in wanted]
