"""Every radio behind its URI: what is sent comes back as the radio's definition says."""

import itertools
import socket
import threading

import numpy as np
import pytest
import zmq

from sdr.air.impairments import noise_var_for_csnr, quantise
from sdr.errors import RadioError, RecordingError
from sdr.layout import load_layout
from sdr.radios.address import device_of, parse_uri, with_option
from sdr.radios.base import Radio, record_blocks
from sdr.radios.file import FileRadio
from sdr.radios.open import SCHEMES, check_uri, open_radio
from sdr.radios.simulated import SimulatedRadio
from sdr.radios.zmq_radio import ZmqRadio
from sdr.recordings.reading import read_recording
from sdr.settings import RadioSettings

PAPER = load_layout("paper")


def burst(count=1000, seed=0):
    rng = np.random.default_rng(seed)
    samples = rng.standard_normal(count) + 1j * rng.standard_normal(count)
    return (0.3 * samples / np.abs(samples).max()).astype(np.complex64)


# What holds for all radios


@pytest.fixture(params=["sim", "file", "zmq"])
def loop(request, tmp_path):
    """An open radio that hears what it sends."""
    if request.param == "sim":
        radio = open_radio("sim:", layout=PAPER)
    elif request.param == "file":
        radio = open_radio(f"file:{tmp_path}/air", layout=PAPER)
    else:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        endpoint = f"tcp://127.0.0.1:{port}"
        radio = open_radio(f"zmq:rx={endpoint},tx={endpoint},rx_bind=yes,timeout_s=2", layout=PAPER)
    with radio:
        yield radio


def test_is_a_radio(loop):
    assert isinstance(loop, Radio)
    assert loop.settings.rate_sps == PAPER.rate_sps
    assert loop.capabilities.transmit and loop.capabilities.receive and not loop.capabilities.has_time


def test_what_is_sent_is_received(loop):
    loop.transmit(burst())
    recording = loop.receive(1000)
    assert np.array_equal(recording.samples, burst())
    assert recording.settings == loop.settings and recording.layout_digest == PAPER.digest and recording.utc


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (burst() * np.complex64(4), "full scale"),
        (np.full(3, np.nan, np.complex64), "full scale"),
        (burst().astype(np.complex128), "complex64"),
        (burst().reshape(2, -1), "one dimension"),
        (burst()[:0], "nothing to send"),
    ],
)
def test_what_can_not_be_sent(loop, samples, words):
    with pytest.raises(RadioError, match=words):
        loop.transmit(samples)


@pytest.mark.parametrize("count", [0, -1, 1 << 40, True])
def test_impossible_captures(loop, count):
    loop.transmit(burst())
    with pytest.raises(RadioError, match="a capture has"):
        loop.receive(count)


def test_what_a_radio_can_not_do_it_says(loop):
    if not loop.capabilities.cyclic:
        with pytest.raises(RadioError, match="can't repeat"):
            loop.transmit(burst(), cyclic=True)
    if not loop.capabilities.finite:
        with pytest.raises(RadioError, match="never ends"):
            loop.receive()


def test_closed_radios(loop):
    loop.close()
    loop.close()
    for call in (lambda: loop.transmit(burst()), lambda: loop.receive(10)):
        with pytest.raises(RadioError, match="is closed"):
            call()


# sim:


def test_sim_delay_gain_and_cfo():
    settings = RadioSettings(rate_sps=1e6)
    with open_radio("sim:delay_samples=500,gain_db=-20,cfo_hz=2000", settings) as radio:
        radio.transmit(burst())
        received = radio.receive(3000).samples
    assert not received[:500].any() and not received[1500:].any()
    turns = np.exp(2j * np.pi * 2000e-6 * np.arange(500, 1500))
    assert np.allclose(received[500:1500], 0.1 * burst() * turns, atol=1e-6)


def test_sim_hears_the_whole_transmission_unless_told_otherwise():
    with open_radio("sim:delay_samples=10.5,taps=8") as radio:
        radio.transmit(burst())
        assert radio.receive().num_samples == 1000 + 11 + 7
        assert radio.receive(200).num_samples == 200


def test_sim_noise_is_the_layouts():
    with open_radio("sim:csnr_db=5,seed=3", layout=PAPER) as radio:
        radio.transmit(burst(1))
        noise = radio.receive(200_000).samples[1:]
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(noise_var_for_csnr(PAPER, 5.0), rel=0.02)


def test_sim_repeats():
    with open_radio("sim:delay_samples=300") as radio:
        radio.transmit(burst(), cyclic=True)
        received = radio.receive(2500).samples
        assert np.array_equal(received[300:1300], burst()) and np.array_equal(received[1300:2300], burst())
        assert np.array_equal(received[:300], burst()[700:])
        with pytest.raises(RadioError, match="no end"):
            radio.receive()


def test_sim_repeats_with_a_fractional_delay():
    with open_radio("sim:delay_samples=0.5") as radio:
        radio.transmit(burst(), cyclic=True)
        received = radio.receive(2000).samples
    assert np.allclose(received[:1000], received[1000:], atol=1e-6)
    shifted = np.fft.fft(received[:1000]) / np.fft.fft(burst())
    assert np.allclose(shifted, np.exp(-1j * np.pi * np.fft.fftfreq(1000)), atol=1e-3)


def test_sim_draws_a_channel_a_capture_from_its_seed():
    def captures(seed):
        with open_radio(f"sim:taps=8,seed={seed}") as radio:
            radio.transmit(burst())
            return [radio.receive().samples for _ in range(2)]

    one, two, other = captures(1), captures(1), captures(2)
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], one[1]) and not np.array_equal(one[0], other[0])


def test_sim_redraws_taps_within_a_capture():
    ones = np.full(2000, 0.1, np.complex64)
    with open_radio("sim:taps=1,block_samples=500,seed=4") as radio:
        radio.transmit(ones)
        received = radio.receive(2000).samples
    blocks = received.reshape(4, 500)
    assert np.allclose(blocks, blocks[:, :1], atol=1e-6)
    assert len(set(np.round(blocks[:, 0], 4))) == 4


@pytest.mark.parametrize("cyclic", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        *("", "taps=8", "taps=8,block_samples=700", "delay_samples=300.25,cfo_hz=1234,gain_db=-3,taps=4"),
        *("rx=3", "cfo_hz=1234,gain_db=-3,taps=4,block_samples=700,rx=2"),
    ],
)
def test_sim_streams_what_one_capture_has(options: str, cyclic: bool):
    """Blocks of any size join to one capture from the same seed, from where the channel has heard the signal begin."""
    period = burst(1000)
    with open_radio(f"sim:{options}", layout=PAPER) as radio:
        radio.transmit(period, cyclic=cyclic)
        whole = np.stack(radio.receive(5000).antennas)
    for size in (1, 333, 6000):
        with open_radio(f"sim:{options}", layout=PAPER) as radio:
            radio.transmit(period, cyclic=cyclic)
            blocks = list(itertools.islice(radio.stream(size), -(-(2000 if size == 1 else 5000) // size)))
        assert {block.shape for block in blocks} == {(size,) if len(whole) == 1 else (len(whole), size)}
        joined = np.atleast_2d(np.concatenate(blocks, axis=-1))[:, :5000]
        np.testing.assert_allclose(joined[:, 8:], whole[:, 8 : joined.shape[1]], atol=1e-5)


def test_sim_streams_noise_of_its_own_for_every_block_and_antenna():
    with open_radio("sim:csnr_db=5,seed=3,rx=2", layout=PAPER) as radio:
        radio.transmit(np.full(100, 1e-9, np.complex64), cyclic=True)
        blocks = [heard for block in itertools.islice(radio.stream(20_000), 2) for heard in block]
    for one, other in itertools.combinations(blocks, 2):
        assert abs(np.vdot(one, other)) < 5 * np.vdot(one, one).real / np.sqrt(20_000)
        assert np.mean(np.abs(other) ** 2) == pytest.approx(noise_var_for_csnr(PAPER, 5.0), rel=0.05)


def test_what_cant_be_streamed_is_refused():
    with open_radio("sim:tdl=A", layout=PAPER) as radio:
        radio.transmit(burst(100), cyclic=True)
        with pytest.raises(RadioError, match="can't stream with tdl"):
            next(radio.stream(100))
    with open_radio("sim:") as radio, pytest.raises(RadioError, match="nothing is on the air"):
        next(radio.stream(100))
    with open_radio("file:nowhere") as radio, pytest.raises(RadioError, match="its samples have an end"):
        next(record_blocks(radio, 100))


def test_sim_clips_at_full_scale_and_says_so():
    with open_radio("sim:gain_db=40") as radio:
        radio.transmit(burst())
        recording = radio.receive()
    assert np.abs(recording.samples.real).max() == 1.0 and np.abs(recording.samples.imag).max() == 1.0
    assert any("clipped" in warning for warning in recording.health.warnings)


def test_sim_needs_a_transmission():
    with open_radio("sim:") as radio, pytest.raises(RadioError, match="nothing is on the air"):
        radio.receive(10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("csnr_db=10", "needs a layout"),
        ("taps=-1", "taps"),
        ("taps=8,decay=0", "decay"),
        ("delay_samples=-1", "delay_samples"),
        ("cfo_hz=600000", "half the rate"),
        ("block_samples=100", "give taps=8"),
        ("seed=-1", "seed"),
        ("gain_db=1000", "gain_db"),
    ],
)
def test_sim_values_out_of_range(options, words):
    with pytest.raises(RadioError, match=words):
        open_radio("sim:" + options)


# file:


def test_file_radio_writes_sigmf(tmp_path):
    with open_radio(f"file:{tmp_path}/tx.sigmf-meta", RadioSettings(center_hz=9e8, rate_sps=2e6), PAPER) as radio:
        radio.transmit(burst())
        radio.transmit(burst(500, seed=1))
    recording = read_recording(tmp_path / "tx")
    assert np.array_equal(recording.samples, burst(500, seed=1))
    assert (recording.settings.center_hz, recording.settings.rate_sps) == (9e8, 2e6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tx.sigmf-data", "tx.sigmf-meta"]


def test_file_radio_reads_a_part_or_all(tmp_path):
    with open_radio(f"file:{tmp_path}/tx") as radio:
        radio.transmit(burst())
        assert radio.receive().num_samples == 1000
        part = radio.receive(100)
        assert np.array_equal(part.samples, burst()[:100]) and part.health.rms_dbfs != radio.receive().health.rms_dbfs
        with pytest.raises(RadioError, match="has 1000 samples, but 1001"):
            radio.receive(1001)


def test_file_radio_without_a_file(tmp_path):
    with open_radio(f"file:{tmp_path}/none") as radio, pytest.raises(RecordingError, match="none"):
        radio.receive()


# zmq:


def test_zmq_speaks_plain_cf32():
    context = zmq.Context()
    push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    ports = [end.bind_to_random_port("tcp://127.0.0.1") for end in (push, pull)]
    uri = f"zmq:rx=tcp://127.0.0.1:{ports[0]},tx=tcp://127.0.0.1:{ports[1]},timeout_s=5"
    with open_radio(uri) as radio:
        raw = burst().astype("<c8").tobytes()
        for first in range(0, len(raw), 800):
            push.send(raw[first : first + 800])
        # Message borders mean nothing, and what is beyond one capture belongs to the next.
        parts = [radio.receive(count).samples for count in (150, 333, 517)]
        assert np.array_equal(np.concatenate(parts), burst())
        radio.transmit(burst(200_000))
        received = b""
        while len(received) < 1_600_000:
            assert pull.poll(5000)
            received += pull.recv()
        assert np.array_equal(np.frombuffer(received, "<c8"), burst(200_000))
    context.destroy(linger=0)


def test_zmq_takes_antennas_apart():
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    port = push.bind_to_random_port("tcp://127.0.0.1")
    samples = np.arange(24, dtype=np.float32).view(np.complex64) / 32
    try:
        with open_radio(f"zmq:rx=tcp://127.0.0.1:{port},antennas=2,timeout_s=1") as radio:
            push.send(samples[:5].tobytes())
            push.send(samples[5:].tobytes())
            first, second = radio.receive(2), radio.receive(3)
            with pytest.raises(RadioError, match="gave 1 of 2 samples") as error:
                radio.receive(2)
        assert np.array_equal(first.samples, samples[[0, 2]]) and np.array_equal(first.others[0], samples[[1, 3]])
        assert np.array_equal(second.samples, samples[[4, 6, 8]])
        assert np.array_equal(second.others[0], samples[[5, 7, 9]])
        assert np.array_equal(error.value.recording.others[0], samples[[11]])
        with pytest.raises(RadioError, match=r"antennas = 9 is outside 1\.\.8"):
            open_radio(f"zmq:rx=tcp://127.0.0.1:{port},antennas=9")
    finally:
        push.close()
        context.term()


def test_zmq_loses_nothing_when_closed_at_once():
    context = zmq.Context()
    pull = context.socket(zmq.PULL)
    port = pull.bind_to_random_port("tcp://127.0.0.1")

    def send():
        with open_radio(f"zmq:tx=tcp://127.0.0.1:{port},timeout_s=5") as radio:
            radio.transmit(burst(300_000))

    sender = threading.Thread(target=send)
    sender.start()
    count = 0
    while count < 300_000:
        assert pull.poll(5000)
        count += len(pull.recv()) // 8
    sender.join(10)
    assert not sender.is_alive()
    context.destroy(linger=0)


def test_zmq_says_how_many_samples_came_and_keeps_them():
    context = zmq.Context()
    push = context.socket(zmq.PUSH)
    port = push.bind_to_random_port("tcp://127.0.0.1")
    with open_radio(f"zmq:rx=tcp://127.0.0.1:{port},timeout_s=0.3") as radio:
        push.send(burst(100).tobytes())
        with pytest.raises(RadioError, match=r"gave 100 of 150 samples, then nothing for 0\.3 s"):
            radio.receive(150)
        push.send(burst(50, seed=1).tobytes())
        assert np.array_equal(radio.receive(150).samples, np.concatenate([burst(100), burst(50, seed=1)]))
        push.send(b"12345")
        with pytest.raises(RadioError, match=r"5 bytes.*tags"):
            radio.receive(1)
    context.destroy(linger=0)


def test_zmq_without_a_peer():
    connected = open_radio("zmq:tx=tcp://127.0.0.1:9,timeout_s=0.2")
    with connected, pytest.raises(RadioError, match="took 0 of 10 samples"):
        connected.transmit(burst(10))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    bound = open_radio(f"zmq:tx=tcp://127.0.0.1:{port},tx_bind=yes,timeout_s=0.2")
    with bound, pytest.raises(RadioError, match="took 0 of 10 samples"):
        bound.transmit(burst(10))


def test_zmq_one_way_radios():
    with open_radio("zmq:tx=tcp://127.0.0.1:9") as radio:
        assert not radio.capabilities.receive
        with pytest.raises(RadioError, match="no receive endpoint"):
            radio.receive(10)
    with open_radio("zmq:rx=tcp://127.0.0.1:9") as radio:
        assert not radio.capabilities.transmit
        with pytest.raises(RadioError, match="no transmit endpoint"):
            radio.transmit(burst(10))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("zmq:", "needs rx="),
        ("zmq:rx=localhost:5555", "must look like"),
        ("zmq:rx=tcp://localhost", "host and a port"),
        ("zmq:rx=tcp://localhost:99999", "host and a port"),
        ("zmq:rx=tcp://0.0.0.0:5555,rx_bind=yes", "let other hosts in"),
        ("zmq:tx=tcp://*:5555,tx_bind=yes", "let other hosts in"),
        ("zmq:tx=tcp://eth0:5555,tx_bind=yes", "let other hosts in"),
        ("zmq:rx=tcp://127.0.0.1:1,timeout_s=0", "timeout_s"),
        ("zmq:rx=tcp://127.0.0.1:1,tx_bind=yes", "need the endpoint"),
    ],
)
def test_zmq_wrong_endpoints(uri, words):
    with pytest.raises(RadioError, match=words):
        open_radio(uri)


def test_zmq_port_in_use():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RadioError, match=f"can't bind tcp://127.0.0.1:{port}"):
            open_radio(f"zmq:rx=tcp://127.0.0.1:{port},rx_bind=yes")


def test_zmq_can_be_opened_to_the_world_on_demand():
    with open_radio("zmq:rx=tcp://0.0.0.0:*,rx_bind=yes,anywhere=yes") as radio:
        assert radio.rx_endpoint.startswith("tcp://0.0.0.0:")  # type: ignore[attr-defined]


# URIs


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("", "known scheme"),
        ("sim", "before the colon; did you mean 'sim'"),
        ("sin:", "did you mean 'sim'"),
        ("zqm:rx=a", "did you mean 'zmq'"),
        ("hackrf:", "choose from file, pluto, sim, soapy, uhd, zmq"),
        ("sim:csnr=10", "did you mean 'csnr_db'"),
        ("sim:csnr_db", "needs a value"),
        ("sim:csnr_db=", "needs a value"),
        ("sim:csnr_db=ten", "must be a number, found 'ten'"),
        ("sim:csnr_db=nan", "must be a number"),
        ("sim:taps=2.5", "must be a whole number"),
        ("sim:taps=1,taps=2", "given twice"),
        ("zmq:rx=tcp://127.0.0.1:1,rx_bind=maybe", "yes or no"),
        ("zmq:tcp://127.0.0.1:5555", "has no option"),
        ("file:", "needs a path"),
        ("pluto:192.168.2.1", "needs libiio.s address"),
        ("uhd:b200", "key=value"),
    ],
)
@pytest.mark.parametrize("use", [open_radio, check_uri])
def test_wrong_uris_end_in_one_line(uri, words, use):
    with pytest.raises(RadioError, match=words) as caught:
        use(uri)
    assert "\n" not in str(caught.value)


def test_every_scheme_parses():
    examples = {
        "sim": "sim:",
        "file": "file:/tmp/a=b,c:d",
        "zmq": "zmq:rx=tcp://h:1",
        "pluto": "pluto:usb:",
        "uhd": "uhd:type=b200,serial=1",
        "soapy": "soapy:driver=rtlsdr,serial=1",
    }
    assert set(examples) == set(SCHEMES)
    for scheme, uri in examples.items():
        address = check_uri(uri)
        assert address == parse_uri(uri)
        assert (address.scheme, address.rest) == (scheme, uri.split(":", 1)[1])


@pytest.mark.parametrize(
    ("uri", "device"),
    [
        ("sim:taps=8,csnr_db=10,seed=3,cfo_hz=300", "sim:cfo_hz=300.0,taps=8"),
        ("sim:taps=8,rx=2", "sim:taps=8"),
        ("pluto:usb:,tx_gain_db=-3", "pluto:usb:"),
        ("uhd:serial=1,rx_gain_db=3,type=b200,recv_frame_size=8000", "uhd:serial=1,type=b200"),
        ("uhd:addr0=10.0.0.2,addr1=10.0.0.3,clock_source=mimo,rx=2", "uhd:addr0=10.0.0.2,addr1=10.0.0.3"),
        ("file:a,b=c", "file:a,b=c"),
    ],
)
def test_a_device_is_its_uri_without_its_settings(uri, device):
    assert device_of(uri) == device
    if uri.startswith(("pluto", "uhd")):
        assert device_of(with_option(uri, "rx_gain_db", "7")) == device


def test_uri_types():
    settings = RadioSettings(uri="sim:old")
    with open_radio("sim:taps=2", settings) as radio:
        assert isinstance(radio, SimulatedRadio) and radio.settings.uri == "sim:taps=2"
    with open_radio("file:/tmp/x") as radio:
        assert isinstance(radio, FileRadio)
    with open_radio("zmq:rx=tcp://127.0.0.1:9") as radio:
        assert isinstance(radio, ZmqRadio)


# The simulated radio's further impairments


def test_sim_takes_every_impairment_that_fits_a_uri(tmp_path):
    sent = np.exp(2j * np.pi * 0.05 * np.arange(4000)).astype(np.complex64) / 4
    uri = "sim:tdl=A,delay_spread_s=1e-7,doppler_hz=5,offset_ppm=10,phase_noise_deg=0.1,image_rejection_db=30"
    uri += ",adc_bits=8"
    with open_radio(uri) as radio:
        radio.transmit(sent)
        received = radio.receive(4000).samples
    assert received.shape == (4000,) and np.allclose(received.real * 128, np.rint(received.real * 128))
    with open_radio("sim:adc_bits=8") as radio:
        radio.transmit(sent)
        assert np.array_equal(radio.receive(4000).samples, quantise(sent, 8))


@pytest.mark.parametrize("uri", ["sim:taps=8,tdl=A", "sim:tdl=Q", "sim:adc_bits=x", "sim:image_rejection_db=-3"])
def test_sim_refuses_contradicting_impairments(uri):
    with pytest.raises(RadioError):
        open_radio(uri)
