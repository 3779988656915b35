"""Take interference out of samples before frames are looked for: steady carriers, and noise in narrow bands.

The statistics of detection take noise for white. A few carriers that are much noisier than the others hide a frame:
they hold most of the energy, and noise that is narrow resembles itself half a symbol later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.ndimage
import scipy.signal
from numpy.typing import NDArray

from receiver.sync.arrays import fft, squared_magnitude
from sdr.layout import FrameLayout

#: Samples of a piece that spectra are taken of, and pieces.
_PIECE, _PIECES = 2048, 8
#: Bins that hold the receiver's offset, which is taken off elsewhere.
_AT_DC = [0, 1, 2, -1, -2]
_TONES, _TONE_SHARE = 4, 0.05
# A frequency is jammed where it has so many times the usual power of its neighbourhood, and bands are taken out where
# they hold such a share of all power. What is usual is the median over a part of the band in which fading changes
# little, taken for fading up to so many times the median of all carriers in use; beyond that it is a wide jammed band.
_BAND_RATIO, _BAND_SHARE, _FADING_RATIO = 4.0, 0.15, 8.0
_NEIGHBOURHOOD = _PIECE // 8 + 1


def without_interference(
    samples: NDArray[np.complex64], layout: FrameLayout
) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """Return the samples (n,) of an antenna without steady carriers, and these without jammed bands as well.

    Where nothing is jammed both are the same array. What frames carry in a jammed band is taken down, too, and what is
    left of it is spread over many samples: good for finding frames, not for reading them.
    """
    samples, spectrum = _without_tones(samples)
    return samples, samples if spectrum is None else _without_bands(samples, spectrum, layout)


def _without_tones(samples: NDArray[np.complex64]) -> tuple[NDArray[np.complex64], NDArray[np.float64] | None]:
    """Take out steady carriers (but DC) that hold more than `_TONE_SHARE` of the power, at most `_TONES`.

    Frames spread their power over carriers and, from one repetition to the next, over the lines between these; only
    something foreign puts so much of it into one line.

    Returns:
        the samples and their spectrum (`_PIECE`,), None where there are too few of them or nothing is left.
    """
    if samples.size < 2 * _PIECE:
        return samples, None
    begins = np.linspace(0, samples.size - _PIECE, _PIECES).astype(np.int64)
    taper = np.hanning(_PIECE).astype(np.float32)

    def spectrum_of(samples: NDArray[np.complex64]) -> NDArray[np.float64]:
        pieces = np.stack([samples[begin : begin + _PIECE] for begin in begins]) * taper
        return squared_magnitude(fft(pieces, axis=1)).sum(axis=0, dtype=np.float64)

    spectrum = spectrum_of(samples)
    whole = float(spectrum.sum())
    for _ in range(_TONES if samples.size >= 4 * _PIECE else 0):
        # The taper puts a line into three bins.
        lines = spectrum + np.roll(spectrum, 1) + np.roll(spectrum, -1)
        lines[_AT_DC] = 0.0
        peak = int(lines.argmax())
        if not lines[peak] > _TONE_SHARE * spectrum.sum():
            break
        samples = _without_tone(samples, _tone_frequency(samples, peak / _PIECE, 1.0 / _PIECE))
        spectrum = spectrum_of(samples)
        if spectrum.sum() < 1e-6 * whole:
            # 60 dB below a carrier nothing but rounding and its phase noise is left.
            return np.zeros_like(samples), None
    return samples, spectrum


def _without_tone(samples: NDArray[np.complex64], turns: float) -> NDArray[np.complex64]:
    """Take out a carrier of a frequency in turns per sample, whose level and phase may change slowly."""
    carrier = np.exp(2j * np.pi * ((np.arange(samples.size) * turns) % 1.0)).astype(np.complex64)
    blocks = max(samples.size // 8192, 1)
    edges = np.linspace(0, samples.size, blocks + 1).astype(np.int64)
    level = np.add.reduceat(samples * carrier.conj(), edges[:-1]) / np.diff(edges)
    return (samples - np.repeat(level.astype(np.complex64), np.diff(edges)) * carrier).astype(np.complex64)


def _tone_frequency(samples: NDArray[np.complex64], turns: float, width: float) -> float:
    """Return the frequency (turns per sample) of the strongest line within `width` of `turns`."""
    part = samples[: 1 << 17]
    derotated = part * np.exp(-2j * np.pi * ((np.arange(part.size) * turns) % 1.0))
    length = 1 << 10
    size = part.size // length * length
    # Sums over 1024 samples keep the lines within `width`; their padded transform resolves them.
    sums = derotated[:size].reshape(-1, length // 4).sum(axis=1)
    points = 8 * sums.size
    spectrum = np.abs(fft(sums, n=points))
    frequency = np.fft.fftfreq(points) / (length // 4)
    spectrum[np.abs(frequency) > 2 * width] = 0.0
    peak = int(spectrum.argmax())
    left, top, right = (spectrum[(peak + i) % points] for i in (-1, 0, 1))
    bend = left - 2 * top + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return turns + float(frequency[peak]) + shift / points / (length // 4)


def _without_bands(
    samples: NDArray[np.complex64], spectrum: NDArray[np.float64], layout: FrameLayout
) -> NDArray[np.complex64]:
    """Take bands that are jammed down to the level of the others.

    Args:
        samples: (n,).
        spectrum: (`_PIECE`,) of them.
        layout: says which carriers are in use.
    """
    spectrum = spectrum.copy()
    spectrum[_AT_DC] = 0.0
    # A carrier wide, as far as the spectrum resolves that: less of the ripple.
    reach = max(_PIECE // layout.fft_size // 2, 1)
    smooth = _around(spectrum, reach) / (2 * reach + 1)
    middle = float(np.median(smooth[layout.active_bins * _PIECE // layout.fft_size]))
    near = scipy.ndimage.median_filter(smooth, size=_NEIGHBOURHOOD, mode="wrap")
    usual = np.clip(near, middle, _FADING_RATIO * middle)
    jammed = smooth > _BAND_RATIO * usual
    if np.sum((smooth - usual)[jammed]) <= _BAND_SHARE * np.sum(smooth):
        return samples
    # The edges of bands, too, where the taper lets their power leak.
    jammed = _around(jammed.astype(np.float64), 4) > 0
    gain = np.where(jammed, np.sqrt(usual / np.maximum(smooth, usual)), 1.0)
    kernel = np.fft.fftshift(np.fft.ifft(gain))[1:] * np.hanning(_PIECE - 1)
    filtered: Any = scipy.signal.oaconvolve(samples, kernel.astype(np.complex64), mode="same")
    return filtered.astype(np.complex64)


def _around(spectrum: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Return, for each bin of a spectrum, the sum over the bins around it, `reach` to either side."""
    padded = np.concatenate([spectrum[-reach:], spectrum, spectrum[:reach]])
    return np.convolve(padded, np.ones(2 * reach + 1), mode="valid")
