"""Radios, each addressed by one URI.

- `sim:csnr_db=10,taps=8,decay=4,cfo_hz=300,delay_samples=1000.5,gain_db=-10,seed=1,block_samples=3288`: in process;
  the options are those of `sdr.impaired.parse_impairments`, as in `sim:tdl=A,doppler_hz=5,offset_ppm=10,adc_bits=8`.
- `file:PATH`: transmits into and receives from PATH.sigmf-meta and PATH.sigmf-data.
- `zmq:rx=tcp://host:port,tx=tcp://host:port`: raw cf32 little-endian over PUSH and PULL, no tags. Both ends connect;
  `rx_bind=yes` and `tx_bind=yes` bind instead, on loopback only unless `anywhere=yes`; `timeout_s=10`.
- `pluto:ip:192.168.2.1,tx_gain_db=-20`: an ADALM-Pluto, see `sdr.pluto`.
- `uhd:type=b200,rx_gain_db=20`: a USRP, see `sdr.usrp`.

Full scale is 1.0 on our side of every radio: `transmit` refuses samples of a magnitude above 1, `receive` returns
components in -1..1.
"""

import contextlib
import ipaddress
import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from sdr.channel_models import FadingTruth
from sdr.errors import InputError, RadioError, did_you_mean
from sdr.impaired import IMPAIRMENT_OPTIONS, Impairments, finite, parse_options
from sdr.impairments import apply_awgn, apply_cfo, apply_delay, draw_taps, exponential_pdp, noise_var_for_csnr
from sdr.layout import FrameLayout
from sdr.recording import MAX_SAMPLES, Recording, measure_health, read_recording, sigmf_paths, utc_now, write_recording
from sdr.settings import RadioSettings

SAMPLE_BYTES = 8
_MAX_MESSAGE_BYTES = 256 << 20
_MESSAGE_SAMPLES = 1 << 16
_PEAK_TOLERANCE = 1e-5

R = TypeVar("R", bound="Radio")


@dataclass(frozen=True)
class RadioCapabilities:
    """What a radio can do. Asking for what it can't is a `RadioError` that says so.

    Args:
        transmit: it can send.
        receive: it can capture.
        cyclic: it can repeat a burst until told otherwise.
        finite: it knows by itself where the signal ends, so `receive()` needs no number of samples.
        has_time: its captures carry hardware time.
    """

    transmit: bool = True
    receive: bool = True
    cyclic: bool = False
    finite: bool = False
    has_time: bool = False


@runtime_checkable
class Radio(Protocol):
    """A radio: a context manager that sends and captures samples."""

    @property
    def settings(self) -> RadioSettings:
        """What the radio is set to."""
        ...

    @property
    def capabilities(self) -> RadioCapabilities:
        """What the radio can do."""
        ...

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Send complex64 (n,) samples of magnitude at most 1; `cyclic` repeats them until the next call or close."""
        ...

    def receive(self, num_samples: int | None = None) -> Recording:
        """Capture `num_samples`, or all there is where the radio is `finite`."""
        ...

    def close(self) -> None:
        """Let go of the device; a second call does nothing."""
        ...

    def __enter__(self: R) -> R: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Streams(Protocol):
    """A radio that receives without end."""

    def stream(self, block_samples: int) -> Iterator[NDArray[np.complex64]]:
        """Contiguous blocks of complex64 (block_samples,)."""
        ...


def record_blocks(radio: Radio, num_samples: int, block_samples: int = 1 << 20) -> Generator[Recording, None, None]:
    """`num_samples` samples in blocks that follow each other without a gap, or whose health tells of one.

    Raises:
        RadioError: the radio ends by itself, can't stream, or fails.
    """
    left = num_samples
    if not isinstance(radio, Streams):
        if radio.capabilities.finite:
            raise RadioError(f"radio '{radio.settings.uri}' can't stream: its samples have an end; import it instead")
        # What a ZMQ radio is asked for next follows what it gave last.
        while left:
            yield radio.receive(min(left, block_samples))
            left -= min(left, block_samples)
        return
    lost = 0
    with contextlib.closing(radio.stream(block_samples)) as stream:  # type: ignore[type-var]  # all are generators
        while left:
            samples = next(stream)[:left]
            overflows = getattr(radio, "overflows", lambda: 0)()
            health = measure_health(samples, overflows=overflows - lost)
            lost, left = overflows, left - samples.size
            yield Recording(samples, radio.settings, utc_now(), getattr(radio, "layout_digest", ""), health)


class _ContextRadio:
    """Context manager, settings and argument checks that all radios of this module share."""

    capabilities: RadioCapabilities

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None) -> None:
        self.settings = settings
        self.layout_digest = layout.digest if layout else ""
        self._closed = False

    def __enter__(self: Any) -> Any:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the device; a second call does nothing."""
        self._closed = True

    def _check_transmit(self, samples: NDArray[np.complex64], cyclic: bool) -> None:
        self._check_open()
        if cyclic and not self.capabilities.cyclic:
            raise RadioError(f"radio '{self.settings.uri}' can't repeat a burst; send it once or use sim:")
        if not isinstance(samples, np.ndarray) or samples.dtype != np.complex64 or samples.ndim != 1:
            raise RadioError("a radio sends complex64 samples of one dimension")
        if not samples.size:
            raise RadioError("there is nothing to send: 0 samples")
        peak = float(np.abs(samples).max())
        if not peak <= 1.0 + _PEAK_TOLERANCE:
            raise RadioError(f"samples must have a magnitude of at most 1 (full scale), found {peak:.4g}; scale them")

    def _check_receive(self, num_samples: int | None) -> None:
        self._check_open()
        if num_samples is None:
            if not self.capabilities.finite:
                raise RadioError(f"radio '{self.settings.uri}' never ends by itself; say how many samples to receive")
        elif isinstance(num_samples, bool) or not 1 <= num_samples <= MAX_SAMPLES:
            raise RadioError(f"a capture has 1..{MAX_SAMPLES} samples, found {num_samples}")

    def _check_open(self) -> None:
        if self._closed:
            raise RadioError(f"radio '{self.settings.uri}' is closed; open it again")

    def _record(self, samples: NDArray[np.complex64]) -> Recording:
        return Recording(samples, self.settings, utc_now(), self.layout_digest)


class SimulatedRadio(_ContextRadio):
    """A radio whose air is a function call: delay, multipath, carrier offset, noise, receive gain, full scale.

    Every capture starts with the transmission: the first transmitted sample arrives `delay_samples` later. A cyclic
    transmission also fills the time before. Each capture draws new taps and new noise from the same generator.

    Args:
        settings: its `rate_sps` turns the carrier offset into phase.
        layout: needed for `csnr_db`, whose reference is the layout's power per carrier.
        csnr_db: noise level; None means no noise.
        taps: L of the exponential profile; 0 means no multipath.
        decay: its time constant in samples.
        cfo_hz: carrier offset; phase 0 at the first captured sample.
        delay_samples: any number >= 0.
        gain_db: receive gain, applied to signal and noise alike.
        seed: of taps and noise.
        block_samples: taps are drawn anew every so many samples; 0 means once a capture.
        impairments: whatever else happens on the way; its taps, carrier offset, delay, gain and noise are replaced by
            the ones above, its carrier frequency by that of the settings where they have one.
    """

    capabilities = RadioCapabilities(cyclic=True, finite=True)

    def __init__(
        self,
        settings: RadioSettings,
        layout: FrameLayout | None = None,
        csnr_db: float | None = None,
        taps: int = 0,
        decay: float = 4.0,
        cfo_hz: float = 0.0,
        delay_samples: float = 0.0,
        gain_db: float = 0.0,
        seed: int = 0,
        block_samples: int = 0,
        impairments: Impairments | None = None,
    ) -> None:
        super().__init__(settings, layout)
        if csnr_db is not None and layout is None:
            raise RadioError("sim: needs a layout to turn csnr_db into a noise power; name the layout")
        if not 0 <= taps <= 4096:
            raise RadioError(f"sim: taps = {taps} is outside 0..4096")
        if taps and not 0 < decay <= 1e6:
            raise RadioError(f"sim: decay = {decay} is outside 0..1e6 samples")
        if not 0 <= delay_samples <= 1e8:
            raise RadioError(f"sim: delay_samples = {delay_samples} is outside 0..1e8")
        if not -200 <= gain_db <= 200 or (csnr_db is not None and not -200 <= csnr_db <= 200):
            raise RadioError("sim: gain_db and csnr_db must be in -200..200 dB")
        if abs(cfo_hz) > settings.rate_sps / 2:
            raise RadioError(f"sim: cfo_hz = {cfo_hz:g} exceeds half the rate of {settings.rate_sps:g} samples/s")
        if seed < 0 or block_samples < 0:
            raise RadioError(f"sim: seed = {seed} and block_samples = {block_samples} must be >= 0")
        others = impairments or Impairments()
        self._chain = replace(
            others,
            taps=taps,
            decay=decay,
            block_samples=block_samples,
            cfo_hz=cfo_hz,
            center_hz=settings.center_hz or others.center_hz,
            delay_samples=0.0,
            gain_db=gain_db,
            noise_var=noise_var_for_csnr(layout, csnr_db) if layout and csnr_db is not None else others.noise_var,
        )
        self._delay_samples = delay_samples
        self._rng = np.random.default_rng(seed)
        # Apart, so that a stream draws the taps that a capture would.
        self._stream_noise = np.random.default_rng([seed, 1])
        self._sent: NDArray[np.complex64] | None = None
        self._cyclic = False
        self._fading: FadingTruth | None = None

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Put samples on the simulated air, in place of what was there."""
        self._check_transmit(samples, cyclic)
        self._sent, self._cyclic = samples.copy(), cyclic

    def receive(self, num_samples: int | None = None) -> Recording:
        """Capture; None means until the delayed transmission has passed through the channel.

        Raises:
            RadioError: nothing was transmitted, or a cyclic transmission has no end.
        """
        self._check_receive(num_samples)
        if self._sent is None:
            raise RadioError("sim: nothing is on the air; transmit before you receive")
        chain = self._chain
        if num_samples is None:
            if self._cyclic:
                raise RadioError("sim: a cyclic transmission has no end; say how many samples to receive")
            late = math.ceil(self._delay_samples + chain.lead_samples)
            num_samples = self._sent.size + late + max(chain.num_taps, 1) - 1
        # What the driver loses is made up for, and a faster clock uses samples up sooner.
        extra = chain.num_gaps * chain.gap_samples + math.ceil(num_samples * max(chain.offset_ppm, 0.0) * 1e-6) + 1
        impaired = chain.apply(self._delayed(num_samples + extra), self.settings.rate_sps, self._rng)
        self._fading = impaired.fading
        parts = impaired.samples[:num_samples].view(np.float32)
        return self._record(np.clip(parts, -1.0, 1.0).view(np.complex64))

    def stream(self, block_samples: int) -> Iterator[NDArray[np.complex64]]:
        """Contiguous blocks without end; the channel and the carrier's phase go on from block to block.

        Raises:
            RadioError: nothing was transmitted, or the channel has impairments that only a whole capture can have.
        """
        self._check_receive(block_samples)
        if self._sent is None:
            raise RadioError("sim: nothing is on the air; transmit before you receive")
        chain = self._chain
        plain = Impairments(center_hz=chain.center_hz)
        kept = ("taps", "decay", "block_samples", "cfo_hz", "gain_db", "noise_var", "center_hz")
        others = [
            i.name for i in fields(chain) if i.name not in kept and getattr(chain, i.name) != getattr(plain, i.name)
        ]
        if others:
            raise RadioError(f"sim: can't stream with {', '.join(others)}; leave it out, or capture at once")
        pdp = exponential_pdp(chain.taps, chain.decay) if chain.taps else np.ones(1)
        turns, gain = chain.cfo_hz / self.settings.rate_sps, np.float32(10.0 ** (chain.gain_db / 20.0))
        taps, drawn, position = np.ones(1, np.complex64), -1, 0
        rotation = apply_cfo(np.ones(block_samples, np.complex64), chain.cfo_hz, self.settings.rate_sps)
        arrivals = self._arrivals()
        while True:
            block = np.empty(block_samples, np.complex64)
            first = position
            while first < position + block_samples:
                redraw = first // chain.block_samples if chain.block_samples else 0
                last = position + block_samples
                if chain.block_samples:
                    last = min(last, (redraw + 1) * chain.block_samples)
                if chain.taps and redraw != drawn:
                    taps, drawn = draw_taps(pdp, self._rng), redraw
                arriving = arrivals(first - taps.size + 1, last)
                faded = np.convolve(arriving, taps, mode="valid") if chain.taps else arriving
                block[first - position : last - position] = faded
                first = last
            if chain.cfo_hz:
                block *= rotation
                block *= np.complex64(np.exp(2j * np.pi * (turns * position % 1.0)))
            if chain.noise_var:
                block = apply_awgn(block, chain.noise_var, self._stream_noise)
            if chain.gain_db:
                block = block * gain
            yield np.clip(block.view(np.float32), -1.0, 1.0).view(np.complex64)
            position += block_samples

    def _arrivals(self) -> Callable[[int, int], NDArray[np.complex64]]:
        """What arrives at the channel's input from one sample to another, counted from the first block's first."""
        sent = self._sent
        assert sent is not None
        whole = math.floor(self._delay_samples)
        if not self._cyclic:
            late = apply_delay(sent, self._delay_samples)

            def once(first: int, last: int) -> NDArray[np.complex64]:
                arriving = np.zeros(last - first, np.complex64)
                begin, end = min(max(first, 0), late.size), min(max(last, 0), late.size)
                arriving[begin - first : end - first] = late[begin:end]
                return arriving

            return once
        period = self._one_period()

        def again(first: int, last: int) -> NDArray[np.complex64]:
            begin = (first - whole) % period.size
            head = period[begin : begin + last - first]
            return (
                head
                if head.size == last - first
                else np.concatenate([head, np.resize(period, last - first - head.size)])
            )

        return again

    def channel_truth(self, frame_starts: Sequence[int]) -> dict[str, Any] | None:
        """The channel of the last capture, for scoring only: the fields of `receiver.truth.ChannelTruth`.

        Args:
            frame_starts: first sample of each frame in what was transmitted.

        Returns:
            None where the channel was more than drawn taps, a carrier offset, a delay of whole samples and a gain.
        """
        chain = self._chain
        if self._sent is None or not chain.is_plain or self._delay_samples % 1:
            return None
        if self._fading is None:
            taps, block = np.ones((1, 1), dtype=np.complex64), MAX_SAMPLES
        else:
            taps, block = self._fading.taps, self._fading.knot_samples
        return {
            "taps": taps,
            "redraw_samples": block,
            "cfo_hz": chain.total_cfo_hz,
            "frame_starts": np.asarray(frame_starts, dtype=np.int64) + int(self._delay_samples),
            "gain": 10.0 ** (chain.gain_db / 20.0),
        }

    def _delayed(self, num_samples: int) -> NDArray[np.complex64]:
        """(num_samples,) what arrives at the channel's input."""
        assert self._sent is not None
        if not self._cyclic:
            arriving = np.zeros(num_samples, dtype=np.complex64)
            # A capture shorter than the burst needs no more of it than the interpolator reaches.
            sent = apply_delay(self._sent[: num_samples + 1024], self._delay_samples)[:num_samples]
            arriving[: sent.size] = sent
            return arriving
        return self._arrivals()(0, num_samples)

    def _one_period(self) -> NDArray[np.complex64]:
        """The cyclic transmission, late by what is left of the delay besides whole samples."""
        assert self._sent is not None
        fraction = self._delay_samples % 1.0
        if not fraction:
            return self._sent
        phase = np.exp(-2j * np.pi * np.fft.fftfreq(self._sent.size) * fraction)
        return np.fft.ifft(np.fft.fft(self._sent) * phase).astype(np.complex64)


class FileRadio(_ContextRadio):
    """A radio whose air is a SigMF recording: what is transmitted is written, what is received is read."""

    capabilities = RadioCapabilities(finite=True)

    def __init__(self, settings: RadioSettings, layout: FrameLayout | None, path: str) -> None:
        super().__init__(settings, layout)
        self.meta_path, self.data_path = sigmf_paths(path)

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Write PATH.sigmf-data and PATH.sigmf-meta, in place of what was there."""
        self._check_transmit(samples, cyclic)
        write_recording(self._record(samples), self.meta_path)

    def receive(self, num_samples: int | None = None) -> Recording:
        """Read the first `num_samples` of the recording, or all of it.

        Raises:
            RadioError: the recording is shorter.
            RecordingError: the recording can't be read.
        """
        self._check_receive(num_samples)
        recording = read_recording(self.meta_path)
        if num_samples is None or num_samples == recording.num_samples:
            return recording
        if num_samples > recording.num_samples:
            raise RadioError(f"{self.meta_path} has {recording.num_samples} samples, but {num_samples} were asked")
        told, samples = recording.health, recording.samples[:num_samples]
        health = measure_health(samples, told.overflows, told.gain_step_db, told.stale)
        return replace(recording, samples=samples, health=health)


class ZmqRadio(_ContextRadio):
    """A radio behind ZMQ sockets: PULL to receive, PUSH to transmit, raw cf32 little-endian, no tags.

    PUSH and PULL block where PUB and SUB would silently drop.

    Args:
        rx: endpoint to receive from, or None.
        tx: endpoint to transmit to, or None.
        rx_bind: bind `rx` instead of connecting it.
        tx_bind: bind `tx` instead of connecting it.
        anywhere: allow binding to addresses other hosts can reach.
        timeout_s: longest wait for the next samples, or for a peer to take some.
    """

    def __init__(
        self,
        settings: RadioSettings,
        layout: FrameLayout | None,
        rx: str | None = None,
        tx: str | None = None,
        rx_bind: bool = False,
        tx_bind: bool = False,
        anywhere: bool = False,
        timeout_s: float = 10.0,
    ) -> None:
        super().__init__(settings, layout)
        if rx is None and tx is None:
            raise RadioError("zmq: needs rx=tcp://host:port, tx=tcp://host:port or both")
        if not 0 < timeout_s <= 3600:
            raise RadioError(f"zmq: timeout_s = {timeout_s:g} is outside 0..3600")
        for endpoint, bind in ((rx, rx_bind), (tx, tx_bind)):
            if endpoint is not None:
                _check_endpoint(endpoint, bind, anywhere)
        if (rx is None and rx_bind) or (tx is None and tx_bind):
            raise RadioError("zmq: rx_bind and tx_bind need the endpoint that they bind")
        try:
            import zmq
        except ImportError:
            raise RadioError("zmq: radios need the package 'pyzmq'; install it in this interpreter") from None
        self._zmq = zmq
        self.capabilities = RadioCapabilities(transmit=tx is not None, receive=rx is not None)
        self._timeout_s = timeout_s
        self._rest = b""
        self._context = zmq.Context()
        self._rx = self._tx = None
        try:
            if rx is not None:
                self._rx = self._socket(zmq.PULL, rx, rx_bind)
            if tx is not None:
                self._tx = self._socket(zmq.PUSH, tx, tx_bind)
        except RadioError:
            self.close()
            raise

    def _socket(self, kind: int, endpoint: str, bind: bool) -> Any:
        socket = self._context.socket(kind)
        socket.setsockopt(self._zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        socket.setsockopt(self._zmq.LINGER, 0)
        try:
            if bind:
                socket.bind(endpoint)
            else:
                socket.connect(endpoint)
        except self._zmq.ZMQError as error:
            socket.close()
            raise RadioError(f"zmq: can't {'bind' if bind else 'connect'} {endpoint}: {error}") from None
        return socket

    @property
    def rx_endpoint(self) -> str | None:
        """Endpoint received from, with the port that a bind to port 0 chose."""
        return None if self._rx is None else self._rx.getsockopt_string(self._zmq.LAST_ENDPOINT)

    @property
    def tx_endpoint(self) -> str | None:
        """Endpoint transmitted to, with the port that a bind to port 0 chose."""
        return None if self._tx is None else self._tx.getsockopt_string(self._zmq.LAST_ENDPOINT)

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Push samples, waiting while the peer is slower.

        Raises:
            RadioError: no transmit endpoint, or no peer takes samples within the timeout.
        """
        self._check_transmit(samples, cyclic)
        if self._tx is None:
            raise RadioError(f"radio '{self.settings.uri}' has no transmit endpoint; add tx=tcp://host:port")
        for first in range(0, samples.size, _MESSAGE_SAMPLES):
            if not self._tx.poll(round(1000 * self._timeout_s), self._zmq.POLLOUT):
                raise RadioError(
                    f"{self.tx_endpoint} took {first} of {samples.size} samples, then nothing for "
                    f"{self._timeout_s:g} s; start the receiving end"
                )
            self._tx.send(samples[first : first + _MESSAGE_SAMPLES].astype("<c8").tobytes())
        # What is still queued must survive an immediate close, but not hold up an exit for ever.
        self._tx.setsockopt(self._zmq.LINGER, round(1000 * self._timeout_s))

    def receive(self, num_samples: int | None = None) -> Recording:
        """Pull exactly `num_samples`; what a message holds beyond them is kept for the next call.

        Raises:
            RadioError: no receive endpoint, a message that is no whole number of samples, or no message within the
                timeout; it says how many samples had come, and they are kept for the next call.
        """
        self._check_receive(num_samples)
        if self._rx is None:
            raise RadioError(f"radio '{self.settings.uri}' has no receive endpoint; add rx=tcp://host:port")
        assert num_samples is not None
        samples = np.empty(num_samples, dtype="<c8")
        room, filled = samples.view(np.uint8).data, 0
        message, self._rest = memoryview(self._rest), b""
        while True:
            taken = min(len(message), len(room) - filled)
            room[filled : filled + taken] = message[:taken]
            filled += taken
            if filled == len(room):
                self._rest = bytes(message[taken:])
                break
            if not self._rx.poll(round(1000 * self._timeout_s)):
                self._rest = bytes(room[:filled])
                raise RadioError(
                    f"{self.rx_endpoint} gave {filled // SAMPLE_BYTES} of {num_samples} samples, then nothing "
                    f"for {self._timeout_s:g} s; start the sending end or ask for fewer"
                )
            message = memoryview(self._rx.recv())
            if len(message) % SAMPLE_BYTES:
                raise RadioError(
                    f"{self.rx_endpoint} sent a message of {len(message)} bytes, which is no whole number of "
                    f"{SAMPLE_BYTES}-byte samples; turn tags off at the sending end"
                )
        samples = samples.astype(np.complex64, copy=False)
        return self._record(samples)

    def close(self) -> None:
        """Close the sockets."""
        super().close()
        for socket in (self._rx, self._tx):
            if socket is not None:
                socket.close()
        self._rx = self._tx = None
        self._context.term()


def _check_endpoint(endpoint: str, bind: bool, anywhere: bool) -> None:
    """Raise unless the endpoint can be used, and, if it is to be bound, is out of other hosts' reach."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("tcp", "ipc", "inproc"):
        raise RadioError(f"zmq: endpoint '{endpoint}' must look like tcp://127.0.0.1:5555 or ipc:///path")
    if parts.scheme != "tcp":
        return
    host = parts.hostname or ""
    try:
        has_port = parts.port is not None or endpoint.endswith(":*")
    except ValueError:
        has_port = endpoint.endswith(":*")
    if not host or not has_port:
        raise RadioError(f"zmq: endpoint '{endpoint}' needs a host and a port, as in tcp://127.0.0.1:5555")
    if bind and not anywhere and host != "localhost":
        try:
            loopback = ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise RadioError(
                f"zmq: binding '{endpoint}' would let other hosts in; use 127.0.0.1, or add anywhere=yes if you mean it"
            )


def _yes_or_no(text: str) -> bool:
    if text.lower() in ("yes", "true", "1"):
        return True
    if text.lower() in ("no", "false", "0"):
        return False
    raise ValueError


_SIM_ARGUMENTS = ("csnr_db", "taps", "decay", "cfo_hz", "delay_samples", "gain_db", "seed", "block_samples")
_SIM_OPTIONS = {key: read for key, read in IMPAIRMENT_OPTIONS.items() if key != "noise_var"}
_ZMQ_OPTIONS: dict[str, Callable[[str], Any]] = {
    "rx": str,
    "tx": str,
    "rx_bind": _yes_or_no,
    "tx_bind": _yes_or_no,
    "anywhere": _yes_or_no,
    "timeout_s": finite,
}
SCHEMES = ("file", "pluto", "sim", "uhd", "zmq")
"""Schemes that a radio URI may start with."""


@dataclass(frozen=True)
class RadioAddress:
    """A parsed radio URI.

    Args:
        scheme: one of `SCHEMES`.
        rest: all that follows the colon, as written.
        options: typed options of schemes that have some.
    """

    scheme: str
    rest: str
    options: Mapping[str, Any]


def parse_uri(uri: str) -> RadioAddress:
    """Parse a radio URI without opening anything.

    Raises:
        RadioError: an unknown scheme or option, or a value of the wrong kind.

    >>> parse_uri("sim:csnr_db=10,taps=8").options
    {'csnr_db': 10.0, 'taps': 8}
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES:
        hint = did_you_mean(scheme, SCHEMES)
        raise RadioError(f"radio '{uri}' has no known scheme before the colon; {hint} (as in sim:csnr_db=10)")
    if scheme == "file":
        if not rest:
            raise RadioError("file: needs a path, as in file:run/tx.sigmf-meta")
        return RadioAddress(scheme, rest, {})
    if scheme in ("pluto", "uhd"):
        return RadioAddress(scheme, rest, {})
    known = _SIM_OPTIONS if scheme == "sim" else _ZMQ_OPTIONS
    try:
        options = parse_options(rest, known, f"{scheme}:", {_yes_or_no: "yes or no"})
    except InputError as error:
        raise RadioError(str(error)) from None
    return RadioAddress(scheme, rest, options)


def open_radio(uri: str, settings: RadioSettings | None = None, layout: FrameLayout | None = None) -> Radio:
    """Open the radio that a URI names.

    Args:
        uri: see the module's documentation.
        settings: how to set it; the layout's rate and defaults otherwise. `settings.uri` is replaced by `uri`.
        layout: layout that will travel over it; captures carry its digest.

    Raises:
        RadioError: the URI is wrong, or the radio can't be opened.

    >>> with open_radio("sim:delay_samples=2") as radio:
    ...     radio.transmit(np.full(2, 0.5, np.complex64))
    ...     radio.receive(5).samples.real
    array([0. , 0. , 0.5, 0.5, 0. ], dtype=float32)
    """
    address = parse_uri(uri)
    if settings is None:
        settings = RadioSettings(rate_sps=layout.rate_sps) if layout else RadioSettings()
    settings = replace(settings, uri=uri)
    if address.scheme == "pluto":
        from sdr.pluto import PlutoRadio  # its driver is optional, and slow to load

        return PlutoRadio(address.rest, settings, layout)
    if address.scheme == "uhd":
        from sdr.usrp import UsrpRadio  # starts a process; only whoever asks for one needs it

        return UsrpRadio(address.rest, settings, layout)
    try:
        if address.scheme == "sim":
            # What the radio has no argument of its own for.
            others = {key for key in address.options if key not in _SIM_ARGUMENTS}
            own = {key: value for key, value in address.options.items() if key in _SIM_ARGUMENTS}
            chain = Impairments(**{key: address.options[key] for key in others})
            return SimulatedRadio(settings, layout, **own, impairments=chain)
        if address.scheme == "file":
            return FileRadio(settings, layout, address.rest)
        return ZmqRadio(settings, layout, **address.options)
    except InputError as error:
        raise RadioError(f"radio '{uri}': {error}") from None
