"""Measure how near calibrations come to the truth, and how often their intervals hold it, in a simulated air.

    python -m lab.benchmarks.calibration_accuracy --draws 100 --out runs/accuracy

Five kinds of draws, each with everything else at random: fading channels (400 frames), oscillators (layout `air`, 100
frames), front ends (a mixer unbalanced in gain and phase, offset, leakage, amplifier), moving channels (Doppler), and
two antennas (200 frames) whose fading is alike by a known correlation, in every third draw the same.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from calibration.antennas import compare_antennas
from calibration.frequency import measure_frequency
from calibration.frontend import measure_frontend
from calibration.link import measure_channel, measure_delay, measure_noise
from calibration.sounding import Sounding, analyse_antennas, analyse_sounding, capture_sounding
from lab.evaluation.statistics import wilson_interval
from sdr.air.amplifier import apply_rapp
from sdr.air.impairments import apply_awgn, apply_dc, apply_iq_imbalance, exponential_pdp, noise_var_for_csnr
from sdr.calibration_profile import Value
from sdr.files import write_json
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.settings import RadioSettings

PAPER, AIR = load_layout("paper"), load_layout("air")
CENTER_HZ = 2.4e9

#: What, by how much it was missed, and whether the interval holds the truth (None: it has none).
Error = tuple[str, float, bool | None]


def _sound(truth: dict[str, object], layout=PAPER, num_frames: int = 400, spoil=None) -> Sounding:
    settings = RadioSettings(rate_sps=layout.rate_sps, center_hz=CENTER_HZ)
    uri = "sim:" + ",".join(f"{key}={value}" for key, value in truth.items())
    with open_radio(uri, settings, layout) as radio:
        recording, sent, origin = capture_sounding(radio, radio, layout, num_frames)
    if spoil is not None:
        recording = replace(recording, samples=spoil(recording.samples))
    return analyse_sounding(recording, layout, sent, origin)


def _error(name: str, value: Value, truth: float) -> Error:
    return name, value.value - truth, value.low <= truth <= value.high


def draw_channel(rng: np.random.Generator, seed: int) -> Iterator[Error]:
    """Draw an exponential profile, taps anew in every frame."""
    taps, decay, csnr_db = int(rng.integers(2, 11)), float(rng.uniform(1.0, 5.0)), float(rng.uniform(15.0, 28.0))
    delay = int(rng.integers(0, 20_000))
    truth = {"taps": taps, "decay": decay, "csnr_db": csnr_db, "seed": seed, "block_samples": PAPER.frame_samples}
    # Taps change between frames only if a whole number of frames has passed.
    delay -= delay % PAPER.frame_samples
    sounding = _sound({**truth, "delay_samples": delay})
    profile, values, _ = measure_channel(sounding)
    true = exponential_pdp(taps, decay)
    size = min(true.size, len(profile.powers))
    for tap in np.flatnonzero(true[:size] > 0.01):
        held = profile.low[tap] <= true[tap] <= profile.high[tap]
        yield "tap above -20 dB, dB", 10 * math.log10(profile.powers[tap] / true[tap]), held
    yield _error("noise floor, dB", measure_noise(sounding)["noise_floor_dbfs"], _noise_dbfs(csnr_db))
    yield _error("CSNR, dB", values["csnr_db"], csnr_db)
    if "pdp_decay_samples" in values and taps >= 4:
        found = values["pdp_decay_samples"]
        yield "decay, %", 100 * (found.value / decay - 1), found.low <= decay <= found.high
    yield "latency, samples", measure_delay(sounding)["latency_samples"].value - delay, None
    k_factor = values["k_factor"]
    yield "K-factor, 0 in truth", k_factor.value, k_factor.low <= 0


def _noise_dbfs(csnr_db: float) -> float:
    return 10 * math.log10(noise_var_for_csnr(PAPER, csnr_db))


def draw_oscillator(rng: np.random.Generator, seed: int) -> Iterator[Error]:
    """Draw a reference that is off, in a channel that stays."""
    ppm = float(rng.uniform(-15, 15))
    found = measure_frequency(_sound({"csnr_db": 15, "taps": 6, "offset_ppm": ppm, "seed": seed}, AIR, 100))
    yield _error("carrier, ppm", found["carrier_offset_ppm"], ppm)
    yield _error("sampling clock, ppm", found["clock_offset_ppm"], ppm)


def draw_frontend(rng: np.random.Generator, seed: int) -> Iterator[Error]:
    """Draw front ends with everything at once, at 28 dB."""
    saturation, smoothness = float(np.exp(rng.uniform(np.log(0.08), np.log(0.9)))), float(rng.uniform(1.0, 5.0))
    gain_db, phase_deg = float(rng.uniform(-1.0, 1.0)), float(rng.uniform(-8.0, 8.0))
    dc, leakage = 0.02 * complex(*rng.uniform(-0.7, 0.7, 2)), float(rng.uniform(0.005, 0.02))
    truth = {
        "pa_saturation": saturation, "pa_smoothness": smoothness, "lo_leakage": leakage, "taps": 4, "csnr_db": 28.0,
        "cfo_hz": float(rng.uniform(700, 3000)), "seed": seed, "block_samples": PAPER.frame_samples,
    }  # fmt: skip
    front = measure_frontend(
        _sound(truth, num_frames=16, spoil=lambda x: apply_dc(apply_iq_imbalance(x, gain_db, phase_deg), dc))
    )
    values = front.values | front.receivers[0].values
    yield _error("mixer's gain, dB", values["iq_gain_db"], gain_db)
    yield _error("mixer's phase, degrees", values["iq_phase_deg"], phase_deg)
    yield _error("DC offset, full scale", values["dc_i"], dc.real)
    yield _error("DC offset, full scale", values["dc_q"], dc.imag)
    yield _error("leakage, full scale", values["lo_leakage"], leakage)
    if front.curve is None:
        yield "amplifier's curve, %", math.inf, False
        return
    drive = np.linspace(0.01, 0.8, 100).astype(np.complex64)  # frames of this layout reach 0.8
    found, true = (np.abs(apply_rapp(drive, *curve)) for curve in (front.curve, (saturation, smoothness)))
    yield "amplifier's curve, %", 100 * float(np.abs(found / true - 1).max()), None
    for name, actual in (("pa_saturation", saturation), ("pa_smoothness", smoothness)):
        value = values[name]
        yield f"{name}, %", 100 * (value.value / actual - 1), value.low <= actual <= value.high


def draw_motion(rng: np.random.Generator, seed: int) -> Iterator[Error]:
    """Draw scatterers all around, one path: Rayleigh fading of a Doppler frequency."""
    doppler_hz = float(rng.uniform(8.0, 50.0))
    truth = {"tdl": "B", "delay_spread_s": 1e-9, "doppler_hz": doppler_hz, "csnr_db": 25.0, "seed": seed}
    values = measure_channel(_sound(truth))[1]
    if "doppler_hz" in values:
        value = values["doppler_hz"]
        yield "Doppler, %", 100 * (value.value / doppler_hz - 1), value.low <= doppler_hz <= value.high


def draw_antennas(rng: np.random.Generator, seed: int) -> Iterator[Error]:
    """Draw two antennas at 20 dB: the second is mixed of what both hear, so that it is known how alike they are."""
    correlation = 1.0 if seed % 3 == 0 else float(rng.uniform(0, 1))
    gain_db, phase_deg, delay = float(rng.uniform(-6, 6)), float(rng.uniform(-180, 180)), int(rng.integers(0, 4))
    fading = f"taps={int(rng.integers(2, 8))},decay={float(rng.uniform(1, 4))},block_samples={PAPER.frame_samples}"
    with open_radio(f"sim:{fading},seed={seed},rx=2", layout=PAPER) as radio:
        recording, sent, origin = capture_sounding(radio, radio, PAPER, 200)
    one, other = recording.antennas
    factor = 10 ** (gain_db / 20) * np.exp(1j * math.radians(phase_deg))
    mixed = factor * (correlation * one + math.sqrt(1 - correlation**2) * other)
    late = np.concatenate([np.zeros(delay), mixed[: mixed.size - delay]]).astype(np.complex64)
    noise_var = noise_var_for_csnr(PAPER, 20.0)
    heard = apply_awgn(one, noise_var, rng), apply_awgn(late, noise_var * abs(factor) ** 2, rng)
    both = replace(recording, samples=heard[0], others=heard[1:])
    found = compare_antennas(analyse_antennas(both, PAPER, sent, origin))[1]
    yield _error("gain between antennas, dB", found["relative_gain_db"], gain_db)
    if "fading_correlation" in found:
        value = found["fading_correlation"]
        # Exactly alike is the end of the interval's range.
        held = value.low <= correlation <= value.high if correlation < 1 else None
        yield "correlation of fading", value.value - correlation, held
    if correlation == 1 and "relative_phase_deg" in found:
        phase = found["relative_phase_deg"]
        turn = 360 * round((phase.value - phase_deg) / 360)
        yield _error("phase between antennas that hear the same, degrees", phase, phase_deg + turn)
        yield _error("delay between them, samples", found["relative_delay_samples"], delay)


#: Error within which the quantities that have a goal are to stay.
TOLERANCES = {
    "tap above -20 dB, dB": 0.5, "noise floor, dB": 0.3, "CSNR, dB": 0.2, "latency, samples": 0.0, "carrier, ppm": 0.05,
    "sampling clock, ppm": 0.05, "mixer's gain, dB": 0.1, "mixer's phase, degrees": 0.5, "amplifier's curve, %": 2.0,
}  # fmt: skip
KINDS: dict[str, Callable[[np.random.Generator, int], Iterator[Error]]] = {
    "channel": draw_channel,
    "oscillator": draw_oscillator,
    "frontend": draw_frontend,
    "motion": draw_motion,
    "two-antennas": draw_antennas,
}


def run(draws: int, kinds: list[str], seed: int = 0) -> list[dict[str, object]]:
    """Return one row a quantity: its number, rms and quantiles of |error|, share within its goal, coverage.

    Args:
        draws: of each kind.
        kinds: of `KINDS`.
        seed: of the draws.
    """
    errors: dict[str, list[float]] = {}
    held: dict[str, list[bool]] = {}
    for kind in kinds:
        rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
        for draw in range(draws):
            for name, error, inside in KINDS[kind](rng, 10_000 * seed + draw):
                errors.setdefault(name, []).append(error)
                if inside is not None:
                    held.setdefault(name, []).append(inside)
    rows: list[dict[str, object]] = []
    for name, values in errors.items():
        size, inside = np.abs(values), held.get(name)
        row: dict[str, object] = {"what": name, "n": size.size, "rms": float(np.sqrt(np.mean(size**2)))}
        row |= {f"q{q:g}": float(np.quantile(size, q / 100)) for q in (50, 95, 100)}
        if name in TOLERANCES:
            row |= {"goal": TOLERANCES[name], "within": float(np.mean(size <= TOLERANCES[name]))}
        if inside is not None:
            row |= {"coverage": float(np.mean(inside)), "coverage_95": wilson_interval(sum(inside), len(inside))}
        rows.append(row)
    return rows


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--kind", action="append", dest="kinds", choices=sorted(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    given = parser.parse_args()
    rows = run(given.draws, given.kinds or list(KINDS), given.seed)
    write_json(given.out / "accuracy.json", rows)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
