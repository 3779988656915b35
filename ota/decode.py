"""`ota decode`: a recording and a layout file in, images out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ota.console import emit_json, note, print_table, progress_bar
from ota.folders import check_vacant, finished_folder, versions, write_rows
from sdr.errors import ConfigError, InputError, LayoutError, RecordingError
from sdr.files import write_json
from sdr.recordings.dataset import is_dataset

if TYPE_CHECKING:
    from torch import Tensor

    from receiver.bundles import Bundle
    from receiver.codecs import ImageShape
    from receiver.decode import DecodeResult, ImageResult
    from receiver.truth import ChannelTruth
    from sdr.calibration_profile import CalibrationProfile
    from sdr.header import FrameHeader
    from sdr.layout import FrameLayout
    from sdr.recordings.recording import Recording


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
    from receiver.bundles import load_bundle
    from receiver.decode import METHODS, decode_recording
    from receiver.report import write_gallery, write_report
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
    originals = load_truth(truth, models.takes) if truth is not None else {}

    began = time.perf_counter()
    with progress_bar() as progress:
        result = decode_recording(
            captured,
            frame_layout,
            models,
            [method],
            steps=steps,
            seed=seed,
            device=device,
            batch_size=batch_size,
            draws=draws,
            calibration=profile,
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
    """Options of the command line for a dataset; see `receiver.offline.DecodeSettings`."""

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
    from receiver.decode import METHODS
    from receiver.offline import RESULTS_NAME, SETTINGS_NAME, DecodeSettings, decode_dataset, run_here

    for method in methods:
        check_method(method, METHODS)
    use_device(options.device)
    if not (out / SETTINGS_NAME).is_file():
        check_vacant(out, force=False)
    profile = None
    if options.calibration is not None:
        from sdr.calibration_profile import load_profile

        profile = load_profile(options.calibration)
    settings = DecodeSettings(
        options.bundle, options.steps, options.seed, options.group, options.batch_size, options.device, profile
    )
    run = run_here
    if options.cluster is not None:
        from receiver.cluster import run_on

        run = run_on(options.cluster)
    began = time.perf_counter()
    with progress_bar() as progress:
        counts = decode_dataset(folder, out, methods, settings, where=options.where, run=run, progress=progress)
    seconds = time.perf_counter() - began
    write_json(out / "versions.json", versions())
    summary: list[dict[str, Any]] = []
    if options.score:
        from receiver.scores import score_results

        summary = score_results(out, folder)
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
    if None in models.takes:
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
    from receiver.data import load_images
    from sdr.header import image_id_from_stem

    stems, images = load_images(folder, shape)
    return {image_id_from_stem(stem): image for stem, image in zip(stems, images, strict=True)}


def image_rows(result: DecodeResult, by_method: bool) -> list[tuple[ImageResult, str]]:
    """Every image with its path inside the run folder; an id seen again (a repeated frame) gets its frame's sample."""
    taken: set[str] = set()
    rows = []
    for image in result.images:
        stem = f"images/{image.method}/{image.id}" if by_method else image.id
        path = f"{stem}.png"
        if path in taken:
            path = f"{stem}@{image.start_sample}.png"
        taken.add(path)
        rows.append((image, path))
    return rows


#: Figures of its frame that every image's row has.
QUALITY = ("metric", "cfo_hz", "snr_db", "evm_db", "papr_db")


def write_images(
    result: DecodeResult, folder: Path, *, by_method: bool, originals: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Write every image, and the originals it is scored against; return one row each.

    Raises:
        InputError: originals were given, but not one belongs to a decoded image.
    """
    import numpy as np
    import torch

    from receiver.data import save_image
    from receiver.evaluation import MAX_PSNR_DB
    from receiver.metrics import psnr_db

    rows: list[dict[str, Any]] = []
    frames = {synced.start: frame for synced, frame in zip(result.synced, result.frames, strict=True)}
    for image, path in image_rows(result, by_method):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        decoded = torch.from_numpy(image.image)
        save_image(target, decoded)
        row: dict[str, Any] = {
            "id": image.id,
            "method": image.method,
            "residual": image.residual,
            "residual_std": image.residual_std,
            "residual_limit": image.residual_limit,
            "expected_psnr_db": image.expected_psnr_db,
            "accepted": image.accepted,
            "seconds": image.seconds,
            "path": path,
            "frame_number": image.frame_number,
            "start_sample": image.start_sample,
            **{name: getattr(frames[image.start_sample], name) for name in QUALITY},
        }
        original = originals.get(image.id)
        pictures = {"psnr_db": decoded}
        if image.mean is not None and image.spread is not None:
            row["spread_rms"] = float(np.sqrt(np.mean(image.spread**2)))
            pictures["mean_psnr_db"] = torch.from_numpy(image.mean)
        if originals:
            row |= dict.fromkeys(pictures)
        if original is not None:
            for key, picture in pictures.items():
                row[key] = min(MAX_PSNR_DB, float(psnr_db(picture[None], original[None])[0]))
            kept = folder / "originals" / f"{image.id}.png"
            if not kept.exists():
                kept.parent.mkdir(exist_ok=True)
                save_image(kept, original)
        rows.append(row)
    if originals and all(row["psnr_db"] is None for row in rows):
        raise InputError(
            f"None of the {len(originals)} originals is called like a decoded image ({rows[0]['id']}.png, ...). "
            "Give the folder that was transmitted."
        )
    return rows


def describe(
    result: DecodeResult, rows: Sequence[Mapping[str, Any]], layout: FrameLayout, truth: ChannelTruth | None = None
) -> dict[str, Any]:
    """What run.json says of a decoded recording; the channel's error only where its truth is known."""
    from receiver.report import channel_errors

    frames = []
    for frame, synced, error in zip(result.frames, result.synced, channel_errors(result, layout, truth), strict=True):
        residuals = [row["residual"] for row in rows if row["start_sample"] == synced.start]
        mean = sum(residuals) / len(residuals) if residuals else None
        frames.append({**asdict(frame), "channel_mse": error, "residual": mean})
    return {
        "frames": frames,
        "images": list(rows),
        "incomplete": list(result.incomplete),
        "partial": bool(result.incomplete) or not all(frame.header_ok for frame in result.frames),
    }


def write_run(
    folder: Path,
    run: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    recording: Recording,
    result: DecodeResult,
    layout: FrameLayout,
    truth: ChannelTruth | None = None,
) -> None:
    """Write run.json, results.parquet, diagnostics.npz, and where there are several draws posterior.npz."""
    from receiver.report import RUN_FORMAT, write_diagnostics, write_posterior

    write_posterior(folder / "posterior.npz", result)
    write_diagnostics(folder / "diagnostics.npz", recording, result, layout, truth)
    write_rows(folder / "results.parquet", rows)
    write_json(folder / "run.json", {"format": RUN_FORMAT, **run})


def print_images(rows: Sequence[Mapping[str, Any]], limit: int = 20) -> None:
    """The first images as a table on standard output."""
    scored = "psnr_db" in rows[0]
    columns = ["id", "method", "residual", "accepted", *(["PSNR dB"] if scored else []), "path"]
    table = []
    for row in rows[:limit]:
        psnr = [] if not scored else ["" if row["psnr_db"] is None else f"{row['psnr_db']:.2f}"]
        accepted = "yes" if row["accepted"] else "no"
        table.append([row["id"], row["method"], f"{row['residual']:.3f}", accepted, *psnr, row["path"]])
    more = f" (first {limit} of {len(rows)})" if len(rows) > limit else ""
    print_table(f"Decoded images{more}", columns, table)
