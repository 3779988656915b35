"""Measure the gain plan: noise floor, linear range, saturation, and the CSNR at every transmit gain."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import scipy.stats

from calibration.arrivals import MIN_FRAMES
from calibration.link import measure_channel, weighted_mean
from calibration.sounding import Sounding, analyse_antennas, apart, capture_sounding, of_antenna
from sdr.calibration_profile import CalibrationError, GainPoint, Value
from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.progress import Progress, silent
from sdr.radios.address import parse_uri
from sdr.radios.base import Radio
from sdr.settings import RadioSettings

FRAMES = 48
"""Frames behind every point."""

TRUSTED_DB = (3.0, 22.0)
"""CSNRs that are measured well enough to fit: below, frames get lost; above, converters and distortion count."""

UNHEARD_DB = -99.0
"""CSNR of a setting at which too few frames could be read."""

LINEAR_DB = 0.5
"""The linear range ends where the CSNR misses the fitted line by more."""

QUIET_SAMPLES = 20_000
_CLIPPED = 1e-3
RX_STEPS = 8
RX_SWEEP_DB = 16.0
"""CSNR, or the nearest to it, at which receive gains are tried."""

TX_RANGES_DB = {"pluto": (-60.0, 0.0), "uhd": (0.0, 31.5)}
"""Transmit gains that are tried: of a Pluto, what is above its floor; of a USRP, what every daughterboard has."""

RX_RANGES_DB = {"pluto": (0.0, 60.0), "uhd": (0.0, 31.5)}
"""Receive gains that are tried, likewise."""


@runtime_checkable
class GainControl(Protocol):
    """A radio whose gains can be set while it is open."""

    def apply(self, settings: RadioSettings) -> None: ...

    def mute(self) -> None: ...


class GainPlan(NamedTuple):
    """The gain plan of one antenna.

    Attributes:
        points: what arrived at each setting.
        values: `csnr_at_0_db` (the fitted constant), `tx_linear_low_db` and `tx_linear_high_db` (tx_gain_db whose CSNR
            is as fitted), `noise_floor_muted_dbfs`, and what `fit_receive_gain` finds.
    """

    points: tuple[GainPoint, ...]
    values: dict[str, Value]


def measure_gain(
    transmitter: Radio,
    receiver: Radio,
    layout: FrameLayout,
    tx_gains_db: Sequence[float] | None = None,
    rx_gains_db: Sequence[float] | None = None,
    progress: Progress = silent,
) -> tuple[GainPlan, ...]:
    """Sweep the transmit gain and fit CSNR = constant + tx_gain_db; then sweep the receive gain.

    Args:
        transmitter: sends; must have gains to set.
        receiver: records, at first with the gain that is set.
        layout: layout of the sounding frames.
        tx_gains_db: gains to try, ascending; a dozen over the radio's range unless given.
        rx_gains_db: the same of the receiver, where it has gains to set; none if empty.
        progress: called as it goes on.

    Returns:
        One plan for each antenna.

    Raises:
        CalibrationError: a radio without gains, nothing heard at any gain, or saturated at all of them, at one antenna.
    """
    if not isinstance(transmitter, GainControl):
        raise CalibrationError(
            f"radio '{transmitter.settings.uri}' has no gains to plan; leave --part gain out, "
            "or use a pluto: or uhd: radio"
        )
    if tx_gains_db is None:
        low, high = TX_RANGES_DB.get(parse_uri(transmitter.settings.uri).scheme, (0.0, 30.0))
        tx_gains_db = list(np.linspace(low, high, 13))
    start, heard_at = transmitter.settings, receiver.settings
    sweeps_rx = isinstance(receiver, GainControl) and rx_gains_db is None
    if rx_gains_db is None:
        low, high = RX_RANGES_DB.get(parse_uri(receiver.settings.uri).scheme, (0.0, 30.0))
        rx_gains_db = list(np.linspace(low, high, RX_STEPS)) if sweeps_rx else []
    total = len(tx_gains_db) + len(rx_gains_db)
    # One row a setting, one column an antenna.
    points: list[list[GainPoint]] = []
    by_receiver: list[list[GainPoint]] = []
    try:
        floors = _muted_floors(transmitter, receiver)
        for gain in tx_gains_db:
            progress("gain plan", len(points), total)
            transmitter.apply(replace(start, tx_gain_db=_step(gain)))
            points.append(_measure_points(transmitter, receiver, layout, floors))
        values = []
        for antenna, swept in enumerate(zip(*points, strict=True)):
            with of_antenna(antenna, len(floors)):
                values.append(fit_gain(swept))
        # The receiver's range is looked for where noise counts, not distortion.
        drive_db = min(itertools.chain(*points), key=lambda point: abs(point.csnr_db - RX_SWEEP_DB)).tx_gain_db
        for gain in rx_gains_db:
            progress("gain plan", len(points) + len(by_receiver), total)
            _set_gains(transmitter, receiver, start, heard_at, drive_db, _step(gain))
            levels = _muted_floors(transmitter, receiver)
            by_receiver.append(_measure_points(transmitter, receiver, layout, levels))
        progress("gain plan", total, total)
    finally:
        # Setting a radio mutes it. Where its connection broke, that is the device's own doing.
        with contextlib.suppress(RadioError):
            _set_gains(transmitter, receiver, start, heard_at, start.tx_gain_db, heard_at.rx_gain_db)
    plans = []
    for antenna, (floor, fitted) in enumerate(zip(floors, values, strict=True)):
        swept, heard = ([row[antenna] for row in rows] for rows in (points, by_receiver))
        muted = {"noise_floor_muted_dbfs": Value(*floor, "dBFS", f"{QUIET_SAMPLES} samples, transmitter muted")}
        plans.append(GainPlan((*swept, *heard), fitted | muted | fit_receive_gain(heard)))
    return tuple(plans)


def common_plan(plans: Sequence[GainPlan]) -> dict[str, Value]:
    """Return the values of a plan that all antennas share, by which a transmitter is set.

    The CSNR is an antenna's in the mean over all; the linear range is where every antenna is linear.
    """
    values = [plan.values for plan in plans]
    over = f"over {len(plans)} antennas"
    constants = [each["csnr_at_0_db"] for each in values]
    mean = [
        10 * math.log10(float(np.mean([10 ** (getattr(each, name) / 10) for each in constants])))
        for name in ("value", "low", "high")
    ]
    found = {"csnr_at_0_db": Value(mean[0], mean[1], mean[2], "dB", f"mean {over}: that of one antenna")}
    for name, worst in (("tx_linear_low_db", max), ("tx_linear_high_db", min)):
        found[name] = worst((each[name] for each in values), key=lambda value: value.value)
    return found


def _step(gain_db: float) -> float:
    """Return the nearest of the steps of 1/2 dB, which all radios have."""
    return round(float(gain_db) * 2) / 2


def _set_gains(
    transmitter: GainControl,
    receiver: Radio,
    tx_settings: RadioSettings,
    rx_settings: RadioSettings,
    tx_gain_db: float,
    rx_gain_db: float,
) -> None:
    """Set both gains, whether the two are one radio or not; the transmitter is muted."""
    if transmitter is receiver:
        transmitter.apply(replace(tx_settings, tx_gain_db=tx_gain_db, rx_gain_db=rx_gain_db))
        return
    transmitter.apply(replace(tx_settings, tx_gain_db=tx_gain_db))
    if isinstance(receiver, GainControl):
        receiver.apply(replace(rx_settings, rx_gain_db=rx_gain_db))


def _muted_floors(transmitter: GainControl, receiver: Radio) -> list[tuple[float, float, float]]:
    """Measure the noise of each antenna in dBFS with its interval, nothing being sent."""
    transmitter.mute()
    floors = []
    for samples in receiver.receive(QUIET_SAMPLES).antennas:
        quiet = samples.astype(np.complex128)
        reach = 1.96 * 10 / math.log(10) / math.sqrt(quiet.size)
        floor = 10 * math.log10(max(float(np.var(quiet)), 1e-30))
        floors.append((floor, floor - reach, floor + reach))
    return floors


def _measure_points(
    transmitter: Radio, receiver: Radio, layout: FrameLayout, floors: Sequence[tuple[float, float, float]]
) -> list[GainPoint]:
    """Measure what arrives at each antenna; those that hear too little have a point that says so."""
    recording, sent, origin = capture_sounding(transmitter, receiver, layout, FRAMES)
    points = [
        GainPoint(
            transmitter.settings.tx_gain_db,
            receiver.settings.rx_gain_db,
            UNHEARD_DB,
            UNHEARD_DB,
            UNHEARD_DB,
            floor[0],
            alone.health.rms_dbfs,
            alone.health.clipped_fraction > _CLIPPED,
        )
        for alone, floor in zip(apart(recording), floors, strict=True)
    ]
    try:
        soundings = analyse_antennas(recording, layout, sent, origin)
    except CalibrationError:
        return points  # too weak or too strong to be read: the points show which
    return [_with_csnr(point, sounding) for point, sounding in zip(points, soundings, strict=True)]


def _with_csnr(point: GainPoint, sounding: Sounding) -> GainPoint:
    try:
        csnr = measure_channel(sounding)[1]["csnr_db"]
    except CalibrationError:
        return point
    if len(sounding.frames) < 0.8 * FRAMES:  # the faded frames are missing
        return point
    evm = np.mean([10 ** (frame.evm_db / 10) for frame in sounding.frames])
    return replace(
        point,
        csnr_db=csnr.value,
        csnr_low_db=csnr.low,
        csnr_high_db=csnr.high,
        evm_db=10 * math.log10(float(evm)) if evm > 0 else None,
    )


def fit_gain(points: Sequence[GainPoint]) -> dict[str, Value]:
    """Fit the line CSNR = constant + tx_gain_db through the trusted points, and find how far it holds.

    Raises:
        CalibrationError: nothing was heard, or everything was saturated.
    """
    heard = [p for p in points if p.csnr_db > UNHEARD_DB]
    clean = [p for p in heard if not p.saturated]
    if not clean:
        if any(p.saturated for p in points):
            raise CalibrationError("the receiver is saturated at every gain; lower rx_gain_db or put in an attenuator")
        raise CalibrationError(
            f"no signal at any transmit gain ({MIN_FRAMES} frames are needed); raise rx_gain_db, check the antennas, "
            "and that both radios are on one frequency"
        )
    trusted = [p for p in clean if TRUSTED_DB[0] <= p.csnr_db <= TRUSTED_DB[1]]
    if not trusted:
        raise CalibrationError(
            f"the CSNR is {clean[0].csnr_db:.0f}..{clean[-1].csnr_db:.0f} dB at all gains, none between "
            f"{TRUSTED_DB[0]:g} and {TRUSTED_DB[1]:g}; change rx_gain_db, or the attenuation between the radios"
        )
    readable = [p for p in clean if p.csnr_db >= TRUSTED_DB[0]]
    fitted, ceiling = _fit_line(trusted), None
    linear = [p for p in clean if abs(p.csnr_db - p.tx_gain_db - fitted[0]) <= LINEAR_DB]
    for count in range(len(readable), 3, -1):
        # As far up as a line below a ceiling fits; an amplifier in saturation ends that.
        line, found = _fit_ceiling(readable[:count])
        if found is None:
            break
        level = [-10 * math.log10(10 ** (-(line[0] + p.tx_gain_db) / 10) + 10 ** (-found[0] / 10)) for p in readable]
        missed = [abs(p.csnr_db - expected) for p, expected in zip(readable, level, strict=True)]
        if max(missed[:count]) <= LINEAR_DB:
            fitted, ceiling = line, found
            linear = [p for p, miss in zip(readable, missed, strict=True) if miss <= LINEAR_DB]
            break
    method = f"CSNR minus transmit gain, mean of {len(trusted)} settings"
    # Below the weakest frame that can be read nothing but the same line is to be expected.
    weakest = min(p.tx_gain_db for p in points)
    step = max((b.tx_gain_db - a.tx_gain_db for a, b in itertools.pairwise(points)), default=0.0)
    highest = max((p.tx_gain_db for p in linear), default=trusted[-1].tx_gain_db)
    how = f"within {LINEAR_DB:g} dB of the line{' and its ceiling' if ceiling else ''}, in steps of {step:g} dB"
    values = {
        "csnr_at_0_db": Value(*fitted, "dB", method),
        "tx_linear_low_db": Value(weakest, weakest, weakest, "dB", how),
        "tx_linear_high_db": Value(highest, highest, min(highest + step, points[-1].tx_gain_db), "dB", how),
    }
    if ceiling is not None:
        values["csnr_ceiling_db"] = Value(*ceiling, "dB", "what distortion alone leaves, however strong the signal")
        values["csnr_at_0_db"] = Value(*fitted, "dB", f"line below a ceiling, {len(readable)} settings")
    return values


def _fit_line(points: Sequence[GainPoint]) -> tuple[float, float, float]:
    """Return CSNR minus transmit gain in dB, with its interval."""
    constant = np.array([p.csnr_db - p.tx_gain_db for p in points])
    std = np.array([(p.csnr_high_db - p.csnr_low_db) / 3.92 for p in points])
    fitted = weighted_mean(constant, np.maximum(std, 0.01))
    if len(points) == 1:
        return fitted[0], fitted[0] - 1.96 * std[0], fitted[0] + 1.96 * std[0]
    return fitted


def _fit_ceiling(
    points: Sequence[GainPoint],
) -> tuple[tuple[float, float, float], tuple[float, float, float] | None]:
    """Fit 1 / CSNR = noise / gain + distortion: the CSNR at 0 dB of gain without distortion, and its ceiling.

    Both in dB with their intervals; no ceiling where the distortion is not significant.
    """
    y = np.array([10 ** (-p.csnr_db / 10) for p in points])
    std = y * np.array([(p.csnr_high_db - p.csnr_low_db) / 3.92 for p in points]) * math.log(10) / 10
    std = np.maximum(std, 0.0023 * y)
    design = np.array([[10 ** (-p.tx_gain_db / 10), 1.0] for p in points]) / std[:, None]
    scale = np.linalg.norm(design, axis=0)  # the columns differ by orders of magnitude
    normal = np.linalg.inv((design / scale).T @ (design / scale))
    found = normal @ (design / scale).T @ (y / std)
    left = y / std - (design / scale) @ found
    freedom = max(len(points) - 2, 1)
    error = np.sqrt(np.diag(normal) * max(float(left @ left) / freedom, 1.0))
    if found[1] < 3 * error[1] or found[0] <= 0:
        return _fit_line(points), None
    reach = float(scipy.stats.t.ppf(0.975, freedom)) * 10 / math.log(10) * error / found
    level = -10 * np.log10(found / scale)
    line, ceiling = ((float(v), float(v - r), float(v + r)) for v, r in zip(level, reach, strict=True))
    return line, ceiling


def fit_receive_gain(points: Sequence[GainPoint]) -> dict[str, Value]:
    """Find the receive gains whose CSNR is the best one's, nothing saturated.

    Below, the converter's own noise counts; above, it is saturated.

    Returns:
        `rx_linear_low_db` and `rx_linear_high_db`; nothing where no gain could be used.
    """
    clean = [p for p in points if p.csnr_db > UNHEARD_DB and not p.saturated]
    if not clean:
        return {}
    best = max(p.csnr_db for p in clean)
    good = [p.rx_gain_db for p in clean if p.csnr_db >= best - LINEAR_DB]
    step = max((b.rx_gain_db - a.rx_gain_db for a, b in itertools.pairwise(points)), default=0.0)
    low, high = min(good), max(good)
    least, most = points[0].rx_gain_db, points[-1].rx_gain_db
    drive_db = points[0].tx_gain_db
    how = f"CSNR within {LINEAR_DB:g} dB of {best:.1f} dB at tx_gain_db = {drive_db:g}, steps of {step:.3g} dB"
    return {
        "rx_linear_low_db": Value(low, max(low - step, least), low, "dB", how),
        "rx_linear_high_db": Value(high, high, min(high + step, most), "dB", how),
    }
