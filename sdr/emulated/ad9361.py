"""Model the transceiver of an emulated Pluto, an AD9361: its attributes, and what they do to its samples."""

import errno
import math
import threading

import numpy as np
from numpy.typing import NDArray

from sdr.emulated.air import HISTORY_S, Air
from sdr.emulated.pluto_context import ADC, DAC, PHY, RATES, XADC, XO_HZ, Key, first_values

TX_FULL_SCALE = 32768.0
"""Counts sent that are 1.0 on the air at 0 dB."""

RX_FULL_SCALE = 2048.0
"""Counts received that 1.0 on the air is at 0 dB."""

STATUS_REGISTER = 0x80000088
"""Register of the converters' cores with the flags of lost samples."""

UNDERFLOW_BIT, OVERFLOW_BIT = 1, 4

ROOM_C = 38.0
"""Temperature of the transceiver that a crystal's `ppm` belongs to."""

_AGC_RMS = 0.25

Limits = tuple[float, float, float]
"""Lowest value, step and highest value of an attribute."""


class Refused(Exception):
    """A request that the device answers with an error number."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Ad9361:
    """The transceiver; safe to use from several threads.

    Args:
        air: what it hears and is heard on.
        name: its name on the air.
        ppm: error of its crystal at a temperature of `ROOM_C`.
        ppm_per_c: by how much that changes per degree Celsius.
        rx: receivers, 1 or 2.

    Attributes:
        lock: held while anything changes.
        status: flags of the converters' cores, by device.
        rate_sps: sampling rate.

    Raises:
        InputError: the name is taken on this air.
    """

    def __init__(self, air: Air, name: str, ppm: float, ppm_per_c: float, rx: int = 1) -> None:
        self.lock = threading.RLock()
        self.status = {ADC: 0, DAC: 0}
        self.rate_sps = 30.72e6
        self._air, self._name = air, name
        self._values = first_values(rx)
        self._register: dict[str, int] = {}
        self._rx_gain_db, self._rx_hz = [71.0] * rx, 2.45e9
        self._rx_history: list[tuple[float, float, tuple[float | None, ...]]] = []
        self._ppm, self._ppm_per_c, self._temperature_c = ppm, ppm_per_c, ROOM_C
        air.attach(name, ppm)
        self._note_rx()

    # State

    @property
    def tx_gain_db(self) -> float:
        """Transmit gain; -89.75 is muted."""
        return _number(self._values[PHY, "OUTPUT", "voltage0", "hardwaregain"])

    @property
    def tx_level_db(self) -> float:
        """Transmit gain, as good as none where the oscillator is powered down."""
        return -200.0 if self._values[PHY, "OUTPUT", "altvoltage1", "powerdown"] == "1" else self.tx_gain_db

    @property
    def tx_center_hz(self) -> float:
        """Carrier of the transmitter."""
        return _number(self._values[PHY, "OUTPUT", "altvoltage1", "frequency"])

    @property
    def temperature_c(self) -> float:
        """Temperature in degrees Celsius; setting it moves the crystal."""
        return self._temperature_c

    @temperature_c.setter
    def temperature_c(self, value: float) -> None:
        with self.lock:
            self._temperature_c = value
            self._values[PHY, "INPUT", "temp0", "input"] = f"{1000 * value:.0f}"
            self._air.set_ppm(self._name, self.clock_ppm)

    @property
    def clock_ppm(self) -> float:
        """Amount by which carrier and sampling clock are too fast, after what `xo_correction` makes up for."""
        crystal = 1e-6 * (self._ppm + self._ppm_per_c * (self._temperature_c - ROOM_C))
        return 1e6 * ((1 + crystal) * XO_HZ / _number(self._values[PHY, "", "", "xo_correction"]) - 1)

    @property
    def clock(self) -> tuple[float, float]:
        """Sampling rate, and error of the clock in ppm: samples are counted anew where it changes."""
        return self.rate_sps, self.clock_ppm

    def now_samples(self) -> int:
        """Return the sample that happens now, by its own clock."""
        return self._air.now_samples(self.rate_sps, self._name)

    # Attributes

    def read(self, key: Key) -> str:
        """Return what an attribute holds.

        Raises:
            Refused: there is no such attribute.
        """
        with self.lock:
            device, kind, _, name = key
            if key not in self._values:
                raise Refused(errno.ENOENT)
            if kind == "DEBUG" and name == "direct_reg_access":
                register = self._register.get(device, 0)
                return hex(self.status.get(device, 0)) if register == STATUS_REGISTER else "0x0"
            if name == "sampling_frequency_available" and device in (ADC, DAC):
                return f"{self.rate_sps:.0f} {self.rate_sps / 8:.0f}"
            if name == "sampling_frequency" and device != XADC:
                return f"{self.rate_sps:.0f}"
            if name == "sampling_frequency_available" and self._fir_enabled():
                return RATES.replace("2083333", "520833")
            if name in ("rx_path_rates", "tx_path_rates"):
                rate = round(self.rate_sps)
                receiving, sending = "BBPLL ADC R2 R1 RF RXSAMP", "BBPLL DAC T2 T1 TF TXSAMP"
                stages = (receiving if name.startswith("rx") else sending).split()
                factors = (32, 16, 8, 4, 2, 1)
                return " ".join(f"{stage}:{rate * factor}" for stage, factor in zip(stages, factors, strict=True))
            if _is_rx_gain(key):
                return f"{self._rx_gain_db[_receiver(key)]:.6f} dB"
            return self._values[key]

    def _fir_enabled(self) -> bool:
        return self._values[PHY, "INPUT", "out", "voltage_filter_fir_en"] == "1"

    def write(self, key: Key, value: str) -> None:
        """Set an attribute, and let it act on the air from now on.

        Raises:
            Refused: there is no such attribute, or it can't have the value.
        """
        with self.lock:
            device, kind, _, name = key
            if key not in self._values:
                raise Refused(errno.ENOENT)
            if name.endswith("_available") or name in ("rx_path_rates", "tx_path_rates", "rssi", "input"):
                raise Refused(errno.EACCES)
            if kind == "DEBUG" and name == "direct_reg_access":
                words = value.split()
                self._register[device] = int(words[0], 0)
                if len(words) > 1 and self._register[device] == STATUS_REGISTER and device in self.status:
                    self.status[device] &= ~int(words[1], 0)  # writing a one clears it
                return
            choices = self._values.get((*key[:3], f"{name}_available"), "")
            if choices.startswith("["):
                low, _, high = self._limits(key)
                if not low <= _number(value) <= high:
                    raise Refused(errno.EINVAL)
            elif choices and device == PHY and value not in choices.split():
                raise Refused(errno.EINVAL)
            if _is_rx_gain(key) and not self._manual(_receiver(key)):
                raise Refused(errno.EINVAL)
            if name == "hardwaregain":
                value = f"{_number(value):.6f} dB"
            self._values[key] = value
            if device == PHY and kind:
                self.apply(key, value)
            elif device == PHY and name == "xo_correction":
                self._air.set_ppm(self._name, self.clock_ppm)

    def _limits(self, key: Key) -> Limits:
        low, step, high = (_number(word) for word in self.read((*key[:3], f"{key[3]}_available")).strip("[]").split())
        return low, step, high

    def _manual(self, receiver: int) -> bool:
        return self._values[PHY, "INPUT", f"voltage{receiver}", "gain_control_mode"] == "manual"

    def apply(self, key: Key, value: str) -> None:
        """Let a changed attribute act: on the air from now on."""
        _, kind, channel, name = key
        if name in ("voltage_filter_fir_en", "filter_fir_en"):
            for place in (("INPUT", "out", "voltage_filter_fir_en"), ("INPUT", "voltage0", "filter_fir_en")):
                self._values[PHY, *place] = value
            self._values[PHY, "OUTPUT", "voltage0", "filter_fir_en"] = value
        elif name == "sampling_frequency":
            self.rate_sps = _number(value)
        elif channel == "altvoltage1" and name in ("frequency", "powerdown"):
            self._air.change(self._name, center_hz=self.tx_center_hz, tx_gain_db=self.tx_level_db)
        elif (kind, name) == ("OUTPUT", "hardwaregain"):
            self._air.change(self._name, tx_gain_db=self.tx_level_db)
        elif channel == "altvoltage0" and name == "frequency":
            self._rx_hz = _number(value)
            self._note_rx()
        elif name == "hardwaregain":
            self._rx_gain_db[_receiver(key)] = _number(value)
            self._note_rx()
        elif name == "gain_control_mode":
            self._note_rx()

    def _note_rx(self) -> None:
        """Remember from when on the receiver is set as it is now; no gain stands for the AGC."""
        now = self._air.now_s()
        while len(self._rx_history) > 1 and self._rx_history[1][0] < now - 10 * HISTORY_S:
            del self._rx_history[0]
        gains = [gain if self._manual(receiver) else None for receiver, gain in enumerate(self._rx_gain_db)]
        self._rx_history.append((now, self._rx_hz, tuple(gains)))

    # Receiving

    def capture(self, start: int, size: int, receivers: int = 1) -> NDArray[np.int16]:
        """Return int16 (size, 2 * receivers): the converters' counts from sample `start` on, as set at that time."""
        counts = [self._capture(start, size, receiver) for receiver in range(receivers)]
        return counts[0] if receivers == 1 else np.concatenate(counts, axis=1)

    def _capture(self, start: int, size: int, receiver: int) -> NDArray[np.int16]:
        """Return int16 (size, 2) of one receiver."""
        counts = np.empty((size, 2), "<i2")
        rate = self.rate_sps
        with self.lock:
            history = list(self._rx_history)
        done = 0
        while done < size:
            when = (start + done) / rate
            current = max((i for i, entry in enumerate(history) if entry[0] <= when), default=0)
            end = size
            if current + 1 < len(history):
                end = min(size, max(done + 1, math.ceil(history[current + 1][0] * rate) - start))
            _, center_hz, gains = history[current]
            gain_db, place = gains[receiver], (start + done, end - done, rate, center_hz)
            samples = self._air.receive(self._name, *place, gain_db or 0.0, receiver)
            if gain_db is None:
                samples *= np.float32(10 ** (self._automatic_gain_db(samples, receiver) / 20))
            parts = samples.view(np.float32)
            parts *= np.float32(RX_FULL_SCALE)
            np.rint(parts, out=parts)
            np.clip(parts, -RX_FULL_SCALE, RX_FULL_SCALE - 1, out=parts)
            counts[done:end] = parts.reshape(-1, 2)
            done = end
        return counts

    def _automatic_gain_db(self, samples: NDArray[np.complex64], receiver: int) -> float:
        """Return the gain that the AGC settles at for these samples, in whole dB."""
        rms = float(np.sqrt(np.mean(np.square(samples.view(np.float32))) * 2.0))
        low, _, high = self._limits((PHY, "INPUT", "voltage0", "hardwaregain"))
        gain_db = min(high, max(low, round(20 * math.log10(_AGC_RMS / max(rms, 1e-9)))))
        self._rx_gain_db[receiver] = gain_db
        return gain_db


def _is_rx_gain(key: Key) -> bool:
    return (*key[:2], key[3]) == (PHY, "INPUT", "hardwaregain")


def _receiver(key: Key) -> int:
    """Return the number of the receiver that an attribute is of."""
    return int(key[2].removeprefix("voltage"))


def _number(text: str) -> float:
    """Return the number that a value begins with ("-10.000000 dB")."""
    value = float(text.split()[0])
    if not math.isfinite(value):
        raise ValueError(text)
    return value
