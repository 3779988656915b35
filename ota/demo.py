"""`ota demo`: images through GNU Radio processes and back, four ways, with a report."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ota.arguments import check_method, check_result, describe_calibration, load_calibration, load_truth, use_device
from ota.console import emit_json, note, print_images, print_table, progress_bar
from ota.versions import versions
from sdr.errors import ConfigError
from sdr.files import check_vacant, finished_folder
from transmitter.encode import encode_folder

if TYPE_CHECKING:
    from lab.evaluation.realism import RealismScore
    from lab.evaluation.summary import Summary


#: The order of the demo's table.
DEMO_METHODS = ("jscc", "diffcom", "hifi", "blind")
#: Of photographs: a prior's samples are mottled there, so that they are left to those who ask for them.
PHOTO_METHODS = ("jscc", "blind-jscc")


def demo(
    out: Path = typer.Option(Path("runs/demo"), help="Run folder to write; it appears when it is finished."),
    images: Path | None = typer.Option(None, help="Folder of images to send; default: the bundle's held-out samples."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    layout: str | None = typer.Option(
        None, help="Frame layout: a shipped name or a layout file; default: paper, for photographs photo."
    ),
    radio: str | None = typer.Option(None, help="Send through this radio, such as pluto:usb:, instead of ZMQ."),
    rx_radio: str | None = typer.Option(None, help="Receive with this radio; default: the one that transmits."),
    tx_path: str | None = typer.Option(None, help="Who drives the transmitter: gnuradio or python."),
    csnr_db: float = typer.Option(10.0, help="Channel SNR of the simulated air, also told to the encoder, dB."),
    refine_steps: int = typer.Option(
        0, min=0, help="Steps in which the symbols of each image are refined before it is sent; 20 cost seconds."
    ),
    methods: list[str] | None = typer.Option(
        None,
        "--method",
        help="Method to decode with. Repeatable. Default: all four, of photographs jscc and blind-jscc.",
    ),
    taps: int = typer.Option(8, min=1, help="Taps of the multipath channel."),
    decay: float = typer.Option(4.0, min=0.01, help="Decay of its exponential power delay profile, samples."),
    redraw_frames: int = typer.Option(1, min=1, help="The taps are drawn anew every so many frames."),
    cfo_hz: float = typer.Option(300.0, help="Carrier frequency offset, Hz."),
    impairments: str = typer.Option(
        "", help="What else goes wrong, as in sim:, such as tdl=A,doppler_hz=5,adc_bits=8; overrules the options above."
    ),
    seed: int = typer.Option(2, help="Seed of channel, noise and samplers."),
    device: str = typer.Option("cpu", help="Torch device, such as cpu or cuda."),
    batch_size: int = typer.Option(64, min=1, help="Images decoded at once; each draw counts."),
    draws: int = typer.Option(1, min=1, help="Samples of the posterior per image; the report shows mean and spread."),
    calibration: Path | None = typer.Option(None, help="Profile of the radios, from `ota calibrate`."),
    force: bool = typer.Option(False, "--force", help="Replace what is in --out."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Send images through GNU Radio and decode them by every method.

    Three GNU Radio processes joined by ZMQ make the link: transmit (framing and OFDM), channel (block-fading
    multipath, carrier offset, noise), receive. The recording they leave is decoded by the plain decoder (jscc),
    DiffCom, HiFi-DiffCom, and blind DiffCom, which uses no pilot for the channel. The receiver gets the recording and
    the frame layout, nothing else; the originals and the true channel are used for scoring only.

    With --radio the frames go through a radio's real driver instead, and the air is what it is: --taps, --decay,
    --redraw-frames, --cfo-hz and --impairments mean nothing then, and no true channel is known.

    \b
    --out gets report.html (self-contained), results.parquet (one row per image and method), run.json, the recording
    as SigMF, the images and the originals. `realism` is a distance between the decoded set and real images (smaller
    is better); `null` is what the plain decoder's images score with white noise added up to the same error.

    \b
    Examples:
      ota demo
      ota demo --csnr-db 5 --out runs/demo-5db --json
      ota demo --layout air --impairments tdl=A,doppler_hz=5,offset_ppm=10,phase_noise_deg=0.1,adc_bits=8
      ota demo --images my-images --cfo-hz 2000 --redraw-frames 4 --out runs/mine
      ota demo --bundle photo --images my-photographs --out runs/photo
      ota demo --layout air --radio pluto:ip:192.168.2.1,tx_gain_db=-20,rx_gain_db=20 --out runs/pluto
    """
    check_vacant(out, force)
    import numpy as np

    from flowgraphs.link import LoopbackSettings, run_loopback
    from flowgraphs.radio_link import run_radio_link
    from flowgraphs.supervisor import find_gnuradio_python
    from lab.evaluation.channel_truth import ChannelTruth
    from lab.evaluation.realism import load_realism
    from lab.evaluation.summary import channel_distances, score
    from lab.reports.gallery import write_gallery
    from lab.reports.run import write_report
    from lab.reports.run_folder import describe, write_images, write_run
    from receiver.bundles.bundle import load_bundle
    from receiver.decode import METHODS, DecodeSettings, check_denoiser, decode_recording
    from receiver.samplers.variants import method_variant
    from sdr.calibration_profile import load_profile
    from sdr.layout import load_layout, save_layout
    from sdr.radios.open import check_uri
    from sdr.recordings.recording import write_recording

    use_device(device)
    for method in methods or ():
        check_method(method, METHODS)
    if layout is not None:
        load_layout(layout)
    if radio is None and (rx_radio is not None or tx_path is not None):
        raise ConfigError("--rx-radio and --tx-path belong to a radio that transmits. Give --radio as well.")
    if calibration is not None:
        profile = load_profile(calibration)
        # Whatever of it belongs to these radios: the rest of it is checked against what was received.
        radio, rx_radio = (uri if uri is None else profile.trimmed(uri) for uri in (radio, rx_radio))
    if radio is None:
        find_gnuradio_python()  # before any work, so that a missing one costs no time
    else:
        check_uri(radio)
    stages: list[dict[str, Any]] = []

    def stage(name: str, where: str, began: float) -> None:
        stages.append({"stage": name, "where": where, "seconds": time.perf_counter() - began})

    here = f"this process, {sys.executable}"
    began = time.perf_counter()
    models = load_bundle(bundle)
    frame_layout = load_layout(layout or ("paper" if not models.any_size else "photo"))
    folder_in = images or models.samples
    with progress_bar() as progress:
        sent = encode_folder(
            folder_in, models.codec, frame_layout, csnr_db, refine_steps=refine_steps, progress=progress
        )
    ids, frames = sent.ids, sent.frames
    methods = methods or list(PHOTO_METHODS if models.any_size else DEMO_METHODS)
    check_denoiser([method_variant(method) for method in methods], models)
    stage("load the models, encode the images", here, began)

    with tempfile.TemporaryDirectory(prefix="ota-link-") as workdir, progress_bar() as progress:
        began = time.perf_counter()
        if radio is None:
            settings = LoopbackSettings(csnr_db, taps, decay, cfo_hz, redraw_frames, seed, impairments=impairments)
            link = run_loopback(frames, frame_layout, settings, Path(workdir), progress)
        else:
            link = run_radio_link(frames, frame_layout, radio, Path(workdir), rx_radio, tx_path, progress)
        recording = link.recording
        where = f"{len(link.processes)} processes, GNU Radio {link.gnuradio}" if link.gnuradio else here
        stage(f"transmit and receive over {radio or 'ZMQ'}", where, began)
        began = time.perf_counter()
        profile = load_calibration(calibration, recording)
        result = decode_recording(
            recording,
            frame_layout,
            models,
            methods,
            DecodeSettings(None, seed, device, batch_size, draws, calibration=profile),
            progress=progress,
        )
    in_methods = {method: sum(i.seconds for i in result.images if i.method == method) for method in methods}
    decoding_s = time.perf_counter() - began
    stages.append(
        {"stage": "find frames, estimate channels", "where": here, "seconds": decoding_s - sum(in_methods.values())}
    )
    stages += [{"stage": f"decode ({m})", "where": f"{here}, {device}", "seconds": s} for m, s in in_methods.items()]
    check_result(result, frame_layout)

    began = time.perf_counter()
    originals = load_truth(folder_in, models.accepted_shape)
    with finished_folder(out, force) as folder:
        save_layout(frame_layout, folder / "layout.json")
        write_recording(recording, folder / "recording")
        truth = {} if link.truth is None else link.truth.arrays()
        if truth:
            np.savez(folder / "truth.npz", **truth, gnuradio=link.gnuradio, seconds=link.seconds)
        rows = write_images(result, folder, by_method=True, originals=originals)
        channel = ChannelTruth.from_mapping(truth) if "taps" in truth else None
        distances = None if channel is None else channel_distances(result, channel, frame_layout)
        for row, distance in zip(rows, distances or (), strict=distances is not None):
            row["channel_distance"] = distance
        summaries, floor = score(result, originals, distances, load_realism(models.path), seed)
        run: dict[str, Any] = {
            "verb": "demo",
            "written_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "config": {
                "images": str(folder_in),
                "bundle": bundle,
                "bundle_digest": models.digest,
                "layout": frame_layout.name,
                "layout_digest": frame_layout.digest,
                "methods": methods,
                "radio": radio,
                "rx_radio": rx_radio,
                "csnr_db": csnr_db,
                "taps": taps if radio is None else None,
                "decay": decay if radio is None else None,
                "redraw_frames": redraw_frames if radio is None else None,
                "cfo_hz": cfo_hz if radio is None else None,
                "draws": draws,
                "impairments": impairments if radio is None else None,
                "seed": seed,
                "device": device,
                "calibration": describe_calibration(calibration, profile),
            },
            "versions": versions(),
            "processes": [asdict(process) for process in link.processes],
            "sent": {"images": ids, "frames": len(frames)},
            **describe(result, rows, frame_layout, channel),
            "summary": [summary.to_dict() for summary in summaries],
            "floor": None if floor is None else {"realism": floor.value, "realism_se": floor.std_error},
        }
        decoded = {row["id"] for row in rows}
        run["partial"] = run["partial"] or len(result.frames) < len(frames) or not decoded.issuperset(ids)
        stage("score and write", here, began)
        run["stages"] = stages
        write_run(folder, run, rows, recording, result, frame_layout, channel)
        write_report(folder)
        write_gallery(folder)

    if run["partial"]:
        note(
            f"warning: partial result: {len(result.frames)} of {len(frames)} frames found, "
            f"{len(decoded)} of {len(ids)} images decoded"
        )
    if json_output:
        emit_json(
            {
                "frames": run["frames"],
                "images": [{**row, "path": str(out / row["path"])} for row in rows],
                "summary": run["summary"],
                "floor": run["floor"],
                "sent": run["sent"],
                "stages": stages,
                "partial": run["partial"],
                "out": str(out),
                "report": str(out / "report.html"),
            }
        )
    else:
        if floor is None:
            print_images(rows)
        else:
            print_summary(summaries, floor)
        for entry in stages:
            note(f"{entry['seconds']:7.1f} s  {entry['stage']}")
        note(f"report: {out}/report.html")


def print_summary(summaries: Sequence[Summary], floor: RealismScore) -> None:
    """The demo's table."""
    columns = (
        "method",
        "n",
        "PSNR dB",
        "SSIM",
        "realism",
        "null",
        ">= 17 dB (95 %)",
        "d_h < .1",
        "residual",
        "accepted",
        "s/image",
    )
    rows = []
    for s in summaries:
        null = "" if s.realism_null is None else f"{s.realism_null:.3f} ± {s.realism_null_se:.3f}"
        rows.append(
            (
                s.method,
                s.n,
                f"{s.psnr_db:.2f} ± {s.psnr_se_db:.2f}",
                f"{s.ssim:.3f}",
                f"{s.realism:.3f} ± {s.realism_se:.3f}",
                null,
                f"{100 * s.success_17db:.0f} % ({100 * s.success_low:.0f}..{100 * s.success_high:.0f})",
                "" if s.channel_found is None else f"{100 * s.channel_found:.0f} %",
                f"{s.residual:.2f}",
                f"{100 * s.accepted:.0f} %",
                f"{s.seconds_per_image:.2f}",
            )
        )
    rows.append(("originals", str(summaries[0].n), "", "", f"{floor.value:.3f} ± {floor.std_error:.3f}", *[""] * 6))
    print_table("PSNR: higher is better. Realism: distance to real images, lower is better.", columns, rows)
