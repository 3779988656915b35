"""Random crops: from every photograph, inside it, in all eight positions, the same for the same generator."""

from __future__ import annotations

import pytest
import torch

from lab.training.crops import CropPool
from sdr.errors import InputError


def planes() -> list[torch.Tensor]:
    """Two photographs of a brightness of their own, with rising columns in green to see the flips."""
    pictures = [torch.full((3, 200, 260), value) for value in (0.2, 0.8)]
    for picture in pictures:
        picture[1] = torch.linspace(0, 1, 260)
    return pictures


def test_crops_come_from_every_photograph_and_stay_inside() -> None:
    pool = CropPool(planes())
    crops = pool.draw(64, 32, torch.Generator().manual_seed(3))
    assert crops.shape == (64, 3, 32, 32) and float(crops.min()) >= 0 and float(crops.max()) <= 1
    assert {round(value, 1) for value in crops[:, 0].mean(dim=(1, 2)).tolist()} == {0.2, 0.8}
    slopes = crops[:, 1].diff(dim=2).mean(dim=(1, 2)), crops[:, 1].diff(dim=1).mean(dim=(1, 2))
    for along, across in (slopes, slopes[::-1]):
        assert bool((along[across.abs() < 1e-4] > 1e-4).any()) and bool((along[across.abs() < 1e-4] < -1e-4).any())
    assert torch.equal(crops, pool.draw(64, 32, torch.Generator().manual_seed(3)))


def test_a_crop_is_a_part_of_a_copy_pixel_by_pixel() -> None:
    picture = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(1)).float() / 255
    crops = CropPool([picture], scales=()).draw(20, 7, torch.Generator().manual_seed(2))
    windows = picture.unfold(1, 7, 1).unfold(2, 7, 1).permute(1, 2, 0, 3, 4).reshape(-1, 3, 7, 7)
    turned = [windows, windows.mT]
    turned = torch.cat([part.flip(axes) for part in turned for axes in ((), (2,), (3,), (2, 3))])
    for crop in crops:
        assert bool((turned == crop).flatten(1).all(dim=1).any())


def test_large_crops_come_from_large_enough_copies_only() -> None:
    pictures = [torch.zeros(3, 64, 90), torch.ones(3, 300, 280)]
    pool = CropPool(pictures, scales=(100, 200))
    assert {float(value) for value in pool.draw(32, 150, torch.Generator().manual_seed(0))[:, 0, 0, 0]} == {1.0}
    assert {float(value) for value in pool.draw(32, 60, torch.Generator().manual_seed(0))[:, 0, 0, 0]} == {0.0, 1.0}
    with pytest.raises(InputError, match="301 pixels"):
        pool.draw(1, 301, torch.Generator())
    with pytest.raises(InputError, match="found none"):
        CropPool([])
