"""Finding frames in a recording: detection, timing, carrier offset, header, noise.

The steps, each on bounded chunks of samples:

1. *Candidates*: the correlation between two successive half symbols, normalised by both their energies (Schmidl and
   Cox, IEEE Trans. Commun. 45(12), 1997, with the geometric instead of the arithmetic mean of the energies, which
   makes its distribution under white noise exact: P(metric > x) = (1 - x)^(N/2 - 1)). The threshold is low; noise
   passes it with `CANDIDATE_FALSE_ALARM` per sample.
2. *Confirmation*: after the fractional offset is removed, both preambles are correlated with the known ones for every
   carrier offset in whole carriers. A frame concentrates the energy in a window as long as a channel, noise spreads
   it (a Beta distribution, threshold at `CONFIRM_FALSE_ALARM` per hypothesis).
3. *Timing*: the evidence of each start under channels of exponential profile, marginalised over the taps.
4. *Carrier offset*: half symbols, then preamble A against B, then the header blindly (its BPSK squared), and, once the
   header is read, header and preambles as known symbols.
5. *Noise and signal power*: from carriers and samples that are empty, and from the header's scatter.

Pilots and data are neither used nor altered, so that a blind decoder finds them as they came.

Convention: `SyncedFrame.start` is a sample index `advance` samples before the first path's arrival. Symbol m's window
begins at `start + m * (N + cp) + cp`; the carrier correction has phase 0 at sample `start`. A path that arrives at
sample `start + d` is tap d, so the first path is usually tap `advance` and a timing error moves the taps by one or two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.stats
from numpy.typing import NDArray

from sdr.errors import ConfigError, RecordingError
from sdr.header import FrameHeader, decode_header, encode_header
from sdr.impairments import clip, exponential_pdp
from sdr.layout import FrameLayout
from sdr.recording import Recording

Complex = NDArray[np.complex128]

CANDIDATE_FALSE_ALARM = 3e-4
"""Probability per noise sample of passing step 1."""

CONFIRM_FALSE_ALARM = 1e-12
"""Probability per hypothesis (a lag and a carrier offset) that noise passes step 2."""

MAX_CFO_HZ = 65e3
"""Carrier offsets searched: 25 ppm at 2.4 GHz, and a little more."""

_SCREEN_FALSE_ALARM = 1e-6
_CHUNK_SAMPLES = 1 << 17
# Noise that timing always assumes, relative to the signal: no channel is so exactly one of the profiles that 40 dB more
# of it would mean anything, and on a part of the band the evidence would then follow rounding errors.
_MODEL_ERROR = 1e-4
_TIMING_DECAYS = (0.25, 1.0, 4.0, 10.0)


@dataclass(frozen=True, eq=False)
class SyncedFrame:
    """One frame found in a recording. Powers are linear, in the recording's scale (full scale 1).

    Attributes:
        grid: complex64 (P + S, N) pilot and data symbols, unitary FFT, bin order, carrier offset removed, raw.
        header: the header, None where its CRC failed.
        start: sample index `advance` before the first path; what tap 0 refers to.
        advance: samples from `start` to the estimated first path.
        cfo_hz, cfo_std_hz: carrier offset removed, and its standard error.
        metric: half-symbol correlation at the frame, 0..1.
        noise_var, noise_var_std: noise power per bin of `grid`, and its standard error.
        signal_power: mean power per active carrier without the noise.
        preamble_grid: complex64 (2, N), header_grid: complex64 (header_symbols, N), for diagnosis only.
        known_taps: complex64 (L,) channel seen by preambles and header, raw scale; for diagnosis and scoring only.
    """

    grid: NDArray[np.complex64]
    header: FrameHeader | None
    start: int
    advance: int
    cfo_hz: float
    cfo_std_hz: float
    metric: float
    noise_var: float
    noise_var_std: float
    signal_power: float
    preamble_grid: NDArray[np.complex64]
    header_grid: NDArray[np.complex64]
    known_taps: NDArray[np.complex64]

    def __post_init__(self) -> None:
        if self.grid.ndim != 2 or self.preamble_grid.shape != (2, self.grid.shape[1]):
            raise ConfigError(
                f"Grids of shape {self.grid.shape} and {self.preamble_grid.shape}; needed (P + S, N) and (2, N)."
            )
        if not (self.noise_var > 0 and self.signal_power > 0 and math.isfinite(self.noise_var + self.signal_power)):
            raise ConfigError(
                f"noise_var and signal_power must be positive, found {self.noise_var} and {self.signal_power}."
            )

    @property
    def snr_db(self) -> float:
        """Estimated signal-to-noise ratio per active carrier."""
        return 10.0 * math.log10(self.signal_power / self.noise_var)

    @property
    def header_ok(self) -> bool:
        return self.header is not None


def timing_advance(layout: FrameLayout) -> int:
    """Samples that `start` lies before the estimated first path: a quarter of the prefix, at most 2.

    An estimate that misses a weak first path is late by a sample or two, and fractional delays leak a sample ahead.
    """
    return min(layout.cp_samples // 4, 2)


def find_frames(recording: Recording, layout: FrameLayout, *, max_cfo_hz: float = MAX_CFO_HZ) -> list[SyncedFrame]:
    """All whole frames of a recording, in order of time; empty where there are none.

    A frame that the recording cuts off before its last data symbol is left out. Frames whose header fails its CRC are
    returned with `header=None`.

    Args:
        max_cfo_hz: largest carrier offset, in Hz, that is searched.

    Raises:
        RecordingError: the recording's rate is not the layout's.
    """
    rate_sps = recording.settings.rate_sps
    if abs(rate_sps - layout.rate_sps) > 1e-3 * layout.rate_sps:
        raise RecordingError(
            f"the recording has {rate_sps:g} samples per second, layout '{layout.name}' needs {layout.rate_sps:g}; "
            "use the layout of the transmission or resample"
        )
    samples = recording.samples
    mean = complex(samples.mean(dtype=np.complex128))
    hits = _confirm(samples, mean, layout, _candidates(samples, mean, layout), max_cfo_hz)
    dc_offset = _dc_offset(samples, layout, hits)
    frames = [_read_frame(samples, dc_offset, layout, hit) for hit in hits if _may_be_whole(hit, samples, layout)]
    return _without_overlaps([frame for frame in frames if _is_whole(frame, samples, layout)], layout)


# Step 1 and 2: detection


@dataclass(frozen=True)
class _Hit:
    """A confirmed preamble: sample index of the first path's window of A, offset in carriers, both scores."""

    window: int
    offset_carriers: float
    metric: float
    score: float


def _half_metric(samples: NDArray[np.complex64], layout: FrameLayout) -> NDArray[np.float64]:
    """|sum_m conj(r[d+m]) r[d+m+N/2]|^2 over the energies of both half symbols, 0..1, for each d."""
    half = layout.fft_size // 2
    wide = samples.astype(np.complex128)
    products = np.cumsum(np.concatenate([np.zeros(1, np.complex128), np.conj(wide[:-half]) * wide[half:]]))
    energies = np.cumsum(np.concatenate([[0.0], wide.real**2 + wide.imag**2]))
    correlation = products[half:] - products[:-half]
    energy = energies[half:] - energies[:-half]
    # Sums over silence are rounding errors of the running sums; the floor keeps their ratio from looking coherent.
    floor = 1e-10 * energies[-1] + 1e-100
    denominator = np.maximum(energy[:-half], floor) * np.maximum(energy[half:], floor)
    return np.minimum(np.abs(correlation) ** 2 / denominator, 1.0)


def _candidates(samples: NDArray[np.complex64], mean: complex, layout: FrameLayout) -> NDArray[np.int64]:
    """Sample indices where the half-symbol correlation peaks, ascending, at most one per half symbol or so."""
    size, half = layout.fft_size, layout.fft_size // 2
    threshold = 1.0 - CANDIDATE_FALSE_ALARM ** (1.0 / (half - 1))
    spacing = half + layout.cp_samples
    found: list[NDArray[np.int64]] = []
    # Chunks overlap by a symbol, so every window of N samples lies whole in one of them.
    for first in range(0, max(samples.size - size + 1, 0), _CHUNK_SAMPLES):
        chunk = samples[first : first + _CHUNK_SAMPLES + size - 1] - np.complex64(mean)
        metric = _half_metric(chunk, layout)
        blocks = -(-metric.size // spacing)
        padded = np.zeros(blocks * spacing)
        padded[: metric.size] = metric
        padded = padded.reshape(blocks, spacing)
        peaks = padded.max(axis=1)
        places = padded.argmax(axis=1) + np.arange(blocks) * spacing
        # A peak beside a larger one within half a spacing is the same event seen from the neighbouring block.
        near = np.diff(places) < spacing // 2
        beaten = np.zeros(blocks, dtype=bool)
        beaten[:-1] |= near & (peaks[1:] > peaks[:-1])
        beaten[1:] |= near & (peaks[:-1] >= peaks[1:])
        found.append(first + places[(peaks > threshold) & ~beaten])
    return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)


@lru_cache(maxsize=32)
def _score_threshold(layout: FrameLayout, window: int, false_alarm: float) -> float:
    """Share of energy in `window` lags that white noise on the active carriers exceeds with `false_alarm`."""
    share = window / layout.fft_size
    return float(scipy.stats.beta.isf(false_alarm, share * layout.num_active, (1 - share) * layout.num_active))


def _window_taps(layout: FrameLayout) -> int:
    """Lags that hold a channel: the prefix and its first sample, or a few where the prefix is shorter than those."""
    return min(max(layout.cp_samples + 1, 4), layout.fft_size // 4)


def _confirm(
    samples: NDArray[np.complex64], mean: complex, layout: FrameLayout, candidates: NDArray[np.int64], max_cfo_hz: float
) -> list[_Hit]:
    """Candidates that both preambles confirm, one per frame, in order of time."""
    whole = round(max_cfo_hz / layout.carrier_spacing_hz)
    pairs = min(-(-whole // 2), layout.fft_size // 4)
    taps = _window_taps(layout)
    screen, final = (_score_threshold(layout, taps, alarm) for alarm in (_SCREEN_FALSE_ALARM, CONFIRM_FALSE_ALARM))
    hits: list[_Hit] = []
    for first in range(0, candidates.size, 64):
        batch = candidates[first : first + 64]
        window, offset, _, score = _score(samples, mean, layout, batch, np.arange(-pairs, pairs + 1))
        # Screened candidates are scored once more at the place and offset that the first pass found.
        window = window[score > screen]
        if not window.size:
            continue
        window, offset, metric, score = _score(samples, mean, layout, window, np.arange(-pairs, pairs + 1))
        hits += [
            _Hit(int(window[i]), float(offset[i]), float(metric[i]), float(score[i]))
            for i in np.flatnonzero(score > final)
        ]
    kept: list[_Hit] = []
    for hit in sorted(hits, key=lambda hit: -hit.score):
        if all(abs(hit.window - other.window) >= layout.symbol_samples for other in kept):
            kept.append(hit)
    return sorted(kept, key=lambda hit: hit.window)


def _score(
    samples: NDArray[np.complex64],
    mean: complex,
    layout: FrameLayout,
    windows: NDArray[np.int64],
    pairs: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Best (window, offset in carriers, half-symbol metric, score) around each window position of preamble A."""
    size, symbol, taps = layout.fft_size, layout.symbol_samples, _window_taps(layout)
    half = size // 2
    windows = windows[(windows >= 0) & (windows + symbol + size <= samples.size)]
    if not windows.size:
        empty = np.zeros(0)
        return windows, empty, empty, empty
    index = windows[:, None] + np.concatenate([np.arange(size), symbol + np.arange(size)])
    received = samples[index] - np.complex64(mean)
    first, second = received[:, :half], received[:, half:size]
    correlation = np.sum(first.conj() * second, axis=1)
    energy = np.sum(np.abs(first) ** 2, axis=1) * np.sum(np.abs(second) ** 2, axis=1)
    metric = np.abs(correlation) ** 2 / np.maximum(energy, np.finfo(np.float32).tiny)
    fraction = np.angle(correlation) / np.pi  # in carriers, modulo 2
    time = np.concatenate([np.arange(size), symbol + np.arange(size)])
    received = received * np.exp(-2j * np.pi / size * fraction[:, None] * time)
    grids = np.fft.fft(received.reshape(-1, 2, size), axis=-1)
    # Noise on the combined correlation is white when every carrier is divided by its reference's norm.
    reference = np.stack([layout.preamble_a, layout.preamble_b]).conj()
    norm = np.sqrt(np.sum(np.abs(reference) ** 2, axis=0))
    reference = reference / np.where(norm > 0, norm, 1.0)
    active = norm > 0
    scores, lags = [], []
    for pair in pairs:
        shifted = np.roll(grids, -2 * pair, axis=-1)
        # The shift by whole carriers leaves the phase that they gather from one symbol to the next.
        turn = np.exp(-2j * np.pi * 2 * pair * symbol / size)
        combined = shifted[:, 0] * reference[0] + turn * shifted[:, 1] * reference[1]
        energy = np.abs(np.fft.ifft(combined, axis=-1)) ** 2
        running = np.cumsum(np.concatenate([energy, energy[:, : taps - 1]], axis=1), axis=1)
        inside = running[:, taps - 1 :].copy()
        inside[:, 1:] -= running[:, : size - 1]
        lag = inside.argmax(axis=1)
        # The share is taken of what the carriers hold at this shift, or a strong neighbour would mask the frame.
        total = np.sum(np.abs(combined[:, active]) ** 2, axis=1) / size
        scores.append(inside[np.arange(lag.size), lag] / np.maximum(total, np.finfo(np.float64).tiny))
        lags.append(lag)
    score, lag = np.stack(scores), np.stack(lags)
    best = score.argmax(axis=0)
    row = np.arange(windows.size)
    lag = lag[best, row]
    # Windows that begin before the true one see the paths late: the lag says by how much, modulo N.
    moved = windows + np.where(lag >= half, lag - size, lag)
    return moved, fraction + 2.0 * pairs[best], metric, score[best, row]


def _may_be_whole(hit: _Hit, samples: NDArray[np.complex64], layout: FrameLayout) -> bool:
    """Whether the recording can hold the frame to its last data symbol; the hit is true to a prefix or so."""
    begin = hit.window - layout.cp_samples
    slack = layout.cp_samples + timing_advance(layout)
    return begin >= -slack and begin + layout.num_symbols * layout.symbol_samples <= samples.size + slack


def _is_whole(frame: SyncedFrame, samples: NDArray[np.complex64], layout: FrameLayout) -> bool:
    """Whether every window of the frame lies in the recording."""
    end = frame.start + layout.num_symbols * layout.symbol_samples
    return frame.start + layout.cp_samples >= 0 and end <= samples.size


def _dc_offset(samples: NDArray[np.complex64], layout: FrameLayout, hits: list[_Hit]) -> complex:
    """Mean of the samples outside of frames where it is significant, else 0.

    Frames have a mean of their own (a carrier at 0 Hz, equal preambles), so only what lies between them counts.
    """
    outside = np.ones(samples.size, dtype=bool)
    margin = layout.symbol_samples
    for hit in hits:
        begin = hit.window - layout.cp_samples
        end = begin + layout.num_symbols * layout.symbol_samples
        outside[max(begin - layout.cp_samples, 0) : end + 2 * _window_taps(layout)] = False
    count = int(np.count_nonzero(outside))
    if count < margin // 4:
        return 0j
    quiet = samples[outside]
    mean = complex(quiet.mean(dtype=np.complex128))
    variance = float(np.mean(np.abs(quiet - np.complex64(mean)) ** 2, dtype=np.float64))
    return mean if abs(mean) ** 2 > 12.0 * variance / count else 0j


# Step 3 to 5: reading a frame


def _transmitted(grid: NDArray[np.complex64], layout: FrameLayout) -> Complex:
    """(M, N) known symbols as they leave the transmitter: the same grid unless its samples were limited."""
    time = np.fft.ifft(grid.astype(np.complex128), axis=-1, norm="ortho") * layout.amplitude
    limit = layout.magnitude_limit
    if np.abs(time).max() <= limit:
        return grid.astype(np.complex128)
    limited = clip(time.astype(np.complex64).reshape(-1), limit).reshape(time.shape) / layout.amplitude
    return np.fft.fft(limited, axis=-1, norm="ortho")


@lru_cache(maxsize=8)
def _sent_preambles(layout: FrameLayout) -> Complex:
    """(2, N) both preambles as they leave the transmitter."""
    return _transmitted(np.stack([layout.preamble_a, layout.preamble_b]), layout)


@lru_cache(maxsize=8)
def _quiet_bins(layout: FrameLayout) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Bins that hold only noise: in preamble A (odd active carriers), and in every symbol (null carriers)."""
    # Limiting spreads energy over the carriers that the grid left empty.
    if not np.array_equal(_sent_preambles(layout)[0], layout.preamble_a):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    odd = layout.active_bins[layout.active_bins % 2 == 1]
    if layout.clip_ratio is not None:
        return odd, np.zeros(0, dtype=np.int64)
    # Nulls beside active carriers catch what leaks from them; DC holds the receiver's own offset.
    near = np.concatenate([layout.active_bins, layout.active_bins + 1, layout.active_bins - 1, [0]]) % layout.fft_size
    return odd, np.setdiff1d(np.arange(layout.fft_size), near)


class _Frame:
    """The samples of one frame, and its symbols under the current start and carrier offset."""

    def __init__(self, samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout) -> None:
        self.samples, self.dc_offset, self.layout = samples, dc_offset, layout

    def symbols(self, start: int, cfo_hz: float, first: int, count: int) -> Complex:
        """(count, N) grid of symbols from `first` on."""
        layout = self.layout
        begin = first * layout.symbol_samples + layout.cp_samples
        time = begin + np.arange(count)[:, None] * layout.symbol_samples + np.arange(layout.fft_size)
        # A start tried past either end of the recording reads its edge sample again; such a frame is dropped later.
        index = np.clip(start + time, 0, self.samples.size - 1)
        windows = self.samples[index] - self.dc_offset
        windows = windows * np.exp(-2j * np.pi * cfo_hz / layout.rate_sps * time)
        return np.fft.fft(windows, axis=-1, norm="ortho")


def _symbol_times(layout: FrameLayout, first: int, count: int) -> NDArray[np.float64]:
    """(count,) seconds from the frame's start to the centre of each symbol's window."""
    centre = layout.cp_samples + (layout.fft_size - 1) / 2
    return ((first + np.arange(count, dtype=np.float64)) * layout.symbol_samples + centre) / layout.rate_sps


def _normal_equations(grid: Complex, known: Complex, layout: FrameLayout, taps: int) -> tuple[Complex, Complex]:
    """Matched filter's output X^H Y at all N lags, and the (taps, taps) Gram matrix of the known symbols (Toeplitz)."""
    size = layout.fft_size
    matched = np.fft.ifft(np.sum(grid * known.conj(), axis=0)) * size
    lags = np.fft.ifft(np.sum(np.abs(known) ** 2, axis=0)) * size
    return matched, lags[(np.arange(taps)[:, None] - np.arange(taps)[None, :]) % size]


def _arrival(grid: Complex, known: Complex, layout: FrameLayout, noise_var: float, power: float, reach: int) -> int:
    """Lag of the first path, -reach..reach: the start of most evidence over channels of exponential profile.

    With taps h ~ CN(0, diag(p)) behind lag d, log p(Y | d) is, but for terms without d, the quadratic form
    c_d^H (G + s P^-1)^-1 c_d / s of the matched filter's output c_d at lags d.., with G the Gram matrix of the known
    symbols; its log-determinant does not depend on d.
    """
    taps = max(layout.cp_samples - timing_advance(layout), 4)
    matched, gram = _normal_equations(grid, known, layout, taps)
    starts = np.arange(-reach, reach + 1)
    windows = matched[(starts[:, None] + np.arange(taps)[None, :]) % layout.fft_size]
    profiles = power * np.stack([np.maximum(exponential_pdp(taps, decay), 1e-12) for decay in _TIMING_DECAYS])
    normal = gram + noise_var * np.eye(taps) / profiles[:, :, None]
    solved = np.linalg.solve(normal, np.broadcast_to(windows.T, (profiles.shape[0], *windows.T.shape)))
    quadratic = np.sum(windows.T.conj() * solved, axis=1).real / noise_var
    log_det = np.linalg.slogdet(normal)[1] + np.sum(np.log(profiles / noise_var), axis=1)
    total = np.logaddexp.reduce(quadratic - log_det[:, None], axis=0)
    return int(starts[total.argmax()])


def _blind_phase_slope(equalised: Complex, times: NDArray[np.float64], anchor_s: float, limit_hz: float) -> float:
    """Carrier offset left in BPSK symbols: the slope (Hz) of half the phase of their summed squares.

    equalised (M, A) is conj(H) y with phases relative to time `anchor_s`.
    """
    squares = np.sum(equalised**2, axis=1)
    trial = np.linspace(-limit_hz, limit_hz, 257)
    turns = np.exp(-4j * np.pi * trial[:, None] * (times - anchor_s)[None, :])
    return float(trial[np.argmax((turns @ squares).real)])


def _slope(grid: Complex, known: Complex, times: NDArray[np.float64], limit_hz: float) -> float:
    """Carrier offset (Hz) left in known symbols, the channel unknown: maximises sum_k |sum_m Y X* e^{-2i pi f t}|^2."""
    products = grid * known.conj()
    gram = products @ products.conj().T
    best, low, high = 0.0, -limit_hz, limit_hz
    for _ in range(3):
        trial = np.linspace(low, high, 129)
        turns = np.exp(2j * np.pi * trial[:, None] * times[None, :])
        fit = np.einsum("fm,mn,fn->f", turns.conj(), gram, turns, optimize=True).real
        best, step = float(trial[fit.argmax()]), float(trial[1] - trial[0])
        low, high = best - step, best + step
    return best


def _channel_taps(grid: Complex, known: Complex, layout: FrameLayout, noise_var: float, power: float) -> Complex:
    """(L,) LMMSE taps behind `start` from known symbols, under a flat profile of the signal's power."""
    taps = _window_taps(layout)
    matched, gram = _normal_equations(grid, known, layout, taps)
    load = max(noise_var, 1e-9 * power) * taps / power
    return np.asarray(np.linalg.solve(gram + load * np.eye(taps), matched[:taps]), dtype=np.complex128)


def _empty_power(frame: _Frame, start: int, cfo_hz: float, arrival: int) -> list[tuple[float, int]]:
    """(mean power, complex degrees of freedom) of what the transmitter left empty: carriers of A, nulls, the gap."""
    layout = frame.layout
    powers: list[tuple[float, int]] = []
    odd, null = _quiet_bins(layout)
    if odd.size:
        a = frame.symbols(start, cfo_hz, 0, 1)[0, odd]
        powers.append((float(np.mean(np.abs(a) ** 2)), odd.size))
    if null.size:
        quiet = frame.symbols(start, cfo_hz, 0, layout.num_symbols)[:, null]
        powers.append((float(np.mean(np.abs(quiet) ** 2)), quiet.size))
    gap_begin = start + layout.num_symbols * layout.symbol_samples + arrival + _window_taps(layout)
    gap_end = min(start + layout.frame_samples - 2, frame.samples.size)
    if gap_end - gap_begin >= 16:
        gap = frame.samples[gap_begin:gap_end] - frame.dc_offset
        powers.append((float(np.mean(np.abs(gap) ** 2, dtype=np.float64)), gap.size))
    return powers


def _combine(powers: list[tuple[float, int]]) -> tuple[float, float]:
    """Noise power and its standard error from estimates (power, degrees of freedom), weighted by the latter.

    An estimate far above the smallest one is not noise but something else on the air, and is left out.
    """
    if not powers:
        return 0.0, 0.0
    trusted = min(powers, key=lambda item: item[0] * (1 + 3 / math.sqrt(item[1])))[0]
    kept = [(power, count) for power, count in powers if power <= trusted * (1.25 + 6 / math.sqrt(count))]
    total = sum(count for _, count in kept)
    mean = sum(power * count for power, count in kept) / total
    return mean, mean / math.sqrt(total)


def _read_frame(samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout, hit: _Hit) -> SyncedFrame:
    """Timing, offset, header, noise and symbols of a confirmed frame."""
    frame = _Frame(samples, dc_offset, layout)
    advance = timing_advance(layout)
    count = layout.header_symbols
    preambles = _sent_preambles(layout)
    active = layout.active_bins
    start = hit.window - layout.cp_samples
    cfo_hz = hit.offset_carriers * layout.carrier_spacing_hz
    spacing_s = layout.symbol_samples / layout.rate_sps

    noise_var = power = 0.0
    for _ in range(2):
        pair = frame.symbols(start, cfo_hz, 0, 2)
        total = float(np.mean(np.abs(pair[:, active]) ** 2))
        noise_var = _combine(_empty_power(frame, start, cfo_hz, advance))[0]
        noise_var = min(max(noise_var, _MODEL_ERROR * total), 0.9 * total)
        power = total - noise_var
        start += _arrival(pair, preambles, layout, noise_var, power, layout.cp_samples + advance) - advance
        # A against B: three times finer than the halves of A against each other.
        pair = frame.symbols(start, cfo_hz, 0, 2)
        each = [_channel_taps(pair[i : i + 1], preambles[i : i + 1], layout, noise_var, power) for i in (0, 1)]
        cfo_hz += float(np.angle(np.vdot(each[0], each[1]))) / (2 * np.pi * spacing_s)

    times = _symbol_times(layout, 0, 2 + count)
    anchor_s = float(times[:2].mean())
    limit_hz = 0.2 / (spacing_s * 2)  # well inside the ambiguity of squared symbols, 1 / (2 T)
    pair = frame.symbols(start, cfo_hz, 0, 2)
    taps = _channel_taps(pair, preambles, layout, noise_var, power)
    response = np.fft.fft(taps, layout.fft_size)[active]
    cells = frame.symbols(start, cfo_hz, 2, count)[:, active] * response.conj()
    slope = _blind_phase_slope(cells, times[2:], anchor_s, limit_hz)
    soft = (cells * np.exp(-2j * np.pi * slope * (times[2:] - anchor_s))[:, None]).real
    cfo_hz += slope
    header = decode_header(soft, layout)

    known = preambles
    if header is not None and header.layout_digest == layout.digest:
        known = np.concatenate([preambles, _transmitted(encode_header(header, layout), layout)])
    span = known.shape[0]
    for _ in range(2):
        grid = frame.symbols(start, cfo_hz, 0, span)
        start += _arrival(grid, known, layout, noise_var, power, advance + 2) - advance
        grid = frame.symbols(start, cfo_hz, 0, span)
        if span > 2:
            cfo_hz += _slope(grid, known, times[:span], limit_hz / 4)

    grid = frame.symbols(start, cfo_hz, 0, layout.num_symbols)
    powers = _empty_power(frame, start, cfo_hz, advance)
    if span > 2:
        powers.append(_header_scatter(grid[1:span, active], known[1:span, active]))
    noise_var, noise_std = _combine(powers)
    # Preambles and header all have unit mean power per active carrier, whatever the header says.
    total = float(np.mean(np.abs(grid[: 2 + count, active]) ** 2))
    sent = float(np.mean(np.abs(known[:, active]) ** 2))
    noise_var = max(noise_var, 1e-12 * total, float(np.finfo(np.float32).tiny))
    power = max((total - noise_var) / sent, 1e-3 * noise_var)
    weights = 2 * power * np.sum((times[:span] - times[:span].mean()) ** 2) * layout.num_active / noise_var
    header_end = layout.first_pilot_symbol
    return SyncedFrame(
        grid=grid[header_end:].astype(np.complex64),
        header=header,
        start=int(start),
        advance=advance,
        cfo_hz=float(cfo_hz),
        cfo_std_hz=1.0 / (2 * math.pi * math.sqrt(weights)),
        metric=hit.metric,
        noise_var=noise_var,
        noise_var_std=noise_std,
        signal_power=power,
        preamble_grid=grid[:2].astype(np.complex64),
        header_grid=grid[2:header_end].astype(np.complex64),
        known_taps=_channel_taps(grid[:span], known, layout, noise_var, power).astype(np.complex64),
    )


def _header_scatter(grid: Complex, known: Complex) -> tuple[float, int]:
    """Noise power and degrees of freedom from how known symbols (M, A) scatter about their per-carrier channel.

    No assumption on the channel but that it stands still; symbols with a common phase of their own are aligned first.
    """
    energy = np.sum(np.abs(known) ** 2, axis=0)
    response = np.sum(grid * known.conj(), axis=0) / energy
    turn = np.sum(grid * np.conj(response * known), axis=1, keepdims=True)
    grid = grid * np.exp(-1j * np.angle(turn))
    response = np.sum(grid * known.conj(), axis=0) / energy
    residual = np.sum(np.abs(grid - response * known) ** 2)
    freedom = (grid.shape[0] - 1) * grid.shape[1] - grid.shape[0] // 2
    return float(residual) / freedom, freedom


def _without_overlaps(frames: list[SyncedFrame], layout: FrameLayout) -> list[SyncedFrame]:
    """Drops frames without a header that begin inside of one with a header (a false alarm on its payload)."""
    occupied = layout.num_symbols * layout.symbol_samples
    read = [frame.start for frame in frames if frame.header is not None]
    return [
        frame
        for frame in frames
        if frame.header is not None or not any(-occupied < frame.start - start < occupied for start in read)
    ]
