"""`ota decode`: a recording and a layout file in, images out; or a whole dataset."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.arguments import check_method, parse_antennas, use_device
from ota.console import emit_json, note, note_lost_blocks, print_images, print_table, progress_bar
from sdr.errors import ConfigError, RecordingError
from sdr.files import write_json
from sdr.outputs import finished_folder, growing_folder
from sdr.recordings.dataset import is_dataset

if TYPE_CHECKING:
    from lab.evaluation.summary import SnrPoint
    from lab.experiments.decode_file import FileSettings
    from lab.experiments.group_decoder import DatasetSettings
    from lab.reports.run_folder import Run


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
    antenna: list[Path] = typer.Option(
        [],
        help="Recording that another antenna of the same receiver made at the same time; repeatable. A recording of "
        "several channels has them all.",
    ),
    use_antennas: str = typer.Option(
        "", help="Decode these antennas alone, numbered from 0, as in 0 or 0,2; default: all of them, combined."
    ),
    truth: Path | None = typer.Option(None, help="Folder of originals as <id>.png, for scoring only."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    prior: str | None = typer.Option(None, help="Bundle whose diffusion prior is taken; default: the same bundle's."),
    steps: int | None = typer.Option(None, min=1, help="Denoiser evaluations; default: the method's own."),
    seed: int = typer.Option(0, help="Seed of the sampler."),
    device: str = typer.Option("cpu", help="Torch device, such as cpu or cuda."),
    precision: str = typer.Option(
        "auto", help="What a prior of the family adm computes in: auto (bf16 on a GPU), fp32, bf16 or fp16."
    ),
    batch_size: int = typer.Option(64, min=1, help="Images decoded at once; each draw counts."),
    max_cfo_hz: float = typer.Option(65e3, min=1.0, help="Largest carrier offset that is searched, Hz."),
    swap_iq: bool = typer.Option(
        False, "--swap-iq", help="The recording has I and Q swapped: its spectrum is mirrored."
    ),
    draws: int = typer.Option(
        1, min=1, help="Samples of the posterior per image; with 2 or more their mean and spread are kept, too."
    ),
    calibration: Path | None = typer.Option(None, help="Profile of the radios, from `ota calibrate`."),
    calibration_antenna: int | None = typer.Option(
        None,
        min=0,
        help="Which antenna of a profile of several a recording of one is, from 0; default: that of --use-antennas.",
    ),
    sent: Path | None = typer.Option(
        None,
        help="What was sent, as `ota transmit --json` or `ota record --json` printed it: frames are found by their "
        "cyclic prefix alone, and neither preamble nor header is read.",
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
      ota decode runs/tx --layout runs/tx.layout.json --method tmpd --draws 8 --out runs/draws
      ota decode runs/tx --layout runs/tx.layout.json --method hifi:follow=true --out runs/moving
      ota decode runs/tx --layout runs/tx.layout.json --method blind --sent runs/sent.json --out runs/by-prefix
      ota decode runs/left --antenna runs/right --layout air --method jscc --out runs/combined
      ota decode runs/both --use-antennas 0 --layout air --method jscc --out runs/first-alone

    \b
    A dataset (of `ota record --plan`, or `ota dataset import`) is decoded by any number of methods into
    results.parquet, one row per image and method, failures with their reason. The same command again goes on where it
    stopped. --where compares the columns that `ota dataset list` shows. Settings of a method (its sampler's, and
    spread, decay, mode and follow of the forward operator) make rows of their own over the same samples and draws.
      ota decode runs/campaign --method jscc --method hifi --method blind --score --out runs/campaign-decoded
      ota decode runs/campaign --where "csnr_db >= 10 and healthy" --method diffcom --out runs/campaign-decoded
      ota decode runs/campaign --method hifi --method hifi:zeta=0.1 --method hifi:decay=2 --score --out runs/settings
    """
    given = {
        "--antenna": antenna,
        "--layout": layout,
        "--truth": truth,
        "--sent": sent,
        "--draws": draws != 1,
        "--force": force,
    }
    names = [name for name, value in given.items() if value not in (None, False, [])]
    dataset = is_dataset(recording)
    if dataset and names:
        raise ConfigError(f"A dataset has its layouts and truth, and one draw an image: leave out {', '.join(names)}.")
    if not dataset and (where or cluster is not None or score or len(method) != 1):
        raise ConfigError("--where, --cluster, --score and several methods are for datasets; this is a recording.")
    if not dataset and layout is None:
        raise ConfigError("A recording needs --layout: the file that `ota transmit` wrote, or a shipped name.")
    if calibration is None and calibration_antenna is not None:
        raise ConfigError("--calibration-antenna names an antenna of a profile: give its file with --calibration.")
    from receiver.decode import DecodeSettings
    from receiver.samplers.variants import ALL_METHODS

    for name in method:
        check_method(name, ALL_METHODS)
    use_device(device)
    chosen = parse_antennas(use_antennas)
    decoding = DecodeSettings(
        steps=steps,
        seed=seed,
        device=device,
        batch_size=batch_size,
        draws=draws,
        precision=precision,  # type: ignore[arg-type]  # checked there
        max_cfo_hz=max_cfo_hz,
        swap_iq=swap_iq,
    )
    if layout is None:  # a dataset has its own
        from lab.experiments.group_decoder import DatasetSettings
        from sdr.calibration_profile import load_profile

        profile = None if calibration is None else load_profile(calibration, calibration_antenna).chosen(chosen)
        settings = DatasetSettings(bundle, group, replace(decoding, calibration=profile), prior, chosen)
        _decode_dataset(recording, out, method, settings, Selected(where, cluster, score), json_output)
    else:
        from lab.experiments.decode_file import FileSettings

        settings = FileSettings(
            recording,
            layout,
            method[0],
            bundle=bundle,
            prior=prior,
            decoding=decoding,
            calibration=calibration,
            calibration_antenna=calibration_antenna,
            truth=truth,
            sent=sent,
            antennas=tuple(antenna),
            use_antennas=chosen,
        )
        _decode_file(settings, out, force, json_output)


def _decode_file(settings: FileSettings, out: Path, force: bool, json_output: bool) -> None:
    from lab.experiments.decode_file import decode_file
    from lab.reports.annotations import write_annotations
    from lab.reports.finished_run import write_decoded_file

    with finished_folder(out, force) as folder:
        with progress_bar() as progress:
            decoded = decode_file(settings, progress, note)
        run = write_decoded_file(folder, settings, decoded)
        try:
            write_annotations(folder, settings.recording, decoded)
        except RecordingError as error:
            note(f"warning: {error}")
    if run.partial:
        note(f"warning: partial result: {'; '.join(missing_parts(run))}")
    note_lost_blocks(run.images)
    if json_output:
        emit_json(run.answer(out))
        return
    print_images(run.images)
    note(f"{len(run.images)} images from {len(run.frames)} frames in {decoded.seconds:.1f} s: {out}/report.html")


def missing_parts(run: Run) -> list[str]:
    """Return what a recording lacked, a phrase each."""
    unread = sum(not frame["header_ok"] for frame in run.frames)
    parts = [*run.absent]
    if unread:
        parts.append(f"{unread} frames whose header could not be read")
    if lost := {image.id: image.lost for image in run.images if image.lost}:
        named = ", ".join(f"{100 * share:.0f} % of {image_id}" for image_id, share in list(lost.items())[:5])
        more = " and parts of more" if len(lost) > 5 else ""
        parts.append(f"{named}{more} did not arrive; decoded from the rest, see the spread of several --draws")
    if run.incomplete:
        parts.append(
            f"parts of {', '.join(run.incomplete[:5])}{' and more' if len(run.incomplete) > 5 else ''} are missing"
        )
    return parts


@dataclass(frozen=True)
class Selected:
    """What is done with a dataset beside decoding it.

    Attributes:
        where: filter of the captures.
        cluster: address of a Ray cluster; None: this process.
        score: compare with the ground truth afterwards.
    """

    where: str
    cluster: str | None
    score: bool


def _decode_dataset(
    folder: Path, out: Path, methods: list[str], settings: DatasetSettings, selected: Selected, json_output: bool
) -> None:
    from lab.experiments.cluster import run_on
    from lab.experiments.decode_dataset import RESULTS_NAME, SETTINGS_NAME, decode_dataset, run_here
    from lab.versions import versions

    run = run_here if selected.cluster is None else run_on(selected.cluster)
    with growing_folder(out, begun=(out / SETTINGS_NAME).is_file()):
        began = time.perf_counter()
        with progress_bar() as progress:
            counts = decode_dataset(folder, out, methods, settings, where=selected.where, run=run, progress=progress)
        seconds = time.perf_counter() - began
        write_json(out / "versions.json", versions())
        points = _score(folder, out) if selected.score else []
    if json_output:
        summary = [point.row() for point in points]
        emit_json({"out": str(out), **asdict(counts), "seconds": seconds, "summary": summary})
        return
    if points:
        columns = ("CSNR dB", "method", "arrived", "PSNR dB", ">= 17 dB", "accepted", "s/image")
        print_table(f"Images of {folder}", columns, [_point_cells(point) for point in points])
    note(
        f"{counts.rows} rows ({counts.failed} failures) in {out}/{RESULTS_NAME}; {counts.decoded} captures "
        f"times methods decoded in {seconds:.1f} s, {counts.skipped} were there already"
    )


def _score(dataset: Path, out: Path) -> list[SnrPoint]:
    from lab.experiments.scores import score_results
    from lab.reports.scores import FIGURE_NAME, save_png_and_pdf, score_figure

    points = score_results(out, dataset)
    save_png_and_pdf(score_figure([("", points)]), out / FIGURE_NAME)
    return points


def _point_cells(point: SnrPoint) -> tuple[str, ...]:
    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        shown(point.csnr_db, "g"),
        point.method,
        f"{point.arrived}/{point.sent}",
        f"{shown(point.psnr_db, '.2f')} ± {shown(point.psnr_se_db, '.2f')}",
        "" if point.success_17db is None else f"{100 * point.success_17db:.0f} %",
        shown(point.accepted, ".0%"),
        shown(point.seconds_per_image, ".2f"),
    )
