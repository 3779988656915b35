"""Images out and images in, through the command line, over files that anyone could have made."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.signal import lfilter

from receiver.acceptance import ACCEPTED_PSNR_DB


def foreign_channel(sent: Path, target: Path, csnr_db: float, seed: int = 3) -> None:
    """What a third party would do: NumPy and a text editor, no code of ours."""
    rng = np.random.default_rng(seed)
    samples = np.fromfile(f"{sent}.sigmf-data", dtype="<c8").astype(np.complex128)
    occupied = np.abs(samples) > 0
    power = np.mean(np.abs(samples[occupied]) ** 2)
    taps = (rng.standard_normal(6) + 1j * rng.standard_normal(6)) * np.exp(-np.arange(6) / 4)
    taps /= np.linalg.norm(taps)
    heard = np.concatenate([np.zeros(23_456), lfilter(taps, [1], samples), np.zeros(7_000)])
    heard *= np.exp(2j * np.pi * 2000 / 1e6 * np.arange(heard.size) + 1j)
    noise = rng.standard_normal(heard.size) + 1j * rng.standard_normal(heard.size)
    heard += noise * np.sqrt(power * 10 ** (-csnr_db / 10) / 2)
    (0.03 * heard).astype("<c8").tofile(f"{target}.sigmf-data")
    meta = {
        "global": {"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.0.0"},
        "captures": [{"core:sample_start": 0}],
        "annotations": [],
    }
    Path(f"{target}.sigmf-meta").write_text(json.dumps(meta))


def test_transmit_names_what_it_sent_and_where_the_layout_is(ota, samples, tmp_path):
    outcome = ota("transmit", "--radio", f"file:{tmp_path}/tx", "--images", samples, "--json")
    assert outcome.code == 0
    assert outcome.json["images"] == sorted(path.stem for path in samples.iterdir())
    assert Path(outcome.json["layout"]).is_file()
    meta = json.loads((tmp_path / "tx.sigmf-meta").read_text())
    assert meta["global"]["core:datatype"] == "cf32_le"
    assert (tmp_path / "tx.sigmf-data").stat().st_size == 8 * outcome.json["samples"]


def test_decode_writes_images_rows_and_a_report(ota, samples, sent, tmp_path):
    out = tmp_path / "out"
    layout = f"{sent}.layout.json"
    outcome = ota("decode", sent, "--layout", layout, "--method", "jscc", "--truth", samples, "--out", out, "--json")
    assert outcome.code == 0, outcome.err
    answer = outcome.json
    assert answer["partial"] is False
    assert all(frame["header_ok"] for frame in answer["frames"])
    assert {"start_sample", "cfo_hz", "snr_db", "header_ok"} <= answer["frames"][0].keys()
    assert [image["id"] for image in answer["images"]] == sorted(path.stem for path in samples.iterdir())
    for image in answer["images"]:
        assert {"id", "method", "residual", "accepted", "seconds", "path", "psnr_db"} <= image.keys()
        assert Path(image["path"]) == out / f"{image['id']}.png"
        with Image.open(image["path"]) as picture:
            assert picture.size == (32, 32)
    assert np.mean([image["psnr_db"] for image in answer["images"]]) > 19
    assert pyarrow.parquet.read_table(out / "results.parquet").num_rows == 8
    html = (out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,40})', html)
    assert sources and all(source.startswith("data:") for source in sources)
    assert "http" not in html
    assert not [path for path in tmp_path.iterdir() if path != out]  # nothing half-written beside it


def test_draws_leave_their_mean_and_spread(ota, samples, sent, tmp_path):
    out = tmp_path / "out"
    command = ["decode", sent, "--layout", f"{sent}.layout.json", "--steps", 2, "--truth", samples, "--json"]
    answer = ota(*command, "--draws", 3, "--batch-size", 12, "--out", out).json
    kept = np.load(out / "posterior.npz")
    assert kept["mean"].shape == kept["spread"].shape == (8, 1, 32, 32)
    for image, spread in zip(answer["images"], kept["spread"], strict=True):
        assert image["spread_rms"] == pytest.approx(float(np.sqrt(np.mean(spread**2))), rel=1e-5)
        assert image["spread_rms"] > 1e-3 and image["mean_psnr_db"] > 17
        accepted = image["residual"] <= image["residual_limit"] and image["expected_psnr_db"] >= ACCEPTED_PSNR_DB
        assert image["accepted"] == accepted
        assert 0.125 <= image["residual_std"] < 0.3  # 64 symbols, and an estimated noise variance
    html = (out / "report.html").read_text()
    assert html.count("mean of the draws of") == html.count("spread of the draws of") == 8
    single = ota(*command, "--out", tmp_path / "single")
    assert not (tmp_path / "single" / "posterior.npz").exists()
    assert (
        "spread_rms" not in single.json["images"][0]
        and "draws of" not in (tmp_path / "single" / "report.html").read_text()
    )


def test_frames_by_their_prefix_when_what_was_sent_is_stated(ota, refused, samples, tmp_path):
    command = ["transmit", "--radio", f"file:{tmp_path}/tx", "--layout", "blind", "--images", samples, "--json"]
    (tmp_path / "sent.json").write_text(ota(*command).out)
    decode = ["decode", tmp_path / "tx", "--layout", tmp_path / "tx.layout.json", "--method", "blind", "--steps", 2]
    answer = ota(*decode, "--sent", tmp_path / "sent.json", "--truth", samples, "--out", tmp_path / "out", "--json")
    assert answer.code == 0, answer.err
    assert [image["id"] for image in answer.json["images"]] == sorted(path.stem for path in samples.iterdir())
    assert np.mean([image["psnr_db"] for image in answer.json["images"]]) > 17
    for text in (
        "{",
        "[]",
        '{"images": ["a"]}',
        '{"images": ["a"], "csnr_db": "loud"}',
        '{"images": [], "csnr_db": 5}',
    ):
        (tmp_path / "bad.json").write_text(text)
        line = refused(*decode, "--sent", tmp_path / "bad.json", "--out", tmp_path / "none")
        assert "bad.json" in line and not (tmp_path / "none").exists()


def test_frames_of_two_antennas_are_found_by_their_prefix(ota, samples, tmp_path):
    radio = "sim:csnr_db=6,taps=8,cfo_hz=300,rx=2,block_samples=4096,seed=2"
    heard = ota(
        "record", "--radio", radio, "--layout", "blind", "--images", samples, "--out", tmp_path / "rx", "--json"
    )
    (tmp_path / "sent.json").write_text(heard.out)
    decode = ["decode", tmp_path / "rx", "--layout", tmp_path / "rx.layout.json", "--method", "blind", "--steps", 2]
    decode += ["--sent", tmp_path / "sent.json", "--truth", samples, "--json"]
    both = ota(*decode, "--out", tmp_path / "both").json["images"]
    one = ota(*decode, "--use-antennas", 1, "--out", tmp_path / "one").json["images"]
    assert [image["id"] for image in both] == sorted(path.stem for path in samples.iterdir())
    assert np.mean([i["psnr_db"] for i in both]) > np.mean([i["psnr_db"] for i in one]) + 0.5


def test_report_is_made_again_from_the_folder_alone(ota, sent, tmp_path):
    out = tmp_path / "out"
    assert ota("decode", sent, "--layout", f"{sent}.layout.json", "--method", "jscc", "--out", out).code == 0
    first = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    assert ota("report", out, "--json").json == {"written": [f"{out}/report.html", f"{out}/gallery.png"]}
    assert (out / "report.html").read_bytes() == first


@pytest.mark.parametrize("csnr_db", [30.0, 10.0])
def test_a_third_partys_channel(ota, samples, sent, tmp_path, csnr_db):
    foreign_channel(sent, tmp_path / "rx", csnr_db)
    outcome = ota(
        *("decode", tmp_path / "rx", "--layout", f"{sent}.layout.json", "--method", "jscc"),
        *("--truth", samples, "--out", tmp_path / "out", "--json"),
    )
    assert outcome.code == 0, outcome.err
    frames = outcome.json["frames"]
    assert len(frames) == 2 and all(frame["header_ok"] for frame in frames)
    for index, frame in enumerate(frames):
        assert abs(frame["cfo_hz"] - 2000) < 30
        assert abs(frame["start_sample"] - frames[0]["start_sample"] - index * 4352) <= 2
    assert len(outcome.json["images"]) == 8


def test_a_posterior_sampler_explains_what_was_received(ota, samples, sent, tmp_path):
    foreign_channel(sent, tmp_path / "rx", 10.0)
    outcome = ota(
        *("decode", tmp_path / "rx", "--layout", f"{sent}.layout.json", "--method", "hifi", "--steps", 10),
        *("--truth", samples, "--out", tmp_path / "out", "--json"),
    )
    assert outcome.code == 0, outcome.err
    images = outcome.json["images"]
    assert 0.3 < np.median([image["residual"] for image in images]) < 2.0
    assert np.mean([image["psnr_db"] for image in images]) > 16


def test_decoding_is_repeatable(ota, sent, tmp_path):
    answers = []
    for name in ("first", "second"):
        outcome = ota(
            *("decode", sent, "--layout", f"{sent}.layout.json", "--method", "hifi", "--steps", 2, "--seed", 5),
            *("--out", tmp_path / name, "--json"),
        )
        answers.append([image["residual"] for image in outcome.json["images"]])
    assert answers[0] == answers[1]


def test_record_hears_what_is_sent_on_the_simulated_radio(ota, samples, tmp_path):
    radio = "sim:csnr_db=20,taps=4,cfo_hz=500,delay_samples=4000"
    heard = ota("record", "--radio", radio, "--images", samples, "--out", tmp_path / "rx", "--json")
    assert heard.code == 0, heard.err
    outcome = ota(
        *("decode", heard.json["recording"], "--layout", heard.json["layout"], "--method", "jscc"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert len(outcome.json["images"]) == 8


def test_a_full_folder_is_replaced_only_when_forced(ota, refused, sent, tmp_path):
    out = tmp_path / "out"
    command = ("decode", sent, "--layout", f"{sent}.layout.json", "--method", "jscc", "--out", out)
    assert ota(*command).code == 0
    (out / "precious.txt").write_text("mine")
    (out / "results.parquet").write_bytes(b"old")
    assert "--force" in refused(*command)
    assert (out / "results.parquet").read_bytes() == b"old"
    assert ota(*command, "--force").code == 0
    assert (out / "precious.txt").read_text() == "mine" and (out / "results.parquet").read_bytes() != b"old"


def test_a_part_of_a_recording_is_a_partial_result(ota, sent, tmp_path):
    """The second frame's header is blotted out: its images are missing, the others are there, and it says so."""
    samples = np.fromfile(f"{sent}.sigmf-data", dtype="<c8")
    middle = len(samples) - 3000
    rng = np.random.default_rng(0)
    samples[middle - 500 : middle + 700] = 0.2 * rng.standard_normal(1200)
    header = slice(len(samples) - 4352 + 600, len(samples) - 700)
    samples[header] = 0.2 * rng.standard_normal(len(samples[header]))
    samples.tofile(tmp_path / "rx.sigmf-data")
    meta = {"global": {"core:datatype": "cf32_le", "core:sample_rate": 1e6, "core:version": "1.0.0"}, "captures": [{}]}
    (tmp_path / "rx.sigmf-meta").write_text(json.dumps(meta))
    outcome = ota(
        *("decode", tmp_path / "rx", "--layout", f"{sent}.layout.json", "--method", "jscc"),
        *("--out", tmp_path / "out", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert outcome.json["partial"] is True
    assert [frame["header_ok"] for frame in outcome.json["frames"]] == [True, False]
    assert len(outcome.json["images"]) == 4
    assert "Partial result" in (tmp_path / "out" / "report.html").read_text()
