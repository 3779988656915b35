"""The sampler benchmark: its ratios are of what they say, and the answer has the promised keys."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lab.benchmarks import sampler as benchmark_sampler
from lab.benchmarks.sampler import (
    bare_seconds,
    enlarged,
    held_out_measurement,
    peak_bytes,
    run_sampler_benchmark,
    step_seconds,
    timed_decoding,
    write_figure,
)
from receiver.bundles.bundle import load_bundle
from sdr.progress import Progress


def test_an_overhead_in_the_denoiser_is_measured() -> None:
    """A denoiser that sleeps makes every step longer by the nap; start and end are not in the figure."""
    bundle = load_bundle()
    measurement, h = held_out_measurement(bundle, 2, 0)

    class Slow:
        schedule, image_shape = bundle.required_denoiser.schedule, bundle.required_denoiser.image_shape

        def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            time.sleep(0.5)
            return bundle.required_denoiser(x_t, t)

    plain = step_seconds("hifi", measurement, h, bundle, 2)
    assert 0.4 < step_seconds("hifi", measurement, h, bundle, 2, denoiser=Slow()) - plain < 0.9
    assert bare_seconds(True, measurement, bundle, 3) > 0


def test_peak_memory_is_what_was_held_for_a_while() -> None:
    def hold() -> None:
        torch.ones(50_000_000, dtype=torch.float32).sum()

    assert peak_bytes(hold) == pytest.approx(200e6, rel=0.1)
    assert peak_bytes(lambda: None) < 20e6


def test_decoding_counts_what_the_processor_does_once_frames_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(seconds: float) -> None:
        until = time.process_time() + seconds
        while time.process_time() < until:
            pass

    def decode(*_: object, progress: Progress) -> SimpleNamespace:
        work(0.3)
        progress("find frames", 1, 1)
        work(0.2)
        time.sleep(0.4)  # passes on the clock, and costs the processor nothing
        return SimpleNamespace(images=("one", "two"))

    monkeypatch.setattr(benchmark_sampler, "decode_recording", decode)
    nothing: Any = None
    images, seconds = timed_decoding(nothing, nothing, nothing, "jscc", 0)
    assert images == ("one", "two") and 0.2 <= seconds < 0.4


def test_larger_images_go_through_the_same_networks() -> None:
    bundle = load_bundle()
    large = enlarged(bundle, 64)
    measurement, h = held_out_measurement(large, 2, 0)
    assert measurement.num_symbols == 4 * bundle.codec.num_symbols and large.image_shape == (1, 64, 64)
    assert step_seconds("hifi", measurement, h, large, 1) > 0


def test_the_answer_has_its_keys_and_a_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_sampler, "CURVE", ("hifi:steps=1", "hifi:steps=2"))
    monkeypatch.setattr(benchmark_sampler, "LARGE_BATCH", 4)
    monkeypatch.setattr(benchmark_sampler, "STEP_BATCH", 2)
    monkeypatch.setattr(benchmark_sampler, "BATCHES", (1, 8, 32))
    monkeypatch.setattr(benchmark_sampler, "SIDES", (32,))
    found = run_sampler_benchmark(quick=True, seed=1)
    assert found.step_overhead > 0 and found.batch_gain > 0
    assert [(point.method, point.evaluations) for point in found.curve] == [("jscc", 0), ("hifi", 1), ("hifi", 2)]
    assert found.memory_mb_per_image > 0.5 and found.memory_nonlinearity < 0.2
    for point in found.curve:
        assert point.n == 32 and point.psnr_db > 18 and point.realism > 0 and point.seconds_per_image > 0
    null = found.curve[1].realism_null
    assert found.curve[0].realism_null is None and null is not None and null > 0
    assert all(one.evaluations < other.evaluations for one, other in itertools.pairwise(found.curve))
    assert set(found.row()) == {
        *("step_overhead", "batch_gain", "curve", "timings", "scaling", "memory_mb_per_image", "memory_nonlinearity"),
        *("threads", "images"),
    }
    write_figure(found.curve, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 5000
