"""The flowgraph processes against the NumPy implementations of `sdr`."""

import contextlib
import math
import os
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Flowgraph
from sdr.air.chain import parse_impairments
from sdr.air.impairments import apply_block_fading, apply_cfo, exponential_pdp, noise_var_for_csnr
from sdr.air.stream import stream_stages
from sdr.errors import FlowgraphError
from sdr.layout import load_layout, save_layout
from sdr.modem import modulate_stream
from tests.flowgraphs.waiting import until

TIMEOUT_S = 60.0


@contextlib.contextmanager
def started(module, options, workdir):
    flowgraph = Flowgraph(module, options, workdir)
    try:
        yield flowgraph
    finally:
        flowgraph.stop()


def complete(module, options, workdir):
    """Run a flowgraph that ends by itself."""
    with started(module, options, workdir) as flowgraph:
        flowgraph.wait(TIMEOUT_S)


def write_pdus(path, frames, layout):
    path.write_bytes(b"".join(frame_pdu(frame, layout) for frame in frames))
    return f"file:{path}"


def test_framer_equals_the_reference_modem(layout, make_frames, tmp_path):
    frames = make_frames(layout)
    save_layout(layout, tmp_path / "layout.json")
    sent = tmp_path / "sent.cf32"
    complete(
        "flowgraphs.transmit",
        {
            "layout": tmp_path / "layout.json",
            "input": write_pdus(tmp_path / "frames", frames, layout),
            "sink": f"file:{sent}",
            "leading-gap-samples": 123,
            "trailing-samples": 45,
        },
        tmp_path,
    )
    samples = np.fromfile(sent, np.complex64)
    expected = np.concatenate([modulate_stream(frames, layout, 123), np.zeros(45, np.complex64)])
    assert samples.shape == expected.shape
    assert np.max(np.abs(samples - expected)) < 1e-5
    if layout.name in ("clipped", "full-scale"):
        assert np.mean(np.abs(expected) > 0.999 * layout.magnitude_limit) > 0.001  # the limiter had work to do
        assert np.max(np.abs(samples)) < layout.magnitude_limit * (1 + 1e-6)
    assert not list(tmp_path.glob(".*"))


def test_channel_equals_the_reference_impairments(tmp_path):
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((40_001, 2)).astype(np.float32).view(np.complex64)[:, 0]
    samples.tofile(tmp_path / "in.cf32")
    complete(
        "flowgraphs.channel",
        {
            "layout": "paper",
            "source": f"file:{tmp_path / 'in.cf32'}",
            "sink": f"file:{tmp_path / 'out.cf32'}",
            "impairments": "taps=5,decay=2,block_samples=7001,cfo_hz=-1234.5,seed=9",
            "truth": tmp_path / "truth.npz",
        },
        tmp_path,
    )
    faded, taps = apply_block_fading(samples, 7001, exponential_pdp(5, 2.0), np.random.default_rng(9))
    expected = apply_cfo(faded[: samples.size], -1234.5, 1e6)
    out = np.fromfile(tmp_path / "out.cf32", np.complex64)
    assert out.shape == samples.shape
    np.testing.assert_allclose(out, expected, atol=2e-4 * np.max(np.abs(expected)))
    with np.load(tmp_path / "truth.npz") as truth:
        blocks = math.ceil(samples.size / 7001)
        np.testing.assert_array_equal(truth["taps"][:blocks], taps[:blocks])
        assert truth["noise_var"] == 0.0
        assert truth["cfo_hz"] == -1234.5


def through_channel(samples, impairments, workdir):
    workdir.mkdir(exist_ok=True)
    samples.tofile(workdir / "in.cf32")
    out = workdir / "out.cf32"
    complete(
        "flowgraphs.channel",
        {"layout": "air", "source": f"file:{workdir / 'in.cf32'}", "sink": f"file:{out}", "impairments": impairments},
        workdir,
    )
    return np.fromfile(out, np.complex64)


def streamed(samples, impairments):
    chain, seed = parse_impairments(impairments, load_layout("air"))
    for stage in stream_stages(chain, 1e6, seed).values():
        samples = stage(samples)
    return samples


@pytest.mark.parametrize(
    "impairments",
    [
        "pa_saturation=0.5,lo_leakage=0.01,delay_samples=3,pdp=1:0:0.2,cfo_hz=777,tone=0.05,tone_hz=9e4,"
        "image_rejection_db=25,gain_db=-3,dc=0.02,gain_step_db=2,gain_step_sample=9999,seed=3",
        "delay_samples=20.5,tdl=B,delay_spread_s=2e-7,doppler_hz=300,offset_ppm=25,center_hz=1e9,gap_samples=9,"
        "num_gaps=200,seed=4",
    ],
    ids=["blocks", "stages"],
)
def test_the_impairments_are_those_of_a_stream_in_numpy(impairments, tmp_path):
    """GNU Radio's own blocks in one case, what runs in Python in the other."""
    rng = np.random.default_rng(5)
    samples = (0.2 * rng.standard_normal((60_003, 2))).astype(np.float32).view(np.complex64)[:, 0]
    out = through_channel(samples, impairments, tmp_path)
    expected = streamed(np.concatenate([samples, np.zeros(2500, np.complex64)]), impairments)[: out.size]
    assert out.size == samples.size
    np.testing.assert_allclose(out, expected, atol=2e-4)


def test_the_converter_rounds_and_saturates(tmp_path):
    samples = np.linspace(-1.5, 1.5, 30_001, dtype=np.float32) * np.complex64(1 + 0.5j)
    out = through_channel(samples, "adc_bits=5", tmp_path)
    expected = streamed(samples, "adc_bits=5")
    assert out.real.max() == 1 - 1 / 16 and out.real.min() == -1
    assert np.mean(out != expected) < 1e-3  # ties may fall to either side
    assert np.abs(out - expected).max() <= math.hypot(1 / 16, 1 / 16) + 1e-6


def test_phase_noise_and_bursts_are_what_they_are_called(tmp_path):
    ones = np.ones(400_000, np.complex64)
    phase = np.angle(through_channel(ones, "phase_noise_deg=2,phase_noise_hz=5000,seed=1", tmp_path / "phase"))
    assert np.degrees(phase.std()) == pytest.approx(2.0, rel=0.06)
    for lag in (1, 20):
        measured = np.mean(phase[lag:] * phase[:-lag]) / phase.var()
        assert measured == pytest.approx(math.exp(-2 * math.pi * 5e-3 * lag), abs=0.04)
    # Where bursts begin depends on GNU Radio's buffers: enough samples that a share of 20 % is six standard deviations.
    struck = through_channel(
        np.zeros(2_000_000, np.complex64), "burst_power=4,burst_duty=0.05,seed=1", tmp_path / "bursts"
    )
    assert np.mean(struck != 0) == pytest.approx(1 - math.exp(-0.05), rel=0.2)
    assert np.mean(np.abs(struck) ** 2) == pytest.approx(0.2, rel=0.2)


def test_noise_has_the_power_of_the_csnr_and_is_white_and_seeded(tmp_path):
    num_samples = 200_003
    np.zeros(num_samples, np.complex64).tofile(tmp_path / "in.cf32")
    runs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = tmp_path / f"{name}.cf32"
        complete(
            "flowgraphs.channel",
            {
                "layout": "air",
                "source": f"file:{tmp_path / 'in.cf32'}",
                "sink": f"file:{out}",
                "impairments": f"csnr_db=7,seed={seed}",
            },
            tmp_path,
        )
        runs[name] = np.fromfile(out, np.complex64).astype(np.complex128)
    noise = runs["a"]
    noise_var = noise_var_for_csnr(load_layout("air"), 7.0)
    sigma = 1 / math.sqrt(num_samples)
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(noise_var, rel=5 * sigma)
    assert abs(np.mean(noise**2)) < 5 * sigma * noise_var  # circular
    assert abs(np.mean(noise[1:] * noise[:-1].conj())) < 5 * sigma * noise_var
    assert abs(np.mean(noise)) < 5 * sigma * math.sqrt(noise_var)
    np.testing.assert_array_equal(runs["a"], runs["b"])
    assert np.mean(np.abs(runs["a"] - runs["c"]) ** 2) > noise_var


def test_samples_over_zmq_lose_nothing(tmp_path):
    rng = np.random.default_rng(4)
    samples = rng.standard_normal((1_500_003, 2)).astype(np.float32).view(np.complex64)[:, 0]
    samples.tofile(tmp_path / "in.cf32")
    with started(
        "flowgraphs.channel",
        {"layout": "paper", "source": f"file:{tmp_path / 'in.cf32'}", "sink": "zmq:tcp://127.0.0.1:*"},
        tmp_path,
    ) as channel:
        sink = channel.wait_ready()["sink"]
        complete(
            "flowgraphs.receive",
            {"source": f"zmq:{sink}", "sink": f"file:{tmp_path / 'out.cf32'}", "samples": samples.size},
            tmp_path,
        )
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out.cf32", np.complex64), samples)


def test_receive_stopped_early_leaves_no_file(tmp_path):
    with started(
        "flowgraphs.receive",
        {"source": "zmq:tcp://127.0.0.1:9", "sink": f"file:{tmp_path / 'out.cf32'}", "samples": 100},
        tmp_path,
    ) as receive:
        receive.wait_ready()
        assert receive.stop() == 1
    assert "stopped at 0 of 100 samples" in receive.stderr_tail()[-1]
    assert not list(tmp_path.glob("out.cf32*"))


def test_a_message_of_broken_samples_ends_the_process(tmp_path):
    import zmq

    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        port = push.bind_to_random_port("tcp://127.0.0.1")
        with started(
            "flowgraphs.receive",
            {"source": f"zmq:tcp://127.0.0.1:{port}", "sink": f"file:{tmp_path / 'out.cf32'}", "samples": 100},
            tmp_path,
        ) as receive:
            receive.wait_ready()
            push.send(b"123456789")
            with pytest.raises(FlowgraphError, match=r"'receive' died .*SIGABRT.*multiple of 8 bytes"):
                receive.wait(TIMEOUT_S)
    assert not (tmp_path / "out.cf32").exists()


def test_a_frame_of_another_layout_ends_the_transmitter(make_frames, tmp_path):
    import zmq

    air = load_layout("air")
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        port = push.bind_to_random_port("tcp://127.0.0.1")
        with started(
            "flowgraphs.transmit",
            {"layout": "paper", "input": f"zmq:tcp://127.0.0.1:{port}", "sink": "zmq:tcp://127.0.0.1:*"},
            tmp_path,
        ) as transmit:
            transmit.wait_ready()
            push.send(frame_pdu(make_frames(air)[0], air))
            with pytest.raises(FlowgraphError, match=r"exit status 2.*start both ends with the same layout"):
                transmit.wait(TIMEOUT_S)


def _bad_options():
    transmit, channel, receive = "flowgraphs.transmit", "flowgraphs.channel", "flowgraphs.receive"
    source = {"source": "zmq:tcp://127.0.0.1:9"}
    sink = {"sink": "file:{tmp}/out.cf32"}
    five = sink | {"samples": 5}
    paper = {"layout": "paper"}
    through = paper | source | sink
    return {
        "unknown layout": (channel, through | {"layout": "papper"}, "did you mean 'paper'"),
        "missing frames": (transmit, paper | sink | {"input": "file:{tmp}/none"}, "check the path"),
        "no frames": (transmit, paper | sink | {"input": "file:{tmp}/empty"}, "0 frames"),
        "too many frames": (transmit, paper | sink | {"input": source["source"], "frames": 10**6}, "send fewer"),
        "not frames": (transmit, paper | sink | {"input": "file:{tmp}/odd"}, "PDU"),
        "bad frames address": (transmit, paper | sink | {"input": "zmq:tcp://nowhere"}, "can't connect"),
        "no such end": (receive, five | {"source": "udp:1"}, "file:PATH or a radio (pluto, uhd), found 'udp:1'"),
        "odd file": (receive, five | {"source": "file:{tmp}/odd"}, "truncated"),
        "short file": (receive, five | {"source": "file:{tmp}/empty"}, "0 samples, needed 5"),
        "no samples": (receive, source | sink | {"samples": 0}, "at least 1"),
        "bad address": (receive, five | {"source": "zmq:tcp://nowhere"}, "can't connect"),
        "no folder": (receive, source | five | {"sink": "file:{tmp}/none/out"}, "folder"),
        "open to all": (receive, source | five | {"sink": "zmq:tcp://0.0.0.0:*"}, "--allow-remote"),
        "any interface": (receive, source | five | {"sink": "zmq:tcp://*:*"}, "--allow-remote"),
        "bad decay": (channel, through | {"impairments": "taps=8,decay=0"}, "decay"),
        "unknown impairment": (channel, through | {"impairments": "dopler_hz=5"}, "did you mean 'doppler_hz'"),
        "contradicting impairments": (channel, through | {"impairments": "tdl=A,taps=3"}, "exclude another"),
        "bad truth": (channel, through | {"truth": "t.txt"}, ".npz"),
        "nan csnr": (channel, through | {"impairments": "csnr_db=nan"}, "must be a number"),
    }


@pytest.mark.parametrize("case", sorted(_bad_options()))
def test_a_users_mistake_is_one_line_and_status_2(case, tmp_path):
    module, options, expected = _bad_options()[case]
    (tmp_path / "empty").touch()
    (tmp_path / "odd").write_bytes(b"12345")
    options = {name: str(value).format(tmp=tmp_path) for name, value in options.items()}
    flowgraph = Flowgraph(module, options, tmp_path)
    with pytest.raises(FlowgraphError, match="exit status 2"):
        flowgraph.wait(TIMEOUT_S)
    flowgraph.stop()
    (line,) = (tmp_path / f"{flowgraph.name}.stderr.txt").read_text().splitlines()
    assert line.startswith("error: ") and expected in line
    assert not list(tmp_path.glob("out*"))


def test_a_taken_port_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        options = {"source": "zmq:tcp://127.0.0.1:9", "sink": f"zmq:tcp://127.0.0.1:{port}", "samples": 5}
        with (
            started("flowgraphs.receive", options, tmp_path) as receive,
            pytest.raises(FlowgraphError, match=f"{port}: Address already in use"),
        ):
            receive.wait_ready()


def test_sigterm_ends_an_idle_flowgraph_well(tmp_path):
    with started(
        "flowgraphs.transmit",
        {"layout": "paper", "input": "zmq:tcp://127.0.0.1:9", "sink": "zmq:tcp://127.0.0.1:*"},
        tmp_path,
    ) as transmit:
        transmit.wait_ready()
        os.kill(transmit.pid, signal.SIGTERM)
        until(lambda: not transmit.alive(), TIMEOUT_S)
        assert transmit.returncode() == 0


_ORPHAN_MAKER = """
import sys, time
from pathlib import Path
from flowgraphs.supervisor import Flowgraph
options = {"source": "zmq:tcp://127.0.0.1:9", "sink": f"file:{sys.argv[1]}/out.cf32", "samples": 5}
flowgraph = Flowgraph("flowgraphs.receive", options, Path(sys.argv[1]), python=sys.argv[2])
print(flowgraph.wait_ready()["pid"], flush=True)
time.sleep(100)
"""


def test_children_die_with_their_parent(tmp_path):
    import sys

    from flowgraphs.supervisor import find_gnuradio_python

    parent = subprocess.Popen(
        [sys.executable, "-c", _ORPHAN_MAKER, str(tmp_path), find_gnuradio_python().python],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()

    def gone():
        try:
            # An orphan that ended may stay in the table as a zombie where nobody reaps it.
            return "State:\tZ" in Path(f"/proc/{child}/status").read_text()
        except FileNotFoundError:
            return True

    until(gone, TIMEOUT_S)


def test_files_in_the_current_folder_shadow_nothing(tmp_path, monkeypatch):
    for name in ("numpy", "sdr", "zmq", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    np.ones(10, np.complex64).tofile(tmp_path / "in.cf32")
    monkeypatch.chdir(tmp_path)
    complete("flowgraphs.receive", {"source": "file:in.cf32", "sink": "file:out.cf32", "samples": 10}, tmp_path)
    np.testing.assert_array_equal(np.fromfile("out.cf32", np.complex64), np.ones(10, np.complex64))
