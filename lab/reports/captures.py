"""Prepare the captures that a comparison shows in detail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

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
from receiver.decode import BatchDecoder, DecodeSettings, decode_recording
from receiver.samplers.variants import method_variant
from sdr.errors import ConfigError, InputError, OtaError, RecordingError
from sdr.recordings.dataset import IndexRow, layout_of, open_capture, read_truth

#: Captures in detail, images of each, draws behind a spread, pictures of a film strip.
DETAILED_CAPTURES, DETAILED_IMAGES, DETAILED_DRAWS, FILM_PICTURES = 3, 4, 8, 8
#: Samples of a capture that are looked at in detail.
DETAILED_SAMPLES = 1 << 22


# Captures in detail


def captures_in_detail(
    runs: Sequence[ComparedRun], sources: Mapping[str, Path | None], captures: Sequence[str]
) -> list[tuple[ComparedRun, Path, IndexRow]]:
    """Captures to show, of the first run whose dataset is at hand."""
    for run in runs:
        dataset = sources[run.name]
        if dataset is None:
            continue
        chosen = list(captures)
        if not chosen:
            scored = run.rows.filter(pyarrow.compute.field("psnr_db").is_valid())
            mean = scored.group_by("recording").aggregate([("psnr_db", "mean")]).sort_by("psnr_db_mean")
            ranked = mean["recording"].to_pylist()
            places = np.linspace(len(ranked) - 1, 0, min(DETAILED_CAPTURES, len(ranked))).round().astype(int)
            chosen = [ranked[place] for place in places]
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


def capture(
    run: ComparedRun, dataset: Path, row: IndexRow, models: Bundle, keep: Callable[[str, Figure], str]
) -> dict[str, Any]:
    """One capture in detail: its signal, and its first images decoded once more with the samplers watched."""
    told: dict[str, Any] = {"row": row, "figures": [], "problem": ""}
    try:
        layout, recording = layout_of(dataset, row), open_capture(dataset, row)
    except OtaError as error:
        return {**told, "problem": str(error)}
    if recording.num_samples > DETAILED_SAMPLES:
        recording = type(recording)(recording.samples[:DETAILED_SAMPLES], recording.settings, recording.utc)
    channel, sent = None, {}
    if row.truth_sha512:
        truth = read_truth(dataset, row)
        sent = dict(zip(truth["image_ids"].tolist(), truth["images"], strict=True))
        known = {key.removeprefix("channel_"): value for key, value in truth.items() if key.startswith("channel_")}
        channel = ChannelTruth.from_mapping(known) if known else None
    found = decode_recording(
        recording, layout, models, ["jscc" if layout.pilot_symbols else "blind"], DecodeSettings(steps=1)
    )
    diagnostics = diagnose(recording, found, layout, channel)
    stem = f"capture-{row.recording}"
    figures: list[tuple[str, str]] = told["figures"]
    figures.append(("Spectrum", keep(f"{stem}-spectrum", spectrum_figure(diagnostics))))
    frames = [frame for frame in found.synced if frame.header is not None]
    if not frames:
        return {**told, "problem": f"{len(found.synced)} frames were found, and no header could be read"}
    figures.append(("Header cells", keep(f"{stem}-constellation", constellation_figure(diagnostics))))
    figures.append(("Channel", keep(f"{stem}-channel", channel_figure(diagnostics, layout))))
    decoder, drawing = BatchDecoder(models), BatchDecoder(models, DecodeSettings(draws=DETAILED_DRAWS))
    kept: list[Any] = []
    for frame in frames:
        if len(kept) and sum(len(one.header.image_ids) for one in kept) >= DETAILED_IMAGES:
            break
        kept.append(frame)
    try:
        measured = decoder.measure(kept, layout)
    except InputError as error:
        return {**told, "problem": str(error)}
    steps, seed = run.settings.get("steps"), int(run.rows["seed"][0].as_py())
    for method in run.methods:
        variant = method_variant(method, steps)
        if variant.settings.steps < 2 or (layout.pilot_symbols == 0 and not variant.blind):
            continue

        def generators(variant=variant) -> list[torch.Generator]:
            return [frame_generator(row.recording, frame.start, variant, seed, "cpu") for frame in kept]

        film: list[NDArray[np.float32]] = []

        def watch(step: int, x0_hat: Tensor, film=film) -> None:
            film.append(((x0_hat + 1) / 2).numpy())

        shown = decoder.decode(measured, variant, generators(), on_step=watch)
        drawn = drawing.decode(measured, variant, generators())
        picks = np.linspace(0, len(film) - 1, min(FILM_PICTURES, len(film))).round().astype(int)
        heads = ["sent", *(f"step {pick + 1}" for pick in picks), "decoded", "mean", "spread"]
        count = min(DETAILED_IMAGES, len(shown))
        strips: list[list[NDArray[np.float32] | None]] = []
        for line in range(count):
            original, mean, spread = sent.get(shown[line].id), drawn[line].mean, drawn[line].spread
            assert mean is not None and spread is not None
            strips.append(
                [
                    None if original is None else original.astype(np.float32) / 255,
                    *(film[pick][line] for pick in picks),
                    shown[line].image,
                    mean,
                    spread / WHITE_SPREAD,
                ]
            )
        figure, _ = sheet(strips, [image.id for image in shown[:count]], heads)
        title = f"Reverse diffusion and posterior, {method}"
        figures.append((title, keep(f"{stem}-{plain(method)}", figure)))
    return told
