"""The gain plan through the real driver of an emulated Pluto, whose air is known."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from calibration.gain import fit_gain, measure_gain
from calibration.link import measure_channel
from calibration.sounding import analyse_sounding, capture_sounding, sounding_frames
from ota.__main__ import main
from sdr.air.impairments import noise_var_for_csnr
from sdr.calibration_profile import CalibrationError, CalibrationProfile, GainPoint
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
from sdr.layout import load_layout
from sdr.modem import modulate_stream
from sdr.radios.open import open_radio
from sdr.radios.pluto import MUTED_DB, TX_SCALE, PlutoRadio
from sdr.settings import RadioSettings

PAPER = load_layout("paper")
PATH_DB, RX_GAIN_DB, CSNR_AT_0_DB = -12.0, 17.0, 42.0
FULL_SCALE_DB = 20 * math.log10(TX_SCALE / TX_FULL_SCALE)


@pytest.fixture(scope="module")
def pluto() -> Iterator[EmulatedPluto]:
    noise_var = noise_var_for_csnr(PAPER, CSNR_AT_0_DB) * 10 ** ((FULL_SCALE_DB + PATH_DB) / 10)
    with EmulatedPluto(Air(AirPath(PATH_DB), noise_var, 3)) as device:
        yield device


@pytest.fixture(scope="module")
def radio(pluto: EmulatedPluto) -> Iterator[PlutoRadio]:
    settings = RadioSettings(rate_sps=PAPER.rate_sps, center_hz=2.45e9, rx_gain_db=RX_GAIN_DB)
    with open_radio(f"pluto:{pluto.uri}", settings, PAPER) as opened:
        assert isinstance(opened, PlutoRadio)
        yield opened


@pytest.fixture(scope="module")
def profile(radio: PlutoRadio, pluto: EmulatedPluto) -> CalibrationProfile:
    ((points, values),) = measure_gain(radio, radio, PAPER, [-55, -35, -25, -15, 0], [-3, 17, 40, 71])
    assert pluto.tx_gain_db == MUTED_DB and not pluto.transmitting
    assert radio.settings.rx_gain_db == RX_GAIN_DB
    assert [point.saturated for point in points] == [False] * 8 + [True]
    return CalibrationProfile("a", "b", 0.0, 1e6, "2026-01-01T00:00:00Z", values=values, gain=points)


def test_noise_floor_and_gain_of_the_pair(profile: CalibrationProfile) -> None:
    noise = noise_var_for_csnr(PAPER, CSNR_AT_0_DB) * 10 ** ((FULL_SCALE_DB + PATH_DB + RX_GAIN_DB) / 10)
    # The converter's 12 bits add a twelfth of a squared step to each component.
    floor_dbfs = 10 * math.log10(noise + 2 / 12 / 2048**2)
    measured = profile.values["noise_floor_muted_dbfs"]
    assert measured.value == pytest.approx(floor_dbfs, abs=0.15)
    constant = profile.values["csnr_at_0_db"]
    true_db = CSNR_AT_0_DB - (floor_dbfs - 10 * math.log10(noise))
    assert constant.value == pytest.approx(true_db, abs=0.2)
    assert profile.get("tx_linear_high_db") == 0.0
    # At the least receive gain the converter's steps are as large as the noise; at the greatest it is saturated.
    assert (profile.get("rx_linear_low_db"), profile.get("rx_linear_high_db")) == (17.0, 40.0)
    heard = [point for point in profile.gain if point.evm_db is not None and point.rx_gain_db == RX_GAIN_DB]
    for point in heard:
        assert point.evm_db == pytest.approx(-point.csnr_db, abs=0.5)


def test_distortion_is_a_ceiling_and_no_end_of_the_line() -> None:
    def point(gain_db: float) -> GainPoint:
        csnr_db = -10 * math.log10(10 ** (-(40.0 + gain_db) / 10) + 10**-2.7)
        return GainPoint(gain_db, 0.0, csnr_db, csnr_db - 0.1, csnr_db + 0.1, -60.0, -20.0, False)

    found = fit_gain([point(gain) for gain in range(-40, 1, 5)])
    assert found["csnr_at_0_db"].value == pytest.approx(40.0, abs=0.01)
    assert found["csnr_ceiling_db"].value == pytest.approx(27.0, abs=0.01)
    assert found["tx_linear_high_db"].value == 0.0


@pytest.mark.parametrize("wanted_db", [-5, 0, 7.3, 15, 25])
def test_the_wanted_csnr_is_reached(radio: PlutoRadio, profile: CalibrationProfile, wanted_db: float) -> None:
    gain_db, scale = profile.plan(wanted_db)
    assert gain_db * 2 == round(gain_db * 2) and 0.9 < scale <= 1
    radio.apply(replace(radio.settings, tx_gain_db=gain_db))
    sounding = analyse_sounding(*_sounded(radio, scale))
    assert measure_channel(sounding)[1]["csnr_db"].value == pytest.approx(wanted_db, abs=0.5)
    radio.mute()


def _sounded(radio: PlutoRadio, scale: float):
    recording, sent, origin = capture_sounding(radio, radio, PAPER, 64, scale)
    return recording, PAPER, sent, origin


def test_what_cannot_be_reached_is_refused(profile: CalibrationProfile) -> None:
    with pytest.raises(CalibrationError, match="at most 4"):
        profile.plan(60.0)
    with pytest.raises(CalibrationError, match="attenuator"):
        profile.plan(-45.0)
    with pytest.raises(CalibrationError, match="--part gain"):
        replace(profile, values={}).plan(10.0)


@pytest.mark.parametrize(("saturated", "words"), [(True, "saturated at every gain"), (False, "no signal at any")])
def test_no_usable_gain_is_refused(saturated: bool, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        fit_gain([GainPoint(gain, 0.0, -99.0, -99.0, -99.0, -60.0, -1.0, saturated) for gain in (-20.0, -10.0)])


def test_the_simulated_radio_has_no_gains() -> None:
    with (
        open_radio("sim:", RadioSettings(rate_sps=1e6), PAPER) as sim,
        pytest.raises(CalibrationError, match="no gains to plan"),
    ):
        measure_gain(sim, sim, PAPER)


def test_transmit_sets_the_gain_and_ends_muted(
    tmp_path: Path, profile: CalibrationProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    from receiver.bundles.bundle import find_bundle
    from sdr.calibration_profile import save_profile

    noise_var = noise_var_for_csnr(PAPER, CSNR_AT_0_DB)
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((find_bundle() / "samples").glob("*.png"))[:4]:
        (images / path.name).write_bytes(path.read_bytes())
    with EmulatedPluto(Air(AirPath(), noise_var, 3)) as device:
        uri = f"pluto:{device.uri}"
        path = save_profile(replace(profile, tx=uri, rx=uri, center_hz=2.45e9), tmp_path / "p.toml")
        words = ["transmit", "--radio", uri, "--images", str(images), "--out", str(tmp_path / "tx"), "--json"]
        assert main([*words, "--csnr-db", "5", "--calibration", str(path)]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["csnr_db"] == 5 and "tx_gain_db = -3" in told.err
        assert device.tx_gain_db == MUTED_DB and not device.transmitting
        assert main([*words, "--csnr-db", "60", "--calibration", str(path)]) == 2
        assert device.tx_gain_db == MUTED_DB


@pytest.mark.parametrize("part", ["gain", "channel"])
def test_an_interrupted_calibration_ends_muted_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    import calibration.gain
    import calibration.session

    sent = []

    def interrupt(transmitter, receiver, layout, *_: object):
        transmitter.transmit(modulate_stream(sounding_frames(layout, 2), layout, 0), cyclic=True)
        sent.append(device.transmitting)
        raise KeyboardInterrupt

    module = calibration.gain if part == "gain" else calibration.session
    monkeypatch.setattr(module, "capture_sounding", interrupt)
    with EmulatedPluto() as device:
        argv = ["calibrate", "--radio", f"pluto:{device.uri},tx_gain_db=-10", "--part", part]
        assert main([*argv, "--out", str(tmp_path / "p.toml")]) == 130
        assert sent == [True] and not device.transmitting and device.tx_gain_db == MUTED_DB
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path_db", "part", "words"),
    [(-120.0, "channel", "no signal"), (60.0, "channel", "are saturated"), (60.0, "gain", "saturated at every gain")],
)
def test_silence_and_saturation_are_one_clear_line_and_end_muted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path_db: float, part: str, words: str
) -> None:
    with EmulatedPluto(Air(AirPath(gain_db=path_db), 1e-6)) as device:
        radio = f"pluto:{device.uri},tx_gain_db=0,rx_gain_db={20 if path_db < 0 else 60}"
        argv = ["calibrate", "--radio", radio, "--part", part, "--frames", "16", "--out", str(tmp_path / "p.toml")]
        assert main(argv) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert len(errors) == 1 and words in errors[0]
        assert device.tx_gain_db == MUTED_DB and not device.transmitting
    assert list(tmp_path.iterdir()) == []
