"""Say what was seen in samples in which no frame could be read, and what would help.

This is for a message alone and only runs where there is nothing to decode: the samples are searched again as their
conjugate and over all carrier offsets, and looked at for energy and for the repetition of cyclic prefixes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from receiver.sync.absence import FramePlace
from receiver.sync.arrays import fft, ifft, squared_magnitude
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import stream_frames
from sdr.layout import FrameLayout

_MOST_SAMPLES = 1 << 21
"""Samples that are looked at, from the first on."""

_LAG_SIGMAS = 8.0
"""Least autocorrelation over its rms in white noise that counts as a repetition."""

_BURST_RATIO = 4.0
"""Power of a stretch over that of the quietest tenth that counts as a signal."""


def describe_failure(
    samples: NDArray[np.complex64],
    layout: FrameLayout,
    found: Sequence[SyncedFrame],
    cut: Sequence[FramePlace],
    *,
    max_cfo_hz: float,
    swapped: bool,
) -> str:
    """Return one or two sentences: what was seen, and what to do.

    Args:
        samples: (n,) as they were searched.
        layout: of the frames looked for.
        found: frames without a readable header, if any.
        cut: frames that the end cuts off.
        max_cfo_hz: carrier offsets that were searched.
        swapped: whether I and Q were swapped before the search.
    """
    samples = samples[:_MOST_SAMPLES]
    text = _with_other_options(samples, layout, max_cfo_hz, swapped)
    if text:
        return text
    if cut and not found:
        first = cut[0]
        return (
            f"A frame of layout {layout.name} begins at {first.start_sample} and is cut off at the end. Record longer."
        )
    if found:
        seen = f"{_counted(found)} of layout {layout.name} found"
        first = found[0]
        where = f"the first at {first.start + first.advance}, {first.snr_db:.1f} dB, {round(first.cfo_hz):+d} Hz off"
        return (
            f"{seen} ({where}), but no header could be read. Check that the layout is the transmitter's and the rate "
            "true, or raise the SNR."
        )
    return _without_preamble(samples, layout)


def _with_other_options(samples: NDArray[np.complex64], layout: FrameLayout, max_cfo_hz: float, swapped: bool) -> str:
    """Search with I and Q swapped and for all carrier offsets; return what came of it, empty if nothing did."""
    everything_hz = layout.rate_sps / 2
    for mirrored in (False, True):
        looked = samples.conj() if mirrored else samples
        cut: list[FramePlace] = []
        frames = list(stream_frames([looked], layout, max_cfo_hz=everything_hz, on_cut=cut.append))
        read = [frame for frame in frames if frame.header is not None]
        if not read:
            continue
        offset_hz = read[0].cfo_hz
        remedies = []
        if mirrored:
            remedies.append("leave --swap-iq out" if swapped else "add --swap-iq")
        if abs(offset_hz) > max_cfo_hz:
            wanted_hz = min(1e3 * math.ceil(1.1e-3 * abs(offset_hz)), everything_hz)
            remedies.append(f"add --max-cfo-hz {wanted_hz:.0f}")
        if not remedies:
            continue
        mirror = "with a mirrored spectrum (I and Q swapped) " if mirrored else ""
        beyond = f", beyond the {max_cfo_hz:.0f} Hz searched" if abs(offset_hz) > max_cfo_hz else ""
        return (
            f"{_counted(read)} of layout {layout.name} can be read {mirror}at a carrier offset of "
            f"{round(offset_hz):+d} Hz{beyond}: {' and '.join(remedies)}."
        )
    return ""


def _counted(frames: Sequence[SyncedFrame]) -> str:
    return f"{len(frames)} frame{'s' if len(frames) > 1 else ''}"


def _without_preamble(samples: NDArray[np.complex64], layout: FrameLayout) -> str:
    seen = f"No preamble of layout {layout.name} was found"
    if bool((samples == samples[0]).all()):
        what = "zero" if samples[0] == 0 else "the same"
        return f"{seen}: every sample is {what}. Check that the radio is connected and receives."
    ratio = rate_ratio(samples, layout)
    if ratio is not None and abs(ratio - 1) > 1.5 / layout.fft_size:
        return (
            f"{seen}, but the signal repeats as cyclic prefixes do at {ratio:.3g} times this layout's symbol: it was "
            f"sampled at about {ratio * layout.rate_sps:.4g} per second instead of {layout.rate_sps:.4g}, or the "
            "layout is another one. State the rate or resample."
        )
    if ratio is not None:
        return (
            f"{seen}, but cyclic prefixes of its length: the recording may begin within the frame. Begin to record "
            "earlier, and longer."
        )
    power = _stretches(samples, layout.symbol_samples)
    level_dbfs = 10 * math.log10(max(float(power.mean()), 1e-300))
    floor = float(np.quantile(power, 0.1))
    loud = np.flatnonzero(power > _BURST_RATIO * floor)
    if floor >= 0 and 0 < loud.size < power.size:
        low, high = int(loud[0]) * layout.symbol_samples, (int(loud[-1]) + 1) * layout.symbol_samples
        above_db = 10 * math.log10(float(power.max()) / floor) if floor > 0 else math.inf
        return (
            f"{seen}, though something {above_db:.0f} dB above the rest lies at samples {low}..{high}. Check the "
            "layout and the rate."
        )
    return (
        f"{seen}, and no burst of energy: the level is {level_dbfs:.0f} dB of full scale throughout. Check the "
        "transmitter, the carrier, the gain and the layout; if all of it is one frame, begin to record earlier."
    )


def _stretches(samples: NDArray[np.complex64], width: int) -> NDArray[np.float64]:
    """Return the mean power of stretches of `width` samples."""
    width = min(width, samples.size)
    whole = samples[: samples.size // width * width].astype(np.complex128)
    return squared_magnitude(whole).reshape(-1, width).mean(axis=1)


def rate_ratio(samples: NDArray[np.complex64], layout: FrameLayout) -> float | None:
    """Return the rate that samples were taken at over the layout's, as their repetitions tell; None where none shows.

    The strongest repetition within a quarter and four times the symbol length is taken for that of the cyclic prefixes.
    It is true to half a sample of the lag.
    """
    low, high = layout.fft_size // 4, 4 * layout.fft_size
    if samples.size < 2 * high:
        return None
    found = _autocorrelation(samples, high)
    lag = low + int(np.argmax(found[low:]))
    if found[lag] * math.sqrt(samples.size) < _LAG_SIGMAS:
        return None
    return _refined(found, lag) / layout.fft_size


def _autocorrelation(samples: NDArray[np.complex64], lags: int) -> NDArray[np.float64]:
    """Return the magnitude of the normalised autocorrelation at 0 .. lags - 1, in stretches so that offsets cancel."""
    centred = samples - samples.mean()
    spectrum = squared_magnitude(fft(centred.astype(np.complex128), n=2 * samples.size))
    values = np.abs(ifft(spectrum)[:lags])
    return values / max(float(values[0]), np.finfo(np.float64).tiny)


def _refined(values: NDArray[np.float64], peak: int) -> float:
    """Return the place of a peak to a fraction of a sample, by the parabola through it."""
    if not 0 < peak < values.size - 1:
        return float(peak)
    left, top, right = values[peak - 1 : peak + 2]
    bend = left - 2 * top + right
    return peak + (0.5 * (left - right) / bend if bend < 0 else 0.0)
