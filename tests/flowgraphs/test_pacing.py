"""A transmitter that stays on the air between frames, and a channel that tells its taps while it runs."""

import time

import numpy as np
import pytest

from flowgraphs.link import PduSender
from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Supervisor
from sdr.air.chain import parse_impairments
from sdr.air.impairments import exponential_pdp
from sdr.air.stream import stream_stages
from sdr.errors import FlowgraphError
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from tests.flowgraphs.waiting import until

LAYOUT = load_layout("paper")


def test_frames_come_whole_with_zeros_between_them_at_the_rate_of_the_clock(make_frames, tmp_path):
    """Frames that come late, and back to back; the last one leaves without another one that would push it out."""
    frames = make_frames(LAYOUT)
    sent = [modulate_stream([frame], LAYOUT, 0)[: LAYOUT.frame_samples] for frame in frames]
    options = {"layout": "paper", "sink": f"zmq:ipc://{tmp_path}/s", "between-frames": "zeros"}
    with PduSender() as sender, Supervisor(tmp_path / "flowgraphs") as supervisor:
        supervisor.start("flowgraphs.transmit", {**options, "input": f"zmq:{sender.address}"}, endless=True)
        with open_radio(f"zmq:rx=ipc://{tmp_path}/s", layout=LAYOUT) as radio:
            heard = [radio.receive(10_000).samples]
            began = time.monotonic()
            for part in (frames[:1], frames[1:3], frames[3:]):
                sender.send([frame_pdu(frame, LAYOUT) for frame in part])
                heard.append(radio.receive(150_000).samples)
            # A busy machine hands frames over late, while zeros go out by the clock.
            while sum(map(np.count_nonzero, heard)) < sum(map(np.count_nonzero, sent)) and len(heard) < 200:
                heard.append(radio.receive(50_000).samples)
            seconds = time.monotonic() - began
    samples = np.concatenate(heard)
    place = 0
    for each in sent:
        place += int(np.flatnonzero(samples[place:])[0])
        first = int(np.flatnonzero(each)[0])
        np.testing.assert_allclose(samples[place - first : place - first + each.size], each, atol=1e-6)
        place += each.size - first
    assert not samples[place:].any()
    # Not faster than the clock, but for what may be late; how much slower is the machine's business.
    assert seconds > (samples.size - 10_000 - 250_000) / LAYOUT.rate_sps - 0.25


def test_the_channel_tells_the_taps_that_it_draws(tmp_path):
    settings = "taps=4,decay=2,block_samples=20000,seed=5"
    with PduSender() as sender, Supervisor(tmp_path / "flowgraphs") as supervisor:
        options = {"layout": "paper", "sink": f"zmq:ipc://{tmp_path}/s", "between-frames": "zeros"}
        supervisor.start("flowgraphs.transmit", {**options, "input": f"zmq:{sender.address}"}, endless=True)
        options = {"layout": "paper", "source": f"zmq:ipc://{tmp_path}/s", "sink": f"zmq:ipc://{tmp_path}/c"}
        options |= {"impairments": settings, "announce-taps": "yes"}
        channel = supervisor.start("flowgraphs.channel", options, endless=True)
        with open_radio(f"zmq:rx=ipc://{tmp_path}/c", layout=LAYOUT) as radio:
            radio.receive(100_000)
            until(lambda: channel.last_said("TAPS") is not None)
            said = channel.last_said("TAPS")
    chain, seed = parse_impairments(settings, LAYOUT)
    fading = stream_stages(chain, LAYOUT.rate_sps, seed)["fading"]
    fading(np.zeros(400_000, np.complex64))
    drawn = fading.channel.taps  # type: ignore[attr-defined]
    assert len(said[0]) == exponential_pdp(4, 2.0).size
    assert any(np.allclose(np.array(said[0]) + 1j * np.array(said[1]), taps, atol=1e-6) for taps in drawn)
    assert channel.last_said("NOTHING") is None


def test_zeros_between_frames_are_for_frames_without_an_end(tmp_path):
    (tmp_path / "frames").write_bytes(b"")
    options = {"layout": "paper", "input": f"file:{tmp_path / 'frames'}", "sink": f"file:{tmp_path / 'out'}"}
    with Supervisor(tmp_path / "flowgraphs") as supervisor, pytest.raises(FlowgraphError, match="between-frames"):
        supervisor.start("flowgraphs.transmit", {**options, "between-frames": "zeros"})
