"""`ota record`: samples from a radio into a SigMF recording, or many captures into a dataset."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ota.console import emit_json, note, progress_bar
from ota.transmit import DEFAULT_CSNR_DB
from sdr.errors import ConfigError
from sdr.outputs import growing_folder
from sdr.recordings.writer import is_begun

if TYPE_CHECKING:
    from lab.experiments.campaign import CampaignCounts
    from lab.experiments.record_radio import RecordSettings, StreamCounts


def record(
    radio: str | None = typer.Option(
        None, help="Radio URI, such as zmq:rx=tcp://HOST:PORT or sim:csnr_db=10,taps=8. Replaces the plan's."
    ),
    out: Path = typer.Option(
        ..., help="Recording to write: OUT.sigmf-data, OUT.sigmf-meta, OUT.layout.json. With --plan: dataset folder."
    ),
    plan: Path | None = typer.Option(None, help="Campaign (TOML): many captures into one dataset; resumable."),
    rotate_mb: int | None = typer.Option(
        None, min=1, help="Write a dataset instead, with a new recording whenever one has so many megabytes."
    ),
    seconds: float | None = typer.Option(None, min=1e-6, help="Length; default: all there is, where that has an end."),
    images: Path | None = typer.Option(None, help="Transmit this folder on the same radio meanwhile."),
    layout: str = typer.Option("paper", help="Frame layout: a shipped name (paper, air, blind) or a layout file."),
    bundle: str = typer.Option("fashion", help="Model bundle that encodes --images."),
    csnr_db: float = typer.Option(DEFAULT_CSNR_DB, help="Channel SNR that the encoder is told, dB."),
    force: bool = typer.Option(False, "--force", help="Replace a recording of this name."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Record what a radio receives.

    A simulated radio hears what is transmitted on it in the same command, once: give it
    --images. Other radios repeat them for as long as they record.

    \b
    Examples:
      ota record --radio sim:csnr_db=10,taps=8,cfo_hz=300 --images models/fashion/samples --out runs/heard
      ota decode runs/heard --layout runs/heard.layout.json --method hifi --out runs/decoded
      ota record --radio zmq:rx=tcp://127.0.0.1:5556 --seconds 0.5 --out runs/capture --json
      ota record --radio zmq:rx=tcp://127.0.0.1:5556 --seconds 600 --rotate-mb 256 --out runs/stream
      ota record --plan experiments/campaign.toml --out runs/campaign
    """
    if plan is not None:
        if images is not None or seconds is not None or rotate_mb is not None or force:
            raise ConfigError("--plan says what to record; of the other options it takes --radio, --out and --json.")
        _record_plan(plan, radio, out, json_output)
        return
    if radio is None:
        raise ConfigError("Nothing says what to record from. Add --radio URI or --plan FILE.")
    from lab.experiments.record_radio import RecordSettings

    settings = RecordSettings(radio, layout=layout, seconds=seconds, images=images, bundle=bundle, csnr_db=csnr_db)
    if rotate_mb is not None:
        _record_stream(settings, out, rotate_mb, json_output)
    else:
        _record_once(settings, out, force, json_output)


def _record_once(settings: RecordSettings, out: Path, force: bool, json_output: bool) -> None:
    from lab.experiments.record_radio import record_file

    recorded = record_file(settings, out, force)
    for warning in recorded.warnings:
        note(f"warning: {warning}")
    if json_output:
        emit_json({**asdict(recorded), "recording": str(recorded.recording), "layout": str(recorded.layout)})
    else:
        note(f"{recorded.samples} samples in {recorded.recording}; layout: {recorded.layout}")


def _record_stream(settings: RecordSettings, out: Path, rotate_mb: int, json_output: bool) -> None:
    from lab.experiments.record_radio import record_rotating

    with growing_folder(out, begun=is_begun(out)), progress_bar() as progress:
        counts = record_rotating(settings, out, rotate_mb * 1_000_000, progress, note)
    _print_counts(counts, out, json_output)


def _record_plan(plan: Path, radio: str | None, out: Path, json_output: bool) -> None:
    import torch

    from lab.experiments.campaign import load_campaign, run_campaign

    loaded = load_campaign(plan, radio)
    # Rounding goes with the number of threads, and a campaign that is resumed elsewhere must send the same symbols.
    torch.set_num_threads(1)
    with growing_folder(out, begun=is_begun(out)), progress_bar() as progress:
        counts = run_campaign(loaded, out, progress, note)
    _print_counts(counts, out, json_output)


def _print_counts(counts: CampaignCounts | StreamCounts, out: Path, json_output: bool) -> None:
    if json_output:
        emit_json({"dataset": str(out), **asdict(counts)})
        return
    numbers = {key: value for key, value in asdict(counts).items() if isinstance(value, int) and key != "captures"}
    listed = ", ".join(f"{value} {key}" for key, value in numbers.items())
    note(f"{counts.captures} captures in {out} ({listed})")
