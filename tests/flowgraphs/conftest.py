"""Frames to send, and a time limit for every test here: a flowgraph that hangs must fail, not stop the suite."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from sdr.framing import FrameContent, pack_frames
from sdr.header import FrameHeader
from sdr.layout import FrameLayout, load_layout, shipped_layouts
from sdr.symbols import Symbols


@pytest.fixture
def time_limit_s() -> int:
    return 120


@pytest.fixture(autouse=True)
def limited(time_limit: None) -> None:
    """Every test here has the time limit."""


def _variants() -> dict[str, FrameLayout]:
    """Every shipped layout, and what none of them has."""
    paper, air = load_layout("paper"), load_layout("air")
    return {name: load_layout(name) for name in shipped_layouts()} | {
        "clipped": replace(paper, name="clipped", clip_ratio=1.2),
        "full-scale": replace(paper, name="full-scale", backoff_db=3.0),
        "tracking": replace(air, name="tracking", tracking=(-75, -25, 25, 75)),
        "pilots": replace(air, name="pilots", data_symbols=5, pilot_every=2, tracking=(-75, 25)),
        "large": replace(paper, name="large", fft_size=4096, active=tuple(range(-2000, 2000)), data_symbols=70),
        "no-gap-no-prefix": replace(paper, name="no-gap-no-prefix", gap_samples=0, cp_samples=0, pilot_symbols=3),
    }


LAYOUTS = _variants()


@pytest.fixture(params=sorted(LAYOUTS))
def layout(request: pytest.FixtureRequest) -> FrameLayout:
    return LAYOUTS[request.param]


@pytest.fixture
def make_frames() -> Callable[..., list[FrameContent]]:
    """Frames of random images; the last one carries no payload at all, so that its data symbols are silent."""

    def make(layout: FrameLayout, num_images: int = 9, symbols_per_image: int = 64) -> list[FrameContent]:
        rng = np.random.default_rng(1)
        z = rng.standard_normal((num_images, symbols_per_image, 2)).astype(np.float32).view(np.complex64)[..., 0]
        z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
        ids = tuple(f"im{index}" for index in range(num_images))
        frames = pack_frames(Symbols(z, "00c0ffee", ids, (1, 32, 32), 10.0), layout)
        header = replace(frames[0].header, frame_number=len(frames), num_payload=1, image_ids=("empty",))
        assert isinstance(header, FrameHeader)
        return [*frames, FrameContent(header, np.zeros(layout.capacity, np.complex64))]

    return make
