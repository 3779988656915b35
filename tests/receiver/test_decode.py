"""From recordings to images with the shipped models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from receiver.acceptance import residual_limit
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.channel.prior import channel_prior
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_image_folder
from receiver.results import DecodeResult
from receiver.samplers.variants import method_settings
from sdr.errors import ConfigError, ModelError
from sdr.framing import pack_frames
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle()


@pytest.fixture(scope="module")
def originals(bundle: Bundle) -> dict[str, Tensor]:
    ids, images = load_image_folder(bundle.samples, bundle.image_shape)
    return dict(zip(ids[:16], images[:16], strict=True))


def record(
    bundle: Bundle, originals: dict[str, Tensor], layout: FrameLayout, csnr_db: float = 10.0, digest: str | None = None
) -> Recording:
    with torch.no_grad():
        z = bundle.codec.encode(torch.stack(list(originals.values())), 10.0)
    symbols = Symbols(z.numpy(), digest or bundle.codec.digest, tuple(originals), bundle.image_shape, 10.0)
    uri = f"sim:csnr_db={csnr_db},taps=8,decay=4,cfo_hz=300,seed=5,block_samples={layout.frame_samples}"
    with open_radio(uri, layout=layout) as radio:
        radio.transmit(modulate_stream(pack_frames(symbols, layout), layout))
        return radio.receive()


def psnr_db(result: DecodeResult, originals: dict[str, Tensor]) -> np.ndarray:
    errors = [np.mean((image.image - originals[image.id].numpy()) ** 2) for image in result.images]
    return -10 * np.log10(errors)


@pytest.fixture(scope="module")
def paper(bundle: Bundle, originals: dict[str, Tensor]) -> Recording:
    return record(bundle, originals, load_layout("paper"))


@pytest.mark.parametrize("method", ["jscc", "hifi", "blind"])
def test_every_image_arrives(method: str, bundle: Bundle, originals: dict[str, Tensor], paper: Recording) -> None:
    result = decode_recording(paper, load_layout("paper"), bundle, [method])
    assert [image.id for image in result.images] == list(originals)
    assert len(result.frames) == 4 and all(frame.header_ok for frame in result.frames)
    assert all(abs(frame.cfo_hz - 300) < 10 for frame in result.frames)
    assert not result.incomplete
    # Means over 16 images; the same images without any channel but noise give about 23 dB.
    assert psnr_db(result, originals).mean() > 19.5
    assert np.median([image.residual for image in result.images]) < 2
    assert all(image.accepted for image in result.images)


@pytest.mark.parametrize(("spread", "decay"), [(4, 2.0), (4, 8.0), (16, 2.0), (16, 8.0), (8, 2.0), (8, 8.0)])
def test_a_prior_that_is_wrong_by_two_costs_little(
    spread: int, decay: float, bundle: Bundle, originals: dict[str, Tensor], paper: Recording
) -> None:
    """Eight taps of decay 4 were sent. A prior of four taps used to cost 3 dB."""
    layout = load_layout("paper")
    right, wrong = (
        psnr_db(decode_recording(paper, layout, bundle, ["jscc"], DecodeSettings(**prior)), originals)
        for prior in ({}, {"spread": spread, "decay": decay})
    )
    assert wrong.mean() > right.mean() - 0.2


def test_without_pilots_only_blind_decoding_works(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    layout = load_layout("blind")
    recording = record(bundle, originals, layout)
    result = decode_recording(recording, layout, bundle, ["blind"])
    assert psnr_db(result, originals).mean() > 19.5
    assert all(estimate is None for estimate in result.estimates)
    with pytest.raises(ConfigError, match="blind"):
        decode_recording(recording, layout, bundle, ["hifi"])


def test_batches_change_nothing_for_the_deterministic_decoder(bundle: Bundle, paper: Recording) -> None:
    layout = load_layout("paper")
    settings = [DecodeSettings(batch_size=size) for size in (64, 4)]
    whole, parts = (decode_recording(paper, layout, bundle, ["jscc"], one) for one in settings)
    assert [image.id for image in whole.images] == [image.id for image in parts.images]
    for one, other in zip(whole.images, parts.images, strict=True):
        np.testing.assert_allclose(one.image, other.image, atol=1e-4)


@pytest.mark.parametrize("method", ["jscc", "hifi"])
def test_little_noise_is_no_reason_to_reject(method: str, bundle: Bundle, originals: dict[str, Tensor]) -> None:
    """At 30 dB the codec's own mismatch exceeds the noise; right answers are accepted all the same."""
    layout = load_layout("paper")
    result = decode_recording(record(bundle, originals, layout, 30.0), layout, bundle, [method])
    assert np.mean([image.accepted for image in result.images]) > 0.9
    if method == "hifi":
        assert np.median([image.residual for image in result.images]) < 6


def test_images_that_span_frames(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    """Frames of 40 symbols for images of 64; a lost frame is told, and its image is not accepted."""
    paper = load_layout("paper")
    narrow = replace(paper, name="narrow", tracking=tuple(range(-128, 88)), image_slots=1)
    assert narrow.capacity == 40
    few = dict(list(originals.items())[:3])
    recording = record(bundle, few, narrow, 20.0)
    for method in ("jscc", "blind"):
        result = decode_recording(recording, narrow, bundle, [method])
        assert [image.id for image in result.images] == list(few)
        assert psnr_db(result, few).mean() > 18
    first = result.synced[0]
    spoiled = recording.samples.copy()
    spoiled[first.start : first.start + narrow.frame_samples] = 0
    result = decode_recording(replace(recording, samples=spoiled), narrow, bundle, ["jscc"])
    assert result.partial and not result.incomplete
    assert [image.lost for image in result.images] == pytest.approx([40 / 64, 0, 0])
    assert [image.accepted for image in result.images] == [False, True, True]


def test_images_of_another_codec_are_refused(bundle: Bundle, originals: dict[str, Tensor]) -> None:
    layout = load_layout("paper")
    foreign = record(bundle, originals, layout, digest="0123abcd")
    with pytest.raises(ModelError, match="0123abcd"):
        decode_recording(foreign, layout, bundle, ["jscc"])


def test_noise_alone_gives_nothing(bundle: Bundle) -> None:
    noise = torch.randn(50_000, dtype=torch.complex64, generator=torch.Generator().manual_seed(1)).numpy() * 0.01
    result = decode_recording(Recording(noise), load_layout("paper"), bundle, ["jscc"])
    assert result.frames == () and result.images == ()


def test_fewer_steps_pull_harder() -> None:
    assert method_settings("hifi").steps == 20
    assert method_settings("hifi", 5).zeta > method_settings("hifi").zeta
    assert method_settings("hifi", 20) == method_settings("hifi")
    with pytest.raises(ConfigError, match="method"):
        method_settings("hify")


def test_limit_and_prior_are_sane() -> None:
    assert residual_limit(64, 0.1) < residual_limit(64, 0.001)
    # A wrong image is off by about twice the symbol power, far above the limit at any SNR.
    for noise_var in (0.3, 0.1, 0.01, 0.001):
        assert residual_limit(64, noise_var) < (2 + noise_var) / noise_var
    for name in ("paper", "air", "blind"):
        prior = channel_prior(load_layout(name))
        assert float(prior.power.sum()) == pytest.approx(1, abs=1e-2)
        assert prior.num_taps <= load_layout(name).cp_samples + 1
