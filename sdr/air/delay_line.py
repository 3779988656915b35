"""Simulate taps that move, and the tapped delay lines of 3GPP TR 38.901 (clause 7.7.2), over streams of samples.

A profile's delays are normalised to a root-mean-square spread of 1 and are multiplied by the delay spread wanted. Paths
between samples are band-limited onto the sample grid by a windowed sinc, so a channel begins `LEAD_SAMPLES` before its
first path; with that many samples of delay it stays causal.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdr.air.impairments import check_samples
from sdr.errors import InputError, did_you_mean

LEAD_SAMPLES = 8
"""Samples by which `apply_tdl` delays the first path, so that the interpolation in front of it fits."""

_SINUSOIDS = 32

# (normalised delay, power in dB) of tables 7.7.2-1 to 7.7.2-3.
_TDL_A = (
    (0.0, -13.4), (0.3819, 0.0), (0.4025, -2.2), (0.5868, -4.0), (0.4610, -6.0), (0.5375, -8.2), (0.6708, -9.9),
    (0.5750, -10.5), (0.7618, -7.5), (1.5375, -15.9), (1.8978, -6.6), (2.2242, -16.7), (2.1718, -12.4),
    (2.4942, -15.2), (2.5119, -10.8), (3.0582, -11.3), (4.0810, -12.7), (4.4579, -16.2), (4.5695, -18.3),
    (4.7966, -18.9), (5.0066, -16.6), (5.3043, -19.9), (9.6586, -29.7),
)  # fmt: skip
_TDL_B = (
    (0.0, 0.0), (0.1072, -2.2), (0.2155, -4.0), (0.2095, -3.2), (0.2870, -9.8), (0.2986, -1.2), (0.3752, -3.4),
    (0.5055, -5.2), (0.3681, -7.6), (0.3697, -3.0), (0.5700, -8.9), (0.5283, -9.0), (1.1021, -4.8), (1.2756, -5.7),
    (1.5474, -7.5), (1.7842, -1.9), (2.0169, -7.6), (2.8294, -12.2), (3.0219, -9.8), (3.6187, -11.4),
    (4.1067, -14.9), (4.2790, -9.2), (4.7834, -11.3),
)  # fmt: skip
_TDL_C = (
    (0.0, -4.4), (0.2099, -1.2), (0.2219, -3.5), (0.2329, -5.2), (0.2176, -2.5), (0.6366, 0.0), (0.6448, -2.2),
    (0.6560, -3.9), (0.6584, -7.4), (0.7935, -7.1), (0.8213, -10.7), (0.9336, -11.1), (1.2285, -5.1),
    (1.3083, -6.8), (2.1704, -8.7), (2.7105, -13.2), (4.2589, -13.9), (4.6003, -13.9), (5.4902, -15.8),
    (5.6077, -17.1), (6.3065, -16.0), (6.6374, -15.7), (7.0427, -21.6), (8.6523, -22.8),
)  # fmt: skip
_PROFILES = {"A": _TDL_A, "B": _TDL_B, "C": _TDL_C}
TDL_NAMES = tuple(_PROFILES)
"""Rayleigh profiles of the 3GPP: A (short indoor), B, C (longer)."""


def tdl_profile(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (paths,) normalised delays and (paths,) linear powers, sum 1, of TDL `name` (A, B or C).

    >>> delays, powers = tdl_profile("A")
    >>> delays.size, round(float(powers.sum()), 6)
    (23, 1.0)
    """
    if name not in _PROFILES:
        raise InputError(f"there is no delay profile TDL-{name}; {did_you_mean(name, _PROFILES)}")
    table = np.array(_PROFILES[name])
    powers = 10.0 ** (table[:, 1] / 10.0)
    return table[:, 0], powers / powers.sum()


def sample_taps(
    delays_samples: NDArray[np.float64], gains: NDArray[np.complex128], num_taps: int
) -> NDArray[np.complex128]:
    """Return (..., num_taps) taps on the sample grid of paths at any delays; tap `LEAD_SAMPLES` is delay 0.

    Args:
        delays_samples: (paths,) delays.
        gains: (..., paths) gains.
        num_taps: taps to return.
    """
    offsets = np.arange(num_taps)[None, :] - LEAD_SAMPLES - np.asarray(delays_samples)[:, None]
    # A Kaiser window of half-width LEAD_SAMPLES keeps the sinc's tails from being cut off hard.
    inside = np.clip(1.0 - (offsets / LEAD_SAMPLES) ** 2, 0.0, None)
    kernel = np.sinc(offsets) * np.i0(4.0 * np.sqrt(inside)) / np.i0(4.0) * (inside > 0)
    return gains @ kernel


@dataclass(frozen=True)
class FadingTruth:
    """A time-varying channel, linear between knots.

    Attributes:
        knot_samples: spacing of the knots.
        taps: complex128 (knots, L); output n is the sum over l of taps(n)[l] x[n - l].
    """

    knot_samples: int
    taps: NDArray[np.complex128]

    def at(self, sample: float) -> NDArray[np.complex128]:
        """Return (L,) taps at an output sample."""
        place = min(max(sample / self.knot_samples, 0.0), self.taps.shape[0] - 1.0)
        low = min(int(place), self.taps.shape[0] - 2)
        return self.taps[low] + (place - low) * (self.taps[low + 1] - self.taps[low])


class MovingTaps:
    """Taps one sample apart that move as Clarke's model says (autocorrelation J0(2 pi doppler_hz t), Jakes spectrum).

    Each tap is a sum of sinusoids from random directions (unit mean power over draws, Gaussian but for the few
    sinusoids). Between knots taps are linear.

    Args:
        pdp: (L,) powers of the taps.
        doppler_hz: largest Doppler shift, above 0.
        rate_sps: sampling rate.
        rng: draws the directions and phases.

    Attributes:
        num_taps: L.
        knot_samples: spacing of the knots.

    Raises:
        InputError: a Doppler shift that is no small part of the rate.
    """

    def __init__(self, pdp: NDArray[np.float64], doppler_hz: float, rate_sps: float, rng: np.random.Generator) -> None:
        if not 0 < doppler_hz < rate_sps / 100:
            raise InputError(f"taps move with a Doppler above 0 and below {rate_sps / 100:g} Hz, found {doppler_hz} Hz")
        self.num_taps = len(pdp)
        # 64 knots per turn of the fastest path: linear interpolation is then exact to -60 dB.
        self.knot_samples = max(1, min(4096, int(rate_sps / (64 * doppler_hz))))
        self._knot_s = self.knot_samples / rate_sps
        shape = (len(pdp), _SINUSOIDS)
        self._turns = doppler_hz * np.cos(rng.uniform(0, 2 * math.pi, shape))
        self._phases = rng.uniform(0, 2 * math.pi, shape)
        self._scale = np.sqrt(np.asarray(pdp) / _SINUSOIDS)

    def taps(self, first_knot: int, num_knots: int) -> NDArray[np.complex128]:
        """Return (num_knots, L) taps at knots, the first of which is at sample `first_knot * knot_samples`."""
        gains = np.zeros((num_knots, self._scale.size), dtype=np.complex128)
        for first in range(0, num_knots, 4096):
            times = (first_knot + np.arange(first, min(first + 4096, num_knots)))[:, None, None] * self._knot_s
            gains[first : first + 4096] = np.exp(1j * (2 * math.pi * self._turns * times + self._phases)).sum(axis=-1)
        return gains * self._scale

    def filter(self, padded: NDArray[np.complex64], first: int) -> NDArray[np.complex64]:
        """Return (n,) output samples from `first` on, given the (L - 1 + n,) input samples that they depend on.

        Output sample n is the sum over l of taps(n)[l] * samples[n - l].
        """
        return _filter_between_knots(self, padded, first)


class DelayLine:
    """A tapped delay line whose paths fade as `MovingTaps` do; with `doppler_hz` 0 they are drawn and stand still.

    Args:
        profile: "A", "B" or "C".
        delay_spread_s: root-mean-square spread.
        doppler_hz: largest Doppler shift.
        rate_sps: sampling rate.
        rng: draws the paths.

    Attributes:
        num_taps: L.
        knot_samples: spacing of the knots.
    """

    def __init__(
        self, profile: str, delay_spread_s: float, doppler_hz: float, rate_sps: float, rng: np.random.Generator
    ) -> None:
        delays, powers = tdl_profile(profile)
        if not (delay_spread_s >= 0 and 0 <= doppler_hz < rate_sps / 100 and math.isfinite(delay_spread_s)):
            raise InputError(
                f"a delay line needs a spread >= 0 and a Doppler of 0..{rate_sps / 100:g} Hz, found {delay_spread_s} s "
                f"and {doppler_hz} Hz"
            )
        self._late = delays * delay_spread_s * rate_sps
        self.num_taps = 2 * LEAD_SAMPLES + 1 + math.ceil(float(self._late.max()))
        if self.num_taps > 65536:
            raise InputError(
                f"a delay spread of {delay_spread_s} s needs {self.num_taps} taps; at most 65536 are simulated"
            )
        self._paths = MovingTaps(powers, doppler_hz, rate_sps, rng) if doppler_hz > 0 else None
        self.knot_samples = self._paths.knot_samples if self._paths else 4096
        if self._paths is None:
            parts = rng.standard_normal((2, delays.size)) * np.sqrt(powers / 2)
            self._still = sample_taps(self._late, parts[0] + 1j * parts[1], self.num_taps)

    def taps(self, first_knot: int, num_knots: int) -> NDArray[np.complex128]:
        """Return (num_knots, L) taps at knots, the first of which is at sample `first_knot * knot_samples`."""
        if self._paths is None:
            return np.broadcast_to(self._still, (num_knots, self.num_taps))
        return sample_taps(self._late, self._paths.taps(first_knot, num_knots), self.num_taps)

    def filter(self, padded: NDArray[np.complex64], first: int) -> NDArray[np.complex64]:
        """Return (n,) output samples from `first` on, given the (L - 1 + n,) input samples that they depend on.

        Output sample n is the sum over l of taps(n)[l] * samples[n - l]; the first path comes `LEAD_SAMPLES` late.
        """
        if self._paths is not None:
            return _filter_between_knots(self, padded, first)
        out = np.empty(max(padded.size - self.num_taps + 1, 0), dtype=np.complex64)
        if out.size:
            out[:] = np.convolve(padded, self._still, mode="valid")
        return out


def _filter_between_knots(
    line: MovingTaps | DelayLine, padded: NDArray[np.complex64], first: int
) -> NDArray[np.complex64]:
    out = np.empty(max(padded.size - line.num_taps + 1, 0), dtype=np.complex64)
    knot, begin = line.knot_samples, first // line.knot_samples
    taps = line.taps(begin, (first + out.size - 1) // knot - begin + 2) if out.size else np.empty(0)
    done = 0
    while done < out.size:
        index = (first + done) // knot - begin
        end = min(out.size, (begin + index + 1) * knot - first)
        part = padded[done : end + line.num_taps - 1]
        start = np.convolve(part, taps[index], mode="valid")
        weight = (first + np.arange(done, end) - (begin + index) * knot) / knot
        out[done:end] = start + weight * (np.convolve(part, taps[index + 1], mode="valid") - start)
        done = end
    return out


def apply_moving_taps(
    samples: NDArray[np.complex64],
    pdp: NDArray[np.float64],
    doppler_hz: float,
    rate_sps: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.complex64], FadingTruth]:
    """Apply `MovingTaps` to a whole capture.

    Returns:
        (n + L - 1,) samples, and the channel.
    """
    check_samples(samples)
    line = MovingTaps(pdp, doppler_hz, rate_sps, rng)
    edge = np.zeros(line.num_taps - 1, np.complex64)
    moved = line.filter(np.concatenate([edge, samples, edge]).astype(np.complex64), 0)
    return moved, FadingTruth(line.knot_samples, line.taps(0, -(-moved.size // line.knot_samples) + 1))


def apply_tdl(
    samples: NDArray[np.complex64],
    profile: str,
    delay_spread_s: float,
    doppler_hz: float,
    rate_sps: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.complex64], FadingTruth]:
    """Apply a `DelayLine` to a whole capture.

    Returns:
        As many samples as came in, the first path delayed by `LEAD_SAMPLES`; and the channel.
    """
    check_samples(samples)
    line = DelayLine(profile, delay_spread_s, doppler_hz, rate_sps, rng)
    padded = np.concatenate([np.zeros(line.num_taps - 1, np.complex64), samples]).astype(np.complex64)
    knots = -(-samples.size // line.knot_samples) + 1
    return line.filter(padded, 0), FadingTruth(line.knot_samples, line.taps(0, knots))
