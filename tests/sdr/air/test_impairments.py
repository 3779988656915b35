"""Each impairment against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.air.amplifier import apply_rapp, clip
from sdr.air.chain import Impairments
from sdr.air.delay_line import LEAD_SAMPLES, TDL_NAMES, DelayLine, MovingTaps, apply_tdl, tdl_profile
from sdr.air.impairments import (
    Bursts,
    PhaseNoise,
    apply_awgn,
    apply_block_fading,
    apply_cfo,
    apply_dc,
    apply_delay,
    apply_gain_step,
    apply_iq_imbalance,
    apply_multipath,
    apply_sfo,
    draw_taps,
    drop_samples,
    exponential_pdp,
    noise_var_for_csnr,
    quantise,
)
from sdr.errors import InputError


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


# Oscillators, converters, amplifiers


@settings(deadline=None, max_examples=20)
@given(sfo_ppm=st.floats(-100, 100), frequency=st.floats(-0.4, 0.4))
def test_an_sfo_is_a_stretch_of_time(sfo_ppm, frequency):
    tone = np.exp(2j * np.pi * frequency * np.arange(6000)).astype(np.complex64)
    stretched = apply_sfo(tone, sfo_ppm)
    expected = np.exp(2j * np.pi * frequency * np.arange(stretched.size) * (1 + sfo_ppm * 1e-6))
    inner = slice(20, stretched.size - 20)
    assert np.abs(stretched - expected)[inner].max() < 5e-3
    assert abs(stretched.size - 6000) <= 1


def test_phase_noise_has_its_rms_and_correlation():
    rms, corner, rate = 2.0, 2000.0, 1e6
    phase = PhaseNoise(rms, corner, rate, np.random.default_rng(0)).draw(2_000_000)
    # 2 s of a process that forgets within 80 us: 12 000 independent looks, a standard error of 1 %.
    assert np.degrees(phase.std()) == pytest.approx(rms, rel=0.04)
    for lag in (1, 10, 100):
        measured = np.mean(phase[lag:] * phase[:-lag]) / phase.var()
        assert measured == pytest.approx(np.exp(-2 * np.pi * corner * lag / rate), abs=0.02)


def image_rejection_db(gain_db, phase_deg):
    """Power of a signal over its image: |1 + g|^2 / |1 - g|^2 with the complex imbalance g."""
    g = 10 ** (gain_db / 20) * np.exp(1j * np.radians(phase_deg))
    return 20 * np.log10(abs(1 + g) / abs(1 - g))


@given(rejection_db=st.floats(10, 60), share=st.floats(0, 1))
def test_image_rejection_of_a_tone(rejection_db, share):
    gain_db, phase_deg = share * 0.5, np.degrees(2 * np.arctan(10 ** (-rejection_db / 20)))
    tone = np.exp(2j * np.pi * 37 / 256 * np.arange(256)).astype(np.complex64)
    spectrum = np.fft.fft(apply_iq_imbalance(tone, gain_db, phase_deg))
    measured = 20 * np.log10(abs(spectrum[37]) / abs(spectrum[-37]))
    assert measured == pytest.approx(image_rejection_db(gain_db, phase_deg), abs=0.1)
    assert image_rejection_db(0.0, phase_deg) == pytest.approx(rejection_db, abs=1e-6)


def test_dc_is_a_constant():
    samples = gaussian(50)
    assert np.allclose(apply_dc(samples, 0.3 - 0.2j) - samples, 0.3 - 0.2j, atol=1e-6)


@given(saturation=st.floats(0.05, 2), smoothness=st.floats(0.5, 10))
def test_amplifier_is_linear_below_and_flat_above(saturation, smoothness):
    drive = np.array([1e-3, 1.0, 1e4]) * saturation
    out = apply_rapp((drive * np.exp(1j)).astype(np.complex64), saturation, smoothness)
    assert np.allclose(np.angle(out), 1.0, atol=1e-5)
    assert np.allclose(np.abs(out) / saturation, [1e-3, 2 ** (-0.5 / smoothness), 1.0], rtol=2e-3)


@given(bits=st.integers(2, 14))
def test_quantiser_rounds_and_saturates(bits):
    samples = np.clip(gaussian(4000) / 3, -5, 5).astype(np.complex64)
    out = quantise(samples, bits)
    step, parts, sent = 2.0 ** (1 - bits), out.view(np.float32), samples.view(np.float32)
    assert np.allclose(parts / step, np.rint(parts / step)) and parts.min() >= -1 and parts.max() <= 1 - step
    inside = np.abs(sent) < 1 - step
    assert np.abs(parts - sent)[inside].max() <= step / 2 + 1e-6
    if bits >= 6:  # the noise of rounding is uniform
        assert np.var((parts - sent)[inside]) == pytest.approx(step**2 / 12, rel=0.1)


def test_gain_step():
    stepped = apply_gain_step(np.ones(10, np.complex64), 4, 6.0)
    assert np.allclose(stepped, np.r_[np.ones(4), np.full(6, 10**0.3)])


def test_bursts_have_their_power_and_duty():
    rng = np.random.default_rng(4)
    struck, starts = Bursts(4.0, 100, 0.05, rng).add(np.zeros(1_000_000, np.complex64))
    share = np.mean(struck != 0)
    assert share == pytest.approx(1 - np.exp(-0.05), rel=0.15) and starts.size == pytest.approx(500, abs=110)
    assert np.mean(np.abs(struck) ** 2) == pytest.approx(0.2, rel=0.15)


def test_regular_bursts_are_where_they_were_said_to_be():
    chain = Impairments(burst_power=1.0, burst_samples=30, burst_every_samples=100, burst_first_sample=7)
    struck = chain.apply(np.zeros(1000, np.complex64), 1e6, np.random.default_rng(0)).samples
    assert np.array_equal(struck != 0, (np.arange(1000) - 7) % 100 < 30)


def test_jamming_has_its_power_in_its_bands():
    """Carriers 10..19 of 256 are jammed, as wide as ten carriers are."""
    spacing_hz = 1e6 / 256
    chain = Impairments(jam_power=0.5, jam_hz=(14.5 * spacing_hz,), jam_width_hz=10 * spacing_hz)
    found = chain.apply(np.zeros(256 * 400, np.complex64), 1e6, np.random.default_rng(0)).samples
    assert np.mean(np.abs(found) ** 2) == pytest.approx(0.5, rel=0.1)
    powers = np.mean(np.abs(np.fft.fft(found.reshape(-1, 256), norm="ortho")) ** 2, axis=0)
    inside = powers[11:19]
    assert inside == pytest.approx(np.full(8, 0.5 * 25.6), rel=0.25)
    assert np.delete(powers, np.arange(0, 30)).max() < 0.01 * inside.mean()


def test_a_band_too_narrow_or_wide_is_refused():
    for width_hz in (1.0, 2e6):
        with pytest.raises(InputError, match="jam_width_hz"):
            Impairments(jam_power=0.5, jam_hz=(0.0,), jam_width_hz=width_hz).apply(
                np.zeros(10, np.complex64), 1e6, np.random.default_rng(0)
            )


@given(gap=st.integers(0, 20), gaps=st.integers(0, 5))
def test_missing_samples_are_gone_without_a_mark(gap, gaps):
    samples = (1 + np.arange(300)).astype(np.complex64)
    kept, starts = drop_samples(samples, gap, gaps, np.random.default_rng(0))
    assert kept.size == 300 - gap * gaps and starts.size == gaps
    lost = {int(start) + i for start in starts for i in range(gap)}
    assert [int(v.real) - 1 for v in kept] == [i for i in range(300) if i not in lost]


# Delay lines


@pytest.mark.parametrize("name", TDL_NAMES)
def test_delay_lines_have_unit_spread(name):
    delays, powers = tdl_profile(name)
    mean = powers @ delays
    assert powers.sum() == pytest.approx(1) and np.sqrt(powers @ delays**2 - mean**2) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", TDL_NAMES)
def test_a_delay_line_has_the_spread_wanted(name):
    """The mean power profile on the sample grid: the rms spread in samples, the mean where the table puts it."""
    rng, rate, spread_s = np.random.default_rng(2), 20e6, 300e-9
    taps = np.stack([DelayLine(name, spread_s, 0.0, rate, rng).taps(0, 1)[0] for _ in range(1000)])
    power = np.mean(np.abs(taps) ** 2, axis=0)
    lags = np.arange(power.size) - LEAD_SAMPLES
    mean = power @ lags / power.sum()
    delays, powers = tdl_profile(name)
    # Interpolation between samples is flat within 0.8 of the band.
    band = np.abs(np.fft.fftfreq(256)) < 0.4
    assert np.mean(np.abs(np.fft.fft(taps, 256)[:, band]) ** 2) == pytest.approx(1.0, abs=0.05)
    assert mean == pytest.approx(powers @ delays * spread_s * rate, abs=0.4)
    assert np.sqrt(power @ (lags - mean) ** 2 / power.sum()) == pytest.approx(spread_s * rate, rel=0.05)


def test_a_measured_profile_is_the_taps_power():
    chain = Impairments(pdp=(2.0, 0.0, 1.0, 1.0), block_samples=1)
    fading = chain.apply(np.zeros(20_000, np.complex64), 1e6, np.random.default_rng(3)).fading
    assert fading is not None
    assert np.allclose(np.mean(np.abs(fading.taps) ** 2, axis=0), [0.5, 0.0, 0.25, 0.25], atol=0.02)


def test_delay_line_is_its_truth_and_has_unit_gain():
    samples = gaussian(20_000)
    rng = np.random.default_rng(0)
    received, truth = apply_tdl(samples, "A", 300e-9, 200.0, 1e6, rng)
    for n in (1000, 7777, 19_000):
        taps = truth.at(n)
        assert received[n] == pytest.approx(sum(taps[i] * samples[n - i] for i in range(taps.size)), abs=1e-3)
    powers = [np.sum(np.abs(apply_tdl(samples[:64], "C", 0.0, 0.0, 1e6, rng)[1].taps[0]) ** 2) for _ in range(4000)]
    assert np.mean(powers) == pytest.approx(1.0, abs=0.08)


def test_doppler_is_clarkes():
    """Autocorrelation of a flat channel over 3 ms steps: J0(2 pi f t), by the series of its integral."""
    doppler, rate, rng = 50.0, 1e5, np.random.default_rng(1)
    gains = []
    for _ in range(300):
        truth = apply_tdl(np.zeros(2000, np.complex64), "B", 0.0, doppler, rate, rng)[1]
        gains.append([truth.at(n)[8] for n in range(0, 2000, 300)])
    gains = np.array(gains)
    angles = np.linspace(0, 2 * np.pi, 721)[:-1]
    for step in range(1, 6):
        measured = np.mean(gains[:, step:].conj() * gains[:, :-step]).real / np.mean(np.abs(gains) ** 2)
        expected = np.mean(np.cos(2 * np.pi * doppler * 300 * step / rate * np.cos(angles)))
        assert measured == pytest.approx(expected, abs=0.12)


@pytest.mark.parametrize("doppler_hz", [50.0, 200.0])
def test_moving_taps_have_their_powers_and_the_correlation_of_jakes(doppler_hz):
    """Unit mean power; autocorrelation over draws J0(2 pi f t), by the series of its integral."""
    rate, pdp = 1e6, np.array([0.6, 0.3, 0.1])
    lines = [MovingTaps(pdp, doppler_hz, rate, np.random.default_rng([7, draw])) for draw in range(1500)]
    step_s = lines[0].knot_samples / rate
    taps = np.stack([line.taps(5, 90) for line in lines])
    assert np.allclose(np.mean(np.abs(taps) ** 2, axis=(0, 1)), pdp, atol=0.02)
    angles = np.linspace(0, 2 * np.pi, 721)[:-1]
    for step in (10, 20, 39, 64, 80):
        measured = np.sum(taps[:, step:] * taps[:, :-step].conj()) / np.sum(np.abs(taps[:, step:]) ** 2)
        assert measured == pytest.approx(
            np.mean(np.cos(2 * np.pi * doppler_hz * step * step_s * np.cos(angles))), abs=0.06
        )
    assert abs(np.mean(taps[:, 0, 0] * taps[:, 0, 1].conj())) < 0.03  # taps are independent


def test_moving_taps_are_their_truth():
    samples, chain = gaussian(20_000), Impairments(taps=3, doppler_hz=200.0)
    impaired = chain.apply(samples, 1e6, np.random.default_rng(0))
    assert impaired.samples.size == 20_002 and impaired.fading is not None
    for n in (2, 7777, 19_999):
        taps = impaired.fading.at(n)
        assert impaired.samples[n] == pytest.approx(sum(taps[i] * samples[n - i] for i in range(3)), abs=1e-4)


# The chain


def test_an_empty_chain_changes_nothing():
    samples = gaussian(100)
    assert np.array_equal(Impairments().apply(samples, 1e6, np.random.default_rng(0)).samples, samples)


CHAIN = {
    "pa_saturation": 0.5,
    "lo_leakage": 0.01,
    "delay_samples": 3.5,
    "taps": 8,
    "offset_ppm": 10.0,
    "cfo_hz": 100.0,
    "phase_noise_deg": 0.1,
    "burst_duty": 0.01,
    "burst_power": 1.0,
    "jam_power": 0.1,
    "tone": 0.1,
    "noise_var": 0.1,
    "image_rejection_db": 30.0,
    "dc": 0.01,
    "gain_db": -6.0,
    "gain_step_db": 3.0,
    "adc_bits": 8,
    "gap_samples": 5,
}


@pytest.mark.parametrize("name", [*CHAIN, "tdl", "pdp"])
def test_every_member_of_the_chain_does_something_and_is_seeded(name):
    options = {"tdl": "A"} if name == "tdl" else {"pdp": (1.0, 0.5)} if name == "pdp" else {name: CHAIN[name]}
    if name.startswith("burst"):
        options = {"burst_duty": 0.05, "burst_power": 1.0}
    if name == "jam_power":
        options["jam_hz"] = (1e5,)
    if name == "gap_samples":
        options["num_gaps"] = 2
    chain, samples = Impairments(**options), gaussian(3000)
    one, two = (chain.apply(samples, 1e6, np.random.default_rng(7)).samples for _ in range(2))
    assert np.array_equal(one, two) and not np.array_equal(one, samples)


def test_the_chain_composes_in_physical_order():
    samples, rng = gaussian(4000) * np.float32(0.2), np.random.default_rng(3)
    chain = Impairments(pa_saturation=0.4, offset_ppm=10.0, noise_var=0.01, image_rejection_db=30.0, adc_bits=8)
    expected = apply_cfo(apply_sfo(apply_rapp(samples, 0.4, 2.0), 10.0), 24_000.0, 1e6)
    expected = apply_awgn(expected, 0.01, np.random.default_rng(3))
    expected = quantise(apply_iq_imbalance(expected, 0.0, np.degrees(2 * np.arctan(10**-1.5))), 8)
    assert np.array_equal(chain.apply(samples, 1e6, rng).samples, expected)
    assert chain.total_cfo_hz == pytest.approx(24_000.0)


@pytest.mark.parametrize(
    "options",
    [
        {"taps": 8, "tdl": "A"},
        {"tdl": "Z"},
        {"noise_var": float("nan")},
        {"image_rejection_db": -1},
        {"pdp": (0.0,)},
        {"burst_duty": 0.1, "burst_every_samples": 100},
        {"jam_power": 1.0},
        {"jam_hz": (1.0,)},
        {"doppler_hz": 5.0},
        {"taps": 8, "doppler_hz": -5.0},
        {"taps": 8, "doppler_hz": float("nan")},
        {"taps": 8, "doppler_hz": 5.0, "block_samples": 100},
    ],
)
def test_contradicting_chains(options):
    with pytest.raises(InputError):
        Impairments(**options)
