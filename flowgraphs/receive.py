"""Run the recorder: samples in, a known number of them into a file, then the end.

python -m flowgraphs.receive --source zmq:tcp://127.0.0.1:5556 --sink file:capture.cf32 --samples 100000
"""

import argparse
from typing import NoReturn

from gnuradio import blocks, gr

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


def receive(argv: list[str] | None = None) -> NoReturn:
    """Parse the command line, build the flowgraph and run it.

    Raises:
        OtaError: an argument is wrong, or the process was stopped before all samples came.
    """
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.receive", description="Samples in, a recording out.")
    parser.add_argument("--source", required=True, metavar="END", help="zmq:tcp://HOST:PORT, file:PATH or a radio")
    parser.add_argument("--rate-sps", type=float, default=1e6, help="samples per second of a radio")
    parser.add_argument("--samples", type=int, required=True, help="complex samples to take")
    add_common_arguments(parser)
    arguments = parser.parse_args(argv)
    if arguments.samples < 1:
        raise InputError(f"--samples must be at least 1, found {arguments.samples}")
    end = parse_endpoint(arguments.source)
    if end.kind == "file" and file_samples(end.address) < arguments.samples:
        raise InputError(f"{end.address} has {file_samples(end.address)} samples, needed {arguments.samples}")
    source = make_source(end, arguments.rate_sps)
    sink = Sink(parse_endpoint(arguments.sink), arguments.allow_remote)
    top = new_top_block("receive")
    top.connect(source, blocks.head(gr.sizeof_gr_complex, arguments.samples), sink.block)
    run(top, "receive", sink, arguments.samples, arguments.exit_with_parent, arguments.source)


if __name__ == "__main__":
    main(receive)
