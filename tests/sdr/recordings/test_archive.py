"""SigMF archives: read where they are, and refused where they are not what they should be."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sdr.errors import RecordingError
from sdr.recordings.archive import MAX_MEMBERS, sigmf_paths
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording

SAMPLES = (0.3 * np.exp(2j * np.pi * 0.01 * np.arange(500))).astype(np.complex64)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, bytes]:
    write_recording(Recording(SAMPLES), tmp_path / "rec")
    return {f"rec/rec{suffix}": (tmp_path / f"rec{suffix}").read_bytes() for suffix in (".sigmf-meta", ".sigmf-data")}


def pack(path: Path, members: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            change(info)
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def error_of(path: Path) -> str:
    with pytest.raises(RecordingError) as caught:
        read_recording(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_archive_is_read_where_it_is(tmp_path: Path, parts: dict[str, bytes]) -> None:
    archive = pack(tmp_path / "a.sigmf", parts)
    before = sorted(tmp_path.iterdir())
    assert np.array_equal(read_recording(archive).samples, SAMPLES)
    assert sorted(tmp_path.iterdir()) == before


def test_the_sigmf_packages_archive_is_read(tmp_path: Path, parts: dict[str, bytes]) -> None:
    import sigmf

    theirs = sigmf.sigmffile.fromfile(str(tmp_path / "rec.sigmf-meta"))
    theirs.archive(str(tmp_path / "theirs.sigmf"))
    assert np.array_equal(read_recording(tmp_path / "theirs.sigmf").samples, SAMPLES)


def test_archives_that_are_not_one_recording(tmp_path: Path, parts: dict[str, bytes]) -> None:
    meta, data = parts
    path = tmp_path / "a.sigmf"
    assert "2 recordings" in error_of(pack(path, {**parts, "b/b.sigmf-meta": parts[meta]}))
    assert "0 recordings" in error_of(pack(path, {data: parts[data]}))
    assert "no member" in error_of(pack(path, {meta: parts[meta]}))
    assert "no member" in error_of(pack(path, {meta: parts[meta], "other/rec.sigmf-data": parts[data]}))
    assert "empty" in error_of(pack(path, {meta: parts[meta], data: b""}))
    assert f"more than {MAX_MEMBERS}" in error_of(pack(path, {**parts, **{f"n{i}": b"" for i in range(MAX_MEMBERS)}}))


@pytest.mark.parametrize("name", ["/etc/rec.sigmf-data", "../rec.sigmf-data", "rec/../../rec.sigmf-data"])
def test_members_that_lie_outside(tmp_path: Path, parts: dict[str, bytes], name: str) -> None:
    assert "no plain file inside" in error_of(pack(tmp_path / "a.sigmf", {**parts, name: b"12345678"}))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_members_that_are_no_files(tmp_path: Path, parts: dict[str, bytes], kind: bytes) -> None:
    def change(info: tarfile.TarInfo) -> None:
        if info.name.endswith("-data"):
            info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    assert "no plain file inside" in error_of(pack(tmp_path / "a.sigmf", parts, change))


def test_damaged_and_compressed_archives(tmp_path: Path, parts: dict[str, bytes]) -> None:
    path = pack(tmp_path / "a.sigmf", parts)
    whole = path.read_bytes()
    for length in (0, 100, 700, 3000, 5000):
        path.write_bytes(whole[:length])
        error_of(path)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "rec.sigmf-meta", "rec.sigmf-meta")
    assert "not compressed" in error_of(path)
    path.unlink()
    assert "No such file" in error_of(path)


def test_a_name_that_a_shell_completed() -> None:
    assert sigmf_paths("runs/rec.sigmf-") == sigmf_paths("runs/rec")
    for nameless in ("", "runs/", ".", "/", "..", ".sigmf-meta"):
        with pytest.raises(RecordingError, match="names no recording"):
            sigmf_paths(nameless)
