"""Every verb that writes: no output eats an input, what is there, or what another process writes."""

import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ota.__main__ import app, main
from sdr.errors import InputError

#: Per verb that writes: options that it could begin to work with, but for --out, and the kind of its output. {tmp} is a
#: folder with images/, tx.sigmf-*, tx.layout.json, plan.toml, sweep.toml and dataset/.
WRITERS: dict[str, tuple[str, str]] = {
    "demo": ("--images {tmp}/images --radio sim:csnr_db=20", "folder"),
    "transmit": ("--radio zmq:tx=tcp://127.0.0.1:1 --images {tmp}/images", "layout"),
    "record": ("--radio sim:csnr_db=20 --images {tmp}/images", "recording"),
    "record --plan": ("--plan {tmp}/plan.toml", "grown"),
    "record --rotate-mb": ("--radio sim:csnr_db=20 --images {tmp}/images --rotate-mb 1 --seconds 0.01", "grown"),
    "decode": ("{tmp}/tx --layout {tmp}/tx.layout.json --method jscc", "folder"),
    "decode dataset": ("{tmp}/dataset --method jscc", "grown"),
    "sweep": ("{tmp}/sweep.toml --n 2", "grown"),
    "calibrate": ("--radio sim:csnr_db=20 --frames 16 --part frequency", "profile"),
    "report": ("{tmp}/run", "folder"),
    "bench modem": ("--quick", "folder"),
    "bench decoding": ("--quick", "folder"),
    "bench photo": ("--bundle photo --images {tmp}/images", "folder"),
    "bench sampler": ("--quick", "folder"),
    "bench recording": ("--seconds 0.1", "folder"),
    "bench separation": ("--blocks 12", "folder"),
    "bench faults": ("--count 10 --no-disk --kills 0", "folder"),
    "bench soak": ("--minutes 0", "folder"),
    "bench live": ("--minutes 0.02", "folder"),
    "bundle import": ("--codec {tmp}/tx.layout.json --family adjscc", "grown"),
    "live": ("--radio sim: --port 0", "grown"),
    "dataset import": ("{tmp}/tx.sigmf-meta --layout paper", "grown"),
    "train codec": ("--steps 1", "grown"),
    "train prior": ("--steps 1", "grown"),
    "train realism": ("--steps 1", "grown"),
    "train codebook": ("", "grown"),
    "train mixture": ("", "grown"),
    "train covariance": ("", "grown"),
    "train confidence": ("--steps 1", "grown"),
    "train photographs": ("", "grown"),
}
FORCED = [name for name in WRITERS if WRITERS[name][1] != "grown" or name == "sweep"]


def verbs():
    """Every verb of the command line that has an --out: its words, and the function behind it."""
    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    commands = {
        f"{prefix}{command.name}": command.callback for prefix, group in groups for command in group.registered_commands
    }
    return {name: verb for name, verb in commands.items() if "out" in inspect.signature(verb).parameters}


def words(name: str) -> list[str]:
    return {"decode dataset": ["decode"], "record --plan": ["record"], "record --rotate-mb": ["record"]}.get(
        name, name.split()
    )


def test_every_verb_that_writes_is_tested_here():
    assert {" ".join(words(name)) for name in WRITERS} == set(verbs())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, samples, sent):
    """A folder with an input of every kind."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "images").mkdir()
    shutil.copy(next(samples.glob("*.png")), folder / "images")
    for suffix in (".sigmf-meta", ".sigmf-data", ".layout.json"):
        shutil.copy(f"{sent}{suffix}", folder / f"tx{suffix}")
    plan = f'name = "p"\nradio = "sim:csnr_db=20"\nimages = "{folder}/images"\ncsnr_db = [20]\n'
    (folder / "plan.toml").write_text(plan)
    (folder / "sweep.toml").write_text('name = "s"\ncsnr_db = [10]\nmethods = ["jscc"]\n')
    assert main(["dataset", "import", f"{sent}.sigmf-meta", "--layout", "paper", "--out", f"{folder}/dataset"]) == 0
    decode = ["decode", str(sent), "--layout", f"{sent}.layout.json", "--method", "jscc"]
    assert main([*decode, "--out", f"{folder}/run"]) == 0
    return folder


@pytest.fixture
def inputs(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "in"))


def line(name: str, inputs: Path, out: Path, *more: str) -> list[str]:
    return [*words(name), *WRITERS[name][0].format(tmp=inputs).split(), "--out", str(out), *more]


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: what files hold, and where links lead."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("name", verbs())
def test_no_output_and_input_may_lie_in_each_other(tmp_path, name):
    verb, folder = verbs()[name], tmp_path / "work" / "deep"
    folder.mkdir(parents=True)
    (folder / "a.toml").write_text("once in a lifetime")
    given = inspect.signature(verb, eval_str=True).parameters
    paths = {key: folder for key in given if key != "out" and "Path" in str(given[key].annotation)}
    for key, value in {**paths, **named_files(given, str(folder))}.items():
        value = [value] if "list" in str(given[key].annotation) else value
        for out in (folder, folder.parent, folder / "inside"):
            with pytest.raises(InputError, match="lie in each other"):
                verb(out=out, **{key: value})
    assert snapshot(tmp_path) == {"work/deep/a.toml": b"once in a lifetime"}


def named_files(given, path: str) -> dict[str, str]:
    """Options that name a file without being a path, each with a value that names one."""
    models = {name: path for name in ("layout", "bundle", "start")}
    radios = {name: f"file:{path}" for name in ("radio", "rx", "rx_radio")}
    return {name: value for name, value in {**models, **radios}.items() if name in given}


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_no_command_line_removes_what_it_reads(refused, inputs, force):
    before = snapshot(inputs)
    decode = ["decode", inputs / "tx", "--layout", inputs / "tx.layout.json", "--method", "jscc", "--out"]
    for out, *more in ((inputs,), (inputs / "o", "--truth", inputs), (inputs / "images", "--truth", inputs / "images")):
        assert "lie in each other" in refused(*decode, out, *more, *force)
    for name in ("sweep", "transmit"):
        assert "lie in each other" in refused(*line(name, inputs, inputs, *force))
    assert snapshot(inputs) == before


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_there_is_refused_before_any_work(refused, inputs, tmp_path, name):
    kind, out = WRITERS[name][1], tmp_path / "out"
    thing = {"recording": "out.sigmf-data", "layout": "out/layout.json", "profile": "out.toml"}.get(kind, "out/thesis")
    (tmp_path / thing).parent.mkdir(exist_ok=True)
    (tmp_path / thing).write_text("years")
    before = snapshot(tmp_path)
    target = out.with_suffix(".toml") if kind == "profile" else out
    told = refused(*line(name, inputs, target))
    assert "--out" in told and snapshot(tmp_path) == before
    if kind == "folder" or name == "sweep":
        assert "remove it yourself" in refused(*line(name, inputs, target, "--force"))
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", WRITERS)
def test_a_link_and_the_working_folder_are_no_output(refused, inputs, tmp_path, monkeypatch, name):
    kind = WRITERS[name][1]
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path / "target")
    refused(*line(name, inputs, Path(".")))
    link = {"recording": "out.sigmf-data", "layout": "out/layout.json", "profile": "out.toml"}.get(kind, "out")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to("elsewhere" if "." in link else "target")
    before = snapshot(tmp_path)
    out = tmp_path / ("out.toml" if kind == "profile" else "out")
    told = refused(*line(name, inputs, out, *(["--force"] if name in FORCED else [])))
    assert "link" in told or "not a folder" in told
    assert snapshot(tmp_path) == before and os.listdir(tmp_path / "target") == []


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_in_the_way_is_named(refused, inputs, tmp_path, name):
    (tmp_path / "file").write_text("years")
    told = refused(*line(name, inputs, tmp_path / "file" / "sub" / ("out.toml" if name == "calibrate" else "out")))
    assert str(tmp_path / "file") in told and "is a file" in told
    assert (tmp_path / "file").read_text() == "years"


HOLD = "import sys, time; from pathlib import Path; from sdr.outputs import claim\n"
HOLD += "with claim(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"


def test_of_two_processes_with_one_output_the_second_is_refused(refused, inputs, tmp_path):
    for number, name in enumerate(WRITERS):
        out = tmp_path / (f"{number}.toml" if WRITERS[name][1] == "profile" else str(number))
        held = out / "layout.json" if WRITERS[name][1] == "layout" else out
        holder = subprocess.Popen([sys.executable, "-c", HOLD, held], stdout=subprocess.PIPE)
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            assert "Another process is writing" in refused(*line(name, inputs, out)), name
        finally:
            holder.kill()
            holder.communicate()


def test_a_capture_is_not_transmitted_over(refused, ota, inputs):
    before = snapshot(inputs)
    transmit = ["transmit", "--images", inputs / "images", "--radio"]
    assert "--force" in refused(*transmit, f"file:{inputs}/tx")
    (inputs / "heard.layout.json").write_text("my layout")
    assert "--force" in refused(*transmit, f"file:{inputs}/heard")
    record = ["record", "--radio", "sim:csnr_db=20", "--images", inputs / "images", "--out", inputs / "heard"]
    assert "--force" in refused(*record)
    assert snapshot(inputs) == {**before, "heard.layout.json": b"my layout"}
    assert ota(*transmit, f"file:{inputs}/tx", "--force").code == 0
    assert snapshot(inputs)["tx.sigmf-data"] != before["tx.sigmf-data"]
    assert "--force" in refused(
        "demo", "--radio", f"file:{inputs}/tx", "--images", inputs / "images", "--out", inputs / "o"
    )


def test_captures_of_others_are_no_leftovers_of_a_dataset(ota, refused, inputs):
    strange = inputs / "dataset" / "mine.sigmf-data"
    strange.write_bytes(b"once in a lifetime")
    again = ["dataset", "import", inputs / "tx.sigmf-meta", "--layout", "paper", "--out"]
    assert ota(*again, inputs / "dataset").code == 0
    assert strange.read_bytes() == b"once in a lifetime"
    assert "lie in each other" in refused(*again, inputs)
