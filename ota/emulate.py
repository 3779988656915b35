"""`ota emulate`: radios made of sockets, for trying everything without hardware."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from ota.arguments import with_options
from ota.console import emit_json, note

if TYPE_CHECKING:
    from sdr.emulated.air import Air

app = typer.Typer(
    help="Emulated radios on loopback, which the real drivers take for real ones.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@dataclass(frozen=True)
class AirOptions:
    """Options of the air that an emulated radio is on, and of the radio itself."""

    csnr_db: Annotated[
        float | None,
        typer.Option(help="Channel SNR of a layout's frames sent at 0 dB gain, dB; default: no noise."),
    ] = None
    layout: Annotated[str, typer.Option(help="That layout.")] = "paper"
    taps: Annotated[int, typer.Option(min=0, max=256, help="Taps of the multipath channel; 0: none.")] = 0
    decay: Annotated[float, typer.Option(min=0.01, help="Decay of its exponential power delay profile, samples.")] = 4.0
    redraw_frames: Annotated[
        int, typer.Option(min=0, help="The taps are drawn anew every so many frames of that layout; 0: never.")
    ] = 0
    delay_samples: Annotated[int, typer.Option(min=0, help="Delay of the air, samples.")] = 0
    path_gain_db: Annotated[float, typer.Option(help="Gain of the air, dB.")] = 0.0
    seed: Annotated[int, typer.Option(min=0, help="Seed of taps and noise.")] = 1
    impairments: Annotated[
        str,
        typer.Option(
            help="What else goes wrong, as in sim:, such as tdl=A,doppler_hz=5,adc_bits=8; it overrules the options "
            "above."
        ),
    ] = ""
    ppm: Annotated[float, typer.Option(help="Error of the radio's crystal, ppm.")] = 0.0
    json_output: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output when it listens.")
    ] = False


def make_air(options: AirOptions, tx_amplitude: float, tx_gain_db: float) -> Air:
    """Return the air that the options describe.

    Args:
        options: of the command line.
        tx_amplitude: magnitude on the air of full scale sent.
        tx_gain_db: that comes on top at 0 dB gain.
    """
    from sdr.air.chain import parse_impairments
    from sdr.emulated.air import Air, AirPath
    from sdr.layout import load_layout

    layout = load_layout(options.layout)
    defaults = {"taps": options.taps, "decay": options.decay, "delay_samples": float(options.delay_samples)}
    if options.csnr_db is not None:
        defaults["csnr_db"] = options.csnr_db
    if options.redraw_frames:
        defaults["block_samples"] = options.redraw_frames * layout.frame_samples
    chain, seed = parse_impairments(options.impairments, layout, **defaults, seed=options.seed)
    # Taps that stand still are the path's own, those that move run with the impairments.
    drawn, none = (chain.taps, chain.pdp), (0, ())
    still, moving = (none, drawn) if chain.moving_taps else (drawn, none)
    path = AirPath(options.path_gain_db, chain.delay_samples, still[0], chain.decay, chain.block_samples, still[1])
    # Levels are stated as those of a signal sent at full scale; what the antenna hears of it differs.
    level = tx_amplitude * 10 ** ((tx_gain_db + options.path_gain_db) / 20)
    rest = replace(
        chain, taps=moving[0], pdp=moving[1], block_samples=0, delay_samples=0.0, noise_var=0.0,
        pa_saturation=chain.pa_saturation * tx_amplitude, lo_leakage=chain.lo_leakage * tx_amplitude,
        tone=chain.tone * level, burst_power=chain.burst_power * level**2, jam_power=chain.jam_power * level**2,
    )  # fmt: skip
    return Air(path, chain.noise_var * level**2, seed, impairments=rest)


def serve_until_interrupted(found: dict[str, str], json_output: bool) -> None:
    """Say where the radios are, and wait for Ctrl-C or SIGTERM.

    Args:
        found: URI of each radio, by its name in the JSON object.
        json_output: whether to print that object.
    """
    if json_output:
        emit_json(found)
        sys.stdout.flush()
    note(f"emulating {' and '.join(found.values())}; Ctrl-C ends it")
    while True:
        time.sleep(3600)


@app.command("pluto")
@with_options(AirOptions)
def pluto(
    *,
    port: int = typer.Option(30431, min=0, max=65535, help="TCP port; 0 takes a free one."),
    host: str = typer.Option("127.0.0.1", help="Address to listen at; others than loopback let other hosts in."),
    usrp_addr: str | None = typer.Option(None, help="Put a USRP on the same air, at this loopback address."),
    rx: int = typer.Option(1, min=1, max=2, help="Receiving antennas; 2 as a Pluto Rev C in its 2r2t mode."),
    air: AirOptions,
) -> None:
    """Emulate an ADALM-Pluto: libiio's network protocol, real-time samples, and what goes wrong with one.

    It hears what it transmits, and a USRP on the same air if there is one. Ends on Ctrl-C.

    \b
    Examples:
      ota emulate pluto --port 30555 --csnr-db 10 --taps 8 --redraw-frames 1
      ota emulate pluto --port 30555 --csnr-db 10 --impairments tdl=A,doppler_hz=5,offset_ppm=10,adc_bits=8
      ota emulate pluto --port 30555 --rx 2 --csnr-db 5 --taps 8 --redraw-frames 1
      iio_info -u ip:127.0.0.1:30555
      ota demo --radio pluto:ip:127.0.0.1:30555
    """
    from sdr.emulated.pluto import TX_FULL_SCALE, EmulatedPluto
    from sdr.radios.pluto import TX_SCALE

    shared_air = make_air(air, TX_SCALE / TX_FULL_SCALE, 0.0)
    with ExitStack() as stack:
        radio = stack.enter_context(EmulatedPluto(shared_air, host=host, port=port, ppm=air.ppm, rx=rx))
        found = {"radio": f"pluto:{radio.uri}"}
        if usrp_addr is not None:
            from sdr.emulated.usrp import EmulatedUsrp

            usrp = stack.enter_context(EmulatedUsrp(shared_air, usrp_addr))
            found["usrp"] = f"uhd:{usrp.args}"
        serve_until_interrupted(found, air.json_output)


@app.command("usrp")
@with_options(AirOptions)
def usrp(
    *,
    addr: list[str] = typer.Option(
        ["127.0.0.2"],
        help="Loopback address; its ports are fixed. Given again, it adds a USRP to the same air.",
    ),
    air: AirOptions,
) -> None:
    """Emulate a USRP N210 with an SBX: the usrp2 protocol over UDP. Ends on Ctrl-C.

    Several hear one air, each through a channel of its own. All have the same 10 MHz and pulse per second at their
    inputs (clock_source=external,time_source=external), and a MIMO cable joins each with the first one.

    \b
    Examples:
      ota emulate usrp --addr 127.0.0.2 --csnr-db 10 --taps 8 --redraw-frames 1
      uhd_usrp_probe --args type=usrp2,addr=127.0.0.2
      ota demo --radio uhd:type=usrp2,addr=127.0.0.2
      ota emulate usrp --addr 127.0.0.2 --addr 127.0.0.3 --csnr-db 5 --taps 8 --redraw-frames 1
      ota demo --radio uhd:addr0=127.0.0.2,addr1=127.0.0.3,type=usrp2,clock_source=external,time_source=external,rx=2
    """
    from sdr.emulated.n210_board import TX_GAIN_MAX_DB, N210Hardware
    from sdr.emulated.usrp import EmulatedUsrp, joint_args

    shared_air = make_air(air, 1.0, -TX_GAIN_MAX_DB)
    radios: list[EmulatedUsrp] = []
    with ExitStack() as stack:
        for number, each in enumerate(addr, start=1):
            hardware, first = N210Hardware(serial=f"EMU{number:05d}"), radios[0] if radios else None
            radios.append(EmulatedUsrp(shared_air, each, ppm=air.ppm, hardware=hardware, cable=first))
            stack.enter_context(radios[-1])
        joint = f"{joint_args(radios)},clock_source=external,time_source=external,rx=2"
        args = radios[0].args if len(radios) == 1 else joint
        serve_until_interrupted({"radio": f"uhd:{args}"}, air.json_output)
