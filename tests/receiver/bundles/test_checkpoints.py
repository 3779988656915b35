"""Published checkpoints: what is read, and what is refused before it can do harm."""

import argparse
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from receiver.bundles.checkpoints import family_of, load_checkpoint, read_checkpoint
from receiver.networks.adjscc import ADJSCC
from receiver.networks.ntscc import NTSCC
from receiver.networks.pdjscc import PDJSCC
from receiver.networks.swinjscc import SwinJSCC
from receiver.networks.unet import UNetModel
from sdr.errors import ModelError


def adjscc():
    return ADJSCC(2, width=16, kernels=(3, 3, 3, 3, 3), edge_width=16, edge_kernel=3)


def pdjscc():
    return PDJSCC(2, width=16)


def adm(**options):
    sizes = {"image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1}
    return UNetModel(**(sizes | {"attention_resolutions": (), "channel_mult": (1,)} | options))


def swinjscc(**options):
    sizes = {"adapts": "both", "widths": (8, 12), "depths": (2, 2), "heads": (2, 3), "side": 2}
    return SwinJSCC(**(sizes | options))


def ntscc():
    return NTSCC(N=16)


FAMILIES = {"ADJSCC or PDJSCC": adjscc, "ADM U-Net": adm, "SwinJSCC or WITT": swinjscc, "NTSCC+": ntscc}


@pytest.fixture
def state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return adjscc().state_dict()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pt"


def refused(path, build=adjscc, match=None):
    """Assert that loading fails with one line that names the file; return the line."""
    with pytest.raises(ModelError, match=match) as error:
        load_checkpoint(path, build)
    message = str(error.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


# What is read


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_network_comes_back_from_either_format(family, tmp_path):
    build = FAMILIES[family]
    state = build().state_dict()
    assert family_of(state) == family
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pt", "a.safetensors"):
        network = load_checkpoint(tmp_path / name, build)
        assert not network.training and not any(parameter.requires_grad for parameter in network.parameters())
        for key, value in network.state_dict().items():
            assert torch.equal(value, state[key]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {f"module.model.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"step": torch.zeros(1)}},
        lambda state: {"model": OrderedDict(state), "args": {"lr": 0.1}},
        lambda state: {"ema": {"model": state}, "model": {key: value * 0 for key, value in state.items()}},
        lambda state: {"state_dict": {f"_orig_mod.{key}": value for key, value in state.items()}},
        lambda state: state | {"epoch": 3},
    ],
)
def test_what_training_code_puts_around_weights_goes(wrap, state, path):
    torch.save(wrap(state), path)
    read = read_checkpoint(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_averaged_weights_are_wanted_most(state, path):
    torch.save({"state_dict": {key: value * 0 for key, value in state.items()}, "params_ema": state}, path)
    assert torch.equal(
        read_checkpoint(path)["jscc_encoder.attention1.fc1.weight"], state["jscc_encoder.attention1.fc1.weight"]
    )


def test_adjscc_has_older_names(state, path):
    short = {key.replace("jscc_encoder", "Encoder").replace("jscc_decoder", "Decoder"): v for key, v in state.items()}
    torch.save(short | {"distortion_loss.window": torch.ones(3)}, path)
    loaded = load_checkpoint(path, adjscc).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_pdjscc_keeps_them_and_its_losses_go(path):
    state = pdjscc().state_dict()
    torch.save(state | {"Discriminator.0.weight": torch.ones(3), "_lpips.lin": torch.ones(3)}, path)
    loaded = load_checkpoint(path, pdjscc).state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_tensors_that_follow_from_sizes_are_left_out(path):
    state = swinjscc().state_dict()
    block = "encoder.layers.0.blocks.1"
    derived = {
        f"{block}.attn_mask": torch.full((9, 4, 4), -100.0),
        f"{block}.attn.relative_position_index": torch.zeros(4, 4),
    }
    torch.save(state | derived, path)
    loaded = load_checkpoint(path, swinjscc).state_dict()
    assert loaded.keys() == state.keys()


def test_half_precision_is_widened(state, path):
    torch.save({key: value.half() for key, value in state.items()}, path)
    loaded = load_checkpoint(path, adjscc).state_dict()
    assert all(value.dtype == torch.float32 for value in loaded.values())


# What doesn't fit


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_another_family_is_named(family, path):
    torch.save(FAMILIES[family]().state_dict(), path)
    for other, build in FAMILIES.items():
        if other != family:
            assert f"looks like {family}, needed is {other}" in refused(path, build).replace("\\", "")


def test_an_unknown_family_is_said_to_be(path):
    torch.save({"conv1.weight": torch.zeros(3), "fc.bias": torch.zeros(3)}, path)
    assert "conv1.weight" in refused(path, match="no known kind")


def test_missing_and_extra_weights_are_named(state, path):
    missing = "jscc_decoder.attention5.fc2.bias"
    torch.save({key: value for key, value in state.items() if key != missing}, path)
    refused(path, match=f"lacks {missing}")
    torch.save(state | {"surplus.weight": torch.zeros(1), "surplus.bias": torch.zeros(1)}, path)
    refused(path, match=r"besides surplus.bias \(2 such\)")


def test_shapes_are_named(state, path):
    torch.save(state, path)
    line = refused(path, lambda: ADJSCC(4, width=16, kernels=(3, 3, 3, 3, 3), edge_width=16, edge_kernel=3))
    assert "another shape of jscc_decoder.upconv_block1.0.weight: (2, 16, 3, 3), needed is (4, 16, 3, 3)" in line
    torch.save(adm(num_classes=10).state_dict(), path)
    refused(path, adm, match=r"besides label_emb.weight")


def test_variants_of_swinjscc_are_told_apart(path):
    torch.save(swinjscc(adapts="rate").state_dict(), path)
    refused(path, swinjscc, match="it lacks decoder.bm_list")
    torch.save(swinjscc(adapts="snr", C=6).state_dict(), path)
    refused(path, lambda: swinjscc(adapts="snr", C=4), match="head_list")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value, state, path):
    key = "jscc_decoder.upconv_block2.0.weight"
    state[key] = state[key].clone()
    state[key].view(-1)[5] = value
    torch.save(state, path)
    refused(path, match=f"{key} that isn't finite")


def test_whole_numbers_for_weights_are_refused(state, path):
    key = "jscc_encoder.conv_block5.0.bias"
    torch.save(state | {key: torch.zeros(2, dtype=torch.int64)}, path)
    refused(path, match=f"floating-point numbers in {key}")


def test_a_file_that_contradicts_itself_is_refused_in_one_line(path):
    state = ntscc().state_dict()
    twin = {"f_list.0.blocks.0.norm1.bias": torch.ones(320)}
    torch.save(state | twin, path)
    refused(path, ntscc, match="f_list.0.blocks.0.norm1.bias differs")


# What could do harm


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 100, b"PK", b"PK\x03\x04" + bytes(50), bytes(range(200))])
def test_what_is_no_checkpoint_is_refused(content, path):
    path.write_bytes(content)
    refused(path)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        refused(path, match="is no file")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(name, share, state, tmp_path):
    path = tmp_path / name
    torch.save(state, path) if name == "a.pt" else save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, match="truncated|no checkpoint")


class Harm:
    def __reduce__(self):
        return os.system, ("touch harm",)


@pytest.mark.parametrize(
    ("content", "named"), [({"a": Harm()}, "system"), ({"args": argparse.Namespace(lr=1)}, "argparse.Namespace")]
)
def test_python_objects_are_refused_and_never_run(content, named, state, path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content | state, path)
    assert named in refused(path, match="could run code")
    path.write_bytes(pickle.dumps(content))
    refused(path, match="could run code")
    torch.save(content | state, path, _use_new_zipfile_serialization=False)
    refused(path, match=r"before 1\.6")
    assert not (tmp_path / "harm").exists()


def test_a_program_is_refused(path):
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/module.py"):
            archive.writestr(f"a/{name}", b"")
    refused(path, match="TorchScript")


@pytest.mark.parametrize("header", [10 << 30, 1 << 63, 20 << 20])
def test_a_header_larger_than_the_file_is_refused_unread(header, path):
    path.write_bytes(struct.pack("<Q", header) + b"{}" + bytes(1000))
    refused(path, match=f"header of {header}")


def test_safetensors_that_claim_more_than_they_hold_are_refused(path):
    claim = {"big": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}
    header = json.dumps(claim).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    refused(path, match="truncated or damaged")


def repacked(path, change):
    """Write an archive again with `change(name, data)` for its entries."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, change(name, data))
    path.write_bytes(buffer.getvalue())


def test_an_archive_that_unpacks_to_more_is_refused(state, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    assert path.stat().st_size < 100_000
    refused(path, match="claims to unpack to 50000000")


def test_a_tensor_larger_than_its_values_is_refused(path):
    # One number, repeated over a shape of a terabyte: nothing is allocated until somebody copies it.
    torch.save({"ntc.g_a0.weight": torch.zeros(1).expand(1 << 38)}, path)
    with pytest.raises(ModelError, match="claims 274877906944 values"):
        read_checkpoint(path)


def test_a_storage_that_claims_more_than_its_entry_is_refused(path):
    torch.save({"a": torch.zeros(1000)}, path)
    # The count of numbers stands in the pickle as a two-byte integer.
    repacked(path, lambda name, data: data.replace(b"M\xe8\x03", b"M\xff\xff") if name.endswith("data.pkl") else data)
    with pytest.raises(ModelError):
        read_checkpoint(path)


def test_tensors_without_values_are_refused(path):
    torch.save({"a": torch.zeros(3).to_sparse()}, path)
    with pytest.raises(ModelError, match="sparse"):
        read_checkpoint(path)


def test_a_file_without_weights_is_refused(path):
    for content in ({}, {"epoch": 3}, [torch.zeros(3)], torch.zeros(3), {"state_dict": {"a": {"b": {}}}}):
        torch.save(content, path)
        with pytest.raises(ModelError, match="no weights"):
            read_checkpoint(path)
