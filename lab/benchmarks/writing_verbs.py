"""Command lines of the verbs that write, with the inputs that they read: what kills and full disks are tried on.

A new verb is tried by its entry here.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from receiver.bundles.bundle import find_bundle
from sdr.errors import InputError
from sdr.files import write_text
from sdr.recordings.reading import read_recording
from sdr.recordings.recording import Recording, write_recording

Run = Callable[[Sequence[str]], int]
"""Runs a command line and returns its exit status."""

_DECODE = "decode {in}/tx --layout {in}/tx.layout.json --method jscc"
_SIM = "--radio sim:csnr_db=20 --images {in}/img"

WRITING_VERBS: dict[str, str] = {
    "transmit": "transmit --radio file:{out}/tx --images {in}/img --force",
    "record": f"record {_SIM} --out {{out}}/rec --force",
    "record --rotate-mb": f"record {_SIM} --rotate-mb 4 --seconds 3 --out {{out}}/set",
    "record --plan": "record --plan {in}/plan.toml --out {out}/set",
    "calibrate": "calibrate --radio sim:csnr_db=20 --frames 16 --part frequency --out {out}/profile.toml --force",
    "dataset import": "dataset import {in}/tx.sigmf-meta {in}/long.sigmf-meta --layout paper --out {out}/set",
    "decode": f"{_DECODE} --out {{out}}/run --force",
    "decode, dataset": "decode {in}/set --method jscc --out {out}/decoded",
    "demo": f"demo {_SIM} --method jscc --out {{out}}/run --force",
    "sweep": "sweep {in}/sweep.toml --n 4 --out {out}/sweep",
    "report": "report {in}/run --out {out}/report --force",
    "bench recording": "bench recording --seconds 0.1 --out {out}/bench --force",
    "bundle import": "bundle import --prior {in}/prior.pt --family adm-ffhq --image-size 64x64 --out {out}/b --force",
    "train codebook": "train codebook --out {out}/codebook",
}
"""Command lines by verb: they read below {in}, and write below {out} alone."""


def filled(words: str, inputs: Path, out: Path) -> list[str]:
    """Return the words of a command line with its folders."""
    return [word.replace("{in}", str(inputs)).replace("{out}", str(out)) for word in words.split()]


def prepare_inputs(folder: Path, run: Run) -> None:
    """Write the inputs of every command line: images, recordings, a dataset, plans, a run and a checkpoint.

    Args:
        folder: empty folder.
        run: runs a command line.

    Raises:
        InputError: a command line that makes one failed.
    """
    copy_samples(folder / "img", 2)
    write_text(folder / "sweep.toml", 'name = "s"\ncsnr_db = [10]\nmethods = ["jscc"]\n')
    rows = (
        'name = "p"',
        'radio = "sim:taps=4"',
        f'images = "{folder}/img"',
        "csnr_db = [5, 20]",
        'layouts = ["paper"]',
    )
    write_text(folder / "plan.toml", "\n".join((*rows, "images_per_capture = 2", "")))
    _save_checkpoint(folder / "prior.pt")
    _run_all(run, folder, ["transmit --radio file:{in}/tx --images {in}/img"])
    sent = read_recording(folder / "tx").samples
    # Writing 32 MB takes a while, so that a kill meets it.
    write_recording(Recording(np.resize(np.concatenate([sent, np.zeros_like(sent)]), 1 << 22)), folder / "long")
    made = "dataset import {in}/tx.sigmf-meta --layout paper --out {in}/set"
    _run_all(run, folder, [made, f"{_DECODE} --out {{in}}/run"])


def copy_samples(folder: Path, count: int) -> Path:
    """Copy the first held-out images of the shipped bundle into a folder that is made; return it."""
    folder.mkdir()
    for path in sorted((find_bundle() / "samples").glob("*.png"))[:count]:
        shutil.copy(path, folder)
    return folder


def _run_all(run: Run, folder: Path, commands: Sequence[str]) -> None:
    for command in commands:
        with contextlib.redirect_stdout(io.StringIO()):
            status = run(filled(command, folder, folder))
        if status != 0:
            raise InputError(f"{command} failed, so verbs that read what it makes can't be tried.")


def _save_checkpoint(path: Path) -> None:
    """Save random weights of a narrow ADM U-Net as the public training code does."""
    import torch

    from receiver.networks.unet import UNetModel

    network = UNetModel(
        image_size=64,
        in_channels=3,
        model_channels=32,
        out_channels=6,
        num_res_blocks=1,
        attention_resolutions=(16,),
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_heads=4,
        num_head_channels=64,
        use_scale_shift_norm=True,
        resblock_updown=True,
    )
    torch.save(network.state_dict(), path)
