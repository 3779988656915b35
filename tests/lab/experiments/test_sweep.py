"""Sweeps: what one line of the tables says, and where its channel errors come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lab.evaluation.channel_truth import ChannelTruth, channel_distance
from lab.experiments.link import send
from lab.experiments.plan import Condition, Sweep, held_out_images, load_sweep, sweep_layout
from lab.experiments.sweep import run_sweep
from lab.reports.sweep import write_figures
from receiver.bundles.bundle import load_bundle
from receiver.decode import decode_recording
from receiver.samplers import METHODS
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError
from sdr.layout import load_layout
from sdr.radios.open import open_radio
from sdr.radios.simulated import SimulatedRadio

# fmt: off
ROW = [
    "method", "channel", "csnr_db", "images_per_frame", "n", "psnr_db", "psnr_db_se", "realism", "success_15db",
    "success_17db", "dh_below_0p1", "dh_mean", "acceptance_auc", "acceptance_auc_low", "acceptance_auc_high",
    "condition", "realism_se", "realism_null", "residual", "accepted", "seconds_per_image",
    "lpips_vgg", "dists",
]
# fmt: on
FADING = "taps=8,decay=4,cfo_hz=300"


def rows_of(sweep: Sweep, out: Path) -> list[dict[str, Any]]:
    return [row.row() for row in run_sweep(sweep, out).rows]


def small(**changes) -> Sweep:
    settings = {"name": "small", "csnr_db": (12.0,), "methods": ("jscc",), "num_images": 10, "seed": 3}
    return Sweep(**settings | changes)


@pytest.mark.parametrize("per_frame", [1, 4])
def test_a_row_has_the_columns_and_its_channel_is_found(tmp_path: Path, per_frame: int) -> None:
    sweep = small(channel=FADING, images_per_frame=per_frame)
    (row,) = rows_of(sweep, tmp_path)
    assert list(row) == ROW
    assert (row["method"], row["channel"], row["images_per_frame"], row["n"]) == ("jscc", FADING, per_frame, 10)
    # Pilot LMMSE at 12 dB: an error of a few hundredths at most, so the truth is that of the right frame.
    assert row["dh_below_0p1"] == 1 and row["dh_mean"] < 0.05
    assert 0 <= row["success_17db"] <= row["success_15db"] <= 1
    assert rows_of(sweep, tmp_path) == [row], "a resumed sweep tells the same"


def test_white_noise_has_a_true_channel_too(tmp_path: Path) -> None:
    (row,) = rows_of(small(), tmp_path)
    assert row["channel"] == "awgn" and row["dh_mean"] < 0.05


def test_images_that_never_arrive_are_failures(tmp_path: Path) -> None:
    (row,) = rows_of(small(csnr_db=(-20.0,)), tmp_path)
    assert row["n"] == 10 and row["success_15db"] == 0 and row["psnr_db"] is None and row["acceptance_auc"] is None


def test_frames_carry_as_many_images_as_asked_for() -> None:
    bundle = load_bundle()
    sweep = small(channel=FADING, images_per_frame=3)
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    assert send(sweep, bundle.codec, layout, ids, images, Condition("20 dB", FADING, 20.0)).sent_frames == 4
    with pytest.raises(ConfigError, match="images_per_frame"):
        sweep_layout(small(images_per_frame=5), bundle.codec.num_symbols)


@pytest.mark.parametrize("options", ["delay_samples=700", "gain_db=-6", "cfo_hz=-900", ""])
def test_the_truth_follows_delay_gain_and_offset(options: str) -> None:
    """Whatever the receiver absorbs, the channel that it found is near the simulated one; a wrong one would not be."""
    bundle = load_bundle()
    sweep = small(images_per_frame=1)
    channel = ",".join(filter(None, ["taps=8,decay=4", options]))
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    sent = send(sweep, bundle.codec, layout, ids, images, Condition("15 dB", channel, 15.0))
    assert sent.truth is not None
    result = decode_recording(sent.recording, layout, bundle, ["jscc"])
    frames = {frame.start: frame for frame in result.synced}
    own = [channel_distance(image.taps, frames[image.start_sample], sent.truth, layout) for image in result.images]
    assert len(own) == 10 and max(own) < 0.1
    turned = ChannelTruth.from_mapping({**vars(sent.truth), "taps": sent.truth.taps[::-1]})
    other = [channel_distance(image.taps, frames[image.start_sample], turned, layout) for image in result.images]
    assert sorted(other)[5] > 0.5


@pytest.mark.parametrize("options", ["tdl=A", "taps=2,offset_ppm=5", "taps=2,delay_samples=0.5", "phase_noise_deg=3"])
def test_a_channel_that_taps_do_not_describe_has_no_truth(options: str) -> None:
    layout = load_layout("paper")
    with open_radio(f"sim:{options}", layout=layout) as radio:
        assert isinstance(radio, SimulatedRadio)
        radio.transmit(torch.full((5000,), 0.1, dtype=torch.complex64).numpy())
        radio.receive()
        assert radio.channel_truth([0]) is None


def test_conditions_are_compared_with_the_same_images_and_draws(tmp_path: Path) -> None:
    """A condition that changes nothing gives the same numbers; clipping, no prefix and more noise cost PSNR."""
    conditions = (
        Condition("plain", FADING, 12.0),
        Condition("same", FADING, 12.0, clip_ratio=100.0),
        Condition("clipped", FADING, 12.0, clip_ratio=0.5),
        Condition("no prefix", FADING, 12.0, cp_samples=0),
        Condition("noisy", FADING, 0.0),
    )
    sweep = small(conditions=conditions, methods=("jscc", "jscc:eta=0.5"), num_images=8)
    rows = rows_of(sweep, tmp_path)
    by_name = {row["condition"]: row for row in rows if row["method"] == "jscc"}
    assert by_name["plain"]["psnr_db"] == pytest.approx(by_name["same"]["psnr_db"], abs=0.01)
    for name, least in (("clipped", 0.1), ("no prefix", 0.0), ("noisy", 1.0)):
        assert by_name[name]["psnr_db"] < by_name["plain"]["psnr_db"] - least
        assert by_name[name]["psnr_db"] > 14, "decoded with the true operator"
    assert {row["method"] for row in rows} == {"jscc", "jscc:eta=0.5"}
    figures = write_figures(tmp_path)
    names = {path.name for path in figures}
    assert names >= {"psnr.png", "realism.png", "tradeoff.png", "grid.png"}
    first = {path.name: path.read_bytes() for path in figures}
    for path in figures:
        path.unlink()
    assert {path.name: path.read_bytes() for path in write_figures(tmp_path)} == first


def test_a_method_may_have_settings_of_its_own() -> None:
    variant = method_variant("diffcom:steps=25,eta=0.5,jacobian=false,phase_std_rad=0.1")
    settings = variant.settings
    assert (variant.method, settings.steps, settings.eta, settings.jacobian) == ("diffcom", 25, 0.5, False)
    assert settings.phase_std_rad == 0.1
    assert settings.zeta > METHODS["diffcom"].settings.zeta, "fewer steps pull harder"
    assert method_variant("hifi").settings == METHODS["hifi"].settings
    for text, says in (("hify", "hifi"), ("hifi:zeta=x", "zeta"), ("hifi:zetta=1", "zeta"), ("hifi:eta=2", "eta")):
        with pytest.raises(ConfigError, match=says):
            method_variant(text)


@pytest.mark.parametrize(
    ("conditions", "says"),
    [
        ('[[conditions]]\nchannel = "taps=8"', "name"),
        ('[[conditions]]\nname = "a"\n[[conditions]]\nname = "a"', "name of its own"),
        ('[[conditions]]\nname = "a"\nclip = 1', "clip_ratio"),
        ('[[conditions]]\nname = "a"\ncp_samples = 1.5', "cp_samples"),
    ],
)
def test_a_bad_condition(tmp_path: Path, conditions: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text(f'name = "bad"\ncsnr_db = [10]\nmethods = ["jscc"]\n{conditions}\n')
    with pytest.raises(ConfigError, match=says):
        load_sweep(tmp_path / "bad.toml")
