"""No output eats an input, a stranger's folder or another run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdr.errors import InputError
from sdr.outputs import (
    MARKER_NAME,
    Marker,
    check_apart,
    check_free,
    claim,
    finished_folder,
    growing_folder,
    landing,
    read_marker,
    write_marker,
)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder but the marker, with what it holds."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MARKER_NAME
    }


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.fixture
def ours(tmp_path):
    """A finished folder of ours."""
    with finished_folder(tmp_path / "out") as folder:
        make(folder, {"report.html": "old", "images/a.png": "old"})
    return tmp_path / "out"


# Apart from the inputs


NAMES = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3)


@settings(max_examples=200, deadline=None)
@given(NAMES, NAMES)
def test_only_places_apart_from_each_other_pass(tmp_path_factory, first, second):
    root = tmp_path_factory.getbasetemp() / "apart"
    out, given_path = root.joinpath(*first), root.joinpath(*second)
    overlap = first[: len(second)] == second or second[: len(first)] == first
    if overlap:
        with pytest.raises(InputError, match="lie in each other"):
            check_apart(out, [given_path])
    else:
        check_apart(out, [given_path])


@pytest.mark.parametrize("suffix", [".sigmf-meta", ".sigmf-data"])
def test_a_recording_stands_for_both_of_its_files(tmp_path, suffix):
    elsewhere = tmp_path / "elsewhere"
    make(elsewhere, {"x.sigmf-data": "samples"})
    (tmp_path / f"link{suffix}").symlink_to(elsewhere / "x.sigmf-data")
    for out in (tmp_path / "link", tmp_path / f"link{suffix}", elsewhere):
        with pytest.raises(InputError, match="lie in each other"):
            check_apart(out, [tmp_path / "link"])


def test_symbolic_links_are_followed_on_both_sides(tmp_path):
    make(tmp_path, {"runs/old/a.png": "picture"})
    (tmp_path / "alias").symlink_to("runs")
    make(tmp_path, {"picks/b.png": "picture"})
    (tmp_path / "picks/a.png").symlink_to(tmp_path / "runs/old/a.png")
    for out, read in (("alias/old", "runs/old/a.png"), ("runs/old", "alias"), ("runs/old", "picks")):
        with pytest.raises(InputError, match="lie in each other"):
            check_apart(tmp_path / out, [tmp_path / read])


@pytest.mark.parametrize("out", [".", "", "..", "../here", "sub/.."])
def test_the_working_folder_is_no_output(tmp_path, monkeypatch, out):
    (tmp_path / "here/sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(InputError, match="folder you work in"), finished_folder(Path(out)):
        raise AssertionError("no work may begin")
    assert os.listdir(".") == ["sub"]


# Folders


def test_a_folder_appears_when_it_is_finished_and_only_then(tmp_path):
    out = tmp_path / "deep/er/out"
    with finished_folder(out) as folder:
        make(folder, {"a": "1"})
        assert not out.exists()
    assert contents(out) == {"a": "1"} and read_marker(out) == Marker(frozenset({"a"}))
    assert os.listdir(out.parent) == ["out"]


def test_a_failure_leaves_nothing_not_even_the_folders_above(tmp_path):
    with pytest.raises(ZeroDivisionError), finished_folder(tmp_path / "deep/er/out") as folder:
        make(folder, {"a": "1"})
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["foreign", "file", "link", "broken link", "edited marker"])
def test_what_is_not_ours_is_refused_before_any_work(tmp_path, kind, force):
    make(tmp_path / "mine", {"thesis.txt": "years"})
    out = tmp_path / "out"
    if kind == "foreign":
        make(out, {"thesis.txt": "years"})
    elif kind == "file":
        out.write_text("years")
    elif kind == "edited marker":
        make(out, {"thesis.txt": "years", MARKER_NAME: '{"format": 1, "files": 3, "patterns": ["*"]}'})
    else:
        out.symlink_to("mine" if kind == "link" else "nowhere")
    for opened in (finished_folder(out, force), growing_folder(out, begun=False, force=force)):
        with pytest.raises(InputError, match="--out"), opened:
            raise AssertionError("no work may begin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]
    assert contents(tmp_path / "mine") == {"thesis.txt": "years"}
    assert not out.is_dir() or out.is_symlink() or contents(out) == {"thesis.txt": "years"}


def test_a_result_of_ours_is_replaced_with_force_alone(ours):
    with pytest.raises(InputError, match="--force"), finished_folder(ours):
        raise AssertionError("no work may begin")
    with finished_folder(ours, force=True) as folder:
        make(folder, {"report.html": "new"})
        assert contents(ours) == {"report.html": "old", "images/a.png": "old"}
    assert contents(ours) == {"report.html": "new"} and not (ours / "images").exists()


FILES = st.dictionaries(
    st.sampled_from(["report.html", "images/a.png", "notes", "images/n", "deep/er/n"]), st.just("y")
)


@settings(max_examples=60, deadline=None)
@given(before=FILES, meanwhile=FILES)
def test_files_of_others_outlive_force_and_the_time_between(tmp_path_factory, before, meanwhile):
    root = tmp_path_factory.mktemp("survive")
    out = root / "out"
    with finished_folder(out) as folder:
        make(folder, {"report.html": "old", "images/a.png": "old"})
    known = {"report.html", "images/a.png"}
    yours = {name: text for name, text in {**before, **meanwhile}.items() if name not in known}
    make(out, {name: "y" for name in before if name not in known})
    with finished_folder(out, force=True) as folder:
        make(folder, {"report.html": "new"})
        make(out, {name: "y" for name in meanwhile if name not in known})
    assert contents(out) == {"report.html": "new", **yours} and os.listdir(root) == ["out"]


def test_files_of_others_that_the_result_has_too_are_kept_beside(ours):
    make(ours, {"notes": "yours"})
    with pytest.raises(InputError, match="out-1"), finished_folder(ours, force=True) as folder:
        make(folder, {"notes": "ours"})
    assert contents(ours) == {"notes": "ours"} and contents(ours.with_name("out-1")) == {"notes": "yours"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_appears_meanwhile_survives_and_so_does_the_result(tmp_path, kind, force):
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"The result is in .*out-1"), finished_folder(out, force) as folder:
        make(folder, {"a": "result"})
        if kind == "folder":
            make(out, {"thesis.txt": "years"})
        elif kind == "file":
            out.write_text("years")
        else:
            out.symlink_to("elsewhere")
    assert contents(tmp_path / "out-1") == {"a": "result"}
    assert out.is_symlink() or (
        contents(out) == {"thesis.txt": "years"} if out.is_dir() else out.read_text() == "years"
    )


def test_a_marker_can_not_reach_out_of_its_folder(tmp_path, ours):
    make(tmp_path, {"thesis.txt": "years"})
    (ours / "images/link").symlink_to(tmp_path)
    listed = [f"{tmp_path}/thesis.txt", "../thesis.txt", "images/link", "images/link/thesis.txt"]
    write_marker(ours, Marker(frozenset(listed), ("*",)))
    with finished_folder(ours, force=True) as folder:
        make(folder, {"a": "1"})
    assert contents(tmp_path / "out") == {"a": "1"} and (tmp_path / "thesis.txt").read_text() == "years"


def test_a_growing_folder_is_gone_on_with_and_begun_anew_by_force(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ZeroDivisionError), growing_folder(out, begun=False, patterns=["parts/*"]):
        raise ZeroDivisionError
    assert not out.exists()
    with growing_folder(out, begun=False, patterns=["parts/*"]):
        make(out, {"parts/1": "1"})
    make(out, {"notes": "yours"})
    with growing_folder(out, begun=True, patterns=["parts/*"]):
        assert contents(out) == {"parts/1": "1", "notes": "yours"}
    with growing_folder(out, begun=True, patterns=["parts/*"], force=True):
        assert contents(out) == {"notes": "yours"}


# One writer a name


CLAIM = "import sys, time; from pathlib import Path; from sdr.outputs import claim\n"
CLAIM += "with claim(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_and_a_killed_one_forgotten(tmp_path):
    out = tmp_path / "out"
    holder = subprocess.Popen([sys.executable, "-c", CLAIM, out], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        for opened in (finished_folder(out), growing_folder(out, begun=False), claim(out)):
            with pytest.raises(InputError, match="Another process"), opened:
                raise AssertionError("no work may begin")
    finally:
        holder.kill()
        holder.wait()
    with finished_folder(out) as folder:
        make(folder, {"a": "1"})
    assert os.listdir(tmp_path) == ["out"]


RACE = "import os, sys; from pathlib import Path; from sdr.outputs import finished_folder\n"
RACE += "sys.stdin.read()\nwith finished_folder(Path(sys.argv[1])) as f:\n (f / str(os.getpid())).write_text('x')"


def test_of_many_that_start_at_once_the_first_result_stays(tmp_path):
    runs = [
        subprocess.Popen([sys.executable, "-c", RACE, tmp_path / "out"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(6)
    ]
    for run in runs:
        assert run.stdin is not None
        run.stdin.close()
    won = [str(run.pid) for run in runs if run.wait(30) == 0]
    for run in runs:
        assert run.stderr is not None
        told = run.stderr.read()
        assert run.returncode == 0 or b"InputError" in told
        run.stderr.close()
    assert len(won) == 1 and list(contents(tmp_path / "out")) == won
    assert os.listdir(tmp_path) == ["out"]


# Files


def test_files_are_free_or_may_be_replaced(tmp_path):
    make(tmp_path, {"a": "1"})
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "broken").symlink_to("nowhere")
    check_free([tmp_path / "new", tmp_path / "a"], force=True)
    for name, force in (("a", False), ("link", True), ("broken", True), ("", True)):
        with pytest.raises(InputError):
            check_free([tmp_path / "new", tmp_path / name], force)


def test_finished_files_land_beside_what_appeared(tmp_path):
    with landing(tmp_path / "x", (".json",), force=False) as stem:
        make(tmp_path, {f"{stem.name}.json": "1"})
    with pytest.raises(InputError, match="x-1"), landing(tmp_path / "x", (".json",), force=False) as stem:
        make(tmp_path, {f"{stem.name}.json": "2"})
    with landing(tmp_path / "x", (".json",), force=True) as stem:
        make(tmp_path, {f"{stem.name}.json": "3"})
    assert contents(tmp_path) == {"x.json": "3", "x-1.json": "2"}


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_no_content_of_a_marker_is_trusted(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("marker")
    (folder / MARKER_NAME).write_text(json.dumps(content))
    assert read_marker(folder) is None
