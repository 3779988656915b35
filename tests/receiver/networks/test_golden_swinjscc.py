"""SwinJSCC against the outputs of the public networks."""

import re

import pytest
import torch

from receiver.networks.swinjscc import DEPTHS, SwinJSCC
from tests.receiver.networks.oracle import golden, image, names, perturbed, shapes_of

ADAPTS = {"wo": "none", "sa": "snr", "ra": "rate", "sara": "both"}


def build(name):
    _, variant, size = name.split("_")
    return SwinJSCC(ADAPTS[variant], depths=DEPTHS[size])


@pytest.mark.parametrize("name", names("swinjscc_*"))
def test_names_and_shapes_are_the_published_ones(name):
    case = golden(name)
    with torch.device("meta"):
        network = build(name)
    derived = set(case.document["constants"])
    assert {key.rsplit(".", 1)[1] for key in derived} == {"attn_mask", "relative_position_index"}
    assert shapes_of(network) == {key: shape for key, shape in case.shapes.items() if key not in derived}


@pytest.mark.parametrize("name", names("swinjscc_*"))
def test_outputs_are_the_published_ones(name, record_property):
    case = golden(name)
    network = build(name).eval()
    network.load_state_dict(case.published(), strict=True)
    runs = sorted({output.removesuffix("_features") for output in case.outputs if output.endswith("_features")})
    for run in runs:
        side, csnr_db, rate = map(int, re.fullmatch(r"s(\d+)_snr(\d+)_rate(\d+)", run).groups())
        x = image(2 if side == 128 else 1, side, side)
        csnr = torch.full((len(x),), float(csnr_db))
        with torch.no_grad():
            features, channels = network.encode(x, csnr, rate)
            # Every channel is sent at every position, or at none.
            power = features.square().sum() / (channels.sum() * features[0, :, :, 0].numel())
            got = {
                "features": features.flatten(1, 2),
                "symbols": (features / (2 * power).sqrt()).flatten(1, 2),
                "decoded": network.decode(features, csnr),
                "decoded_perturbed": network.decode(perturbed(features) * channels[:, None, None], csnr),
            }
        selected = case.outputs.get(f"{run}_selected_channels", [list(range(96))] * len(x))
        assert [row.nonzero()[:, 0].tolist() for row in channels] == selected
        for kind, value in got.items():
            record_property(f"{run}_{kind}", case.compare(f"{run}_{kind}", value))
