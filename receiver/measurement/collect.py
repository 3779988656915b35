"""Collect the measurement of images from the frames that carry them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from receiver.measurement.model import LOST_RATIO, Measurement, Mode
from receiver.measurement.noise import CellNoise, Real, measure_noise
from receiver.sync.frame import SyncedFrame
from sdr.errors import InputError
from sdr.framing import ImageSpan, data_grid, image_spans
from sdr.header import FrameHeader, encode_header
from sdr.layout import FrameLayout

MODEL_ERROR_VAR = 1e-4
"""Least noise variance of a measurement in units of its signal power: what is left of a recording without noise is the
model's own error (phase, timing, the codec), and a smaller variance would trust it where nothing deserves trust."""


def measure_frames(
    frames: Sequence[SyncedFrame],
    layout: FrameLayout,
    *,
    mode: Mode = "frequency",
    noise: Callable[[SyncedFrame, FrameLayout], CellNoise] = measure_noise,
) -> Measurement:
    """Measure all images in the frames whose header was read; frames without a header are left out.

    An image that spans frames is kept when all of them are there, in order, else its id goes to `incomplete`.

    Args:
        frames: of one layout, received by as many antennas each.
        layout: theirs.
        mode: of the forward model.
        noise: tells how noisy a frame's cells are.

    Raises:
        InputError: no header was read, no image is complete, or the headers tell of different codecs or shapes.
    """
    read = [frame for frame in frames if frame.header is not None]
    headers = [frame.header for frame in read if frame.header is not None]
    _check_headers(headers, len(frames), layout)
    antennas = len(read[0].antennas)
    placed = _place_images(headers, layout, antennas)
    if not placed.ids:
        names = ", ".join(dict.fromkeys(placed.incomplete))
        raise InputError(f"No image is complete ({names}): frames are missing; record for longer.")
    return _measurement(read, layout, placed, mode, noise)


def measure_payloads(frames: Sequence[SyncedFrame], layout: FrameLayout) -> Measurement:
    """Measure every frame's payload, all of its capacity, as if it were one image that is called by its number.

    Args:
        frames: F of them, all with headers.
        layout: theirs.
    """
    headers = [frame.header for frame in frames if frame.header is not None]
    block = layout.data_symbols * layout.fft_size * len(frames[0].antennas)
    placed = _Placed(
        cells=[layout.cell_index + index * block for index in range(len(headers))],
        scramble=[layout.cell_scramble] * len(headers),
        ids=[str(header.frame_number) for header in headers],
        csnr_db=[header.csnr_db for header in headers],
    )
    return _measurement(frames, layout, placed, "frequency", measure_noise)


def _measurement(
    read: Sequence[SyncedFrame],
    layout: FrameLayout,
    placed: _Placed,
    mode: Mode,
    noise: Callable[[SyncedFrame, FrameLayout], CellNoise],
) -> Measurement:
    """Return the measurement of placed images in frames that all have headers."""
    headers = [frame.header for frame in read if frame.header is not None]
    antennas = len(read[0].antennas)
    rows = [antenna for frame in read for antenna in frame.antennas]
    power = np.array([frame.signal_power for frame in rows], dtype=np.float64)
    scale = np.sqrt(power)
    grids = np.stack([frame.grid for frame in rows]) / scale[:, None, None]
    pilots, data = grids[:, : layout.pilot_symbols], grids[:, layout.pilot_symbols :]
    tracking = np.broadcast_to(data_grid(np.zeros(layout.capacity, dtype=np.complex64), layout), data.shape)
    found = [noise(frame, layout) for frame in rows]
    level = np.array([each.level for each in found]) / power
    noise_var = np.maximum(level, MODEL_ERROR_VAR)
    return Measurement(
        y=_complex(data),
        noise_var=_real(noise_var),
        cells=torch.from_numpy(np.stack(placed.cells).astype(np.int64)),
        scramble=_complex(np.stack(placed.scramble)),
        layout=layout,
        previous_symbol=_complex(np.repeat(_previous_symbols(headers, layout), antennas, axis=0)),
        tracking_grid=_complex(tracking),
        image_ids=tuple(placed.ids),
        csnr_db=torch.tensor(placed.csnr_db, dtype=torch.float32),
        image_shape=headers[0].image_shape,
        codec_digest=headers[0].codec_digest,
        pilots=_complex(pilots),
        scale=torch.tensor(scale, dtype=torch.float32),
        incomplete=tuple(dict.fromkeys(placed.incomplete)),
        noise_ratio=_real(_over(level, noise_var, np.stack([each.data for each in found]))),
        pilot_noise_ratio=_real(_over(level, noise_var, np.stack([each.pilots for each in found]))),
        mode=mode,
        antennas=antennas,
    )


def _over(level: Real, noise_var: Real, ratio: Real) -> Real:
    """Return ratios (F, .., N) to `level` (F,) as ratios to `noise_var` (F,), the model's error being the least."""
    level, noise_var = level[:, None, None], noise_var[:, None, None]
    return np.clip(np.maximum(level * ratio, MODEL_ERROR_VAR) / noise_var, None, LOST_RATIO)


def _real(values: Real) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))


def _complex(values: NDArray[np.complexfloating]) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.complex64, order="C"))


def _check_headers(headers: Sequence[FrameHeader], found: int, layout: FrameLayout) -> None:
    if not headers:
        raise InputError(
            f"Found {found} frame(s) and no readable header; decoding needs one: check the layout, raise the "
            f"gain or the transmit power."
        )
    kinds = {(header.codec_digest, tuple(header.image_shape), header.symbols_per_image) for header in headers}
    if len(kinds) > 1:
        raise InputError(f"The frames carry images of {len(kinds)} kinds: {sorted(kinds)}; decode them one by one.")
    strangers = {header.layout_digest for header in headers} - {layout.digest}
    if strangers:
        raise InputError(f"Frames of layout {sorted(strangers)} and not {layout.digest}; pass that layout file.")


@dataclass
class _Placed:
    """Complete images: cells and scramble (K,) each, ids, CSNR told to the encoder; and ids of incomplete ones."""

    cells: list[NDArray[np.int64]] = field(default_factory=list)
    scramble: list[NDArray[np.complex64]] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    csnr_db: list[float] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)


@dataclass
class _OpenImage:
    """An image whose last symbols have yet to come: what the next span of it has to be, and its parts so far."""

    image_id: str
    next_symbol: int = 0
    next_frame: int = 0
    cells: list[NDArray[np.int64]] = field(default_factory=list)
    scramble: list[NDArray[np.complex64]] = field(default_factory=list)

    def continues(self, span: ImageSpan, header: FrameHeader) -> bool:
        """Whether a span of a frame is the next one of this image."""
        found = (span.image_id, span.symbol_start, header.frame_number)
        return found == (self.image_id, self.next_symbol, self.next_frame)


def _place_images(headers: Sequence[FrameHeader], layout: FrameLayout, antennas: int) -> _Placed:
    """Find the cells of every image in the frames of these headers, in order, at the first of so many antennas."""
    block = antennas * layout.data_symbols * layout.fft_size
    placed = _Placed()
    image: _OpenImage | None = None
    for index, header in enumerate(headers):
        for span in image_spans(header):
            if image is not None and not image.continues(span, header):
                placed.incomplete.append(image.image_id)
                image = None
            if image is None:
                if span.symbol_start != 0:
                    placed.incomplete.append(span.image_id)
                    continue
                image = _OpenImage(span.image_id)
            part = slice(span.payload_start, span.payload_start + span.num_symbols)
            image.cells.append(layout.cell_index[part] + index * block)
            image.scramble.append(layout.cell_scramble[part])
            image.next_symbol, image.next_frame = span.symbol_start + span.num_symbols, header.frame_number + 1
            if image.next_symbol == header.symbols_per_image:
                placed.cells.append(np.concatenate(image.cells))
                placed.scramble.append(np.concatenate(image.scramble))
                placed.ids.append(image.image_id)
                placed.csnr_db.append(header.csnr_db)
                image = None
    if image is not None:
        placed.incomplete.append(image.image_id)
    return placed


def _previous_symbols(headers: Sequence[FrameHeader], layout: FrameLayout) -> NDArray[np.complex64]:
    """Return the known symbol sent right before the data of each frame, (F, N)."""
    if layout.pilot_symbols:
        return np.broadcast_to(layout.pilots[-1], (len(headers), layout.fft_size))
    return np.stack([encode_header(header, layout)[-1] for header in headers])
