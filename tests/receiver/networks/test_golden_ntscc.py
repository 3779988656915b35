"""NTSCC+ against the outputs of the public networks."""

import re

import pytest
import torch

from receiver.networks.ntscc import NTSCC, RATES
from tests.receiver.networks.oracle import chirp, golden, names, perturbed, shapes_of

#: A latent may lie so close to a rounding edge that another machine rounds it to the other side.
BITS_TOLERANCE = 2e-4


def build(name):
    return NTSCC(compat=name == "ntscc_compat")


def published(name):
    """The whole file: `f_list` holds the same tensors as `f_e0` and `f_d0`."""
    state = golden(name).published()
    for copy, own in (("f_list.0.", "f_e0."), ("f_list.1.", "f_d0.")):
        state |= {copy + key.removeprefix(own): value for key, value in state.items() if key.startswith(own)}
    return state | {"rate_choice_tensor": torch.tensor(RATES)}


@pytest.mark.parametrize("name", names("ntscc_*"))
def test_names_and_shapes_are_the_published_ones(name):
    case = golden(name)
    with torch.device("meta"):
        network = build(name)
    derived = set(case.document["constants"])
    assert shapes_of(network) == {key: shape for key, shape in case.shapes.items() if key not in derived}
    assert set(published(name)) == set(case.shapes)
    assert case.document["config"]["multiple_rate"] == list(RATES)


def options(run):
    """Pixels per side, eta, level and SNR in dB of a run by its name."""
    side, eta, _, level, _, csnr_db = re.fullmatch(r"s(\d+)_eta([\d.]+)(_qp(\d+))?(_snr(\d+))?", run).groups()
    return int(side), float(eta), float(level or 0), float(csnr_db or 10)


def runs(case):
    return sorted({output.removesuffix("_z") for output in case.outputs if output.endswith("_z")})


@pytest.mark.parametrize("name", names("ntscc_*"))
def test_outputs_are_the_published_ones(name, record_property):
    case = golden(name)
    network = build(name).eval()
    network.load_state_dict(published(name), strict=True)
    analysed = {}
    for run in runs(case):
        side, eta, level, csnr_db = options(run)
        with torch.no_grad():
            # Runs of one size differ behind the transform: it takes most of the time.
            if side not in analysed:
                analysed[side] = network.ntc.analyse(chirp(1, side, side))
            y = analysed[side]
            latents = y / network.quantiser(*y.shape[2:], torch.tensor([level]))
            entropy = network.ntc.entropy(latents)
            got = {
                "y": y,
                "z": entropy.hyper,
                "hyper_params": entropy.hyper_params,
                "gaussian_params": torch.cat([entropy.scales, entropy.means], dim=1),
                "z_likelihoods": network.ntc.entropy_bottleneck(entropy.hyper),
            }
            record_property(f"{run}_bits", case.compare(f"{run}_bits_per_position", entropy.bits, BITS_TOLERANCE))
            case.compare(f"{run}_y_likelihoods", entropy.likelihoods, BITS_TOLERANCE)
            index = torch.tensor(case.outputs[f"{run}_rate_index"]).view(1, 2, side // 32, side // 16)
            assert ((network.choose(latents, eta) - index).abs().sum()) <= 1
            features = network.features(latents, index, csnr_db)
            sent = network.sent(index)
            assert int(sent.sum()) == case.outputs[f"{run}_reals_sent"]
            assert not features[~sent].any()
            power = features.square().sum() / sent.sum()
            assert float(power) == pytest.approx(case.outputs[f"{run}_avg_pwr"], rel=1e-5)
            # The public order of axes: colours, channels, rows, columns.
            got["features_masked"] = features[0].permute(0, 3, 1, 2)
            got["symbols"] = got["features_masked"] / (2 * power).sqrt()
            got["decoded"] = network.decode(features, index, csnr_db, level)
            # That the image follows the symbols is seen at the small size.
            if side == 128:
                changed = perturbed(got["features_masked"].contiguous()).permute(0, 2, 3, 1)[None]
                got["decoded_perturbed"] = network.decode(changed, index, csnr_db, level)
        for kind, value in got.items():
            record_property(f"{run}_{kind}", case.compare(f"{run}_{kind}", value))


@pytest.mark.parametrize("name", names("ntscc_*"))
def test_latents_are_in_steps_of_the_quantiser(name):
    network = build(name).eval()
    x, level = chirp(1, 64, 64), torch.tensor([5.0])
    with torch.no_grad():
        steps = network.quantiser(4, 4, level)
        assert torch.equal(network.latents(x, level), network.ntc.analyse(x) / steps)


def test_both_names_of_the_entropy_models_layers_load():
    case, network = golden("ntscc_plus"), build("ntscc_plus")
    long = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
    state = {re.sub(r"(_matrix|_bias|_factor)(?=\d)", lambda m: long[m[1]], k): v for k, v in case.weights().items()}
    assert state.keys() != case.weights().keys()
    network.load_state_dict(state, strict=True)
    assert torch.equal(network.state_dict()["ntc.entropy_bottleneck._bias3"], state["ntc.entropy_bottleneck.biases.3"])


@pytest.mark.parametrize("key", ["f_list.0.blocks.0.norm1.weight", "rate_choice_tensor"])
def test_a_file_that_contradicts_itself_is_refused(key):
    state = published("ntscc_plus")
    state[key] = state[key] + 1
    with pytest.raises(RuntimeError, match=r"f_list|rates"):
        build("ntscc_plus").load_state_dict(state, strict=True)
