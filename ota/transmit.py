"""`ota transmit`: a folder of images out through a radio."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.arguments import check_method
from ota.console import emit_json, note, progress_bar

if TYPE_CHECKING:
    from lab.experiments.transmit_folder import TransmitSettings
    from sdr.layout import FrameLayout

#: Channel SNR that the encoder is given unless the user says otherwise, dB.
DEFAULT_CSNR_DB = 10.0


def transmit(
    radio: str = typer.Option(..., help="Radio URI, such as file:PATH or zmq:tx=tcp://HOST:PORT."),
    images: Path = typer.Option(..., help="Folder of images, and nothing else, of a size that the bundle takes."),
    layout: str = typer.Option("paper", help="Frame layout: a shipped name (paper, air, blind, photo, ..) or a file."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    csnr_db: float = typer.Option(DEFAULT_CSNR_DB, help="Channel SNR that the encoder is told, dB."),
    methods: list[str] = typer.Option(
        ["jscc"],
        "--method",
        help="What the images are to be decoded by: jscc, or an image codec such as avif-ldpc. Repeatable.",
    ),
    fading: bool = typer.Option(False, "--fading", help="Choose schemes of image codecs for fading, not white noise."),
    refine_steps: int = typer.Option(
        0, min=0, help="Steps in which the symbols of each image are refined before it is sent; 20 cost seconds."
    ),
    calibration: Path | None = typer.Option(
        None,
        help="Profile of the radio: corrects its reference, and sets the gain so that --csnr-db is reached on the air.",
    ),
    cyclic_s: float | None = typer.Option(
        None, min=0.01, help="Repeat the transmission for so many seconds, where the radio can."
    ),
    out: Path | None = typer.Option(
        None, help="Folder for the layout file; default: beside the recording, or runs/transmit."
    ),
    force: bool = typer.Option(False, "--force", help="Replace a recording or a layout file of this name."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Encode images and transmit them once (or, with --cyclic-s, again and again) as OFDM frames.

    \b
    The layout file it writes is all that a receiver needs beside the samples:
      file:PATH   PATH.sigmf-data and PATH.sigmf-meta (complex float32), and PATH.layout.json
      others      layout.json in --out

    Images are named by their file name's stem where it has 1..8 characters of A-Z a-z 0-9 . _ -, else by a hash of
    it; `--json` prints the names in sending order as `images`, and the layout file as `layout`.

    \b
    Examples:
      ota transmit --radio file:runs/tx --images models/fashion/samples
      ota transmit --radio file:runs/air --layout air --csnr-db 5 --images models/fashion/samples --json
      ota transmit --radio file:runs/photo --bundle photo --layout photo --images my-photographs
      ota transmit --radio file:runs/both --bundle photo --layout photo --images my-photographs --method avif-ldpc
      ota transmit --radio zmq:tx=tcp://127.0.0.1:5555 --images models/fashion/samples --out runs/tx
    """
    from lab.experiments.transmit_folder import TransmitSettings
    from receiver.samplers.variants import ALL_METHODS
    from sdr.layout import load_layout
    from sdr.outputs import check_apart, check_free, claim

    for method in methods:
        check_method(method, ALL_METHODS)
    settings = TransmitSettings(
        radio,
        images,
        layout=layout,
        bundle=bundle,
        csnr_db=csnr_db,
        methods=tuple(methods),
        fading=fading,
        refine_steps=refine_steps,
        calibration=calibration,
        cyclic_s=cyclic_s,
        replaces=force,
    )
    written = layout_path(radio, out)
    given = (images, Path(layout), Path(bundle), *([] if calibration is None else [calibration]))
    check_apart(written, given, "the layout file" if out is None else "--out")
    names = _names(radio, written, load_layout(layout))
    check_free(names, force)
    with claim(written):
        check_free(names, force)
        _transmit(settings, written, json_output)


def _names(radio: str, written: Path, layout: FrameLayout) -> list[Path]:
    """Return the files that must not be there; a layout file that says the same as ours may."""
    from sdr.recordings.archive import sigmf_paths
    from sdr.recordings.layout_file import holds_layout

    recording = sigmf_paths(radio.removeprefix("file:")) if radio.startswith("file:") else ()
    return [*recording, *([] if holds_layout(written, layout) else [written])]


def _transmit(settings: TransmitSettings, layout_file: Path, json_output: bool) -> None:
    from lab.experiments.transmit_folder import transmit_folder
    from sdr.layout import save_layout

    with progress_bar() as progress:
        sent = transmit_folder(settings, progress, note)
    written = save_layout(sent.layout, layout_file)
    rate_sps = sent.layout.rate_sps
    if json_output:
        emit_json(
            {
                "images": list(sent.ids),
                "layout": str(written),
                "frames": sent.frames,
                "samples": sent.samples,
                "rate_sps": rate_sps,
                "csnr_db": settings.csnr_db,
            }
        )
    else:
        note(
            f"{len(sent.ids)} images in {sent.frames} frames, {sent.samples} samples "
            f"({sent.samples / rate_sps * 1e3:.1f} ms) sent to {settings.radio}; layout: {written}"
        )


def layout_path(radio: str, out: Path | None) -> Path:
    """Return where the layout file goes: into `out`, beside a recording, else into runs/transmit."""
    if out is not None:
        return out / "layout.json"
    if radio.startswith("file:"):
        stem = os.path.expanduser(radio.removeprefix("file:")).removesuffix(".sigmf-meta").removesuffix(".sigmf-data")
        return Path(stem + ".layout.json")
    return Path("runs/transmit/layout.json")
