"""The result of synchronisation: a frame with its symbols and all that was measured of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from sdr.errors import ConfigError
from sdr.header import FrameHeader
from sdr.layout import FrameLayout

Complex = NDArray[np.complex128]


@dataclass(frozen=True, eq=False)
class SyncedFrame:
    """A frame found in a recording. Powers are linear, in the recording's scale (full scale 1).

    Attributes:
        grid: complex64 (P + S, N) pilot and data symbols, unitary FFT, bin order, carrier offset removed, raw.
        header: the header, None where its CRC failed.
        start: sample index `advance` before the first path; what tap 0 refers to.
        advance: samples from `start` to the estimated first path.
        cfo_hz: carrier offset removed.
        cfo_std_hz: its standard error.
        metric: half-symbol correlation at the frame, 0..1.
        noise_var: noise power per bin of `grid`.
        noise_var_std: its standard error.
        signal_power: mean power per active carrier without the noise.
        preamble_grid: complex64 (2, N), for diagnosis only.
        header_grid: complex64 (header_symbols, N), for diagnosis only.
        known_taps: complex64 (L,) channel seen by preambles and header, raw scale; for side information,
            diagnosis and scoring only.
        signal_power_std: standard error of `signal_power`.
        arrival_samples: delay of the strongest path behind `start`, to a fraction of a sample.
        sfo_ppm: how much faster the transmitter's sampling clock was measured to be.
        sfo_std_ppm: its standard error, infinite without a header.
        corrected_sfo_ppm: SFO that was corrected in `grid`: the carrier offset over the carrier frequency where the
            measurement agrees, else the measurement if significant, else 0.
        phase_rad: (P + S,) common phase removed from each symbol of `grid`.
        early_samples: (P + S,) by how much each of them was taken to be early by its clock, removed, too.
        phase_jitter_rad: rms phase of the header's symbols about a straight line, the noise's part taken off.
        phase_residual_rad: standard error of the common phase left in a data symbol, root mean square over them;
            infinite without a header.
        timing_residual_samples: the same of its delay.
        error_var: noise and distortion per cell of the header about the channel; NaN without one.
        silence: (N,) noise power per bin of `grid` that silence beside frames shows, for a frame that was found by its
            prefix; None where it was not looked at.
        lost: whether it stands for a frame that was not received: `grid` is 0, the rest is a neighbour's.
        others: the same frame as further antennas received it. Header, start, carrier and clock are one; grids, levels
            and taps are each antenna's own.
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
    sfo_ppm: float = 0.0
    sfo_std_ppm: float = math.inf
    corrected_sfo_ppm: float = 0.0
    phase_rad: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    early_samples: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    phase_jitter_rad: float = 0.0
    phase_residual_rad: float = math.inf
    timing_residual_samples: float = math.inf
    error_var: float = math.nan
    silence: NDArray[np.float64] | None = None
    lost: bool = False
    others: tuple[SyncedFrame, ...] = ()

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
    def antennas(self) -> tuple[SyncedFrame, ...]:
        """The frame as every antenna received it."""
        return (self, *self.others)

    def moved(self, samples: int) -> SyncedFrame:
        """Return the frame of a capture in which it starts so many samples later."""
        return replace(self, start=self.start + samples, others=tuple(other.moved(samples) for other in self.others))

    @property
    def snr_db(self) -> float:
        """Estimated signal-to-noise ratio per active carrier; those of all antennas together."""
        return 10.0 * math.log10(sum(each.signal_power / each.noise_var for each in self.antennas))

    @property
    def snr_std_db(self) -> float:
        """Standard error of `snr_db`."""
        total = sum(each.signal_power / each.noise_var for each in self.antennas)
        relative = [
            each.signal_power / each.noise_var / total * error
            for each in self.antennas
            for error in (each.noise_var_std / each.noise_var, each.signal_power_std / each.signal_power)
        ]
        return 10.0 / math.log(10.0) * math.hypot(*relative)

    @property
    def evm_db(self) -> float:
        """Error vector magnitude of the header's cells; NaN without a header."""
        return 10.0 * math.log10(max(self.error_var, 1e-30) / self.signal_power)

    @property
    def untracked_grid(self) -> Complex:
        """(P + S, N) `grid` with what tracking took out of its symbols put back."""
        grid, size = self.grid.astype(np.complex128), self.grid.shape[1]
        if self.phase_rad.size:
            grid *= np.exp(1j * self.phase_rad[:, None])
        if self.early_samples.size:
            grid *= np.exp(2j * np.pi * np.fft.fftfreq(size) * self.early_samples[:, None])
        return grid

    @property
    def header_ok(self) -> bool:
        return self.header is not None


def timing_advance(layout: FrameLayout) -> int:
    """Return the samples that `start` lies before the estimated first path: a quarter of the prefix, at most 2.

    An estimate that misses a weak first path is late by a sample or two, and fractional delays leak a sample ahead.
    """
    return min(layout.cp_samples // 4, 2)
