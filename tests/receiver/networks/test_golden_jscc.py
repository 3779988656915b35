"""ADJSCC and PDJSCC against the outputs of the public networks."""

import re

import pytest
import torch

from receiver.networks.adjscc import ADJSCC
from receiver.networks.pdjscc import PDJSCC
from tests.receiver.networks.oracle import golden, image, names, perturbed, shapes_of

#: Decoding 256x256 pixels takes too long to repeat for every C.
SKIPPED = {f"adjscc_C{C}": "s256_snr10_decoded" for C in (4, 6)}


def build(name):
    kind = ADJSCC if name.startswith("adjscc") else PDJSCC
    return kind(golden(name).document["config"]["C"])


@pytest.mark.parametrize("name", names("*djscc_*"))
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        network = build(name)
    assert shapes_of(network) == golden(name).shapes


@pytest.mark.parametrize("name", names("*djscc_*"))
def test_outputs_are_the_published_ones(name, record_property):
    case = golden(name)
    network = build(name).eval()
    network.load_state_dict(case.published(), strict=True)
    for run in sorted({output.rsplit("_", 1)[0] for output in case.outputs if output.endswith("_features")}):
        side, csnr_db = map(int, re.fullmatch(r"s(\d+)_snr(\d+)", run).groups())
        x = image(2 if side == 64 else 1, side, side)
        csnr = torch.full((len(x),), float(csnr_db))
        with torch.no_grad():
            features = network.encode(x, csnr)
            symbols = features / (2 * features.square().mean()).sqrt()
            got = {"features": features, "symbols": symbols}
            if f"{run}_decoded" in case.outputs and f"{run}_decoded" != SKIPPED.get(name):
                got["decoded"] = network.decode(symbols, csnr)
                # That the image follows the symbols is seen at the small size.
                if side == 64:
                    got["decoded_perturbed"] = network.decode(perturbed(symbols), csnr)
        for kind, value in got.items():
            record_property(f"{run}_{kind}", case.compare(f"{run}_{kind}", value))


def test_pdjscc_ignores_what_only_its_training_used():
    case = golden("pdjscc_C2")
    network = build("pdjscc_C2")
    extra = {"Discriminator.0.weight": torch.zeros(3), "_lpips.lin0.weight": torch.zeros(2)}
    network.load_state_dict(case.weights() | extra, strict=True)
    with pytest.raises(RuntimeError, match="Generator"):
        network.load_state_dict(case.weights() | {"Generator.weight": torch.zeros(1)}, strict=True)
