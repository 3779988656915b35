"""Recordings survive the trip to disk; damaged and foreign ones end in one clear line."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sdr.recordings.recording as recording_module
from sdr.errors import OtaError, RecordingError
from sdr.recordings.archive import sigmf_paths
from sdr.recordings.health import measure_health
from sdr.recordings.reading import MAX_META_BYTES, Stated, read_recording
from sdr.recordings.recording import Recording, utc_now, write_recording
from sdr.settings import RadioSettings

SETTINGS = RadioSettings(uri="sim:csnr_db=10", center_hz=2.4e9, rate_sps=2e6, rx_gain_db=30.0)


def tone(count=1000, amplitude=0.25):
    return (amplitude * np.exp(2j * np.pi * 0.01 * np.arange(count))).astype(np.complex64)


@pytest.fixture
def written(tmp_path):
    """Stem of a good recording."""
    write_recording(Recording(tone(), SETTINGS, utc_now(), "01234567"), tmp_path / "good")
    return tmp_path / "good"


def edit(stem, **changes):
    """Change entries of the metadata's global object; None removes one."""
    path = stem.with_suffix(".sigmf-meta")
    document = json.loads(path.read_text())
    for key, value in changes.items():
        name = key.replace("__", ":")
        document["global"].pop(name, None)
        if value is not None:
            document["global"][name] = value
    path.write_text(json.dumps(document))


def error_of(path, **options) -> str:
    with pytest.raises(RecordingError) as caught:
        read_recording(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 + len(str(path))
    return message


@pytest.mark.parametrize("suffix", ["", ".sigmf-meta", ".sigmf-data"])
def test_round_trip(tmp_path, suffix):
    original = Recording(tone(), SETTINGS, utc_now(), "01234567", measure_health(tone(), overflows=2, stale=True))
    meta = write_recording(original, tmp_path / ("deep/name.with.dots" + suffix))
    back = read_recording(str(tmp_path / "deep/name.with.dots") + suffix)
    assert meta.name == "name.with.dots.sigmf-meta"
    assert np.array_equal(back.samples, original.samples) and back.samples.dtype == np.complex64
    assert (back.settings, back.utc, back.layout_digest) == (SETTINGS, original.utc, "01234567")
    assert back.health == original.health
    assert sorted(os.listdir(tmp_path / "deep")) == ["name.with.dots.sigmf-data", "name.with.dots.sigmf-meta"]


@pytest.mark.filterwarnings("error")
def test_the_sigmf_package_agrees(written):
    import sigmf

    foreign = sigmf.fromfile(str(written.with_suffix(".sigmf-meta")))  # checks the hash
    foreign.validate()  # warns about undeclared extensions, which is an error here
    assert np.array_equal(foreign.read_samples(), tone())
    assert foreign.get_global_field("core:sample_rate") == 2e6
    assert foreign.get_captures()[0]["core:frequency"] == 2.4e9


def test_written_by_the_sigmf_package(tmp_path):
    import sigmf

    data = tmp_path / "theirs.sigmf-data"
    tone().tofile(data)
    theirs = sigmf.SigMFFile(
        data_file=str(data), global_info={"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.0.0"}
    )
    theirs.add_capture(0, metadata={"core:frequency": 915e6})
    theirs.tofile(str(tmp_path / "theirs.sigmf-meta"))
    back = read_recording(tmp_path / "theirs")
    assert np.array_equal(back.samples, tone()) and back.settings.center_hz == 915e6


@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("with_annotations", [False, True])
def test_a_minimal_recording_of_a_third_party(tmp_path, with_hash, with_annotations):
    raw = tone().astype("<c8").tobytes()
    (tmp_path / "rx.sigmf-data").write_bytes(raw)
    info = {"core:datatype": "cf32_le", "core:sample_rate": 1000000, "core:version": "1.2.0"}
    if with_hash:
        info["core:sha512"] = hashlib.sha512(raw).hexdigest().upper()
    document = {"global": info, "captures": [{"core:sample_start": 0}]}
    if with_annotations:
        document["annotations"] = []
    (tmp_path / "rx.sigmf-meta").write_text(json.dumps(document))
    back = read_recording(tmp_path / "rx.sigmf-meta")
    assert np.array_equal(back.samples, tone())
    assert back.settings.rate_sps == 1e6 and back.layout_digest == "" and back.utc == ""


@pytest.mark.parametrize(("datatype", "dtype", "scale"), [("ci16_le", "<i2", 32768), ("ci8", "i1", 128)])
def test_integers_become_full_scale_one(tmp_path, datatype, dtype, scale):
    values = np.array([-scale, scale - 1, 0, scale // 2], dtype)
    values.tofile(tmp_path / "int.sigmf-data")
    info = {"core:datatype": datatype, "core:sample_rate": 1e6, "core:version": "1.0.0"}
    (tmp_path / "int.sigmf-meta").write_text(json.dumps({"global": info, "captures": [], "annotations": []}))
    assert np.allclose(read_recording(tmp_path / "int").samples, [-1 + 1j * (1 - 1 / scale), 0.5j], atol=1e-7)


def test_longer_than_one_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(recording_module, "_CHUNK_SAMPLES", 300)
    write_recording(Recording(tone(1001), SETTINGS), tmp_path / "long")
    assert np.array_equal(read_recording(tmp_path / "long").samples, tone(1001))
    health = measure_health(tone(1001))
    monkeypatch.undo()
    assert measure_health(tone(1001)).rms_dbfs == pytest.approx(health.rms_dbfs, abs=1e-9)


# What must end in one clear line


def test_truncated(written):
    data = written.with_suffix(".sigmf-data")
    raw = data.read_bytes()
    data.write_bytes(raw[:-801])
    assert "truncated" in error_of(written)
    data.write_bytes(raw[:-800])
    assert "truncated or corrupted" in error_of(written)
    data.write_bytes(raw + raw)
    assert "truncated or corrupted" in error_of(written)


def test_corrupted(written):
    data = written.with_suffix(".sigmf-data")
    raw = bytearray(data.read_bytes())
    raw[1234] ^= 1
    data.write_bytes(raw)
    assert "corrupted" in error_of(written)


def test_missing_files(written, tmp_path):
    written.with_suffix(".sigmf-data").unlink()
    message = error_of(written)
    assert "good.sigmf-data" in message and "No such file" in message
    written.with_suffix(".sigmf-meta").unlink()
    assert "good.sigmf-meta" in error_of(written)
    assert "names no recording" in error_of("")
    (tmp_path / "dir.sigmf-meta").mkdir()
    assert "dir.sigmf-meta" in error_of(tmp_path / "dir")


def test_a_folder_in_place_of_the_data(written):
    written.with_suffix(".sigmf-data").unlink()
    written.with_suffix(".sigmf-data").mkdir()
    assert "not a regular file" in error_of(written)


def test_empty(written):
    written.with_suffix(".sigmf-data").write_bytes(b"")
    assert "is empty" in error_of(written)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(written, value):
    samples = tone()
    samples[77] = value
    samples.tofile(written.with_suffix(".sigmf-data"))
    edit(written, core__sha512=None)
    assert "sample 77 of 1000 is NaN or infinite" in error_of(written)


@pytest.mark.parametrize("datatype", ["cf32", "CF32_LE", "ci8_le", "ci16", "banana", None, 7, ["cf32_le"], {}])
def test_wrong_datatype(written, datatype):
    edit(written, core__datatype=datatype)
    message = error_of(written)
    assert "sample type" in message and "f32, f64, i8, u8" in message and "did you mean" not in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"core__sample_rate": None}, "sample_rate"),
        ({"core__sample_rate": 0}, "sample_rate"),
        ({"core__sample_rate": "1e6"}, "sample_rate"),
        ({"core__sample_rate": 10**400}, "sample_rate"),
        ({"core__sample_rate": float("nan")}, "sample_rate"),
        ({"core__num_channels": 2}, "channels"),
        ({"core__dataset": "other.bin"}, "non-conforming"),
        ({"core__sha512": 5}, "core:sha512"),
        ({"diffcom_ota__settings": []}, "settings must be an object"),
        ({"diffcom_ota__settings": {"uri": "a\nb"}}, "printable"),
        ({"diffcom_ota__settings": {"rx_gain_db": 10**400}}, "rx_gain_db"),
        ({"diffcom_ota__layout_digest": "XYZ"}, "layout digest"),
        ({"diffcom_ota__layout_digest": 3}, "layout digest"),
        ({"diffcom_ota__health": 3}, "health must be an object"),
        ({"diffcom_ota__health": {"overflows": -1}}, "overflows"),
        ({"diffcom_ota__health": {"stale": 1}}, "stale"),
    ],
)
def test_wrong_metadata(written, changes, words):
    edit(written, **changes)
    assert words in error_of(written)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"global": 3}', b'{"captures": []}', b"\xff\xfe", b"[" * 200_000]
    + [
        b'{"global": {"core:datatype": "cf32_le", "core:sample_rate": 1e6}, "captures": %s}' % c for c in (b"3", b"[3]")
    ],
)
def test_broken_metadata(written, content):
    written.with_suffix(".sigmf-meta").write_bytes(content)
    error_of(written)


def captures_of(stem, *captures):
    path = stem.with_suffix(".sigmf-meta")
    path.write_text(json.dumps({**json.loads(path.read_text()), "captures": list(captures)}))


@pytest.mark.parametrize(
    ("captures", "words"),
    [
        ([{"core:header_bytes": 16}], "header bytes"),
        ([{"core:sample_start": -5}], "samples 0..999"),
        ([{"core:sample_start": 1000}], "samples 0..999"),
        ([{"core:sample_start": 0.5}], "samples 0..999"),
        ([{"core:sample_start": 500}, {"core:sample_start": 0}], "in order"),
        ([{"core:sample_start": 0}, {"core:sample_start": 0}], "in order"),
        (
            [{"core:sample_start": 0, "core:frequency": 1e9}, {"core:sample_start": 500, "core:frequency": 2e9}],
            "carrier changes from 1000000000 to 2000000000 Hz at sample 500",
        ),
    ],
)
def test_captures_that_are_wrong_are_refused(written, captures, words):
    captures_of(written, *captures)
    assert words in error_of(written)


@pytest.mark.parametrize("key", ["core:datetime", "core:frequency"])
@pytest.mark.parametrize("value", [None, "yesterday", "2016-12-31T23:59:60Z", 5, -1e6, 1e13, [], float("nan"), True])
def test_what_decoding_does_not_need_does_not_refuse_a_recording(written, key, value):
    captures_of(written, {"core:sample_start": 0, key: value})
    recording = read_recording(written)
    assert recording.num_samples == 1000
    assert recording.settings.center_hz in (SETTINGS.center_hz, 5) and recording.utc == ""


def test_captures_that_agree_are_honoured(written):
    first = {"core:sample_start": 0, "core:frequency": 1e9, "core:datetime": "2026-11-28T12:00:00Z"}
    captures_of(written, first, {"core:sample_start": 500, "core:frequency": 1e9})
    recording = read_recording(written)
    assert recording.settings.center_hz == 1e9 and recording.utc == "2026-11-28T12:00:00Z"
    edit(written, core__trailing_bytes=0, core__offset=10**12, core__metadata_only=True)
    assert read_recording(written).num_samples == 1000
    captures_of(written, {**first, "core:sample_start": 500})
    assert read_recording(written).utc == "", "the time is that of a later sample"


def test_what_the_metadata_lack_can_be_stated_and_nothing_else(written):
    edit(written, core__sample_rate=None)
    captures_of(written, {"core:sample_start": 0})
    assert "--rate-sps" in error_of(written)
    settings = read_recording(written, stated=Stated(5e6, 868e6)).settings
    assert (settings.rate_sps, settings.center_hz) == (5e6, 868e6)
    edit(written, core__sample_rate=2e6)
    assert "5000000 is stated" in error_of(written, stated=Stated(5e6))
    captures_of(written, {"core:frequency": 1e9})
    assert "868000000 Hz is stated" in error_of(written, stated=Stated(center_hz=868e6))
    quarter = read_recording(written, stated=Stated(full_scale=4.0))
    assert np.allclose(quarter.samples, tone() / 4)
    for bad in (0.5, np.nan, np.inf, -1.0):
        with pytest.raises(RecordingError, match="rate_sps"):
            Stated(bad)


def test_a_byte_order_mark_is_no_error(written):
    path = written.with_suffix(".sigmf-meta")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_recording(written).num_samples == 1000


def test_too_large(written):
    assert "more than the 999 allowed" in error_of(written, max_samples=999)
    with written.with_suffix(".sigmf-data").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: one terabyte that takes no room on the disk
    assert "allowed" in error_of(written)
    with written.with_suffix(".sigmf-meta").open("r+b") as file:
        file.truncate(MAX_META_BYTES + 1)
    assert "larger than" in error_of(written)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        [
            *("core:datatype", "core:sample_rate", "core:sha512", "core:num_channels", "core:offset"),
            *("diffcom_ota:settings", "diffcom_ota:health", "diffcom_ota:layout_digest"),
        ]
    ),
    value=JSON_VALUES,
    nested=st.sampled_from(["", "uri", "center_hz", "rate_sps", "overflows", "stale", "gain_step_db"]),
)
def test_any_metadata_gives_a_recording_or_a_recording_error(written, key, value, nested):
    path = written.with_suffix(".sigmf-meta")
    original = path.read_text()
    document = json.loads(original)
    document["global"][key] = {nested: value} if nested else value
    path.write_text(json.dumps(document))
    try:
        read_recording(written)
    except RecordingError as error:
        assert "\n" not in str(error)
    finally:
        path.write_text(original)


# Writing


def test_nothing_half_written(tmp_path, monkeypatch):
    def full_disk(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording_module.os, "replace", full_disk)
    with pytest.raises(RecordingError, match="No space left"):
        write_recording(Recording(tone()), tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_recording(written, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recording_module, "_metadata", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_recording(Recording(tone(50)), written)
    assert read_recording(written).num_samples == 1000
    assert len(os.listdir(written.parent)) == 2


def test_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordingError, match="can't be written"):
        write_recording(Recording(tone()), tmp_path / "file" / "x")


# The type itself


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros(0, np.complex64), "empty"),
        (np.zeros(3, np.complex128), "complex64"),
        (np.zeros((2, 2), np.complex64), "one dimension"),
        ([1, 2], "list"),
        (np.array([1, np.nan], np.complex64), "sample 1 of 2"),
        (np.array([1, 1j * np.inf], np.complex64), "sample 1 of 2"),
    ],
)
def test_samples_are_checked(samples, words):
    with pytest.raises(RecordingError, match=words):
        Recording(samples, SETTINGS)


def test_other_fields_are_checked():
    good = Recording(tone(), SETTINGS)
    for change in ({"utc": "noon"}, {"layout_digest": "123"}, {"settings": None}):
        with pytest.raises(RecordingError):
            dataclasses.replace(good, **change)
    with pytest.raises(ValueError, match="read-only"):
        good.samples[0] = 0
    assert good.duration_s == pytest.approx(1000 / 2e6)


def test_the_callers_array_stays_writable():
    samples = tone()
    Recording(samples, SETTINGS)
    samples[0] = 0


def test_health_of_known_signals():
    health = measure_health(tone(amplitude=0.5))
    assert health.rms_dbfs == pytest.approx(-6.02, abs=0.01) and health.peak_dbfs == pytest.approx(-6.02, abs=0.01)
    assert health.dc_dbfs < -60 and health.clipped_fraction == 0 and health.warnings == ()
    square = np.where(np.arange(1000) % 4 < 1, 1.0, 0.1).astype(np.complex64)
    assert measure_health(square).clipped_fraction == pytest.approx(0.25)
    assert measure_health(np.full(10, 0.3j, np.complex64)).dc_dbfs == pytest.approx(20 * np.log10(0.3), abs=0.01)
    silent = measure_health(np.zeros(10, np.complex64))
    assert silent.rms_dbfs == silent.peak_dbfs == silent.dc_dbfs == -200.0


@pytest.mark.parametrize(
    ("samples", "extra", "words"),
    [
        (tone(amplitude=1.0), {}, "clipped"),
        (tone(amplitude=1e-5), {}, "raise the receive gain"),
        (tone(amplitude=0.1) + np.complex64(0.3), {}, "DC"),
        (tone(), {"overflows": 3}, "3 overflows"),
        (tone(), {"gain_step_db": -3.0}, "-3.0 dB"),
        (tone(), {"stale": True}, "older"),
    ],
)
def test_health_warnings(samples, extra, words):
    (warning,) = measure_health(samples, **extra).warnings
    assert words in warning


def test_sigmf_paths_keep_other_suffixes():
    meta, data = sigmf_paths("a/b.v2")
    assert (meta.name, data.name) == ("b.v2.sigmf-meta", "b.v2.sigmf-data")


@pytest.mark.parametrize(
    "change",
    [
        {"rate_sps": 0.0},
        {"rate_sps": float("nan")},
        {"center_hz": -1.0},
        {"rx_gain_db": "30"},
        {"tx_gain_db": True},
        {"bandwidth_hz": 0.0},
        {"uri": ""},
    ],
)
def test_settings_check_themselves(change):
    with pytest.raises(OtaError):
        dataclasses.replace(SETTINGS, **change)
