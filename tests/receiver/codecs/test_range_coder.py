"""The range coder: what goes in comes out, in few bytes, and nothing else does."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.codecs.range_coder import decode, encode, max_bytes
from sdr.errors import InputError

SEQUENCES = st.integers(1, 300).flatmap(
    lambda alphabet: st.tuples(st.lists(st.integers(0, alphabet - 1), max_size=400), st.just(alphabet))
)


@given(SEQUENCES)
def test_numbers_come_back_within_the_bound(case):
    numbers, alphabet = case
    data = encode(numbers, alphabet)
    assert decode(data, len(numbers), alphabet) == numbers
    assert len(data) <= max_bytes(len(numbers))


@given(st.binary(max_size=60), st.integers(0, 40), st.integers(1, 30))
def test_any_bytes_are_numbers_or_an_error(data, count, alphabet):
    try:
        numbers = decode(data, count, alphabet)
    except InputError:
        return
    assert len(numbers) == count
    assert encode(numbers, alphabet) == data


@pytest.mark.parametrize("seed", range(3))
def test_a_long_sequence_takes_little_more_than_its_entropy(seed):
    numbers = random.Random(seed).choices(range(26), [2**-i for i in range(26)], k=5000)
    bits = -sum(n * math.log2(n / 5000) for n in Counter(numbers).values())
    assert len(encode(numbers, 26)) * 8 < 1.03 * bits + 200
    assert decode(encode(numbers, 26), 5000, 26) == numbers


def test_one_number_over_and_over_takes_next_to_nothing():
    assert len(encode([7] * 4096, 26)) < 16
    assert encode([], 26) == b""


def test_errors_name_the_remedy():
    with pytest.raises(InputError, match="alphabet"):
        encode([26], 26)
    data = encode([1, 2, 3, 4, 5, 6, 7, 8], 26)
    for wrong in (data + b"x", data + b"\0"):
        with pytest.raises(InputError, match="again"):
            decode(wrong, 8, 26)
    # The bound is checked before anything is decoded.
    with pytest.raises(InputError, match="too many"):
        decode(bytes(10**6), 8, 26)
