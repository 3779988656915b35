"""Encode pictures for an HTML page that needs no other file."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from receiver.images.files import open_image

TEMPLATES = Path(__file__).parent / "templates"
#: Longest side of a picture in the report, pixels; larger ones are shrunk (beside the report they are whole).
SHOWN_SIDE = 640
#: Standard deviation of a pixel over the draws that is drawn white.
WHITE_SPREAD = 0.25


def data_uri(figure: Figure) -> str:
    """Return a figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return png_uri(buffer.getvalue())


def png_uri(data: bytes) -> str:
    """Return the content of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def picture_uri(picture: NDArray[np.floating]) -> str:
    """Return a picture (C, H, W), shown from 0 (black) to 1 (white), as a data URI."""
    pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    return _pixels_uri(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))


def pixels(uri: str) -> NDArray[np.uint8]:
    """Return the pixels (H, W) or (H, W, 3) of a data URI."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as picture:
        return np.asarray(picture)


def file_uri(path: Path) -> str:
    """Return a picture file as a data URI, shrunk where it is larger than a report shows.

    Raises:
        InputError: it is missing or damaged.
    """
    with open_image(path, ("PNG",)) as picture:
        # Encoded anew, so that a report holds the pixels and nothing else that the file may have.
        picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
        return _pixels_uri(np.asarray(picture if picture.mode in ("L", "RGB") else picture.convert("RGB")))


def symbols_uri(symbols: NDArray[np.complex64]) -> str:
    """Return received symbols (K,) as a picture's data URI: one pixel a symbol, its brightness the magnitude."""
    width = int(np.ceil(np.sqrt(len(symbols))))
    cells = np.zeros(width * width, np.float32)
    cells[: len(symbols)] = np.abs(symbols)
    return _pixels_uri(np.clip(cells.reshape(width, width) / 2.5 * 255, 0, 255).astype(np.uint8))


def _pixels_uri(pixels: NDArray[np.uint8]) -> str:
    """Return pixels (H, W) or (H, W, 3) as a data URI."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return png_uri(buffer.getvalue())
