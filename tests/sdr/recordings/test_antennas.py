"""Recordings of several antennas: written and read, joined, refused where one is wanted."""

import itertools
import zlib
from dataclasses import replace

import numpy as np
import pytest

from sdr.errors import ConfigError, RadioError, RecordingError
from sdr.layout import load_layout
from sdr.radios.base import record_blocks
from sdr.radios.open import open_radio
from sdr.recordings.antennas import choose_antennas, read_antennas
from sdr.recordings.dataset import capture_blocks, open_capture, read_index
from sdr.recordings.health import FLOOR_DBFS, measure_health
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording
from sdr.recordings.verify import verify_dataset
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


def parts_of(recording: Recording, count: int) -> list[Recording]:
    """The recording in blocks that follow each other."""
    cut = [np.split(samples, count) for samples in recording.antennas]
    return [Recording(first, recording.settings, others=tuple(others)) for first, *others in zip(*cut, strict=True)]


def test_a_dataset_keeps_what_every_antenna_heard(tmp_path):
    """As a whole and block by block: the same samples, the same levels; other tools read them, too."""
    both = Recording(heard(1), others=(heard(2) / 4,))
    with DatasetWriter(tmp_path, "set") as dataset:
        one, alone = dataset.add(0, both), dataset.add(1, Recording(heard(3)))
        many = dataset.add_blocks(2, iter(parts_of(both, 4)))
        assert dataset.rows == read_index(tmp_path)
    assert (one.antennas, one.num_samples, one.data_bytes) == (2, 1000, 16_000) and alone.antennas == 1
    assert one.data_sha512 == many.data_sha512 and verify_dataset(tmp_path) == []
    for row in (one, many):
        found = open_capture(tmp_path, row)
        assert [each.tobytes() for each in found.antennas] == [each.tobytes() for each in both.antennas]
        (block,) = capture_blocks(tmp_path, row)
        assert np.array_equal(block, np.stack(both.antennas))
        for name, value in both.health.levels().items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-4)
    pieces = list(capture_blocks(tmp_path, one, block_samples=300))
    assert [piece.shape for piece in pieces] == [(2, 300)] * 3 + [(2, 100)]
    assert np.array_equal(np.concatenate(pieces, axis=1), np.stack(both.antennas))
    import sigmf.sigmffile

    theirs = sigmf.sigmffile.fromfile(str(tmp_path / "set-000002.sigmf-meta"))
    assert np.array_equal(theirs.read_samples(), np.stack(both.antennas, axis=1))
    stored = [theirs.get_global_info()["diffcom_ota:health"]["antennas"], both.health.antennas]
    for levels, measured in zip(*stored, strict=True):
        assert levels == pytest.approx(measured.levels(), abs=1e-4)


def test_blocks_of_other_antennas_are_no_capture(tmp_path):
    blocks = [Recording(heard(1), others=(heard(2),)), Recording(heard(1))]
    with (
        DatasetWriter(tmp_path, "set") as dataset,
        pytest.raises(RecordingError, match="1 antennas, those before it 2"),
    ):
        dataset.add_blocks(0, iter(blocks))
    assert read_index(tmp_path) == [] and not list(tmp_path.glob("set-000000*"))


def test_an_index_of_before_there_were_several_is_read_and_gone_on_with(tmp_path):
    with DatasetWriter(tmp_path, "set") as dataset:
        row = dataset.add(0, Recording(heard(1)))
    body = row.to_line().rpartition(b',"antennas":1')[0]
    old = body + b',"check":"' + f"{zlib.crc32(body):08x}".encode() + b'"}\n'
    (tmp_path / "index.jsonl").write_bytes(old)
    with DatasetWriter(tmp_path, "set") as dataset:
        assert dataset.removed == [] and dataset.rows == [row]
        dataset.add(1, Recording(heard(1), others=(heard(2),)))
    assert (tmp_path / "index.jsonl").read_bytes().startswith(old) and verify_dataset(tmp_path) == []
    assert [row.antennas for row in read_index(tmp_path)] == [1, 2]


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path):
    with DatasetWriter(tmp_path, "set") as dataset:
        row = dataset.add(0, Recording(heard(1), others=(heard(2),)))
    for changes in ({"antennas": 1}, {"antennas": 9, "data_bytes": 72_000}, {"num_samples": 999}):
        with pytest.raises(RecordingError, match="don't fit"):
            replace(row, **changes)


def test_each_antenna_is_judged(tmp_path):
    """Of the levels the worst are those of all; warnings say whose they are, what the driver says is said once."""
    loud, dead = np.ones(1000, np.complex64), np.zeros(1000, np.complex64)
    recording = Recording(heard(1) / 2, others=(dead, loud))
    health = replace(recording.health, overflows=2)
    assert health.rms_dbfs == FLOOR_DBFS and health.peak_dbfs == 0 and health.clipped_fraction == 1
    assert [each.split(":")[0] for each in health.warnings] == ["2 overflows", "antenna 2", "antenna 1", "antenna 2"]
    assert "clipped" in health.warnings[1] and "level is only" in health.warnings[2] and "DC" in health.warnings[3]
    with DatasetWriter(tmp_path, "set") as dataset:
        row = dataset.add(0, replace(recording, health=health))
    assert not row.healthy and row.warnings == "; ".join(health.warnings)
    assert open_capture(tmp_path, row).health == health
    fine = Recording(heard(1) / 2, others=(heard(2) / 2,))
    assert fine.health.warnings == () and fine.health.antennas[1] == Recording(heard(2) / 2).health


def test_antennas_are_chosen_by_number():
    both = Recording(heard(1), others=(heard(2), heard(3)))
    assert choose_antennas(both, ()) is both
    second = choose_antennas(both, (1,))
    assert np.array_equal(second.samples, heard(2)) and not second.others and second.health == measure_health(heard(2))
    assert [each.tobytes() for each in choose_antennas(both, (0, 2)).antennas] == [
        heard(1).tobytes(),
        heard(3).tobytes(),
    ]
    with pytest.raises(ConfigError, match=r"Antenna 3 is asked for, and the recording has antennas 0\.\.2"):
        choose_antennas(both, (0, 3))
    with pytest.raises(ConfigError, match="has antenna 0 alone"):
        choose_antennas(second, (1,))


def test_a_part_of_a_file_is_judged_by_all_its_antennas(tmp_path):
    late = np.concatenate([np.zeros(10, np.complex64), heard(2)[10:]])
    write_recording(Recording(heard(1) / 2, others=(late / 2,)), tmp_path / "both")
    with open_radio(f"file:{tmp_path / 'both'}") as radio:
        assert radio.receive(10).health.antennas[1].rms_dbfs == FLOOR_DBFS
        assert radio.receive(1000).health.warnings == ()


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


def test_a_stream_of_antennas_has_what_one_capture_has():
    """The first antenna streams what the only one would, the other one hears fading and noise of its own."""
    options = "taps=8,block_samples=700,cfo_hz=1234,seed=3"
    streamed = {}
    for rx in (1, 2):
        with open_radio(f"sim:{options},rx={rx}") as radio:
            radio.transmit(heard(1) / 2, cyclic=True)
            whole = np.stack(radio.receive(5000).antennas)
        with open_radio(f"sim:{options},rx={rx}") as radio:
            radio.transmit(heard(1) / 2, cyclic=True)
            blocks = [np.atleast_2d(block) for block in itertools.islice(radio.stream(333), 16)]
        streamed[rx] = np.concatenate(blocks, axis=1)[:, :5000]
        np.testing.assert_allclose(streamed[rx][:, 8:], whole[:, 8:], atol=1e-5)
    assert np.array_equal(streamed[1][0], streamed[2][0])
    assert not np.allclose(streamed[2][0], streamed[2][1], atol=0.01)
    with open_radio("sim:csnr_db=5,rx=2", layout=load_layout("paper")) as radio:
        radio.transmit(np.full(100, 1e-9, np.complex64), cyclic=True)
        one, other = next(radio.stream(20_000))
        recorded = list(record_blocks(radio, 5000, 2000))
    assert abs(np.vdot(one, other)) < 5 * np.vdot(one, one).real / np.sqrt(20_000)
    assert [[samples.size for samples in block.antennas] for block in recorded] == [[2000] * 2, [2000] * 2, [1000] * 2]
