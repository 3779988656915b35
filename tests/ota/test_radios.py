"""Radios on the command line: emulated ones, served ones, and the demo through their real drivers."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdr.emulated.pluto import EmulatedPluto, PlutoFaults
from sdr.radios.pluto import MUTED_DB
from sdr.recordings.reading import read_recording

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(*arguments: str) -> Iterator[dict[str, str]]:
    """A verb that runs until Ctrl-C: the JSON that it prints first; it must end by itself when interrupted."""
    command = [sys.executable, "-m", "ota", *arguments, "--json"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line, child.communicate()[1]
        yield json.loads(line)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=20)
        assert child.returncode == 130 and "Traceback" not in errors
    finally:
        child.kill()
        child.communicate()


@pytest.fixture
def pluto() -> Iterator[EmulatedPluto]:
    with EmulatedPluto() as device:
        yield device


# The paths turn so slowly that the seed decides the fade in which the frames fall, not the moment of transmitting.
MODERATE = "seed=1,csnr_db=12,tdl=A,doppler_hz=0.01,offset_ppm=10,phase_noise_deg=0.1,image_rejection_db=30,adc_bits=8"


@pytest.mark.parametrize(
    ("tx_path", "layout", "air", "cfo_hz"),
    [
        ("gnuradio", "paper", ("--csnr-db=12", "--taps=8", "--redraw-frames=1"), 300),
        ("python", "air", ("--layout=air", f"--impairments={MODERATE}"), 300 + 24_500),
    ],
)
def test_the_demo_through_a_pluto_decodes_every_image(
    ota: Callable, tmp_path: Path, tx_path: str, layout: str, air: tuple[str, ...], cfo_hz: int
) -> None:
    with running("emulate", "pluto", "--port=0", *air) as emulated:
        radio = f"{emulated['radio']},rx_offset_hz=-300"
        words = ("--radio", radio, "--tx-path", tx_path, "--layout", layout, "--method", "jscc", "--csnr-db", 12)
        words += ("--out", tmp_path / "run")
        outcome = ota("demo", *words, "--json")
    assert outcome.code == 0, outcome.err
    result = outcome.json
    assert not result["partial"] and result["summary"][0]["n"] == len(result["sent"]["images"]) == 64
    assert result["summary"][0]["psnr_db"] > 19.0
    assert {round(frame["cfo_hz"] / 100) for frame in result["frames"]} == {cfo_hz // 100}
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["config"]["radio"] == radio and len(run["processes"]) == (tx_path == "gnuradio")
    assert not (tmp_path / "run" / "truth.npz").exists() and (tmp_path / "run" / "report.html").exists()


def test_a_served_radio_is_recorded(ota: Callable, pluto: EmulatedPluto, tmp_path: Path) -> None:
    with running("serve", f"--radio=pluto:{pluto.uri}", "--bind=tcp://127.0.0.1:0") as served:
        outcome = ota("record", "--radio", served["client"], "--seconds", 0.02, "--out", tmp_path / "heard")
        assert outcome.code == 0, outcome.err
        assert read_recording(tmp_path / "heard").num_samples == 20_000
    assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting


def test_a_pluto_records_by_itself(ota: Callable, pluto: EmulatedPluto, tmp_path: Path) -> None:
    outcome = ota("record", "--radio", f"pluto:{pluto.uri}", "--seconds", 0.02, "--out", tmp_path / "heard", "--json")
    assert outcome.code == 0 and outcome.json["samples"] == 20_000
    assert "level is only" in " ".join(outcome.json["warnings"])


def test_mistakes_end_in_one_line(refused: Callable, pluto: EmulatedPluto, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    assert "refused" in refused("record", "--radio", "pluto:ip:127.0.0.1:9", "--seconds", 1, *out)
    assert "only attenuates" in refused("demo", "--radio", f"pluto:{pluto.uri},tx_gain_db=5", "--method", "jscc", *out)
    assert "--radio" in refused("demo", "--tx-path", "python", *out)
    assert "anywhere" in refused("serve", "--radio", f"pluto:{pluto.uri}", "--bind", "tcp://0.0.0.0:5555")
    assert "another port" in refused("emulate", "pluto", "--port", pluto.port)
    assert "loopback" in refused("emulate", "usrp", "--addr", "10.0.0.1")
    assert "doppler_hz" in refused("emulate", "pluto", "--port", 0, "--impairments", "dopler_hz=5")
    assert "exclude another" in refused("emulate", "pluto", "--port", 0, "--impairments", "tdl=A,taps=3")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("silent", [False, True])
def test_of_a_pluto_that_vanishes_one_line_is_told(silent: bool, tmp_path: Path) -> None:
    faults = PlutoFaults(stall_after_buffers=1) if silent else PlutoFaults(drop_after_buffers=1)
    with EmulatedPluto(faults=faults) as device:
        radio = f"pluto:{device.uri},rx_gain_db=30,timeout_s=2"
        words = ["record", "--radio", radio, "--seconds", "10", "--out", str(tmp_path / "heard")]
        ended = subprocess.run(
            [sys.executable, "-m", "ota", *words], cwd=ROOT, capture_output=True, text=True, timeout=60
        )
    told = [line for line in ended.stderr.splitlines() if line]
    assert ended.returncode == 2 and [line[:7] for line in told] == ["error: "], told


def test_images_recorded_on_a_pluto_are_on_the_air_all_the_time(ota: Callable, samples: Path, tmp_path: Path) -> None:
    with EmulatedPluto() as device:
        words = ("--radio", f"pluto:{device.uri},tx_gain_db=-10", "--images", samples, "--seconds", 0.05)
        outcome = ota("record", *words, "--out", tmp_path / "heard")
        assert outcome.code == 0, outcome.err
        assert not device.transmitting
    words = ("--layout", tmp_path / "heard.layout.json", "--method", "jscc", "--out", tmp_path / "run", "--json")
    decoded = ota("decode", tmp_path / "heard", *words)
    assert {image["id"] for image in decoded.json["images"]} == {path.stem for path in samples.iterdir()}
