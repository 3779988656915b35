"""Measure front ends from known frames: the receiver's mixer and offset, the transmitter's leakage and amplifier.

In every frame, with its carrier offset f, what was received is

    y[n] = s[n] + rho conj(s[n]) + dc + leak[n] + rho conj(leak[n])
    s[n] = e^(2 pi i f n / rate) sum_l h[l] pa(x[n - l])

so given the amplifier's curve, everything is linear in h, rho conj(h), dc, and the leaking oscillator's level and
image. The curve is the Rapp model's two numbers, found by least squares over all frames. Several antennas hear the same
amplifier and leakage, and have a mixer and an offset each.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

from calibration.link import tap_statistics, weighted_mean
from calibration.sounding import Sounding, sounding_frames
from sdr.air.amplifier import apply_rapp
from sdr.calibration_profile import BandPoint, Value
from sdr.modem import modulate

FRAMES = 16
"""Frames that are fitted: sample by sample, which is slow."""

FULL_SCALE = 0.999
"""Components from here on are taken for cut."""

BANDS = 8
"""Parts of the band in which the image is measured; the taps of 16 frames resolve about a dozen."""

REACH = 1.5
"""Rms errors of a complex ratio that hold 95 % of its magnitudes: Student's 2.13 for 16 frames over the root of two, as
half of the error turns the phase only."""

LINEAR = 20.0
"""Saturation in units of the largest sample from which on an amplifier counts as linear."""

_RAPP_LIMITS = ((math.log(0.03), math.log(LINEAR)), (math.log(1.0), math.log(12.0)))


@dataclass(frozen=True)
class ReceiverFrontEnd:
    """Measurements of the front end behind one antenna.

    Attributes:
        values: by name.
        image: the mixer's image over the wanted signal, across the band.
    """

    values: dict[str, Value]
    image: tuple[BandPoint, ...]


@dataclass(frozen=True)
class FrontEnd:
    """Measurements of a transmitter's front end, and of those of a receiver's antennas.

    Attributes:
        values: of the transmitter, by name.
        receivers: one for each antenna.
        curve: saturation and smoothness of the amplifier, None where it counts as linear.
        warnings: what a user should know.
    """

    values: dict[str, Value]
    receivers: tuple[ReceiverFrontEnd, ...]
    curve: tuple[float, float] | None
    warnings: list[str]


def measure_frontend(*soundings: Sounding) -> FrontEnd:
    """Measure DC offset, mixer imbalance, image rejection, oscillator leakage, and the amplifier's curve.

    Args:
        soundings: the same frames at each antenna.
    """
    fits = [_Fit(sounding) for sounding in soundings]
    peak = max(fit.peak for fit in fits)
    warnings = []
    start = np.array([math.log(2.0), math.log(2.0)])
    # Everything in units of the first antenna's noise.
    noise = [float(sounding.error_var.mean()) for sounding in soundings]
    weights = [math.sqrt(noise[0] / each) for each in noise]

    def residual(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        left = [weight * fit.residual(parameters, peak) for weight, fit in zip(weights, fits, strict=True)]
        return np.concatenate(left)

    best = scipy.optimize.least_squares(
        residual, start, bounds=tuple(zip(*_RAPP_LIMITS, strict=True)), diff_step=1e-3, max_nfev=25
    )
    saturation_log, smoothness_log = (float(v) for v in best.x)
    freedom = max(best.fun.size - best.x.size, 1)
    covariance = np.linalg.pinv(best.jac.T @ best.jac) * float(best.fun @ best.fun) / freedom
    reach = 1.96 * np.sqrt(np.maximum(np.diag(covariance), 0.0))
    values: dict[str, Value] = {}
    how = f"Rapp model, least squares over {sum(fit.count for fit in fits)} frames"
    straight = residual(np.array([math.log(LINEAR), 0.0]))
    # Twice the gain in log-likelihood: a chi-square of two degrees of freedom exceeds 14 once in a thousand.
    gained = freedom * math.log(float(straight @ straight) / float(best.fun @ best.fun))
    curve = (math.exp(saturation_log) * peak, math.exp(smoothness_log))
    if gained > 14 and saturation_log < math.log(LINEAR) - 0.05:
        for name, log, scale, error, unit in (
            ("pa_saturation", saturation_log, peak, float(reach[0]), "full scale"),
            ("pa_smoothness", smoothness_log, 1.0, float(min(reach[1], 3.0)), ""),
        ):
            center = math.exp(log) * scale
            values[name] = Value(center, center * math.exp(-error), center * math.exp(error), unit, how)
    else:
        warnings.append("no compression was seen: the transmitter's amplifier counts as linear at this drive")
        curve = None
    linear = [fit.linear(best.x, peak) for fit in fits]
    values["lo_leakage"] = _leakage(np.concatenate([leaks for _, leaks in linear]))
    turns = np.concatenate([fit.turns for fit in fits])
    if np.mean(np.abs(turns)) * soundings[0].layout.frame_samples < 0.5:
        warnings.append(
            "both oscillators run alike, so the transmitter's leakage can't be told from the receiver's DC offset"
        )
    return FrontEnd(values, tuple(receiver for receiver, _ in linear), curve, warnings)


def _leakage(leaks: NDArray[np.complex128]) -> Value:
    """Return the level of the leaking oscillator, from what (n,) frames say of it."""
    level = float(np.abs(np.median(leaks.real) + 1j * np.median(leaks.imag)))
    error = 1.96 * 1.25 * float(np.std(np.abs(leaks - leaks.mean()))) / math.sqrt(leaks.size)
    return Value(level, max(level - error, 0.0), level + error, "full scale", _method(leaks.size))


def _method(frames: int) -> str:
    return f"least squares with the channel, {frames} frames"


def _cut(sounding: Sounding) -> NDArray[np.bool_]:
    """Return (F,) whether a frame holds samples at the converter's full scale."""
    samples = sounding.recording.samples
    span = sounding.layout.frame_samples
    parts = (np.abs(samples[f.start : f.start + span].view(np.float32)).max(initial=0.0) for f in sounding.frames)
    return np.array([peak >= FULL_SCALE for peak in parts])


class _Fit:
    """The linear part of the model, over some frames of a sounding."""

    def __init__(self, sounding: Sounding) -> None:
        layout = sounding.layout
        stats = tap_statistics(sounding)
        # Strong frames say most, unless the converter cut them; a few taps beyond what stands out of the noise take up
        # fractional delays.
        power = np.sum(np.abs(sounding.taps) ** 2, axis=1)
        power = np.where(_cut(sounding), 0.0, power)
        rows = np.sort(np.argsort(power)[::-1][:FRAMES])
        self.before, self.length = 4, stats.last - stats.first + 9
        contents = {c.header.frame_number: c for c in sounding_frames(layout, int(sounding.numbers.max()) + 1)}
        occupied = layout.num_symbols * layout.symbol_samples
        samples = sounding.recording.samples
        self.sent: list[NDArray[np.complex128]] = []
        self.received: list[NDArray[np.complex128]] = []
        turns = []
        slope = sounding.sfo_ppm * 1e-6
        for row in rows:
            first = round(sounding.axis_zero + stats.first + float(sounding.place[row]) * (1 - slope)) - self.before
            # Not beyond the last symbol: echoes come through what may be another channel by then.
            size = occupied
            if first < 0 or first + size > samples.size:
                continue
            sent = modulate(contents[int(sounding.numbers[row])], layout)[:occupied]
            self.sent.append(sent.astype(np.complex128))
            self.received.append(samples[first : first + size].astype(np.complex128))
            turns.append(sounding.frames[row].cfo_hz / layout.rate_sps)
        self.count = len(self.sent)
        self.rate_sps = layout.rate_sps
        self.turns = np.array(turns)
        self.peak = max(float(np.abs(s).max()) for s in self.sent)
        self._sharpen()

    def _sharpen(self) -> None:
        """Improve the carrier offsets, twice, by the phase that a linear fit leaves over each frame."""
        for _ in range(2):
            for row in range(self.count):
                wanted = self._model(row, self.sent[row])[0]
                y = self.received[row]
                pieces = np.array_split(np.arange(y.size), 16)
                sums = np.array([np.vdot(wanted[p], y[p]) for p in pieces])
                middle = np.array([float(p.mean()) for p in pieces])
                phase = np.angle(sums * np.conj(sums.sum()))
                weight = np.abs(sums)
                middle = middle - np.sum(weight * middle) / weight.sum()
                self.turns[row] += float(np.sum(weight * middle * phase) / np.sum(weight * middle**2)) / (2 * np.pi)

    def _model(
        self, row: int, driven: NDArray[np.complex128]
    ) -> tuple[NDArray[np.complex128], NDArray[np.complex128], NDArray[np.complex128]]:
        """Fit one frame: return (n,) the wanted part, (n,) what is left over, and (2 L + 3,) coefficients."""
        y, taps = self.received[row], self.length
        turn = np.exp(2j * np.pi * self.turns[row] * np.arange(y.size))
        padded = np.concatenate([np.zeros(taps - 1), driven])
        windows = np.lib.stride_tricks.sliding_window_view(padded, taps)[:, ::-1][: y.size]
        wanted = windows * turn[:, None]
        beside = np.stack([np.ones(y.size), turn.conj(), turn], axis=1)
        design = np.concatenate([wanted, wanted.conj(), beside], axis=1)
        normal = design.conj().T @ design
        ridge = 1e-9 * float(np.trace(normal).real) / normal.shape[0]
        # With both oscillators alike the last columns are one; the ridge shares the constant between them.
        damped = normal + ridge * np.eye(normal.shape[0])
        solution: NDArray[np.complex128] = np.linalg.solve(damped, design.conj().T @ y).astype(np.complex128)
        return wanted @ solution[:taps], y - design @ solution, solution

    def _driven(self, row: int, parameters: NDArray[np.float64], peak: float) -> NDArray[np.complex128]:
        saturation = peak * math.exp(parameters[0])
        if parameters[0] >= math.log(LINEAR) - 1e-6:
            return self.sent[row]
        bent = apply_rapp(self.sent[row].astype(np.complex64), saturation, math.exp(parameters[1]))
        return bent.astype(np.complex128)

    def residual(self, parameters: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
        """Return everything that a curve leaves over, real and imaginary parts in line.

        Args:
            parameters: logarithms of its saturation over `peak`, and of its smoothness.
            peak: largest sample.
        """
        left = [self._model(row, self._driven(row, parameters, peak))[1] for row in range(self.count)]
        return np.concatenate(left).view(np.float64)

    def linear(self, parameters: NDArray[np.float64], peak: float) -> tuple[ReceiverFrontEnd, NDArray[np.complex128]]:
        """Measure imbalance and offset under a curve, and the image over the band; and (count,) leakage.

        Args:
            parameters: see `residual`.
            peak: likewise.
        """
        taps = self.length
        # In the frequency domain the image's taps q = rho * conj(h) read Q(f) = rho(f) conj(H(-f)).
        offsets_hz = (np.arange(BANDS) + 0.5) / BANDS - 0.5
        turn = np.exp(-2j * np.pi * np.multiply.outer(offsets_hz, np.arange(taps)))
        over_band = np.empty((self.count, BANDS), dtype=np.complex128)
        weight = np.empty((self.count, BANDS))
        ratios, offsets, leaks = (np.empty(self.count, dtype=np.complex128) for _ in range(3))
        for row in range(self.count):
            solution = self._model(row, self._driven(row, parameters, peak))[2]
            h, image = solution[:taps], solution[taps : 2 * taps]
            ratios[row] = np.vdot(h.conj(), image) / np.vdot(h, h).real
            mirrored = turn.conj() @ h
            over_band[row], weight[row] = (turn @ image) * mirrored, np.abs(mirrored) ** 2
            offsets[row], leaks[row] = solution[-3], solution[-1] / h.sum()
        method = _method(self.count)

        def interval(samples: NDArray[np.float64]) -> tuple[float, float, float]:
            return weighted_mean(samples, np.full(samples.size, max(float(samples.std(ddof=1)), 1e-9)))

        # rho = (1 - g) / (1 + g) with g the complex imbalance, per frame, so that scatter becomes an interval.
        imbalance = (1 - ratios) / (1 + ratios)
        found = {
            "iq_gain_db": (20 * np.log10(np.abs(imbalance)), "dB"),
            "iq_phase_deg": (np.degrees(np.angle(imbalance)), "degrees"),
            "dc_i": (offsets.real, "full scale"),
            "dc_q": (offsets.imag, "full scale"),
        }
        values = {}
        for name, (samples, unit) in found.items():
            mean, low, high = interval(samples)
            values[name] = Value(mean, low, high, unit, method)
        rejection = -20 * math.log10(max(abs(complex(ratios.mean())), 1e-6))
        spread = 1.96 * 8.686 * float(np.std(ratios)) / math.sqrt(self.count) / max(abs(complex(ratios.mean())), 1e-6)
        values["image_rejection_db"] = Value(rejection, rejection - spread, rejection + spread, "dB", method)
        rho = over_band.sum(axis=0) / weight.sum(axis=0)
        # Each frame counts by how much of a band its channel lets through.
        error = np.sqrt(np.sum(np.abs(over_band - rho * weight) ** 2, axis=0)) / weight.sum(axis=0)
        points = tuple(
            BandPoint(float(f * self.rate_sps), *(_db(abs(r) + k * e) for k in (0.0, -REACH, REACH)))
            for f, r, e in zip(offsets_hz, rho, error, strict=True)
        )
        return ReceiverFrontEnd(values, points), leaks


def _db(magnitude: float) -> float:
    return 20 * math.log10(max(magnitude, 1e-5))
