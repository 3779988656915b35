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

6. *Phase and clock over pilots and data*: from tracking carriers, or, where the layout has none, from the squares of
   the data cells, whose mean is not zero for symbols that are not circular. No decision on the data is taken, and what
   is known before (errors of carrier offset and clock, the jitter that the header showed) is weighed against it.

Steps 1 to 5 use neither pilots nor data. Step 6 turns whole symbols against each other; what they have in common is
left, so that a blind decoder finds them as they came.

Convention: `SyncedFrame.start` is a sample index `advance` samples before the first path's arrival. Symbol m's window
begins at `start + m * (N + cp) + cp`; the carrier correction has phase 0 at sample `start`. A path that arrives at
sample `start + d` is tap d, so the first path is usually tap `advance` and a timing error moves the taps by one or two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.stats
from numpy.typing import NDArray

from sdr.air.amplifier import clip
from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError, RecordingError
from sdr.header import FrameHeader, decode_headers
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

Complex = NDArray[np.complex128]

CANDIDATE_FALSE_ALARM = 3e-4
"""Probability per noise sample of passing step 1."""

CONFIRM_FALSE_ALARM = 1e-12
"""Probability per hypothesis (a lag and a carrier offset) that noise passes step 2."""

MAX_CFO_HZ = 65e3
"""Carrier offsets searched: 25 ppm at 2.4 GHz, and a little more."""

_SCREEN_FALSE_ALARM = 1e-6
# Beneath a frame with more than the first metric, one with less than the second is not looked for: it is 4 dB or more
# below the other.
_STRONG_METRIC, _BURIED_METRIC = 0.5, 0.08
_CHUNK_SAMPLES = 1 << 22
_METRIC_SAMPLES = 1 << 15
_BATCH_SAMPLES = 1 << 18
_TONE_SHARE = 0.05
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
        signal_power_std: standard error of `signal_power`.
        arrival_samples: delay of the strongest path behind `start`, to a fraction of a sample.
        drift_ppm, drift_std_ppm: how much faster the transmitter's sampling clock was measured to be, and its standard
            error (infinite without a header). corrected_drift_ppm: what was corrected in `grid`: the carrier offset
            over the carrier frequency where the measurement agrees, else the measurement if significant, else 0.
        phase_rad: (P + S,) common phase removed from each symbol of `grid`.
        phase_jitter_rad: rms phase of the header's symbols about a straight line, the noise's part taken off.
        phase_residual_rad, timing_residual_samples: standard errors of what is left of the common phase and of the
            delay of a data symbol, root mean square over them; infinite without a header.
        error_var: noise and distortion per cell of the header about the channel; NaN without one.
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
    signal_power_std: float = 0.0
    arrival_samples: float = 0.0
    drift_ppm: float = 0.0
    drift_std_ppm: float = math.inf
    corrected_drift_ppm: float = 0.0
    phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    phase_jitter_rad: float = 0.0
    phase_residual_rad: float = math.inf
    timing_residual_samples: float = math.inf
    error_var: float = math.nan

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
    def snr_std_db(self) -> float:
        """Standard error of `snr_db`."""
        return (
            10.0
            / math.log(10.0)
            * math.hypot(self.noise_var_std / self.noise_var, self.signal_power_std / self.signal_power)
        )

    @property
    def evm_db(self) -> float:
        """Error vector magnitude of the header's cells; NaN without a header."""
        return 10.0 * math.log10(max(self.error_var, 1e-30) / self.signal_power)

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
    center_hz = recording.settings.center_hz
    return list(stream_frames([recording.samples], layout, max_cfo_hz=max_cfo_hz, center_hz=center_hz))


def stream_frames(
    blocks: Iterable[NDArray[np.complex64]],
    layout: FrameLayout,
    *,
    max_cfo_hz: float = MAX_CFO_HZ,
    center_hz: float = 0.0,
) -> Iterator[SyncedFrame]:
    """The frames of a capture that comes in blocks of any size, in order of time, as soon as they are complete.

    Memory is bounded by the largest block plus a few frames, whatever the length of the capture. `find_frames` is this
    with one block.

    Args:
        blocks: complex64 arrays that follow each other without a gap.
        max_cfo_hz: largest carrier offset, in Hz, that is searched.
        center_hz: carrier frequency; where positive, a carrier offset is also taken as a sign of the sampling clock's.
    """
    search = _Search(layout, max_cfo_hz, center_hz)
    rest = np.zeros(0, dtype=np.complex64)
    origin = 0  # index in the capture of rest[0]
    begin = 0  # index in the capture up to which starts were searched
    for block in blocks:
        rest = block if not rest.size else np.concatenate([rest, block])
        while begin + _CHUNK_SAMPLES + search.ahead <= origin + rest.size:
            low = max(begin - search.behind - origin, 0)
            high = begin + _CHUNK_SAMPLES + search.ahead - origin
            yield from search.step(rest[low:high], origin + low, begin, begin + _CHUNK_SAMPLES)
            begin += _CHUNK_SAMPLES
        # A copy, or the view would keep its whole block alive.
        drop = max(begin - search.behind - origin, 0)
        rest, origin = rest[drop:].copy(), origin + drop
    yield from search.step(rest, origin, begin, origin + rest.size)
    yield from search.finish()


# Detection


@dataclass(frozen=True)
class _Hits:
    """Confirmed preambles: first path's window of A, offset in carriers, half-symbol metric, score; each (F,)."""

    window: NDArray[np.int64]
    offset_carriers: NDArray[np.float64]
    metric: NDArray[np.float64]
    score: NDArray[np.float64]

    def __getitem__(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> _Hits:
        return _Hits(self.window[rows], self.offset_carriers[rows], self.metric[rows], self.score[rows])


class _Search:
    """The frames of successive, overlapping parts of one capture."""

    def __init__(self, layout: FrameLayout, max_cfo_hz: float, center_hz: float) -> None:
        self.layout, self.max_cfo_hz, self.center_hz = layout, max_cfo_hz, center_hz
        self.occupied = layout.num_symbols * layout.symbol_samples
        # A frame is read where its preamble is found, so a part reaches a frame and its gap past the last start.
        self.ahead = layout.frame_samples + 4 * layout.symbol_samples
        self.behind = 3 * layout.symbol_samples
        self.last_window = -(1 << 62)
        self.read: list[int] = []
        self.held: list[SyncedFrame] = []

    def step(self, samples: NDArray[np.complex64], origin: int, begin: int, end: int) -> Iterator[SyncedFrame]:
        """Frames whose preamble A begins in begin..end of the capture; samples[0] is sample `origin` of it."""
        layout = self.layout
        if samples.size < layout.fft_size:
            return
        samples = _without_tones(samples)
        mean = complex(samples.mean())
        hits = _confirm(samples, mean, layout, *_candidates(samples, mean, layout), self.max_cfo_hz)
        dc_offset = _dc_offset(samples, layout, hits)
        # A window near the border may be seen a sample earlier or later from either side of it.
        place = hits.window + origin
        mine = (place >= begin - layout.symbol_samples) & (place < end)
        mine &= place >= self.last_window + layout.symbol_samples
        # The recording has to hold the frame to its last data symbol; a hit is true to a prefix or so.
        slack = layout.cp_samples + timing_advance(layout)
        first = hits.window - layout.cp_samples
        mine &= (first >= -slack) & (first + self.occupied <= samples.size + slack)
        rows = np.flatnonzero(mine)
        if rows.size:
            self.last_window = int(place[rows[-1]])
        for frame in _read_frames(samples, dc_offset, layout, hits[rows], self.center_hz):
            if frame.start + layout.cp_samples >= 0 and frame.start + self.occupied <= samples.size:
                self.held.append(replace(frame, start=frame.start + origin) if origin else frame)
        yield from self._release(end - self.occupied)

    def finish(self) -> Iterator[SyncedFrame]:
        """What was held back."""
        yield from self._release(1 << 62)

    def _release(self, before: int) -> Iterator[SyncedFrame]:
        """Frames that start before a sample, less those without a header that overlap one with a header.

        The latter are false alarms on a frame's payload, or what is left of a frame under a stronger one.
        """
        self.read += [frame.start for frame in self.held if frame.header is not None]
        while self.held and self.held[0].start < before:
            frame = self.held.pop(0)
            if frame.header is not None or all(abs(frame.start - start) >= self.occupied for start in self.read):
                yield frame
        horizon = (self.held[0].start if self.held else before) - self.occupied
        self.read = [start for start in self.read if start > horizon]
        held = {frame.start for frame in self.held}
        self.read = [start for start in self.read if start not in held]


def _without_tones(samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The samples less steady carriers (but DC) that hold more than `_TONE_SHARE` of the power, at most four.

    Frames spread their power over carriers and, from one repetition to the next, over the lines between these; only
    something foreign puts so much of it into one line.
    """
    piece = 2048
    whole = 0.0
    for _ in range(4):
        if samples.size < 4 * piece:
            return samples
        begins = np.linspace(0, samples.size - piece, 8).astype(np.int64)
        taper = np.hanning(piece).astype(np.float32)
        pieces = np.stack([samples[begin : begin + piece] for begin in begins]) * taper
        powers = np.abs(_fft(pieces, axis=1)) ** 2
        spectrum = powers.sum(axis=0)
        total = float(spectrum.sum())
        whole = max(whole, total)
        if total < 1e-6 * whole:
            # 60 dB below a carrier nothing but rounding and its phase noise is left.
            return np.zeros_like(samples)
        # The taper puts a line into three bins; what is slower than that is the offset's business.
        lines = spectrum + np.roll(spectrum, 1) + np.roll(spectrum, -1)
        lines[[0, 1, 2, -1, -2]] = 0.0
        peak = int(lines.argmax())
        if not lines[peak] > _TONE_SHARE * total:
            return samples
        turns = _tone_frequency(samples, peak / piece, 1.0 / piece)
        carrier = np.exp(2j * np.pi * ((np.arange(samples.size) * turns) % 1.0)).astype(np.complex64)
        blocks = max(samples.size // 8192, 1)
        edges = np.linspace(0, samples.size, blocks + 1).astype(np.int64)
        level = np.add.reduceat(samples * carrier.conj(), edges[:-1]) / np.diff(edges)
        samples = (samples - np.repeat(level.astype(np.complex64), np.diff(edges)) * carrier).astype(np.complex64)
    return samples


def _tone_frequency(samples: NDArray[np.complex64], turns: float, width: float) -> float:
    """Frequency (turns per sample) of the strongest line within `width` of `turns`."""
    part = samples[: 1 << 17]
    derotated = part * np.exp(-2j * np.pi * ((np.arange(part.size) * turns) % 1.0))
    length = 1 << 10
    size = part.size // length * length
    # Sums over 1024 samples keep the lines within `width`; their padded transform resolves them.
    sums = derotated[:size].reshape(-1, length // 4).sum(axis=1)
    points = 8 * sums.size
    spectrum = np.abs(_fft(sums, n=points))
    frequency = np.fft.fftfreq(points) / (length // 4)
    spectrum[np.abs(frequency) > 2 * width] = 0.0
    peak = int(spectrum.argmax())
    left, top, right = (spectrum[(peak + i) % points] for i in (-1, 0, 1))
    bend = left - 2 * top + right
    shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return turns + float(frequency[peak]) + shift / points / (length // 4)


def _half_metric(
    samples: NDArray[np.complex64], mean: complex, layout: FrameLayout, stride: int
) -> NDArray[np.float64]:
    """|sum_m conj(r[d+m]) r[d+m+N/2]|^2 over the energies of both half symbols, 0..1, for d = 0, stride, 2 stride .."""
    half = layout.fft_size // 2
    blocks, span = samples.size // stride, half // stride
    used = samples[: blocks * stride]
    metric = np.zeros(max(blocks - 2 * span + 1, 0))
    # Silence is rounding errors of the mean; the floor keeps their ratio from looking coherent.
    floor = 1e-10 * max(float(np.vdot(used, used).real) - used.size * abs(mean) ** 2, 0.0) + 1e-100
    step = _METRIC_SAMPLES // stride
    # Pieces stay in the cache.
    for low in range(0, metric.size, step):
        piece = used[low * stride : (low + step + 2 * span - 1) * stride] - np.complex64(mean)
        parts = piece.view(np.float32).reshape(-1, 2 * stride)
        late = piece[half:].reshape(-1, stride)
        correlation = _window_sums(np.vecdot(piece[: late.size].reshape(-1, stride), late), span)
        energy = np.maximum(_window_sums(np.einsum("bs,bs->b", parts, parts), span), floor, dtype=np.float64)
        metric[low : low + step] = _power(correlation.astype(np.complex128)) / (energy[:-span] * energy[span:])
    return np.minimum(metric, 1.0, out=metric)


def _candidates(
    samples: NDArray[np.complex64], mean: complex, layout: FrameLayout
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Where the half-symbol correlation peaks, ascending, at most one place per half symbol or so; and the peaks."""
    half = layout.fft_size // 2
    threshold = 1.0 - CANDIDATE_FALSE_ALARM ** (1.0 / (half - 1))
    # A window that is a 32nd of a half symbol off loses a sixteenth of the metric at most.
    stride = max(1, min(8, half // 16))
    metric = _half_metric(samples, mean, layout, stride)
    spacing = max((half + layout.cp_samples) // stride, 1)
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
    kept = (peaks > threshold) & ~beaten
    return stride * places[kept], peaks[kept]


@lru_cache(maxsize=32)
def _score_threshold(fft_size: int, num_active: int, window: int, false_alarm: float) -> float:
    """Share of energy in `window` lags that white noise on the active carriers exceeds with `false_alarm`."""
    share = window / fft_size
    return float(scipy.stats.beta.isf(false_alarm, share * num_active, (1 - share) * num_active))


def _window_taps(layout: FrameLayout) -> int:
    """Lags that hold a channel: the prefix and its first sample, or a few where the prefix is shorter than those."""
    return min(max(layout.cp_samples + 1, 4), layout.fft_size // 4)


def _confirm(
    samples: NDArray[np.complex64],
    mean: complex,
    layout: FrameLayout,
    candidates: NDArray[np.int64],
    peaks: NDArray[np.float64],
    max_cfo_hz: float,
) -> _Hits:
    """Candidates that both preambles confirm, one per frame, in order of time."""
    taps = _window_taps(layout)
    screen, final = (
        _score_threshold(layout.fft_size, layout.num_active, taps, alarm)
        for alarm in (_SCREEN_FALSE_ALARM, CONFIRM_FALSE_ALARM)
    )
    parts: list[_Hits] = []

    def score(places: NDArray[np.int64]) -> None:
        for first in range(0, places.size, 256):
            hits = _score(samples, mean, layout, places[first : first + 256], max_cfo_hz)
            parts.append(hits[hits.score > final])
            # What lies in between is scored once more at the place that the first pass found.
            between = hits.window[(hits.score > screen) & (hits.score <= final)]
            if between.size:
                hits = _score(samples, mean, layout, between, max_cfo_hz)
                parts.append(hits[hits.score > final])

    strong = peaks > _STRONG_METRIC
    score(candidates[strong])
    # Most weak candidates are the payload of strong frames, whose spectrum multipath has coloured.
    known = np.sort(np.concatenate([part.window for part in parts])) if parts else np.zeros(0, dtype=np.int64)
    owner = np.searchsorted(known, candidates) - 1
    since = candidates - known[np.maximum(owner, 0)] if known.size else np.full(candidates.size, -1)
    inside = (owner >= 0) & (since > layout.symbol_samples) & (since < layout.num_symbols * layout.symbol_samples)
    score(candidates[~strong & ~(inside & (peaks < _BURIED_METRIC))])
    if not parts:
        return _Hits(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0))
    found = _Hits(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_Hits)))
    found = found[np.argsort(found.window, kind="stable")]
    kept: list[int] = []
    for row in range(found.window.size):
        if kept and found.window[row] - found.window[kept[-1]] < layout.symbol_samples:
            if found.score[row] > found.score[kept[-1]]:
                kept[-1] = row
            continue
        kept.append(row)
    return found[np.array(kept, dtype=np.int64)]


@lru_cache(maxsize=8)
def _carrier_shifts(
    layout: FrameLayout, max_cfo_hz: float
) -> tuple[NDArray[np.int64], NDArray[np.complex64], NDArray[np.complex64]]:
    """Offsets tried, in pairs of carriers; (N, offsets) what A times conj(B) must be correlated with for each; and
    (offsets, 2, N) the weights of A and B that gather a channel in few lags."""
    size = layout.fft_size
    pairs = min(-(-round(max_cfo_hz / layout.carrier_spacing_hz) // 2), size // 4)
    offsets = np.arange(-pairs, pairs + 1)
    reference = layout.preamble_a * layout.preamble_b.conj()
    shifted = np.stack([np.roll(reference, 2 * offset) for offset in offsets], axis=1)
    # Noise on the combined correlation is white when every carrier is divided by its reference's norm.
    both = np.stack([layout.preamble_a, layout.preamble_b]).conj()
    norm = np.sqrt(np.sum(np.abs(both) ** 2, axis=0))
    both = both / np.where(norm > 0, norm, 1.0)
    weights = np.stack([np.roll(both, 2 * offset, axis=1) for offset in offsets])
    return offsets, np.ascontiguousarray(shifted.conj()), weights.astype(np.complex64)


def _score(
    samples: NDArray[np.complex64],
    mean: complex,
    layout: FrameLayout,
    windows: NDArray[np.int64],
    max_cfo_hz: float,
) -> _Hits:
    """The best hypothesis around each window position of preamble A.

    The offset in whole carriers is where A times conj(B) fits the known product best, which no delay disturbs; under
    it the known preambles gather a channel's energy in few lags.
    """
    size, symbol, taps = layout.fft_size, layout.symbol_samples, _window_taps(layout)
    half = size // 2
    windows = windows[(windows >= 0) & (windows + symbol + size <= samples.size)]
    received = np.lib.stride_tricks.sliding_window_view(samples, size)[windows[:, None] + np.array([0, symbol])]
    received = received - np.complex64(mean)
    first, second = received[:, 0, :half], received[:, 0, half:]
    correlation = (first.conj() * second).sum(axis=1).astype(np.complex128)
    energy = _mean_power(first) * _mean_power(second) * half**2
    metric = np.minimum(_power(correlation) / np.maximum(energy, np.finfo(np.float64).tiny), 1.0)
    fraction = np.angle(correlation) / np.pi  # in carriers, modulo 2
    received *= _ramp(-fraction / size, size)[:, None, :]
    grids = _fft(received, axis=-1, overwrite_x=True)
    offsets, patterns, weights = _carrier_shifts(layout, max_cfo_hz)
    matches = _power((grids[:, 0] * grids[:, 1].conj()) @ patterns)
    best = matches.argmax(axis=1)
    pair = offsets[best]
    row = np.arange(windows.size)
    # The offset leaves the phase that it gathers from one symbol to the next. That the carriers stay shifted by whole
    # pairs turns the lags but leaves their powers.
    grids *= weights[best]
    grids[:, 1] *= _turn(-(fraction + 2 * pair) * symbol / size)[:, None]
    combined = grids[:, 0] + grids[:, 1]
    # The share is taken of what the carriers hold at this shift, or a strong neighbour would mask the frame.
    total = _mean_power(combined) * size**2
    lags: Any = _power(_ifft(combined, axis=-1, norm="forward", overwrite_x=True))
    inside = _window_sums(np.concatenate([lags, lags[:, : taps - 1]], axis=1), taps)
    lag = inside.argmax(axis=1)
    score = inside[row, lag] / np.maximum(total, np.finfo(np.float64).tiny)
    # Windows that begin before the true one see the paths late: the lag says by how much, modulo N.
    moved = windows + np.where(lag >= half, lag - size, lag)
    return _Hits(moved, fraction + 2.0 * pair, metric, score)


def _window_sums(values: NDArray[Any], width: int) -> NDArray[Any]:
    """(..., N - width + 1) sums of `width` successive values of (..., N), in doubling steps."""
    size = values.shape[-1] - width + 1
    block, result, offset, length = values, np.zeros_like(values[..., :size]), 0, 1
    while True:
        if width & length:
            result += block[..., offset : offset + size]
            offset += length
        if 2 * length > width:
            return result
        block = block[..., :-length] + block[..., length:]
        length *= 2


def _power(values: Any) -> Any:
    return values.real**2 + values.imag**2


def _fft(values: Any, n: int | None = None, axis: int = -1, norm: str = "backward", overwrite_x: bool = False) -> Any:
    """SciPy's transform, which keeps single precision (its stubs say little of what comes out)."""
    transform: Any = scipy.fft.fft
    return transform(values, n=n, axis=axis, norm=norm, overwrite_x=overwrite_x, workers=1)


def _ifft(values: Any, axis: int = -1, norm: str = "backward", overwrite_x: bool = False) -> Any:
    transform: Any = scipy.fft.ifft
    return transform(values, axis=axis, norm=norm, overwrite_x=overwrite_x, workers=1)


def _turn(cycles: NDArray[np.float64]) -> NDArray[np.complex64]:
    """exp(2 pi i cycles) in single precision, any number of cycles."""
    angle = ((cycles - np.rint(cycles)) * (2 * np.pi)).astype(np.float32)
    result = np.empty(angle.shape, dtype=np.complex64)
    np.cos(angle, out=result.real)
    np.sin(angle, out=result.imag)
    return result


def _ramp(cycles: NDArray[np.float64], size: int) -> NDArray[np.complex64]:
    """(F, size) exp(2 pi i cycles n), n = 0 .. size - 1, from coarse and fine turns."""
    step = 16
    coarse = _turn(cycles[:, None] * np.arange(0, size, step))
    fine = _turn(cycles[:, None] * np.arange(step))
    return (coarse[:, :, None] * fine[:, None, :]).reshape(cycles.size, coarse.shape[1] * step)[:, :size]


def _mean_power(values: NDArray[np.complex64]) -> NDArray[np.float64]:
    """(F,) mean power of each row of (F, ...)."""
    parts = np.ascontiguousarray(values).reshape(values.shape[0], math.prod(values.shape[1:])).view(np.float32)
    return np.einsum("fn,fn->f", parts, parts).astype(np.float64) / max(parts.shape[1] // 2, 1)


def _dc_offset(samples: NDArray[np.complex64], layout: FrameLayout, hits: _Hits) -> complex:
    """Mean of the samples outside of frames where it is significant, else 0.

    Frames have a mean of their own (a carrier at 0 Hz, equal preambles), so only what lies between them counts.
    """
    outside = np.ones(samples.size, dtype=bool)
    margin = layout.symbol_samples
    for window in hits.window.tolist():
        begin = window - layout.cp_samples
        end = begin + layout.num_symbols * layout.symbol_samples
        outside[max(begin - layout.cp_samples, 0) : end + 2 * _window_taps(layout)] = False
    count = int(np.count_nonzero(outside))
    if count < margin // 4:
        return 0j
    quiet = samples[outside]
    mean = complex(quiet.mean(dtype=np.complex128))
    variance = float(np.mean(_power(quiet - np.complex64(mean)), dtype=np.float64))
    return mean if abs(mean) ** 2 > 12.0 * variance / count else 0j


# Reading frames. F frames go through every step together; arrays begin with an axis of F.


def _transmitted(grid: NDArray[Any], layout: FrameLayout) -> Complex:
    """(..., N) known symbols as they leave the transmitter: the same grid unless its samples were limited."""
    time = np.fft.ifft(grid.astype(np.complex128), axis=-1, norm="ortho") * layout.amplitude
    limit = layout.magnitude_limit
    if not time.size or np.abs(time).max() <= limit:
        return grid.astype(np.complex128)
    limited = clip(time.astype(np.complex64).reshape(-1), limit).reshape(time.shape) / layout.amplitude
    return np.fft.fft(limited, axis=-1, norm="ortho")


class _Known:
    """What a layout's known symbols are made of, computed once."""

    def __init__(self, layout: FrameLayout) -> None:
        self.preambles = _transmitted(np.stack([layout.preamble_a, layout.preamble_b]), layout)
        # Limiting spreads energy over the carriers that the grid left empty.
        limited = not np.array_equal(self.preambles[0], layout.preamble_a.astype(np.complex128))
        odd = layout.active_bins[layout.active_bins % 2 == 1]
        self.odd = np.zeros(0, dtype=np.int64) if limited else odd
        near = np.concatenate([layout.active_bins, layout.active_bins + 1, layout.active_bins - 1, [0]])
        # Nulls beside active carriers catch what leaks from them; DC holds the receiver's own offset.
        null = np.setdiff1d(np.arange(layout.fft_size), near % layout.fft_size)
        self.null = np.zeros(0, dtype=np.int64) if limited or layout.clip_ratio is not None else null
        self.limited = limited or layout.clip_ratio is not None
        edges = np.flatnonzero(np.diff(layout.active_bins) != 1) + 1
        # Where runs of neighbouring carriers lie among the active ones, and among all.
        self.runs = [
            (slice(int(run[0]), int(run[-1]) + 1), slice(int(bins[0]), int(bins[-1]) + 1))
            for run, bins in zip(
                np.split(np.arange(layout.num_active), edges), np.split(layout.active_bins, edges), strict=True
            )
        ]
        self.mask = np.zeros(layout.fft_size, dtype=np.float32)
        self.mask[layout.active_bins] = 1.0
        self.signed: NDArray[Any] = np.fft.fftfreq(layout.fft_size, 1.0 / layout.fft_size)
        header_energy = np.zeros(layout.fft_size)
        header_energy[layout.active_bins] = float(layout.header_symbols)
        # Of preamble B and a header, per carrier.
        self.energy = (np.abs(self.preambles[1]) ** 2 + header_energy).astype(np.float32)
        pair = np.sum(np.abs(self.preambles) ** 2, axis=0)
        taps = max(layout.cp_samples - timing_advance(layout), 4)
        # Energy per carrier of the preambles; of the preambles and a header.
        self.arrival = {2: _Evidence(pair, taps), layout.first_pilot_symbol: _Evidence(pair + header_energy, taps)}
        self.flat = {
            1: _FlatTaps(np.abs(self.preambles[0]) ** 2, _window_taps(layout)),
            2: _FlatTaps(pair, _window_taps(layout)),
            layout.first_pilot_symbol: _FlatTaps(pair + header_energy, _window_taps(layout)),
        }
        self.flat_b = _FlatTaps(np.abs(self.preambles[1]) ** 2, _window_taps(layout))
        # Doubles grow wide by the batch; the preambles are exact in single precision too.
        self.single = self.preambles.astype(np.complex64)


@lru_cache(maxsize=8)
def _known(layout: FrameLayout) -> _Known:
    return _Known(layout)


def _gram(energy: NDArray[np.float64], taps: int) -> Complex:
    """(taps, taps) Gram matrix (Toeplitz) of known symbols with this energy per carrier."""
    lags = np.fft.ifft(energy) * energy.size
    return lags[(np.arange(taps)[:, None] - np.arange(taps)[None, :]) % energy.size]


class _Evidence:
    """log p(Y | first path at lag d) over channels of exponential profile, for many frames at once.

    With taps h ~ CN(0, P diag(p)) behind lag d it is, but for terms without d, the quadratic form
    c_d^H (G + r diag(1/p))^-1 c_d / s of the matched filter's output c_d at lags d.., with G the Gram matrix of the
    known symbols, s the noise and r = s / P, less the log-determinant. With D = diag(sqrt p) and D G D = U diag(w) U^H
    the inverse is D U diag(1 / (w + r)) U^H D, so that every r costs but a division.
    """

    def __init__(self, energy: NDArray[np.float64], taps: int) -> None:
        gram = _gram(energy, taps)
        roots = [np.sqrt(np.maximum(exponential_pdp(taps, decay), 1e-12)) for decay in _TIMING_DECAYS]
        solved = [np.linalg.eigh(root[:, None] * gram * root[None, :]) for root in roots]
        self.taps = taps
        self.values = np.stack([np.maximum(values, 0.0) for values, _ in solved])  # (profiles, taps)
        self.project = np.concatenate(
            [(vectors.conj().T * root).T for (_, vectors), root in zip(solved, roots, strict=True)], axis=1
        )  # (taps, profiles * taps)

    def arrival(
        self,
        matched: NDArray[Any],
        noise_var: NDArray[np.float64],
        power: NDArray[np.float64],
        reach: int,
        stride: int = 1,
    ) -> NDArray[np.int64]:
        """(F,) lag of the first path, -reach..reach in steps of `stride`, from the matched filter's output (F, N)."""
        count, size = matched.shape
        starts = np.arange(-reach, reach + 1, stride)
        near = np.take(matched, np.arange(-reach, reach + self.taps) % size, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(near, self.taps, axis=1)[:, ::stride]
        projected = windows.reshape(-1, self.taps) @ self.project.astype(matched.dtype)
        projected = _power(projected).reshape(count, starts.size, *self.values.shape)
        ratio = (noise_var / power)[:, None, None]
        weights = (1.0 / (self.values + ratio) / noise_var[:, None, None]).astype(projected.dtype)
        quadratic = np.einsum("fdpl,fpl->fdp", projected, weights).astype(np.float64)
        log_det = np.log1p(self.values / ratio).sum(axis=2)
        total = np.logaddexp.reduce(quadratic - log_det[:, None, :], axis=2)
        return starts[total.argmax(axis=1)]


class _FlatTaps:
    """LMMSE taps under a flat profile of the signal's power, for many frames at once."""

    def __init__(self, energy: NDArray[np.float64], taps: int) -> None:
        self.taps = taps
        self.values, self.vectors = np.linalg.eigh(_gram(energy, taps))

    def estimate(
        self,
        matched: NDArray[Any],
        noise_var: NDArray[np.float64],
        power: NDArray[np.float64],
        move: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """(F, taps) from the matched filter's output (F, N), for starts later by `move`."""
        load = np.maximum(noise_var, 1e-9 * power) * self.taps / power
        if move is None:
            lags = matched[:, : self.taps]
        else:
            lags = np.take_along_axis(matched, (np.arange(self.taps) + move[:, None]) % matched.shape[1], axis=1)
        projected = lags @ self.vectors.conj()
        return (projected / (np.maximum(self.values, 0.0) + load[:, None])) @ self.vectors.T


def _matched(correlated: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(F, N) matched filter's output at all lags from X^* Y summed over symbols (F, N)."""
    return _ifft(correlated, axis=-1, norm="forward")


class _Frames:
    """The samples of F frames, and their symbols under given starts and carrier offsets."""

    def __init__(self, samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout) -> None:
        self.samples, self.dc_offset, self.layout = samples, dc_offset, layout

    def symbols(
        self, start: NDArray[np.int64], cfo_hz: NDArray[np.float64], first: int, count: int
    ) -> tuple[NDArray[np.complex64], NDArray[np.float64]]:
        """(F, count, N) grid of symbols from `first` on, and (F, count) cycles by which each has yet to be turned."""
        layout, size = self.layout, self.layout.fft_size
        begin = start[:, None] + (first + np.arange(count)) * layout.symbol_samples + layout.cp_samples
        if begin.size and begin.min() >= 0 and begin.max() + size <= self.samples.size:
            windows = np.lib.stride_tricks.sliding_window_view(self.samples, size)[begin]
        else:
            # A start tried past either end reads the edge's sample again; such a frame is dropped later.
            windows = self.samples[np.clip(begin[..., None] + np.arange(size), 0, self.samples.size - 1)]
        if self.dc_offset:
            windows -= np.complex64(self.dc_offset)
        turns = cfo_hz / layout.rate_sps
        windows *= _ramp(-turns, size)[:, None, :]
        grid = _fft(windows, axis=-1, norm="ortho", overwrite_x=True)
        return grid, -turns[:, None] * (begin - start[:, None])

    def gap_power(self, start: NDArray[np.int64], arrival: int) -> tuple[NDArray[np.float64], int]:
        """(F,) mean power of the gap behind each frame and its samples; infinite where the recording ends first."""
        layout = self.layout
        low = layout.num_symbols * layout.symbol_samples + arrival + _window_taps(layout)
        count = layout.frame_samples - 2 - low
        if count < 16:
            return np.full(start.size, np.inf), 0
        inside = (start + low >= 0) & (start + low + count <= self.samples.size)
        index = np.clip(start[:, None] + low, 0, self.samples.size - count) + np.arange(count)
        power = _mean_power(self.samples[index] - np.complex64(self.dc_offset))
        return np.where(inside, power, np.inf), count


def _symbol_times(layout: FrameLayout, first: int, count: int) -> NDArray[np.float64]:
    """(count,) seconds from the frame's start to the centre of each symbol's window."""
    centre = layout.cp_samples + (layout.fft_size - 1) / 2
    return ((first + np.arange(count, dtype=np.float64)) * layout.symbol_samples + centre) / layout.rate_sps


def _combine(
    powers: list[tuple[NDArray[np.float64], int]], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) noise power and its standard error from estimates (power (F,), complex degrees of freedom).

    They are weighted by their degrees of freedom. An estimate far above the smallest one is not noise but something
    else on the air, and is left out.
    """
    powers = [item for item in powers if item[1] > 0]
    if not powers:
        return np.zeros(count), np.zeros(count)
    values = np.stack([power for power, _ in powers])
    freedom = np.array([float(count) for _, count in powers])[:, None]
    trusted = np.take_along_axis(values, (values * (1 + 3 / np.sqrt(freedom))).argmin(axis=0)[None], axis=0)
    weight = np.where(values <= trusted * (1.25 + 6 / np.sqrt(freedom)), freedom, 0.0)
    weight = np.where(np.isfinite(values), weight, 0.0)
    total = np.maximum(weight.sum(axis=0), 1.0)
    mean = np.sum(np.where(weight > 0, values, 0.0) * weight, axis=0) / total
    return mean, mean / np.sqrt(total)


def _quiet(known: _Known, grid: NDArray[np.complex64]) -> list[tuple[NDArray[np.float64], int]]:
    """Power and degrees of freedom of what the transmitter left empty: odd carriers of A (first symbol), nulls."""
    powers: list[tuple[NDArray[np.float64], int]] = []
    if known.odd.size:
        powers.append((_mean_power(grid[:, 0, known.odd]), known.odd.size))
    if known.null.size:
        powers.append((_mean_power(grid[:, :, known.null]), known.null.size * grid.shape[1]))
    return powers


def _gathered(products: NDArray[np.complex64], spin: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(F, N) sum of Y X^* (F, M, N) over the symbols, each turned by spin (F, M)."""
    sums: Any = spin[:, None, :] @ products
    return sums[:, 0]


def _against(products: NDArray[np.complex64], response: NDArray[Any]) -> NDArray[np.complex64]:
    """(F, M) sum of Y X^* (F, M, N) over the carriers against the channel (F, N) that all symbols together show."""
    sums: Any = products @ response.conj().astype(np.complex64)[:, :, None]
    return sums[:, :, 0]


def _slope(sums: NDArray[np.complex64], times: NDArray[np.float64], limit_hz: float) -> NDArray[np.float64]:
    """(F,) carrier offset (Hz) left in known symbols: maximises |sum_m e^-2ipift sums|^2; sums (F, M) of `_against`."""
    exact: Any = sums.astype(np.complex128)
    centred = 2 * np.pi * (times - times.mean())
    trial = np.linspace(-limit_hz, limit_hz, 129)
    best = trial[_power(exact @ np.exp(-1j * trial[:, None] * centred).T).argmax(axis=1)]
    for _ in range(3):
        turned: Any = exact * np.exp(-1j * best[:, None] * centred)
        c0, c1, c2 = turned.sum(axis=1), -1j * (turned @ centred), -(turned @ centred**2)
        rise, bend = 2 * (c1 * c0.conj()).real, 2 * (_power(c1) + (c2 * c0.conj()).real)
        # Newton's step where the fit is a hill, at most one step of the grid.
        move = np.where(bend < 0, -rise / np.where(bend < 0, bend, 1.0), 0.0)
        best = best + np.clip(move, trial[0] - trial[1], trial[1] - trial[0])
    return best


def _blind_slope(
    squares: NDArray[Any], times: NDArray[np.float64], anchor_s: float, limit_hz: float
) -> NDArray[np.float64]:
    """(F,) carrier offset left in BPSK symbols: the slope (Hz) of half the phase of their summed squares.

    squares (F, M) is the sum of (conj(H) y)^2 over the carriers, with phases relative to time `anchor_s`.
    """
    trial = np.linspace(-limit_hz, limit_hz, 257)
    turns = np.exp(-4j * np.pi * trial[:, None] * (times - anchor_s)[None, :])
    return trial[(squares.astype(np.complex128) @ turns.T).real.argmax(axis=1)]


def _scatter(
    grid: NDArray[np.complex64],
    conjugate: NDArray[np.complex64],
    products: NDArray[np.complex64],
    spin: NDArray[np.complex64],
    layout: FrameLayout,
) -> tuple[NDArray[np.float64], int]:
    """(F,) noise power and its degrees of freedom from how known symbols X (F, M, N), given as X^*, scatter about each
    carrier's gain.

    No assumption on the channel but that it stands still; each symbol's own phase is taken out first by `spin` (F, M).
    """
    known = _known(layout)
    # A header that was limited differs from frame to frame.
    energy = np.sum(_power(conjugate), axis=1) if known.limited else np.broadcast_to(known.energy, grid[:, 0].shape)
    response = (spin[:, None, :] @ products)[:, 0] / np.maximum(energy, 1e-3)
    # What the fit leaves is the whole less the fit, where that isn't a difference of nearly equal numbers.
    parts = grid.view(np.float32)
    whole = np.einsum("fmn,fmn->fn", parts, parts).reshape(*energy.shape, 2).sum(axis=2)
    left = _active(whole - energy * _power(response), layout).sum(axis=1, dtype=np.float64)
    close = np.flatnonzero(left < 3e-3 * _active(whole, layout).sum(axis=1, dtype=np.float64))
    if close.size:
        rest = response[close, None, :] * conjugate[close].conj()
        rest -= grid[close] * spin[close, :, None]
        rest = _active(rest, layout)
        left[close] = _mean_power(rest) * (rest.shape[1] * rest.shape[2])
    freedom = (grid.shape[1] - 1) * layout.num_active - grid.shape[1] // 2
    return left / freedom, freedom


def _active(grid: NDArray[Any], layout: FrameLayout) -> NDArray[Any]:
    """The active carriers of a grid (..., N), in any order."""
    return grid if layout.num_active == layout.fft_size else np.take(grid, layout.active_bins, axis=-1)


def _arrival_samples(
    matched: NDArray[Any], correlated: NDArray[np.complex64], signed: NDArray[Any], reach: int
) -> NDArray[np.float64]:
    """(F,) delay of the strongest path, samples: the peak of the matched filter, also between its samples.

    matched (F, N) is the transform of correlated (F, N), X^* Y summed over symbols.
    """
    size = matched.shape[1]
    lags = np.arange(-4, reach + 1)
    strongest = lags[_power(np.take(matched, lags % size, axis=1)).argmax(axis=1)].astype(np.float64)
    # Half way between two samples the peak may be no hill any more: begin on the better side of each.
    sides = np.array([-0.5, -0.25, 0.0, 0.25, 0.5])
    turned: Any = correlated * _turn(strongest[:, None] * (signed / size))
    fits = _power(turned @ _turn(signed[:, None] / size * sides))
    first = strongest + sides[fits.argmax(axis=1)]
    delay = first
    omega = 2 * np.pi / size * signed
    moments = np.stack([np.ones(size), omega, omega**2], axis=1).astype(np.complex64)
    for _ in range(2):
        turned = correlated * _turn(delay[:, None] * (signed / size))
        sums = (turned @ moments).astype(np.complex128)
        c0, c1, c2 = sums[:, 0], 1j * sums[:, 1], -sums[:, 2]
        rise, bend = 2 * (c1 * c0.conj()).real, 2 * (_power(c1) + (c2 * c0.conj()).real)
        move = np.where(bend < 0, -rise / np.where(bend < 0, bend, 1.0), 0.0)
        delay = np.clip(delay + move, first - 0.5, first + 0.5)
    return delay


def _phase_and_delay(
    products: NDArray[np.complex64], spin: NDArray[np.complex64], response: NDArray[np.complex64], omega: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """What known unit-modulus cells tell of each symbol: products Y X^* (F, M, A), to be turned by spin (F, M),
    response (F, A), omega (A,) radians.

    Returns:
        Phase in radians and delay in samples on top of the response, both (F, M), and their variances per unit of
        noise power, both (F,).
    """
    weight = _power(response).astype(np.float64)
    energy = np.maximum(weight.sum(axis=1), 1e-300)
    middle = (weight @ omega) / energy
    spread = np.maximum((weight @ omega**2) - middle**2 * energy, 1e-300)
    gain = response.conj()
    kernel = np.stack([gain, gain * (omega - middle[:, None]).astype(np.float32)], axis=2)
    sums = (products @ kernel * spin[:, :, None]).astype(np.complex128)
    phase = np.angle(sums[:, :, 0])
    delay = -(sums[:, :, 1] * np.exp(-1j * phase)).imag / spread[:, None]
    return phase, delay, 0.5 / energy, 0.5 / spread


def _levels(
    layout: FrameLayout, powers: list[tuple[NDArray[np.float64], int]], pair: NDArray[np.complex64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) noise and signal power per active carrier, good enough to weigh evidence with."""
    total = _mean_power(_active(pair, layout))
    noise_var = _combine(powers, total.size)[0]
    total = np.maximum(total, np.finfo(np.float32).tiny)
    noise_var = np.clip(noise_var, _MODEL_ERROR * total, 0.9 * total)
    return noise_var, total - noise_var


def _read_frames(
    samples: NDArray[np.complex64], dc_offset: complex, layout: FrameLayout, hits: _Hits, center_hz: float
) -> list[SyncedFrame]:
    """Timing, offset, header, noise and symbols of confirmed frames, in order of time."""
    frames = _Frames(samples, dc_offset, layout)
    # Transforms run on few frames at a time, which stay in the cache; decoding wants as many as there are.
    batch = max(_BATCH_SAMPLES // (layout.first_pilot_symbol * layout.symbol_samples), 8)
    rows = [np.arange(low, min(low + batch, hits.window.size)) for low in range(0, hits.window.size, batch)]
    soft = np.empty((hits.window.size, layout.header_symbols, layout.num_active), dtype=np.float32)
    begun = [_begin_frames(frames, hits[part], soft[part[0] : part[-1] + 1]) for part in rows]
    if not begun:
        return []
    headers, cells = decode_headers(soft, layout)
    result: list[SyncedFrame] = []
    for part, each in zip(rows, begun, strict=True):
        result += _finish_frames(frames, each, [headers[row] for row in part], cells[part], center_hz)
    return sorted(result, key=lambda frame: frame.start)


@dataclass(frozen=True)
class _Begun:
    """Frames up to their equalised headers; arrays begin with F.

    Turns of whole symbols are gathered in `turns` (cycles) and applied to sums over carriers; the grid itself is turned
    once, at the end.
    """

    hits: _Hits
    start: NDArray[np.int64]
    cfo_hz: NDArray[np.float64]
    change_hz: NDArray[np.float64]
    grid: NDArray[np.complex64]
    turns: NDArray[np.float64]
    noise_var: NDArray[np.float64]
    power: NDArray[np.float64]
    moved: NDArray[np.bool_]


def _begin_frames(frames: _Frames, hits: _Hits, soft: NDArray[np.float32]) -> _Begun:
    """Preambles and header of frames; the header's cells, equalised, go to `soft` (F, header_symbols, A)."""
    layout = frames.layout
    known = _known(layout)
    advance = timing_advance(layout)
    spacing_s = layout.symbol_samples / layout.rate_sps
    start = hits.window - layout.cp_samples
    cfo_hz = hits.offset_carriers * layout.carrier_spacing_hz

    def finer_offset(each: list[NDArray[Any]], noise_var: Any, power: Any, move: NDArray[np.int64]) -> Any:
        """A against B: three times finer than the halves of A against each other."""
        a, b = (
            taps.estimate(one, noise_var, power, move)
            for one, taps in zip(each, (known.flat[1], known.flat_b), strict=True)
        )
        return np.angle(np.sum(a.conj() * b, axis=1)) / (2 * np.pi * spacing_s)

    def match_each(pair: NDArray[np.complex64]) -> list[NDArray[Any]]:
        return [_matched(pair[:, i] * known.single[i].conj()) for i in (0, 1)]

    pair, turns = frames.symbols(start, cfo_hz, 0, 2)
    pair *= _turn(turns)[:, :, None]
    noise_var, power = _levels(layout, [*_quiet(known, pair), frames.gap_power(start, advance)], pair)
    each = match_each(pair)
    # To a few samples here; the second look, with the offset better known, goes sample by sample.
    reach = layout.cp_samples + advance
    move = known.arrival[2].arrival(each[0] + each[1], noise_var, power, reach, 3 if reach > 24 else 1) - advance
    start, cfo_hz = start + move, cfo_hz + finer_offset(each, noise_var, power, move)

    span = layout.first_pilot_symbol
    grid, turns = frames.symbols(start, cfo_hz, 0, span)
    pair = grid[:, :2] * _turn(turns[:, :2])[:, :, None]
    noise_var, power = _levels(layout, [*_quiet(known, pair), frames.gap_power(start, advance)], pair)
    each = match_each(pair)
    reach = min(advance + 4, layout.cp_samples + advance)
    move = known.arrival[2].arrival(each[0] + each[1], noise_var, power, reach) - advance
    change_hz = finer_offset(each, noise_var, power, move)
    times = _symbol_times(layout, 0, span)
    turns = turns + cfo_hz[:, None] * (move[:, None] / layout.rate_sps) - change_hz[:, None] * times
    rows = np.flatnonzero(move)
    if rows.size:
        # Exact while paths stay within the prefix.
        grid[rows] *= _ramp(move[rows] / layout.fft_size, layout.fft_size)[:, None, :]
    start, cfo_hz = start + move, cfo_hz + change_hz
    taps = known.flat[2].estimate(each[0] + each[1], noise_var, power, move)
    response = _fft(taps.astype(np.complex64), n=layout.fft_size, axis=1) * known.mask
    anchor_s = float(times[:2].mean())
    # The taps' phase is that of the preambles before the change; their middle is the anchor of both.
    response *= _turn((cfo_hz - change_hz) * move / layout.rate_sps - change_hz * anchor_s)[:, None]
    limit_hz = 0.2 / (spacing_s * 2)  # well inside the ambiguity of squared symbols, 1 / (2 T)
    equalised = grid[:, 2:] * response.conj()[:, None, :]
    squares: Any = (equalised[:, :, None, :] @ equalised[:, :, :, None])[:, :, 0, 0]
    change_hz = _blind_slope(squares * _turn(2 * turns[:, 2:]), times[2:], anchor_s, limit_hz)
    spin = _turn(turns[:, 2:] - change_hz[:, None] * (times[2:] - anchor_s))[:, :, None]
    for cells, bins in known.runs:
        np.multiply(equalised.real[:, :, bins], spin.real, out=soft[:, :, cells])
        soft[:, :, cells] -= equalised.imag[:, :, bins] * spin.imag
    return _Begun(hits, start, cfo_hz, change_hz, grid, turns, noise_var, power, move != 0)


def _finish_frames(
    frames: _Frames,
    begun: _Begun,
    headers: list[FrameHeader | None],
    cells: NDArray[np.float32],
    center_hz: float,
) -> list[SyncedFrame]:
    """The same frames with what their headers add."""
    layout = frames.layout
    known, span = _known(layout), layout.first_pilot_symbol
    read = np.array([header is not None for header in headers], dtype=bool)
    # Without a header nothing but the preambles is known, and the blind slope may be nonsense.
    change_hz = np.where(read, begun.change_hz, 0.0)
    turns = begun.turns - change_hz[:, None] * _symbol_times(layout, 0, span)
    cfo_hz = begun.cfo_hz + change_hz
    result: list[SyncedFrame] = []
    for rows, symbols in ((np.flatnonzero(read), span), (np.flatnonzero(~read), 2)):
        if not rows.size:
            continue
        conjugate = np.zeros((rows.size, symbols, layout.fft_size), dtype=np.complex64)
        conjugate[:, :2] = known.single.conj() * known.mask
        if symbols > 2:
            values = cells if rows.size == read.size else cells[rows]
            for part, bins in known.runs:
                conjugate[:, 2:, bins] = values[:, :, part]
            if known.limited:
                conjugate[:, 2:] = _transmitted(conjugate[:, 2:], layout).conj() * known.mask
        grid = begun.grid if rows.size == read.size else begun.grid[rows]
        result += _measure_frames(
            frames, begun.hits[rows], [headers[row] for row in rows], grid, turns[rows], conjugate, begun.start[rows],
            cfo_hz[rows], begun.noise_var[rows], begun.power[rows], begun.moved[rows], center_hz,
        )  # fmt: skip
    return result


def _measure_frames(
    frames: _Frames,
    hits: _Hits,
    headers: list[FrameHeader | None],
    grid: NDArray[np.complex64],
    turns: NDArray[np.float64],
    conjugate: NDArray[np.complex64],
    start: NDArray[np.int64],
    cfo_hz: NDArray[np.float64],
    noise_var: NDArray[np.float64],
    power: NDArray[np.float64],
    moved: NDArray[np.bool_],
    center_hz: float,
) -> list[SyncedFrame]:
    """The last refinement, from known symbols X, given as X^* (F, M, N).

    grid (F, preambles + header, N) is overwritten; its symbols have yet to be turned by `turns` (same, without N).
    """
    layout, count = frames.layout, start.size
    known, advance = _known(layout), timing_advance(layout)
    span, full = conjugate.shape[1], grid.shape[1]
    times = _symbol_times(layout, 0, span)
    spacing_s = layout.symbol_samples / layout.rate_sps
    limit_hz = 0.05 / (spacing_s * 2)
    products = grid[:, :span] * conjugate
    spin = _turn(turns)
    matched = _matched(_gathered(products, spin[:, :span]))
    # Without noise the evidence is a difference of large numbers.
    move = known.arrival[span].arrival(matched.astype(np.complex128), noise_var, power, advance + 2) - advance
    change_hz = np.zeros(count)
    if span > 2:
        response = _fft(known.flat[span].estimate(matched, noise_var, power), n=layout.fft_size) * known.mask
        change_hz = _slope(_against(products, response) * spin[:, :span], times, limit_hz)
    start, cfo_hz = start + move, cfo_hz + change_hz
    turns = turns - change_hz[:, None] * _symbol_times(layout, 0, full)
    # Turning whole symbols leaves the offset's leakage between carriers; where that or a moved window would show above
    # the noise, the symbols are taken from the samples again.
    leak = (np.pi * change_hz / layout.carrier_spacing_hz) ** 2 / 3 * power
    stale = np.flatnonzero(moved | (move != 0) | (leak > 0.02 * noise_var))
    if stale.size:
        fresh, turns[stale] = frames.symbols(start[stale], cfo_hz[stale], 0, full)
        grid[stale] = fresh
        products[stale] = part = fresh[:, :span] * conjugate[stale]
        if span > 2:
            spin = _turn(turns[stale, :span])
            combined = _matched(_gathered(part, spin))
            estimate = known.flat[span].estimate(combined, noise_var[stale], power[stale])
            response = _fft(estimate, n=layout.fft_size) * known.mask
            again = _slope(_against(part, response) * spin, times, limit_hz)
            turns[stale] -= again[:, None] * _symbol_times(layout, 0, full)
            cfo_hz[stale] += again
    spin = _turn(turns)
    correlated = _gathered(products, spin[:, :span])
    matched = _matched(correlated)

    tail, tail_turns = frames.symbols(start, cfo_hz, full, layout.num_symbols - full)
    tail *= _turn(tail_turns)[:, :, None]
    powers = [*_quiet(known, grid[:, :2]), frames.gap_power(start, advance)]
    if known.null.size:
        powers.append((_mean_power(tail[:, :, known.null]), known.null.size * tail.shape[1]))
    scatter = np.full(count, np.nan)
    drift_ppm, drift_std, jitter = np.zeros(count), np.full(count, np.inf), np.zeros(count)
    phase = delay = np.zeros((count, span - 1))
    near_var = slope_var = np.zeros(count)
    phase_var = delay_var = np.zeros(count)
    omega = 2 * np.pi / layout.fft_size * known.signed
    if span > 2:
        response = np.fft.fft(known.flat[span].estimate(matched, noise_var, power), n=layout.fft_size, axis=1)
        # Preamble A is on half of the carriers only; the rest is alike.
        phase, delay, phase_var, delay_var = _phase_and_delay(
            products[:, 1:], spin[:, 1:], response.astype(np.complex64) * known.mask, omega
        )
        spin_each = spin[:, 1:] * _turn(-phase / (2 * np.pi))
        scatter, freedom = _scatter(grid[:, 1:], conjugate[:, 1:], products[:, 1:], spin_each, layout)
        powers.append((scatter, freedom))
    noise_var, noise_std = _combine(powers, count)
    # Preambles and header all have unit mean power per active carrier, whatever the header says.
    total = _mean_power(_active(grid, layout))
    noise_var = np.maximum(noise_var, np.maximum(1e-12 * total, float(np.finfo(np.float32).tiny)))
    sent_power = _mean_power(conjugate if known.limited else conjugate[:1]) * (layout.fft_size / layout.num_active)
    power = np.maximum((total - noise_var) / sent_power, 1e-3 * noise_var)
    cells = full * layout.num_active
    power_std = np.sqrt((2 * power * noise_var + noise_var**2) / cells + noise_std**2)
    weights = 2 * power * np.sum((times - times.mean()) ** 2) * layout.num_active / noise_var
    cfo_std = 1.0 / (2 * math.pi * np.sqrt(weights))
    taps = known.flat[span].estimate(matched, noise_var, power)
    response = np.fft.fft(taps, n=layout.fft_size, axis=1)
    arrival = _arrival_samples(matched, correlated, known.signed, layout.cp_samples)
    if span > 3:
        when = times[1:] - times[1:].mean()
        lever = np.sum(when**2)
        # A clock that is fast at the transmitter makes symbols arrive ever earlier.
        drift_ppm = -(delay @ when) / lever / layout.rate_sps * 1e6
        drift_std = np.sqrt(noise_var * delay_var / lever) / layout.rate_sps * 1e6
        straight = phase - phase.mean(axis=1, keepdims=True) - ((phase @ when) / lever)[:, None] * when
        excess = np.sum(straight**2, axis=1) / (span - 3) - noise_var * phase_var
        jitter = np.sqrt(np.maximum(excess, 0.0))
        # Within as many symbols as carry data the phase wanders less.
        near = np.lib.stride_tricks.sliding_window_view(straight, min(max(layout.data_symbols, 2), span - 1), axis=1)
        near_var = np.maximum(near.var(axis=2, ddof=1).mean(axis=1) - noise_var * phase_var, 0.0)
    drift, drift_var = _settled_drift(drift_ppm, drift_std, cfo_hz, cfo_std, center_hz)
    tail_times = _symbol_times(layout, full, tail.shape[1])
    if np.any(drift):
        early = drift[:, None] * 1e-6 * layout.rate_sps * tail_times  # samples
        tail *= _turn(-early[:, :, None] * omega / (2 * np.pi))
    common = np.zeros((count, tail.shape[1]))
    phase_left = timing_left = np.full(count, np.inf)
    if span > 3:
        # The header's line is as uncertain as noise and jitter make it.
        slope_var = (2 * np.pi * cfo_std) ** 2 + jitter**2 / np.sum((times[1:] - times[1:].mean()) ** 2)
        away = tail_times[layout.pilot_symbols :] - times.mean()
        phase_left = np.sqrt(slope_var * np.mean(away**2) + jitter**2)
        timing_left = np.sqrt(drift_var * np.mean(away**2)) * layout.rate_sps * 1e-6
    if layout.tracking:
        common, phase_left = _track(tail, layout, response, noise_var)
        tail *= _turn(-common / (2 * np.pi))[:, :, None]
    elif layout.data_symbols > 1 and span > 3:
        # Only where it would show above the noise: phase and delay, as the error power that they make of the signal.
        shown = phase_left**2 + timing_left**2 * np.mean(omega[layout.active_bins] ** 2)
        rows = np.flatnonzero(shown * power > 0.02 * noise_var)
        if rows.size:
            squares = _Squares(tail[rows], layout, response[rows], noise_var[rows])
            common[rows], phase_left[rows] = squares.phase(tail_times, slope_var[rows], near_var[rows])
            more, timing_left[rows] = squares.drift(tail_times, drift_var[rows])
            drift[rows] += more
            early = more[:, None] * 1e-6 * layout.rate_sps * (tail_times - tail_times.mean())
            tail[rows] *= _turn(-common[rows, :, None] / (2 * np.pi) - early[:, :, None] * omega / (2 * np.pi))

    grid *= spin[:, :, None]
    return [
        SyncedFrame(
            grid=tail[row],
            header=headers[row],
            start=int(start[row]),
            advance=advance,
            cfo_hz=float(cfo_hz[row]),
            cfo_std_hz=float(cfo_std[row]),
            metric=float(hits.metric[row]),
            noise_var=float(noise_var[row]),
            noise_var_std=float(noise_std[row]),
            signal_power=float(power[row]),
            preamble_grid=grid[row, :2],
            header_grid=grid[row, 2:],
            known_taps=taps[row].astype(np.complex64),
            signal_power_std=float(power_std[row]),
            arrival_samples=float(arrival[row]),
            drift_ppm=float(drift_ppm[row]),
            drift_std_ppm=float(drift_std[row]),
            corrected_drift_ppm=float(drift[row]),
            phase_rad=common[row],
            phase_jitter_rad=float(jitter[row]),
            phase_residual_rad=float(phase_left[row]),
            timing_residual_samples=float(timing_left[row]),
            error_var=float(scatter[row]),
        )
        for row in range(count)
    ]


def _settled_drift(
    drift_ppm: NDArray[np.float64],
    drift_std: NDArray[np.float64],
    cfo_hz: NDArray[np.float64],
    cfo_std: NDArray[np.float64],
    center_hz: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F,) drift that is corrected: the carrier's where it fits the measured one, else that if it is significant.

    And the variance of its error, ppm^2.
    """
    measured = np.where(np.abs(drift_ppm) > 4 * drift_std, drift_ppm, 0.0)
    if center_hz <= 0:
        return measured, drift_std**2
    tied = cfo_hz / center_hz * 1e6
    # A transmitter tuned off on purpose has a carrier offset that its clock does not share.
    fits = np.abs(drift_ppm - tied) <= 3 * drift_std
    return np.where(fits, tied, measured), np.where(fits, (cfo_std / center_hz * 1e6) ** 2, drift_std**2)


class _Squares:
    """Phase and delay of data symbols against each other, without decisions.

    The cells are descrambled and equalised, z_hat = conj(H) y / (|H|^2 + noise). Unless the codec's symbols are
    circular, the sum of their squares over a symbol points into the same direction in all symbols of a frame, but for
    twice the symbol's phase (and, over the carriers, twice the slope that a delay makes).
    """

    def __init__(
        self, tail: NDArray[np.complex64], layout: FrameLayout, response: NDArray[Any], noise_var: NDArray[np.float64]
    ) -> None:
        self.layout = layout
        scramble = np.zeros(layout.data_symbols * layout.fft_size, dtype=np.complex64)
        scramble[layout.cell_index] = layout.cell_scramble
        bins = layout.active_bins
        gain = response[:, bins].conj() / (_power(response[:, bins]) + noise_var[:, None])
        cells = tail[:, layout.pilot_symbols :, bins] * gain[:, None, :]
        self.squares: Complex = (cells * scramble.reshape(layout.data_symbols, -1)[:, bins].conj()) ** 2
        sums = self.squares.sum(axis=2)
        # About the direction that all symbols share.
        self.squares *= np.exp(-1j * np.angle(sums.sum(axis=1)))[:, None, None]
        # Variance of a sum's component across that direction.
        spread = np.sum(self.squares.imag**2, axis=2).mean(axis=1)
        along = self.squares.real.sum(axis=2).mean(axis=1)
        # The part of the length that is no accident; symbols that are circular have none, and say nothing.
        length = np.sqrt(np.maximum(along**2 - 2 * spread / layout.data_symbols, 1e-6 * spread))
        # Where nothing was sent at all, all is zero.
        self.length = np.maximum(length, 1e-30)
        self.turn = 0.5 * np.angle(self.squares.sum(axis=2))
        turn_var = np.where(length > 0, spread, np.inf) / (4 * self.length**2)
        self.turn_var = np.clip(turn_var, 1e-12, 1e6)[:, None]

    def phase(
        self, tail_times: NDArray[np.float64], slope_var: NDArray[np.float64], jitter_var: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(F, P + S) phase, radians: a slope and what is left of each data symbol, both shrunk by what was known.

        Args:
            tail_times: (P + S,) of the symbols, s. slope_var: (F,) variance of the slope, (rad/s)^2. jitter_var: (F,).

        Returns:
            And the (F,) standard error that is left, rms over data symbols.
        """
        times = tail_times[self.layout.pilot_symbols :]
        away, middle = times - times.mean(), self.turn.mean(axis=1, keepdims=True)
        ml_var = (self.turn_var[:, 0] + jitter_var) / np.sum(away**2)
        trust = slope_var / (slope_var + ml_var)
        slope = trust * ((self.turn - middle) @ away) / np.sum(away**2)
        kept = jitter_var[:, None] / (jitter_var[:, None] + self.turn_var)
        phase = slope[:, None] * (tail_times - times.mean())
        phase[:, self.layout.pilot_symbols :] += kept * (self.turn - middle - slope[:, None] * away)
        left = slope_var * (1 - trust) * np.mean(away**2) + (kept * self.turn_var)[:, 0]
        return phase, np.sqrt(left)

    def drift(
        self, tail_times: NDArray[np.float64], drift_var: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(F,) drift of the sampling clock, ppm, shrunk by its variance before, and the delay's error left, samples."""
        layout = self.layout
        times = tail_times[layout.pilot_symbols :]
        omega = 2 * np.pi / layout.fft_size * np.array(layout.active, dtype=np.float64)
        omega = omega - omega.mean()
        turned = self.squares * np.exp(-2j * self.turn)[:, :, None]
        lever = self.length * np.mean(omega**2)
        delay = -(turned.imag @ omega) / (2 * lever[:, None])
        delay_var = np.clip((turned.imag**2 @ omega**2).mean(axis=1) / (4 * lever**2), 1e-12, 1e6)
        away = times - times.mean()
        information = np.sum(away**2) / delay_var
        # A clock that is fast at the transmitter makes symbols arrive ever earlier.
        scale = 1e6 / layout.rate_sps
        slope = -(delay @ away) / np.sum(away**2) * scale
        trust = drift_var / (drift_var + scale**2 / information)
        left = drift_var * (1 - trust) * np.mean(away**2) / scale**2
        return slope * trust, np.sqrt(left)


def _track(
    tail: NDArray[np.complex64], layout: FrameLayout, response: NDArray[Any], noise_var: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(F, P + S) phase of pilot and data symbols against preambles and header, from pilots and tracking carriers.

    Shrunk by its own uncertainty against the phase it would have without any noise of the oscillators (none), so that
    few tracking carriers at low SNR do no harm. And the (F,) standard error that is left in data symbols, rms.
    """
    pilots, first = layout.pilot_symbols, layout.tracking_bins
    sums, energy = [], []
    for bins, rows, values in (
        (layout.active_bins, slice(0, pilots), layout.pilots[:, layout.active_bins]),
        (first, slice(pilots, None), layout.tracking_symbols),
    ):
        gain = response[:, None, bins] * values
        sums.append(np.sum(tail[:, rows, bins] * gain.conj(), axis=2))
        energy.append(np.sum(_power(gain), axis=2))
    phase = np.angle(np.concatenate(sums, axis=1))
    variance = 0.5 * noise_var[:, None] / np.maximum(np.concatenate(energy, axis=1), 1e-300)
    spread = np.maximum(np.mean(phase**2, axis=1, keepdims=True) - variance.mean(axis=1, keepdims=True), 0.0)
    kept = spread / np.maximum(spread + variance, 1e-300)
    return phase * kept, np.sqrt(np.mean((kept * variance)[:, pilots:], axis=1))
