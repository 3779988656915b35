"""Drive an ADALM-Pluto, through pyadi-iio and libiio: `pluto:ip:192.168.2.1` or `pluto:usb:`.

What follows `pluto:` is libiio's own URI; options may follow it, separated by commas:
`pluto:ip:192.168.2.1,center_hz=2.45e9,tx_gain_db=-20,rx_gain_db=30`. They win over the `RadioSettings` given.

A Pluto has no clock that a host could read, keeps some buffers full of samples in its kernel, and says nothing when it
drops samples in between unless asked. So every capture starts with a fresh buffer and discards what a kernel may have
kept; a capture of up to `BURST_SAMPLES` comes as one buffer, which is contiguous; a longer one comes in blocks, and
the converter's overflow flag shows whether one is missing.

With `rx=2` both receivers of a Pluto Rev C, or of another AD9361 in its 2r2t mode, are recorded at once.

The transmitter is muted (greatest attenuation) whenever nothing is being transmitted: before anything is retuned, and
when the radio is closed, however that comes about.
"""

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError
from sdr.layout import FrameLayout
from sdr.options import option_readers, parse_options
from sdr.radios import libiio
from sdr.radios.base import ContextRadio, Driver, RadioCapabilities, tuned
from sdr.recordings.health import measure_health
from sdr.recordings.recording import Recording, utc_now
from sdr.settings import RadioSettings

TX_SCALE = 16384.0
"""Counts that 1.0 becomes: pyadi-iio's full scale, half of the DAC's."""

RX_FULL_SCALE = 2048.0
"""Counts of the 12-bit ADC that become 1.0."""

MUTED_DB = -89.75
"""Lowest transmit gain that the device has."""

BURST_SAMPLES = 1 << 20
"""Longest capture that comes in one buffer, and longest buffer to transmit."""

BLOCK_SAMPLES = 1 << 18
"""Samples of a buffer of longer captures."""

MAX_TX_SAMPLES = 1 << 22
"""Longest transmission that the device repeats."""

RATE_LIMITS_SPS = (521e3, 61.44e6)
_DISCARD_SAMPLES = 4096


@dataclass(frozen=True)
class PlutoOptions:
    """Options of a `pluto:` URI beyond libiio's own URI.

    Args:
        center_hz: as in `RadioSettings`, in place of what stands there.
        bandwidth_hz: likewise.
        tx_gain_db: likewise.
        rx_gain_db: likewise.
        rx_offset_hz: the receiver is tuned so much higher than the transmitter.
        xo_correction_hz: what the device shall take its crystal's frequency for, 40e6 nominally; as it is, if None. It
            scales carriers and sampling clock, and stays until it is set anew or the device restarts.
        kernel_buffers: buffers in the device's kernel, 1..16.
        timeout_s: longest wait for an answer of the device, beyond the time that the samples themselves take.
        rx: receiving antennas, 1 or 2.

    Raises:
        RadioError: a value is out of range.
    """

    center_hz: float | None = None
    bandwidth_hz: float | None = None
    tx_gain_db: float | None = None
    rx_gain_db: float | None = None
    rx_offset_hz: float = 0.0
    xo_correction_hz: float | None = None
    kernel_buffers: int = 4
    timeout_s: float = 10.0
    rx: int = 1

    def __post_init__(self) -> None:
        if self.rx not in (1, 2):
            raise RadioError(f"pluto: rx = {self.rx} antennas; a Pluto has 1, or 2 in its 2r2t mode")
        if not 1 <= self.kernel_buffers <= 16:
            raise RadioError(f"pluto: kernel_buffers = {self.kernel_buffers} is outside 1..16")
        if not 0.1 <= self.timeout_s <= 600.0:
            raise RadioError(f"pluto: timeout_s = {self.timeout_s:g} is outside 0.1..600")
        if not abs(self.rx_offset_hz) <= 20e6:
            raise RadioError(f"pluto: rx_offset_hz = {self.rx_offset_hz:g} is outside +-20 MHz")


def parse_pluto(rest: str) -> tuple[str, PlutoOptions]:
    """Split what follows `pluto:` into libiio's URI and our options.

    Raises:
        RadioError: it is no URI of libiio, or an option is unknown or out of range.

    >>> parse_pluto("ip:192.168.2.1,tx_gain_db=-20")[1].tx_gain_db
    -20.0
    """
    uri, _, options = rest.partition(",")
    if not uri.startswith(("ip:", "usb:")) or not uri.removeprefix("ip:").strip():
        raise RadioError(f"pluto: needs libiio's address, as in pluto:ip:192.168.2.1 or pluto:usb:, found '{rest:.80}'")
    return uri, PlutoOptions(**parse_options(options, option_readers(PlutoOptions), "pluto:", RadioError))


def pluto_settings(settings: RadioSettings, options: PlutoOptions) -> RadioSettings:
    """Return settings in which a URI's options win, after checking the limits that all Plutos have.

    Raises:
        RadioError: a setting that no Pluto has.
    """
    settings = tuned(settings, options)
    low, high = RATE_LIMITS_SPS
    if not low <= settings.rate_sps <= high or settings.rate_sps != round(settings.rate_sps):
        raise RadioError(
            f"a Pluto samples at a whole number of {low:g}..{high:g} samples/s, found {settings.rate_sps:g}; "
            "use a layout of another rate"
        )
    if not MUTED_DB <= settings.tx_gain_db <= 0:
        raise RadioError(
            f"a Pluto only attenuates: tx_gain_db must be {MUTED_DB}..0 dB, found {settings.tx_gain_db:g}; "
            "0 is full power, -20 is 20 dB less"
        )
    return settings


class PlutoRadio(ContextRadio):
    """A Pluto; a context manager. Also streams: `stream`.

    Args:
        rest: what follows `pluto:` in the URI.
        settings: how to set it; the URI's options win.
        layout: layout that will travel over it.

    Attributes:
        sdr: pyadi-iio's object, None when closed.

    Raises:
        RadioError: no device, no driver, no permission, a busy device, an answer that isn't a Pluto's, or a setting
            out of range.
    """

    capabilities = RadioCapabilities(cyclic=True)

    def __init__(self, rest: str, settings: RadioSettings, layout: FrameLayout | None = None) -> None:
        self._address, self._options = parse_pluto(rest)
        super().__init__(pluto_settings(settings, self._options), layout)
        self.capabilities = replace(self.capabilities, antennas=self._options.rx)
        self._layout = layout
        self.sdr: Any = None
        self._context: Any = None
        self._rx_buffer: Any = None
        self._limit_s = self._options.timeout_s
        adi, iio = libiio.import_driver()
        libiio.HUSH.begin()
        try:
            with self._talking("opening it"):
                context = self._context = iio.Context(self._address)
                self._set_timeout(context, 0.0)
                libiio.check_devices(self._address, context)
                self._adc = context.find_device("cf-ad9361-lpc")
                if self._options.rx > 1 and self._adc.find_channel("voltage2", False) is None:
                    raise RadioError(
                        f"{self._address} receives with one antenna; leave out rx=2, or set a Pluto Rev C to 2r2t "
                        "(docs/pluto.md)"
                    )
                self.sdr = self._driver(adi)(uri_ctx=context)
                self._dac = context.find_device("cf-ad9361-dds-core-lpc")
                for device in (self._adc, self._dac):
                    device.set_kernel_buffers_count(self._options.kernel_buffers)
            self.apply(self.settings)
        except BaseException:
            self.close()
            raise

    def _driver(self, adi: Any) -> type:
        """Return pyadi-iio's class of a Pluto with as many receivers as are used."""
        names = [f"voltage{index}" for index in range(2 * self._options.rx)]
        return type("Pluto", (adi.Pluto,), {"_rx_channel_names": names})

    # Settings

    def apply(self, settings: RadioSettings) -> None:
        """Set rate, bandwidth, oscillators and gains, muted; what was being transmitted ends.

        Raises:
            RadioError: a setting is out of the device's range, or the device didn't take it.
        """
        self._check_open()
        settings = pluto_settings(replace(settings, uri=self.settings.uri), PlutoOptions())
        self._silence()
        sdr = self.sdr
        bandwidth_hz = settings.bandwidth_hz if settings.bandwidth_hz is not None else max(settings.rate_sps, 200e3)
        rx_hz = settings.center_hz + self._options.rx_offset_hz
        with self._talking("setting it"):
            phy = sdr.ctx.find_device("ad9361-phy")
            if self._options.xo_correction_hz is not None:  # before whatever is derived from it
                crystal_hz = round(self._options.xo_correction_hz)
                available = phy.attrs["xo_correction_available"].value
                libiio.check_available("xo_correction_hz", crystal_hz, "Hz", available)
                phy.attrs["xo_correction"].value = str(crystal_hz)
            rx, tx = phy.find_channel("voltage0", False), phy.find_channel("voltage0", True)
            for oscillator, carrier_hz in (("altvoltage1", settings.center_hz), ("altvoltage0", rx_hz)):
                available = phy.find_channel(oscillator, True).attrs["frequency_available"].value
                libiio.check_available("center_hz", carrier_hz, "Hz", available)
            libiio.check_available("bandwidth_hz", bandwidth_hz, "Hz", rx.attrs["rf_bandwidth_available"].value)
            libiio.check_available("tx_gain_db", settings.tx_gain_db, "dB", tx.attrs["hardwaregain_available"].value)
            sdr.sample_rate = round(settings.rate_sps)
            sdr.rx_rf_bandwidth = sdr.tx_rf_bandwidth = round(bandwidth_hz)
            sdr.tx_lo, sdr.rx_lo = round(settings.center_hz), round(rx_hz)
            # The receive gain's range depends on the band, so it is asked after tuning.
            libiio.check_available("rx_gain_db", settings.rx_gain_db, "dB", rx.attrs["hardwaregain_available"].value)
            self._set_rx_gain(settings.rx_gain_db)
            found = {
                "rate_sps": (float(sdr.sample_rate), settings.rate_sps, 2.0),
                "center_hz": (float(sdr.tx_lo), settings.center_hz, 5.0),
                "receiver's center_hz": (float(sdr.rx_lo), rx_hz, 5.0),
                "rx_gain_db": (float(sdr.rx_hardwaregain_chan0), settings.rx_gain_db, 0.51),
            }
        for name, (value, wanted, tolerance) in found.items():
            if not abs(value - wanted) <= tolerance:
                raise RadioError(
                    f"{self._address} was set to {name} = {wanted:.10g} but says {value:.10g}; "
                    "another program may be using it, or its firmware is too old"
                )
        self.settings = settings

    def _set_rx_gain(self, rx_gain_db: float) -> None:
        """Set the gain of every receiver that is used, by hand."""
        phy = self.sdr.ctx.find_device("ad9361-phy")
        for index in range(self._options.rx):
            receiver = phy.find_channel(f"voltage{index}", False)
            receiver.attrs["gain_control_mode"].value = "manual"
            receiver.attrs["hardwaregain"].value = str(float(rx_gain_db))

    def rx_limits(self) -> dict[str, tuple[float, float]]:
        """Return the limits of the receiver's carrier and gain, as the device states them for its present band."""
        self._check_open()
        with self._talking("reading its limits"):
            phy = self.sdr.ctx.find_device("ad9361-phy")
            carrier = phy.find_channel("altvoltage0", True).attrs["frequency_available"].value
            gain = phy.find_channel("voltage0", False).attrs["hardwaregain_available"].value
            return {"center_hz": libiio.read_range(carrier), "rx_gain_db": libiio.read_range(gain)}

    def tune_receiver(self, center_hz: float, rx_gain_db: float) -> None:
        """Set carrier and gain of the receiver alone.

        Raises:
            RadioError: a value is out of the device's range.
        """
        limits = self.rx_limits()
        with self._talking("setting it"):
            rx_hz = center_hz + self._options.rx_offset_hz
            libiio.check_range("center_hz", rx_hz, "Hz", limits["center_hz"])
            libiio.check_range("rx_gain_db", rx_gain_db, "dB", limits["rx_gain_db"])
            self.sdr.rx_lo = round(rx_hz)
            self._set_rx_gain(rx_gain_db)
        self.settings = replace(self.settings, center_hz=center_hz, rx_gain_db=rx_gain_db)

    # Transmitting

    def transmit(self, samples: NDArray[np.complex64], cyclic: bool = False) -> None:
        """Send samples; what was being transmitted before ends.

        A cyclic transmission goes on until the next call, `apply` or `close`. A single one is over, and the
        transmitter muted, when this returns.

        Args:
            samples: complex64 (n,), magnitude at most 1. Cyclic: at most `MAX_TX_SAMPLES`, and a whole number of
                frames if the radio was opened with a layout, so that the repetition doesn't cut one.

        Raises:
            RadioError: the samples don't fit, the connection broke, or the samples came too late (underrun).
        """
        self._check_transmit(samples, cyclic)
        if cyclic and self._layout is not None and samples.size % self._layout.frame_samples:
            raise RadioError(
                f"a cyclic transmission must be a whole number of frames of {self._layout.frame_samples} samples, "
                f"found {samples.size}; leave the gap before the first frame out"
            )
        if cyclic and samples.size > MAX_TX_SAMPLES:
            raise RadioError(
                f"a Pluto repeats at most {MAX_TX_SAMPLES} samples, found {samples.size}; send fewer frames"
            )
        self._silence()
        counts = np.rint(samples.view(np.float32) * np.float32(TX_SCALE)).view(np.complex64)
        if cyclic:
            # The device moves 8 bytes at a time, two samples.
            self._start_cyclic(np.tile(counts, 2) if counts.size % 2 else counts)
        else:
            self._send_once(counts)

    def _start_cyclic(self, counts: NDArray[np.complex64]) -> None:
        self._set_timeout(self.sdr.ctx, 0.0)
        with self._talking("transmitting"):
            self.sdr.tx_cyclic_buffer = True
            self.sdr.tx(counts)
            self.sdr.tx_hardwaregain_chan0 = float(self.settings.tx_gain_db)

    def _send_once(self, counts: NDArray[np.complex64]) -> None:
        """Push all in buffers of one size, wait until they are out, mute."""
        block = min(BURST_SAMPLES, counts.size + counts.size % 2)
        padded = np.zeros(-(-counts.size // block) * block, np.complex64)
        padded[: counts.size] = counts
        rate_sps = self.settings.rate_sps
        self._set_timeout(self.sdr.ctx, block / rate_sps)
        try:
            with self._talking("transmitting"):
                self.sdr.tx_cyclic_buffer = False
                self.sdr.tx_hardwaregain_chan0 = float(self.settings.tx_gain_db)
                libiio.clear_status(self._dac)
                began = time.monotonic()
                for first in range(0, padded.size, block):
                    self.sdr.tx(padded[first : first + block])
                underrun = padded.size > block and bool(libiio.read_status(self._dac) & libiio.UNDERFLOW_BIT)
                # Destroying a buffer drops what is still queued in it. The first push may take a while itself.
                queued = min(padded.size, (self._options.kernel_buffers + 1) * block)
                time.sleep(
                    max(padded.size / rate_sps - (time.monotonic() - began), 0.0) + 0.02 + 0.1 * queued / rate_sps
                )
        finally:
            self._silence()
        if underrun:
            raise RadioError(
                f"underrun: samples came too late for {rate_sps:g} samples/s, so the transmission has gaps; "
                "lower the rate or send a shorter burst"
            )

    def _silence(self) -> None:
        """End what is being transmitted, muted first, and forget the receiver's buffer."""
        with self._talking("muting it"):
            self.sdr.tx_hardwaregain_chan0 = MUTED_DB
            self._destroy_buffers()

    def _make_rx_buffer(self, num_samples: int) -> None:
        """Make a new receive buffer in place of the old one."""
        self._destroy_rx_buffer()
        self.sdr.rx_buffer_size = num_samples
        self.sdr._rx_init_channels()
        self._rx_buffer = self.sdr._rxbuf

    def _destroy_rx_buffer(self) -> None:
        libiio.destroy_buffer(self._rx_buffer)
        self._rx_buffer = None
        self.sdr.rx_destroy_buffer()

    def _destroy_buffers(self) -> None:
        libiio.destroy_buffer(self.sdr._txbuf)
        self.sdr.tx_destroy_buffer()
        self._destroy_rx_buffer()

    def mute(self) -> None:
        """End what is being transmitted and attenuate as far as the device can.

        Raises:
            RadioError: the connection broke.
        """
        self._check_open()
        self._silence()

    # Receiving

    def receive(self, num_samples: int | None = None) -> Recording:
        """Capture samples taken after this call began.

        Raises:
            RadioError: the connection broke or the device fell silent; it says how many samples had come, and is a
                `BrokenCapture` that holds them.
        """
        self._check_receive(num_samples)
        assert num_samples is not None
        block = num_samples + num_samples % 2 if num_samples <= BURST_SAMPLES else BLOCK_SAMPLES
        samples = np.empty((self._options.rx, num_samples), np.complex64)
        done = 0
        with self._talking("reading its gain"):
            gain_before_db, lo_before_hz = float(self.sdr.rx_hardwaregain_chan0), self.sdr.rx_lo
        utc = utc_now()
        with contextlib.closing(self._blocks(block)) as blocks:
            while done < num_samples:
                try:
                    part = next(blocks)[:, : num_samples - done]
                except RadioError as error:
                    raise self._broken(error, samples[:, :done], utc) from None
                samples[:, done : done + part.shape[1]] = part
                done += part.shape[1]
            # One buffer is contiguous; the flag would be about what came after it.
            overflows = self.overflows() if num_samples > block else 0
        with self._talking("reading its gain"):
            step_db = float(self.sdr.rx_hardwaregain_chan0) - gain_before_db
            moved = self.sdr.rx_lo != lo_before_hz
        found = [measure_health(each, overflows, step_db, stale=bool(moved)) for each in samples]
        return self._judged(samples, utc, found)

    def stream(self, block_samples: int = BLOCK_SAMPLES) -> Generator[NDArray[np.complex64], None, None]:
        """Yield blocks of complex64 (block_samples,), contiguous unless `overflows` says otherwise; without end.

        Of two antennas blocks are (2, block_samples).

        A fresh buffer is made and (kernel buffers + 1) buffers are discarded first. Close the generator to stop.

        Raises:
            RadioError: the connection broke or the device fell silent.
        """
        with contextlib.closing(self._blocks(block_samples)) as blocks:
            for block in blocks:
                yield block if len(block) > 1 else block[0]

    def _blocks(self, block_samples: int) -> Generator[NDArray[np.complex64], None, None]:
        """Yield blocks of complex64 (antennas, block_samples); see `stream`."""
        self._check_open()
        sdr = self.sdr
        count = 0
        self._set_timeout(sdr.ctx, block_samples / self.settings.rate_sps)
        try:
            with self._talking("receiving"):
                # Old buffers are flushed by small ones, which are quick, then the real one is made anew.
                self._make_rx_buffer(_DISCARD_SAMPLES)
                for _ in range(self._options.kernel_buffers + 1):
                    sdr.rx()
                self._make_rx_buffer(block_samples)
                libiio.clear_status(self._adc)
            while True:
                with self._talking("receiving", f"after {count} samples"):
                    raw = sdr.rx()
                block = np.atleast_2d(np.asarray(raw)).astype(np.complex64)
                block *= np.float32(1.0 / RX_FULL_SCALE)
                count += block.shape[1]
                yield block
        finally:
            if self.sdr is not None:
                self._destroy_rx_buffer()

    @property
    def firmware(self) -> str:
        """Version of the firmware as the device states it, or nothing."""
        return str(self.sdr.ctx.attrs.get("fw_version", ""))

    @property
    def about(self) -> dict[str, str]:
        """Serial number of the device as `serial`, empty where it states none."""
        return {"serial": str(self.sdr.ctx.attrs.get("hw_serial", ""))}

    @property
    def temperature_c(self) -> float:
        """Temperature of the transceiver, degrees Celsius."""
        self._check_open()
        with self._talking("reading its temperature"):
            phy = self.sdr.ctx.find_device("ad9361-phy")
            return float(phy.find_channel("temp0", False).attrs["input"].value) / 1000.0

    @property
    def xo_correction_hz(self) -> float:
        """Frequency that the device takes its crystal to have."""
        self._check_open()
        with self._talking("reading its reference"):
            return float(self.sdr.ctx.find_device("ad9361-phy").attrs["xo_correction"].value)

    def overflows(self) -> int:
        """Return 1 if the receiver lost samples since the present stream began, else 0; it doesn't count them."""
        with self._talking("reading its status"):
            return int(bool(libiio.read_status(self._adc) & libiio.OVERFLOW_BIT))

    # The device

    def close(self) -> None:
        """End what is being transmitted, muted first, and let go of the device; a second call does nothing."""
        if self._closed:
            return
        super().close()
        sdr = self.sdr
        self._adc = self._dac = None
        with libiio.HUSH.ending():
            if sdr is not None:
                # If the connection is gone, the device's own server has ended the transmission with it.
                with contextlib.suppress(OSError):
                    sdr.tx_hardwaregain_chan0 = MUTED_DB
                self._destroy_buffers()
                self.sdr = None
                sdr._ctrl = sdr._rxadc = sdr._txdac = None
                sdr.close()
            libiio.destroy_context(self._context)
            self._context = None

    def _set_timeout(self, context: Any, samples_s: float) -> None:
        """Set how long the next buffers may take: the samples' own time comes on top."""
        self._limit_s = self._options.timeout_s + samples_s
        with self._talking("opening it"):
            context.set_timeout(round(1000 * self._limit_s))

    def _talking(self, doing: str, progress: str = "") -> contextlib.AbstractContextManager[None]:
        return libiio.talking(self._address, self._limit_s, doing, progress)


def _open_pluto(rest: str, settings: RadioSettings, layout: FrameLayout | None) -> PlutoRadio:
    return PlutoRadio(rest, settings, layout)


DRIVER = Driver(parse_pluto, _open_pluto)
