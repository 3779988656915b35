"""Run the chain of `sdr.air.chain` over samples that come in pieces and never end, as in flowgraphs.

Where a capture has an end and a stream has none, the stream differs: `gap_samples` are lost `num_gaps` times in every
`GAP_PERIOD_SAMPLES`, `gain_step_sample` counts from the first sample, and a delay by a fraction of a sample is at least
`LEAD_SAMPLES` long.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sdr.air.amplifier import apply_rapp
from sdr.air.chain import Impairments
from sdr.air.delay_line import LEAD_SAMPLES, DelayLine, MovingTaps, sample_taps
from sdr.air.impairments import (
    INTERPOLATION_REACH,
    BlockFading,
    PhaseNoise,
    apply_awgn,
    apply_cfo,
    apply_dc,
    apply_gain_step,
    apply_iq_imbalance,
    apply_phase,
    interpolate,
    quantise,
)
from sdr.errors import InputError

GAP_PERIOD_SAMPLES = 1 << 20
"""A stream loses samples `num_gaps` times in so many."""

_FADING, _NOISE, _PHASE, _BURSTS, _JAMMING = range(5)

Stage = Callable[[NDArray[np.complex64]], NDArray[np.complex64]]
"""One impairment: takes the next samples, returns the next that come out. It remembers what it has to."""


def stream_stages(
    chain: Impairments, rate_sps: float, seed: int, first_block_sample: int = 0, antenna: int = 0
) -> dict[str, Stage]:
    """Return the members of a chain by name, in the order in which samples go through them.

    Args:
        chain: the chain; members that it leaves out are missing.
        rate_sps: sampling rate.
        seed: of all that is random; every member has its own generator.
        first_block_sample: sample from which blocks of taps are counted.
        antenna: of the receiver, from 0. Fading, noise and front end of each are its own, oscillators are one.

    Raises:
        InputError: a setting is out of range.

    >>> list(stream_stages(Impairments(taps=8, cfo_hz=300.0, noise_var=0.1, adc_bits=8), 1e6, seed=1))
    ['fading', 'carrier', 'noise', 'converter']
    """

    chain = chain.at_antenna(antenna)

    def rng(member: int) -> np.random.Generator:
        if antenna and member in (_FADING, _NOISE):
            return np.random.default_rng([seed, member, antenna])
        return np.random.default_rng([seed, member] if member else seed)

    stages: dict[str, Stage] = {}
    if chain.pa_saturation:
        stages["amplifier"] = lambda samples: apply_rapp(samples, chain.pa_saturation, chain.pa_smoothness)
    if chain.lo_leakage:
        stages["leakage"] = lambda samples: apply_dc(samples, chain.lo_leakage)
    if chain.delay_samples:
        stages["delay"] = _delay(chain.delay_samples)
    if chain.moving_taps:
        stages["fading"] = _Filter(MovingTaps(chain.tap_powers, chain.doppler_hz, rate_sps, rng(_FADING)))
    elif chain.num_taps:
        block_samples = chain.block_samples or 1 << 62
        stages["fading"] = _Filter(BlockFading(chain.tap_powers, block_samples, rng(_FADING), first_block_sample))
    elif chain.tdl:
        line = DelayLine(chain.tdl, chain.delay_spread_s, chain.doppler_hz, rate_sps, rng(_FADING))
        stages["fading"] = _Filter(line)
    if chain.offset_ppm:
        stages["sfo"] = _Sfo(chain.offset_ppm)
    if chain.total_cfo_hz:
        stages["carrier"] = _Rotation(chain.total_cfo_hz / rate_sps)
    if chain.phase_noise_deg:
        phase = PhaseNoise(chain.phase_noise_deg, chain.phase_noise_hz, rate_sps, rng(_PHASE))
        stages["phase"] = lambda samples: apply_phase(samples, phase.draw(samples.size))
    if chain.tone:
        tone = _Rotation(chain.tone_hz / rate_sps)
        stages["tone"] = lambda samples: samples + tone(np.full(samples.size, chain.tone, np.complex64))
    if chain.has_bursts:
        bursts = chain.make_bursts(rng(_BURSTS))
        stages["bursts"] = lambda samples: bursts.add(samples)[0]
    if chain.jam_power:
        stages["jamming"] = chain.make_jamming(rate_sps, rng(_JAMMING)).add
    if chain.noise_var:
        noise = rng(_NOISE)
        stages["noise"] = lambda samples: apply_awgn(samples, chain.noise_var, noise)
    if math.isfinite(chain.image_rejection_db):
        stages["mixer"] = lambda samples: apply_iq_imbalance(samples, 0.0, chain.mixer_phase_deg)
    if chain.gain_db:
        gain = np.float32(10.0 ** (chain.gain_db / 20.0))
        stages["gain"] = lambda samples: samples * gain
    if chain.dc:
        stages["dc"] = lambda samples: apply_dc(samples, chain.dc)
    if chain.gain_step_db:
        stages["gain step"] = _GainStep(chain.gain_step_sample, chain.gain_step_db)
    if chain.adc_bits:
        stages["converter"] = lambda samples: quantise(samples, chain.adc_bits)
    if chain.num_gaps and chain.gap_samples:
        stages["gaps"] = _Loss(chain, seed)
    return stages


class _Still:
    """Taps that never change, with the interface of the channels that do."""

    def __init__(self, taps: NDArray[np.complex64]) -> None:
        self.num_taps, self._taps = taps.size, taps

    def filter(self, padded: NDArray[np.complex64], first: int) -> NDArray[np.complex64]:
        return np.convolve(padded, self._taps, mode="valid").astype(np.complex64)


class _Filter:
    """A channel, and the input that its next output needs."""

    def __init__(self, channel: BlockFading | MovingTaps | DelayLine | _Still) -> None:
        self.channel = channel
        self._past = np.zeros(channel.num_taps - 1, np.complex64)
        self._done = 0

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        padded = np.concatenate([self._past, samples])
        out = self.channel.filter(padded, self._done)
        self._past = padded[padded.size - self._past.size :].copy()
        self._done += samples.size
        return out


class _Delay:
    """A delay by whole samples."""

    def __init__(self, delay_samples: int) -> None:
        self._waiting = np.zeros(delay_samples, np.complex64)

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        out = np.concatenate([self._waiting, samples])
        self._waiting = self._waiting[:0]
        return out


def _delay(delay_samples: float) -> Stage:
    whole = math.floor(delay_samples)
    if whole == delay_samples:
        return _Delay(whole)
    if whole < LEAD_SAMPLES:
        raise InputError(
            f"a stream is delayed by whole samples, or by at least {LEAD_SAMPLES}; found {delay_samples:g} samples"
        )
    fraction = np.array([delay_samples - whole])
    taps = sample_taps(fraction, np.ones(1, np.complex128), 2 * LEAD_SAMPLES + 1)
    before, interpolator = _Delay(whole - LEAD_SAMPLES), _Filter(_Still(taps.astype(np.complex64)))
    return lambda samples: interpolator(before(samples))


class _Rotation:
    """A carrier offset."""

    def __init__(self, turns_per_sample: float) -> None:
        self._turns, self._done = turns_per_sample, 0

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        out = apply_cfo(samples, self._turns, 1.0, self._done)
        self._done += samples.size
        return out


class _Sfo:
    """`sdr.air.impairments.apply_sfo`, as far as the input reaches."""

    def __init__(self, sfo_ppm: float) -> None:
        self._step = 1.0 + sfo_ppm * 1e-6
        self._kept, self._origin, self._done = np.zeros(INTERPOLATION_REACH, np.complex64), -INTERPOLATION_REACH, 0

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        self._kept = np.concatenate([self._kept, samples])
        end = self._origin + self._kept.size
        total = max(self._done, math.floor((end - INTERPOLATION_REACH - 2) / self._step) + 1)
        positions: NDArray[np.float64] = np.arange(self._done, total, dtype=np.float64) * self._step
        out = interpolate(self._kept, positions - self._origin) if positions.size else np.empty(0, np.complex64)
        self._done = total
        drop = max(0, math.floor(total * self._step) - INTERPOLATION_REACH - self._origin)
        self._kept, self._origin = self._kept[drop:].copy(), self._origin + drop
        return out


class _GainStep:
    """A gain that changes once."""

    def __init__(self, at_sample: int, step_db: float) -> None:
        self._left, self._step_db = at_sample, step_db

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        out = apply_gain_step(samples, min(self._left, samples.size), self._step_db)
        self._left = max(0, self._left - samples.size)
        return out


class _Loss:
    """Samples that get lost."""

    def __init__(self, chain: Impairments, seed: int) -> None:
        self._gaps, self._done = StreamGaps(chain.gap_samples, chain.num_gaps, seed), 0

    def __call__(self, samples: NDArray[np.complex64]) -> NDArray[np.complex64]:
        first, self._done = self._done, self._done + samples.size
        kept = np.ones(samples.size, dtype=bool)
        for period in range(first // GAP_PERIOD_SAMPLES, self._done // GAP_PERIOD_SAMPLES + 1):
            for start in self._gaps.starts(period):
                kept[max(start - first, 0) : max(start - first + self._gaps.gap_samples, 0)] = False
        return samples[kept]


class StreamGaps:
    """Places where a stream loses samples: `num_gaps` gaps that do not touch in every `GAP_PERIOD_SAMPLES`.

    Args:
        gap_samples: samples lost each time.
        num_gaps: gaps in a period.
        seed: of the places.

    Raises:
        InputError: more than half of the samples would be lost.
    """

    def __init__(self, gap_samples: int, num_gaps: int, seed: int) -> None:
        if 2 * gap_samples * num_gaps > GAP_PERIOD_SAMPLES:
            raise InputError(
                f"a stream loses at most half of its samples, found {num_gaps} gaps of {gap_samples} samples in every "
                f"{GAP_PERIOD_SAMPLES}"
            )
        self.gap_samples, self.num_gaps, self._seed = gap_samples, num_gaps, seed

    def starts(self, period: int) -> NDArray[np.int64]:
        """Return (num_gaps,) ascending first samples lost in a period, counted as if nothing were lost."""
        rng = np.random.default_rng([self._seed, 4, period])
        slack = np.sort(rng.integers(0, GAP_PERIOD_SAMPLES - self.gap_samples * self.num_gaps, self.num_gaps))
        return period * GAP_PERIOD_SAMPLES + slack + self.gap_samples * np.arange(self.num_gaps)
