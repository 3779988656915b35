"""Record what a radio receives: one recording, or a long stream cut into the recordings of a dataset.

The models, and PyTorch with them, are imported only where images are transmitted meanwhile: a machine that only records
needs neither.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sdr.errors import ConfigError, RadioError
from sdr.layout import FrameLayout, load_layout, save_layout
from sdr.outputs import check_free, claim, landing
from sdr.progress import Progress
from sdr.radios.base import BrokenCapture, Radio, record_blocks
from sdr.radios.open import open_radio
from sdr.recordings.archive import DATA_SUFFIX, META_SUFFIX, sigmf_paths
from sdr.recordings.layout_file import holds_layout, layout_file
from sdr.recordings.recording import Recording, write_recording
from sdr.recordings.writer import DatasetWriter

#: Samples that a stream is taken in at a time.
_BLOCK_SAMPLES = 1 << 20


@dataclass(frozen=True)
class RecordSettings:
    """What is recorded.

    Attributes:
        radio: URI.
        layout: frame layout, a name or a file; sets the rate.
        seconds: length; None: all there is, where that has an end.
        images: folder to transmit on the same radio meanwhile; None: nothing is sent.
        bundle: models that encode these images, a name or a folder.
        csnr_db: channel SNR that the encoder is given, dB.
    """

    radio: str
    layout: str = "paper"
    seconds: float | None = None
    images: Path | None = None
    bundle: str = "fashion"
    csnr_db: float = 10.0


@dataclass(frozen=True)
class RecordedFile:
    """A recording that was written.

    Attributes:
        recording: its metadata file.
        layout: the layout file beside it.
        samples: number of samples.
        rate_sps: their rate.
        warnings: of the health check.
        images: names of those that were sent meanwhile, in order, as `ota decode --sent` takes them.
        csnr_db: channel SNR that their encoder was given, dB.
    """

    recording: Path
    layout: Path
    samples: int
    rate_sps: float
    warnings: tuple[str, ...]
    images: tuple[str, ...]
    csnr_db: float


def record_file(settings: RecordSettings, out: Path, force: bool = False) -> RecordedFile:
    """Record once, and write the samples and the layout.

    Args:
        settings: what is recorded.
        out: stem of the files.
        force: replace a recording of this name.

    Raises:
        InputError: there is one, or a layout file of another layout, and `force` is not given.
        RadioError: the radio can't be used, or a simulated one has nothing to hear; or the capture broke off, and the
            message says where what had arrived was written.
    """
    layout = load_layout(settings.layout)
    meta_path, data_path = sigmf_paths(out)
    stem = Path(str(meta_path).removesuffix(META_SUFFIX))
    names = [meta_path, data_path, *([] if holds_layout(layout_file(stem), layout) else [layout_file(stem)])]
    check_free(names, force)
    with claim(stem):
        check_free(names, force)
        broken = None
        try:
            captured, ids = _capture(settings, layout)
        except BrokenCapture as error:
            captured, ids, broken = error.recording, (), error
        with landing(stem, (META_SUFFIX, DATA_SUFFIX), force) as place:
            written = write_recording(captured, place)
            layout_path = save_layout(layout, layout_file(place))
    if broken is not None:
        raise RadioError(
            f"{broken}. The {captured.num_samples} samples that had arrived are {written}, marked partial."
        )
    warnings = () if captured.health is None else tuple(captured.health.warnings)
    count, rate_sps = captured.num_samples, captured.settings.rate_sps
    return RecordedFile(written, layout_path, count, rate_sps, warnings, ids, settings.csnr_db)


def _capture(settings: RecordSettings, layout: FrameLayout) -> tuple[Recording, tuple[str, ...]]:
    """Return what was received, and the names of the images that were sent meanwhile."""
    ids = ()
    with open_radio(settings.radio, layout=layout) as radio:
        if settings.images is not None:
            repeat = radio.capabilities.cyclic and not radio.capabilities.finite
            ids = _send(radio, settings, settings.images, layout, repeat)
        elif settings.radio.startswith("sim:"):
            raise RadioError("A simulated radio hears only what is sent on it. Add --images FOLDER.")
        seconds = settings.seconds
        return radio.receive(None if seconds is None else max(1, round(seconds * layout.rate_sps))), ids


def record_rotating(
    settings: RecordSettings, out: Path, rotate_bytes: int, progress: Progress, note: Callable[[str], None]
) -> StreamCounts:
    """Open the radio, transmit the images if there are any, and record the stream; see `record_stream`.

    Raises:
        ConfigError: the stream has no length.
    """
    if settings.seconds is None:
        raise ConfigError("--rotate-mb needs the length of the stream. Add --seconds.")
    layout = load_layout(settings.layout)
    with open_radio(settings.radio, layout=layout) as radio:
        if settings.images is not None:
            _send(radio, settings, settings.images, layout, radio.capabilities.cyclic)
        return record_stream(radio, layout, out, settings.seconds, rotate_bytes, progress, note)


def _send(radio: Radio, settings: RecordSettings, images: Path, layout: FrameLayout, repeat: bool) -> tuple[str, ...]:
    """Send a folder of images, once or until the radio is closed; return their names."""
    from receiver.bundles.bundle import load_codec
    from transmitter.encode import encode_folder

    sent = encode_folder(images, load_codec(settings.bundle), layout, settings.csnr_db)
    radio.transmit(sent.samples(0) if repeat else sent.samples(), cyclic=repeat)
    return sent.ids


@dataclass(frozen=True)
class StreamCounts:
    """What recording a stream came to.

    Attributes:
        captures: in the dataset.
        recorded: now.
        samples: of these.
        seconds: taken.
        removed: files of captures that an earlier run had left unfinished.
    """

    captures: int
    recorded: int
    samples: int
    seconds: float
    removed: tuple[str, ...]


def record_stream(
    radio: Radio,
    layout: FrameLayout,
    out: Path,
    seconds: float,
    rotate_bytes: int,
    progress: Progress,
    note: Callable[[str], None],
) -> StreamCounts:
    """Record a long stream into a dataset, a new recording whenever one has reached `rotate_bytes`.

    The recordings follow each other without a gap; a frame that lies across two of them is lost to the decoder. Ctrl-C
    completes the recording at hand.

    Args:
        radio: open.
        layout: frame layout, which sets the rate.
        out: folder of the dataset.
        seconds: length of the stream.
        rotate_bytes: of one recording.
        progress: called with the samples that are recorded.
        note: called with a line for each warning, and each leftover that was removed.
    """
    total = max(1, round(seconds * layout.rate_sps))
    piece = max(1, rotate_bytes // (8 * radio.capabilities.antennas))
    block = -(-piece // -(-piece // _BLOCK_SAMPLES))
    done = recorded = 0
    began = time.perf_counter()

    def piece_of(stream: Iterator[Recording], count: int) -> Iterator[Recording]:
        """Yield the blocks of one recording, a whole number of them but for the last one."""
        taken = 0
        while taken < count:
            try:
                block = next(stream, None)
            except RadioError as error:
                if not taken:
                    raise
                broken.append(error)  # what had arrived is a capture, too
                return
            if block is None:
                return
            taken += block.num_samples
            progress("record", done + taken, total)
            yield block

    broken: list[RadioError] = []
    with DatasetWriter(out, out.name) as dataset, closing(record_blocks(radio, total, block)) as stream:
        for name in dataset.removed:
            note(f"not complete, removed: {name}")
        while done < total:
            row = dataset.add_blocks(dataset.next_number(), piece_of(stream, piece), layout)
            done += row.num_samples
            recorded += 1
            for warning in filter(None, [row.warnings]):
                note(f"warning: {row.recording}: {warning}")
            if broken:
                raise RadioError(f"{broken[0]}. What had arrived is in {out}, the last of it in {row.recording}.")
        return StreamCounts(len(dataset.rows), recorded, done, time.perf_counter() - began, tuple(dataset.removed))
