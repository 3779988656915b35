"""The capacity line: an image codec at the rate of an ideal channel code, which no method reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from lab.evaluation.statistics import mean_and_error
from lab.experiments.plan import Condition
from receiver.separation.chain import to_pixels
from receiver.separation.sources import SOURCES
from receiver.separation.sources.source import TooLargeError, fill, unpack
from sdr.air.impairments import exponential_pdp
from sdr.errors import ConfigError
from sdr.progress import Progress, silent

#: Channels drawn for the mean capacity of fading.
_CHANNELS = 4000


@dataclass(frozen=True)
class CapacityPoint:
    """The line at one condition.

    Attributes:
        condition: its name.
        csnr_db: channel SNR, dB.
        bits_per_symbol: capacity; over fading the mean over channels, as if a code saw all of them.
        n: images that fit.
        psnr_db: their mean PSNR, dB; None where none fits.
        psnr_se_db: its standard error; None where fewer than two fit.
    """

    condition: str
    csnr_db: float
    bits_per_symbol: float
    n: int
    psnr_db: float | None
    psnr_se_db: float | None

    def row(self) -> dict[str, object]:
        """Return the point as sweep.json keeps it under `capacity`."""
        return asdict(self)


def capacity_line(
    source_name: str,
    conditions: Sequence[Condition],
    originals: Mapping[str, Tensor],
    num_symbols: int,
    progress: Progress = silent,
) -> tuple[CapacityPoint, ...]:
    """Return the PSNR of an image codec that fills the capacity of each condition's channel.

    Args:
        source_name: key of `SOURCES`.
        conditions: white noise, or fading by `taps`.
        originals: (C, H, W) each by id.
        num_symbols: K of an image.
        progress: called with the conditions that are done.

    Raises:
        ConfigError: a channel whose capacity is not known here, or a codec that is not installed.
    """
    source = SOURCES[source_name]
    points = []
    for done, condition in enumerate(conditions):
        progress("capacity line", done, len(conditions))
        bits = channel_capacity(condition.channel, condition.csnr_db)
        reached = []
        for image in originals.values():
            pixels = to_pixels(image)
            try:
                packed = fill(source, pixels, int(bits * num_symbols / 8))
            except TooLargeError:
                continue
            error = unpack(source, packed, *pixels.shape[:2]).astype(np.float64) - pixels
            reached.append(-10 * np.log10(max(np.square(error / 255).mean(), 1e-10)))
        mean_db, error_db = mean_and_error(reached)
        points.append(
            CapacityPoint(
                condition.name,
                condition.csnr_db,
                bits,
                len(reached),
                mean_db if reached else None,
                error_db if len(reached) > 1 else None,
            )
        )
    return tuple(points)


def channel_capacity(channel: str, csnr_db: float) -> float:
    """Return the capacity of a symbol in bits, for options of a simulated channel.

    Raises:
        ConfigError: a delay profile, whose capacity is not known here.

    >>> channel_capacity("cfo_hz=300", 0.0)
    1.0
    """
    options = {key: value for key, _, value in (option.partition("=") for option in channel.split(","))}
    if "tdl" in options:
        raise ConfigError("The capacity line is for white noise and taps=; leave capacity out where there is tdl=.")
    snr, taps = 10 ** (csnr_db / 10), int(options.get("taps", "0"))
    if not taps:
        return float(np.log2(1 + snr))
    parts = np.random.default_rng(0).standard_normal((_CHANNELS, taps, 2)) * 0.5**0.5
    profile = exponential_pdp(taps, float(options.get("decay", "4")))
    response = np.fft.fft((parts[..., 0] + 1j * parts[..., 1]) * np.sqrt(profile), n=64)
    return float(np.log2(1 + snr * np.abs(response) ** 2).mean())
