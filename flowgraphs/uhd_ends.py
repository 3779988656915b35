"""Make a USRP an end of a flowgraph, through gr-uhd: `uhd:type=b200,center_hz=2.45e9,tx_gain_db=10`.

The address and its options are those of `sdr.radios.usrp`, and so is full scale. A USRP belongs to one process: a
flowgraph that transmits through one can't run beside the Python driver that receives with the same one, but can
receive with it itself (`UsrpSink.hear`).
"""

import contextlib
import time
from collections.abc import Callable

from gnuradio import blocks, gr, uhd

from sdr.errors import RadioError
from sdr.radios.base import tuned
from sdr.radios.uhd_host import claim_usrp, explain_uhd
from sdr.radios.usrp import UsrpOptions, parse_usrp
from sdr.settings import RadioSettings

BURST_TAG = "packet_len"
SETTLE_S = 0.05
"""Received samples from the first so long after the start are dropped: filters and mixers settle."""

_claims: dict[str, contextlib.ExitStack] = {}  # closed by the end of the process, which is when the device is free


def _open(rest: str, rate_sps: float, transmit: bool, burst_tag: str) -> tuple[gr.basic_block, RadioSettings]:
    """Return the block, set and locked, a sink muted; and the settings.

    Raises:
        RadioError: the device can't be used, or a setting is out of its range.
    """
    args, options = parse_usrp(rest)
    if options.rx > 1:
        raise RadioError(f"uhd: GNU Radio drives one channel of a USRP; leave out rx={options.rx}, and name one USRP")
    settings = tuned(RadioSettings(uri=f"uhd:{rest}", rate_sps=rate_sps), options)
    if args not in _claims:
        with contextlib.ExitStack() as claim:
            claim.enter_context(claim_usrp(args))
            _claims[args] = claim.pop_all()
    stream = uhd.stream_args(cpu_format="fc32", otw_format=options.wire, channels=[0])
    try:
        block = uhd.usrp_sink(args, stream, burst_tag) if transmit else uhd.usrp_source(args, stream)
        if transmit:
            block.set_gain(block.get_gain_range().start())
        _check_wire(block, options.wire)
        _apply(block, settings, options, transmit)
    except RuntimeError as error:
        raise RadioError(explain_uhd(str(error), "", args)) from None
    return block, settings


def _apply(block: gr.basic_block, settings: RadioSettings, options: UsrpOptions, transmit: bool) -> None:
    """Set everything but the transmit gain, and wait for the locks."""
    subdev, antenna = (options.tx_subdev, options.tx_antenna) if transmit else (options.rx_subdev, options.rx_antenna)
    if subdev is not None:
        block.set_subdev_spec(subdev)
    if options.clock_source is not None:
        _choose("clock_source", options.clock_source, block.get_clock_sources(0))
        block.set_clock_source(options.clock_source)
        if options.clock_source != "internal" and "ref_locked" in block.get_mboard_sensor_names():
            _wait("the reference", lambda: block.get_mboard_sensor("ref_locked").to_bool(), options.timeout_s)
    if options.time_source is not None:
        _choose("time_source", options.time_source, block.get_time_sources(0))
        block.set_time_source(options.time_source)
    if antenna is not None:
        _choose("antenna", antenna, block.get_antennas())
        block.set_antenna(antenna)
    block.set_samp_rate(settings.rate_sps)
    if abs(block.get_samp_rate() - settings.rate_sps) > 1e-6 * settings.rate_sps:
        raise RadioError(
            f"uhd: rate_sps = {settings.rate_sps:g} is none that this USRP can do; the nearest is "
            f"{block.get_samp_rate():.10g}"
        )
    _tune(block, settings.center_hz, options, transmit)
    if settings.bandwidth_hz is not None:
        _check("bandwidth_hz", settings.bandwidth_hz, block.get_bandwidth_range())
        block.set_bandwidth(settings.bandwidth_hz)
    _check("gain", settings.tx_gain_db if transmit else settings.rx_gain_db, block.get_gain_range())
    if not transmit:
        block.set_gain(settings.rx_gain_db)


def _tune(block: gr.basic_block, center_hz: float, options: UsrpOptions, transmit: bool) -> None:
    """Set the carrier, and wait for the lock."""
    carrier_hz = (center_hz + (0.0 if transmit else options.rx_offset_hz)) * (1 - 1e-6 * options.trim_ppm)
    _check("center_hz", carrier_hz, block.get_freq_range())
    request = uhd.tune_request
    offset_hz = options.lo_offset_hz
    block.set_center_freq(request(carrier_hz) if offset_hz is None else request(carrier_hz, offset_hz))
    if "lo_locked" in block.get_sensor_names():
        _wait("the oscillator", lambda: block.get_sensor("lo_locked").to_bool(), options.timeout_s)


def _limits(allowed: uhd.meta_range_t) -> tuple[float, float]:
    return allowed.start(), allowed.stop()


def _check_wire(block: gr.basic_block, wire: str) -> None:
    """Refuse a wire format before gr-uhd would abort the process with it, in a thread of its own."""
    device = block.get_usrp_info(0).get("mboard_id")
    if wire == "sc12" and device.startswith(("N200", "N210", "USRP2")):
        raise RadioError(f"the USRP ({device}) can't send samples as sc12; use wire=sc16")


def _choose(what: str, wanted: str, known: tuple[str, ...]) -> None:
    if wanted not in known:
        raise RadioError(f"uhd: {what} '{wanted}' is not on this USRP; choose from {', '.join(known)}")


def _check(what: str, wanted: float, allowed: uhd.meta_range_t) -> None:
    low, high = allowed.start(), allowed.stop()
    if not low - 1e-9 <= wanted <= high + 1e-9:
        raise RadioError(f"uhd: {what} = {wanted:g} is outside {low:g}..{high:g} of this USRP")


def _wait(what: str, locked: Callable[[], bool], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not locked():
        if time.monotonic() > deadline:
            raise RadioError(f"uhd: {what} didn't lock within {timeout_s:g} s; check its source, then power-cycle")
        time.sleep(0.01)


class UsrpSink:
    """The transmitter of a USRP; stands where `flowgraphs.process.Sink` does.

    With a known number of samples they are collected, then repeat until the process ends; without, every frame is
    sent as a burst of its own as it comes, so that a pause between frames is no underrun. The transmitter is muted
    while it is tuned and at the end.

    Attributes:
        block: the GNU Radio block.
        address: as it was given.
        to_file: False.
    """

    to_file = False

    def __init__(self, rest: str, rate_sps: float, frame_samples: int, total_samples: int | None) -> None:
        self.address = f"uhd:{rest}"
        self._total = total_samples
        self._sink, settings = _open(rest, rate_sps, True, "" if total_samples is not None else BURST_TAG)
        self._rest, self._rate_sps, self._options = rest, rate_sps, parse_usrp(rest)[1]
        self._gain_db = settings.tx_gain_db
        self._source: gr.basic_block | None = None
        self._gaps: gr.basic_block | None = None
        self._repeating: gr.top_block | None = None
        self._count = blocks.copy(gr.sizeof_gr_complex)
        self.block = gr.hier_block2("usrp_sink", gr.io_signature(1, 1, gr.sizeof_gr_complex), gr.io_signature(0, 0, 0))
        if total_samples is None:
            bursts = blocks.stream_to_tagged_stream(gr.sizeof_gr_complex, 1, frame_samples, BURST_TAG)
            # A burst larger than a buffer would wait for ever.
            for block in (self._count, bursts):
                block.set_min_output_buffer(2 * frame_samples)
            self.block.connect(self.block, self._count, bursts, self._sink)
            self._sink.set_gain(self._gain_db)
        else:
            self._collected = blocks.vector_sink_c(1, total_samples)
            self.block.connect(self.block, self._count, self._collected)

    def hear(self, top: gr.top_block, sink: gr.basic_block) -> None:
        """Send what this USRP receives to a block, too.

        Raises:
            RadioError: a setting of the receiver is out of the device's range.
        """
        self._source, _ = _open(self._rest, self._rate_sps, False, "")
        # gr-uhd tags the first sample, and each first one after a gap, with its time.
        gaps = blocks.tag_debug(gr.sizeof_gr_complex, "heard", "rx_time")
        gaps.set_display(False)
        gaps.set_save_all(True)
        top.connect(self._source, sink)
        top.connect(self._source, gaps)
        self._gaps = gaps

    def lost(self) -> int:
        """Return the number of gaps in what it hears."""
        return 0 if self._gaps is None else max(0, len(self._gaps.current_tags()) - 1)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the limits of gains and carrier."""
        found = {
            "tx_gain_db": _limits(self._sink.get_gain_range()),
            "center_hz": _limits(self._sink.get_freq_range()),
        }
        return found if self._source is None else {**found, "rx_gain_db": _limits(self._source.get_gain_range())}

    def set(self, name: str, value: float) -> None:
        """Set `tx_gain_db`; `center_hz` of transmitter and receiver, muted meanwhile; `rx_gain_db` where it hears.

        Raises:
            RadioError: another name, or a value out of range.
        """
        if name == "tx_gain_db":
            _check(name, value, self._sink.get_gain_range())
            self._gain_db = value
        elif name == "center_hz":
            self._sink.set_gain(self._sink.get_gain_range().start())
            _tune(self._sink, value, self._options, True)
            if self._source is not None:
                _tune(self._source, value, self._options, False)
        elif name == "rx_gain_db" and self._source is not None:
            _check(name, value, self._source.get_gain_range())
            self._source.set_gain(value)
            return
        else:
            raise RadioError(f"{self.address}, transmitting, has no {name}")
        self._sink.set_gain(self._gain_db)

    def num_samples(self) -> int:
        """Return how many samples went in so far."""
        return self._count.nitems_read(0)

    def ready(self) -> bool:
        """Return whether all that shall repeat is on the air; it is put there when it is complete."""
        if self._total is None or self._repeating is not None:
            return True
        if self.num_samples() < self._total or len(self._collected.data()) < self._total:
            return False
        self._sink.set_gain(self._gain_db)
        repeating = gr.top_block("usrp_repeat", catch_exceptions=False)
        repeating.connect(blocks.vector_source_c(self._collected.data(), True), self._sink)
        repeating.start()
        self._repeating = repeating
        time.sleep(SETTLE_S)
        return True

    def finish(self, total_samples: int | None) -> None:
        """Mute the transmitter. A device that is gone is silent already."""
        with contextlib.suppress(RuntimeError):
            self._sink.set_gain(self._sink.get_gain_range().start())
        if self._repeating is not None:
            self._repeating.stop()
            self._repeating.wait()


def make_sink(rest: str, rate_sps: float, frame_samples: int, total_samples: int | None) -> UsrpSink:
    """Return the transmitter of a USRP, as `UsrpSink` describes it.

    Raises:
        RadioError: the address is wrong or the device can't be used.
    """
    return UsrpSink(rest, rate_sps, frame_samples, total_samples)


def make_source(rest: str, rate_sps: float) -> gr.basic_block:
    """Return the receiver of a USRP, without the samples of the first `SETTLE_S`.

    Raises:
        RadioError: the address is wrong or the device can't be used.
    """
    source, _ = _open(rest, rate_sps, False, "")
    block = gr.hier_block2("usrp_source", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
    block.connect(source, blocks.skiphead(gr.sizeof_gr_complex, round(SETTLE_S * rate_sps)), block)
    return block
