"""`ota sweep`: quality and realism against channel SNR."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.arguments import use_device
from ota.console import emit_json, note, print_table, progress_bar
from sdr.files import write_json
from sdr.outputs import check_apart, growing_folder

if TYPE_CHECKING:
    from lab.experiments.plan import Sweep
    from lab.experiments.sweep import PointSummary


#: Files in --out; --force removes these and no others.
_WRITTEN = (
    "parts/settings.json",
    "parts/*.npz",
    "results.parquet",
    "grid.npz",
    "sweep.json",
    "versions.json",
    *(f"{name}.png" for name in ("psnr", "realism", "lpips", "tradeoff", "grid", "roc")),
)


def sweep(
    experiment: Path = typer.Argument(help="Experiment file, such as experiments/awgn.toml."),
    out: Path | None = typer.Option(None, help="Folder to write or to go on with; default: runs/<name>."),
    num_images: int | None = typer.Option(None, "--n", help="Number of images, instead of the file's num_images."),
    seed: int | None = typer.Option(None, help="Seed of images, channel, noise and samplers, instead of the file's."),
    settings: list[str] = typer.Option([], "--set", help="Override a key of the file: KEY=VALUE. Repeatable."),
    device: str = typer.Option("cpu", help="Torch device, such as cpu or cuda."),
    force: bool = typer.Option(False, "--force", help="Throw away the points in --out and start anew."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Measure PSNR and realism against channel SNR, over many held-out images.

    Every point goes through the whole receiver: images are encoded, framed and sent over the simulated radio, the
    recording is searched for frames, the channel is estimated. Interrupt it at any time: the same command goes on
    where it stopped.

    \b
    Keys of an experiment file (TOML):
      name         for titles and the default --out
      csnr_db      list of channel SNRs, dB
      methods      list of jscc, hifi, blind, avif-ldpc, ...; with settings of its own as in "diffcom:zeta=0.1,steps=50"
      channel      options of the sim: radio, such as "taps=8,decay=4,cfo_hz=300"; "" is white noise alone
      num_images   held-out images of the test split (default 256); images: a folder to use instead
      layout, bundle, prior, images_per_frame, redraw_frames, refine_steps, batch_size, seed
      capacity     image codec whose PSNR at the channel's capacity is drawn as a line, such as "vvc"
      [[conditions]]  compared instead of channel SNRs: name, and any of channel, csnr_db, clip_ratio, cp_samples

    \b
    --out gets results.parquet (one row per image, method and SNR), sweep.json (one summary per point), and figures:
      psnr.png, realism.png  with one standard error each way; the dotted lines are the noise nulls
      lpips.png              of photographs, where `make metrics` was run
      tradeoff.png           realism against PSNR
      grid.png               the first images under every condition, by every method
      roc.png                how well acceptance tells failed images from good ones (where some failed)

    \b
    Examples:
      ota sweep experiments/awgn.toml
      ota sweep experiments/blind.toml --n 128 --seed 7 --json
      ota sweep experiments/multipath.toml --set num_images=64 --set "csnr_db=[5, 10]" --out runs/quick
    """
    from lab.experiments.plan import load_sweep

    drawn = {"num_images": num_images, "seed": seed}
    overrides = [f"{key}={value}" for key, value in drawn.items() if value is not None]
    loaded = load_sweep(experiment, [*settings, *overrides])
    use_device(device)
    # Another draw is another run: it must not meet the points of the file's own.
    folder = out or Path("runs") / "-".join([loaded.name, *(text.replace("=", "") for text in overrides)])
    check_apart(folder, [experiment, *([Path(loaded.images)] if loaded.images else [])])
    begun = (folder / "parts" / "settings.json").is_file()
    with growing_folder(folder, begun=begun, patterns=_WRITTEN, force=force):
        _sweep(loaded, folder, device, json_output)


def _sweep(experiment: Sweep, folder: Path, device: str, json_output: bool) -> None:
    from lab.experiments.sweep import RESULTS_NAME, SUMMARY_NAME, run_sweep
    from lab.reports.sweep import write_figures
    from lab.versions import versions

    with progress_bar() as progress:
        result = run_sweep(experiment, folder, device, progress)
    figures = write_figures(folder)
    write_json(folder / "versions.json", versions())
    written = [str(path) for path in (folder / RESULTS_NAME, folder / SUMMARY_NAME, *figures)]
    if json_output:
        summaries, rows = [point.row() for point in result.summaries], [row.row() for row in result.rows]
        emit_json({"rows": rows, "summary": summaries, "out": str(folder), "written": written})
        return
    columns = ("condition", "method", "images", "PSNR dB", "realism", "null", ">= 17 dB")
    print_table(experiment.name, columns, [_point_cells(point) for point in result.summaries])
    note(f"written: {', '.join(written)}")


def _point_cells(point: PointSummary) -> tuple[str, ...]:
    measured = point.summary
    if measured is None:
        return point.condition, point.method, f"0/{point.sent}", "", "", "", ""
    null = "" if measured.realism_null is None else f"{measured.realism_null:.3f} ± {measured.realism_null_se:.3f}"
    return (
        point.condition,
        point.method,
        f"{point.n}/{point.sent}",
        f"{measured.psnr_db:.2f} ± {measured.psnr_se_db:.2f}",
        "" if measured.realism is None else f"{measured.realism:.3f} ± {measured.realism_se:.3f}",
        null,
        f"{100 * measured.success_17db:.0f} %",
    )
