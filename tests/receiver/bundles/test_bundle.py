"""Bundles: what is written is what is read, and damaged ones are told in one line."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lab.evaluation.realism import Realism, RealismConfig, load_realism
from receiver.bundles.bundle import PARTS, find_bundle, load_bundle, load_codec, load_denoiser, write_part
from receiver.bundles.side_models import CODEBOOK_FILE, load_codebook, write_codebook
from receiver.bundles.weights import half_precision
from receiver.codecs.adjscc import AdjsccCodec, AdjsccConfig
from receiver.priors.unet import PriorConfig
from sdr.errors import ConfigError, ModelError

CODEC = AdjsccConfig(image_shape=(1, 8, 8), width=16, kernels=(3, 3, 3, 3, 3), edge_width=16, edge_kernel=3)
PRIOR = PriorConfig(
    image_shape=(1, 8, 8), model_channels=8, channel_mult=(1, 2), attention_resolutions=(), num_head_channels=8
)
REALISM = RealismConfig(width=8)
LOADERS = {"codec": load_codec, "prior": load_denoiser, "realism": load_realism}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        write_part(folder, "codec", asdict(CODEC), AdjsccCodec(CODEC).network.state_dict())
        write_part(folder, "prior", asdict(PRIOR), PRIOR.denoiser().unet.state_dict())
        write_part(folder, "realism", asdict(REALISM), Realism(REALISM).state_dict())
    return folder


def one_line(says: str) -> str:
    return f"^[^\n]*{says}[^\n]*$"


def test_a_written_bundle_comes_back(bundle: Path) -> None:
    first, second = load_bundle(bundle), load_bundle(str(bundle))
    assert first.name == "tiny" and first.path == bundle and first.samples == bundle / "samples"
    assert first.codec.config == CODEC and first.image_shape == (1, 8, 8)
    assert first.required_denoiser.image_shape == (1, 8, 8) and first.required_denoiser.prediction == PRIOR.prediction
    assert first.digest == second.digest and len(first.digest) == 8
    realism = load_realism(bundle)
    assert realism.config == REALISM
    for module in (first.codec, first.required_denoiser, realism):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_weights_are_halved_but_statistics_are_not(bundle: Path) -> None:
    weights = load_file(bundle / "realism.safetensors")
    for key, value in weights.items():
        assert value.dtype == (torch.float32 if key.startswith("reference_") else torch.float16), key
    exact = torch.tensor([1 / 3])
    assert half_precision({"reference_x": exact})["reference_x"] == exact
    assert half_precision({"x": exact})["x"] == exact.half()


def test_writing_one_part_keeps_the_others_and_leaves_nothing_behind(bundle: Path) -> None:
    before = load_bundle(bundle)
    write_part(bundle, "prior", asdict(PRIOR), PRIOR.denoiser().unet.state_dict())
    after = load_bundle(bundle)
    assert before.codec.digest == after.codec.digest and before.digest != after.digest
    assert sorted(path.name for path in bundle.iterdir()) == ["bundle.toml", *(f"{part}.safetensors" for part in PARTS)]
    with pytest.raises(ConfigError, match="no part 'decoder'"):
        write_part(bundle, "decoder", {}, {})


def test_the_shipped_bundle_loads_by_name_fits_and_is_small() -> None:
    bundle = load_bundle("fashion")
    assert bundle.image_shape == (1, 32, 32) and bundle.codec.num_symbols == 64
    size = sum((bundle.path / f"{part}.safetensors").stat().st_size for part in PARTS)
    assert size < 8_000_000
    card = (bundle.path / "README.md").read_text()
    for part in PARTS:
        facts = json.loads((bundle.path / f"{part}.json").read_text())
        assert f"## {part}" in card and f"{facts['parameters']:,} parameters" in card


def test_an_unknown_bundle_is_told_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=one_line("'fashoin'.*fashion")):
        find_bundle("fashoin")
    with pytest.raises(ModelError, match=one_line("no bundle")):
        load_bundle(tmp_path)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("damage", ["missing", "cut", "text", "empty", "padded", "foreign", "extra", "shape", "nan"])
def test_damaged_weights_are_one_line(bundle: Path, part: str, damage: str) -> None:
    path = bundle / f"{part}.safetensors"
    content, weights = path.read_bytes(), load_file(path)
    first = sorted(weights)[0]
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(content[:-10])
        case "text":
            path.write_text("version https://git-lfs.github.com/spec/v1\n")
        case "empty":
            path.write_bytes(b"")
        case "padded":
            path.write_bytes(content + bytes(20_000_000))
        case "foreign":
            shutil.copy(bundle / f"{PARTS[(PARTS.index(part) + 1) % 3]}.safetensors", path)
        case "extra":
            save_file({**weights, "extra": torch.zeros(1)}, path)
        case "shape":
            save_file({**weights, first: torch.zeros(*weights[first].shape, 2)}, path)
        case "nan":
            save_file({**weights, first: torch.full_like(weights[first], float("nan"))}, path)
    with pytest.raises(ModelError, match=one_line(path.name)):
        LOADERS[part](bundle)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[codec]", "[codek]", r"unknown section \[codek\]"),
        ("width = 16", "widht = 16", r"\[codec\]: unknown key 'widht'; did you mean 'width'"),
        ("width = 16", "width = 32", "doesn't fit bundle.toml"),
        ("width = 16", "width = 'wide'", "codec"),
        ("channel_num = 2", "channel_num = 0", "codec"),
        ("patch = 2", "patch = 3", "divide"),
        ("width = 16", "width = 100000000", "doesn't fit bundle.toml"),
        ("norm_groups = 8", "norm_groups = 5", "norm_groups"),
        ('prediction = "v"', 'prediction = "x0"', "prediction must be one of epsilon, v"),
        ("conv_resample = true", "conv_resample = 1", "conv_resample must be true or false, found 1"),
        ("[codec]", "[codec", "is not valid TOML"),
        ("image_shape = [1, 8, 8]", "image_shape = [1, 8]", r"\[codec\]: image_shape must be a list of 3 values"),
    ],
)
def test_a_wrong_description_is_one_line(bundle: Path, old: str, new: str, says: str) -> None:
    path = bundle / "bundle.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ModelError, match=one_line(says)):
        load_bundle(bundle)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_never_trained_is_told(bundle: Path, part: str) -> None:
    path = bundle / "bundle.toml"
    sections = [section for section in path.read_text().split("\n\n") if not section.startswith(f"[{part}]")]
    path.write_text("\n\n".join(sections))
    with pytest.raises(ModelError, match=one_line(f"ota train {part}")):
        LOADERS[part](bundle)


def test_a_codebook_comes_back_and_one_of_other_images_is_refused(tmp_path: Path) -> None:
    images = torch.arange(2 * 64).view(2, 1, 8, 8) / 255
    assert load_codebook(tmp_path, (1, 8, 8)) is None
    write_codebook(tmp_path, images)
    assert torch.equal(load_codebook(tmp_path, (1, 8, 8)), images)
    with pytest.raises(ModelError, match=one_line("holds images")):
        load_codebook(tmp_path, (1, 8, 16))
    (tmp_path / CODEBOOK_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match=one_line("damaged.*ota train codebook")):
        load_codebook(tmp_path, (1, 8, 8))


def test_parts_that_do_not_fit_each_other_are_refused(bundle: Path) -> None:
    bigger = AdjsccConfig(image_shape=(1, 16, 16), width=16)
    write_part(bundle, "codec", asdict(bigger), AdjsccCodec(bigger).network.state_dict())
    with pytest.raises(ModelError, match=one_line("don't fit each other")):
        load_bundle(bundle)
