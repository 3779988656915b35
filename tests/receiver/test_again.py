"""A receiver that asks again is better for it, and asks by what it knows alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from receiver.again import AskingReceiver
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import load_images
from receiver.results import DecodeResult
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.errors import ConfigError
from sdr.framing import FrameContent
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from sdr.repeat_request import RepeatRequest
from transmitter.again import Repeater
from transmitter.encode import Transmission, encode_images

PAPER, PHOTO = load_layout("paper"), load_layout("photo")
COUNT = 16


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("fashion")


@pytest.fixture(scope="module")
def images(bundle: Bundle) -> torch.Tensor:
    return torch.stack(list(load_images(bundle.samples, bundle.accepted_shape)[1])[:COUNT])


@pytest.fixture(scope="module")
def transmission(bundle: Bundle, images: torch.Tensor) -> Transmission:
    return encode_images([f"i{index}" for index in range(COUNT)], images, bundle.codec, PAPER, 0.0)


def air(
    frames: Sequence[FrameContent], seed: int, lost: Sequence[int] = (), csnr_db: float = 3.0, fades: bool = True
) -> Recording:
    """Return what arrives behind fading and noise, all but these frames."""
    layout = PAPER if frames[0].header.layout_digest == PAPER.digest else PHOTO
    sent = modulate_stream(frames, layout, 0)
    rng = np.random.default_rng(seed)
    if fades:
        sent = Impairments(taps=8, block_samples=layout.frame_samples).apply(sent, layout.rate_sps, rng).samples
    for frame in lost:
        sent[frame * layout.frame_samples : (frame + 1) * layout.frame_samples] = 0
    quiet = np.zeros(700, np.complex64)
    samples = np.concatenate([quiet, sent, quiet])
    return Recording(apply_awgn(samples, noise_var_for_csnr(layout, csnr_db), rng))


def psnr_db(result: DecodeResult, images: torch.Tensor) -> np.ndarray:
    found = {image.id: image.image for image in result.images}
    return np.array(
        [-10 * np.log10(np.mean((found[f"i{index}"] - image.numpy()) ** 2)) for index, image in enumerate(images)]
    )


def asked(receiver: AskingReceiver, repeater: Repeater, share: float, **options: bool) -> list[FrameContent]:
    """Return the answer to the receiver's request, by way of JSON."""
    return repeater.answer(RepeatRequest.from_json(receiver.ask(share, **options).to_json()))


def test_what_is_sent_again_makes_images_better(
    bundle: Bundle, images: torch.Tensor, transmission: Transmission
) -> None:
    receiver, repeater = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings()), Repeater(transmission)
    first = air(transmission.frames, 1)
    receiver.hear(first)
    once = psnr_db(receiver.result, images)
    before = receiver.result
    for seed in (2, 3):
        receiver.hear(air(asked(receiver, repeater, 0.5), seed))
    result = receiver.result
    gain = psnr_db(result, images) - once
    assert repeater.channel_uses == pytest.approx(2 * COUNT * 64, rel=0.01)
    assert gain.mean() > 1.0 and gain.mean() > 4 * gain.std() / COUNT**0.5
    assert len(result.images) == COUNT and [image.id for image in result.images] == [i.id for i in before.images]
    times = repeater.times
    for image, old in zip(result.images, before.images, strict=True):
        assert (image.receptions or 1.0) == pytest.approx(times[image.id])
        assert image.cbr == pytest.approx(old.cbr * times[image.id])
        assert (image.frame_number, image.start_sample) == (old.frame_number, old.start_sample)
        assert 0.5 < image.residual < 1.6
    assert not result.absent and len(result.frames) == repeater.num_frames == len(result.estimates)
    starts = [frame.start_sample for frame in result.frames]
    assert starts == sorted(starts) and starts[len(transmission.frames)] > first.num_samples


def test_the_symbols_asked_for_are_those_received_worst(bundle: Bundle, transmission: Transmission) -> None:
    receiver = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings())
    receiver.hear(air(transmission.frames, 1))
    request = receiver.ask(0.3)
    assert request.num_symbols == round(0.3 * COUNT * 64) and not request.frames
    assert request.heard == len(transmission.frames) - 1
    # Against the channel itself: the same frames without noise tell every symbol's gain.
    clean = decode_recording(air(transmission.frames, 1, csnr_db=60.0), PAPER, bundle, ["jscc"])
    gains = {}
    for frame, estimate in zip(clean.synced, clean.estimates, strict=True):
        assert frame.header is not None and estimate is not None
        power = frame.signal_power * np.abs(estimate.response[PAPER.cell_index % PAPER.fft_size]) ** 2
        for index, image_id in enumerate(frame.header.image_ids):
            gains[image_id] = power[index * 64 : (index + 1) * 64]
    mean = np.mean(list(gains.values()))
    wanted = np.concatenate([gains[each.image][each.indices] for each in request.symbols])
    assert wanted.mean() < 0.5 * mean


def test_whole_images_asked_for_are_those_thought_worst(bundle: Bundle, transmission: Transmission) -> None:
    receiver = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings())
    receiver.hear(air(transmission.frames, 1))
    request = receiver.ask(0.25, whole_images=True)
    expected = {image.id: image.expected_psnr_db for image in receiver.result.images}
    worst = sorted(expected, key=lambda image_id: expected[image_id])[: COUNT // 4]
    assert {wanted.image for wanted in request.symbols} == set(worst)
    assert all(wanted.indices.size == 64 for wanted in request.symbols)


@pytest.mark.parametrize("lost", [(0,), (1, 2), (3,), (0, 1, 2, 3)])
def test_lost_frames_are_asked_for(lost: tuple[int, ...], bundle: Bundle, transmission: Transmission) -> None:
    receiver, repeater = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings()), Repeater(transmission)
    receiver.hear(air(transmission.frames, 5, lost, csnr_db=10.0))
    assert len(receiver.result.images) == COUNT - 4 * len(lost)
    # What is sent again is lost once, too.
    receiver.hear(air(asked(receiver, repeater, 0.1), 6, [0], csnr_db=10.0))
    receiver.hear(air(asked(receiver, repeater, 0.1), 7, csnr_db=10.0))
    assert {image.id for image in receiver.result.images} == set(transmission.ids)
    assert not receiver.result.seen and not receiver.result.incomplete
    assert all(image.expected_psnr_db > 12 for image in receiver.result.images)


def test_a_part_of_a_photograph_that_was_lost_is_filled_in() -> None:
    photo = load_bundle("photo")
    _, found = load_images(photo.samples, photo.accepted_shape)
    wide = torch.cat([found[2][:, :128, :256], found[3][:, :128, :256], found[4][:, :128, :256]], dim=2)
    codec = photo.for_shape((3, 128, 768)).codec
    sent = encode_images(["wide"], wide[None], codec, PHOTO, 10.0)
    assert len(sent.frames) == 2
    receiver, repeater = AskingReceiver(PHOTO, photo, ["jscc"], DecodeSettings()), Repeater(sent)
    receiver.hear(air(sent.frames, 1, [0], csnr_db=10.0, fades=False))
    (part,) = receiver.result.images
    assert part.lost > 0.4
    receiver.hear(air(asked(receiver, repeater, 0.1), 2, csnr_db=10.0, fades=False))
    (whole,) = receiver.result.images
    assert whole.lost == 0 and whole.expected_psnr_db > part.expected_psnr_db + 4
    assert np.mean((whole.image - wide.numpy()) ** 2) < 0.25 * np.mean((part.image - wide.numpy()) ** 2)


def test_answers_mean_nothing_to_who_did_not_ask(bundle: Bundle, transmission: Transmission) -> None:
    receiver, repeater = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings()), Repeater(transmission)
    first = air(transmission.frames, 1)
    receiver.hear(first)
    second = air(asked(receiver, repeater, 0.5), 2)
    joined = Recording(np.concatenate([first.samples, second.samples]))
    alone = decode_recording(first, PAPER, bundle, ["jscc"])
    both = decode_recording(joined, PAPER, bundle, ["jscc"])
    assert len(both.frames) > len(alone.frames)
    for one, two in zip(alone.images, both.images, strict=True):
        assert np.allclose(one.image, two.image, atol=1e-3)


def test_nothing_heard_leaves_all_as_it_was(bundle: Bundle, transmission: Transmission) -> None:
    receiver, repeater = AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings()), Repeater(transmission)
    receiver.hear(air(transmission.frames, 1))
    before = receiver.result.images
    frames = asked(receiver, repeater, 0.2)
    receiver.hear(air(frames, 2, range(len(frames))))
    assert receiver.result.images == before


@pytest.mark.parametrize("method", ["blind", "blind-jscc", "avif-ldpc"])
def test_what_is_not_combined_is_refused(method: str, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="leave --retransmit out"):
        AskingReceiver(PAPER, bundle, ["jscc", method], DecodeSettings())


def test_a_layout_without_pilots_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="pilots"):
        AskingReceiver(load_layout("blind"), bundle, ["jscc"], DecodeSettings())


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_out_of_range_is_refused(share: float, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match="share"):
        AskingReceiver(PAPER, bundle, ["jscc"], DecodeSettings()).ask(share)
