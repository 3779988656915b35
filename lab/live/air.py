"""Put frames on the air: a simulated one in this process, one of GNU Radio processes, or a radio's."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flowgraphs.link import PduSender
from flowgraphs.pdu import frame_pdu
from flowgraphs.supervisor import Flowgraph, Supervisor
from lab.live.controls import AIR_CONTROLS, TX_SETTINGS
from lab.live.settings import Job, LiveChannel, LiveSettings
from lab.live.wire import AIR_SOCKET, address
from sdr.air.chain import parse_impairments
from sdr.air.stream import stream_stages
from sdr.framing import FrameContent
from sdr.layout import FrameLayout, save_layout
from sdr.modem import modulate_stream
from sdr.radios.address import with_option
from sdr.radios.open import open_radio
from sdr.recordings.recording import interleaved

_QUEUED_FRAMES = 64
_MAX_LATE_S = 0.25
_STEP_S = 0.01


class Air(Protocol):
    """Whatever takes frames and makes samples of them, without an end."""

    def send(self, frames: Sequence[FrameContent]) -> int:
        """Put frames on the air as soon as it is free; return how many found no room. Never waits."""
        ...

    def tick(self) -> None:
        """Go on; called about a hundred times a second.

        Raises:
            OtaError: the air is gone.
        """
        ...

    def change(self, name: str, value: Any) -> None:
        """Set one of the controls of the air; others are ignored."""
        ...

    def mute(self, muted: bool) -> None:
        """Stop transmitting, or go on."""
        ...

    def taps(self) -> NDArray[np.complex64] | None:
        """Return the taps (L,) that are on the air, for showing only; None where nobody knows them."""
        ...

    def close(self) -> None:
        """Stop, and mute a radio."""
        ...


class SimulatedAir:
    """An air in this process, by the clock: modem and impairments in NumPy, samples over ZMQ.

    Args:
        folder: of the engine's sockets.
        layout: of the frames.
        channel: the air.
        values: of the controls.
        antennas: that receive; their samples are interleaved.

    Attributes:
        late_samples: due and never sent, because this process or the receiver was too slow.
    """

    def __init__(
        self, folder: Path, layout: FrameLayout, channel: LiveChannel, values: Mapping[str, Any], antennas: int = 1
    ) -> None:
        import zmq

        self._layout, self._channel, self._values, self._antennas = layout, channel, dict(values), antennas
        self._zmq, self._context = zmq, zmq.Context()
        self._socket = self._context.socket(zmq.PUSH)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 64)
        self._socket.bind(address(folder, AIR_SOCKET))
        self._waiting: deque[NDArray[np.complex64]] = deque()
        self._origin_s, self._done = time.monotonic(), 0
        self.late_samples = 0
        self._build()

    def _build(self) -> None:
        chain, seed = parse_impairments(self._channel.options(self._layout, self._values), self._layout)
        self._stages = [
            stream_stages(chain, self._layout.rate_sps, seed, antenna=antenna) for antenna in range(self._antennas)
        ]

    def send(self, frames: Sequence[FrameContent]) -> int:
        """Put frames on the air as soon as it is free; return how many found no room."""
        for index, frame in enumerate(frames):
            if len(self._waiting) >= _QUEUED_FRAMES:
                return len(frames) - index
            self._waiting.append(modulate_stream([frame], self._layout, 0)[: self._layout.frame_samples])
        return 0

    def tick(self) -> None:
        """Send the samples that are due."""
        rate = self._layout.rate_sps
        due = int((time.monotonic() - self._origin_s) * rate) - self._done
        late = due - int(_MAX_LATE_S * rate)
        if late > 0:
            self._skip(late)
            due -= late
        step = int(_STEP_S * rate)
        while due >= step:
            if not self._send_samples(self._faded(self._next(step))):
                self._skip(due)
                return
            self._done += step
            due -= step

    def _skip(self, count: int) -> None:
        self.late_samples += count
        self._origin_s += count / self._layout.rate_sps

    def _next(self, count: int) -> NDArray[np.complex64]:
        samples = np.zeros(count, np.complex64)
        made = 0
        while self._waiting and made < count:
            head = self._waiting.popleft()
            part = head[: count - made]
            samples[made : made + part.size] = part
            made += part.size
            if part.size < head.size:
                self._waiting.appendleft(head[part.size :])
        return samples

    def _faded(self, sent: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Return what the antennas hear, interleaved."""
        heard = []
        for stages in self._stages:
            samples = sent
            for stage in stages.values():
                samples = stage(samples)
            heard.append(samples)
        return np.clip(interleaved(heard).view(np.float32), -1.0, 1.0).view(np.complex64)

    def _send_samples(self, samples: NDArray[np.complex64]) -> bool:
        try:
            self._socket.send(samples.astype("<c8").tobytes(), self._zmq.NOBLOCK)
        except self._zmq.Again:
            return False
        return True

    def change(self, name: str, value: Any) -> None:
        """Set one of the controls of the air."""
        if name in AIR_CONTROLS:
            self._values[name] = value
            self._build()

    def mute(self, muted: bool) -> None:
        """Forget what waits; nothing more is sent while the transmitter is muted."""
        if muted:
            self._waiting.clear()

    def taps(self) -> NDArray[np.complex64] | None:
        """Return the taps (L,) on the air, to the first antenna."""
        drawn = getattr(getattr(self._stages[0].get("fading"), "channel", None), "taps", None)
        return drawn[-1] if drawn else None

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        self._context.term()


class GnuRadioAir:
    """A GNU Radio process that transmits, and one that is the channel; samples over ZMQ.

    Args:
        folder: of the engine's sockets.
        layout: of the frames.
        channel: the air.
        values: of the controls.
    """

    def __init__(self, folder: Path, layout: FrameLayout, channel: LiveChannel, values: Mapping[str, Any]) -> None:
        self._folder, self._layout, self._air, self._values = folder, layout, channel, dict(values)
        self._layout_path = save_layout(layout, folder / "layout.json")
        self._sender = PduSender()
        self._supervisor = Supervisor(folder / "flowgraphs")
        try:
            sink = f"zmq:{address(folder, 'transmitted')}"
            self._supervisor.start(
                "flowgraphs.transmit", _transmit_options(self._layout_path, self._sender, sink), endless=True
            )
            self._channel = self._start_channel()
        except BaseException:
            self.close()
            raise

    def _start_channel(self) -> Flowgraph:
        options = {
            "layout": self._layout_path,
            "source": f"zmq:{address(self._folder, 'transmitted')}",
            "sink": f"zmq:{address(self._folder, AIR_SOCKET)}",
            "impairments": self._air.options(self._layout, self._values),
            "announce-taps": "yes",
        }
        return self._supervisor.start("flowgraphs.channel", options, endless=True)

    def send(self, frames: Sequence[FrameContent]) -> int:
        """Hand frames to GNU Radio; return how many it did not take."""
        pdus = [frame_pdu(frame, self._layout) for frame in frames]
        self._sender.send(pdus)
        return len(pdus)

    def tick(self) -> None:
        """Check that the processes run.

        Raises:
            FlowgraphError: one died.
        """
        self._supervisor.check()

    def change(self, name: str, value: Any) -> None:
        """Set one of the controls of the air: the channel's process starts anew, which takes a second or two."""
        if name in AIR_CONTROLS and self._values.get(name) != value:
            self._values[name] = value
            self._supervisor.flowgraphs.remove(self._channel)
            self._channel.stop()
            self._channel = self._start_channel()

    def mute(self, muted: bool) -> None:
        """Do nothing: no frame is handed over while muted, and no radio is there."""

    def taps(self) -> NDArray[np.complex64] | None:
        """Return the taps (L,) that the channel drew last."""
        said = self._channel.last_said("TAPS")
        return None if said is None else (np.array(said[0]) + 1j * np.array(said[1])).astype(np.complex64)

    def close(self) -> None:
        """Stop the processes."""
        self._supervisor.__exit__(None, None, None)
        self._sender.__exit__()


class RadioAir:
    """A radio that GNU Radio transmits with, zeros between frames.

    Muting stops its process, which mutes the radio. A USRP that also receives keeps its process, at its lowest gain.

    Args:
        folder: of the engine's sockets.
        layout: of the frames.
        settings: name the radio, and the one that receives.
        values: of the controls.
    """

    def __init__(self, folder: Path, layout: FrameLayout, settings: LiveSettings, values: Mapping[str, Any]) -> None:
        self._folder, self._layout, self._settings = folder, layout, settings
        self._layout_path = save_layout(layout, folder / "layout.json")
        self._values = {name: values[name] for name in TX_SETTINGS}
        self._muted = bool(values["mute"])
        self._sender: PduSender | None = None
        self._supervisor: Supervisor | None = None
        self._flowgraph: Flowgraph | None = None
        uri = settings.radio or ""
        if settings.rx_radio is not None and uri.startswith("pluto:"):
            # gr-iio can't set the crystal's correction, which stays once it is set.
            open_radio(uri, layout=layout).close()
        if settings.duplex or not self._muted:
            self._start()

    def _start(self) -> None:
        self._sender = PduSender()
        self._supervisor = Supervisor(self._folder / "flowgraphs")
        uri = self._settings.radio or ""
        for name, value in self._values.items():
            uri = with_option(uri, name, repr(value))
        options = _transmit_options(self._layout_path, self._sender, uri)
        if self._settings.duplex:
            options["heard"] = f"zmq:{address(self._folder, AIR_SOCKET)}"
        try:
            self._flowgraph = self._supervisor.start("flowgraphs.transmit", options, endless=True, timeout_s=60.0)
        except BaseException:
            self.close()
            raise
        if self._muted:
            self._set_gain()

    def send(self, frames: Sequence[FrameContent]) -> int:
        """Hand frames to GNU Radio; return how many it did not take."""
        if self._sender is None or self._muted:
            return len(frames)
        pdus = [frame_pdu(frame, self._layout) for frame in frames]
        self._sender.send(pdus)
        return len(pdus)

    def tick(self) -> None:
        """Check that the process runs.

        Raises:
            FlowgraphError: it died.
        """
        if self._supervisor is not None:
            self._supervisor.check()

    def change(self, name: str, value: Any) -> None:
        """Set a gain or the carrier of the radio; others are ignored."""
        if name in TX_SETTINGS:
            self._values[name] = value
        if self._flowgraph is None:
            return
        if name == "tx_gain_db":
            self._set_gain()
        elif name == "center_hz" or (name == "rx_gain_db" and self._settings.duplex):
            self._flowgraph.set(name, value)

    def _set_gain(self) -> None:
        assert self._flowgraph is not None
        lowest = self.limits()["tx_gain_db"][0]
        self._flowgraph.set("tx_gain_db", lowest if self._muted else self._values["tx_gain_db"])

    def mute(self, muted: bool) -> None:
        """Stop transmitting, or go on.

        Raises:
            OtaError: the radio can't be used.
        """
        self._muted = muted
        if self._settings.duplex:
            self._set_gain()
        elif muted:
            self.close()
        elif self._flowgraph is None:
            self._start()

    def taps(self) -> NDArray[np.complex64] | None:
        """Return None: nobody knows them."""
        return None

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the limits of the radio's settings, as far as its process told them."""
        return {} if self._flowgraph is None else self._flowgraph.ready["limits"]

    @property
    def overflows(self) -> int:
        """Gaps in what a USRP that also receives has heard."""
        return 0 if self._flowgraph is None else self._flowgraph.last_said("LOST") or 0

    def close(self) -> None:
        """Stop the process; the radio is muted then."""
        if self._supervisor is not None:
            self._supervisor.__exit__(None, None, None)
        if self._sender is not None:
            self._sender.__exit__()
        self._supervisor = self._sender = self._flowgraph = None


def _transmit_options(layout: Path, sender: PduSender, sink: str) -> dict[str, object]:
    return {"layout": layout, "input": f"zmq:{sender.address}", "sink": sink, "between-frames": "zeros"}


def open_air(job: Job) -> Air:
    """Return the air that the settings ask for.

    Raises:
        OtaError: GNU Radio or the radio can't be used.
    """
    settings, layout = job.plan.settings, job.plan.layout
    if settings.radio is None:
        return GnuRadioAir(job.folder, layout, settings.channel, job.values)
    if settings.simulated:
        return SimulatedAir(job.folder, layout, settings.channel, job.values, settings.antennas)
    return RadioAir(job.folder, layout, settings, job.values)
