"""Read image files and folders of them, and write images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from receiver.codecs.codec import ImageShape
from sdr.errors import InputError
from sdr.files import write_bytes

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
"""Suffixes of files that are read; anything else in a folder of images is an error."""

MAX_PIXELS = 50_000_000
"""Largest image that is read, pixels."""


def read_image(path: Path, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """Read an image file as it is meant to be seen.

    It is turned as its EXIF orientation says, keeps 16 bits, is converted to sRGB by an embedded colour profile
    (without one, sRGB is assumed), is laid on white where it is transparent, and is the first picture of an animation.

    Args:
        path: of a file of any kind that Pillow reads.
        channels: 1 (converted to grey) or 3.
        size: (H, W) that is needed; any up to `MAX_PIXELS` where None.

    Returns:
        (C, H, W) float32 in [0, 1].

    Raises:
        InputError: not an image, too large, or another size than `size`.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Only a header has been read so far: an image that is too large or of another size (a small file can
            # claim a huge one) is never decoded. Asking for the orientation would decode some.
            if width * height > MAX_PIXELS:
                raise InputError(
                    f"{path} is {width}x{height} pixels, at most {MAX_PIXELS // 1_000_000} million are taken. "
                    "Resize it first."
                )
            fits = size is None or sorted(size) == sorted(image.size)
            upright = ImageOps.exif_transpose(image) if fits else image
            if size is not None and size != (upright.height, upright.width):
                raise InputError(
                    f"{path} is {upright.width}x{upright.height} pixels, but {size[1]}x{size[0]} are needed. "
                    "Resize it first."
                )
            return torch.from_numpy(_pixels(upright, channels))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} can't be read as an image ({error}). Remove it or replace it.") from error


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    """Return the pixels as (C, H, W) float32 in [0, 1]."""
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bit grey; Pillow's own conversion to 8 bits would cut instead of scale.
        values = np.asarray(image, dtype=np.float32)
        if image.mode != "F":
            values = values / 65535
        return np.repeat(np.clip(values, 0, 1)[None], channels, axis=0)
    if image.mode in ("P", "PA", "LA", "La", "RGBa") or (image.mode in ("L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA")
    alpha = None
    if image.mode == "RGBA":
        alpha = np.asarray(image.getchannel("A"), dtype=np.float32)[None] / 255
    image = _to_srgb(image)
    mode = "L" if channels == 1 else "RGB"
    values = np.asarray(image.convert("RGB").convert(mode) if alpha is not None else image.convert(mode))
    planes = values.astype(np.float32) / 255
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
    twice = sorted({name for name in ids if ids.count(name) > 1})
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
    """Decode what `to_png` encoded: (C, H, W) float32 in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(data)), dtype=np.float32) / np.float32(255)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
