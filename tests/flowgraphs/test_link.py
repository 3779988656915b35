"""The whole link: three processes over ZMQ, and what happens when one is killed in mid-burst."""

import math
import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import flowgraphs.link
import flowgraphs.supervisor
from flowgraphs.link import LoopbackSettings, run_loopback
from flowgraphs.supervisor import Supervisor
from sdr.air.impairments import apply_cfo, exponential_pdp, noise_var_for_csnr
from sdr.errors import FlowgraphError, InputError
from sdr.layout import load_layout
from sdr.modem import modulate_stream

GAP = 1000


def through_truth(frames, layout, truth, total):
    """What must have been received, noise apart, by the recorded truth."""
    sent = np.zeros(total, np.complex64)
    stream = modulate_stream(frames, layout, GAP)
    sent[: stream.size] = stream
    block = np.maximum(0, (np.arange(total) - truth.first_redraw_sample) // truth.redraw_samples)
    received = np.zeros(total, np.complex128)
    for tap in range(truth.taps.shape[1]):
        delayed = np.concatenate([np.zeros(tap, np.complex64), sent[: total - tap]])
        received += truth.taps[block, tap] * delayed
    return apply_cfo(received.astype(np.complex64), truth.cfo_hz, layout.rate_sps)


def test_the_recording_is_what_the_truth_says(make_frames, tmp_path):
    layout = load_layout("paper")
    frames = make_frames(layout, num_images=24)
    steps = []
    settings = LoopbackSettings(10.0, cfo_hz=300.0, redraw_frames=2, seed=5, leading_gap_samples=GAP)
    link = run_loopback(frames, layout, settings, tmp_path / "run", lambda what, *counts: steps.append(counts))
    recording, truth = link.recording, link.truth
    assert recording.layout_digest == layout.digest
    assert recording.settings.rate_sps == layout.rate_sps
    assert recording.num_samples >= GAP + len(frames) * layout.frame_samples
    error = recording.samples - through_truth(frames, layout, truth, recording.num_samples)
    power = np.mean(np.abs(error) ** 2)
    assert truth.noise_var == pytest.approx(noise_var_for_csnr(layout, 10.0))
    assert power == pytest.approx(truth.noise_var, rel=6 / math.sqrt(error.size))
    assert truth.taps.shape[0] >= math.ceil(len(frames) / 2) and truth.taps.shape[1] == 8
    np.testing.assert_array_equal(truth.frame_starts, GAP + layout.frame_samples * np.arange(len(frames)))
    assert steps[-1][1] == recording.num_samples
    assert [process.process for process in link.processes] == ["transmit", "channel", "receive"]
    assert all(process.seconds > 0 and process.gnuradio == link.gnuradio for process in link.processes)
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("more", [1, 2, 3])
def test_a_stream_of_any_length_comes_through(make_frames, tmp_path, more):
    layout = load_layout("paper")
    frames = make_frames(layout, num_images=4)
    settings = LoopbackSettings(10.0, leading_gap_samples=GAP + more)
    recording = run_loopback(frames, layout, settings, tmp_path / "run").recording
    total = GAP + more + len(frames) * layout.frame_samples + layout.gap_samples
    assert recording.num_samples == total


def test_a_moderate_radio_in_place_of_taps(make_frames, tmp_path):
    """Every frame comes through, and no taps are told where they would not be the whole channel."""
    layout = load_layout("air")
    frames = make_frames(layout, num_images=24)
    impairments = "tdl=A,doppler_hz=5,offset_ppm=10,phase_noise_deg=0.1,image_rejection_db=30,adc_bits=8,csnr_db=20"
    settings = LoopbackSettings(
        10.0, cfo_hz=0.0, seed=2, leading_gap_samples=GAP, impairments=impairments + ",gap_samples=7,num_gaps=1"
    )
    link = run_loopback(frames, layout, settings, tmp_path)
    recording, truth = link.recording, link.truth
    assert truth.taps is None and "taps" not in truth.arrays()
    assert truth.cfo_hz == pytest.approx(24e3)
    assert truth.noise_var == pytest.approx(noise_var_for_csnr(layout, 20.0))
    assert truth.frame_starts[0] == GAP + 8  # where the delay line puts the first path
    levels = recording.samples.view(np.float32) * 128
    np.testing.assert_array_equal(levels, np.rint(levels))


def test_taps_follow_the_delay_profile(tmp_path, make_frames):
    layout = replace(load_layout("paper"), name="short", gap_samples=16)
    frames = make_frames(layout, num_images=64) * 4
    settings = LoopbackSettings(math.inf, redraw_frames=1, seed=1, leading_gap_samples=0)
    truth = run_loopback(frames, layout, settings, tmp_path).truth
    powers = np.mean(np.abs(truth.taps) ** 2, axis=0)
    pdp, count = exponential_pdp(8, 4.0), len(truth.taps)
    assert count >= len(frames)
    assert np.all(np.abs(powers - pdp) < 5 * pdp / math.sqrt(count))
    assert truth.noise_var == 0.0


@pytest.mark.parametrize("victim", ["transmit", "channel", "receive"])
def test_a_process_killed_in_mid_burst_is_one_error_and_leaves_no_recording(victim, make_frames, tmp_path, monkeypatch):
    layout = load_layout("paper")
    frames = make_frames(layout, num_images=64) * 20
    supervisors = []

    class Watched(Supervisor):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            supervisors.append(self)

    monkeypatch.setattr(flowgraphs.link, "Supervisor", Watched)
    killed = []

    def kill(_, done, total):
        if not killed and done > 0:
            assert done < total
            (process,) = [flowgraph for flowgraph in supervisors[0].flowgraphs if flowgraph.name == victim]
            os.kill(process.pid, signal.SIGKILL)
            killed.append(done)

    with pytest.raises(FlowgraphError) as caught:
        run_loopback(frames, layout, LoopbackSettings(10.0), tmp_path, kill)
    assert f"flowgraph '{victim}' died" in str(caught.value)
    assert "killed by SIGKILL" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "received.cf32").exists()
    assert not any(flowgraph.alive() for flowgraph in supervisors[0].flowgraphs)


@pytest.mark.parametrize("change", [{"redraw_frames": 0}, {"csnr_db": math.nan}, {"leading_gap_samples": -1}])
def test_arguments_out_of_range(change, make_frames, tmp_path):
    layout = load_layout("paper")
    with pytest.raises(InputError, match="a link needs redraw_frames"):
        run_loopback(make_frames(layout), layout, LoopbackSettings(**{"csnr_db": 10.0, **change}), tmp_path / "run")
    with pytest.raises(InputError, match="a link needs a frame"):
        run_loopback([], layout, LoopbackSettings(10.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_gnuradio_nothing_is_written(make_frames, tmp_path, monkeypatch):
    monkeypatch.setattr(flowgraphs.supervisor.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("OTA_GNURADIO_PYTHON", "/nonexistent/python")
    layout = load_layout("paper")
    with pytest.raises(FlowgraphError, match=r"OTA_GNURADIO_PYTHON=/nonexistent/python .*apt-get install gnuradio"):
        run_loopback(make_frames(layout), layout, LoopbackSettings(10.0), tmp_path / "run")
    assert not (tmp_path / "run").exists()
