"""Radios and sockets say the truth: nobody there, a stranger there, and captures that break off."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zmq

from lab.experiments.record_radio import RecordSettings, record_file
from sdr.emulated.pluto import EmulatedPluto
from sdr.errors import RadioError
from sdr.radios.base import BrokenCapture
from sdr.radios.open import check_uri, open_radio
from sdr.radios.uhd_link import last_words
from sdr.recordings.reading import read_recording
from sdr.settings import RadioSettings

SAMPLES = np.full(1000, 0.5, np.complex64)


@pytest.fixture
def peer():
    """Make a bound socket of any kind, and say where it is."""
    context = zmq.Context()

    def make(kind):
        socket = context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        return socket, f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"

    yield make
    context.destroy(linger=0)


@pytest.mark.parametrize("bind", ["", ",tx_bind=yes"])
def test_transmitting_to_nobody_is_an_error(bind):
    began = time.monotonic()
    uri = f"zmq:tx=tcp://127.0.0.1:{'*' if bind else 1},timeout_s=0.3{bind}"
    with open_radio(uri) as radio, pytest.raises(RadioError, match="took 0 of 1000 samples"):
        radio.transmit(SAMPLES)
    assert 0.25 < time.monotonic() - began < 10


def test_a_peer_that_listens_gets_everything(peer):
    pull, endpoint = peer(zmq.PULL)
    with open_radio(f"zmq:tx={endpoint},timeout_s=20") as radio:
        radio.transmit(SAMPLES)
    assert np.array_equal(np.frombuffer(pull.recv(), np.complex64), SAMPLES)


@pytest.mark.parametrize(("kind", "own", "name"), [(zmq.PUB, "rx", "PUB"), (zmq.SUB, "tx", "SUB")])
def test_a_socket_that_drops_samples_is_named(peer, kind, own, name):
    _, endpoint = peer(kind)
    with open_radio(f"zmq:{own}={endpoint},timeout_s=0.5") as radio, pytest.raises(RadioError, match=f"is a {name}"):
        radio.receive(10) if own == "rx" else radio.transmit(SAMPLES)


def pushing(push, message, stop):
    while not stop.is_set():
        with contextlib.suppress(zmq.Again):  # nobody takes any more
            push.send_multipart(message, zmq.NOBLOCK)
        time.sleep(0.01)


@pytest.mark.parametrize("message", [[b""], [b"", b""], [b"topic", SAMPLES.tobytes()], [b"1234567"]])
def test_messages_without_samples_are_bounded_and_those_in_parts_refused(peer, message):
    push, endpoint = peer(zmq.PUSH)
    stop = threading.Event()
    thread = threading.Thread(target=pushing, args=(push, message, stop))
    thread.start()
    began = time.monotonic()
    try:
        with open_radio(f"zmq:rx={endpoint},timeout_s=1") as radio, pytest.raises(RadioError):
            radio.receive(100)
        assert time.monotonic() - began < 15
    finally:
        stop.set()
        thread.join()


EMPTY = ("pluto:", "pluto:ip:", "pluto:ip: ", "pluto:ip:,timeout_s=1", "zmq:rx=", "zmq:", "file:")
EMPTY += ("uhd:addr=", "uhd:type=", "uhd:serial= ", "uhd:type=b200;serial=1")


@pytest.mark.parametrize("uri", EMPTY)
def test_empty_addresses_are_refused_before_anything_is_opened(uri):
    with pytest.raises(RadioError):
        check_uri(uri)


def test_the_exception_is_what_is_shown_of_a_traceback():
    log = 'Traceback (most recent call last):\n  File "multi_usrp.py", line 30, in __init__\n    x\n'
    log += 'RuntimeError: LookupError: no devices\n  File "other.py", line 3\n'
    assert last_words(log) == "RuntimeError: LookupError: no devices"
    assert last_words("[INFO] a\nlast\n") == "last" and last_words("") == "it said nothing"


# Captures that break off


def test_what_had_arrived_over_zmq_is_kept_and_marked(peer, tmp_path):
    push, endpoint = peer(zmq.PUSH)
    sender = threading.Thread(target=push.send, args=(SAMPLES.tobytes(),))  # waits until somebody is there
    sender.start()
    settings = RecordSettings(f"zmq:rx={endpoint},timeout_s=5", seconds=1.0)
    with pytest.raises(RadioError, match="marked partial"):
        record_file(settings, tmp_path / "x")
    sender.join()
    assert np.array_equal(read_recording(tmp_path / "x").samples, SAMPLES)
    assert ':partial": true' in (tmp_path / "x.sigmf-meta").read_text()


def test_what_had_arrived_of_a_pluto_is_kept(monkeypatch):
    monkeypatch.setattr("sdr.radios.pluto.BURST_SAMPLES", 1 << 14)
    monkeypatch.setattr("sdr.radios.pluto.BLOCK_SAMPLES", 1 << 14)
    with EmulatedPluto() as device:
        settings = RadioSettings(rate_sps=1e6, tx_gain_db=-10.0, rx_gain_db=10.0)
        with open_radio(f"pluto:{device.uri},timeout_s=2", settings) as radio:
            blocks, count = type(radio)._blocks, []

            def breaking(self, block_samples):
                for block in blocks(self, block_samples):
                    count.append(block.size)
                    if len(count) == 3:
                        raise RadioError("the connection broke")
                    yield block

            monkeypatch.setattr(type(radio), "_blocks", breaking)
            with pytest.raises(BrokenCapture) as broken:
                radio.receive(1 << 20)
    assert broken.value.recording.num_samples == 2 << 14 and broken.value.recording.partial


HUSHED = """
import ctypes, os, sys
from sdr.radios.libiio import HUSH
library = ctypes.CDLL(None)
def say(text):
    library.fprintf(ctypes.c_void_p.in_dll(library, "stderr"), text)
    library.fflush(None)
say(b"before ")
HUSH.begin(); HUSH.begin()
say(b"ERROR: READ LINE: -32 ")
HUSH.end()
say(b"ERROR: READ LINE: -32 ")
print("ours", end=" ", file=sys.stderr, flush=True)
HUSH.end()
say(b"after")
"""


def test_what_a_c_library_prints_does_not_surround_our_line():
    told = subprocess.run([sys.executable, "-c", HUSHED], capture_output=True, text=True, cwd=os.getcwd())
    assert told.stderr == "before ours after"
