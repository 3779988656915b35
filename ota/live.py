"""`ota live`: the link on a page, while it runs."""

from __future__ import annotations

from pathlib import Path

import typer

from ota.arguments import use_device
from ota.console import note
from sdr.errors import ConfigError
from sdr.outputs import growing_folder, read_marker


def live(
    images: Path | None = typer.Option(None, help="Folder of images to send; default: the bundle's held-out samples."),
    video: Path | None = typer.Option(None, help="Video file, or camera such as /dev/video0, to send instead."),
    bundle: str = typer.Option("fashion", help="Model bundle: a shipped name or a folder."),
    layout: str | None = typer.Option(
        None, help="Frame layout: a shipped name or a layout file; default: paper, for photographs photo."
    ),
    radio: str | None = typer.Option(None, help="Radio, such as sim: or pluto:usb:; default: GNU Radio and ZMQ."),
    rx_radio: str | None = typer.Option(None, help="Receive with this radio; default: the one that transmits."),
    listen: bool = typer.Option(False, "--listen", help="Transmit nothing, hear what --radio receives."),
    play: Path | None = typer.Option(None, help="Play this SigMF recording, or dataset, instead of an air."),
    fps: float = typer.Option(32.0, help="Images sent in a second."),
    csnr_db: float = typer.Option(10.0, help="Channel SNR of the simulated air, also told to the encoder, dB."),
    taps: int = typer.Option(8, min=1, max=32, help="Taps of the simulated multipath."),
    decay: float = typer.Option(4.0, min=0.01, help="Decay of its exponential power delay profile, samples."),
    cfo_hz: float = typer.Option(300.0, help="Carrier frequency offset of the simulated air, Hz."),
    redraw_s: float = typer.Option(2.0, help="The taps are drawn anew this often, s."),
    impairments: str = typer.Option("", help="What else goes wrong, as in sim:; overrules the options above."),
    method: str = typer.Option(
        "",
        help="Method that the sampler begins with; default: guided, or bp for photographs; without pilots blind.",
    ),
    draws: int = typer.Option(2, min=1, max=16, help="Samples of the posterior per image: their mean and spread."),
    seed: int = typer.Option(0, help="Seed of the samplers."),
    device: str = typer.Option("cpu", help="Torch device, such as cpu or cuda."),
    batch_size: int = typer.Option(64, min=1, help="With --play: images decoded at once, as `ota decode` has it."),
    out: Path = typer.Option(Path("runs/live"), help="Folder for recordings and snapshots that a page asks for."),
    port: int = typer.Option(8474, min=0, max=65535, help="Port of the page; 0 takes a free one."),
    anywhere: bool = typer.Option(False, "--anywhere", help="Let other machines see the page, who know its address."),
) -> None:
    """Show the link on a page while it runs; open the address that this prints.

    Images are sent over GNU Radio processes joined by ZMQ (or a radio, or sim:), heard, and decoded as they come: the
    plain decoder keeps up with the air, the sampler takes the newest image whenever it is free. The page shows
    spectrum and waterfall, constellation, channel, quality figures over time, and the images of each method beside
    the originals. The page that is opened first controls the link, all others watch.

    \b
    Nothing but a page that knows the printed address can see or do anything; the server listens on this machine alone
    unless --anywhere is given. A page can record, take a snapshot (a run folder for `ota report`) into --out, and mute
    the transmitter; it is muted by itself when a process of the link dies. Ctrl-C ends it.

    \b
    Examples:
      ota live
      ota live --radio sim: --csnr-db 5 --redraw-s 0.5
      ota live --radio sim:rx=2 --csnr-db 5
      ota live --bundle photo --fps 3
      ota live --bundle photo --fps 3 --video /dev/video0
      ota live --radio pluto:ip:192.168.2.1,tx_gain_db=-20,rx_gain_db=20 --layout air
      ota live --radio uhd:type=b200 --listen
      ota live --play runs/demo/recording
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
        import websockets  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"ota live needs the package {error.name!r}: pip install '.[live]', or make setup.") from None
    from lab.live.forking import begin_imports

    begin_imports()
    from lab.live.engine import Engine
    from lab.live.server import bind, serve
    from lab.live.settings import RECORDED, LiveChannel, LiveSettings, make_plan
    from receiver.decode import DecodeSettings

    use_device(device)
    settings = LiveSettings(
        images=images,
        video=video,
        bundle=bundle,
        layout=layout,
        radio=radio,
        rx_radio=rx_radio,
        listen=listen,
        play=play,
        fps=fps,
        told_csnr_db=csnr_db,
        channel=LiveChannel(csnr_db, taps, decay, cfo_hz, redraw_s, impairments),
        method=method,
        decoding=DecodeSettings(seed=seed, device=device, draws=draws, batch_size=batch_size),
        out=out,
    )
    plan = make_plan(settings)
    with growing_folder(out, begun=read_marker(out) is not None, patterns=RECORDED):
        listener = bind(port, anywhere)
        with Engine(plan) as engine:
            serve(
                engine, listener, anywhere, lambda address: note(f"the link is on this page; Ctrl-C ends it: {address}")
            )
