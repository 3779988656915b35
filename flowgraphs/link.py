"""Run the whole link on one machine: transmit, channel and receive as three processes over ZMQ loopback."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Flowgraph, ProcessReport, Supervisor, find_gnuradio_python
from sdr.air.chain import Impairments, parse_impairments
from sdr.air.impairments import INTERPOLATION_REACH
from sdr.air.stream import GAP_PERIOD_SAMPLES
from sdr.arrays import load_arrays
from sdr.errors import FlowgraphError, InputError, RecordingError
from sdr.files import GrowingFile
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, save_layout
from sdr.progress import Progress, silent
from sdr.recordings.recording import Recording, utc_now
from sdr.settings import RadioSettings

LEADING_GAP_SAMPLES = 5000
"""Noise before the first frame, so that a receiver has to find it."""

STALL_TIMEOUT_S = 30.0
"""Time without a new sample after which the link is given up."""

_HELD_BACK_SAMPLES = 64
"""Samples sent beyond those received: GNU Radio's vectorised blocks keep a stream's last one to three samples."""

_LOOPBACK = "tcp://127.0.0.1"
_SAMPLE_BYTES = 8


@dataclass(frozen=True)
class LoopbackSettings:
    """The channel of a loopback.

    Args:
        csnr_db: cell power over noise power, for a channel of unit mean gain; infinite for no noise.
        taps: channel taps L, one sample apart, with an exponential delay profile.
        decay: that profile's time constant in samples.
        cfo_hz: carrier frequency offset.
        redraw_frames: the taps are drawn anew at the start of every so many frames.
        seed: seed of taps and noise.
        leading_gap_samples: zeros before the first frame.
        impairments: options of `sdr.air.chain.parse_impairments`, which overrule the numbers above.

    Raises:
        InputError: a number is out of range.
    """

    csnr_db: float
    taps: int = 8
    decay: float = 4.0
    cfo_hz: float = 300.0
    redraw_frames: int = 4
    seed: int = 0
    leading_gap_samples: int = LEADING_GAP_SAMPLES
    impairments: str = ""

    def __post_init__(self) -> None:
        if self.redraw_frames < 1 or self.leading_gap_samples < 0 or math.isnan(self.csnr_db):
            raise InputError(
                "a link needs redraw_frames >= 1, a gap >= 0 and a csnr_db, found "
                f"{self.redraw_frames}, {self.leading_gap_samples} and {self.csnr_db}"
            )

    def chain(self, layout: FrameLayout) -> tuple[Impairments, int]:
        """Return the impairments of the channel, and their seed.

        Raises:
            InputError: an option of `impairments` is wrong, or a number is out of range.
        """
        numbers: dict[str, Any] = {
            "taps": self.taps,
            "decay": self.decay,
            "cfo_hz": self.cfo_hz,
            "block_samples": self.redraw_frames * layout.frame_samples,
        }
        if math.isfinite(self.csnr_db):
            numbers["csnr_db"] = self.csnr_db
        return parse_impairments(self.impairments, layout, **numbers, seed=self.seed)


@dataclass(frozen=True, eq=False)
class LoopbackTruth:
    """The channel that a loopback really had, for scoring and the report only.

    Attributes:
        frame_starts: int64 (F,) first sample of each frame in the recording.
        cfo_hz: carrier frequency offset.
        noise_var: linear noise power per complex sample.
        gain: amplitude factor of the receiver.
        redraw_samples: samples after which the taps were drawn anew.
        first_redraw_sample: sample from which these are counted.
        redraw_frames: the same in frames: frame f saw `taps[f // redraw_frames]`.
        taps: complex64 (blocks, L); None where the channel is more than taps (`Impairments.is_plain`).
    """

    frame_starts: NDArray[np.int64]
    cfo_hz: float
    noise_var: float
    gain: float
    redraw_samples: int
    first_redraw_sample: int
    redraw_frames: int
    taps: NDArray[np.complex64] | None = None

    def arrays(self) -> dict[str, Any]:
        """Return what is known by name, as an .npz file holds it."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, eq=False)
class LinkRun:
    """A transmission over a link.

    Attributes:
        recording: what was received.
        tx_path: "gnuradio" or "python", whichever made the samples.
        gnuradio: version of GNU Radio, empty where it had no part.
        processes: the flowgraphs' processes.
        seconds: how long it took in all.
        truth: what the channel did; None over radios.
    """

    recording: Recording
    tx_path: str
    gnuradio: str
    processes: tuple[ProcessReport, ...]
    seconds: float
    truth: LoopbackTruth | None = None


def run_loopback(
    frames: Sequence[FrameContent],
    layout: FrameLayout,
    settings: LoopbackSettings,
    workdir: str | Path,
    progress: Progress = silent,
) -> LinkRun:
    """Send frames through transmit -> ZMQ -> channel -> ZMQ -> receive.

    Args:
        frames: what to send, at least one frame.
        layout: layout of the frames.
        settings: the channel.
        workdir: folder for the layout file, the samples and what the processes print; made if missing.
        progress: called with the samples received so far and the samples in all.

    Raises:
        InputError: no frame, or a number out of range.
        FlowgraphError: GNU Radio is missing, a process died, or nothing moved for `STALL_TIMEOUT_S`.
    """
    if not frames:
        raise InputError("a link needs a frame, found none")
    chain, seed = settings.chain(layout)
    began = time.monotonic()
    gnuradio = find_gnuradio_python()
    files = _Files(Path(workdir))
    files.prepare(layout)
    gap, span = settings.leading_gap_samples, _span(len(frames), layout, chain, settings)
    impairments = ",".join([*(f"{key}={value}" for key, value in chain.options().items()), f"seed={seed}"])
    pdus = [frame_pdu(content, layout) for content in frames]
    with PduSender() as sender, Supervisor(files.flowgraphs) as supervisor:
        receive = _start(supervisor, files, span, sender.address, len(frames), gap, impairments)
        utc = utc_now()

        def step() -> float:
            sender.send(pdus)
            count = files.samples.size_bytes() // _SAMPLE_BYTES
            progress("transmit, channel, receive", count, span.received)
            return count + len(frames) - len(pdus)

        supervisor.watch(lambda: not receive.alive(), STALL_TIMEOUT_S, step)
        supervisor.stop()
        processes = tuple(flowgraph.report() for flowgraph in supervisor.flowgraphs)
    samples = files.read_samples(span.received)
    starts = gap + int(chain.lead_samples) + layout.frame_samples * np.arange(len(frames))
    truth = LoopbackTruth(frame_starts=starts, redraw_frames=settings.redraw_frames, **files.read_truth())
    radio = RadioSettings(uri=f"zmq:rx={receive.ready['source'].removeprefix('zmq:')}", rate_sps=layout.rate_sps)
    recording = Recording(samples, radio, utc, layout.digest)
    return LinkRun(recording, "gnuradio", gnuradio.version, processes, time.monotonic() - began, truth)


@dataclass(frozen=True)
class _Span:
    """Samples of a transmission: `trailing` zeros are sent after the last frame, and `received` come out in all."""

    trailing: int
    received: int


def _span(num_frames: int, layout: FrameLayout, chain: Impairments, settings: LoopbackSettings) -> _Span:
    # The last frame's echoes need room after it; what is lost, delayed or used up sooner comes on top.
    trailing = max(layout.gap_samples, chain.num_taps) + math.ceil(chain.lead_samples)
    received = settings.leading_gap_samples + num_frames * layout.frame_samples + trailing
    periods = received // GAP_PERIOD_SAMPLES + 1
    more = math.ceil(received * abs(chain.offset_ppm) * 1e-6) + periods * chain.num_gaps * chain.gap_samples
    more += 4 * INTERPOLATION_REACH if chain.offset_ppm else 0
    return _Span(trailing + more + _HELD_BACK_SAMPLES, received)


class _Files:
    """Files of a loopback in its folder."""

    def __init__(self, folder: Path) -> None:
        self.layout, self.truth, self.flowgraphs = folder / "layout.json", folder / "truth.npz", folder / "flowgraphs"
        self.samples = GrowingFile(folder / "received.cf32")

    def prepare(self, layout: FrameLayout) -> None:
        """Make the folder, without what an earlier run left."""
        for stale in (self.samples.path, self.samples.partial, self.truth):
            stale.unlink(missing_ok=True)
        save_layout(layout, self.layout)

    def read_samples(self, count: int) -> NDArray[np.complex64]:
        samples = np.fromfile(self.samples.path, dtype=np.complex64)
        if samples.size != count:
            raise RecordingError(
                f"{self.samples.path} has {samples.size} samples, needed {count}; the disk may be full"
            )
        return samples

    def read_truth(self) -> dict[str, Any]:
        stored = load_arrays(self.truth, FlowgraphError, f"{self.flowgraphs} has what the channel printed")
        return {key: value if value.ndim else value.item() for key, value in stored.items()}


def _start(
    supervisor: Supervisor, files: _Files, span: _Span, frames_from: str, num_frames: int, gap: int, impairments: str
) -> Flowgraph:
    """Start the three processes and return the last one, which ends when every sample has come.

    Args:
        frames_from: ZMQ address where the transmitter finds the frames.
        num_frames: how many there are.
        gap: zeros before the first one.
        impairments: options of the channel.
    """
    transmit = supervisor.start(
        "flowgraphs.transmit",
        {
            "layout": files.layout,
            "input": f"zmq:{frames_from}",
            "sink": f"zmq:{_LOOPBACK}:*",
            "frames": num_frames,
            "leading-gap-samples": gap,
            "trailing-samples": span.trailing,
        },
        endless=True,
    )
    channel = supervisor.start(
        "flowgraphs.channel",
        {
            "layout": files.layout,
            "source": f"zmq:{transmit.ready['sink']}",
            "sink": f"zmq:{_LOOPBACK}:*",
            "impairments": impairments,
            "first-block-sample": gap,
            "truth": files.truth,
        },
        endless=True,
    )
    return supervisor.start(
        "flowgraphs.receive",
        {
            "source": f"zmq:{channel.ready['sink']}",
            "sink": f"file:{files.samples.path}",
            "samples": span.received,
        },
    )


class PduSender:
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

    def __enter__(self) -> "PduSender":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        self._context.term()
