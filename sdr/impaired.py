"""Everything between a transmitter's samples and a recording, as one seeded chain.

The order is the physical one: amplifier and leaking oscillator of the transmitter; multipath; the two oscillators'
difference (carrier, sampling clock, phase noise); interference and noise; the receiver's mixer, offset, gain,
converter, and driver.
"""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.channel_models import LEAD_SAMPLES, TDL_NAMES, FadingTruth, apply_tdl
from sdr.errors import InputError
from sdr.impairments import (
    apply_awgn,
    apply_block_fading,
    apply_bursts,
    apply_cfo,
    apply_clock_offset,
    apply_dc,
    apply_delay,
    apply_gain_step,
    apply_iq_imbalance,
    apply_phase,
    apply_rapp,
    check_samples,
    draw_phase_noise,
    drop_samples,
    exponential_pdp,
    quantise,
)


@dataclass(frozen=True)
class Impairments:
    """Settings of the chain; whatever keeps its default is left out.

    Args:
        pa_saturation, pa_smoothness: Rapp amplifier; saturation as a magnitude (full scale 1), 0 for none.
        lo_leakage: magnitude of the transmitter's oscillator that leaks through.
        delay_samples: any number >= 0.
        taps, decay, block_samples: Rayleigh taps of exponential profile, drawn anew every `block_samples`, 0 for once.
        pdp: measured power delay profile (L,), in place of the exponential one; normalised to sum 1.
        tdl, delay_spread_s, doppler_hz: a 3GPP delay line "A", "B" or "C", in place of taps; "" for none. Its first
            path arrives `sdr.channel_models.LEAD_SAMPLES` late.
        offset_ppm, center_hz: offset of the transmitter's reference against the receiver's: carrier (times
            `center_hz`) and sampling clock together.
        cfo_hz: further carrier offset, the sampling clock untouched.
        phase_noise_deg, phase_noise_hz: rms phase and corner of its spectrum.
        burst_power, burst_samples, burst_duty: interference.
        noise_var: linear power per complex sample.
        tone, tone_hz: magnitude and frequency of a carrier that is always on.
        image_rejection_db: of the receiver's mixer, a pure phase error; inf for a balanced one.
        dc: magnitude of the receiver's offset.
        gain_db: receive gain. gain_step_db, gain_step_sample: an AGC's step on top of it.
        adc_bits: bits per component, 0 for no converter.
        gap_samples, num_gaps: samples that the driver loses.
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

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name in ("tdl", "pdp"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise InputError(f"impairment {item.name} must be a number, found {value!r:.60}")
            if item.name != "image_rejection_db" and math.isinf(value):
                raise InputError(f"impairment {item.name} must be finite, found {value}")
        if self.tdl and self.tdl not in TDL_NAMES:
            raise InputError(f"impairment tdl must be one of {', '.join(TDL_NAMES)}, found {self.tdl!r:.20}")
        if bool(self.tdl) + bool(self.taps) + bool(self.pdp) > 1:
            raise InputError(
                "an exponential profile (taps), a measured one (pdp) and a delay line (tdl) exclude another"
            )
        if self.pdp and not (min(self.pdp) >= 0 and 0 < sum(self.pdp) < math.inf):
            raise InputError("a measured delay profile needs powers >= 0 with a positive sum")
        if self.image_rejection_db <= 0:
            raise InputError(f"image_rejection_db must be > 0, found {self.image_rejection_db}")

    @property
    def total_cfo_hz(self) -> float:
        """Carrier offset of both causes."""
        return self.cfo_hz + self.offset_ppm * 1e-6 * self.center_hz

    @property
    def lead_samples(self) -> float:
        """Samples by which the first path arrives late."""
        return self.delay_samples + (LEAD_SAMPLES if self.tdl else 0)

    def apply(self, samples: NDArray[np.complex64], rate_sps: float, rng: np.random.Generator) -> "Impaired":
        """Run the chain. The output is a few samples longer where something is delayed, shorter where some are lost."""
        check_samples(samples)
        truth: dict[str, Any] = {}
        if self.pa_saturation:
            samples = apply_rapp(samples, self.pa_saturation, self.pa_smoothness)
        if self.lo_leakage:
            samples = apply_dc(samples, self.lo_leakage)
        if self.delay_samples:
            samples = apply_delay(samples, self.delay_samples)
        if self.taps or self.pdp:
            pdp = exponential_pdp(self.taps, self.decay) if self.taps else np.array(self.pdp) / sum(self.pdp)
            block = self.block_samples or samples.size + len(pdp)
            samples, drawn = apply_block_fading(samples, block, pdp, rng)
            truth["fading"] = FadingTruth(block, drawn.astype(np.complex128))
        elif self.tdl:
            samples, truth["fading"] = apply_tdl(samples, self.tdl, self.delay_spread_s, self.doppler_hz, rate_sps, rng)
        if self.offset_ppm:
            samples = apply_clock_offset(samples, self.offset_ppm)
        if self.total_cfo_hz:
            samples = apply_cfo(samples, self.total_cfo_hz, rate_sps)
        if self.phase_noise_deg:
            phase = draw_phase_noise(samples.size, self.phase_noise_deg, self.phase_noise_hz, rate_sps, rng)
            samples, truth["phase"] = apply_phase(samples, phase), phase
        if self.tone:
            carrier = np.full(samples.size, self.tone, dtype=np.complex64)
            samples = samples + apply_cfo(carrier, self.tone_hz, rate_sps)
        if self.burst_duty:
            samples, truth["bursts"] = apply_bursts(samples, self.burst_power, self.burst_samples, self.burst_duty, rng)
        samples = apply_awgn(samples, self.noise_var, rng)
        if math.isfinite(self.image_rejection_db):
            phase_deg = math.degrees(2 * math.atan(10.0 ** (-self.image_rejection_db / 20.0)))
            samples = apply_iq_imbalance(samples, 0.0, phase_deg)
        if self.gain_db:
            samples = (samples * np.float32(10.0 ** (self.gain_db / 20.0))).astype(np.complex64)
        if self.dc:
            samples = apply_dc(samples, self.dc)
        if self.gain_step_db:
            samples = apply_gain_step(samples, self.gain_step_sample, self.gain_step_db)
        if self.adc_bits:
            samples = quantise(samples, self.adc_bits)
        if self.num_gaps:
            samples, truth["gaps"] = drop_samples(samples, self.gap_samples, self.num_gaps, rng)
        return Impaired(samples, **truth)


@dataclass(frozen=True, eq=False)
class Impaired:
    """What came out of a chain, and what was drawn on the way, for scoring.

    Attributes:
        samples: complex64 (n,).
        fading: the channel's taps over time, None without one (blocks of `block_samples` for drawn taps).
        phase: (n,) radians of phase noise, None without.
        bursts: first samples of interference. gaps: first samples lost, counted before any loss.
    """

    samples: NDArray[np.complex64]
    fading: FadingTruth | None = None
    phase: NDArray[np.float64] | None = None
    bursts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    gaps: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
