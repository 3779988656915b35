"""Noise that is not white: frames are found in it, headers read, offsets measured; white noise is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from lab.benchmarks.uneven_headers import Capture, capture, known_headers
from receiver.sync.frame import SyncedFrame
from receiver.sync.interference import without_interference
from receiver.sync.known import completed, known_symbols, matched_filter
from receiver.sync.noise_powers import burst_noise, carrier_noise
from receiver.sync.preamble import find_frames
from receiver.sync.uneven import preamble_weights
from sdr.air.chain import Impairments
from sdr.air.impairments import apply_multipath, draw_taps, exponential_pdp, noise_var_for_csnr
from sdr.layout import FrameLayout, load_layout
from sdr.recordings.recording import Recording

PAPER, AIR = load_layout("paper"), load_layout("air")
FRAMES = 40


def noise_of(powers: NDArray[np.float64], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.complex128]:
    parts = rng.standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]) * np.sqrt(powers / 2)


def preambles(
    layout: FrameLayout, count: int, noise: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.complex64]:
    """Return preambles (count, 2, N) over 8 taps of their own, in noise of these powers (N,)."""
    taps = np.stack([draw_taps(exponential_pdp(8, 4.0), rng) for _ in range(count)])
    sent = np.stack([layout.preamble_a, layout.preamble_b])
    turned = np.exp(2j * np.pi * rng.uniform(size=(count, 2)))[:, :, None]
    clean = np.fft.fft(taps, layout.fft_size)[:, None, :] * sent * turned
    return (clean + noise_of(noise, clean.shape, rng)).astype(np.complex64)


def found_headers(heard: Capture, layout: FrameLayout) -> tuple[NDArray[np.bool_], list[SyncedFrame]]:
    """Return which headers (F,) are read, and the frames of these."""
    read, frames = np.zeros(heard.starts.size, dtype=bool), []
    for frame in find_frames(Recording(heard.samples), layout):
        away = np.abs(frame.start + frame.advance - heard.starts)
        if frame.header is not None and away.min() <= layout.cp_samples:
            read[away.argmin()] = True
            assert frame.header.frame_number == away.argmin()
            frames.append(frame)
    return read, frames


@pytest.mark.parametrize("channel", ["awgn", "rayleigh8"])
@pytest.mark.parametrize("kind", ["white", "jam", "band", "burst"])
@pytest.mark.parametrize("layout", [PAPER, AIR], ids=["paper", "air"])
def test_headers_are_read_nearly_as_often_as_with_everything_known(
    layout: FrameLayout, kind: str, channel: str
) -> None:
    heard = capture(kind, channel, layout, 3.0, (1, 2), FRAMES)
    read, _ = found_headers(heard, layout)
    # With one variance a frame, at most a third of these were read in noise that is not white; in `band` none.
    assert read.sum() >= known_headers(heard, layout).sum() - 3


@pytest.mark.parametrize("kind", ["white", "jam", "band", "burst"])
def test_carrier_offset_and_clock_are_as_wrong_as_stated(kind: str) -> None:
    carrier, clock = [], []
    for number in range(2):
        heard = capture(kind, "awgn", PAPER, 10.0, (3, number), FRAMES)
        for frame in found_headers(heard, PAPER)[1]:
            carrier.append((frame.cfo_hz - heard.cfo_hz) / frame.cfo_std_hz)
            clock.append(frame.sfo_ppm / frame.sfo_std_ppm)
            assert frame.corrected_sfo_ppm == 0
    # 80 squares of normal errors have a mean that is right to 16 %.
    assert len(carrier) >= 78
    assert np.mean(np.square(carrier)) == pytest.approx(1, abs=0.6)
    assert np.mean(np.square(clock)) == pytest.approx(1, abs=0.6)


def test_the_signals_power_is_not_that_of_a_burst() -> None:
    heard = capture("burst", "awgn", PAPER, 3.0, (4,), FRAMES)
    frames = found_headers(heard, PAPER)[1]
    powers = np.array([frame.signal_power for frame in frames]) / PAPER.amplitude**2
    assert len(frames) >= FRAMES - 1 and powers.mean() == pytest.approx(1, abs=0.1) and powers.std() < 0.1


@pytest.mark.parametrize("csnr_db", [-3.0, 10.0, 30.0])
@pytest.mark.parametrize("layout", [PAPER, AIR], ids=["paper", "air"])
def test_white_noise_has_no_weights(layout: FrameLayout, csnr_db: float) -> None:
    noise = np.full(layout.fft_size, 10 ** (-csnr_db / 10))
    assert preamble_weights(preambles(layout, 2000, noise, np.random.default_rng(5)), layout) is None


@pytest.mark.parametrize("csnr_db", [0.0, 10.0])
def test_weights_are_nearly_those_of_the_true_noise(csnr_db: float) -> None:
    noise = np.full(PAPER.fft_size, 10 ** (-csnr_db / 10))
    noise[20:30] *= 100
    found = preamble_weights(preambles(PAPER, 100, noise, np.random.default_rng(6)), PAPER)
    assert found is not None
    level = 1 / np.mean(1 / noise)
    # Noise of a weighted sum over that of the best one.
    loss = np.sum(found.weight**2 * noise, axis=1) / found.weight.sum(axis=1) ** 2 * np.sum(1 / noise)
    assert 10 * np.log10(np.median(loss)) < 0.3 and 10 * np.log10(np.mean(loss)) < 1.0
    assert np.median(found.level) == pytest.approx(level, rel=0.25)
    np.testing.assert_allclose(found.weight[:, PAPER.active_bins].mean(axis=1), 1, rtol=1e-3)


def test_only_frames_in_uneven_noise_are_weighed() -> None:
    rng = np.random.default_rng(7)
    white, uneven = np.full(PAPER.fft_size, 0.5), np.full(PAPER.fft_size, 0.5)
    uneven[20:30] *= 100
    pair = np.concatenate([preambles(PAPER, 5, white, rng), preambles(PAPER, 5, uneven, rng)])
    found = preamble_weights(pair, PAPER)
    assert found is not None
    assert (found.weight[:5] == 1).all() and np.isnan(found.level[:5]).all()
    assert (found.weight[5:, 20:30] < 0.2).all() and np.isfinite(found.level[5:]).all()


@pytest.mark.parametrize("first_lag", [0, -2])
def test_completed_sums_show_the_taps_of_the_weighted_ones(first_lag: int) -> None:
    known, rng, count = known_symbols(PAPER), np.random.default_rng(8), 3
    weight = rng.uniform(0, 1, (count, PAPER.fft_size)).astype(np.float32)
    weight[:, 20:40] = 0.0
    pair = preambles(PAPER, count, np.full(PAPER.fft_size, 0.1), rng)
    noise_var, power, flat = np.full(count, 0.1), np.ones(count), known.flat[2]
    sums = np.sum(pair * weight[:, None, :] * known.single.conj(), axis=1)
    energy = np.sum(np.abs(known.single) ** 2, axis=0)
    whole = completed(sums, energy * (1 - weight), flat, noise_var, power, first_lag)
    taps = flat.estimate(matched_filter(whole), noise_var, power, np.full(count, first_lag))
    fourier = np.exp(
        -2j * np.pi * np.outer(np.arange(PAPER.fft_size), first_lag + np.arange(flat.taps)) / PAPER.fft_size
    )
    for row in range(count):
        normal = fourier.conj().T @ ((energy * weight[row])[:, None] * fourier)
        expected = np.linalg.solve(normal + 0.1 * flat.taps * np.eye(flat.taps), fourier.conj().T @ sums[row])
        np.testing.assert_allclose(taps[row], expected, atol=2e-4)
    assert completed(sums, None, flat, noise_var, power) is sums


def test_samples_without_jamming_are_left_alone() -> None:
    for channel in ("awgn", "rayleigh8"):
        for csnr_db in (0.0, 30.0):
            samples = capture("white", channel, PAPER, csnr_db, (9,), FRAMES).samples
            read, searched = without_interference(samples, PAPER)
            assert read is samples and searched is samples


def test_a_jammed_band_is_taken_out_and_nothing_else() -> None:
    rng = np.random.default_rng(10)
    white = noise_of(np.ones(1), (1 << 16,), rng).astype(np.complex64)
    chain = Impairments(jam_power=39.0, jam_hz=(150e3,), jam_width_hz=39e3)
    jammed = chain.apply(white, 1e6, rng).samples
    searched = without_interference(jammed, PAPER)[1]
    assert np.mean(np.abs(searched) ** 2) == pytest.approx(1, abs=0.1)
    # Off the band, samples are where they were.
    frequency = np.fft.fftfreq(white.size, 1e-6)
    off = np.abs(frequency - 150e3) > 60e3
    before, after = np.fft.fft(white)[off], np.fft.fft(searched)[off]
    assert np.mean(np.abs(after - before) ** 2) < 1e-2 * np.mean(np.abs(before) ** 2)


def test_a_channel_that_stands_still_is_no_jamming() -> None:
    """Its peaks are as strong, over the median, as weak jamming, but wide."""
    rng = np.random.default_rng(16)
    pdp = exponential_pdp(8, 4.0)
    for _ in range(100):
        samples = apply_multipath(noise_of(np.ones(1), (1 << 14,), rng).astype(np.complex64), draw_taps(pdp, rng))
        assert without_interference(samples, PAPER)[1] is samples


@pytest.mark.parametrize("width_hz", [20e3, 200e3])
def test_jamming_of_any_width_is_taken_down(width_hz: float) -> None:
    rng = np.random.default_rng(17)
    white = noise_of(np.ones(1), (1 << 16,), rng).astype(np.complex64)
    jammed = Impairments(jam_power=1e3, jam_hz=(-200e3,), jam_width_hz=width_hz).apply(white, 1e6, rng).samples
    assert np.mean(np.abs(without_interference(jammed, PAPER)[1]) ** 2) < 20


def test_jamming_alone_is_no_frame() -> None:
    chain = Impairments(noise_var=1.0, jam_power=40.0, jam_hz=(-100e3, 150e3), jam_width_hz=20e3)
    samples = chain.apply(np.zeros(2_000_000, np.complex64), 1e6, np.random.default_rng(11)).samples
    assert not find_frames(Recording(samples), PAPER)


def test_a_strong_offset_is_no_jamming() -> None:
    rng = np.random.default_rng(12)
    samples = (noise_of(np.ones(1), (1 << 15,), rng) + 10).astype(np.complex64)
    read, searched = without_interference(samples, PAPER)
    assert read is samples and searched is samples


def test_empirical_bayes_finds_two_levels_and_leaves_one_alone() -> None:
    rng = np.random.default_rng(13)
    true = np.ones(256)
    true[100:110] = 100.0
    freedom = 13
    for powers in (np.ones(256), true):
        errors = powers * rng.gamma(freedom, 1 / freedom, 256)
        found = carrier_noise(errors, freedom)
        assert np.mean((10 * np.log10(found / powers)) ** 2) < 0.3 * np.mean((10 * np.log10(errors / powers)) ** 2)
    powers = rng.exponential(size=(5, 256))
    powers[2] *= 50
    added = burst_noise(powers, np.ones(powers.shape), 1.0)
    assert added[2] == pytest.approx(49, rel=0.2) and np.delete(added, 2).max() < 0.05


def test_two_antennas_of_which_one_is_jammed_read_at_least_what_the_other_does() -> None:
    clear, jammed = (capture(kind, "awgn", PAPER, 0.0, (14,), FRAMES) for kind in ("white", "band"))
    assert clear.cfo_hz == jammed.cfo_hz
    recording = Recording(clear.samples, others=(jammed.samples,))
    numbers = [frame.header.frame_number for frame in find_frames(recording, PAPER) if frame.header is not None]
    alone, _ = found_headers(clear, PAPER)
    assert len(numbers) >= alone.sum() - 1 and numbers == sorted(set(numbers))


def test_noise_of_a_csnr_is_what_the_benchmark_sends() -> None:
    heard = capture("band", "awgn", PAPER, 3.0, (15,), 4)
    white = noise_var_for_csnr(PAPER, 3.0)
    powers = np.sort(heard.noise[0] / white)
    assert np.median(powers) == pytest.approx(1.2, abs=0.2) and powers[-8:].min() > 400
