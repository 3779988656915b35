"""Layouts and coded images that several test modules share."""

from dataclasses import replace

import numpy as np
import pytest

from sdr.layout import FrameLayout, load_layout, shipped_layouts
from sdr.symbols import Symbols
from tests.sdr.layouts import SMALL

TRACKED = replace(SMALL, name="tracked", data_symbols=2, pilot_symbols=0, header_symbols=20, image_slots=3)

PILOTS = replace(TRACKED, name="pilots", data_symbols=5, pilot_every=2)


@pytest.fixture(
    scope="session", params=[*map(load_layout, shipped_layouts()), TRACKED, PILOTS], ids=lambda layout: layout.name
)
def layout(request) -> FrameLayout:
    """Every shipped layout, and small ones with tracking carriers and with repeated pilots."""
    return request.param


def _draw_symbols(num_images: int, size: int, seed: int = 0) -> Symbols:
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((num_images, size)) + 1j * rng.standard_normal((num_images, size))
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    ids = tuple(f"id{index}" for index in range(num_images))
    return Symbols(z.astype(np.complex64), "00c0ffee", ids, (1, 32, 32), 10.0)


@pytest.fixture(scope="session")
def draw_symbols():
    """Function (num_images, size, seed=0) -> Gaussian `Symbols` of unit power."""
    return _draw_symbols
