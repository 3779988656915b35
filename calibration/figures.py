"""Draw a calibration profile: one picture of everything that it holds."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sdr.air.amplifier import apply_rapp
from sdr.calibration_profile import BandPoint, CalibrationProfile
from sdr.files import replacing

_FLOOR_DB = -60.0
_COLOUR, _OTHER = "#1f77b4", "#d62728"


def draw_profile(profile: CalibrationProfile, path: Path) -> Path:
    """Write a picture of a profile as PNG, under its final name only when it is complete.

    Returns:
        The path.
    """
    panels = [] if profile.antennas else _own_panels(profile)
    if profile.antennas:
        panels.append(("antennas", lambda axes: _draw_antennas(axes, profile)))
    if profile.frequency:
        panels.append(("carrier offset over time", lambda axes: _draw_frequency(axes, profile)))
    if profile.get("pa_saturation") is not None:
        panels.append(("amplifier", lambda axes: _draw_amplifier(axes, profile)))
    if profile.spectrum:
        panels.append(("spectrum as sent, over the band's mean", lambda axes: _draw_band(axes, profile.spectrum)))
    for number in range(len(profile.antennas)):
        own = _own_panels(profile.antenna(number))
        panels += [(f"antenna {number}: {title}", draw) for title, draw in own]
    columns = min(max(len(panels), 1), 3)
    rows = -(-max(len(panels), 1) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    figure.suptitle(f"{profile.tx} to {profile.rx}, {profile.measured_utc}, digest {profile.digest}", fontsize=8)
    for index, (title, draw) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.set_title(title, fontsize=10)
        draw(axes)
        axes.grid(alpha=0.3)
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
    return path


def _own_panels(profile: CalibrationProfile) -> list[tuple[str, Callable[[Axes], None]]]:
    """Return title and drawing of what is an antenna's own, of the profile of one antenna."""
    panels: list[tuple[str, Callable[[Axes], None]]] = []
    if profile.pdp is not None:
        panels.append(("power delay profile", lambda axes: _draw_pdp(axes, profile)))
    if any(point.csnr_db > _FLOOR_DB for point in profile.gain):
        panels.append(("gain plan", lambda axes: _draw_gain(axes, profile)))
    if profile.image:
        panels.append(("mixer's image, over the wanted signal", lambda axes: _draw_band(axes, profile.image)))
    return panels


def _draw_antennas(axes: Axes, profile: CalibrationProfile) -> None:
    """Draw the levels of each antenna, and say in words how it compares with the first."""
    numbers = np.arange(len(profile.antennas))
    for name, label, marker in (
        ("csnr_db", "CSNR, dB", "o"),
        ("noise_floor_dbfs", "noise floor, dBFS", "s"),
        ("image_rejection_db", "image rejection, dB", "^"),
    ):
        values = [
            (number, own.values[name])
            for number, own in zip(numbers, profile.antennas, strict=True)
            if name in own.values
        ]
        if values:
            x, y = np.array([n for n, _ in values]), np.array([v.value for _, v in values])
            reach = np.array([[v.value - v.low for _, v in values], [v.high - v.value for _, v in values]])
            axes.errorbar(x, y, yerr=reach, fmt=marker, capsize=2, label=label)
    against = {
        "relative_gain_db": "{:+.2f} dB", "relative_phase_deg": "{:+.1f} degrees",
        "relative_delay_samples": "{:+.3f} samples", "fading_correlation": "correlation {:.2f}",
    }  # fmt: skip
    lines = []
    for number, own in zip(numbers, profile.antennas, strict=True):
        told = [text.format(own.values[name].value) for name, text in against.items() if name in own.values]
        lines += [f"{number} against 0: {', '.join(told)}"] if told else []
    axes.set(xlabel="\n".join(["antenna", *lines]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.3, y=0.1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _db(power: Sequence[float]) -> np.ndarray:
    return 10 * np.log10(np.maximum(np.asarray(power, dtype=np.float64), 10 ** (_FLOOR_DB / 10)))


def _bars(axes: Axes, x: np.ndarray, value: np.ndarray, low: np.ndarray, high: np.ndarray, label: str = "") -> None:
    errors = np.maximum(np.stack([value - low, high - value]), 0.0)
    axes.errorbar(x, value, yerr=errors, fmt=".", capsize=2, color=_COLOUR, label=label)


def _draw_pdp(axes: Axes, profile: CalibrationProfile) -> None:
    assert profile.pdp is not None
    taps = np.arange(len(profile.pdp.powers))
    value, low, high = (_db(getattr(profile.pdp, name)) for name in ("powers", "low", "high"))
    _bars(axes, taps, value, low, high, f"{profile.pdp.draws:.0f} channels")
    decay = profile.get("pdp_decay_samples")
    if decay is not None:
        fitted = np.exp(-taps / decay)
        axes.plot(taps, _db(fitted / fitted.sum()), color=_OTHER, label=f"exponential, {decay:.2f} samples")
    axes.set(xlabel="samples behind the first path", ylabel="dB of all taps", ylim=(max(low.min(), -40) - 3, 3))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize=7)


def _draw_frequency(axes: Axes, profile: CalibrationProfile) -> None:
    columns = ("seconds", "carrier_offset_hz", "low_hz", "high_hz")
    x, value, low, high = (np.array([getattr(p, name) for p in profile.frequency]) for name in columns)
    _bars(axes, x, value, low, high)
    axes.set(xlabel="seconds", ylabel="Hz")
    for end, colour in (("tx", _OTHER), ("rx", "#2ca02c")):
        degrees = [getattr(p, f"{end}_temperature_c") for p in profile.frequency]
        if all(t is not None for t in degrees) and np.ptp(degrees) > 0:
            axes.twinx().plot(x, degrees, color=colour, lw=1)


def _draw_gain(axes: Axes, profile: CalibrationProfile) -> None:
    rx_gain_db = profile.gain[0].rx_gain_db
    swept = [p for p in profile.gain if p.rx_gain_db == rx_gain_db and p.csnr_db > _FLOOR_DB]
    x, value, low, high = (
        np.array([getattr(p, name) for p in swept]) for name in ("tx_gain_db", "csnr_db", "csnr_low_db", "csnr_high_db")
    )
    _bars(axes, x, value, low, high, "CSNR")
    evm = [(p.tx_gain_db, -p.evm_db) for p in swept if p.evm_db is not None]
    axes.plot(*zip(*evm, strict=True), "x", color="0.4", label="error vector, negated")
    constant = profile.get("csnr_at_0_db")
    if constant is not None and x.size:
        axes.plot(x, x + constant, color=_OTHER, lw=1, label=f"tx_gain_db + {constant:.2f}")
    others = [(p.rx_gain_db, p.csnr_db) for p in profile.gain if p.rx_gain_db != rx_gain_db and p.csnr_db > _FLOOR_DB]
    axes.set(xlabel=f"tx_gain_db, at rx_gain_db = {rx_gain_db:g}", ylabel="dB")
    if others:
        above = axes.twiny()
        above.plot(*zip(*others, strict=True), "s", ms=3, color="#2ca02c")
        above.set_xlabel("rx_gain_db (squares)", fontsize=7)
    axes.legend(fontsize=7)


def _draw_amplifier(axes: Axes, profile: CalibrationProfile) -> None:
    saturation, smoothness = profile.values["pa_saturation"], profile.get("pa_smoothness") or 1.0
    drive = np.linspace(1e-3, 1.0, 200)
    for level, width in ((saturation.value, 1.5), (saturation.low, 0.5), (saturation.high, 0.5)):
        bent = np.abs(apply_rapp(drive.astype(np.complex64), level, smoothness))
        axes.plot(drive, bent, color=_COLOUR, lw=width)
    axes.plot(drive, drive, ":", color="0.5")
    axes.set(xlabel="sent, full scale 1", ylabel="let out (AM-AM; the phase is kept)", ylim=(0, 1))


def _draw_band(axes: Axes, points: Sequence[BandPoint]) -> None:
    columns = ("offset_hz", "level_db", "low_db", "high_db")
    x, value, low, high = (np.array([getattr(p, name) for p in points]) for name in columns)
    _bars(axes, x / 1e3, value, np.maximum(low, _FLOOR_DB - 20), high)
    axes.set(xlabel="kHz beside the carrier", ylabel="dB", ylim=(max(value.min() - 5, _FLOOR_DB), value.max() + 5))
