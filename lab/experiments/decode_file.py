"""Decode one recording from a file, and compare with the originals where these are at hand."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from lab.evaluation.channel_truth import ChannelTruth
from lab.evaluation.outcomes import ImageOutcome, image_outcomes, load_originals
from receiver.bundles.bundle import Bundle, load_bundle
from receiver.decode import DecodeSettings, decode_recording
from receiver.front_end import in_units
from receiver.results import DecodeResult
from sdr.calibration_profile import CalibrationProfile, load_profile
from sdr.documents import read_json
from sdr.errors import ConfigError, InputError, LayoutError, RecordingError
from sdr.framing import pack_frames
from sdr.header import FrameHeader
from sdr.layout import FrameLayout, load_layout
from sdr.progress import Progress, silent
from sdr.recordings.antennas import choose_antennas, read_antennas
from sdr.recordings.recording import Recording
from sdr.symbols import Symbols


@dataclass(frozen=True)
class FileSettings:
    """What is decoded, and how.

    Attributes:
        recording: SigMF recording, of one antenna or more.
        layout: frame layout, a name or a file.
        method: see `receiver.samplers.variants.method_variant`.
        bundle: models, a name or a folder.
        prior: bundle whose prior is taken; None: that of `bundle`.
        decoding: steps, seed, device and the like.
        calibration: profile of the radios, instead of that in `decoding`; None: none.
        calibration_antenna: antenna of that profile that the recording is of, from 0; None: those of `use_antennas`.
        truth: folder of the originals, for scoring only; None: none.
        sent: what was sent, as `ota transmit --json` or `ota record --json` printed it: frames are found by their
            cyclic prefix alone, and neither preamble nor header is read; None: they are read.
        antennas: recordings that further antennas of the same receiver made at the same time.
        use_antennas: numbers, from 0, of the antennas that are decoded; none: all.
    """

    recording: Path
    layout: str
    method: str = "hifi"
    bundle: str = "fashion"
    prior: str | None = None
    decoding: DecodeSettings = DecodeSettings()  # noqa: RUF009  # frozen
    calibration: Path | None = None
    calibration_antenna: int | None = None
    truth: Path | None = None
    sent: Path | None = None
    antennas: tuple[Path, ...] = ()
    use_antennas: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class DecodedRecording:
    """A recording and what came of it.

    Attributes:
        recording: that was decoded.
        layout: of its frames.
        result: what was decoded.
        outcomes: of `result.images`, in their order.
        seconds: that decoding took.
        originals: (C, H, W) each by image id, as far as they are known.
        truth: the simulated channel; None where it is not known.
        profile: calibration that was used; None: none.
    """

    recording: Recording
    layout: FrameLayout
    result: DecodeResult
    outcomes: tuple[ImageOutcome, ...]
    seconds: float
    originals: Mapping[str, Tensor] = field(default_factory=dict)
    truth: ChannelTruth | None = None
    profile: CalibrationProfile | None = None


def decode_file(
    settings: FileSettings, progress: Progress = silent, note: Callable[[str], None] = lambda text: None
) -> DecodedRecording:
    """Decode a recording.

    Args:
        settings: what and how.
        progress: called as the decoding goes on.
        note: called with doubts whether the calibration fits the recording.

    Raises:
        OtaError: something does not fit, or nothing could be decoded; the message says what to do.
    """
    layout = load_layout(settings.layout)
    heard = read_antennas([settings.recording, *settings.antennas])
    recording = in_units(choose_antennas(heard, settings.use_antennas))
    check_layout(recording, layout)
    profile = fitting_profile(
        settings.calibration, recording, note, settings.calibration_antenna, settings.use_antennas
    )
    models = load_bundle(settings.bundle, prior=settings.prior)
    headers = None if settings.sent is None else stated_headers(settings.sent, models, layout)
    originals = {} if settings.truth is None else load_originals(settings.truth, models.accepted_shape)
    began = time.perf_counter()
    decoding = settings.decoding if profile is None else replace(settings.decoding, calibration=profile)
    result = decode_recording(
        recording, layout, models, [settings.method], decoding, headers=headers, progress=progress
    )
    seconds = time.perf_counter() - began
    check_result(result)
    outcomes = image_outcomes(result, originals, layout)
    return DecodedRecording(recording, layout, result, outcomes, seconds, originals, profile=decoding.calibration)


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


def fitting_profile(
    path: Path | None,
    recording: Recording,
    note: Callable[[str], None],
    antenna: int | None = None,
    use_antennas: tuple[int, ...] = (),
) -> CalibrationProfile | None:
    """Return the calibration profile at `path`, if one is given.

    Args:
        path: of the profile; None: none.
        recording: that it is for.
        note: called with doubts whether it fits.
        antenna: of the profile that the recording is of, from 0; None: those of `use_antennas`.
        use_antennas: of what was heard that are the recording's; none: all.

    Raises:
        CalibrationError: it can't be read, or belongs to another radio or number of antennas than the recording.
    """
    if path is None:
        return None
    profile = load_profile(path, antenna).chosen(use_antennas)
    profile.of_antennas(len(recording.antennas))
    for doubt in profile.check(recording.settings):
        note(f"warning: {doubt}")
    return profile


def stated_headers(path: Path, models: Bundle, layout: FrameLayout) -> list[FrameHeader]:
    """Return the headers of the frames that hold the images stated in a file, in order.

    Args:
        path: JSON with `images`, a list of ids, and `csnr_db`.
        models: that encoded the images.
        layout: of the frames.

    Raises:
        InputError: the file can't be read, or does not state these.
        ConfigError: the bundle takes images of any size, which the file does not state.
    """
    stated = read_json(path, InputError, "--sent")
    try:
        ids, csnr_db = tuple(map(str, stated["images"])), float(stated["csnr_db"])
        if not ids:
            raise ValueError("no image")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--sent {path} does not state what was sent ({error}). Give what `ota transmit --json`, or `ota record "
            "--json` with --images, printed."
        ) from error
    if None in models.codec.accepted_shape:
        raise ConfigError(
            f"--sent does not state the sizes of images, of which the codec of '{models.name}' takes any. Leave it out."
        )
    # Headers don't depend on the symbols' values.
    blank = np.ones((len(ids), models.codec.num_symbols), dtype=np.complex64)
    symbols = Symbols(blank, models.codec.digest, ids, models.codec.image_shape, csnr_db)
    return [frame.header for frame in pack_frames(symbols, layout, csnr_db)]


def check_result(result: DecodeResult) -> None:
    """Refuse an empty answer.

    Raises:
        RecordingError: no frame, no readable header, or no complete image.
    """
    if result.seen:
        raise RecordingError(result.seen)
    if not result.images:
        raise RecordingError(
            f"No image is complete: parts of {', '.join(result.incomplete) or 'all'} are missing. Record longer."
        )
