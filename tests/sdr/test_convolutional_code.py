"""The header's code is the standard one, and every decoder of it finds what was sent."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.convolutional_code import convolve_bits, convolve_many, invert_code, mend_code, viterbi, viterbi_many


@settings(max_examples=50, deadline=None)
@given(bits=st.lists(st.integers(0, 1), min_size=1, max_size=120), data=st.data())
def test_viterbi_corrects_scattered_errors(bits, data):
    # The code's free distance is 10: any 4 wrong bits of a codeword can be corrected.
    sent = np.array(bits, np.uint8)
    soft = 1.0 - 2.0 * convolve_bits(sent)
    wrong = data.draw(st.lists(st.integers(0, soft.size - 1), max_size=4, unique=True))
    soft[wrong] *= -1
    assert np.array_equal(viterbi(soft), sent)


def test_viterbi_is_maximum_likelihood():
    rng = np.random.default_rng(3)
    every = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    signs = np.stack([1.0 - 2.0 * convolve_bits(bits) for bits in every])
    for _ in range(200):
        soft = rng.standard_normal(signs.shape[1])
        assert np.array_equal(viterbi(soft), every[np.argmax(signs @ soft)])


def test_code_is_the_standard_one():
    # A generator's octal value is its impulse response read as a number, newest bit first.
    response = convolve_bits(np.array([1], np.uint8)).reshape(-1, 2)
    assert int("".join(map(str, response[:, 0])), 2) == 0o133
    assert int("".join(map(str, response[:, 1])), 2) == 0o171


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 1.2), rows=st.integers(1, 5))
def test_many_codewords_decode_as_each_alone(seed, noise, rows):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (rows, 60), dtype=np.uint8)
    coded = convolve_many(bits)
    assert all(np.array_equal(coded[i], convolve_bits(bits[i])) for i in range(rows))
    assert np.array_equal(invert_code(coded), bits)
    soft = (1.0 - 2.0 * coded + noise * rng.standard_normal(coded.shape)).astype(np.float32)
    assert np.array_equal(viterbi_many(soft), np.stack([viterbi(row) for row in soft]))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5))
def test_lone_wrong_bits_are_mended(seed, rows):
    rng = np.random.default_rng(seed)
    coded = convolve_many(rng.integers(0, 2, (rows, 200), dtype=np.uint8))
    wrong = coded.copy()
    for row in wrong:
        steps = np.arange(rng.integers(14), 206, 14 + rng.integers(30))
        row[2 * steps + rng.integers(0, 2, steps.size)] ^= 1
    assert np.array_equal(mend_code(wrong), coded)
    assert np.array_equal(mend_code(coded), coded)
