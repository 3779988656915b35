"""`ota demo`: images through GNU Radio processes and back, decoded by several methods, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.arguments import check_method, use_device
from ota.console import emit_json, note, note_lost_blocks, print_images, print_table, progress_bar
from sdr.outputs import finished_folder

if TYPE_CHECKING:
    from lab.evaluation.realism import RealismScore
    from lab.evaluation.summary import Summary
    from lab.experiments.asking import AskedLink
    from lab.experiments.demonstration import DemoSettings


def demo(
    out: Path = typer.Option(Path("runs/demo"), help="Run folder to write; it appears when it is finished."),
    images: Path | None = typer.Option(None, help="Folder of images to send; default: the bundle's held-out samples."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    prior: str | None = typer.Option(None, help="Bundle whose diffusion prior is taken; default: the same bundle's."),
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
        help="Method to decode with. Repeatable. Default: jscc, diffcom, hifi, guided, blind and blind-guided; of "
        "photographs jscc, bp and their blind forms.",
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
    precision: str = typer.Option(
        "auto", help="What a prior of the family adm computes in: auto (bf16 on a GPU), fp32, bf16 or fp16."
    ),
    batch_size: int = typer.Option(64, min=1, help="Images decoded at once; each draw counts."),
    draws: int = typer.Option(1, min=1, help="Samples of the posterior per image; the report shows mean and spread."),
    retransmit: int = typer.Option(
        0, help="Rounds in which the receiver asks for symbols again and decodes from all that it received."
    ),
    retransmit_share: float = typer.Option(
        0.5,
        help="Share of all symbols that a round asks for; 2 rounds of 0.5 cost as much as sending everything twice.",
    ),
    calibration: Path | None = typer.Option(None, help="Profile of the radios, from `ota calibrate`."),
    force: bool = typer.Option(False, "--force", help="Replace what is in --out."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Send images through GNU Radio and decode them by every method.

    Three GNU Radio processes joined by ZMQ make the link: transmit (framing and OFDM), channel (block-fading
    multipath, carrier offset, noise), receive. The recording they leave is decoded by the plain decoder (jscc),
    DiffCom, HiFi-DiffCom, guidance by the pseudo-inverse (guided), and blind forms of the last two, which use no pilot
    for the channel. The receiver gets the recording and the frame layout, nothing else; the originals and the true
    channel are used for scoring only.

    With --radio the frames go through a radio's real driver instead, and the air is what it is: --taps, --decay,
    --redraw-frames, --cfo-hz and --impairments mean nothing then, and no true channel is known.

    With --retransmit the receiver asks for the symbols whose errors it expects to fall most, and for lost frames; they
    are sent again through new fading and noise, and every image is decoded from all receptions of its symbols. Methods
    need pilots, and the true channel is not scored.

    \b
    --out gets report.html (self-contained), results.parquet (one row per image and method), run.json, the recording
    as SigMF, the images and the originals. `realism` is a distance between the decoded set and real images (smaller
    is better); `null` is what the plain decoder's images score with white noise added up to the same error.

    \b
    Examples:
      ota demo
      ota demo --csnr-db 5 --out runs/demo-5db --json
      ota demo --layout air --impairments tdl=A,doppler_hz=5,offset_ppm=10,phase_noise_deg=0.1,adc_bits=8
      ota demo --csnr-db 0 --retransmit 4 --retransmit-share 0.25
      ota demo --images my-images --cfo-hz 2000 --redraw-frames 4 --out runs/mine
      ota demo --bundle photo --images my-photographs --out runs/photo
      ota demo --layout air --radio pluto:ip:192.168.2.1,tx_gain_db=-20,rx_gain_db=20 --out runs/pluto
    """
    from lab.experiments.asking import Retransmission
    from lab.experiments.demonstration import DemoSettings, LoopbackChannel
    from receiver.decode import DecodeSettings
    from receiver.samplers.variants import ALL_METHODS

    use_device(device)
    for method in methods or ():
        check_method(method, ALL_METHODS)
    settings = DemoSettings(
        images=images,
        bundle=bundle,
        prior=prior,
        layout=layout,
        methods=tuple(methods or ()),
        csnr_db=csnr_db,
        refine_steps=refine_steps,
        channel=LoopbackChannel(taps, decay, redraw_frames, cfo_hz, impairments),
        radio=radio,
        rx_radio=rx_radio,
        tx_path=tx_path,
        calibration=calibration,
        retransmission=Retransmission(retransmit, retransmit_share),
        decoding=DecodeSettings(
            seed=seed,
            device=device,
            batch_size=batch_size,
            draws=draws,
            precision=precision,  # type: ignore[arg-type]  # checked there
        ),
    )
    _demonstrate(settings, out, force, json_output)


def _demonstrate(settings: DemoSettings, out: Path, force: bool, json_output: bool) -> None:
    from lab.experiments.demonstration import demonstrate
    from lab.reports.finished_run import write_demonstration

    with finished_folder(out, force) as folder:
        with progress_bar() as progress:
            shown = demonstrate(settings, progress, note)
        run = write_demonstration(folder, shown)
    if run.partial:
        decoded = {image.id for image in run.images}
        note(
            f"warning: partial result: {len(run.frames)} of {shown.num_frames} frames found, "
            f"{len(decoded)} of {len(shown.sent.transmission.ids)} images decoded"
        )
    note_lost_blocks(run.images)
    if json_output:
        emit_json(run.answer(out))
        return
    if not run.summary:
        print_images(run.images)
    else:
        print_summary(run.summary, run.floor)
    if shown.asked is not None:
        note(describe_asking(shown.asked))
    for stage in run.stages:
        note(f"{stage.seconds:7.1f} s  {stage.stage}")
    note(f"report: {out}/report.html")


def describe_asking(asked: AskedLink) -> str:
    """Return one line about what was sent again."""
    uses, times = [each.channel_uses for each in asked.rounds], asked.times.values()
    return (
        f"asked again {len(uses) - 1} times: {sum(uses)} channel uses, {sum(uses) / uses[0]:.2f} times those of the "
        f"first transmission; each image's symbols were sent {min(times):.2f} to {max(times):.2f} times on average"
    )


def print_summary(summaries: Sequence[Summary], floor: RealismScore | None) -> None:
    """Print the table of the demonstration, with LPIPS where it was measured."""
    lpips = any(s.lpips_vgg is not None for s in summaries)
    columns = (
        "method",
        "n",
        "PSNR dB",
        "SSIM",
        "realism",
        "null",
        *(["LPIPS", "null"] if lpips else []),
        ">= 17 dB (95 %)",
        "d_h < .1",
        "residual",
        "accepted",
        "CBR",
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
                "" if s.realism is None else f"{s.realism:.3f} ± {s.realism_se:.3f}",
                null,
                *(_lpips_cells(s) if lpips else []),
                f"{100 * s.success_17db:.0f} % ({100 * s.success_low:.0f}..{100 * s.success_high:.0f})",
                "" if s.channel_found is None else f"{100 * s.channel_found:.0f} %",
                f"{s.residual:.2f}",
                f"{100 * s.accepted:.0f} %",
                "" if s.cbr is None else f"{s.cbr:.4f}",
                f"{s.seconds_per_image:.2f}",
            )
        )
    if floor is not None:
        rest = [""] * (len(columns) - 5)
        rows.append(("originals", str(summaries[0].n), "", "", f"{floor.value:.3f} ± {floor.std_error:.3f}", *rest))
    explained = "PSNR: higher is better. Realism: distance to real images, lower is better."
    print_table(explained + (" LPIPS: to the originals, lower is better." if lpips else ""), columns, rows)


def _lpips_cells(summary: Summary) -> list[str]:
    if summary.lpips_vgg is None:
        return ["", ""]
    null = "" if summary.lpips_vgg_null is None else f"{summary.lpips_vgg_null:.3f}"
    return [f"{summary.lpips_vgg:.3f} ± {summary.lpips_vgg_se:.3f}", null]
