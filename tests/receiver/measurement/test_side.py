"""Side information over the air: what the transmitter chose is what the receiver encodes hypotheses with."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from receiver.codecs.ntscc import NtsccCodec
from receiver.codecs.swinjscc import SwinjsccRateCodec
from receiver.measurement.collect import measure_frames
from receiver.measurement.side import take_side
from receiver.sync.preamble import find_frames
from sdr.errors import InputError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.side_block import side_cells
from tests.receiver.codecs.public import NTSCC_SHAPE, SWIN_SHAPE, tiny_ntscc, tiny_swinjscc
from transmitter.encode import encode_images

CODECS = {
    "swinjscc": lambda: SwinjsccRateCodec(*tiny_swinjscc("both")).for_shape(SWIN_SHAPE),
    "ntscc": lambda: NtsccCodec(*tiny_ntscc(compat=False)).for_shape(NTSCC_SHAPE),
}


@pytest.fixture(params=sorted(CODECS))
def codec(request):
    return CODECS[request.param]()


def received(codec, layout, csnr_db=10.0, noise_db=None):
    """Return what was encoded of two images, the transmission, and the frames that arrived."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(codec.image_shape, generator=generator) for _ in range(2)]
    with torch.no_grad():
        coded = [codec.encode_image(image, csnr_db) for image in images]
    sent = encode_images(["a", "b"], images, codec, layout, csnr_db)
    with open_radio(f"sim:taps=8,seed=3,csnr_db={csnr_db if noise_db is None else noise_db}", layout=layout) as radio:
        radio.transmit(sent.samples())
        frames = find_frames(radio.receive(), layout)
    return coded, sent, [frame for frame in frames if frame.header is not None]


@pytest.mark.parametrize("name", ["photo", "photo-blind"])
def test_the_map_arrives_with_and_without_pilots(codec, name):
    layout = load_layout(name)
    coded, sent, frames = received(codec, layout)
    for image_id, one, symbols in zip(("a", "b"), coded, sent.symbols, strict=True):
        own = [frame for frame in frames if frame.header.image_ids == (image_id,)]
        whole = measure_frames(own, layout)
        data, measurement = take_side(own, whole)
        assert data == one.side.to_bytes()
        count = side_cells(len(data), 10.0)
        assert symbols.z.shape[1] == whole.num_symbols == count + len(one.z)
        assert measurement.num_symbols == len(one.z) == codec.given(codec.read_side(data)).num_symbols
        # What is known of the grid and the symbols make up all that was sent.
        whole_grid = whole.sent_grid(torch.from_numpy(symbols.z.copy()))
        torch.testing.assert_close(measurement.sent_grid(one.z[None]), whole_grid, rtol=1e-4, atol=1e-4)


def test_side_information_with_errors_is_told(codec):
    layout = load_layout("photo")
    _, _, frames = received(codec, layout)
    own = [frame for frame in frames if frame.header.image_ids == ("a",)]
    noise = np.random.default_rng(0).normal(size=own[0].grid.shape).astype(np.complex64)
    spoiled = [replace(frame, grid=noise) for frame in own]
    with pytest.raises(InputError, match=r"arrived with errors.*Raise the SNR"):
        take_side(spoiled, measure_frames(spoiled, layout))
