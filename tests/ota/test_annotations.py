"""Where frames are, in the words of SigMF: what `ota decode` writes for other tools."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import sigmf

from sdr.layout import load_layout

PAPER = load_layout("paper")


@pytest.fixture
def recording(sent: Path, tmp_path: Path) -> Path:
    """A copy of a transmission that a test may change."""
    for suffix in (".sigmf-meta", ".sigmf-data", ".layout.json"):
        shutil.copy(f"{sent}{suffix}", f"{tmp_path}/tx{suffix}")
    return tmp_path / "tx"


def changed(recording: Path, change: Callable[[dict], None]) -> None:
    path = Path(f"{recording}.sigmf-meta")
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def decode(ota: Callable, recording: Path, out: Path):
    done = ota("decode", recording, "--layout", f"{recording}.layout.json", "--method", "jscc", "--out", out)
    assert done.code == 0, done
    return done


def test_frames_are_annotated_as_sigmf_wants_it(ota: Callable, recording: Path, tmp_path: Path) -> None:
    decode(ota, recording, tmp_path / "run")
    path = tmp_path / "run" / "frames.sigmf-meta"
    checked = subprocess.run([sys.executable, "-m", "sigmf.validate", str(path)], capture_output=True, timeout=60)
    assert checked.returncode == 0, checked.stderr
    signal = sigmf.fromfile(str(path))
    original = sigmf.fromfile(f"{recording}.sigmf-meta")
    assert np.array_equal(signal.read_samples(), original.read_samples())
    frames = signal.get_annotations()
    assert [frame["core:label"] for frame in frames] == ["frame 0", "frame 1"]
    length = PAPER.num_symbols * PAPER.symbol_samples
    for index, frame in enumerate(frames):
        assert frame["core:sample_start"] == PAPER.gap_samples + index * PAPER.frame_samples
        assert frame["core:sample_count"] == length
        assert frame["core:freq_upper_edge"] - frame["core:freq_lower_edge"] == pytest.approx(PAPER.rate_sps)
        assert frame["diffcom_ota:header_ok"] and len(frame["diffcom_ota:image_ids"]) == 4
        assert frame["diffcom_ota:accepted"] == frame["diffcom_ota:image_ids"]
        assert "4 of 4 images accepted" in frame["core:comment"] and abs(frame["diffcom_ota:cfo_hz"]) < 10


def test_what_others_annotated_stays(ota: Callable, recording: Path, tmp_path: Path) -> None:
    def theirs(content: dict) -> None:
        content["global"].pop("core:extensions")
        content["global"].pop("core:sha512")
        for key in [key for key in content["global"] if key.startswith("diffcom_ota")]:
            content["global"].pop(key)
        content["annotations"] = [{"core:sample_start": 5000, "core:sample_count": 7, "core:label": "theirs"}]

    changed(recording, theirs)
    decode(ota, recording, tmp_path / "run")
    content = json.loads((tmp_path / "run" / "frames.sigmf-meta").read_text())
    assert [item["core:label"] for item in content["annotations"]] == ["frame 0", "frame 1", "theirs"]
    starts = [item["core:sample_start"] for item in content["annotations"]]
    assert starts == sorted(starts)
    assert [extension["name"] for extension in content["global"]["core:extensions"]] == ["diffcom_ota"]


@pytest.mark.parametrize("spoiled", [[{"core:sample_count": 7}], [{"core:sample_start": "x"}], {"a": 1}, [5]])
def test_metadata_that_break_the_rules_are_told_in_one_line(
    spoiled: object, ota: Callable, recording: Path, tmp_path: Path
) -> None:
    changed(recording, lambda content: content.update(annotations=spoiled))
    done = decode(ota, recording, tmp_path / "run")
    warnings = [line for line in done.err.splitlines() if "annotated" in line]
    assert len(warnings) == 1 and "mend tx.sigmf-meta" in warnings[0], done
    assert not (tmp_path / "run" / "frames.sigmf-meta").exists()
    assert (tmp_path / "run" / "report.html").exists()
