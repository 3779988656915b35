"""The report over datasets and runs: everything in one file, figures beside it, nothing invented."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest

from lab.evaluation.statistics import wilson_interval
from lab.reports.compared import read_compared
from lab.reports.comparison import write_comparison
from sdr.errors import ConfigError, InputError

PLAN = """
name = "few"
radio = "sim:taps=8,decay=4,cfo_hz=300"
csnr_db = [0, 15]
images = "{images}"
images_per_capture = 2
repetitions = 2
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from lab.experiments.campaign import load_campaign, run_campaign
    from lab.experiments.decode_dataset import decode_dataset
    from lab.experiments.group_decoder import DatasetSettings
    from lab.experiments.scores import score_results
    from receiver.bundles.bundle import find_bundle
    from receiver.decode import DecodeSettings

    root = tmp_path_factory.mktemp("comparison")
    (root / "plan.toml").write_text(PLAN.format(images=find_bundle() / "samples"))
    run_campaign(load_campaign(root / "plan.toml"), root / "few", lambda *_: None, lambda _: None)
    settings = DatasetSettings(decoding=DecodeSettings(steps=2))
    decode_dataset(root / "few", root / "decoded", ["jscc", "hifi:zeta=0.1"], settings)
    score_results(root / "decoded", root / "few")
    return root / "few", root / "decoded"


def test_a_report_over_a_dataset_and_what_was_decoded(folders: tuple[Path, Path], tmp_path: Path) -> None:
    written = write_comparison([*folders], tmp_path, captures=["few-000001"])
    assert written[0] == tmp_path / "report.html" and all(path.is_file() for path in written)
    names = {path.name for path in written[1:]}
    assert {name.removesuffix(".png") for name in names if name.endswith(".png")} == {
        name.removesuffix(".pdf") for name in names if name.endswith(".pdf")
    }
    for stem in ("psnr", "realism", "grid-decoded-jscc", "grid-decoded-hifi_zeta_0.1", "health-few"):
        assert f"{stem}.png" in names
    for stem in ("spectrum", "constellation", "channel", "hifi_zeta_0.1"):
        assert f"capture-few-000001-{stem}.pdf" in names
    html = (tmp_path / "report.html").read_text()
    assert set(re.findall(r'(?:src|href)="([^,"]*)', html)) == {"data:image/png;base64"}, "nothing from outside"
    assert "few-000001" in html and "hifi:zeta=0.1" in html
    run = read_compared(folders[1])
    for point in run.points:
        rows = [row for row in run.rows.to_pylist() if (row["csnr_db"], row["method"]) == (point.csnr_db, point.method)]
        good = sum(row["psnr_db"] >= 17 for row in rows)
        assert point.sent == len(rows) == 4 and point.success_17db == good / 4
        assert (point.success_low, point.success_high) == wilson_interval(good, 4)
        assert f"{point.psnr_db:.2f} ± {point.psnr_se_db:.2f}" in html


def test_one_report_over_runs_of_all_kinds(
    ota: Callable, folders: tuple[Path, Path], samples: Path, tmp_path: Path
) -> None:
    ota("transmit", "--radio", f"file:{tmp_path}/tx", "--images", samples)
    decode = ("decode", tmp_path / "tx", "--layout", f"{tmp_path}/tx.layout.json", "--method", "jscc")
    assert ota(*decode, "--truth", samples, "--out", tmp_path / "one").code == 0
    points = [{"csnr_db": 10.0, "method": "jscc", "n": 4, "psnr_db": 21.0, "psnr_se_db": 0.5, "realism": 0.04}]
    rest = {"realism_se": 0.01, "success_17db": 1.0, "success_low": 0.5, "success_high": 1.0, "accepted": 1.0}
    (tmp_path / "swept").mkdir()
    (tmp_path / "swept" / "sweep.json").write_text(
        json.dumps({"summary": [{**points[0], **rest, "seconds_per_image": 0.1}]})
    )
    answer = ota("report", folders[1], tmp_path / "one", tmp_path / "swept", "--out", tmp_path / "report", "--json")
    html = (tmp_path / "report" / "report.html").read_text()
    assert all(Path(path).is_file() for path in answer.json["written"])
    assert all(f"<td>{name}</td>" in html for name in ("decoded", "one", "swept"))
    assert "Captures in detail" not in html, "the dataset is not at hand"


def test_misuse(ota: Callable, refused: Callable, folders: tuple[Path, Path], tmp_path: Path) -> None:
    dataset, decoded = folders
    out = ("--out", tmp_path / "report")
    assert "--out" in refused("report", dataset, decoded)
    (tmp_path / "strange").mkdir()
    assert "neither a dataset" in refused("report", tmp_path / "strange", *out)
    assert "no recording 'few-9'" in refused("report", *folders, "--capture", "few-9", *out)
    assert "--capture needs" in refused("report", decoded, "--capture", "few-000001", *out)
    assert not (tmp_path / "report").exists()
    (tmp_path / "decoded").mkdir()
    for name in ("settings.json", "summary.json"):
        (tmp_path / "decoded" / name).write_bytes((decoded / name).read_bytes())
    with pytest.raises(InputError, match="--score"):
        read_compared(tmp_path / "decoded")
    (tmp_path / "decoded" / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="damaged"):
        read_compared(tmp_path / "decoded")
    settings = json.loads((decoded / "settings.json").read_text())
    (tmp_path / "decoded" / "settings.json").write_text(json.dumps({**settings, "bundle": "01234567"}))
    table = pyarrow.parquet.read_table(decoded / "scores.parquet")
    pyarrow.parquet.write_table(table, tmp_path / "decoded" / "scores.parquet")
    with pytest.raises(ConfigError, match="decoded by models 01234567"):
        write_comparison([tmp_path / "decoded"], tmp_path)
