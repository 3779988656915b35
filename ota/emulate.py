"""`ota emulate`: radios made of sockets, for trying everything without hardware."""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from ota.console import emit_json, note

if TYPE_CHECKING:
    from sdr.emulated.air import Air

app = typer.Typer(
    help="Emulated radios on loopback, which the real drivers take for real ones.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

CSNR = typer.Option(None, help="Channel SNR of a layout's frames sent at 0 dB gain, dB; default: no noise.")
LAYOUT = typer.Option("paper", help="That layout.")
TAPS = typer.Option(0, min=0, max=256, help="Taps of the multipath channel; 0: none.")
DECAY = typer.Option(4.0, min=0.01, help="Decay of its exponential power delay profile, samples.")
REDRAW = typer.Option(0, min=0, help="The taps are drawn anew every so many frames of that layout; 0: never.")
DELAY = typer.Option(0, min=0, help="Delay of the air, samples.")
PATH_GAIN = typer.Option(0.0, help="Gain of the air, dB.")
SEED = typer.Option(1, min=0, help="Seed of taps and noise.")
PPM = typer.Option(0.0, help="Error of the radio's crystal, ppm.")
JSON = typer.Option(False, "--json", help="Print one JSON object on standard output when it listens.")


def make_air(
    csnr_db: float | None,
    layout: str,
    taps: int,
    decay: float,
    redraw_frames: int,
    delay_samples: int,
    path_gain_db: float,
    seed: int,
    tx_full_scale_db: float,
) -> Air:
    """The air that the options describe.

    Args:
        tx_full_scale_db: level on the air of full scale sent, at 0 dB gain.
    """
    from sdr.emulated.air import Air, AirPath
    from sdr.impairments import noise_var_for_csnr
    from sdr.layout import load_layout

    noise_var, frame_layout = 0.0, load_layout(layout)
    if csnr_db is not None:
        noise_var = noise_var_for_csnr(frame_layout, csnr_db) * 10 ** ((tx_full_scale_db + path_gain_db) / 10)
    path = AirPath(path_gain_db, delay_samples, taps, decay, redraw_frames * frame_layout.frame_samples)
    return Air(path, noise_var, seed)


def wait_for_interrupt() -> None:
    """Until Ctrl-C or SIGTERM."""
    while True:
        time.sleep(3600)


@app.command("pluto")
def pluto(
    port: int = typer.Option(30431, min=0, max=65535, help="TCP port; 0 takes a free one."),
    host: str = typer.Option("127.0.0.1", help="Address to listen at; others than loopback let other hosts in."),
    usrp_addr: str | None = typer.Option(None, help="Put a USRP on the same air, at this loopback address."),
    csnr_db: float | None = CSNR,
    layout: str = LAYOUT,
    taps: int = TAPS,
    decay: float = DECAY,
    redraw_frames: int = REDRAW,
    delay_samples: int = DELAY,
    path_gain_db: float = PATH_GAIN,
    seed: int = SEED,
    ppm: float = PPM,
    json_output: bool = JSON,
) -> None:
    """Emulate an ADALM-Pluto: libiio's network protocol, real-time samples, and what goes wrong with one.

    It hears what it transmits, and a USRP on the same air if there is one. Ends on Ctrl-C.

    \b
    Examples:
      ota emulate pluto --port 30555 --csnr-db 10 --taps 8 --redraw-frames 1
      iio_info -u ip:127.0.0.1:30555
      ota demo --radio pluto:ip:127.0.0.1:30555
    """
    from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
    from sdr.pluto import TX_SCALE

    full_scale_db = 20 * math.log10(TX_SCALE / TX_FULL_SCALE)
    air = make_air(csnr_db, layout, taps, decay, redraw_frames, delay_samples, path_gain_db, seed, full_scale_db)
    with ExitStack() as stack:
        radio = stack.enter_context(EmulatedPluto(air, host=host, port=port, ppm=ppm))
        found = {"radio": f"pluto:{radio.uri}"}
        if usrp_addr is not None:
            from sdr.emulated.usrp import EmulatedUsrp

            usrp = EmulatedUsrp(air, usrp_addr)
            usrp.start()
            stack.callback(usrp.close)
            found["usrp"] = f"uhd:{usrp.args}"
        if json_output:
            emit_json(found)
            sys.stdout.flush()
        note(f"emulating {' and '.join(found.values())}; Ctrl-C ends it")
        wait_for_interrupt()


@app.command("usrp")
def usrp(
    addr: str = typer.Option("127.0.0.2", help="Loopback address; its ports are fixed, so each USRP needs its own."),
    csnr_db: float | None = CSNR,
    layout: str = LAYOUT,
    taps: int = TAPS,
    decay: float = DECAY,
    redraw_frames: int = REDRAW,
    delay_samples: int = DELAY,
    path_gain_db: float = PATH_GAIN,
    seed: int = SEED,
    ppm: float = PPM,
    json_output: bool = JSON,
) -> None:
    """Emulate a USRP N210 with an SBX: the usrp2 protocol over UDP. Ends on Ctrl-C.

    \b
    Examples:
      ota emulate usrp --addr 127.0.0.2 --csnr-db 10 --taps 8 --redraw-frames 1
      uhd_usrp_probe --args type=usrp2,addr=127.0.0.2
      ota demo --radio uhd:type=usrp2,addr=127.0.0.2
    """
    from sdr.emulated.usrp import TX_GAIN_MAX_DB, EmulatedUsrp

    full_scale_db = -TX_GAIN_MAX_DB
    air = make_air(csnr_db, layout, taps, decay, redraw_frames, delay_samples, path_gain_db, seed, full_scale_db)
    radio = EmulatedUsrp(air, addr, ppm=ppm)
    radio.start()
    try:
        found = {"radio": f"uhd:{radio.args}"}
        if json_output:
            emit_json(found)
            sys.stdout.flush()
        note(f"emulating {found['radio']}; Ctrl-C ends it")
        wait_for_interrupt()
    finally:
        radio.close()
