"""Datasets of several antennas are decoded as recordings are, by all antennas or by chosen ones."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch

from lab.experiments.decode_dataset import RESULTS_NAME, decode_dataset
from lab.experiments.group_decoder import DatasetSettings, frame_generator
from lab.experiments.scores import score_results
from lab.experiments.selection import select_captures
from receiver.bundles.bundle import find_bundle, load_bundle, load_codec
from receiver.decode import BatchDecoder, DecodeSettings, decode_recording
from receiver.images.files import from_png, load_image_folder, to_png
from receiver.samplers.variants import method_variant
from receiver.sync.preamble import find_frames
from sdr.calibration_profile import AntennaProfile, CalibrationProfile, Value
from sdr.errors import ConfigError
from sdr.framing import pack_frames
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.address import device_of
from sdr.radios.open import open_radio
from sdr.recordings.antennas import choose_antennas, read_antennas
from sdr.recordings.dataset import INDEX_NAME, read_index
from sdr.recordings.recording import utc_now
from sdr.recordings.writer import CaptureNotes, DatasetWriter
from sdr.symbols import Symbols

LAYOUT = load_layout("paper")
#: One capture a batch, as a recording is decoded.
SETTINGS = DatasetSettings(group=1, decoding=DecodeSettings(steps=2))
CSNR_DB = 10.0


def record(folder: Path, chosen: Sequence[Sequence[int]], options: str = "taps=8,cfo_hz=300") -> None:
    """Record two images a capture with two antennas, and keep what the chosen ones of each capture heard; (): both."""
    codec = load_codec()
    _, images = load_image_folder(find_bundle() / "samples", codec.image_shape)
    pixels = (images * 255).round().byte().numpy()
    with DatasetWriter(folder, "set") as dataset:
        for number, antennas in enumerate(chosen):
            picked = [2 * number, 2 * number + 1]
            with torch.no_grad():
                z = codec.encode(images[picked], CSNR_DB).numpy()
            ids = tuple(f"img{index}" for index in picked)
            frames = pack_frames(Symbols(z, codec.digest, ids, codec.image_shape, CSNR_DB), LAYOUT, first_frame=number)
            with open_radio(f"sim:csnr_db={CSNR_DB},{options},seed={number},rx=2", layout=LAYOUT) as radio:
                radio.transmit(modulate_stream(frames, LAYOUT))
                heard = choose_antennas(radio.receive(), antennas)
            truth = {"image_ids": np.array(ids), "images": pixels[picked], "z": z}
            dataset.add(number, heard, LAYOUT, CaptureNotes(CSNR_DB, 2, codec_digest=codec.digest), truth)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("antennas") / "set"
    record(folder, [()] * 4)
    return folder


def rows_of(folder: Path, out: Path, methods: Sequence[str], settings: DatasetSettings = SETTINGS, **options: Any):
    """The rows of a decoded dataset, without what a clock decides."""
    decode_dataset(folder, out, methods, settings, **options)
    rows = pyarrow.parquet.read_table(out / RESULTS_NAME).to_pylist()
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return sorted(rows, key=lambda row: (row["recording"], row["start_sample"], row["image"], row["method"]))


@pytest.mark.parametrize("antennas", [(), (0,), (1,)])
def test_a_dataset_is_decoded_as_its_recordings_are(recorded: Path, tmp_path: Path, antennas: tuple[int, ...]) -> None:
    """To the bit, with all antennas and with one; what samplers draw is the row's own."""
    methods, bundle = ("jscc", "hifi", "blind-jscc", "blind"), load_bundle()
    settings = replace(SETTINGS, use_antennas=antennas)
    rows = rows_of(recorded, tmp_path / "out", methods, settings, where="number == 1")
    assert len(rows) == 2 * len(methods)
    decoder, name = BatchDecoder(bundle, SETTINGS.decoding), "set-000001"
    heard = choose_antennas(read_antennas([recorded / name]), antennas)
    alone = decode_recording(heard, LAYOUT, bundle, ["jscc"], SETTINGS.decoding)
    images = {("jscc", image.id): image for image in alone.images}
    frames = find_frames(heard, LAYOUT)
    for method in methods[1:]:
        variant = method_variant(method, 2)
        generators = [frame_generator(name, frame.start, variant, 0, "cpu") for frame in frames]
        found = decoder.decode(decoder.measure(frames, LAYOUT), variant, generators)
        images |= {(method, image.id): image for image in found}
    for row in rows:
        image = images.pop((row["method"], row["image"]))
        assert row["picture"] == to_png(image.image)
        assert row["taps"] == image.taps.view(np.float32).tolist()
        for key in ("residual", "residual_limit", "expected_psnr_db", "accepted", "cbr"):
            assert row[key] == getattr(image, key)
        assert row["snr_db"] == alone.frames[0].snr_db and row["cfo_hz"] == alone.frames[0].cfo_hz
    assert not images


def test_a_chosen_antenna_is_as_if_it_had_been_alone(recorded: Path, tmp_path: Path) -> None:
    record(tmp_path / "set", [(0,)] * 4)
    methods = ["jscc", "hifi"]
    alone = rows_of(tmp_path / "set", tmp_path / "alone", methods)
    chosen = rows_of(recorded, tmp_path / "chosen", methods, replace(SETTINGS, use_antennas=(0,)))
    assert alone == chosen


def test_snrs_add_up_and_so_does_what_they_are_worth(recorded: Path, tmp_path: Path) -> None:
    snr, psnr_db = {}, {}
    for antennas in ((), (0,), (1,)):
        out = tmp_path / "-".join(map(str, antennas))
        rows = rows_of(recorded, out, ["jscc"], replace(SETTINGS, use_antennas=antennas))
        snr[antennas] = np.array([10 ** (row["snr_db"] / 10) for row in rows])
        (point,) = score_results(out, recorded)
        assert point.arrived == point.sent == 8
        psnr_db[antennas] = point.psnr_db
    # Each is known to some tenths of a decibel.
    assert 10 * np.log10(snr[()] / (snr[(0,)] + snr[(1,)])) == pytest.approx(np.zeros(8), abs=0.3)
    assert psnr_db[()] > max(psnr_db[(0,)], psnr_db[(1,)]) + 0.5


def test_neighbours_change_nothing(recorded: Path, tmp_path: Path) -> None:
    """What a search for the channels of both antennas draws is the frame's own; a pixel may be rounded otherwise."""
    apart = rows_of(recorded, tmp_path / "a", ["blind-jscc"], where="number < 2")
    together = rows_of(recorded, tmp_path / "b", ["blind-jscc"], replace(SETTINGS, group=2), where="number < 2")
    assert len(apart) == 4
    for one, other in zip(apart, together, strict=True):
        assert (one["recording"], one["image"]) == (other["recording"], other["image"])
        assert np.abs(from_png(one["picture"]) - from_png(other["picture"])).max() <= 2.5 / 255


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose captures are of one antenna, two, the second alone, and two; the first line is an old one."""
    folder = tmp_path_factory.mktemp("mixed") / "set"
    record(folder, [(0,), (), (1,), ()])
    first, *others = (folder / INDEX_NAME).read_bytes().splitlines(keepends=True)
    body = first.rpartition(b',"antennas":1')[0]
    old = body + b',"check":"' + f"{zlib.crc32(body):08x}".encode() + b'"}\n'
    (folder / INDEX_NAME).write_bytes(b"".join([old, *others]))
    return folder


def test_captures_of_different_numbers_of_antennas_go_together(recorded: Path, mixed: Path, tmp_path: Path) -> None:
    """One batch is of one number; those of two give what they give among others of two."""
    together = replace(SETTINGS, group=4)
    rows = rows_of(mixed, tmp_path / "mixed", ["jscc"], together)
    two = rows_of(recorded, tmp_path / "two", ["jscc"], together, where="number in [1, 3]")
    assert [row for row in rows if row["number"] in (1, 3)] == two
    assert [row["status"] for row in rows] == ["ok"] * 8
    assert select_captures(mixed).antennas.tolist() == [1, 2, 1, 2]
    assert select_captures(mixed, "antennas == 1").numbers.tolist() == [0, 2]


def test_antennas_that_a_capture_lacks_are_refused_before_anything_is_decoded(mixed: Path, tmp_path: Path) -> None:
    second = replace(SETTINGS, use_antennas=(1,))
    with pytest.raises(ConfigError, match=r'capture set-000000 has antenna 0 alone.*--where "antennas > 1"'):
        decode_dataset(mixed, tmp_path / "out", ["jscc"], second)
    assert not (tmp_path / "out").exists()
    assert len(rows_of(mixed, tmp_path / "out", ["jscc"], second, where="antennas > 1")) == 4
    with pytest.raises(ConfigError, match="antennas"):
        decode_dataset(mixed, tmp_path / "out", ["jscc"], SETTINGS)


@pytest.mark.parametrize(
    ("method", "reason"),
    [("blind-closed-form", "decodes one antenna"), ("blind-jscc:follow=true", "follows the taps of one antenna")],
)
def test_what_takes_one_antenna_fails_with_its_reason(mixed: Path, tmp_path: Path, method: str, reason: str) -> None:
    rows = rows_of(mixed, tmp_path / "both", [method])
    assert [row["status"] for row in rows] == ["ok", "ok", "failed", "ok", "ok", "failed"]
    assert all(reason in row["reason"] and "--use-antennas 0" in row["reason"] for row in (rows[2], rows[5]))
    first = rows_of(mixed, tmp_path / "one", [method], replace(SETTINGS, use_antennas=(0,)))
    assert [row["status"] for row in first] == ["ok"] * 8


def test_each_antenna_takes_its_own_part_of_a_profile(recorded: Path, tmp_path: Path) -> None:
    device = device_of(read_index(recorded)[0].radio)
    one = CalibrationProfile(device, device, 0.0, LAYOUT.rate_sps, utc_now())
    parts = [AntennaProfile({"iq_phase_deg": Value(deg, deg, deg, "degrees", "made up")}) for deg in (3.0, -5.0)]
    settings = [
        replace(SETTINGS, decoding=replace(SETTINGS.decoding, calibration=profile))
        for profile in (one, replace(one, antennas=tuple(parts)))
    ]
    refused = rows_of(recorded, tmp_path / "both", ["jscc"], settings[0])
    assert all(
        row["status"] == "failed" and "is of 1 antenna, and the recording has 2" in row["reason"] for row in refused
    )
    first = rows_of(recorded, tmp_path / "one", ["jscc"], replace(settings[0], use_antennas=(0,)))
    assert [row["status"] for row in first] == ["ok"] * 8
    rows = rows_of(recorded, tmp_path / "each", ["jscc"], settings[1], where="number == 1")
    heard = read_antennas([recorded / "set-000001"])
    alone = decode_recording(heard, LAYOUT, load_bundle(), ["jscc"], settings[1].decoding)
    assert [row["residual"] for row in rows] == [image.residual for image in alone.images]
    uncorrected = rows_of(recorded, tmp_path / "none", ["jscc"], where="number == 1")
    assert all(row["residual"] != other["residual"] for row, other in zip(rows, uncorrected, strict=True))
