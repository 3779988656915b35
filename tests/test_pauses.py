"""The suite itself: what failed while the machine paused is run again, and nothing else is."""

import subprocess
import sys
from pathlib import Path

TESTS = """
import os, subprocess, time
import pytest

runs = {"paused": 0, "steady": 0, "fixture": 0}


def pause():
    me = os.getpid()
    subprocess.run(["sh", "-c", f"kill -STOP {me}; sleep 0.5; kill -CONT {me}"])
    time.sleep(0.05)


@pytest.fixture(scope="module")
def opened():
    runs["fixture"] += 1
    if runs["fixture"] == 1:
        pause()
        raise OSError("lost")


def test_a_fixture_is_made_anew(opened):
    pass


def test_paused():
    runs["paused"] += 1
    if runs["paused"] == 1:
        pause()
        assert False


def test_always_paused():
    pause()
    assert False


def test_steady():
    runs["steady"] += 1
    assert False


def test_how_often():
    assert runs == {"paused": 2, "steady": 1, "fixture": 2}
"""


def test_only_what_paused_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(TESTS)
    options = ("-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "-c", "/dev/null", f"--rootdir={tmp_path}")
    command = [sys.executable, "-m", "pytest", *options, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=60)
    assert "2 failed, 3 passed" in result.stdout, result.stdout
    failed = [line.rpartition("::")[2].split()[0] for line in result.stdout.splitlines() if line.startswith("FAILED")]
    assert failed == ["test_always_paused", "test_steady"]
    lines = [line for line in result.stdout.splitlines() if "the machine paused for" in line]
    assert [line.split("::")[1].split(":")[0] for line in lines] == [
        "test_a_fixture_is_made_anew", "test_paused", "test_always_paused", "test_always_paused",
    ]  # fmt: skip
