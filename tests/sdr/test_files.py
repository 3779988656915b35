"""Nobody ever sees half of a file."""

import json

import pytest

from sdr.files import GrowingFile, is_partial, replacing, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_has_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "a.bin"
    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists() and all(map(is_partial, path.parent.iterdir()))
    assert path.read_bytes() == b"new" and names(path.parent) == ["a.bin"]


def test_what_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path, "w") as file:
        file.write("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_modes_follow_the_umask(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan")})
    (tmp_path / "plain").write_text("")
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": None}
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_growing_file_is_seen_by_size_only(tmp_path):
    growing = GrowingFile(tmp_path / "samples")
    assert growing.size_bytes() == 0
    growing.partial.write_bytes(b"12345")
    assert growing.size_bytes() == 5 and not growing.path.exists() and is_partial(growing.partial)
    growing.finish()
    assert growing.size_bytes() == 5 and names(tmp_path) == ["samples"]
    growing.partial.write_bytes(b"1")
    growing.discard()
    growing.discard()
    assert names(tmp_path) == ["samples"]
