"""The driver for SoapySDR: its UHD module against an emulated USRP, and a device made of Python without a clock."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from receiver.sync.preamble import find_frames
from sdr.emulated.air import Air
from sdr.emulated.usrp import EmulatedUsrp
from sdr.errors import RadioError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios import soapy_process
from sdr.radios.address import device_of
from sdr.radios.base import Radio
from sdr.radios.open import open_radio
from sdr.radios.soapy import SoapyRadio, find_soapy_python, parse_soapy
from sdr.settings import RadioSettings
from sdr.symbols import Symbols

try:
    find_soapy_python()
except RadioError as missing:
    REASON = str(missing)
else:
    REASON = ""
needs_soapy = pytest.mark.skipif(bool(REASON), reason=REASON)
LAYOUT = load_layout("air")
SETTINGS = RadioSettings(center_hz=2.45e9, rate_sps=1e6, tx_gain_db=31.5)


@pytest.fixture(scope="module")
def device() -> Iterator[EmulatedUsrp]:
    with EmulatedUsrp(Air(), "127.0.43.1") as usrp:
        yield usrp


@pytest.fixture(scope="module")
def opened(device: EmulatedUsrp) -> Iterator[SoapyRadio]:
    if REASON:
        pytest.skip(REASON)
    with open_radio(f"soapy:driver=uhd,{device.args},timeout_s=2", SETTINGS, LAYOUT) as radio:
        assert isinstance(radio, SoapyRadio)
        yield radio


@pytest.fixture
def radio(opened: SoapyRadio, device: EmulatedUsrp) -> Iterator[SoapyRadio]:
    yield opened
    opened.apply(SETTINGS)
    assert device.tx_gain_db == 0.0


def burst(count: int = 5000) -> np.ndarray:
    return (0.5 * np.exp(2j * np.pi * np.random.default_rng(3).uniform(size=count))).astype(np.complex64)


def test_is_a_radio(radio: SoapyRadio) -> None:
    assert isinstance(radio, Radio)
    assert radio.capabilities.transmit and radio.capabilities.cyclic and radio.capabilities.has_time
    assert radio.about["device"] == "N210r4" and radio.settings.rate_sps == 1e6
    assert radio.rx_limits()["rx_gain_db"] == (0.0, 38.0) and radio.temperature_c is None


def test_a_timed_burst_lands_on_its_sample(radio: SoapyRadio, device: EmulatedUsrp) -> None:
    start_s = radio.now_s() + 0.5
    radio.transmit(burst(), at_s=start_s + 0.012345)
    recording = radio.receive(30_000, at_s=start_s)
    radio.finish_transmit()
    loud = np.flatnonzero(np.abs(recording.samples) > 0.05)
    assert (loud[0], loud[-1]) == (12345, 17344)
    assert np.abs(recording.samples[12345:17345] - burst()).max() < 1e-3
    assert recording.health.warnings == () and device.tx_gain_db == 0.0


def test_a_late_burst_is_not_sent(radio: SoapyRadio) -> None:
    radio.transmit(burst(), at_s=radio.now_s() - 0.5)
    with pytest.raises(RadioError, match="late burst: its time had passed when it reached the radio"):
        radio.finish_transmit()


def test_frames_arrive_while_they_repeat(radio: SoapyRadio) -> None:
    z = burst(LAYOUT.capacity)[None] * np.complex64(2)
    frames = pack_frames(Symbols(z, "00c0ffee", ("a",), (1, 8, 8), 10.0), LAYOUT)
    radio.transmit(modulate_stream(frames, LAYOUT, 0), cyclic=True)
    recording = radio.receive(3 * LAYOUT.frame_samples)
    assert recording.layout_digest == LAYOUT.digest
    found = find_frames(recording, LAYOUT)
    assert len(found) >= 2 and all(frame.header == frames[0].header for frame in found)
    radio.mute()
    heard = (np.abs(radio.receive(5000).samples).max() for _ in range(20))
    assert any(level < 1e-3 for level in heard), "what was on its way has gone by"


def test_streaming_and_tuning(radio: SoapyRadio) -> None:
    radio.tune_receiver(2.4e9, 6.0)
    assert radio.about["center_hz"] == pytest.approx(2.4e9) and radio.about["rx_gain_db"] == pytest.approx(6.0)
    blocks = radio.stream(4096)
    assert all(next(blocks).shape == (4096,) for _ in range(5))
    blocks.close()  # type: ignore[attr-defined]  # a generator


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"rate_sps": 3e6 + 7}, "soapy: rate_sps"),
        ({"rx_gain_db": 99.0}, "rx_gain_db = 99 is outside 0..38 of N210r4"),
        ({"tx_gain_db": -1.0}, "tx_gain_db = -1 is outside"),
        ({"center_hz": 9e9}, "center_hz = 9e[+]09 is outside"),
    ],
)
def test_settings_out_of_range(radio: SoapyRadio, change: dict[str, float], says: str) -> None:
    with pytest.raises(RadioError, match=says):
        radio.apply(RadioSettings(**{**vars(SETTINGS), **change}))


def test_busy(opened: SoapyRadio, device: EmulatedUsrp) -> None:
    for scheme in ("uhd:", "soapy:driver=uhd,"):
        with pytest.raises(RadioError, match=rf"busy: process {os.getpid()} has it"):
            open_radio(f"{scheme}{device.args}", SETTINGS)


@needs_soapy
@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("soapy:driver=nosuchdriver", "no device found for soapy:driver=nosuchdriver"),
        ("soapy:driver=null", "soapy: this device has no receiver"),
    ],
)
def test_no_device(uri: str, says: str) -> None:
    with pytest.raises(RadioError, match=says):
        open_radio(uri, SETTINGS)


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("", "no driver is named"),
        ("serial=1", "no driver is named"),
        ("driver", "can't read 'driver'"),
        ("driver=", "can't read 'driver='"),
        ("driver=rtlsdr,rx_gain=3", "did you mean 'rx_gain_db'"),
        ("driver=rtlsdr,rx_gain_db=loud", "rx_gain_db must be"),
        ("driver=rtlsdr,rx_gain_db=1,rx_gain_db=2", "given twice"),
        ("driver=rtlsdr,timeout_s=0", "timeout_s"),
    ],
)
def test_addresses_that_can_not_be_read(rest: str, says: str) -> None:
    with pytest.raises(RadioError, match=says):
        parse_soapy(rest)


def test_soapys_own_arguments_stay() -> None:
    args, options = parse_soapy("driver=remote,remote=tcp://127.0.0.1:55132,remote:driver=uhd,rx_gain_db=3,soapy=0")
    assert args == "driver=remote,remote=tcp://127.0.0.1:55132,remote:driver=uhd,soapy=0"
    assert options.rx_gain_db == 3.0
    assert device_of("soapy:rx_gain_db=3,driver=rtlsdr,center_hz=1e9,serial=1") == "soapy:driver=rtlsdr,serial=1"


class Simple:
    """A device that only receives, has no clock, loses samples once, and gives a ramp."""

    def __init__(self, args: str) -> None:
        self.rate, self.hz, self.db, self.count, self.active = 0.0, 0.0, 0.0, 0, False
        self.agc = True

    def getNumChannels(self, side: int) -> int:
        return int(side == 1)

    def hasHardwareTime(self) -> bool:
        return False

    def hasGainMode(self, side: int, channel: int) -> bool:
        return True

    def setGainMode(self, side: int, channel: int, on: bool) -> None:
        self.agc = on

    def getGainRange(self, side: int, channel: int) -> Any:
        return SimpleNamespace(minimum=lambda: 0.0, maximum=lambda: 49.6)

    def getFrequencyRange(self, side: int, channel: int) -> list[Any]:
        return [SimpleNamespace(minimum=lambda: 24e6, maximum=lambda: 1.7e9)]

    def setSampleRate(self, side: int, channel: int, rate: float) -> None:
        self.rate = rate * (1 + 2e-6)  # such a divider has no rate exactly

    def getSampleRate(self, side: int, channel: int) -> float:
        return self.rate

    def setFrequency(self, side: int, channel: int, hz: float) -> None:
        self.hz = hz

    def getFrequency(self, side: int, channel: int) -> float:
        return self.hz

    def setGain(self, side: int, channel: int, db: float) -> None:
        self.db = db

    def getGain(self, side: int, channel: int) -> float:
        return self.db

    def listSensors(self, *_: int) -> list[str]:
        return []

    def getAntenna(self, side: int, channel: int) -> str:
        return "RX"

    def getHardwareKey(self) -> str:
        return "simple"

    def getDriverKey(self) -> str:
        return "simple"

    def setupStream(self, side: int, form: str, channels: list[int]) -> str:
        return "stream"

    def getStreamMTU(self, stream: str) -> int:
        return 1000

    def activateStream(self, stream: str, flags: int, time_ns: int) -> int:
        self.active = True
        return 0

    def deactivateStream(self, stream: str) -> int:
        self.active = False
        return 0

    def closeStream(self, stream: str) -> None: ...

    def readStream(self, stream: str, buffers: list[np.ndarray], count: int, timeoutUs: int) -> Any:
        if not self.active:
            return SimpleNamespace(ret=-1, flags=0, timeNs=0)
        self.count += 1
        if self.count == 3:
            return SimpleNamespace(ret=-4, flags=0, timeNs=0)
        buffers[0][:count] = self.count
        return SimpleNamespace(ret=count, flags=0, timeNs=0)


def test_a_receiver_without_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("TX", "RX", "HAS_TIME", "END_BURST", "TIMEOUT", "OVERFLOW", "TIME_ERROR")
    values = (0, 1, 4, 2, -1, -4, -6)
    module = SimpleNamespace(
        Device=Simple,
        errToStr=str,
        **{f"SOAPY_SDR_{name}": value for name, value in zip(names, values, strict=True)},
    )
    monkeypatch.setitem(sys.modules, "SoapySDR", module)  # type: ignore[arg-type]  # all that is asked of it
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    process = threading.Thread(target=soapy_process.uhd_process.serve, args=(theirs, soapy_process.SoapyDevice))
    process.start()

    def ask(**request: Any) -> list[tuple[dict[str, Any], np.ndarray]]:
        soapy_process.uhd_process.write_message(ours, request)
        replies = [soapy_process.uhd_process.read_message(ours)]
        while "position" in replies[-1][0]:
            replies.append(soapy_process.uhd_process.read_message(ours))
        return replies

    settings = {"rate_sps": 1e6, "center_hz": 433e6, "tx_gain_db": 0.0, "rx_gain_db": 20.0, "bandwidth_hz": None}
    ((about, _),) = ask(do="open", args="driver=simple", options={}, timeout_s=1.0, **settings)
    assert about["transmits"] is False and about["has_time"] is False
    assert about["rate_sps"] == pytest.approx(1e6, rel=1e-5) and about["rx_gain_db"] == 20.0
    *pieces, (summary, _) = ask(do="receive", num_samples=2500, at_s=None)
    assert [reply["position"] for reply, _ in pieces] == [0, 1000, 2000]
    assert [piece.size for _, piece in pieces] == [1000, 1000, 500] and summary["overflows"] == 1
    ((late, _),) = ask(do="tune", center_hz=2.4e9, rx_gain_db=0.0, options={})
    assert "outside" in late["error"] and late["from_uhd"] is False
    ask(do="close")
    process.join(5)
    assert not process.is_alive()
    ours.close()
