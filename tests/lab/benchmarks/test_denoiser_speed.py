"""The benchmark of the denoiser's speed runs on any device, and tells what half precision changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lab.benchmarks import denoiser_speed
from lab.benchmarks.denoiser_speed import NETWORKS, VARIANTS, main
from sdr.errors import ConfigError


def test_every_variant_is_timed_and_held_to_single_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Bfloat16 is slow on a processor that lacks it.
    monkeypatch.setattr(denoiser_speed, "REPEATS", 1)
    monkeypatch.setattr(denoiser_speed, "WARM_UP", 0)
    main(["--device", "cpu", "--small", "--batch", "1", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert [(row["batch"], row["variant"]) for row in rows] == [(1, name) for name in VARIANTS]
    for row in rows:
        assert min(row["forward_ms"], row["gradient_ms"], row["step_ms"]) > 0
        single = row["variant"].endswith("fp32")
        assert row["error"] < (1e-5 if single else 0.03) and row["gradient_error"] < (1e-4 if single else 0.1)
        assert row["image_rms"] < (1e-4 if single else 0.02)
    exact = {row["variant"]: row["error"] for row in rows}
    assert exact["plain fp32"] == 0 < exact["fast fp16"] < exact["fast bf16"]


def test_the_published_networks_are_the_full_ones() -> None:
    sizes = {name: (config.model_channels, config.num_res_blocks) for name, config in NETWORKS.items()}
    assert sizes == {"ffhq-93M": (128, 1), "imagenet-552M": (256, 2)}


def test_a_device_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="--device cpu --small"):
        main(["--device", "cuda", "--out", str(tmp_path)])
