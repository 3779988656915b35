"""Names as people have them: in other encodings, with blanks and quotes, below the home folder; and modes of files."""

import os
import shutil
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", [b"caf\xe9", 'it\'s "Straße" $HOME; [red]& 日本'.encode(), b"nl\nx"])
def test_every_verb_takes_any_name(ota, refused, samples, tmp_path, name):
    stem = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    images = Path(f"{stem} images")
    images.mkdir()
    for path in sorted(samples.glob("*.png"))[:1]:
        shutil.copy(path, images / f"{stem.name}.png")
    if not stem.name.isprintable():  # a radio's address is shown in many places
        assert "printable" in refused("transmit", "--radio", f"file:{stem}", "--images", images)
    assert ota("transmit", "--radio", f"file:{tmp_path}/tx", "--images", images).code == 0
    for suffix in (".sigmf-meta", ".sigmf-data", ".layout.json"):
        (tmp_path / f"tx{suffix}").rename(f"{stem}{suffix}")
    run = Path(f"{stem} run")
    outcome = ota("decode", stem, "--layout", f"{stem}.layout.json", "--method", "jscc", "--out", run)
    assert outcome.code == 0, outcome.err
    assert ota("report", run).code == 0
    imported = ota("dataset", "import", f"{stem}.sigmf-meta", "--layout", "paper", "--out", tmp_path / "set")
    assert imported.code == 0, imported.err
    assert ota("dataset", "verify", tmp_path / "set").code == 0


def test_the_home_folder(ota, samples, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ota("transmit", "--radio", "file:~/tx", "--images", samples).code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tx.layout.json", "tx.sigmf-data", "tx.sigmf-meta"]


@pytest.mark.parametrize("mask", [0o077, 0o002])
def test_modes_follow_the_umask(ota, samples, sent, tmp_path, mask):
    before = os.umask(mask)
    try:
        tmp_path.chmod(0o1777)
        ota("transmit", "--radio", f"file:{tmp_path}/tx", "--images", samples)
        ota("dataset", "import", f"{sent}.sigmf-meta", "--layout", "paper", "--out", tmp_path / "set")
        layout = f"{sent}.layout.json"
        assert ota("decode", sent, "--layout", layout, "--method", "jscc", "--out", tmp_path / "run").code == 0
        written = [path for path in tmp_path.rglob("*") if path.name != ".lock" and not path.is_symlink()]
        assert len(written) > 15
        for path in written:
            assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~mask, path
    finally:
        os.umask(before)
