"""The public networks in sizes that a test can run, for the tests of several files."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import save_file

from receiver.codecs.ntscc import NtsccConfig, RateMap
from receiver.codecs.swinjscc import SentChannels, SwinjsccConfig
from receiver.networks.adjscc import ADJSCC
from receiver.networks.ntscc import NTSCC, RATES
from receiver.networks.pdjscc import PDJSCC
from receiver.networks.playground import PlaygroundADJSCC
from receiver.networks.swinjscc import Adapts, SwinJSCC
from receiver.networks.unet import UNetModel

SWIN_SHAPE = (3, 16, 24)
NTSCC_SHAPE = (3, 128, 64)


def _moved(network: torch.nn.Module) -> None:
    """Random values where a fresh network holds zeros, so that every part of it has an effect."""
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)


def tiny_swinjscc(adapts: Adapts) -> tuple[SwinjsccConfig, SwinJSCC]:
    """A configuration with two stages and its network."""
    config = SwinjsccConfig(adapts, 6, widths=(8, 12), depths=(2, 2), heads=(2, 3), side=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = config.network().eval()
        _moved(network)
    return config, network


@lru_cache
def tiny_ntscc(compat: bool) -> tuple[NtsccConfig, NTSCC]:
    """A configuration and a network whose transform is narrow; the rates ask for the full width of the features."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NTSCC(compat, N=16).eval().requires_grad_(False)
        _moved(network)
        # Standard deviations around that of the latents, so that positions ask for rates of all sizes.
        network.ntc.entropy_parameters[4].bias[: network.M] = torch.linspace(0.5, 4, network.M)
    return NtsccConfig(compat, eta=0.2, level=30.0 if compat else 0.0, width=16), network


def some_channels(seed: int = 0) -> SentChannels:
    """Six of twelve channels."""
    chosen = torch.randperm(12, generator=torch.Generator().manual_seed(seed)) < 6
    return SentChannels(chosen, 0.7)


def some_rates(seed: int = 0) -> RateMap:
    """Rates for images of `NTSCC_SHAPE`, all kinds of them."""
    index = torch.randint(len(RATES), (2, 4, 4), generator=torch.Generator().manual_seed(seed))
    index[0, 0, 0] = 0
    return RateMap(index, 1.3)


def tiny_adm(*, faces: bool = True, classes: int | None = None) -> UNetModel:
    """A published ADM U-Net but for its width."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNetModel(
            image_size=256,
            in_channels=3,
            model_channels=32,
            out_channels=6,
            num_res_blocks=1 if faces else 2,
            attention_resolutions=(16,) if faces else (8, 16, 32),
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_classes=classes,
            num_heads=4,
            num_head_channels=64,
            use_scale_shift_norm=True,
            resblock_updown=True,
        )
        _moved(network)
    return network


def _adjscc_file(path: Path) -> None:
    """Names as DiffCom saves them, with what its loader drops."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = ADJSCC(2, width=16).state_dict()
    names = {name: name.replace("jscc_encoder.", "Encoder.").replace("jscc_decoder.", "Decoder.") for name in state}
    torch.save({names[name]: value for name, value in state.items()} | {"distortion_loss.window": torch.ones(3)}, path)


def _pdjscc_file(path: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = PDJSCC(2, width=16).state_dict()
    torch.save(state | {"Discriminator.0.weight": torch.ones(3)}, path)


def _swinjscc_file(path: Path, adapts: Adapts) -> None:
    """With a mask and an index that belong to one size of images, and a window of the loss."""
    _, network = tiny_swinjscc(adapts)
    block = "encoder.layers.0.blocks.1"
    derived = {f"{block}.attn_mask": torch.zeros(9, 4, 4), f"{block}.attn.relative_position_index": torch.zeros(4, 4)}
    torch.save(network.state_dict() | derived | {"distortion_loss.dist.window": torch.ones(3, 1, 1, 11)}, path)


def _ntscc_file(path: Path, compat: bool) -> None:
    """In a checkpoint of training, with a second registration of the transformers."""
    state = tiny_ntscc(compat)[1].state_dict()
    twins = {
        twin + name.removeprefix(own): value
        for own, twin in (("f_e0.", "f_list.0."), ("f_d0.", "f_list.1."))
        for name, value in state.items()
        if name.startswith(own)
    }
    torch.save({"state_dict": state | twins, "epoch": 1}, path)


def _hf_folder(path: Path) -> None:
    """A folder of Hugging Face, with the constants of CompressAI among the weights and a word on code to run."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = PlaygroundADJSCC(4, width=16).state_dict()
    layers = sorted({name.rpartition(".GDN.")[0] for name in state if ".GDN." in name})
    constants = {
        f"{layer}.GDN.{name}_reparam.{constant}": torch.ones(1)
        for layer in layers
        for name in ("beta", "gamma")
        for constant in ("pedestal", "lower_bound.bound")
    }
    path.mkdir()
    save_file(state | constants, path / "model.safetensors", metadata={"format": "pt"})
    described = {"model_type": "adjscc", "M": 4, "power": 1.0, "auto_map": {"AutoModel": "modeling_adjscc.AdjsccModel"}}
    (path / "config.json").write_text(json.dumps(described))


#: Checkpoints as public code saves them, narrow: what writes the file, and the options of `ota bundle import`.
CHECKPOINTS = {
    "adjscc": (_adjscc_file, ["--family", "adjscc", "--image-size", "256x256"]),
    "pdjscc": (_pdjscc_file, ["--family", "pdjscc"]),
    "swinjscc-none": (lambda path: _swinjscc_file(path, "none"), ["--family", "swinjscc", "--variant", "none"]),
    "swinjscc-snr": (lambda path: _swinjscc_file(path, "snr"), ["--family", "swinjscc", "--variant", "snr"]),
    "swinjscc-rate": (lambda path: _swinjscc_file(path, "rate"), ["--family", "swinjscc", "--C", "6"]),
    "swinjscc-both": (lambda path: _swinjscc_file(path, "both"), ["--family", "swinjscc", "--C", "6"]),
    "witt": (lambda path: _swinjscc_file(path, "snr"), ["--family", "witt", "--variant", "snr"]),
    "hf": (_hf_folder, ["--family", "hf"]),
    "ntscc-plus": (lambda path: _ntscc_file(path, compat=False), ["--family", "ntscc-plus"]),
    "ntscc-compat": (lambda path: _ntscc_file(path, compat=True), ["--family", "ntscc-plus", "--level", "30"]),
}
