"""The transmitter: frames as PDUs in, samples out.

    python -m flowgraphs.transmit --layout paper --input zmq:tcp://127.0.0.1:5554 --sink zmq:tcp://127.0.0.1:5555
    python -m flowgraphs.transmit --layout air --input file:frames.pdus --sink pluto:ip:192.168.2.1,tx_gain_db=-20

Frames come from a ZMQ PUSH socket that this process connects to, one message each, or from a file of PDUs one after
the other; `flowgraphs.pdu` writes both.
"""

import argparse
from pathlib import Path
from typing import NoReturn

import pmt
from gnuradio import blocks, gr, zeromq

from flowgraphs.framer import Framer
from flowgraphs.pdu import check_frame, parse_pdus, serialise_pdu
from flowgraphs.process import (
    RADIO_ENDS,
    ZMQ_TIMEOUT_MS,
    Sink,
    add_common_arguments,
    main,
    make_radio_sink,
    new_top_block,
    parse_endpoint,
    run,
)
from sdr.errors import FlowgraphError, InputError
from sdr.layout import load_layout

MAX_SAMPLES = (1 << 31) - 1
"""Longest transmission of a known number of frames: GNU Radio's multiplexer counts in 32 bits."""

FRAMES_AHEAD = 64
"""Frames of a file that wait inside the flowgraph."""


def transmit(argv: list[str] | None = None) -> NoReturn:
    """Parse the command line, build the flowgraph and run it.

    Raises:
        OtaError: an argument is wrong, or a frame is not of this layout.
    """
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.transmit", description="Frames in, OFDM samples out.")
    parser.add_argument("--layout", required=True, help="name of a shipped layout, or a TOML or JSON file")
    parser.add_argument("--input", required=True, metavar="END", help="frames: zmq:tcp://HOST:PORT or file:PATH")
    parser.add_argument("--frames", type=int, help="how many frames come (default: all of a file; endless over ZMQ)")
    parser.add_argument("--leading-gap-samples", type=int, default=0, help="zeros before the first frame")
    parser.add_argument("--trailing-samples", type=int, default=0, help="zeros after the last frame")
    add_common_arguments(parser)
    arguments = parser.parse_args(argv)

    layout = load_layout(arguments.layout)
    source = parse_endpoint(arguments.input)
    num_frames: int | None = arguments.frames
    leading, trailing = arguments.leading_gap_samples, arguments.trailing_samples
    if min(leading, trailing) < 0 or (num_frames is not None and num_frames < 1):
        raise InputError("--frames must be at least 1, and the gaps at least 0 samples")
    top = new_top_block("transmit")
    framer = Framer(layout)
    waiting: list[bytes] = []
    if source.kind == "zmq":
        try:
            feed = zeromq.pull_msg_source(source.address, ZMQ_TIMEOUT_MS)
        except RuntimeError as error:
            raise FlowgraphError(f"can't connect to {source.address}: {error}; check the address") from None
        top.msg_connect(feed, "out", framer, "pdus")
    else:
        try:
            content = Path(source.address).read_bytes()
        except OSError as error:
            raise FlowgraphError(f"{source.address} can't be read: {error.strerror}; check the path") from None
        for metadata, cells in parse_pdus(content):
            check_frame(metadata, cells, layout)
            waiting.append(serialise_pdu(metadata, cells))
        if num_frames is None:
            num_frames = len(waiting)
        if not 0 < num_frames <= len(waiting):
            raise InputError(f"{source.address} holds {len(waiting)} frames, needed {num_frames or 'at least one'}")
        waiting = waiting[:num_frames]

    total = None if num_frames is None else leading + num_frames * layout.frame_samples + trailing
    if total is not None and total > MAX_SAMPLES:
        raise InputError(
            f"{num_frames} frames are {total} samples, at most {MAX_SAMPLES} go at once; send fewer frames"
        )
    end = parse_endpoint(arguments.sink)
    if end.kind in RADIO_ENDS:
        if total is not None and total % 2:
            trailing, total = trailing + 1, total + 1  # radios take samples in pairs
        sink = make_radio_sink(end, layout.rate_sps, layout.frame_samples, total)
    else:
        sink = Sink(end, arguments.allow_remote)
    if num_frames is None:
        top.connect(framer, sink.block)
    else:
        # Part by part, then an end: the lengths are known, so no tag has to say where the frames are.
        assert total is not None
        zeros = blocks.null_source(gr.sizeof_gr_complex)
        parts = [(zeros, leading), (framer, num_frames * layout.frame_samples), (zeros, trailing)]
        parts = [(block, length) for block, length in parts if length]
        mux = blocks.stream_mux(gr.sizeof_gr_complex, [length for _, length in parts])
        for port, (block, _) in enumerate(parts):
            top.connect(block, (mux, port))
        top.connect(mux, blocks.head(gr.sizeof_gr_complex, total), sink.block)

    sent = 0

    def tick() -> None:
        nonlocal sent
        if framer.gate.error is not None:
            raise FlowgraphError(framer.gate.error)
        done = max(0, sink.num_samples() - leading) // layout.frame_samples
        while sent < len(waiting) and sent < done + FRAMES_AHEAD:
            framer.gate.to_basic_block()._post(pmt.intern("pdus"), pmt.deserialize_str(waiting[sent]))
            sent += 1

    run(top, "transmit", sink, total, arguments.exit_with_parent, arguments.input, tick)


if __name__ == "__main__":
    main(transmit)
