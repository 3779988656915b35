"""Compare the antennas of a receiver: gain, phase and delay against the first one, and how alike their fading is.

The antennas' soundings share frames and axis, so both oscillators turn row f of all of them by the same phase, which is
gone from products h_a conj(h_0). Intervals are 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.fading import BLOCKS, jackknife
from calibration.link import STATIC, TapStatistics, tap_statistics, weighted_mean
from calibration.sounding import Sounding
from sdr.calibration_profile import Value

ONE_RELATION = 0.9
"""Coherence over frames and carriers from which on two antennas count as related by one phase and one delay, as those
behind a splitter are; antennas that fade on their own, or that hear other paths, are far below."""

_GROUPS = 8
_DELAY_STEPS = 8


@dataclass(frozen=True, eq=False)
class _Pair:
    """Taps (F, L) of an antenna and of the first, on one axis, and their statistics."""

    own: NDArray[np.complex128]
    first: NDArray[np.complex128]
    own_stats: TapStatistics
    first_stats: TapStatistics


def compare_antennas(soundings: Sequence[Sounding]) -> list[dict[str, Value]]:
    """Measure each antenna against the first.

    Args:
        soundings: the same frames at each antenna.

    Returns:
        Nothing for the first. For each of the others `relative_gain_db`; `fading_correlation` where the channel fades
        and enough independent channels were seen; `relative_phase_deg` and `relative_delay_samples` where the antennas
        hear the same but for these.

    Raises:
        CalibrationError: no tap stands out of the noise.
    """
    reference = soundings[0]
    stats = tap_statistics(reference)
    found: list[dict[str, Value]] = [{}]
    for sounding in soundings[1:]:
        pair = _Pair(sounding.taps, reference.taps, tap_statistics(sounding), stats)
        found.append(_gain(pair) | _correlation(pair) | _relation(pair, sounding))
    return found


def _gain(pair: _Pair) -> dict[str, Value]:
    """Return the power of all taps over that of the first antenna's, in the mean over frames."""

    def power(taps: NDArray[np.complex128], stats: TapStatistics, weights: NDArray[np.float64]) -> float:
        used = slice(stats.first, stats.last + 1)
        mean = weights @ np.abs(taps[:, used]) ** 2 / weights.sum()
        return max(float(np.sum(mean) - np.sum(_noise(taps, stats)[used])), 1e-30)

    def ratio_db(weights: NDArray[np.float64]) -> float:
        own, first = power(pair.own, pair.own_stats, weights), power(pair.first, pair.first_stats, weights)
        return 10 * math.log10(own / first)

    method = f"power of all taps over that of antenna 0, {len(pair.own)} frames"
    return {"relative_gain_db": Value(*jackknife(ratio_db, len(pair.own)), "dB", method)}


def _noise(taps: NDArray[np.complex128], stats: TapStatistics) -> NDArray[np.float64]:
    """Return (L,) the noise's part of the mean power of estimated taps: none where the estimates leave it out."""
    return np.maximum(np.mean(np.abs(taps) ** 2, axis=0) - stats.power, 0.0)


def _correlation(pair: _Pair) -> dict[str, Value]:
    """Return by how much the taps of both antennas fade alike, path by path: 1 for antennas at one place.

    That is the root mean square, over paths by their powers, of |E[h_a conj(h_0)]| / sqrt(E|h_a|^2 E|h_0|^2).
    """
    if min(pair.own_stats.fading, pair.first_stats.fading) < STATIC:
        return {}
    count = len(pair.own)
    # Frames that are alike are one channel.
    size = math.ceil(count / min(pair.own_stats.draws, pair.first_stats.draws))
    if count // size < 2 * BLOCKS:
        return {}
    channels = np.array_split(np.arange(count), count // size)
    # Paths of both arrive as far behind each other, wherever the first of them does.
    lag = _lag(pair)
    taps = pair.own, pair.first
    powers_of = (np.abs(each) ** 2 - _noise(each, s) for each, s in zip(taps, _stats(pair), strict=True))

    def by_channel(values: NDArray[Any]) -> NDArray[Any]:
        used = values[:, pair.first_stats.first : pair.first_stats.last + 1]
        return np.array([used[rows].mean(axis=0) for rows in channels])

    product = by_channel(_earlier(pair.own, lag) * pair.first.conj())
    own, first = (by_channel(_earlier(each, by)) for each, by in zip(powers_of, (lag, 0), strict=True))

    def squared(weights: NDArray[np.float64]) -> float:
        # Sums over pairs of different channels, which the variance within one has no part in.
        products = np.abs(weights @ product) ** 2 - weights**2 @ np.abs(product) ** 2
        powers = (weights @ own) * (weights @ first) - weights**2 @ (own * first)
        return float(np.sum(products) / max(float(np.sum(powers)), 1e-300))

    value, low, high = (math.sqrt(min(max(each, 0.0), 1.0)) for each in jackknife(squared, len(channels)))
    method = f"taps against those of antenna 0, path by path, {len(channels)} independent channels"
    return {"fading_correlation": Value(value, low, high, "", method)}


def _stats(pair: _Pair) -> tuple[TapStatistics, TapStatistics]:
    return pair.own_stats, pair.first_stats


def _lag(pair: _Pair) -> int:
    """Return the samples by which an antenna's power delay profile lies behind the first's, as they look most alike."""
    own, first = (np.sqrt(np.maximum(stats.power, 0.0)) for stats in _stats(pair))
    return int(np.argmax(np.correlate(own, first, mode="full"))) - (first.size - 1)


def _earlier(values: NDArray[Any], samples: int) -> NDArray[Any]:
    """Return values (F, L) with each row moved ahead by so many samples, 0 where there is nothing."""
    size = values.shape[1]
    return np.pad(values, ((0, 0), (size, size)))[:, size + samples : 2 * size + samples]


def _relation(pair: _Pair, sounding: Sounding) -> dict[str, Value]:
    """Return phase at the carrier, and delay, of an antenna against the first, where these are all that differs."""
    turns = np.asarray(sounding.layout.active) / sounding.layout.fft_size
    steering = np.exp(-2j * np.pi * np.outer(np.arange(pair.own.shape[1]), turns))
    own, first = pair.own @ steering, pair.first @ steering  # (F, A) responses
    cross = own * first.conj()
    powers = [
        np.maximum(np.mean(np.abs(response) ** 2, axis=0) - np.sum(_noise(taps, stats)), 0.0)
        for response, taps, stats in zip((own, first), (pair.own, pair.first), _stats(pair), strict=True)
    ]
    whole = cross.mean(axis=0)
    # Delays in steps at first: the sum over carriers turned back has its peak at the delay.
    reach = pair.own.shape[1]
    delays = np.arange(-reach * _DELAY_STEPS, reach * _DELAY_STEPS + 1) / _DELAY_STEPS
    sums = np.exp(2j * np.pi * np.outer(delays, turns)) @ whole
    begin = float(delays[np.argmax(np.abs(sums))])
    phase, delay = _phase_and_delay(whole, turns, begin)
    coherence = abs(np.sum(whole * np.exp(2j * np.pi * turns * delay)))
    if coherence < ONE_RELATION * max(float(np.sum(np.sqrt(powers[0] * powers[1]))), 1e-300):
        return {}
    groups = [cross[rows].mean(axis=0) for rows in np.array_split(np.arange(len(cross)), _GROUPS)]
    each = np.array([_phase_and_delay(group, turns, delay) for group in groups])
    phases = np.degrees(phase + np.angle(np.exp(1j * (each[:, 0] - phase))))
    method = f"cross spectrum with antenna 0, {len(cross)} frames"
    return {
        name: Value(*weighted_mean(values, np.full(values.size, max(float(values.std(ddof=1)), 1e-9))), unit, method)
        for name, values, unit in (
            ("relative_phase_deg", phases, "degrees"),
            ("relative_delay_samples", each[:, 1], "samples"),
        )
    }


def _phase_and_delay(cross: NDArray[np.complex128], turns: NDArray[np.float64], delay: float) -> tuple[float, float]:
    """Return the phase at the carrier, radians, and the delay, samples, of a cross spectrum (A,).

    Args:
        cross: the spectrum.
        turns: (A,) carriers, in cycles per sample.
        delay: near which it is looked for.
    """
    for _ in range(4):
        turned = cross * np.exp(2j * np.pi * turns * delay)
        total = turned.sum()
        # Slope of the phase over frequency, each carrier by its weight.
        turned = turned * np.exp(-1j * np.angle(total))
        weight = np.maximum(turned.real, 0.0)
        middle = np.sum(weight * turns) / max(float(weight.sum()), 1e-300)
        lever = turns - middle
        delay -= float(turned.imag @ lever / (2 * np.pi * max(float(np.sum(weight * lever**2)), 1e-300)))
    turned = cross * np.exp(2j * np.pi * turns * delay)
    return float(np.angle(turned.sum())), delay
