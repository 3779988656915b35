"""`ota sweep`: quality and realism against channel SNR."""

from __future__ import annotations

import shutil
from pathlib import Path

import typer

from ota.arguments import use_device
from ota.console import emit_json, note, print_table, progress_bar
from ota.versions import versions
from sdr.files import check_vacant, write_json


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
      methods      list of jscc, diffcom, hifi, blind, ...; with settings of its own as in "diffcom:zeta=0.1,steps=50"
      channel      options of the sim: radio, such as "taps=8,decay=4,cfo_hz=300"; "" is white noise alone
      num_images   held-out images of the test split (default 256); images: a folder to use instead
      layout, bundle, images_per_frame, redraw_frames, refine_steps, batch_size, seed
      [[conditions]]  compared instead of channel SNRs: name, and any of channel, csnr_db, clip_ratio, cp_samples

    \b
    --out gets results.parquet (one row per image, method and SNR), sweep.json (one summary per point), and figures:
      psnr.png, realism.png  with one standard error each way; the dotted lines are the noise nulls
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
    from lab.experiments.sweep import run_sweep
    from lab.reports.sweep import write_figures

    drawn = {"num_images": num_images, "seed": seed}
    overrides = [f"{key}={value}" for key, value in drawn.items() if value is not None]
    loaded = load_sweep(experiment, [*settings, *overrides])
    use_device(device)
    # Another draw is another run: it must not meet the points of the file's own.
    folder = out or Path("runs") / "-".join([loaded.name, *(text.replace("=", "") for text in overrides)])
    if not (folder / "parts" / "settings.json").is_file():
        check_vacant(folder, force)
    if force and folder.is_dir():
        shutil.rmtree(folder)
    with progress_bar() as progress:
        result = run_sweep(loaded, folder, device, progress)
    figures = write_figures(folder)
    write_json(folder / "versions.json", versions())
    written = [str(folder / name) for name in ("results.parquet", "sweep.json")] + [str(path) for path in figures]
    if json_output:
        emit_json({"rows": result.rows, "summary": result.summaries, "out": str(folder), "written": written})
        return
    rows = []
    for s in result.summaries:
        if s["psnr_db"] is None:
            rows.append((s["condition"], s["method"], f"0/{s['sent']}", "", "", "", ""))
            continue
        null = "" if s["realism_null"] is None else f"{s['realism_null']:.3f} ± {s['realism_null_se']:.3f}"
        rows.append(
            (
                s["condition"],
                s["method"],
                f"{s['n']}/{s['sent']}",
                f"{s['psnr_db']:.2f} ± {s['psnr_se_db']:.2f}",
                f"{s['realism']:.3f} ± {s['realism_se']:.3f}",
                null,
                f"{100 * s['success_17db']:.0f} %",
            )
        )
    print_table(loaded.name, ("condition", "method", "images", "PSNR dB", "realism", "null", ">= 17 dB"), rows)
    note(f"written: {', '.join(written)}")
