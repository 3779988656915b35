"""Detection, timing, carrier offset, noise and header reading against simulated channels; truth scoring."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lab.evaluation.channel_truth import (
    ChannelTruth,
    channel_distance,
    frame_index,
    timing_error_samples,
    true_response,
    true_taps,
)
from receiver.channel.estimate import estimate_channel
from receiver.channel.prior import receiver_pdp
from receiver.measurement.collect import measure_frames
from receiver.sync.frame import SyncedFrame, timing_advance
from receiver.sync.preamble import find_frames, stream_frames
from sdr.air.chain import Impairments
from sdr.air.impairments import (
    apply_awgn,
    apply_block_fading,
    apply_cfo,
    apply_delay,
    exponential_pdp,
    noise_var_for_csnr,
)
from sdr.errors import ConfigError, InputError, RecordingError
from sdr.framing import FrameContent, frame_grid, pack_frames
from sdr.header import encode_header
from sdr.layout import FrameLayout, load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings
from sdr.symbols import Symbols
from tests.receiver.moving import received_frames

LAYOUTS = {name: load_layout(name) for name in ("paper", "air", "blind")}


@dataclass(frozen=True)
class Capture:
    recording: Recording
    contents: list[FrameContent]
    truth: ChannelTruth


def capture(
    layout: FrameLayout,
    *,
    frames: int = 8,
    csnr_db: float | None = 10.0,
    num_taps: int = 8,
    cfo_hz: float = 300.0,
    delay_samples: int = 5000,
    redraw_frames: int = 1,
    gain: float = 1.0,
    dc: complex = 0.0,
    tail_samples: int = 500,
    seed: int = 0,
    circularity: float = 0.0,
) -> Capture:
    """Frames through block fading, carrier offset, noise, a late start and a gain.

    `circularity` is |E z^2| of the symbols; the shipped codec's is .46.
    """
    rng = np.random.default_rng(seed)
    parts = rng.standard_normal((2, frames, layout.capacity))
    z = np.sqrt(1 + circularity) * parts[0] + 1j * np.sqrt(1 - circularity) * parts[1]
    z = z * (1.0 if circularity == 0 else np.exp(0.7j))
    z /= np.sqrt(np.mean(np.abs(z) ** 2, axis=1, keepdims=True))
    ids = tuple(f"i{i}" for i in range(frames))
    contents = pack_frames(Symbols(z.astype(np.complex64), "00c0ffee", ids, (1, 32, 32), 10.0), layout)
    block = redraw_frames * layout.frame_samples
    stream = np.concatenate([modulate_stream(contents, layout, 0), np.zeros(tail_samples, np.complex64)])
    faded, taps = apply_block_fading(stream, block, exponential_pdp(num_taps, 4.0), rng)
    samples = np.concatenate([np.zeros(delay_samples, np.complex64), apply_cfo(faded, cfo_hz, layout.rate_sps)])
    if csnr_db is not None:
        samples = apply_awgn(samples, noise_var_for_csnr(layout, csnr_db), rng)
    starts = np.arange(frames) * layout.frame_samples
    truth = ChannelTruth(taps, block, cfo_hz, starts, delay_samples=delay_samples, gain=gain)
    return Capture(Recording((samples * gain + dc).astype(np.complex64)), contents, truth)


def check_found(found: list[SyncedFrame], sent: Capture) -> None:
    """Every frame once, in order, with its header."""
    assert [frame_index(frame, sent.truth) for frame in found] == list(range(len(sent.contents)))
    assert all(abs(timing_error_samples(frame, sent.truth)) <= 2 for frame in found)
    assert [frame.header for frame in found] == [content.header for content in sent.contents]


# What has to be found


@pytest.mark.parametrize("cfo_hz", [0.0, 300.0, 2000.0, -3906.25, 59_000.0, -60_000.0])
@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_frame_is_found_and_read(name: str, cfo_hz: float) -> None:
    sent = capture(LAYOUTS[name], cfo_hz=cfo_hz, seed=int(abs(cfo_hz)))
    found = find_frames(sent.recording, LAYOUTS[name])
    check_found(found, sent)
    error_hz = np.array([frame.cfo_hz - cfo_hz for frame in found])
    assert np.sqrt(np.mean(error_hz**2)) < 3.0


@pytest.mark.parametrize("csnr_db", [30.0, 20.0, 10.0])
def test_a_third_party_channel(csnr_db: float) -> None:
    """2 kHz, a delay of many thousand samples, a gain of 0.03, more than a direct-current offset of its size."""
    layout = LAYOUTS["paper"]
    sent = capture(
        layout, csnr_db=csnr_db, cfo_hz=2000.0, delay_samples=61_234, gain=0.03, dc=0.02 - 0.01j, seed=round(csnr_db)
    )
    check_found(find_frames(sent.recording, layout), sent)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_frames_at_5_db_are_found_through_fades(name: str) -> None:
    sent = capture(LAYOUTS[name], frames=24, csnr_db=5.0, cfo_hz=-2000.0, seed=3)
    found = find_frames(sent.recording, LAYOUTS[name])
    assert [frame_index(frame, sent.truth) for frame in found] == list(range(24))
    strong = [frame for frame in found if frame.snr_db > 0]
    assert strong and all(frame.header_ok for frame in strong)


def test_a_pure_line_of_sight_is_timed_exactly() -> None:
    layout = LAYOUTS["air"]
    sent = capture(layout, num_taps=1, csnr_db=10.0, redraw_frames=100, seed=4)
    found = find_frames(sent.recording, layout)
    check_found(found, sent)
    assert {timing_error_samples(frame, sent.truth) for frame in found} == {0}


def test_a_fractional_delay_is_no_obstacle() -> None:
    layout = LAYOUTS["air"]
    sent = capture(layout, csnr_db=20.0, seed=5)
    late = apply_delay(sent.recording.samples, 0.5)
    assert [frame.header for frame in find_frames(Recording(late), layout)] == [c.header for c in sent.contents]


def test_clipped_frames_are_read() -> None:
    layout = replace(LAYOUTS["paper"], clip_ratio=1.2)
    sent = capture(layout, seed=6)
    found = find_frames(sent.recording, layout)
    check_found(found, sent)
    # The known symbols are compared as they were sent, so clipping does not pass for noise.
    ratio = np.mean([frame.noise_var for frame in found]) / noise_var_for_csnr(layout, 10.0)
    assert ratio == pytest.approx(1.0, abs=0.06)


def test_a_prefix_shorter_than_the_channel() -> None:
    layout = replace(LAYOUTS["paper"], cp_samples=4)
    sent = capture(layout, csnr_db=15.0, seed=7)
    found = find_frames(sent.recording, layout)
    assert sum(frame.header_ok for frame in found) == len(sent.contents)


# What must not be found


@pytest.mark.parametrize("name", ["paper", "air"])
def test_noise_holds_no_frames(name: str) -> None:
    noise = apply_awgn(np.zeros(2_000_000, np.complex64), 0.5, np.random.default_rng(11))
    assert find_frames(Recording(noise), LAYOUTS[name]) == []


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(100_000),
        np.ones(100_000),
        np.ones(1),
        np.exp(2j * np.pi * 0.123 * np.arange(50_000)),
        np.resize([1.0, -1.0, 1j], 40_000),
    ],
    ids=["silence", "dc", "one sample", "tone", "periodic"],
)
def test_structure_that_is_no_frame(samples: NDArray[np.complex128]) -> None:
    assert find_frames(Recording(samples.astype(np.complex64)), LAYOUTS["paper"]) == []


def test_another_layout_is_not_mistaken_for_ours() -> None:
    sent = capture(LAYOUTS["paper"], csnr_db=20.0)
    stranger = replace(LAYOUTS["paper"], seed=99)
    assert find_frames(sent.recording, stranger) == []


def test_a_recording_of_another_rate_is_refused() -> None:
    recording = Recording(np.ones(10, np.complex64), RadioSettings(rate_sps=2e6))
    with pytest.raises(RecordingError, match=r"2000000.*1000000"):
        find_frames(recording, LAYOUTS["paper"])


# Edges of a recording


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_frame_that_is_cut_off_is_left_out(name: str) -> None:
    layout = LAYOUTS[name]
    sent = capture(layout, frames=3, num_taps=1, redraw_frames=9, csnr_db=20.0, delay_samples=1000, seed=8)
    last_end = 1000 + 2 * layout.frame_samples + layout.num_symbols * layout.symbol_samples
    for end, count in ((last_end, 3), (last_end - layout.cp_samples, 2), (last_end - 2000, 2), (1300, 0), (40, 0)):
        assert len(find_frames(Recording(sent.recording.samples[:end].copy()), layout)) == count


def test_a_recording_may_begin_with_the_frame_or_inside_of_it() -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, frames=3, csnr_db=20.0, num_taps=1, redraw_frames=9, delay_samples=0, seed=9)
    whole = sent.recording.samples
    assert [frame.start + frame.advance for frame in find_frames(Recording(whole), layout)] == [
        index * layout.frame_samples for index in range(3)
    ]
    for first in (layout.symbol_samples, 2000):
        starts = [frame.start + frame.advance for frame in find_frames(Recording(whole[first:].copy()), layout)]
        assert starts == [index * layout.frame_samples - first for index in (1, 2)]


def test_chunk_borders_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, seed=10)
    expected = [frame.start for frame in find_frames(sent.recording, layout)]
    for chunk in (1000, 4352, 10_007):
        monkeypatch.setattr("receiver.sync.preamble.CHUNK_SAMPLES", chunk)
        assert [frame.start for frame in find_frames(sent.recording, layout)] == expected


# What is measured


@pytest.mark.parametrize("csnr_db", [0.0, 10.0, 25.0])
@pytest.mark.parametrize("name", ["paper", "air"])
def test_noise_and_signal_power(name: str, csnr_db: float) -> None:
    layout = LAYOUTS[name]
    sent = capture(layout, csnr_db=csnr_db, frames=10, gain=0.1, seed=12)
    found = find_frames(sent.recording, layout)
    assert len(found) >= 8
    noise_var = noise_var_for_csnr(layout, csnr_db) * 0.1**2
    z_scores = np.array([(frame.noise_var - noise_var) / frame.noise_var_std for frame in found])
    assert np.sqrt(np.mean(z_scores**2)) < 1.8
    assert np.mean([frame.noise_var for frame in found]) == pytest.approx(noise_var, rel=0.03)
    for frame in found:
        response = true_response(frame, sent.truth, layout)[layout.active_bins] * layout.amplitude * 0.1
        expected = np.mean(np.abs(response) ** 2)
        spread = noise_var * np.sqrt((1 + 2 * expected / noise_var) / 2000)
        assert frame.signal_power == pytest.approx(expected, abs=5 * spread + 0.05 * expected)
        assert frame.snr_db == pytest.approx(10 * np.log10(frame.signal_power / frame.noise_var))


def test_stated_carrier_error_is_the_scatter() -> None:
    layout = LAYOUTS["paper"]
    scores = []
    for seed in range(3):
        sent = capture(layout, cfo_hz=777.0, frames=12, seed=20 + seed)
        scores += [(frame.cfo_hz - 777.0) / frame.cfo_std_hz for frame in find_frames(sent.recording, layout)]
    assert 0.6 < np.sqrt(np.mean(np.square(scores))) < 1.5


def test_grids_are_as_documented() -> None:
    layout = LAYOUTS["air"]
    sent = capture(layout, frames=2, csnr_db=None, cfo_hz=1234.5, seed=13)
    for content, frame in zip(sent.contents, find_frames(sent.recording, layout), strict=True):
        response = true_response(frame, sent.truth, layout) * layout.amplitude
        active = layout.active_bins
        expected = (response * layout.pilots)[:, active]
        assert frame.grid.shape == (4, 256) and frame.grid.dtype == np.complex64
        assert np.allclose(frame.grid[:1, active], expected, atol=2e-3)
        assert np.allclose(frame.preamble_grid[1, active], (response * layout.preamble_b)[active], atol=5e-3)
        header = response * encode_header(content.header, layout)
        assert np.allclose(frame.header_grid[:, active], header[:, active], atol=5e-3)


def test_pilots_and_data_do_not_enter() -> None:
    """Nothing but the grid itself depends on the samples of pilots and data (a blind decoder relies on it)."""
    layout = LAYOUTS["paper"]
    sent = capture(layout, frames=1, delay_samples=3000, seed=14)
    begin = 3000 + layout.first_pilot_symbol * layout.symbol_samples + 20
    end = 3000 + layout.num_symbols * layout.symbol_samples - 20
    spoiled = sent.recording.samples.copy()
    spoiled[begin:end] = apply_awgn(np.zeros(end - begin, np.complex64), 0.04, np.random.default_rng(0))
    (one,), (other,) = (find_frames(Recording(s), layout) for s in (sent.recording.samples, spoiled))
    assert one.start == other.start and one.header == other.header
    for field in ("cfo_hz", "noise_var", "signal_power"):
        assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-3)
    assert not np.allclose(one.grid, other.grid, atol=0.01)


# Foreign carriers, offsets, clocks, phase


@pytest.mark.parametrize(("tone_db", "tone_hz"), [(24.0, 123_456.7), (30.0, -310_000.0), (12.0, 52_343.2)])
def test_a_tone_above_the_frames_is_taken_out(tone_db: float, tone_hz: float) -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, csnr_db=12.0, seed=50)
    chain = Impairments(tone=layout.rms * 10 ** (tone_db / 20), tone_hz=tone_hz, dc=0.3)
    spoiled = chain.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(0)).samples
    found = find_frames(Recording(spoiled), layout)
    check_found(found, sent)
    assert np.median([frame.snr_db for frame in found]) > 9.0


@pytest.mark.parametrize("offset_ppm", [0.0, 10.0, -25.0])
@pytest.mark.parametrize("name", ["paper", "air"])
def test_the_sampling_clock_is_measured_and_made_good(name: str, offset_ppm: float) -> None:
    layout = LAYOUTS[name]
    sent = capture(layout, csnr_db=20.0, cfo_hz=0.0, frames=12, seed=51)
    chain = Impairments(offset_ppm=offset_ppm, center_hz=2.4e9)
    late = chain.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(0)).samples
    for center_hz in (0.0, 2.4e9):
        found = find_frames(Recording(late, RadioSettings(center_hz=center_hz)), layout)
        assert [frame.header for frame in found] == [content.header for content in sent.contents]
        errors = np.array([frame.sfo_ppm - offset_ppm for frame in found])
        # On the full band the simulated clock itself is not exact at the edge.
        assert abs(np.median(errors)) < 2.0
        if name == "air":
            assert np.sqrt(np.mean((errors / [frame.sfo_std_ppm for frame in found]) ** 2)) < 2.5
        if center_hz:
            assert np.median([frame.corrected_sfo_ppm for frame in found]) == pytest.approx(offset_ppm, abs=0.1)


def test_the_strongest_path_is_timed_between_samples() -> None:
    layout = LAYOUTS["air"]
    sent = capture(layout, num_taps=1, csnr_db=20.0, redraw_frames=100, seed=52, cfo_hz=4321.0)
    for delay in (0.0, 0.3, 0.5, 0.8):
        found = find_frames(Recording(apply_delay(sent.recording.samples, delay)), layout)
        starts = sent.truth.frame_starts + sent.truth.delay_samples + delay
        errors = [frame.start + frame.arrival_samples - start for frame, start in zip(found, starts, strict=True)]
        assert np.abs(errors).max() < 0.02


def test_tracking_carriers_hold_the_phase() -> None:
    """Phase noise of 3 degrees: the tracked phase follows, the pilots' channel then fits the data."""
    layout = replace(LAYOUTS["air"], data_symbols=12, tracking=tuple(range(-88, 100, 16)))
    sent = capture(layout, csnr_db=20.0, cfo_hz=0.0, frames=6, num_taps=1, redraw_frames=9, seed=53)
    chain = Impairments(phase_noise_deg=6.0, phase_noise_hz=100.0)
    out = chain.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(1))
    found = find_frames(Recording(out.samples), layout)
    assert len(found) == 6
    left, raw = [], []
    for frame, content in zip(found, sent.contents, strict=True):
        grid = frame_grid(content, layout)[layout.first_pilot_symbol :]
        response = frame.grid[0] * layout.pilots[0].conj()
        turned = np.sum(frame.grid * (response * grid).conj(), axis=1)
        left.append(np.angle(turned[1:]))
        raw.append(np.angle(turned[1:] * np.exp(1j * (frame.phase_rad[1:] - frame.phase_rad[0]))))
    assert np.std(left) < 0.5 * np.std(raw) and np.degrees(np.std(left)) < 2.5


def phases(found: list[SyncedFrame], sent: Capture, layout: FrameLayout) -> tuple[float, float, float]:
    """Standard deviations (rad) of data symbols' phases in a frame before correction and after, and as stated."""
    before, after = [], []
    for frame, content in zip(found, sent.contents, strict=True):
        grid = frame_grid(content, layout)[layout.first_pilot_symbol :]
        response = np.fft.fft(frame.known_taps, layout.fft_size)
        left = np.angle(np.sum(frame.grid * (response * grid).conj(), axis=1))
        for angles, phase in ((after, left), (before, np.angle(np.exp(1j * (left + frame.phase_rad))))):
            data = phase[layout.pilot_symbols :]
            angles.append(data - data.mean())
    return float(np.std(before)), float(np.std(after)), float(np.median([frame.phase_residual_rad for frame in found]))


@pytest.mark.parametrize(("circularity", "least", "most"), [(0.46, 0.0, 0.55), (0.0, 0.98, 1.02)])
def test_the_phase_of_data_is_held_without_tracking_carriers(circularity: float, least: float, most: float) -> None:
    """From the squares of the cells; where the symbols are circular, squares say nothing, and nothing is done."""
    active = (*range(-400, 0), *range(1, 401))
    layout = replace(LAYOUTS["air"], fft_size=1024, cp_samples=64, active=active, data_symbols=12, header_symbols=8)
    sent = capture(
        layout, csnr_db=15.0, cfo_hz=0.0, frames=6, num_taps=1, redraw_frames=9, seed=60, circularity=circularity
    )
    chain = Impairments(phase_noise_deg=6.0, phase_noise_hz=100.0)
    noisy = chain.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(1)).samples
    before, after, stated = phases(find_frames(Recording(noisy), layout), sent, layout)
    assert before > np.radians(4.0) and least * before < after < most * before
    assert 0.6 * after < stated < 1.6 * after


def test_the_clock_of_a_short_header_is_made_good_by_the_data() -> None:
    layout = replace(LAYOUTS["air"], data_symbols=40, header_symbols=5, image_slots=1)
    errors = {}
    for circularity in (0.0, 0.46):
        sent = capture(
            layout, csnr_db=12.0, cfo_hz=0.0, frames=16, num_taps=1, redraw_frames=99, seed=61, circularity=circularity
        )
        chain = Impairments(offset_ppm=20.0, center_hz=0.0)
        late = chain.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(0)).samples
        found = find_frames(Recording(late), layout)
        errors[circularity] = np.sqrt(np.mean([(frame.corrected_sfo_ppm - 20.0) ** 2 for frame in found]))
    assert errors[0.46] < 0.55 * errors[0.0]


def test_what_is_known_well_is_not_touched() -> None:
    layout = LAYOUTS["air"]
    sent = capture(layout, csnr_db=10.0, seed=62, circularity=0.46)
    found = find_frames(sent.recording, layout)
    assert all(not frame.phase_rad.any() and frame.phase_residual_rad < np.radians(3) for frame in found)
    assert all(frame.timing_residual_samples < 0.05 for frame in found)


def test_data_symbols_without_data_are_no_trouble() -> None:
    """Phase noise makes their phase worth asking for, and they say nothing of it."""
    layout = LAYOUTS["air"]
    contents = capture(layout, frames=4, csnr_db=None, seed=63).contents
    empty = [FrameContent(content.header, np.zeros(layout.capacity, np.complex64)) for content in contents]
    chain = Impairments(phase_noise_deg=5.0, phase_noise_hz=500.0)
    noisy = chain.apply(modulate_stream(empty, layout), layout.rate_sps, np.random.default_rng(0)).samples
    for samples in (noisy, apply_awgn(noisy, 1e-3, np.random.default_rng(1))):
        found = find_frames(Recording(samples), layout)
        assert [frame.header for frame in found] == [content.header for content in contents]
        assert all(np.isfinite(frame.grid).all() and np.isfinite(frame.phase_residual_rad) for frame in found)


def test_phase_jitter_is_reported() -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, csnr_db=25.0, frames=12, num_taps=1, redraw_frames=99, seed=54)
    noisy = Impairments(phase_noise_deg=3.0, phase_noise_hz=2000.0)
    jittery = noisy.apply(sent.recording.samples, layout.rate_sps, np.random.default_rng(2)).samples
    calm = np.median([frame.phase_jitter_rad for frame in find_frames(sent.recording, layout)])
    loud = np.median([frame.phase_jitter_rad for frame in find_frames(Recording(jittery), layout)])
    # A symbol averages over 266 samples, longer than the phase remembers (80): part of the 3 degrees is seen.
    assert calm < np.radians(0.5) < np.radians(0.8) < loud < np.radians(3.0)


def test_stated_errors_of_the_snr_are_its_scatter() -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, csnr_db=10.0, frames=40, num_taps=1, redraw_frames=99, seed=55)
    found = find_frames(sent.recording, layout)
    snr = np.array([frame.snr_db for frame in found])
    assert 0.6 < snr.std() / np.mean([frame.snr_std_db for frame in found]) < 1.6
    assert np.mean([frame.evm_db for frame in found]) == pytest.approx(-snr.mean(), abs=0.5)


# Streams


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_stream_holds_the_frames_of_the_recording(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = LAYOUTS[name]
    sent = capture(layout, seed=56, delay_samples=777)
    expected = [(frame.start, frame.header) for frame in find_frames(sent.recording, layout)]
    monkeypatch.setattr("receiver.sync.preamble.CHUNK_SAMPLES", 9000)
    for size in (1, 5000, 40_000):
        edges = range(0, sent.recording.samples.size, size if size > 1 else 977)
        blocks = (sent.recording.samples[edge : edge + edges.step] for edge in edges)
        assert [(frame.start, frame.header) for frame in stream_frames(blocks, layout)] == expected


def test_memory_does_not_grow_with_the_stream() -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, frames=4, seed=57).recording.samples

    def peak(repeats: int) -> int:
        tracemalloc.start()
        count = sum(1 for _ in stream_frames((sent for _ in range(repeats)), layout, chunk_samples=1 << 16))
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == 4 * repeats
        return size

    short, long = peak(8), peak(64)
    assert long < 1.2 * short


# Anything at all. `pytest --hypothesis-profile=long` tries fifty times as much (tests/conftest.py).

FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck))
EXAMPLE_S = 5.0
"""Processor time after which an example counts as a hang; the longest takes a tenth of it."""


@lru_cache
def clean(name: str) -> Capture:
    return capture(
        LAYOUTS[name], frames=3, csnr_db=15.0, num_taps=1, redraw_frames=9, delay_samples=300, seed=58, circularity=0.4
    )


def check_headers(samples: NDArray[np.complex64], name: str, sent: Sequence[FrameContent]) -> list[SyncedFrame]:
    """Frames found, none twice, every header one that was sent; a decoder takes them or says in a line why not."""
    began = time.process_time()
    found = find_frames(Recording(samples.astype(np.complex64)), LAYOUTS[name])
    assert time.process_time() - began < EXAMPLE_S
    starts = [frame.start for frame in found]
    assert starts == sorted(set(starts))
    headers = [frame.header for frame in found if frame.header is not None]
    assert all(header in [content.header for content in sent] for header in headers)
    for frame in found:
        assert np.isfinite(frame.grid).all() and np.isfinite([frame.cfo_hz, frame.snr_db, frame.metric]).all()
    if headers:
        with contextlib.suppress(InputError):  # an image whose parts are not all there, or a frame that came twice
            assert torch.isfinite(torch.view_as_real(measure_frames(found, LAYOUTS[name]).y)).all()
    return found


@FUZZ
@given(name=st.sampled_from(sorted(LAYOUTS)), data=st.binary(min_size=8, max_size=60_000), repeats=st.integers(1, 8))
def test_arbitrary_bytes_hold_no_frame(name: str, data: bytes, repeats: int) -> None:
    """As floats, whatever their size, and as the integers of an analogue-to-digital converter."""
    data = data[: len(data) // 8 * 8] * repeats
    floats = np.nan_to_num(np.frombuffer(data, dtype="<f4"), nan=0.0, posinf=1.0, neginf=-1.0)
    for values in (floats, np.frombuffer(data, dtype="<i2").astype(np.float32) / 32768):
        found = check_headers(values.view(np.complex64), name, [])
        assert all(frame.header is None for frame in found)


@FUZZ
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    span=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    shift=st.floats(0, 1),
    gain_db=st.floats(-60, 20),
)
def test_a_part_of_a_capture_holds_its_whole_frames(
    name: str, span: tuple[float, float], shift: float, gain_db: float
) -> None:
    """Cut off anywhere, late by a fraction of a sample, of any level."""
    layout, sent = LAYOUTS[name], clean(name)
    whole = sent.recording.samples
    low, last = sorted(round(edge * (whole.size - 1)) for edge in span)
    samples = apply_delay(whole[low : last + 1], shift) * np.float32(10 ** (gain_db / 20))
    found = check_headers(samples, name, sent.contents)
    starts = sent.truth.frame_starts + sent.truth.delay_samples
    inside = (starts >= low + 2) & (starts + layout.num_symbols * layout.symbol_samples <= last - 1)
    assert sum(frame.header is not None for frame in found) >= inside.sum()


@FUZZ
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    shift=st.integers(-20_000, 20_000),
    gain_db=st.floats(-30, 3),
    turn=st.floats(0, 6.3),
    cfo_hz=st.floats(-60e3, 60e3),
)
def test_overlapping_captures_yield_nothing_that_was_not_sent(
    name: str, shift: int, gain_db: float, turn: float, cfo_hz: float
) -> None:
    whole = clean(name).recording.samples
    other = apply_cfo(np.roll(whole, shift), cfo_hz, LAYOUTS[name].rate_sps)
    check_headers(whole + other * np.complex64(10 ** (gain_db / 20) * np.exp(1j * turn)), name, clean(name).contents)


@FUZZ
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    cuts=st.lists(
        st.tuples(
            st.sampled_from(sorted(LAYOUTS)), st.integers(0, 13_000), st.integers(1, 9000), st.booleans(),
            st.floats(-40, 10), st.booleans(),
        ),
        min_size=1,
        max_size=8,
    ),
)  # fmt: skip
def test_spliced_captures_yield_nothing_that_was_not_sent(
    name: str, cuts: list[tuple[str, int, int, bool, float, bool]]
) -> None:
    """Pieces of captures of any layout, forwards, backwards or conjugated, at any level."""
    parts = []
    for source, begin, size, back, gain_db, mirror in cuts:
        part = clean(source).recording.samples[begin : begin + size][:: -1 if back else 1]
        parts.append((part.conj() if mirror else part) * np.float32(10 ** (gain_db / 20)))
    # `paper` and `blind` share preambles and header; whose a frame is says its header, which a decoder looks at.
    check_headers(np.concatenate(parts), name, [content for each in LAYOUTS for content in clean(each).contents])


# Truth


@pytest.mark.parametrize("cfo_hz", [0.0, 2000.0, -40_000.0])
@pytest.mark.parametrize("name", ["paper", "air"])
def test_without_noise_the_estimate_is_the_truth(name: str, cfo_hz: float) -> None:
    layout = LAYOUTS[name]
    sent = capture(layout, csnr_db=None, cfo_hz=cfo_hz, gain=0.2, seed=15)
    found = find_frames(sent.recording, layout)
    check_found(found, sent)
    measurement = measure_frames(found, layout)
    advance = timing_advance(layout)
    profile = receiver_pdp(layout.cp_samples, advance)
    for index, frame in enumerate(found):
        estimate = estimate_channel(
            "lmmse", measurement.pilots[index].numpy(), layout, measurement.noise_var[index].item() + 1e-6, profile
        )
        assert channel_distance(estimate.taps, frame, sent.truth, layout) < 1e-3
        raw = estimate_channel("ls", frame.grid[:1], layout, frame.noise_var).response / (layout.amplitude * 0.2)
        truth = true_response(frame, sent.truth, layout)
        active = layout.active_bins
        assert np.sum(np.abs((raw - truth)[active]) ** 2) < 1e-4 * np.sum(np.abs(truth[active]) ** 2)
        taps = true_taps(frame, sent.truth, layout, layout.cp_samples + 4)
        assert np.allclose(np.fft.fft(taps, layout.fft_size), truth)


def test_truth_distance_at_10_db_is_the_lmmse_error() -> None:
    layout = LAYOUTS["paper"]
    distances = []
    for seed in range(3):
        sent = capture(layout, frames=12, seed=30 + seed)
        found = find_frames(sent.recording, layout)
        measurement = measure_frames(found, layout)
        profile = receiver_pdp(layout.cp_samples, timing_advance(layout))
        estimate = estimate_channel("lmmse", measurement.pilots.numpy(), layout, measurement.noise_var.numpy(), profile)
        distances += [
            channel_distance(taps, frame, sent.truth, layout) for taps, frame in zip(estimate.taps, found, strict=True)
        ]
    # Ten taps at most from 256 pilots: 10 log10(0.1 * 10 / 256) = -24 dB; the phase adds a little.
    assert -26.5 < 10 * np.log10(np.mean(distances)) < -22.5


def test_truth_from_what_the_channel_left() -> None:
    stored = {
        "taps": np.ones((2, 3)),
        "redraw_samples": 10,
        "first_redraw_sample": 4,
        "cfo_hz": 1.0,
        "frame_starts": [0],
    }
    truth = ChannelTruth.from_mapping({**stored, "noise_var": 0.1})
    assert (truth.redraw_samples, truth.first_redraw_sample, truth.delay_samples) == (10, 4, 0)
    with pytest.raises(ConfigError, match="frame_starts"):
        ChannelTruth.from_mapping({"taps": np.ones((1, 1)), "redraw_samples": 1, "cfo_hz": 0.0})
    with pytest.raises(ConfigError, match="blocks"):
        replace(truth, taps=np.ones(3, np.complex64))


def test_a_truth_of_another_recording_is_refused() -> None:
    layout = LAYOUTS["paper"]
    sent = capture(layout, frames=2, seed=16)
    short = replace(sent.truth, taps=sent.truth.taps[:1])
    with pytest.raises(ConfigError, match="another recording"):
        true_response(find_frames(sent.recording, layout)[1], short, layout)


def test_headers_are_read_while_the_channel_moves() -> None:
    """At 200 Hz the channel of the preambles is gone within the header."""
    for name in ("paper", "air"):
        frames = received_frames(LAYOUTS[name], 12, doppler_hz=200.0)
        assert sum(frame.header is not None for frame in frames) >= 11
