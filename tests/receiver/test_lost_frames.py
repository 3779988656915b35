"""Images that span frames, some of which never arrived."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import decode_recording
from receiver.images.files import load_images
from receiver.lost_frames import with_lost_frames
from receiver.measurement.collect import measure_frames
from receiver.sync.frame import SyncedFrame
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.errors import InputError
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from tests.receiver.spanning import PHOTO, sent, synced
from transmitter.encode import encode_images

#: Two photographs side by side, so that a frame holds half of the rows.
SHAPE = (3, 256, 512)


def numbers(frames: list[SyncedFrame]) -> list[tuple[int, bool]]:
    return [(frame.header.frame_number, frame.lost) for frame in frames if frame.header is not None]


@pytest.mark.parametrize("lost", [{1}, {0}, {3}, {0, 1, 3}, {2, 5}, {3, 4}])
def test_placeholders_take_the_places_of_lost_frames(lost: set[int]) -> None:
    every = sent()
    filled = with_lost_frames([frame for index, frame in enumerate(every) if index not in lost], PHOTO)
    assert numbers(filled) == [(index, index in lost) for index in range(8)]
    for frame, original in zip(filled, every, strict=True):
        assert frame.header == original.header and frame.start == original.start
        assert bool(frame.grid.any()) == (not frame.lost)


def test_nothing_is_put_where_nothing_is_lacking() -> None:
    whole = sent()
    assert with_lost_frames(whole, PHOTO) == whole
    small = sent(PHOTO.capacity // 2)
    assert with_lost_frames(small[:1], PHOTO) == small[:1]
    assert with_lost_frames([], PHOTO) == []


def test_a_copy_that_is_whole_makes_up_for_one_that_is_not() -> None:
    whole = sent(ids=("a",))
    again = [synced(replace(f.header, frame_number=10 + i)) for i, f in enumerate(whole) if f.header is not None]
    assert not any(frame.lost for frame in with_lost_frames(whole[2:] + again, PHOTO))
    two = with_lost_frames(whole[2:3] + again[1:], PHOTO)
    assert [number for number, lost in numbers(two) if lost] == [10]


def test_what_means_nothing_in_part_is_not_completed() -> None:
    frames = [frame for frame in sent(ids=("a",)) if frame.header is not None]
    with_side = [replace(f, header=replace(f.header, side_bytes=9)) for f in frames if f.header is not None]
    assert with_lost_frames(with_side[1:], PHOTO) == with_side[1:]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle("photo")


@pytest.fixture(scope="module")
def photograph(bundle: Bundle) -> torch.Tensor:
    _, images = load_images(bundle.samples, bundle.accepted_shape)
    return torch.cat([images[2], images[3]], dim=2)


@pytest.fixture(scope="module")
def recording(bundle: Bundle, photograph: torch.Tensor) -> Recording:
    codec = bundle.for_shape(SHAPE).codec
    frames = encode_images(["twin"], photograph[None], codec, PHOTO, 10.0).frames
    noise_var = noise_var_for_csnr(PHOTO, 10.0)
    return Recording(apply_awgn(modulate_stream(frames, PHOTO, 500), noise_var, np.random.default_rng(0)))


def without(recording: Recording, frame: int) -> Recording:
    samples = recording.samples.copy()
    first = 500 + frame * PHOTO.frame_samples
    silence = np.zeros(PHOTO.frame_samples, np.complex64)
    samples[first : first + silence.size] = apply_awgn(
        silence, noise_var_for_csnr(PHOTO, 10.0), np.random.default_rng(1)
    )
    return Recording(samples)


@pytest.mark.parametrize("lost", [0, 1])
def test_what_arrived_is_decoded_and_what_did_not_is_told(
    lost: int, bundle: Bundle, photograph: torch.Tensor, recording: Recording
) -> None:
    whole = decode_recording(recording, PHOTO, bundle, ["jscc"])
    part = decode_recording(without(recording, lost), PHOTO, bundle, ["jscc"])
    assert not whole.partial and whole.images[0].lost == 0
    assert part.partial and part.images[0].lost == 0.5 and part.incomplete == ()
    assert part.images[0].frame_number == 1 - lost
    assert part.images[0].residual < part.images[0].residual_limit
    assert part.images[0].expected_psnr_db < 13.5 and not part.images[0].accepted
    # Two blocks from what was lost, which they would have been decoded with.
    arrived = slice(160, 256) if lost == 0 else slice(0, 96)

    def psnr_db(image: np.ndarray, rows: slice) -> float:
        return -10 * float(np.log10(np.mean((image - photograph.numpy())[:, rows] ** 2)))

    assert psnr_db(part.images[0].image, arrived) > psnr_db(whole.images[0].image, arrived) - 0.5


def test_lost_symbols_count_in_no_residual(bundle: Bundle, photograph: torch.Tensor, recording: Recording) -> None:
    found = decode_recording(without(recording, 1), PHOTO, bundle, ["jscc"]).synced
    measured = measure_frames(with_lost_frames(found, PHOTO), PHOTO)
    assert measured.arrived.float().mean() == 0.5 and measured.noise_ratio.isfinite().all()
    z = bundle.for_shape(SHAPE).codec.encode(photograph[None], 10.0)
    h = torch.zeros(2, 4, dtype=torch.complex64)
    h[0, found[0].advance] = 1
    changed = torch.where(measured.arrived, z, -z)
    assert torch.allclose(measured.residual(z, h), measured.residual(changed, h), rtol=1e-4)
    with pytest.raises(InputError, match="No image is complete"):
        measure_frames(found, PHOTO)


def test_an_image_decodes_alike_beside_one_that_lacks_a_frame(bundle: Bundle, photograph: torch.Tensor) -> None:
    codec = bundle.for_shape(SHAPE).codec
    z = codec.encode(torch.stack([photograph, photograph.flip(2)]), 10.0)
    z[1, : PHOTO.capacity] = 0
    both = codec.decode(z, 10.0)
    assert torch.allclose(both[:1], codec.decode(z[:1], 10.0), atol=1e-4)
    assert torch.allclose(both[1:], codec.decode(z[1:], 10.0), atol=1e-4)
    assert both.isfinite().all()
