"""GNU Radio's own Pluto blocks against an emulated Pluto, and the link through them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from flowgraphs.link import PduSender
from flowgraphs.pdu import frame_pdu
from flowgraphs.radio_link import run_radio_link
from flowgraphs.supervisor import Supervisor
from sdr.emulated.pluto import EmulatedPluto
from sdr.errors import FlowgraphError, InputError
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.radios.pluto import MUTED_DB
from tests.flowgraphs.waiting import until

LAYOUT = load_layout("paper")


@pytest.fixture
def pluto() -> Iterator[EmulatedPluto]:
    with EmulatedPluto() as device:
        yield device


def write_pdus(frames, folder: Path) -> Path:
    path = folder / "frames.pdus"
    path.write_bytes(b"".join(frame_pdu(content, LAYOUT) for content in frames))
    return path


def on_the_air(device: EmulatedPluto) -> np.ndarray:
    """Counts that the DAC repeats, as complex numbers."""
    return device.air.emissions(device.name)[-1].samples * 2**15


def test_both_paths_give_the_converter_the_same_counts(pluto, make_frames, tmp_path):
    frames = make_frames(LAYOUT)
    with Supervisor(tmp_path / "flowgraphs") as supervisor:
        options = {"layout": "paper", "input": f"file:{write_pdus(frames, tmp_path)}", "sink": f"pluto:{pluto.uri}"}
        supervisor.start("flowgraphs.transmit", options, endless=True)
        assert pluto.tx_gain_db == 0.0 and pluto.transmitting
        gnuradio = on_the_air(pluto)
        supervisor.stop()
    assert pluto.tx_gain_db == MUTED_DB
    until(lambda: not pluto.transmitting)  # the device notices by itself that its client has gone
    samples = modulate_stream(frames, LAYOUT, 0)
    with open_radio(f"pluto:{pluto.uri}", layout=LAYOUT) as radio:
        radio.transmit(samples, cyclic=True)
        python = on_the_air(pluto)
    # The framers agree to a part in a million; that may move a count that lies on the edge of rounding.
    differing = gnuradio[: samples.size].view(np.float32) - python[: samples.size].view(np.float32)
    assert np.abs(differing).max() <= 1 and np.count_nonzero(differing) < 0.01 * differing.size


def test_the_sink_gets_what_any_sink_gets(pluto, make_frames, tmp_path):
    """Bit for bit: what the file sink holds, in counts, is what arrives at the Pluto's converter."""
    frames = make_frames(LAYOUT)
    pdus, raw = write_pdus(frames, tmp_path), tmp_path / "samples.cf32"
    with Supervisor(tmp_path / "flowgraphs") as supervisor:
        common = {"layout": "paper", "input": f"file:{pdus}"}
        writing = supervisor.start("flowgraphs.transmit", {**common, "sink": f"file:{raw}"})
        supervisor.watch(lambda: not writing.alive(), 30.0)
        supervisor.start("flowgraphs.transmit", {**common, "sink": f"pluto:{pluto.uri}"}, endless=True)
        counts = on_the_air(pluto)
        supervisor.stop()
    samples = np.fromfile(raw, np.complex64)
    np.testing.assert_array_equal(counts[: samples.size].view(np.float32), np.rint(samples.view(np.float32) * 2**14))


def test_the_receiver_hears_the_python_driver(pluto, make_frames, tmp_path):
    samples = modulate_stream(make_frames(LAYOUT), LAYOUT, 0)
    raw = tmp_path / "heard.cf32"
    with open_radio(f"pluto:{pluto.uri}", layout=LAYOUT) as radio, Supervisor(tmp_path / "flowgraphs") as supervisor:
        radio.transmit(samples, cyclic=True)
        options = {"source": f"pluto:{pluto.uri}", "sink": f"file:{raw}", "samples": 3 * samples.size}
        receive = supervisor.start("flowgraphs.receive", options)
        supervisor.watch(lambda: not receive.alive(), 30.0)
        assert pluto.tx_gain_db == 0.0
    heard = np.fromfile(raw, np.complex64)
    assert heard.size == 3 * samples.size
    spectrum = np.fft.fft(heard[: samples.size]) * np.fft.fft(samples).conj()
    lag = int(np.argmax(np.abs(np.fft.ifft(spectrum))))
    np.testing.assert_allclose(heard, np.roll(np.tile(samples, 3), lag) / 2, atol=1.5e-3)


@pytest.mark.parametrize("tx_path", ["gnuradio", "python"])
def test_the_link_brings_every_frame(pluto, make_frames, tmp_path, tx_path):
    frames, seen = make_frames(LAYOUT), []
    uri = f"pluto:{pluto.uri}"
    link = run_radio_link(frames, LAYOUT, uri, tmp_path, tx_path=tx_path, progress=lambda _, *n: seen.append(n))
    recording = link.recording
    assert recording.layout_digest == LAYOUT.digest and recording.health.warnings == ()
    assert link.tx_path == tx_path and len(link.processes) == (tx_path == "gnuradio")
    assert seen == [(recording.num_samples, recording.num_samples)]
    for start, content in enumerate(modulate_stream(frames, LAYOUT, 0).reshape(len(frames), -1)):
        size = recording.num_samples + content.size
        product = np.fft.ifft(np.fft.fft(recording.samples, size) * np.fft.fft(content, size).conj())
        best = np.abs(product[: recording.num_samples - content.size + 1]).max()
        assert best > 0.99 * 0.5 * np.vdot(content, content).real, f"frame {start} is not there as a whole"
    assert pluto.tx_gain_db == MUTED_DB
    until(lambda: not pluto.transmitting)


def test_a_simulated_radio_makes_a_link_too(make_frames, tmp_path):
    frames = make_frames(LAYOUT)
    link = run_radio_link(frames, LAYOUT, "sim:", tmp_path)
    np.testing.assert_allclose(link.recording.samples, modulate_stream(frames, LAYOUT), atol=1e-6)
    assert link.tx_path == "python"


def test_a_link_that_can_not_be(make_frames, tmp_path):
    for arguments, words in (
        (([], LAYOUT, "sim:"), "needs a frame"),
        ((make_frames(LAYOUT), LAYOUT, "sim:", tmp_path, None, "gnuradio"), "can't drive"),
        ((make_frames(LAYOUT), LAYOUT, "sim:", tmp_path, None, "carrier pigeon"), "gnuradio or python"),
    ):
        arguments = arguments if len(arguments) > 3 else (*arguments, tmp_path)
        with pytest.raises(InputError, match=words):
            run_radio_link(*arguments)


@pytest.mark.parametrize(
    ("sink", "words"),
    [
        ("pluto:ip:127.0.0.1:9", "gr-iio can't use ip:127.0.0.1:9"),
        ("pluto:ip:127.0.0.1:9,tx_gain_db=3", "only attenuates"),
        ("pluto:127.0.0.1", "needs libiio's address"),
    ],
)
def test_a_radio_that_is_not_there_ends_in_one_line(make_frames, tmp_path, sink, words):
    options = {"layout": "paper", "input": f"file:{write_pdus(make_frames(LAYOUT), tmp_path)}", "sink": sink}
    with Supervisor(tmp_path / "flowgraphs") as supervisor, pytest.raises(FlowgraphError, match=words):
        supervisor.start("flowgraphs.transmit", options)


def test_a_transmitter_whose_parent_dies_is_muted(pluto, make_frames, tmp_path):
    with Supervisor(tmp_path / "flowgraphs") as supervisor:
        options = {"layout": "paper", "input": f"file:{write_pdus(make_frames(LAYOUT), tmp_path)}"}
        transmit = supervisor.start("flowgraphs.transmit", {**options, "sink": f"pluto:{pluto.uri}"}, endless=True)
        assert transmit.process.stdin is not None
        transmit.process.stdin.close()
        transmit.process.wait(20)
        assert pluto.tx_gain_db == MUTED_DB


def test_frames_that_come_one_by_one_are_heard_and_gain_and_carrier_set_meanwhile(pluto, make_frames, tmp_path):
    """The sampling rate is set after the buffer was opened: nobody has used this Pluto before."""
    pluto.air.attach("probe")
    with PduSender() as sender, Supervisor(tmp_path / "flowgraphs") as supervisor:
        options = {"layout": "paper", "input": f"zmq:{sender.address}", "sink": f"pluto:{pluto.uri},tx_gain_db=-2"}
        options["between-frames"] = "zeros"
        flowgraph = supervisor.start("flowgraphs.transmit", options, endless=True)
        assert flowgraph.ready["limits"] == {"tx_gain_db": [MUTED_DB, 0.0]}

        def heard(center_hz: float) -> bool:
            sender.send([frame_pdu(frame, LAYOUT) for frame in make_frames(LAYOUT)[:1]])
            rate_sps = LAYOUT.rate_sps
            start = pluto.air.now_samples(rate_sps) - round(0.2 * rate_sps)
            return bool(np.any(pluto.air.receive("probe", start, round(0.15 * rate_sps), rate_sps, center_hz)))

        until(lambda: heard(2.45e9))
        flowgraph.set("tx_gain_db", -7.0)
        flowgraph.set("center_hz", 915e6)
        until(lambda: heard(915e6) and pluto.tx_gain_db == -7.0)
        flowgraph.set("tx_gain_db", -5.0)
        until(lambda: pluto.tx_gain_db == -5.0)
        flowgraph.set("bandwidth_hz", 1e6)
        until(lambda: not flowgraph.alive())
        assert "has no bandwidth_hz" in " ".join(flowgraph.stderr_tail()) and pluto.tx_gain_db == MUTED_DB
