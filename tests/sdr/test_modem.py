"""The reference modem inverts itself, keeps its level, and multiplies by the channel's response."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.air.impairments import (
    apply_awgn,
    apply_cfo,
    apply_delay,
    apply_multipath,
    draw_taps,
    exponential_pdp,
    noise_var_for_csnr,
)
from sdr.errors import InputError, LayoutError, RecordingError
from sdr.framing import frame_grid, pack_frames
from sdr.layout import load_layout
from sdr.modem import demodulate, modulate, modulate_stream


@pytest.fixture(scope="session")
def full_frames(draw_symbols):
    """Function (layout, count=3) -> that many frames without an unused cell."""
    return lambda layout, count=3: pack_frames(draw_symbols(count, layout.capacity, seed=2), layout)


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_round_trip(full_frames, layout, data):
    frames = full_frames(layout)
    gap = data.draw(st.integers(0, 500))
    index = data.draw(st.integers(0, len(frames) - 1))
    first = data.draw(st.integers(0, layout.num_symbols - 1))
    count = data.draw(st.integers(0, layout.num_symbols - first))
    advance = data.draw(st.integers(0, layout.cp_samples))
    stream = modulate_stream(frames, layout, leading_gap_samples=gap)
    start = gap + index * layout.frame_samples
    grid = demodulate(stream, start, layout, count, first, advance=advance)
    assert grid.shape == (count, layout.fft_size) and grid.dtype == np.complex64
    sent = frame_grid(frames[index], layout)[first : first + count]
    assert np.allclose(grid / layout.amplitude, sent, atol=1e-5)


def test_level(full_frames, layout):
    samples = modulate(full_frames(layout)[0], layout)
    occupied = samples[: layout.num_symbols * layout.symbol_samples].reshape(layout.num_symbols, -1)
    assert samples.dtype == np.complex64 and samples.shape == (layout.frame_samples,)
    assert np.abs(samples).max() <= 1.0
    # Without its prefix each symbol has the layout's power exactly where its cells have unit modulus.
    power = np.mean(np.abs(occupied[:, layout.cp_samples :]) ** 2, axis=1)
    assert np.allclose(power[: layout.first_data_symbol], layout.rms**2, rtol=1e-4)
    assert np.mean(power[layout.first_data_symbol :]) == pytest.approx(layout.rms**2, rel=0.02)
    assert not samples[occupied.size :].any()


def test_prefix_is_the_tail(full_frames, layout):
    samples = modulate(full_frames(layout)[0], layout)
    symbols = samples[: layout.num_symbols * layout.symbol_samples].reshape(layout.num_symbols, -1)
    assert np.array_equal(symbols[:, : layout.cp_samples], symbols[:, layout.fft_size :])


def test_one_cell_is_one_exponential(full_frames, layout):
    # An independent definition of the modulator: the inverse transform written out as a sum.
    content = full_frames(layout)[0]
    grid = frame_grid(content, layout)
    symbol = layout.num_symbols - 1
    samples = modulate(content, layout)
    for n in (0, 5, layout.symbol_samples - 1):
        carriers = np.array(layout.active)
        phases = np.exp(2j * np.pi * carriers * (n - layout.cp_samples) / layout.fft_size)
        expected = (grid[symbol, carriers % layout.fft_size] * phases).sum() / np.sqrt(layout.fft_size)
        assert samples[symbol * layout.symbol_samples + n] == pytest.approx(expected * layout.amplitude, abs=1e-6)


def test_clipping_limits_magnitude_only(full_frames, layout):
    clipped_layout = dataclasses.replace(layout, clip_ratio=1.5)
    open_layout = dataclasses.replace(layout, clip_ratio=None)
    clipped = modulate(full_frames(clipped_layout)[0], clipped_layout)
    limit = 1.5 * layout.rms
    assert np.abs(clipped).max() == pytest.approx(limit, rel=1e-5)
    # Of the known parts, which don't depend on the digest, the samples below the limit are untouched.
    known = slice(0, 2 * layout.symbol_samples)
    free = modulate(full_frames(open_layout)[0], open_layout)[known]
    small = np.abs(free) < limit
    assert 0 < small.sum() < free.size
    assert np.allclose(clipped[known][small], free[small], atol=1e-7)
    assert np.allclose(np.angle(clipped[known][~small]), np.angle(free[~small]), atol=1e-4)


def test_full_scale_holds_without_backoff(full_frames):
    layout = dataclasses.replace(load_layout("paper"), backoff_db=0.0)
    assert np.abs(modulate(full_frames(layout)[0], layout)).max() <= 1.0 + 1e-6


@pytest.mark.parametrize("num_taps", [1, 8])
def test_channel_multiplies_cells(full_frames, layout, num_taps):
    rng = np.random.default_rng(4)
    taps = draw_taps(exponential_pdp(num_taps, 4.0), rng)
    frames = full_frames(layout)
    received = apply_multipath(modulate_stream(frames, layout), taps)
    start = layout.gap_samples + layout.frame_samples
    advance = layout.cp_samples - num_taps + 1
    sent = frame_grid(frames[1], layout)
    for early in (0, advance):
        grid = demodulate(received, start, layout, layout.num_symbols, 0, advance=early) / layout.amplitude
        assert np.allclose(grid, sent * np.fft.fft(taps, layout.fft_size), atol=2e-5)


def test_early_paths_wrap_to_negative_delay(full_frames):
    layout = load_layout("air")
    stream = modulate_stream(full_frames(layout), layout)
    grid = demodulate(stream, layout.gap_samples + 3, layout, 1, 1, advance=8) / layout.amplitude
    active = layout.active_bins
    response = np.zeros(layout.fft_size, complex)
    response[active] = grid[0, active] / layout.preamble_b[active]
    assert np.argmax(np.abs(np.fft.ifft(response))) == layout.fft_size - 3


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.9])
def test_a_fractional_delay_turns_the_carriers(full_frames, fraction):
    layout = load_layout("air")
    received = apply_delay(modulate_stream(full_frames(layout), layout), 20.0 + fraction)
    grid = demodulate(received, layout.gap_samples + 20, layout, 1, 1, advance=16)[0] / layout.amplitude
    carriers = np.array(layout.active)
    response = grid[layout.active_bins] / layout.preamble_b[layout.active_bins]
    # Only what rings over from the neighbouring symbols is left, measured at about 1e-3.
    expected = np.exp(-2j * np.pi * carriers * fraction / layout.fft_size)
    assert np.abs(response - expected).max() < 0.005


@pytest.mark.parametrize("cfo_hz", [-7000.0, 300.0, 2000.0])
def test_cfo_is_removed(full_frames, layout, cfo_hz):
    frames = full_frames(layout)
    start = layout.gap_samples
    received = apply_cfo(modulate_stream(frames, layout), cfo_hz, layout.rate_sps)
    grid = demodulate(received, start, layout, layout.num_symbols, 0, cfo_hz=cfo_hz) / layout.amplitude
    # The removed phase is 0 at `start`, the impairment's at sample 0.
    turn = np.exp(2j * np.pi * cfo_hz * start / layout.rate_sps)
    assert np.allclose(grid, frame_grid(frames[0], layout) * turn, atol=3e-5)


def test_csnr_is_what_it_says(full_frames, layout):
    rng = np.random.default_rng(8)
    frames = full_frames(layout, count=8)
    noise_var = noise_var_for_csnr(layout, 10.0)
    received = apply_awgn(modulate_stream(frames, layout), noise_var, rng)
    errors, powers = [], []
    for index, frame in enumerate(frames):
        start = layout.gap_samples + index * layout.frame_samples
        grid = demodulate(received, start, layout, layout.num_symbols, 0)[:, layout.active_bins]
        sent = frame_grid(frame, layout)[:, layout.active_bins] * layout.amplitude
        errors.append(np.mean(np.abs(grid - sent) ** 2))
        powers.append(np.mean(np.abs(sent) ** 2))
    assert 10 * np.log10(np.mean(powers) / np.mean(errors)) == pytest.approx(10.0, abs=0.2)


def test_stream_has_frames_back_to_back(full_frames):
    layout = load_layout("paper")
    frames = full_frames(layout)
    stream = modulate_stream(frames, layout)
    assert stream.size == layout.gap_samples + 3 * layout.frame_samples
    second = layout.gap_samples + layout.frame_samples
    assert np.array_equal(stream[second : second + layout.frame_samples], modulate(frames[1], layout))


def test_errors(full_frames):
    layout = load_layout("paper")
    frames = full_frames(layout)
    stream = modulate_stream(frames, layout)
    with pytest.raises(RecordingError, match=r"needs samples .* but the recording has"):
        demodulate(stream[:1000], 0, layout, layout.num_symbols, 0)
    with pytest.raises(RecordingError, match="needs samples"):
        demodulate(stream, -50, layout, 1, 0)
    with pytest.raises(InputError, match="cyclic prefix"):
        demodulate(stream, 0, layout, 1, 0, advance=11)
    with pytest.raises(InputError, match="symbols 0"):
        demodulate(stream, 0, layout, 2, layout.num_symbols - 1)
    with pytest.raises(InputError, match="needs a frame"):
        modulate_stream([], layout)
    with pytest.raises(LayoutError, match="pack it again"):
        modulate(frames[0], load_layout("air"))
