"""SwinJSCC and WITT against the outputs of the public networks."""

import re

import pytest
import torch

from receiver.networks.swinjscc import DEPTHS, SwinJSCC
from tests.receiver.networks.oracle import golden, image, names, perturbed, shapes_of

#: Other rates and SNRs are told apart at 128x128 pixels; at 256x256 one run of each network shows that masks fit.
SKIPPED = {"s256_snr1_rate96", "s256_snr10_rate32"}
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
    for run in (run for run in runs if run not in SKIPPED):
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
            }
            # That the image follows the symbols is seen at the small size.
            if side == 128:
                changed = perturbed(features) * channels[:, None, None]
                got["decoded_perturbed"] = network.decode(changed, csnr)
        selected = case.outputs.get(f"{run}_selected_channels", [list(range(96))] * len(x))
        assert [row.nonzero()[:, 0].tolist() for row in channels] == selected
        for kind, value in got.items():
            record_property(f"{run}_{kind}", case.compare(f"{run}_{kind}", value))


def test_witt_is_swinjscc_without_a_rate(record_property):
    case = golden("witt_cifar")
    sizes = case.document["config"]["encoder"]
    for adapts in ("none", "snr"):
        network = SwinJSCC(
            adapts, sizes["C"], 3, sizes["embed_dims"], sizes["depths"], sizes["num_heads"], sizes["window_size"]
        ).eval()
        network.load_state_dict(case.published(), strict=True)
        runs = sorted(name.removesuffix("_features") for name in case.outputs if name.startswith(adapts))
        for run in (run for run in runs if f"{run}_features" in case.outputs):
            height, width, csnr_db = re.fullmatch(rf"{adapts}_s(\d+)x?(\d*)_snr(\d+)", run).groups()
            x = image(1 if width else 2, int(height), int(width or height))
            csnr = torch.full((len(x),), float(csnr_db))
            with torch.no_grad():
                features, _ = network.encode(x, csnr)
                got = {
                    "features": features.flatten(1, 2),
                    "symbols": (features / (2 * features.square().mean()).sqrt()).flatten(1, 2),
                    "decoded": network.decode(features, csnr),
                    "decoded_perturbed": network.decode(perturbed(features), csnr),
                }
            for kind, value in got.items():
                record_property(f"{run}_{kind}", case.compare(f"{run}_{kind}", value))


def test_witt_has_the_names_of_swinjscc():
    case = golden("witt_cifar")
    with torch.device("meta"):
        network = SwinJSCC("snr", 8, widths=(128, 256), depths=(2, 4), heads=(4, 8), side=2)
    derived = set(case.document["constants"])
    assert shapes_of(network) == {key: shape for key, shape in case.shapes.items() if key not in derived}
