"""The demo, small, and the sweep, smaller."""

import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from lab.training import fashion as training
from ota import __main__ as command_line
from receiver.bundles.bundle import find_bundle


def test_the_demo_end_to_end(ota, samples, tmp_path):
    out = tmp_path / "demo"
    outcome = ota(
        *("demo", "--images", samples, "--out", out, "--csnr-db", 12, "--seed", 2),
        *("--method", "jscc", "--method", "hifi", "--json"),
    )
    assert outcome.code == 0, outcome.err
    answer = outcome.json
    assert answer["partial"] is False
    assert len(answer["frames"]) == answer["sent"]["frames"] == 2
    assert all(frame["header_ok"] and abs(frame["cfo_hz"] - 300) < 30 for frame in answer["frames"])
    for frame in answer["frames"]:
        assert 0 < frame["metric"] <= 1 and frame["evm_db"] < -5 and 5 < frame["papr_db"] < 16
        assert 0 < frame["channel_mse"] < 0.02 and 0.3 < frame["residual"] < 2
        assert 0 <= frame["phase_residual_rad"] < 0.1 and 0 <= frame["timing_residual_samples"] < 0.1
    assert [entry["method"] for entry in answer["summary"]] == ["jscc", "hifi"]
    plain, hifi = answer["summary"]
    for entry in answer["summary"]:
        assert {"method", "n", "psnr_db", "realism", "success_17db"} <= entry.keys()
        assert entry["n"] == 8 and entry["psnr_se_db"] > 0 and entry["realism_se"] > 0
        assert entry["success_low"] <= entry["success_17db"] <= entry["success_high"]
        assert entry["channel_found"] == 1.0
    assert plain["realism_null"] is None and hifi["realism_null"] > 0
    assert answer["floor"]["realism"] > 0
    assert {path.name for path in (out / "images").iterdir()} == {"jscc", "hifi"}
    rows = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert len(rows) == 16 and all(row["channel_distance"] < 0.1 for row in rows)
    assert all(row["papr_db"] > 5 and row["evm_db"] < -5 and row["metric"] > 0 for row in rows)
    run = json.loads((out / "run.json").read_text())
    assert {"config", "versions", "processes", "stages", "floor"} <= run.keys()
    assert [process["process"] for process in run["processes"]] == ["transmit", "channel", "receive"]
    assert len({process["pid"] for process in run["processes"]}) == 3
    html = (out / "report.html").read_text()
    assert all(source.startswith("data:") for source in re.findall(r'(?:src|href)="([^"]{0,40})', html))
    for title in (
        "Spectrum",
        "before and after equalisation",
        "Channel",
        "residual",
        "Receiver quality",
        "What ran where",
    ):
        assert title in html
    assert len(re.findall(r'<img alt="original ', html)) == 8


@pytest.fixture
def quick(tmp_path):
    path = tmp_path / "quick.toml"
    path.write_text(
        'name = "quick"\nchannel = "taps=8,decay=4,cfo_hz=300"\ncsnr_db = [5, 12]\nmethods = ["jscc", "hifi:steps=2"]\n'
        "num_images = 12\nseed = 4\n"
    )
    return path


def test_photographs_have_perceptual_distances_beside_their_null(ota, tmp_path):
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for name in ("china", "coffee", "flower"):
        with Image.open(find_bundle("photo") / "samples" / f"{name}.jpg") as picture:
            picture.crop((64, 64, 160, 144)).save(photographs / f"{name}.png")
    out = tmp_path / "demo"
    words = ("--radio", "sim:", "--bundle", "photo", "--images", photographs, "--csnr-db", 10, "--out", out)
    outcome = ota("demo", *words, "--method", "jscc", "--method", "bp", "--json")
    assert outcome.code == 0, outcome.err
    by_method = {entry["method"]: entry for entry in outcome.json["summary"]}
    assert list(by_method) == ["jscc", "bp"]
    for method, entry in by_method.items():
        assert entry["n"] == 3 and 0 < entry["lpips_vgg"] < 1 and entry["dists"] > 0
        assert (entry["lpips_vgg_null"] is None) == (method == "jscc")
    html = (out / "report.html").read_text()
    assert "LPIPS" in html and "<dialog" in html and html.count('compared" src=') == 2 * 3


def test_a_sweep_goes_on_where_it_stopped(ota, refused, quick, tmp_path):
    out = tmp_path / "out"
    first = ota("sweep", quick, "--out", out, "--json")
    assert first.code == 0, first.err
    rows = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert len(rows) == 2 * 2 * 12
    assert {"experiment", "csnr_db", "method", "id", "psnr_db", "residual", "accepted"} <= rows[0].keys()
    assert all((out / name).is_file() for name in ("sweep.json", "psnr.png", "realism.png"))
    for entry in first.json["summary"]:
        assert entry["n"] == 12 and entry["psnr_se_db"] > 0 and entry["realism_se"] > 0

    parts = sorted((out / "parts").glob("*.npz"))
    assert len(parts) == 4
    lost, kept = parts[0], {path: path.stat().st_mtime_ns for path in parts[1:]}
    before = np.load(lost)["pictures"]
    lost.unlink()
    again = ota("sweep", quick, "--out", out, "--json")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert np.array_equal(np.load(lost)["pictures"], before)
    for one, two in zip(first.json["summary"], again.json["summary"], strict=True):
        assert one | {"seconds_per_image": 0} == two | {"seconds_per_image": 0}

    assert "other settings" in refused("sweep", quick, "--out", out, "--set", "seed=5")
    lost.write_bytes(b"not a point")
    assert lost.name in refused("sweep", quick, "--out", out)


def test_higher_snr_is_better(ota, quick, tmp_path):
    outcome = ota("sweep", quick, "--out", tmp_path / "out", "--set", 'methods=["jscc"]', "--json")
    low, high = outcome.json["summary"]
    assert (low["csnr_db"], high["csnr_db"]) == (5, 12) and high["psnr_db"] > low["psnr_db"]


def test_training_goes_through_the_command_line(ota, tmp_path, monkeypatch):
    whole = training.load_fashion_mnist
    # Evaluation on the whole test split takes half a minute.
    monkeypatch.setattr(training, "load_fashion_mnist", lambda *where: tuple(part[:500] for part in whole(*where)))
    outcome = ota("train", "codec", "--out", tmp_path / "mine", "--steps", 2, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["part"] == "codec" and outcome.json["quality"]
    assert (tmp_path / "mine" / "codec.safetensors").is_file()


@pytest.mark.parametrize("verb", [*command_line.VERBS, "train", "train codec", "train prior", "train realism"])
def test_every_verb_has_a_manual_with_examples(ota, verb):
    outcome = ota(*verb.split(), "--help")
    assert outcome.code == 0
    assert f"ota {verb}" in outcome.out.split("\n", 2)[2], "the manual shows the verb in use"


def test_the_manual_names_every_verb(ota):
    manual = ota("--help").out
    assert all(re.search(rf"^  {verb}\s", manual, re.M) for verb in [*command_line.VERBS, "train"])
    assert ota().out == manual
    assert ota("--version").out.startswith("diffcom-ota ")


def test_doctor_tells_what_is_there(ota):
    outcome = ota("doctor", "--json")
    assert outcome.code == 0 and outcome.json["ok"] is True
    found = {check["what"]: check for check in outcome.json["checks"]}
    assert found["package sdr"]["ok"] and found["GNU Radio"]["ok"]


def test_doctor_tells_what_is_missing(ota, monkeypatch):
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", "/nowhere/python3")
    outcome = ota("doctor", "--json")
    assert outcome.code == 2 and outcome.json["ok"] is False
    missing = {check["what"]: check["remedy"] for check in outcome.json["checks"] if not check["ok"]}
    assert "/nowhere/python3" in missing["GNU Radio"]
