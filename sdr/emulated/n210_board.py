"""Model an N210 with its SBX daughterboard at the registers that the driver writes."""

import math
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from sdr.emulated.air import Air
from sdr.emulated.n210_wire import board_eeprom, motherboard_eeprom
from sdr.errors import RadioError

TICK_RATE_HZ = 100_000_000
"""Rate of the device's clock, and of its converters."""

FIRMWARE_COMPAT, FPGA_COMPAT = 12, 11
TX_GAIN_MAX_DB = 31.5
"""Greatest transmit gain: with it, full scale sent is full scale on the air."""

# Settings registers, in words from their base; readbacks likewise.
CLOCK_SOURCE = 0
TIME_HI, TIME_LO, TIME_NOW, TIME_MIMO = 10, 11, 13, 15
SPI_CONTROL, SPI_DATA = 21, 22
RX_COMMAND, RX_TIME_HI, RX_TIME_LO, RX_FORMAT, RX_SID, RX_SPP, RX_CLEAR = 32, 33, 34, 35, 37, 39, 40
RX_FREQ, RX_SCALE, RX_RATE = 48, 49, 50
TX_CLEAR, TX_FORMAT, TX_SID, TX_POLICY, TX_CYCLES, TX_PACKETS = 144, 145, 146, 147, 148, 149
TX_FREQ, TX_SCALE, TX_RATE = 160, 161, 162
ATR_RX_ONLY, ATR_TX_ONLY, ATR_BOTH = 185, 186, 187
SETTINGS_BASE, READBACK_BASE = 0x7000, 0x5C00
POLICY_NEXT_BURST = 4
SPI_CLOCK, SPI_RX_LO, SPI_TX_LO, SPI_ADC = 1, 16, 128, 256
UP_ENABLED = 1 << 31

NO_GPSDO = 0x1234ABCD
"""Answer of the firmware where there is no GPS receiver."""


@dataclass(frozen=True)
class N210Hardware:
    """Properties of an N210 that no register sets.

    Args:
        serial: up to 8 characters.
        lock_s: time that a synthesiser needs to lock.
        has_reference: whether 10 MHz and pulse per second are at its inputs.
        firmware_compat: what the firmware claims to be; UHD 4 wants 12.
        fpga_compat: what the FPGA claims to be; UHD 4 wants 11.

    Raises:
        RadioError: a serial number that the device can't have.
    """

    serial: str = "EMU00001"
    lock_s: float = 0.002
    has_reference: bool = True
    firmware_compat: int = FIRMWARE_COMPAT
    fpga_compat: int = FPGA_COMPAT

    def __post_init__(self) -> None:
        if not 1 <= len(self.serial) <= 8 or not self.serial.isascii():
            raise RadioError(f"an emulated USRP's serial has 1..8 ASCII characters, found '{self.serial:.40}'")


@dataclass
class Synthesiser:
    """An ADF4351 (registers 0, 1, 2 and 4 of its data sheet) with divided feedback."""

    registers: dict[int, int]
    locked_at_s: float = 0.0

    def frequency_hz(self, reference_hz: float) -> float:
        """Return what it oscillates at."""
        r0, r1, r2, r4 = (self.registers.get(index, 0) for index in (0, 1, 2, 4))
        integer, fraction, modulus = r0 >> 15 & 0xFFFF, r0 >> 3 & 0xFFF, r1 >> 3 & 0xFFF
        divider = (r2 >> 14 & 0x3FF) * (2 if r2 >> 24 & 1 else 1)
        if not modulus or not divider:
            return 0.0
        detector_hz = reference_hz * (2 if r2 >> 25 & 1 else 1) / divider
        frequency_hz = detector_hz * (integer + fraction / modulus)
        if r4 >> 23 & 1:  # feedback from the oscillator itself, before the output divider
            frequency_hz /= 1 << (r4 >> 20 & 7)
        return frequency_hz


class N210Board:
    """Registers and memories, and what they set; callers hold `lock`.

    Args:
        air: where it transmits and what it hears.
        addr: its address.
        name: on the air and in its EEPROM.
        hardware: its properties that no register sets.
        crystal_ppm: error of its own crystal; the reference at its inputs has none.
        cable: other end of its MIMO cable, whose clock and time it can take; None for no cable.

    Attributes:
        lock: held while anything changes.
        settings: registers by word.
        on_write: what else happens when a register is written, by word; given the value.
        firmware_registers: registers of the firmware.
        lo_locks: whether the synthesisers ever lock.
    """

    def __init__(
        self,
        air: Air,
        addr: str,
        name: str,
        hardware: N210Hardware,
        crystal_ppm: float = 0.0,
        cable: "N210Board | None" = None,
    ) -> None:
        self.air, self.name, self.hardware = air, name, hardware
        self._crystal_ppm, self._cable = crystal_ppm, cable
        self.lock = threading.RLock()
        self.settings: dict[int, int] = {}
        self.on_write: dict[int, Callable[[int], None]] = {}
        self.firmware_registers: dict[int, int] = {3: NO_GPSDO, 7: 4}
        self.lo_locks = True
        self._eeproms = {
            0x50: motherboard_eeprom(addr, name, hardware.serial),
            0x54: board_eeprom(0x64),
            0x55: board_eeprom(0x65),
        }
        self._eeprom_position = dict.fromkeys(self._eeproms, 0)
        self._clock_dividers: dict[int, int] = {}
        self._adc: dict[int, int] = {}
        self._synthesisers = {SPI_RX_LO: Synthesiser({}), SPI_TX_LO: Synthesiser({})}
        self._time_offset = zlib.crc32(name.encode())  # switched on at a time of its own
        self._pps_times: list[tuple[float, int]] = []

    # How it is set

    @property
    def tx_gain_db(self) -> float:
        """SBX transmit gain, 0..31.5; 0 is as quiet as it gets."""
        return _attenuator_gain_db(self.settings.get(ATR_BOTH, 0) >> 16)

    @property
    def rx_gain_db(self) -> float:
        """SBX receive gain and the converter's digital gains, 0..38."""
        fine = 0.5 * (self._adc.get(0x17, 0) & 0xF) + 0.05 * (self._adc.get(0x1A, 0) & 0xF)
        return _attenuator_gain_db(self.settings.get(ATR_BOTH, 0)) + fine

    @property
    def tx_center_hz(self) -> float:
        """Frequency that a constant sample is radiated at."""
        return self._synthesiser_hz(SPI_TX_LO) + _signed(self.settings.get(TX_FREQ, 0)) * TICK_RATE_HZ / 2**32

    @property
    def rx_center_hz(self) -> float:
        """Frequency that is received as a constant."""
        return self._synthesiser_hz(SPI_RX_LO) - _signed(self.settings.get(RX_FREQ, 0)) * TICK_RATE_HZ / 2**32

    @property
    def tx_lo_hz(self) -> float:
        """Frequency of the transmit synthesiser, where leakage would be."""
        return self._synthesiser_hz(SPI_TX_LO)

    @property
    def rx_lo_hz(self) -> float:
        """Frequency of the receive synthesiser."""
        return self._synthesiser_hz(SPI_RX_LO)

    @property
    def rx_antenna(self) -> str:
        """Connector that receives: RX2 or TX/RX."""
        return "RX2" if self.settings.get(ATR_RX_ONLY, 0) >> 14 & 1 else "TX/RX"

    @property
    def tx_antenna(self) -> str:
        """Connector that transmits: TX/RX, or CAL for none."""
        return "TX/RX" if self.settings.get(ATR_TX_ONLY, 0) >> 30 & 1 else "CAL"

    @property
    def clock_source(self) -> str:
        """Reference in use."""
        return {0x12: "internal", 0x1C: "external", 0x15: "mimo"}.get(self.settings.get(CLOCK_SOURCE, 0x12), "unknown")

    @property
    def ppm(self) -> float:
        """Error of the clock that it runs by."""
        if self.clock_source == "mimo" and self._cable is not None:
            return self._cable.ppm
        return 0.0 if self.clock_source == "external" and self.hardware.has_reference else self._crystal_ppm

    @property
    def time_offset(self) -> int:
        """Ticks of the device minus ticks of the air by its clock."""
        follows = self._cable is not None and self.settings.get(TIME_MIMO, 0) >> 8 & 1
        return self._cable.time_offset if self._cable is not None and follows else self._time_offset

    @property
    def rx_decimation(self) -> int:
        """Ticks per received sample."""
        return _rate_divider(self.settings.get(RX_RATE, 0))

    @property
    def tx_interpolation(self) -> int:
        """Ticks per transmitted sample."""
        return _rate_divider(self.settings.get(TX_RATE, 0))

    @property
    def rx_locked(self) -> bool:
        """Whether the receive synthesiser has locked."""
        return self._locked(SPI_RX_LO)

    def now_ticks(self) -> int:
        """Return the time of the device's clock, in ticks of 10 ns."""
        return self._air_ticks() + self.time_offset

    def _air_ticks(self) -> int:
        return self.air.now_samples(TICK_RATE_HZ, self.name)

    def _pulse_ticks(self, at_s: float) -> int:
        """Return the ticks of the air by its clock at a pulse of the reference."""
        return math.floor(at_s * TICK_RATE_HZ * (1.0 + 1e-6 * self.ppm))

    def _synthesiser_hz(self, slave: int) -> float:
        divider = self._clock_dividers.get(7 if slave == SPI_RX_LO else 5, 1)
        return self._synthesisers[slave].frequency_hz(TICK_RATE_HZ / divider)

    def _locked(self, slave: int) -> bool:
        return self.lo_locks and self.air.now_s() >= self._synthesisers[slave].locked_at_s

    # Registers

    def read(self, word: int) -> int:
        """Return what a register says."""
        if word == 9:
            return self._locked(SPI_RX_LO) | self._locked(SPI_TX_LO) << 16
        if word in (10, 11):
            return self.now_ticks() >> (32 if word == 10 else 0) & 0xFFFFFFFF
        if word == 12:
            return self.hardware.fpga_compat << 16 | 1
        if word == 13:
            cabled = self._cable is not None
            locked = {"internal": True, "mimo": cabled}.get(self.clock_source, self.hardware.has_reference)
            return locked << 11 | cabled << 10
        if word in (14, 15):
            self.latch_pps()
            last_s = math.floor(self.air.now_s()) if self.hardware.has_reference else 0
            return (self._pulse_ticks(last_s) + self.time_offset) >> (32 if word == 14 else 0) & 0xFFFFFFFF
        return 0

    def latch_pps(self) -> None:
        """Apply the times that were to be set at a pulse which has passed."""
        while self._pps_times and self._pps_times[0][0] <= self.air.now_s():
            at_s, ticks = self._pps_times.pop(0)
            self._time_offset = ticks - self._pulse_ticks(at_s)

    def write(self, word: int, value: int) -> None:
        """Set a register and do what that starts."""
        before = (self.tx_center_hz, self.tx_gain_db) if word in (TX_FREQ, SPI_DATA, ATR_BOTH) else None
        now = self.now_ticks() if word == CLOCK_SOURCE else 0
        self.settings[word] = value
        if word == TIME_HI:
            ticks = value << 32 | self.settings.get(TIME_LO, 0)
            if self.settings.get(TIME_NOW, 0) & 1:
                self._time_offset = ticks - self._air_ticks()
            elif self.hardware.has_reference:
                self._pps_times.append((math.floor(self.air.now_s()) + 1.0, ticks))
        elif word == SPI_DATA:
            self._write_spi(value)
        elif word == CLOCK_SOURCE:
            self.air.set_ppm(self.name, self.ppm)
            self._time_offset = now - self._air_ticks()  # its time goes on
        if word in self.on_write:
            self.on_write[word](value)
        if before is not None and before != (self.tx_center_hz, self.tx_gain_db):
            self.air.change(self.name, center_hz=self.tx_center_hz, tx_gain_db=self.tx_gain_db - TX_GAIN_MAX_DB)

    def _write_spi(self, value: int) -> None:
        control = self.settings.get(SPI_CONTROL, 0)
        slave, num_bits = control & 0xFFFFFF, control >> 24 & 0x3F
        word = value >> (32 - num_bits) if 0 < num_bits <= 32 else 0
        if slave in self._synthesisers:
            synthesiser = self._synthesisers[slave]
            synthesiser.registers[word & 7] = word
            if word & 7 == 0:  # writing register 0 starts the calibration
                synthesiser.locked_at_s = self.air.now_s() + self.hardware.lock_s
        elif slave == SPI_ADC:
            self._adc[word >> 8 & 0xFF] = word & 0xFF
        elif slave == SPI_CLOCK:
            self._write_clock(word >> 8 & 0xFFF, word & 0xFF)

    def _write_clock(self, register: int, value: int) -> None:
        """Set dividers of the AD9510's outputs 0..7: cycles in the even register, bypass in the odd one."""
        output, odd = divmod(register - 0x48, 2)
        if not 0 <= output <= 7:
            return
        key = (output + 1) * 1000
        self._clock_dividers[key + odd] = value
        cycles, flags = self._clock_dividers.get(key, 0), self._clock_dividers.get(key + 1, 0x80)
        self._clock_dividers[output] = 1 if flags & 0x80 else (cycles >> 4) + (cycles & 15) + 2

    def access(self, action: int, address: int, value: int) -> int:
        """Peek or poke as the control port asks: actions 1..4 are the FPGA's, 5 and 6 the firmware's."""
        if action in (1, 2):
            return self.read((address - READBACK_BASE) // 4)
        if action in (3, 4):
            self.write((address - SETTINGS_BASE) // 4, value)
        elif action == 5:
            return self.firmware_registers.get(address, 0)
        elif action == 6:
            self.firmware_registers[address] = value
        return value

    def read_eeprom(self, address: int, count: int) -> bytes:
        """Return the next bytes of an EEPROM, padded to 20."""
        if address not in self._eeproms:
            return bytes(20)
        start = self._eeprom_position[address]
        self._eeprom_position[address] = (start + count) % 256
        return bytes(self._eeproms[address][(start + i) % 256] for i in range(count)).ljust(20, b"\0")

    def write_eeprom(self, address: int, content: bytes) -> None:
        """Set the position in an EEPROM to the first byte, and write the others there."""
        if address in self._eeproms and content:
            self._eeprom_position[address] = content[0]
            for offset, byte in enumerate(content[1:]):
                self._eeproms[address][(content[0] + offset) % 256] = byte


def _signed(word: int) -> int:
    """Return a 32-bit word as a signed number."""
    return word - (1 << 32) if word >> 31 else word


def _rate_divider(word: int) -> int:
    """Return the ticks per sample: the CIC's factor, and one bit for each half-band filter."""
    return max(1, word & 0xFF) * (1 + (word >> 8 & 1)) * (1 + (word >> 9 & 1))


def _attenuator_gain_db(pins: int) -> float:
    """Return the gain of an SBX path from its attenuator's six pins, which are active low."""
    return TX_GAIN_MAX_DB - 0.5 * (~(pins >> 8) & 63)
