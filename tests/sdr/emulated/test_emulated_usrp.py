"""The emulated USRP against clients that nobody patched: UHD's tools and its Python API."""

import json
import shutil
import socket
import struct
import subprocess
import textwrap

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdr.emulated.air import Air
from sdr.emulated.n210_board import N210Hardware
from sdr.emulated.n210_wire import from_wire, to_wire
from sdr.emulated.usrp import EmulatedUsrp, joint_args
from sdr.errors import RadioError
from tests.sdr.uhd import PYTHON, needs_uhd

pytestmark = pytest.mark.usefixtures("time_limit")
# As `needs_uhd`, never skipped where everything is installed.
needs_tools = pytest.mark.skipif(shutil.which("uhd_find_devices") is None, reason="apt-get install uhd-host")


def run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@needs_tools
def test_uhd_find_devices():
    with EmulatedUsrp(addr="127.0.40.1", name="bench", hardware=N210Hardware(serial="ABC123")):
        found = run("uhd_find_devices", "--args", "type=usrp2,addr=127.0.40.1")
        assert "serial: ABC123" in found and "name: bench" in found and "addr: 127.0.40.1" in found
        filtered = ["uhd_find_devices", "--args", "type=usrp2,addr=127.0.40.1,serial=OTHER"]
        ran = subprocess.run(filtered, capture_output=True, text=True, timeout=50)
        assert "No UHD Devices Found" in ran.stdout + ran.stderr


@needs_tools
def test_uhd_usrp_probe():
    with EmulatedUsrp(addr="127.0.40.2") as usrp:
        probed = run("uhd_usrp_probe", "--args", usrp.args)
    for words in ("Mboard: N210r4", "FW Version: 12.4", "FPGA Version: 11.1", "SBX v4 (0x0065)", "SBX v4 (0x0064)"):
        assert words in probed


CLIENT = """
import json, sys
import numpy as np
import uhd

args, rate, wire = sys.argv[1], float(sys.argv[2]), sys.argv[3]
usrp = uhd.usrp.MultiUSRP(args)
usrp.set_rx_rate(rate), usrp.set_tx_rate(rate)
usrp.set_rx_freq(uhd.types.TuneRequest(915e6)), usrp.set_tx_freq(uhd.types.TuneRequest(915e6))
usrp.set_rx_gain(0), usrp.set_tx_gain(31.5)
while not (usrp.get_rx_sensor("lo_locked").to_bool() and usrp.get_tx_sensor("lo_locked").to_bool()):
    pass
stream = uhd.usrp.StreamArgs("fc32", wire)
stream.channels = [0]
rx, tx = usrp.get_rx_stream(stream), usrp.get_tx_stream(stream)
said, events = {"rate": usrp.get_rx_rate(), "name": usrp.get_mboard_name()}, uhd.types.TXAsyncMetadata()

def heard(timeout):
    codes = []
    while tx.recv_async_msg(events, timeout):
        codes.append(str(events.event_code).rpartition(".")[2])
    return codes

usrp.set_time_now(uhd.types.TimeSpec(5.0))
start = usrp.get_time_now().get_real_secs() + 0.2
burst = (0.7 * np.exp(0.1j * np.arange(5000))).astype(np.complex64)
command = uhd.types.StreamCMD(uhd.types.StreamMode.num_done)
command.num_samps, command.stream_now, command.time_spec = 40000, False, uhd.types.TimeSpec(start)
rx.issue_stream_cmd(command)
metadata, got = uhd.types.TXMetadata(), uhd.types.RXMetadata()
metadata.start_of_burst = metadata.end_of_burst = metadata.has_time_spec = True
metadata.time_spec = uhd.types.TimeSpec(start + 12345 / rate)
said["sent"] = tx.send(burst[None], metadata, 2.0)
samples = np.zeros((1, 40000), np.complex64)
said["received"] = rx.recv(samples, got, 3.0)
said["started_late_s"] = got.time_spec.get_real_secs() - start
loud = np.flatnonzero(np.abs(samples[0]) > 0.1)
said["first"], said["last"] = int(loud[0]), int(loud[-1])
said["error"] = float(np.abs(samples[0, 12345 : 17345] - burst).max())
said["burst"] = heard(0.3)
metadata.time_spec = uhd.types.TimeSpec(1.0)
tx.send(burst[None, :300], metadata, 2.0)
said["late"] = heard(0.3)
metadata.has_time_spec = metadata.end_of_burst = False
tx.send(burst[None], metadata, 2.0)
said["unfinished"] = heard(0.3)
command.time_spec = uhd.types.TimeSpec(1.0)
rx.issue_stream_cmd(command)
rx.recv(samples, got, 1.0)
said["late_command"] = got.strerror()
print(json.dumps(said))
"""


@needs_uhd
@pytest.mark.parametrize(
    ("rate_sps", "wire", "tolerance"), [(1e6, "sc16", 1e-4), (5e6, "sc16", 1e-4), (1e6, "sc8", 0.02)]
)
def test_multi_usrp(rate_sps, wire, tolerance):
    with EmulatedUsrp(addr="127.0.40.3") as usrp:
        said = json.loads(run(str(PYTHON), "-c", textwrap.dedent(CLIENT), usrp.args, str(rate_sps), wire))
    assert (said["rate"], said["name"], said["sent"], said["received"]) == (rate_sps, "N210r4", 5000, 40000)
    assert abs(said["started_late_s"]) < 1e-9
    assert (said["first"], said["last"]) == (12345, 17344)
    assert said["error"] < tolerance
    assert said["burst"] == ["burst_ack"]
    assert said["late"] == ["time_error"]
    assert said["unfinished"] == ["underflow"]
    assert said["late_command"] == "ERROR_CODE_LATE_COMMAND"


CLOCKS = """
import json, sys, time
import uhd

usrp, boards, said = uhd.usrp.MultiUSRP(sys.argv[1]), (0, 1), {}

def look(name):
    locked = [[usrp.get_mboard_sensor(s, b).to_bool() for b in boards] for s in ("ref_locked", "mimo_locked")]
    times = [usrp.get_time_now(b).get_real_secs() for b in (0, 1, 0)]
    pulses = [usrp.get_time_last_pps(b).get_real_secs() for b in boards]
    said[name] = {"locked": locked, "times": times, "pulses": pulses}

look("apart")
usrp.set_clock_source("mimo", 1), usrp.set_time_source("mimo", 1)
usrp.set_time_now(uhd.types.TimeSpec(7.0), 0)
look("cabled")
usrp.set_clock_source("external"), usrp.set_time_source("external")
usrp.set_time_unknown_pps(uhd.types.TimeSpec(3.0))
look("pulse")
print(json.dumps(said))
"""


@needs_uhd
def test_two_clocks_become_one_by_the_cable_or_the_pulse():
    air = Air()
    with EmulatedUsrp(air, "127.0.40.9", ppm=5.0) as one, EmulatedUsrp(air, "127.0.40.10", ppm=-5.0, cable=one) as two:
        said = json.loads(run(str(PYTHON), "-c", textwrap.dedent(CLOCKS), joint_args([one, two])))
        assert [usrp.board.ppm for usrp in (one, two)] == [0.0, 0.0]
    for name in ("cabled", "pulse"):
        first, second, again = said[name]["times"]
        assert first <= second <= again
        assert said[name]["locked"] == [[True, True], [False, True]]
    assert said["pulse"]["pulses"] in ([3.0, 3.0], [4.0, 4.0]) and said["cabled"]["times"][0] >= 7.0
    first, second, again = said["apart"]["times"]
    assert not first <= second <= again


def test_only_loopback():
    for addr in ("0.0.0.0", "192.168.10.2", "usrp.local", ""):
        with pytest.raises(RadioError, match="loopback"):
            EmulatedUsrp(addr=addr)


def test_an_address_for_each():
    with EmulatedUsrp(addr="127.0.40.4"), pytest.raises(RadioError, match=r"can't emulate a USRP at 127\.0\.40\.4"):
        EmulatedUsrp(addr="127.0.40.4", name="other").start()


def test_two_on_one_air_need_two_names():
    air = Air()
    with EmulatedUsrp(air, "127.0.40.5", "same"), pytest.raises(ValueError, match="name"):
        EmulatedUsrp(air, "127.0.40.6", "same").start()
    with EmulatedUsrp(air, "127.0.40.6", "same"):  # the refused one left no port bound
        pass


def hello(addr: str) -> bytes:
    """What the control port answers to a greeting."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2.0)
        client.sendto(struct.pack(">III", 12, ord("a"), 77).ljust(36, b"\0"), (addr, 49152))
        return client.recv(2000)


def test_numbers_that_firmware_and_tests_agree_on():
    with EmulatedUsrp(addr="127.0.40.7", hardware=N210Hardware(firmware_compat=11)) as usrp:
        assert struct.unpack_from(">III", hello("127.0.40.7")) == (11, ord("A"), 77)
        usrp.drop()
        with pytest.raises(TimeoutError):
            hello("127.0.40.7")
    usrp.close()


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_garbage_does_no_harm():
    rng = np.random.default_rng(5)
    with EmulatedUsrp(addr="127.0.40.8"), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        for port in (49152, 49156, 49157, 49158, 49159):
            for size in (0, 1, 4, 7, 8, 12, 13, 16, 20, 35, 36, 40, 1472, 9000):
                for _ in range(8):
                    client.sendto(rng.bytes(size), ("127.0.40.8", port))
        # Commands that start things, with values that make no sense.
        for word in range(256):
            poke = struct.pack(">IIIII", 12, ord("r"), 1, 0x7000 + 4 * word, int(rng.integers(1 << 32)))
            client.sendto(poke + bytes([3]) + bytes(15), ("127.0.40.8", 49152))
        for _ in range(64):
            packet = struct.pack(">II", 0, 0x03000000 | 30) + rng.bytes(112)
            client.sendto(packet, ("127.0.40.8", 49157))
        assert struct.unpack_from(">III", hello("127.0.40.8"))[:2] == (12, ord("A"))


@given(st.lists(st.complex_numbers(max_magnitude=1.0), min_size=1, max_size=40), st.sampled_from([0.25, 0.5, 1.0]))
def test_wire_round_trip(values, gain):
    samples = np.array(values, np.complex64)
    for eight_bits, counts in ((False, 32767.0), (True, 127.0)):
        # What UHD sets: for 8 bits the digital gain brings full scale down to 128 counts, and no further up again.
        down = gain if not eight_bits else gain / 256
        words = to_wire(samples.copy(), down, eight_bits)
        back = from_wire(memoryview(words.tobytes()), 1 / gain, eight_bits)[: samples.size]
        assert np.abs((back - samples).view(np.float32)).max() <= 1.01 / counts / gain


def test_full_scale_limits():
    loud = np.array([3 + 0.5j, -7j], np.complex64)
    assert np.allclose(
        from_wire(memoryview(to_wire(loud, 1.0, False).tobytes()), 1.0, False), [1 + 0.5j, -1j], atol=1e-4
    )
