"""Two antennas of `uhd:`: two emulated N210s that hear one air, and are one radio to the real driver."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from sdr.emulated.air import Air, AirPath
from sdr.emulated.n210_board import N210Hardware
from sdr.emulated.usrp import EmulatedUsrp, joint_args
from sdr.errors import RadioError
from sdr.radios.base import BrokenCapture
from sdr.radios.open import open_radio
from sdr.radios.usrp import UsrpRadio, parse_usrp
from sdr.settings import RadioSettings
from tests.sdr.once import handed_out, once
from tests.sdr.uhd import needs_uhd

pytestmark = [needs_uhd, pytest.mark.usefixtures("time_limit")]
SETTINGS = RadioSettings(center_hz=2.45e9, rate_sps=1e6, tx_gain_db=31.5)
SHARED = "clock_source=external,time_source=external,rx=2"
CABLED = "clock_source=mimo,time_source=mimo,rx=2"
BURST = (0.3 * np.exp(2j * np.pi * np.random.default_rng(3).uniform(size=5000))).astype(np.complex64)
PERIOD = BURST.size


def emulate(stack: ExitStack, air: Air, *addresses: str) -> list[EmulatedUsrp]:
    """N210s with crystals that differ by 4 ppm, the second one cabled to the first."""
    first = stack.enter_context(EmulatedUsrp(air, addresses[0], ppm=2.0))
    return [first, *(stack.enter_context(EmulatedUsrp(air, addr, ppm=-2.0, cable=first)) for addr in addresses[1:])]


@pytest.fixture(scope="module")
def usrps() -> Iterator[list[EmulatedUsrp]]:
    """Two in an air of 8 taps, and beside them a transmitter that both hear as it is."""
    with ExitStack() as stack:
        pair = emulate(stack, Air(AirPath(taps=8)), "127.0.44.1", "127.0.44.2")
        pair[0].air.attach("probe")
        for usrp in pair:
            usrp.air.connect("probe", usrp.addr, AirPath())
        yield pair


@pytest.fixture(scope="module")
def opened(usrps) -> Iterator[UsrpRadio]:
    with open_radio(f"uhd:{joint_args(usrps)},{SHARED}", SETTINGS) as radio:
        assert isinstance(radio, UsrpRadio)
        yield radio


@pytest.fixture
def radio(opened, usrps) -> Iterator[UsrpRadio]:
    yield opened
    opened.apply(SETTINGS)
    usrps[0].air.stop("probe")
    assert [usrp.tx_gain_db for usrp in usrps] == [0.0, 0.0]


def test_both_hear_a_burst_at_its_sample_each_through_its_own_channel(radio, usrps):
    start_s = radio.now_s() + 0.3
    radio.transmit(BURST, at_s=start_s + 0.012345)
    recording = radio.receive(30_000, at_s=start_s)
    radio.finish_transmit()
    sender, air = usrps[0], usrps[0].air
    taps = [air.taps(sender.addr, usrp.addr) for usrp in usrps]
    assert np.abs(taps[0] - taps[1]).max() > 0.1
    for heard, channel in zip(recording.antennas, taps, strict=True):
        wanted = np.zeros(30_000, np.complex64)
        wanted[12_345 : 12_345 + PERIOD + 7] = np.convolve(BURST, channel)
        assert np.abs(heard - wanted).max() < 2e-4  # a few counts of 16 bits
    assert recording.health.warnings == () and radio.capabilities.antennas == 2


def test_what_both_hear_alike_is_alike_bit_by_bit(radio, usrps):
    usrps[0].air.transmit("probe", BURST, 0, 1e6, 2.45e9, cyclic=True)
    one, other = radio.receive(100_000).antennas
    assert np.array_equal(one, other) and np.abs(one).min() > 0.2


def test_settings_reach_both(radio, usrps):
    radio.apply(replace(SETTINGS, center_hz=9e8, rx_gain_db=6.0))
    assert [usrp.board.rx_gain_db for usrp in usrps] == [6.0, 6.0]
    assert [usrp.board.rx_center_hz for usrp in usrps] == pytest.approx([9e8, 9e8], abs=1)
    radio.tune_receiver(9.1e8, 7.0)
    assert [usrp.board.rx_gain_db for usrp in usrps] == [7.0, 7.0]
    assert [usrp.board.rx_center_hz for usrp in usrps] == pytest.approx([9.1e8, 9.1e8], abs=1)
    assert [usrp.board.clock_source for usrp in usrps] == ["external", "external"]


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("fault", ["overflow", "lose_rx_packets"])
def test_what_one_loses_is_zeros_in_both_and_counted(radio, usrps, fault, which):
    usrps[0].air.transmit("probe", BURST, 0, 1e6, 2.45e9, cyclic=True)
    with once(handed_out(usrps[which], 250_000), getattr(usrps[which], fault)):
        recording = radio.receive(900_000)
    one, other = recording.antennas
    assert np.array_equal(one, other)
    gap = np.flatnonzero(one == 0)
    assert gap.size and gap[-1] - gap[0] + 1 == gap.size
    # What follows the gap is where it would have been without it.
    assert np.abs(np.roll(one[:PERIOD], -(900_000 - PERIOD) % PERIOD) - one[-PERIOD:]).max() < 1e-4
    assert recording.health.overflows == 1 and "samples are missing" in recording.health.warnings[0]


@pytest.mark.parametrize("lost", [False, True])
def test_a_stream_of_two_keeps_both_in_step(radio, usrps, lost):
    usrps[0].air.transmit("probe", BURST, 0, 1e6, 2.45e9, cyclic=True)
    stream = radio.stream(7001)
    blocks = [next(stream) for _ in range(20)]
    if lost:
        usrps[1].lose_rx_packets()
        while not radio.overflows():
            blocks.append(next(stream))
    blocks += [next(stream) for _ in range(20)]
    stream.close()
    one, other = np.concatenate(blocks, axis=1)
    assert np.array_equal(one, other) and radio.overflows() == lost
    # Wherever there are samples, they are those of the period, in place.
    first = int(np.argmin([np.abs(np.roll(BURST, -shift)[:500] - one[:500]).max() for shift in range(PERIOD)]))
    wanted = np.resize(np.roll(BURST, -first), one.size)
    assert np.abs((one - wanted)[one != 0]).max() < 2e-4 and (np.mean(one == 0) > 0) == lost


def test_each_of_the_two_is_busy(radio, usrps):
    for usrp in usrps:
        with pytest.raises(RadioError, match="busy"):
            open_radio(f"uhd:{usrp.args}")


def test_the_cable_makes_two_crystals_one():
    with ExitStack() as stack:
        pair = emulate(stack, Air(), "127.0.44.3", "127.0.44.4")
        with open_radio(f"uhd:{joint_args(pair)},{CABLED}", SETTINGS) as radio:
            assert isinstance(radio, UsrpRadio)
            assert [usrp.board.clock_source for usrp in pair] == ["internal", "mimo"]
            start_s = radio.now_s() + 0.3
            radio.transmit(BURST, at_s=start_s + 0.01)
            one, other = radio.receive(20_000, at_s=start_s).antennas
            radio.finish_transmit()
            assert np.array_equal(one, other) and np.abs(one[10_000 : 10_000 + PERIOD] - BURST).max() < 1e-4


def test_one_vanishes_in_mid_capture():
    with ExitStack() as stack:
        pair = emulate(stack, Air(noise_var=1e-4), "127.0.44.5", "127.0.44.6")
        radio = stack.enter_context(open_radio(f"uhd:{joint_args(pair)},{CABLED}", SETTINGS))
        words = r"USRP 2 of 2 gave \d+ of 5000000 samples, then nothing for 2 s"
        with once(handed_out(pair[1], 400_000), pair[1].drop), pytest.raises(BrokenCapture, match=words) as broken:
            radio.receive(5_000_000)
    kept = broken.value.recording
    assert kept.partial and kept.num_samples > 100_000
    assert all(np.count_nonzero(heard) > 0.999 * heard.size for heard in kept.antennas)  # noise, to the last packet


# What opening finds


def refused(usrps: list[EmulatedUsrp], options: str, words: str) -> None:
    with pytest.raises(RadioError, match=words) as error:
        open_radio(f"uhd:{joint_args(usrps)},{options}", SETTINGS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options", ["rx=2", "rx=2,clock_source=external", "rx=2,clock_source=mimo,time_source=external"]
)
def test_clocks_that_are_not_shared(options):
    with ExitStack() as stack:
        pair = emulate(stack, Air(), "127.0.44.7", "127.0.44.8")
        refused(
            pair, options, "needs USRPs of one clock, found clock_source=.*drift.*clock_source=external,time_source="
        )


def test_one_frontend_is_not_two():
    with (
        EmulatedUsrp(addr="127.0.44.9") as usrp,
        pytest.raises(RadioError, match=r"rx=2 needs 2 receive channels, found 1 on N210r4; .*leave out rx=2"),
    ):
        open_radio(f"uhd:{usrp.args},rx=2", SETTINGS)


def test_a_reference_that_one_does_not_have():
    none = N210Hardware(has_reference=False)
    with EmulatedUsrp(Air(), "127.0.44.10") as first, EmulatedUsrp(first.air, "127.0.44.11", hardware=none) as second:
        words = r"no lock within 0\.3 s at USRP 2 of 2; connect"
        refused([first, second], f"{SHARED},timeout_s=0.3", f"{words} 10 MHz$")
        refused([first, second], f"{CABLED},timeout_s=0.3", f"{words} the MIMO cable$")


def test_pulses_of_two_sources():
    """Each counts from its own pulse: the airs, whose seconds they are, began at different times."""
    air = Air()
    time.sleep(0.4)
    with EmulatedUsrp(air, "127.0.44.12") as first, EmulatedUsrp(Air(), "127.0.44.13") as second:
        refused([first, second], SHARED, r"the clock at USRP 2 of 2 is [+-]0\.\d+ s off the first one's")


def test_addresses_of_two():
    args, options = parse_usrp("type=usrp2,addr0=192.168.10.2,addr1=192.168.10.3,rx=2")
    assert args == "type=usrp2,addr0=192.168.10.2,addr1=192.168.10.3" and options.rx == 2
    for count in (0, 3):
        with pytest.raises(RadioError, match=f"uhd: rx = {count} antennas; 1, or 2"):
            parse_usrp(f"type=b200,rx={count}")
    with pytest.raises(RadioError, match=r"is addr=192\.168\.10\.2 twice"):
        open_radio("uhd:addr0=192.168.10.2,addr1=192.168.10.2,rx=2")
