"""The Pluto's driver stack (libiio, pyadi-iio, our driver) against an emulated Pluto."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import adi
import iio
import numpy as np
import pytest

from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import EmulatedPluto, PlutoFaults
from sdr.errors import InputError, RadioError
from sdr.layout import load_layout
from sdr.radios.base import Radio
from sdr.radios.open import open_radio
from sdr.radios.pluto import MUTED_DB, PlutoOptions, PlutoRadio, parse_pluto, pluto_settings
from sdr.settings import RadioSettings
from tests.sdr.once import once

SETTINGS = RadioSettings(rate_sps=1e6, tx_gain_db=-10.0, rx_gain_db=10.0)


@pytest.fixture
def pluto() -> Iterator[EmulatedPluto]:
    with EmulatedPluto() as device:
        yield device


def tone(size: int = 1000, cycles: int = 50, amplitude: float = 0.25) -> np.ndarray:
    return (amplitude * np.exp(2j * np.pi * np.arange(size) * cycles / size)).astype(np.complex64)


def open_pluto(device: EmulatedPluto, options: str = "", **settings) -> Radio:
    return open_radio(f"pluto:{device.uri}{options}", replace(SETTINGS, **settings))


def frequency_hz(samples: np.ndarray, rate_sps: float = 1e6) -> float:
    return float(np.angle(np.vdot(samples[:-1], samples[1:])) / (2 * np.pi) * rate_sps)


# Foreign clients


def run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_iio_info_describes_it(pluto):
    text = run("iio_info", "-u", pluto.uri)
    for words in (
        "PlutoSDR",
        "emulated",
        "ad9361-phy",
        "cf-ad9361-lpc",
        "cf-ad9361-dds-core-lpc",
        "TX_LO",
        "le:S12/16>>0",
    ):
        assert words in text
    assert "ERROR" not in text


def test_iio_attr_reads_and_writes(pluto):
    words = ("iio_attr", "-u", pluto.uri, "-c", "ad9361-phy", "altvoltage0", "frequency")
    run(*words, "2400000123")
    assert run(*words).strip() == "2400000123"


def test_iio_readdev_gets_every_sample(pluto):
    command = ["iio_readdev", "-u", pluto.uri, "-b", "16384", "-s", "65536", "cf-ad9361-lpc"]
    result = subprocess.run(command, capture_output=True, timeout=30)
    assert result.returncode == 0 and len(result.stdout) == 4 * 65536


def test_plain_pyadi_sees_stale_buffers_after_a_change_and_our_driver_does_not(pluto):
    plain = adi.Pluto(uri=pluto.uri)
    plain.sample_rate, plain.rx_buffer_size = 1_000_000, 4096
    plain.gain_control_mode_chan0, plain.rx_hardwaregain_chan0 = "manual", 0
    plain.tx_hardwaregain_chan0, plain.tx_cyclic_buffer = 0, True
    plain.tx(tone() * 2**14)
    plain.rx()
    time.sleep(0.05)  # all kernel buffers fill
    plain.rx_hardwaregain_chan0 = 20
    levels = [float(np.sqrt(np.mean(np.abs(plain.rx()) ** 2))) for _ in range(8)]
    plain.rx_destroy_buffer()
    plain.tx_destroy_buffer()
    assert max(levels[:4]) * 5 < levels[7]  # four buffers are older than the change

    with open_pluto(pluto, rx_gain_db=0.0, tx_gain_db=0.0) as radio:
        radio.transmit(tone(), cyclic=True)
        radio.receive(20_000)
        radio.apply(replace(radio.settings, rx_gain_db=14.0))
        radio.transmit(tone(), cyclic=True)
        samples = radio.receive(20_000).samples
    assert np.abs(samples).min() > 0.9 * np.abs(samples).max() > 0.5


# Settings arrive


def test_it_is_a_radio_with_capabilities(pluto):
    with open_pluto(pluto) as radio:
        assert isinstance(radio, Radio)
        assert radio.capabilities.cyclic and not radio.capabilities.has_time and not radio.capabilities.finite


@pytest.mark.parametrize("offset_hz", [12345.0, -12345.0])
def test_an_oscillator_offset_is_measured(pluto, offset_hz):
    with open_pluto(pluto, f",rx_offset_hz={-offset_hz}") as radio:
        radio.transmit(tone(cycles=0), cyclic=True)
        assert abs(frequency_hz(radio.receive(200_000).samples) - offset_hz) < 10.0


@pytest.mark.parametrize("ppm", [12.5, -3.0])
def test_the_crystal_is_corrected_to_a_fraction_of_a_ppm(ppm):
    """A tone from a perfect clock shows what the Pluto's oscillator does; the sampling clock follows."""
    air = Air()
    air.attach("reference")
    with EmulatedPluto(air, ppm=ppm, ppm_per_c=0.5) as device:
        air.transmit("reference", np.full(1000, 0.1, np.complex64), 0, 1e6, 2.45e9, cyclic=True)
        offsets = []
        for options in ("", f",xo_correction_hz={40e6 * (1 + 1e-6 * ppm):.0f}"):
            with open_pluto(device, options) as radio:
                offsets.append(frequency_hz(radio.receive(200_000).samples))
                assert isinstance(radio, PlutoRadio) and radio.temperature_c == 38.0
        assert offsets[0] == pytest.approx(-ppm * 2450, abs=20)
        # One hertz of 40 MHz is 0.025 ppm.
        assert offsets[1] == pytest.approx(0.0, abs=0.02 * 2450)
        assert device.transceiver.clock_ppm == pytest.approx(0.0, abs=0.0126)
        device.transceiver.temperature_c = 48.0
        assert device.transceiver.clock_ppm == pytest.approx(5.0, abs=0.02)
        with open_pluto(device) as radio:
            assert isinstance(radio, PlutoRadio) and radio.temperature_c == 48.0
            assert frequency_hz(radio.receive(200_000).samples) == pytest.approx(-5 * 2450, abs=60)
        with pytest.raises(RadioError, match="xo_correction_hz = 39000000 Hz is outside"):
            open_pluto(device, ",xo_correction_hz=39e6")


def test_a_transmission_keeps_its_place_when_the_crystal_is_corrected():
    air = Air(clock=lambda: 100.0)
    air.attach("radio")
    air.transmit("radio", np.arange(1, 1001, dtype=np.complex64) / 1000, 100_000_000, 1e6, 0.0, cyclic=True)
    before = air.receive("radio", air.now_samples(1e6, "radio"), 4, 1e6, 0.0)
    air.set_ppm("radio", -20.0)
    np.testing.assert_array_equal(air.receive("radio", air.now_samples(1e6, "radio"), 4, 1e6, 0.0), before)
    with pytest.raises(InputError, match="1000 ppm"):
        air.set_ppm("radio", 2000.0)


def test_gain_steps_change_the_level_by_as_much(pluto):
    levels = {}
    with open_pluto(pluto) as radio:
        for step in ({}, {"rx_gain_db": 16.0}, {"tx_gain_db": -16.0}):
            radio.apply(replace(SETTINGS, **step))
            radio.transmit(tone(), cyclic=True)
            levels[tuple(step)] = radio.receive(50_000).health.rms_dbfs
    assert abs(levels["rx_gain_db",] - levels[()] - 6.0) < 0.1
    assert abs(levels["tx_gain_db",] - levels[()] + 6.0) < 0.1


def test_full_scale_is_one_on_our_side(pluto):
    with open_pluto(pluto, rx_gain_db=0.0, tx_gain_db=0.0) as radio:
        radio.transmit(np.ones(100, np.complex64), cyclic=True)
        samples = radio.receive(1000).samples
    # 2**14 counts sent come back as 2**10 counts, half of the receiver's full scale.
    np.testing.assert_allclose(samples, 0.5, atol=1e-3)


@pytest.mark.parametrize("rate_sps", [600e3, 1e6, 4e6])
def test_rates_are_paced(pluto, rate_sps):
    with open_pluto(pluto, rate_sps=rate_sps) as radio:
        began = time.monotonic()
        recording = radio.receive(round(0.3 * rate_sps))
        taken_s = time.monotonic() - began
        radio.transmit(tone(), cyclic=True)
        assert abs(frequency_hz(radio.receive(20_000).samples, rate_sps) / rate_sps - 0.05) < 1e-4
    assert recording.settings.rate_sps == rate_sps and taken_s >= 0.3


def test_options_of_the_address_win():
    uri, options = parse_pluto("ip:pluto.local,center_hz=868e6,tx_gain_db=-30,kernel_buffers=2")
    settings = pluto_settings(SETTINGS, options)
    assert (uri, settings.center_hz, settings.tx_gain_db, options.kernel_buffers) == ("ip:pluto.local", 868e6, -30, 2)
    assert pluto_settings(SETTINGS, PlutoOptions()).center_hz == 2.45e9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (",tx_gain_db=3", "only attenuates"),
        (",tx_gain_db=-90", "only attenuates"),
        (",rx_gain_db=90", "outside what this Pluto can do, -3..71 dB"),
        (",center_hz=100e6", "325000000..3800000000"),
        (",bandwidth_hz=1e3", "bandwidth_hz = 1000"),
        (",tx_gain=3", "did you mean"),
        (",tx_gain_db=loud", "must be a number"),
        (",tx_gain_db", "needs a value"),
        (",tx_gain_db=-1,tx_gain_db=-2", "is given twice"),
        (",kernel_buffers=0", "outside 1..16"),
        (",timeout_s=0", "outside"),
        (",rx_offset_hz=1e9", "20 MHz"),
    ],
)
def test_settings_out_of_range_end_in_one_line(pluto, options, words):
    with pytest.raises(RadioError, match=re.escape(words)) as caught:
        open_pluto(pluto, options)
    assert "\n" not in str(caught.value)
    assert pluto.tx_gain_db in (MUTED_DB, -10.0) and not pluto.transmitting


@pytest.mark.parametrize("rate_sps", [1e5, 70e6, 1e6 + 0.5])
def test_rates_that_it_does_not_have(pluto, rate_sps):
    with pytest.raises(RadioError, match="samples at a whole number"):
        open_pluto(pluto, rate_sps=rate_sps)


# Transmitting


@pytest.mark.parametrize("size", [1000, 777])
def test_cyclic_transmissions_repeat_until_the_next(pluto, size):
    with open_pluto(pluto, tx_gain_db=0.0, rx_gain_db=0.0) as radio:
        for samples in (tone(size), tone(size, cycles=-30)):
            radio.transmit(samples, cyclic=True)
            assert pluto.tx_gain_db == 0.0
            heard = radio.receive(20 * size).samples
            # Contiguous: the tone's phase has no step anywhere, at no end of a period either.
            steps = np.angle(heard[1:] * heard[:-1].conj())
            assert np.ptp(steps) < 0.05
        radio.mute()
        assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting
        assert not radio.receive(1000).samples.any()
    assert pluto.tx_gain_db == MUTED_DB


def test_one_burst_is_sent_once_and_whole(pluto):
    samples = tone(50_001)
    pluto.air.attach("listener")
    with open_pluto(pluto, tx_gain_db=0.0) as radio:
        before = pluto.air.now_samples(1e6)
        radio.transmit(samples)
        after = pluto.air.now_samples(1e6)
        assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting
    heard = pluto.air.receive("listener", before, after - before, 1e6, 2.45e9)
    first = int(np.flatnonzero(heard)[0])
    np.testing.assert_allclose(heard[first : first + samples.size], samples / 2, atol=1e-4)
    assert not heard[first + samples.size :].any()


def test_long_bursts_go_in_several_buffers_without_a_gap(pluto, monkeypatch):
    monkeypatch.setattr("sdr.radios.pluto.BURST_SAMPLES", 1 << 15)
    pluto.air.attach("listener")
    samples = tone(200_000, cycles=1000)
    with open_pluto(pluto, tx_gain_db=0.0) as radio:
        before = pluto.air.now_samples(1e6)
        radio.transmit(samples)
    heard = pluto.air.receive("listener", before, 300_000, 1e6, 2.45e9)
    first = int(np.flatnonzero(heard)[0])
    np.testing.assert_allclose(heard[first : first + samples.size], samples / 2, atol=1e-4)


def test_a_cyclic_transmission_is_whole_frames(pluto):
    layout = load_layout("paper")
    with open_radio(f"pluto:{pluto.uri}", SETTINGS, layout) as radio:
        with pytest.raises(RadioError, match="whole number of frames"):
            radio.transmit(tone(layout.frame_samples + 2), cyclic=True)
        radio.transmit(tone(2 * layout.frame_samples), cyclic=True)


@pytest.mark.parametrize(
    ("samples", "words"),
    [(np.full(10, 1.2, np.complex64), "magnitude"), (np.zeros(0, np.complex64), "nothing"), (np.zeros(4), "complex64")],
)
def test_what_can_not_be_sent(pluto, samples, words):
    with open_pluto(pluto) as radio, pytest.raises(RadioError, match=words):
        radio.transmit(samples)


def test_retuning_is_done_in_silence(pluto):
    """Attenuation and oscillator are followed from outside, on the device's own attributes."""
    seen = []
    put = pluto.transceiver.write

    def spy(key, value):
        put(key, value)
        if key[2:] == ("altvoltage1", "frequency"):
            seen.append((pluto.tx_gain_db, pluto.transmitting))

    pluto.transceiver.write = spy
    with open_pluto(pluto) as radio:
        radio.transmit(tone(), cyclic=True)
        radio.apply(replace(radio.settings, center_hz=2.46e9))
    assert seen == [(MUTED_DB, False)] * 2


# Receiving and health


def test_a_capture_is_healthy_and_says_what_it_is(pluto):
    layout = load_layout("paper")
    with open_radio(f"pluto:{pluto.uri}", SETTINGS, layout) as radio:
        radio.transmit(np.tile(tone(layout.frame_samples), 1), cyclic=True)
        recording = radio.receive(12_345)
    assert recording.num_samples == 12_345 and recording.layout_digest == layout.digest
    assert recording.settings.uri == f"pluto:{pluto.uri}" and recording.settings.center_hz == 2.45e9
    assert recording.health.warnings == ()


def test_a_saturated_converter_is_told(pluto):
    with open_pluto(pluto, tx_gain_db=0.0, rx_gain_db=30.0) as radio:
        radio.transmit(tone(), cyclic=True)
        health = radio.receive(10_000).health
    assert health.clipped_fraction > 0.5 and "clipped" in " ".join(health.warnings)


def test_a_gain_that_moves_is_told(pluto):
    with open_pluto(pluto) as radio:
        radio.transmit(tone(amplitude=0.9), cyclic=True)
        run("iio_attr", "-u", pluto.uri, "-i", "-c", "ad9361-phy", "voltage0", "gain_control_mode", "fast_attack")
        health = radio.receive(20_000).health
    assert abs(health.gain_step_db) >= 1.0 and "gain moved" in " ".join(health.warnings)


def test_an_oscillator_that_moves_is_told(pluto):
    with open_pluto(pluto) as radio:
        carrier = ("iio:device0", "OUTPUT", "altvoltage0", "frequency")
        with once(lambda: pluto.receiving, lambda: pluto.transceiver.write(carrier, "2400000000")):
            health = radio.receive(300_000).health
    assert health.stale


def test_long_captures_are_contiguous(pluto, monkeypatch):
    monkeypatch.setattr("sdr.radios.pluto.BURST_SAMPLES", 1 << 16)
    monkeypatch.setattr("sdr.radios.pluto.BLOCK_SAMPLES", 1 << 16)
    # All of it fits into the device's buffers: nothing is lost even where the machine pauses meanwhile.
    with open_pluto(pluto, ",kernel_buffers=16") as radio:
        radio.transmit(tone(), cyclic=True)
        recording = radio.receive(300_000)
    steps = np.angle(recording.samples[1:] * recording.samples[:-1].conj())
    assert recording.health.overflows == 0 and np.ptp(steps) < 0.1


def test_a_slow_reader_is_told_that_samples_are_missing(pluto):
    with open_pluto(pluto) as radio:
        blocks = radio.stream(1 << 18)
        next(blocks)
        assert radio.overflows() == 0
        time.sleep(1.5)
        next(blocks)
        assert radio.overflows() == 1
        blocks.close()
        assert radio.receive(1 << 14).health.overflows == 0


def test_a_sustained_capture_loses_nothing(pluto):
    """Frames of 4096 samples, each with its number in its level; a second at 1 MS/s fits into the device's buffers.

    With OTA_RATE_SPS and OTA_RATE_SECONDS it measures what a machine keeps up with.
    """
    frame, count, block = 4096, 250, 1 << 17
    wanted_sps, seconds = float(os.environ.get("OTA_RATE_SPS", "1e6")), float(os.environ.get("OTA_RATE_SECONDS", "1"))
    numbered = np.repeat((100 + np.arange(count)) / 512, frame).astype(np.complex64)
    with open_pluto(pluto, ",kernel_buffers=16", rate_sps=wanted_sps, tx_gain_db=0.0, rx_gain_db=0.0) as radio:
        radio.transmit(numbered, cyclic=True)
        received, began, last = 0, time.monotonic(), None
        for samples in radio.stream(block):
            # RX full scale is half of TX full scale, so the number comes back in steps of four counts.
            numbers = np.rint(samples.real[:: frame // 4] * 1024).astype(int) - 100
            steps = np.diff(numbers if last is None else np.concatenate([[last], numbers])) % count
            assert set(steps[:]) <= {0, 1} and steps.sum() in (block // frame, block // frame - (last is None))
            last = int(numbers[-1])
            received += samples.size
            if received >= wanted_sps * seconds:
                break
        rate_sps = received / (time.monotonic() - began)
        assert radio.overflows() == 0
    print(f"{rate_sps / 1e6:.2f} MS/s over {received} samples, {received // frame} frames")


# Faults


def expect(words: str, action, limit_s: float = 20.0) -> None:
    """The action fails within a time limit, with one line that says so."""
    began = time.monotonic()
    with pytest.raises(RadioError, match=words) as caught:
        action()
    assert time.monotonic() - began < limit_s and "\n" not in str(caught.value)


def test_no_device():
    expect("connection refused.*check the address", lambda: open_radio("pluto:ip:127.0.0.1:9"))
    expect("no device found", lambda: open_radio("pluto:usb:"))


def test_busy_device(pluto):
    with open_pluto(pluto) as first, open_pluto(pluto) as second:
        blocks = first.stream(1 << 14)
        next(blocks)
        expect("busy; close the other program", lambda: second.receive(1000))


def test_permission_denied():
    with EmulatedPluto(faults=PlutoFaults(open_errno=13)) as device, open_pluto(device) as radio:
        expect("permission denied; add the udev rule", lambda: radio.receive(1000))


@pytest.mark.parametrize("missing", ["ad9361-phy", "cf-ad9361-lpc", "cf-ad9361-dds-core-lpc"])
def test_wrong_firmware(missing):
    with EmulatedPluto(faults=PlutoFaults(missing_device=missing)) as device:
        expect(f"without '{missing}'.*update it", lambda: open_pluto(device))


@pytest.mark.parametrize("fault", ["bad_context", "garbled_replies"])
def test_nonsense_instead_of_an_answer(fault):
    with EmulatedPluto(faults=PlutoFaults(**{fault: True})) as device:
        expect("firmware", lambda: open_pluto(device, ",timeout_s=1"))


def test_a_value_that_does_not_stick(pluto, monkeypatch):
    monkeypatch.setattr(pluto.transceiver, "apply", lambda key, value: None)
    expect("was set to rate_sps = 1000000 but says", lambda: open_pluto(pluto))


def test_a_connection_that_breaks_in_mid_capture(pluto):
    with open_pluto(pluto) as radio:
        radio.transmit(tone(), cyclic=True)
        pluto.faults.drop_after_buffers = 8  # the first five are discarded
        expect("receiving, after 786432 samples: the connection broke", lambda: radio.receive(1 << 21))
        pluto.faults.drop_after_buffers = None
    for _ in range(50):
        if not pluto.num_connections:
            break
        time.sleep(0.02)
    assert not pluto.transmitting and pluto.num_connections == 0
    with open_pluto(pluto) as radio:
        assert radio.receive(1000).num_samples == 1000


def test_a_device_that_falls_silent_does_not_hang(pluto):
    pluto.faults.stall_after_buffers = 6
    with open_pluto(pluto, ",timeout_s=1") as radio:
        expect("no answer within 1.26 s", lambda: radio.receive(1 << 21))


def test_an_underrun_is_told(pluto, monkeypatch):
    monkeypatch.setattr("sdr.radios.pluto.BURST_SAMPLES", 1 << 12)
    with open_pluto(pluto) as radio:
        tx, pushes = radio.sdr.tx, []

        def slow(data):
            pushes.append(time.sleep(0.05))
            tx(data)

        radio.sdr.tx = slow
        expect("underrun", lambda: radio.transmit(tone(1 << 14)))
    assert pluto.tx_gain_db == MUTED_DB and len(pushes) == 4


def test_a_closed_radio_says_so(pluto):
    radio = open_pluto(pluto)
    radio.close()
    radio.close()
    for action in (lambda: radio.receive(10), lambda: radio.transmit(tone()), lambda: radio.apply(SETTINGS)):
        expect("is closed", action)


def test_an_error_ends_muted(pluto):
    with pytest.raises(ZeroDivisionError), open_pluto(pluto) as radio:
        radio.transmit(tone(), cyclic=True)
        raise ZeroDivisionError
    assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting


def test_ctrl_c_ends_muted(pluto):
    code = (
        "import sys, numpy as np\nfrom sdr.radios.open import open_radio\n"
        "with open_radio(sys.argv[1]) as radio:\n"
        "    radio.transmit(np.full(1000, 0.5, np.complex64), cyclic=True)\n"
        "    print('on', flush=True)\n    radio.receive(1 << 25)\n"
    )
    root = str(Path(__file__).resolve().parents[3])
    child = subprocess.Popen(
        [sys.executable, "-c", code, f"pluto:{pluto.uri}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == "on\n"
        assert pluto.transmitting and pluto.tx_gain_db == 0.0
        child.send_signal(signal.SIGINT)
        child.wait(40)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting


# Air and leaks


def test_two_plutos_hear_each_other_through_multipath():
    air = Air(AirPath(taps=8))
    with EmulatedPluto(air, "near") as near, EmulatedPluto(air, "far") as far:
        rng = np.random.default_rng(1)
        sent = (0.2 * rng.standard_normal((500, 2))).astype(np.float32).view(np.complex64)[:, 0]
        with open_pluto(near, tx_gain_db=0.0) as one, open_pluto(far, rx_gain_db=0.0) as other:
            one.transmit(sent, cyclic=True)
            heard = other.receive(500).samples
        response = np.fft.ifft(np.fft.fft(heard) / np.fft.fft(sent / 2))
        taps = air.taps("near", "far")
        shift = int(np.argmax(np.abs(response))) - int(np.argmax(np.abs(taps)))
        np.testing.assert_allclose(np.roll(response, -shift)[:8], taps, atol=0.02)


def test_two_receivers_of_a_pluto_hear_independent_channels_at_once():
    """Each as the air has it, on one clock: a shift that is the same for both makes both right."""
    air = Air(AirPath(taps=8))
    with EmulatedPluto(air, "near") as near, EmulatedPluto(air, "far", rx=2) as far:
        rng = np.random.default_rng(1)
        sent = (0.2 * rng.standard_normal((500, 2))).astype(np.float32).view(np.complex64)[:, 0]
        with open_pluto(near, tx_gain_db=0.0) as one, open_pluto(far, ",rx=2", rx_gain_db=0.0) as other:
            one.transmit(sent, cyclic=True)
            recording = other.receive(500)
            blocks = other.stream(500)
            streamed = next(blocks)
            blocks.close()
        spectrum = np.fft.fft(sent / 2)
        responses = [np.fft.ifft(np.fft.fft(heard) / spectrum) for heard in recording.antennas]
        taps = [air.taps("near", "far", antenna=antenna) for antenna in (0, 1)]
        # A stream begins anywhere in the period, with both alike.
        pairs = zip(streamed, recording.antennas, strict=True)
        turned = [np.fft.ifft(np.fft.fft(block) / np.fft.fft(heard)) for block, heard in pairs]
        assert np.argmax(np.abs(turned[0])) == np.argmax(np.abs(turned[1])) and np.abs(turned).max(axis=1).min() > 0.9
        shift = int(np.argmax(np.abs(responses[0]))) - int(np.argmax(np.abs(taps[0])))
        for response, wanted in zip(responses, taps, strict=True):
            np.testing.assert_allclose(np.roll(response, -shift)[:8], wanted, atol=0.02)
        assert np.abs(taps[0] - taps[1]).max() > 0.1
        # The first receiver alone is what it always was.
        with open_pluto(far, rx_gain_db=0.0) as other:
            assert not other.receive(100).others


def test_a_pluto_of_one_receiver_says_so(pluto):
    expect("receives with one antenna; leave out rx=2", lambda: open_pluto(pluto, ",rx=2"))
    expect("rx = 3 antennas", lambda: parse_pluto("ip:127.0.0.1,rx=3"))


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _cycle(device: EmulatedPluto) -> None:
    with open_pluto(device) as radio:
        radio.transmit(tone(), cyclic=True)
        radio.receive(1000)


def test_cycles_leak_nothing(pluto):
    def state() -> tuple[int, int]:
        for _ in range(100):
            if not pluto.num_connections and not any("iiod" in thread.name for thread in threading.enumerate()):
                break
            time.sleep(0.02)
        return _descriptors(), threading.active_count()

    _cycle(pluto)
    before = state()
    for _ in range(int(os.environ.get("OTA_LEAK_CYCLES", "10"))):
        _cycle(pluto)
    assert state() == before


def test_the_driver_is_loaded_only_when_it_is_needed():
    imports = "import sys, sdr.radios.open, sdr.emulated.pluto, sdr.radios.pluto"
    code = f"{imports}; assert not {{'adi', 'iio'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[3])


def test_without_the_driver_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "adi", None)
    expect("pip install", lambda: open_radio("pluto:ip:127.0.0.1"))


def test_another_iio_package_is_told(monkeypatch):
    monkeypatch.delattr(iio, "Context")
    expect("hides pylibiio", lambda: PlutoRadio("ip:127.0.0.1", SETTINGS))
