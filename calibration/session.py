"""One calibration from the first sample to the profile."""

from collections.abc import Mapping, Sequence

from calibration.frontend import measure_frontend
from calibration.gain import measure_gain
from calibration.link import measure_channel, measure_delay, measure_frequency, measure_noise
from calibration.sounding import Progress, analyse_sounding, capture_sounding
from sdr.calibration_profile import CalibrationError, CalibrationProfile, GainPoint, PowerDelayProfile, Value, device_of
from sdr.layout import FrameLayout
from sdr.radio import Radio
from sdr.recording import utc_now

MISSED = 0.1
"""Share of sounding frames that may be missing before the profile warns: those that are lost are the faded ones."""


def radio_name(radio: Radio) -> str:
    """A radio by its address, and by its serial number where it tells one."""
    about = getattr(radio, "about", {})
    serial = next((str(about[key]) for key in ("serial", "hw_serial", "mboard_serial") if about.get(key)), "")
    device = device_of(radio.settings.uri)
    return f"{device} serial {serial}" if serial else device


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
    parts: Sequence[str],
    num_frames: int = 400,
    valid_hours: float = 24.0,
    versions: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> CalibrationProfile:
    """Sound a link and put what was asked for into a profile.

    Args:
        parts: of "frequency", "gain", "channel", "delay", "frontend"; noise and CSNR belong to "channel".

    Raises:
        CalibrationError: the radios don't fit each other, or too little was heard; nothing was measured then.
        RadioError: a radio failed.
    """
    report = progress or (lambda description, done, total: None)
    check_pair(transmitter, receiver)
    values: dict[str, Value] = {}
    warnings: list[str] = []
    pdp: PowerDelayProfile | None = None
    gain: tuple[GainPoint, ...] = ()
    if "gain" in parts:
        gain, planned = measure_gain(transmitter, receiver, layout, progress=report)
        values |= planned
        if set(parts) == {"gain"}:
            return _profile(
                transmitter, receiver, layout, utc_now(), values, None, gain, warnings, valid_hours, versions
            )
    report("sound the channel", 0, 2)
    recording, sent, origin = capture_sounding(transmitter, receiver, layout, num_frames)
    report("sound the channel", 1, 2)
    sounding = analyse_sounding(recording, layout, sent, origin)
    report("sound the channel", 2, 2)
    health = recording.health
    warnings += health.warnings
    missed = 1 - len(sounding.frames) / num_frames
    if missed > MISSED:
        warnings.append(
            f"{100 * missed:.0f} % of the sounding frames were not read, the weakest of them, which biases powers; "
            "raise the gains"
        )
    if "frequency" in parts:
        values |= measure_frequency(sounding)
    if "channel" in parts:
        values |= measure_noise(sounding)
        pdp, found, doubts = measure_channel(sounding)
        values |= found
        warnings += doubts
    if "frontend" in parts:
        report("front end", 0, 1)
        found, doubts = measure_frontend(sounding)
        report("front end", 1, 1)
        values |= found
        warnings += doubts
    if "delay" in parts:
        values |= measure_delay(sounding)
        if not sounding.absolute:
            warnings.append("the transmission repeats without a common clock, so no latency was measured")
    measured = recording.utc or utc_now()
    return _profile(transmitter, receiver, layout, measured, values, pdp, gain, warnings, valid_hours, versions)


def _profile(
    transmitter: Radio,
    receiver: Radio,
    layout: FrameLayout,
    utc: str,
    values: Mapping[str, Value],
    pdp: PowerDelayProfile | None,
    gain: tuple[GainPoint, ...],
    warnings: Sequence[str],
    valid_hours: float,
    versions: Mapping[str, str] | None,
) -> CalibrationProfile:
    settings = receiver.settings
    return CalibrationProfile(
        tx=radio_name(transmitter),
        rx=radio_name(receiver),
        center_hz=settings.center_hz,
        rate_sps=settings.rate_sps,
        measured_utc=utc,
        layout_digest=layout.digest,
        values=values,
        pdp=pdp,
        gain=gain,
        versions=dict(versions or {}),
        warnings=tuple(dict.fromkeys(warnings)),
        valid_hours=valid_hours,
    )
