"""Image codecs and LDPC on the command line: through GNU Radio and an emulated Pluto, in sweeps and in datasets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.experiments.campaign import Campaign, run_campaign
from lab.experiments.decode_dataset import decode_dataset
from lab.experiments.group_decoder import DatasetSettings
from lab.experiments.scores import score_results
from receiver.bundles.bundle import find_bundle
from receiver.images.files import read_image, save_image
from sdr.emulated.pluto import EmulatedPluto
from sdr.emulated.usrp import EmulatedUsrp
from sdr.errors import ConfigError
from sdr.progress import silent


def write_parts(folder: Path, side: int) -> Path:
    """Write parts of four photographs."""
    folder.mkdir()
    for path in sorted((find_bundle("photo") / "samples").glob("*.jpg"))[:4]:
        save_image(folder / f"{path.stem}.png", read_image(path, 3)[:, 64 : 64 + side, 64 : 64 + side])
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four images of 256 symbols each."""
    return write_parts(tmp_path_factory.mktemp("photographs") / "four", 64)


def test_both_kinds_through_gnuradio(ota: Callable, photographs: Path, tmp_path: Path) -> None:
    methods = ("jscc", "avif-ldpc", "avif-ldpc-refined", "jpeg2000-ldpc-fixed")
    words = [word for method in methods for word in ("--method", method)]
    outcome = ota(
        *(
            "demo",
            "--bundle",
            "photo",
            "--images",
            photographs,
            "--impairments",
            "taps=0,block_samples=0",
            "--csnr-db",
            14,
        ),
        *(*words, "--out", tmp_path / "run", "--json"),
    )
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert not result["partial"] and result["sent"]["frames"] == 3 and len(result["sent"]["images"]) == 4
    assert [(entry["method"], entry["n"], entry["accepted"]) for entry in result["summary"]] == [
        (method, 4, 1.0) for method in methods
    ]
    plain, refined = (entry["psnr_db"] for entry in result["summary"][1:3])
    assert plain > 19 and abs(refined - plain) < 1.5
    assert "AVIF + 5G LDPC, refined by the prior" in (tmp_path / "run" / "report.html").read_text()


@contextmanager
def emulated(kind: str) -> Iterator[str]:
    """A radio's address."""
    if kind == "pluto":
        with EmulatedPluto() as pluto:
            yield f"pluto:{pluto.uri}"
    else:
        with EmulatedUsrp(addr="127.0.43.1") as usrp:
            yield f"uhd:{usrp.args}"


@pytest.mark.parametrize("kind", ["pluto", "usrp"])
def test_through_an_emulated_radio(ota: Callable, photographs: Path, tmp_path: Path, kind: str) -> None:
    """Four images of each kind; what was sent for a better channel fails its checksum, and that is said."""
    with emulated(kind) as radio:
        outcome = ota(
            *("demo", "--bundle", "photo", "--images", photographs, "--radio", radio, "--csnr-db", 10),
            *("--method", "jscc", "--method", "jpeg2000-ldpc", "--tx-path", "python", "--out", tmp_path / "run"),
            "--json",
        )
    assert outcome.code == 0, outcome.err
    assert [(entry["method"], entry["n"], entry["accepted"]) for entry in outcome.json["summary"]] == [
        ("jscc", 4, 1.0),
        ("jpeg2000-ldpc", 4, 1.0),
    ]
    assert not outcome.json["partial"] and "checksum" not in outcome.err


def test_of_blocks_that_fail_their_checksum_one_line_is_told(ota: Callable, photographs: Path, tmp_path: Path) -> None:
    outcome = ota(
        *("demo", "--bundle", "photo", "--images", photographs, "--radio", "sim:csnr_db=7", "--csnr-db", 14),
        *("--method", "jpeg2000-ldpc", "--out", tmp_path / "run", "--json"),
    )
    assert outcome.code == 0 and outcome.json["summary"][0]["accepted"] == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if "checksum" in line]
    assert line.startswith("warning: jpeg2000-ldpc: 4 of 4 blocks failed the checksum")


def test_a_sweep_shows_the_cliff(ota: Callable, refused: Callable, tmp_path: Path) -> None:
    photographs = write_parts(tmp_path / "four", 128)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'name = "cliff"\nbundle = "photo"\nlayout = "photo"\nimages = "{photographs}"\nnum_images = 4\n'
        'capacity = "jpeg2000"\ncsnr_db = [4, 12]\nmethods = ["jscc", "jpeg2000-ldpc", "jpeg2000-ldpc-fixed"]\n'
    )
    outcome = ota("sweep", plan, "--out", tmp_path / "out", "--json")
    assert outcome.code == 0, outcome.err
    rows = {(row["csnr_db"], row["method"]): row for row in outcome.json["rows"]}
    assert rows[4.0, "jpeg2000-ldpc-fixed"]["accepted"] == 0, "every block is lost"
    assert rows[4.0, "jpeg2000-ldpc-fixed"]["psnr_db"] < rows[4.0, "jpeg2000-ldpc"]["psnr_db"]
    assert rows[4.0, "jpeg2000-ldpc"]["accepted"] == 1 and rows[12.0, "jpeg2000-ldpc-fixed"]["accepted"] == 1
    assert (tmp_path / "out" / "lpips.png").is_file() and 0 < rows[12.0, "jscc"]["lpips_vgg"] < 1
    line = json.loads((tmp_path / "out" / "sweep.json").read_text())["capacity"]
    assert [point["n"] for point in line] == [4, 4]
    assert all(point["psnr_db"] > rows[point["csnr_db"], "jpeg2000-ldpc"]["psnr_db"] for point in line)
    assert "avif" in refused("sweep", plan, "--set", "capacity=aviff", "--out", tmp_path / "none")
    assert rows[12.0, "jpeg2000-ldpc"]["psnr_db"] > rows[12.0, "jpeg2000-ldpc-fixed"]["psnr_db"]


def test_captures_of_both_kinds_are_one_dataset(photographs: Path, tmp_path: Path) -> None:
    plan = Campaign(
        name="both",
        radio="sim:",
        images=str(photographs),
        csnr_db=(12.0,),
        layouts=("photo",),
        methods=("jscc", "jpeg2000-ldpc"),
        images_per_capture=2,
        repetitions=2,
        bundle="photo",
    )
    run_campaign(plan, tmp_path / "set", silent, lambda text: None)
    methods = ["jscc", "jpeg2000-ldpc", "avif-ldpc"]
    settings = DatasetSettings("photo")
    counts = decode_dataset(tmp_path / "set", tmp_path / "out", methods, settings)
    assert counts.failed == 0 and counts.decoded == 12
    assert decode_dataset(tmp_path / "set", tmp_path / "out", methods, settings).decoded == 0, "a rerun has all"
    points = {point.method: point for point in score_results(tmp_path / "out", tmp_path / "set")}
    # What another method sent is no loss of a method.
    assert set(points) == {"jscc", "jpeg2000-ldpc"}
    assert all(point.sent == point.arrived == 4 and point.accepted == 1 for point in points.values())
    assert "methods" in json.loads((tmp_path / "set" / "campaign.json").read_text())["plan"]
    with pytest.raises(ConfigError, match="no way to send; did you mean 'avif-ldpc'"):
        Campaign("x", "sim:", "x", (1.0,), methods=("avif-ldp",))


def test_a_transmission_is_decoded_and_mistakes_are_one_line(
    ota: Callable, refused: Callable, photographs: Path, samples: Path, tmp_path: Path
) -> None:
    link = ("--bundle", "photo", "--layout")
    sent = ota(
        *("transmit", "--radio", f"file:{tmp_path / 'tx'}", "--images", photographs, *link, "photo"),
        *("--method", "jpeg-ldpc", "--csnr-db", 20, "--fading", "--json"),
    )
    assert sent.code == 0 and len(sent.json["images"]) == 4, sent.err
    layout = (*link, tmp_path / "tx.layout.json", "--out", tmp_path / "out")
    decoded = ota("decode", tmp_path / "tx", *layout, "--method", "jpeg-ldpc", "--json")
    assert decoded.code == 0 and all(image["accepted"] for image in decoded.json["images"]), decoded.err
    out = ("--out", tmp_path / "none")
    assert "did you mean 'avif-ldpc'" in refused("demo", "--method", "avif-ldcp", *out).lower()
    assert "no settings" in refused("demo", "--method", "avif-ldpc:steps=3", *out)
    assert "the symbols hold" in refused("demo", "--images", samples, "--method", "jpeg2000-ldpc", *out)
    assert "has no pilots" in refused("demo", "--layout", "blind", "--method", "jpeg2000-ldpc", *out)
