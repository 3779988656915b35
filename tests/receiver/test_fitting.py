"""What a bundle lacks for a method is said before anything is decoded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from receiver.bundles.bundle import load_bundle
from receiver.fitting import check_models
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError


def test_landing_needs_a_network_of_confidence(tmp_path: Path) -> None:
    shipped = load_bundle("fashion")
    variants = [method_variant("land"), method_variant("blind-land")]
    check_models(variants, shipped)
    without = replace(shipped, path=tmp_path)
    check_models([method_variant("guided"), method_variant("jscc")], without)
    for variant in variants:
        instead = variant.method.replace("land", "guided")
        with pytest.raises(ConfigError, match=rf"no confidence.safetensors, which {variant.method} .*{instead}\.$"):
            check_models([variant], without)
