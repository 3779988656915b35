"""The graphs as .grc files: each compiles, and the compiled ones are the same link."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import find_gnuradio_python
from sdr.layout import load_layout
from sdr.modem import modulate_stream

ROOT = Path(__file__).parents[2]
GRC = ROOT / "flowgraphs" / "grc"
GRAPHS = sorted(path.stem for path in GRC.glob("*.grc"))


def environment():
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")}
    return clean | {"PYTHONPATH": str(ROOT), "GRC_BLOCKS_PATH": str(GRC)}


def compile_graph(name, folder):
    beside = Path(find_gnuradio_python().python).parent / "grcc"
    grcc = str(beside) if beside.exists() else shutil.which("grcc")
    assert grcc, "grcc belongs to GNU Radio, but is neither beside its interpreter nor on the path"
    result = subprocess.run(
        [grcc, "-o", str(folder), str(GRC / f"{name}.grc")],
        capture_output=True,
        text=True,
        timeout=100,
        env=environment(),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / f"ota_{name}.py"


def test_there_are_graphs_and_blocks():
    assert {"transmit", "channel", "receive"} <= set(GRAPHS)
    assert len(list(GRC.glob("*.block.yml"))) == 2


@pytest.mark.parametrize("name", GRAPHS)
def test_graph_compiles(name, tmp_path):
    script = compile_graph(name, tmp_path)
    compile(script.read_text(), str(script), "exec")


def test_a_broken_graph_does_not_compile(tmp_path):
    broken = (GRC / "transmit.grc").read_text().replace("id: flowgraphs_framer", "id: no_such_block")
    (tmp_path / "broken.grc").write_text(broken)
    with pytest.raises(AssertionError):
        compile_graph(tmp_path / "broken", tmp_path)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def test_compiled_graphs_are_the_link(make_frames, tmp_path):
    import zmq

    layout = load_layout("air")
    frames = make_frames(layout)
    expected = modulate_stream(frames, layout, 0)
    sent_port, received_port = free_ports(2)
    out = tmp_path / "received.cf32"
    processes = []
    python = find_gnuradio_python().python
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.setsockopt(zmq.LINGER, 0)
        port = push.bind_to_random_port("tcp://127.0.0.1")
        graphs = {
            "transmit": {
                "layout": "air",
                "frames": f"tcp://127.0.0.1:{port}",
                "sink": f"tcp://127.0.0.1:{sent_port}",
            },
            # One tap, never redrawn, and noise 200 dB down: only a complex factor is left of the channel.
            "channel": {
                "layout": "air",
                "source": f"tcp://127.0.0.1:{sent_port}",
                "sink": f"tcp://127.0.0.1:{received_port}",
                "csnr-db": 200,
                "cfo-hz": 0,
                "taps": 1,
                "redraw-samples": 100_000_000,
            },
            "receive": {"source": f"tcp://127.0.0.1:{received_port}", "path": out, "num-samples": expected.size},
        }
        try:
            for name, options in graphs.items():
                script = compile_graph(name, tmp_path)
                with (tmp_path / f"{name}.txt").open("wb") as log:
                    processes.append(
                        subprocess.Popen(
                            [python, str(script), *(f"--{key}={value}" for key, value in options.items())],
                            stdin=subprocess.DEVNULL,
                            stdout=log,
                            stderr=log,
                            env=environment(),
                        )
                    )
            for frame in frames:
                assert push.poll(30_000, zmq.POLLOUT), "nobody takes the frames"
                push.send(frame_pdu(frame, layout))
            deadline = time.monotonic() + 60
            while not out.exists() or out.stat().st_size < 8 * expected.size:
                assert all(process.poll() is None for process in processes), "a graph died"
                assert time.monotonic() < deadline, "samples are missing"
                time.sleep(0.05)
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(5)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    samples = np.fromfile(out, np.complex64)
    factor = np.vdot(expected, samples) / np.vdot(expected, expected)
    assert abs(factor) > 1e-3
    assert np.max(np.abs(samples - factor * expected)) < 1e-5
