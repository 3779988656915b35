"""`ota bundle`: published checkpoints become bundles, and what can't be one leaves nothing behind."""

import json
import os
import re
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from ota.__main__ import main
from receiver.bundles.bundle import CODECS, load_bundle, load_codec, load_denoiser
from receiver.bundles.importing import FAMILIES
from receiver.bundles.side_models import load_codebook
from receiver.codecs.side_information import VariableRateCodec
from receiver.images.files import save_image
from tests.receiver.codecs.public import CHECKPOINTS, tiny_adm


@pytest.fixture(scope="module")
def adm_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("adm") / "ffhq_10m.pt"
    torch.save(tiny_adm().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return the bundle of a published codec by its name in `CHECKPOINTS`, imported by the command line once."""
    folders = {}

    def folder_of(name):
        if name not in folders:
            save, options = CHECKPOINTS[name]
            folder = tmp_path_factory.mktemp(name)
            save(folder / "weights.pth.tar")
            argv = ["bundle", "import", "--out", folder / "b", "--codec", folder / "weights.pth.tar", *options]
            assert main([str(word) for word in argv]) == 0
            folders[name] = folder / "b"
        return folders[name]

    return folder_of


@pytest.mark.parametrize("name", sorted(CHECKPOINTS))
def test_a_codec_of_every_published_kind_becomes_a_bundle(name, imported, ota):
    shown = ota("bundle", "show", imported(name), "--json").json
    assert shown["codec"]["network"] in CODECS and shown["conventions"]["packing"]
    assert ("cbr" in shown["codec"]) == (name.split("-")[-1] not in ("rate", "both", "plus", "compat"))
    assert 0 < shown["codec"].get("cbr", 0.5) < 1


def test_every_published_codec_family_is_tried_and_says_how_it_uses_its_symbols():
    tried = {options[options.index("--family") + 1] for _, options in CHECKPOINTS.values()}
    assert tried == set(FAMILIES["codec"])
    assert all(family.conventions is not None for family in FAMILIES["codec"].values())


def test_weights_stay_as_they_are(adm_file, tmp_path, ota):
    size = ("--image-size", "64x32")
    done = ota("bundle", "import", "--out", tmp_path / "b", "--prior", adm_file, "--family", "adm-ffhq", *size)
    save, options = CHECKPOINTS["adjscc"]
    save(tmp_path / "codec.pt")
    assert done.code == 0, done.err
    done = ota("bundle", "import", "--out", tmp_path / "b", "--codec", tmp_path / "codec.pt", *options[:2], *size)
    assert done.code == 0, done.err
    bundle = load_bundle(tmp_path / "b")
    assert bundle.accepted_shape == (3, 64, 32)
    stored, own = bundle.required_denoiser.unet.state_dict(), torch.load(adm_file, weights_only=True)
    assert all(torch.equal(stored[name], value) for name, value in own.items())
    assert ota("bundle", "check", tmp_path / "b").code == 0


def test_a_class_conditional_prior_is_told_its_class(tmp_path, ota):
    torch.save(tiny_adm(faces=False, classes=5).state_dict(), tmp_path / "a.pt")
    options = ("--family", "adm-imagenet-class", "--image-size", "32x32")
    assert ota("bundle", "import", "--out", tmp_path / "b", "--prior", tmp_path / "a.pt", *options).code == 0
    denoiser = load_denoiser(tmp_path / "b")
    x, t = torch.zeros(1, 3, 32, 32), torch.tensor([200])
    assert denoiser.classes == 5
    assert not torch.equal(denoiser.with_label(0)(x, t), denoiser.with_label(4)(x, t))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def _with_code(path):
    class Harmful:
        def __reduce__(self):
            return os.system, ("echo run",)

    torch.save(torch.load(path, weights_only=True) | {"extra": Harmful()}, path)


def _spoiled(path):
    state = torch.load(path, weights_only=True)
    state["Encoder.conv_block1.0.weight"][0] = float("nan")
    torch.save(state, path)


def _huge_header(path):
    path.write_bytes(struct.pack("<Q", 10 << 30) + b"{}" * 100)


def _of_another_size(path):
    state = torch.load(path, weights_only=True)
    state["Decoder.conv_block_out.1.weight"] = torch.zeros(3, 16, 5, 5)
    torch.save(state, path)


def _incomplete(path):
    state = torch.load(path, weights_only=True)
    del state["Decoder.conv_block_out.1.weight"]
    torch.save(state, path)


def _zip_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50_000_000))


BAD = {
    "truncated": (_cut, "truncated|damaged"),
    "code": (_with_code, "could run code"),
    "NaN": (_spoiled, "isn't finite"),
    "header of 10 GB": (_huge_header, "claims a header"),
    "another size": (_of_another_size, "another shape of"),
    "incomplete": (_incomplete, "it lacks"),
    "zip bomb": (_zip_bomb, "weights.pt"),
    "another family": (lambda path: CHECKPOINTS["swinjscc-both"][0](path), "looks like SwinJSCC"),
    "missing": (lambda path: path.unlink(), "no file"),
}


@pytest.mark.parametrize("damage", sorted(BAD))
def test_bad_checkpoints_are_one_line_and_leave_nothing(damage, tmp_path, refused):
    path, (spoil, says) = tmp_path / "weights.pt", BAD[damage]
    save, options = CHECKPOINTS["adjscc"]
    save(path)
    spoil(path)
    line = refused("bundle", "import", "--out", tmp_path / "b", "--codec", path, *options)
    assert re.search(says, line), line
    assert not (tmp_path / "b").exists()


def test_misuse_is_one_line(adm_file, tmp_path, refused):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    CHECKPOINTS["swinjscc-none"][0](tmp_path / "swin.pt")
    swin = ("--codec", tmp_path / "swin.pt", "--family", "swinjscc")
    cases = {
        "One of --prior and --codec": ("--family", "adjscc"),
        "did you mean 'adjscc'": ("--codec", "x", "--family", "adjsc"),
        "no published prior family 'adjscc'": ("--prior", "x", "--family", "adjscc"),
        "means nothing to family adm-ffhq; it has --image-size": ("--prior", "x", "--family", "adm-ffhq", "--C", "3"),
        "must be HEIGHTxWIDTH": ("--prior", "x", "--family", "adm-ffhq", "--image-size", "256"),
        "divide by 32": ("--prior", adm_file, "--family", "adm-ffhq", "--image-size", "40x40"),
        "--variant none or --variant snr": swin,
        "no --size 'huge'": (*swin, "--variant", "snr", "--size", "huge"),
        "is of no known kind": ("--codec", tmp_path / "a.safetensors", "--family", "ntscc-plus"),
    }
    for says, options in cases.items():
        assert says in refused("bundle", "import", "--out", tmp_path / "b", *options)
    assert not (tmp_path / "b").exists()


def test_a_checkpoint_of_a_sibling_is_told_its_family(adm_file, tmp_path, refused):
    line = refused("bundle", "import", "--out", tmp_path / "b", "--prior", adm_file, "--family", "adm-imagenet")
    assert line.endswith("It is a checkpoint for --family adm-ffhq.")
    CHECKPOINTS["adjscc"][0](tmp_path / "codec.pt")
    codec = ("--codec", tmp_path / "codec.pt", "--family", "adjscc", "--C", "6")
    assert refused("bundle", "import", "--out", tmp_path / "b", *codec).endswith("Without the options given it fits.")
    CHECKPOINTS["swinjscc-both"][0](tmp_path / "swin.pt")
    witt = ("--codec", tmp_path / "swin.pt", "--family", "witt", "--C", "6")
    assert "--family swinjscc" in refused("bundle", "import", "--out", tmp_path / "b", *witt)
    assert not (tmp_path / "b").exists()


def test_a_prior_alone_is_shown_and_checked_and_gets_no_codebook_of_another_size(prior, tmp_path, ota, refused):
    shown = ota("bundle", "show", prior, "--json").json
    assert (shown["images"], shown["prior"]["classes"]) == ("3x256x256", 0) and "codec" not in shown
    assert "images          3x256x256\n" in ota("bundle", "show", prior).out
    assert ota("bundle", "check", prior, "--json").json["checked"] == ["prior"]
    assert "takes images of 3x256x256, Fashion-MNIST has 1x32x32" in refused("train", "codebook", "--out", prior)
    assert sorted(path.name for path in prior.iterdir()) == ["bundle.toml", "prior.safetensors"]
    photos = ("--radio", "sim:csnr_db=10", "--images", "models/photo/samples")
    assert "ota bundle import --codec" in refused("demo", "--bundle", prior, *photos, "--out", tmp_path / "run")


def test_a_class_is_asked_for_before_anything_is_sent(tmp_path, imported, pictures, ota, refused):
    torch.save(tiny_adm(faces=False, classes=5).state_dict(), tmp_path / "a.pt")
    options = ("--prior", tmp_path / "a.pt", "--family", "adm-imagenet-class")
    assert ota("bundle", "import", "--out", tmp_path / "classes", *options).code == 0
    for method, says in (("hifi", "one of 5 classes"), ("hifi:label=9", "classes 0..4, found label = 9")):
        line = refused(
            *("demo", "--radio", f"file:{tmp_path / 'sent'}", "--bundle", imported("adjscc"), "--images", pictures),
            *("--prior", tmp_path / "classes", "--method", method, "--out", tmp_path / "run"),
        )
        assert says in line
    assert not list(tmp_path.glob("sent*")) and not (tmp_path / "run").exists()


def test_a_part_is_not_replaced_unasked_nor_one_joined_that_takes_other_images(adm_file, tmp_path, ota, refused):
    save, options = CHECKPOINTS["adjscc"]
    save(tmp_path / "codec.pt")
    codec = ("bundle", "import", "--out", tmp_path / "b", "--codec", tmp_path / "codec.pt", *options)
    assert ota(*codec).code == 0
    assert "--force" in refused(*codec)
    assert ota(*codec, "--force").code == 0
    prior = ("--prior", adm_file, "--family", "adm-ffhq", "--image-size", "64x64")
    line = refused("bundle", "import", "--out", tmp_path / "b", *prior)
    assert "don't fit each other: 3x64x64 and 3x256x256" in line
    assert not (tmp_path / "b" / "prior.safetensors").exists()


@pytest.fixture(scope="module")
def prior(adm_file, tmp_path_factory):
    """A bundle that has nothing but the ADM prior."""
    folder = tmp_path_factory.mktemp("prior") / "faces"
    options = ["--family", "adm-ffhq", "--image-size", "256x256"]
    assert main(["bundle", "import", "--out", str(folder), "--prior", str(adm_file), *options]) == 0
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    waves = [torch.sin(0.05 * (columns + 2 * rows) + colour) for colour in range(3)]
    save_image(folder / "wave.png", 0.5 + 0.4 * torch.stack(waves))
    return folder


#: One of each way of using the channel; the others differ from these in their networks only.
OVER_THE_AIR = ("adjscc", "ntscc-plus", "swinjscc-none", "swinjscc-snr", "swinjscc-rate", "swinjscc-both")


@pytest.mark.parametrize("name", OVER_THE_AIR)
def test_published_codecs_go_over_the_air_with_the_published_prior(name, imported, prior, pictures, tmp_path, ota):
    sampler = "hifi:steps=1,consistency_steps=0,clip=true,learned_variance=true"
    run = ota(
        *("demo", "--radio", "sim:csnr_db=10,taps=8", "--bundle", imported(name), "--prior", prior),
        *("--images", pictures, "--method", sampler, "--out", tmp_path / "run", "--json"),
    )
    assert run.code == 0, run.err
    (image,) = run.json["images"]
    assert not run.json["partial"] and (image["id"], image["method"]) == ("wave", sampler)
    varies = isinstance(load_codec(imported(name)), VariableRateCodec)
    assert 0 <= image["side_cbr"] < image["cbr"] and (image["side_cbr"] > 0) == varies
    assert image["residual"] < 10


def test_what_cannot_be_trained_for_a_published_codec_says_why(imported, ota, refused, pictures):
    for name in ("adjscc", "pdjscc"):
        for part in ("mixture", "confidence"):
            assert "Fashion-MNIST (1x32x32)" in refused("train", part, "--out", imported(name))
    assert "a codebook has images of one" in refused("train", "codebook", "--out", imported("pdjscc"))
    adjscc = imported("adjscc")
    assert "takes images of 3x256x256" in refused("train", "codebook", "--out", adjscc)
    assert "not for photographs" in refused("train", "covariance", "--out", adjscc, "--data", pictures)
    assert "Add --like photo" in refused("train", "covariance", "--like", "fashion", "--out", adjscc)
    assert "are for photographs" in refused("train", "codec", "--decoder-only", "--out", adjscc)
    assert not list(adjscc.parent.glob("*/codebook.safetensors"))
    assert ota("train", "codebook", "--out", adjscc, "--data", pictures).code == 0
    assert load_codebook(adjscc, (3, 256, 256)).shape == (1, 3, 256, 256)


@pytest.mark.parametrize(
    ("described", "says"),
    [
        ({"model_type": "swin"}, "of type 'swin'"),
        ({"model_type": "adjscc", "M": "4"}, "must be numbers"),
        (None, "can't be read"),
    ],
)
def test_a_folder_that_describes_something_else_is_one_line(described, says, tmp_path, refused):
    CHECKPOINTS["hf"][0](tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.unlink()
    if described is not None:
        path.write_text(json.dumps(described))
    assert says in refused("bundle", "import", "--out", tmp_path / "b", "--codec", tmp_path / "hf", "--family", "hf")
    assert not (tmp_path / "b").exists()
