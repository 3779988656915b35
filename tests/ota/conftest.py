"""The command line in this process, and a transmission that several test modules decode."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ota.__main__ import main
from receiver.bundles.bundle import find_bundle

torch.set_num_threads(1)  # see tests/receiver


@dataclass(frozen=True)
class Outcome:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


@pytest.fixture
def ota(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run one command line and collect what it prints."""

    def run(*argv: object) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture
def refused(ota: Callable[..., Outcome]) -> Callable[..., str]:
    """Run a command line that must end in one clear line and exit status 2; returns the line."""

    def run(*argv: object) -> str:
        outcome = ota(*argv)
        assert outcome.code == 2, outcome
        errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, outcome.err
        assert "Traceback" not in outcome.err
        assert outcome.out == ""
        return errors[0]

    return run


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with eight of the held-out images."""
    folder = tmp_path_factory.mktemp("images") / "eight"
    folder.mkdir()
    for path in sorted((find_bundle() / "samples").glob("*.png"))[:8]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="session")
def sent(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """Stem of a clean transmission of `samples`: PATH.sigmf-*, PATH.layout.json."""
    path = tmp_path_factory.mktemp("sent") / "tx"
    assert main(["transmit", "--radio", f"file:{path}", "--images", str(samples)]) == 0
    return path
