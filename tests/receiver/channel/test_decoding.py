"""What decoders are told: the noise that is really left on the symbols that they are given."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from receiver.channel.decoding import as_told, decoder_csnr_db, for_decoder
from receiver.codecs.codec import CSNR_RANGE_DB, Codec
from receiver.measurement.antennas import combined
from receiver.measurement.equalise import unshrunk
from receiver.measurement.model import LOST_RATIO, Measurement
from sdr.layout import load_layout
from tests.receiver.simulated import gaussian, make_measurement

TOLD, UNTOLD = (cast(Codec, SimpleNamespace(takes_symbol_csnr=taken)) for taken in (True, False))
PHOTO = replace(load_layout("photo"), clip_ratio=None)
FRAMES, TAPS = 6, 8


def received(kind: str) -> tuple[Measurement, Tensor, Tensor]:
    """Return a measurement of six frames through eight taps, its symbols (6, 4096) and its taps."""
    z, h = gaussian((FRAMES, 4096), 1), gaussian((FRAMES, TAPS), 2) / TAPS**0.5
    layout = replace(PHOTO, clip_ratio=1.5) if kind == "clipped" else PHOTO
    measurement = make_measurement(z, h, 0.2, layout, 1)
    clean = measurement.forward(z, h)
    changes: dict[str, object] = {}
    if kind == "uneven":
        shape = tuple(measurement.y.shape)
        changes["noise_ratio"] = 10 ** (2 * torch.rand(shape, generator=torch.Generator().manual_seed(3)))
    if kind == "moving":
        motion = torch.stack([torch.ones(16), torch.linspace(-1, 1, 16)], dim=1)
        changes["motion"] = motion.expand(FRAMES, 16, 2)
        h = torch.cat([h, 0.5 * gaussian((FRAMES, TAPS), 4) / TAPS**0.5], dim=1)
    if kind in ("time", "carrier", "clipped"):
        changes["mode"] = "carrier" if kind == "carrier" else "time"
    measurement = replace(measurement, **changes)
    clean = measurement.forward(z, h)
    noise = gaussian(tuple(clean.shape), 5) * (measurement.noise_var[:, None, None] * measurement.noise_ratio).sqrt()
    return measurement.with_received(clean + noise), z, h


@pytest.mark.parametrize("kind", ["white", "uneven", "moving", "time", "carrier", "clipped"])
def test_the_noise_told_is_the_noise_left(kind: str) -> None:
    """Symbols of 5 dB and more, and others, are off by as much as is told of them, whatever the mode."""
    measurement, z, h = received(kind)
    given, csnr_db = for_decoder(TOLD, measurement, h)
    assert csnr_db.shape == given.shape == z.shape
    normalised = (given - z).abs().square() * 10 ** (csnr_db / 10)
    strong = csnr_db > 5
    assert 0.05 < float(strong.float().mean()) < 0.95
    for part in (strong, ~strong):
        assert float(normalised[part].mean()) == pytest.approx(1, abs=0.07)


def test_antennas_are_told_as_one_of_their_sum() -> None:
    measurement, z, h = received("white")
    two = replace(
        measurement, antennas=2, cells=measurement.cells[::2], scramble=measurement.scramble[::2],
        csnr_db=measurement.csnr_db[::2], image_ids=measurement.image_ids[::2],
    )  # fmt: skip
    noise = gaussian(tuple(two.y.shape), 6) * two.noise_var[:, None, None].sqrt()
    two = two.with_received(two.forward(z[::2], h) + noise)
    given, csnr_db = for_decoder(TOLD, *combined(two, h))
    normalised = (given - z[::2]).abs().square() * 10 ** (csnr_db / 10)
    assert float(normalised.mean()) == pytest.approx(1, abs=0.05)


def test_what_was_lost_is_nothing_of_no_csnr() -> None:
    measurement, _, h = received("white")
    ratio, y = measurement.noise_ratio.clone(), measurement.y.clone()
    ratio[2], y[2] = LOST_RATIO, 0
    given, csnr_db = for_decoder(TOLD, replace(measurement, noise_ratio=ratio, y=y), h)
    assert not bool(given[2].any()) and float(csnr_db[2].max()) < -60
    assert bool(given.isfinite().all() and csnr_db.isfinite().all())


def test_other_decoders_are_told_one_csnr_of_an_image() -> None:
    measurement, _, h = received("uneven")
    given, csnr_db = for_decoder(UNTOLD, measurement, h)
    torch.testing.assert_close(given, unshrunk(measurement, h))
    torch.testing.assert_close(csnr_db, decoder_csnr_db(measurement))


def test_no_decoder_is_told_more_than_codecs_are_trained_with() -> None:
    snr = 10 ** torch.linspace(1.5, 4.0, 50)[None]
    _, each = as_told(TOLD, torch.ones(1, 50) + 0j, snr, torch.full((1, 1), 1e-3))
    _, one = as_told(UNTOLD, torch.ones(1, 50) + 0j, snr, torch.full((1, 1), 1e-3))
    assert float(10 * (10 ** (each / 10)).mean().log10()) == pytest.approx(CSNR_RANGE_DB[1], abs=1e-3)
    torch.testing.assert_close(each - each[:, :1], 10 * (snr / snr[:, :1]).log10(), rtol=1e-4, atol=1e-4)
    assert one.tolist() == [CSNR_RANGE_DB[1]]
