"""Packing images into frames and unpacking them is lossless for every size of image."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.errors import InputError, LayoutError
from sdr.framing import (
    FrameContent,
    data_grid,
    frame_grid,
    image_spans,
    images_per_frame,
    num_frames,
    pack_frames,
    payload_cells,
)
from sdr.layout import load_layout


@settings(max_examples=40, deadline=None)
@given(num_images=st.integers(1, 20), size=st.integers(1, 2500))
def test_frames_carry_every_symbol(draw_symbols, layout, num_images, size):
    symbols = draw_symbols(num_images, size, seed=size)
    frames = pack_frames(symbols, layout, first_frame=5)
    assert len(frames) == num_frames(num_images, size, layout)
    assert [frame.header.frame_number for frame in frames] == list(range(5, 5 + len(frames)))
    images = {image_id: np.full(size, np.nan, np.complex64) for image_id in symbols.image_ids}
    for frame in frames:
        for span in image_spans(frame.header):
            part = frame.payload[span.payload_start : span.payload_start + span.num_symbols]
            images[span.image_id][span.symbol_start : span.symbol_start + span.num_symbols] = part
    for image_id, z in zip(symbols.image_ids, symbols.z, strict=True):
        assert np.array_equal(images[image_id], z)


def test_frames_are_used_well(draw_symbols, layout):
    for size in (1, layout.capacity // 3, layout.capacity, layout.capacity + 1, 3 * layout.capacity):
        frames = pack_frames(draw_symbols(7, size), layout)
        for frame in frames:
            header = frame.header
            assert frame.payload.shape == (layout.capacity,)
            assert not frame.payload[header.num_payload :].any()
            assert sum(span.num_symbols for span in image_spans(header)) == header.num_payload
            assert len(header.image_ids) <= max(1, images_per_frame(size, layout))
            assert header.layout_digest == layout.digest and header.csnr_db == 10.0


def test_four_images_share_a_paper_frame(draw_symbols):
    frames = pack_frames(draw_symbols(64, 64), load_layout("paper"))
    assert len(frames) == 16
    assert frames[0].header.image_ids == ("id0", "id1", "id2", "id3") and frames[0].header.num_payload == 256


def test_an_image_that_spans_frames_has_them_to_itself(draw_symbols):
    layout = load_layout("paper")
    frames = pack_frames(draw_symbols(2, 600), layout)
    assert [frame.header.symbol_offset for frame in frames] == [0, 256, 512] * 2
    assert [frame.header.num_payload for frame in frames] == [256, 256, 88] * 2
    assert [frame.header.image_ids for frame in frames] == [("id0",)] * 3 + [("id1",)] * 3


def test_the_announced_csnr_can_be_another(draw_symbols):
    frame = pack_frames(draw_symbols(1, 64), load_layout("paper"), csnr_db=3.5)[0]
    assert frame.header.csnr_db == 3.5


def test_frame_numbers_wrap(draw_symbols):
    frames = pack_frames(draw_symbols(2, 256), load_layout("paper"), first_frame=2**32 - 1)
    assert [frame.header.frame_number for frame in frames] == [2**32 - 1, 0]


def test_grid(draw_symbols, layout):
    content = pack_frames(draw_symbols(20, max(1, layout.capacity // layout.image_slots)), layout)[0]
    grid = frame_grid(content, layout)
    assert grid.shape == (layout.num_symbols, layout.fft_size) and grid.dtype == np.complex64
    assert np.array_equal(grid[0], layout.preamble_a) and np.array_equal(grid[1], layout.preamble_b)
    assert np.array_equal(grid[layout.first_pilot_symbol : layout.first_data_symbol], layout.pilots)
    data = grid[layout.first_data_symbol :]
    assert np.array_equal(data[:, layout.tracking_bins], layout.tracking_symbols)
    assert np.array_equal(data[np.ix_(layout.pilot_rows, layout.data_bins)], layout.repeated_pilots)
    assert np.allclose(payload_cells(data, layout), content.payload, atol=1e-6)
    null = np.setdiff1d(np.arange(layout.fft_size), layout.active_bins)
    assert not grid[:, null].any()
    # Element by element as the layout's documentation says.
    for element in (0, layout.capacity - 1):
        cell = data.reshape(-1)[layout.cell_index[element]]
        assert cell == pytest.approx(content.payload[element] * layout.cell_scramble[element], abs=1e-6)


def test_frames_of_another_layout_are_refused(draw_symbols):
    content = pack_frames(draw_symbols(1, 64), load_layout("paper"))[0]
    with pytest.raises(LayoutError, match="was made for layout"):
        frame_grid(content, load_layout("blind"))
    with pytest.raises(LayoutError, match="holds 600"):
        data_grid(content.payload, load_layout("air"))
    with pytest.raises(LayoutError, match="data grid"):
        payload_cells(np.zeros((2, 256), np.complex64), load_layout("paper"))


def test_content_checks_itself(draw_symbols):
    content = pack_frames(draw_symbols(1, 64), load_layout("paper"))[0]
    bad = content.payload.copy()
    bad[200] = np.nan
    for payload, words in [
        (content.payload.astype(np.complex128), "complex64"),
        (content.payload[:10].copy(), "counts 64"),
        (bad, "NaN"),
    ]:
        with pytest.raises(InputError, match=words):
            FrameContent(content.header, payload)
    with pytest.raises(ValueError, match="read-only"):
        content.payload[0] = 1


def test_symbols_check_themselves(draw_symbols):
    good = draw_symbols(2, 64)
    nan = good.z.copy()
    nan[0, 0] = np.inf
    for change, words in [
        ({"z": good.z.astype(np.complex128)}, "complex64"),
        ({"z": good.z[0]}, "complex64"),
        ({"z": good.z[:0], "image_ids": ()}, "at least one image"),
        ({"z": nan}, "NaN"),
        ({"z": good.z * np.float32(1.2)}, "mean power 1.44"),
        ({"image_ids": ("a",)}, "as many ids"),
        ({"image_ids": ("a", "a")}, "occurs twice"),
        ({"image_ids": ("a", "b c")}, "image id"),
        ({"codec_digest": "none"}, "codec digest"),
        ({"csnr_db": float("inf")}, "csnr_db"),
        ({"image_shape": (1, 32, 70000)}, "image shape"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            dataclasses.replace(good, **change)
        assert "\n" not in str(caught.value)
