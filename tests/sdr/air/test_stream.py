"""The chain over a stream: what it is on a capture, however the stream is cut."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.air.chain import IMPAIRMENT_OPTIONS, Impairments, parse_impairments
from sdr.air.impairments import apply_cfo, noise_var_for_csnr
from sdr.air.stream import GAP_PERIOD_SAMPLES, stream_stages
from sdr.emulated.air import Air, AirPath
from sdr.errors import InputError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio

RATE = 1e6
MEMBERS = {
    "amplifier": {"pa_saturation": 0.3},
    "leakage": {"lo_leakage": 0.01},
    "delay": {"delay_samples": 7.0},
    "fading": {"taps": 5, "block_samples": 777},
    "measured profile": {"pdp": (1.0, 0.0, 0.3)},
    "moving taps": {"taps": 4, "doppler_hz": 500.0},
    "delay line": {"tdl": "A", "delay_spread_s": 300e-9, "doppler_hz": 500.0},
    "sfo": {"offset_ppm": -40.0, "center_hz": 0.0},
    "carrier": {"cfo_hz": 1234.5},
    "tone": {"tone": 0.1, "tone_hz": 99e3},
    "phase": {"phase_noise_deg": 3.0},
    "noise": {"noise_var": 0.01},
    "bursts": {"burst_power": 1.0, "burst_samples": 70, "burst_every_samples": 400, "burst_first_sample": 33},
    "jamming": {"jam_power": 0.1, "jam_hz": (-200e3, 30e3), "jam_width_hz": 20e3},
    "mixer": {"image_rejection_db": 25.0},
    "gain": {"gain_db": -3.0},
    "dc": {"dc": 0.02},
    "gain step": {"gain_step_db": 6.0, "gain_step_sample": 1111},
    "converter": {"adc_bits": 7},
}
RANDOM = ("phase", "noise", "bursts", "jamming")


def signal(count, seed=0):
    """Noise within 0.8 of the band, which every interpolator here handles."""
    rng = np.random.default_rng(seed)
    spectrum = rng.standard_normal((2, count))
    keep = np.abs(np.fft.fftfreq(count)) < 0.4
    return np.fft.ifft((spectrum[0] + 1j * spectrum[1]) * keep * np.sqrt(count) * 0.2).astype(np.complex64)


def streamed(chain, pieces, seed=3):
    stages = list(stream_stages(chain, RATE, seed).values())
    out = []
    for piece in pieces:
        for stage in stages:
            piece = stage(piece)
        out.append(piece)
    return np.concatenate(out)


@pytest.mark.parametrize("name", MEMBERS)
@settings(deadline=None, max_examples=10)
@given(edges=st.lists(st.integers(0, 3000), max_size=6))
def test_where_a_stream_is_cut_does_not_matter(name, edges):
    chain, samples = Impairments(**MEMBERS[name]), signal(3000)
    whole, pieces = streamed(chain, [samples]), streamed(chain, np.split(samples, sorted(edges)))
    np.testing.assert_allclose(pieces, whole, atol=1e-6)
    assert not np.array_equal(whole[:2000], samples[:2000])


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in RANDOM])
def test_a_stream_is_impaired_as_a_capture_is(name):
    chain, samples = Impairments(**MEMBERS[name]), signal(3000)
    capture = chain.apply(samples, RATE, np.random.default_rng(3)).samples
    found = streamed(chain, [samples])
    assert found.size > 2950
    np.testing.assert_allclose(found, capture[: found.size], atol=1e-6)


def test_a_fractional_delay_is_long_enough_or_refused():
    samples = signal(2000)
    capture = Impairments(delay_samples=10.25).apply(samples, RATE, np.random.default_rng(0)).samples
    found = streamed(Impairments(delay_samples=10.25), [samples])
    np.testing.assert_allclose(found[40:1990], capture[40:1990], atol=6e-3)  # amplitudes of 0.5
    with pytest.raises(InputError, match="at least 8"):
        stream_stages(Impairments(delay_samples=3.5), RATE, 0)


def test_bursts_and_noise_have_their_power_over_many_pieces():
    bursts = Impairments(burst_power=4.0, burst_duty=0.05)
    struck = streamed(bursts, [np.zeros(700, np.complex64)] * 1500)
    assert np.mean(struck != 0) == pytest.approx(1 - np.exp(-0.05), rel=0.15)
    assert np.mean(np.abs(struck) ** 2) == pytest.approx(0.2, rel=0.15)
    # No burst ends at the edge of a piece: one in two is still on a sample further if it lasts two samples or more.
    edge = np.flatnonzero(struck[699::700][:-1] != 0)
    assert np.mean(struck[700::700][edge] != 0) > 0.9


def test_a_stream_loses_the_samples_that_it_says():
    samples = np.arange(1, 2 * GAP_PERIOD_SAMPLES + 1, dtype=np.float32).astype(np.complex64)
    chain = Impairments(gap_samples=50, num_gaps=3)
    kept = streamed(chain, np.array_split(samples, 7))
    assert kept.size == samples.size - 2 * 3 * 50
    jumps = np.diff(kept.real)
    assert sorted(set(jumps.tolist())) == [1.0, 51.0] and np.sum(jumps == 51) == 6
    with pytest.raises(InputError, match="half"):
        stream_stages(Impairments(gap_samples=1000, num_gaps=1000), RATE, 0)


# One string for simulated, emulated and GNU Radio's air


def test_every_impairment_has_an_option_that_is_read_back():
    for members in MEMBERS.values():
        chain = Impairments(**members)
        text = ",".join(f"{name}={value}" for name, value in chain.options().items())
        assert parse_impairments(text, load_layout("air"))[0] == chain
    assert set(Impairments.__dataclass_fields__) < set(IMPAIRMENT_OPTIONS)


def test_the_string_overrules_the_defaults():
    layout = load_layout("air")
    chain, seed = parse_impairments("csnr_db=7,seed=4", layout, taps=8, csnr_db=1.0, seed=2)
    assert chain == Impairments(taps=8, noise_var=noise_var_for_csnr(layout, 7.0)) and seed == 4
    assert parse_impairments("pdp=1:0.5", layout, taps=8, block_samples=10)[0].taps == 0
    assert parse_impairments("noise_var=0.5", layout, csnr_db=3.0)[0].noise_var == 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tdl=Q", "must be one of"),
        ("taps=8,tdl=A", "exclude"),
        ("adc_bits=99", "outside 0..24"),
        ("adc_bits=8.5", "a whole number"),
        ("pdp=1:x", "numbers such as"),
        ("doppler=5", "doppler_hz"),
        ("antenna_dc=0.01:x", "numbers such as"),
        ("antenna_image_rejection_db=20:0", "image_rejection_db = 0.0 is outside 0.1..inf"),
        ("csnr_db=3,noise_var=1", "say the same"),
        ("seed=-1", "seed"),
        ("taps=8,taps=8", "twice"),
        ("taps", "needs a value"),
    ],
)
def test_a_wrong_string_is_one_line(text, words):
    with pytest.raises(InputError, match=words) as caught:
        parse_impairments(text, load_layout("air"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("antenna", [0, 1, 2])
def test_each_antenna_has_its_own_front_end(antenna):
    """In a capture, a stream and the emulated air; the third antenna has what the options give to all."""
    own = "antenna_image_rejection_db=20:30,antenna_dc=0.01:0.02,antenna_gain_db=-3:-6"
    chain = parse_impairments(f"dc=0.03,gain_db=-1,{own}", load_layout("air"))[0]
    scalars = [(20.0, 0.01, -3.0), (30.0, 0.02, -6.0), (np.inf, 0.03, -1.0)][antenna]
    one = Impairments(**dict(zip(("image_rejection_db", "dc", "gain_db"), scalars, strict=True)))
    assert chain.at_antenna(antenna) == one and one.at_antenna(antenna) is one
    samples = signal(500)
    wanted = one.apply(samples, RATE, np.random.default_rng(0)).samples
    captured = chain.apply(samples, RATE, np.random.default_rng(0), antenna=antenna).samples
    np.testing.assert_array_equal(captured, wanted)
    streamed = samples
    for stage in stream_stages(chain, RATE, 0, antenna=antenna).values():
        streamed = stage(streamed)
    np.testing.assert_allclose(streamed, wanted, atol=1e-6)
    air = Air(impairments=chain)
    air.attach("tx")
    air.attach("rx")
    air.transmit("tx", samples, 0, RATE, 2.4e9)
    np.testing.assert_allclose(air.receive("rx", 0, 500, RATE, 2.4e9, antenna=antenna), wanted, atol=1e-6)


def test_a_simulated_radio_takes_a_measured_profile():
    samples = signal(500) * np.float32(0.5)
    with open_radio("sim:pdp=1:0:0.5,seed=4", layout=load_layout("air")) as radio:
        assert isinstance(radio, SimulatedRadio)
        radio.transmit(samples)
        heard = radio.receive().samples
    expected = Impairments(pdp=(1.0, 0.0, 0.5)).apply(samples, RATE, np.random.default_rng(4)).samples
    np.testing.assert_allclose(heard, expected, atol=1e-6)


# The emulated radios' air


def on_air(chain, samples, path=None, noise_var=0.0, pieces=1, rx_gain_db=0.0):
    air = Air(path, noise_var, seed=6, clock=lambda: 0.0, impairments=chain)
    air.attach("a")
    air.attach("b")
    air.transmit("a", samples, 0, RATE, 2.4e9)
    parts = np.array_split(np.arange(samples.size), pieces)
    return air, np.concatenate(
        [air.receive("b", int(part[0]), part.size, RATE, 2.4e9, rx_gain_db) for part in parts if part.size]
    )


@pytest.mark.parametrize("name", ["amplifier", "leakage", "sfo", "carrier", "tone", "mixer", "gain", "dc", "gain step"])
def test_the_air_impairs_as_a_capture_is(name):
    # A crystal's error moves the carrier of the air, too.
    chain, samples = replace(Impairments(**MEMBERS[name]), center_hz=2.4e9), signal(3000)
    expected = chain.apply(samples, RATE, np.random.default_rng(3)).samples
    _, heard = on_air(chain, samples, pieces=4)
    size = min(expected.size, heard.size) - 40
    np.testing.assert_allclose(heard[:size], expected[:size], atol=2e-4)


def test_the_air_quantises_behind_the_gain():
    samples = signal(2000)
    _, heard = on_air(Impairments(adc_bits=6), samples, rx_gain_db=6.0)
    expected = Impairments(gain_db=6.0, adc_bits=6).apply(samples, RATE, np.random.default_rng(0)).samples
    np.testing.assert_array_equal(heard, expected)


def test_the_airs_crystals_are_off_in_carrier_and_clock():
    tone = apply_cfo(np.ones(20_000, np.complex64), 0.1 * RATE, RATE)
    _, heard = on_air(Impairments(offset_ppm=20.0), tone)
    inner = heard[100:-100]
    step_hz = np.angle(np.vdot(inner[:-1], inner[1:])) / (2 * np.pi) * RATE
    assert step_hz == pytest.approx(0.1 * RATE * (1 + 20e-6) + 2.4e9 * 20e-6, abs=1.0)


@pytest.mark.parametrize("options", [{"tdl": "A", "delay_spread_s": 300e-9}, {"taps": 8}])
def test_the_airs_delay_line_is_the_one_it_says_and_goes_on(options):
    chain, samples = Impairments(**options, doppler_hz=500.0), signal(9000)
    air, heard = on_air(chain, samples, AirPath(delay_samples=5), pieces=7)
    line = air.delay_line("a", "b", RATE)
    for n in (100, 4000, 8800):
        knot, place = divmod(n, line.knot_samples)
        low, high = line.taps(knot, 2)
        taps = low + place / line.knot_samples * (high - low)
        assert heard[n] == pytest.approx(sum(taps[i] * samples[n - 5 - i] for i in range(taps.size)), abs=1e-4)
    assert np.linalg.norm(line.taps(0, 1) - line.taps(20, 1)) > 0.05


def test_the_air_has_phase_noise_bursts_and_a_measured_profile():
    ones = np.ones(400_000, np.complex64)
    _, heard = on_air(Impairments(phase_noise_deg=2.0, phase_noise_hz=5000.0), ones, pieces=20)
    assert np.degrees(np.std(np.angle(heard))) == pytest.approx(2.0, rel=0.06)
    _, heard = on_air(Impairments(burst_power=4.0, burst_duty=0.05), 0 * ones, pieces=300)
    assert np.mean(np.abs(heard) ** 2) == pytest.approx(0.2, rel=0.2)
    air, heard = on_air(Impairments(), signal(500), AirPath(pdp=(1.0, 0.0, 3.0)))
    taps = air.taps("a", "b")
    assert taps.size == 3 and taps[1] == 0
    np.testing.assert_allclose(heard, np.convolve(signal(500), taps)[:500], atol=1e-5)


def test_the_air_loses_samples_without_a_mark():
    samples = np.arange(1, GAP_PERIOD_SAMPLES + 2, dtype=np.float32).astype(np.complex64)
    _, heard = on_air(Impairments(gap_samples=50, num_gaps=3), samples, pieces=9)
    jumps = np.diff(heard.real[: GAP_PERIOD_SAMPLES - 200])
    assert sorted(set(jumps.tolist())) == [1.0, 51.0] and np.sum(jumps == 51) == 3


def test_an_air_is_told_things_once():
    with pytest.raises(InputError, match="belong to its path"):
        Air(impairments=Impairments(taps=3))
    with pytest.raises(InputError, match="profile"):
        AirPath(pdp=(0.0,))
    with pytest.raises(InputError, match="profile"):
        replace(AirPath(taps=3), pdp=(1.0,))
