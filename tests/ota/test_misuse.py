"""Bad input of every kind ends in one line, exit status 2, and nothing half-written."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from receiver.bundles.bundle import find_bundle

ROOT = Path(__file__).resolve().parents[2]


def write_capture(stem: Path, samples: np.ndarray, **changes: object) -> Path:
    samples.tofile(f"{stem}.sigmf-data")
    info = {"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.0.0", **changes}
    Path(f"{stem}.sigmf-meta").write_text(json.dumps({"global": info, "captures": [{}], "annotations": []}))
    return stem


def good(sent: Path) -> np.ndarray:
    return np.fromfile(f"{sent}.sigmf-data", dtype="<c8")


def copy_of(sent: Path, folder: Path) -> Path:
    for suffix in (".sigmf-data", ".sigmf-meta"):
        (folder / f"rx{suffix}").write_bytes(Path(f"{sent}{suffix}").read_bytes())
    return folder / "rx"


def truncated(sent: Path, folder: Path) -> Path:
    path = copy_of(sent, folder)
    data = Path(f"{path}.sigmf-data")
    data.write_bytes(data.read_bytes()[:-80_000])
    return path


def cut_inside_a_sample(sent: Path, folder: Path) -> Path:
    path = write_capture(folder / "rx", good(sent))
    data = Path(f"{path}.sigmf-data")
    data.write_bytes(data.read_bytes()[:-3])
    return path


def corrupted(sent: Path, folder: Path) -> Path:
    path = copy_of(sent, folder)
    data = bytearray(Path(f"{path}.sigmf-data").read_bytes())
    data[10_000] ^= 0x40
    Path(f"{path}.sigmf-data").write_bytes(data)
    return path


def data_missing(sent: Path, folder: Path) -> Path:
    path = copy_of(sent, folder)
    Path(f"{path}.sigmf-data").unlink()
    return path


def metadata_missing(sent: Path, folder: Path) -> Path:
    path = copy_of(sent, folder)
    Path(f"{path}.sigmf-meta").unlink()
    return path


def metadata_no_json(sent: Path, folder: Path) -> Path:
    path = copy_of(sent, folder)
    Path(f"{path}.sigmf-meta").write_text('{"global": ')
    return path


def wrong_datatype(sent: Path, folder: Path) -> Path:
    return write_capture(folder / "rx", good(sent), **{"core:datatype": "cf16_le"})


def wrong_rate(sent: Path, folder: Path) -> Path:
    return write_capture(folder / "rx", good(sent), **{"core:sample_rate": 2e6})


def not_a_number(sent: Path, folder: Path) -> Path:
    samples = good(sent)
    samples[4321] = np.nan
    return write_capture(folder / "rx", samples)


def empty(sent: Path, folder: Path) -> Path:
    return write_capture(folder / "rx", np.zeros(0, "<c8"))


def silent(sent: Path, folder: Path) -> Path:
    return write_capture(folder / "rx", np.zeros(50_000, "<c8"))


def only_noise(sent: Path, folder: Path) -> Path:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(50_000) + 1j * rng.standard_normal(50_000)
    return write_capture(folder / "rx", (0.1 * noise).astype("<c8"))


RECORDINGS = [
    (truncated, "truncated"),
    (cut_inside_a_sample, "truncated"),
    (corrupted, "corrupted"),
    (data_missing, "rx.sigmf-data"),
    (metadata_missing, "rx.sigmf-meta"),
    (metadata_no_json, "JSON"),
    (wrong_datatype, "cf32_le"),
    (wrong_rate, "samples per second"),
    (not_a_number, "4321"),
    (empty, "empty"),
    (silent, "No preamble"),
    (only_noise, "No preamble"),
]


@pytest.mark.parametrize(("spoil", "says"), RECORDINGS, ids=[spoil.__name__ for spoil, _ in RECORDINGS])
def test_a_bad_recording(refused, sent, tmp_path, spoil, says):
    recording, out = spoil(sent, tmp_path), tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    line = refused("decode", recording, "--layout", f"{sent}.layout.json", "--method", "jscc", "--out", out, "--json")
    assert says in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_layout_that_does_not_match(refused, sent, tmp_path):
    line = refused("decode", sent, "--layout", "air", "--method", "jscc", "--out", tmp_path / "out")
    assert "layout" in line and not (tmp_path / "out").exists()


def test_a_layout_that_does_not_match_and_nothing_says_so(refused, sent, tmp_path):
    path = write_capture(tmp_path / "rx", good(sent))
    line = refused("decode", path, "--layout", "air", "--method", "jscc", "--out", tmp_path / "out")
    assert "layout" in line and not (tmp_path / "out").exists()


class _Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def truncate_weights(bundle: Path) -> None:
    path = bundle / "codec.safetensors"
    path.write_bytes(path.read_bytes()[:-4000])


def cut_weights_in_their_header(bundle: Path) -> None:
    path = bundle / "prior.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def pickle_code(bundle: Path) -> None:
    (bundle / "prior.safetensors").write_bytes(pickle.dumps(_Trap(bundle / "sprung")))


def save_code_with_torch(bundle: Path) -> None:
    torch.save({"codec": _Trap(bundle / "sprung")}, bundle / "codec.safetensors")


def enlarge_the_prior(bundle: Path) -> None:
    """The prior is convolutional: its weights fit images of any size."""
    path = bundle / "bundle.toml"
    sections = tomllib.loads(path.read_text())
    sections["prior"]["image_shape"] = [1, 64, 64]
    text = "".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())
        for name, section in sections.items()
    )
    path.write_text(text)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (truncate_weights, "codec.safetensors is damaged"),
        (cut_weights_in_their_header, "prior.safetensors is damaged"),
        (pickle_code, "prior.safetensors is damaged"),
        (save_code_with_torch, "codec.safetensors is damaged"),
        (enlarge_the_prior, "don't fit each other"),
    ],
)
def test_a_bad_bundle(refused, sent, tmp_path, spoil, says):
    bundle = tmp_path / "bundle"
    shutil.copytree(find_bundle(), bundle, ignore=shutil.ignore_patterns("samples"))
    spoil(bundle)
    layout = f"{sent}.layout.json"
    line = refused("decode", sent, "--layout", layout, "--bundle", bundle, "--out", tmp_path / "out")
    assert says in line and not (tmp_path / "out").exists()
    assert not (bundle / "sprung").exists(), "nothing in a weights file may run"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--layout", "papper"), "paper"),
        (("--layout", "nowhere.json"), "nowhere.json"),
        (("--method", "hify"), "hifi"),
        (("--bundle", "cats"), "fashion"),
        (("--device", "warp"), "--device"),
        (("--truth", "/nowhere"), "/nowhere"),
        (("--steps", "0"), "--steps"),
        (("--draws", "0"), "--draws"),
        (("--colour", "red"), "--colour"),
    ],
)
def test_a_bad_option(refused, sent, tmp_path, options, says):
    given = {"--layout": f"{sent}.layout.json", "--method": "jscc", "--out": tmp_path / "out"}
    given[options[0]] = options[1]
    line = refused("decode", sent, *[word for pair in given.items() for word in pair])
    assert says in line and not (tmp_path / "out").exists()


def test_training_on_a_device_that_is_not_there(refused, tmp_path):
    assert "--device" in refused("train", "prior", "--device", "warp", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_blind_layouts_need_a_blind_method(refused, ota, samples, tmp_path):
    assert ota("transmit", "--radio", f"file:{tmp_path}/tx", "--layout", "blind", "--images", samples).code == 0
    line = refused("decode", tmp_path / "tx", "--layout", tmp_path / "tx.layout.json", "--out", tmp_path / "out")
    assert "blind" in line


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("flie:tx", "file"),
        ("sim:csnr=10", "csnr_db"),
        ("zmq:rx=localhost", "tcp://"),
        ("sim:csnr_db=loud", "csnr_db"),
        ("tx", "file"),
    ],
)
def test_a_uri_with_a_typo(refused, samples, tmp_path, uri, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = refused("transmit", "--radio", uri, "--images", samples)
    assert says in line and not list(tmp_path.iterdir())


def test_an_image_folder_with_a_text_file(refused, samples, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in samples.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("remember the milk")
    assert "notes.txt" in refused("transmit", "--radio", f"file:{tmp_path}/tx", "--images", folder)
    (folder / "notes.txt").rename(folder / "notes.png")
    assert "notes.png" in refused("transmit", "--radio", f"file:{tmp_path}/tx", "--images", folder)
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_a_missing_gnuradio(refused, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", "/nowhere/python3")
    line = refused("demo", "--images", samples, "--out", tmp_path / "out")
    assert "/nowhere/python3" in line and not list(tmp_path.iterdir())


def test_a_recording_is_not_overwritten(refused, samples, sent):
    before = Path(f"{sent}.sigmf-data").read_bytes()
    assert "--force" in refused("record", "--radio", "sim:csnr_db=10", "--images", samples, "--out", sent)
    assert Path(f"{sent}.sigmf-data").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name = ", "TOML"),
        ('name = "x"\ncsnr_db = [1]', "methods"),
        ('name = "x"\ncsnr_db = [1]\nmethods = ["hify"]', "hifi"),
        ('name = "x"\ncsnr_db = [1]\nmethods = ["jscc"]\ncolour = 1', "colour"),
        ('name = "x"\ncsnr_db = "1"\nmethods = ["jscc"]', "csnr_db"),
        ('name = "x"\ncsnr_db = [true]\nmethods = ["jscc"]', "csnr_db"),
        ('name = "../x"\ncsnr_db = [1]\nmethods = ["jscc"]', "name"),
        ('name = "x"\ncsnr_db = [1]\nmethods = ["hifi:zetta=1"]', "zeta"),
        ('name = "x"\ncsnr_db = [1]\nmethods = ["jscc"]\n[[conditions]]\nname = "a"\nclip_ratio = -1', "clip_ratio"),
    ],
)
def test_a_bad_experiment(refused, tmp_path, text, says):
    (tmp_path / "bad.toml").write_text(text)
    assert says in refused("sweep", tmp_path / "bad.toml", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_of_no_run(refused, tmp_path):
    assert "run.json" in refused("report", tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert "run.json" in refused("report", tmp_path)


def processes_of(module: str, parent: int) -> list[int]:
    """Children of `parent` that run `module`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            ppid = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if ppid == parent and module.encode() in words:
            found.append(int(entry.name))
    return found


def wait_for(module: str, demo: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and demo.poll() is None:
        if found := processes_of(module, demo.pid):
            return found[0]
        time.sleep(0.005)
    raise AssertionError(f"{module} did not start: {demo.communicate()[1]}")


def start_demo(samples: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ota", "demo", "--images", str(samples), "--out", str(out), "--method", "jscc"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_flowgraph_killed_in_mid_burst(samples, tmp_path):
    demo = start_demo(samples, tmp_path / "out")
    wait_for("flowgraphs.channel", demo)
    transmit = processes_of("flowgraphs.transmit", demo.pid)[0]
    os.kill(transmit, signal.SIGSTOP)  # the burst can't end before the receiver is there
    try:
        wait_for("flowgraphs.receive", demo)
        os.kill(processes_of("flowgraphs.channel", demo.pid)[0], signal.SIGKILL)
    finally:
        os.kill(transmit, signal.SIGCONT)
    out, err = demo.communicate(timeout=90)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert demo.returncode == 2 and len(errors) == 1 and "channel" in errors[0], err
    assert "Traceback" not in err and out == ""
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_demo_leaves_nothing_behind(samples, tmp_path, number, code):
    demo = start_demo(samples, tmp_path / "out")
    transmit = wait_for("flowgraphs.transmit", demo)
    os.kill(transmit, signal.SIGSTOP)  # the demo can't end before it is interrupted
    demo.send_signal(number)
    os.kill(transmit, signal.SIGCONT)
    _, err = demo.communicate(timeout=90)
    assert demo.returncode == code and "Traceback" not in err, err
    assert not list(tmp_path.iterdir())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{transmit}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{transmit}").exists()


def test_the_shipped_samples_are_what_the_demo_sends():
    assert len(list((find_bundle() / "samples").glob("*.png"))) == 64
