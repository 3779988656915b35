"""Calibration profiles as files, and where they are refused; `ota calibrate` and the receiver that uses them."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ota.__main__ import main
from receiver.channel.prior import channel_prior
from receiver.front_end import correct_front_end, image_ratio
from receiver.sync.known import transmitted
from sdr.air.impairments import apply_dc, apply_iq_imbalance, exponential_pdp
from sdr.calibration_profile import CalibrationError, Value, load_profile, save_profile
from sdr.layout import load_layout
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings
from tests.calibration.profiles import PDP, PROFILE

NOW = datetime(2026, 1, 1, 18, tzinfo=UTC)
SETTINGS = RadioSettings("pluto:ip:192.168.2.1,tx_gain_db=-3", 2.45e9, 1e6)


@pytest.mark.parametrize("suffix", [".toml", ".json"])
@settings(max_examples=20, deadline=None)
@given(number=st.floats(-1e9, 1e9), text=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20))
def test_a_profile_survives_its_file(tmp_path_factory, suffix: str, number: float, text: str) -> None:
    value = Value(number, number - 1, number + 1, "dB", text)
    profile = replace(PROFILE, values={"one": value, **PROFILE.values}, warnings=(text,) if text else ())
    path = tmp_path_factory.mktemp("profile") / f"p{suffix}"
    assert load_profile(save_profile(profile, path)) == profile
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("1.5", "1.55"), "edited or damaged"),
        (lambda text: text.replace("format = 1", "format = 9"), "format 1"),
        (lambda text: text[: len(text) // 2], "calibration profile .* is not valid TOML"),
        (lambda text: text.replace("center_hz", "centre_hz"), "no calibration profile"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change, words: str) -> None:
    path = save_profile(PROFILE, tmp_path / "p.toml")
    path.write_text(change(path.read_text()))
    with pytest.raises(CalibrationError, match=words):
        load_profile(path)


def test_foreign_profiles_are_refused_and_stale_ones_told() -> None:
    assert PROFILE.check(SETTINGS, NOW) == ()
    for settings_, words in (
        (replace(SETTINGS, uri="pluto:ip:10.0.0.9"), "measure this one"),
        (replace(SETTINGS, rate_sps=2e6), "samples/s"),
        (replace(SETTINGS, center_hz=9e8), "calibrate there"),
    ):
        with pytest.raises(CalibrationError, match=words):
            PROFILE.check(settings_, NOW)
    assert "again" in PROFILE.check(SETTINGS, NOW + timedelta(days=3))[0]
    assert PROFILE.check(SETTINGS, NOW, serial="1044") == ()
    with pytest.raises(CalibrationError, match=r"serial 1044, but at .* is one of serial 7"):
        PROFILE.check(SETTINGS, NOW, serial="7")
    assert "doesn't tell" in PROFILE.check(replace(SETTINGS, uri="file:x"), NOW)[0]


def test_a_usrp_is_trimmed_by_tuning_and_what_may_be_nothing_is_left_alone() -> None:
    told = {"carrier_offset_ppm": Value(1.5, 1.4, 1.6, "ppm", ""), "tx_trim_ppm": Value(2.0, 2.0, 2.0, "ppm", "")}
    pair = replace(PROFILE, tx="uhd:type=b200", values=told)
    assert pair.trimmed("uhd:type=b200,trim_ppm=2,tx_gain_db=3") == "uhd:type=b200,tx_gain_db=3,trim_ppm=3.5"
    assert pair.trimmed("uhd:type=b210") == "uhd:type=b210"
    unsure = replace(pair, values={**told, "carrier_offset_ppm": Value(0.1, -0.1, 0.3, "ppm", "")})
    assert unsure.trimmed("uhd:type=b200") == "uhd:type=b200"
    assert PROFILE.trimmed(PROFILE.tx) == PROFILE.tx  # one radio is always in tune with itself


def test_the_prior_is_the_profile_as_far_as_it_is_sure() -> None:
    layout = load_layout("paper")
    default = channel_prior(layout).power.numpy()
    sure = channel_prior(layout, calibrations=[replace(PROFILE, pdp=replace(PDP, draws=1e6))]).power.numpy()
    # Two taps behind advance 2, a sample late (tap 2 - late) with the odds of -1 and 0.
    wanted = [0.0, 0.0, 0.75 * 0.75, 0.75 * 0.25 + 0.25 * 0.75, 0.25 * 0.25]
    np.testing.assert_allclose(sure[:5], np.maximum(wanted, 1e-4), atol=1e-3)
    unsure = channel_prior(layout, calibrations=[replace(PROFILE, pdp=replace(PDP, draws=1.0))]).power.numpy()
    assert np.abs(unsure - default).sum() < np.abs(unsure - sure).sum()


def test_the_front_end_is_taken_out_of_the_recording() -> None:
    rng = np.random.default_rng(0)
    clean = (0.1 * (rng.standard_normal(1000) + 1j * rng.standard_normal(1000))).astype(np.complex64)
    found = {"iq_gain_db": 0.6, "iq_phase_deg": -4.0, "dc_i": 0.02, "dc_q": -0.01}
    profile = replace(PROFILE, values={k: Value(v, v, v, "", "") for k, v in found.items()})
    spoiled = apply_dc(apply_iq_imbalance(clean, 0.6, -4.0), 0.02 - 0.01j)
    mended = correct_front_end(Recording(spoiled, SETTINGS), [profile.values]).samples
    gain = np.vdot(clean, mended) / np.vdot(clean, clean)
    assert np.abs(mended - gain * clean).max() < 1e-6
    assert abs(image_ratio(0.0, 3.6236)) == pytest.approx(10**-1.5, rel=1e-3)


def test_pilots_through_a_linear_amplifier_are_the_layouts() -> None:
    layout = load_layout("paper")
    np.testing.assert_allclose(transmitted(layout.pilots, layout, (100.0, 2.0)), layout.pilots, atol=1e-5)


# The command line


def test_calibrate_writes_a_profile_that_decode_uses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    radio = "sim:csnr_db=15,taps=3,decay=1.0,cfo_hz=200"
    out, images = tmp_path / "p.toml", tmp_path / "images"
    blocks = f"{radio},block_samples=4352"
    assert main(["calibrate", "--radio", blocks, "--frames", "64", "--out", str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["values"]["carrier_offset_hz"]["value"] == pytest.approx(200, abs=1)
    profile = load_profile(out)
    assert profile.digest == told["digest"] and len(profile.pdp.powers) == 3
    np.testing.assert_allclose(profile.pdp.powers, exponential_pdp(3, 1.0), atol=0.15)

    images.mkdir()
    from receiver.bundles.bundle import find_bundle

    for path in sorted((find_bundle() / "samples").glob("*.png"))[:4]:
        (images / path.name).write_bytes(path.read_bytes())
    heard = str(tmp_path / "heard")
    assert main(["record", "--radio", blocks, "--images", str(images), "--out", heard]) == 0
    argv = ["decode", heard, "--layout", f"{heard}.layout.json", "--method", "jscc", "--calibration", str(out)]
    assert main([*argv, "--out", str(tmp_path / "run")]) == 0
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["config"]["calibration"] == {"path": str(out), "digest": profile.digest}
    save_profile(replace(profile, rx="pluto:usb:", tx="pluto:usb:"), out)
    assert main([*argv, "--out", str(tmp_path / "other")]) == 2
    assert "measure this one" in capsys.readouterr().err and not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--radio", "sim:csnr_db=-40"], "error: "),
        (["--radio", "sim:csnr_db=20", "--part", "frequncy"], "did you mean"),
        (["--radio", "file:x"], "can't be calibrated"),
    ],
)
def test_a_calibration_that_fails_leaves_nothing(tmp_path: Path, capsys, argv: list[str], words: str) -> None:
    assert main(["calibrate", *argv, "--frames", "16", "--out", str(tmp_path / "p.toml")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and words in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_calibration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import calibration.session

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration.session, "analyse_antennas", interrupt)
    assert main(["calibrate", "--radio", "sim:csnr_db=20", "--frames", "16", "--out", str(tmp_path / "p.toml")]) == 130
    assert list(tmp_path.iterdir()) == []
