"""Drive USRPs, through UHD's Python API: `uhd:type=b200,serial=30F1A2B` or `uhd:addr=192.168.10.2`.

Two antennas are those of one USRP with two receive frontends, `uhd:type=b200,rx=2`, or of two USRPs of one clock that
are one radio to UHD, `uhd:addr0=192.168.10.2,addr1=192.168.10.3,clock_source=external,time_source=external,rx=2`. Their
streams start at one device time; where one loses its place, both are started together again, and what was missed is
zeros. The first channel transmits.

What follows `uhd:` are UHD's own device arguments, among which options of ours may stand, separated by commas:

- `center_hz`, `bandwidth_hz`, `tx_gain_db`, `rx_gain_db`: as in `RadioSettings`, and they win over those given.
- `rx_offset_hz`: the receiver is tuned so much higher than the transmitter.
- `trim_ppm`: the device's reference runs so much fast: both carriers are tuned so much lower. The sampling clock stays.
- `lo_offset_hz`: the oscillators stand so far beside the carrier, and their leakage with them.
- `tx_antenna`, `rx_antenna`, `tx_subdev`, `rx_subdev`, `clock_source`, `time_source`: by UHD's names.
  `mimo` takes clock and time from the first USRP over the MIMO cable.
- `rx`: receiving antennas, 1 or 2.
- `wire`: samples between host and device, `sc16`, `sc12` or `sc8`; not every USRP can do all.
- `timeout_s`: longest wait for an answer, a lock or a pulse, beyond the time that the samples take.

UHD lives in a process of its own (`sdr.radios.uhd_process`, which `sdr.radios.uhd_link` starts), in whichever
interpreter has it: `uhd` and GNU Radio's `uhd` can't share a process, and Debian's is built for the system's Python.
One program at a time may have a USRP.

The transmitter stands at its lowest gain except while something is being sent.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError, did_you_mean
from sdr.layout import FrameLayout
from sdr.options import option_readers
from sdr.radios.address import split_arguments
from sdr.radios.base import ContextRadio, Driver, RadioCapabilities, tuned
from sdr.radios.uhd_link import ANSWER_S, UhdLink
from sdr.recordings.health import measure_health
from sdr.recordings.recording import Recording, utc_now
from sdr.settings import RadioSettings

WIRE_FORMATS = ("sc16", "sc12", "sc8")
"""Forms that samples may have between host and device."""

OPEN_S = 60.0
"""Longest that opening may take: some USRPs load their FPGA first."""

_UHD_KEYS = {
    "type", "addr", "second_addr", "serial", "name", "product", "resource", "master_clock_rate", "fpga", "fw",
    "recv_frame_size", "recv_buff_size", "num_recv_frames", "send_frame_size", "send_buff_size", "num_send_frames",
    "mgmt_addr", "mcr", "system_ref_rate", "dboard_clock_rate", "ignore_cal_file", "mode_n",
}  # fmt: skip


@dataclass(frozen=True)
class UsrpOptions:
    """Options of a `uhd:` URI beyond UHD's own device arguments; see the module's documentation.

    Raises:
        RadioError: a value is out of range.
    """

    center_hz: float | None = None
    bandwidth_hz: float | None = None
    tx_gain_db: float | None = None
    rx_gain_db: float | None = None
    rx_offset_hz: float = 0.0
    lo_offset_hz: float | None = None
    trim_ppm: float = 0.0
    tx_antenna: str | None = None
    rx_antenna: str | None = None
    tx_subdev: str | None = None
    rx_subdev: str | None = None
    clock_source: str | None = None
    time_source: str | None = None
    wire: str = "sc16"
    timeout_s: float = 10.0
    rx: int = 1

    def __post_init__(self) -> None:
        if self.rx not in (1, 2):
            raise RadioError(f"uhd: rx = {self.rx} antennas; 1, or 2 of a USRP with two frontends or of two USRPs")
        if self.wire not in WIRE_FORMATS:
            raise RadioError(f"uhd: wire = '{self.wire}' is unknown; {did_you_mean(self.wire, WIRE_FORMATS)}")
        if not 0.1 <= self.timeout_s <= 600.0:
            raise RadioError(f"uhd: timeout_s = {self.timeout_s:g} is outside 0.1..600")
        for name in ("rx_offset_hz", "lo_offset_hz"):
            if not abs(getattr(self, name) or 0.0) <= 100e6:
                raise RadioError(f"uhd: {name} = {getattr(self, name):g} is outside +-100 MHz")
        if not abs(self.trim_ppm) <= 100.0:
            raise RadioError(f"uhd: trim_ppm = {self.trim_ppm:g} is outside +-100")


def parse_usrp(rest: str) -> tuple[str, UsrpOptions]:
    """Split what follows `uhd:` into UHD's device arguments and our options.

    Raises:
        RadioError: an option is misspelt, given twice, or out of range.

    >>> parse_usrp("type=b200,rx_gain_db=20,serial=30F1A2B")
    ('type=b200,serial=30F1A2B', UsrpOptions(center_hz=None, bandwidth_hz=None, tx_gain_db=None, rx_gain_db=20.0, ...
    """
    args, ours = split_arguments(rest, option_readers(UsrpOptions), "uhd:type=b200", _UHD_KEYS)
    for item in args:
        if set(item) & set(";\"'"):
            raise RadioError(f"uhd: '{item}' has a value that UHD can't read; as in uhd:type=b200,serial=30F1A2B")
    return ",".join(args), UsrpOptions(**ours)


class UsrpRadio(ContextRadio):
    """A USRP; a context manager. Its time is the device's clock, in seconds.

    Args:
        rest: what follows `uhd:` in the URI.
        settings: how to set it; the URI's options win.
        layout: layout that will travel over it.

    Raises:
        RadioError: UHD or the device is missing, busy, not ours to use or of the wrong firmware; a setting is out of
            range; an oscillator or a reference doesn't lock.
    """

    capabilities = RadioCapabilities(cyclic=True, has_time=True)
    link_class = UhdLink

    def __init__(self, rest: str, settings: RadioSettings, layout: FrameLayout | None = None) -> None:
        self._args, self._options = self.parse(rest)
        super().__init__(tuned(settings, self._options), layout)
        self._cyclic = False
        self._stream_gaps = 0
        self._pending_s = 0.0
        self.about: dict[str, Any] = {}
        self.capabilities = replace(self.capabilities, antennas=self._options.rx)
        self._link = self.link_class(self.settings.uri, self._args)
        try:
            self._set("open", self.settings)
        except BaseException:
            self.close()
            raise

    def parse(self, rest: str) -> tuple[str, UsrpOptions]:
        """Split what follows the scheme into the driver's arguments and our options."""
        return parse_usrp(rest)

    # Settings

    def _set(self, what: str, settings: RadioSettings) -> None:
        options = {k: v for k, v in asdict(self._options).items() if v is not None}
        request = {k: v for k, v in asdict(settings).items() if k != "uri"}
        request |= {"do": what, "args": self._args, "options": options, "timeout_s": self._options.timeout_s}
        self.about = self._link.ask(request, (OPEN_S if what == "open" else 5.0) + 6 * self._options.timeout_s)
        self.settings = replace(settings, rate_sps=self.about["rate_sps"])

    def apply(self, settings: RadioSettings) -> None:
        """Set rate, bandwidth, oscillators and gains, muted; what was being transmitted ends.

        Raises:
            RadioError: a setting is out of the device's range, or an oscillator doesn't lock.
        """
        self._check_open()
        self._cyclic = False
        self._set("apply", replace(tuned(settings, UsrpOptions()), uri=self.settings.uri))

    def rx_limits(self) -> dict[str, tuple[float, float]]:
        """Return the limits of the receiver's carrier and gain."""
        return {name: (low, high) for name, (low, high) in self.about["rx_limits"].items()}

    def tune_receiver(self, center_hz: float, rx_gain_db: float) -> None:
        """Set carrier and gain of the receiver alone.

        Raises:
            RadioError: a value is out of the device's range, or the oscillator doesn't lock.
        """
        self._check_open()
        options = {k: v for k, v in asdict(self._options).items() if v is not None}
        request = {"do": "tune", "center_hz": center_hz, "rx_gain_db": rx_gain_db, "options": options}
        self.about = self._link.ask(request, 5.0 + self._options.timeout_s)
        self.settings = replace(self.settings, center_hz=center_hz, rx_gain_db=rx_gain_db)

    @property
    def trim_ppm(self) -> float:
        """Amount by which the carriers are tuned lower."""
        return self._options.trim_ppm

    @property
    def process_id(self) -> int:
        """Process id of the process that holds the device."""
        return self._link.pid

    @property
    def temperature_c(self) -> float | None:
        """Temperature in degrees Celsius, where the USRP has a thermometer; the warmest one."""
        self._check_open()
        return self._link.ask({"do": "temperature"})["temperature_c"]

    def now_s(self) -> float:
        """Return the time of the device's clock."""
        self._check_open()
        return float(self._link.ask({"do": "now"})["now_s"])

    # Transmitting

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False, at_s: float | None = None) -> None:
        """Send samples as one burst with zeros before and after; what was being transmitted before ends.

        A cyclic transmission goes on until the next call, `apply` or `close`. A single one is over, and the
        transmitter muted, when this returns; unless it was given a time, then `finish_transmit` waits for it.

        Args:
            at_s: device time of the first sample; as soon as may be if None.

        Raises:
            RadioError: the samples don't fit, came late or too slowly (underrun), got lost, or the device vanished.
        """
        self._check_transmit(samples, cyclic)
        if cyclic and at_s is not None:
            raise RadioError("a cyclic transmission starts at once; leave the time out")
        self._link.ask({"do": "transmit", "cyclic": cyclic, "at_s": at_s}, 5.0 + self._pending_s, samples)
        self._cyclic = cyclic
        self._pending_s = samples.size / self.settings.rate_sps + 2.0
        if not cyclic:
            self._pending_s += 0.0 if at_s is None else max(0.0, at_s - self.now_s())
            if at_s is None:
                self.finish_transmit()

    def finish_transmit(self) -> None:
        """Wait until a burst that was given a time is over; a cyclic transmission is ended.

        Raises:
            RadioError: as `transmit`.
        """
        self._check_open()
        if self._cyclic:
            self._link.ask({"do": "stop"}, 5.0 + self._pending_s)
        outcome = self._link.ask({"do": "finish"}, 5.0 + self._pending_s)
        self._pending_s = 0.0
        cyclic, self._cyclic = self._cyclic, False
        self._check_transmission(outcome, cyclic)

    def mute(self) -> None:
        """End what is being transmitted."""
        self._check_open()
        self._link.ask({"do": "stop"}, 5.0 + self._pending_s)
        self._cyclic, self._pending_s = False, 0.0

    def _check_transmission(self, burst: dict[str, Any], cyclic: bool) -> None:
        device = self._link.device
        if "error" in burst:
            raise RadioError(self._link.explain(burst["error"]))
        if "stalled" in burst:
            raise RadioError(
                f"the {device} took {burst['stalled']} samples, then no more; check its cable and power, and "
                "open it again"
            )
        if burst["late"] and not cyclic:  # what repeats has no time that it could miss
            raise RadioError(
                f"late burst: its time had passed when it reached the {device}, so it was not sent; ask for a later "
                "time"
            )
        if burst["underruns"]:
            raise RadioError(
                f"underrun: samples came too late {burst['underruns']} times, so the transmission has gaps; "
                "lower the rate, or end other programs"
            )
        if burst["lost"]:
            raise RadioError(
                f"{burst['lost']} packets got lost on their way to the {device}; check the cable, and raise "
                "send_buff_size"
            )
        if not burst["acknowledged"] and not cyclic:
            raise RadioError(f"the {device} never confirmed the end of the burst; check its cable, and open it again")

    # Receiving

    def receive(self, num_samples: int | None = None, at_s: float | None = None) -> Recording:
        """Capture samples that arrive after this call began, or from the device time `at_s` on.

        Samples that got lost on the way are zeros, so that the rest keeps its place; `health.overflows` counts the
        gaps.

        Raises:
            RadioError: the device vanished, or `at_s` had passed; where samples had arrived, a `BrokenCapture` that
                holds them.
        """
        self._check_receive(num_samples)
        assert num_samples is not None
        samples = np.zeros((self._options.rx, num_samples), np.complex64)
        utc = utc_now()
        wait_s = 0.0 if at_s is None else max(0.0, at_s - self.now_s())
        summary: dict[str, Any] = {}
        request = {"do": "receive", "num_samples": num_samples, "at_s": at_s}
        done = 0
        try:
            for position, piece in self._link.capture(request, ANSWER_S + wait_s, summary):
                channels = piece.reshape(len(samples), -1)
                done = position + channels.shape[1]
                samples[:, position:done] = channels
        except RadioError as error:
            raise self._broken(error, samples[:, :done], utc) from None
        np.clip(samples.view(np.float32), -1.0, 1.0, out=samples.view(np.float32))
        gaps = summary["transmission"].get("underruns", 0) + summary["transmission"].get("lost", 0)
        overflows = summary["overflows"] + summary["dropped"]
        step_db = summary["gain_step_db"]
        found = [measure_health(each, overflows, step_db, transmit_gaps=gaps) for each in samples]
        return self._judged(samples, utc, found)

    def stream(self, block_samples: int = 1 << 16) -> Iterator[NDArray[np.complex64]]:
        """Yield blocks of complex64 (block_samples,), without end; zeros where samples got lost. Close it to stop.

        Of two antennas blocks are (2, block_samples).

        Raises:
            RadioError: the device vanished.
        """
        self._check_open()
        self._stream_gaps = 0
        request = {"do": "receive", "num_samples": None, "at_s": None}
        rx = self._options.rx
        block, filled, done = np.zeros((rx, block_samples), np.complex64), 0, 0
        for position, piece in self._link.capture(request, ANSWER_S, {}):
            self._stream_gaps += position > done
            channels = piece.reshape(rx, -1)
            for part in (np.zeros((rx, position - done), np.complex64), channels):
                taken, size = 0, part.shape[1]
                while taken < size:
                    count = min(size - taken, block_samples - filled)
                    block[:, filled : filled + count] = part[:, taken : taken + count]
                    filled, taken = filled + count, taken + count
                    if filled == block_samples:
                        yield block if rx > 1 else block[0]
                        block, filled = np.zeros((rx, block_samples), np.complex64), 0
            done = position + channels.shape[1]

    def overflows(self) -> int:
        """Return the number of gaps in the present or last stream."""
        return self._stream_gaps

    def close(self) -> None:
        """End what is being transmitted, mute, and let go of the device; a second call does nothing."""
        super().close()
        self._link.close()


def _open_usrp(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> UsrpRadio:
    return UsrpRadio(rest, settings, layout)


DRIVER = Driver(parse_usrp, _open_usrp)
