"""What the metrics ask of images, and how large batches go through networks."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from sdr.errors import InputError

#: Pixels that go through a network at once; VGG16 takes about 1 kB for each.
PIXELS_AT_ONCE = 1 << 18
#: What `of_originals` keeps at most: the features of some 30 images of 256x256.
CACHE_BYTES = 1 << 30
_cache: OrderedDict[tuple[str, str, torch.Size, bytes], list[Tensor]] = OrderedDict()


def check(metric: str, images: Tensor, originals: Tensor | None = None, least: int = 1) -> None:
    """Check that images are (B, 3 or 1, H, W) in [0, 1] with sides of at least `least`, and originals too, and alike.

    Raises:
        InputError: they are not.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0 or not images.is_floating_point():
        raise InputError(
            f"{metric} needs images (B, 3 or 1, H, W) of floats, got {tuple(images.shape)} of {images.dtype}."
        )
    if min(images.shape[2:]) < least:
        raise InputError(
            f"{metric} needs sides of at least {least} pixels, got {tuple(images.shape[2:])}. Take another metric."
        )
    if originals is not None and images.shape != originals.shape:
        raise InputError(
            f"{metric} needs images and originals of one shape, got {tuple(images.shape)} and {tuple(originals.shape)}."
        )
    for values in (images,) if originals is None else (images, originals):
        low, high = (float(value) for value in values.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise InputError(f"{metric} needs values in [0, 1], found {low:.4g} to {high:.4g}. Clamp them.")


def in_colour(images: Tensor) -> Tensor:
    """Return images as float32 (B, 3, H, W), grey ones repeated."""
    return images.float().expand(-1, 3, -1, -1)


def luma(images: Tensor) -> Tensor:
    """Return the mean over the channels, (B, H, W)."""
    return images.mean(dim=1)


def batched(function: Callable[..., Tensor], *images: Tensor) -> Tensor:
    """Return function(*images), computed over as many images at once as `PIXELS_AT_ONCE` allows.

    Without gradients, and in full single precision: TF32 would move published values in their third digit.
    """

    def parts() -> Iterator[Tensor]:
        count = max(1, PIXELS_AT_ONCE // (images[0].shape[2] * images[0].shape[3]))
        for batch in zip(*(one.split(count) for one in images), strict=True):
            yield function(*batch)

    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        return torch.cat(list(parts()))


def of_originals(name: str, features: Callable[[Tensor], list[Tensor]], originals: Tensor) -> list[Tensor]:
    """Return features(originals), from memory where the same images came before, as in a table of many methods.

    Args:
        name: of what `features` computes.
        features: of images (B, C, H, W).
        originals: (B, C, H, W).
    """
    digest = hashlib.sha256(originals.detach().cpu().contiguous().numpy().tobytes()).digest()
    key = (name, str(originals.device), originals.shape, digest)
    found = _cache.pop(key, None)
    found = features(originals) if found is None else found
    _cache[key] = found
    while sum(feature.nbytes for kept in _cache.values() for feature in kept) > CACHE_BYTES:
        _cache.popitem(last=False)
    return found
