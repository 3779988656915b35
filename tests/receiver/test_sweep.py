"""Sweeps: what one line of the tables says, and where its channel errors come from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from receiver.bundles import load_bundle
from receiver.decode import decode_recording
from receiver.sweep import Sweep, area_under_roc, held_out_images, run_sweep, send, sweep_layout
from receiver.truth import ChannelTruth, channel_distance
from sdr.errors import ConfigError
from sdr.layout import load_layout
from sdr.radio import SimulatedRadio, open_radio

# fmt: off
ROW = [
    "method", "channel", "csnr_db", "images_per_frame", "n", "psnr_db", "psnr_db_se", "realism", "success_15db",
    "success_17db", "dh_below_0p1", "dh_mean", "acceptance_auc",
]
# fmt: on
FADING = "taps=8,decay=4,cfo_hz=300"


def small(**changes) -> Sweep:
    settings = {"name": "small", "csnr_db": (12.0,), "methods": ("jscc",), "num_images": 10, "seed": 3}
    return Sweep(**settings | changes)


@pytest.mark.parametrize("per_frame", [1, 4])
def test_a_row_has_the_columns_and_its_channel_is_found(tmp_path: Path, per_frame: int) -> None:
    sweep = small(channel=FADING, images_per_frame=per_frame)
    (row,) = run_sweep(sweep, tmp_path).rows
    assert list(row) == ROW
    assert (row["method"], row["channel"], row["images_per_frame"], row["n"]) == ("jscc", FADING, per_frame, 10)
    # Pilot LMMSE at 12 dB: an error of a few hundredths at most, so the truth is that of the right frame.
    assert row["dh_below_0p1"] == 1 and row["dh_mean"] < 0.05
    assert 0 <= row["success_17db"] <= row["success_15db"] <= 1
    assert run_sweep(sweep, tmp_path).rows == [row], "a resumed sweep tells the same"


def test_white_noise_has_a_true_channel_too(tmp_path: Path) -> None:
    (row,) = run_sweep(small(), tmp_path).rows
    assert row["channel"] == "awgn" and row["dh_mean"] < 0.05


def test_images_that_never_arrive_are_failures(tmp_path: Path) -> None:
    (row,) = run_sweep(small(csnr_db=(-20.0,)), tmp_path).rows
    assert row["n"] == 10 and row["success_15db"] == 0 and row["psnr_db"] is None and row["acceptance_auc"] is None


def test_frames_carry_as_many_images_as_asked_for() -> None:
    bundle = load_bundle()
    sweep = small(channel=FADING, images_per_frame=3)
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    assert send(sweep, bundle, layout, ids, images, 20.0).sent_frames == 4
    with pytest.raises(ConfigError, match="images_per_frame"):
        sweep_layout(small(images_per_frame=5), bundle.codec.num_symbols)


@pytest.mark.parametrize("options", ["delay_samples=700", "gain_db=-6", "cfo_hz=-900", ""])
def test_the_truth_follows_delay_gain_and_offset(options: str) -> None:
    """Whatever the receiver absorbs, the channel that it found is near the simulated one; a wrong one would not be."""
    bundle = load_bundle()
    sweep = small(channel=",".join(filter(None, ["taps=8,decay=4", options])), images_per_frame=1)
    layout = sweep_layout(sweep, bundle.codec.num_symbols)
    ids, images = held_out_images(sweep, bundle.image_shape)
    sent = send(sweep, bundle, layout, ids, images, 15.0)
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


def test_area_under_roc_is_that_of_sorted_scores() -> None:
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(400, generator=generator)
    good = torch.rand(400, generator=generator) < torch.sigmoid(-2 * scores)
    order = scores.argsort(descending=True)
    hits, alarms = (~good[order]).cumsum(0) / (~good).sum(), good[order].cumsum(0) / good.sum()
    area = torch.trapezoid(hits.double(), alarms.double())
    assert area_under_roc(scores.tolist(), good.tolist()) == pytest.approx(float(area), abs=1e-2)
    assert area_under_roc([1.0, 2.0], [True, True]) is None
    assert area_under_roc([1.0, 2.0, float("nan")], [True, True, False]) == 1, "what diverged is told apart"
