"""What the air and the radios do to samples, as composable functions.

Randomness comes in as a `numpy.random.Generator`. Powers are linear, per complex sample; the mean power of a channel
drawn here is 1, so that the CSNR of a layout is the ratio of cell power to noise power.
"""

import math

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError
from sdr.layout import FrameLayout


def _check_samples(samples: NDArray[np.complex64]) -> None:
    if not isinstance(samples, np.ndarray) or samples.ndim != 1 or not np.iscomplexobj(samples):
        raise InputError("samples must be a complex array of one dimension")


def exponential_pdp(num_taps: int, decay: float) -> NDArray[np.float64]:
    """Exponential power delay profile.

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
    """(L,) Rayleigh-fading taps: independent, circular Gaussian, variances `pdp`."""
    gaussian = rng.standard_normal((2, len(pdp)))
    return ((gaussian[0] + 1j * gaussian[1]) * np.sqrt(np.asarray(pdp) / 2)).astype(np.complex64)


def apply_multipath(samples: NDArray[np.complex64], taps: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Convolve (n,) samples with (L,) taps; returns all n + L - 1 samples."""
    _check_samples(samples)
    return np.convolve(samples, taps).astype(np.complex64)


def apply_block_fading(
    samples: NDArray[np.complex64], block_samples: int, pdp: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Multipath that is drawn anew every `block_samples` output samples.

    Output sample n is the sum over l of taps[n // block_samples, l] * samples[n - l].

    Returns:
        (n + L - 1,) samples and (blocks, L) taps, both complex64.
    """
    _check_samples(samples)
    if block_samples < 1:
        raise InputError(f"block_samples must be at least 1, found {block_samples}")
    num_taps, total = len(pdp), samples.size + len(pdp) - 1
    num_blocks = max(1, -(-total // block_samples))
    taps = np.stack([draw_taps(pdp, rng) for _ in range(num_blocks)])
    padded = np.concatenate([np.zeros(num_taps - 1), samples, np.zeros(num_taps - 1)]).astype(np.complex64)
    faded = np.empty(total, dtype=np.complex64)
    for block in range(num_blocks):
        first, last = block * block_samples, min((block + 1) * block_samples, total)
        faded[first:last] = np.convolve(padded[first : last + num_taps - 1], taps[block], mode="valid")
    return faded, taps


def apply_cfo(samples: NDArray[np.complex64], cfo_hz: float, rate_sps: float) -> NDArray[np.complex64]:
    """Rotate sample n by 2 pi cfo_hz n / rate_sps; the phase is 0 at sample 0.

    >>> apply_cfo(np.ones(3, np.complex64), cfo_hz=250.0, rate_sps=1000.0).round(3)
    array([ 1.+0.j,  0.+1.j, -1.+0.j], dtype=complex64)
    """
    _check_samples(samples)
    # The phase is reduced to one turn before the exponential, or it would lose precision over long captures.
    turns = np.mod(np.arange(samples.size) * (cfo_hz / rate_sps), 1.0)
    return (samples * np.exp(2j * np.pi * turns)).astype(np.complex64)


def apply_delay(samples: NDArray[np.complex64], delay_samples: float) -> NDArray[np.complex64]:
    """Delay by any number of samples >= 0, the fraction by band-limited interpolation.

    Returns:
        (n + ceil(delay_samples),) samples. A fractional delay rings around steep edges, as any band-limited signal
        does; what would ring before the first or after the last sample is cut off.
    """
    _check_samples(samples)
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
    _check_samples(samples)
    if not math.isfinite(noise_var) or noise_var < 0:
        raise InputError(f"noise_var must be finite and >= 0, found {noise_var}")
    noise = rng.standard_normal((samples.size, 2), dtype=np.float32).view(np.complex64)[:, 0]
    return (samples + noise * np.float32(math.sqrt(noise_var / 2))).astype(np.complex64)


def clip(samples: NDArray[np.complex64], limit: float) -> NDArray[np.complex64]:
    """Limit the magnitude of every sample to `limit`, keeping its phase.

    >>> clip(np.array([3 + 4j, 0.3 + 0.4j], np.complex64), limit=1.0)
    array([0.6+0.8j, 0.3+0.4j], dtype=complex64)
    """
    _check_samples(samples)
    if not limit > 0:
        raise InputError(f"a magnitude limit must be > 0, found {limit}")
    magnitude = np.abs(samples)
    return np.where(magnitude > limit, samples * (limit / np.maximum(magnitude, limit)), samples).astype(np.complex64)


def noise_var_for_csnr(layout: FrameLayout, csnr_db: float) -> float:
    """Noise power per sample that gives a CSNR: `amplitude**2 * 10**(-csnr_db / 10)`.

    The CSNR is the mean power of an active carrier's cell over the noise power in its bin, for a channel of unit mean
    gain; the transform is unitary, so a bin's noise power equals a sample's.
    """
    return layout.amplitude**2 * 10.0 ** (-csnr_db / 10.0)
