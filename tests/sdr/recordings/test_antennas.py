"""Recordings of several antennas: written and read, joined, refused where one is wanted."""

from dataclasses import replace

import numpy as np
import pytest

from sdr.errors import RadioError, RecordingError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.recordings.antennas import read_antennas
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording
from sdr.recordings.writer import DatasetWriter
from sdr.settings import RadioSettings


def heard(seed: int, count: int = 1000) -> np.ndarray:
    parts = np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)
    return parts.view(np.complex64)[:, 0]


def pair(count: int = 1000, **settings) -> list[Recording]:
    return [Recording(heard(seed, count), RadioSettings(**settings)) for seed in (1, 2)]


def test_channels_are_interleaved_by_sample(tmp_path):
    one, two = pair()
    write_recording(replace(one, others=two.antennas), tmp_path / "both")
    stored = np.fromfile(tmp_path / "both.sigmf-data", np.complex64)
    assert np.array_equal(stored[0::2], one.samples) and np.array_equal(stored[1::2], two.samples)
    import sigmf.sigmffile

    theirs = sigmf.sigmffile.fromfile(str(tmp_path / "both.sigmf-meta"))
    assert theirs.num_channels == 2 and theirs.sample_count == 1000
    assert np.array_equal(theirs.read_samples(), np.stack([one.samples, two.samples], axis=1))
    ours = read_antennas([tmp_path / "both"])
    assert [samples.tobytes() for samples in ours.antennas] == [one.samples.tobytes(), two.samples.tobytes()]
    with open_radio(f"file:{tmp_path / 'both'}") as radio:
        part = radio.receive(10)
    assert np.array_equal(part.others[0], two.samples[:10])


def test_files_of_one_antenna_each_are_joined(tmp_path):
    paths = [write_recording(each, tmp_path / name) for each, name in zip(pair(), "ab", strict=True)]
    joined = read_antennas(paths)
    assert np.array_equal(joined.antennas[0], heard(1)) and np.array_equal(joined.antennas[1], heard(2))


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Recording(heard(2, 999)), "999 samples"),
        (Recording(heard(2), RadioSettings(rate_sps=2e6)), "2000000 samples per second"),
        (Recording(heard(2), RadioSettings(center_hz=1e9)), "1000000000 Hz of carrier"),
    ],
)
def test_what_was_not_recorded_together_is_refused(tmp_path, other, words):
    first = write_recording(pair()[0], tmp_path / "a")
    second = write_recording(other, tmp_path / "b")
    with pytest.raises(RecordingError, match=words) as error:
        read_antennas([first, second])
    assert "\n" not in str(error.value)


def test_bad_numbers_of_channels_are_refused(tmp_path):
    path = write_recording(Recording(heard(1, 999)), tmp_path / "odd")
    meta = path.read_text()
    path.write_text(meta.replace('"core:num_channels": 1', '"core:num_channels": 2'))
    with pytest.raises(RecordingError, match="at most 1 can be read here"):
        read_recording(path)
    with pytest.raises(RecordingError, match="999 samples, which 2 channels can't share evenly"):
        read_antennas([path])
    path.write_text(meta.replace('"core:num_channels": 1', '"core:num_channels": 9'))
    with pytest.raises(RecordingError, match="at most 8 can be read here"):
        read_antennas([path])


def test_antennas_of_different_lengths_are_no_recording():
    with pytest.raises(RecordingError, match="one antenna has 1000 samples, another 999"):
        Recording(heard(1), others=(heard(2, 999),))


def test_a_dataset_takes_one_antenna(tmp_path):
    with DatasetWriter(tmp_path, "set") as dataset, pytest.raises(RecordingError, match="a dataset takes the samples"):
        dataset.add(0, Recording(heard(1), others=(heard(2),)))


def captured(options: str, samples: np.ndarray) -> Recording:
    with open_radio("sim:" + options, layout=load_layout("paper")) as radio:
        radio.transmit(samples)
        return radio.receive()


def test_simulated_antennas_share_oscillators_and_nothing_else():
    sent = heard(3, 4096) / 4
    options = "seed=5,delay_samples=7,cfo_hz=500,phase_noise_deg=5"
    clean = captured(f"{options},rx=3", sent)
    assert len(clean.antennas) == 3
    # Without fading and noise, all that there is they share.
    assert all(np.array_equal(clean.samples, other) for other in clean.others)
    assert captured(options, sent).samples.tobytes() == clean.samples.tobytes()
    faded = captured(f"{options},taps=8,csnr_db=10,rx=2", sent)
    assert captured(f"{options},taps=8,csnr_db=10", sent).samples.tobytes() == faded.samples.tobytes()
    silent = captured("seed=5,taps=8,csnr_db=10,rx=2", np.zeros(100_000, np.complex64)).antennas
    powers = [float(np.mean(np.abs(samples) ** 2)) for samples in silent]
    assert powers[0] == pytest.approx(powers[1], rel=0.03)
    assert abs(np.vdot(*silent)) / 1e5 < 5 * powers[0] / 1e5**0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("rx=0", "rx = 0"),
        ("rx=9", "rx = 9"),
        ("rx=2,jam_power=1,jam_hz=0", "interference"),
        ("rx=2,num_gaps=1", "lost"),
    ],
)
def test_antennas_that_are_not_simulated_are_refused(options, words):
    with pytest.raises(RadioError, match=words):
        open_radio("sim:" + options)


def test_a_stream_of_antennas_is_refused():
    with open_radio("sim:rx=2") as radio:
        radio.transmit(heard(1) / 2, cyclic=True)
        with pytest.raises(RadioError, match="can't stream with rx=2"):
            next(radio.stream(100))
