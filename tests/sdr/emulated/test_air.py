"""The emulated air: linear, sample-exact, and the channel that it says it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.emulated.air import HISTORY_S, Air, AirPath
from sdr.errors import InputError

RATE, CENTER = 1e6, 2.4e9


def _noise(size: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal((size, 2))).astype(np.float32).view(np.complex64)[:, 0]


class Clock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def make_air(clock: Clock, path: AirPath | None = None, **options) -> Air:
    air = Air(path, clock=clock, **options)
    air.attach("a")
    air.attach("b")
    return air


def test_every_radio_hears_it_where_it_was_sent(clock):
    air, samples = make_air(clock, AirPath(delay_samples=7)), _noise(1000)
    air.transmit("a", samples, 500, RATE, CENTER)
    for name in "ab":
        heard = air.receive(name, 0, 2000, RATE, CENTER)
        np.testing.assert_array_equal(heard[507:1507], samples)
        assert not heard[:507].any() and not heard[1507:].any()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 700), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 300), st.integers(0, 5)
)
def test_a_capture_in_pieces_equals_one_capture(sizes, period, start, taps):
    clock = Clock()
    air = make_air(clock, AirPath(taps=taps, redraw_samples=100 if taps else 0))
    air.transmit("a", _noise(period), start, RATE, CENTER + 1234.5, cyclic=True)
    air.transmit("b", _noise(333, 1), start + 50, RATE, CENTER)
    whole = air.receive("b", 3, sum(sizes), RATE, CENTER)
    pieces, first = [], 3
    for size in sizes:
        pieces.append(air.receive("b", first, size, RATE, CENTER))
        first += size
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=2e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 50), st.integers(1, 400))
def test_a_cyclic_transmission_is_its_period_repeated(period, size):
    air, samples = make_air(Clock()), _noise(period)
    air.transmit("a", samples, 10, RATE, CENTER, cyclic=True)
    heard = air.receive("b", 0, 10 + size, RATE, CENTER)
    assert not heard[:10].any()
    np.testing.assert_array_equal(heard[10:], np.resize(samples, size))


@pytest.mark.parametrize("packet", [1, 100, 70_000])
def test_a_stream_of_packets_is_one_transmission(clock, packet):
    taps = AirPath(taps=4, redraw_samples=64)
    whole, packets, samples = make_air(clock, taps), make_air(clock, taps), _noise(2000 if packet < 9999 else 150_000)
    whole.transmit("a", samples, 0, RATE, CENTER)
    for first in range(0, samples.size, packet):
        packets.transmit("a", samples[first : first + packet], first, RATE, CENTER)
    heard = [air.receive("b", 0, samples.size + 10, RATE, CENTER) for air in (whole, packets)]
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-6)


def test_transmissions_add_up(clock):
    both, ones = make_air(clock), []
    for name in "ab":
        alone = make_air(clock)
        for air in (both, alone):
            air.transmit(name, _noise(300, ord(name)), 20, RATE, CENTER, tx_gain_db=-3.0)
        ones.append(alone.receive("a", 0, 400, RATE, CENTER))
    np.testing.assert_allclose(both.receive("a", 0, 400, RATE, CENTER), ones[0] + ones[1], atol=1e-7)


def test_gains_are_decibels(clock):
    air = make_air(clock, AirPath(gain_db=-20.0))
    air.transmit("a", np.ones(10, np.complex64), 0, RATE, CENTER, tx_gain_db=-6.0)
    heard = air.receive("b", 0, 10, RATE, CENTER, rx_gain_db=10.0)
    np.testing.assert_allclose(20 * np.log10(np.abs(heard)), -16.0, atol=1e-4)


def test_multipath_is_the_taps_that_it_tells(clock):
    air = make_air(clock, AirPath(taps=5, redraw_samples=50, delay_samples=3))
    samples = _noise(150)
    air.transmit("a", samples, 40, RATE, CENTER)
    heard = air.receive("b", 0, 400, RATE, CENTER)
    expected = np.zeros(400, np.complex64)
    padded = np.concatenate([np.zeros(4), samples, np.zeros(300)])
    for n in range(154):
        expected[43 + n] = np.dot(air.taps("a", "b", n // 50)[::-1], padded[n : n + 5])
    np.testing.assert_allclose(heard, expected, atol=1e-6)


def test_fading_has_unit_mean_power_and_differs_by_pair(clock):
    air = make_air(clock, AirPath(taps=8, redraw_samples=10))
    powers = [np.sum(np.abs(air.taps("a", "b", block)) ** 2) for block in range(2000)]
    assert abs(np.mean(powers) - 1.0) < 0.08
    assert not np.allclose(air.taps("a", "b"), air.taps("b", "a"))


@pytest.mark.parametrize("offset_hz", [12345.0, -300.25, 0.5])
def test_oscillators_make_the_offset_and_its_phase_goes_on(clock, offset_hz):
    air = make_air(clock)
    air.transmit("a", np.ones(1, np.complex64), 0, RATE, CENTER + offset_hz, cyclic=True)
    late = 10**10
    heard = np.concatenate([air.receive("b", late + 1000 * k, 1000, RATE, CENTER) for k in range(50)])
    step = np.angle(np.vdot(heard[:-1], heard[1:])) / (2 * np.pi) * RATE
    assert abs(step - offset_hz) < 0.01


def test_a_crystal_shifts_carrier_and_clock_alike(clock):
    air = Air(clock=clock)
    air.attach("a", ppm=20.0)
    air.attach("b")
    tone = np.exp(2j * np.pi * 0.1 * np.arange(20_000)).astype(np.complex64)
    air.transmit("a", tone, 0, RATE, CENTER)
    heard = air.receive("b", 100, 19_000, RATE, CENTER)
    step = np.angle(np.vdot(heard[:-1], heard[1:])) / (2 * np.pi) * RATE
    assert abs(step - (0.1 * RATE * (1 + 20e-6) + CENTER * 20e-6)) < 1.0


@pytest.mark.parametrize("rx_rate", [5e5, 2e6, 1.25e6])
def test_rates_may_differ(clock, rx_rate):
    air, size = make_air(clock), 4000
    tone = np.exp(2j * np.pi * 0.06 * np.arange(size)).astype(np.complex64)
    air.transmit("a", tone, 1000, RATE, CENTER)
    first = round(1500 * rx_rate / RATE)
    heard = air.receive("b", first, round(2000 * rx_rate / RATE), rx_rate, CENTER)
    when = (first + np.arange(heard.size)) * RATE / rx_rate - 1000
    np.testing.assert_allclose(heard, np.exp(2j * np.pi * 0.06 * when), atol=2e-3)


def test_noise_has_its_power_and_the_receivers_gain(clock):
    air = make_air(clock, noise_var=1e-3, seed=5)
    heard = air.receive("a", 0, 200_000, RATE, CENTER, rx_gain_db=10.0)
    assert abs(np.mean(np.abs(heard) ** 2) / 1e-2 - 1) < 0.02
    assert abs(np.mean(heard)) < 1e-3


def test_other_bands_are_not_heard(clock):
    air = make_air(clock)
    air.transmit("a", np.ones(100, np.complex64), 0, RATE, CENTER + 1.1e6)
    assert not air.receive("b", 0, 100, RATE, CENTER).any()


def test_changes_act_from_their_sample_on(clock):
    air, samples = make_air(clock), _noise(7)
    air.transmit("a", samples, 0, RATE, CENTER, cyclic=True)
    air.change("a", at_samples=100, tx_gain_db=-20.0)
    air.stop("a", at_samples=150)
    heard = air.receive("b", 0, 200, RATE, CENTER)
    expected = np.resize(samples, 200)
    expected[100:] *= np.float32(0.1)
    expected[150:] = 0
    np.testing.assert_allclose(heard, expected, atol=1e-7)


def test_the_past_is_forgotten_and_the_present_kept(clock):
    air = make_air(clock)
    air.transmit("a", np.ones(1000, np.complex64), 0, RATE, CENTER)
    air.transmit("b", np.ones(1, np.complex64), 0, RATE, CENTER, cyclic=True)
    clock.now = 2 * HISTORY_S
    for name in "ab":
        air.transmit(name, np.ones(1, np.complex64), air.now_samples(RATE), RATE, CENTER)
    assert [len(air.emissions(name)) for name in "ab"] == [1, 2]


def test_whoever_leaves_is_silent(clock):
    air = make_air(clock)
    air.transmit("a", np.ones(1, np.complex64), 0, RATE, CENTER, cyclic=True)
    air.detach("a")
    assert not air.receive("b", 0, 100, RATE, CENTER).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AirPath(gain_db=float("nan")), "gain_db"),
        (lambda: AirPath(delay_samples=-1), "delay"),
        (lambda: AirPath(redraw_samples=5), "taps"),
        (lambda: Air(noise_var=-1.0), "noise_var"),
        (lambda: Air().attach("a", ppm=5000.0), "ppm"),
    ],
)
def test_wrong_values_end_in_one_line(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_names_are_unique(clock):
    with pytest.raises(InputError, match="own name"):
        make_air(clock).attach("a")
