"""The run folder: rows with equal keys, values that JSON can't hold, and what is no run of this version."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lab.evaluation.realism import RealismScore
from lab.evaluation.summary import Summary
from lab.experiments.stages import Stage
from lab.reports.run_folder import RUN_FORMAT, ImageRow, Run, image_table, read_run
from sdr.errors import InputError
from sdr.files import write_json

IMAGE = ImageRow(
    id="a",
    method="hifi:steps=5",
    residual=1.0,
    residual_std=0.1,
    residual_limit=1.5,
    expected_psnr_db=20.0,
    accepted=True,
    seconds=0.2,
    path="a.png",
    frame_number=0,
    start_sample=100,
    metric=0.9,
    cfo_hz=300.0,
    snr_db=10.0,
    evm_db=-10.0,
    papr_db=9.0,
)
PLAIN = [
    *("id", "method", "residual", "residual_std", "residual_limit", "expected_psnr_db", "accepted", "seconds"),
    *("path", "frame_number", "start_sample", "metric", "cfo_hz", "snr_db", "evm_db", "papr_db"),
]
RUN = Run(
    verb="decode",
    config={"draws": 1},
    frames=[{"start_sample": 100, "header_ok": True, "channel_mse": None}],
    images=(IMAGE, replace(IMAGE, id="b", residual=math.inf, expected_psnr_db=-math.inf, accepted=False)),
    incomplete=("c",),
    absent=("frame 1 is missing",),
    partial=True,
    stages=(Stage("decode (hifi)", "here", 1.0),),
    versions={"python": "3.11"},
    written_utc="2026-01-01T00:00:00+00:00",
)
SUMMARY = Summary("hifi", 8, 21.0, 0.5, 0.8, 0.02, 0.05, 0.01, 0.07, 0.01, 0.9, 0.5, 1.0, 0.2, 0.98, 1.0, None)
DEMO = replace(
    RUN,
    verb="demo",
    processes=[{"process": "transmit", "pid": 1}],
    sent={"images": ["a", "b"], "frames": 1},
    summary=(SUMMARY,),
    floor=RealismScore(0.01, 0.001),
)


@pytest.mark.parametrize("run", [RUN, DEMO, replace(DEMO, summary=(), floor=None)], ids=["decode", "demo", "one image"])
def test_a_run_is_read_as_it_was_written(tmp_path: Path, run: Run) -> None:
    write_json(tmp_path / "run.json", run.row())
    assert read_run(tmp_path) == run


def test_rows_have_the_columns_that_some_image_has_a_value_for() -> None:
    assert [list(row) for row in image_table([IMAGE, IMAGE])] == [PLAIN, PLAIN]
    scored = image_table([IMAGE, replace(IMAGE, psnr_db=21.0, spread_rms=0.1)])
    assert [list(row) for row in scored] == [[*PLAIN, "spread_rms", "psnr_db"]] * 2
    assert [row["psnr_db"] for row in scored] == [None, 21.0]


def test_the_answer_of_a_verb_has_its_keys() -> None:
    plain = {"frames", "images", "partial", "absent", "out", "report"}
    assert set(RUN.answer(Path("out"))) == plain
    answer = DEMO.answer(Path("out"))
    assert set(answer) == plain | {"summary", "floor", "sent", "stages"}
    json.dumps(answer, allow_nan=True)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "not valid JSON"),
        ("[]", "not describe a run"),
        ('{"format": 2}', "not describe a run"),
        (f'{{"format": {RUN_FORMAT}, "verb": "demo"}}', "is missing"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_run(tmp_path)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png", "links/secret.png", "", "a\0.png"])
@pytest.mark.parametrize("field", ["path", "id"])
def test_pictures_outside_of_the_folder_are_not_read(tmp_path: Path, name: str, field: str) -> None:
    folder = tmp_path / "run"
    (folder / "originals").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    for place in (folder, folder / "originals"):
        (place / "link.png").symlink_to(tmp_path / "secret.png")
        (place / "links").symlink_to(tmp_path)
    if field == "id":
        name = f"../{name}" if name.startswith("..") else name.removesuffix(".png")
        if not name or name.startswith("/"):
            name = f"../..{name}"
    row = RUN.row()
    row["images"][0][field] = name  # type: ignore[index]
    write_json(folder / "run.json", row)
    with pytest.raises(InputError, match=r"^[^\n]*run\.json names [^\n]*$"):
        read_run(folder)


@pytest.mark.parametrize("key", ["verb", "config", "frames", "images", "incomplete", "partial", "versions"])
@pytest.mark.parametrize("value", [None, 3, "x", [3], [[]], [None], {"x": []}])
def test_an_edited_run_is_one_line(tmp_path: Path, key: str, value: object) -> None:
    write_json(tmp_path / "run.json", {**DEMO.row(), key: value})
    try:
        assert isinstance(read_run(tmp_path), Run)
    except InputError as error:
        assert "\n" not in str(error) and "run.json" in str(error)
