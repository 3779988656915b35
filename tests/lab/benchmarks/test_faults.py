"""Every reader tells a broken file in one line, and a full disk leaves nothing half-written under a final name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lab.benchmarks.faults import fill_disk, full_disk, fuzz, incomplete_results
from lab.benchmarks.kills import kill_verbs
from lab.benchmarks.readers import READERS
from lab.benchmarks.soak import growth, soak
from lab.benchmarks.writing_verbs import WRITING_VERBS, filled, prepare_inputs
from ota.__main__ import main
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


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    prepare_inputs(folder, main)
    return folder


#: Verbs that make few writes: every write of theirs fails here, of the others in `ota bench faults`.
FEW_WRITES = ("transmit", "record", "dataset import", "report", "bundle import")


@pytest.mark.parametrize("verb", FEW_WRITES)
def test_a_disk_that_is_full_at_any_write(verb, inputs, tmp_path):
    (row,) = fill_disk(main, {verb: WRITING_VERBS[verb]}, inputs, tmp_path / "disk")
    assert row.writes > 1 and row.tracebacks == 0 and row.nameless == 0 and row.damaged == (), row


@pytest.mark.parametrize("verb", WRITING_VERBS)
def test_every_command_line_succeeds_and_leaves_whole_results(verb, inputs, tmp_path):
    assert main(filled(WRITING_VERBS[verb], inputs, tmp_path)) == 0
    assert any(tmp_path.iterdir()) and incomplete_results(tmp_path) == []


def test_a_killed_verb_leaves_nothing_half_written(inputs, tmp_path):
    (row,) = kill_verbs({"transmit": WRITING_VERBS["transmit"]}, inputs, tmp_path / "out", 1)
    assert row.kills == 1 and row.problems == ()


def test_kills_that_do_damage_are_noticed(monkeypatch, inputs, tmp_path):
    """A verb that writes under its final name bit by bit, and over its input."""
    script = tmp_path / "verb.py"
    runs = tmp_path / "runs"
    # Its first run takes 2 s, its second lasts until it is killed, its third ends at once.
    script.write_text(
        "import sys, time\nfrom pathlib import Path\n"
        f"runs = Path({str(runs)!r})\nrun = runs.stat().st_size if runs.exists() else 0\n"
        "open(runs, 'a').write('x')\n"
        "open(sys.argv[2], 'w').write('{')\nopen(sys.argv[1], 'a').write('x')\ntime.sleep((2, 600, 0)[run])\n"
        "open(sys.argv[2], 'w').write('{}')\n"
    )
    words = [sys.executable, "-S", "-E", str(script)]
    start = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda line, **more: start([*words, *line[3:]], **more))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("years")
    (row,) = kill_verbs({"bad": "{in}/a.txt {out}/b.json"}, tmp_path / "in", tmp_path / "out", 1, seed=3)
    assert (row.lost_inputs, row.damaged, row.stuck) == (1, 1, 0) and runs.read_text() == "xxx"


def test_a_soak_tells_what_grows(tmp_path):
    result = soak(main, tmp_path, 0.0)
    assert result.rounds == 1 and result.images == 12 and result.missing == 0 and result.failures == ()
    assert [row.process for row in result.processes] == ["ota", "emulated Pluto", "emulated USRP"]
    hours = np.linspace(0, 1, 40)
    values = np.stack([3600 * hours, 100 + 7 * hours, 5 + (hours > 0.9), np.full(40, 3)], axis=1)
    row = growth("leaking", values)
    assert abs(row.growth_mb_per_hour - 7) < 0.01 and row.descriptors == (5, 6) and row.threads == (3, 3)


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
