"""Every reader tells a broken file in one line, and a full disk leaves nothing half-written under a final name."""

import json
import shutil
from pathlib import Path

import pytest

from lab.benchmarks.faults import fill_disk, full_disk, fuzz, incomplete_results
from lab.benchmarks.readers import READERS
from receiver.bundles.bundle import find_bundle
from sdr.errors import OtaError
from sdr.files import write_bytes, write_json


@pytest.mark.parametrize("name", READERS)
def test_broken_files_are_told_in_one_line(name):
    (row,) = fuzz(4 if READERS[name].slow else 60, seed=1, names=[name])
    assert row.escaped == () and row.read + row.refused == row.files and row.slowest_s < 10


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_and_a_missing_file_are_told_or_read(tmp_path, name):
    path = READERS[name].prepare(tmp_path)
    content = path.read_bytes()
    if content[:1] in b"{[#ncf" and content.isascii() and name not in ("index of a dataset",):
        path.write_bytes(b"\xef\xbb\xbf" + content)
        READERS[name].read(path)
    path.unlink()
    with pytest.raises(OtaError, match=r"^[^\n]*$"):
        READERS[name].read(path)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "img"
    folder.mkdir()
    for path in sorted((find_bundle() / "samples").glob("*.png"))[:2]:
        shutil.copy(path, folder)
    return folder


def test_a_disk_that_is_full_at_any_write(tmp_path, images):
    from ota.__main__ import main

    assert main(["transmit", "--radio", f"file:{tmp_path}/tx", "--images", str(images)]) == 0
    commands = {
        "transmit": ["transmit", "--radio", "file:{out}/tx", "--images", str(images)],
        "import": ["dataset", "import", f"{tmp_path}/tx.sigmf-meta", "--layout", "paper", "--out", "{out}/set"],
    }
    for row in fill_disk(main, commands, tmp_path / "disk"):
        assert row.writes > 2 and row.tracebacks == 0 and row.nameless == 0 and row.damaged == (), row


def test_the_full_disk_is_noticed(tmp_path):
    with full_disk(1), pytest.raises(OSError, match="No space left") as caught:
        write_json(tmp_path / "a.json", {})
    assert caught.value.filename == str(tmp_path / "a.json") and not list(tmp_path.iterdir())
    with full_disk(2) as disk:
        write_bytes(tmp_path / "a", b"1")
    assert disk.writes == 1


def test_half_results_are_noticed(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    (tmp_path / "d.sigmf-meta").write_text(json.dumps({"global": {}}))
    (tmp_path / "e.html").write_text("<html>")
    (tmp_path / ".f.json.1-2.part").write_text("{")
    assert len(incomplete_results(Path(tmp_path))) == 5
