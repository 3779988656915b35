"""Noise of every cell: found where it is uneven, left alone where it is not, and counted by all that decodes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.benchmarks.uneven_noise import measure, noise_chain, record, true_noise
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.channel.conditional import conditional_channel
from receiver.channel.prior import ChannelPrior
from receiver.images.files import load_image_folder
from receiver.measurement.collect import MODEL_ERROR_VAR, measure_frames
from receiver.measurement.equalise import equalise, unshrunk
from receiver.measurement.model import Measurement
from receiver.measurement.noise import CellNoise, measure_noise
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames
from receiver.sync.prefix import find_frames_by_prefix
from sdr.errors import ConfigError
from sdr.framing import pack_frames
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.symbols import Symbols
from tests.receiver.simulated import gaussian, make_measurement

PHOTO = load_layout("photo")
COUNT = 6


def frames(kind: str, csnr_db: float, kurtosis: float = 3.0) -> list[SyncedFrame]:
    """Frames full of symbols whose squared magnitudes spread by `kurtosis`."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((COUNT, PHOTO.capacity, 2)).view(np.complex128)[..., 0]
    z = (z * rng.gamma(1 / (kurtosis - 2), size=z.shape) ** 0.5 if kurtosis > 2 else z).astype(np.complex64)
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    symbols = Symbols(z, "00000000", tuple(f"i{i}" for i in range(COUNT)), (3, 256, 256), 10.0)
    sent = modulate_stream(pack_frames(symbols, PHOTO), PHOTO, 0)
    return [frame for frame in find_frames(record(kind, sent, PHOTO, csnr_db, 1), PHOTO) if frame.header is not None]


@pytest.mark.parametrize("csnr_db", [0.0, 10.0, 20.0])
def test_white_noise_is_found_white(csnr_db: float) -> None:
    found = frames("white", csnr_db)
    assert len(found) == COUNT
    for frame in found:
        noise = measure_noise(frame, PHOTO)
        assert noise.level == pytest.approx(frame.noise_var, rel=0.06) and noise.level <= frame.noise_var
        for ratios in (noise.data, noise.pilots):
            assert np.abs(10 * np.log10(ratios)).max() < 1.5 and ratios.mean() == pytest.approx(1, abs=0.08)


@pytest.mark.parametrize(("kind", "csnr_db"), [("jam", 0.0), ("jam", 10.0), ("burst", 0.0), ("burst", 10.0)])
def test_uneven_noise_is_found_where_it_is(kind: str, csnr_db: float) -> None:
    truth, found = true_noise(kind, PHOTO, csnr_db), frames(kind, csnr_db)
    assert len(found) >= COUNT - 1
    for frame in found:
        noise = measure_noise(frame, PHOTO)
        assert noise.level == pytest.approx(truth.level, rel=0.15)
        error_db = 10 * np.log10(noise.data * noise.level / (truth.data * truth.level))
        assert np.abs(error_db).mean() < 0.7
        struck = truth.data > 10
        assert struck.any() and np.abs(error_db[struck]).mean() < 2.5


def test_a_frame_of_which_nothing_is_known_has_white_noise() -> None:
    frame = replace(frames("jam", 10.0)[0], error_var=float("nan"))
    noise = measure_noise(frame, PHOTO)
    assert noise.level == frame.noise_var and (noise.data == 1).all() and (noise.pilots == 1).all()


def frames_by_prefix(kind: str, count: int, csnr_db: float = 10.0) -> tuple[list[SyncedFrame], FrameLayout]:
    """Frames of Gaussian symbols that are found by their prefix, told what was sent."""
    layout = load_layout("photo-blind")
    parts = np.random.default_rng(0).standard_normal((count, layout.capacity, 2))
    z = parts.view(np.complex128)[..., 0]
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    ids = tuple(f"i{i}" for i in range(count))
    contents = pack_frames(Symbols(z.astype(np.complex64), "00000000", ids, (3, 256, 256), 10.0), layout)
    heard = record(kind, modulate_stream(contents, layout, 0), layout, csnr_db, 1)
    return find_frames_by_prefix(heard, layout, [content.header for content in contents]), layout


@pytest.mark.parametrize("count", [1, 8])
def test_white_noise_of_silence_is_found_white(count: int) -> None:
    found, layout = frames_by_prefix("white", count)
    assert len(found) == count
    for frame in found:
        noise = measure_noise(frame, layout)
        assert noise.level == pytest.approx(frame.noise_var, rel=0.3)
        assert np.abs(10 * np.log10(noise.data)).mean() < 0.6


@pytest.mark.parametrize("kind", ["jam", "burst"])
def test_uneven_noise_of_frames_found_by_their_prefix_is_found_where_it_is(kind: str) -> None:
    found, layout = frames_by_prefix(kind, 8)
    truth = true_noise(kind, layout, 10.0)
    true, struck = truth.data * truth.level, truth.data > 10
    assert len(found) >= 7 and struck.any()
    for frame in found:
        noise = measure_noise(frame, layout)
        error_db = 10 * np.log10(noise.data * noise.level / true)
        one_variance_db = 10 * np.log10(frame.noise_var / true)
        # A gap is a third of a symbol, so that what is next to a jammed band is taken to be jammed, too.
        assert np.abs(error_db[struck]).mean() < 4 and np.median(np.abs(error_db[~struck])) < 1.5
        assert np.abs(error_db).mean() < 0.5 * np.abs(one_variance_db).mean()


def uneven(seed: int = 0) -> tuple[Measurement, torch.Tensor, torch.Tensor, Measurement]:
    """A measurement whose cells differ in noise, its symbols and taps, and the same with white noise."""
    layout, prior = load_layout("paper"), torch.tensor([0.7, 0.2, 0.1])
    z, h = gaussian((16, 64), seed), gaussian((4, 3), seed + 1) * prior.sqrt()
    white = make_measurement(z, h, 0.05, layout, 4, seed)
    ratio = 10 ** (2 * torch.rand(white.y.shape, generator=torch.Generator().manual_seed(seed)))
    noise = (white.y - white.forward(z, h)) * ratio.sqrt()
    return replace(white, y=white.forward(z, h) + noise, noise_ratio=ratio), z, h, white


def test_the_likelihood_weighs_cells_by_their_noise() -> None:
    measurement, z, h, white = uneven()
    assert torch.allclose(measurement.distance(z, h), white.distance(z, h), rtol=1e-4)
    assert torch.allclose(measurement.residual(z, h), white.residual(z, h), rtol=1e-4)
    expected = white.log_likelihood(z, h) - measurement.cell_noise_ratio.log().sum(dim=1)
    assert torch.allclose(measurement.log_likelihood(z, h), expected, rtol=1e-4)


def test_equaliser_and_taps_are_better_for_knowing_the_noise() -> None:
    measurement, z, h, _ = uneven()
    ignoring = replace(measurement, noise_ratio=torch.full_like(measurement.noise_ratio, 21.5))
    known, ignored = ((equalise(m, h) - z).abs().square().mean() for m in (measurement, ignoring))
    assert known < 0.85 * ignored
    prior = ChannelPrior(torch.tensor([0.7, 0.2, 0.1]))
    known, ignored = (
        (conditional_channel(m, z, prior).mean - h).abs().square().mean() for m in (measurement, ignoring)
    )
    assert known < 0.7 * ignored


def test_a_cell_of_endless_noise_says_nothing() -> None:
    measurement, _, h, _ = uneven()
    ratio = measurement.noise_ratio.clone()
    ratio.view(-1)[measurement.cells[:, :8]] = 1e8
    blinded = replace(measurement, noise_ratio=ratio)
    assert unshrunk(blinded, h)[:, :8].abs().max() < 1e-4
    assert torch.allclose(unshrunk(blinded, h)[:, 8:], unshrunk(measurement, h)[:, 8:])


def test_ratios_that_are_none_are_refused() -> None:
    measurement = uneven()[0]
    with pytest.raises(ConfigError, match="positive"):
        replace(measurement, noise_ratio=torch.zeros_like(measurement.noise_ratio))
    with pytest.raises(ConfigError, match="noise_ratio has shape"):
        replace(measurement, noise_ratio=torch.ones(1, 2, 3))


def test_the_model_is_never_trusted_more_than_it_deserves() -> None:
    def too_good(frame: SyncedFrame, layout: object) -> CellNoise:
        return replace(CellNoise.even(1e-12, PHOTO), data=np.full((16, 256), 0.5))

    measured = measure_frames(frames("white", 10.0), PHOTO, noise=too_good)
    assert torch.allclose(measured.noise_var[:, None, None] * measured.noise_ratio, torch.tensor(MODEL_ERROR_VAR))


def test_decoding_is_as_good_as_with_the_noise_known() -> None:
    bundle: Bundle = load_bundle("fashion")
    ids, images = load_image_folder(bundle.samples, bundle.image_shape)
    originals = dict(zip(ids[:32], images[:32], strict=True))
    rows = measure(bundle, originals, load_layout("paper"), ["jscc"], kinds=["white", "jam"])
    delta_db = {(row.noise, row.receiver): row.delta_db for row in rows}
    assert delta_db["white", "measured"] > delta_db["white", "one variance"] - 0.03
    assert delta_db["jam", "measured"] > -0.1 and delta_db["jam", "one variance"] < -0.8


def test_a_jammed_chain_is_twenty_decibels_above_the_noise() -> None:
    truth = true_noise("jam", PHOTO, 10.0)
    power_db = 10 * np.log10(truth.data[0] * truth.level / noise_chain("white", PHOTO, 10.0).noise_var)
    assert np.sort(power_db)[-10:].mean() == pytest.approx(20, abs=0.7)
    assert np.sort(power_db)[:240].mean() == pytest.approx(0, abs=0.5)
