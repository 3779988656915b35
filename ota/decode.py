"""`ota decode`: a recording and a layout file in, images out."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from ota.arguments import (
    check_layout,
    check_method,
    check_result,
    describe_calibration,
    load_calibration,
    load_truth,
    stated_headers,
    use_device,
)
from ota.console import emit_json, note, print_images, print_table, progress_bar
from ota.versions import versions
from sdr.errors import ConfigError
from sdr.files import check_vacant, finished_folder, write_json
from sdr.recordings.dataset import is_dataset


def decode(
    recording: Path = typer.Argument(
        help="SigMF recording: PATH, PATH.sigmf-meta or PATH.sigmf-data; or the folder of a dataset."
    ),
    layout: str | None = typer.Option(
        None,
        help="Layout file written by `ota transmit`, or the name of a shipped layout (paper, air, blind). A dataset "
        "has its own.",
    ),
    method: list[str] = typer.Option(
        ["hifi"],
        help="jscc: the plain decoder. diffcom, hifi: posterior sampling. blind, blind-jscc: without pilots. "
        "With settings: hifi:steps=50,zeta=0.5. Repeatable for a dataset.",
    ),
    out: Path = typer.Option(..., help="Folder to write; it appears when everything in it is finished."),
    truth: Path | None = typer.Option(None, help="Folder of originals as <id>.png, for scoring only."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    steps: int | None = typer.Option(None, min=1, help="Denoiser evaluations; default: the method's own."),
    seed: int = typer.Option(0, help="Seed of the sampler."),
    device: str = typer.Option("cpu", help="Torch device, such as cpu or cuda."),
    batch_size: int = typer.Option(64, min=1, help="Images decoded at once; each draw counts."),
    draws: int = typer.Option(
        1, min=1, help="Samples of the posterior per image; with 2 or more their mean and spread are kept, too."
    ),
    calibration: Path | None = typer.Option(None, help="Profile of the radios, from `ota calibrate`."),
    sent: Path | None = typer.Option(
        None,
        help="What was sent, as `ota transmit --json` printed it: frames are found by their cyclic prefix alone, and "
        "neither preamble nor header is read.",
    ),
    where: str = typer.Option(
        "", help="Dataset: decode the captures that fulfil this, as in 'csnr_db >= 5 and healthy'."
    ),
    group: int = typer.Option(16, min=1, help="Dataset: captures next to each other that share batches."),
    cluster: str | None = typer.Option(None, help="Dataset: decode on Ray: local, or ray://HOST:10001."),
    score: bool = typer.Option(False, "--score", help="Dataset: score against its ground truth afterwards."),
    force: bool = typer.Option(False, "--force", help="Replace what is in --out."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Decode a recording: find the frames, estimate the channel, sample the images.

    The receiver is told nothing but the recording and the layout. The channel is estimated from pilots (blind:
    inferred together with the image), the noise from the empty carriers of the preamble.

    \b
    --out gets <id>.png for every image, results.parquet (one row per image), run.json and what the report draws.
    `residual` is the squared distance of the re-encoded answer from the received cells over that of noise alone,
    about 1 for a right answer (give or take `residual_std`). `expected_psnr_db` is what the image is likely to have,
    from sending and decoding it once more. `accepted`: noise explains the residual, which is no larger than
    `residual_limit`, and the expected PSNR is at least 15 dB. None of them needs the originals.

    \b
    Examples:
      ota decode runs/tx --layout runs/tx.layout.json --method hifi --out runs/decoded
      ota decode capture.sigmf-meta --layout air --method jscc --out runs/plain --json
      ota decode runs/tx --layout runs/tx.layout.json --method blind --truth models/fashion/samples --out runs/blind
      ota decode runs/tx --layout runs/tx.layout.json --method diffcom --draws 8 --out runs/draws
      ota decode runs/tx --layout runs/tx.layout.json --method blind --sent runs/sent.json --out runs/by-prefix

    \b
    A dataset (of `ota record --plan`, or `ota dataset import`) is decoded by any number of methods into
    results.parquet, one row per image and method, failures with their reason. The same command again goes on where it
    stopped. --where compares the columns that `ota dataset list` shows. Settings of a method (its sampler's, and
    spread, decay and mode of the forward operator) make rows of their own over the same samples and draws.
      ota decode runs/campaign --method jscc --method hifi --method blind --score --out runs/campaign-decoded
      ota decode runs/campaign --where "csnr_db >= 10 and healthy" --method diffcom --out runs/campaign-decoded
      ota decode runs/campaign --method hifi --method hifi:zeta=0.1 --method hifi:decay=2 --score --out runs/settings
    """
    if is_dataset(recording):
        given = {
            "--layout": layout is not None,
            "--truth": truth is not None,
            "--sent": sent is not None,
            "--draws": draws != 1,
            "--force": force,
        }
        if any(given.values()):
            names = ", ".join(name for name, is_given in given.items() if is_given)
            raise ConfigError(f"A dataset has its layouts and truth, and one draw an image: leave out {names}.")
        _decode_dataset(
            recording,
            out,
            method,
            DecodeOptions(bundle, steps, seed, group, batch_size, device, calibration, where, cluster, score),
            json_output,
        )
        return
    if where or cluster is not None or score or len(method) != 1:
        raise ConfigError("--where, --cluster, --score and several methods are for datasets; this is a recording.")
    if layout is None:
        raise ConfigError("A recording needs --layout: the file that `ota transmit` wrote, or a shipped name.")
    _decode_recording(
        recording,
        layout,
        method[0],
        out,
        truth,
        bundle,
        steps,
        seed,
        device,
        batch_size,
        draws,
        calibration,
        sent,
        force,
        json_output,
    )


def _decode_recording(
    recording: Path,
    layout: str,
    method: str,
    out: Path,
    truth: Path | None,
    bundle: str,
    steps: int | None,
    seed: int,
    device: str,
    batch_size: int,
    draws: int,
    calibration: Path | None,
    sent: Path | None,
    force: bool,
    json_output: bool,
) -> None:
    check_vacant(out, force)
    from lab.reports.gallery import write_gallery
    from lab.reports.run import write_report
    from lab.reports.run_folder import describe, write_images, write_run
    from receiver.bundles.bundle import load_bundle
    from receiver.decode import METHODS, DecodeSettings, decode_recording
    from sdr.layout import load_layout, save_layout
    from sdr.recordings.recording import read_recording

    check_method(method, METHODS)
    use_device(device)
    frame_layout = load_layout(layout)
    captured = read_recording(recording)
    check_layout(captured, frame_layout)
    profile = load_calibration(calibration, captured)
    models = load_bundle(bundle)
    headers = None if sent is None else stated_headers(sent, models, frame_layout)
    originals = load_truth(truth, models.accepted_shape) if truth is not None else {}

    began = time.perf_counter()
    with progress_bar() as progress:
        result = decode_recording(
            captured,
            frame_layout,
            models,
            [method],
            DecodeSettings(steps, seed, device, batch_size, draws, calibration=profile),
            headers=headers,
            progress=progress,
        )
    seconds = time.perf_counter() - began
    check_result(result, frame_layout)
    with finished_folder(out, force) as folder:
        save_layout(frame_layout, folder / "layout.json")
        rows = write_images(result, folder, by_method=False, originals=originals)
        run = {
            "verb": "decode",
            "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": {
                "recording": str(recording),
                "layout": frame_layout.name,
                "method": method,
                "bundle": bundle,
                "steps": steps,
                "draws": draws,
                "sent": None if sent is None else str(sent),
                "seed": seed,
                "device": device,
                "truth": None if truth is None else str(truth),
                "calibration": describe_calibration(calibration, profile),
            },
            "versions": versions(),
            "stages": [{"stage": f"decode ({method})", "where": f"this process, {device}", "seconds": seconds}],
            **describe(result, rows, frame_layout),
        }
        write_run(folder, run, rows, captured, result, frame_layout)
        write_report(folder)
        write_gallery(folder)
    answer = {
        "frames": run["frames"],
        "images": [{**row, "path": str(out / row["path"])} for row in rows],
        "partial": run["partial"],
        "out": str(out),
        "report": str(out / "report.html"),
    }
    if json_output:
        emit_json(answer)
        return
    print_images(rows)
    note(f"{len(rows)} images from {len(result.frames)} frames in {seconds:.1f} s: {out}/report.html")


@dataclass(frozen=True)
class DecodeOptions:
    """Options of the command line for a dataset; see `lab.experiments.group_decoder.DatasetSettings`."""

    bundle: str
    steps: int | None
    seed: int
    group: int
    batch_size: int
    device: str
    calibration: Path | None
    where: str
    cluster: str | None
    score: bool


def _decode_dataset(folder: Path, out: Path, methods: Sequence[str], options: DecodeOptions, json_output: bool) -> None:
    from lab.experiments.decode_dataset import RESULTS_NAME, SETTINGS_NAME, decode_dataset, run_here
    from lab.experiments.group_decoder import DatasetSettings
    from receiver.decode import METHODS, DecodeSettings

    for method in methods:
        check_method(method, METHODS)
    use_device(options.device)
    if not (out / SETTINGS_NAME).is_file():
        check_vacant(out, force=False)
    profile = None
    if options.calibration is not None:
        from sdr.calibration_profile import load_profile

        profile = load_profile(options.calibration)
    decoding = DecodeSettings(options.steps, options.seed, options.device, options.batch_size, calibration=profile)
    settings = DatasetSettings(options.bundle, options.group, decoding)
    run = run_here
    if options.cluster is not None:
        from lab.experiments.cluster import run_on

        run = run_on(options.cluster)
    began = time.perf_counter()
    with progress_bar() as progress:
        counts = decode_dataset(folder, out, methods, settings, where=options.where, run=run, progress=progress)
    seconds = time.perf_counter() - began
    write_json(out / "versions.json", versions())
    summary: list[dict[str, Any]] = []
    if options.score:
        from lab.experiments.scores import score_results
        from lab.reports.scores import FIGURE_NAME, save_figure, score_figure

        summary = score_results(out, folder)
        save_figure(score_figure([("", summary)]), out / FIGURE_NAME)
    if json_output:
        emit_json({"out": str(out), **counts, "seconds": seconds, "summary": summary})
        return
    if summary:
        columns = ("CSNR dB", "method", "arrived", "PSNR dB", ">= 17 dB", "accepted", "s/image")
        print_table(f"Images of {folder}", columns, [_summary_cells(point) for point in summary])
    note(
        f"{counts['rows']} rows ({counts['failed']} failures) in {out}/{RESULTS_NAME}; {counts['decoded']} captures "
        f"times methods decoded in {seconds:.1f} s, {counts['skipped']} were there already"
    )


def _summary_cells(point: Mapping[str, Any]) -> tuple[str, ...]:
    def shown(key: str, form: str) -> str:
        return "" if point[key] is None else format(point[key], form)

    return (
        shown("csnr_db", "g"),
        point["method"],
        f"{point['arrived']}/{point['sent']}",
        f"{shown('psnr_db', '.2f')} ± {shown('psnr_se_db', '.2f')}",
        f"{100 * point['success_17db']:.0f} %",
        shown("accepted", ".0%"),
        shown("seconds_per_image", ".2f"),
    )
