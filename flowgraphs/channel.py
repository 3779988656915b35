"""A radio channel: block-fading multipath, carrier offset, noise.

    python -m flowgraphs.channel --layout paper --source zmq:tcp://127.0.0.1:5555 --sink zmq:tcp://127.0.0.1:5556

What it drew goes into `--truth FILE.npz`, for scoring only: no receiver may read it.
"""

import argparse
import math
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
from gnuradio import analog, blocks

from flowgraphs.fading import BlockFading
from flowgraphs.process import (
    Sink,
    add_common_arguments,
    file_samples,
    main,
    make_source,
    new_top_block,
    parse_endpoint,
    run,
)
from sdr.errors import InputError
from sdr.impairments import noise_var_for_csnr
from sdr.layout import load_layout


def channel(argv: list[str] | None = None) -> NoReturn:
    """Parse the command line, build the flowgraph and run it.

    Raises:
        OtaError: an argument is wrong.
    """
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.channel", description="Multipath, offset, noise.")
    parser.add_argument("--layout", required=True, help="name of a shipped layout, or a TOML or JSON file")
    parser.add_argument("--source", required=True, metavar="END", help="zmq:tcp://HOST:PORT or file:PATH")
    parser.add_argument("--csnr-db", type=float, default=math.inf, help="cell over noise power (default: no noise)")
    parser.add_argument("--taps", type=int, default=1, help="channel taps, one sample apart")
    parser.add_argument("--decay", type=float, default=4.0, help="decay of the delay profile in samples")
    parser.add_argument("--redraw-samples", type=int, default=1 << 62, help="samples between two draws of the taps")
    parser.add_argument("--first-redraw-sample", type=int, default=0, help="sample at which that count begins")
    parser.add_argument("--cfo-hz", type=float, default=0.0, help="carrier frequency offset")
    parser.add_argument("--seed", type=int, default=0, help="seed of taps and noise")
    parser.add_argument("--truth", type=Path, help="write what was drawn to this .npz file at the end")
    add_common_arguments(parser)
    arguments = parser.parse_args(argv)

    layout = load_layout(arguments.layout)
    if math.isnan(arguments.csnr_db) or not math.isfinite(arguments.cfo_hz):
        raise InputError(f"--csnr-db and --cfo-hz must be numbers, found {arguments.csnr_db} and {arguments.cfo_hz}")
    if arguments.truth is not None and arguments.truth.suffix != ".npz":
        raise InputError(f"--truth must name an .npz file, found {arguments.truth}")
    end = parse_endpoint(arguments.source)
    total = file_samples(end.address) if end.kind == "file" else None
    noise_var = noise_var_for_csnr(layout, arguments.csnr_db)
    fading = BlockFading(
        arguments.taps, arguments.decay, arguments.redraw_samples, arguments.first_redraw_sample, arguments.seed
    )
    rotator = blocks.rotator_cc(2.0 * math.pi * arguments.cfo_hz / layout.rate_sps)
    source = make_source(end)
    sink = Sink(parse_endpoint(arguments.sink), arguments.allow_remote)
    top = new_top_block("channel")
    top.connect(source, fading, rotator)
    if noise_var > 0:
        # The noise has its own seed, never 0, which would mean the time of day.
        noise_seed = 1 + int(np.random.SeedSequence([arguments.seed, 1]).generate_state(1)[0])
        adder = blocks.add_cc()
        top.connect(rotator, (adder, 0))
        # `noise_source_c` takes the square root of the mean power per complex sample.
        top.connect(analog.noise_source_c(analog.GR_GAUSSIAN, math.sqrt(noise_var), noise_seed), (adder, 1))
        top.connect(adder, sink.block)
    else:
        top.connect(rotator, sink.block)

    def write_truth() -> None:
        if arguments.truth is None:
            return
        partial = arguments.truth.with_name(arguments.truth.name + ".partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                taps=np.stack(fading.taps),
                redraw_samples=fading.redraw_samples,
                first_redraw_sample=fading.first_redraw_sample,
                cfo_hz=arguments.cfo_hz,
                noise_var=noise_var,
            )
        os.replace(partial, arguments.truth)

    run(top, "channel", sink, total, arguments.exit_with_parent, arguments.source, finish=write_truth)


if __name__ == "__main__":
    main(channel)
