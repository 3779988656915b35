"""Simulate a radio: `sim:csnr_db=10,taps=8,decay=4,cfo_hz=300,delay_samples=1000.5,gain_db=-10,seed=1`.

Its options are those of `sdr.air.chain.parse_impairments`, as in `sim:tdl=A,doppler_hz=5,offset_ppm=10,adc_bits=8`, but
for `noise_var`, and `rx`, the number of receiving antennas: `sim:csnr_db=5,taps=8,rx=2`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.air.chain import IMPAIRMENT_OPTIONS, Impairments
from sdr.air.delay_line import FadingTruth
from sdr.air.impairments import apply_awgn, apply_cfo, apply_delay, draw_taps, exponential_pdp, noise_var_for_csnr
from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.options import parse_options
from sdr.radios.base import ContextRadio, Driver, RadioCapabilities
from sdr.recordings.recording import MAX_ANTENNAS, MAX_SAMPLES, Recording
from sdr.settings import RadioSettings

_OPTIONS = {**{key: read for key, read in IMPAIRMENT_OPTIONS.items() if key != "noise_var"}, "rx": int}
_MAX_DELAY_SAMPLES = 1e8


@dataclass(frozen=True)
class SimulatedAir:
    """The air of a simulated radio.

    Args:
        impairments: what happens on the way.
        csnr_db: noise level, in place of the impairments' `noise_var`; None for that one.
        seed: of taps, noise and whatever else is random.
        rx: receiving antennas. Fading and noise of each are its own, and its front end where the impairments give it
            one; oscillators, clock and delay are one. The first hears what the only one would.

    Raises:
        RadioError: a value is out of range, or several antennas meet what is not simulated for them.
    """

    impairments: Impairments = field(default_factory=Impairments)
    csnr_db: float | None = None
    seed: int = 0
    rx: int = 1

    def __post_init__(self) -> None:
        if self.csnr_db is not None and not -200 <= self.csnr_db <= 200:
            raise RadioError(f"sim: csnr_db = {self.csnr_db:g} is outside -200..200 dB")
        if not self.impairments.delay_samples <= _MAX_DELAY_SAMPLES:
            raise RadioError(f"sim: delay_samples = {self.impairments.delay_samples:g} is outside 0..1e8")
        if self.seed < 0:
            raise RadioError(f"sim: seed = {self.seed} must be >= 0")
        if not 1 <= self.rx <= MAX_ANTENNAS:
            raise RadioError(f"sim: rx = {self.rx} antennas is outside 1..{MAX_ANTENNAS}")
        chain = self.impairments
        if self.rx > 1 and (chain.tone or chain.has_bursts or chain.jam_power or chain.num_gaps):
            raise RadioError(
                f"sim: with rx={self.rx}, interference (tone, bursts, jamming) and lost samples (gaps) are not "
                "simulated; leave them or rx out"
            )


def parse_sim(rest: str) -> SimulatedAir:
    """Return the air that the options after `sim:` describe.

    Raises:
        InputError: impairments out of range, or that exclude another.
        RadioError: an option is unknown, given twice, or out of range.

    >>> parse_sim("csnr_db=10,taps=8").impairments.taps
    8
    """
    options = parse_options(rest, _OPTIONS, "sim:", RadioError)
    csnr_db, seed, rx = options.pop("csnr_db", None), options.pop("seed", 0), options.pop("rx", 1)
    return SimulatedAir(Impairments(**options), csnr_db, seed, rx)


class SimulatedRadio(ContextRadio):
    """A radio whose air is a function call: the impairments, then the converter's full scale.

    Every capture starts with the transmission: the first transmitted sample arrives `delay_samples` later. A cyclic
    transmission also fills the time before. Each capture draws new taps and new noise from the same generator.

    Args:
        settings: its `rate_sps` turns the carrier offset into phase, which is 0 at the first captured sample; its
            `center_hz` replaces that of the impairments where there is one.
        layout: needed for a CSNR, whose reference is the layout's power per carrier.
        air: what happens on the way.

    Raises:
        RadioError: a CSNR without a layout, or a carrier offset beyond half the rate.
    """

    capabilities = RadioCapabilities(cyclic=True, finite=True)

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None, air: SimulatedAir) -> None:
        super().__init__(settings, layout)
        self.capabilities = replace(self.capabilities, antennas=air.rx)
        chain = air.impairments if air.rx > 1 else air.impairments.at_antenna(0)
        if air.csnr_db is not None and layout is None:
            raise RadioError("sim: needs a layout to turn csnr_db into a noise power; name the layout")
        if abs(chain.cfo_hz) > settings.rate_sps / 2:
            raise RadioError(f"sim: cfo_hz = {chain.cfo_hz:g} exceeds half the rate of {settings.rate_sps:g} samples/s")
        self._delay_samples = chain.delay_samples
        self._chain = replace(
            chain,
            center_hz=settings.center_hz or chain.center_hz,
            delay_samples=0.0,
            noise_var=noise_var_for_csnr(layout, air.csnr_db)
            if layout is not None and air.csnr_db is not None
            else chain.noise_var,
        )
        self._rng = np.random.default_rng(air.seed)
        self._others_rng = [np.random.default_rng([air.seed, 2, antenna]) for antenna in range(1, air.rx)]
        # Apart, so that a stream draws the taps that a capture would.
        self._stream_noise = [
            np.random.default_rng([air.seed, 1, antenna] if antenna else [air.seed, 1]) for antenna in range(air.rx)
        ]
        self._sent: NDArray[np.complex64] | None = None
        self._cyclic = False
        self._fading: FadingTruth | None = None

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Put samples on the simulated air, in place of what was there."""
        self._check_transmit(samples, cyclic)
        self._sent, self._cyclic = samples.copy(), cyclic

    def receive(self, num_samples: int | None = None) -> Recording:
        """Capture `num_samples`, or until the delayed transmission has passed through the channel.

        Raises:
            RadioError: nothing was transmitted, or a cyclic transmission has no end.
        """
        self._check_receive(num_samples)
        if self._sent is None:
            raise RadioError("sim: nothing is on the air; transmit before you receive")
        chain = self._chain
        if num_samples is None:
            if self._cyclic:
                raise RadioError("sim: a cyclic transmission has no end; say how many samples to receive")
            late = math.ceil(self._delay_samples + chain.lead_samples)
            num_samples = self._sent.size + late + max(chain.num_taps, 1) - 1
        # What the driver loses is made up for, and a faster clock uses samples up sooner.
        extra = chain.num_gaps * chain.gap_samples + math.ceil(num_samples * max(chain.offset_ppm, 0.0) * 1e-6) + 1
        arriving, rate_sps = self._delayed(num_samples + extra), self.settings.rate_sps
        impaired = chain.apply(arriving, rate_sps, self._rng)
        self._fading = impaired.fading
        others = [
            chain.apply(arriving, rate_sps, rng, impaired.phase, antenna).samples
            for antenna, rng in enumerate(self._others_rng, 1)
        ]
        heard = [samples[:num_samples].view(np.float32) for samples in (impaired.samples, *others)]
        return self._record(*(np.clip(parts, -1.0, 1.0).view(np.complex64) for parts in heard))

    def stream(self, block_samples: int) -> Iterator[NDArray[np.complex64]]:
        """Yield contiguous blocks without end; the channel and the carrier's phase go on from block to block.

        Raises:
            RadioError: nothing was transmitted, or the channel has impairments that only a whole capture can have.
        """
        self._check_receive(block_samples)
        if self._sent is None:
            raise RadioError("sim: nothing is on the air; transmit before you receive")
        chain = self._chain
        plain = Impairments(center_hz=chain.center_hz)
        kept = ("taps", "decay", "block_samples", "cfo_hz", "gain_db", "noise_var", "center_hz")
        others = [
            i.name for i in fields(chain) if i.name not in kept and getattr(chain, i.name) != getattr(plain, i.name)
        ]
        if others:
            raise RadioError(f"sim: can't stream with {', '.join(others)}; leave it out, or capture at once")
        antennas = [
            self._antenna_stream(block_samples, fading, noise)
            for fading, noise in zip((self._rng, *self._others_rng), self._stream_noise, strict=True)
        ]
        yield from antennas[0] if len(antennas) == 1 else map(np.stack, zip(*antennas, strict=True))

    def _antenna_stream(
        self, block_samples: int, fading: np.random.Generator, noise: np.random.Generator
    ) -> Iterator[NDArray[np.complex64]]:
        """Yield blocks of one antenna, its taps and noise drawn from generators of its own."""
        chain = self._chain
        pdp = exponential_pdp(chain.taps, chain.decay) if chain.taps else np.ones(1)
        turns, gain = chain.cfo_hz / self.settings.rate_sps, np.float32(10.0 ** (chain.gain_db / 20.0))
        taps, drawn, position = np.ones(1, np.complex64), -1, 0
        rotation = apply_cfo(np.ones(block_samples, np.complex64), chain.cfo_hz, self.settings.rate_sps)
        arrivals = self._arrivals()
        while True:
            block = np.empty(block_samples, np.complex64)
            first = position
            while first < position + block_samples:
                redraw = first // chain.block_samples if chain.block_samples else 0
                last = position + block_samples
                if chain.block_samples:
                    last = min(last, (redraw + 1) * chain.block_samples)
                if chain.taps and redraw != drawn:
                    taps, drawn = draw_taps(pdp, fading), redraw
                arriving = arrivals(first - taps.size + 1, last)
                faded = np.convolve(arriving, taps, mode="valid") if chain.taps else arriving
                block[first - position : last - position] = faded
                first = last
            if chain.cfo_hz:
                block *= rotation
                block *= np.complex64(np.exp(2j * np.pi * (turns * position % 1.0)))
            if chain.noise_var:
                block = apply_awgn(block, chain.noise_var, noise)
            if chain.gain_db:
                block = block * gain
            yield np.clip(block.view(np.float32), -1.0, 1.0).view(np.complex64)
            position += block_samples

    def _arrivals(self) -> Callable[[int, int], NDArray[np.complex64]]:
        """Return a function (first, last) -> (last - first,) samples that arrive at the channel's input.

        Samples are counted from the first one of the first block.
        """
        sent = self._sent
        assert sent is not None
        whole = math.floor(self._delay_samples)
        if not self._cyclic:
            late = apply_delay(sent, self._delay_samples)

            def once(first: int, last: int) -> NDArray[np.complex64]:
                arriving = np.zeros(last - first, np.complex64)
                begin, end = min(max(first, 0), late.size), min(max(last, 0), late.size)
                arriving[begin - first : end - first] = late[begin:end]
                return arriving

            return once
        period = self._one_period()

        def again(first: int, last: int) -> NDArray[np.complex64]:
            begin = (first - whole) % period.size
            head = period[begin : begin + last - first]
            return (
                head
                if head.size == last - first
                else np.concatenate([head, np.resize(period, last - first - head.size)])
            )

        return again

    def channel_truth(self, frame_starts: Sequence[int]) -> dict[str, Any] | None:
        """Return the channel of the last capture, for scoring only.

        Args:
            frame_starts: first sample of each frame in what was transmitted.

        Returns:
            The fields of `lab.evaluation.channel_truth.ChannelTruth`; None where the channel was more than drawn taps,
            a carrier offset, a delay of whole samples and a gain, or that of several antennas.
        """
        chain = self._chain
        if self._others_rng or self._sent is None or not chain.is_plain or self._delay_samples % 1:
            return None
        if self._fading is None:
            taps, block = np.ones((1, 1), dtype=np.complex64), MAX_SAMPLES
        else:
            taps, block = self._fading.taps, self._fading.knot_samples
        return {
            "taps": taps,
            "redraw_samples": block,
            "cfo_hz": chain.total_cfo_hz,
            "frame_starts": np.asarray(frame_starts, dtype=np.int64) + int(self._delay_samples),
            "gain": 10.0 ** (chain.gain_db / 20.0),
            "moving": chain.moving_taps,
        }

    def _delayed(self, num_samples: int) -> NDArray[np.complex64]:
        """Return complex64 (num_samples,): what arrives at the channel's input."""
        assert self._sent is not None
        if not self._cyclic:
            arriving = np.zeros(num_samples, dtype=np.complex64)
            # A capture shorter than the burst needs no more of it than the interpolator reaches.
            sent = apply_delay(self._sent[: num_samples + 1024], self._delay_samples)[:num_samples]
            arriving[: sent.size] = sent
            return arriving
        return self._arrivals()(0, num_samples)

    def _one_period(self) -> NDArray[np.complex64]:
        """Return one period of the cyclic transmission, late by the delay's fraction of a sample."""
        assert self._sent is not None
        fraction = self._delay_samples % 1.0
        if not fraction:
            return self._sent
        phase = np.exp(-2j * np.pi * np.fft.fftfreq(self._sent.size) * fraction)
        return np.fft.ifft(np.fft.fft(self._sent) * phase).astype(np.complex64)


def _open_sim(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> SimulatedRadio:
    return SimulatedRadio(settings, layout, parse_sim(rest))


DRIVER = Driver(parse_sim, _open_sim)
