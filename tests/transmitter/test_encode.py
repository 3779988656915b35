"""Transmissions: what is encoded is what the frames hold, and what the samples carry."""

import numpy as np
import pytest
import torch

from receiver.codecs.linear import LinearCodec
from sdr.errors import InputError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.symbols import Symbols
from transmitter.encode import Transmission, check_unique, encode_images

LAYOUT = load_layout("paper")
CODEC = LinearCodec((1, 8, 8), 24, torch.Generator().manual_seed(0))
IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
IDS = ["a", "b", "c", "d", "e"]


def test_a_transmission_holds_the_encoder_s_symbols_in_frames() -> None:
    sent = encode_images(IDS, IMAGES, CODEC, LAYOUT, 7.0, first_frame=3)
    (symbols,) = sent.symbols
    np.testing.assert_array_equal(symbols.z, CODEC.encode(IMAGES, 7.0).numpy())
    assert sent.ids == tuple(IDS) and symbols.csnr_db == 7.0 and symbols.codec_digest == CODEC.digest
    expected = pack_frames(symbols, LAYOUT, first_frame=3)
    assert [frame.header for frame in sent.frames] == [frame.header for frame in expected]
    for gap in (None, 0):
        np.testing.assert_array_equal(sent.samples(gap), modulate_stream(expected, LAYOUT, gap))


def test_frames_of_several_shapes_are_numbered_through() -> None:
    z = np.ones((2, LAYOUT.capacity), np.complex64)
    shapes = ((1, 8, 8), (1, 8, 16))
    several = [Symbols(z, "00c0ffee", (f"a{index}", f"b{index}"), shape, 10.0) for index, shape in enumerate(shapes)]
    sent = Transmission.of(several, LAYOUT, first_frame=5)
    assert sent.ids == ("a0", "b0", "a1", "b1")
    assert [frame.header.frame_number for frame in sent.frames] == [5, 6, 7, 8]


def test_two_images_of_one_id_are_refused() -> None:
    with pytest.raises(InputError, match="shirt and shoe would both be sent as 'x'"):
        check_unique(["x", "y", "x"], ["shirt", "hat", "shoe"])
