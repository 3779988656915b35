"""The expected error of an answer, against its closed form and against real ones."""

from __future__ import annotations

import pytest
import torch

from receiver.codecs import LinearCodec
from receiver.samplers.confidence import _OPTIMISM, expected_squared_error, residual_limit
from sdr.layout import load_layout
from tests.receiver.test_blind import make_measurement

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("noise_var", [0.01, 0.1])
def test_the_expected_error_is_that_of_a_linear_codec_in_closed_form(noise_var: float) -> None:
    codec = LinearCodec(SHAPE, 20, torch.Generator().manual_seed(1), normalise=False, scale=8.0)
    x = 0.5 + 0.08 * torch.randn(200, *SHAPE, generator=torch.Generator().manual_seed(2))
    told = torch.full((200,), 10.0)
    h = torch.ones(200, 1, dtype=torch.complex64)
    measurement = make_measurement(codec.encode(x, told), h, noise_var, load_layout("paper"), 1)
    residual = torch.linspace(0.5, 2, 200)
    found = expected_squared_error(measurement, codec, x, h, residual, told, told, torch.Generator().manual_seed(3))
    lost = (x - codec.decode(codec.encode(x, told), told)).square().mean(dim=(1, 2, 3))
    expected = lost + 20 * noise_var / 8.0**2 / 64
    ratio = found / (_OPTIMISM * residual / residual_limit(20, noise_var) * expected)
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
