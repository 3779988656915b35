"""The whole link on one machine: transmit, channel and receive as three processes over ZMQ loopback."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Flowgraph, Supervisor, find_gnuradio_python
from sdr.air.chain import parse_impairments
from sdr.air.impairments import INTERPOLATION_REACH
from sdr.air.stream import GAP_PERIOD_SAMPLES
from sdr.errors import FlowgraphError, InputError, RecordingError
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, save_layout
from sdr.recordings.recording import Recording, utc_now
from sdr.settings import RadioSettings

LEADING_GAP_SAMPLES = 5000
"""Noise before the first frame, so that a receiver has to find it."""

STALL_TIMEOUT_S = 30.0
"""Time without a new sample after which the link is given up."""

_HELD_BACK_SAMPLES = 64
"""What is sent beyond what is received: GNU Radio's vectorised blocks keep a stream's last one to three samples."""

_LOOPBACK = "tcp://127.0.0.1"


def run_loopback(
    frames: Sequence[FrameContent],
    layout: FrameLayout,
    csnr_db: float,
    taps: int = 8,
    decay: float = 4.0,
    cfo_hz: float = 300.0,
    redraw_frames: int = 4,
    seed: int = 0,
    workdir: str | Path = "runs/loopback",
    progress: Callable[[int, int], None] | None = None,
    leading_gap_samples: int = LEADING_GAP_SAMPLES,
    impairments: str = "",
) -> tuple[Recording, dict[str, Any]]:
    """Send frames through transmit -> ZMQ -> channel -> ZMQ -> receive.

    Args:
        frames: what to send, at least one frame.
        csnr_db: cell power over noise power, for a channel of unit mean gain; infinite for no noise.
        taps: channel taps L, one sample apart, with an exponential delay profile.
        decay: that profile's time constant in samples.
        cfo_hz: carrier frequency offset.
        redraw_frames: the taps are drawn anew at the start of every so many frames.
        seed: seed of taps and noise.
        workdir: folder for the layout file, the samples and what the processes print; made if missing.
        progress: called with the samples received so far and the samples in all.
        leading_gap_samples: zeros before the first frame.
        impairments: options of `sdr.air.chain.parse_impairments`, which overrule the numbers above.

    Returns:
        The recording, and what really happened, for scoring and the report only:
        `taps` complex64 (blocks, L), frame f saw `taps[f // redraw_frames]`, missing where the channel is more than
        taps (`sdr.air.chain.Impairments.is_plain`); `frame_starts` (frames,) sample indices;
        `cfo_hz`, `noise_var`, `redraw_samples`, `first_redraw_sample`, `redraw_frames`; `seconds` in all; `gnuradio`
        and `processes`, a list of dicts with `process`, `pid`, `python`, `python_version`, `gnuradio`, `seconds`.

    Raises:
        InputError: no frame, or a number out of range.
        FlowgraphError: GNU Radio is missing, a process died, or nothing moved for `STALL_TIMEOUT_S`.
    """
    if not frames or redraw_frames < 1 or leading_gap_samples < 0 or math.isnan(csnr_db):
        raise InputError(
            f"a link needs a frame, redraw_frames >= 1, a gap >= 0 and a csnr_db, found {len(frames)} frames, "
            f"{redraw_frames}, {leading_gap_samples} and {csnr_db}"
        )
    numbers = {"taps": taps, "decay": decay, "cfo_hz": cfo_hz, "block_samples": redraw_frames * layout.frame_samples}
    if math.isfinite(csnr_db):
        numbers["csnr_db"] = csnr_db
    chain, seed = parse_impairments(impairments, layout, **numbers, seed=seed)
    began = time.monotonic()
    gnuradio = find_gnuradio_python()
    folder = Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    layout_path, samples_path, truth_path = folder / "layout.json", folder / "received.cf32", folder / "truth.npz"
    for stale in (samples_path, truth_path):
        stale.unlink(missing_ok=True)
    save_layout(layout, layout_path)
    # The last frame's echoes need room after it; what is lost, delayed or used up sooner comes on top.
    trailing = max(layout.gap_samples, chain.num_taps) + math.ceil(chain.lead_samples)
    total = leading_gap_samples + len(frames) * layout.frame_samples + trailing
    periods = total // GAP_PERIOD_SAMPLES + 1
    more = math.ceil(total * abs(chain.offset_ppm) * 1e-6) + periods * chain.num_gaps * chain.gap_samples
    more += 4 * INTERPOLATION_REACH if chain.offset_ppm else 0
    more += _HELD_BACK_SAMPLES
    pdus = [frame_pdu(content, layout) for content in frames]

    with _PduSender() as sender, Supervisor(folder / "flowgraphs") as supervisor:
        transmit = supervisor.start(
            "flowgraphs.transmit",
            {
                "layout": layout_path,
                "input": f"zmq:{sender.address}",
                "sink": f"zmq:{_LOOPBACK}:*",
                "frames": len(frames),
                "leading-gap-samples": leading_gap_samples,
                "trailing-samples": trailing + more,
            },
            endless=True,
        )
        channel = supervisor.start(
            "flowgraphs.channel",
            {
                "layout": layout_path,
                "source": f"zmq:{transmit.ready['sink']}",
                "sink": f"zmq:{_LOOPBACK}:*",
                "impairments": ",".join(f"{name}={value}" for name, value in chain.options().items()) + f",seed={seed}",
                "first-block-sample": leading_gap_samples,
                "truth": truth_path,
            },
            endless=True,
        )
        receive = supervisor.start(
            "flowgraphs.receive",
            {"source": f"zmq:{channel.ready['sink']}", "sink": f"file:{samples_path}", "samples": total},
        )
        utc = utc_now()
        partial = samples_path.with_name(samples_path.name + ".partial")

        def received() -> int:
            for path in (partial, samples_path):
                if path.exists():
                    return path.stat().st_size // 8
            return 0

        def step() -> float:
            sender.send(pdus)
            count = received()
            if progress is not None:
                progress(count, total)
            return count + len(frames) - len(pdus)

        supervisor.watch(lambda: not receive.alive(), STALL_TIMEOUT_S, step)
        supervisor.stop()
        processes = [_describe(flowgraph) for flowgraph in supervisor.flowgraphs]

    samples = np.fromfile(samples_path, dtype=np.complex64)
    if samples.size != total:
        raise RecordingError(f"{samples_path} has {samples.size} samples, needed {total}; the disk may be full")
    try:
        with np.load(truth_path) as stored:
            truth: dict[str, Any] = {key: stored[key] if stored[key].ndim else stored[key].item() for key in stored}
    except OSError:
        raise FlowgraphError(f"the channel left no {truth_path}; {folder / 'flowgraphs'} has what it printed") from None
    truth |= {
        "redraw_frames": redraw_frames,
        "frame_starts": leading_gap_samples + int(chain.lead_samples) + layout.frame_samples * np.arange(len(frames)),
        "gnuradio": gnuradio.version,
        "processes": processes,
        "seconds": time.monotonic() - began,
    }
    settings = RadioSettings(uri=f"zmq:rx={channel.ready['sink']}", rate_sps=layout.rate_sps)
    return Recording(samples, settings, utc, layout.digest), truth


def _describe(flowgraph: Flowgraph) -> dict[str, Any]:
    """What ran where and how long."""
    keys = ("process", "pid", "python", "python_version", "gnuradio")
    return {key: flowgraph.ready[key] for key in keys} | {"seconds": round(flowgraph.seconds(), 3)}


class _PduSender:
    """A ZMQ PUSH socket on a free loopback port that hands PDUs over without ever waiting."""

    def __init__(self) -> None:
        try:
            import zmq
        except ImportError:
            raise FlowgraphError("sending frames needs the package 'pyzmq'; install it in this interpreter") from None
        self._zmq = zmq
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self.address = f"{_LOOPBACK}:{self._socket.bind_to_random_port(_LOOPBACK)}"

    def send(self, pdus: list[bytes]) -> None:
        """Send from the front of `pdus` what the socket takes now, and remove it from the list."""
        while pdus:
            try:
                self._socket.send(pdus[0], self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            del pdus[0]

    def __enter__(self) -> "_PduSender":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()
