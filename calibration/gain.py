"""The gain plan: noise floor, linear range and saturation of a pair of radios, and the CSNR at every transmit gain."""

import contextlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from calibration.link import measure_channel, weighted_mean
from calibration.sounding import MIN_FRAMES, Progress, analyse_sounding, capture_sounding
from sdr.calibration_profile import CalibrationError, GainPoint, Value
from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.radio import Radio
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
TX_RANGES_DB = {"pluto": (-60.0, 0.0), "uhd": (0.0, 31.5)}
"""Transmit gains that are tried: of a Pluto, what is above its floor; of a USRP, what every daughterboard has."""

RX_RANGES_DB = {"pluto": (0.0, 60.0), "uhd": (0.0, 31.5)}
"""Receive gains that are tried, likewise."""


@runtime_checkable
class GainControl(Protocol):
    """A radio whose gains can be set while it is open."""

    def apply(self, settings: RadioSettings) -> None: ...

    def mute(self) -> None: ...


def measure_gain(
    transmitter: Radio,
    receiver: Radio,
    layout: FrameLayout,
    tx_gains_db: Sequence[float] | None = None,
    rx_gains_db: Sequence[float] | None = None,
    progress: Progress | None = None,
) -> tuple[tuple[GainPoint, ...], dict[str, Value]]:
    """Sweep the transmit gain at the receive gain that is set, and fit CSNR = constant + tx_gain_db; then sweep that.

    Args:
        tx_gains_db: gains to try, ascending; a dozen over the radio's range unless given.
        rx_gains_db: the same of the receiver, where it has gains to set; none if empty.

    Returns:
        The points, and `csnr_at_0_db` (the fitted constant), `tx_linear_low_db` and `tx_linear_high_db` (tx_gain_db
        whose CSNR is as fitted), `noise_floor_muted_dbfs`, and what `fit_receive_gain` finds.

    Raises:
        CalibrationError: a radio without gains, nothing heard at any gain, or saturated at all of them.
    """
    report = progress or (lambda description, done, total: None)
    if not isinstance(transmitter, GainControl):
        raise CalibrationError(
            f"radio '{transmitter.settings.uri}' has no gains to plan; leave --part gain out, "
            "or use a pluto: or uhd: radio"
        )
    scheme = transmitter.settings.uri.partition(":")[0]
    if tx_gains_db is None:
        low, high = TX_RANGES_DB.get(scheme, (0.0, 30.0))
        tx_gains_db = list(np.linspace(low, high, 13))
    start, heard_at = transmitter.settings, receiver.settings
    sweeps_rx = isinstance(receiver, GainControl) and rx_gains_db is None
    if rx_gains_db is None:
        low, high = RX_RANGES_DB.get(receiver.settings.uri.partition(":")[0], (0.0, 30.0))
        rx_gains_db = list(np.linspace(low, high, RX_STEPS)) if sweeps_rx else []
    total = len(tx_gains_db) + len(rx_gains_db)
    points: list[GainPoint] = []
    by_receiver: list[GainPoint] = []
    try:
        floor = _muted_floor(transmitter, receiver)
        for gain in tx_gains_db:
            report("gain plan", len(points), total)
            transmitter.apply(replace(start, tx_gain_db=_step(gain)))
            points.append(_measure_point(transmitter, receiver, layout, floor[0]))
        values = fit_gain(points)
        # The receiver's range is looked for at the strongest setting that is still on the line.
        drive_db = values["tx_linear_high_db"].value
        for gain in rx_gains_db:
            report("gain plan", len(points) + len(by_receiver), total)
            _set_gains(transmitter, receiver, start, heard_at, drive_db, _step(gain))
            level = _muted_floor(transmitter, receiver)[0]
            by_receiver.append(_measure_point(transmitter, receiver, layout, level))
        report("gain plan", total, total)
    finally:
        # Setting a radio mutes it. Where its connection broke, that is the device's own doing.
        with contextlib.suppress(RadioError):
            _set_gains(transmitter, receiver, start, heard_at, start.tx_gain_db, heard_at.rx_gain_db)
    values["noise_floor_muted_dbfs"] = Value(*floor, "dBFS", f"{QUIET_SAMPLES} samples, transmitter muted")
    return (*points, *by_receiver), values | fit_receive_gain(by_receiver)


def _step(gain_db: float) -> float:
    """The next of the steps of 1/2 dB, which all radios have."""
    return round(float(gain_db) * 2) / 2


def _set_gains(
    transmitter: GainControl,
    receiver: Radio,
    tx_settings: RadioSettings,
    rx_settings: RadioSettings,
    tx_gain_db: float,
    rx_gain_db: float,
) -> None:
    """Both gains, whether the two are one radio or not; the transmitter is muted."""
    if transmitter is receiver:
        transmitter.apply(replace(tx_settings, tx_gain_db=tx_gain_db, rx_gain_db=rx_gain_db))
        return
    transmitter.apply(replace(tx_settings, tx_gain_db=tx_gain_db))
    if isinstance(receiver, GainControl):
        receiver.apply(replace(rx_settings, rx_gain_db=rx_gain_db))


def _muted_floor(transmitter: GainControl, receiver: Radio) -> tuple[float, float, float]:
    """Noise in dBFS with its interval, nothing being sent."""
    transmitter.mute()
    quiet = receiver.receive(QUIET_SAMPLES).samples.astype(np.complex128)
    reach = 1.96 * 10 / math.log(10) / math.sqrt(quiet.size)
    floor = 10 * math.log10(max(float(np.var(quiet)), 1e-30))
    return floor, floor - reach, floor + reach


def _measure_point(transmitter: Radio, receiver: Radio, layout: FrameLayout, floor_dbfs: float) -> GainPoint:
    recording, sent, origin = capture_sounding(transmitter, receiver, layout, FRAMES)
    saturated = recording.health.clipped_fraction > _CLIPPED
    point = GainPoint(
        transmitter.settings.tx_gain_db,
        receiver.settings.rx_gain_db,
        UNHEARD_DB,
        UNHEARD_DB,
        UNHEARD_DB,
        floor_dbfs,
        recording.health.rms_dbfs,
        saturated,
    )
    try:
        sounding = analyse_sounding(recording, layout, sent, origin)
        csnr = measure_channel(sounding)[1]["csnr_db"]
    except CalibrationError:
        return point  # too weak or too strong to be read: the point tells which
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
    """The line CSNR = constant + tx_gain_db through the trusted points, and how far it holds.

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
    constant = np.array([p.csnr_db - p.tx_gain_db for p in trusted])
    std = np.array([(p.csnr_high_db - p.csnr_low_db) / 3.92 for p in trusted])
    fitted = weighted_mean(constant, np.maximum(std, 0.01))
    if len(trusted) == 1:
        fitted = (fitted[0], fitted[0] - 1.96 * std[0], fitted[0] + 1.96 * std[0])
    method = f"CSNR minus transmit gain, mean of {len(trusted)} settings"
    linear = [p.tx_gain_db for p in clean if abs(p.csnr_db - p.tx_gain_db - fitted[0]) <= LINEAR_DB]
    # Below the weakest frame that can be read nothing but the same line is to be expected.
    weakest = min(p.tx_gain_db for p in points)
    step = max((b.tx_gain_db - a.tx_gain_db for a, b in itertools.pairwise(points)), default=0.0)
    highest = max(linear, default=trusted[-1].tx_gain_db)
    how = f"within {LINEAR_DB:g} dB of the line, in steps of {step:g} dB"
    return {
        "csnr_at_0_db": Value(fitted[0], fitted[1], fitted[2], "dB", method),
        "tx_linear_low_db": Value(weakest, weakest, weakest, "dB", how),
        "tx_linear_high_db": Value(highest, highest, min(highest + step, points[-1].tx_gain_db), "dB", how),
    }


def fit_receive_gain(points: Sequence[GainPoint]) -> dict[str, Value]:
    """`rx_linear_low_db` and `rx_linear_high_db`: receive gains whose CSNR is the best one's, nothing saturated.

    Below, the converter's own noise counts; above, it is saturated. Nothing where no gain could be used.
    """
    clean = [p for p in points if p.csnr_db > UNHEARD_DB and not p.saturated]
    if not clean:
        return {}
    best = max(p.csnr_db for p in clean)
    good = [p.rx_gain_db for p in clean if p.csnr_db >= best - LINEAR_DB]
    step = max((b.rx_gain_db - a.rx_gain_db for a, b in itertools.pairwise(points)), default=0.0)
    low, high = min(good), max(good)
    least, most = points[0].rx_gain_db, points[-1].rx_gain_db
    how = f"CSNR within {LINEAR_DB:g} dB of the best, {best:.1f} dB, in steps of {step:.3g} dB"
    return {
        "rx_linear_low_db": Value(low, max(low - step, least), low, "dB", how),
        "rx_linear_high_db": Value(high, high, min(high + step, most), "dB", how),
    }
