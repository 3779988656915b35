"""The USRP driver: UHD itself, against an emulated USRP. Every fault is provoked there, not imagined here."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sdr.radios.uhd_process
from sdr.emulated.air import Air
from sdr.emulated.n210_board import N210Hardware
from sdr.emulated.pluto import EmulatedPluto
from sdr.emulated.usrp import EmulatedUsrp
from sdr.errors import RadioError
from sdr.layout import load_layout
from sdr.radios.base import Radio
from sdr.radios.open import open_radio
from sdr.radios.uhd_host import claim_usrp, explain_uhd, find_uhd_python
from sdr.radios.usrp import UsrpRadio, parse_usrp
from sdr.settings import RadioSettings
from tests.sdr.once import handed_out, once
from tests.sdr.uhd import REASON, needs_uhd

ROOT = Path(__file__).parents[3]
SETTINGS = RadioSettings(center_hz=2.45e9, rate_sps=1e6, tx_gain_db=31.5)
CYCLES = int(os.environ.get("OTA_CYCLES", "2"))
"""How many times the radio is opened and closed; 100 takes four minutes, nearly all of it UHD's own."""

pytestmark = pytest.mark.usefixtures("time_limit")


@pytest.fixture
def time_limit_s() -> int:
    return 60 + 6 * CYCLES


def burst(count: int = 5000) -> np.ndarray:
    """Constant power, a sharp autocorrelation."""
    rng = np.random.default_rng(3)
    return (0.5 * np.exp(2j * np.pi * rng.uniform(size=count))).astype(np.complex64)


def mean_db(samples: np.ndarray) -> float:
    return 10 * np.log10(np.mean(np.abs(samples) ** 2))


def until(condition, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def device() -> Iterator[EmulatedUsrp]:
    with EmulatedUsrp(Air(), "127.0.41.1") as usrp:
        usrp.air.attach("probe")
        yield usrp


@pytest.fixture(scope="module")
def opened(device) -> Iterator[UsrpRadio]:
    if REASON:
        pytest.skip(REASON)
    with open_radio(f"uhd:{device.args},timeout_s=2", SETTINGS) as radio:
        assert isinstance(radio, UsrpRadio)
        yield radio


@pytest.fixture
def radio(opened, device) -> Iterator[UsrpRadio]:
    """One radio for the tests that leave it alive, as it was at first and silent."""
    yield opened
    opened.apply(SETTINGS)
    device.air.stop("probe")
    assert device.tx_gain_db == 0.0


def test_is_a_radio(radio):
    assert isinstance(radio, Radio)
    assert radio.capabilities.cyclic and radio.capabilities.has_time and not radio.capabilities.finite
    assert radio.about["device"] == "N210r4" and radio.settings.rate_sps == 1e6
    with pytest.raises(RadioError, match="never ends"):
        radio.receive()
    with pytest.raises(RadioError, match="full scale"):
        radio.transmit(burst() * np.complex64(3))


# Bursts


def test_a_timed_burst_lands_on_its_sample(radio, device):
    start_s = radio.now_s() + 0.3
    radio.transmit(burst(), at_s=start_s + 0.012345)
    recording = radio.receive(30_000, at_s=start_s)
    radio.finish_transmit()
    loud = np.flatnonzero(np.abs(recording.samples) > 0.05)
    assert (loud[0], loud[-1]) == (12345, 17344)
    assert np.abs(recording.samples[12345:17345] - burst()).max() < 1e-4
    assert not recording.samples[:12345].any()
    assert recording.health.warnings == () and recording.settings == radio.settings


def test_a_burst_is_over_when_transmit_returns(radio, device):
    radio.transmit(burst(200_000))
    assert device.tx_gain_db == 0.0 and not device.transmitting


def test_muted_until_something_is_sent(radio, device):
    assert device.tx_gain_db == 0.0
    radio.transmit(burst(), at_s=radio.now_s() + 0.3)
    until(lambda: device.tx_gain_db == 31.5)
    radio.finish_transmit()
    assert device.tx_gain_db == 0.0


def test_a_late_burst_is_not_sent(radio, device):
    radio.transmit(burst(), at_s=radio.now_s() - 0.5)
    with pytest.raises(RadioError, match="late burst"):
        radio.finish_transmit()


def test_a_capture_in_the_past(radio):
    with pytest.raises(RadioError, match="had passed"):
        radio.receive(1000, at_s=0.0)
    assert radio.receive(1000).num_samples == 1000


def test_cyclic_without_a_seam(radio, device):
    period = burst()
    radio.transmit(period, cyclic=True)
    samples = radio.receive(60_000).samples
    radio.finish_transmit()
    assert device.tx_gain_db == 0.0
    steady = samples[10_000:]
    shift = int(np.argmax(np.abs(np.fft.ifft(np.fft.fft(steady[:5000]) * np.conj(np.fft.fft(period))))))
    expected = np.roll(np.tile(period, 10), shift)
    assert np.abs(steady - expected).max() < 2e-4


def test_streaming(radio, device):
    device.air.transmit("probe", burst(), 0, 1e6, 2.45e9, cyclic=True)
    stream = radio.stream(7001)
    pieces = [next(stream) for _ in range(30)]
    with pytest.raises(RadioError, match="is streaming"):
        radio.transmit(burst())
    stream.close()
    assert {piece.size for piece in pieces} == {7001}
    samples = np.concatenate(pieces)
    assert np.abs(samples[5000:] - samples[:-5000]).max() < 1e-4
    assert radio.overflows() == 0
    assert radio.receive(1000).num_samples == 1000


def test_a_stream_counts_its_gaps(radio, device):
    stream = radio.stream(7001)
    next(stream)
    device.lose_rx_packets(3)
    for _ in range(30):
        next(stream)
    stream.close()
    assert radio.overflows() == 1


def test_mute_ends_a_cyclic_transmission(radio, device):
    radio.transmit(burst(), cyclic=True)
    assert device.tx_gain_db == 31.5
    radio.mute()
    assert device.tx_gain_db == 0.0 and not device.transmitting


# Settings arrive


def test_an_oscillator_offset_is_measured(radio, device):
    device.air.transmit("probe", np.full(1000, 0.5, np.complex64), 0, 1e6, 2.45e9, cyclic=True)
    radio.apply(replace(SETTINGS, center_hz=2.45e9 - 12_345))
    samples = radio.receive(200_000).samples
    turns = np.angle(np.sum(samples[1:] * np.conj(samples[:-1]))) / (2 * np.pi)
    spectrum = np.abs(np.fft.fft(samples))
    assert turns * 1e6 == pytest.approx(12_345, abs=10)
    assert np.argmax(spectrum) * 1e6 / samples.size == pytest.approx(12_345, abs=10)


@pytest.mark.parametrize("base_db", [0.0, 25.0, 30.0])
def test_six_db_of_receive_gain(radio, device, base_db):
    device.air.transmit("probe", np.full(1000, 0.01, np.complex64), 0, 1e6, 2.45e9, cyclic=True)
    levels = []
    for gain_db in (base_db, base_db + 6):
        radio.apply(replace(SETTINGS, rx_gain_db=gain_db))
        levels.append(mean_db(radio.receive(20_000).samples))
    assert levels[0] == pytest.approx(base_db - 40, abs=0.1)
    assert levels[1] - levels[0] == pytest.approx(6, abs=0.1)


def test_six_db_of_transmit_gain(radio, device):
    levels = []
    for gain_db in (20.0, 26.0):
        radio.apply(replace(SETTINGS, tx_gain_db=gain_db))
        radio.transmit(burst(), cyclic=True)
        levels.append(mean_db(radio.receive(40_000).samples[20_000:]))
        radio.finish_transmit()
    assert levels[1] - levels[0] == pytest.approx(6, abs=0.1)


def test_saturation_is_seen(radio, device):
    device.air.transmit("probe", burst(), 0, 1e6, 2.45e9, cyclic=True)
    radio.apply(replace(SETTINGS, rx_gain_db=20.0))
    recording = radio.receive(20_000)
    assert recording.health.clipped_fraction > 0.5
    assert any("clipped" in warning for warning in recording.health.warnings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rx_gain_db": 99.0}, r"rx_gain_db = 99 is outside 0\.\.38"),
        ({"tx_gain_db": -1.0}, r"tx_gain_db = -1 is outside 0\.\.31\.5"),
        ({"center_hz": 60e6}, "center_hz = 6e.07 is outside"),
        ({"bandwidth_hz": 1e6}, r"bandwidth_hz .* is outside"),
        ({"rate_sps": 3e6}, r"nearest is 3030303\.03"),
    ],
)
def test_settings_out_of_range(radio, change, words):
    with pytest.raises(RadioError, match=words):
        radio.apply(replace(SETTINGS, **change))


def test_an_oscillator_that_never_locks(radio, device):
    device.board.lo_locks = False
    try:
        with pytest.raises(RadioError, match="didn't lock within 2 s"):
            radio.apply(SETTINGS)
    finally:
        device.board.lo_locks = True


# Losses while it runs


def test_overflow_is_flagged_and_keeps_the_time(radio, device):
    device.air.transmit("probe", burst(), 0, 1e6, 2.45e9, cyclic=True)
    with once(handed_out(device, 200_000), device.overflow):
        recording = radio.receive(600_000)
    assert recording.health.overflows == 1
    assert any("overflow" in warning for warning in recording.health.warnings)
    gap = np.flatnonzero(recording.samples == 0)
    assert gap.size and np.array_equal(gap, np.arange(gap[0], gap[-1] + 1))
    # What follows the gap is where it would have been without it.
    after = recording.samples[-5000:]
    before = recording.samples[:5000]
    assert np.abs(np.roll(before, -(600_000 - 5000) % 5000) - after).max() < 1e-4


def test_packets_lost_on_the_way_here(radio, device):
    with once(handed_out(device, 200_000), lambda: device.lose_rx_packets(3)):
        recording = radio.receive(500_000)
    assert recording.health.overflows >= 1 and recording.num_samples == 500_000


def test_packets_lost_on_the_way_there(radio, device):
    radio.transmit(burst(), cyclic=True)
    until(lambda: device.transmitting)
    device.lose_tx_packets(2)
    assert radio.receive(500_000).health.transmit_gaps >= 1
    with pytest.raises(RadioError, match="packets got lost on their way to the USRP"):
        radio.finish_transmit()


def test_underrun(radio, device):
    radio.transmit(burst(), cyclic=True)
    until(lambda: device.transmitting)
    os.kill(radio.process_id, signal.SIGSTOP)  # as if this machine were busy with other things
    time.sleep(0.8)
    os.kill(radio.process_id, signal.SIGCONT)
    recording = radio.receive(50_000)
    assert recording.health.transmit_gaps >= 1 and any("own transmission" in w for w in recording.health.warnings)
    with pytest.raises(RadioError, match="underrun"):
        radio.finish_transmit()
    assert device.tx_gain_db == 0.0


def test_busy(radio, device):
    with pytest.raises(RadioError, match=rf"busy: process {os.getpid()} has it"):
        open_radio(f"uhd:{device.args}")
    assert radio.receive(1000).num_samples == 1000


# What opening finds


@needs_uhd
def test_no_device():
    began = time.monotonic()
    with pytest.raises(
        RadioError, match=r"no device found for the USRP 'type=usrp2,addr=127\.0\.41\.99'.*uhd_find_dev"
    ):
        open_radio("uhd:type=usrp2,addr=127.0.41.99")
    assert time.monotonic() - began < 30


@needs_uhd
@pytest.mark.parametrize("numbers", [{"firmware_compat": 9}, {"fpga_compat": 9}])
def test_wrong_firmware(numbers):
    words = r"compatibility number.*uhd_image_loader"
    with (
        EmulatedUsrp(addr="127.0.41.2", hardware=N210Hardware(**numbers)) as usrp,
        pytest.raises(RadioError, match=words),
    ):
        open_radio(f"uhd:{usrp.args}")


@needs_uhd
def test_options_arrive():
    options = (
        "tx_antenna=CAL,rx_antenna=TX/RX,rx_subdev=A:0,lo_offset_hz=5e6,wire=sc8,clock_source=external,center_hz=9e8,"
        "trim_ppm=10"
    )
    with EmulatedUsrp(addr="127.0.41.3") as usrp, open_radio(f"uhd:{usrp.args},{options}") as radio:
        board = usrp.board
        assert (board.tx_antenna, board.rx_antenna, board.clock_source) == ("CAL", "TX/RX", "external")
        # A reference that is 10 ppm fast wants carriers 10 ppm lower.
        assert board.rx_lo_hz == pytest.approx(905e6, abs=2e4) and board.rx_center_hz == pytest.approx(9e8 - 9e3, abs=1)
        assert board.tx_center_hz == pytest.approx(9e8 - 9e3, abs=1) and radio.settings.center_hz == 9e8
        assert isinstance(radio, UsrpRadio) and radio.temperature_c is None  # an N210 has no thermometer
        usrp.air.attach("probe")
        usrp.air.transmit("probe", burst(), 0, 1e6, 9e8, cyclic=True)
        assert mean_db(radio.receive(10_000).samples) == pytest.approx(-6, abs=0.2)


@needs_uhd
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("wire=sc12", "sc12.*use wire=sc16"),
        ("tx_subdev=B:0", "no such subdevice.*A:0"),
        ("clock_source=external,timeout_s=0.3", "connect 10 MHz"),
    ],
)
def test_options_that_this_usrp_does_not_have(options, words):
    with (
        EmulatedUsrp(addr="127.0.41.4", hardware=N210Hardware(has_reference=False)) as usrp,
        pytest.raises(RadioError, match=words),
    ):
        open_radio(f"uhd:{usrp.args},{options}")


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("type=b200,rx_gian_db=3", "did you mean 'rx_gain_db'"),
        ("type=b200,rx_gain_db=high", "must be a number"),
        ("type=b200,rx_gain_db=nan", "must be a number"),
        ("type=b200,wire=sc17", "did you mean 'sc16'"),
        ("type=b200,timeout_s=0", "outside"),
        ("b200", "key=value"),
        ("rx_gain_db=1,rx_gain_db=2", "is given twice"),
    ],
)
def test_addresses_that_can_not_be_read(rest, words):
    with pytest.raises(RadioError, match=words):
        parse_usrp(rest)


def test_uhds_own_arguments_stay():
    args, options = parse_usrp("type=x300,addr=192.168.40.2,rx_gain_db=7,recv_frame_size=8000,some_new_key=1")
    assert args == "type=x300,addr=192.168.40.2,recv_frame_size=8000,some_new_key=1" and options.rx_gain_db == 7


@pytest.mark.parametrize(
    ("message", "log", "words"),
    [
        (
            "LookupError: KeyError: No devices found",
            "USB open failed: insufficient permissions.",
            "no permission.*udev",
        ),
        ("send: Permission denied", "", "no permission"),
        ("LIBUSB_ERROR_BUSY", "", "is busy"),
        ("RuntimeError: Someone tried to claim this device again", "", "is busy"),
        ("LookupError: KeyError: No devices found for ----->", "", "no device found.*uhd_find_devices"),
        ("link dead: timeout waiting for control packet ACK", "", "doesn't answer"),
        ("something\nelse entirely", "", "UHD says 'else entirely'"),
    ],
)
def test_what_uhd_says_becomes_one_line(message, log, words):
    import re

    line = explain_uhd(message, log, "type=b200")
    assert "\n" not in line and re.search(words, line)


def test_no_interpreter_with_uhd(monkeypatch, tmp_path):
    monkeypatch.setattr("sdr.radios.uhd_host.shutil.which", lambda name: str(tmp_path / "python3"))
    monkeypatch.setattr("sdr.radios.uhd_host.subprocess.run", lambda *_, **__: subprocess.CompletedProcess([], 1))
    if "uhd" not in sys.modules and __import__("importlib.util").util.find_spec("uhd") is None:
        with pytest.raises(RadioError, match="python3-uhd"):
            find_uhd_python()


# Ends


@needs_uhd
def test_dropped_in_mid_capture():
    with EmulatedUsrp(addr="127.0.41.5") as usrp, open_radio(f"uhd:{usrp.args}", SETTINGS) as radio:
        began = time.monotonic()
        with (
            once(handed_out(usrp, 400_000), usrp.drop),
            pytest.raises(RadioError, match=r"gave \d+ of 5000000 samples, then nothing for 2 s"),
        ):
            radio.receive(5_000_000)
        assert time.monotonic() - began < 30
        began = time.monotonic()
    assert time.monotonic() - began < 30


@needs_uhd
def test_dropped_in_mid_transmission():
    with (
        EmulatedUsrp(addr="127.0.41.6") as usrp,
        open_radio(f"uhd:{usrp.args}", SETTINGS) as radio,
        once(lambda: usrp.transmitting, usrp.drop),
        pytest.raises(RadioError, match=r"took .* samples, then no more|doesn.t answer any more"),
    ):
        radio.transmit(burst(3_000_000))


@needs_uhd
def test_a_busy_host_gets_more_time(monkeypatch, tmp_path):
    hasty = Path(sdr.radios.uhd_process.__file__).read_text().replace("LEAD_S = 0.2\n", "LEAD_S = 1e-5\n")
    (tmp_path / "hasty.py").write_text(hasty)
    monkeypatch.setattr("sdr.radios.uhd_link.PROCESS_FILE", tmp_path / "hasty.py")
    with EmulatedUsrp(addr="127.0.41.11") as usrp, open_radio(f"uhd:{usrp.args}", SETTINGS) as radio:
        assert radio.receive(1000).num_samples == 1000
        assert usrp.events["late command"] >= 1
        radio.transmit(burst())
        assert usrp.events["late burst"] >= 1 and usrp.events["burst ack"] >= 1


@needs_uhd
def test_the_process_dies():
    with EmulatedUsrp(addr="127.0.41.7") as usrp, open_radio(f"uhd:{usrp.args}", SETTINGS) as radio:
        os.kill(radio.process_id, signal.SIGKILL)
        with pytest.raises(RadioError, match="UHD's process ended"):
            radio.receive(1000)
        with pytest.raises(RadioError, match="open it again"):
            radio.receive(1000)


@needs_uhd
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_muted_when_the_program_dies(number):
    code = """
import sys, time
import numpy as np
from sdr.radios.open import open_radio
from sdr.settings import RadioSettings
with open_radio("uhd:" + sys.argv[1], RadioSettings(center_hz=2.45e9, tx_gain_db=31.5)) as radio:
    radio.transmit(np.full(1000, 0.5, np.complex64), cyclic=True)
    print("on the air", flush=True)
    radio.receive(20_000_000)
"""
    with EmulatedUsrp(addr="127.0.41.8") as usrp:
        command = [sys.executable, "-c", code, usrp.args]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
            assert program.stdout is not None and program.stdout.readline() == b"on the air\n"
            until(lambda: usrp.tx_gain_db == 31.5 and usrp.transmitting)
            program.send_signal(number)
        until(lambda: usrp.tx_gain_db == 0.0, 8.0)
        until(lambda: not usrp.transmitting, 8.0)
        until(lambda: is_free(usrp.args), 8.0)


def is_free(args: str) -> bool:
    try:
        with claim_usrp(args):
            return True
    except RadioError:
        return False


@needs_uhd
def test_nothing_leaks():
    def open_things() -> tuple[int, int, int]:
        children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
        return threading.active_count(), len(os.listdir("/proc/self/fd")), len(children)

    with EmulatedUsrp(addr="127.0.41.9") as usrp:
        before = open_things()
        for _ in range(CYCLES):
            with open_radio(f"uhd:{usrp.args}", SETTINGS) as radio:
                radio.transmit(burst(), cyclic=True)
                assert radio.receive(20_000).num_samples == 20_000
            radio.close()
            with pytest.raises(RadioError, match="is closed"):
                radio.receive(1000)
            assert usrp.tx_gain_db == 0.0
        assert open_things() == before


# One air


@needs_uhd
def test_a_usrp_hears_a_pluto():
    pytest.importorskip("adi", reason="pip install 'pyadi-iio==0.0.21' 'pylibiio<1'")
    layout = load_layout("air")
    sent = np.resize(burst(), layout.frame_samples * 2).astype(np.complex64)
    air = Air(noise_var=1e-6)
    with EmulatedPluto(air) as pluto, EmulatedUsrp(air, "127.0.41.10") as usrp:
        sender = open_radio(f"pluto:{pluto.uri},center_hz=2.45e9", layout=layout)
        receiver = open_radio(f"uhd:{usrp.args},center_hz=2.45e9", layout=layout)
        with sender, receiver:
            sender.transmit(sent, cyclic=True)
            recording = receiver.receive(8 * sent.size)
    steady = recording.samples[-2 * sent.size :]
    spectrum = np.fft.fft(steady[: sent.size]) * np.conj(np.fft.fft(sent))
    shift = int(np.argmax(np.abs(np.fft.ifft(spectrum))))
    expected = np.roll(np.tile(sent, 2), shift)
    overlap = np.abs(np.vdot(expected, steady)) / np.linalg.norm(expected) / np.linalg.norm(steady)
    assert overlap > 0.999 and recording.layout_digest == layout.digest
