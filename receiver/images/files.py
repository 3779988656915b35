"""Read image files and folders of them, and write images."""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError
from torch import Tensor

from receiver.codecs.codec import ImageShape
from sdr.errors import InputError, OtaError
from sdr.files import write_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Suffixes of files that are read; anything else in a folder of images is an error."""

MAX_PIXELS = 50_000_000
"""Largest image that is read, pixels."""


FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""Pillow's names of the formats that are opened, whatever a file is called and whatever else Pillow knows."""

# Pillow tells its log, too, what it then raises; without a handler that would be on standard error.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@contextmanager
def open_image(
    source: Path | io.BytesIO, formats: tuple[str, ...] = FORMATS, called: str = ""
) -> Iterator[Image.Image]:
    """Open an image file; only its header is read until its pixels are asked for.

    Args:
        source: the file, or its content.
        formats: that it may have.
        called: what messages call it; its path by default.

    Raises:
        InputError: missing, of no such format, larger than `MAX_PIXELS`, or damaged (in the block, too).
    """
    path = called or source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what Pillow repairs or leaves out
            with Image.open(source, formats=formats) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise InputError(
                        f"{path} is {width}x{height} pixels, at most {MAX_PIXELS // 1_000_000} million are taken. "
                        "Resize it first."
                    )
                with _libtiff_silent() if image.format == "TIFF" else nullcontext():
                    yield image
    except OtaError:
        raise
    except UnidentifiedImageError:
        raise InputError(f"{path} is no image of {', '.join(formats)}. Remove it or convert it.") from None
    except Exception as error:  # a decoder at work on a damaged file raises whatever comes
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} can't be read as an image ({reason}). Remove it or replace it.") from error


@contextmanager
def _libtiff_silent() -> Iterator[None]:
    """Keep libtiff, which writes to the process's standard error, from doing so."""
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as it is meant to be seen.

    It is turned as its EXIF orientation says, keeps 16 bits, is converted to sRGB by an embedded colour profile
    (without one, sRGB is assumed), is laid on white where it is transparent, and is the first picture of an animation.

    Args:
        path: of a file in one of `FORMATS`.
        channels: 1 (converted to grey) or 3.
        size: (H, W) that is needed; any up to `MAX_PIXELS` where None.

    Returns:
        (C, H, W) float32 in [0, 1].

    Raises:
        InputError: not an image, too large, another size than `size`, or values whose black and white are not known.
    """
    with open_image(path) as image:
        # An image of another size (a small file can claim a huge one) is never decoded. Asking for the orientation
        # would decode some.
        fits = size is None or sorted(size) == sorted(image.size)
        upright = _upright(image) if fits else image
        if size is not None and size != (upright.height, upright.width):
            raise InputError(
                f"{path} is {upright.width}x{upright.height} pixels, but {size[1]}x{size[0]} are needed. "
                "Resize it first."
            )
        deep = _deep_pixels(upright, image.format, path)
        return torch.from_numpy(_pixels(upright, channels) if deep is None else np.repeat(deep[None], channels, axis=0))


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF orientation says; one that can't be read says nothing."""
    image.load()  # a TIFF is turned by this, and then says so no more
    try:
        turned = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is a whole TIFF of its own, damaged in as many ways
        turned = None
    return image if turned is None else image.transpose(turned)


def _deep_pixels(image: Image.Image, file_format: str | None, path: Path) -> NDArray[np.float32] | None:
    """Return grey pixels (H, W) in [0, 1] of more than 8 bits, None for an image of 8 bits.

    Pillow's own conversion to 8 bits would cut instead of scale.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PPM", "PNG")):
        stored = np.asarray(image, dtype=np.float32)
        transparent = image.info.get("transparency")
        values = stored / np.float32(65535)
        if isinstance(transparent, int):
            values[stored == transparent] = 1
        return values
    if image.mode == "I":
        raise InputError(f"{path} has 32-bit integers, whose white is not known. Save it with 8 or 16 bits.")
    if image.mode == "LAB":
        raise InputError(f"{path} is in CIELAB, which is not converted faithfully. Save it as RGB.")
    if image.mode != "F":
        return None
    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"{path} holds NaN or infinite pixels. Mend it, or save it with 8 or 16 bits.")
    low, high = float(values.min()), float(values.max())
    if low < -1e-6 or high > 1 + 1e-6:
        raise InputError(
            f"{path} holds values from {low:g} to {high:g}; floating point is black at 0 and white at 1. Scale it, or "
            "save it with 8 or 16 bits."
        )
    return np.clip(values, np.float32(0), np.float32(1))


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Return the pixels of an image of 8 bits as (C, H, W) float32 in [0, 1]."""
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    alpha = None
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"), dtype=np.float32)[None] / 255
    image = _to_srgb(image)
    if image.mode not in ("L", "1"):
        image = image.convert("RGB")
    planes = np.asarray(image.convert("L" if channels == 1 else "RGB")).astype(np.float32) / 255
    planes = planes[None] if channels == 1 else np.ascontiguousarray(planes.transpose(2, 0, 1))
    return planes if alpha is None else planes * alpha + (1 - alpha)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert to sRGB by the embedded profile; return the image unchanged where there is none that can be used."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        wanted = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, source, wanted, outputMode="RGB" if image.mode != "RGBA" else None)
    except ImageCms.PyCMSError:
        return image
    return image if converted is None else converted


def load_image(path: Path, shape: ImageShape) -> Tensor:
    """Read an image file as (C, H, W) float32 in [0, 1], converted to grey or RGB as `shape` asks.

    Raises:
        InputError: not an image, or another size than `shape`.
    """
    channels, height, width = shape
    return read_image(path, channels, None if height is None or width is None else (height, width))


def load_images(folder: str | Path, shape: ImageShape) -> tuple[list[str], list[Tensor]]:
    """Read all images of a folder, ordered by name; hidden files are skipped.

    Args:
        folder: holds image files only.
        shape: (C, H, W) that every image must have; C is 1 (converted to grey) or 3, H and W may be None for any.

    Returns:
        ids (file names without suffix) and images (C, H, W) float32 in [0, 1].

    Raises:
        InputError: no folder, no images, a file that isn't an image, a wrong size, or two files with one id.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give a folder of images.")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not paths:
        wanted = "" if shape[1] is None else f" of {shape[2]}x{shape[1]} pixels"
        raise InputError(f"{folder} is empty. Put images{wanted} in it.")
    for path in paths:
        if not path.is_file() or path.suffix.lower() not in IMAGE_SUFFIXES:
            raise InputError(f"{path} is not an image ({', '.join(IMAGE_SUFFIXES)}). Keep only images in {folder}.")
    ids = [path.stem for path in paths]
    twice = sorted(name for name, count in Counter(ids).items() if count > 1)
    if twice:
        raise InputError(f"{folder} has several images called {twice[0]!r}. Rename all but one.")
    return ids, [load_image(path, shape) for path in paths]


def load_image_folder(folder: str | Path, shape: ImageShape) -> tuple[list[str], Tensor]:
    """Read a folder of images that all have one shape: ids, and images (n, C, H, W); see `load_images`."""
    ids, images = load_images(folder, shape)
    return ids, stack_images(ids, images)


def stack_images(ids: Sequence[str], images: Sequence[Tensor]) -> Tensor:
    """Stack images (C, H, W), which must have one shape, to (n, C, H, W).

    Raises:
        InputError: names two that differ.
    """
    for name, image in zip(ids, images, strict=True):
        if image.shape != images[0].shape:
            raise InputError(
                f"{ids[0]} is {images[0].shape[2]}x{images[0].shape[1]} pixels and {name} {image.shape[2]}x"
                f"{image.shape[1]}, but here all images must have one size. Resize or separate them."
            )
    return torch.stack(list(images))


def save_image(path: Path, image: Tensor) -> None:
    """Write an image (C, H, W) as a PNG, clamped to [0, 1] and rounded to 8 bits."""
    write_bytes(path, to_png(image.detach().cpu().numpy()))


def to_png(picture: NDArray[np.float32]) -> bytes:
    """Encode a picture (C, H, W) as PNG, clamped to [0, 1] and rounded to 8 bits a channel."""
    pixels = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels[0] if pixels.shape[0] == 1 else pixels.transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def from_png(data: bytes) -> NDArray[np.float32]:
    """Decode what `to_png` encoded: (C, H, W) float32 in [0, 1].

    Raises:
        InputError: it is something else.
    """
    return _decode_png(io.BytesIO(data), "A picture of a table")


def read_png(path: Path) -> NDArray[np.float32]:
    """Read what `save_image` wrote: (C, H, W) float32 in [0, 1].

    Raises:
        InputError: missing, or something else.
    """
    return _decode_png(path, str(path))


def _decode_png(source: Path | io.BytesIO, called: str) -> NDArray[np.float32]:
    with open_image(source, ("PNG",), called) as image:
        if image.mode not in ("L", "RGB"):
            raise InputError(f"{called} is a PNG of mode {image.mode}, not one that was decoded. Repeat the run.")
        pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
