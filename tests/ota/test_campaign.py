"""Campaigns from the command line: resumable, safe against kill -9, over every radio that sends and receives."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from lab.experiments.campaign import Campaign, load_campaign
from receiver.images.files import from_png
from sdr.errors import ConfigError
from sdr.recordings.dataset import read_index, read_truth
from sdr.recordings.foreign import resample
from sdr.recordings.reading import read_recording
from sdr.recordings.verify import verify_dataset

PLAN = """
name = "camp"
radio = "sim:taps=8,decay=4,cfo_hz=300"
csnr_db = [5, 15]
images = "{images}"
images_per_capture = 3
repetitions = {repetitions}
seed = 3
"""


@pytest.fixture
def plan(tmp_path: Path, samples: Path) -> Path:
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(images=samples, repetitions=2))
    return path


def essence(folder: Path) -> list[dict[str, Any]]:
    """The index without what a clock or an interruption may change."""
    timed = ("utc", "meta_sha512")
    rows = sorted(read_index(folder), key=lambda row: row.number)
    return [{key: value for key, value in asdict(row).items() if key not in timed} for row in rows]


def test_a_campaign_is_recorded_once_and_again_alike(ota: Callable, plan: Path, tmp_path: Path) -> None:
    first = ota("record", "--plan", plan, "--out", tmp_path / "a", "--json").json
    assert first["captures"] == first["recorded"] == 4
    assert ota("record", "--plan", plan, "--out", tmp_path / "a", "--json").json["recorded"] == 0
    ota("record", "--plan", plan, "--out", tmp_path / "b", "--json")
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
    assert verify_dataset(tmp_path / "a") == []
    for row in read_index(tmp_path / "a"):
        truth = read_truth(tmp_path / "a", row)
        assert truth["z"].shape[0] == 3 and truth["images"].dtype == np.uint8
    digests = {row["data_sha512"] for row in essence(tmp_path / "a")}
    assert len(digests) == 4, "every capture has a channel and noise of its own"


def test_killed_at_any_moment_it_ends_alike(plan: Path, tmp_path: Path, samples: Path, ota: Callable) -> None:
    # Of two antennas: more of each capture can be half-written.
    plan.write_text(PLAN.format(images=samples, repetitions=12).replace("cfo_hz=300", "cfo_hz=300,rx=2"))
    assert ota("record", "--plan", plan, "--out", tmp_path / "calm").code == 0
    command = [sys.executable, "-m", "ota", "record", "--plan", str(plan), "--out", str(tmp_path / "killed")]
    index, chance = tmp_path / "killed" / "index.jsonl", random.Random(1)
    for aim in (3, 9):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if index.is_file() and index.read_bytes().count(b"\n") >= aim:
                break
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=30) == -signal.SIGKILL, "it finished before it could be killed"
    assert ota("record", "--plan", plan, "--out", tmp_path / "killed").code == 0
    assert essence(tmp_path / "killed") == essence(tmp_path / "calm")
    assert verify_dataset(tmp_path / "killed") == []


def test_another_plan_is_refused_in_the_same_folder(
    ota: Callable, refused: Callable, plan: Path, tmp_path: Path
) -> None:
    ota("record", "--plan", plan, "--out", tmp_path / "a")
    plan.write_text(plan.read_text().replace("seed = 3", "seed = 4"))
    assert "seed changed" in refused("record", "--plan", plan, "--out", tmp_path / "a")


def test_over_a_file_and_over_zmq(ota: Callable, plan: Path, tmp_path: Path) -> None:
    by_file = ota("record", "--plan", plan, "--radio", f"file:{tmp_path}/air", "--out", tmp_path / "f", "--json")
    assert by_file.json["captures"] == 4 and by_file.json["unhealthy"] == 0, by_file
    zmq = pytest.importorskip("zmq")
    context = zmq.Context()
    heard, said = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (heard, said)]
    # What an interrupted recorder has left in the pipe: noise, and a part of a capture's length.
    stale = np.random.default_rng(0).normal(scale=0.1, size=2 * 777).astype("<f4").tobytes()

    def echo() -> None:
        said.send(stale)
        try:
            while True:
                said.send(heard.recv())
        except zmq.ContextTerminated:
            for socket in (heard, said):
                socket.close(0)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        radio = f"zmq:tx=tcp://127.0.0.1:{ports[0]},rx=tcp://127.0.0.1:{ports[1]},timeout_s=0.5"
        plan.write_text(plan.read_text() + "require_frames = true\n")
        by_zmq = ota("record", "--plan", plan, "--radio", radio, "--out", tmp_path / "z", "--json")
        assert by_zmq.code == 0, by_zmq.err
    finally:
        context.term()
        thread.join()
    result = by_zmq.json
    assert result["captures"] == 4 and result["unhealthy"] == 0 and result["repeated"] >= 1
    one, other = ({row["number"]: row["data_sha512"] for row in essence(tmp_path / name)} for name in "fz")
    assert one == other, "both radios give back what was sent"


def test_the_health_gate_repeats_and_in_the_end_marks(ota: Callable, plan: Path, tmp_path: Path) -> None:
    plan.write_text(plan.read_text().replace("cfo_hz=300", "gain_db=60"))
    answer = ota("record", "--plan", plan, "--out", tmp_path / "loud", "--json").json
    assert answer["repeated"] == 4 * 2 and answer["unhealthy"] == 4
    assert all(
        not row.healthy and "clipped" in row.warnings and row.attempt == 2 for row in read_index(tmp_path / "loud")
    )


@pytest.mark.parametrize("antennas", [1, 2])
def test_a_stream_rotates(ota: Callable, tmp_path: Path, samples: Path, antennas: int) -> None:
    radio, seconds = f"sim:csnr_db=20,rx={antennas}", 2.5 / antennas
    answer = ota(
        *("record", "--radio", radio, "--images", samples, "--seconds", seconds, "--rotate-mb", 8),
        *("--out", tmp_path / "stream", "--json"),
    ).json
    rows = read_index(tmp_path / "stream")
    assert {row.antennas for row in rows} == {antennas}
    assert answer["recorded"] == len(rows) == 3 and answer["samples"] == sum(row.num_samples for row in rows)
    assert rows[0].data_bytes == 8_000_000 and verify_dataset(tmp_path / "stream") == []


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("sped = 1", "unknown key 'sped'"),
        ("csnr_db = 5", "csnr_db must be a list"),
        ("csnr_db = [5, 5]", "different"),
        ("repetitions = 0", "at least 1"),
        ("repetitions = true", "must be a whole number"),
        ("images_per_capture = 99", "has 8 images"),
        ('layouts = ["papper"]', "paper"),
        ('radio = "sim:csnr=1"', "csnr"),
    ],
)
def test_misuse_is_told_in_one_line(refused: Callable, plan: Path, tmp_path: Path, line: str, complaint: str) -> None:
    key = line.split(" ")[0]
    kept = [text for text in plan.read_text().splitlines() if not text.startswith(f"{key} ")]
    plan.write_text("\n".join([*kept, line]))
    assert complaint in refused("record", "--plan", plan, "--out", tmp_path / "x")


def test_the_shipped_plan_is_one() -> None:
    plan = load_campaign(Path(__file__).parents[2] / "experiments" / "campaign.toml")
    assert plan.num_captures == len(list(plan.captures())) == 200
    with pytest.raises(ConfigError, match="seconds"):
        Campaign("a", "sim:", "b", (1.0,), seconds=-1)


def test_a_foreign_capture_of_our_waveform_decodes(ota: Callable, samples: Path, tmp_path: Path) -> None:
    """As 12-bit integers, at twice the rate, as a raw file and as SigMF: the images are the same."""
    sent, data = tmp_path / "tx", tmp_path / "set"
    ota("transmit", "--radio", f"file:{sent}", "--images", samples, "--layout", "air")
    original = read_recording(sent)
    doubled = resample(original.samples, 1.0, 2.0) * np.float32(0.5)
    np.clip(np.round(doubled.view(np.float32) * 2048), -2048, 2047).astype("<i2").tofile(tmp_path / "pluto.bin")
    raw = ("--datatype", "ci16", "--full-scale", 2048, "--rate-sps", 2 * original.settings.rate_sps)
    assert ota("dataset", "import", tmp_path / "pluto.bin", *raw, "--layout", "air", "--out", data).code == 0
    answer = ota("dataset", "import", f"{sent}.sigmf-meta", "--layout", "air", "--out", data, "--json")
    assert answer.json["recordings"] == ["set-000001"]
    answer = ota("decode", data, "--method", "jscc", "--out", tmp_path / "out", "--json")
    assert answer.json["rows"] == 16 and answer.json["failed"] == 0, answer
    rows = pyarrow.parquet.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    pictures = {(row["recording"], row["image"]): from_png(row["picture"]) for row in rows}
    for (recording, image), picture in pictures.items():
        assert np.abs(picture - pictures["set-000001", image]).mean() < 0.05, (recording, image)


def test_look_decode_score(ota: Callable, refused: Callable, plan: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    ota("record", "--plan", plan, "--out", data)
    listed = ota("dataset", "list", data, "--where", "csnr_db > 10", "--json").json
    assert listed["captures"] == 2 and all(row["csnr_db"] == 15 for row in listed["rows"])
    assert ota("dataset", "verify", data, "--json").json["wrong"] == []
    decode = ("decode", data, "--method", "jscc", "--method", "blind", "--steps", 2, "--score", "--out", out, "--json")
    answer = ota(*decode).json
    assert answer["decoded"] == 8 and {point["method"] for point in answer["summary"]} == {"jscc", "blind"}
    assert all((out / name).is_file() for name in ("results.parquet", "scores.parquet", "psnr.png", "psnr.pdf"))
    assert ota(*decode).json["decoded"] == 0
    (data / "camp-000002.sigmf-data").unlink()
    assert ota("dataset", "verify", data).out == "camp-000002.sigmf-data is missing\n"
    assert "no column" in refused("decode", data, "--where", "snr > 1", "--out", out)
    assert "another dataset" in refused("decode", data, "--steps", 3, "--out", out)
    assert "--layout" in refused("decode", data, "--layout", "paper", "--out", out)
    assert "ray://" in refused("decode", data, "--cluster", "here", "--out", out)
