"""Radios with several antennas: measured through the driver of an emulated Pluto, held in a profile, used to decode."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.antennas import compare_antennas
from calibration.gain import common_plan, measure_gain
from calibration.session import CalibrationPlan, measure_link
from calibration.sounding import analyse_antennas, capture_sounding
from lab.benchmarks.calibrated_link import AIRS, CALIBRATION_CSNR_DB, SECOND_PATH, pluto_of_two
from lab.evaluation.metrics import psnr_db
from ota.__main__ import main
from receiver.bundles.bundle import load_bundle
from receiver.channel.prior import channel_prior
from receiver.decode import DecodeSettings, decode_recording
from receiver.front_end import correct_front_end
from receiver.images.files import load_image_folder
from sdr.air.impairments import apply_awgn, apply_dc, apply_iq_imbalance, exponential_pdp, noise_var_for_csnr
from sdr.calibration_profile import CalibrationError, CalibrationProfile, load_profile, save_profile
from sdr.documents import to_toml
from sdr.emulated.air import Air, AirPath
from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.radios.pluto import TX_SCALE
from sdr.recordings.recording import Recording
from sdr.settings import RadioSettings
from tests.calibration.profiles import LATE, PDP, PROFILE, TWO
from transmitter.encode import encode_images

PAPER = load_layout("paper")


# Measured through a driver


@dataclass(frozen=True)
class Heard:
    """A calibrated radio of two antennas: its profile's file, what it heard of images later, and the images."""

    path: Path
    recording: Recording
    originals: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Heard:
    path, bundle = tmp_path_factory.mktemp("calibrated") / "two.toml", load_bundle()
    ids, images = load_image_folder(bundle.samples, bundle.image_shape)
    sent = encode_images(ids, images, bundle.codec, PAPER, CALIBRATION_CSNR_DB).samples(0)
    with pluto_of_two(AIRS["antennas"], PAPER) as uri:
        argv = ["calibrate", "--radio", f"{uri},tx_gain_db=0", "--frames", "128", "--out", str(path)]
        parts = [word for part in ("frequency", "channel", "delay", "frontend") for word in ("--part", part)]
        assert main([*argv, *parts]) == 0
        with open_radio(f"{uri},tx_gain_db=0", layout=PAPER) as radio:
            radio.transmit(sent, cyclic=True)
            recording = radio.receive(sent.size + PAPER.frame_samples)
    return Heard(path, recording, dict(zip(ids, images, strict=True)))


def test_each_antenna_is_measured_as_one_alone_would_be(heard: Heard) -> None:
    profile = load_profile(heard.path)
    assert len(profile.antennas) == 2 and (heard.path.with_suffix(".png")).stat().st_size > 20_000
    assert profile.get("carrier_offset_hz") == pytest.approx(900, abs=1)
    assert profile.get("csnr_db") is None and profile.pdp is None
    full_scale = TX_SCALE / TX_FULL_SCALE
    noise_db = 10 * math.log10(noise_var_for_csnr(PAPER, CALIBRATION_CSNR_DB) * full_scale**2) + 6
    truth = zip((15.0, 18.0), (0.01, 0.02), (0.0, -4.0), ((10, 20.0), SECOND_PATH[:2]), strict=True)
    for number, (rejection_db, dc, gain_db, pdp) in enumerate(truth):
        own = profile.antenna(number)
        phase_deg = math.degrees(2 * math.atan(10 ** (-rejection_db / 20)))
        assert own.get("iq_phase_deg") == pytest.approx(phase_deg, abs=0.5)
        assert own.get("iq_gain_db") == pytest.approx(0, abs=0.1)
        assert own.get("dc_i") == pytest.approx(dc, abs=0.001) and own.get("dc_q") == pytest.approx(0, abs=0.001)
        assert own.get("noise_floor_dbfs") == pytest.approx(noise_db + gain_db, abs=0.3)
        assert own.get("csnr_db") == pytest.approx(CALIBRATION_CSNR_DB, abs=1.5)
        true = exponential_pdp(*pdp)
        assert own.pdp is not None and len(own.pdp.powers) == true.size
        np.testing.assert_allclose(own.pdp.powers, true, atol=0.1)
    # The profile of the second, late by two samples, lies as much further behind where frames are found.
    late = [np.average(each.pdp.timing_samples, weights=each.pdp.timing_odds) for each in profile.antennas if each.pdp]
    assert late[0] - late[1] == pytest.approx(SECOND_PATH[2], abs=0.5)
    gain = profile.antennas[1].values["relative_gain_db"]
    # Twice the interval: what is heard differs from run to run.
    assert gain.value == pytest.approx(-4.0, abs=1.5) and abs(gain.value + 4.0) < gain.high - gain.low
    # Channels that are drawn apart: nothing in common.
    assert profile.antennas[1].values["fading_correlation"].low == 0
    assert "relative_phase_deg" not in profile.antennas[1].values


def test_images_of_two_antennas_gain_by_the_profile_of_both(heard: Heard) -> None:
    profile, bundle = load_profile(heard.path), load_bundle()
    images = []
    for calibration in (None, profile):
        settings = DecodeSettings(calibration=calibration)
        result = decode_recording(heard.recording, PAPER, bundle, ["jscc"], settings)
        images.append({image.id: torch.from_numpy(image.image) for image in result.images})
    assert images[0].keys() == images[1].keys() == heard.originals.keys()
    originals = torch.stack([heard.originals[name] for name in images[0]])
    without, with_ = (psnr_db(torch.stack(list(each.values())), originals) for each in images)
    gain = with_ - without
    # About 0.3 dB, by 0.07 more or less with what is heard in a run.
    assert gain.mean() > 0.05


def test_the_gain_plan_has_a_line_for_each_antenna() -> None:
    full_scale_db = 20 * math.log10(TX_SCALE / TX_FULL_SCALE)
    noise_var = noise_var_for_csnr(PAPER, 30.0) * 10 ** (full_scale_db / 10)
    air = Air(AirPath(), noise_var, 3)
    settings = RadioSettings(rate_sps=PAPER.rate_sps, center_hz=2.45e9, rx_gain_db=20.0)
    with EmulatedPluto(air, rx=2) as device:
        air.connect("pluto", "pluto", AirPath(-6.0), antenna=1)
        with open_radio(f"pluto:{device.uri},rx=2", settings, PAPER) as radio:
            plans = measure_gain(radio, radio, PAPER, [-25, -20, -15], [])
        assert not device.transmitting
    constants = [plan.values["csnr_at_0_db"].value for plan in plans]
    assert constants == [pytest.approx(30.0, abs=0.3), pytest.approx(24.0, abs=0.3)]
    assert [len(plan.points) for plan in plans] == [3, 3]
    both = common_plan(plans)
    assert both["csnr_at_0_db"].value == pytest.approx(10 * math.log10((1000 + 10**2.4) / 2), abs=0.3)
    assert both["tx_linear_high_db"].value == -15


def test_an_antenna_that_hears_nothing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    air = Air(AirPath(), 1e-6)
    with EmulatedPluto(air, rx=2) as device:
        air.connect("pluto", "pluto", AirPath(-150.0), antenna=1)
        argv = ["calibrate", "--radio", f"pluto:{device.uri},rx=2,tx_gain_db=-10,rx_gain_db=20", "--frames", "16"]
        assert main([*argv, "--part", "channel", "--out", str(tmp_path / "p.toml")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1 and "antenna 1: no path stands out of the noise" in errors[0]
    assert list(tmp_path.iterdir()) == []


# One antenna against another


@pytest.mark.parametrize("correlation", [0.0, 0.6, 1.0])
def test_gain_and_correlation_of_antennas(correlation: float) -> None:
    """The second is made of the first and of another, so that their correlation is known; both have noise of their own.

    The estimate's error is 0.03 and less over 100 draws; a delay of two samples is no part of it.
    """
    fading = f"taps=4,decay=2,cfo_hz=500,block_samples={PAPER.frame_samples},seed=5,rx=2"
    with open_radio(f"sim:{fading}", layout=PAPER) as radio:
        recording, sent, origin = capture_sounding(radio, radio, PAPER, 200)
    one, other = recording.antennas
    rng, noise_var, phase = np.random.default_rng(0), noise_var_for_csnr(PAPER, 20.0), 0.7
    mixed = 0.5 * np.exp(1j * phase) * (correlation * one + math.sqrt(1 - correlation**2) * other)
    late = np.concatenate([np.zeros(2), mixed[:-2]]).astype(np.complex64)
    both = replace(
        recording,
        samples=apply_awgn(one, noise_var, rng),
        others=(apply_awgn(late, noise_var / 4, rng),),
    )
    first, second = compare_antennas(analyse_antennas(both, PAPER, sent, origin))
    assert first == {}
    found, gain = second["fading_correlation"], second["relative_gain_db"]
    assert found.value == pytest.approx(correlation, abs=0.1)
    assert found.low - 1e-3 <= correlation <= found.high + 1e-3
    assert gain.value == pytest.approx(20 * math.log10(0.5), abs=0.75)
    assert ("relative_phase_deg" in second) == (correlation == 1.0)
    if correlation == 1.0:
        # Two samples later the carrier offset has turned on.
        turned_deg = math.degrees(phase) - 360 * 2 * 500 / PAPER.rate_sps
        assert second["relative_phase_deg"].value == pytest.approx(turned_deg, abs=0.1)
        assert second["relative_delay_samples"].value == pytest.approx(2.0, abs=0.005)


# Profiles


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_profile_of_several_antennas_survives_its_file(tmp_path: Path, suffix: str) -> None:
    path = save_profile(TWO, tmp_path / f"p{suffix}")
    assert load_profile(path) == TWO
    second = TWO.antenna(1)
    assert second.get("relative_gain_db") == -4 and second.get("carrier_offset_ppm") == 1.5 and second.pdp == LATE
    assert second.digest != TWO.antenna(0).digest and not second.antennas


def test_an_antenna_alone_is_found_by_its_own_paths(tmp_path: Path) -> None:
    path = save_profile(TWO, tmp_path / "p.toml")
    on_time = replace(LATE, timing_samples=(0,), timing_odds=(1.0,))
    assert load_profile(path, 1) == replace(TWO.antenna(1), pdp=on_time)
    assert PROFILE.alone(0) is PROFILE


def test_antennas_that_are_chosen_keep_their_own_part() -> None:
    assert TWO.chosen(()) is TWO and PROFILE.chosen((1,)) is PROFILE and TWO.chosen((1,)) == TWO.alone(1)
    assert TWO.chosen((1, 0)).antennas == (TWO.antennas[1], TWO.antennas[0])
    three = replace(TWO, antennas=(*TWO.antennas, TWO.antennas[1]))
    chosen = three.chosen((2, 0))
    assert [own.values for own in chosen.antennas] == [three.antennas[2].values, three.antennas[0].values]
    # Where all three hear a frame together is not where two of them do.
    assert [own.pdp for own in chosen.antennas] == [
        replace(own.pdp, timing_samples=(0,), timing_odds=(1.0,)) for own in (three.antennas[2], three.antennas[0])
    ]
    with pytest.raises(CalibrationError, match="has no antenna 2"):
        TWO.chosen((0, 2))


def test_a_profile_of_one_antenna_is_what_it_was() -> None:
    """The file was written before there were several: what is made of it is the same to the last byte."""
    path = Path(__file__).with_name("one_antenna.toml")
    profile = load_profile(path)
    assert profile == PROFILE and profile.digest == "1f2c059551535208"
    assert profile.of_antennas(1) == (profile,) and profile.antenna(0) is profile


def test_a_file_of_one_antenna_is_written_as_ever(tmp_path: Path) -> None:
    path = Path(__file__).with_name("one_antenna.toml")
    assert save_profile(PROFILE, tmp_path / "p.toml").read_bytes() == path.read_bytes()


def edited(tmp_path: Path, change: Callable[[dict], object]) -> Path:
    """Return a file of `TWO` whose content was changed by someone who knows how its digest is made."""
    path = save_profile(TWO, tmp_path / "p.json")
    document = json.loads(path.read_text())
    del document["digest"]
    change(document)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    path = tmp_path / "edited.json"
    path.write_text(json.dumps({"digest": digest, **document}))
    return path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["antennas"].pop("0"), "antennas must be called 0, found 1"),
        (lambda d: d["antennas"].pop("1"), "has 2..8, found 1"),
        (lambda d: d["antennas"].update({str(n): d["antennas"]["1"] for n in range(2, 9)}), "has 2..8, found 9"),
        (lambda d: d["antennas"]["1"]["values"]["dc_i"].update(value=math.nan), "must be a finite number, found nan"),
        (lambda d: d["antennas"]["1"]["pdp"].update(powers=[math.nan] * 3), r"antennas\[1\]: pdp: .*powers >= 0"),
        (lambda d: d["antennas"]["1"].update(colour="red"), "unknown key 'colour'"),
        (lambda d: d.update(antennas=[]), "antennas must be a table"),
        (lambda d: d.update(format=1), "format 1, or 2 with antennas"),
        (lambda d: d.pop("antennas"), "format 1, or 2 with antennas"),
        (lambda d: d.update(pdp=d["antennas"]["1"]["pdp"]), "belong to each antenna"),
    ],
)
def test_a_profile_of_antennas_that_cannot_be_is_refused(tmp_path: Path, change, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        load_profile(edited(tmp_path, change))


def test_an_edited_antenna_is_seen(tmp_path: Path) -> None:
    path = save_profile(TWO, tmp_path / "p.toml")
    text = path.read_text()
    path.write_text(text.replace("value = -3.0", "value = -2.95"))
    with pytest.raises(CalibrationError, match="edited or damaged"):
        load_profile(path)
    assert to_toml({"a": {"1": {"gain": []}}}) == "[a.1]\ngain = []\n"


def test_a_profile_is_for_as_many_antennas_as_it_is_of() -> None:
    assert [each.pdp for each in TWO.of_antennas(2)] == [PDP, LATE]
    for profile, count, words in (
        (PROFILE, 2, "is of 1 antenna, and the recording has 2; calibrate the radio with rx=2, or decode one"),
        (TWO, 1, r"is of 2 antennas, and the recording has 1; say which .* `ota decode --calibration-antenna` 0..1"),
        (TWO, 3, "is of 2 antennas, and the recording has 3; decode all 2 antennas together, or calibrate anew"),
    ):
        with pytest.raises(CalibrationError, match=words):
            profile.of_antennas(count)
    with pytest.raises(CalibrationError, match=r"has no antenna 2: it is of 2 antennas; give a number in 0\.\.1"):
        TWO.antenna(2)


def test_each_antenna_is_corrected_by_its_own_values() -> None:
    rng = np.random.default_rng(0)
    clean = [(0.1 * rng.standard_normal((1000, 2))).astype(np.float32).view(np.complex64)[:, 0] for _ in range(2)]
    truth = [{"iq_phase_deg": 4.0, "dc_i": 0.01}, {"iq_phase_deg": -3.0, "dc_i": 0.02}]
    spoiled = [
        apply_dc(apply_iq_imbalance(samples, 0.0, each["iq_phase_deg"]), each["dc_i"])
        for samples, each in zip(clean, truth, strict=True)
    ]
    values = [profile.values for profile in TWO.of_antennas(2)]
    mended = correct_front_end(Recording(spoiled[0], others=(spoiled[1],)), values)
    for after, before in zip(mended.antennas, clean, strict=True):
        gain = np.vdot(before, after) / np.vdot(before, before)
        assert np.abs(after - gain * before).max() < 1e-6


def test_the_prior_of_each_antenna_is_that_of_its_own_profile() -> None:
    both = channel_prior(PAPER, calibrations=TWO.of_antennas(2))
    for number, own in enumerate(TWO.of_antennas(2)):
        alone = channel_prior(PAPER, calibrations=[own]).power
        np.testing.assert_array_equal(both.power[number, : alone.numel()], alone)
    assert torch.equal(both.at(torch.tensor([3, 0])), both.power[[1, 0]])
    same = channel_prior(PAPER)
    assert same.at(torch.tensor([3, 0])) is same.power


def test_a_calibration_of_one_antenna_of_two_is_that_of_it_alone() -> None:
    """The first antenna of a simulated radio hears what the only one would: what is measured of it agrees."""
    plan, air = CalibrationPlan(["channel"], 48), f"csnr_db=20,taps=3,block_samples={PAPER.frame_samples},seed=2"
    profiles: list[CalibrationProfile] = []
    for options in (air, f"{air},rx=2"):
        with open_radio(f"sim:{options}", layout=PAPER) as radio:
            profiles.append(measure_link(radio, radio, PAPER, plan).antenna(0))
    one, first = profiles
    assert one.pdp is not None and first.pdp is not None
    np.testing.assert_allclose(first.pdp.powers, one.pdp.powers, atol=1e-3)
    for name in ("csnr_db", "noise_floor_dbfs", "error_floor_dbfs"):
        assert first.get(name) == pytest.approx(one.get(name), abs=0.02)
