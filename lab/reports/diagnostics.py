"""Keep, beside a result, the signals of the receiver that a report draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from lab.evaluation.channel_truth import ChannelTruth, true_response
from receiver.results import DecodeResult
from sdr.files import replacing
from sdr.framing import image_spans, payload_cells
from sdr.layout import FrameLayout
from sdr.recordings.recording import Recording

#: Frames whose channel and constellation are drawn.
SHOWN_FRAMES = 4
_SPECTRUM_BINS = 512
#: Segments whose periodograms are in memory at once.
_SEGMENTS = 4096


def spectrum(samples: NDArray[np.complex64], rate_sps: float, bins: int = _SPECTRUM_BINS) -> tuple[NDArray, NDArray]:
    """Estimate the power spectrum by Welch's method: Hann windows that overlap by half.

    Args:
        samples: (n,) at full scale 1; a recording shorter than `bins` is padded with zeros.
        rate_sps: their rate.
        bins: of the spectrum, even.

    Returns:
        frequency in Hz, ascending, and power per bin in dB of full scale, both (bins,).
    """
    padded = samples if len(samples) >= bins else np.pad(samples, (0, bins - len(samples)))
    step = bins // 2
    segments = (len(padded) - bins) // step + 1
    total = np.zeros(bins)
    for first in range(0, segments, _SEGMENTS):
        count = min(_SEGMENTS, segments - first)
        block = padded[first * step : (first + count - 1) * step + bins].astype(np.complex128)
        # Blocks overlap as segments do, so that this is the periodogram of the whole.
        # SciPy's annotations know neither windows as arrays nor False.
        _, density = scipy.signal.welch(
            block,
            rate_sps,
            window=np.hanning(bins),  # type: ignore[arg-type]
            nperseg=bins,
            noverlap=step,
            detrend=False,  # type: ignore[arg-type]
            return_onesided=False,
        )
        total += count * density
    power = np.fft.fftshift(total / segments) * rate_sps / bins
    return np.fft.fftshift(np.fft.fftfreq(bins, 1 / rate_sps)), 10 * np.log10(power + 1e-20)


def write_diagnostics(
    path: Path, recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> None:
    """Keep what `diagnose` found in a .npz file."""
    arrays = diagnose(recording, result, layout, truth)
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def diagnose(
    recording: Recording, result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None = None
) -> dict[str, NDArray]:
    """Return what the report draws of the signal.

    Args:
        recording: what was decoded.
        result: what came of it.
        layout: of the frames.
        truth: the simulated channel, drawn beside the estimate; None where it is not known.

    Returns:
        arrays by name, of F frames with headers, of which the first `SHOWN_FRAMES` have their cells kept:
        spectrum_hz         (bins,) frequencies
        spectrum_dbfs       (A, bins) power per bin at each antenna; what follows is the first one's
        header_cells_before (shown, symbols, carriers) complex, as received, scaled to unit signal power
        header_cells_after  (shown, symbols, carriers) complex, equalised
        frame_starts        (F,) samples
        responses           (F, N) complex, estimated channel
        true_responses      (F, N) complex, where the truth is known
        channel_distances   (F,) squared errors of the estimates, where the truth is known
        received_ids        (images,) names
        received_counts     (images,) symbols of each
        received_symbols    (symbols,) complex, of all images one after the other
    """
    arrays: dict[str, NDArray] = {}
    spectra = [spectrum(samples, recording.settings.rate_sps) for samples in recording.antennas]
    arrays["spectrum_hz"] = spectra[0][0]
    arrays["spectrum_dbfs"] = np.stack([power for _, power in spectra])
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
    """Keep mean and spread of the draws in a .npz file, in the order of the images.

    It holds `mean` and `spread`, float32 (n, C, H, W), smaller images padded with zeros, and `sizes` (n, 2), their own
    heights and widths. Nothing is written where there was one draw an image.
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

    with replacing(path) as file:
        np.savez_compressed(
            file,
            mean=np.stack([padded(mean) for mean, _ in kept]),
            spread=np.stack([padded(spread) for _, spread in kept]),
            sizes=sizes,
        )


def channel_errors(result: DecodeResult, layout: FrameLayout, truth: ChannelTruth | None) -> list[float | None]:
    """Return the mean squared error per carrier of every frame's channel estimate, the true channel having unit power.

    It is None where there is no truth, or no header to estimate behind.
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
    """Return a frame's estimated response (N,) in units of the recording, the transmitter's amplitude included."""
    frame, estimate = result.synced[index], result.estimates[index]
    if estimate is not None:
        return np.asarray(estimate.response).reshape(-1) * np.sqrt(frame.signal_power)
    # In a layout without pilots this is what preamble and header say, which no decoder is given.
    return np.fft.fft(frame.known_taps, layout.fft_size)


def _received_symbols(result: DecodeResult, layout: FrameLayout) -> dict[str, NDArray[np.complex64]]:
    """Return the symbols (K,) of each image id as they came: descrambled, scaled to unit power, not equalised."""
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
