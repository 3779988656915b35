"""A radio served over ZMQ: one client at a time, silent when it is gone."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from sdr.emulated.pluto import EmulatedPluto
from sdr.errors import RadioError
from sdr.layout import load_layout
from sdr.radios.base import Radio
from sdr.radios.open import open_radio
from sdr.radios.pluto import MUTED_DB
from sdr.radios.served import RadioServer
from sdr.recordings.recording import Recording, write_recording
from sdr.settings import RadioSettings

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def served(radio: Radio, **options) -> Iterator[RadioServer]:
    stop = threading.Event()
    with RadioServer(radio, "tcp://127.0.0.1:0", **options) as server:
        thread = threading.Thread(target=server.run, args=(stop,))
        thread.start()
        try:
            yield server
        finally:
            stop.set()
            thread.join(10)
            assert not thread.is_alive()


def wait_until(condition, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def pluto() -> Iterator[EmulatedPluto]:
    with EmulatedPluto() as device:
        yield device


@pytest.fixture
def radio(pluto) -> Iterator[Radio]:
    with open_radio(f"pluto:{pluto.uri}") as opened:
        yield opened


def test_a_client_transmits_and_hears_it(pluto, radio):
    burst = np.full(1000, 0.5, np.complex64)
    with served(radio, cyclic=True) as server:
        with open_radio(server.client_uri) as client:
            client.transmit(burst)
            wait_until(lambda: pluto.transmitting)
            samples = client.receive(2_500_000).samples
        np.testing.assert_allclose(samples[-1000:], 0.25, atol=1e-3)
        wait_until(lambda: not server.busy)
        wait_until(lambda: pluto.tx_gain_db == MUTED_DB)
        # The driver is done once it has asked for the buffer's end; the radio may still be about to.
        wait_until(lambda: not pluto.transmitting)


def test_a_second_client_is_turned_away_and_the_next_is_served(radio):
    with served(radio) as server:
        with open_radio(server.client_uri) as first:
            assert first.receive(1000).num_samples == 1000
            with (
                open_radio(f"{server.client_uri},timeout_s=0.5") as second,
                pytest.raises(RadioError, match="gave 0 of 1000"),
            ):
                second.receive(1000)
            assert first.receive(200_000).num_samples == 200_000
        wait_until(lambda: not server.busy)
        with open_radio(server.client_uri) as third:
            assert third.receive(1000).num_samples == 1000


def test_a_client_that_is_killed_leaves_the_radio_muted(pluto, radio):
    code = (
        "import sys, time, numpy as np\nfrom sdr.radios.open import open_radio\n"
        "with open_radio(sys.argv[1]) as radio:\n"
        "    radio.transmit(np.full(1000, 0.5, np.complex64))\n    time.sleep(60)\n"
    )
    with served(radio, cyclic=True) as server:
        client = subprocess.Popen([sys.executable, "-c", code, server.client_uri], cwd=ROOT)
        try:
            wait_until(lambda: pluto.transmitting, 20)
        finally:
            client.kill()
            client.wait()
        wait_until(lambda: not pluto.transmitting and pluto.tx_gain_db == MUTED_DB)


def test_a_simulated_radio_answers_each_burst(tmp_path):
    layout = load_layout("paper")
    burst = np.full(5000, 0.1, np.complex64)
    with (
        open_radio("sim:csnr_db=40", layout=layout) as sim,
        served(sim) as server,
        open_radio(server.client_uri) as client,
    ):
        for _ in range(2):
            client.transmit(burst)
            assert abs(np.mean(client.receive(5000).samples) - 0.1) < 1e-3


def test_two_antennas_are_served_interleaved(tmp_path):
    burst = np.full(5000, 0.1, np.complex64)
    with open_radio("sim:rx=2,taps=4,seed=2") as sim:
        sim.transmit(burst)
        heard = np.stack(sim.receive(5000).antennas)
    with open_radio("sim:rx=2,taps=4,seed=2") as sim, served(sim) as server, open_radio(server.client_uri) as client:
        assert server.client_uri.endswith(",antennas=2")
        client.transmit(burst)
        np.testing.assert_array_equal(np.stack(client.receive(5000).antennas), heard)
    with EmulatedPluto(rx=2) as device, open_radio(f"pluto:{device.uri},rx=2") as radio, served(radio) as server:
        with open_radio(server.client_uri) as client:
            assert [samples.size for samples in client.receive(100_000).antennas] == [100_000] * 2
        wait_until(lambda: not server.busy)


def test_a_file_is_sent_once_to_the_end(tmp_path):
    samples = np.linspace(0, 1, 100_000).astype(np.complex64)
    write_recording(Recording(samples, RadioSettings()), tmp_path / "tx")
    with open_radio(f"file:{tmp_path / 'tx'}") as file, served(file) as server, open_radio(server.client_uri) as client:
        np.testing.assert_array_equal(client.receive(100_000).samples, samples)


def test_what_is_too_loud_is_not_transmitted(pluto, radio):
    news: list[str] = []
    with served(radio, log=news.append) as server:
        import zmq

        with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
            socket.connect(server.client_uri.partition("tx=")[2])
            socket.send(b"odd")
            socket.send(np.full(10, 3.0, np.complex64).tobytes())
            wait_until(lambda: any("magnitude" in line for line in news))
        assert any("dropped" in line for line in news) and pluto.tx_gain_db == MUTED_DB


@pytest.mark.parametrize(
    ("bind", "words"),
    [
        ("tcp://0.0.0.0:5555", "anywhere"),
        ("tcp://127.0.0.1", "needs a host and a port"),
        ("ipc:///tmp/x", "tcp://HOST:PORT"),
        ("tcp://127.0.0.1:65535", "0..65534"),
    ],
)
def test_where_it_does_not_listen(radio, bind, words):
    with pytest.raises(RadioError, match=words):
        RadioServer(radio, bind)


def test_a_port_that_is_taken(radio):
    with served(radio) as server:
        taken = server.client_uri.partition("rx=")[2].partition(",")[0]
        with pytest.raises(RadioError, match="choose another port"):
            RadioServer(radio, taken)


def test_what_can_not_repeat(tmp_path):
    with open_radio(f"file:{tmp_path / 'x'}") as file, pytest.raises(RadioError, match="can't repeat"):
        RadioServer(file, "tcp://127.0.0.1:0", cyclic=True)
