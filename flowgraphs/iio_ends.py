"""Make a Pluto an end of a flowgraph, through gr-iio: `pluto:ip:192.168.2.1,center_hz=2.45e9,tx_gain_db=-20`.

The address and its options are those of `sdr.radios.pluto`, and so is full scale: 1.0 is 2**14 counts sent and 2**11
counts received, where gr-iio alone would send 2**15.
"""

import contextlib
import time

from gnuradio import blocks, gr, iio

from sdr.errors import FlowgraphError, RadioError
from sdr.radios.pluto import MAX_TX_SAMPLES, MUTED_DB, TX_SCALE, parse_pluto, pluto_settings
from sdr.settings import RadioSettings

SOURCE_BUFFER_SAMPLES = 1 << 15
STREAM_BUFFER_FRAMES = 2
_GNURADIO_SCALE = 32768.0
_SETTLE_S = 0.1
"""From the last sample's arrival at the sink until it is surely on the air."""


def _address(rest: str, rate_sps: float) -> tuple[str, RadioSettings, float]:
    """Return libiio's URI, the settings, and the receiver's carrier."""
    uri, options = parse_pluto(rest)
    settings = pluto_settings(RadioSettings(uri=f"pluto:{rest}", rate_sps=rate_sps), options)
    return uri, settings, settings.center_hz + options.rx_offset_hz


def _unusable(uri: str, error: RuntimeError) -> RadioError:
    return RadioError(f"gr-iio can't use {uri} ({' '.join(str(error).split())}); check address, cable and `ota doctor`")


class PlutoSink:
    """The transmitter of a Pluto; stands where `flowgraphs.process.Sink` does.

    With a known number of samples they repeat until the process ends; without, they are sent as they come, in buffers
    of whole frames. The transmitter is muted while it is tuned and at the end.

    Attributes:
        block: the GNU Radio block.
        address: as it was given.
        to_file: False.
    """

    to_file = False

    def __init__(self, rest: str, rate_sps: float, frame_samples: int, total_samples: int | None) -> None:
        self.address = f"pluto:{rest}"
        uri, settings, _ = _address(rest, rate_sps)
        self._total = total_samples
        if total_samples is not None and total_samples > MAX_TX_SAMPLES:
            raise FlowgraphError(
                f"a Pluto repeats at most {MAX_TX_SAMPLES} samples, found {total_samples}; send fewer frames"
            )
        if total_samples is not None and total_samples % 2:
            raise FlowgraphError(f"a Pluto takes samples in pairs, found {total_samples}; add a trailing sample")
        buffer_samples = STREAM_BUFFER_FRAMES * frame_samples if total_samples is None else total_samples
        try:
            sink = iio.fmcomms2_sink_fc32(uri, [True, True], buffer_samples, total_samples is not None)
            sink.set_len_tag_key("")
            sink.set_attenuation(0, -MUTED_DB)
            sink.set_samplerate(round(rate_sps))
            sink.set_bandwidth(round(settings.bandwidth_hz or rate_sps))
            sink.set_frequency(round(settings.center_hz))
            sink.set_filter_params("Auto", "", 0.0, 0.0)
            sink.set_attenuation(0, -settings.tx_gain_db)
        except RuntimeError as error:
            raise _unusable(uri, error) from None
        self._sink, self._gain_db = sink, settings.tx_gain_db
        self._scale = blocks.multiply_const_cc(TX_SCALE / _GNURADIO_SCALE)
        self.block = gr.hier_block2("pluto_sink", gr.io_signature(1, 1, gr.sizeof_gr_complex), gr.io_signature(0, 0, 0))
        self.block.connect(self.block, self._scale, sink)
        self._complete: float | None = None

    def num_samples(self) -> int:
        """Return how many samples went in so far."""
        return self._scale.nitems_read(0)

    def limits(self) -> dict[str, tuple[float, float]]:
        """Return the limits of the gain; gr-iio doesn't tell those of the carrier."""
        return {"tx_gain_db": (MUTED_DB, 0.0)}

    def set(self, name: str, value: float) -> None:
        """Set `tx_gain_db`, or `center_hz`, muted meanwhile.

        Raises:
            RadioError: another name, or the device refuses.
        """
        try:
            if name == "tx_gain_db":
                self._gain_db = value
            elif name == "center_hz":
                self._sink.set_attenuation(0, -MUTED_DB)
                self._sink.set_frequency(round(value))
            else:
                raise RadioError(f"{self.address}, transmitting, has no {name}")
            self._sink.set_attenuation(0, -self._gain_db)
        except RuntimeError as error:
            raise _unusable(self.address, error) from None

    def lost(self) -> int:
        """Return 0: it hears nothing."""
        return 0

    def ready(self) -> bool:
        """Return whether all that shall repeat is on the air."""
        if self._total is None:
            return True
        if self.num_samples() < self._total:
            return False
        if self._complete is None:
            self._complete = time.monotonic()
        return time.monotonic() - self._complete > _SETTLE_S

    def finish(self, total_samples: int | None) -> None:
        """Mute the transmitter. A device that is gone is silent already."""
        with contextlib.suppress(RuntimeError):
            self._sink.set_attenuation(0, -MUTED_DB)


def make_sink(rest: str, rate_sps: float, frame_samples: int, total_samples: int | None) -> PlutoSink:
    """Return the transmitter of a Pluto, as `PlutoSink` describes it."""
    return PlutoSink(rest, rate_sps, frame_samples, total_samples)


def make_source(rest: str, rate_sps: float) -> gr.basic_block:
    """Return the receiver of a Pluto, gain by hand; what may be older than the settings is skipped.

    Raises:
        RadioError: the address is wrong or the device can't be used.
    """
    uri, settings, rx_hz = _address(rest, rate_sps)
    try:
        source = iio.fmcomms2_source_fc32(uri, [True, True], SOURCE_BUFFER_SAMPLES)
        source.set_len_tag_key("")
        source.set_samplerate(round(rate_sps))
        source.set_frequency(round(rx_hz))
        source.set_filter_params("Auto", "", 0.0, 0.0)
        source.set_gain_mode(0, "manual")
        source.set_gain(0, settings.rx_gain_db)
    except RuntimeError as error:
        raise _unusable(uri, error) from None
    block = gr.hier_block2("pluto_source", gr.io_signature(0, 0, 0), gr.io_signature(1, 1, gr.sizeof_gr_complex))
    # Four kernel buffers and the one being filled.
    block.connect(source, blocks.skiphead(gr.sizeof_gr_complex, 5 * SOURCE_BUFFER_SAMPLES), block)
    return block
