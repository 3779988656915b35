"""Run the transmitter: frames as PDUs in, samples out.

    python -m flowgraphs.transmit --layout paper --input zmq:tcp://127.0.0.1:5554 --sink zmq:tcp://127.0.0.1:5555
    python -m flowgraphs.transmit --layout air --input file:frames.pdus --sink pluto:ip:192.168.2.1,tx_gain_db=-20

Frames come from a ZMQ PUSH socket that this process connects to, one message each, or from a file of PDUs one after
the other; `flowgraphs.pdu` writes both. With `--between-frames zeros` the stream goes on between frames that come when
they come: zeros fill the time, at the layout's rate by the clock, or at the radio's. With `--heard zmq:..` a USRP also
receives, since no other process can while this one has it. A radio's gains and carrier can be set while it runs: a JSON
object a line on standard input, such as {"tx_gain_db": -10}.
"""

import argparse
from pathlib import Path
from typing import NoReturn

import pmt
from gnuradio import blocks, gr, zeromq

from flowgraphs.framer import Framer
from flowgraphs.pacing import Pacer
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
from sdr.layout import FrameLayout, load_layout

MAX_SAMPLES = (1 << 31) - 1
"""Longest transmission of a known number of frames: GNU Radio's multiplexer counts in 32 bits."""

FRAMES_AHEAD = 64
"""Frames of a file that wait inside the flowgraph."""


def transmit(argv: list[str] | None = None) -> NoReturn:
    """Parse the command line, build the flowgraph and run it.

    Raises:
        OtaError: an argument is wrong, or a frame is not of this layout.
    """
    arguments = _parse(argv)
    layout = load_layout(arguments.layout)
    num_frames: int | None = arguments.frames
    leading, trailing = arguments.leading_gap_samples, arguments.trailing_samples
    if min(leading, trailing) < 0 or (num_frames is not None and num_frames < 1):
        raise InputError("--frames must be at least 1, and the gaps at least 0 samples")
    top = new_top_block("transmit")
    source, end = parse_endpoint(arguments.input), parse_endpoint(arguments.sink)
    pacer = None
    if arguments.between_frames == "zeros":
        if source.kind != "zmq" or num_frames is not None:
            raise InputError("--between-frames zeros is for frames over ZMQ without an end; leave --frames out")
        pacer = Pacer(layout, None if end.kind in RADIO_ENDS else layout.rate_sps)
    framer = Framer(layout, pacer)
    waiting: list[bytes] = []
    if source.kind == "zmq":
        _pull_frames(top, framer, source.address)
    else:
        waiting = _read_frames(Path(source.address), layout, num_frames)
        num_frames = len(waiting)
    total = None if num_frames is None else leading + num_frames * layout.frame_samples + trailing
    if total is not None and total > MAX_SAMPLES:
        raise InputError(
            f"{num_frames} frames are {total} samples, at most {MAX_SAMPLES} go at once; send fewer frames"
        )
    if end.kind in RADIO_ENDS:
        if total is not None and total % 2:
            trailing, total = trailing + 1, total + 1  # radios take samples in pairs
        sink = make_radio_sink(end, layout.rate_sps, layout.frame_samples, total)
    else:
        sink = Sink(end, arguments.allow_remote)
    if arguments.heard is not None:
        if end.kind != "uhd":
            raise InputError(f"--heard is for a USRP; receive with another process beside {end.kind}:")
        sink.hear(top, Sink(parse_endpoint(arguments.heard), arguments.allow_remote).block)  # type: ignore[union-attr]
    if total is None or num_frames is None:
        top.connect(framer, sink.block)
    else:
        _connect_parts(top, framer, sink.block, (leading, num_frames * layout.frame_samples, trailing))
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


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flowgraphs.transmit", description="Frames in, OFDM samples out.")
    parser.add_argument("--layout", required=True, help="name of a shipped layout, or a TOML or JSON file")
    parser.add_argument("--input", required=True, metavar="END", help="frames: zmq:tcp://HOST:PORT or file:PATH")
    parser.add_argument("--frames", type=int, help="how many frames come (default: all of a file; endless over ZMQ)")
    parser.add_argument("--leading-gap-samples", type=int, default=0, help="zeros before the first frame")
    parser.add_argument("--trailing-samples", type=int, default=0, help="zeros after the last frame")
    parser.add_argument(
        "--between-frames", choices=("stop", "zeros"), default="stop", help="what is sent while no frame is there"
    )
    parser.add_argument("--heard", metavar="END", help="what the same USRP receives: zmq:tcp://HOST:PORT")
    add_common_arguments(parser)
    return parser.parse_args(argv)


def _pull_frames(top: gr.top_block, framer: Framer, address: str) -> None:
    """Let a framer take frames from a ZMQ socket.

    Raises:
        FlowgraphError: the address can't be used.
    """
    try:
        feed = zeromq.pull_msg_source(address, ZMQ_TIMEOUT_MS)
    except RuntimeError as error:
        raise FlowgraphError(f"can't connect to {address}: {error}; check the address") from None
    top.msg_connect(feed, "out", framer, "pdus")


def _read_frames(path: Path, layout: FrameLayout, num_frames: int | None) -> list[bytes]:
    """Return the first `num_frames` frames of a file, or all, as serialised PDUs.

    Raises:
        FlowgraphError: the file can't be read, or holds something else.
        LayoutError: a frame is not of this layout.
        InputError: there are too few frames.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FlowgraphError(f"{path} can't be read: {error.strerror}; check the path") from None
    found = []
    for metadata, cells in parse_pdus(content):
        check_frame(metadata, cells, layout)
        found.append(serialise_pdu(metadata, cells))
    wanted = len(found) if num_frames is None else num_frames
    if not 0 < wanted <= len(found):
        raise InputError(f"{path} holds {len(found)} frames, needed {wanted or 'at least one'}")
    return found[:wanted]


def _connect_parts(top: gr.top_block, framer: Framer, sink: gr.basic_block, lengths: tuple[int, int, int]) -> None:
    """Connect zeros, the framer and zeros to a sink, so many samples of each, then an end.

    The lengths are known, so no tag has to say where the frames are.
    """
    zeros = blocks.null_source(gr.sizeof_gr_complex)
    parts = [(block, length) for block, length in zip((zeros, framer, zeros), lengths, strict=True) if length]
    mux = blocks.stream_mux(gr.sizeof_gr_complex, [length for _, length in parts])
    for port, (block, _) in enumerate(parts):
        top.connect(block, (mux, port))
    top.connect(mux, blocks.head(gr.sizeof_gr_complex, sum(lengths)), sink)


if __name__ == "__main__":
    main(transmit)
