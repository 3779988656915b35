"""Judge a capture: levels of each antenna, and what drivers report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RecordingError

FLOOR_DBFS = -200.0
"""Levels are not reported below this, so that silence stays a number."""

CLIP_LEVEL = 0.999
"""A component at or above this fraction of full scale counts as clipped."""

_LEVELS = ("rms_dbfs", "peak_dbfs", "dc_dbfs", "clipped_fraction")
REPORTED = ("overflows", "gain_step_db", "stale", "transmit_gaps")
"""Fields of `RecordingHealth` that only the driver knows."""

_CHUNK_SAMPLES = 1 << 20


def _dbfs(power: float) -> float:
    return max(FLOOR_DBFS, 10.0 * math.log10(power)) if power > 0 else FLOOR_DBFS


@dataclass(frozen=True)
class RecordingHealth:
    """Levels of a capture, and what went wrong with it.

    Args:
        rms_dbfs: mean power, full scale 1.
        peak_dbfs: largest magnitude.
        dc_dbfs: power of the mean sample.
        clipped_fraction: share of samples with a component at full scale, 0..1.
        overflows: gaps in the stream that the driver reported.
        gain_step_db: gain after the capture minus gain before it.
        stale: the samples may be older than the last change of settings.
        transmit_gaps: gaps in what this same radio was transmitting meanwhile.
        antennas: levels of each antenna where there are several; the levels of all are the worst then, see
            `worst_health`.
    """

    rms_dbfs: float
    peak_dbfs: float
    dc_dbfs: float
    clipped_fraction: float
    overflows: int = 0
    gain_step_db: float = 0.0
    stale: bool = False
    transmit_gaps: int = 0
    antennas: tuple["RecordingHealth", ...] = ()

    def __post_init__(self) -> None:
        for name in ("rms_dbfs", "peak_dbfs", "dc_dbfs", "clipped_fraction", "gain_step_db"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e6:
                raise RecordingError(f"health field {name} must be a finite number, found {value!r:.60}")
            object.__setattr__(self, name, float(value))
        if not 0.0 <= self.clipped_fraction <= 1.0:
            raise RecordingError(f"health field clipped_fraction must be in 0..1, found {self.clipped_fraction}")
        for name in ("overflows", "transmit_gaps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RecordingError(f"health field {name} must be a count, found {value!r:.60}")
        if not isinstance(self.stale, bool):
            raise RecordingError(f"health field stale must be true or false, found {self.stale!r:.60}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user, one line each; empty for a healthy capture. Antennas are numbered from 0."""
        found = []
        each = [(f"antenna {number}: ", levels) for number, levels in enumerate(self.antennas)] or [("", self)]
        if self.overflows:
            found.append(f"{self.overflows} overflows: samples are missing; lower the rate")
        for antenna, levels in each:
            if levels.clipped_fraction > 1e-4:
                share = f"{100 * levels.clipped_fraction:.2g} %"
                found.append(f"{antenna}{share} of the samples are clipped; lower the receive gain")
        if abs(self.gain_step_db) > 0.1:
            found.append(f"the gain moved by {self.gain_step_db:+.1f} dB during the capture; set it by hand")
        for antenna, levels in each:
            if levels.rms_dbfs < -80.0:
                found.append(f"{antenna}the level is only {levels.rms_dbfs:.0f} dBFS; raise the receive gain")
        for antenna, levels in each:
            if levels.dc_dbfs > levels.rms_dbfs - 3.0 and levels.rms_dbfs > FLOOR_DBFS:
                found.append(
                    f"{antenna}more than half of the power is DC; null the DC carrier or offset the oscillator"
                )
        if self.stale:
            found.append("the samples may be older than the last change of settings; capture again")
        if self.transmit_gaps:
            found.append(f"the radio's own transmission had {self.transmit_gaps} gaps meanwhile; lower the rate")
        return tuple(found)

    def levels(self) -> dict[str, Any]:
        """Return the levels by name."""
        return {name: getattr(self, name) for name in _LEVELS}

    def reports(self) -> dict[str, Any]:
        """Return what the driver reported by name."""
        return {name: getattr(self, name) for name in REPORTED}

    def row(self) -> dict[str, Any]:
        """Return the health as metadata hold it."""
        antennas = {"antennas": [each.levels() for each in self.antennas]} if self.antennas else {}
        return {**self.levels(), **self.reports(), **antennas}


def measure_health(
    samples: NDArray[np.complex64],
    overflows: int = 0,
    gain_step_db: float = 0.0,
    stale: bool = False,
    transmit_gaps: int = 0,
) -> RecordingHealth:
    """Measure the health of (n,) samples.

    Args:
        samples: complex64 (n,).
        overflows: as the driver reports it, like what follows.
        gain_step_db: see `RecordingHealth`.
        stale: see `RecordingHealth`.
        transmit_gaps: see `RecordingHealth`.

    >>> measure_health(np.full(10, 0.5, np.complex64)).rms_dbfs
    -6.0205999...
    """
    power, mean, peak, clipped = 0.0, 0.0 + 0.0j, 0.0, 0
    for first in range(0, samples.size, _CHUNK_SAMPLES):
        chunk = samples[first : first + _CHUNK_SAMPLES]
        squares = np.square(chunk.real, dtype=np.float64) + np.square(chunk.imag, dtype=np.float64)
        power += float(squares.sum())
        peak = max(peak, float(squares.max()))
        mean += complex(chunk.sum(dtype=np.complex128))
        clipped += int(np.count_nonzero((np.abs(chunk.real) >= CLIP_LEVEL) | (np.abs(chunk.imag) >= CLIP_LEVEL)))
    count = max(1, samples.size)
    return RecordingHealth(
        rms_dbfs=_dbfs(power / count),
        peak_dbfs=_dbfs(peak),
        dc_dbfs=_dbfs(abs(mean / count) ** 2),
        clipped_fraction=clipped / count,
        overflows=overflows,
        gain_step_db=gain_step_db,
        stale=stale,
        transmit_gaps=transmit_gaps,
    )


def worst_health(antennas: Sequence[RecordingHealth]) -> RecordingHealth:
    """Return the health of a recording of one antenna or more.

    Of several, mean power and DC are those of the quietest, peak and clipping the largest; what the driver reported is
    the first one's, as antennas of one receiver share it.
    """
    if len(antennas) == 1:
        return antennas[0]
    return replace(
        min(antennas, key=lambda each: each.rms_dbfs),
        peak_dbfs=max(each.peak_dbfs for each in antennas),
        clipped_fraction=max(each.clipped_fraction for each in antennas),
        **antennas[0].reports(),
        antennas=tuple(RecordingHealth(**each.levels()) for each in antennas),
    )


class _Sums:
    """Levels of one antenna, gathered block by block."""

    def __init__(self) -> None:
        self._count, self._power, self._mean, self._peak, self._clipped = 0, 0.0, 0.0 + 0.0j, 0.0, 0

    def add(self, samples: NDArray[np.complex64], levels: RecordingHealth) -> None:
        self._count += samples.size
        self._power += samples.size * 10.0 ** (levels.rms_dbfs / 10.0)
        self._peak = max(self._peak, 10.0 ** (levels.peak_dbfs / 10.0))
        self._mean += complex(samples.sum(dtype=np.complex128))
        self._clipped += round(levels.clipped_fraction * samples.size)

    def levels(self) -> RecordingHealth:
        return RecordingHealth(
            rms_dbfs=_dbfs(self._power / self._count),
            peak_dbfs=_dbfs(self._peak),
            dc_dbfs=_dbfs(abs(self._mean / self._count) ** 2),
            clipped_fraction=self._clipped / self._count,
        )


class BlockHealth:
    """Health of a capture that comes in blocks.

    Attributes:
        num_samples: samples of the blocks so far, of each antenna.
    """

    def __init__(self) -> None:
        self.num_samples = 0
        self._sums: list[_Sums] = []
        self._blocks: list[RecordingHealth] = []

    def add(self, samples: Sequence[NDArray[np.complex64]], health: RecordingHealth) -> None:
        """Take the next block, (n,) samples of each antenna, and its own health.

        Raises:
            RecordingError: the block is of another number of antennas than those before it.
        """
        self._sums = self._sums or [_Sums() for _ in samples]
        if len(samples) != len(self._sums):
            raise RecordingError(
                f"a block has {len(samples)} antennas, those before it {len(self._sums)}; a capture has the same "
                "throughout"
            )
        self.num_samples += samples[0].size
        for sums, own, levels in zip(self._sums, samples, health.antennas or (health,), strict=True):
            sums.add(own, levels)
        self._blocks.append(health)

    def health(self) -> RecordingHealth:
        """Return the health of all blocks together."""
        if len(self._blocks) == 1:
            return self._blocks[0]
        return replace(
            worst_health([sums.levels() for sums in self._sums]),
            overflows=sum(block.overflows for block in self._blocks),
            gain_step_db=max((block.gain_step_db for block in self._blocks), key=abs),
            stale=any(block.stale for block in self._blocks),
            transmit_gaps=sum(block.transmit_gaps for block in self._blocks),
        )
