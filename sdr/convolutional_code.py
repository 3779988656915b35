"""Encode and decode the header's convolutional code: rate 1/2, constraint length 7, generators 133 and 171 (octal).

It is the code of CCSDS 131.0-B and of IEEE 802.11 17.3.5.6, ended by six zeros. Codewords are decoded one by one
(`viterbi`) or many at once: first algebraically (`invert_code`, `mend_code`), which is quick where few bits are wrong,
then by the Viterbi algorithm (`viterbi_many`).
"""

import numpy as np
from numpy.typing import NDArray

TAIL_BITS = 6
"""Zero bits that bring the encoder back to state 0."""

_GENERATORS = (0o133, 0o171)
_NUM_STATES = 64


def _generator_outputs() -> NDArray[np.float32]:
    """Return (2, 64 states, 2 inputs) signs, +1 for bit 0, of each generator's output.

    A state is the last six bits, newest in the most significant place.
    """
    register = (np.arange(2)[None, :] << 6) | np.arange(_NUM_STATES)[:, None]
    outputs = [np.unpackbits((register & g).astype(np.uint8)[..., None], axis=-1).sum(-1) % 2 for g in _GENERATORS]
    return 1.0 - 2.0 * np.stack(outputs).astype(np.float32)


_OUTPUT_SIGNS = _generator_outputs()
# Trellis seen from the arriving state s: its newest bit is s >> 5, and it has two predecessors.
_ARRIVING = np.arange(_NUM_STATES)
_INPUT_BIT = _ARRIVING >> 5
_PREDECESSORS = np.stack([(_ARRIVING << 1) & 63, ((_ARRIVING << 1) & 63) | 1])
_BRANCH_SIGNS = np.stack([_OUTPUT_SIGNS[:, predecessors, _INPUT_BIT] for predecessors in _PREDECESSORS])  # (2, 2, 64)


def convolve_bits(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode bits with the rate-1/2 code and end in state 0.

    Args:
        bits: (n,) of 0 and 1.

    Returns:
        (2 * (n + 6),) coded bits, the two generators' outputs alternating.

    >>> convolve_bits(np.array([1], np.uint8)).reshape(-1, 2).T
    array([[1, 0, 1, 1, 0, 1, 1],
           [1, 1, 1, 1, 0, 0, 1]], dtype=uint8)
    """
    outputs = []
    for generator in _GENERATORS:
        impulse = np.array([generator >> (6 - delay) & 1 for delay in range(7)], dtype=np.int64)
        outputs.append(np.convolve(bits.astype(np.int64), impulse) % 2)
    return np.stack(outputs, axis=1).reshape(-1).astype(np.uint8)


def viterbi(soft: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the most likely bits of a codeword of `convolve_bits`.

    Args:
        soft: (2 * (n + 6),) real, finite; proportional to the log-likelihood ratio, positive where the coded bit is
            more likely 0.

    Returns:
        (n,) bits.

    >>> bits = np.array([1, 0, 1, 1], np.uint8)
    >>> viterbi(1.0 - 2.0 * convolve_bits(bits))
    array([1, 0, 1, 1], dtype=uint8)
    """
    pairs = np.asarray(soft, dtype=np.float32).reshape(-1, 2)
    num_steps = pairs.shape[0]
    # (steps, 2 predecessors, 64 states): all branch metrics at once, so that the loop only adds and compares.
    branches = np.einsum("tg,pgs->tps", pairs, _BRANCH_SIGNS)
    metric = np.full(_NUM_STATES, -np.inf, dtype=np.float32)
    metric[0] = 0.0
    chosen = np.empty((num_steps, _NUM_STATES), dtype=bool)
    for step in range(num_steps):
        first, second = metric[_PREDECESSORS] + branches[step]
        np.greater(second, first, out=chosen[step])
        metric = np.maximum(first, second)
        metric -= metric.max()  # keeps float32 exact enough however long the codeword
    bits = np.empty(num_steps, dtype=np.uint8)
    state = 0
    for step in range(num_steps - 1, -1, -1):
        bits[step] = state >> 5
        state = ((state << 1) & 63) | int(chosen[step, state])
    return bits[: num_steps - TAIL_BITS]


def _inverse_taps() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return delays (a, b) with a(D) g0(D) + b(D) g1(D) = 1 over GF(2): they undo the encoder where no bit is wrong."""
    # Polynomials as whole numbers, bit i for D^i; a generator's most significant bit is delay 0.
    first, second = (int(f"{g:07b}"[::-1], 2) for g in _GENERATORS)
    rows = [(first, 1, 0), (second, 0, 1)]
    while rows[1][0]:
        (high, a, b), (low, c, d) = rows
        while high.bit_length() >= low.bit_length():
            shift = high.bit_length() - low.bit_length()
            high, a, b = high ^ (low << shift), a ^ (c << shift), b ^ (d << shift)
        rows = [(low, c, d), (high, a, b)]
    _, a, b = rows[0]
    return tuple(i for i in range(a.bit_length()) if a >> i & 1), tuple(i for i in range(b.bit_length()) if b >> i & 1)


_INVERSE_TAPS = _inverse_taps()
# Of the arriving states s and s + 32 the predecessors are 2s and 2s + 1. Both generators use their first and last bit,
# so the four branches of such a butterfly are plus or minus one number: row `_BUTTERFLY[s]` of (x0+x1, x0-x1, x1-x0,
# -x0-x1).
_BUTTERFLY = np.array(
    [2 * (_OUTPUT_SIGNS[0, 2 * s, 0] < 0) + (_OUTPUT_SIGNS[1, 2 * s, 0] < 0) for s in range(32)], dtype=np.int64
)


def _shifted_xor(streams: NDArray[np.uint8], delays: tuple[int, ...], out: NDArray[np.uint8]) -> None:
    for delay in delays:
        out[:, delay:] ^= streams[:, : streams.shape[1] - delay]


def convolve_many(bits: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Encode each row: `convolve_bits` of (F, n) bits, (F, 2 (n + 6)) coded bits."""
    padded = np.pad(bits, ((0, 0), (0, TAIL_BITS)))
    coded = np.zeros((bits.shape[0], padded.shape[1], 2), dtype=np.uint8)
    for index, generator in enumerate(_GENERATORS):
        stream = np.zeros_like(padded)
        _shifted_xor(padded, tuple(delay for delay in range(7) if generator >> (6 - delay) & 1), stream)
        coded[:, :, index] = stream
    return coded.reshape(bits.shape[0], -1)


def invert_code(hard: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (F, n) bits of codewords (F, 2 (n + 6)) without a wrong bit; nonsense where there is one.

    >>> bits = np.array([[1, 0, 1, 1]], np.uint8)
    >>> invert_code(convolve_many(bits))
    array([[1, 0, 1, 1]], dtype=uint8)
    """
    pairs = hard.reshape(hard.shape[0], -1, 2)
    bits = np.zeros(pairs.shape[:2], dtype=np.uint8)
    for index, delays in enumerate(_INVERSE_TAPS):
        _shifted_xor(np.ascontiguousarray(pairs[:, :, index]), delays, bits)
    return bits[:, : bits.shape[1] - TAIL_BITS]


# What a lone wrong bit of either stream leaves in the syndrome, seven silent places before it.
_LONE_WRONG = tuple(
    sum(1 << (7 + delay) for delay in range(7) if generator >> (6 - delay) & 1) for generator in _GENERATORS[::-1]
)


def mend_code(hard: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Correct the wrong bits of codewords (F, 2 (n + 6)) that lie fourteen or more steps from any other.

    The streams c0 = g0 b and c1 = g1 b satisfy g1 c0 + g0 c1 = 0; a wrong bit of c0 leaves g1 there, one of c1 g0.

    >>> coded = convolve_many(np.array([[1, 0, 1, 1]], np.uint8))
    >>> wrong = coded.copy()
    >>> wrong[0, 5] ^= 1
    >>> np.array_equal(mend_code(wrong), coded)
    True
    """
    pairs = hard.reshape(hard.shape[0], -1, 2)
    steps = pairs.shape[1]
    # Seven places of zeros on both sides, so that wrong bits at either end look like the others.
    padded = np.zeros((2, hard.shape[0], steps + 14), dtype=np.uint8)
    padded[:, :, 7 : 7 + steps] = pairs.transpose(2, 0, 1)
    syndrome = np.zeros(padded.shape[1:], dtype=np.uint8)
    for stream, generator in zip(padded, _GENERATORS[::-1], strict=True):
        _shifted_xor(stream, tuple(delay for delay in range(7) if generator >> (6 - delay) & 1), syndrome)
    window = np.zeros((hard.shape[0], steps), dtype=np.uint16)
    for place in range(14):
        window |= syndrome[:, place : place + steps].astype(np.uint16) << place
    mended = pairs.copy()
    for index, pattern in enumerate(_LONE_WRONG):
        mended[:, :, index] ^= window == pattern
    return mended.reshape(hard.shape)


def viterbi_many(soft: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the most likely bits (F, n) of each row: `viterbi` of (F, 2 (n + 6)) soft values."""
    count = soft.shape[0]
    pairs = np.ascontiguousarray(soft.astype(np.float32).reshape(count, -1, 2).transpose(1, 2, 0))  # (steps, 2, F)
    steps = pairs.shape[0]
    plus, minus = pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]
    table = np.stack([plus, minus, -minus, -plus], axis=1)
    # Row 3 - i of the table is minus row i: states s and s + 32 see opposite branches.
    rows = np.concatenate([_BUTTERFLY, 3 - _BUTTERFLY])
    metric = np.full((_NUM_STATES, count), -1e30, dtype=np.float32)
    metric[0] = 0.0
    chosen = np.empty((steps, 2, 32, count), dtype=bool)
    first, second = (np.empty((2, 32, count), dtype=np.float32) for _ in range(2))
    for low in range(0, steps, 16):
        branches = np.take(table[low : low + 16], rows, axis=1).reshape(-1, 2, 32, count)
        for step, branch in enumerate(branches, low):
            np.add(metric[0::2], branch, out=first)
            np.subtract(metric[1::2], branch, out=second)
            np.greater(second, first, out=chosen[step])
            metric = np.maximum(first, second).reshape(_NUM_STATES, count)
        metric -= metric.max(axis=0)  # keeps float32 exact enough however long the codeword
    bits = np.empty((steps, count), dtype=np.uint8)
    state, column = np.zeros(count, dtype=np.int64), np.arange(count)
    for step in range(steps - 1, -1, -1):
        bits[step] = state >> 5
        state = ((state << 1) & 63) | chosen[step].reshape(-1).take(state * count + column)
    return np.ascontiguousarray(bits[: steps - TAIL_BITS].T)
