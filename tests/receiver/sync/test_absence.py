"""Frames that are missing are told, and where nothing is found, what was seen instead."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from receiver.front_end import in_units, unit_factor
from receiver.sync.absence import FramePlace, find_absences
from receiver.sync.diagnosis import describe_failure, rate_ratio
from receiver.sync.preamble import MAX_CFO_HZ, find_frames, stream_frames
from receiver.sync.rate import check_rate
from sdr.errors import RecordingError
from sdr.framing import pack_frames
from sdr.layout import load_layout, shipped_layouts
from sdr.modem import modulate_stream
from sdr.recordings.foreign import resample
from sdr.recordings.recording import Recording
from sdr.settings import RATE_TOLERANCE
from sdr.symbols import Symbols

FRAMES = 3
PAUSE = 700


@lru_cache
def transmission(name: str) -> tuple[np.ndarray, ...]:
    """Samples of each of three frames, gap included, each with as many images as it takes."""
    layout, rng = load_layout(name), np.random.default_rng(0)
    count = FRAMES * max(layout.capacity // 384, 1)
    z = (rng.standard_normal((count, 384)) + 1j * rng.standard_normal((count, 384))).astype(np.complex64)
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    frames = pack_frames(Symbols(z, "0" * 8, tuple(map(str, range(count))), (1, 32, 32), 10.0), layout, 10.0)
    return tuple(modulate_stream([frame], layout, 0) for frame in frames[:FRAMES])


def received(parts, seed: int = 1, pause: int = PAUSE, snr_db: float = 25.0) -> np.ndarray:
    """Frames with a pause before and behind, in noise."""
    samples = np.concatenate([np.zeros(pause), *parts, np.zeros(pause)])
    rng, level = np.random.default_rng(seed), 10 ** (-snr_db / 20) * np.sqrt(np.mean(np.abs(parts[0]) ** 2) / 2)
    noise = rng.standard_normal(samples.size) + 1j * rng.standard_normal(samples.size)
    return (samples + level * noise).astype(np.complex64)


def look(samples: np.ndarray, name: str, from_first: bool = True):
    layout, cut = load_layout(name), []
    frames = list(stream_frames([samples], layout, on_cut=cut.append))
    places = [FramePlace.of(frame) for frame in frames]
    return places, cut, find_absences(places, cut, layout, from_first=from_first)


@pytest.mark.parametrize("name", shipped_layouts())
def test_a_whole_transmission_lacks_nothing(name):
    places, cut, absences = look(received(transmission(name)), name)
    assert [place.header.frame_number for place in places] == [0, 1, 2] and not cut and not absences


@pytest.mark.parametrize("name", shipped_layouts())
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_frame_cut_at_the_end_is_told(name, share):
    layout, frames = load_layout(name), transmission(name)
    kept = round(share * layout.num_symbols * layout.symbol_samples)
    samples = received(frames)[: PAUSE + layout.frame_samples + kept]
    places, cut, absences = look(samples, name)
    assert [place.header.frame_number for place in places] == [0] and len(cut) == len(absences) == 1
    assert abs(cut[0].start_sample - PAUSE - layout.frame_samples) <= 2
    assert f"begins at {cut[0].start_sample} and is cut off at the end; record longer" in absences[0].reason
    if share > 0.5:
        assert absences[0].frame_number == 1 and absences[0].image_ids


@pytest.mark.parametrize("name", shipped_layouts())
def test_a_frame_cut_at_the_start_is_told(name):
    layout = load_layout(name)
    places, _, absences = look(received(transmission(name))[PAUSE + layout.frame_samples // 2 :], name)
    assert [place.header.frame_number for place in places] == [1, 2]
    assert [absence.frame_number for absence in absences] == [0] and "begins within frame 0" in absences[0].reason


@pytest.mark.parametrize("name", shipped_layouts())
def test_a_gap_in_the_numbers_is_told(name):
    frames = transmission(name)
    places, _, absences = look(received([frames[0], 0 * frames[1], frames[2]]), name)
    assert len(places) == 2 and [absence.frame_number for absence in absences] == [1]
    assert "frame 1 is missing" in absences[0].reason


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=12), st.booleans())
def test_exactly_the_numbers_that_never_came_are_missing(numbers, from_first):
    layout = load_layout("paper")
    header = first_header()
    places = [
        FramePlace(layout.frame_samples * (index + 5), replace(header, frame_number=number))
        for index, number in enumerate(numbers)
    ]
    missing = set(range(0 if from_first else min(numbers), max(numbers))) - set(numbers)
    absences = find_absences(places, [], layout, from_first=from_first)
    assert bool(absences) == bool(missing)
    assert not missing or absences[0].frame_number == min(missing)


@lru_cache
def first_header():
    (frame,) = find_frames(Recording(received(transmission("paper")[:1])), load_layout("paper"))
    return frame.header


def test_a_repeated_transmission_lacks_nothing_though_its_ends_are_cut():
    frames, layout = transmission("paper"), load_layout("paper")
    samples = received(list(frames) * 3)
    _, cut, absences = look(samples[PAUSE + layout.frame_samples // 2 : -PAUSE - layout.frame_samples], "paper")
    assert cut == [] and absences == []
    _, cut, absences = look(samples[: PAUSE + round(7.3 * layout.frame_samples)], "paper")
    assert len(cut) == 1 and absences == []


# Units


@settings(max_examples=40, deadline=None)
@given(st.floats(-30, 30))
def test_the_unit_of_the_samples_does_not_matter(exponent):
    plain = received(transmission("paper")[:1])
    samples = (plain.astype(np.complex128) * 10.0**exponent).astype(np.complex64)
    (frame,) = find_frames(in_units(Recording(samples)), load_layout("paper"))
    (wanted,) = find_frames(Recording(plain), load_layout("paper"))
    assert frame.header == wanted.header and frame.start == wanted.start
    assert abs(frame.snr_db - wanted.snr_db) < 0.1


@given(st.floats(1e-37, 3e38))
def test_the_factor_is_a_power_of_two_that_brings_samples_to_one(peak):
    factor = unit_factor(np.array([peak], np.complex64))
    assert np.frexp(factor)[0] == 0.5
    assert factor == 1 or 0.49 < np.float64(np.float32(peak)) * factor <= 1


# What was seen


def failure(samples: np.ndarray, name: str, swapped: bool = False) -> str:
    layout, cut = load_layout(name), []
    found = list(stream_frames([samples], layout, on_cut=cut.append))
    assert not any(frame.header for frame in found)
    return describe_failure(samples, layout, found, cut, max_cfo_hz=MAX_CFO_HZ, swapped=swapped)


def shifted(samples: np.ndarray, cycles: float) -> np.ndarray:
    return (samples * np.exp(2j * np.pi * cycles * np.arange(samples.size))).astype(np.complex64)


@pytest.mark.parametrize("name", shipped_layouts())
def test_a_mirrored_spectrum_is_told(name):
    samples = received(transmission(name))
    assert "add --swap-iq" in failure(1j * samples.conj(), name)
    assert "leave --swap-iq out" in failure(samples.conj(), name, swapped=True)


@pytest.mark.parametrize("name", shipped_layouts())
@pytest.mark.parametrize("cycles", [0.1, -0.21, 0.4])
def test_an_offset_beyond_the_search_is_told_and_the_option_finds_it(name, cycles):
    layout = load_layout(name)
    samples = shifted(received(transmission(name)), cycles)
    told = failure(samples, name)
    assert f"beyond the {MAX_CFO_HZ:.0f} Hz searched" in told
    wanted_hz = float(told.partition("--max-cfo-hz ")[2].rstrip("."))
    found = find_frames(Recording(samples), layout, max_cfo_hz=wanted_hz)
    assert found and abs(found[0].cfo_hz - cycles * layout.rate_sps) < 50


def test_a_single_frame_that_is_cut_is_told():
    samples, layout = received(transmission("paper")[:1]), load_layout("paper")
    told = failure(samples[: PAUSE + layout.frame_samples // 2], "paper")
    assert f"begins at {PAUSE} and is cut off at the end" in told or f"begins at {PAUSE + 1}" in told


@pytest.mark.parametrize("ratio", [0.8, 2.0])
def test_a_wrong_rate_is_told_by_the_cyclic_prefixes(ratio):
    samples = resample(received(transmission("air")), 1.0, ratio)
    found = rate_ratio(samples, load_layout("air"))
    assert found is not None and abs(found / ratio - 1) < 0.01
    assert f"at about {found * 1e6:.4g} per second" in failure(samples, "air")


def test_energy_without_a_preamble_and_silence_are_told_apart():
    rng, layout = np.random.default_rng(3), load_layout("paper")
    quiet = (0.01 * (rng.standard_normal(20000) + 1j * rng.standard_normal(20000))).astype(np.complex64)
    burst = quiet.copy()
    burst[8000:12000] *= 30
    assert "dB above the rest" in failure(burst, "paper") and "no burst of energy" in failure(quiet, "paper")
    assert "every sample is zero" in failure(np.zeros(5000, np.complex64), "paper")
    whole = received(transmission("air")[:1])[PAUSE + 2 * layout.symbol_samples :]
    assert "begin within the frame" in failure(whole, "air")


def test_a_preamble_without_a_header_is_told():
    samples, layout = received(transmission("paper")[:1]), load_layout("paper")
    begin = PAUSE + 2 * layout.symbol_samples
    samples[begin : begin + layout.header_symbols * layout.symbol_samples] = 0
    assert "no header could be read" in failure(samples, "paper")


@pytest.mark.parametrize("name", shipped_layouts())
@pytest.mark.parametrize("sign", [-1, 1])
def test_rates_that_pass_the_check_can_be_received(name, sign):
    layout, ratio = load_layout(name), 1 + sign * 0.99 * RATE_TOLERANCE
    check_rate(layout.rate_sps * ratio, layout)
    with pytest.raises(RecordingError, match="ppm"):
        check_rate(layout.rate_sps * (1 + sign * 1.01 * RATE_TOLERANCE), layout)
    frames = find_frames(Recording(resample(received(transmission(name)), 1.0, ratio)), layout)
    assert [frame.header.frame_number for frame in frames if frame.header] == [0, 1, 2]
