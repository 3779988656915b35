"""Pack images into frames.

Small images share a frame, as many as fit whole; an image larger than a frame spans frames of its own, and one with
side information has a frame of its own.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sdr.errors import InputError, LayoutError
from sdr.header import FrameHeader, encode_header
from sdr.layout import FrameLayout
from sdr.symbols import Symbols


@dataclass(frozen=True)
class FrameContent:
    """Content of one frame.

    Args:
        header: the frame's header.
        payload: complex64 (capacity,), in image order, before interleaving and scrambling; zero where unused.

    Raises:
        InputError: the payload is malformed or shorter than the header says.
    """

    header: FrameHeader
    payload: NDArray[np.complex64]

    def __post_init__(self) -> None:
        payload = self.payload
        if not isinstance(payload, np.ndarray) or payload.dtype != np.complex64 or payload.ndim != 1:
            raise InputError("a frame's payload must be complex64 (capacity,)")
        if payload.size < self.header.num_payload:
            raise InputError(f"the header counts {self.header.num_payload} payload symbols, found {payload.size}")
        if not np.isfinite(payload.view(np.float32)).all():
            raise InputError("a frame's payload holds NaN or infinite values")
        view = payload.view()
        view.setflags(write=False)
        object.__setattr__(self, "payload", view)


@dataclass(frozen=True)
class ImageSpan:
    """Place of a piece of an image in a frame's payload.

    Args:
        image_id: the image.
        payload_start: index of the piece's first symbol in the payload.
        symbol_start: index of that symbol in the image.
        num_symbols: length of the piece.
    """

    image_id: str
    payload_start: int
    symbol_start: int
    num_symbols: int


def images_per_frame(symbols_per_image: int, layout: FrameLayout) -> int:
    """Return how many whole images of K symbols a frame takes; 0 where an image spans frames."""
    return min(layout.capacity // symbols_per_image, layout.image_slots)


def num_frames(num_images: int, symbols_per_image: int, layout: FrameLayout) -> int:
    """Return how many frames a batch of images needs.

    >>> from sdr.layout import load_layout
    >>> num_frames(num_images=3, symbols_per_image=600, layout=load_layout("paper"))  # 256 symbols a frame
    9
    """
    whole = images_per_frame(symbols_per_image, layout)
    if whole:
        return -(-num_images // whole)
    return num_images * -(-symbols_per_image // layout.capacity)


def image_spans(header: FrameHeader) -> tuple[ImageSpan, ...]:
    """Return the pieces of images that a frame with this header carries, in payload order."""
    if len(header.image_ids) == 1:
        return (ImageSpan(header.image_ids[0], 0, header.symbol_offset, header.num_payload),)
    size = header.symbols_per_image
    return tuple(ImageSpan(image_id, i * size, 0, size) for i, image_id in enumerate(header.image_ids))


def pack_frames(
    symbols: Symbols, layout: FrameLayout, csnr_db: float | None = None, first_frame: int = 0
) -> list[FrameContent]:
    """Distribute coded images over frames.

    Args:
        symbols: B images of K symbols.
        csnr_db: CSNR to announce; the one that `symbols` was coded for unless given.
        first_frame: number of the first frame; numbers wrap at 2^32.

    Returns:
        `num_frames(B, K, layout)` frames in sending order.

    Raises:
        InputError: `csnr_db` or `first_frame` doesn't fit the header.
    """
    size, announced_db = symbols.symbols_per_image, symbols.csnr_db if csnr_db is None else csnr_db
    whole = images_per_frame(size, layout)
    if symbols.side_bytes:
        whole = min(whole, 1)
    pieces: list[tuple[tuple[str, ...], int, NDArray[np.complex64]]] = []
    if whole:
        for first in range(0, symbols.num_images, whole):
            pieces.append((symbols.image_ids[first : first + whole], 0, symbols.z[first : first + whole].reshape(-1)))
    else:
        for image_id, z in zip(symbols.image_ids, symbols.z, strict=True):
            for offset in range(0, size, layout.capacity):
                pieces.append(((image_id,), offset, z[offset : offset + layout.capacity]))
    frames = []
    for index, (image_ids, offset, cells) in enumerate(pieces):
        payload = np.zeros(layout.capacity, dtype=np.complex64)
        payload[: cells.size] = cells
        header = FrameHeader(
            frame_number=(first_frame + index) % 2**32,
            layout_digest=layout.digest,
            codec_digest=symbols.codec_digest[:8],
            csnr_db=announced_db,
            image_shape=symbols.image_shape,
            symbols_per_image=size,
            symbol_offset=offset,
            num_payload=cells.size,
            image_ids=image_ids,
            side_bytes=symbols.side_bytes,
        )
        frames.append(FrameContent(header, payload))
    return frames


def data_grid(payload: NDArray[np.complex64], layout: FrameLayout) -> NDArray[np.complex64]:
    """Make the (S, N) grid of the data symbols: payload interleaved and scrambled, pilots and tracking carriers filled.

    Raises:
        LayoutError: the payload's length isn't the layout's capacity.
    """
    if payload.shape != (layout.capacity,):
        raise LayoutError(f"layout '{layout.name}' holds {layout.capacity} symbols a frame, found {payload.shape}")
    grid = np.zeros((layout.data_symbols, layout.fft_size), dtype=np.complex64)
    grid.reshape(-1)[layout.cell_index] = payload * layout.cell_scramble
    grid[np.ix_(layout.pilot_rows, layout.data_bins)] = layout.repeated_pilots
    grid[:, layout.tracking_bins] = layout.tracking_symbols
    return grid


def payload_cells(grid: NDArray[np.complex64], layout: FrameLayout) -> NDArray[np.complex64]:
    """Return the (capacity,) payload of an (S, N) data grid: the inverse of `data_grid`.

    Raises:
        LayoutError: the grid has the wrong shape.
    """
    if grid.shape != (layout.data_symbols, layout.fft_size):
        raise LayoutError(
            f"layout '{layout.name}' has a data grid of {(layout.data_symbols, layout.fft_size)}, found {grid.shape}"
        )
    return grid.reshape(-1)[layout.cell_index] * np.conj(layout.cell_scramble)


def frame_grid(content: FrameContent, layout: FrameLayout) -> NDArray[np.complex64]:
    """Make the (num_symbols, N) grid of a whole frame, preambles first, unit mean power per active carrier.

    Raises:
        LayoutError: the frame was made for another layout.
    """
    if content.header.layout_digest != layout.digest:
        raise LayoutError(
            f"the frame was made for layout {content.header.layout_digest}, but layout '{layout.name}' is "
            f"{layout.digest}; pack it again"
        )
    return np.concatenate(
        [
            layout.preamble_a[None],
            layout.preamble_b[None],
            encode_header(content.header, layout),
            layout.pilots,
            data_grid(content.payload, layout),
        ]
    )
