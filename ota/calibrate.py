"""`ota calibrate`: measure a pair of radios into a calibration profile."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.console import emit_json, note, print_table, progress_bar

if TYPE_CHECKING:
    from sdr.calibration_profile import CalibrationProfile


def calibrate(
    radio: str = typer.Option(..., help="Radio that transmits, such as sim:csnr_db=20,taps=8 or pluto:usb:."),
    rx: str | None = typer.Option(None, help="Radio that receives; default: the one that transmits."),
    out: Path = typer.Option(..., help="Profile to write, .toml or .json."),
    parts: list[str] | None = typer.Option(
        None,
        "--part",
        help="frequency, gain, channel, delay or frontend; repeatable. Default: all that the radios can do.",
    ),
    layout: str = typer.Option("paper", help="Frame layout to sound with; the one that will be used."),
    frames: int = typer.Option(400, min=16, max=20000, help="Frames to sound with."),
    watch_s: float = typer.Option(
        0.0, min=0.0, max=86400.0, help="Watch the carrier so long, for its drift with time and temperature."
    ),
    tone_hz: float | None = typer.Option(
        None, min=1.0, help="A reference tone of this true frequency is on the air: compare the receiver with it."
    ),
    center_hz: float = typer.Option(0.0, min=0.0, help="Carrier frequency; default: the radio's own."),
    valid_hours: float = typer.Option(24.0, min=0.01, help="How long the profile is taken for fresh."),
    force: bool = typer.Option(False, "--force", help="Replace a profile of this name."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Measure a pair of radios and the air between them: known frames are sent, what arrives is compared.

    The profile goes to `ota decode`, `ota demo` and `ota transmit` as `--calibration`. It is written when everything is
    measured, with its plots beside it as a .png; an interrupted run leaves nothing. Real transmitters end muted.

    \b
    Examples:
      ota calibrate --radio sim:csnr_db=20,taps=8,block_samples=4352 --out runs/sim.toml
      ota calibrate --radio pluto:ip:192.168.2.1,tx_gain_db=-20,rx_gain_db=20 --out runs/pluto.toml --json
      ota calibrate --radio pluto:ip:192.168.2.1,rx=2,rx_gain_db=20 --out runs/both.toml
      ota calibrate --radio pluto:usb: --rx uhd:type=b200 --part frequency --watch-s 600 --out runs/pair.toml
    """
    from calibration.session import PARTS
    from sdr.calibration_profile import CalibrationError, check_profile_path
    from sdr.errors import ConfigError, did_you_mean
    from sdr.outputs import check_free, claim

    check_profile_path(out)
    for part in parts or ():
        if part not in PARTS:
            raise ConfigError(f"There is nothing called {part!r} to calibrate; {did_you_mean(part, PARTS)}")
    if "file:" in (radio[:5], (rx or "")[:5]):
        raise CalibrationError("a file can't be calibrated; give the radio that recorded it")
    if (watch_s or tone_hz is not None) and parts and "frequency" not in parts:
        raise ConfigError("--watch-s and --tone-hz belong to the part 'frequency'. Add --part frequency.")
    wanted = CalibrationOptions(radio, rx, layout, center_hz, parts, frames, valid_hours, watch_s, tone_hz)
    check_free([out, out.with_suffix(".png")], force)
    with claim(out):
        check_free([out, out.with_suffix(".png")], force)
        _calibrate(wanted, out, force, json_output)


@dataclass(frozen=True)
class CalibrationOptions:
    """What is measured, over which radios.

    Attributes:
        radio: that transmits, a URI.
        rx: that receives; None: the same.
        layout: frame layout to sound with.
        center_hz: carrier frequency; 0: the radio's own.
        parts: of `calibration.session.PARTS`; None: all that the radios can do.
        frames: to sound with.
        valid_hours: how long the profile is taken for fresh.
        watch_s: how long the carrier is watched.
        tone_hz: true frequency of a reference tone on the air; None: there is none.
    """

    radio: str
    rx: str | None
    layout: str
    center_hz: float
    parts: list[str] | None
    frames: int
    valid_hours: float
    watch_s: float
    tone_hz: float | None


def _calibrate(wanted: CalibrationOptions, out: Path, force: bool, json_output: bool) -> None:
    from calibration.figures import draw_profile
    from sdr.calibration_profile import save_profile
    from sdr.outputs import landing

    profile = _measure(wanted)
    with landing(out.with_suffix(""), (out.suffix, ".png"), force) as stem:
        written = save_profile(profile, stem.with_name(stem.name + out.suffix))
        plots = draw_profile(profile, stem.with_name(stem.name + ".png"))
    for warning in profile.warnings:
        note(f"warning: {warning}")
    verdict = "usable" if not profile.warnings else "usable, with the warnings above"
    if json_output:
        about = {"profile": str(written), "plots": str(plots), "digest": profile.digest, "verdict": verdict}
        emit_json({**about, **asdict(profile)})
        return
    measured = {"Calibration": profile.values}
    measured |= {f"Antenna {number}": own.values for number, own in enumerate(profile.antennas)}
    for title, values in measured.items():
        rows = [
            [name, f"{v.value:.6g}", f"{v.low:.6g} .. {v.high:.6g}", v.unit, v.method]
            for name, v in sorted(values.items())
        ]
        print_table(f"{title} (95 % intervals)", ["value", "", "interval", "unit", "method"], rows)
    note(f"{verdict}: {written}, digest {profile.digest}; plots: {plots}")


def _measure(wanted: CalibrationOptions) -> CalibrationProfile:
    """Return the profile of a pair of radios; whatever happens, the transmitter ends muted."""
    from calibration.session import CalibrationPlan, measure_link
    from lab.versions import versions
    from sdr.layout import load_layout
    from sdr.radios.open import open_radio
    from sdr.settings import RadioSettings

    layout = load_layout(wanted.layout)
    settings = RadioSettings(rate_sps=layout.rate_sps, center_hz=wanted.center_hz)
    with ExitStack() as stack:
        progress = stack.enter_context(progress_bar())
        # Opening a radio mutes its transmitter; closing it does so again.
        receiver = stack.enter_context(open_radio(wanted.rx or wanted.radio, settings, layout))
        transmitter = receiver if wanted.rx is None else stack.enter_context(open_radio(wanted.radio, settings, layout))
        return measure_link(
            transmitter,
            receiver,
            layout,
            CalibrationPlan(wanted.parts, wanted.frames, wanted.valid_hours, wanted.watch_s, wanted.tone_hz),
            versions(),
            progress,
        )
