"""Share an air between emulated radios: what one transmits, all hear.

The air has no samples of its own, only a time line that begins at 0 when it is made. Sample n of a radio at rate r
happens n / r seconds after that, by the radio's own clock. A radio that streams in real time asks `now_samples` where
it is; one that acts at given times (a timed burst) just names the sample.

>>> air = Air()
>>> air.attach("pluto"); air.attach("usrp")
>>> air.transmit("pluto", np.full(4, 0.5, np.complex64), start_samples=100, rate_sps=1e6, center_hz=2.4e9)
>>> air.receive("usrp", start_samples=98, num_samples=4, rate_sps=1e6, center_hz=2.4e9).real
array([0. , 0. , 0.5, 0.5], dtype=float32)
"""

import math
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sdr.air.chain import Impairments
from sdr.air.delay_line import DelayLine, MovingTaps
from sdr.air.impairments import INTERPOLATION_REACH, draw_taps, exponential_pdp
from sdr.air.stream import GAP_PERIOD_SAMPLES, Stage, StreamGaps, stream_stages
from sdr.emulated.emission import Emission, resample, rotation, through
from sdr.errors import InputError

HISTORY_S = 3.0
"""Time for which the air remembers a transmission after its end, so that a late reader still hears it."""

_MERGE_SAMPLES = 1 << 16
_AT_TRANSMITTER = ("amplifier", "leakage")
_AT_ANTENNA = ("phase", "tone", "bursts", "jamming")
_IN_RECEIVER = ("dc", "gain step", "converter")


@dataclass(frozen=True)
class AirPath:
    """The path between a transmitter and a receiver.

    Args:
        gain_db: of the direct path. With 0 dB here and at both radios, full scale sent is full scale received.
        delay_samples: >= 0, in samples of the transmitter; a fraction is interpolated.
        taps: L of a Rayleigh channel, one receiver sample apart, exponential profile, mean power 1; 0 for none.
        decay: that profile's time constant in samples.
        pdp: powers of the taps, in place of `taps` and `decay`; normalised to sum 1.
        redraw_samples: the taps are drawn anew every so many receiver samples, counted from the first one of a
            transmission that arrives; 0 means never.

    Raises:
        InputError: a value is out of range.
    """

    gain_db: float = 0.0
    delay_samples: float = 0
    taps: int = 0
    decay: float = 4.0
    redraw_samples: int = 0
    pdp: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not -200.0 <= self.gain_db <= 100.0:
            raise InputError(f"a path's gain_db must be in -200..100, found {self.gain_db}")
        if not 0 <= self.delay_samples <= 10**9 or not 0 <= self.taps <= 256 or self.redraw_samples < 0:
            raise InputError(
                f"a path needs a delay of 0..1e9 samples, 0..256 taps and redraw_samples >= 0, found "
                f"{self.delay_samples}, {self.taps} and {self.redraw_samples}"
            )
        if self.redraw_samples and not self.num_taps:
            raise InputError("redraw_samples draws the taps anew, but taps = 0; give taps as well")
        if self.pdp and (self.taps or len(self.pdp) > 256 or not (min(self.pdp) >= 0 and 0 < sum(self.pdp) < math.inf)):
            raise InputError("a path's measured profile needs 1..256 powers >= 0 with a positive sum, and taps = 0")

    @property
    def num_taps(self) -> int:
        """L, 0 for no multipath."""
        return self.taps or len(self.pdp)

    @property
    def tap_powers(self) -> NDArray[np.float64]:
        """(num_taps,) powers, sum 1."""
        return np.array(self.pdp) / sum(self.pdp) if self.pdp else exponential_pdp(self.taps, self.decay)


@dataclass(frozen=True)
class _Listening:
    """A stretch of an antenna's samples: `num_samples` from `start` on; the receiver's crystal is off by `ppm`."""

    receiver: str
    antenna: int
    ppm: float
    start: int
    num_samples: int
    rate_sps: float
    center_hz: float


@dataclass
class _Station:
    """A radio on the air, whose crystal is off by `ppm`."""

    ppm: float
    emissions: list[Emission] = field(default_factory=list)


class Air:
    """One air for any number of radios, each known by a name; safe to use from several threads.

    Every radio hears every other one and itself (full duplex), through `path` unless `connect` said otherwise.

    A receiver gets `10**(rx_gain_db/20) * (noise + sum over transmissions of 10**((tx_gain_db + path.gain_db)/20) *
    (taps * delayed samples) * exp(2j pi f t))`, where f is the difference of both oscillators, each `center_hz` times
    one plus its crystal's error, and t the time line: the phase is continuous over calls as long as nothing is
    retuned. Transmissions whose band doesn't touch the receiver's are not heard; those that overlap in part alias.
    Rates may differ (resampled by a windowed sinc); equal rates and equal crystals are sample-exact.

    Impairments lie where they do in `sdr.air.chain`: amplifier and leakage on the samples sent, before gain; delay
    line, offsets and phase noise on every path; tone, bursts and jamming at the receivers' antennas; imbalance, offset,
    gain step and converter behind the gain. A gain step counts from the first sample that a radio receives. What is
    lost is made up for by running ahead: sample n is heard as many samples later as were lost before it.

    Args:
        path: between all radios.
        noise_var: linear power per complex sample at every receiver's antenna, that is, before `rx_gain_db`.
        seed: of noise, taps, and whatever else is random.
        clock: seconds, monotonic.
        impairments: whatever else happens, for all radios; without what `path` and `noise_var` say already.
    """

    def __init__(
        self,
        path: AirPath | None = None,
        noise_var: float = 0.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        impairments: Impairments | None = None,
    ) -> None:
        chain = Impairments() if impairments is None else impairments
        owned = () if chain.moving_taps else ("taps", "pdp")
        twice = [name for name in (*owned, "delay_samples", "noise_var") if getattr(chain, name)]
        if twice:
            raise InputError(f"{', '.join(twice)} of an air belong to its path and its noise_var, not its impairments")
        if not 0.0 <= noise_var < math.inf or seed < 0:
            raise InputError(f"an air needs a finite noise_var >= 0 and a seed >= 0, found {noise_var} and {seed}")
        self._path = AirPath() if path is None else path
        self._paths: dict[tuple[str, str, int | None], AirPath] = {}
        self._noise_var, self._seed = noise_var, seed
        self._clock, self._epoch = clock, clock()
        self._stations: dict[str, _Station] = {}
        self._lock = threading.Lock()
        self._noise_lock = threading.Lock()
        self._noise = np.random.Generator(np.random.SFC64(seed))
        self._chain = chain
        self._stages: dict[tuple[str, float, int], dict[str, Stage]] = {}
        self._lines: dict[tuple[int, float], DelayLine | MovingTaps] = {}
        sent = stream_stages(chain, 1e6, seed)
        self._sent = [sent[member] for member in _AT_TRANSMITTER if member in sent]
        self._gaps = StreamGaps(chain.gap_samples, chain.num_gaps, seed) if "gaps" in sent else None

    def attach(self, name: str, ppm: float = 0.0) -> None:
        """Add a radio whose crystal, and so its oscillator and its sampling clock, is off by `ppm`.

        Raises:
            InputError: the name is taken, or `ppm` isn't within +-1000.
        """
        if not abs(ppm) <= 1000.0:
            raise InputError(f"a crystal's error must be within +-1000 ppm, found {ppm}")
        with self._lock:
            if name in self._stations:
                raise InputError(f"a radio called '{name}' is on this air already; give each its own name")
            self._stations[name] = _Station(ppm)

    def set_ppm(self, name: str, ppm: float) -> None:
        """Change the error of a radio's crystal from now on; its transmissions keep their place, to a sample.

        Raises:
            InputError: `ppm` isn't within +-1000.
        """
        if not abs(ppm) <= 1000.0:
            raise InputError(f"a crystal's error must be within +-1000 ppm, found {ppm}")
        with self._lock:
            station, now_s = self._stations[name], self.now_s()
            moved = []
            for e in station.emissions:
                count = now_s * e.rate_sps
                jump = math.floor(count * (1 + 1e-6 * ppm)) - math.floor(count * (1 + 1e-6 * station.ppm))
                moved.append(replace(e, start=e.start + jump, end=e.end + jump, origin=e.origin + jump))
            station.ppm, station.emissions = ppm, moved

    def detach(self, name: str) -> None:
        """Take a radio and its transmissions off the air; unknown names are ignored."""
        with self._lock:
            self._stations.pop(name, None)

    def connect(self, transmitter: str, receiver: str, path: AirPath, antenna: int | None = None) -> None:
        """Set the path between two radios, in this direction only (the same name twice: its own leakage).

        Args:
            transmitter: name of it.
            receiver: name of it.
            path: between the two.
            antenna: of the receiver, 0 for the first; None: all that have no path of their own.
        """
        self._paths[transmitter, receiver, antenna] = path

    def _path_between(self, transmitter: str, receiver: str, antenna: int) -> AirPath:
        to_all = self._paths.get((transmitter, receiver, None), self._path)
        return self._paths.get((transmitter, receiver, antenna), to_all)

    def now_s(self) -> float:
        """Return how many seconds ago the air was made."""
        return self._clock() - self._epoch

    def now_samples(self, rate_sps: float, name: str | None = None) -> int:
        """Return the sample that happens now at a rate, by the clock of radio `name` if given."""
        ppm = self._stations[name].ppm if name is not None else 0.0
        return math.floor(self.now_s() * rate_sps * (1.0 + 1e-6 * ppm))

    def transmit(
        self,
        name: str,
        samples: NDArray[np.complex64],
        start_samples: int,
        rate_sps: float,
        center_hz: float,
        tx_gain_db: float = 0.0,
        cyclic: bool = False,
    ) -> None:
        """Put complex samples (n,) on the air, the first at `start_samples`; cyclic ones repeat until `stop`.

        Pieces of a stream may be given one by one; what overlaps adds up. A start in the past is allowed: whoever
        reads that time later hears it.
        """
        station = self._stations[name]
        data = np.asarray(samples, np.complex64)
        if not data.size:
            return
        with self._lock:
            self._forget(station)
            last = station.emissions[-1] if station.emissions else None
            size = data.size
            if (
                last is not None
                and not cyclic
                and not last.cyclic
                and last.end == start_samples
                and last.samples.size + size <= last.room.size
                and (last.rate_sps, last.center_hz, last.tx_gain_db) == (rate_sps, center_hz, tx_gain_db)
            ):
                # A stream of packets becomes few emissions; readers hold views of the part that was there before.
                used = last.samples.size
                last.room[used : used + size] = data
                station.emissions[-1] = replace(last, samples=last.room[: used + size], end=start_samples + size)
                return
            room = np.empty(max(size, 0 if cyclic else _MERGE_SAMPLES), np.complex64)
            room[:size] = data
            end = math.inf if cyclic else start_samples + size
            origin = last.origin if last is not None and last.end == start_samples else start_samples
            station.emissions.append(
                Emission(room[:size], start_samples, rate_sps, center_hz, tx_gain_db, cyclic, end, 0, origin, room)
            )

    def emissions(self, name: str) -> tuple[Emission, ...]:
        """Return what radio `name` has on the air, oldest first; what is long over is missing."""
        with self._lock:
            return tuple(self._stations[name].emissions)

    def stop(self, name: str, at_samples: int | None = None) -> None:
        """End what radio `name` transmits, at a sample of its own rate; now unless given."""
        self._cut(name, at_samples, None, None)

    def change(
        self,
        name: str,
        at_samples: int | None = None,
        center_hz: float | None = None,
        tx_gain_db: float | None = None,
    ) -> None:
        """Change oscillator or gain of what radio `name` transmits, from a sample of its own rate on (default: now)."""
        self._cut(name, at_samples, center_hz, tx_gain_db)

    def _cut(self, name: str, at_samples: int | None, center_hz: float | None, tx_gain_db: float | None) -> None:
        station = self._stations[name]
        with self._lock:
            self._forget(station)
            emissions = []
            for e in station.emissions:
                at = at_samples if at_samples is not None else self.now_samples(e.rate_sps, name)
                if e.end <= at:
                    emissions.append(e)
                    continue
                if e.start < at:
                    emissions.append(replace(e, end=at, room=np.empty(0, np.complex64)))
                if center_hz is None and tx_gain_db is None:
                    continue
                skip = max(0, at - e.start)
                rest = replace(
                    e,
                    start=e.start + skip,
                    center_hz=e.center_hz if center_hz is None else center_hz,
                    tx_gain_db=e.tx_gain_db if tx_gain_db is None else tx_gain_db,
                    samples=e.samples if e.cyclic else e.samples[skip:],
                    phase_start=(e.phase_start + skip) % e.samples.size if e.cyclic else 0,
                    room=np.empty(0, np.complex64),
                )
                emissions.append(rest)
            station.emissions = emissions

    def _forget(self, station: _Station) -> None:
        oldest = self.now_s() - HISTORY_S
        if any(e.end / e.rate_sps < oldest for e in station.emissions):
            station.emissions = [e for e in station.emissions if e.end / e.rate_sps >= oldest]

    def receive(
        self,
        name: str,
        start_samples: int,
        num_samples: int,
        rate_sps: float,
        center_hz: float,
        rx_gain_db: float = 0.0,
        antenna: int = 0,
    ) -> NDArray[np.complex64]:
        """Return complex64 (num_samples,): what radio `name` hears from its sample `start_samples` on.

        Asking about the future gives what has been put on the air for it so far. Antennas of a radio fade on their own
        and have noise of their own, and front ends where the impairments give them some; oscillator and clock, and so
        the phase noise, are the radio's.
        """
        stages = self._receiver_stages(name, rate_sps, antenna)
        ppm = self._stations[name].ppm
        parts = [
            self._at_antenna(_Listening(name, antenna, ppm, first, count, rate_sps, center_hz))
            for first, count in self._not_lost(start_samples, num_samples)
        ]
        out = parts[0] if len(parts) == 1 else np.concatenate(parts)
        out = through([stages[member] for member in _AT_ANTENNA if member in stages], out)
        if self._noise_var:
            with self._noise_lock:
                noise = self._noise.standard_normal(2 * num_samples, dtype=np.float32).view(np.complex64)
            noise *= np.float32(math.sqrt(self._noise_var / 2.0))
            out += noise
        if "mixer" in stages:
            out = stages["mixer"](out)
        gain_db = rx_gain_db + self._chain.at_antenna(antenna).gain_db
        if gain_db:
            out *= np.float32(10.0 ** (gain_db / 20.0))
        return through([stages[member] for member in _IN_RECEIVER if member in stages], out)

    def _receiver_stages(self, name: str, rate_sps: float, antenna: int) -> dict[str, Stage]:
        key = name, rate_sps, antenna
        if key not in self._stages:
            seed = zlib.crc32(f"{self._seed} {name}".encode())
            self._stages[key] = stream_stages(self._chain, rate_sps, seed, antenna=antenna)
        return self._stages[key]

    def _not_lost(self, start: int, num_samples: int) -> list[tuple[int, int]]:
        """Return the pieces of `num_samples` received from `start` on: first sample on the time line, and number."""
        if self._gaps is None:
            return [(start, num_samples)]
        pieces: list[tuple[int, int]] = []
        done = start
        while done < start + num_samples:
            period = done // GAP_PERIOD_SAMPLES
            places = self._gaps.starts(period)
            before = period * places.size + int(np.searchsorted(places, done, side="right"))
            later = places[places > done]
            end = int(later[0]) if later.size else (period + 1) * GAP_PERIOD_SAMPLES
            end = min(end, start + num_samples)
            pieces.append((done + before * self._gaps.gap_samples, end - done))
            done = end
        return pieces

    def _at_antenna(self, listening: _Listening) -> NDArray[np.complex64]:
        """Return complex64 (num_samples,): all that radios sent, without noise."""
        with self._lock:
            heard = [(name, station.ppm, e) for name, station in self._stations.items() for e in station.emissions]
        out = np.zeros(listening.num_samples, np.complex64)
        for transmitter, ppm, emission in heard:
            self._add(out, listening, transmitter, ppm + self._chain.offset_ppm, emission)
        return out

    def _add(
        self,
        out: NDArray[np.complex64],
        listening: _Listening,
        transmitter: str,
        tx_ppm: float,
        emission: Emission,
    ) -> None:
        """Add to `out`, complex64 (num_samples,), what is heard of one emission."""
        start, rate_sps = listening.start, listening.rate_sps
        path = self._path_between(transmitter, listening.receiver, listening.antenna)
        receiver = _antenna_name(listening.receiver, listening.antenna)
        tx_clock, rx_clock = 1.0 + 1e-6 * tx_ppm, 1.0 + 1e-6 * listening.ppm
        offset_hz = emission.center_hz * tx_clock - listening.center_hz * rx_clock + self._chain.cfo_hz
        if abs(offset_hz) >= (rate_sps + emission.rate_sps) / 2.0:
            return
        # Sample n of the receiver is sample n * step of the transmitter.
        step = emission.rate_sps * tx_clock / (rate_sps * rx_clock)
        base = emission.start + path.delay_samples
        line = self.delay_line(transmitter, receiver, rate_sps) if self._chain.tdl or self._chain.moving_taps else None
        tail = (line.num_taps if line else max(path.num_taps, 1)) - 1
        exact = step == 1.0 and base == int(base)
        margin = 0 if exact else INTERPOLATION_REACH + 1
        # Range of our samples in which anything of it arrives.
        low = max(start, math.floor((base - margin) / step))
        length = emission.end - emission.start
        high = start + out.size
        if length != math.inf:
            high = min(high, math.ceil((base + length + margin) / step) + tail)
        if low >= high:
            return
        if exact:
            arriving = emission.take(low - tail - int(base), high - int(base), self._sent)
        else:
            arriving = resample(emission, low - tail, high, step, base, self._sent)
        if line:
            arriving = line.filter(arriving, low)
        elif path.num_taps:
            first = low - math.floor((emission.origin + path.delay_samples) / step)
            arriving = self._fade(arriving, path, (transmitter, receiver), first, first + high - low)
        gain = np.float32(10.0 ** ((emission.tx_gain_db + path.gain_db) / 20.0))
        if offset_hz:
            arriving *= rotation(low, high - low, offset_hz / rate_sps / rx_clock)
        if gain != 1.0:
            arriving *= gain
        out[low - start : high - start] += arriving

    def _fade(
        self, arriving: NDArray[np.complex64], path: AirPath, ends: tuple[str, str], low: int, high: int
    ) -> NDArray[np.complex64]:
        """Return (high - low,) samples low..high-1 of a transmission, from those of low - taps + 1..high-1."""
        block = path.redraw_samples
        faded = np.empty(high - low, np.complex64)
        first = low
        while first < high:
            index = first // block if block else 0
            last = min(high, (index + 1) * block) if block else high
            taps = self._drawn(path, ends, index)
            piece = arriving[first - low : last - low + path.num_taps - 1]
            faded[first - low : last - low] = np.convolve(piece, taps, "valid")
            first = last
        return faded

    def taps(self, transmitter: str, receiver: str, block: int = 0, antenna: int = 0) -> NDArray[np.complex64]:
        """Return complex64 (L,): the channel between two radios in a block of `redraw_samples`; for scoring only."""
        path = self._path_between(transmitter, receiver, antenna)
        if not path.num_taps:
            return np.ones(1, np.complex64)
        return self._drawn(path, (transmitter, _antenna_name(receiver, antenna)), block)

    def _drawn(self, path: AirPath, ends: tuple[str, str], block: int) -> NDArray[np.complex64]:
        rng = np.random.default_rng([self._seed, _pair(*ends), block % (1 << 63)])
        return draw_taps(path.tap_powers, rng)

    def delay_line(self, transmitter: str, receiver: str, rate_sps: float) -> DelayLine | MovingTaps:
        """Return the delay line or moving taps between two radios, which go on as long as the air exists."""
        chain, key = self._chain, (_pair(transmitter, receiver), rate_sps)
        if key not in self._lines:
            rng = np.random.default_rng([self._seed, key[0]])
            if chain.tdl:
                self._lines[key] = DelayLine(chain.tdl, chain.delay_spread_s, chain.doppler_hz, rate_sps, rng)
            else:
                self._lines[key] = MovingTaps(chain.tap_powers, chain.doppler_hz, rate_sps, rng)
        return self._lines[key]


def _antenna_name(receiver: str, antenna: int) -> str:
    """Return what an antenna's channel is drawn by; the first has the receiver's own name."""
    return f"{receiver} antenna {antenna}" if antenna else receiver


def _pair(transmitter: str, receiver: str) -> int:
    return zlib.crc32(f"{transmitter}\0{receiver}".encode())
