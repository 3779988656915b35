"""What is sent again is what was asked for, and every symbol is counted."""

import numpy as np
import pytest

from sdr.errors import InputError
from sdr.framing import FrameContent
from sdr.layout import load_layout
from sdr.repeat_request import RepeatRequest, WantedSymbols, is_answer
from sdr.symbols import Symbols
from transmitter.again import Repeater
from transmitter.encode import Transmission

LAYOUT = load_layout("paper")
K = 100


def transmission() -> Transmission:
    rng = np.random.default_rng(0)
    z = (rng.choice([-1, 1], (5, K)) * np.exp(1j * rng.uniform(0, 6, (5, K)))).astype(np.complex64)
    return Transmission.of([Symbols(z, "00c0ffee", ("a", "b", "c", "d", "e"), (1, 8, 8), 3.0)], LAYOUT)


def marks(*indices: int) -> np.ndarray:
    mark = np.zeros(K, dtype=bool)
    mark[list(indices)] = True
    return mark


def test_an_answer_holds_the_symbols_that_were_sent() -> None:
    sent = transmission()
    repeater = Repeater(sent)
    assert repeater.num_frames == 3 and repeater.channel_uses == 5 * K
    wanted = (WantedSymbols.of("d", marks(3, 99)), WantedSymbols.of("a", marks(0)))
    (frame,) = repeater.answer(RepeatRequest(wanted, heard=2))
    z = sent.symbols[0].z
    assert is_answer(frame.header) and frame.header.frame_number == 3 and frame.header.csnr_db == 3.0
    np.testing.assert_array_equal(frame.payload[:3], [z[3, 3], z[3, 99], z[0, 0]])
    assert repeater.channel_uses == 5 * K + 3
    assert repeater.times == pytest.approx({"a": 1.01, "b": 1, "c": 1, "d": 1.02, "e": 1})
    assert repeater.answer(RepeatRequest(heard=3)) == []


def contents(frames: list[FrameContent]) -> list[tuple[tuple[str, ...], bytes]]:
    return [(frame.header.image_ids, frame.payload.tobytes()) for frame in frames]


def test_lost_frames_are_sent_again_as_they_were_and_once() -> None:
    repeater = Repeater(transmission())
    original = list(transmission().frames)
    again = repeater.answer(RepeatRequest(frames=(0,), heard=1))
    assert contents(again) == contents([original[0], original[2]])
    assert [frame.header.frame_number for frame in again] == [3, 4]
    assert repeater.times == pytest.approx({"a": 2, "b": 2, "c": 1, "d": 1, "e": 2})
    assert repeater.answer(RepeatRequest(frames=(0, 2), heard=4)) == []
    assert contents(repeater.answer(RepeatRequest(frames=(0, 2, 3), heard=4))) == contents([original[0]])


def test_a_lost_answer_is_not_sent_again_by_its_number() -> None:
    repeater = Repeater(transmission())
    repeater.answer(RepeatRequest((WantedSymbols.of("a", marks(0)),), heard=2))
    assert repeater.answer(RepeatRequest(heard=2)) == []


@pytest.mark.parametrize(
    "request_",
    [
        RepeatRequest((WantedSymbols.of("z", marks(0)),)),
        RepeatRequest((WantedSymbols.of("a", np.ones(K + 8, dtype=bool)),)),
        RepeatRequest(frames=(3,)),
        RepeatRequest(heard=3),
    ],
)
def test_what_was_never_sent_is_not_sent_again(request_: RepeatRequest) -> None:
    with pytest.raises(InputError, match="sent"):
        Repeater(transmission()).answer(request_)
