"""An emulated ADALM-Pluto: the IIOD text protocol on TCP, its samples from and to a shared `Air`.

Unmodified libiio clients (iio_info, iio_readdev, pyadi-iio, gr-iio) take it for the network side of a Pluto. It models
what goes wrong with one: samples come in real time and pile up in few kernel buffers, so that the first buffers after
a change of settings are stale and a slow reader loses samples; a cyclic transmit buffer plays until it is closed;
converters have 12 bits; values out of range are refused; connections break (`PlutoFaults`). Carrier and sampling clock
come from one crystal that is off by some ppm, more so when it gets warm, and `xo_correction` tells the device by how
much: its clocks are right where that is the crystal's true frequency.

Levels: 2**15 counts sent are 1.0 on the air at 0 dB, and 1.0 on the air is 2**11 counts received at 0 dB.
"""

import contextlib
import errno
import math
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from sdr.emulated.air import HISTORY_S, Air
from sdr.errors import RadioError

IIOD_PORT = 30431
"""The port that libiio assumes."""

TX_FULL_SCALE = 32768.0
RX_FULL_SCALE = 2048.0
STATUS_REGISTER = 0x80000088
UNDERFLOW_BIT, OVERFLOW_BIT = 1, 4
FIRMWARE = "v0.38-emulated"
XO_HZ = 40_000_000
"""Nominal frequency of the crystal."""
ROOM_C = 38.0
"""Temperature of the transceiver that a crystal's `ppm` belongs to."""

PHY, XADC, DAC, ADC = "iio:device0", "iio:device1", "iio:device2", "iio:device3"
_NAMES = {PHY: "ad9361-phy", XADC: "xadc", DAC: "cf-ad9361-dds-core-lpc", ADC: "cf-ad9361-lpc"}
_SAMPLE_BYTES = 4
_SEND_SAMPLES = 1 << 16
_MAX_LINE = 4096
_MAX_ATTRIBUTE = 1 << 20
_MAX_BUFFER_SAMPLES = 1 << 24
_AGC_RMS = 0.25

Limits = tuple[float, float, float]
"""Lowest value, step and highest value of an attribute."""


@dataclass
class PlutoFaults:
    """What shall go wrong, to be changed at any time.

    Args:
        open_errno: opening a buffer fails with this error number (13 permission denied, 16 busy); 0 for none.
        drop_after_buffers: the connection breaks when so many receive buffers went out in all; None for never.
        stall_after_buffers: as above, but the device falls silent instead.
        missing_device: a device name that the context lacks, as with the wrong firmware.
        bad_context: describe the devices in something that is no XML.
        garbled_replies: answer READ with something that is no number.
    """

    open_errno: int = 0
    drop_after_buffers: int | None = None
    stall_after_buffers: int | None = None
    missing_device: str = ""
    bad_context: bool = False
    garbled_replies: bool = False


@dataclass
class _Channel:
    """One channel of the context: its attributes as name -> (file name, first value)."""

    id: str
    output: bool
    name: str = ""
    scan: str = ""
    attributes: dict[str, tuple[str, str]] = field(default_factory=dict)


def _named(prefix: str, shared: str, per_channel: dict[str, str], common: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Attributes of a channel: file names start with the channel's prefix, or with that of its kind."""
    own = {name: (f"{prefix}_{name}", value) for name, value in per_channel.items()}
    return dict(sorted((own | {name: (f"{shared}_{name}", value) for name, value in common.items()}).items()))


def _oscillator(channel: str, name: str) -> _Channel:
    values = {"external": "0", "frequency": "2450000000", "frequency_available": "[325000000 1 3800000000]"}
    attributes = _named(f"out_{channel}_{name}", "", values | {"powerdown": "0"}, {})
    return _Channel(channel, True, name, "", attributes)


_RATES = "[2083333 1 61440000]"
_COMMON = {
    "filter_fir_en": "0",
    "rf_bandwidth": "18000000",
    "rf_bandwidth_available": "[200000 1 56000000]",
    "sampling_frequency": "30720000",
    "sampling_frequency_available": _RATES,
}
_TRACKING = {"bb_dc_offset_tracking_en": "1", "quadrature_tracking_en": "1", "rf_dc_offset_tracking_en": "1"}
_RX = {
    "gain_control_mode": "slow_attack",
    "gain_control_mode_available": "manual fast_attack slow_attack hybrid",
    "hardwaregain": "71.000000 dB",
    "hardwaregain_available": "[-3 1 71]",
    "rf_port_select": "A_BALANCED",
    "rf_port_select_available": "A_BALANCED B_BALANCED C_BALANCED",
    "rssi": "0.00 dB",
}
_TX = {
    "hardwaregain": "-10.000000 dB",
    "hardwaregain_available": "[-89.750000 0.250000 0.000000]",
    "rf_port_select": "A",
    "rf_port_select_available": "A B",
    "rssi": "0.00 dB",
}


def _tone(index: int) -> _Channel:
    name = f"TX1_{'IQ'[index // 2]}_F{index % 2 + 1}"
    values = {"frequency": "1000000", "phase": "0", "raw": "1", "sampling_frequency": "30720000", "scale": "0.0"}
    return _Channel(f"altvoltage{index}", True, name, "", _named(f"out_altvoltage{index}_{name}", "", values, {}))


def _sample_channel(index: int, output: bool) -> _Channel:
    kind = "out" if output else "in"
    format_ = "le:S16/16&gt;&gt;0" if output else "le:S12/16&gt;&gt;0"
    rates = {"sampling_frequency": "30720000", "sampling_frequency_available": "30720000 3840000"}
    scan = f'<scan-element index="{index}" format="{format_}" />'
    return _Channel(f"voltage{index}", output, "", scan, _named(f"{kind}_voltage{index}", f"{kind}_voltage", {}, rates))


_CHANNELS: dict[str, tuple[_Channel, ...]] = {
    PHY: (
        _oscillator("altvoltage1", "TX_LO"),
        _Channel("voltage0", False, "", "", _named("in_voltage0", "in_voltage", _RX, _COMMON | _TRACKING)),
        _oscillator("altvoltage0", "RX_LO"),
        _Channel("voltage0", True, "", "", _named("out_voltage0", "out_voltage", _TX, _COMMON)),
        _Channel("out", False, "", "", {"voltage_filter_fir_en": ("in_out_voltage_filter_fir_en", "0")}),
        _Channel("temp0", False, "", "", {"input": ("in_temp0_input", "38000")}),
    ),
    XADC: (
        _Channel(
            "temp0", False, "", "", _named("in_temp0", "", {"offset": "-2219", "raw": "2650", "scale": "123"}, {})
        ),
    ),
    DAC: (*(_tone(index) for index in range(4)), *(_sample_channel(index, True) for index in range(2))),
    ADC: tuple(_sample_channel(index, False) for index in range(2)),
}
_DEVICE_ATTRIBUTES: dict[str, dict[str, str]] = {
    PHY: {
        "calib_mode": "auto",
        "calib_mode_available": "auto manual manual_tx_quad tx_quad rf_dc_offs rssi_gain_step",
        "ensm_mode": "fdd",
        "ensm_mode_available": "sleep wait alert fdd pinctrl pinctrl_fdd_indep",
        "filter_fir_config": "FIR Rx: 0,0 Tx: 0,0",
        "rx_path_rates": "",
        "trx_rate_governor": "nominal",
        "trx_rate_governor_available": "nominal highest_osr",
        "tx_path_rates": "",
        "xo_correction": f"{XO_HZ}",
        "xo_correction_available": "[39992000 1 40008000]",
    },
    XADC: {"sampling_frequency": "961538"},
    DAC: {},
    ADC: {},
}
_DEBUG_ATTRIBUTES: dict[str, dict[str, str]] = {
    PHY: {"direct_reg_access": "0x0", "loopback": "0"},
    XADC: {},
    DAC: {"direct_reg_access": "0x0"},
    ADC: {"direct_reg_access": "0x0", "pseudorandom_err_check": "CH0 : PN9 : Out of Sync : PN Error"},
}
_DTD = (
    "<!DOCTYPE context [<!ELEMENT context (device | context-attribute)*><!ELEMENT context-attribute EMPTY>"
    "<!ELEMENT device (channel | attribute | debug-attribute | buffer-attribute)*>"
    "<!ELEMENT channel (scan-element?, attribute*)><!ELEMENT attribute EMPTY><!ELEMENT scan-element EMPTY>"
    "<!ELEMENT debug-attribute EMPTY><!ELEMENT buffer-attribute EMPTY>"
    "<!ATTLIST context name CDATA #REQUIRED version-major CDATA #REQUIRED version-minor CDATA #REQUIRED "
    "version-git CDATA #REQUIRED description CDATA #IMPLIED>"
    "<!ATTLIST context-attribute name CDATA #REQUIRED value CDATA #REQUIRED>"
    "<!ATTLIST device id CDATA #REQUIRED name CDATA #IMPLIED label CDATA #IMPLIED>"
    "<!ATTLIST channel id CDATA #REQUIRED type (input|output) #REQUIRED name CDATA #IMPLIED>"
    "<!ATTLIST scan-element index CDATA #REQUIRED format CDATA #REQUIRED scale CDATA #IMPLIED>"
    "<!ATTLIST attribute name CDATA #REQUIRED filename CDATA #IMPLIED>"
    "<!ATTLIST debug-attribute name CDATA #REQUIRED><!ATTLIST buffer-attribute name CDATA #REQUIRED>]>"
)
_BUFFER_ATTRIBUTES = {"data_available": "0", "length_align_bytes": "8", "watermark": "1"}


def _context_xml(uri: str, missing: str) -> bytes:
    """The context description, without the device called `missing`."""
    facts = {
        "hw_model": "Analog Devices PlutoSDR Rev.B (Z7010-AD9363A), emulated",
        "hw_model_variant": "0",
        "hw_serial": "emulated",
        "fw_version": FIRMWARE,
        "ad9361-phy,model": "ad9363a",
        "ad9361-phy,xo_correction": "40000000",
        "local,kernel": "none",
        "uri": uri,
    }
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        _DTD,
        '<context name="network" version-major="0" version-minor="25" version-git="emulate" '
        'description="emulated PlutoSDR">',
        *(f"<context-attribute name={quoteattr(k)} value={quoteattr(v)} />" for k, v in facts.items()),
    ]
    for device, channels in _CHANNELS.items():
        if _NAMES[device] == missing:
            continue
        parts.append(f'<device id="{device}" name="{_NAMES[device]}">')
        for channel in channels:
            name = f' name="{channel.name}"' if channel.name else ""
            parts.append(f'<channel id="{channel.id}"{name} type="{"output" if channel.output else "input"}">')
            parts.append(channel.scan)
            parts += [f'<attribute name="{key}" filename="{file}" />' for key, (file, _) in channel.attributes.items()]
            parts.append("</channel>")
        parts += [f'<attribute name="{key}" />' for key in _DEVICE_ATTRIBUTES[device]]
        parts += [f'<debug-attribute name="{key}" />' for key in _DEBUG_ATTRIBUTES[device]]
        if device in (ADC, DAC):
            parts += [f'<buffer-attribute name="{key}" />' for key in _BUFFER_ATTRIBUTES]
        parts.append("</device>")
    return "".join([*parts, "</context>"]).encode()


class _Refused(Exception):
    """A request that the device answers with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


_Key = tuple[str, str, str, str]
"""Device, kind (INPUT, OUTPUT, DEBUG, BUFFER or nothing), channel, attribute."""


class EmulatedPluto:
    """A Pluto at `uri`; a context manager that listens while it is open.

    Args:
        air: what it hears and is heard on; one of its own unless given (then it hears itself only).
        name: its name on the air.
        host: address to listen at; loopback unless another is given.
        port: TCP port; 0 takes a free one.
        ppm: error of its crystal at a transceiver temperature of `ROOM_C`.
        ppm_per_c: by how much that changes per degree Celsius.
        faults: what shall go wrong.

    Raises:
        RadioError: the port is taken.
        InputError: the name is taken on this air.
    """

    def __init__(
        self,
        air: Air | None = None,
        name: str = "pluto",
        host: str = "127.0.0.1",
        port: int = 0,
        ppm: float = 0.0,
        faults: PlutoFaults | None = None,
        ppm_per_c: float = 0.0,
    ) -> None:
        self.air = Air() if air is None else air
        self.name = name
        self.faults = PlutoFaults() if faults is None else faults
        self._lock = threading.RLock()
        self._values: dict[_Key, str] = {}
        for device, channels in _CHANNELS.items():
            for key, value in _DEVICE_ATTRIBUTES[device].items():
                self._values[device, "", "", key] = value
            for key, value in _DEBUG_ATTRIBUTES[device].items():
                self._values[device, "DEBUG", "", key] = value
            for channel in channels:
                kind = "OUTPUT" if channel.output else "INPUT"
                for key, (_, value) in channel.attributes.items():
                    self._values[device, kind, channel.id, key] = value
        for device in (ADC, DAC):
            for key, value in _BUFFER_ATTRIBUTES.items():
                self._values[device, "BUFFER", "", key] = value
        self._status = {ADC: 0, DAC: 0}
        self._register: dict[str, int] = {}
        self._open: dict[str, _Buffer] = {}
        self._buffers_sent = 0
        self._rate_sps = 30.72e6
        self._rx_gain_db, self._rx_hz = 71.0, 2.45e9
        self._rx_history: list[tuple[float, float, float | None]] = []
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._ppm, self._ppm_per_c, self._temperature_c = ppm, ppm_per_c, ROOM_C
        self.air.attach(name, ppm)
        self._note_rx()
        try:
            self._listener = socket.create_server((host, port), backlog=16)
        except OSError as error:
            self.air.detach(name)
            raise RadioError(
                f"the emulated Pluto can't listen at {host}:{port}: {error.strerror}; choose another port"
            ) from None
        self.host, self.port = self._listener.getsockname()[:2]
        self._acceptor = threading.Thread(target=self._accept, name=f"{name}-accept", daemon=True)
        self._acceptor.start()

    @property
    def uri(self) -> str:
        """Its address as libiio writes it; `pluto:` before it makes it a radio URI."""
        return f"ip:{self.host}:{self.port}"

    @property
    def tx_gain_db(self) -> float:
        """Present transmit gain; -89.75 is muted."""
        return _number(self._values[PHY, "OUTPUT", "voltage0", "hardwaregain"])

    @property
    def temperature_c(self) -> float:
        """What its transceiver's thermometer says; setting it moves the crystal."""
        return self._temperature_c

    @temperature_c.setter
    def temperature_c(self, value: float) -> None:
        with self._lock:
            self._temperature_c = value
            self._values[PHY, "INPUT", "temp0", "input"] = f"{1000 * value:.0f}"
            self._tune_reference()

    @property
    def clock_ppm(self) -> float:
        """By how much carrier and sampling clock are too fast, after what `xo_correction` makes up for."""
        crystal = 1e-6 * (self._ppm + self._ppm_per_c * (self._temperature_c - ROOM_C))
        return 1e6 * ((1 + crystal) * XO_HZ / _number(self._values[PHY, "", "", "xo_correction"]) - 1)

    def _tune_reference(self) -> None:
        """Let the clocks run as crystal and `xo_correction` say; what a receiver had not been given yet is dropped."""
        self.air.set_ppm(self.name, self.clock_ppm)
        if ADC in self._open:
            self._open[ADC].rate_sps = 0.0  # forces a new start

    @property
    def transmitting(self) -> bool:
        """Whether a transmit buffer is open."""
        with self._lock:
            return DAC in self._open

    @property
    def num_connections(self) -> int:
        """Clients' TCP connections."""
        with self._lock:
            return len(self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Break all connections, stop transmitting and leave the air."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):  # wakes the thread that waits in accept
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        self._acceptor.join(5.0)
        for thread in self._threads:
            thread.join(5.0)
        self.air.detach(self.name)

    def drop_connections(self) -> None:
        """Break all present connections, as a pulled cable does."""
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    # Connections

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.add(connection)
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                thread = threading.Thread(target=self._serve, args=(connection,), name=f"{self.name}-iiod", daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        """Answer one client until it leaves."""
        client = _Client(connection)
        try:
            while (line := client.line()) is not None:
                words = line.split()
                if not words:
                    continue
                if words[0] == "EXIT":
                    return
                handler = _COMMANDS.get(words[0])
                try:
                    if handler is None:
                        raise _Refused(errno.EINVAL)
                    handler(self, client, words[1:])
                except _Refused as refused:
                    client.send(b"%d\n" % -refused.number)
                except (ValueError, KeyError, IndexError):
                    client.send(b"%d\n" % -errno.EINVAL)
        except (OSError, EOFError):
            pass  # the client is gone
        finally:
            with self._lock:
                for device in [d for d, buffer in self._open.items() if buffer.owner is client]:
                    self._close_buffer(device)
                self._connections.discard(connection)
            connection.close()

    # Commands of the protocol

    def _print(self, client: "_Client", _: list[str]) -> None:
        xml = b"nonsense" if self.faults.bad_context else _context_xml(self.uri, self.faults.missing_device)
        client.send(b"%d\n%s\n" % (len(xml), xml))

    def _version(self, client: "_Client", _: list[str]) -> None:
        client.send(b"0.25.emulate\n")

    def _timeout(self, client: "_Client", _: list[str]) -> None:
        client.send(b"0\n")

    def _no_trigger(self, client: "_Client", _: list[str]) -> None:
        raise _Refused(errno.ENOENT)

    def _set(self, client: "_Client", words: list[str]) -> None:
        device, option, value = words
        if option != "BUFFERS_COUNT" or device not in (ADC, DAC) or not 1 <= int(value) <= 64:
            raise _Refused(errno.EINVAL)
        client.kernel_buffers[device] = int(value)
        client.send(b"0\n")

    def _read(self, client: "_Client", words: list[str]) -> None:
        value = self._get(_attribute(words)).encode() + b"\0"
        if self.faults.garbled_replies:
            client.send(b"garbled\n")
            return
        client.send(b"%d\n%s\n" % (len(value), value))

    def _write(self, client: "_Client", words: list[str]) -> None:
        size = int(words[-1])
        if not 0 <= size <= _MAX_ATTRIBUTE:
            raise _Refused(errno.EINVAL)
        value = client.take(size)  # before anything can be refused, or it would be taken for commands
        self._put(_attribute(words[:-1]), value.split(b"\0")[0].decode(errors="replace").strip())
        client.send(b"%d\n" % size)

    def _open_command(self, client: "_Client", words: list[str]) -> None:
        device, size = words[0], int(words[1])
        if device not in (ADC, DAC) or not 1 <= size <= _MAX_BUFFER_SAMPLES or int(words[2], 16) != 3:
            raise _Refused(errno.EINVAL)
        if self.faults.open_errno:
            raise _Refused(self.faults.open_errno)
        with self._lock:
            if device in self._open:
                raise _Refused(errno.EBUSY)
            cyclic = device == DAC and words[3:] == ["CYCLIC"]
            count, now = client.kernel_buffers.get(device, 4), self.air.now_samples(self._rate_sps, self.name)
            self._open[device] = _Buffer(client, size, count, cyclic, now, rate_sps=self._rate_sps)
        client.send(b"0\n")

    def _close_command(self, client: "_Client", words: list[str]) -> None:
        with self._lock:
            self._owned(client, words[0])
            self._close_buffer(words[0])
        client.send(b"0\n")

    def _owned(self, client: "_Client", device: str) -> "_Buffer":
        buffer = self._open.get(device)
        if buffer is None or buffer.owner is not client:
            raise _Refused(errno.EBADF)
        return buffer

    def _close_buffer(self, device: str) -> None:
        del self._open[device]
        if device == DAC:
            self.air.stop(self.name)  # whatever is still queued is never sent

    def _read_buffer(self, client: "_Client", words: list[str]) -> None:
        buffer, size = self._owned(client, words[0]), int(words[1])
        if size != buffer.size * _SAMPLE_BYTES or words[0] != ADC:
            raise _Refused(errno.EINVAL)
        start = self._next_block(buffer)
        if self._buffers_sent == self.faults.stall_after_buffers:
            self._closing.wait()
        if self._buffers_sent == self.faults.drop_after_buffers:
            self.drop_connections()
            raise EOFError
        client.send(b"%d\n00000003\n" % size)
        done = 0
        while done < buffer.size:
            step = min(_SEND_SAMPLES, buffer.size - done)
            client.send(self._capture(start + done, step).tobytes())
            done += step
        self._buffers_sent += 1

    def _next_block(self, buffer: "_Buffer") -> int:
        """Wait for the next filled kernel buffer and return its first sample."""
        while True:
            with self._lock:
                self._fill(buffer)
                if buffer.filled:
                    return buffer.filled.pop(0)
                now = self.air.now_samples(self._rate_sps, self.name)
                wait_s = (buffer.next_start + buffer.size - now) / self._rate_sps
            if self._closing.wait(min(max(wait_s, 0.0) + 1e-4, 0.2)):
                raise EOFError

    def _fill(self, buffer: "_Buffer") -> None:
        """Let the converter fill kernel buffers up to now."""
        now = self.air.now_samples(self._rate_sps, self.name)
        if buffer.rate_sps != self._rate_sps:
            buffer.filled.clear()
            buffer.next_start, buffer.rate_sps = now, self._rate_sps
        while len(buffer.filled) < buffer.count and buffer.next_start + buffer.size <= now:
            buffer.filled.append(buffer.next_start)
            buffer.next_start += buffer.size
        if len(buffer.filled) == buffer.count and now > buffer.next_start:
            # No buffer is free: the converter's samples have nowhere to go until one is read.
            self._status[ADC] |= OVERFLOW_BIT
            buffer.next_start = now

    def _capture(self, start: int, size: int) -> NDArray[np.int16]:
        """int16 (size, 2): counts of the converter from sample `start` on, with the settings of that time."""
        counts = np.empty((size, 2), "<i2")
        rate = self._rate_sps
        with self._lock:
            history = list(self._rx_history)
        done = 0
        while done < size:
            when = (start + done) / rate
            current = max((i for i, entry in enumerate(history) if entry[0] <= when), default=0)
            end = size
            if current + 1 < len(history):
                end = min(size, max(done + 1, math.ceil(history[current + 1][0] * rate) - start))
            _, center_hz, gain_db = history[current]
            samples = self.air.receive(self.name, start + done, end - done, rate, center_hz, gain_db or 0.0)
            if gain_db is None:
                samples *= np.float32(10 ** (self._automatic_gain_db(samples) / 20))
            parts = samples.view(np.float32)
            parts *= np.float32(RX_FULL_SCALE)
            np.rint(parts, out=parts)
            np.clip(parts, -RX_FULL_SCALE, RX_FULL_SCALE - 1, out=parts)
            counts[done:end] = parts.reshape(-1, 2)
            done = end
        return counts

    def _automatic_gain_db(self, samples: NDArray[np.complex64]) -> float:
        """The gain that the AGC settles at for these samples, in whole dB."""
        rms = float(np.sqrt(np.mean(np.square(samples.view(np.float32))) * 2.0))
        low, _, high = self._limits((PHY, "INPUT", "voltage0", "hardwaregain"))
        self._rx_gain_db = min(high, max(low, round(20 * math.log10(_AGC_RMS / max(rms, 1e-9)))))
        return self._rx_gain_db

    def _write_buffer(self, client: "_Client", words: list[str]) -> None:
        buffer, size = self._owned(client, words[0]), int(words[1])
        if words[0] != DAC or not 0 < size <= buffer.size * _SAMPLE_BYTES or size % _SAMPLE_BYTES:
            raise _Refused(errno.EINVAL)
        client.send(b"0\n")
        counts = np.frombuffer(client.take(size), "<i2").astype(np.float32)
        samples = (counts / np.float32(TX_FULL_SCALE)).view(np.complex64)
        with self._lock:
            now, rate = self.air.now_samples(self._rate_sps, self.name), self._rate_sps
            gain_db, center_hz = self._tx_level_db(), _number(self._values[PHY, "OUTPUT", "altvoltage1", "frequency"])
            if buffer.cyclic:
                self.air.stop(self.name)
                self.air.transmit(self.name, samples, now, rate, center_hz, gain_db, cyclic=True)
            else:
                if buffer.pushed and buffer.next_start < now:
                    self._status[DAC] |= UNDERFLOW_BIT
                # The first buffer starts a little later than now, so that the client gets a head start.
                start = max(buffer.next_start, now)
                self.air.transmit(self.name, samples, start, rate, center_hz, gain_db)
                buffer.next_start = start + samples.size
                buffer.pushed = True
        ahead = buffer.count * buffer.size
        while not buffer.cyclic and not self._closing.is_set():
            late = buffer.next_start - self.air.now_samples(rate, self.name) - ahead
            if late <= 0:
                break
            self._closing.wait(late / rate + 1e-4)
        client.send(b"%d\n" % size)

    # Attributes

    def _get(self, key: _Key) -> str:
        with self._lock:
            device, kind, _, name = key
            if key not in self._values:
                raise _Refused(errno.ENOENT)
            if kind == "DEBUG" and name == "direct_reg_access":
                register = self._register.get(device, 0)
                if device == ADC and ADC in self._open:
                    self._fill(self._open[ADC])
                return hex(self._status.get(device, 0)) if register == STATUS_REGISTER else "0x0"
            if name == "sampling_frequency_available" and device in (ADC, DAC):
                return f"{self._rate_sps:.0f} {self._rate_sps / 8:.0f}"
            if name == "sampling_frequency" and device != XADC:
                return f"{self._rate_sps:.0f}"
            if name == "sampling_frequency_available" and self._fir_enabled():
                return _RATES.replace("2083333", "520833")
            if name in ("rx_path_rates", "tx_path_rates"):
                rate = round(self._rate_sps)
                receiving, sending = "BBPLL ADC R2 R1 RF RXSAMP", "BBPLL DAC T2 T1 TF TXSAMP"
                stages = (receiving if name.startswith("rx") else sending).split()
                factors = (32, 16, 8, 4, 2, 1)
                return " ".join(f"{stage}:{rate * factor}" for stage, factor in zip(stages, factors, strict=True))
            if key == (PHY, "INPUT", "voltage0", "hardwaregain"):
                return f"{self._rx_gain_db:.6f} dB"
            return self._values[key]

    def _fir_enabled(self) -> bool:
        return self._values[PHY, "INPUT", "out", "voltage_filter_fir_en"] == "1"

    def _put(self, key: _Key, value: str) -> None:
        with self._lock:
            device, kind, _, name = key
            if key not in self._values:
                raise _Refused(errno.ENOENT)
            if name.endswith("_available") or name in ("rx_path_rates", "tx_path_rates", "rssi", "input"):
                raise _Refused(errno.EACCES)
            if kind == "DEBUG" and name == "direct_reg_access":
                words = value.split()
                self._register[device] = int(words[0], 0)
                if len(words) > 1 and self._register[device] == STATUS_REGISTER and device in self._status:
                    self._status[device] &= ~int(words[1], 0)  # writing a one clears it
                return
            choices = self._values.get((*key[:3], f"{name}_available"), "")
            if choices.startswith("["):
                low, _, high = self._limits(key)
                if not low <= _number(value) <= high:
                    raise _Refused(errno.EINVAL)
            elif choices and device == PHY and value not in choices.split():
                raise _Refused(errno.EINVAL)
            if key == (PHY, "INPUT", "voltage0", "hardwaregain") and not self._manual():
                raise _Refused(errno.EINVAL)
            if name == "hardwaregain":
                value = f"{_number(value):.6f} dB"
            self._values[key] = value
            if device == PHY and kind:
                self._apply(key, value)
            elif device == PHY and name == "xo_correction":
                self._tune_reference()

    def _limits(self, key: _Key) -> Limits:
        low, step, high = (_number(word) for word in self._get((*key[:3], f"{key[3]}_available")).strip("[]").split())
        return low, step, high

    def _manual(self) -> bool:
        return self._values[PHY, "INPUT", "voltage0", "gain_control_mode"] == "manual"

    def _tx_level_db(self) -> float:
        return -200.0 if self._values[PHY, "OUTPUT", "altvoltage1", "powerdown"] == "1" else self.tx_gain_db

    def _apply(self, key: _Key, value: str) -> None:
        """Let a changed attribute act: on the air from now on."""
        _, kind, channel, name = key
        if name in ("voltage_filter_fir_en", "filter_fir_en"):
            for place in (("INPUT", "out", "voltage_filter_fir_en"), ("INPUT", "voltage0", "filter_fir_en")):
                self._values[PHY, *place] = value
            self._values[PHY, "OUTPUT", "voltage0", "filter_fir_en"] = value
        elif name == "sampling_frequency":
            self._rate_sps = _number(value)
        elif channel == "altvoltage1" and name in ("frequency", "powerdown"):
            frequency = _number(self._values[PHY, "OUTPUT", "altvoltage1", "frequency"])
            self.air.change(self.name, center_hz=frequency, tx_gain_db=self._tx_level_db())
        elif (kind, name) == ("OUTPUT", "hardwaregain"):
            self.air.change(self.name, tx_gain_db=self._tx_level_db())
        elif channel == "altvoltage0" and name == "frequency":
            self._rx_hz = _number(value)
            self._note_rx()
        elif name == "hardwaregain":
            self._rx_gain_db = _number(value)
            self._note_rx()
        elif name == "gain_control_mode":
            self._note_rx()

    def _note_rx(self) -> None:
        """Remember from when on the receiver is set as it is now; no gain stands for the AGC."""
        now = self.air.now_s()
        while len(self._rx_history) > 1 and self._rx_history[1][0] < now - 10 * HISTORY_S:
            del self._rx_history[0]
        self._rx_history.append((now, self._rx_hz, self._rx_gain_db if self._manual() else None))


def _attribute(words: list[str]) -> _Key:
    """The attribute that a READ or WRITE names."""
    device, *rest = words
    if rest[0] in ("INPUT", "OUTPUT"):
        return device, rest[0], rest[1], rest[2]
    if rest[0] in ("DEBUG", "BUFFER"):
        return device, rest[0], "", rest[1]
    return device, "", "", rest[0]


def _number(text: str) -> float:
    """The number that a value begins with ("-10.000000 dB")."""
    value = float(text.split()[0])
    if not math.isfinite(value):
        raise ValueError(text)
    return value


@dataclass
class _Buffer:
    """An open buffer: `size` samples, `count` of them in the kernel."""

    owner: "_Client"
    size: int
    count: int
    cyclic: bool
    next_start: int
    filled: list[int] = field(default_factory=list)
    rate_sps: float = 0.0
    pushed: bool = False


class _Client:
    """One TCP connection, read in lines and counted bytes."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._file = connection.makefile("rb")
        self.kernel_buffers: dict[str, int] = {}

    def line(self) -> str | None:
        """The next line without its end, None when the client is gone."""
        line = self._file.readline(_MAX_LINE)
        return line.decode(errors="replace").strip() if line.endswith(b"\n") else None

    def take(self, size: int) -> bytes:
        """Exactly so many bytes."""
        data = self._file.read(size)
        if len(data) != size:
            raise EOFError
        return data

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)


_COMMANDS: dict[str, Callable[[EmulatedPluto, _Client, list[str]], None]] = {
    "PRINT": EmulatedPluto._print,
    "VERSION": EmulatedPluto._version,
    "TIMEOUT": EmulatedPluto._timeout,
    "GETTRIG": EmulatedPluto._no_trigger,
    "SET": EmulatedPluto._set,
    "READ": EmulatedPluto._read,
    "WRITE": EmulatedPluto._write,
    "OPEN": EmulatedPluto._open_command,
    "CLOSE": EmulatedPluto._close_command,
    "READBUF": EmulatedPluto._read_buffer,
    "WRITEBUF": EmulatedPluto._write_buffer,
}
