"""Symbols refined for one image: better for it, still of unit power, and no change where nothing can be gained."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from receiver.bundles.bundle import load_bundle
from receiver.codecs.codec import Codec
from receiver.codecs.linear import LinearCodec
from receiver.images.files import load_image_folder
from sdr.errors import ConfigError
from transmitter.refine import encode_refined

CSNR_DB = 7.0


def error_of(codec: Codec, z: Tensor, images: Tensor) -> float:
    """Mean log squared error over noise that no refining has seen."""
    generator = torch.Generator().manual_seed(99)
    noise_std = 10 ** (-CSNR_DB / 20)
    errors = []
    with torch.no_grad():
        for _ in range(8):
            noise = torch.randn(z.shape, dtype=torch.complex64, generator=generator) * noise_std
            errors.append((codec.decode(z + noise, CSNR_DB) - images).square().mean(dim=(1, 2, 3)).log())
    return float(torch.stack(errors).mean())


@pytest.mark.parametrize(("name", "steps"), [("fashion", 10), ("photo", 20), ("photo24", 40)])
def test_refined_symbols_bring_the_image_back_better(name: str, steps: int) -> None:
    bundle = load_bundle(name)
    images = load_image_folder(bundle.samples, bundle.accepted_shape)[1][:3, :, :64, :64]
    codec = bundle.codec.for_shape((images.shape[1], images.shape[2], images.shape[3]))
    told: list[int] = []
    plain = encode_refined(codec, images, CSNR_DB, 0)
    refined = encode_refined(codec, images, CSNR_DB, steps, on_step=told.append)
    assert torch.equal(plain, codec.encode(images, CSNR_DB)) and sum(told) == 3 * steps
    assert not refined.requires_grad
    torch.testing.assert_close(refined.abs().square().mean(dim=1), torch.ones(3))
    assert error_of(codec, refined, images) < error_of(codec, plain, images) - 0.02
    torch.testing.assert_close(encode_refined(codec, images, CSNR_DB, steps), refined)  # the same noise every time


def test_the_symbols_of_a_codec_that_is_the_best_one_stay_where_they_are() -> None:
    # The rows of the decoder are orthonormal: no unit-power symbols are nearer to an image than the encoder's.
    codec = LinearCodec((1, 8, 8), 16, torch.Generator().manual_seed(0))
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain, refined = (encode_refined(codec, images, CSNR_DB, steps) for steps in (0, 60))
    # It jitters with the noise that was rehearsed, and no direction is preferred.
    assert float((refined - plain).abs().square().mean()) < 0.05
    assert error_of(codec, refined, images) > error_of(codec, plain, images) - 0.02


def test_less_than_no_step_is_refused() -> None:
    codec = LinearCodec((1, 4, 4), 4, torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match="-1 refining steps"):
        encode_refined(codec, torch.rand(1, 1, 4, 4), CSNR_DB, -1)
