"""An air without an end, and a recording that is played, against the decoder of recordings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from lab.experiments.decode_dataset import RESULTS_NAME, decode_dataset
from lab.experiments.group_decoder import DatasetSettings
from lab.live.assembly import FrameCounter
from lab.live.decoder import ImageDecoder, publish_panels
from lab.live.playback import find_tracks, make_programme
from lab.live.sending import Schedule, encode_folder_groups
from lab.live.settings import Job, LiveChannel, LiveSettings, make_plan
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.images.files import to_png
from receiver.samplers.variants import method_variant
from receiver.sync.preamble import stream_frames
from sdr.air.impairments import apply_awgn, noise_var_for_csnr
from sdr.errors import ConfigError, InputError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.recordings.recording import Recording
from sdr.recordings.writer import CaptureNotes, DatasetWriter
from sdr.settings import RadioSettings

LAYOUT = load_layout("paper")


@pytest.fixture(scope="module")
def models():
    return load_bundle("fashion")


@pytest.fixture(scope="module")
def groups(models):
    return encode_folder_groups(models.samples, models, LAYOUT, 10.0)


def on_air(groups, gaps, csnr_db=15.0, layout=LAYOUT, seed=3):
    """Return the samples of one frame a gap, each after so many zeros, with noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, gap in enumerate(gaps):
        frames = pack_frames(groups[number % len(groups)].symbols, layout, first_frame=number)
        parts += [np.zeros(gap, np.complex64), modulate_stream(frames, layout, 0)[: layout.frame_samples]]
    samples = np.concatenate([*parts, np.zeros(3000, np.complex64)])
    return apply_awgn(samples, noise_var_for_csnr(layout, csnr_db), rng)


@pytest.mark.parametrize(("block", "chunk"), [(997, 1 << 12), (4352, 4352), (20_000, 1 << 15), (100_001, 7001)])
def test_no_frame_is_lost_or_twice_at_the_borders_of_blocks(groups, block, chunk):
    """Frames at random places and back to back, so that borders of blocks and chunks cut them everywhere."""
    gaps = [*np.random.default_rng(block).integers(0, 9000, 12), 0, 0, 0, 1]
    samples = on_air(groups, gaps)
    counter = FrameCounter()
    blocks = (samples[first : first + block] for first in range(0, samples.size, block))
    for frame in stream_frames(blocks, LAYOUT, chunk_samples=chunk):
        counter.count(None if frame.header is None else frame.header.frame_number)
    assert (counter.found, counter.lost, counter.twice, counter.unread) == (len(gaps), 0, 0, 0)


@pytest.mark.parametrize("method", ["jscc", "hifi:steps=2"])
def test_a_recording_that_is_played_has_the_numbers_that_decoding_it_has(models, groups, method):
    recording = Recording(on_air(groups, [500] * 3), RadioSettings(rate_sps=LAYOUT.rate_sps), "", LAYOUT.digest)
    decoding = DecodeSettings(seed=7, batch_size=8, draws=2)
    expected = decode_recording(recording, LAYOUT, models, [method], decoding)
    programme = make_programme(recording, LAYOUT, decoding.batch_size, decoding.draws)
    plan = make_plan(LiveSettings(play=Path("recording"), method=method.replace("jscc", ""), decoding=decoding))
    decoder = ImageDecoder(Job("plain", Path("unused"), plan, plan.values), decoding.draws)
    found = []
    for work in programme.work:
        measured = decoder.measure([work])
        assert measured is not None
        found += decoder.decode(measured, method_variant(method), work.seeds)
    assert len(programme.work) > 1 and len(found) == len(expected.images) == 12
    for row, report in zip(programme.rows, expected.frames, strict=True):
        assert report.row().items() <= row.items()
    for ours, theirs in zip(found, expected.images, strict=True):
        assert (ours.id, ours.start_sample, ours.accepted) == (theirs.id, theirs.start_sample, theirs.accepted)
        assert (ours.residual, ours.expected_psnr_db) == (theirs.residual, theirs.expected_psnr_db)
        assert np.array_equal(ours.image, theirs.image)


def test_a_dataset_that_is_played_has_the_numbers_that_decoding_it_has(models, groups, tmp_path):
    """Each capture follows the other, of one antenna or two; one of another layout is left out."""
    folder, method = tmp_path / "set", "hifi:steps=2"
    other = load_layout("air")
    notes = CaptureNotes(csnr_db=10.0, images=4, codec_digest=models.codec.digest)
    with DatasetWriter(folder, "set") as dataset:
        for number, layout in enumerate((LAYOUT, other, LAYOUT)):
            samples = on_air(groups[number:], [500]) if layout is LAYOUT else np.ones(5000, np.complex64) / 9
            second = (on_air(groups[number:], [500], seed=4),) if number == 2 else ()
            recording = Recording(samples, RadioSettings(rate_sps=layout.rate_sps), "", layout.digest, others=second)
            dataset.add(number, recording, layout, notes)
    # A frame at a time in both: large batches are computed in bfloat16 where the processor has it.
    decoding = DecodeSettings(seed=7, batch_size=4)
    decode_dataset(folder, tmp_path / "out", [method], DatasetSettings(decoding=decoding))
    rows = pyarrow.parquet.read_table(tmp_path / "out" / RESULTS_NAME).to_pylist()
    expected = {(row["recording"], row["start_sample"], row["image"]): row for row in rows if row["status"] == "ok"}
    plan = make_plan(LiveSettings(play=folder, method=method, decoding=decoding))
    assert plan.layout.digest == LAYOUT.digest
    tracks = find_tracks(folder, plan.layout)
    assert [track.row.number for track in tracks if track.row] == [0, 2] and tracks[1].begin == tracks[0].end
    job = Job("plain", Path("unused"), plan, plan.values)
    decoder, found = ImageDecoder(job, decoding.draws), 0
    for track in tracks:
        for work in track.load(job).work:
            measured = decoder.measure([work])
            assert measured is not None and track.row is not None
            for ours in decoder.decode(measured, method_variant(method), work.seeds):
                theirs = expected[track.row.recording, ours.start_sample, ours.id]
                for name in ("residual", "residual_limit", "expected_psnr_db"):
                    assert getattr(ours, name) == pytest.approx(theirs[name], rel=1e-4)
                assert ours.accepted == theirs["accepted"] and to_png(ours.image) == theirs["picture"]
                found += 1
    assert found == len(expected) == 8


class Heard:
    """A bus that keeps what is published."""

    def publish(self, topic, arrays, **values):
        self.arrays = arrays


@pytest.mark.parametrize(("name", "method"), [("paper", "jscc"), ("blind", "blind-jscc:candidates=2")])
def test_of_two_antennas_a_page_shows_the_one_that_stands_for_them(models, name, method):
    """Its cells are what was sent and half of an antenna's noise."""
    layout = load_layout(name)
    groups = encode_folder_groups(models.samples, models, layout, 10.0)
    first, second = (on_air(groups, [500] * 2, layout=layout, seed=seed) for seed in (3, 4))
    # Gains do not matter: the second antenna hears all of it a tenth as loud.
    recording = Recording(first, RadioSettings(rate_sps=layout.rate_sps), others=(second / 10,))
    programme = make_programme(recording, layout, 8, 1)
    plan = make_plan(LiveSettings(play=Path("recording"), layout=name, decoding=DecodeSettings(batch_size=8)))
    decoder, bus = ImageDecoder(Job("plain", Path("unused"), plan, plan.values), 1), Heard()
    (work,) = programme.work
    measured = decoder.measure([work])
    assert measured is not None and measured.measurement.antennas == 2
    results = decoder.decode(measured, method_variant(method), work.seeds)
    publish_panels(bus, decoder.decoder, measured, results, 0.0)
    assert bus.arrays["response_db"].shape == (layout.fft_size,)
    sent = np.concatenate([group.symbols.z.ravel() for group in groups[:2]])
    found = bus.arrays["after"].view(np.complex64)
    assert found.size == sent.size
    assert np.mean(np.abs(found - sent) ** 2) == pytest.approx(10**-1.5 / 2, rel=0.25)


def test_images_are_sent_in_turn_at_their_rate_and_what_is_too_late_is_counted(groups):
    schedule = Schedule(groups, fps=40.0)
    begin = schedule._due_s
    sent = [group for step in range(1, 101) for group in schedule.due(begin + step / 100)]
    assert abs(len(sent) - 10) <= 1 and sent[:3] == groups[:3] and schedule.left_out == 0
    assert len(list(schedule.due(begin + 11.0))) <= 6 and schedule.left_out >= 90


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"play": Path("x"), "radio": "sim:"}, "--play"),
        ({"listen": True}, "--listen"),
        ({"radio": "uhd:type=b200", "rx_radio": "uhd:type=b200,rx_gain_db=3"}, "leave it out"),
        ({"radio": "zmq:rx=tcp://127.0.0.1:5555"}, "--listen"),
        ({"radio": "file:x"}, "--play"),
        ({"radio": "sim:csnr_db=5"}, "--csnr-db"),
        ({"fps": 0.0}, "--fps"),
        ({"fps": 999.0}, "at most 827"),
        ({"channel": LiveChannel(redraw_s=0.0)}, "--redraw-s"),
        ({"method": "nonsense"}, "nonsense"),
        ({"channel": LiveChannel(taps=8, impairments="nonsense=1")}, "nonsense"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options, word):
    with pytest.raises((ConfigError, InputError), match=word.replace("(", "")):
        make_plan(LiveSettings(**options))


def test_a_layout_without_pilots_has_blind_methods_only():
    plan = make_plan(LiveSettings(layout="blind"))
    assert plan.plain == "blind-jscc" and all(name.startswith("blind") for name in plan.methods)
    assert replace(plan.settings, fps=10.0).simulated
