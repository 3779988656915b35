"""`ota bench`: how good and how fast the receiver is on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ota.console import emit_json, note, print_table, progress_bar
from sdr.errors import FlowgraphError
from sdr.files import write_json
from sdr.outputs import finished_folder

if TYPE_CHECKING:
    from lab.benchmarks.decoding import DecodingRow
    from lab.benchmarks.modem import Row
    from lab.benchmarks.photo import PhotoRow, PhotoSettings
    from lab.benchmarks.sampler import CurvePoint
    from lab.benchmarks.separation import SchemeRow

app = typer.Typer(
    help="Benchmarks: what the receiver reaches against theory, and how fast.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _write_answer(folder: Path, name: str, answer: Mapping[str, object]) -> None:
    """Write what a benchmark found, and the versions that it was found with."""
    from lab.versions import versions

    write_json(folder / name, answer)
    write_json(folder / "versions.json", versions())


@app.command("modem")
def modem(
    out: Path = typer.Option(Path("runs/bench-modem"), help="Folder to write."),
    quick: bool = typer.Option(False, "--quick", help="Smaller samples, under a minute."),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Detection, synchronisation and channel estimation against their bounds; throughputs beside GNU Radio's; memory.

    Every point carries its sample size and a 95 % confidence interval. --out gets modem.parquet (one row per point),
    modem.json (what --json prints), and detection.png, cfo.png, timing.png, noise.png, channel.png.

    \b
    rx_msps   capture to frames in the frequency domain, `air` frames back to back, per second of one core
    rx_ratio  that over the same figure of GNU Radio's digital.ofdm_rx, measured in the same run

    \b
    Examples:
      ota bench modem --quick
      ota bench modem --out benchmarks/modem --force
    """
    from lab.benchmarks.gnuradio import receiver_msps
    from lab.benchmarks.modem import run_modem_benchmark, summarise
    from lab.benchmarks.modem_figures import write_figures
    from lab.experiments.tables import write_rows

    with finished_folder(out, force) as folder:
        gnuradio = _gnuradio_receiver(1_000_000 if quick else 4_000_000)
        with progress_bar() as progress:
            rows = run_modem_benchmark(quick, seed, progress)
        gnuradio_msps = None if gnuradio is None else receiver_msps(gnuradio)
        summary = summarise(rows, gnuradio_msps)
        write_rows(folder / "modem.parquet", [asdict(row) for row in rows])
        figures = [path.name for path in write_figures(rows, folder)]
        _write_answer(folder, "modem.json", {**summary, "quick": quick, "seed": seed, "gnuradio": gnuradio})
    if json_output:
        emit_json(summary)
        return
    _print_modem(rows)
    if gnuradio is not None:
        note(
            f"GNU Radio's ofdm_rx: {gnuradio_msps:.2f} MS/s of one core, "
            f"{gnuradio['packets_received']} of {gnuradio['packets_sent']} packets; rx_ratio {summary['rx_ratio']:.1f}"
        )
    note(f"written to {out}: modem.parquet, modem.json, {', '.join(figures)}")


def _gnuradio_receiver(samples: int) -> Mapping[str, Any] | None:
    """Return what GNU Radio's receiver does on this machine, or None where there is no GNU Radio."""
    from flowgraphs.supervisor import find_gnuradio_python
    from lab.benchmarks.gnuradio import measure_gnuradio_receiver

    try:
        find_gnuradio_python()
    except FlowgraphError as error:
        note(f"GNU Radio is not measured: {error}")
        return None
    return measure_gnuradio_receiver(samples)


def _print_modem(rows: Sequence[Row]) -> None:
    table = [
        [
            row.quantity,
            row.channel,
            "" if row.snr_db != row.snr_db else f"{row.snr_db:g}",
            str(row.fft_size),
            str(row.n),
            f"{row.value:.4g} {row.unit}",
            f"{row.low:.4g} .. {row.high:.4g}",
            "" if row.bound != row.bound else f"{row.bound:.4g}",
        ]
        for row in rows
    ]
    print_table("Modem", ["quantity", "channel", "SNR dB", "N", "n", "value", "95 % interval", "bound"], table)


@app.command("decoding")
def decoding(
    out: Path = typer.Option(Path("runs/bench-decoding"), help="Folder to write."),
    quick: bool = typer.Option(
        False, "--quick", help="16 images instead of 64 and 128, one draw of the channel, not five."
    ),
    csnr_db: float = typer.Option(10.0, help="Channel SNR, dB."),
    bundle: str = typer.Option("fashion", help="Bundle with the models."),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """What impairments cost in decoded images, and what the true forward model gives back.

    Interference between symbols (no prefix) and clipping at ratios 0.8 to 2, decoded with the true operator and with
    one that ignores them; and all impairments of a moderate radio at once, against perfect knowledge of them. Means
    come with standard errors (over channel draws, where many images share one); differences are paired, image by image.
    --out gets decoding.parquet and decoding.json.

    \b
    Example:
      ota bench decoding --out benchmarks/decoding --force
    """
    from lab.benchmarks.decoding import measure_impaired, measure_operators
    from lab.experiments.tables import write_rows
    from receiver.bundles.bundle import load_bundle

    with finished_folder(out, force) as folder:
        loaded = load_bundle(bundle)
        with progress_bar() as progress:
            rows = measure_operators(loaded, 16 if quick else 64, csnr_db, seed, progress)
            rows += measure_impaired(loaded, 16 if quick else 128, 1 if quick else 5, csnr_db, seed, progress)
        answer = {"rows": [asdict(row) for row in rows]}
        write_rows(folder / "decoding.parquet", answer["rows"])
        _write_answer(folder, "decoding.json", {**answer, "quick": quick, "seed": seed})
    if json_output:
        emit_json(answer)
        return
    _print_decoding(rows, csnr_db)
    note(f"written to {out}: decoding.parquet, decoding.json")


def _print_decoding(rows: Sequence[DecodingRow], csnr_db: float) -> None:
    table = [
        [
            row.channel,
            row.method,
            row.receiver,
            str(row.n),
            f"{row.psnr_db:.2f} +- {row.psnr_error_db:.2f}",
            "" if not row.versus else f"{row.delta_db:+.2f} +- {row.delta_error_db:.2f} ({row.versus})",
        ]
        for row in rows
    ]
    print_table(
        f"Decoding at {csnr_db:g} dB", ["channel", "method", "receiver", "n", "PSNR dB", "difference dB"], table
    )


@app.command("photo")
def photo(
    out: Path = typer.Option(Path("runs/bench-photo"), help="Folder to write."),
    bundle: str = typer.Option("photo", help="Model bundle for images of any size: a shipped name or a folder."),
    images: Path | None = typer.Option(
        None, help="Folder of photographs of one size, 176 pixels or more a side; default: the bundle's held-out ones."
    ),
    csnr_db: list[float] = typer.Option([0.0, 10.0], help="Channel SNR, dB. Repeatable."),
    repetitions: int = typer.Option(10, min=1, help="Channels that every photograph is sent over."),
    refine_steps: int = typer.Option(0, min=0, help="Steps in which the transmitter refines the symbols."),
    method: list[str] = typer.Option(
        ["jscc", "bp", "blind-jscc", "blind-bp"], help="Method, or NAME:KEY=VALUE,.. Repeatable."
    ),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Photographs through the whole receiver: white noise, fading with pilots, fading without any pilot.

    Error bars are over photographs: the repetitions of one are averaged first. Metrics that need networks are there
    after `make metrics`.

    \b
    --out gets photo.json (what --json prints), grid.png (original, with pilots, without), curve.png (detail and
    likeness against PSNR, beside the plain decoder's) and versions.json.
    *_gain     a metric above that of the plain decoder's images, paired by photograph, with its standard error
    mean_power share of the symbols' power that is their constant mean, which would be a pilot of sorts
    prior      the one-shot estimates x0_hat that a prior must reach before it counts, where there is one
    d_h        squared error of the channel, E||h||^2 = 1

    \b
    Examples:
      ota bench photo
      ota bench photo --csnr-db 10 --repetitions 2 --method jscc --method bp:fit=1 --method guided --json
    """
    from lab.benchmarks.photo import PhotoSettings

    settings = PhotoSettings(tuple(csnr_db), repetitions, seed, refine_steps, tuple(method))
    _photo(bundle, images, settings, out, force, json_output)


def _photo(
    bundle: str, images: Path | None, settings: PhotoSettings, out: Path, force: bool, json_output: bool
) -> None:
    from lab.benchmarks.photo import load_photographs, one_shot, run, trade_off_figure, write_grid
    from lab.reports.figures import save_figure
    from receiver.bundles.bundle import load_bundle

    with finished_folder(out, force) as folder:
        models = load_bundle(bundle)
        ids, photographs = load_photographs(images or models.samples, models)
        with progress_bar() as progress:
            found = run(models, ids, photographs, settings, progress=progress, finished=_note_photo)
        prior = None if models.denoiser is None else one_shot(models, photographs, settings.seed)
        answer = {
            "bundle_digest": models.digest,
            "images": str(images or models.samples),
            "repetitions": settings.repetitions,
            "refine_steps": settings.refine_steps,
            "seed": settings.seed,
            "mean_power": found.mean_power,
            "prior": prior,
            "rows": [row.flat() for row in found.rows],
        }
        write_grid(folder / "grid.png", photographs, found.pictures)
        save_figure(trade_off_figure(found.rows), folder / "curve.png", dpi=110)
        _write_answer(folder, "photo.json", answer)
    if json_output:
        emit_json(answer)
        return
    heads = ["CSNR", "channel", "method", "photos / frames", "PSNR dB", "MS-SSIM", "LPIPS-vgg", "DISTS", "Laplacian"]
    heads += ["residual", "realism", "null", "d_h < .1", "s"]
    print_table(f"{len(ids)} photographs", heads, [_photo_cells(row) for row in found.rows])
    for step, reached in (prior or {}).items():
        note(f"prior: x0_hat {reached['psnr_db']:.2f} dB at t = {step}, {reached['needed_db']:g} dB needed")
    note(f"{100 * found.mean_power:.2g} % of the symbols' power is their constant mean; written to {out}")


def _note_photo(row: PhotoRow) -> None:
    found = "" if row.channel_found is None else f", d_h < .1 in {100 * row.channel_found:.1f} %"
    quality = f"{row.psnr_db:.2f} ± {row.psnr_se_db:.2f} dB, N = {row.frames}"
    note(f"{row.channel} {row.csnr_db:g} dB, {row.method}: {quality}{found}")


def _photo_cells(row: PhotoRow) -> list[str]:
    return [
        f"{row.csnr_db:g}",
        row.channel,
        row.method,
        f"{row.photographs} / {row.frames}",
        f"{row.psnr_db:.2f} ± {row.psnr_se_db:.2f}",
        f"{row.ms_ssim:.3f} ± {row.ms_ssim_se:.3f}",
        *(_metric_cell(row, name) for name in ("lpips_vgg", "dists", "laplacian")),
        f"{row.residual:.2f}",
        f"{row.realism:.3f} ± {row.realism_se:.3f}",
        "" if row.realism_null is None else f"{row.realism_null:.3f}",
        "" if row.channel_found is None else f"{100 * row.channel_found:.1f} %",
        f"{row.seconds_per_image:.2f}",
    ]


def _metric_cell(row: PhotoRow, name: str) -> str:
    if name not in row.image_metrics:
        return ""
    return f"{row.image_metrics[name]:.3f} ± {row.image_metrics_se[name]:.3f}"


@app.command("sampler")
def sampler(
    out: Path = typer.Option(Path("runs/bench-sampler"), help="Folder to write."),
    method: list[str] = typer.Option([], help="Measure quality and time of this method only; repeat for more."),
    n: int = typer.Option(64, min=2, max=10_000, help="Images of --method."),
    quick: bool = typer.Option(False, "--quick", help="Fewer images and repetitions, about a minute."),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """What a sampler costs beyond its networks, how batches pay, and quality against network evaluations.

    Runs on one thread. --out gets sampler.json (what --json prints and the timings behind it) and curve.png.

    \b
    step_overhead  seconds per step over a bare forward and backward pass of the same networks and batch
    batch_gain     seconds per image and step at batch 1 over batch 64
    memory_mb_per_image  slope of the peak memory over the batch, and scaling[] by batch and image side
    curve[]        method, evaluations, psnr_db, realism, seconds_per_image, and the noise null

    With --method the answer is curve[] alone, of these methods and the plain decoder.

    \b
    Examples:
      ota bench sampler --quick
      ota bench sampler --out benchmarks/sampler --force
      ota bench sampler --method guided --method hifi:steps=10 --method blind-guided
    """
    from lab.benchmarks.sampler import one_thread, quality_curve, run_sampler_benchmark, write_figure
    from receiver.bundles.bundle import load_bundle

    with finished_folder(out, force) as folder:
        with progress_bar() as progress, one_thread():
            if method:
                found, curve = None, quality_curve(load_bundle(), method, n, seed, progress)
                answer: dict[str, object] = {"curve": [asdict(point) for point in curve], "images": curve[0].n}
            else:
                found = run_sampler_benchmark(quick, seed, progress)
                curve, answer = found.curve, found.row()
        write_figure(curve, folder / "curve.png")
        _write_answer(folder, "sampler.json", {**answer, "quick": quick, "seed": seed})
    if json_output:
        emit_json(answer)
        return
    _print_curve(curve)
    if found is not None:
        note(
            f"step_overhead {found.step_overhead:.2f}, batch_gain {found.batch_gain:.1f}, "
            f"{found.memory_mb_per_image:.2f} MB per image"
        )
    note(f"written to {out}")


def _print_curve(curve: Sequence[CurvePoint]) -> None:
    table = [
        [
            point.method,
            str(point.evaluations),
            f"{point.psnr_db:.2f} ± {point.psnr_db_se:.2f}",
            f"{point.realism:.4f} ± {point.realism_se:.4f}",
            "" if point.realism_null is None else f"{point.realism_null:.4f}",
            f"{point.seconds_per_image:.4f}",
        ]
        for point in curve
    ]
    heads = ["method", "evaluations", "PSNR dB", "realism", "null", "s/image"]
    print_table(f"Samplers, {curve[0].n} images, 10 dB", heads, table)


@app.command("recording")
def recording(
    out: Path = typer.Option(Path("runs/bench-recording"), help="Folder to write; samples are written beside it."),
    seconds: float = typer.Option(10.0, min=0.1, help="Length of each recording, at 20 MS/s."),
    rotate_mb: int = typer.Option(512, min=1, help="A new recording whenever one has so many megabytes."),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """How fast samples get from a radio into a dataset on the disk, hashed on the way and flushed.

    From a simulated radio (8 taps, carrier offset, noise drawn anew for every sample), the same with taps drawn anew
    every 100 000 samples, and over ZMQ from another process; beside them hashing alone and writing alone. Every hash is
    checked afterwards. The disk is that of --out, which needs 160 MB a second recorded, three times.

    \b
    Example:
      ota bench recording --seconds 10
    """
    from lab.benchmarks.recording import measure_recording

    with finished_folder(out, force) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as workdir:
            rows = measure_recording(Path(workdir), round(20e6 * seconds), rotate_mb * 1_000_000, seed)
        answer = {"rows": [asdict(row) for row in rows]}
        _write_answer(folder, "recording.json", {**answer, "seconds": seconds, "seed": seed})
    if json_output:
        emit_json(answer)
        return
    table = [
        [row.radio, f"{row.samples / 1e6:.0f}", f"{row.seconds:.2f}", f"{row.msps:.1f}", f"{row.msps_processor:.1f}"]
        for row in rows
    ]
    print_table("Recording", ["radio", "MS", "seconds", "MS/s", "MS/s of one core"], table)
    note(f"written to {out}: recording.json")


@app.command("soak")
def soak(
    out: Path = typer.Option(Path("runs/bench-soak"), help="Folder to write."),
    minutes: float = typer.Option(30.0, min=0.0, help="For so long; the round that runs then ends."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Transmit, record and decode in a loop, and see whether memory, descriptors or threads grow.

    Each round goes over GNU Radio's ZMQ loopback and through the real drivers of an emulated Pluto and an emulated
    USRP, which are processes of their own and watched, too. Growth is told behind a first quarter; in it caches fill.

    \b
    Example:
      ota bench soak --minutes 30
    """
    from lab.benchmarks.soak import soak as run_soak
    from ota.__main__ import main

    with finished_folder(out, force) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as workdir:
        with progress_bar() as progress:
            result = run_soak(main, Path(workdir), minutes, progress)
        answer = asdict(result)
        _write_answer(folder, "soak.json", answer)
    if json_output:
        emit_json(answer)
        return
    columns = ("process", "rounds", "MB first", "MB last", "MB an hour", "descriptors", "threads")
    table = [
        (
            *(row.process, row.rounds, f"{row.first_mb:.1f}", f"{row.last_mb:.1f}"),
            f"{row.growth_mb_per_hour:.2f} ± {row.growth_standard_error:.2f}",
            *("{}..{}".format(*row.descriptors), "{}..{}".format(*row.threads)),
        )
        for row in result.processes
    ]
    print_table(f"{result.rounds} rounds in {result.minutes:.1f} min", columns, table)
    note(f"{result.images} images decoded, {result.missing} missing, {len(result.failures)} failures; {out}/soak.json")


@app.command("faults")
def faults(
    out: Path = typer.Option(Path("runs/bench-faults"), help="Folder to write; disks are filled beside it."),
    count: int = typer.Option(20000, min=1, help="Mutated files to read."),
    disk: bool = typer.Option(True, help="Also run verbs on a disk that is full at their n-th write, for all n."),
    kills: int = typer.Option(200, min=0, help="Also kill verbs at random moments, so many times; 0: none."),
    seed: int = typer.Option(0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Break files and disks on purpose: everything must end in one line, and no result may be half-written.

    Mutated files are shared out among all readers: SigMF, layouts, profiles, plans, runs, datasets, bundles, images. On
    a full disk every verb that writes runs once for each write that it makes, which fails. Half of the kills meet the
    last fifth of a run, half any moment of it.

    \b
    Example:
      ota bench faults --count 2000 --no-disk --kills 0
    """
    from lab.benchmarks.faults import fill_disk, fuzz
    from lab.benchmarks.kills import kill_verbs
    from lab.benchmarks.writing_verbs import WRITING_VERBS, prepare_inputs
    from ota.__main__ import main

    with finished_folder(out, force) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        with progress_bar() as progress:
            fuzzed = fuzz(count, seed, progress=progress)
            if disk or kills:
                (scratch / "in").mkdir()
                prepare_inputs(scratch / "in", main)
            full = fill_disk(main, WRITING_VERBS, scratch / "in", scratch / "disk", progress) if disk else []
            killed = (
                kill_verbs(WRITING_VERBS, scratch / "in", scratch / "killed", kills, seed, progress) if kills else []
            )
        found = {"fuzz": fuzzed, "disk": full, "kills": killed}
        answer = {name: [asdict(row) for row in rows] for name, rows in found.items()}
        _write_answer(folder, "faults.json", {**answer, "count": count, "seed": seed})
    if json_output:
        emit_json(answer)
        return
    columns = ("reader", "files", "read", "refused", "escaped", "slowest s")
    table = [(r.reader, r.files, r.read, r.refused, len(r.escaped), f"{r.slowest_s:.2f}") for r in fuzzed]
    print_table("Mutated files", columns, table)
    if full:
        columns = ("verb", "writes", "tracebacks", "without a name", "damaged results")
        print_table("Full disk", columns, [(r.verb, r.writes, r.tracebacks, r.nameless, len(r.damaged)) for r in full])
    if killed:
        columns = ("verb", "kills", "lost inputs", "damaged results", "stuck")
        print_table("Killed", columns, [(r.verb, r.kills, r.lost_inputs, r.damaged, r.stuck) for r in killed])
    note(f"written to {out}: faults.json")


@app.command("separation")
def separation(
    out: Path = typer.Option(Path("runs/bench-separation"), help="Folder to write."),
    scheme: list[str] = typer.Option([], help="Modulation and code rate, such as 16qam-490. Repeatable; default: all."),
    compare: list[str] = typer.Option([], help="Scheme to count in GNU Radio, Sionna's simulation and fading, too."),
    layout: str = typer.Option("photo", help="Frame layout with pilots; a block fills a frame."),
    blocks: int = typer.Option(75, min=12, help="Blocks of each curve, about; 75 take minutes a scheme."),
    seed: int = typer.Option(0, min=0, help="Seed of everything random."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Block error rates of 5G LDPC through frames and receiver, and the table that schemes are chosen by.

    \b
    --out gets separation.json (what --json prints), versions.json, and scheme_table.toml, which takes the place of
    transmitter/scheme_table.toml.
    BLER 1e-2, 1e-3  channel SNR where one block in 100, and in 1000 (on the fitted curve), is lost over white noise
    fading           the same 1e-3 over Rayleigh fading of 8 taps, by mutual information of 20 000 drawn channels

    \b
    Examples:
      ota bench separation
      ota bench separation --scheme qpsk-449 --compare qpsk-449 --blocks 100
    """
    from lab.benchmarks.separation import run
    from receiver.separation.schemes import SCHEMES, find_scheme
    from sdr.files import write_text
    from sdr.layout import load_layout

    schemes = [find_scheme(name) for name in scheme] or list(SCHEMES)
    compared = [find_scheme(name) for name in compare]
    with finished_folder(out, force) as folder:
        with progress_bar() as progress:
            found = run(schemes, compared, load_layout(layout), blocks, seed, progress)
        answer = {"rows": [asdict(row) for row in found.rows], "points": [asdict(point) for point in found.points]}
        answer["fading"] = [asdict(count) for count in found.fading]
        write_text(folder / "scheme_table.toml", found.table())
        _write_answer(folder, "separation.json", {**answer, "layout": layout, "blocks": blocks, "seed": seed})
    if json_output:
        emit_json(answer)
        return
    heads = ["scheme", "bits/symbol", "where", "blocks", "BLER 1e-2, dB", "1e-3, dB", "fading, dB"]
    print_table(f"5G LDPC, a block of {layout}'s frame", heads, [_scheme_cells(row) for row in found.rows])
    if found.fading:
        heads = ["scheme", "dB", "blocks", "lost", "predicted"]
        cells = [(c.point, f"{c.point.csnr_db:.2f}", f"{100 * c.predicted:.2g} %") for c in found.fading]
        rows = [(p.scheme, place, p.blocks, p.errors, predicted) for p, place, predicted in cells]
        print_table("Over fading of 8 taps", heads, rows)
    note(f"written to {out}: separation.json, scheme_table.toml")


@app.command("live")
def live(
    options: list[str] | None = typer.Argument(None, help="Options of `ota live`, after --."),
    minutes: float = typer.Option(2.0, min=0.02, help="How long the link is watched after its first picture."),
    out: Path = typer.Option(Path("runs/bench-live"), help="Folder to write."),
    force: bool = typer.Option(False, "--force", help="Write over what --out holds."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Run `ota live`, watch it as a page does, and say how it keeps up; --out gets live.json (what --json prints).

    \b
    page, picture    seconds from the command to the page, and to the first picture of the plain decoder
    samples lost     overflows that a radio told of, and samples that a simulated air could not make in time
    behind           by how much fewer samples came than the clock asks for, from start to end, s
    memory           resident, of all processes together, without the first fifth of the time: first and last tenth of
                     the rest, and the slope

    \b
    Examples:
      ota bench live --minutes 30
      ota bench live --minutes 30 -- --radio pluto:ip:127.0.0.1:30555 --layout air
    """
    from lab.live.watching import measure

    with finished_folder(out, force) as folder, tempfile.TemporaryDirectory() as written:
        answer = measure([*(options or []), "--out", f"{written}/live"], 60 * minutes)
        _write_answer(folder, "live.json", answer)
    if json_output:
        emit_json(answer)
        return
    figures = {name: value for name, value in answer.items() if name not in ("options", "memory", "dropped", "errors")}
    figures |= {f"memory, {name}": value for name, value in answer["memory"]["all"].items()}
    rows = [[name.replace("_", " "), _rounded(value)] for name, value in figures.items()]
    print_table(f"ota live over {answer['radio']}", ["figure", "value"], rows)
    drops = {name: count for name, count in answer["dropped"].items() if count}
    note("left out: " + (", ".join(f"{name} {count:g}" for name, count in drops.items()) or "nothing"))
    for text in answer["errors"]:
        note(text)


def _rounded(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _scheme_cells(row: SchemeRow) -> list[str]:
    return [
        row.scheme,
        f"{row.efficiency:.2f}",
        row.where,
        str(row.blocks),
        f"{row.compared_db:.2f} ± {row.error_db:.2f}",
        f"{row.white_noise_db:.2f}",
        "" if row.fading_db is None else f"{row.fading_db:.1f}",
    ]
