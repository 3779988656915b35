"""Flowgraphs whose ends are USRPs: gr-uhd, unpatched, against an emulated USRP."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Flowgraph, find_gnuradio_python
from sdr.emulated.air import Air
from sdr.emulated.usrp import EmulatedUsrp
from sdr.errors import FlowgraphError
from sdr.layout import load_layout
from sdr.modem import modulate, modulate_stream
from sdr.radios.uhd_host import claim_usrp
from tests.flowgraphs.waiting import until

try:
    find_gnuradio_python()
except FlowgraphError as missing:
    pytest.skip(str(missing), allow_module_level=True)

LAYOUT = load_layout("air")
RATE_SPS = LAYOUT.rate_sps
CENTER_HZ = 2.45e9
READY_S = 30.0


@pytest.fixture
def usrp() -> Iterator[EmulatedUsrp]:
    with EmulatedUsrp(Air(), "127.0.42.1") as device:
        device.air.attach("probe")
        yield device


def heard(usrp: EmulatedUsrp, seconds: float) -> np.ndarray:
    """The last `seconds` on the air, up to a little before now."""
    count = round(seconds * RATE_SPS)
    start = usrp.air.now_samples(RATE_SPS) - count - round(0.02 * RATE_SPS)
    return usrp.air.receive("probe", start, count, RATE_SPS, CENTER_HZ)


def place(samples: np.ndarray, part: np.ndarray) -> tuple[int, float]:
    """Where `part` fits best in `samples`, and the greatest error there."""
    size = 1 << (samples.size + part.size).bit_length()
    overlap = np.fft.ifft(np.fft.fft(samples, size) * np.conj(np.fft.fft(part, size)))
    at = int(np.argmax(np.abs(overlap[: samples.size - part.size])))
    return at, float(np.abs(samples[at : at + part.size] - part).max())


def test_known_frames_repeat_without_a_seam(usrp, make_frames, tmp_path):
    frames = make_frames(LAYOUT)
    (tmp_path / "frames").write_bytes(b"".join(frame_pdu(frame, LAYOUT) for frame in frames))
    options = {"layout": "air", "input": f"file:{tmp_path / 'frames'}", "sink": f"uhd:{usrp.args},tx_gain_db=31.5"}
    flowgraph = Flowgraph("flowgraphs.transmit", options, tmp_path, endless=True)
    try:
        assert flowgraph.wait_ready(READY_S)["sink"].startswith("uhd:")
        period = modulate_stream(frames, LAYOUT, 0)
        period = np.concatenate([period, np.zeros(period.size % 2, np.complex64)])
        # Wherever the capture began; a seam would be in each, a pause of the machine is not.
        for _ in range(5):
            time.sleep(2.5 * period.size / RATE_SPS)
            samples = heard(usrp, 2 * period.size / RATE_SPS + 0.001)
            if np.abs(samples[period.size :] - samples[: -period.size]).max() < 1e-4:
                break
        # The same samples as the NumPy modem's, up to the wire's 16 bits.
        assert place(samples, period)[1] < 2e-4
        assert np.abs(samples[period.size :] - samples[: -period.size]).max() < 1e-4
    finally:
        code = flowgraph.stop()
    assert code == 0
    until(lambda: usrp.tx_gain_db == 0.0)


def test_frames_that_come_one_by_one_are_bursts(usrp, make_frames, tmp_path):
    frames = make_frames(LAYOUT)[:4]
    with zmq.Context() as context, context.socket(zmq.PUSH) as feed:
        feed.setsockopt(zmq.LINGER, 0)
        port = feed.bind_to_random_port("tcp://127.0.0.1")
        sink = f"uhd:{usrp.args},tx_gain_db=31.5"
        options = {"layout": "air", "input": f"zmq:tcp://127.0.0.1:{port}", "sink": sink}
        flowgraph = Flowgraph("flowgraphs.transmit", options, tmp_path, endless=True)
        try:
            flowgraph.wait_ready(READY_S)
            for frame in frames:
                feed.send(frame_pdu(frame, LAYOUT))
                time.sleep(0.1)
            until(lambda: usrp.events["burst ack"] == len(frames))
            samples, events = heard(usrp, 2.5), dict(usrp.events)
            found = [place(samples, modulate(frame, LAYOUT)) for frame in frames]
        finally:
            flowgraph.stop()
    assert [at for at, _ in found] == sorted(at for at, _ in found)
    assert max(error for _, error in found) < 2e-4
    # A pause is silence, and not an underrun.
    assert np.mean(samples == 0) > 0.5
    assert events == {"burst ack": len(frames)}
    until(lambda: usrp.tx_gain_db == 0.0)


def test_a_capture_through_gnuradio(usrp, make_frames, tmp_path):
    period = modulate_stream(make_frames(LAYOUT), LAYOUT, 0)
    usrp.air.transmit("probe", period, 0, RATE_SPS, CENTER_HZ, -6.0, cyclic=True)
    options = {
        "source": f"uhd:{usrp.args},rx_gain_db=6",
        "rate-sps": RATE_SPS,
        "samples": 200_000,
        "sink": f"file:{tmp_path / 'capture.cf32'}",
    }
    flowgraph = Flowgraph("flowgraphs.receive", options, tmp_path)
    try:
        flowgraph.wait(READY_S)
    finally:
        flowgraph.stop()
    samples = np.fromfile(tmp_path / "capture.cf32", np.complex64)
    assert samples.size == 200_000
    assert place(samples, period)[1] < 2e-4
    assert np.abs(samples[period.size :] - samples[: -period.size]).max() < 1e-4


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("type=usrp2,addr=127.0.42.99", "no device found"),
        ("ARGS,tx_gain_db=50", r"gain = 50 is outside 0\.\.31\.5"),
        ("ARGS,tx_antenna=RX2", "antenna 'RX2' is not on this USRP"),
        ("ARGS,wire=sc12", "use wire=sc16"),
        ("ARGS,tx_gian_db=5", "did you mean 'tx_gain_db'"),
        ("ARGS,rx=2", "GNU Radio drives one channel of a USRP; leave out rx=2"),
    ],
)
def test_what_is_wrong_is_one_line(usrp, make_frames, tmp_path, address, words):
    (tmp_path / "frames").write_bytes(frame_pdu(make_frames(LAYOUT)[0], LAYOUT))
    sink = f"uhd:{address.replace('ARGS', usrp.args)}"
    options = {"layout": "air", "input": f"file:{tmp_path / 'frames'}", "sink": sink}
    flowgraph = Flowgraph("flowgraphs.transmit", options, tmp_path, endless=True)
    try:
        with pytest.raises(FlowgraphError, match=words):
            flowgraph.wait_ready(READY_S)
        assert flowgraph.returncode() == 2
    finally:
        flowgraph.stop()
    assert usrp.tx_gain_db == 0.0


def test_one_program_at_a_time(usrp, tmp_path):
    options = {"source": f"uhd:{usrp.args}", "samples": 1000, "sink": f"file:{tmp_path / 'capture.cf32'}"}
    with claim_usrp(usrp.args):
        flowgraph = Flowgraph("flowgraphs.receive", options, tmp_path)
        try:
            with pytest.raises(FlowgraphError, match="is busy"):
                flowgraph.wait(READY_S)
        finally:
            flowgraph.stop()
