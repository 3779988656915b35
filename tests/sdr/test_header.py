"""The header survives what the images don't, and garbage is never mistaken for one."""

import dataclasses
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.air.impairments import draw_taps, exponential_pdp
from sdr.errors import InputError, LayoutError
from sdr.header import (
    FrameHeader,
    decode_header,
    decode_headers,
    encode_header,
    header_from_bytes,
    header_to_bytes,
    image_id_from_stem,
)
from sdr.layout import load_layout, shipped_layouts

IDS = st.text("ABCXYZabcxyz0189._-", min_size=1, max_size=8)


@st.composite
def headers(draw, slots: int) -> FrameHeader:
    ids = tuple(draw(st.lists(IDS, min_size=1, max_size=slots, unique=True)))
    per_image = draw(st.integers(1, (1 << 24) // 64))
    if len(ids) == 1 and draw(st.booleans()):
        offset = draw(st.integers(0, per_image - 1))
        payload = draw(st.integers(1, per_image - offset))
    else:
        offset, payload = 0, per_image * len(ids)
    return FrameHeader(
        frame_number=draw(st.integers(0, 2**32 - 1)),
        layout_digest=draw(st.text("0123456789abcdef", min_size=8, max_size=8)),
        codec_digest=draw(st.text("0123456789abcdef", min_size=8, max_size=8)),
        csnr_db=draw(st.floats(-327, 327)),
        image_shape=(draw(st.integers(1, 255)), draw(st.integers(1, 65535)), draw(st.integers(1, 65535))),
        symbols_per_image=per_image,
        symbol_offset=offset,
        num_payload=payload,
        image_ids=ids,
    )


def example_header(layout, number: int = 3) -> FrameHeader:
    ids = tuple(f"image-{slot:02d}" for slot in range(layout.image_slots))
    return FrameHeader(number, layout.digest, "00c0ffee", 10.0, (1, 32, 32), 64, 0, 64 * len(ids), ids)


def active_cells(grid, layout):
    return grid[:, layout.active_bins].real


@pytest.mark.parametrize("name", shipped_layouts())
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip(name, data):
    layout = load_layout(name)
    header = data.draw(headers(layout.image_slots))
    grid = encode_header(header, layout)
    assert grid.shape == (layout.header_symbols, layout.fft_size) and grid.dtype == np.complex64
    assert decode_header(active_cells(grid, layout), layout) == header


@pytest.mark.parametrize("name", shipped_layouts())
def test_unit_power_on_active_carriers_only(name):
    layout = load_layout(name)
    grid = encode_header(example_header(layout), layout)
    assert np.allclose(np.abs(grid[:, layout.active_bins]), 1.0)
    assert not np.delete(grid, layout.active_bins, axis=1).any()


def success_rate(layout, csnr_db, num_taps, trials, rng):
    header = example_header(layout)
    grid = encode_header(header, layout)
    noise_var = 10 ** (-csnr_db / 10)
    successes = 0
    for _ in range(trials):
        taps = draw_taps(exponential_pdp(num_taps, 4.0), rng) if num_taps > 1 else np.ones(1)
        response = np.fft.fft(taps, layout.fft_size)
        noise = rng.standard_normal(grid.shape) + 1j * rng.standard_normal(grid.shape)
        received = response * grid + np.sqrt(noise_var / 2) * noise
        decoded = decode_header(active_cells(np.conj(response) * received, layout), layout)
        assert decoded in (None, header)
        successes += decoded is not None
    return successes / trials


@pytest.mark.parametrize("name", shipped_layouts())
@pytest.mark.parametrize(("csnr_db", "num_taps", "at_least"), [(-1, 1, 0.99), (0, 1, 0.99), (0, 8, 0.95), (5, 8, 0.99)])
def test_readable_in_noise_and_multipath(name, csnr_db, num_taps, at_least):
    # Measured over 300 trials: 1.0 in AWGN at -1 dB; 0.98..0.99 at 0 dB with L = 8, r = 4 and a known channel.
    rate = success_rate(load_layout(name), csnr_db, num_taps, 100, np.random.default_rng(11))
    assert rate >= at_least


def test_repetition_pays():
    layout = load_layout("paper")
    shorter = dataclasses.replace(layout, header_symbols=6)
    rng = np.random.default_rng(5)
    assert success_rate(shorter, -3, 1, 60, rng) < success_rate(layout, -3, 1, 60, rng)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-30, 1.0, 1e30]))
def test_noise_is_never_a_header(seed, scale):
    layout = load_layout("paper")
    noise = np.random.default_rng(seed).standard_normal((layout.header_symbols, layout.num_active)) * scale
    assert decode_header(noise, layout) is None


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
def test_garbage_is_none(value):
    layout = load_layout("paper")
    assert decode_header(np.full((layout.header_symbols, layout.num_active), value), layout) is None
    one = active_cells(encode_header(example_header(layout), layout), layout)
    one[0, 0] = value
    assert (decode_header(one, layout) is None) == (not np.isfinite(value))


def test_any_common_scale_is_fine():
    layout = load_layout("air")
    cells = active_cells(encode_header(example_header(layout), layout), layout)
    for scale in (1e-12, 1e12):
        assert decode_header(cells * scale, layout) == example_header(layout)


def test_wrong_shape_is_an_error():
    layout = load_layout("paper")
    with pytest.raises(LayoutError, match="must be real"):
        decode_header(np.zeros((1, 256)), layout)
    with pytest.raises(LayoutError, match="must be real"):
        decode_header(np.zeros((layout.header_symbols, layout.num_active), complex), layout)


def test_other_seed_is_unreadable():
    layout = load_layout("paper")
    other = dataclasses.replace(layout, seed=layout.seed + 1)
    cells = active_cells(encode_header(example_header(layout), layout), layout)
    assert decode_header(cells, other) is None


def test_other_backoff_is_read_and_shows_its_digest():
    # The caller can tell "a layout that doesn't match" from noise when only the level or the data part differs.
    layout = load_layout("paper")
    other = dataclasses.replace(layout, backoff_db=10.0)
    cells = active_cells(encode_header(example_header(layout), layout), layout)
    decoded = decode_header(cells, other)
    assert decoded is not None and decoded.layout_digest == layout.digest != other.digest


def with_crc(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "big")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_bytes_with_a_right_crc_make_the_header_that_they_say_or_none(data):
    layout = load_layout("paper")
    body = bytearray(header_to_bytes(example_header(layout), layout)[:-4])
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(1, len(body) - 1))] = data.draw(st.integers(0, 255))
    header = header_from_bytes(with_crc(bytes(body)))
    if header is not None:
        # Behind the ids that count there may be anything.
        used = 30 + 8 * len(header.image_ids)
        again = header_to_bytes(header, layout)
        assert again[:used] == body[:used] and header_from_bytes(again) == header


def test_more_payload_than_the_layout_holds_is_none():
    layout = load_layout("paper")
    header = dataclasses.replace(example_header(layout), symbols_per_image=65, num_payload=65 * 4)
    assert decode_header(active_cells(encode_header(header, layout), layout), layout) is None


def test_future_version_is_not_misread():
    layout = load_layout("paper")
    body = bytearray(header_to_bytes(example_header(layout), layout)[:-4])
    body[0] = 2
    assert header_from_bytes(with_crc(bytes(body))) is None


def test_bytes_are_where_the_documentation_says():
    layout = load_layout("paper")
    data = header_to_bytes(example_header(layout, number=0x01020304), layout)
    assert len(data) == layout.header_bytes == 34 + 8 * layout.image_slots
    assert data[1:5] == b"\1\2\3\4" and data[5:9].hex() == layout.digest and data[9:13].hex() == "00c0ffee"
    assert struct.unpack(">h", data[13:15]) == (1000,)
    assert data[29] == 4 and data[30:38] == b"image-00"


def test_header_checks_itself():
    layout = load_layout("paper")
    good = example_header(layout)
    for change, words in [
        ({"frame_number": -1}, "frame_number"),
        ({"frame_number": 2**32}, "frame_number"),
        ({"layout_digest": "xyz"}, "layout digest"),
        ({"csnr_db": float("nan")}, "csnr_db"),
        ({"csnr_db": 400.0}, "csnr_db"),
        ({"image_shape": (0, 32, 32)}, "image shape"),
        ({"image_shape": (32, 32)}, "image shape"),
        ({"num_payload": 65}, "don't make"),
        ({"symbol_offset": 1}, "don't make"),
        ({"image_ids": ("a", "a", "b", "c")}, "different"),
        ({"image_ids": ()}, "image ids"),
        ({"image_ids": ("toolong-id",)}, "image id"),
        ({"image_ids": ("a/b",)}, "image id"),
        ({"image_ids": ("ab\n",)}, "image id"),
        ({"image_ids": ("a",), "symbol_offset": 60, "num_payload": 5}, "don't make"),
    ]:
        with pytest.raises(InputError, match=words):
            dataclasses.replace(good, **change)


def test_too_many_images_for_the_layout():
    layout = load_layout("paper")
    ids = tuple("abcde")
    header = FrameHeader(0, layout.digest, "00c0ffee", 10.0, (1, 8, 8), 4, 0, 20, ids)
    with pytest.raises(LayoutError, match="4 slots"):
        encode_header(header, layout)


def test_csnr_is_kept_to_a_hundredth():
    layout = load_layout("paper")
    assert dataclasses.replace(example_header(layout), csnr_db=9.87654).csnr_db == 9.88


@given(stem=st.text(max_size=40))
def test_every_stem_has_a_stable_id(stem):
    image_id = image_id_from_stem(stem)
    assert image_id == image_id_from_stem(stem) and 1 <= len(image_id) <= 8
    assert image_id_from_stem(image_id) == image_id


# Many at once


@pytest.mark.parametrize("noise", [0.0, 0.7, 1.0, 30.0])
def test_many_headers_are_read_as_each_alone(noise):
    layout = load_layout("paper")
    rng = np.random.default_rng(0)
    header = FrameHeader(7, layout.digest, "00c0ffee", 10.0, (1, 32, 32), 64, 0, 64, ("boot",))
    grid = encode_header(header, layout)[:, layout.active_bins].real
    soft = grid + noise * rng.standard_normal((6, *grid.shape))
    soft[2] = np.nan
    soft[3] = 0.0
    headers, cells = decode_headers(soft, layout)
    assert headers == [decode_header(row, layout) for row in soft]
    for found, sent in zip(headers, cells, strict=True):
        assert np.array_equal(sent, grid if found else np.zeros_like(grid))
    # Rows 2 and 3 hold no header; under the strongest noise no row does.
    wanted = [None] * 6 if noise > 2 else [header, header, None, None, header, header]
    assert headers == wanted
    with pytest.raises(LayoutError):
        decode_headers(soft[0], layout)
