"""Find frames by their cyclic prefix alone: no preamble, no header, no known symbol is looked at.

A prefix repeats the end of its symbol, so the correlation of samples one transform apart peaks where a frame's symbols
begin, and its angle is the carrier offset (van de Beek, Sandell, Borjesson 1997, IEEE Trans. Signal Processing
45:1800). It is summed over the symbols of a frame; the gap behind a frame tells its first symbol from its
second. Correlations of several antennas add up, each over its antenna's noise. What headers would say is given by
whoever made the experiment. The channel is then for a blind method to find: timing is good to a sample or two, and the
prefix sees no phase.

Noise is what the gaps hold, carrier by carrier as the gaps of the whole recording show it: what jams has to be always
on. How strong carriers are in the frames themselves does not tell it, as a channel's peak looks the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from receiver.sync.antennas import noise_floors
from receiver.sync.arrays import window_sums
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.noise_powers import carrier_noise
from receiver.sync.rate import check_rate
from sdr.errors import ConfigError, InputError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout
from sdr.modem import demodulate
from sdr.recordings.recording import Recording

SPOILED_SAMPLES = 2
"""Samples at the head of each prefix that are left out: the strongest echoes of the symbol before spoil them."""
PEAK_LAG_SAMPLES = 1
"""Samples that the peak lies behind the first path on average, for 8 taps of decay 4."""
DETECTION_SIGMAS = 4.0
"""Least correlation over its rms in noise alone, which exceeds it at one start in 1e7."""

#: Points of a gap's spectrum for each carrier.
_FINER = 4
#: Signal over noise of an antenna that hears nothing.
_LEAST_SNR = 1e-3


def find_frames_by_prefix(
    recording: Recording, layout: FrameLayout, headers: Sequence[FrameHeader]
) -> list[SyncedFrame]:
    """Find all whole frames of a recording, in order of time.

    Args:
        recording: any samples.
        layout: of the frames.
        headers: of the frames sent, in their order. The first frame found is taken for the first one sent; frames that
            are missed later on are noticed by the time that they leave.

    Raises:
        ConfigError: a layout without prefix or gap.
        RecordingError: the recording's rate is not the layout's.
        InputError: more frames were found than were sent.
    """
    if layout.cp_samples <= SPOILED_SAMPLES + 1 or layout.gap_samples <= 2 * layout.cp_samples:
        raise ConfigError(
            f"Layout '{layout.name}' has a prefix of {layout.cp_samples} samples and a gap of {layout.gap_samples}; "
            f"finding frames by their prefix needs more than {SPOILED_SAMPLES + 1} and more than two prefixes."
        )
    check_rate(recording.settings.rate_sps, layout)
    antennas = recording.stacked
    weights = 1 / noise_floors(antennas, layout.cp_samples)
    of_each = zip(*(_statistics(own, layout) for own in antennas), strict=True)
    correlation, power, score = (np.tensordot(weights, np.stack(values), 1) for values in of_each)
    found = _peaks(score, np.abs(correlation) / np.maximum(power, 1e-30), layout, len(antennas))
    frames: list[SyncedFrame] = []
    for place in found:
        index = round((place - found[0]) / layout.frame_samples)
        if index >= len(headers):
            raise InputError(
                f"{len(headers)} frames were sent, but one more was found at sample {place}. State what was sent, or "
                "cut the recording."
            )
        coherence = complex(correlation[place] / power[place])
        frame = _frame(antennas, layout, place, coherence, headers[index])
        if frame is not None:
            frames.append(frame)
    silences = [_silence(own, layout, frames) for own in antennas]
    return [_with_silence(frame, silences) for frame in frames]


def _with_silence(frame: SyncedFrame, silences: Sequence[NDArray[np.float64] | None]) -> SyncedFrame:
    """Return the frame with what silence shows at each antenna."""
    own, *others = (replace(each, silence=silence) for each, silence in zip(frame.antennas, silences, strict=True))
    return replace(own, others=tuple(others))


def _silence(
    samples: NDArray[np.complex64], layout: FrameLayout, frames: Sequence[SyncedFrame]
) -> NDArray[np.float64] | None:
    """Return the noise power (N,) of each carrier in the gaps behind frames; None where there are none."""
    size, width = layout.fft_size, _quiet_samples(layout)
    powers = np.zeros(_FINER * size)
    taper, time, count = np.hanning(width + 2)[1:-1], np.arange(width), 0
    for frame in frames:
        gap = _gap_behind(samples, frame.start, layout)
        if gap.size == width:
            turned = gap * taper * np.exp(-2j * np.pi * frame.cfo_hz / layout.rate_sps * time)
            powers += np.abs(np.fft.fft(turned, powers.size)) ** 2 / np.sum(taper**2)
            count += 1
    if not count:
        return None
    # As the transform of a whole symbol sees it, with what leaks from one carrier to the others.
    lags = np.abs(np.fft.fftfreq(powers.size, 1 / powers.size))
    seen = np.fft.fft(np.fft.ifft(powers / count) * np.maximum(1 - lags / size, 0)).real[::_FINER]
    silence = np.maximum(seen, 1e-20)
    silence[layout.active_bins] = carrier_noise(silence[layout.active_bins], count)
    return silence


def _quiet_samples(layout: FrameLayout) -> int:
    """Return the samples of a gap that no echo reaches, wherever the frame is taken to begin."""
    return layout.gap_samples - 2 * layout.cp_samples


def _gap_behind(samples: NDArray[np.complex64], start: int, layout: FrameLayout) -> NDArray[np.complex64]:
    """Return what samples (..., n) hold in the quiet part of the gap behind the frame of this start."""
    behind = start + timing_advance(layout) + PEAK_LAG_SAMPLES
    behind += layout.num_symbols * layout.symbol_samples + layout.cp_samples
    return samples[..., behind : behind + _quiet_samples(layout)]


def _statistics(
    samples: NDArray[np.complex64], layout: FrameLayout
) -> tuple[NDArray[np.complex128], NDArray[np.float64], NDArray[np.float64]]:
    """Correlate the prefixes of a frame at every start.

    Returns:
        the correlation summed over a frame's prefixes, the power in them, and a score: the correlation per sample less
        half of the power per sample in the gaps before and behind. All (starts,).
    """
    size, step, count = layout.fft_size, layout.symbol_samples, layout.num_symbols
    width = layout.cp_samples - SPOILED_SAMPLES
    wide = samples.astype(np.complex128)
    energy = np.abs(wide) ** 2
    starts = len(samples) - count * step + 1
    if starts < 1:
        empty = np.zeros(0)
        return empty.astype(np.complex128), empty, empty
    products = window_sums(wide[:-size] * wide[size:].conj(), width)
    powers = window_sums((energy[:-size] + energy[size:]) / 2, width)
    first = [SPOILED_SAMPLES + symbol * step for symbol in range(count)]
    # Beyond the last prefix a frame's windows stay within the samples: prefix and transform are one symbol.
    correlation = sum(products[begin : begin + starts] for begin in first)
    power = sum(powers[begin : begin + starts] for begin in first)
    # What lies before and behind the recording counts as silence. A prefix is left out for echoes; of a long gap only
    # what is next to the frame tells one symbol from the next.
    quiet = min(_quiet_samples(layout), step)
    padded = np.concatenate([np.zeros(layout.gap_samples), energy, np.zeros(layout.gap_samples)])
    gaps = window_sums(padded, quiet) / quiet
    before_first = layout.gap_samples - layout.cp_samples - quiet
    before = gaps[before_first : before_first + starts]
    behind_first = layout.gap_samples + count * step + layout.cp_samples
    behind = gaps[behind_first : behind_first + starts]
    score = np.abs(correlation) / (count * width) - (before + behind) / 2
    return np.asarray(correlation), np.asarray(power), score


def _peaks(score: NDArray[np.float64], metric: NDArray[np.float64], layout: FrameLayout, antennas: int) -> list[int]:
    """Pick starts of frames by score, none closer to another than a frame less a symbol; in order of time."""
    width = layout.cp_samples - SPOILED_SAMPLES
    threshold = DETECTION_SIGMAS / math.sqrt(layout.num_symbols * width * antennas)
    left = np.where(metric > threshold, score, -np.inf)
    reach = layout.frame_samples - layout.symbol_samples
    found: list[int] = []
    while left.size and np.isfinite(left.max()):
        place = int(left.argmax())
        found.append(place)
        left[max(place - reach, 0) : place + reach + 1] = -np.inf
    return sorted(found)


def _frame(
    antennas: NDArray[np.complex64], layout: FrameLayout, place: int, coherence: complex, header: FrameHeader
) -> SyncedFrame | None:
    """Return the frame whose correlation peaks at `place`; None where the recording does not hold it whole.

    Args:
        antennas: (A, n) samples of the recording.
        layout: of the frame.
        place: sample.
        coherence: correlation over power there.
        header: of the frame.
    """
    advance = timing_advance(layout)
    start = place - PEAK_LAG_SAMPLES - advance
    length = layout.num_symbols * layout.symbol_samples
    if start < 0 or start + length > antennas.shape[1]:
        return None
    ahead = place - layout.gap_samples + layout.cp_samples
    before = antennas[:, max(ahead, 0) : max(place - layout.cp_samples, 0)]
    quiet = np.concatenate([before, _gap_behind(antennas, start, layout)], axis=1)
    if quiet.shape[1] < layout.cp_samples:
        return None
    noise_vars = np.maximum(np.mean(np.abs(quiet) ** 2, axis=1), 1e-20)
    received = np.mean(np.abs(antennas[:, place : place + length]) ** 2, axis=1)
    signals = (received - noise_vars) * layout.fft_size / layout.num_active
    if signals.max() <= 0:
        return None
    cfo_hz = -float(np.angle(coherence)) / (2 * math.pi * layout.fft_size) * layout.rate_sps
    pairs = layout.num_symbols * (layout.cp_samples - SPOILED_SAMPLES) * len(antennas)
    metric = min(abs(coherence), 1.0)
    first = layout.first_pilot_symbol
    own: list[SyncedFrame] = []
    for samples, noise_var, signal in zip(antennas, noise_vars, signals, strict=True):
        grid = demodulate(samples, start, layout, layout.num_symbols, 0, cfo_hz)
        own.append(
            SyncedFrame(
                grid=grid[first:],
                header=header,
                start=start,
                advance=advance,
                cfo_hz=cfo_hz,
                # The angle of a correlation of so many pairs of that coherence.
                cfo_std_hz=layout.carrier_spacing_hz / (2 * math.pi) * math.sqrt((1 / metric**2 - 1) / (2 * pairs)),
                metric=metric,
                noise_var=float(noise_var),
                noise_var_std=float(noise_var) / math.sqrt(quiet.shape[1]),
                # An antenna in a deep fade may hear nothing of what another one hears.
                signal_power=max(float(signal), _LEAST_SNR * float(noise_var)),
                preamble_grid=grid[:2],
                header_grid=grid[2:first],
                known_taps=np.zeros(1, dtype=np.complex64),
            )
        )
    return replace(own[0], others=tuple(own[1:]))
