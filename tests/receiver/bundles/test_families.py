"""Families: every one of them goes through a bundle; a new module is a new family."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from receiver.bundles.bundle import CODECS, DENOISERS, load_codec, load_denoiser, write_part
from receiver.bundles.families import families

#: Sizes that a test can build, of families whose defaults are large.
SMALL: dict[str, dict[str, Any]] = {
    "pdjscc": {"width": 16},
    "playground": {"width": 16},
    "swinjscc": {"widths": (8, 12), "depths": (1, 1), "heads": (2, 3), "side": 2, "rate": 6},
    "ntscc": {"width": 16},
}


@pytest.mark.parametrize("family", sorted(CODECS))
def test_a_codec_of_every_family_comes_back(family: str, tmp_path: Path) -> None:
    config = CODECS[family](**SMALL.get(family, {}))
    with torch.random.fork_rng(devices=[]):
        codec = config.codec(config.network())
    write_part(tmp_path, "codec", {"network": family, **vars(config)}, codec.network.state_dict())
    loaded = load_codec(tmp_path)
    assert (loaded.family, loaded.config, loaded.digest) == (family, config, codec.digest)


@pytest.mark.parametrize("family", sorted(DENOISERS))
def test_a_denoiser_of_every_family_comes_back(family: str, tmp_path: Path) -> None:
    config = DENOISERS[family]()
    with torch.random.fork_rng(devices=[]):
        denoiser = config.denoiser()
    write_part(tmp_path, "prior", {"network": family, **vars(config)}, denoiser.unet.state_dict())
    loaded = load_denoiser(tmp_path)
    assert type(loaded) is type(denoiser) and loaded.digest == denoiser.digest


def test_a_new_module_is_a_new_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "shelf"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "common.py").touch()
    for name in ("beta", "alpha"):
        (package / f"{name}.py").write_text(f"class Config:\n    family = '{name}'\nFAMILY = Config\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(families(importlib.import_module("shelf"), "beta")) == ["beta", "alpha"]
