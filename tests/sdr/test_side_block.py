"""Side information: what is sent is what is read, or nothing."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdr.errors import InputError, LayoutError
from sdr.framing import pack_frames
from sdr.header import FrameHeader, header_from_bytes, header_to_bytes
from sdr.layout import load_layout
from sdr.side_block import decode_side, encode_side, side_cells
from sdr.symbols import Symbols

LAYOUT = load_layout("photo")


@given(st.binary(min_size=1, max_size=200), st.floats(-20, 60))
def test_bytes_come_back(data, csnr_db):
    cells = encode_side(data, csnr_db)
    assert cells.shape == (side_cells(len(data), csnr_db),)
    assert np.allclose(np.abs(cells), 1, atol=1e-6)
    assert decode_side(cells, len(data), csnr_db) == data


@pytest.mark.parametrize("csnr_db", [0.0, 5.0, 10.0, 20.0])
def test_it_is_read_over_fading_at_the_announced_snr(csnr_db):
    """8 taps of exponential profile, as the header is: 100 draws, of which one may fail."""
    rng = np.random.default_rng(0)
    power = np.exp(-np.arange(8) / 4)
    noise_var, failures = 10 ** (-csnr_db / 10), 0
    for _ in range(100):
        data = rng.bytes(44)
        sent = encode_side(data, csnr_db)
        taps = (rng.normal(size=8) + 1j * rng.normal(size=8)) * np.sqrt(power / power.sum() / 2)
        gain = np.fft.fft(taps, LAYOUT.fft_size)[LAYOUT.cell_index[: sent.size] % LAYOUT.fft_size]
        noise = (rng.normal(size=sent.size) + 1j * rng.normal(size=sent.size)) * np.sqrt(noise_var / 2)
        failures += decode_side(np.conj(gain) * (gain * sent + noise), 44, csnr_db) != data
    assert failures <= 1


def test_noise_is_no_side_information():
    rng = np.random.default_rng(1)
    for count in (1, 44):
        size = side_cells(count, 10.0)
        for _ in range(20):
            assert decode_side(rng.normal(size=size) + 1j * rng.normal(size=size), count, 10.0) is None
    assert decode_side(np.full(size, np.nan + 0j), 44, 10.0) is None
    with pytest.raises(InputError, match="take"):
        decode_side(np.ones(3, dtype=complex), 44, 10.0)
    with pytest.raises(InputError, match="bytes"):
        encode_side(b"", 10.0)


def test_a_header_tells_how_long_it_is_and_older_headers_have_none():
    header = FrameHeader(3, LAYOUT.digest, "00c0ffee", 10.0, (3, 16, 16), 900, 0, 900, ("a",), side_bytes=44)
    data = header_to_bytes(header, LAYOUT)
    assert header_from_bytes(data) == header and len(data) == LAYOUT.header_bytes
    plain = FrameHeader(3, LAYOUT.digest, "00c0ffee", 10.0, (3, 16, 16), 900, 0, 900, ("a",))
    assert header_from_bytes(header_to_bytes(plain, LAYOUT)).side_bytes == 0
    with pytest.raises(InputError, match="no other image"):
        FrameHeader(3, LAYOUT.digest, "00c0ffee", 10.0, (3, 16, 16), 900, 0, 1800, ("a", "b"), side_bytes=44)
    with pytest.raises(InputError, match="side_bytes"):
        FrameHeader(3, LAYOUT.digest, "00c0ffee", 10.0, (3, 16, 16), 900, 0, 900, ("a",), side_bytes=1 << 16)


def test_an_image_with_side_information_has_frames_of_its_own():
    z = np.ones((3, 100), dtype=np.complex64)
    symbols = Symbols(z, "00c0ffee", ("a", "b", "c"), (3, 16, 16), 10.0, side_bytes=4)
    frames = pack_frames(symbols, LAYOUT)
    assert [frame.header.image_ids for frame in frames] == [("a",), ("b",), ("c",)]
    assert all(frame.header.side_bytes == 4 for frame in frames)


def test_a_layout_for_one_image_has_no_room_for_its_length():
    layout = replace(LAYOUT, image_slots=1)
    header = FrameHeader(3, layout.digest, "00c0ffee", 10.0, (3, 16, 16), 900, 0, 900, ("a",), side_bytes=44)
    with pytest.raises(LayoutError, match="2 are needed"):
        header_to_bytes(header, layout)
