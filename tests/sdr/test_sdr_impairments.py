"""Each impairment against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.errors import InputError
from sdr.impairments import (
    apply_awgn,
    apply_block_fading,
    apply_cfo,
    apply_delay,
    apply_multipath,
    clip,
    draw_taps,
    exponential_pdp,
    noise_var_for_csnr,
)


def gaussian(count, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(count) + 1j * rng.standard_normal(count)).astype(np.complex64)


@given(num_taps=st.integers(1, 64), decay=st.floats(0.1, 100))
def test_profile_is_exponential_and_sums_to_one(num_taps, decay):
    pdp = exponential_pdp(num_taps, decay)
    assert pdp.shape == (num_taps,) and pdp.sum() == pytest.approx(1.0)
    # Differences of logarithms are -1/decay, as long as the powers are representable.
    kept = pdp[pdp > 1e-250]
    assert np.allclose(np.diff(np.log(kept)), -1 / decay, rtol=1e-6)


def test_taps_have_the_profile_as_variance_and_are_circular():
    pdp = exponential_pdp(8, 4.0)
    rng = np.random.default_rng(1)
    taps = np.stack([draw_taps(pdp, rng) for _ in range(20_000)])
    assert taps.dtype == np.complex64
    # 20 000 draws: the standard error of a variance is 1/sqrt(20000) = 0.7 %; five of them are allowed.
    assert np.allclose(np.mean(np.abs(taps) ** 2, axis=0) / pdp, 1.0, atol=0.035)
    assert np.all(np.abs(np.mean(taps**2, axis=0)) / pdp < 0.035)
    assert np.all(np.abs(taps.mean(axis=0)) / np.sqrt(pdp) < 0.035)
    covariance = np.conj(taps).T @ taps / len(taps) / np.sqrt(np.outer(pdp, pdp))
    assert np.all(np.abs(covariance - np.eye(8)) < 0.04)


def test_multipath_is_a_sum_of_delayed_copies():
    samples, taps = gaussian(200), gaussian(8, seed=1)
    expected = np.zeros(207, complex)
    for delay, tap in enumerate(taps):
        expected[delay : delay + 200] += tap * samples
    assert np.allclose(apply_multipath(samples, taps), expected, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 300), block=st.integers(1, 400), num_taps=st.integers(1, 12))
def test_block_fading_is_the_documented_sum(count, block, num_taps):
    samples = gaussian(count)
    faded, taps = apply_block_fading(samples, block, exponential_pdp(num_taps, 4.0), np.random.default_rng(5))
    assert faded.shape == (count + num_taps - 1,) and taps.shape == (-(-faded.size // block), num_taps)
    for n in np.unique(np.linspace(0, faded.size - 1, 20).astype(int)):
        terms = [taps[n // block, lag] * samples[n - lag] for lag in range(num_taps) if 0 <= n - lag < count]
        assert faded[n] == pytest.approx(sum(terms), abs=1e-5)


def test_one_block_is_plain_multipath():
    samples, pdp = gaussian(500), exponential_pdp(8, 4.0)
    faded, taps = apply_block_fading(samples, 10_000, pdp, np.random.default_rng(2))
    assert np.allclose(faded, apply_multipath(samples, taps[0]), atol=1e-5)
    assert np.array_equal(taps[0], draw_taps(pdp, np.random.default_rng(2)))


def test_cfo_phase():
    samples = np.ones(5000, np.complex64)
    rotated = apply_cfo(samples, cfo_hz=-1234.5, rate_sps=1e6)
    assert rotated[0] == 1
    assert np.allclose(rotated, np.exp(-2j * np.pi * 1234.5e-6 * np.arange(5000)), atol=1e-6)


def test_cfo_stays_exact_over_long_captures():
    rotated = apply_cfo(np.ones(3_000_001, np.complex64), cfo_hz=1000.0, rate_sps=1e6)
    assert rotated[3_000_000] == pytest.approx(1.0, abs=1e-5)


def test_cfo_there_and_back():
    samples = gaussian(1000)
    assert np.allclose(apply_cfo(apply_cfo(samples, 777.0, 1e6), -777.0, 1e6), samples, atol=1e-5)


@given(delay=st.integers(0, 1000))
def test_whole_delay_is_a_shift(delay):
    samples = gaussian(64)
    delayed = apply_delay(samples, float(delay))
    assert delayed.shape == (64 + delay,)
    assert not delayed[:delay].any() and np.array_equal(delayed[delay:], samples)


@settings(deadline=None)
@given(delay=st.floats(0, 700), frequency=st.floats(-0.35, 0.35))
def test_fractional_delay_of_a_band_limited_pulse(delay, frequency):
    # A Gaussian pulse of 20 samples' width is band-limited to single precision, and its delayed form is known.
    def pulse(time):
        return np.exp(-(((time - 300.0) / 20.0) ** 2) / 2 + 2j * np.pi * frequency * time)

    delayed = apply_delay(pulse(np.arange(600.0)).astype(np.complex64), delay)
    assert delayed.size == 600 + np.ceil(delay)
    assert np.allclose(delayed, pulse(np.arange(delayed.size) - delay), atol=2e-5)


def test_noise_power_and_circularity():
    noise = apply_awgn(np.zeros(400_000, np.complex64), 0.25, np.random.default_rng(3))
    assert noise.dtype == np.complex64
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(0.25, rel=0.01)
    assert abs(np.mean(noise)) < 0.005 and abs(np.mean(noise**2)) < 0.005
    assert abs(np.mean(noise[1:] * np.conj(noise[:-1]))) < 0.005


def test_no_noise_changes_nothing():
    samples = gaussian(100)
    assert np.array_equal(apply_awgn(samples, 0.0, np.random.default_rng(0)), samples)


@given(limit=st.floats(0.01, 10))
def test_clip(limit):
    samples = np.concatenate([gaussian(50), [0]]).astype(np.complex64)
    clipped = clip(samples, limit)
    assert clipped.dtype == np.complex64
    assert np.allclose(np.abs(clipped), np.minimum(np.abs(samples), limit), rtol=1e-5)
    assert np.allclose(clipped * np.abs(samples), samples * np.abs(clipped), atol=1e-4)
    assert np.array_equal(clip(clipped, limit * 1.0001), clipped)


def test_csnr_reference(layout):
    noise_var = noise_var_for_csnr(layout, 7.0)
    assert 10 * np.log10(layout.amplitude**2 / noise_var) == pytest.approx(7.0)


def test_randomness_comes_from_the_generator():
    samples = gaussian(64)
    one, two, three = (apply_awgn(samples, 1.0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two) and not np.array_equal(one, three)


@pytest.mark.parametrize(
    "call",
    [
        lambda: exponential_pdp(0, 4.0),
        lambda: exponential_pdp(8, 0.0),
        lambda: exponential_pdp(8, float("nan")),
        lambda: apply_awgn(gaussian(3), -1.0, np.random.default_rng(0)),
        lambda: apply_awgn(np.zeros(3), 1.0, np.random.default_rng(0)),
        lambda: apply_delay(gaussian(3), -0.5),
        lambda: apply_delay(gaussian(3), float("inf")),
        lambda: apply_cfo(np.zeros((2, 2), complex), 1.0, 1e6),
        lambda: apply_block_fading(gaussian(3), 0, exponential_pdp(2, 1.0), np.random.default_rng(0)),
        lambda: clip(gaussian(3), 0.0),
        lambda: clip(gaussian(3), float("nan")),
    ],
)
def test_wrong_arguments(call):
    with pytest.raises(InputError):
        call()
