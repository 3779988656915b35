"""`ota transmit`: a folder of images out through a radio."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.console import emit_json, note, progress_bar
from sdr.errors import InputError
from transmitter.encode import encode_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sdr.calibration_profile import CalibrationProfile
    from sdr.radios.base import Radio


#: The encoder is told this channel SNR unless the user says otherwise, dB.
DEFAULT_CSNR_DB = 10.0


def transmit(
    radio: str = typer.Option(..., help="Radio URI, such as file:PATH or zmq:tx=tcp://HOST:PORT."),
    images: Path = typer.Option(..., help="Folder of images, and nothing else, of a size that the bundle takes."),
    layout: str = typer.Option("paper", help="Frame layout: a shipped name (paper, air, blind, photo, ..) or a file."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    csnr_db: float = typer.Option(DEFAULT_CSNR_DB, help="Channel SNR that the encoder is told, dB."),
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
      ota transmit --radio zmq:tx=tcp://127.0.0.1:5555 --images models/fashion/samples --out runs/tx
    """
    from calibration.session import serial_of
    from receiver.bundles.bundle import load_codec
    from sdr.calibration_profile import load_profile
    from sdr.layout import load_layout, save_layout
    from sdr.radios.open import open_radio

    frame_layout = load_layout(layout)
    profile = None if calibration is None else load_profile(calibration)
    # The address is checked before the models are loaded, so that a typo costs nothing.
    trimmed = radio if profile is None else profile.trimmed(radio)
    with open_radio(trimmed, layout=frame_layout) as opened:
        codec = load_codec(bundle)
        with progress_bar() as progress:
            sent = encode_folder(images, codec, frame_layout, csnr_db, refine_steps=refine_steps, progress=progress)
        samples = sent.samples(None if cyclic_s is None else 0)
        if profile is not None:
            for doubt in profile.check(opened.settings, serial=serial_of(opened)):
                note(f"warning: {doubt}")
            if trimmed != radio:
                note(f"reference corrected: {trimmed}")
            if trimmed == radio or profile.gain:
                samples = reach_csnr(opened, profile, csnr_db, samples)
            else:
                note("warning: the profile has no gain plan (`ota calibrate --part gain`), so the gain stays as it is")
        opened.transmit(samples, cyclic=cyclic_s is not None)
        if cyclic_s is not None:
            time.sleep(cyclic_s)
        written = save_layout(frame_layout, layout_path(radio, out))
    if json_output:
        emit_json(
            {
                "images": sent.ids,
                "layout": str(written),
                "frames": len(sent.frames),
                "samples": len(samples),
                "rate_sps": frame_layout.rate_sps,
                "csnr_db": csnr_db,
            }
        )
    else:
        note(
            f"{len(sent.ids)} images in {len(sent.frames)} frames, {len(samples)} samples "
            f"({len(samples) / frame_layout.rate_sps * 1e3:.1f} ms) sent to {radio}; layout: {written}"
        )


def reach_csnr(
    radio: Radio, profile: CalibrationProfile, csnr_db: float, samples: NDArray[np.complex64]
) -> NDArray[np.complex64]:
    """Set the transmit gain as the profile's gain plan says; the samples, scaled by what the gain can't do.

    Raises:
        CalibrationError: the profile has no gain plan, or can't reach the CSNR.
    """
    from dataclasses import replace

    import numpy as np

    from calibration.gain import GainControl

    gain_db, scale = profile.plan(csnr_db)
    if not isinstance(radio, GainControl):
        raise InputError(f"radio '{radio.settings.uri}' has no transmit gain to set; leave --calibration out")
    radio.apply(replace(radio.settings, tx_gain_db=gain_db))
    note(f"tx_gain_db = {gain_db:g}, amplitude {scale:.3f} for a CSNR of {csnr_db:g} dB")
    return samples * np.float32(scale)


def layout_path(radio: str, out: Path | None) -> Path:
    """Where the layout file goes: into `out`, beside a recording, else runs/transmit."""
    if out is not None:
        return out / "layout.json"
    if radio.startswith("file:"):
        stem = radio.removeprefix("file:").removesuffix(".sigmf-meta").removesuffix(".sigmf-data")
        return Path(stem + ".layout.json")
    return Path("runs/transmit/layout.json")
