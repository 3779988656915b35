"""What is known about a pair of radios and the air between them, as a readable file.

A profile is written by `calibration` and read by the receiver and by whoever sets the radios. Every value carries a
95 % interval and the method that it came by. Files are TOML or JSON, by their suffix, with a digest that tells an
edited or damaged one.
"""

import hashlib
import json
import math
import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import OtaError
from sdr.settings import RadioSettings

FORMAT = 1
VALID_HOURS = 24.0
"""How long a profile is taken for fresh: oscillators drift with temperature, antennas are moved."""

MAX_BACKOFF_DB = 20.0
"""How far samples may be scaled down where the transmit gain has an end."""

MAX_FILE_BYTES = 1 << 20
_RATE_TOLERANCE = 1e-3
_CENTER_TOLERANCE = 0.02
# What of a simulated air may differ between calibration and use: the same radios at another level or draw.
_SIM_FREE = ("seed", "csnr_db", "delay_samples", "block_samples", "gain_db")


class CalibrationError(OtaError, ValueError):
    """A calibration can't be measured, read, or doesn't belong to what it is used for."""


@dataclass(frozen=True)
class Value:
    """A measured number.

    Args:
        value: best estimate.
        low, high: 95 % interval, low <= value <= high.
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
        powers: (L,) linear, sum 1. low, high: their 95 % intervals.
        draws: how many independent channels were averaged; 1 for one that never changed.
        timing_samples: by how many samples the synchroniser was late (negative: early).
        timing_odds: how often each of these happened; sum 1.
        method: how it was found.
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
        """(L,) prior powers of a receiver's taps, sum 1; the first path usually sits at tap `advance`.

        Few draws say little: the profile counts as `draws` channels seen, `default` (any length) as `weight`.
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
    """What arrived at one setting of both gains: CSNR with its 95 % interval, and whether anything was saturated.

    The error vector magnitude is that of the frames' known cells behind the estimated channel.
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
    """The carrier offset at a time after the first sample, with its 95 % interval, and what thermometers said."""

    seconds: float
    carrier_offset_hz: float
    low_hz: float
    high_hz: float
    tx_temperature_c: float | None = None
    rx_temperature_c: float | None = None


@dataclass(frozen=True)
class BandPoint:
    """A level in dB beside the carrier, with its 95 % interval."""

    offset_hz: float
    level_db: float
    low_db: float
    high_db: float


@dataclass(frozen=True)
class CalibrationProfile:
    """Everything measured of a pair of radios.

    Args:
        tx, rx: the radios, as `device_of` and their serial numbers tell them apart.
        center_hz, rate_sps: what they were set to; `center_hz` 0 where there is no carrier.
        measured_utc: ISO 8601.
        layout_digest: digest of the layout that was sent.
        values: measured values by name; the unit is part of each.
        pdp: power delay profile, None where it was not measured.
        gain: points of the gain plan. frequency: carrier offsets over time. spectrum: what is sent, over the mean of
            the occupied band. image: the mixer's image over the wanted signal. Each empty where it was not measured.
        versions: of what measured it.
        warnings: what a user should know, one line each.
        valid_hours: how long it is taken for fresh.
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

    @property
    def digest(self) -> str:
        """16 hex digits of the content."""
        return hashlib.sha256(json.dumps(_document(self), sort_keys=True).encode()).hexdigest()[:16]

    def get(self, name: str) -> float | None:
        """A value by name, None where it was not measured."""
        found = self.values.get(name)
        return None if found is None else found.value

    def plan(self, csnr_db: float) -> tuple[float, float]:
        """Transmit gain in dB, and the amplitude (0..1) to scale samples with, that reach a mean CSNR.

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
        """A radio's URI with what takes its offset away: `xo_correction_hz` of a Pluto, `trim_ppm` of a USRP.

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
        scheme = uri.partition(":")[0]
        if offset is None or offset.low <= 0 <= offset.high or scheme not in _TRIMS:
            return uri
        name = _TRIMS[scheme]
        setting = self.get(f"{end}_{name}")
        if setting is None:
            return uri
        value = round(setting * (1 + 1e-6 * offset.value)) if scheme == "pluto" else setting + offset.value
        kept = [item for item in uri.split(",") if not item.startswith(f"{name}=")]
        return ",".join([*kept, f"{name}={value:.10g}"])

    def age_hours(self, now: datetime | None = None) -> float:
        """Hours since it was measured."""
        moment = now if now is not None else datetime.now(UTC)
        return (moment - datetime.fromisoformat(self.measured_utc)).total_seconds() / 3600.0

    def check(self, settings: RadioSettings, now: datetime | None = None, serial: str = "") -> tuple[str, ...]:
        """Refuse the profile of another radio, rate or band; say in one line each what else is doubtful.

        Args:
            settings: of the radio or the recording that the profile is to be used for.
            serial: serial number of the radio, where it is at hand and tells one.

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
        if abs(settings.rate_sps / self.rate_sps - 1) > _RATE_TOLERANCE:
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
"""How radios are told that their reference is off."""


def device_of(uri: str) -> str:
    """What of a radio's URI names the device rather than its settings.

    >>> device_of("pluto:ip:192.168.2.1,tx_gain_db=-20"), device_of("sim:taps=8,csnr_db=10")
    ('pluto:ip:192.168.2.1', 'sim:taps=8')
    """
    from sdr.radios.address import parse_uri  # the radios import nothing of this module

    scheme, _, rest = uri.partition(":")
    if scheme == "sim":
        options = parse_uri(uri).options
        return "sim:" + ",".join(f"{k}={options[k]}" for k in sorted(options) if k not in _SIM_FREE)
    if scheme == "pluto":
        return f"pluto:{rest.split(',')[0]}"
    if scheme == "uhd":
        names = [item for item in rest.split(",") if item.split("=")[0] in ("type", "addr", "serial", "name")]
        return f"uhd:{','.join(sorted(names))}"
    return uri


# Files

_POINTS = {"gain": GainPoint, "frequency": FrequencyPoint, "spectrum": BandPoint, "image": BandPoint}


def _document(profile: CalibrationProfile) -> dict[str, Any]:
    document: dict[str, Any] = {"format": FORMAT}
    document |= {k: v for k, v in asdict(profile).items() if k not in ("values", "pdp", "versions", *_POINTS)}
    document["warnings"] = list(profile.warnings)
    document["versions"] = dict(profile.versions)
    document["values"] = {name: asdict(value) for name, value in sorted(profile.values.items())}
    if profile.pdp is not None:
        document["pdp"] = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(profile.pdp).items()}
    for name in _POINTS:
        points = [asdict(point) for point in getattr(profile, name)]
        document[name] = [{k: v for k, v in point.items() if v is not None} for point in points]
    return document


def _toml(document: Mapping[str, Any]) -> str:
    """TOML of scalars, lists of scalars, tables and lists of tables, which is all that a profile has."""
    lines: list[str] = []

    def scalar(value: Any) -> str:
        if isinstance(value, list):
            return "[" + ", ".join(scalar(item) for item in value) + "]"
        if isinstance(value, str):  # JSON's escapes are TOML's, but for DEL and what lies beyond 16 bits
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        return repr(value) if isinstance(value, float) else json.dumps(value)

    def table(path: str, content: Mapping[str, Any]) -> None:
        plain = {k: v for k, v in content.items() if not isinstance(v, dict) and not _is_tables(v)}
        if path and (plain or not content):
            lines.extend(["", f"[{path}]"])
        lines.extend(f"{key} = {scalar(value)}" for key, value in plain.items())
        for key, value in content.items():
            name = key if key.replace("_", "").isalnum() and key.isascii() else json.dumps(key)
            place = f"{path}.{name}" if path else name
            if isinstance(value, dict):
                table(place, value)
            elif _is_tables(value):
                for item in value:
                    lines.extend(["", f"[[{place}]]"])
                    lines.extend(f"{k} = {scalar(v)}" for k, v in item.items())

    table("", document)
    return "\n".join(lines).lstrip("\n") + "\n"


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def save_profile(profile: CalibrationProfile, path: str | os.PathLike[str]) -> Path:
    """Write a profile as TOML or JSON, under its final name only when it is complete.

    Raises:
        CalibrationError: the path ends in neither .toml nor .json, or can't be written.
    """
    target = check_profile_path(path)
    document = {"digest": profile.digest, **_document(profile)}
    text = _toml(document) if target.suffix == ".toml" else json.dumps(document, indent=1) + "\n"
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise CalibrationError(f"calibration profile {target} can't be written: {error.strerror}") from None
    return target


def check_profile_path(path: str | os.PathLike[str]) -> Path:
    """The path, if a profile can be called that.

    Raises:
        CalibrationError: it ends in neither .toml nor .json.
    """
    target = Path(path)
    if target.suffix not in (".toml", ".json"):
        raise CalibrationError(f"a calibration profile is a .toml or .json file, found '{target.name}'")
    return target


def load_profile(path: str | os.PathLike[str]) -> CalibrationProfile:
    """Read a profile.

    Raises:
        CalibrationError: it is missing, no profile, of another version, damaged or edited.
    """
    source = check_profile_path(path)
    try:
        with source.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise CalibrationError(
            f"calibration profile {source} can't be read: {error.strerror}; make one with `ota calibrate`"
        ) from None
    if len(content) > MAX_FILE_BYTES:
        raise CalibrationError(f"{source} is larger than {MAX_FILE_BYTES} bytes; this is no calibration profile")
    try:
        text = content.decode("utf-8")
        document = tomllib.loads(text) if source.suffix == ".toml" else json.loads(text)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise CalibrationError(f"{source} is no calibration profile of format {FORMAT}; run `ota calibrate` again")
        digest = document.pop("digest", None)
        document.pop("format")
        pdp = document.pop("pdp", None)
        profile = CalibrationProfile(
            values={name: Value(**value) for name, value in document.pop("values").items()},
            pdp=None if pdp is None else PowerDelayProfile(**pdp),
            **{name: tuple(kind(**point) for point in document.pop(name, [])) for name, kind in _POINTS.items()},
            warnings=tuple(document.pop("warnings")),
            **document,
        )
    except CalibrationError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CalibrationError(f"{source} is no calibration profile ({reason}); run `ota calibrate` again") from None
    if profile.digest != digest:
        raise CalibrationError(f"{source} was edited or damaged: its digest doesn't fit; run `ota calibrate` again")
    return profile
