"""Terminals as people have them: ASCII, narrow, closed and full streams; and no exception that escapes."""

import builtins
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.main import get_command

import sdr.recordings.verify
from ota import console
from ota.__main__ import app, main
from ota.streams import bearing_streams

ROOT = Path(__file__).resolve().parents[2]


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every verb and every group of them."""
    yield path
    for name, child in getattr(command, "commands", {}).items():
        yield from commands(child, (*path, name))


def instance(kind: type[BaseException]) -> BaseException:
    if issubclass(kind, UnicodeDecodeError):
        return kind("utf-8", b"\xff", 0, 1, "told")
    if issubclass(kind, UnicodeEncodeError | UnicodeTranslateError):
        return kind(*(("utf-8",) if kind is UnicodeEncodeError else ()), "\xff", 0, 1, "told")
    if issubclass(kind, BaseExceptionGroup):
        return kind("told\nin two lines", [ValueError("inner")])
    return kind("told\nin two lines")


KINDS = sorted(
    {kind for kind in vars(builtins).values() if isinstance(kind, type) and issubclass(kind, BaseException)}
    - {SystemExit},
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_exception_escapes(monkeypatch, capsys, tmp_path, kind):
    def fail(folder: Path) -> list[str]:
        raise instance(kind)

    monkeypatch.setattr(sdr.recordings.verify, "verify_dataset", fail)
    code = main(["dataset", "verify", str(tmp_path)])
    told = capsys.readouterr()
    assert code in (1, 2, 130) and told.out == ""
    assert [line[:7] for line in told.err.splitlines() if line] == ["error: "]
    assert code == 2 or "--debug" in told.err or code == 130
    assert main(["dataset", "verify", str(tmp_path), "--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_allocators_that_fail_say_what_to_lower(monkeypatch, capsys, tmp_path):
    def fail(folder: Path) -> list[str]:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(sdr.recordings.verify, "verify_dataset", fail)
    assert main(["dataset", "verify", str(tmp_path)]) == 2
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize("path", list(commands(get_command(app))), ids=" ".join)
def test_every_verb_explains_itself_on_an_ascii_terminal(monkeypatch, path):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    assert main([*path, "--help"]) == 0
    out.flush()
    assert len(out.buffer.getvalue()) > 100  # type: ignore[attr-defined]


def test_tables_are_ascii_on_an_ascii_terminal(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    with bearing_streams():
        console.print_table("±", ["id", "PSNR"], [["caf\udce9 [red]", "20.1 ± 0.3"]])
        sys.stdout.flush()
    told = out.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]
    assert "20.1 +- 0.3" in told and r"caf\udce9 [red]" in told


@pytest.mark.parametrize("columns", [1, 30, 60])
def test_nothing_is_cut_on_a_narrow_terminal(monkeypatch, columns):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    path = "runs/a-long-way-to/an-image-with-a-long-name.png"
    console.print_table("Images", ["id", "path"], [["fm00036", path], ["fm00037", path]])
    assert out.getvalue().count(path) == 2 and "fm00037" in out.getvalue()


def ota(*arguments: str, **streams: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "ota", *arguments], cwd=ROOT, timeout=120, **streams)  # type: ignore[call-overload]


def test_full_and_closed_streams():
    with open("/dev/full", "wb") as full:
        ended = ota("--help", stdout=full, stderr=subprocess.PIPE)
        assert ended.returncode == 2 and ended.stderr == b"error: standard output: No space left on device\n"
        ended = ota(
            "emulate", "--help", stdout=full, stderr=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        assert ended.returncode == 2 and ended.stderr == b"error: standard output: No space left on device\n"
        ended = ota("dataset", "list", "/nowhere", "--json", stderr=full, stdout=subprocess.PIPE)
        assert ended.returncode == 2 and ended.stdout == b""
    closing = {"preexec_fn": lambda: (os.close(1), os.close(2))}
    assert ota("dataset", "list", "/nowhere", **closing).returncode == 2
    assert ota("--version", **closing).returncode == 0


def test_a_working_folder_that_was_removed_is_told(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    line = 'cd "$1" && rmdir "$1" && exec "$2" -m ota demo --radio sim: --out runs'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = ["sh", "-c", line, "sh", str(gone), sys.executable]
    ended = subprocess.run(words, capture_output=True, timeout=120, env=environment)
    assert ended.returncode == 2 and ended.stderr.startswith(b"error: the folder you work in was removed.")
