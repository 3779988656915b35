"""Messages, counts and pictures of the live page."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.live.assembly import FrameCounter
from lab.live.pictures import BINS, LINES_PER_SECOND, Waterfall, line_dbfs, shown
from lab.live.receiver import Past
from lab.live.server import host_is_ours
from lab.live.wire import DTYPES, decode_message, encode_message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (2, 3, 4)])
def test_a_message_comes_back_as_it_was(dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    header, arrays = decode_message(encode_message("x", {"a": [1.5, float("nan")], "ü": "é"}, {"b": array, "c": array}))
    assert header["kind"] == "x" and header["a"] == [1.5, None] and header["ü"] == "é"
    for name in ("b", "c"):
        assert arrays[name].dtype == array.dtype and np.array_equal(arrays[name], array)


def test_arrays_that_a_page_can_not_read_are_refused():
    with pytest.raises(TypeError):
        encode_message("x", {}, {"a": np.zeros(2, np.complex64)})


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 2**32 - 1))
def test_every_number_is_found_lost_or_came_twice(steps, first):
    """Numbers that go up by 0..5, around 2^32."""
    counter, number = FrameCounter(), first
    counter.count(number)
    for step in steps:
        number = (number + step) % 2**32
        counter.count(number)
    assert counter.found == 1 + len(steps)
    assert counter.lost == sum(step - 1 for step in steps if step > 1)
    assert counter.twice == sum(step == 0 for step in steps)


def test_a_transmitter_that_begins_anew_has_lost_nothing():
    counter = FrameCounter()
    for number in (1000, 1001, None, 0, 1):
        counter.count(number)
    assert (counter.found, counter.lost, counter.twice, counter.unread) == (4, 0, 0, 1)


@pytest.mark.parametrize("carrier", [-100, 0, 37])
def test_a_tone_of_full_scale_is_0_db_at_its_frequency(carrier):
    tone = np.exp(2j * np.pi * carrier / BINS * np.arange(50_000)).astype(np.complex64)
    line = line_dbfs(tone)
    assert np.argmax(line) == carrier + BINS // 2 and abs(line.max()) < 0.1


def test_a_second_of_samples_gives_its_lines_however_it_is_cut():
    rng = np.random.default_rng(0)
    waterfall, left, lines = Waterfall(1e5), 100_000, 0
    while left:
        count = min(left, int(rng.integers(1, 9000)))
        lines += len(waterfall.add(np.zeros(count, np.complex64)))
        left -= count
    assert lines == LINES_PER_SECOND


def test_the_past_is_the_last_samples_and_when_they_came():
    past = Past(250)
    for index in range(10):
        past.add(np.full(100, index, np.complex64), float(index))
    assert past.last(150).real.tolist() == [8] * 50 + [9] * 100
    assert past.last(10_000).size in range(250, 351)
    assert past.came_s(899) == 8.0 and past.came_s(900) == 9.0 and past.came_s(5) == 7.0
    past.start_recording()
    past.add(np.ones(3, np.complex64), 10.0)
    assert past.recorded_samples == 3 and past.stop_recording().size == 3 and not past.recording


def test_the_past_of_several_antennas_begins_anew_where_their_number_changes():
    past = Past(250)
    past.add(np.zeros((1, 100), np.complex64), 0.0)
    past.start_recording()
    past.add(np.zeros((1, 100), np.complex64), 1.0)
    for index in (2, 3):
        past.add(np.full((2, 100), index, np.complex64), float(index))
    assert past.end == 400 and past.came_s(250) == 2.0
    assert past.last(150).real.tolist() == [[2] * 50 + [3] * 100] * 2 and past.last(1000).shape == (2, 200)
    assert past.recorded_samples == 200 and past.stop_recording().shape == (2, 200)


def test_an_image_is_shown_as_bytes():
    picture = shown(np.array([[[0.0, 1.0], [0.5, 2.0]]], np.float32))
    assert picture.shape == (2, 2, 1) and picture[..., 0].tolist() == [[0, 255], [128, 255]]


@pytest.mark.parametrize(
    ("host", "alone", "anywhere"),
    [
        ("127.0.0.1:8474", True, True),
        ("localhost:8474", True, True),
        ("[::1]:8474", True, True),
        ("192.168.1.7:8474", False, True),
        ("evil.example", False, False),
        ("127.0.0.1.evil.example:8474", False, False),
        ("", False, False),
        ("[::1", False, False),
    ],
)
def test_only_our_own_names_are_ours(host, alone, anywhere):
    assert (host_is_ours(host, False), host_is_ours(host, True)) == (alone, anywhere)
