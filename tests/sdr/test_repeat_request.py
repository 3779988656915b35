"""Requests to send again, and the frames that answer them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdr.errors import InputError
from sdr.header import header_from_bytes, header_to_bytes
from sdr.layout import load_layout
from sdr.repeat_request import RepeatRequest, WantedSymbols, answered_symbols, is_answer, pack_answer

LAYOUT = load_layout("paper")
MASKS = st.lists(st.booleans(), min_size=1, max_size=600).filter(any).map(np.array)


@given(st.lists(MASKS, max_size=3), st.frozensets(st.integers(0, 2**32 - 1), max_size=5), st.integers(-1, 2**32 - 1))
def test_a_request_survives_the_way_back(masks: list[np.ndarray], frames: frozenset[int], heard: int) -> None:
    symbols = tuple(WantedSymbols.of(f"i{index}", mask) for index, mask in enumerate(masks))
    request = RepeatRequest(symbols, tuple(frames), heard)
    again = RepeatRequest.from_json(request.to_json())
    assert again == request and again.digest == request.digest
    for wanted, mask in zip(again.symbols, masks, strict=True):
        assert np.array_equal(wanted.indices, np.flatnonzero(mask))
    assert again.num_symbols == sum(mask.sum() for mask in masks)


@given(st.lists(MASKS, min_size=1, max_size=3))
def test_frames_that_answer_hold_every_wanted_symbol_once_and_in_order(masks: list[np.ndarray]) -> None:
    request = RepeatRequest(tuple(WantedSymbols.of(f"i{index}", mask) for index, mask in enumerate(masks)))
    names = [(f"i{index}", symbol) for index, mask in enumerate(masks) for symbol in np.flatnonzero(mask)]
    z = np.arange(1, len(names) + 1).astype(np.complex64)
    frames = pack_answer(request, z, LAYOUT, 5.0, 7)
    assert [frame.header.frame_number for frame in frames] == list(range(7, 7 + len(frames)))
    found = []
    for frame in frames:
        header = header_from_bytes(header_to_bytes(frame.header, LAYOUT))
        assert (
            header is not None
            and header == frame.header
            and is_answer(header)
            and header.codec_digest == request.digest
        )
        for image, indices, place in answered_symbols(request, header):
            values = frame.payload[place : place + indices.size]
            found += [((image, symbol), value) for symbol, value in zip(indices, values, strict=True)]
    assert found == list(zip(names, z, strict=True))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not JSON", "must be JSON"),
        ("[1]", "table of fields"),
        ('{"sybols": []}', "sybols"),
        ('{"frames": [-1]}', "frame numbers"),
        ('{"heard": -2}', "frame numbers"),
        ('{"symbols": [{"image": "a", "bits": "!"}]}', "base64"),
        ('{"symbols": [{"image": "a", "bits": "AA=="}]}', "no symbol"),
        ('{"symbols": [{"image": "a/../b", "bits": "gA=="}]}', "image id"),
        (json.dumps({"symbols": [{"image": "a", "bits": "gA=="}] * 2}), "twice"),
    ],
)
def test_what_is_no_request_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        RepeatRequest.from_json(text)
