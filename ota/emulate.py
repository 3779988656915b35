"""`ota emulate`: radios made of sockets, for trying everything without hardware."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

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
IMPAIRMENTS = typer.Option(
    "", help="What else goes wrong, as in sim:, such as tdl=A,doppler_hz=5,adc_bits=8; it overrules the options above."
)
JSON = typer.Option(False, "--json", help="Print one JSON object on standard output when it listens.")


def make_air(
    impairments: str,
    layout: str,
    path_gain_db: float,
    redraw_frames: int,
    tx_amplitude: float,
    tx_gain_db: float,
    **defaults: Any,
) -> Air:
    """The air that the options describe.

    Args:
        impairments, defaults: see `sdr.air.chain.parse_impairments`.
        tx_amplitude: magnitude on the air of full scale sent. tx_gain_db: that comes on top at 0 dB gain.
    """
    from dataclasses import replace

    from sdr.air.chain import parse_impairments
    from sdr.emulated.air import Air, AirPath
    from sdr.layout import load_layout

    frame_layout = load_layout(layout)
    if redraw_frames:
        defaults["block_samples"] = redraw_frames * frame_layout.frame_samples
    given = {key: value for key, value in defaults.items() if value is not None}
    chain, seed = parse_impairments(impairments, frame_layout, **given)
    path = AirPath(path_gain_db, chain.delay_samples, chain.taps, chain.decay, chain.block_samples, chain.pdp)
    # Levels are told as those of a signal sent at full scale; what the antenna hears of it differs.
    level = tx_amplitude * 10 ** ((tx_gain_db + path_gain_db) / 20)
    rest = replace(
        chain, taps=0, pdp=(), block_samples=0, delay_samples=0.0, noise_var=0.0,
        pa_saturation=chain.pa_saturation * tx_amplitude, lo_leakage=chain.lo_leakage * tx_amplitude,
        tone=chain.tone * level, burst_power=chain.burst_power * level**2,
    )  # fmt: skip
    return Air(path, chain.noise_var * level**2, seed, impairments=rest)


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
    impairments: str = IMPAIRMENTS,
    ppm: float = PPM,
    json_output: bool = JSON,
) -> None:
    """Emulate an ADALM-Pluto: libiio's network protocol, real-time samples, and what goes wrong with one.

    It hears what it transmits, and a USRP on the same air if there is one. Ends on Ctrl-C.

    \b
    Examples:
      ota emulate pluto --port 30555 --csnr-db 10 --taps 8 --redraw-frames 1
      ota emulate pluto --port 30555 --csnr-db 10 --impairments tdl=A,doppler_hz=5,offset_ppm=10,adc_bits=8
      iio_info -u ip:127.0.0.1:30555
      ota demo --radio pluto:ip:127.0.0.1:30555
    """
    from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
    from sdr.radios.pluto import TX_SCALE

    air = make_air(
        impairments, layout, path_gain_db, redraw_frames, TX_SCALE / TX_FULL_SCALE, 0.0,
        csnr_db=csnr_db, taps=taps, decay=decay, delay_samples=float(delay_samples), seed=seed,
    )  # fmt: skip
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
    impairments: str = IMPAIRMENTS,
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
    from sdr.emulated.n210_board import TX_GAIN_MAX_DB
    from sdr.emulated.usrp import EmulatedUsrp

    air = make_air(
        impairments, layout, path_gain_db, redraw_frames, 1.0, -TX_GAIN_MAX_DB,
        csnr_db=csnr_db, taps=taps, decay=decay, delay_samples=float(delay_samples), seed=seed,
    )  # fmt: skip
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
