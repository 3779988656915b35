"""The ADALM-Pluto, through pyadi-iio and libiio: `pluto:ip:192.168.2.1` or `pluto:usb:`.

What follows `pluto:` is libiio's own URI; options may follow it, separated by commas:
`pluto:ip:192.168.2.1,center_hz=2.45e9,tx_gain_db=-20,rx_gain_db=30`. They win over the `RadioSettings` given.

A Pluto has no clock that a host could read, keeps some buffers full of samples in its kernel, and says nothing when it
drops samples in between unless asked. So every capture starts with a fresh buffer and discards what a kernel may have
kept; a capture of up to `BURST_SAMPLES` comes as one buffer, which is contiguous; a longer one comes in blocks, and
the converter's overflow flag tells whether one is missing.

The transmitter is muted (greatest attenuation) whenever nothing is being transmitted: before anything is retuned, and
when the radio is closed, however that comes about.
"""

import contextlib
import errno
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdr.errors import RadioError, did_you_mean
from sdr.layout import FrameLayout
from sdr.radios.base import ContextRadio, RadioCapabilities
from sdr.recordings.recording import Recording, measure_health, utc_now
from sdr.settings import RadioSettings

DEFAULT_CENTER_HZ = 2.45e9
"""Where to tune if nobody says: the 2.4 GHz ISM band."""

TX_SCALE = 16384.0
"""Counts that 1.0 becomes: pyadi-iio's full scale, half of the DAC's."""

RX_FULL_SCALE = 2048.0
"""Counts of the 12-bit ADC that become 1.0."""

MUTED_DB = -89.75
BURST_SAMPLES = 1 << 20
BLOCK_SAMPLES = 1 << 18
MAX_TX_SAMPLES = 1 << 22
RATE_LIMITS_SPS = (521e3, 61.44e6)
_DISCARD_SAMPLES = 4096
_STATUS_REGISTER = 0x80000088
_UNDERFLOW_BIT, _OVERFLOW_BIT = 1, 4
_DEVICES = ("ad9361-phy", "cf-ad9361-lpc", "cf-ad9361-dds-core-lpc")
_INSTALL = "pip install 'pyadi-iio==0.0.21' 'pylibiio<1' (and the system's libiio0)"


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


@dataclass(frozen=True)
class PlutoOptions:
    """What a `pluto:` URI may say beyond libiio's own URI.

    Args:
        center_hz, bandwidth_hz, tx_gain_db, rx_gain_db: as in `RadioSettings`, in place of what stands there.
        rx_offset_hz: the receiver is tuned so much higher than the transmitter.
        xo_correction_hz: what the device shall take its crystal's frequency for, 40e6 nominally; as it is, if None. It
            scales carriers and sampling clock, and stays until it is set anew or the device restarts.
        kernel_buffers: buffers in the device's kernel, 1..16.
        timeout_s: longest wait for an answer of the device, beyond the time that the samples themselves take.

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

    def __post_init__(self) -> None:
        if not 1 <= self.kernel_buffers <= 16:
            raise RadioError(f"pluto: kernel_buffers = {self.kernel_buffers} is outside 1..16")
        if not 0.1 <= self.timeout_s <= 600.0:
            raise RadioError(f"pluto: timeout_s = {self.timeout_s:g} is outside 0.1..600")
        if not abs(self.rx_offset_hz) <= 20e6:
            raise RadioError(f"pluto: rx_offset_hz = {self.rx_offset_hz:g} is outside +-20 MHz")


_OPTION_TYPES: dict[str, Callable[[str], Any]] = {
    "center_hz": _number,
    "bandwidth_hz": _number,
    "tx_gain_db": _number,
    "rx_gain_db": _number,
    "rx_offset_hz": _number,
    "xo_correction_hz": _number,
    "kernel_buffers": int,
    "timeout_s": _number,
}


def parse_pluto(rest: str) -> tuple[str, PlutoOptions]:
    """Split what follows `pluto:` into libiio's URI and our options.

    Raises:
        RadioError: it is no URI of libiio, or an option is unknown or out of range.

    >>> parse_pluto("ip:192.168.2.1,tx_gain_db=-20")[1].tx_gain_db
    -20.0
    """
    uri, *items = rest.split(",")
    if not uri.startswith(("ip:", "usb:")):
        raise RadioError(f"pluto: needs libiio's address, as in pluto:ip:192.168.2.1 or pluto:usb:, found '{rest:.80}'")
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if key not in _OPTION_TYPES:
            raise RadioError(f"pluto: has no option '{key}'; {did_you_mean(key, _OPTION_TYPES)}")
        if not equals or key in values:
            raise RadioError(f"pluto: option '{key}' needs one value, as in {key}=...")
        try:
            values[key] = _OPTION_TYPES[key](text)
        except ValueError:
            raise RadioError(f"pluto: option {key} must be a number, found '{text}'") from None
    return uri, PlutoOptions(**values)


def pluto_settings(settings: RadioSettings, options: PlutoOptions) -> RadioSettings:
    """`settings` with what the URI says, a carrier where there was none, and the Pluto's own limits checked.

    Raises:
        RadioError: a setting that no Pluto has.
    """
    named = ("center_hz", "bandwidth_hz", "tx_gain_db", "rx_gain_db")
    told = {key: value for key in named if (value := getattr(options, key)) is not None}
    settings = replace(settings, **told)
    if not settings.center_hz:
        settings = replace(settings, center_hz=DEFAULT_CENTER_HZ)
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

    Raises:
        RadioError: no device, no driver, no permission, a busy device, an answer that isn't a Pluto's, or a setting
            out of range.
    """

    capabilities = RadioCapabilities(cyclic=True)

    def __init__(self, rest: str, settings: RadioSettings, layout: FrameLayout | None = None) -> None:
        self._address, self._options = parse_pluto(rest)
        super().__init__(pluto_settings(settings, self._options), layout)
        self._layout = layout
        self._sdr: Any = None
        self._rx_buffer: Any = None
        self._limit_s = self._options.timeout_s
        adi, iio = _import_driver()
        try:
            with self._talking("opening it"):
                context = iio.Context(self._address)
                self._set_timeout(context, 0.0)
                self._check_firmware(context)
                self._sdr = adi.Pluto(uri_ctx=context)
                self._adc = context.find_device("cf-ad9361-lpc")
                self._dac = context.find_device("cf-ad9361-dds-core-lpc")
                for device in (self._adc, self._dac):
                    device.set_kernel_buffers_count(self._options.kernel_buffers)
            self.apply(self.settings)
        except BaseException:
            self.close()
            raise

    # Settings

    def apply(self, settings: RadioSettings) -> None:
        """Set rate, bandwidth, oscillators and gains, muted; what was being transmitted ends.

        Raises:
            RadioError: a setting is out of the device's range, or the device didn't take it.
        """
        self._check_open()
        settings = pluto_settings(replace(settings, uri=self.settings.uri), replace(self._options, **_NOTHING))
        self._silence()
        sdr = self._sdr
        bandwidth_hz = settings.bandwidth_hz if settings.bandwidth_hz is not None else max(settings.rate_sps, 200e3)
        rx_hz = settings.center_hz + self._options.rx_offset_hz
        with self._talking("setting it"):
            phy = sdr.ctx.find_device("ad9361-phy")
            if self._options.xo_correction_hz is not None:  # before whatever is derived from it
                crystal_hz = round(self._options.xo_correction_hz)
                available = phy.attrs["xo_correction_available"].value
                _check_range("xo_correction_hz", crystal_hz, "Hz", available)
                phy.attrs["xo_correction"].value = str(crystal_hz)
            rx, tx = phy.find_channel("voltage0", False), phy.find_channel("voltage0", True)
            for name, oscillator, value in (
                ("center_hz", "altvoltage1", settings.center_hz),
                ("center_hz", "altvoltage0", rx_hz),
            ):
                _check_range(name, value, "Hz", phy.find_channel(oscillator, True).attrs["frequency_available"].value)
            _check_range("bandwidth_hz", bandwidth_hz, "Hz", rx.attrs["rf_bandwidth_available"].value)
            _check_range("tx_gain_db", settings.tx_gain_db, "dB", tx.attrs["hardwaregain_available"].value)
            sdr.sample_rate = round(settings.rate_sps)
            sdr.rx_rf_bandwidth = sdr.tx_rf_bandwidth = round(bandwidth_hz)
            sdr.tx_lo, sdr.rx_lo = round(settings.center_hz), round(rx_hz)
            # The receive gain's range depends on the band, so it is asked after tuning.
            _check_range("rx_gain_db", settings.rx_gain_db, "dB", rx.attrs["hardwaregain_available"].value)
            sdr.gain_control_mode_chan0 = "manual"
            sdr.rx_hardwaregain_chan0 = float(settings.rx_gain_db)
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
        self._set_timeout(self._sdr.ctx, 0.0)
        with self._talking("transmitting"):
            self._sdr.tx_cyclic_buffer = True
            self._sdr.tx(counts)
            self._sdr.tx_hardwaregain_chan0 = float(self.settings.tx_gain_db)

    def _send_once(self, counts: NDArray[np.complex64]) -> None:
        """Push all in buffers of one size, wait until they are out, mute."""
        block = min(BURST_SAMPLES, counts.size + counts.size % 2)
        padded = np.zeros(-(-counts.size // block) * block, np.complex64)
        padded[: counts.size] = counts
        rate_sps = self.settings.rate_sps
        self._set_timeout(self._sdr.ctx, block / rate_sps)
        try:
            with self._talking("transmitting"):
                self._sdr.tx_cyclic_buffer = False
                self._sdr.tx_hardwaregain_chan0 = float(self.settings.tx_gain_db)
                self._clear_status(self._dac)
                began = time.monotonic()
                for first in range(0, padded.size, block):
                    self._sdr.tx(padded[first : first + block])
                underrun = padded.size > block and bool(self._status(self._dac) & _UNDERFLOW_BIT)
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
        """Mute, then end what is being transmitted and forget the receiver's buffer."""
        with self._talking("muting it"):
            self._sdr.tx_hardwaregain_chan0 = MUTED_DB
            self._destroy_buffers()

    def _make_rx_buffer(self, num_samples: int) -> None:
        """A new receive buffer in place of the old one."""
        self._destroy_rx_buffer()
        self._sdr.rx_buffer_size = num_samples
        self._sdr._rx_init_channels()
        self._rx_buffer = self._sdr._rxbuf

    def _destroy_rx_buffer(self) -> None:
        _destroy(self._rx_buffer)
        self._rx_buffer = None
        self._sdr.rx_destroy_buffer()

    def _destroy_buffers(self) -> None:
        _destroy(self._sdr._txbuf)
        self._sdr.tx_destroy_buffer()
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
            RadioError: the connection broke or the device fell silent; it says how many samples had come.
        """
        self._check_receive(num_samples)
        assert num_samples is not None
        block = num_samples + num_samples % 2 if num_samples <= BURST_SAMPLES else BLOCK_SAMPLES
        samples = np.empty(num_samples, np.complex64)
        done = 0
        with self._talking("reading its gain"):
            gain_before_db, lo_before_hz = float(self._sdr.rx_hardwaregain_chan0), self._sdr.rx_lo
        utc = utc_now()
        with contextlib.closing(self.stream(block)) as blocks:
            while done < num_samples:
                part = next(blocks)[: num_samples - done]
                samples[done : done + part.size] = part
                done += part.size
            # One buffer is contiguous; the flag would tell of what came after it.
            overflows = self.overflows() if num_samples > block else 0
        with self._talking("reading its gain"):
            step_db = float(self._sdr.rx_hardwaregain_chan0) - gain_before_db
            moved = self._sdr.rx_lo != lo_before_hz
        health = measure_health(samples, overflows, step_db, stale=bool(moved))
        return Recording(samples, self.settings, utc, self.layout_digest, health)

    def stream(self, block_samples: int = BLOCK_SAMPLES) -> Generator[NDArray[np.complex64], None, None]:
        """Blocks of complex64 (block_samples,), contiguous unless `overflows` says otherwise; without end.

        A fresh buffer is made and (kernel buffers + 1) buffers are discarded first. Close the generator to stop.

        Raises:
            RadioError: the connection broke or the device fell silent.
        """
        self._check_open()
        sdr = self._sdr
        count = 0
        self._set_timeout(sdr.ctx, block_samples / self.settings.rate_sps)
        try:
            with self._talking("receiving"):
                # Old buffers are flushed by small ones, which are quick, then the real one is made anew.
                self._make_rx_buffer(_DISCARD_SAMPLES)
                for _ in range(self._options.kernel_buffers + 1):
                    sdr.rx()
                self._make_rx_buffer(block_samples)
                self._clear_status(self._adc)
            while True:
                with self._talking("receiving", f"after {count} samples"):
                    raw = sdr.rx()
                block = raw.astype(np.complex64)
                block *= np.float32(1.0 / RX_FULL_SCALE)
                count += block.size
                yield block
        finally:
            if self._sdr is not None:
                self._destroy_rx_buffer()

    @property
    def firmware(self) -> str:
        """The firmware's version as the device states it, or nothing."""
        return str(self._sdr.ctx.attrs.get("fw_version", ""))

    @property
    def about(self) -> dict[str, str]:
        """The device's own serial number, where it states one."""
        return {"serial": str(self._sdr.ctx.attrs.get("hw_serial", ""))}

    @property
    def temperature_c(self) -> float:
        """Temperature of the transceiver, degrees Celsius."""
        self._check_open()
        with self._talking("reading its temperature"):
            phy = self._sdr.ctx.find_device("ad9361-phy")
            return float(phy.find_channel("temp0", False).attrs["input"].value) / 1000.0

    @property
    def xo_correction_hz(self) -> float:
        """What the device takes its crystal's frequency for."""
        self._check_open()
        with self._talking("reading its reference"):
            return float(self._sdr.ctx.find_device("ad9361-phy").attrs["xo_correction"].value)

    def overflows(self) -> int:
        """1 if the receiver lost samples since the present stream began, else 0; it doesn't count them."""
        with self._talking("reading its status"):
            return int(bool(self._status(self._adc) & _OVERFLOW_BIT))

    # The device

    def close(self) -> None:
        """Mute, end what is being transmitted, and let go of the device; a second call does nothing."""
        if self._closed:
            return
        super().close()
        sdr = self._sdr
        self._adc = self._dac = None
        if sdr is None:
            return
        # If the connection is gone, the device's own server has ended the transmission with it.
        with contextlib.suppress(OSError):
            sdr.tx_hardwaregain_chan0 = MUTED_DB
        self._destroy_buffers()
        self._sdr = None
        sdr._ctrl = sdr._rxadc = sdr._txdac = None
        sdr.close()

    def _status(self, device: Any) -> int:
        return device.reg_read(_STATUS_REGISTER) if "direct_reg_access" in device.debug_attrs else 0

    def _clear_status(self, device: Any) -> None:
        if "direct_reg_access" in device.debug_attrs:
            device.reg_write(_STATUS_REGISTER, _UNDERFLOW_BIT | _OVERFLOW_BIT)

    def _set_timeout(self, context: Any, samples_s: float) -> None:
        """How long the next buffers may take: the samples' own time comes on top."""
        self._limit_s = self._options.timeout_s + samples_s
        with self._talking("opening it"):
            context.set_timeout(round(1000 * self._limit_s))

    def _check_firmware(self, context: Any) -> None:
        present = {device.name for device in context.devices}
        missing = [name for name in _DEVICES if name not in present]
        if missing:
            model = context.attrs.get("hw_model", "a device of unknown model")
            raise RadioError(
                f"{self._address} is {model} without '{missing[0]}'; a Pluto with its stock firmware is needed, "
                "update it (v0.31 or newer)"
            )

    @contextlib.contextmanager
    def _talking(self, doing: str, progress: str = "") -> Iterator[None]:
        """Turn what the driver raises into one line with a remedy."""
        began = time.monotonic()
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            # libiio calls a connection broken when it has waited long enough.
            if number in _LOST and time.monotonic() - began >= 0.95 * self._limit_s:
                number = errno.ETIMEDOUT
            where = f"{self._address}, {doing}{', ' + progress if progress else ''}"
            raise RadioError(f"{where}: {_explain(number, error, self._limit_s)}") from None
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, RadioError):
                raise
            reason = " ".join(str(error).split()) or type(error).__name__
            raise RadioError(
                f"{self._address} gave an answer that is no Pluto's while {doing} ({reason:.100}); "
                "check its firmware (v0.31 or newer), power it off and on"
            ) from None


_NOTHING: dict[str, Any] = {"center_hz": None, "bandwidth_hz": None, "tx_gain_db": None, "rx_gain_db": None}


def _import_driver() -> tuple[Any, Any]:
    """The modules `adi` and `iio`.

    Raises:
        RadioError: they are missing, or don't fit the system's libiio.
    """
    try:
        import adi
        import iio
    except ImportError as error:
        raise RadioError(f"pluto: radios need pyadi-iio, but {error}; {_INSTALL}") from None
    except (OSError, AttributeError) as error:
        raise RadioError(f"pluto: pylibiio doesn't fit the system's libiio ({error}); {_INSTALL}") from None
    if not hasattr(iio, "Context"):
        raise RadioError(f"pluto: another package called 'iio' hides pylibiio; remove it, then {_INSTALL}")
    return adi, iio


def _destroy(buffer: Any) -> None:
    """Destroy a libiio buffer now.

    pylibiio leaves that to the garbage collector. But the traceback of an error keeps a buffer alive, maybe beyond
    its context, and libiio crashes when it destroys a buffer whose context is gone.
    """
    if buffer is not None and buffer._buffer is not None:
        buffer.__del__()
        buffer._buffer = None


def _check_range(name: str, value: float, unit: str, available: str) -> None:
    """Raise unless a value lies in what the device says is available, "[low step high]"."""
    low, _, high = (float(word) for word in available.strip("[]\n ").split())
    if not low <= value <= high:
        raise RadioError(
            f"{name} = {value:.10g} {unit} is outside what this Pluto can do, {low:.10g}..{high:.10g} {unit}"
        )


_LOST = (errno.EPIPE, errno.ECONNRESET, errno.EIO, errno.ENOTCONN, errno.EBADF, errno.ECONNABORTED, errno.ESHUTDOWN)
_ABSENT = (errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN)


def _explain(number: int, error: OSError, limit_s: float) -> str:
    """What libiio's error number means, and what to do."""
    if number == errno.ECONNREFUSED:
        return "connection refused; nothing listens there (a Pluto uses port 30431), check the address"
    if number in (errno.EACCES, errno.EPERM):
        return "permission denied; add the udev rule for the Pluto (docs/pluto.md) and plug it in again"
    if number == errno.EBUSY:
        return "the device is busy; close the other program that uses it"
    if number == errno.ETIMEDOUT:
        return f"no answer within {limit_s:.3g} s; check cable and power, then try again"
    if number in _LOST:
        return "the connection broke; check cable and power, then open it again"
    if number in _ABSENT:
        return "no device found; plug it in, and see what `iio_info -s` lists"
    if number == errno.EINVAL:
        return (
            "a value was refused, or the answer is no Pluto's; check the address (ip:HOST[:PORT] or usb:[BUS.DEV.IF]) "
            "and the firmware (v0.31 or newer)"
        )
    return f"{error.strerror or error}; check cable, power and firmware"
