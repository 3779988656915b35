"""`ota serve`: give a radio to another process or host."""

from __future__ import annotations

import threading

import typer

from ota.console import emit_json, note


def serve(
    radio: str = typer.Option(..., help="Radio URI, such as pluto:ip:192.168.2.1 or uhd:type=b200."),
    bind: str = typer.Option("tcp://127.0.0.1:5555", help="Where received samples leave; transmit: the next port."),
    rate_sps: float = typer.Option(1e6, min=1.0, help="Samples per second."),
    cyclic: bool = typer.Option(False, "--cyclic", help="Repeat what a client sends until it sends more or leaves."),
    anywhere: bool = typer.Option(False, "--anywhere", help="Allow --bind addresses that other hosts can reach."),
    json_output: bool = typer.Option(False, "--json", help="Print one JSON object on standard output when it serves."),
) -> None:
    """Serve a radio over ZMQ, to be used elsewhere as zmq:rx=..,tx=..

    One client at a time; a second one is turned away. When the client leaves or vanishes, the radio is muted. There is
    no encryption and no password: without --anywhere only this host can connect. Ends on Ctrl-C.

    \b
    Examples:
      ota serve --radio pluto:ip:192.168.2.1,tx_gain_db=-20,rx_gain_db=30 --cyclic
      ota record --radio zmq:rx=tcp://127.0.0.1:5555 --seconds 0.5 --out runs/heard
      ota serve --radio sim:csnr_db=20 --bind tcp://127.0.0.1:6000
    """
    from sdr.layout import load_layout
    from sdr.radios.open import open_radio
    from sdr.radios.served import RadioServer
    from sdr.settings import RadioSettings

    # A simulated radio derives its noise from a layout; the others don't look at it.
    layout = load_layout("paper") if radio.startswith("sim:") else None
    with (
        open_radio(radio, RadioSettings(rate_sps=rate_sps), layout) as opened,
        RadioServer(opened, bind, anywhere, cyclic, note) as server,
    ):
        if json_output:
            emit_json({"client": server.client_uri, "radio": radio, "rate_sps": rate_sps})
        note(f"serving {radio} as {server.client_uri}; Ctrl-C ends it")
        server.run(threading.Event())
