"""Do to samples what the air and the radios do, in composable functions.

Randomness comes in as a `numpy.random.Generator`. Powers are linear, per complex sample; the mean power of a channel
drawn here is 1, so that the CSNR of a layout is the ratio of cell power to noise power.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError
from sdr.layout import FrameLayout


def check_samples(samples: NDArray[np.complex64]) -> None:
    """Refuse anything but a complex array of one dimension.

    Raises:
        InputError: `samples` is something else.
    """
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or not np.iscomplexobj(samples):
        raise InputError("samples must be a complex array of one dimension")


def exponential_pdp(num_taps: int, decay: float) -> NDArray[np.float64]:
    """Return the exponential power delay profile.

    Args:
        num_taps: L, taps one sample apart.
        decay: time constant r in samples; tap l has power proportional to exp(-l / r).

    Returns:
        (L,) powers, summing to 1.

    >>> exponential_pdp(num_taps=3, decay=1.0).round(3)
    array([0.665, 0.245, 0.09 ])
    """
    if not 1 <= num_taps <= 65536 or not (math.isfinite(decay) and decay > 0):
        raise InputError(f"a delay profile needs 1..65536 taps and a decay > 0, found {num_taps} and {decay}")
    powers = np.exp(-np.arange(num_taps) / decay)
    return powers / powers.sum()


def draw_taps(pdp: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.complex64]:
    """Draw (L,) Rayleigh-fading taps: independent, circular Gaussian, variances `pdp`."""
    gaussian = rng.standard_normal((2, len(pdp)))
    return ((gaussian[0] + 1j * gaussian[1]) * np.sqrt(np.asarray(pdp) / 2)).astype(np.complex64)


def apply_multipath(samples: NDArray[np.complex64], taps: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Convolve (n,) samples with (L,) taps into all n + L - 1 samples."""
    check_samples(samples)
    return np.convolve(samples, taps).astype(np.complex64)


MAX_TAPS = 1 << 26
"""Most taps of block fading that are kept, in all blocks together (half a GiB)."""


class BlockFading:
    """Multipath that is drawn anew every `block_samples` output samples, over a stream of any length.

    Output sample n is the sum over l of taps[block(n), l] * samples[n - l], where block(n) is
    (n - first_sample) // block_samples, and 0 before.

    Args:
        pdp: (L,) powers of the taps.
        block_samples: samples between draws.
        rng: draws the taps.
        first_sample: sample from which blocks are counted.

    Attributes:
        taps: complex64 (L,) per block drawn so far.
        num_taps: L.
    """

    def __init__(
        self, pdp: NDArray[np.float64], block_samples: int, rng: np.random.Generator, first_sample: int = 0
    ) -> None:
        if block_samples < 1 or first_sample < 0:
            raise InputError(
                f"block_samples must be at least 1 and first_sample at least 0, found {block_samples}, {first_sample}"
            )
        self._pdp, self._block_samples, self._first_sample, self._rng = pdp, block_samples, first_sample, rng
        self.taps = [draw_taps(pdp, rng)]
        self.num_taps = len(pdp)

    def filter(self, padded: NDArray[np.complex64], first: int) -> NDArray[np.complex64]:
        """Return (n,) output samples from `first` on, given the (L - 1 + n,) input samples that they depend on."""
        faded = np.empty(max(padded.size - self.num_taps + 1, 0), dtype=np.complex64)
        done = 0
        while done < faded.size:
            block = max(0, (first + done - self._first_sample) // self._block_samples)
            if (block + 1) * self.num_taps > MAX_TAPS:
                raise InputError(
                    f"taps drawn anew every {self._block_samples} samples are more than {MAX_TAPS} by sample "
                    f"{first + done}; raise block_samples, or lower taps"
                )
            while block >= len(self.taps):
                self.taps.append(draw_taps(self._pdp, self._rng))
            end = min(faded.size, self._first_sample + (block + 1) * self._block_samples - first)
            faded[done:end] = np.convolve(padded[done : end + self.num_taps - 1], self.taps[block], mode="valid")
            done = end
        return faded


def apply_block_fading(
    samples: NDArray[np.complex64], block_samples: int, pdp: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Apply `BlockFading` to a whole capture.

    Returns:
        (n + L - 1,) samples and (blocks, L) taps, both complex64.
    """
    check_samples(samples)
    fading = BlockFading(pdp, block_samples, rng)
    edge = np.zeros(len(pdp) - 1, dtype=np.complex64)
    faded = fading.filter(np.concatenate([edge, samples, edge]).astype(np.complex64), 0)
    return faded, np.stack(fading.taps)


def apply_cfo(
    samples: NDArray[np.complex64], cfo_hz: float, rate_sps: float, first_sample: int = 0
) -> NDArray[np.complex64]:
    """Rotate sample n by 2 pi cfo_hz n / rate_sps, counted from `first_sample` on; the phase is 0 at sample 0.

    >>> apply_cfo(np.ones(3, np.complex64), cfo_hz=250.0, rate_sps=1000.0).round(3)
    array([ 1.+0.j,  0.+1.j, -1.+0.j], dtype=complex64)
    """
    check_samples(samples)
    # The phase is reduced to one turn before the exponential, or it would lose precision over long captures.
    turns = np.mod((first_sample + np.arange(samples.size)) * (cfo_hz / rate_sps), 1.0)
    return (samples * np.exp(2j * np.pi * turns)).astype(np.complex64)


def apply_delay(samples: NDArray[np.complex64], delay_samples: float) -> NDArray[np.complex64]:
    """Delay by any number of samples >= 0, the fraction by band-limited interpolation.

    Returns:
        (n + ceil(delay_samples),) samples. A fractional delay rings around steep edges, as any band-limited signal
        does; what would ring before the first or after the last sample is cut off.
    """
    check_samples(samples)
    if not math.isfinite(delay_samples) or delay_samples < 0:
        raise InputError(f"a delay must be finite and >= 0 samples, found {delay_samples}")
    whole = math.floor(delay_samples)
    fraction = delay_samples - whole
    total = samples.size + math.ceil(delay_samples)
    delayed = np.zeros(total, dtype=np.complex64)
    if fraction == 0.0:
        delayed[whole:] = samples
        return delayed
    guard = 512
    size = samples.size + 1 + 2 * guard
    size += 1 - size % 2  # an odd length has no Nyquist bin, whose half-sample delay would be ambiguous
    padded = np.zeros(size, dtype=np.complex128)
    padded[guard : guard + samples.size] = samples
    shifted = np.fft.ifft(np.fft.fft(padded) * np.exp(-2j * np.pi * np.fft.fftfreq(size) * fraction))
    before = min(whole, guard)
    delayed[whole - before :] = shifted[guard - before : guard + samples.size + 1]
    return delayed


def apply_awgn(samples: NDArray[np.complex64], noise_var: float, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Add circular Gaussian noise of `noise_var` linear power per complex sample."""
    check_samples(samples)
    if not math.isfinite(noise_var) or noise_var < 0:
        raise InputError(f"noise_var must be finite and >= 0, found {noise_var}")
    noise = rng.standard_normal((samples.size, 2), dtype=np.float32).view(np.complex64)[:, 0]
    return (samples + noise * np.float32(math.sqrt(noise_var / 2))).astype(np.complex64)


# Oscillators and converters


INTERPOLATION_REACH = 16
"""Samples on either side that `interpolate` looks at."""

_PHASES = 4096


@lru_cache(maxsize=4)
def _interpolation_kernels(cutoff: float) -> NDArray[np.float32]:
    """Return (phases, 2 * reach) windowed sincs, scaled to a band of `cutoff` times the samples'."""
    reach = math.ceil(INTERPOLATION_REACH / cutoff)
    distance = np.arange(1 - reach, reach + 1)[None, :] - np.arange(_PHASES)[:, None] / _PHASES
    window = np.i0(6.0 * np.sqrt(np.clip(1.0 - (distance / reach) ** 2, 0.0, None))) / np.i0(6.0)
    return (cutoff * np.sinc(cutoff * distance) * window).astype(np.float32)


def interpolate(
    samples: NDArray[np.complex64], positions: NDArray[np.float64], cutoff: float = 1.0
) -> NDArray[np.complex64]:
    """Interpolate by a sinc of 32 samples under a Kaiser window: exact to -60 dB within 0.85 of the band.

    Args:
        samples: (n,).
        positions: (m,) indices into `samples`, with `INTERPOLATION_REACH` / cutoff samples on either side of each.
        cutoff: 0..1, share of the band to keep; below 1 where the result has a lower rate.

    Returns:
        (m,) complex64.
    """
    kernels = _interpolation_kernels(cutoff)
    reach = kernels.shape[1] // 2
    windows = np.lib.stride_tricks.sliding_window_view(samples, 2 * reach)
    out = np.empty(positions.size, dtype=np.complex64)
    for first in range(0, positions.size, 1 << 14):
        place = positions[first : first + (1 << 14)]
        whole = np.floor(place).astype(np.int64)
        phase = np.rint((place - whole) * _PHASES).astype(np.int64)
        whole, phase = whole + phase // _PHASES, phase % _PHASES
        out[first : first + place.size] = np.einsum("nk,nk->n", windows[whole + 1 - reach], kernels[phase])
    return out


def apply_sfo(samples: NDArray[np.complex64], sfo_ppm: float) -> NDArray[np.complex64]:
    """Resample as a receiver sees a transmitter whose sampling clock is `sfo_ppm` faster: y[n] = x(n (1 + SFO)).

    Returns:
        (floor((n - 1) / (1 + SFO)) + 1,) samples, by `interpolate`.
    """
    check_samples(samples)
    if not abs(sfo_ppm) <= 1000:
        raise InputError(f"a sampling clock's offset must be within 1000 ppm, found {sfo_ppm}")
    if sfo_ppm == 0 or samples.size == 0:
        return samples.copy()
    ratio = 1.0 + sfo_ppm * 1e-6
    total = math.floor((samples.size - 1) / ratio) + 1
    reach = INTERPOLATION_REACH
    padded = np.concatenate([np.zeros(reach, np.complex64), samples, np.zeros(reach + 2, np.complex64)])
    return interpolate(padded.astype(np.complex64), reach + np.arange(total, dtype=np.float64) * ratio)


class PhaseNoise:
    """A Gaussian process of autocorrelation rms^2 exp(-2 pi bandwidth_hz |t|), in radians, drawn piece by piece.

    That is a Lorentzian spectrum with its corner at `bandwidth_hz`, as a locked oscillator's phase has.

    Args:
        rms_deg: rms phase.
        bandwidth_hz: corner of the spectrum.
        rate_sps: sampling rate.
        rng: draws the phases.
    """

    def __init__(self, rms_deg: float, bandwidth_hz: float, rate_sps: float, rng: np.random.Generator) -> None:
        if not (rms_deg >= 0 and 0 < bandwidth_hz < rate_sps):
            raise InputError(
                f"phase noise needs rms_deg >= 0 and a bandwidth in 0..{rate_sps:g} Hz, found {rms_deg}, {bandwidth_hz}"
            )
        self._sigma, self._decay, self._rng = math.radians(rms_deg), 2 * math.pi * bandwidth_hz / rate_sps, rng
        self._last = self._sigma * rng.standard_normal()

    def draw(self, num_samples: int) -> NDArray[np.float64]:
        """Return the next (num_samples,) phases."""
        steps = self._rng.standard_normal(num_samples) * (self._sigma * math.sqrt(-math.expm1(-2 * self._decay)))
        phase = np.empty(num_samples)
        # phase[n] = a phase[n-1] + step[n], in blocks short enough that a^-n stays representable.
        block = max(1, min(4096, int(500 / self._decay)))
        powers = np.exp(-self._decay * np.arange(1, block + 1))
        for first in range(0, num_samples, block):
            part = steps[first : first + block]
            a = powers[: part.size]
            phase[first : first + part.size] = a * (self._last + np.cumsum(part / a))
            self._last = phase[first + part.size - 1]
        return phase


def apply_phase(samples: NDArray[np.complex64], phase: NDArray[np.float64]) -> NDArray[np.complex64]:
    """Rotate each sample by its phase in radians."""
    check_samples(samples)
    return (samples * np.exp(1j * phase)).astype(np.complex64)


def apply_iq_imbalance(samples: NDArray[np.complex64], gain_db: float, phase_deg: float) -> NDArray[np.complex64]:
    """Unbalance as a quadrature mixer does: mu x + nu conj(x), mu = (1 + g e^-ip) / 2, nu = (1 - g e^ip) / 2."""
    check_samples(samples)
    if not (abs(gain_db) <= 20 and abs(phase_deg) <= 45):
        raise InputError(f"imbalance must be within 20 dB and 45 degrees, found {gain_db} and {phase_deg}")
    g, phase = 10.0 ** (gain_db / 20.0), math.radians(phase_deg)
    mu = (1 + g * np.exp(-1j * phase)) / 2
    nu = (1 - g * np.exp(1j * phase)) / 2
    return (mu * samples + nu * np.conj(samples)).astype(np.complex64)


def apply_dc(samples: NDArray[np.complex64], dc: complex) -> NDArray[np.complex64]:
    """Add a constant: a converter's offset, or, at the transmitter, the oscillator that leaks through the mixer."""
    check_samples(samples)
    return (samples + np.complex64(dc)).astype(np.complex64)


def quantise(samples: NDArray[np.complex64], bits: int) -> NDArray[np.complex64]:
    """Quantise as a converter of `bits` per component and full scale 1: round to 2^(1 - bits), saturate at its ends.

    >>> quantise(np.array([0.3 - 2j], np.complex64), bits=2)
    array([0.5-1.j], dtype=complex64)
    """
    check_samples(samples)
    if not 1 <= bits <= 24:
        raise InputError(f"a converter has 1..24 bits, found {bits}")
    levels = 2 ** (bits - 1)
    parts = np.rint(samples.astype(np.complex64).view(np.float32) * levels)
    return (np.clip(parts, -levels, levels - 1) / levels).astype(np.float32).view(np.complex64)


def apply_gain_step(samples: NDArray[np.complex64], at_sample: int, step_db: float) -> NDArray[np.complex64]:
    """Change the gain by `step_db` from a sample on, as an AGC does."""
    check_samples(samples)
    if at_sample < 0 or not abs(step_db) <= 200:
        raise InputError(f"a gain step needs at_sample >= 0 and at most 200 dB, found {at_sample} and {step_db}")
    stepped = samples.astype(np.complex64)
    stepped[at_sample:] *= np.float32(10.0 ** (step_db / 20.0))
    return stepped


class Jamming:
    """Gaussian interference in narrow bands that is always on, over a stream that comes in pieces.

    Args:
        power: of all bands together, linear per complex sample.
        centres_hz: middle of each band.
        width_hz: of each band.
        rate_sps: sampling rate.
        rng: draws the samples.

    Raises:
        InputError: a band that is wider than the rate, or narrower than a 2^16th of it.
    """

    def __init__(
        self, power: float, centres_hz: tuple[float, ...], width_hz: float, rate_sps: float, rng: np.random.Generator
    ) -> None:
        if not rate_sps / 2**16 <= width_hz <= rate_sps:
            raise InputError(
                f"jam_width_hz = {width_hz:g} must be {rate_sps / 2**16:g}..{rate_sps:g} at {rate_sps:g} samples/s"
            )
        # A windowed sinc whose edges are a quarter of the band wide.
        reach = math.ceil(8 * rate_sps / width_hz)
        time_samples = np.arange(-reach, reach + 1)
        low_pass = np.sinc(width_hz / rate_sps * time_samples) * np.hanning(2 * reach + 3)[1:-1]
        turns = np.exp(2j * np.pi / rate_sps * np.outer(centres_hz, time_samples))
        taps = turns.sum(axis=0) * low_pass
        self._taps = (taps * math.sqrt(power / np.sum(np.abs(taps) ** 2))).astype(np.complex64)
        self._rng = rng
        self._past = self._white(self._taps.size - 1)

    def _white(self, count: int) -> NDArray[np.complex64]:
        return apply_awgn(np.zeros(count, np.complex64), 1.0, self._rng)

    def add(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Return the next samples with interference."""
        padded = np.concatenate([self._past, self._white(samples.size)])
        self._past = padded[samples.size :]
        return (samples + _filtered(padded, self._taps)).astype(np.complex64)


def _filtered(padded: NDArray[np.complex64], taps: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return `np.convolve(padded, taps, "valid")`, piece by piece through the frequency domain."""
    before = taps.size - 1
    size = 1 << (8 * taps.size).bit_length()
    spectrum = np.fft.fft(taps, size)
    out = np.empty(max(padded.size - before, 0), np.complex64)
    for first in range(0, out.size, size - before):
        piece = np.fft.ifft(np.fft.fft(padded[first : first + size], size) * spectrum)[before:]
        out[first : first + piece.size] = piece[: out.size - first]
    return out


class Bursts:
    """Bursts of white Gaussian interference over a stream that comes in pieces.

    Args:
        power: of a burst, linear per complex sample.
        burst_samples: length of a burst.
        duty: share of the time, on average, of bursts at random places (Poisson), which may overlap.
        every_samples: distance of bursts that come regularly, in place of random ones; 0 for those.
        first_sample: where the first regular one begins.
        rng: draws places and samples.

    Raises:
        InputError: a value is out of range.
    """

    def __init__(
        self,
        power: float,
        burst_samples: int,
        duty: float,
        rng: np.random.Generator,
        every_samples: int = 0,
        first_sample: int = 0,
    ) -> None:
        if not (power >= 0 and burst_samples >= 1 and 0 <= duty <= 1):
            raise InputError(f"bursts need power >= 0, length >= 1, duty 0..1, found {power}, {burst_samples}, {duty}")
        if every_samples < 0 or first_sample < 0:
            raise InputError(
                f"bursts come every {every_samples} samples from {first_sample} on; neither can be below 0"
            )
        self._power, self._length, self._duty, self._rng = power, burst_samples, duty, rng
        self._every, self._next = every_samples, first_sample
        self._left: list[int] = []  # what bursts that began in earlier pieces have still to come

    def add(self, samples: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], NDArray[np.int64]]:
        """Return the next samples with interference, and the (bursts,) first sample of each that begins here."""
        if self._every:
            starts = np.arange(self._next, samples.size, self._every)
            self._next += starts.size * self._every - samples.size
        else:
            count = self._rng.poisson(self._duty * samples.size / self._length)
            starts = np.sort(self._rng.integers(0, max(samples.size, 1), count))
        struck = samples.astype(np.complex64)
        spans = [(0, left) for left in self._left] + [(int(start), self._length) for start in starts]
        for start, length in spans:
            part = struck[start : start + length]
            struck[start : start + length] = apply_awgn(part, self._power, self._rng)
        ends = [start + length - samples.size for start, length in spans]
        self._left = [left for left in ends if left > 0]
        return struck, starts.astype(np.int64)


def drop_samples(
    samples: NDArray[np.complex64], gap_samples: int, num_gaps: int, rng: np.random.Generator
) -> tuple[NDArray[np.complex64], NDArray[np.int64]]:
    """Leave out `gap_samples` samples at `num_gaps` random places, as an overflowing driver does, without a mark.

    Returns:
        The samples that are left, and the (gaps,) index in the input of each gap's first sample.
    """
    check_samples(samples)
    if gap_samples < 0 or num_gaps < 0 or gap_samples * num_gaps > samples.size:
        raise InputError(f"{num_gaps} gaps of {gap_samples} samples don't fit into {samples.size} samples")
    kept = np.ones(samples.size, dtype=bool)
    slack = samples.size - gap_samples * num_gaps
    starts = np.sort(rng.integers(0, slack + 1, num_gaps)) + gap_samples * np.arange(num_gaps)
    for start in starts:
        kept[start : start + gap_samples] = False
    return samples[kept].astype(np.complex64), starts.astype(np.int64)


def noise_var_for_csnr(layout: FrameLayout, csnr_db: float) -> float:
    """Return the noise power per sample that gives a CSNR: `amplitude**2 * 10**(-csnr_db / 10)`.

    The CSNR is the mean power of an active carrier's cell over the noise power in its bin, for a channel of unit mean
    gain; the transform is unitary, so a bin's noise power equals a sample's.
    """
    return layout.amplitude**2 * 10.0 ** (-csnr_db / 10.0)
