"""Show some captures of a comparison in detail: their signal, and the samplers at work.

These few are decoded once more, with the draws that the rows of the decoded dataset came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from lab.evaluation.channel_truth import ChannelTruth
from lab.experiments.group_decoder import frame_generator
from lab.experiments.selection import select_captures
from lab.reports.compared import ComparedRun
from lab.reports.diagnostics import diagnose
from lab.reports.figures import channel_figure, constellation_figure, spectrum_figure
from lab.reports.pictures import WHITE_SPREAD
from lab.reports.sheets import plain, sheet
from receiver.bundles.bundle import Bundle
from receiver.decode import BatchDecoder, DecodeSettings, MeasuredFrames, decode_recording
from receiver.fitting import antennas_refused, decodes
from receiver.samplers.variants import Variant, method_variant
from receiver.sync.frame import SyncedFrame
from sdr.documents import checked_value
from sdr.errors import ConfigError, InputError, OtaError, RecordingError
from sdr.layout import FrameLayout
from sdr.recordings.antennas import choose_antennas
from sdr.recordings.dataset import IndexRow, layout_of, open_capture, read_truth
from sdr.recordings.recording import Recording

#: Captures in detail, and images of each.
DETAILED_CAPTURES, DETAILED_IMAGES = 3, 4
#: Draws behind a spread.
DETAILED_DRAWS = 8
#: Pictures of a film strip.
FILM_PICTURES = 8
#: Samples of a capture that are looked at in detail.
DETAILED_SAMPLES = 1 << 22

#: Writes a figure under a name, and returns it as a data URI.
Keep = Callable[[str, Figure], str]


@dataclass(frozen=True)
class DetailedCapture:
    """One capture in detail.

    Attributes:
        row: of the dataset's index.
        decoded: numbers of the antennas that the run decoded; none: all.
        figures: title and data URI of each.
        problem: why there are no more figures; empty where nothing is missing.
    """

    row: IndexRow
    decoded: tuple[int, ...]
    figures: tuple[tuple[str, str], ...] = ()
    problem: str = ""


def captures_in_detail(
    runs: Sequence[ComparedRun], sources: Mapping[str, Path | None], captures: Sequence[str]
) -> list[tuple[ComparedRun, Path, IndexRow]]:
    """Return the captures to show, of the first run whose dataset is at hand, with run and dataset.

    Args:
        runs: that are compared.
        sources: the dataset of each run, by the run's name.
        captures: recordings to show; none: those of the best, a middling and the worst mean PSNR.

    Raises:
        ConfigError: a recording that the dataset does not have, or no dataset.
    """
    for run in runs:
        dataset = sources[run.name]
        if dataset is None:
            continue
        chosen = list(captures) or _best_to_worst(run)
        if not chosen:
            return []
        try:
            rows = {row.recording: row for row in select_captures(dataset, f"recording in {chosen!r}").rows()}
            lost = [name for name in chosen if name not in rows]
        except RecordingError:
            rows, lost = {}, chosen
        if lost:
            raise ConfigError(f"{dataset} has no recording {lost[0]!r}; see `ota dataset list`.")
        return [(run, dataset, rows[name]) for name in chosen]
    if captures:
        raise ConfigError("--capture needs a decoded dataset and its dataset among the folders.")
    return []


def _best_to_worst(run: ComparedRun) -> list[str]:
    scored = run.rows.filter(pyarrow.compute.field("psnr_db").is_valid())
    mean = scored.group_by("recording").aggregate([("psnr_db", "mean")]).sort_by("psnr_db_mean")
    ranked = mean["recording"].to_pylist()
    places = np.linspace(len(ranked) - 1, 0, min(DETAILED_CAPTURES, len(ranked))).round().astype(int)
    return [ranked[place] for place in places]


def capture_in_detail(run: ComparedRun, dataset: Path, row: IndexRow, models: Bundle, keep: Keep) -> DetailedCapture:
    """Return one capture in detail: its signal, and its first images decoded once more with the samplers watched.

    Args:
        run: that decoded it.
        dataset: that it is in.
        row: of the dataset's index.
        models: that decode.
        keep: writes figures.
    """
    antennas = _used_antennas(run)
    try:
        layout, recording = layout_of(dataset, row), choose_antennas(open_capture(dataset, row), antennas)
    except OtaError as error:
        return DetailedCapture(row, antennas, problem=str(error))
    recording = _beginning(recording)
    sent, channel = _truth(dataset, row)
    found = decode_recording(
        recording, layout, models, ["jscc" if layout.pilot_symbols else "blind"], DecodeSettings(steps=1)
    )
    diagnostics = diagnose(recording, found, layout, channel)
    stem = f"capture-{row.recording}"
    figures = [("Spectrum", keep(f"{stem}-spectrum", spectrum_figure(diagnostics)))]
    frames = [frame for frame in found.synced if frame.header is not None]
    if not frames:
        problem = f"{len(found.synced)} frames were found, and no header could be read"
        return DetailedCapture(row, antennas, tuple(figures), problem)
    figures.append(("Header cells", keep(f"{stem}-constellation", constellation_figure(diagnostics))))
    figures.append(("Channel", keep(f"{stem}-channel", channel_figure(diagnostics, layout))))
    try:
        films = _films(run, row, models, _first_images(frames), layout, sent)
    except InputError as error:
        return DetailedCapture(row, antennas, tuple(figures), str(error))
    figures += [
        (f"Reverse diffusion and posterior, {method}", keep(f"{stem}-{plain(method)}", film))
        for method, film in films.items()
    ]
    return DetailedCapture(row, antennas, tuple(figures))


def _used_antennas(run: ComparedRun) -> tuple[int, ...]:
    """Return the numbers of the antennas that a decoded dataset was decoded with; none: all."""
    stored = run.settings.get("use_antennas", [])
    return checked_value(tuple[int, ...], stored, f"{run.folder}: use_antennas", InputError)


def _beginning(recording: Recording) -> Recording:
    """Return as much of a recording as is looked at."""
    if recording.num_samples <= DETAILED_SAMPLES:
        return recording
    first, *others = (samples[:DETAILED_SAMPLES] for samples in recording.antennas)
    return Recording(first, recording.settings, recording.utc, others=tuple(others))


def _truth(dataset: Path, row: IndexRow) -> tuple[dict[str, NDArray[np.uint8]], ChannelTruth | None]:
    """Return the images sent in a capture, by id, and its simulated channel, as far as they are known."""
    if not row.truth_sha512:
        return {}, None
    truth = read_truth(dataset, row)
    sent = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
    known = {key.removeprefix("channel_"): value for key, value in truth.items() if key.startswith("channel_")}
    return sent, ChannelTruth.from_mapping(known) if known else None


def _first_images(frames: Sequence[SyncedFrame]) -> list[SyncedFrame]:
    """Return as many frames as the images shown need."""
    kept: list[SyncedFrame] = []
    images = 0
    for frame in frames:
        if images >= DETAILED_IMAGES:
            break
        kept.append(frame)
        images += 0 if frame.header is None else len(frame.header.image_ids)
    return kept


def _films(
    run: ComparedRun,
    row: IndexRow,
    models: Bundle,
    frames: Sequence[SyncedFrame],
    layout: FrameLayout,
    sent: Mapping[str, NDArray[np.uint8]],
) -> dict[str, Figure]:
    """Draw the way of each sampler from noise to image, by method.

    Raises:
        InputError: the frames hold nothing but parts of images.
    """
    once, often = BatchDecoder(models), BatchDecoder(models, DecodeSettings(draws=DETAILED_DRAWS))
    measured = once.measure(frames, layout)
    steps, seed = run.settings.get("steps"), int(run.rows["seed"][0].as_py())
    films = {}
    for method in run.methods:
        variant = method_variant(method, steps if isinstance(steps, int) else None)
        if not decodes(variant, measured.measurement.codec_digest, models):
            continue
        if variant.settings.steps < 2 or (layout.pilot_symbols == 0 and not variant.blind):
            continue
        if antennas_refused(variant, measured.measurement.antennas):
            continue

        def generators(variant: Variant = variant) -> list[torch.Generator]:
            return [frame_generator(row.recording, frame.start, variant, seed, "cpu") for frame in frames]

        films[method] = _film(once, often, measured, variant, generators, sent)
    return films


def _film(
    once: BatchDecoder,
    often: BatchDecoder,
    measured: MeasuredFrames,
    variant: Variant,
    generators: Callable[[], list[torch.Generator]],
    sent: Mapping[str, NDArray[np.uint8]],
) -> Figure:
    """Draw what was sent, the sampler's estimates on the way, the decoded image, and the draws' mean and spread."""
    estimates: list[NDArray[np.float32]] = []

    def watch(step: int, x0_hat: Tensor) -> None:
        estimates.append(((x0_hat + 1) / 2).numpy())

    shown = once.decode(measured, variant, generators(), on_step=watch)
    drawn = often.decode(measured, variant, generators())
    picks = np.linspace(0, len(estimates) - 1, min(FILM_PICTURES, len(estimates))).round().astype(int)
    strips: list[list[NDArray[np.float32] | None]] = []
    for index, (image, many) in enumerate(zip(shown[:DETAILED_IMAGES], drawn, strict=False)):
        original = sent.get(image.id)
        assert many.mean is not None and many.spread is not None
        strips.append(
            [
                None if original is None else original.astype(np.float32) / np.float32(255),
                *(estimates[pick][index] for pick in picks),
                image.image,
                many.mean,
                many.spread / WHITE_SPREAD,
            ]
        )
    heads = ["sent", *(f"step {pick + 1}" for pick in picks), "decoded", "mean", "spread"]
    return sheet(strips, [image.id for image in shown[:DETAILED_IMAGES]], heads)[0]
