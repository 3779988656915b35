"""Modulate and demodulate OFDM: the reference modem, which the GNU Radio framer has to equal sample by sample."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sdr.air.amplifier import clip
from sdr.errors import InputError, RecordingError
from sdr.framing import FrameContent, frame_grid
from sdr.layout import FrameLayout


def modulate(content: FrameContent, layout: FrameLayout) -> NDArray[np.complex64]:
    """Modulate one frame.

    Every grid row is scaled by `layout.amplitude`, transformed unitarily, extended by its cyclic prefix, and limited
    to `layout.magnitude_limit`; the gap of zeros follows the last symbol.

    Returns:
        complex64 (frame_samples,), magnitude at most 1, mean power of the occupied samples `rms**2` before limiting.

    Raises:
        LayoutError: the frame was made for another layout.
    """
    symbols = np.fft.ifft(frame_grid(content, layout).astype(np.complex128), axis=1, norm="ortho") * layout.amplitude
    with_prefix = np.concatenate([symbols[:, layout.fft_size - layout.cp_samples :], symbols], axis=1)
    samples = np.zeros(layout.frame_samples, dtype=np.complex64)
    samples[: with_prefix.size] = clip(with_prefix.reshape(-1).astype(np.complex64), layout.magnitude_limit)
    return samples


def modulate_stream(
    frames: Sequence[FrameContent], layout: FrameLayout, leading_gap_samples: int | None = None
) -> NDArray[np.complex64]:
    """Modulate a transmission: a leading gap, then the frames back to back.

    Args:
        leading_gap_samples: zeros before the first frame; the layout's gap unless given.

    Returns:
        complex64 (leading_gap_samples + len(frames) * frame_samples,).

    Raises:
        InputError: there is no frame, or the gap is negative.
        LayoutError: a frame was made for another layout.
    """
    gap = layout.gap_samples if leading_gap_samples is None else leading_gap_samples
    if not frames or gap < 0:
        raise InputError(f"a transmission needs a frame and a gap >= 0, found {len(frames)} frames and a gap of {gap}")
    stream = np.zeros(gap + len(frames) * layout.frame_samples, dtype=np.complex64)
    for index, content in enumerate(frames):
        start = gap + index * layout.frame_samples
        stream[start : start + layout.frame_samples] = modulate(content, layout)
    return stream


def demodulate(
    samples: NDArray[np.complex64],
    start: int,
    layout: FrameLayout,
    num_symbols: int,
    first_symbol: int,
    cfo_hz: float = 0.0,
    advance: int = 0,
) -> NDArray[np.complex64]:
    """Demodulate some OFDM symbols of a frame into their raw grid.

    Args:
        samples: (n,) received samples.
        start: index of the frame's first sample, which is the first cyclic-prefix sample of preamble A.
        num_symbols: rows to return.
        first_symbol: index of the first one within the frame (0 is preamble A).
        cfo_hz: carrier offset to remove; the removed phase is 0 at sample `start`.
        advance: the transform's window starts this many samples early, inside the cyclic prefix. The phase ramp
            that this causes is taken out again, so that channel tap 0 always means a path that arrives exactly at
            `start`, whatever the advance; paths up to `advance` samples earlier become tap -1, -2, ... (modulo N).

    Returns:
        complex64 (num_symbols, N) in FFT bin order, unitary transform, not divided by the layout's amplitude.

    Raises:
        InputError: `advance` doesn't fit the cyclic prefix, or the symbols lie outside the frame.
        RecordingError: the symbols reach beyond the samples.
    """
    if not 0 <= advance <= layout.cp_samples:
        raise InputError(f"advance must be 0..{layout.cp_samples} samples (the cyclic prefix), found {advance}")
    if first_symbol < 0 or num_symbols < 0 or first_symbol + num_symbols > layout.num_symbols:
        raise InputError(
            f"a frame has the symbols 0..{layout.num_symbols - 1}, but {num_symbols} from {first_symbol} on were asked"
        )
    begin = start + first_symbol * layout.symbol_samples + layout.cp_samples - advance
    end = begin + (num_symbols - 1) * layout.symbol_samples + layout.fft_size if num_symbols else begin
    if begin < 0 or end > samples.size:
        raise RecordingError(
            f"the frame at sample {start} needs samples {begin}..{end}, but the recording has {samples.size}; "
            "record longer"
        )
    index = begin + np.arange(num_symbols)[:, None] * layout.symbol_samples + np.arange(layout.fft_size)
    windows = samples[index].astype(np.complex128)
    if cfo_hz:
        windows *= np.exp(-2j * np.pi * cfo_hz / layout.rate_sps * (index - start))
    grid = np.fft.fft(windows, axis=1, norm="ortho")
    if advance:
        grid *= np.exp(2j * np.pi * advance / layout.fft_size * np.arange(layout.fft_size))
    return grid.astype(np.complex64)
