"""Landing: the few last steps of a diffusion, from the level that fits how wrong the decoded image is.

A decoded image is about as far from the original as the prior's own estimate x0_hat is at one level of the diffusion.
Above that level the prior knows less than the code has told already, so that steps there are wasted. The network of
confidence tells the squared error of the image decoded; guidance by the pseudo-inverse begins at its level.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from receiver.error_net import decoding_squared_error
from receiver.samplers.posterior import Posterior
from receiver.samplers.problem import LARGE_SIDE, LOST_LEVEL, Problem
from receiver.samplers.pseudo_inverse import sampled_from
from receiver.samplers.taps import Taps, drawn_taps, known_taps

#: PSNR in dB of the priors' x0_hat at levels of 1000, of the shipped bundles' test images (`prior.json` of `fashion`
#: and of `photo`): for images below and from `LARGE_SIDE` pixels.
_SMALL_PSNR_DB = {25: 33.60, 50: 29.83, 100: 26.23, 200: 22.69, 400: 18.68, 700: 13.08}
_LARGE_PSNR_DB = {25: 35.89, 60: 32.12, 110: 29.49, 213: 26.44, 400: 22.78, 700: 17.22}


def landing(problem: Problem) -> Posterior:
    """Sample with the taps that the pilots gave."""
    return _landed(*known_taps(problem))


def blind_landing(problem: Problem) -> Posterior:
    """Sample with taps that are drawn at every step from what image and measurement tell of them."""
    return _landed(*drawn_taps(problem))


def _landed(taps: Taps, x_d: Tensor) -> Posterior:
    return sampled_from(_told_level(taps, x_d), taps, x_d)


def _told_level(taps: Taps, x_d: Tensor) -> Tensor:
    """Return the level of 1000 (B,) that fits the error of images x_d (B, C, H, W) in [0, 1]."""
    problem = taps.problem
    squared_error = decoding_squared_error(problem.measurement, problem.codec, problem.error_net, x_d, taps.h)
    level = level_of_error(squared_error, large=max(x_d.shape[2:]) >= LARGE_SIDE)
    if problem.settings.first_level is not None:
        return torch.full_like(level, problem.settings.first_level)
    return torch.where(problem.lacks_symbols, LOST_LEVEL, level)


def level_of_error(squared_error: Tensor, large: bool) -> Tensor:
    """Return the level of 1000 at which the prior's x0_hat has these squared errors per pixel: (B,) int64.

    Args:
        squared_error: (B,) of images in [0, 1].
        large: whether the images have `LARGE_SIDE` pixels or more on their longer side.

    >>> level_of_error(torch.tensor([1e-6, 0.00538, 1.0]), large=False).tolist()
    [25, 200, 700]
    """
    table = _LARGE_PSNR_DB if large else _SMALL_PSNR_DB
    error_db = 10 * squared_error.clamp(min=1e-10).log10()
    levels = np.interp(error_db.cpu().numpy(), [-psnr_db for psnr_db in table.values()], list(table))
    return torch.from_numpy(levels.round().astype(np.int64)).to(squared_error.device)
