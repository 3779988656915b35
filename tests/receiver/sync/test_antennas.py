"""Frames that several antennas receive: found together, one timing and carrier, levels of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from receiver.sync.antennas import balanced, noise_floors, pooled
from receiver.sync.detection import Antennas, candidates
from receiver.sync.frame import SyncedFrame
from receiver.sync.preamble import find_frames, stream_frames
from sdr.framing import pack_frames
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols
from tests.receiver.moving import received_frames

FRAMES = 48


def heard(layout: FrameLayout, options: str, frames: int = FRAMES) -> Recording:
    """Return frames of Gaussian symbols, each over 8 taps of its own, unless the options have them move."""
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((frames, 2 * layout.capacity)).astype(np.float32)
    z = parts.view(np.complex64)
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    symbols = Symbols(z, "00c0ffee", tuple(map(str, range(frames))), (1, 32, 32), 10.0)
    block = "" if "doppler_hz" in options else f"block_samples={layout.frame_samples}"
    with open_radio(f"sim:taps=8,cfo_hz=300,seed=1,{block},{options}", layout=layout) as radio:
        radio.transmit(modulate_stream(pack_frames(symbols, layout), layout))
        return radio.receive()


def read(recording: Recording, layout: FrameLayout) -> list[SyncedFrame]:
    return [frame for frame in find_frames(recording, layout) if frame.header is not None]


@pytest.mark.parametrize("name", ["paper", "air", "blind"])
def test_two_antennas_find_frames_that_fade_at_one(name: str) -> None:
    layout = load_layout(name)
    single, double = (read(heard(layout, f"csnr_db=-3,rx={rx}", 32), layout) for rx in (1, 2))
    assert len(double) >= 27 and len(double) >= len(single) + 3
    assert all(len(frame.others) == 1 for frame in double)
    assert all(not frame.others for frame in single)


@pytest.mark.parametrize("doppler_hz", [100, 200])
def test_headers_over_a_channel_that_moves_are_those_of_their_frames(doppler_hz: int) -> None:
    """Most of them are read at the second try only, which has the rows of each frame's antennas to find."""
    layout = load_layout("air")
    single, double = (read(heard(layout, f"csnr_db=10,doppler_hz={doppler_hz},rx={rx}", 32), layout) for rx in (1, 2))
    assert len(double) >= max(len(single), 30)
    place = [round((frame.start - layout.gap_samples) / layout.frame_samples) for frame in double]
    assert [frame.header.frame_number for frame in double if frame.header is not None] == place


def test_start_and_carrier_are_one_and_their_error_is_as_stated() -> None:
    layout = load_layout("paper")
    found = {rx: read(heard(layout, f"csnr_db=5,rx={rx}"), layout) for rx in (1, 4)}
    assert [len(frames) for frames in found.values()] == [FRAMES, FRAMES]
    for frame in found[4]:
        assert {(each.start, each.cfo_hz, each.header) for each in frame.antennas} == {
            (frame.start, frame.cfo_hz, frame.header)
        }
        assert len({each.noise_var for each in frame.antennas}) == 4
    error = {rx: np.array([frame.cfo_hz - 300 for frame in frames]) for rx, frames in found.items()}
    stated = {rx: np.array([frame.cfo_std_hz for frame in frames]) for rx, frames in found.items()}
    # 48 normal errors have a standard deviation that is right to 10 %.
    for rx in (1, 4):
        assert np.std(error[rx] / stated[rx]) == pytest.approx(1.0, abs=0.35)
    assert np.std(error[4]) < 0.75 * np.std(error[1])


def test_snrs_of_antennas_add_up() -> None:
    layout = load_layout("paper")
    frame = read(heard(layout, "csnr_db=10,rx=2", 4), layout)[0]
    ratios = [each.signal_power / each.noise_var for each in frame.antennas]
    assert frame.snr_db == pytest.approx(10 * np.log10(sum(ratios)))
    assert replace(frame, others=()).snr_db == pytest.approx(10 * np.log10(ratios[0]))


def test_headers_over_taps_that_move_are_each_frames_own() -> None:
    layout, count = load_layout("photo"), 24
    air = "taps=8,csnr_db=0,cfo_hz=300"
    single, double = (received_frames(layout, count, f"{air},rx={rx}", doppler_hz=200.0) for rx in (1, 2))
    numbers = {
        len(found[0].antennas): [frame.header.frame_number for frame in found if frame.header is not None]
        for found in (single, double)
    }
    assert numbers[2] == list(range(count))
    assert numbers[1] == sorted(set(numbers[1])) and len(numbers[1]) < count


@pytest.mark.parametrize("gain", [1e-3, 1.0, 1e3])
def test_the_gain_of_an_antenna_does_not_matter(gain: float) -> None:
    layout = load_layout("paper")
    recording = heard(layout, "csnr_db=0,rx=2", 16)
    moved = replace(recording, others=(recording.others[0] * np.float32(gain),), health=None)  # type: ignore[arg-type]
    before, after = read(recording, layout), read(moved, layout)
    assert [frame.start for frame in before] == [frame.start for frame in after] and len(before) >= 15
    for one, two in zip(before, after, strict=True):
        assert two.cfo_hz == pytest.approx(one.cfo_hz, abs=0.02 * one.cfo_std_hz)
        assert two.others[0].noise_var == pytest.approx(one.others[0].noise_var * gain**2, rel=1e-3)


def test_a_dead_antenna_does_little_harm() -> None:
    layout = load_layout("paper")
    recording = heard(layout, "csnr_db=3", 32)
    rng = np.random.default_rng(3)
    noise = rng.standard_normal((recording.num_samples, 2)).astype(np.float32).view(np.complex64)[:, 0]
    noise *= np.float32((layout.amplitude**2 * 10**-0.3 / 2) ** 0.5)
    alone = read(recording, layout)
    beside = read(replace(recording, others=(noise,)), layout)
    assert len(beside) >= len(alone) - 1
    starts = {frame.start for frame in alone}
    assert sum(frame.start in starts for frame in beside) >= len(alone) - 2


def test_frames_of_a_stream_of_blocks_are_those_of_the_recording() -> None:
    layout = load_layout("paper")
    recording = heard(layout, "csnr_db=8,rx=2", 8)
    samples = np.stack(recording.antennas)
    whole = find_frames(recording, layout)
    blocks = [samples[:, first : first + 777] for first in range(0, samples.shape[1], 777)]
    parts = list(stream_frames(blocks, layout, chunk_samples=layout.frame_samples))
    assert [frame.start for frame in parts] == [frame.start for frame in whole]
    assert all(one.others[0].start == one.start for one in parts)


def test_noise_at_two_antennas_passes_as_often_as_at_one() -> None:
    layout = load_layout("paper")
    rng = np.random.default_rng(4)
    noise = rng.standard_normal((2, 4_000_000, 2)).astype(np.float32).view(np.complex64)[..., 0]
    one, two = (
        candidates(Antennas(noise[:antennas], np.zeros(antennas, np.complex128)), layout)[0].size for antennas in (1, 2)
    )
    assert one > 40 and abs(two - one) < 4 * (one + two) ** 0.5


def test_pooling_is_maximum_ratio_combining() -> None:
    values, noise_var = np.array([1.0, 2.0, 3.0, 5.0]), np.array([1.0, 3.0, 2.0, 2.0])
    # Weights s_mean / s: 2 and 2/3, then 1 and 1.
    np.testing.assert_allclose(pooled(balanced(values, noise_var, 2), 2), [2 + 4 / 3] * 2 + [8.0] * 2)
    assert balanced(values, noise_var, 1) is values and pooled(values, 1) is values


def test_noise_floors_are_those_of_the_gaps() -> None:
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((2, 50_000, 2)).astype(np.float32).view(np.complex64)[..., 0] / 2**0.5
    noise[1] *= 3
    noise[:, : -len(noise[0]) // 5] += 10
    floors = noise_floors(noise, 100)
    assert floors[1] / floors[0] == pytest.approx(9.0, rel=0.2)
