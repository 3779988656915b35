"""NIQE: naturalness of a photograph without its original (Mittal et al. 2013, IEEE Signal Processing Letters 20(3)).

Features of 96x96 blocks at two scales, compared as Gaussians with those of undistorted photographs. The constants are
those of the authors' MATLAB release.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.special import gamma

from lab.evaluation.perceptual.files import read
from lab.evaluation.perceptual.images import check
from sdr.errors import InputError

#: Side of a block at full scale.
BLOCK = 96
#: MATLAB's rgb2gray.
_LUMA = (0.2989, 0.5870, 0.1140)
#: Seven taps of a Gaussian with a standard deviation of 7/6 pixels.
_WINDOW = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)
_WINDOW /= _WINDOW.sum()
#: Bicubic taps that halve an image, at distances of 1.75, 1.25, 0.75 and 0.25 output pixels on either side.
_HALVING = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256
#: Shapes among which that of a generalised Gaussian is looked for, and the ratio of moments that each has.
_SHAPES = np.arange(0.2, 10.001, 0.001)
_RATIOS = gamma(2 / _SHAPES) ** 2 / (gamma(1 / _SHAPES) * gamma(3 / _SHAPES))
#: Neighbours whose products are looked at: right, below, and on both diagonals.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))

Array = NDArray[np.float64]


def halve(image: Array) -> Array:
    """Return an image of half the sides (H, W even), as MATLAB's imresize does it: bicubic, against aliases."""
    for axis in (0, 1):
        # Output pixel i lies between the input pixels 2 i and 2 i + 1; the eight taps begin at 2 i - 3.
        image = correlate1d(image, _HALVING, axis=axis, mode="reflect", origin=-1)
        image = image[::2] if axis == 0 else image[:, ::2]
    return image


def normalise(image: Array) -> Array:
    """Return an image (H, W) in 0..255 less its local mean, over its local standard deviation plus 1."""

    def blur(x: Array) -> Array:
        return correlate1d(correlate1d(x, _WINDOW, axis=0, mode="nearest"), _WINDOW, axis=1, mode="nearest")

    mean = blur(image)
    # In flat places the difference is 0 but for rounding, whose sign must not count as one.
    difference = np.where(np.abs(image - mean) < 1e-9, 0, image - mean)
    return difference / (np.sqrt(np.abs(blur(image * image) - mean * mean)) + 1)


def fit_asymmetric(values: Array) -> tuple[Array, Array, Array]:
    """Fit an asymmetric generalised Gaussian to each row of (n, m) by its moments.

    Returns:
        shape, left and right scale, each (n,); NaN where a row has no values on one side.
    """
    below, above = values < 0, values > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        left = np.sqrt(np.square(values * below).sum(axis=1) / below.sum(axis=1))
        right = np.sqrt(np.square(values * above).sum(axis=1) / above.sum(axis=1))
        skew = left / right
        ratio = np.abs(values).mean(axis=1) ** 2 / np.square(values).mean(axis=1)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    place = np.searchsorted(_RATIOS, ratio).clip(1, len(_RATIOS) - 1)
    nearer_below = ratio - _RATIOS[place - 1] <= _RATIOS[place] - ratio
    shape = np.where(np.isnan(ratio), np.nan, _SHAPES[place - nearer_below])
    scale = np.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * scale, right * scale


def block_features(image: Array, side: int) -> Array:
    """Return 18 features of each block of `side` pixels of a normalised image, (blocks, 18)."""
    rows, columns = image.shape[0] // side, image.shape[1] // side
    blocks = image.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)
    shape, left, right = fit_asymmetric(blocks.reshape(len(blocks), -1))
    features = [shape, (left + right) / 2]
    for shift in _NEIGHBOURS:
        products = blocks * np.roll(blocks, shift, axis=(1, 2))
        shape, left, right = fit_asymmetric(products.reshape(len(blocks), -1))
        features += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
    return np.stack(features, axis=1)


def _niqe(image: Array, mean: Array, covariance: Array) -> float:
    """Return NIQE of a grey image (H, W) in 0..255 with sides that `BLOCK` divides."""
    features = np.concatenate(
        [block_features(normalise(image), BLOCK), block_features(normalise(halve(image)), BLOCK // 2)], axis=1
    )
    whole = features[~np.isnan(features).any(axis=1)]
    if len(whole) < 2:
        return float("nan")
    difference = mean - np.nanmean(features, axis=0)
    precision = np.linalg.pinv((covariance + np.cov(whole, rowvar=False)) / 2)
    return float(np.sqrt(difference @ precision @ difference))


def niqe(images: torch.Tensor) -> torch.Tensor:
    """Return NIQE, (B,); smaller is more natural.

    Compare at equal sizes: photographs of a megapixel have 2 to 5, those of 256x256 pixels (four blocks) about 7.

    As in the authors' release, colours become grey by MATLAB's rgb2gray, values are rounded to 8 bits, and what exceeds
    a multiple of 96 pixels is left out. NaN for images with fewer than two blocks that have any texture.

    Args:
        images: (B, 3 or 1, H, W) in [0, 1], at least 96 x 192 pixels.

    Raises:
        InputError: other shapes or values. ModelError: the parameters are missing or altered.
    """
    check("NIQE", images, least=BLOCK)
    height, width = (side // BLOCK * BLOCK for side in images.shape[2:])
    if height * width < 2 * BLOCK * BLOCK:
        raise InputError(f"NIQE needs at least {BLOCK} x {2 * BLOCK} pixels, got {tuple(images.shape[2:])}.")
    parameters = read("niqe")
    mean, covariance = parameters["mean"].numpy(), parameters["covariance"].numpy()
    values = 255 * images[:, :, :height, :width].double().cpu().numpy()
    grey = values[:, 0] if images.shape[1] == 1 else np.einsum("c,bchw->bhw", _LUMA, values)
    return images.new_tensor([_niqe(image, mean, covariance) for image in np.rint(grey)])
