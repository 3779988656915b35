"""The U-Net against the outputs of openai/guided-diffusion's."""

import pytest
import torch

from receiver.networks.unet import UNetModel
from tests.receiver.networks.oracle import golden, image, names, shapes_of


@pytest.mark.parametrize("name", names("adm_*"))
def test_names_and_shapes_are_the_published_ones(name):
    with torch.device("meta"):
        network = UNetModel(**golden(name).document["resolved"])
    assert shapes_of(network) == golden(name).shapes


@pytest.mark.parametrize("name", names("adm_*_w32"))
def test_outputs_are_the_published_ones(name, record_property):
    case = golden(name)
    network = UNetModel(**case.document["resolved"]).eval()
    network.load_state_dict(case.published(), strict=True)
    labels = torch.tensor([207, 3]) if network.num_classes else None
    runs = {f"out_t{t}": (image(1, 64, 64), torch.tensor([t])) for t in (0, 137, 999)}
    runs["out_batch2_64x96_t10_500"] = (image(2, 64, 96), torch.tensor([10, 500]))
    assert set(runs) == set(case.outputs)
    with torch.no_grad():
        for output, (x, t) in runs.items():
            got = network(2 * x - 1, t, None if labels is None else labels[: len(x)])
            record_property(output, case.compare(output, got))
