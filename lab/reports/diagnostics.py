"""Keep, beside a result, the receiver's signals that a report draws."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lab.evaluation.channel_truth import ChannelTruth, true_response
from lab.reports.figures import SHOWN_FRAMES
from sdr.framing import image_spans, payload_cells
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

if TYPE_CHECKING:
    from receiver.results import DecodeResult


_SPECTRUM_BINS = 512


def spectrum(samples: NDArray[np.complex64], rate_sps: float, bins: int = _SPECTRUM_BINS) -> tuple[NDArray, NDArray]:
    """Averaged periodogram with a Hann window.

    Args:
        samples: (n,) at full scale 1; a recording shorter than `bins` is padded with zeros.
        rate_sps: their rate.

    Returns:
        frequency in Hz, ascending, and power per bin in dB of full scale, both (bins,).
    """
    padded = samples if len(samples) >= bins else np.pad(samples, (0, bins - len(samples)))
    window = np.hanning(bins)
    total, count = np.zeros(bins), 0
    for first in range(0, len(padded) - bins + 1, bins // 2):
        total += np.abs(np.fft.fft(padded[first : first + bins] * window)) ** 2
        count += 1
    power = np.fft.fftshift(total) / (count * bins * np.sum(window**2))
    return np.fft.fftshift(np.fft.fftfreq(bins, 1 / rate_sps)), 10 * np.log10(power + 1e-20)


def write_diagnostics(
    path: Path, recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> None:
    """Keep what `diagnose` found in a .npz file, written under a temporary name first."""
    arrays = diagnose(recording, result, layout, truth)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    os.replace(partial, path)


def diagnose(
    recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> dict[str, NDArray]:
    """What the report draws of the signal: spectrum, constellations, channel estimates, received symbols.

    Args:
        recording: what was decoded.
        result: what came of it.
        layout: of the frames.
        truth: the simulated channel, drawn beside the estimate.
    """
    arrays: dict[str, NDArray] = {}
    arrays["spectrum_hz"], arrays["spectrum_dbfs"] = spectrum(recording.samples, recording.settings.rate_sps)
    read = [index for index, frame in enumerate(result.synced) if frame.header is not None]
    shown = read[:SHOWN_FRAMES]
    before, after, starts, responses, true_responses = [], [], [], [], []
    for index in read:
        frame = result.synced[index]
        response = _raw_response(result, index, layout)
        starts.append(frame.start)
        responses.append(response / layout.amplitude)
        if truth is not None:
            true_responses.append(true_response(frame, truth, layout))
        if index in shown:
            header = frame.header_grid[:, layout.active_bins]
            gains = response[layout.active_bins]
            before.append(header / np.sqrt(frame.signal_power))
            after.append(header * np.conj(gains) / (np.abs(gains) ** 2 + frame.noise_var))
    if read:
        arrays["header_cells_before"] = np.array(before, dtype=np.complex64)
        arrays["header_cells_after"] = np.array(after, dtype=np.complex64)
        arrays["frame_starts"] = np.array(starts)
        arrays["responses"] = np.array(responses, dtype=np.complex64)
        if truth is not None:
            arrays["true_responses"] = np.array(true_responses, dtype=np.complex64)
            errors = channel_errors(result, layout, truth)
            arrays["channel_distances"] = np.array([error for error in errors if error is not None])
    received = _received_symbols(result, layout)
    arrays["received_ids"] = np.array(list(received), dtype=str)
    # One after the other: images of different sizes have different numbers of symbols.
    arrays["received_counts"] = np.array([len(symbols) for symbols in received.values()], dtype=np.int64)
    arrays["received_symbols"] = np.concatenate([np.empty(0, np.complex64), *received.values()])
    return arrays


def write_posterior(path: Path, result: DecodeResult) -> None:
    """Keep mean and spread of the draws, in the order of the images: `mean` and `spread`, float32 (n, C, H, W).

    Smaller images than the largest are padded with zeros; `sizes` (n, 2) are their own heights and widths. Nothing is
    written where there was one draw an image.
    """
    kept = [
        (image.mean, image.spread) for image in result.images if image.mean is not None and image.spread is not None
    ]
    if not kept:
        return
    sizes = np.array([mean.shape[1:] for mean, _ in kept])
    height, width = sizes.max(axis=0)

    def padded(picture: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.pad(picture, ((0, 0), (0, height - picture.shape[1]), (0, width - picture.shape[2])))

    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("wb") as file:
        np.savez_compressed(
            file,
            mean=np.stack([padded(mean) for mean, _ in kept]),  # type: ignore[arg-type]
            spread=np.stack([padded(spread) for _, spread in kept]),  # type: ignore[arg-type]
            sizes=sizes,  # type: ignore[arg-type]
        )
    os.replace(partial, path)


def channel_errors(result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None) -> list[float | None]:
    """Mean squared error of every frame's channel estimate per carrier, the true channel's mean power being 1.

    None where there is no truth, or no header to estimate behind.
    """
    errors: list[float | None] = []
    for index, frame in enumerate(result.synced):
        if truth is None or frame.header is None:
            errors.append(None)
            continue
        difference = _raw_response(result, index, layout) / (layout.amplitude * truth.gain)
        difference = difference - true_response(frame, truth, layout)
        errors.append(float(np.mean(np.abs(difference[layout.active_bins]) ** 2)))
    return errors


def _raw_response(result: DecodeResult, index: int, layout: FrameLayout) -> NDArray[np.complex128]:
    """(N,) estimated response in units of the recording, amplitude of the transmitter included."""
    frame, estimate = result.synced[index], result.estimates[index]
    if estimate is not None:
        return np.asarray(estimate.response).reshape(-1) * np.sqrt(frame.signal_power)
    # A layout without pilots: what the preamble and the header say, which no decoder is given.
    return np.fft.fft(frame.known_taps, layout.fft_size)


def _received_symbols(result: DecodeResult, layout: FrameLayout) -> dict[str, NDArray[np.complex64]]:
    """image id -> complex64 (K,) symbols as they came: descrambled, scaled to unit power, not equalised."""
    received: dict[str, NDArray[np.complex64]] = {}
    for frame in result.synced:
        if frame.header is None:
            continue
        scale = np.float32(np.sqrt(frame.signal_power))
        cells = payload_cells(frame.grid[layout.pilot_symbols :], layout) / scale
        for span in image_spans(frame.header):
            count = frame.header.symbols_per_image
            kept = received.setdefault(span.image_id, np.zeros(count, np.complex64))
            if len(kept) != count:
                continue  # another transmission's image of the same name
            piece = cells[span.payload_start : span.payload_start + span.num_symbols]
            kept[span.symbol_start : span.symbol_start + span.num_symbols] = piece
    return received
