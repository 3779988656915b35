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

LINEAR_DB = 0.5
"""The linear range ends where the CSNR misses the fitted line by more."""

_CLIPPED = 1e-3
TX_RANGES_DB = {"pluto": (-60.0, 0.0), "uhd": (0.0, 31.5)}
"""Transmit gains that are tried: of a Pluto, what is above its floor; of a USRP, what every daughterboard has."""


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
    progress: Progress | None = None,
) -> tuple[tuple[GainPoint, ...], dict[str, Value]]:
    """Sweep the transmit gain at the receive gain that is set, and fit CSNR = constant + tx_gain_db.

    Args:
        tx_gains_db: gains to try, ascending; a dozen over the radio's range unless given.

    Returns:
        The points, and `csnr_at_0_db` (the fitted constant), `tx_linear_low_db` and `tx_linear_high_db` (tx_gain_db
        whose CSNR is as fitted), `noise_floor_muted_dbfs`.

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
    start = transmitter.settings
    points: list[GainPoint] = []
    try:
        transmitter.mute()
        quiet = receiver.receive(20_000).samples.astype(np.complex128)
        floor_power = float(np.var(quiet))
        reach = 1.96 * 10 / math.log(10) / math.sqrt(quiet.size)
        floor = 10 * math.log10(max(floor_power, 1e-30))
        for index, gain in enumerate(tx_gains_db):
            report("gain plan", index, len(tx_gains_db))
            transmitter.apply(replace(start, tx_gain_db=round(float(gain) * 2) / 2))
            point = _measure_point(transmitter, receiver, layout, floor)
            points.append(point)
        report("gain plan", len(tx_gains_db), len(tx_gains_db))
    finally:
        # Setting a radio mutes it. Where its connection broke, that is the device's own doing.
        with contextlib.suppress(RadioError):
            transmitter.apply(start)
    values = {"noise_floor_muted_dbfs": Value(floor, floor - reach, floor + reach, "dBFS", f"{quiet.size} samples")}
    return tuple(points), values | fit_gain(points)


def _measure_point(transmitter: Radio, receiver: Radio, layout: FrameLayout, floor_dbfs: float) -> GainPoint:
    recording, sent, origin = capture_sounding(transmitter, receiver, layout, FRAMES)
    tx_gain_db, rx_gain_db = transmitter.settings.tx_gain_db, receiver.settings.rx_gain_db
    saturated = recording.health.clipped_fraction > _CLIPPED
    level = recording.health.rms_dbfs
    try:
        sounding = analyse_sounding(recording, layout, sent, origin)
        csnr = measure_channel(sounding)[1]["csnr_db"]
    except CalibrationError:
        # Too weak or too strong to be read: the point tells which.
        return GainPoint(tx_gain_db, rx_gain_db, -99.0, -99.0, -99.0, floor_dbfs, level, saturated)
    if len(sounding.frames) < 0.8 * FRAMES:  # the faded frames are missing
        return GainPoint(tx_gain_db, rx_gain_db, -99.0, -99.0, -99.0, floor_dbfs, level, saturated)
    return GainPoint(tx_gain_db, rx_gain_db, csnr.value, csnr.low, csnr.high, floor_dbfs, level, saturated)


def fit_gain(points: Sequence[GainPoint]) -> dict[str, Value]:
    """The line CSNR = constant + tx_gain_db through the trusted points, and how far it holds.

    Raises:
        CalibrationError: nothing was heard, or everything was saturated.
    """
    heard = [p for p in points if p.csnr_db > -90.0]
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
