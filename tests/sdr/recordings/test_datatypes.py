"""Every type of samples: what it holds comes back, through both readers, and nothing else is guessed."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdr.errors import RecordingError
from sdr.recordings.datatypes import DATATYPES, RAW_TYPES, SampleType, datatype
from sdr.recordings.foreign import read_raw
from sdr.recordings.reading import Stated, read_recording

PARTS = np.random.default_rng(3).uniform(-0.9, 0.9, 200)


def stored(kind: SampleType) -> bytes:
    values = PARTS * kind.full_scale + kind.middle
    return (values if kind.component[1] == "f" else values.round()).astype(kind.component).tobytes()


def expected(kind: SampleType) -> np.ndarray:
    parts = PARTS.astype(np.float32)
    return parts.view(np.complex64) if kind.quadrature else parts.astype(np.complex64)


def step(kind: SampleType) -> float:
    return max(1e-7, 0.0 if kind.component[1] == "f" else 0.51 / kind.full_scale)


@pytest.mark.parametrize("name", RAW_TYPES)
def test_raw_samples_come_back_within_a_step(tmp_path: Path, name: str) -> None:
    kind = RAW_TYPES[name]
    (tmp_path / "raw").write_bytes(stored(kind))
    recording = read_raw(tmp_path / "raw", name, Stated(2e6, 2.4e9))
    assert np.abs((recording.samples - expected(kind)).view(np.float32)).max() <= step(kind)
    assert recording.settings.rate_sps == 2e6 and recording.settings.center_hz == 2.4e9


@pytest.mark.parametrize("name", DATATYPES)
def test_sigmf_samples_come_back_within_a_step(tmp_path: Path, name: str) -> None:
    kind = DATATYPES[name]
    (tmp_path / "a.sigmf-data").write_bytes(stored(kind))
    info = {"global": {"core:datatype": name, "core:sample_rate": 1e6}}
    (tmp_path / "a.sigmf-meta").write_text(json.dumps(info))
    recording = read_recording(tmp_path / "a")
    assert np.abs((recording.samples - expected(kind)).view(np.float32)).max() <= step(kind)


@pytest.mark.parametrize("name", DATATYPES)
def test_the_sigmf_package_reads_the_same(tmp_path: Path, name: str) -> None:
    import sigmf

    kind = DATATYPES[name]
    (tmp_path / "a.sigmf-data").write_bytes(stored(kind))
    meta = {"core:datatype": name, "core:sample_rate": 1e6}
    (tmp_path / "a.sigmf-meta").write_text(json.dumps({"global": meta, "captures": [{"core:sample_start": 0}]}))
    theirs = sigmf.SigMFFile(global_info=meta)
    theirs.set_data_file(str(tmp_path / "a.sigmf-data"))
    found = np.asarray(theirs.read_samples())
    if not kind.component.endswith("f8"):
        assert np.allclose(read_recording(tmp_path / "a").samples, found, atol=1e-6)


@pytest.mark.parametrize("name", ["cu9", "sc16", "fc32", "cf16", "CI8", "", "ci8_le", 3, None])
def test_an_unknown_type_names_those_there_are(name: object) -> None:
    with pytest.raises(RecordingError) as caught:
        datatype(name, DATATYPES)
    assert "u8" in str(caught.value) and "did you mean" not in str(caught.value)


def test_what_single_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    np.array([0.5, 1e60], "<f8").tofile(tmp_path / "raw")
    with pytest.raises(RecordingError, match="raw: sample 0 of 1 is NaN or infinite"):
        read_raw(tmp_path / "raw", "cf64", Stated(1e6))
