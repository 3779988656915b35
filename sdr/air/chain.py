"""Run everything between a transmitter's samples and a recording as one seeded chain.

The order is the physical one: amplifier and leaking oscillator of the transmitter; multipath; the two oscillators'
difference (carrier, sampling clock, phase noise); interference and noise; the receiver's mixer, offset, gain,
converter, and driver.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.air.amplifier import apply_rapp
from sdr.air.delay_line import LEAD_SAMPLES, TDL_NAMES, FadingTruth, apply_moving_taps, apply_tdl
from sdr.air.impairments import (
    Bursts,
    Jamming,
    PhaseNoise,
    apply_awgn,
    apply_block_fading,
    apply_cfo,
    apply_dc,
    apply_delay,
    apply_gain_step,
    apply_iq_imbalance,
    apply_phase,
    apply_sfo,
    check_samples,
    drop_samples,
    exponential_pdp,
    noise_var_for_csnr,
    quantise,
)
from sdr.errors import InputError
from sdr.layout import FrameLayout
from sdr.options import Reader, finite, option_readers, parse_options

_PER_ANTENNA = ("antenna_image_rejection_db", "antenna_dc", "antenna_gain_db")
_LIMITS: dict[str, tuple[float, float]] = {
    "pa_saturation": (0, 1e6),
    "pa_smoothness": (0.1, 50),
    "lo_leakage": (0, 1e6),
    "delay_samples": (0, 1e9),
    "taps": (0, 4096),
    "decay": (1e-3, 1e6),
    "block_samples": (0, 1 << 62),
    "delay_spread_s": (0, 1e-4),
    "doppler_hz": (0, 1e3),
    "offset_ppm": (-1000, 1000),
    "center_hz": (0, 1e12),
    "cfo_hz": (-1e9, 1e9),
    "phase_noise_deg": (0, 360),
    "phase_noise_hz": (1e-3, 1e5),
    "burst_power": (0, 1e12),
    "burst_samples": (1, 1 << 31),
    "burst_duty": (0, 1),
    "burst_every_samples": (0, 1 << 62),
    "burst_first_sample": (0, 1 << 62),
    "jam_power": (0, 1e12),
    "jam_width_hz": (0, 1e9),
    "tone": (0, 1e6),
    "tone_hz": (-1e9, 1e9),
    "noise_var": (0, 1e30),
    "image_rejection_db": (0.1, math.inf),
    "dc": (-1e6, 1e6),
    "gain_db": (-200, 200),
    "gain_step_db": (-200, 200),
    "gain_step_sample": (0, 1 << 62),
    "adc_bits": (0, 24),
    "gap_samples": (0, 1 << 31),
    "num_gaps": (0, 1 << 20),
}


@dataclass(frozen=True)
class Impairments:
    """Settings of the chain; whatever keeps its default is left out.

    Args:
        pa_saturation: magnitude at which a Rapp amplifier saturates (full scale 1), 0 for none.
        pa_smoothness: smoothness of its curve.
        lo_leakage: magnitude of the transmitter's oscillator that leaks through.
        delay_samples: delay, any number >= 0.
        taps: L Rayleigh taps of exponential profile, one sample apart; 0 for none.
        decay: time constant of the profile in samples.
        block_samples: samples after which taps are drawn anew, 0 for never.
        pdp: measured power delay profile (L,), in place of the exponential one; normalised to sum 1.
        tdl: a 3GPP delay line "A", "B" or "C", in place of taps; "" for none. Its first path arrives
            `sdr.air.delay_line.LEAD_SAMPLES` late.
        delay_spread_s: its rms delay spread.
        doppler_hz: largest Doppler shift of the delay line or the taps, which move as Clarke's model says.
        offset_ppm: offset of the transmitter's reference against the receiver's: CFO (times `center_hz`) and SFO
            together.
        center_hz: carrier that `offset_ppm` refers to.
        cfo_hz: further CFO, the sampling clock untouched.
        phase_noise_deg: rms phase noise.
        phase_noise_hz: corner of its spectrum.
        burst_power: linear power per complex sample of bursts of interference.
        burst_samples: length of a burst.
        burst_duty: share of the time that bursts at random places take, 0 for none.
        burst_every_samples: distance of bursts that come regularly, 0 for none.
        burst_first_sample: where the first of those begins.
        jam_power: linear power per complex sample of noise in narrow bands, all together; 0 for none.
        jam_hz: middle of each band.
        jam_width_hz: of each band.
        tone: magnitude of a carrier that is always on.
        tone_hz: its frequency.
        noise_var: linear noise power per complex sample.
        image_rejection_db: of the receiver's mixer, a pure phase error; inf for a balanced one.
        dc: magnitude of the receiver's offset.
        gain_db: receive gain.
        gain_step_db: step of an AGC on top of it.
        gain_step_sample: sample of that step.
        adc_bits: bits per component, 0 for no converter.
        gap_samples: samples that the driver loses each time.
        num_gaps: how often it does.
        antenna_image_rejection_db: of each receiving antenna, in place of `image_rejection_db`, which those beyond
            have.
        antenna_dc: of each, in place of `dc`, likewise.
        antenna_gain_db: of each, in place of `gain_db`, likewise.

    Raises:
        InputError: a value is out of range, or channels exclude another.
    """

    pa_saturation: float = 0.0
    pa_smoothness: float = 2.0
    lo_leakage: float = 0.0
    delay_samples: float = 0.0
    taps: int = 0
    decay: float = 4.0
    block_samples: int = 0
    pdp: tuple[float, ...] = ()
    tdl: str = ""
    delay_spread_s: float = 100e-9
    doppler_hz: float = 0.0
    offset_ppm: float = 0.0
    center_hz: float = 2.4e9
    cfo_hz: float = 0.0
    phase_noise_deg: float = 0.0
    phase_noise_hz: float = 1000.0
    burst_power: float = 0.0
    burst_samples: int = 100
    burst_duty: float = 0.0
    burst_every_samples: int = 0
    burst_first_sample: int = 0
    jam_power: float = 0.0
    jam_hz: tuple[float, ...] = ()
    jam_width_hz: float = 10e3
    tone: float = 0.0
    tone_hz: float = 0.0
    noise_var: float = 0.0
    image_rejection_db: float = math.inf
    dc: float = 0.0
    gain_db: float = 0.0
    gain_step_db: float = 0.0
    gain_step_sample: int = 0
    adc_bits: int = 0
    gap_samples: int = 0
    num_gaps: int = 0
    antenna_image_rejection_db: tuple[float, ...] = ()
    antenna_dc: tuple[float, ...] = ()
    antenna_gain_db: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, (low, high) in _LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"impairment {name} must be a number, found {value!r:.60}")
            if not low <= value <= high:  # NaN fails this too
                raise InputError(f"impairment {name} = {value!r:.40} is outside {low:g}..{high:g}")
        if self.tdl and self.tdl not in TDL_NAMES:
            raise InputError(f"impairment tdl must be one of {', '.join(TDL_NAMES)}, found {self.tdl!r:.20}")
        if bool(self.tdl) + bool(self.taps) + bool(self.pdp) > 1:
            raise InputError(
                "an exponential profile (taps), a measured one (pdp) and a delay line (tdl) exclude another"
            )
        if self.pdp and not (len(self.pdp) <= 4096 and min(self.pdp) >= 0 and 0 < sum(self.pdp) < math.inf):
            raise InputError("a measured delay profile needs 1..4096 powers >= 0 with a positive sum")
        if self.burst_every_samples and self.burst_duty:
            raise InputError("bursts come at random (burst_duty) or regularly (burst_every_samples); give one of them")
        if bool(self.jam_power) != bool(self.jam_hz):
            raise InputError("jamming needs jam_power and jam_hz, the middle of its bands, as in jam_hz=-100e3:20e3")
        if self.block_samples and not self.num_taps:
            raise InputError("block_samples redraws the taps, but there are none; give taps=8 or pdp=.. as well")
        if self.doppler_hz and not (self.tdl or self.num_taps):
            raise InputError("doppler_hz moves the channel, but there is none; give taps=8, pdp=.. or tdl=A as well")
        if self.doppler_hz and self.block_samples:
            raise InputError("taps move (doppler_hz) or are drawn anew (block_samples); give one of them")
        for antenna in range(max(len(getattr(self, name)) for name in _PER_ANTENNA)):
            self.at_antenna(antenna)  # whose values are checked there

    def at_antenna(self, antenna: int) -> "Impairments":
        """Return the chain of one antenna, 0 for the first; itself where all are alike.

        >>> Impairments(antenna_dc=(0.01, 0.02)).at_antenna(1).dc
        0.02
        """
        own = {name: getattr(self, name) for name in _PER_ANTENNA}
        if not any(own.values()):
            return self
        scalars = {
            name.removeprefix("antenna_"): values[antenna] for name, values in own.items() if antenna < len(values)
        }
        return replace(self, **scalars, **dict.fromkeys(own, ()))

    @property
    def total_cfo_hz(self) -> float:
        """CFO of both causes."""
        return self.cfo_hz + self.offset_ppm * 1e-6 * self.center_hz

    @property
    def mixer_phase_deg(self) -> float:
        """Phase error of the receiver's mixer that leaves the image at `image_rejection_db`."""
        return math.degrees(2 * math.atan(10.0 ** (-self.image_rejection_db / 20.0)))

    @property
    def num_taps(self) -> int:
        """Drawn taps, one sample apart; 0 for none, or a delay line."""
        return self.taps or len(self.pdp)

    @property
    def tap_powers(self) -> NDArray[np.float64]:
        """(num_taps,) power delay profile of drawn taps, sum 1."""
        return exponential_pdp(self.taps, self.decay) if self.taps else np.array(self.pdp) / sum(self.pdp)

    @property
    def moving_taps(self) -> bool:
        """Whether drawn taps move."""
        return bool(self.doppler_hz and self.num_taps)

    @property
    def is_plain(self) -> bool:
        """Whether a channel is nothing but drawn taps, moving or not, a CFO, a delay of whole samples and a gain."""
        moving = self.tdl or self.offset_ppm or self.phase_noise_deg
        return not (moving or self.num_gaps or self.gain_step_db or self.delay_samples % 1)

    @property
    def has_bursts(self) -> bool:
        """Whether there are bursts of interference."""
        return bool(self.burst_duty or self.burst_every_samples)

    def make_bursts(self, rng: np.random.Generator) -> Bursts:
        """Return the bursts of interference, to be added to samples."""
        places = self.burst_duty, rng, self.burst_every_samples, self.burst_first_sample
        return Bursts(self.burst_power, self.burst_samples, *places)

    def make_jamming(self, rate_sps: float, rng: np.random.Generator) -> Jamming:
        """Return the noise in narrow bands, to be added to samples."""
        return Jamming(self.jam_power, self.jam_hz, self.jam_width_hz, rate_sps, rng)

    def options(self) -> dict[str, str]:
        """Return what differs from the defaults, as `parse_impairments` reads it."""
        changed = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = {name: value for name, value in changed.items() if value != getattr(Impairments, name)}
        return {name: ":".join(map(repr, v)) if isinstance(v, tuple) else str(v) for name, v in changed.items()}

    @property
    def lead_samples(self) -> float:
        """Samples by which the first path arrives late."""
        return self.delay_samples + (LEAD_SAMPLES if self.tdl else 0)

    def apply(
        self,
        samples: NDArray[np.complex64],
        rate_sps: float,
        rng: np.random.Generator,
        phase: NDArray[np.float64] | None = None,
        antenna: int = 0,
    ) -> "Impaired":
        """Run the chain over complex64 (n,) samples.

        The output is a few samples longer where something is delayed, and shorter where some are lost.

        Args:
            samples: as sent.
            rate_sps: sampling rate.
            rng: of all that is drawn.
            phase: phase noise, radians, of an antenna that shares the oscillators of another; None: it is drawn.
            antenna: whose front end the samples go through; 0 is the first.
        """
        if (own := self.at_antenna(antenna)) is not self:
            return own.apply(samples, rate_sps, rng, phase)
        check_samples(samples)
        truth: dict[str, Any] = {}
        if self.pa_saturation:
            samples = apply_rapp(samples, self.pa_saturation, self.pa_smoothness)
        if self.lo_leakage:
            samples = apply_dc(samples, self.lo_leakage)
        if self.delay_samples:
            samples = apply_delay(samples, self.delay_samples)
        if self.moving_taps:
            samples, truth["fading"] = apply_moving_taps(samples, self.tap_powers, self.doppler_hz, rate_sps, rng)
        elif self.num_taps:
            block = self.block_samples or samples.size + self.num_taps
            samples, drawn = apply_block_fading(samples, block, self.tap_powers, rng)
            truth["fading"] = FadingTruth(block, drawn.astype(np.complex128))
        elif self.tdl:
            samples, truth["fading"] = apply_tdl(samples, self.tdl, self.delay_spread_s, self.doppler_hz, rate_sps, rng)
        if self.offset_ppm:
            samples = apply_sfo(samples, self.offset_ppm)
        if self.total_cfo_hz:
            samples = apply_cfo(samples, self.total_cfo_hz, rate_sps)
        if self.phase_noise_deg:
            if phase is None:
                phase = PhaseNoise(self.phase_noise_deg, self.phase_noise_hz, rate_sps, rng).draw(samples.size)
            samples, truth["phase"] = apply_phase(samples, phase), phase
        if self.tone:
            carrier = np.full(samples.size, self.tone, dtype=np.complex64)
            samples = samples + apply_cfo(carrier, self.tone_hz, rate_sps)
        if self.has_bursts:
            samples, truth["bursts"] = self.make_bursts(rng).add(samples)
        if self.jam_power:
            samples = self.make_jamming(rate_sps, rng).add(samples)
        samples = apply_awgn(samples, self.noise_var, rng)
        if math.isfinite(self.image_rejection_db):
            samples = apply_iq_imbalance(samples, 0.0, self.mixer_phase_deg)
        if self.gain_db:
            samples = (samples * np.float32(10.0 ** (self.gain_db / 20.0))).astype(np.complex64)
        if self.dc:
            samples = apply_dc(samples, self.dc)
        if self.gain_step_db:
            samples = apply_gain_step(samples, self.gain_step_sample, self.gain_step_db)
        if self.adc_bits:
            samples = quantise(samples, self.adc_bits)
        if self.num_gaps and self.gap_samples:
            samples, truth["gaps"] = drop_samples(samples, self.gap_samples, self.num_gaps, rng)
        return Impaired(samples, **truth)


@dataclass(frozen=True, eq=False)
class Impaired:
    """The output of a chain, and what was drawn on the way, for scoring.

    Attributes:
        samples: complex64 (n,).
        fading: the channel's taps over time, None without one (blocks of `block_samples` for drawn taps).
        phase: (n,) radians of phase noise, None without.
        bursts: (b,) first samples of interference.
        gaps: (g,) first samples lost, counted before any loss.
    """

    samples: NDArray[np.complex64]
    fading: FadingTruth | None = None
    phase: NDArray[np.float64] | None = None
    bursts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


IMPAIRMENT_OPTIONS: dict[str, Reader] = {**option_readers(Impairments), "csnr_db": finite, "seed": int}
"""Options of `parse_impairments` and how each is read."""


def parse_impairments(text: str, layout: FrameLayout, **defaults: Any) -> tuple[Impairments, int]:
    """Return the chain and the seed of a string such as "tdl=A,doppler_hz=5,offset_ppm=10,csnr_db=10,seed=1".

    Its options are the fields of `Impairments` (a measured profile as pdp=1:0.5:0.1), `csnr_db` in place of
    `noise_var`, and `seed`.

    Args:
        text: the string.
        layout: layout whose power per carrier `csnr_db` refers to.
        defaults: options that hold where the string does not name them. Default taps give way to another channel.

    Raises:
        InputError: an option is wrong, or they contradict each other.

    >>> from sdr.layout import load_layout
    >>> chain, seed = parse_impairments("tdl=A,doppler_hz=5", load_layout("air"), taps=8, seed=3)
    >>> chain.tdl, chain.taps, seed
    ('A', 0, 3)
    """
    given = parse_options(text, IMPAIRMENT_OPTIONS, "impairments:")
    if "csnr_db" in given and "noise_var" in given:
        raise InputError("impairments: csnr_db and noise_var say the same; give one of them")
    if ("tdl" in given or "pdp" in given) and "taps" not in given:
        defaults = {key: value for key, value in defaults.items() if key != "taps"}
    if "tdl" in given or "doppler_hz" in given:
        defaults.pop("block_samples", None)
    if "noise_var" in given:
        defaults.pop("csnr_db", None)
    options = {**defaults, **given}
    seed, csnr_db = options.pop("seed", 0), options.pop("csnr_db", None)
    if seed < 0:
        raise InputError(f"impairments: seed must be >= 0, found {seed}")
    if csnr_db is not None:
        if not abs(csnr_db) <= 200:
            raise InputError(f"impairments: csnr_db must be within +-200 dB, found {csnr_db}")
        options["noise_var"] = noise_var_for_csnr(layout, csnr_db)
    return Impairments(**options), seed
