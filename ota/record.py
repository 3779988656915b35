"""`ota record`: samples from a radio into a SigMF recording."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ota.console import emit_json, note, progress_bar
from ota.transmit import DEFAULT_CSNR_DB
from sdr.errors import ConfigError, RadioError
from transmitter.encode import encode_folder


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
    images: Path | None = typer.Option(None, help="Transmit this folder on the same radio while recording (sim:)."),
    layout: str = typer.Option("paper", help="Frame layout: a shipped name (paper, air, blind) or a layout file."),
    bundle: str = typer.Option("fashion", help="Model bundle that encodes --images."),
    csnr_db: float = typer.Option(DEFAULT_CSNR_DB, help="Channel SNR that the encoder is told, dB."),
    force: bool = typer.Option(False, "--force", help="Replace a recording of this name."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output."),
) -> None:
    """Record what a radio receives.

    A simulated radio hears what is transmitted on it in the same command: give it --images.

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
    from sdr.layout import load_layout, save_layout
    from sdr.radios.open import open_radio
    from sdr.recordings.recording import sigmf_paths, write_recording

    if rotate_mb is not None:
        from lab.experiments.campaign import record_stream

        if seconds is None:
            raise ConfigError("--rotate-mb needs the length of the stream. Add --seconds.")
        stream_layout = load_layout(layout)
        with open_radio(radio, layout=stream_layout) as opened, progress_bar() as progress:
            if images is not None:
                from receiver.bundles.bundle import load_codec

                sent = encode_folder(images, load_codec(bundle), stream_layout, csnr_db)
                opened.transmit(sent.samples(), cyclic=opened.capabilities.cyclic)
            counts = record_stream(opened, stream_layout, out, seconds, rotate_mb * 1_000_000, progress, note)
        _print_counts(counts, out, json_output)
        return
    meta_path, data_path = sigmf_paths(out)
    for path in (meta_path, data_path):
        if path.exists() and not force:
            raise ConfigError(f"{path} exists already. Name another --out, or add --force to replace it.")
    frame_layout = load_layout(layout)
    with open_radio(radio, layout=frame_layout) as opened:
        if images is None and radio.startswith("sim:"):
            raise RadioError("A simulated radio hears only what is sent on it. Add --images FOLDER.")
        if images is not None:
            from receiver.bundles.bundle import load_codec

            opened.transmit(encode_folder(images, load_codec(bundle), frame_layout, csnr_db).samples())
        captured = opened.receive(None if seconds is None else max(1, round(seconds * frame_layout.rate_sps)))
    meta_path.parent.mkdir(parents=True, exist_ok=True)
    layout_file = Path(str(meta_path).removesuffix(".sigmf-meta") + ".layout.json")
    save_layout(frame_layout, layout_file)
    write_recording(captured, meta_path)
    warnings = [] if captured.health is None else list(captured.health.warnings)
    for warning in warnings:
        note(f"warning: {warning}")
    if json_output:
        emit_json(
            {
                "recording": str(meta_path),
                "layout": str(layout_file),
                "samples": captured.num_samples,
                "rate_sps": captured.settings.rate_sps,
                "warnings": warnings,
            }
        )
    else:
        note(f"{captured.num_samples} samples in {meta_path}; layout: {layout_file}")


def _record_plan(plan: Path, radio: str | None, out: Path, json_output: bool) -> None:
    import torch

    from lab.experiments.campaign import load_campaign, run_campaign

    loaded = load_campaign(plan, radio)
    # Rounding goes with the number of threads, and a campaign that is resumed elsewhere must send the same symbols.
    torch.set_num_threads(1)
    with progress_bar() as progress:
        counts = run_campaign(loaded, out, progress, note)
    _print_counts(counts, out, json_output)


def _print_counts(counts: Mapping[str, Any], out: Path, json_output: bool) -> None:
    if json_output:
        emit_json({"dataset": str(out), **counts})
        return
    told = ", ".join(f"{value} {key}" for key, value in counts.items() if isinstance(value, int) and key != "captures")
    note(f"{counts['captures']} captures in {out} ({told})")
