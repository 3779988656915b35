"""Asking again on the command line: over simulated radios, GNU Radio and an emulated Pluto."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lab.experiments.asking import Retransmission
from receiver.again import AskingReceiver
from receiver.bundles.bundle import load_bundle
from receiver.decode import DecodeSettings
from sdr.emulated.pluto import EmulatedPluto
from sdr.errors import ConfigError
from sdr.layout import load_layout
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording
from sdr.repeat_request import RepeatRequest

SIM = f"sim:csnr_db=2,taps=8,block_samples={load_layout('paper').frame_samples},seed=3"


def test_what_a_simulated_radio_sends_again_is_told_and_decodes_from_the_recording(
    ota: Callable, samples: Path, tmp_path: Path
) -> None:
    words = ("demo", "--images", samples, "--radio", SIM, "--csnr-db", 2, "--method", "jscc", "--json")
    once = ota(*words, "--out", tmp_path / "once")
    again = ota(*words, "--retransmit", 2, "--retransmit-share", 0.5, "--out", tmp_path / "again")
    assert again.code == 0, again.err
    sent, before = again.json["sent"], once.json["summary"][0]
    assert "channel_uses" not in once.json["sent"] and "receptions" not in once.json["images"][0]
    assert sent["channel_uses"] == 2 * 8 * 64 and sum(sent["times"].values()) == 16
    assert [each["frames"] for each in sent["rounds"]] == [2, 1, 1] and sent["frames"] == 4
    assert again.json["summary"][0]["psnr_db"] > before["psnr_db"] + 0.5
    assert again.json["summary"][0]["cbr"] == pytest.approx(2 * before["cbr"])
    assert sum(image.get("receptions") or 1 for image in again.json["images"]) == pytest.approx(16)
    # The recording, taken apart, and the requests are all that the receiver had.
    recording = read_recording(tmp_path / "again" / "recording")
    starts = [each["first_sample"] for each in sent["rounds"]] + [recording.num_samples]
    receiver = AskingReceiver(load_layout("paper"), load_bundle("fashion"), ["jscc"], DecodeSettings(seed=2))
    for index, each in enumerate(sent["rounds"]):
        if index:
            assert receiver.ask(0.5) == RepeatRequest.from_json(each["request"])
        receiver.hear(Recording(recording.samples[starts[index] : starts[index + 1]], recording.settings))
    found = {image.id: image.residual for image in receiver.result.images}
    assert found == pytest.approx({image["id"]: image["residual"] for image in again.json["images"]}, rel=1e-3)
    # Fading and noise are new in every round: no two transmissions are one.
    parts = [recording.samples[first : first + 3000] for first in starts[:3]]
    for one, two in ((0, 1), (1, 2)):
        assert abs(np.vdot(parts[one], parts[two])) < 0.3 * np.linalg.norm(parts[one]) * np.linalg.norm(parts[two])


def test_two_antennas_hear_what_is_sent_again(ota: Callable, samples: Path, tmp_path: Path) -> None:
    quality = {}
    for antennas in (1, 2):
        radio, out = f"{SIM},rx={antennas}", tmp_path / str(antennas)
        outcome = ota(
            *("demo", "--images", samples, "--radio", radio, "--csnr-db", 2, "--method", "jscc", "--json"),
            *("--retransmit", 1, "--retransmit-share", 1, "--out", out),
        )
        assert outcome.code == 0, outcome.err
        assert all(image["receptions"] == 2 for image in outcome.json["images"])
        assert len(read_recording(out / "recording", max_antennas=2).antennas) == antennas
        quality[antennas] = outcome.json["summary"][0]["psnr_db"]
    assert quality[2] > quality[1] + 1


def test_gnu_radio_sends_again_through_new_channels(ota: Callable, samples: Path, tmp_path: Path) -> None:
    outcome = ota(
        *("demo", "--images", samples, "--csnr-db", 5, "--method", "jscc", "--method", "hifi:steps=2", "--json"),
        *("--impairments", "seed=4", "--retransmit", 1, "--retransmit-share", 1, "--out", tmp_path / "out"),
    )
    assert outcome.code == 0, outcome.err
    sent = outcome.json["sent"]
    assert sent["channel_uses"] == 2 * 8 * 64 and set(sent["times"].values()) == {2.0}
    assert len(outcome.json["images"]) == 16 and all(image["receptions"] == 2 for image in outcome.json["images"])
    frames = outcome.json["frames"]
    assert len(frames) == 4 and len({round(frame["snr_db"], 3) for frame in frames}) == 4
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(run["processes"]) == 6 and run["config"]["retransmit"] == 1 and not run["partial"]
    assert not (tmp_path / "out" / "truth.npz").exists()


def test_a_pluto_sends_again(ota: Callable, samples: Path, tmp_path: Path) -> None:
    with EmulatedPluto() as device:
        outcome = ota(
            *("demo", "--images", samples, "--radio", f"pluto:{device.uri}", "--tx-path", "python", "--layout", "air"),
            *("--method", "jscc", "--retransmit", 1, "--json", "--out", tmp_path / "out"),
        )
    assert outcome.code == 0, outcome.err
    assert outcome.json["sent"]["channel_uses"] == 1.5 * 8 * 64
    # A capture holds a frame of a repeated transmission more than once; it counts once.
    assert all(
        image["receptions"] in (None, pytest.approx(outcome.json["sent"]["times"][image["id"]]))
        for image in outcome.json["images"]
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--retransmit", -1), "--retransmit -1 must be in 0..64"),
        (("--retransmit", 65), "--retransmit 65"),
        (("--retransmit", 1, "--retransmit-share", 0), "--retransmit-share 0"),
        (("--retransmit", 1, "--retransmit-share", 1.5), "--retransmit-share 1.5"),
        (("--retransmit", 1, "--retransmit-share", "nan"), "--retransmit-share nan"),
        (("--retransmit", 1, "--method", "blind"), "'blind' does not know the channel"),
        (("--retransmit", 1, "--method", "jscc", "--method", "avif-ldpc"), "'avif-ldpc' decodes blocks"),
        (("--retransmit", 1, "--layout", "blind", "--method", "jscc"), "needs pilots"),
        (("--retransmit", 1, "--radio", "zmq:rx=tcp://127.0.0.1:1"), "tx="),
        (("--retransmit", 1, "--radio", "file:nothing"), "file:nothing is recorded once"),
        (("--retransmit", 1, "--rx-radio", "sim:"), "--radio"),
    ],
)
def test_what_can_not_be_asked_for_is_refused(
    words: tuple[object, ...],
    says: str,
    refused: Callable,
    samples: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where a file: radio writes
    assert says in refused("demo", "--images", samples, "--out", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_recording_can_not_be_asked_again(ota: Callable, sent: Path) -> None:
    outcome = ota("decode", sent, "--retransmit", 1)
    assert outcome.code == 2 and "--retransmit" in outcome.err and "Traceback" not in outcome.err


def test_a_round_more_than_the_most_is_refused() -> None:
    with pytest.raises(ConfigError):
        Retransmission(65)
