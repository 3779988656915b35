"""Check and load what several verbs are given."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ota.console import note
from sdr.errors import ConfigError, InputError, LayoutError, RecordingError

if TYPE_CHECKING:
    from torch import Tensor

    from receiver.bundles.bundle import Bundle
    from receiver.codecs.codec import ImageShape
    from receiver.results import DecodeResult
    from sdr.calibration_profile import CalibrationProfile
    from sdr.header import FrameHeader
    from sdr.layout import FrameLayout
    from sdr.recordings.recording import Recording


def stated_headers(path: Path, models: Bundle, layout: FrameLayout) -> list[FrameHeader]:
    """The headers of the frames that hold the images in `path` (`images`, a list of ids, and `csnr_db`), in order.

    Raises:
        InputError: it can't be read, or does not state these.
    """
    import json

    import numpy as np

    from sdr.framing import pack_frames
    from sdr.symbols import Symbols

    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
        ids, csnr_db = tuple(map(str, stated["images"])), float(stated["csnr_db"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--sent {path} does not state what was sent ({error}). Give what `ota transmit --json` printed."
        ) from error
    if models.any_size:
        raise ConfigError(
            f"--sent does not state the sizes of images, of which bundle '{models.name}' takes any. Leave it out."
        )
    # Headers tell nothing of the symbols' values.
    blank = np.ones((len(ids), models.codec.num_symbols), dtype=np.complex64)
    symbols = Symbols(blank, models.codec.digest, ids, models.image_shape, csnr_db)
    return [frame.header for frame in pack_frames(symbols, layout, csnr_db)]


def load_calibration(path: Path | None, recording: Recording) -> CalibrationProfile | None:
    """The profile at `path`, if one is given; doubts whether it fits the recording are told.

    Raises:
        CalibrationError: it can't be read, or belongs to another radio.
    """
    if path is None:
        return None
    from sdr.calibration_profile import load_profile

    profile = load_profile(path)
    for doubt in profile.check(recording.settings):
        note(f"warning: {doubt}")
    return profile


def describe_calibration(path: Path | None, profile: CalibrationProfile | None) -> dict[str, str] | None:
    """What run.json says of the profile that was used."""
    return None if profile is None else {"path": str(path), "digest": profile.digest}


def check_method(method: str, methods: Sequence[str] | Mapping[str, object]) -> None:
    """Refuse a method that does not exist; settings after a colon are not looked at.

    Raises:
        ConfigError: with the nearest name.
    """
    method = method.partition(":")[0]
    if method not in methods:
        from difflib import get_close_matches

        near = get_close_matches(method, list(methods), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"There is no method {method!r}; use one of {', '.join(methods)}.{hint}")


def use_device(device: str) -> None:
    """Refuse a device that torch does not know or this machine does not have, and share the processor well.

    Half of the processors are used unless OMP_NUM_THREADS says otherwise: the networks are small, and a thread that
    has to wait for a busy processor holds up all the others (measured: seven times slower on two busy cores).

    Raises:
        ConfigError: see above.
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, ValueError) as error:
        first = str(error).splitlines()[0][:160]
        raise ConfigError(f"--device {device} can't be used here ({first}). Use cpu.") from error


def check_layout(recording: Recording, layout: FrameLayout) -> None:
    """Refuse a layout other than the one that the recording says it was made with.

    Raises:
        LayoutError: the digests differ. A recording without a digest passes.
    """
    if recording.layout_digest and recording.layout_digest != layout.digest:
        raise LayoutError(
            f"The recording was made with layout {recording.layout_digest}, but {layout.name} is {layout.digest}. "
            "Give the layout file that `ota transmit` wrote beside it."
        )


def check_result(result: DecodeResult, layout: FrameLayout) -> None:
    """Refuse an empty answer.

    Raises:
        RecordingError: no frame, no readable header, or no complete image.
    """
    if not result.frames:
        raise RecordingError(
            f"No frame of layout {layout.name} was found in the recording. Check the layout, the gain and the rate."
        )
    if not any(frame.header_ok for frame in result.frames):
        raise RecordingError(
            f"{len(result.frames)} frames were found, but no header could be read. "
            "Check that the layout is the transmitter's, or raise the SNR."
        )
    if not result.images:
        raise RecordingError(
            f"No image is complete: parts of {', '.join(result.incomplete) or 'all'} are missing. Record longer."
        )


def load_truth(folder: Path, shape: ImageShape) -> dict[str, Tensor]:
    """The originals in `folder` by image id, (C, H, W) each."""
    from receiver.images.files import load_images
    from sdr.header import image_id_from_stem

    stems, images = load_images(folder, shape)
    return {image_id_from_stem(stem): image for stem, image in zip(stems, images, strict=True)}
